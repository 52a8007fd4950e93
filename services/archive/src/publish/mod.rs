//! `publish`: the next build of a channel from a tree on disk.
//!
//! Scans, reads, checks and builds the manifest in the caller's own process, straight into the shared
//! store; the archive daemon then numbers, signs, journals and announces it. Blobs are pinned from
//! before they are looked up until the daemon has answered.

mod client;
mod delta;
mod error;
mod fault;
mod lock;
mod prepare;
mod progress;
mod remote;
mod retracted;
mod send;
mod shared;
mod submitted;
mod workspace;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mirrorlog_core::id::{ChannelId, Digest, Lane};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::statement::Notice;
use runtime::store::Store;
use tracing::Instrument as _;
use wire::rpc;
use wire::v1::{CommitRequest, commit_request};

pub use error::PublishError;
pub use fault::{FAULTS_MAX, Fault, Faults, Rule};
pub use progress::{Moment, Phase, Progress};

pub use crate::layout::detect as detect_layout;

pub use client::{connect, connect_for_long};
pub use remote::{Remote, RemoteArchive, TakenBack};

#[cfg(test)]
pub(crate) use client::Sibling;
pub(crate) use client::{Channel, channel_of};
pub(crate) use error::{manifest_error, manifest_failure};
pub(crate) use lock::PublishLock;
pub(crate) use prepare::{Job, Prepared};
pub(crate) use progress::Counters;
pub(crate) use submitted::{Sent, prepare_sent};
pub(crate) use workspace::{Purpose, View, Workspace};

use client::{Committed, Daemon};
use prepare::prepare;

/// Scans before a head that keeps moving is given up.
const ATTEMPTS: u32 = 3;
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What a publisher needs of the archive's configuration.
#[derive(Clone, Debug)]
pub struct PublishConfig {
    /// The daemon's Admin socket.
    pub socket: PathBuf,
    /// The archive's store.
    pub store_dir: PathBuf,
    /// The archive's state; locks and stat caches go below it.
    pub state_dir: PathBuf,
    /// Paths that are never written in place, as globs.
    pub immutable: Vec<String>,
    /// Keys that must have signed each Release; none: signatures are not checked.
    pub openpgp_keyring: Option<PathBuf>,
    /// Keys of which one must have signed each SHA256.sig; none: signatures are not verified.
    pub signify_keys: Vec<PathBuf>,
}

/// What to publish.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// The channel.
    pub channel: ChannelId,
    /// The tree on disk.
    pub tree: PathBuf,
    /// Shape of the tree; `None`: as declared, or detected for a channel that is made.
    pub layout: Option<Layout>,
    /// How urgent it is.
    pub lane: Lane,
    /// The paths to look at, relative to the tree, in place of a scan.
    pub changed: Option<Vec<Vec<u8>>>,
    /// Checks and counts, and publishes nothing.
    pub dry_run: bool,
    /// Checks that dependencies resolve inside the channel.
    pub deps: bool,
    /// Takes a Release whose Valid-Until has passed.
    pub allow_expired: bool,
    /// Takes content that was retracted.
    pub allow_retracted: bool,
    /// Sentences about packages for clients to show.
    pub notices: Vec<Notice>,
}

impl PublishRequest {
    /// A plain request: the whole tree, bulk lane, everything checked.
    pub fn new(channel: ChannelId, tree: PathBuf) -> Self {
        Self {
            channel,
            tree,
            layout: None,
            lane: Lane::Bulk,
            changed: None,
            dry_run: false,
            deps: false,
            allow_expired: false,
            allow_retracted: false,
            notices: Vec::new(),
        }
    }
}

/// What was published, as `publish --json` prints it (without what `--wait` adds).
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// The channel.
    pub channel: String,
    /// The build; the priority one where a publish makes two. For a dry run the one that it would be; 0 when nothing was published and there is none.
    pub build: u64,
    /// Its root, in hex.
    pub root: String,
    /// Its lane.
    pub lane: &'static str,
    /// Entries in it.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Entries that the head did not have.
    pub added: u64,
    /// Entries that differ from the head's.
    pub changed: u64,
    /// Entries that only the head had.
    pub removed: u64,
    /// Where the time went.
    pub seconds: Seconds,
    /// The other build of the same publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also: Option<u64>,
    /// The head has this root already: nothing was published.
    pub unchanged: bool,
    /// Nothing was published because nothing should be.
    pub dry_run: bool,
    /// Files that had to be read.
    pub files_read: u64,
    /// Folders left out because nothing is in them.
    pub empty_folders: u64,
    /// The retraction that was made in the same step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retraction: Option<u64>,
    /// Bytes of content that an archive on another machine lacked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
}

