//! `Publisher`: publishing from another machine, with a token.
//!
//! Whoever sends a tree is believed nothing: the archive makes the manifest itself, checks content by digest and the whole
//! by the channel's layout, under its own keys, and numbers and signs it as what was published here.

mod content;
mod receive;
mod talk;
mod tokens;
mod visitors;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mirrorlog_core::archive::Step;
use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::path::EntryPath;
use runtime::store::{Pin as StorePin, StoreError};
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;
use wire::v1::consistency_client::ConsistencyClient;
use wire::v1::submit_reply::Kind as Reply;
use wire::v1::submit_request::Kind as Asking;
use wire::v1::{
    DescribeReply, DescribeRequest, RetractReply, Submission, SubmitReply, SubmitRequest,
    WatchReply, WatchRequest, WithdrawBuildsRequest,
};
use wire::{rpc, v1};

use crate::answer::status;
use crate::collect::PARTIALS_KEPT_MS;
use crate::commit::{Asked, Publication, Withdraw};
use crate::config::{ConfigError, Publishing};
use crate::daemon::{Channel, Daemon};
use crate::describe::no_channel;
use crate::fence::run_blocking;
use crate::journal::with_causes;
use crate::publish::{
    Counters, Faults, Job, Outcome, Prepared, PublishConfig, PublishError, PublishLock,
    PublishRequest, Purpose, Sent, Workspace, channel_of, check_layout, outcome, prepare_sent,
};

use content::Intake;
use receive::{Form, receive};
use talk::Talk;
pub(crate) use tokens::{Token, Tokens, TokensError, Verb, Wanted};
pub(crate) use visitors::Visitors;

/// Watches at a time: each holds a connection to the consistency service.
const WATCHES_MAX: usize = 64;
/// How long submissions whose content is here have to end when the archive stops.
const ENDING: Duration = Duration::from_secs(20);
/// Time for a submission's first message.
const BEGIN: Duration = Duration::from_secs(10);
/// How long another publisher of the channel is waited for.
const LOCK_FOR: Duration = Duration::from_secs(30);
const LOCK_EVERY: Duration = Duration::from_millis(100);
/// Answers that may wait for a publisher.
const REPLIES: usize = 4;
/// Largest message; publishers send a quarter of it.
const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// Text of faults in one answer.
const FAULTS_MAX_BYTES: usize = 256 * 1024;

/// Why nothing was published.
#[derive(Debug)]
enum Failed {
    /// What the publisher is told as it is.
    Status(Status),
    /// As on this machine.
    Publish(PublishError),
    /// A file's content is not what its entry says.
    Content { path: String, source: StoreError },
}

impl Failed {
    fn content(path: &EntryPath, source: StoreError) -> Self {
        let path = path.to_string();
        Self::Content { path, source }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<PublishError> for Failed {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Publish(error.into())
    }
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self::Publish(PublishError::Config(with_causes(&error)))
    }
}

impl Failed {
    /// The last answer, or the status with which the call ends.
    fn answer(self) -> Result<Reply, Status> {
        let error = match self {
            Self::Status(status) => return Err(status),
            Self::Content { path, source } => {
                let lies = matches!(
                    source,
                    StoreError::Mismatch { .. } | StoreError::Size { .. }
                );
                let text = format!("{path}: {}", with_causes(&source));
                return Err(if lies {
                    Status::aborted(format!(
                        "{text}: it changed while it was sent, publish again"
                    ))
                } else {
                    failed(&PublishError::Store(source))
                });
            }
            Self::Publish(error) => error,
        };
        if let PublishError::Refused { faults, .. } = &error {
            return Ok(refused(faults, 0));
        }
        if let PublishError::NotSeparable { wanted, faults } = &error {
            return Ok(refused(faults, *wanted));
        }
        Err(failed(&error))
    }
}

