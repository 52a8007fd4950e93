//! Whom a service believes: the keys of its configuration, or those of the root document in force.
//!
//! A service that is given a root document takes its keys from it, and every version that follows: from the log, where
//! the archive puts them, checked as [`wire::SignedRoot`] says. What is in force is on the disk before it is used. Whoever
//! holds the log can hold versions back, until the document expires; it can bring none that the holders of the root keys
//! did not sign.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use mirrorlog_core::id::MirrorId;
use mirrorlog_core::sign::{PublicKey, TrustedKeys};
use mirrorlog_core::trust::{Role, RootError, RootVersion, Trusted};
use serde::Deserialize;
use tokio::sync::watch;
use wire::{SignedRoot, SignedRootError};

use crate::log::{Bucket, Log, LogError};

/// Bucket of root documents: version -> document.
pub const BUCKET: &str = "root";

/// Digits of the pinned document's digest that name the folder of what followed it.
const CHAIN_NAME: usize = 16;
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// How often the document's end is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// `[trust]` of every service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustConfig {
    /// The root document that is believed from the start; versions that follow come by themselves.
    pub root: PathBuf,
}

impl TrustConfig {
    /// Makes relative paths count from `base`, the configuration's folder.
    pub fn resolve(&mut self, base: &Path) {
        self.root = base.join(&self.root);
    }
}

/// The keys of a role, as they are now. Cheap to clone; all clones change together.
#[derive(Clone, Debug, Default)]
pub struct Keys(Arc<watch::Sender<Arc<TrustedKeys>>>);

impl Keys {
    /// The keys of this moment.
    pub fn now(&self) -> Arc<TrustedKeys> {
        Arc::clone(&self.0.borrow())
    }

    /// Tells when others count.
    pub fn changes(&self) -> watch::Receiver<Arc<TrustedKeys>> {
        self.0.subscribe()
    }

    pub(crate) fn set(&self, keys: TrustedKeys) {
        self.0.send_replace(Arc::new(keys));
    }
}

impl From<TrustedKeys> for Keys {
    /// Keys that do not change.
    fn from(keys: TrustedKeys) -> Self {
        let all = Self::default();
        all.set(keys);
        all
    }
}