/// Phases of a publish, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Seconds {
    /// Walk, stat, manifest, checks.
    pub scan: f64,
    /// Reading and storing content.
    pub ingest: f64,
    /// The archive's part: number, signature, journal, log.
    pub publish: f64,
}

/// Publishes the next build of a channel. Returns when the build is in the archive's journal: from then
/// on it survives any crash. Doing it again with the same tree publishes nothing.
///
/// # Errors
/// [`PublishError`]; nothing was published then. [`PublishError::exit_code`] says how a command ends.
pub async fn publish(
    config: &PublishConfig,
    request: PublishRequest,
    progress: &dyn Progress,
) -> Result<Outcome, PublishError> {
    let span = tracing::info_span!("publish", channel = %request.channel, lane = %request.lane);
    publish_now(config, request, progress)
        .instrument(span)
        .await
}

async fn publish_now(
    config: &PublishConfig,
    request: PublishRequest,
    progress: &dyn Progress,
) -> Result<Outcome, PublishError> {
    let (config, request) = (Arc::new(config.clone()), Arc::new(request));
    let _lock = PublishLock::take(&config.state_dir, &request.channel)?;
    let mut daemon = Daemon::new(&config.socket);
    std::fs::metadata(&request.tree).map_err(|e| PublishError::tree(&request.tree, e))?;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            progress.note("another build came in between: scanning again");
        }
        let begun = Instant::now();
        let channel = describe(&mut daemon, &request, attempt == 0).await?;
        let described = begun.elapsed();
        check_layout(&request, &channel)?;
        let store_dir = config.store_dir.clone();
        let _pin = blocking(move || Ok(Store::open(&store_dir)?.pin()?)).await?;
        let counters = Arc::new(Counters::default());
        let prepared = prepare_watched(&config, &request, &channel, &counters, progress).await?;
        let mut outcome = outcome(&request, &channel, &prepared, &counters);
        outcome.seconds.publish = described.as_secs_f64();
        if outcome.unchanged || request.dry_run {
            return Ok(outcome);
        }
        counters.enter(Phase::Commit);
        progress.moment(&counters.moment());
        let begun = Instant::now();
        if daemon.have_siblings_moved(&channel).await? {
            continue;
        }
        match daemon
            .commit(commit_request(&request, &channel, &prepared))
            .await?
        {
            Committed::HeadMoved => {}
            Committed::Builds(builds) => {
                outcome.seconds.publish += begun.elapsed().as_secs_f64();
                outcome.build = *builds.first().ok_or(PublishError::NoAnswer("build"))?;
                outcome.also = builds.get(1).copied();
                tracing::info!(channel = %request.channel, build = outcome.build, lane = outcome.lane, "published");
                return Ok(outcome);
            }
        }
    }
    Err(PublishError::HeadMoved {
        channel: request.channel.to_string(),
        attempts: ATTEMPTS,
    })
}

/// Asks about the channel. One that the archive does not know is asked to be made; only then is the tree
/// looked at for its layout.
async fn describe(
    daemon: &mut Daemon,
    request: &Arc<PublishRequest>,
    first: bool,
) -> Result<Channel, PublishError> {
    match daemon.describe(&request.channel, None, first).await {
        Err(PublishError::NoChannel { .. }) => {
            let asked = Arc::clone(request);
            let layout = blocking(move || prepare::layout_to_declare(&asked)).await?;
            daemon.describe(&request.channel, Some(layout), false).await
        }
        known => known,
    }
}

/// Scans and checks a tree and stores its content, without publishing it, and returns the commit that
/// would do so: what a retraction with a replacement is made of. `guard` must be held until the daemon
/// has answered.
///
/// # Errors
/// As [`publish`].
pub async fn stage(
    config: &PublishConfig,
    request: PublishRequest,
    progress: &dyn Progress,
) -> Result<(CommitRequest, StageGuard), PublishError> {
    let (config, request) = (Arc::new(config.clone()), Arc::new(request));
    let lock = PublishLock::take(&config.state_dir, &request.channel)?;
    let mut daemon = Daemon::new(&config.socket);
    let channel = daemon.describe(&request.channel, None, true).await?;
    check_layout(&request, &channel)?;
    let store_dir = config.store_dir.clone();
    let pin = blocking(move || Ok(Store::open(&store_dir)?.pin()?)).await?;
    let counters = Arc::new(Counters::default());
    let prepared = prepare_watched(&config, &request, &channel, &counters, progress).await?;
    Ok((
        commit_request(&request, &channel, &prepared),
        StageGuard {
            _lock: lock,
            _pin: pin,
        },
    ))
}