fn refused(faults: &Faults, wanted: u64) -> Reply {
    let mut bytes = 0;
    let told = faults.iter().map_while(|fault| {
        let fault = v1::Fault {
            path: fault.path.clone(),
            rule: fault.what.as_str().to_owned(),
            expected: fault.expected.clone(),
            found: fault.found.clone(),
        };
        bytes += prost::Message::encoded_len(&fault);
        (bytes <= FAULTS_MAX_BYTES).then_some(fault)
    });
    Reply::Refused(v1::Refused {
        faults: told.collect(),
        count: faults.count(),
        wanted,
    })
}

fn failed(error: &PublishError) -> Status {
    let text = with_causes(error);
    match error {
        PublishError::Busy { .. } => Status::aborted(text),
        PublishError::Store(StoreError::Busy(digest)) => Status::aborted(format!(
            "content {digest} is being sent by another publication of yours: publish again when that is done"
        )),
        PublishError::HeadMoved { .. } => Status::failed_precondition(text),
        PublishError::LayoutDiffers { .. }
        | PublishError::Answer(_)
        | PublishError::Manifest(_) => Status::invalid_argument(text),
        PublishError::NoChannel { .. } => Status::not_found(text),
        PublishError::Archive { code, message } => Status::new(*code, message),
        PublishError::Refused { .. }
        | PublishError::NotSeparable { .. }
        | PublishError::Tree { .. }
        | PublishError::Down { .. }
        | PublishError::Away { .. }
        | PublishError::NoAnswer(_)
        | PublishError::Io { .. }
        | PublishError::Store(_)
        | PublishError::Config(_)
        | PublishError::Worker(_) => {
            // Where things are here is nobody's business elsewhere.
            tracing::error!(error = text, "a submission failed here");
            Status::internal("the archive failed, its log says why: tell its operators")
        }
    }
}

/// The gRPC service, on a listener of its own: publishers have tokens, no certificates.
pub(crate) struct PublisherService {
    daemon: Arc<Daemon>,
    section: Publishing,
    watches: Arc<Semaphore>,
    /// Submissions under way.
    tracker: TaskTracker,
    ending: CancellationToken,
}

/// Makes the service with its limits; and what ends when it is told to stop and everybody has gone.
pub(crate) fn service(
    daemon: Arc<Daemon>,
    section: Publishing,
    ending: CancellationToken,
) -> (
    v1::publisher_server::PublisherServer<PublisherService>,
    impl Future<Output = ()> + Send,
) {
    let tracker = TaskTracker::new();
    let (of, stop) = (tracker.clone(), ending.clone());
    let ended = async move {
        stop.cancelled().await;
        of.close();
        if tokio::time::timeout(ENDING, of.wait()).await.is_err() {
            tracing::warn!("submissions are left as they are");
        }
    };
    let service = PublisherService {
        daemon,
        section,
        watches: Arc::new(Semaphore::new(WATCHES_MAX)),
        tracker,
        ending,
    };
    let service = v1::publisher_server::PublisherServer::new(service)
        .max_decoding_message_size(MESSAGE_MAX_BYTES);
    (service, ended)
}

/// Lets go of what came in part and was not asked for again. Blocks.
pub(crate) fn sweep(daemon: &Daemon) -> Result<u64, StoreError> {
    let before = runtime::boot::now().plus_ms(-PARTIALS_KEPT_MS);
    // Of a process that was killed; nobody works there yet.
    let scratch = scratch(daemon);
    if let Err(error) = std::fs::remove_dir_all(&scratch)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %scratch.display(), "not removed");
    }
    daemon.pages.store().sweep_partials(before)
}

fn scratch(daemon: &Daemon) -> PathBuf {
    // Beside what it is of, not beside the journal: it may fill the disk.
    daemon.config.store.join("submitted")
}

/// A folder for the pages of a dry run.
fn scratch_of(daemon: &Daemon) -> Result<TempDir, PublishError> {
    let dir = scratch(daemon);
    let made = std::fs::create_dir_all(&dir).and_then(|()| TempDir::new_in(&dir));
    made.map_err(|source| PublishError::Io {
        path: dir,
        action: "made",
        source,
    })
}