/// Why a root document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file.
    #[error("cannot {action} root document {}", path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in a file.
    #[error("{} is not accepted", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SignedRootError,
    },
    /// What came from elsewhere.
    #[error(transparent)]
    Refused(#[from] SignedRootError),
    /// Keys beside a root document.
    #[error("{0} and trust.root are both given: the keys are the root document's, leave {0} out")]
    Both(&'static str),
    /// Neither keys nor a root document.
    #[error("nobody is trusted: give {0}, or trust.root")]
    Nobody(&'static str),
    /// No root document was ever pinned here.
    #[error("no root document is believed here: set trust.root in the configuration first")]
    NoRoot,
    /// A public key's file.
    #[error(transparent)]
    Key(#[from] crate::key::KeyError),
}

/// Whom a service believes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    archive: Keys,
    consistency: Keys,
    mirrors: RwLock<BTreeMap<MirrorId, TrustedKeys>>,
    chain: Option<Chain>,
    changed: watch::Sender<Option<RootVersion>>,
    ready: watch::Sender<bool>,
}

#[derive(Debug)]
struct Chain {
    /// Where documents are kept; `None`: they are not.
    dir: Option<PathBuf>,
    /// The version that a person pinned.
    first: RootVersion,
    in_force: Mutex<Trusted>,
}

/// What became of a document that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in force now.
    New(RootVersion),
    /// It is in force already, or an older one was asked for again.
    Known(RootVersion),
}

impl Trust {
    /// Believes keys that do not change.
    pub fn fixed(
        archive: TrustedKeys,
        consistency: TrustedKeys,
        mirrors: BTreeMap<MirrorId, TrustedKeys>,
    ) -> Self {
        Self::of(archive, consistency, mirrors, None)
    }

    /// Believes a root document, or the version after it that was in force when the service ended. Documents are kept in
    /// a folder of `roots` in `state`, the service's folder; without one they are forgotten with the process.
    ///
    /// # Errors
    /// [`TrustError`], naming the file.
    pub fn open(config: &TrustConfig, state: Option<&Path>) -> Result<Self, TrustError> {
        let pinned = read(&config.root)?;
        // Of each pinned document its own: another network, or a chain begun anew, has nothing to do with it.
        let chain = pinned.digest().to_hex();
        let dir = state.map(|state| state.join("roots").join(&chain[..CHAIN_NAME]));
        let mut trusted = pinned.pin().map_err(|source| TrustError::File {
            path: config.root.clone(),
            source,
        })?;
        let pinned_version = trusted.version();
        let mut version = pinned_version;
        keep(dir.as_deref(), version, &pinned)?;
        // Those that were taken in before; each is checked again, so that nothing depends on who writes to the disk.
        while let Some((next, path)) = version.next().zip(dir.as_deref()).and_then(|(next, dir)| {
            let path = file_of(dir, next);
            path.exists().then_some((next, path))
        }) {
            let following = read(&path)?.open_next(&trusted);
            trusted = following.map_err(|source| TrustError::File { path, source })?;
            version = next;
        }
        let chain = Chain {
            dir,
            first: pinned_version,
            in_force: Mutex::new(trusted.clone()),
        };
        let (archive, consistency) = (trusted.keys(Role::Archive), trusted.keys(Role::Consistency));
        Ok(Self::of(
            archive,
            consistency,
            roster(&trusted),
            Some(chain),
        ))
    }

    /// As [`Trust::open`] where a root document is given, else the keys of files; both are a mistake.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn of_config(
        root: Option<&TrustConfig>,
        state: &Path,
        archive: &[PathBuf],
        consistency: &[PathBuf],
    ) -> Result<Self, TrustError> {
        let read = |files: &[PathBuf]| {
            let keys = files.iter().map(|file| crate::key::read_public(file));
            Ok::<_, TrustError>(TrustedKeys::new(
                keys.collect::<Result<Vec<PublicKey>, _>>()?,
            ))
        };
        match root {
            Some(_) if !archive.is_empty() => Err(TrustError::Both("archive.keys")),
            Some(_) if !consistency.is_empty() => Err(TrustError::Both("consistency.keys")),
            Some(root) => Self::open(root, Some(state)),
            None if archive.is_empty() => Err(TrustError::Nobody("archive.keys")),
            None => Ok(Self::fixed(
                read(archive)?,
                read(consistency)?,
                BTreeMap::new(),
            )),
        }
    }

    fn of(
        archive: TrustedKeys,
        consistency: TrustedKeys,
        mirrors: BTreeMap<MirrorId, TrustedKeys>,
        chain: Option<Chain>,
    ) -> Self {
        let inner = Inner {
            archive: archive.into(),
            consistency: consistency.into(),
            mirrors: RwLock::new(mirrors),
            chain,
            changed: watch::Sender::new(None),
            ready: watch::Sender::new(false),
        };
        let trust = Self(Arc::new(inner));
        trust.look();
        trust.0.changed.send_replace(trust.version());
        trust
    }

    /// Who speaks for the archive.
    pub fn archive(&self) -> &Keys {
        &self.0.archive
    }

    /// Who speaks for the consistency service.
    pub fn consistency(&self) -> &Keys {
        &self.0.consistency
    }

    /// Who speaks for a mirror; `None` for a stranger.
    pub fn mirror(&self, mirror: &MirrorId) -> Option<TrustedKeys> {
        let mirrors = self
            .0
            .mirrors
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        mirrors.get(mirror).cloned()
    }

    /// The root document's number; `None` without one.
    pub fn version(&self) -> Option<RootVersion> {
        Some(self.in_force()?.version())
    }

    /// The root document in force; `None` without one.
    pub fn in_force(&self) -> Option<Trusted> {
        let chain = self.0.chain.as_ref()?;
        Some(chain.lock().clone())
    }

    /// The root document's number if it has expired: then nobody is believed, until a new one comes.
    pub fn expired(&self) -> Option<RootVersion> {
        let root = self.in_force()?;
        root.is_expired(crate::boot::now()).then(|| root.version())
    }

    /// What to say when the document ends within `warning`, or has ended.
    pub fn ends_within(&self, warning: Duration) -> Option<String> {
        let root = self.in_force()?;
        let left_ms = root.root().parts().expires.ms_since(crate::boot::now());
        let warning_ms = i64::try_from(warning.as_millis()).unwrap_or(i64::MAX);
        let days = left_ms / (24 * 3600 * 1000);
        (left_ms < warning_ms).then(|| match root.is_expired(crate::boot::now()) {
            true => format!(
                "root document {} has expired: nobody believes anything new; install the next one",
                root.version()
            ),
            false => format!(
                "root document {} ends in {days} days: make the next one (key rotate --expires)",
                root.version()
            ),
        })
    }

    /// Returns when every document that the log has was taken in, after [`Trust::follow`] has begun; at once without a
    /// root document. For those who read the log: what an earlier document says is not to be believed any more.
    pub async fn caught_up(&self) {
        if self.0.chain.is_none() {
            return;
        }
        let mut ready = self.0.ready.subscribe();
        // The sender lives as long as this.
        ready.wait_for(|ready| *ready).await.ok();
    }

    /// Changes when another root document is in force, or it has expired.
    pub fn changes(&self) -> watch::Receiver<Option<RootVersion>> {
        self.0.changed.subscribe()
    }

    /// A document as it was signed, for those who follow; `None` for one that is not here.
    pub fn document(&self, version: RootVersion) -> Option<Vec<u8>> {
        let chain = self.0.chain.as_ref()?;
        std::fs::read(file_of(chain.dir.as_deref()?, version)).ok()
    }

    /// Every document from the pinned one to the one in force, as it was signed.
    pub fn documents(&self) -> Vec<(RootVersion, Vec<u8>)> {
        let Some(chain) = self.0.chain.as_ref() else {
            return Vec::new();
        };
        let last = chain.lock().version();
        let versions = std::iter::successors(Some(chain.first), |version| version.next());
        let versions = versions.take_while(|version| *version <= last);
        versions
            .filter_map(|version| Some((version, self.document(version)?)))
            .collect()
    }

    /// Takes in a document. It is on the disk before it is in force. Blocks.
    ///
    /// # Errors
    /// [`TrustError::Refused`]: what was in force stays so. [`TrustError::Io`]. [`TrustError::NoRoot`].
    pub fn take(&self, document: &SignedRoot) -> Result<Taken, TrustError> {
        let Some(chain) = &self.0.chain else {
            return Err(TrustError::NoRoot);
        };
        let mut in_force = chain.lock();
        let next = match document.open_next(&in_force) {
            Ok(next) => next,
            Err(SignedRootError::Root(RootError::InForce(version))) => {
                return Ok(Taken::Known(version));
            }
            Err(error) => return Err(error.into()),
        };
        let version = next.version();
        keep(chain.dir.as_deref(), version, document)?;
        *in_force = next;
        drop(in_force);
        self.look();
        self.0.changed.send_replace(Some(version));
        tracing::info!(%version, "another root document is in force");
        Ok(Taken::New(version))
    }

    /// Sets the keys as the document in force, and the time, say.
    pub fn look(&self) {
        let Some(root) = self.in_force() else { return };
        let expired = self.expired().is_some();
        let keys = |role| match expired {
            // TUF 5.3.10, freeze: whoever holds newer versions back is noticed by the end of the last one.
            true => TrustedKeys::default(),
            false => root.keys(role),
        };
        self.0.archive.set(keys(Role::Archive));
        self.0.consistency.set(keys(Role::Consistency));
        let mirrors = if expired {
            BTreeMap::new()
        } else {
            roster(&root)
        };
        *self
            .0
            .mirrors
            .write()
            .unwrap_or_else(PoisonError::into_inner) = mirrors;
    }

    /// Looks now and then whether the document has expired.
    async fn watch_expiry(&self) {
        let mut before = self.expired();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.expired();
            if now != before {
                self.look();
                if let Some(version) = now {
                    tracing::error!(%version, "the root document has expired: nothing new is believed");
                }
                self.0.changed.send_modify(|_| {});
                before = now;
            }
        }
    }

    /// Follows the documents that the archive puts into the log, for ever. Where there is none to follow it waits.
    pub async fn follow(self, log: Log) {
        if self.0.chain.is_none() {
            return std::future::pending().await;
        }
        tokio::join!(self.watch_expiry(), self.follow_log(log));
    }

    async fn follow_log(&self, log: Log) {
        loop {
            if let Err(error) = self.follow_once(&log).await {
                let error = crate::chain(&error);
                tracing::warn!(error, "root documents cannot be followed, trying again");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_once(&self, log: &Log) -> Result<(), LogError> {
        let bucket = log.bucket(BUCKET).await?;
        self.catch_up(&bucket).await?;
        self.0.ready.send_replace(true);
        let mut watch = bucket.watch().await?;
        loop {
            let change = watch.next().await;
            let Some(value) = change.value else { continue };
            // They come in the order in which they were put; one that is early is found again by its number.
            if let Err(error) = self.take_bytes(value.to_vec()).await {
                let error = crate::chain(&error);
                tracing::warn!(key = change.key, error, "a root document is not taken");
            }
            self.catch_up(&bucket).await?;
        }
    }

    /// Takes every version after the one in force that the bucket has.
    async fn catch_up(&self, bucket: &Bucket) -> Result<(), LogError> {
        while let Some(next) = self.version().and_then(RootVersion::next) {
            let Some((_, value)) = bucket.get(&key_of(next)).await? else {
                return Ok(());
            };
            if let Err(error) = self.take_bytes(value.to_vec()).await {
                let error = crate::chain(&error);
                tracing::error!(version = %next, error, "a root document is refused");
                return Ok(());
            }
        }
        Ok(())
    }

    async fn take_bytes(&self, bytes: Vec<u8>) -> Result<Taken, TrustError> {
        let trust = self.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let document = SignedRoot::decode(&bytes).map_err(SignedRootError::from)?;
            // Whatever is in force was taken once: it needs no second look.
            let known = document.read().ok().map(|root| root.version());
            match known.filter(|version| trust.version().is_some_and(|now| *version <= now)) {
                Some(version) => Ok(Taken::Known(version)),
                None => trust.take(&document),
            }
        });
        match taken.await {
            Ok(taken) => taken,
            Err(died) => Err(TrustError::Io {
                action: "take",
                path: PathBuf::from(BUCKET),
                source: io::Error::other(died),
            }),
        }
    }
}

