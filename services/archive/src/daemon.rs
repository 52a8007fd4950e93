//! The archive as it runs: channels, keys, journal, the link to the log.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, PoisonError, RwLock};

use mirrorlog_core::id::{Build, ChannelId, Lane, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::sign::TrustedKeys;
use runtime::log::{Bucket, Log, LogError};
use runtime::state::{Control, SledState};
use runtime::store::Pages;
use runtime::trust::{BUCKET, Trust};
use tokio::sync::{Mutex, Notify, watch};

use crate::config::{Config, ConfigError, Declared, WrittenChannel, check_together};
use crate::drains::Drained;
use crate::enroll::Enroller;
use crate::fence::{Fence, FenceError};
use crate::gauges::Gauges;
use crate::heads::HeadSlot;
use crate::journal::{Journal, JournalError, sync_dir};
use crate::outbox::{LaneQueue, Outbox, OutboxError};
use crate::publisher::{Tokens, Visitors};
use crate::signer::Signer;

/// The log and the buckets that the archive writes.
#[derive(Clone)]
pub struct Link {
    /// The log.
    pub log: Log,
    /// Build numbers.
    pub builds: Bucket,
    /// Signed heads.
    pub heads: Bucket,
    /// Wanted builds.
    pub wanted: Bucket,
    /// Which mirrors take no clients.
    pub drains: Bucket,
    /// Root documents.
    pub roots: Bucket,
}

impl Link {
    /// Makes what is missing on the server and opens the buckets.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn open(log: Log) -> Result<Self, LogError> {
        log.ensure().await?;
        let builds = log.bucket("build").await?;
        let heads = log.bucket("head").await?;
        let wanted = log.bucket("wanted").await?;
        let drains = log.bucket("drain").await?;
        let roots = log.bucket(BUCKET).await?;
        Ok(Self {
            log,
            builds,
            heads,
            wanted,
            drains,
            roots,
        })
    }
}

/// One channel.
pub struct Channel {
    /// As it was declared.
    pub declared: Declared,
    /// What was said on it.
    pub journal: Journal,
    /// Held by whoever adds to the journal.
    pub(crate) turn: Mutex<()>,
    pub(crate) head: HeadSlot,
    pub(crate) priority: LaneQueue,
    pub(crate) bulk: LaneQueue,
    /// Newest wanted build of each pool, as the consistency service says.
    pub(crate) wanted: RwLock<BTreeMap<PoolId, Build>>,
}

impl Channel {
    pub(crate) fn lane(&self, lane: Lane) -> &LaneQueue {
        match lane {
            Lane::Priority => &self.priority,
            Lane::Bulk => &self.bulk,
        }
    }

    /// The builds that are wanted in any pool.
    pub(crate) fn wanted_builds(&self) -> BTreeSet<Build> {
        let wanted = self.wanted.read().unwrap_or_else(PoisonError::into_inner);
        wanted.values().copied().collect()
    }

    /// The newest unretracted build that is wanted in any pool.
    pub fn wanted(&self) -> Option<Build> {
        let history = self.journal.history();
        let wanted = self.wanted.read().unwrap_or_else(PoisonError::into_inner);
        let good = |build: &Build| history.get(*build).is_some() && !history.is_retracted(*build);
        wanted.values().copied().filter(good).max()
    }
}

/// Why the archive did not start, or a channel was not made.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A channel's declaration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A channel's journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// A declaration could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The declaration as TOML.
    #[error("declaration of {channel} cannot be written")]
    Declaration {
        /// The channel.
        channel: ChannelId,
        /// Why.
        #[source]
        source: toml::ser::Error,
    },
}

/// As whom the archive speaks, and who believes whom.
pub(crate) struct Standing {
    pub(crate) signer: Signer,
    /// Its own keys, the present one and those before.
    pub(crate) keys: TrustedKeys,
    pub(crate) trust: Trust,
    pub(crate) enroller: Option<Arc<Enroller>>,
}

