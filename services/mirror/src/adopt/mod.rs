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

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fetcher::client::{FetchError, FetchOptions, Present, Source, SourceError, fetch_manifest};
use mirrorlog_core::id::{Build, ChannelId, Digest, Mount};
use mirrorlog_core::statement::Snapshot;
use mirrorlog_core::view::Selection;
use runtime::store::{Store, StoreError};

use crate::config::Config;
use crate::journal::{Journal, JournalError};
use crate::views::Views;

pub use switch::{Switched, switch, undo};
pub use take::{Amount, Take, Taken, Taking};

/// Why a tree is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The archive publishes nothing there.
    #[error("the archive has no channel with a good build at mount {mount}; it has {others}")]
    NoChannel {
        /// What was asked for.
        mount: Mount,
        /// Mounts that it has.
        others: String,
    },
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
    /// The mirror has no export trees.
    #[error(
        "the mirror's configuration has no [export]: there is no tree of files to lead to; add it with dir = \"…\" and \
         start the mirror again"
    )]
    NoExport,
    /// The mirror does not show the mount yet: later.
    #[error("{0} is not there: run the mirror until it serves the mount, then switch")]
    NotYet(PathBuf),
    /// The name or the folder cannot be used; says why.
    #[error("{0}")]
    InTheWay(String),
    /// There is nothing to undo; says why.
    #[error("{0}")]
    NothingToUndo(String),
    /// The archive's journal does not answer.
    #[error("the archive does not answer on {address}: {reason}; is it running?")]
    Down {
        /// Where it was asked.
        address: String,
        /// What came instead.
        reason: String,
    },
    /// The archive's journal says something that cannot be.
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
    selection: Selection,
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
    let trust = crate::run::trust(config);
    let trust = trust.map_err(|error| AdoptError::Config(Box::new(error)))?;
    let tls = runtime::tls::load(config.tls.as_ref());
    let tls = tls.map_err(|error| AdoptError::Config(Box::new(error)))?;
    let keys = trust.archive().clone();
    let journal = Journal::new(&config.archive.fetch, tls.as_ref(), keys);
    let unheard = |error| match error {
        JournalError::Call(status) => AdoptError::Down {
            address: config.archive.fetch.clone(),
            reason: status.message().to_owned(),
        },
        error @ (JournalError::Address(..)
        | JournalError::Decode(_)
        | JournalError::Other
        | JournalError::Open(_)) => AdoptError::Journal(Box::new(error)),
    };
    let journal = journal.map_err(unheard)?;
    let store = Store::open(&config.mirror.store)?;
    // Until the mirror has the builds themselves, nothing refers to what is taken.
    let pinning = store.clone();
    let pin = tokio::task::spawn_blocking(move || pinning.pin()).await??;
    let views = Views::of_config(config).map_err(|error| AdoptError::Config(Box::new(error)))?;
    let (mut wanted, mut others) = (Vec::new(), BTreeSet::new());
    for channel in journal.channels().await.map_err(unheard)? {
        let carried = &config.mirror.channels;
        if !carried.is_empty() && !carried.contains(&channel) {
            continue;
        }
        let Some(newest) = newest(&journal, &channel).await.map_err(unheard)? else {
            continue;
        };
        if newest.mount != *mount {
            others.insert(newest.mount.to_string());
            continue;
        }
        let (build, root) = (newest.build, newest.root);
        let failed = |source| AdoptError::Manifest {
            channel: channel.clone(),
            build,
            source,
        };
        let sources = [Source::of(&config.archive.fetch, tls.as_ref())?];
        let options = FetchOptions::default();
        let fetch = fetch_manifest(&sources, root, &store, Present::Unknown, &options);
        let fetched = fetch
            .await
            .map_err(|error: FetchError| failed(Box::new(error)))?;
        if !fetched.is_whole() {
            return Err(failed("the archive does not give all of it".into()));
        }
        wanted.push(Wanted {
            selection: Selection::new(&views.of(&channel), newest.layout),
            channel,
            build,
            root,
        });
    }
    if wanted.is_empty() {
        let others: Vec<String> = others.into_iter().collect();
        let others = match others.is_empty() {
            true => "none that this mirror carries".to_owned(),
            false => others.join(" "),
        };
        return Err(AdoptError::NoChannel {
            mount: mount.clone(),
            others,
        });
    }
    Ok(Take::new(store, pin, wanted, from))
}

async fn newest(journal: &Journal, channel: &ChannelId) -> Result<Option<Snapshot>, JournalError> {
    let answer = journal.ask(channel, Build::FIRST).await?;
    let Some((_, head)) = answer.head else {
        return Ok(None);
    };
    let mut snapshots = answer.snapshots.into_iter().map(|(_, snapshot)| snapshot);
    Ok(snapshots.find(|snapshot| snapshot.build == head.build))
}
