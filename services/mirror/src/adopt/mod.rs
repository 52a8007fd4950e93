//! Takes over a tree that is already there, such as the copy that rsync made for years.
//!
//! | module | what it does |
//! | --- | --- |
//! | `take` | puts into the store what the tree has of the newest builds |
//! | `switch` | gives the tree's name to the export tree, and back |
//!
//! The tree itself is not changed: its files get a second name in the store where the file system can, and are copied
//! where it cannot.

mod switch;
mod take;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fetcher::client::{FetchError, FetchOptions, Present, Source, SourceError, fetch_manifest};
use mirrorlog_core::id::{Build, ChannelId, Digest, Mount};
use mirrorlog_core::sign::TrustedKeys;
use runtime::store::{Store, StoreError};

use crate::config::Config;
use crate::journal::{Journal, JournalError};

pub use switch::{Switched, switch, undo};
pub use take::{Amount, Take, Taken, Taking};

/// Why a tree is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The archive publishes nothing there.
    #[error("the archive has no channel with a good build at mount {0}")]
    NoChannel(Mount),
    /// The tree is none.
    #[error("{path} cannot be read as a tree")]
    Tree {
        /// What was to be taken.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A name cannot be given or taken back.
    #[error("cannot {what} {path}")]
    Name {
        /// What was tried.
        what: &'static str,
        /// With this.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something has to be otherwise first; says what.
    #[error("{0}")]
    First(String),
    /// The archive's journal does not answer.
    #[error("cannot learn what the archive has at the mount")]
    Journal(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A manifest did not come.
    #[error("cannot fetch the manifest of {channel} build {build}")]
    Manifest {
        /// Which channel.
        channel: ChannelId,
        /// Which build.
        build: Build,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A manifest cannot be read.
    #[error("manifest cannot be read")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Keys or addresses of the configuration.
    #[error("configuration cannot be used")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store.
    #[error("store failed")]
    Store(#[from] StoreError),
    /// A task ended unexpectedly.
    #[error("a task failed")]
    Task(#[from] tokio::task::JoinError),
}

impl From<JournalError> for AdoptError {
    fn from(error: JournalError) -> Self {
        Self::Journal(Box::new(error))
    }
}

impl From<SourceError> for AdoptError {
    fn from(error: SourceError) -> Self {
        Self::Config(Box::new(error))
    }
}

/// A build that the tree is compared with.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its channel.
    pub channel: ChannelId,
    /// Its number.
    pub build: Build,
    root: Digest,
}

/// Asks the archive for the newest builds at a mount, and fetches their manifests into the mirror's store.
///
/// # Errors
/// [`AdoptError::NoChannel`], [`AdoptError::Journal`], [`AdoptError::Manifest`], [`AdoptError::Config`].
pub async fn prepare(config: &Config, mount: &Mount, from: &Path) -> Result<Take, AdoptError> {
    let is_tree = std::fs::metadata(from).and_then(|metadata| match metadata.is_dir() {
        true => Ok(()),
        false => Err(std::io::ErrorKind::NotADirectory.into()),
    });
    is_tree.map_err(|source| AdoptError::Tree {
        path: from.to_owned(),
        source,
    })?;
    let files = config.archive.keys.iter();
    let keys: Result<Vec<_>, _> = files.map(|file| runtime::key::read_public(file)).collect();
    let keys = keys.map_err(|error| AdoptError::Config(Box::new(error)))?;
    let journal = Journal::new(&config.archive.fetch, Arc::new(TrustedKeys::new(keys)))?;
    let store = Store::open(&config.mirror.store)?;
    // Until the mirror has the builds themselves, nothing refers to what is taken.
    let pinning = store.clone();
    let pin = tokio::task::spawn_blocking(move || pinning.pin()).await??;
    let mut wanted = Vec::new();
    for channel in journal.channels().await? {
        let carried = &config.mirror.channels;
        if !carried.is_empty() && !carried.contains(&channel) {
            continue;
        }
        let Some((build, root)) = newest(&journal, &channel, mount).await? else {
            continue;
        };
        let failed = |source| AdoptError::Manifest {
            channel: channel.clone(),
            build,
            source,
        };
        let sources = [Source::new(&config.archive.fetch)?];
        let options = FetchOptions::default();
        let fetch = fetch_manifest(&sources, root, &store, Present::Unknown, &options);
        let fetched = fetch
            .await
            .map_err(|error: FetchError| failed(Box::new(error)))?;
        if !fetched.is_whole() {
            return Err(failed("the archive does not give all of it".into()));
        }
        wanted.push(Wanted {
            channel,
            build,
            root,
        });
    }
    if wanted.is_empty() {
        return Err(AdoptError::NoChannel(mount.clone()));
    }
    Ok(Take::new(store, pin, wanted, from))
}

async fn newest(
    journal: &Journal,
    channel: &ChannelId,
    mount: &Mount,
) -> Result<Option<(Build, Digest)>, AdoptError> {
    let answer = journal.ask(channel, Build::FIRST).await?;
    let Some((_, head)) = answer.head else {
        return Ok(None);
    };
    let mut snapshots = answer.snapshots.into_iter().map(|(_, snapshot)| snapshot);
    let snapshot = snapshots.find(|snapshot| snapshot.build == head.build);
    let at_mount = snapshot.filter(|snapshot| snapshot.mount == *mount);
    Ok(at_mount.map(|snapshot| (snapshot.build, snapshot.root)))
}