/// Keeps other publishers out and staged content in the store.
#[derive(Debug)]
pub struct StageGuard {
    _lock: PublishLock,
    _pin: runtime::store::Pin,
}

pub(crate) fn check_layout(
    request: &PublishRequest,
    channel: &Channel,
) -> Result<(), PublishError> {
    if let Some(asked) = request.layout
        && asked != channel.layout
    {
        let declared = channel.layout;
        return Err(PublishError::LayoutDiffers {
            channel: channel.id.to_string(),
            declared,
            asked,
        });
    }
    Ok(())
}

/// Runs the blocking part on its own thread and shows how far it is.
async fn prepare_watched(
    config: &Arc<PublishConfig>,
    request: &Arc<PublishRequest>,
    channel: &Channel,
    counters: &Arc<Counters>,
    progress: &dyn Progress,
) -> Result<Prepared, PublishError> {
    let (config, request) = (Arc::clone(config), Arc::clone(request));
    let (channel, shared) = (channel.clone(), Arc::clone(counters));
    let work = blocking(move || {
        prepare(&Job {
            config: &config,
            request: &request,
            channel: &channel,
            counters: &shared,
        })
    });
    while_working(work, counters, progress).await
}

/// Shows how far some work is until it is done.
async fn while_working<T>(
    work: impl Future<Output = Result<T, PublishError>>,
    counters: &Counters,
    progress: &dyn Progress,
) -> Result<T, PublishError> {
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _tick = ticks.tick() => progress.moment(&counters.moment()),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, PublishError> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.map_err(|e| PublishError::Worker(Box::new(e)))?
}

/// What a publication amounts to.
pub(crate) fn outcome(
    request: &PublishRequest,
    channel: &Channel,
    prepared: &Prepared,
    counters: &Counters,
) -> Outcome {
    let Prepared { steps, counts, .. } = prepared;
    let unchanged = is_unchanged(channel, prepared);
    let head = channel.head.map_or(0, |(build, _)| build.get());
    // The last step holds the whole tree, the first one is what goes out first.
    let last = &steps[steps.len() - 1].summary;
    let told = if unchanged { last } else { &steps[0].summary };
    Outcome {
        channel: channel.id.to_string(),
        build: if unchanged { head } else { channel.newest + 1 },
        root: told.root.to_hex(),
        lane: steps[0].lane.as_str(),
        files: told.entries,
        bytes: told.bytes,
        added: counts.added,
        changed: counts.changed,
        removed: counts.removed,
        seconds: Seconds {
            scan: prepared.scan.as_secs_f64(),
            ingest: prepared.ingest.as_secs_f64(),
            publish: 0.0,
        },
        also: (steps.len() > 1 && !unchanged).then_some(channel.newest + 2),
        unchanged,
        dry_run: request.dry_run,
        files_read: counters.files_read(),
        empty_folders: prepared.empty_folders,
        retraction: None,
        sent: None,
    }
}

fn is_unchanged(channel: &Channel, prepared: &Prepared) -> bool {
    // What the archive has let go is published again.
    let kept = channel.head.filter(|_| !channel.head_collected);
    let head: Option<Digest> = kept.map(|(_, root)| root);
    prepared
        .steps
        .last()
        .is_some_and(|step| Some(step.summary.root) == head)
}

fn commit_request(
    request: &PublishRequest,
    channel: &Channel,
    prepared: &Prepared,
) -> CommitRequest {
    let steps = prepared.steps.iter().map(|step| commit_request::Step {
        root: rpc::digest_to_proto(&step.summary.root),
        entries: step.summary.entries,
        bytes: step.summary.bytes,
        base: step.base,
        lane: rpc::lane_to_proto(step.lane),
    });
    CommitRequest {
        channel: channel.id.to_string(),
        expected_newest: channel.newest,
        steps: steps.collect(),
        notices: rpc::notices_to_proto(&request.notices),
        allow_retracted: request.allow_retracted,
    }
}

#[cfg(test)]
mod tests;