type Answers = Pin<Box<dyn Stream<Item = Result<SubmitReply, Status>> + Send>>;
type Watched = Pin<Box<dyn Stream<Item = Result<WatchReply, Status>> + Send>>;

impl PublisherService {
    /// The caller's token.
    async fn token<T>(&self, request: &Request<T>) -> Result<Held, Status> {
        let header = request.metadata().get("authorization");
        let secret = header
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.strip_prefix("Bearer "))
            .and_then(|text| hex::decode(text).ok());
        let held = Held::of(&self.daemon, secret.ok_or_else(no_token)?).await;
        if held
            .as_ref()
            .is_err_and(|status| status.code() == tonic::Code::Unauthenticated)
        {
            let from = request.remote_addr().map(|address| address.to_string());
            tracing::warn!(from, "a publisher was not let in: its token does not count");
        }
        held
    }

    fn channel(&self, name: &ChannelId) -> Result<Arc<Channel>, Status> {
        let channel = self.daemon.channel(name);
        channel.ok_or_else(|| no_channel(&self.daemon, name))
    }
}

fn no_token() -> Status {
    Status::unauthenticated(
        "the token is not known, was revoked or has expired: ask the archive's operators for a new one \
         (mirrorlog token issue)",
    )
}

/// A token that counted when it was shown.
struct Held {
    token: Token,
    secret: Vec<u8>,
}

impl std::ops::Deref for Held {
    type Target = Token;
    fn deref(&self) -> &Token {
        &self.token
    }
}

impl Held {
    async fn of(daemon: &Daemon, secret: Vec<u8>) -> Result<Self, Status> {
        let tokens = Arc::clone(&daemon.tokens);
        let (secret, found) = run_blocking(move || {
            let found = tokens.of(&secret, runtime::boot::now());
            (secret, found)
        })
        .await;
        let found = found.map_err(|error| Status::internal(with_causes(&error)))?;
        let token = found.ok_or_else(no_token)?;
        Ok(Self { token, secret })
    }

    /// Looks whether it counts still.
    async fn again(&self, daemon: &Daemon) -> Result<(), Status> {
        Self::of(daemon, self.secret.clone()).await.map(drop)
    }
}

/// Refuses what a token is not for.
fn allow(token: &Token, channel: &ChannelId, verb: Verb) -> Result<(), Status> {
    if token.allows(channel, verb) {
        return Ok(());
    }
    let publisher = &token.publisher;
    tracing::warn!(%channel, publisher, verb = verb.as_str(), "refused: its token is not for that");
    Err(Status::permission_denied(format!(
        "the token of {publisher} is not for {} on channel {channel}",
        verb.as_str()
    )))
}

#[tonic::async_trait]
impl v1::publisher_server::Publisher for PublisherService {
    type SubmitStream = Answers;
    type WatchStream = Watched;

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeReply>, Status> {
        let token = self.token(&request).await?;
        let name = rpc::channel("channel", &request.get_ref().channel)?;
        let mount = self
            .daemon
            .channel(&name)
            .map(|channel| channel.declared.mount.clone());
        let shares = |other: &Arc<Channel>| {
            token.names(&other.declared.name) && Some(&other.declared.mount) == mount.as_ref()
        };
        if !token.names(&name) && !self.daemon.channels().iter().any(shares) {
            return Err(Status::permission_denied(format!(
                "the token of {} is not for channel {name}",
                token.publisher
            )));
        }
        let channel = self.channel(&name)?;
        Ok(Response::new(self.daemon.described(&channel).await?))
    }