impl Chain {
    fn lock(&self) -> std::sync::MutexGuard<'_, Trusted> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A version's key in the bucket.
pub fn key_of(version: RootVersion) -> String {
    version.to_string()
}

fn roster(trusted: &Trusted) -> BTreeMap<MirrorId, TrustedKeys> {
    let mirrors = trusted.mirrors();
    mirrors
        .filter_map(|mirror| Some((mirror.clone(), trusted.mirror_keys(mirror)?)))
        .collect()
}

/// True for a file that holds a root document, false for a public key or anything else.
///
/// # Errors
/// [`TrustError::Io`].
pub fn is_root(path: &Path) -> Result<bool, TrustError> {
    match read(path) {
        Ok(document) => Ok(document.read().is_ok()),
        Err(TrustError::File { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads a root document; believes nothing.
///
/// # Errors
/// [`TrustError`], naming the file.
pub fn read(path: &Path) -> Result<SignedRoot, TrustError> {
    use std::io::Read as _;
    let fail = |source| TrustError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    let most = u64::try_from(wire::root::SIGNED_ROOT_MAX_BYTES).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    SignedRoot::decode(&bytes).map_err(|source| TrustError::File {
        path: path.to_owned(),
        source: source.into(),
    })
}

fn file_of(dir: &Path, version: RootVersion) -> PathBuf {
    dir.join(version.to_string())
}

/// Writes a document, durably.
fn keep(dir: Option<&Path>, version: RootVersion, document: &SignedRoot) -> Result<(), TrustError> {
    let Some(dir) = dir else { return Ok(()) };
    let bytes = document.encode();
    let path = file_of(dir, version);
    if std::fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    // A name of its own: others may keep the same document at the same time.
    let beside = dir.join(format!(
        ".new-{version}-{}-{:08x}",
        std::process::id(),
        getrandom::u32().unwrap_or(0)
    ));
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::File::create_new(&beside))
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&beside, &path))
        .and_then(|()| std::fs::File::open(dir)?.sync_all());
    written.map_err(|source| TrustError::Io {
        action: "write",
        path,
        source,
    })
}