/// The archive.
pub struct Daemon {
    pub(crate) config: Config,
    pub(crate) signer: Signer,
    pub(crate) keys: TrustedKeys,
    /// What others believe.
    pub(crate) trust: Trust,
    /// One root document at a time.
    pub(crate) installing: Mutex<()>,
    /// The root document that may be told of: what it asks for is done.
    pub(crate) announced: AtomicU64,
    /// Who lets mirrors in.
    pub(crate) enroller: Option<Arc<Enroller>>,
    /// Who may publish from another machine.
    pub(crate) tokens: Arc<Tokens>,
    /// Those who do.
    pub(crate) visitors: Visitors,
    pub(crate) pages: Pages,
    pub(crate) fence: Fence,
    pub(crate) outbox: Outbox,
    pub(crate) gauges: Gauges,
    /// Which mirrors take no clients.
    pub(crate) drained: Drained,
    /// One collection at a time.
    pub(crate) collecting: Arc<Mutex<()>>,
    /// True once the daemon is to end: long work does not go on.
    pub(crate) ending: AtomicBool,
    /// Since when the log has been the one that it is.
    log_seen: std::sync::Mutex<tokio::time::Instant>,
    /// Wakes the sender of what the outbox holds.
    pub(crate) wake: Notify,
    channels: RwLock<BTreeMap<ChannelId, Arc<Channel>>>,
    declaring: Mutex<()>,
    link: watch::Sender<Option<Link>>,
}

impl Daemon {
    /// Opens all journals and the outbox. Blocks.
    ///
    /// # Errors
    /// [`DaemonError`]; a journal with a fault is none: its channel is halted.
    pub(crate) fn open(
        config: Config,
        standing: Standing,
        state: Arc<SledState>,
        pages: Pages,
        gauges: Gauges,
        instance: String,
    ) -> Result<Self, DaemonError> {
        let control: Arc<dyn Control> = Arc::<SledState>::clone(&state);
        let Standing {
            signer,
            keys,
            trust,
            enroller,
        } = standing;
        let daemon = Self {
            tokens: Arc::new(Tokens::new(Arc::clone(&control))),
            visitors: Visitors::default(),
            fence: Fence::new(control, instance),
            outbox: Outbox::open(Arc::clone(&state), gauges.clone())?,
            drained: Drained::open(state)?,
            collecting: Arc::default(),
            ending: AtomicBool::new(false),
            log_seen: std::sync::Mutex::new(tokio::time::Instant::now()),
            channels: RwLock::default(),
            declaring: Mutex::default(),
            link: watch::Sender::new(None),
            wake: Notify::new(),
            config,
            signer,
            keys,
            trust,
            installing: Mutex::default(),
            announced: AtomicU64::new(0),
            enroller,
            pages,
            gauges,
        };
        for declared in daemon.declared()? {
            let channel = daemon.open_channel(declared)?;
            daemon.outbox.restore(&channel);
            daemon.insert(channel);
        }
        Ok(daemon)
    }