    async fn submit(
        &self,
        request: Request<Streaming<SubmitRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let token = self.token(&request).await?;
        let mut requests = request.into_inner();
        let begin = tokio::time::timeout(BEGIN, requests.message()).await;
        let begin = begin.map_err(|_| Status::deadline_exceeded("nothing was submitted"))??;
        let Some(Asking::Begin(begin)) = begin.and_then(|message| message.kind) else {
            return Err(Status::invalid_argument(
                "a submission begins with what it is for",
            ));
        };
        let asked = Submitted::read(begin, &token)?;
        let channel = self.channel(&asked.request.channel)?;
        let urgent = asked.request.lane == Lane::Priority;
        let place = self.daemon.visitors.enter(&token.publisher, urgent)?;
        let (replies, answers) = mpsc::channel(REPLIES);
        let span = tracing::info_span!("submit", channel = %asked.request.channel, publisher = token.publisher);
        let work = Work {
            daemon: Arc::clone(&self.daemon),
            channel,
            asked: Arc::new(asked),
            token,
            max_size: self.section.max_size,
        };
        let ending = self.ending.clone();
        let work = async move {
            let _place = place;
            let talk = Talk::new(requests, replies.clone(), ending);
            let reply = match work.run(talk).await {
                Ok(reply) => Ok(reply),
                Err(failed) => failed.answer(),
            };
            match &reply {
                Ok(Reply::Submitted(done)) => {
                    tracing::info!(builds = ?done.builds, unchanged = done.unchanged, "published by token")
                }
                Ok(_) => tracing::warn!("a submission was refused"),
                Err(status) => tracing::warn!(%status, "a submission was not published"),
            }
            let reply = reply.map(|kind| SubmitReply { kind: Some(kind) });
            // Who has gone is not told.
            replies.send(reply).await.ok();
        };
        self.tracker.spawn(work.instrument(span));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn withdraw(
        &self,
        request: Request<WithdrawBuildsRequest>,
    ) -> Result<Response<RetractReply>, Status> {
        let token = self.token(&request).await?;
        let asked = request.into_inner();
        let name = rpc::channel("channel", &asked.channel)?;
        allow(&token, &name, Verb::Retract)?;
        let channel = self.channel(&name)?;
        let withdraw = Withdraw {
            first: rpc::build("first", asked.first)?,
            last: rpc::build("last", asked.last)?,
            reason: asked.reason,
        };
        let history = channel.journal.history();
        for build in [withdraw.first, withdraw.last] {
            if history.get(build).is_none() {
                let text = format!("channel {name} has no build {build}");
                return Err(Status::not_found(text));
            }
        }
        tracing::info!(channel = %name, publisher = token.publisher, first = asked.first, last = asked.last, "to be retracted by token");
        let store = self.daemon.pages.store().clone();
        // What replaces them is not let go meanwhile.
        let _pin = run_blocking(move || store.pin()).await;
        let _pin = _pin.map_err(|error| failed(&error.into()))?;
        let replacement = match Build::new(asked.replacement) {
            None => None,
            Some(build) => Some(self.daemon.older(&channel, build, &withdraw).await?),
        };
        let reply = self.daemon.retract(&channel, withdraw, replacement).await?;
        Ok(Response::new(reply))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Watched>, Status> {
        let token = self.token(&request).await?;
        let request = request.into_inner();
        let name = rpc::channel("channel", &request.channel)?;
        if !token.names(&name) {
            return Err(Status::permission_denied(format!(
                "the token of {} is not for channel {name}",
                token.publisher
            )));
        }
        let config = &self.daemon.config;
        let Some(address) = &config.consistency_grpc else {
            return Err(Status::failed_precondition(
                "the archive's configuration names no consistency service: set [consistency] grpc",
            ));
        };
        let down = |error: &(dyn std::error::Error + 'static)| {
            Status::unavailable(format!(
                "the consistency service does not answer: {}",
                runtime::chain(error)
            ))
        };
        let busy = |_| Status::unavailable("too many are waiting at the moment");
        let watch = Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(busy)?;
        let tls = config.tls.clone();
        let tls = run_blocking(move || runtime::tls::load(tls.as_ref())).await;
        let tls = tls.map_err(|error| down(&error))?;
        let endpoint =
            runtime::tls::endpoint(address, tls.as_ref()).map_err(|error| down(&error))?;
        let connected = endpoint.connect_timeout(BEGIN).connect().await;
        let mut client = ConsistencyClient::new(connected.map_err(|error| down(&error))?);
        let watched = client.watch(request).await?.into_inner();
        let watched = watched.map(move |reply| {
            let _held_as_long_as_this = &watch;
            reply
        });
        Ok(Response::new(Box::pin(watched)))
    }
}

/// What is asked for, after its rights were looked at.
struct Submitted {
    request: PublishRequest,
    listed: bool,
    expected_newest: u64,
    withdraw: Option<Withdraw>,
}

impl Submitted {
    fn read(begin: Submission, token: &Token) -> Result<Self, Status> {
        let channel = rpc::channel("channel", &begin.channel)?;
        let lane = rpc::lane("lane", begin.lane)?;
        let withdraw = begin.retracted.map(|bad| {
            Ok::<_, Status>(Withdraw {
                first: rpc::build("retracted.first", bad.first)?,
                last: rpc::build("retracted.last", bad.last)?,
                reason: bad.reason,
            })
        });
        let withdraw = withdraw.transpose()?;
        let verb = match lane {
            Lane::Bulk => Verb::Publish,
            Lane::Priority => Verb::Priority,
        };
        allow(token, &channel, verb)?;
        if begin.allow_retracted || withdraw.is_some() {
            allow(token, &channel, Verb::Retract)?;
        }
        if withdraw.is_some() && lane != Lane::Priority {
            return Err(Status::invalid_argument(
                "what replaces retracted builds goes on the priority lane",
            ));
        }
        Ok(Self {
            request: PublishRequest {
                layout: Some(rpc::layout("layout", begin.layout)?),
                lane,
                dry_run: begin.dry_run,
                deps: begin.deps,
                allow_expired: begin.allow_expired,
                allow_retracted: begin.allow_retracted,
                notices: rpc::notices("notices", begin.notices)?,
                ..PublishRequest::new(channel, PathBuf::new())
            },
            listed: begin.listed,
            expected_newest: begin.expected_newest,
            withdraw,
        })
    }
}

/// One submission.
struct Work {
    daemon: Arc<Daemon>,
    channel: Arc<Channel>,
    asked: Arc<Submitted>,
    token: Held,
    max_size: runtime::boot::ByteSize,
}

/// What a submission brought; as long as it is held, its content stays.
struct Taken {
    workspace: Workspace,
    sent: Sent,
    _scratch: Option<TempDir>,
    _pin: Option<StorePin>,
}

impl Work {
    async fn run(self, talk: Talk) -> Result<Reply, Failed> {
        let config = self.daemon.config.publish_config(&self.channel.declared);
        let taken = self.take(&config, talk).await?;
        // Others may publish while content comes; from here on they wait.
        let _lock = self.lock(&config).await?;
        let described = self.describe().await?;
        check_layout(&self.asked.request, &described)?;
        let newest = described.newest;
        if newest != self.asked.expected_newest {
            return Err(
                Status::failed_precondition(format!("build {newest} came in between")).into(),
            );
        }
        if self.asked.listed && (described.head_collected || !described.is_whole()) {
            return Err(Status::invalid_argument(
                "a list of changes is of no use on this channel now: publish the whole tree",
            )
            .into());
        }
        let (asked, channel) = (Arc::clone(&self.asked), described.clone());
        let (taken, prepared) = run_blocking(move || {
            let counters = Counters::default();
            let job = Job {
                config: &config,
                request: &asked.request,
                channel: &channel,
                counters: &counters,
            };
            let prepared = prepare_sent(&job, &taken.workspace, &taken.sent);
            (taken, prepared)
        })
        .await;
        let prepared = prepared?;
        // It was compared with what they had.
        if self.describe().await?.siblings != described.siblings {
            let text = "another channel of the mount was published in between";
            return Err(Status::failed_precondition(text).into());
        }
        // Whoever was shut out meanwhile publishes nothing more.
        self.token.again(&self.daemon).await?;
        let outcome = outcome(
            &self.asked.request,
            &described,
            &prepared,
            &Counters::default(),
        );
        let reply = self.publish(outcome, &prepared).await;
        drop(taken);
        reply
    }

    /// Takes everything in, as slowly as it comes.
    async fn take(&self, config: &PublishConfig, mut talk: Talk) -> Result<Taken, Failed> {
        let (daemon, asked) = (Arc::clone(&self.daemon), Arc::clone(&self.asked));
        let (config, max_size) = (config.clone(), self.max_size);
        let publisher = self.token.publisher.clone();
        run_blocking(move || {
            let dry_run = asked.request.dry_run;
            // A rehearsal keeps nothing.
            let pin = (!dry_run).then(|| daemon.pages.store().pin()).transpose()?;
            let scratch = dry_run.then(|| scratch_of(&daemon)).transpose()?;
            let workspace = match &scratch {
                Some(dir) => Workspace::open(&config.store_dir, dir.path(), Purpose::DryRun)?,
                None => Workspace::open(&config.store_dir, Path::new(""), Purpose::Publish)?,
            };
            let intake = Intake::new(&daemon, &publisher, max_size, !dry_run);
            let form = receive(&mut talk, &workspace, intake, asked.listed)?;
            let sent = match form {
                Form::Whole(summary) => Sent::Whole(summary),
                Form::Listed { paths, present } => Sent::Listed { paths, present },
            };
            Ok(Taken {
                workspace,
                sent,
                _scratch: scratch,
                _pin: pin,
            })
        })
        .await
    }

    async fn lock(&self, config: &PublishConfig) -> Result<PublishLock, Failed> {
        let until = tokio::time::Instant::now() + LOCK_FOR;
        loop {
            match PublishLock::take(&config.state_dir, &self.asked.request.channel) {
                Err(PublishError::Busy { .. }) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(LOCK_EVERY).await;
                }
                taken => return Ok(taken?),
            }
        }
    }

    /// The channel and its siblings, as the checks want to know them.
    async fn describe(&self) -> Result<crate::publish::Channel, Failed> {
        let reply = self.daemon.described(&self.channel).await?;
        let mut siblings = Vec::new();
        for name in &reply.sibling_channels {
            let id = rpc::channel("sibling_channels", name).map_err(Status::from)?;
            if let Some(channel) = self.daemon.channel(&id) {
                siblings.push((id, self.daemon.described(&channel).await?));
            }
        }
        let described = channel_of(&self.asked.request.channel, reply, siblings);
        Ok(described.map_err(Status::from)?)
    }

    async fn publish(&self, outcome: Outcome, prepared: &Prepared) -> Result<Reply, Failed> {
        let asked = &self.asked;
        let mut done = v1::Submitted {
            builds: [Some(outcome.build), outcome.also]
                .into_iter()
                .flatten()
                .filter(|build| *build > 0)
                .collect(),
            root: rpc::digest_to_proto(&prepared.first().summary.root),
            lane: rpc::lane_to_proto(prepared.first().lane),
            entries: outcome.files,
            bytes: outcome.bytes,
            added: outcome.added,
            changed: outcome.changed,
            removed: outcome.removed,
            unchanged: outcome.unchanged && asked.withdraw.is_none(),
            retraction: 0,
        };
        if done.unchanged || asked.request.dry_run {
            return Ok(Reply::Submitted(done));
        }
        let steps = prepared.steps.iter().map(|step| Asked {
            step: Step {
                root: step.summary.root,
                base: Build::new(step.base),
                lane: step.lane,
            },
            entries: step.summary.entries,
            bytes: step.summary.bytes,
        });
        let publication = Publication {
            expected_newest: Build::new(asked.expected_newest),
            steps: steps.collect(),
            notices: asked.request.notices.clone(),
            allow_retracted: asked.request.allow_retracted,
        };
        let said = self
            .daemon
            .say(&self.channel, Some(publication), asked.withdraw.clone())
            .await;
        let said = said.map_err(status)?;
        done.builds = said.builds.into_iter().map(Build::get).collect();
        done.retraction = said.retraction.unwrap_or(0);
        Ok(Reply::Submitted(done))
    }
}