    /// Since when the log has been the one that it is.
    pub(crate) fn log_seen(&self) -> tokio::time::Instant {
        *self.log_seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log is another one than before.
    pub(crate) fn see_log(&self) {
        let mut seen = self.log_seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = tokio::time::Instant::now();
    }

    /// A channel, if there is one.
    pub fn channel(&self, name: &ChannelId) -> Option<Arc<Channel>> {
        self.channels
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// All channels by name.
    pub fn channels(&self) -> Vec<Arc<Channel>> {
        self.channels
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// The link to the log, once it was there; it may be cut at the moment.
    pub fn link(&self) -> Option<Link> {
        self.link.borrow().clone()
    }

    pub(crate) fn set_link(&self, link: Link) {
        self.link.send_replace(Some(link));
    }

    /// Makes a channel on the fly, durably, with mount `/<name>`.
    ///
    /// # Errors
    /// [`DaemonError`].
    pub async fn declare(
        self: &Arc<Self>,
        name: &ChannelId,
        layout: Layout,
    ) -> Result<Arc<Channel>, DaemonError> {
        let _one_at_a_time = self.declaring.lock().await;
        if let Some(channel) = self.channel(name) {
            return Ok(channel);
        }
        let mount = Mount::new(&format!("/{name}"));
        let mount = mount.map_err(|source| ConfigError::Id {
            channel: name.to_string(),
            source,
        })?;
        let declared = Declared {
            name: name.clone(),
            mount,
            layout,
            precedence: 0,
            suites: Vec::new(),
            catch_all: false,
            tree: None,
            openpgp_keyring: None,
            signify_keys: Vec::new(),
        };
        let mut all: Vec<Declared> = self
            .channels()
            .iter()
            .map(|channel| channel.declared.clone())
            .collect();
        all.push(declared.clone());
        check_together(&all)?;
        let daemon = Arc::clone(self);
        let channel = crate::fence::run_blocking(move || {
            daemon.write_declaration(&declared)?;
            daemon.open_channel(declared)
        });
        let channel = channel.await?;
        self.renew_head(&channel).await;
        self.insert(Arc::clone(&channel));
        tracing::info!(channel = %name, %layout, "channel made");
        let turn = channel.turn.lock().await;
        if let Some(link) = self.link()
            && let Err(error) = self.fence.claim(&link.builds, name).await
        {
            tracing::warn!(channel = %name, error = %error, "counter not claimed yet");
        }
        drop(turn);
        Ok(channel)
    }

    /// Claims every channel's counters for this process.
    ///
    /// # Errors
    /// [`FenceError`].
    pub(crate) async fn claim_all(&self, link: &Link) -> Result<(), FenceError> {
        for channel in self.channels() {
            // A reservation under way has notes of its own.
            let _turn = channel.turn.lock().await;
            self.fence
                .claim(&link.builds, &channel.declared.name)
                .await?;
        }
        Ok(())
    }

    fn insert(&self, channel: Arc<Channel>) {
        let mut channels = self
            .channels
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        channels.insert(channel.declared.name.clone(), channel);
    }

    fn open_channel(&self, declared: Declared) -> Result<Arc<Channel>, DaemonError> {
        let root = self.config.state.join("journal");
        std::fs::create_dir_all(&root).map_err(|source| DaemonError::Write {
            path: root.clone(),
            source,
        })?;
        let journal = Journal::open(&root, &declared.name, &self.keys)?;
        let channel = Channel {
            declared,
            journal,
            turn: Mutex::default(),
            head: HeadSlot::default(),
            priority: LaneQueue::default(),
            bulk: LaneQueue::default(),
            wanted: RwLock::default(),
        };
        Ok(Arc::new(channel))
    }

    /// Channels of the configuration, and those that were made on the fly.
    fn declared(&self) -> Result<Vec<Declared>, DaemonError> {
        let mut all = self.config.channels.clone();
        let dir = self.config.channels_dir();
        let failed = |source| DaemonError::Write {
            path: dir.clone(),
            source,
        };
        std::fs::create_dir_all(&dir).map_err(failed)?;
        for file in std::fs::read_dir(&dir).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            let name = name
                .to_str()
                .and_then(|name| name.strip_suffix(".toml"))
                .and_then(|name| ChannelId::new(name).ok());
            let known = |name: &ChannelId| all.iter().any(|declared| &declared.name == name);
            if let Some(name) = name.filter(|name| !known(name)) {
                all.extend(self.config.channel(&name)?);
            }
        }
        check_together(&all)?;
        Ok(all)
    }

    fn write_declaration(&self, declared: &Declared) -> Result<(), DaemonError> {
        let dir = self.config.channels_dir();
        let path = dir.join(format!("{}.toml", declared.name));
        let text = toml::to_string(&WrittenChannel::from(declared));
        let text = text.map_err(|source| DaemonError::Declaration {
            channel: declared.name.clone(),
            source,
        })?;
        let failed = |source| DaemonError::Write {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(&dir).map_err(failed)?;
        let mut new = tempfile::NamedTempFile::new_in(&dir).map_err(failed)?;
        new.write_all(text.as_bytes()).map_err(failed)?;
        new.as_file().sync_all().map_err(failed)?;
        new.persist(&path).map_err(|error| failed(error.error))?;
        Ok(sync_dir(&dir)?)
    }
}
