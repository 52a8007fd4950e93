//! Which file a path is, in which build: manifests of the builds that are offered.
//!
//! Manifests come from the archive, or page by page from mirrors while it is away: `holders`.

pub(crate) mod holders;

use std::sync::Arc;
use std::time::Duration;

use fetcher::manifests::{Manifests, ManifestsError};
use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::PATH_MAX_BYTES;
use mirrorlog_core::manifest::{FileEntry, ManifestError};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::tree::{Place, Scope};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use reqwest::Client;
use runtime::store::StoreError;

use holders::Holders;

/// Memory for look-ups that found something, in bytes.
const FOUND_BYTES: u64 = 32 * 1024 * 1024;
/// Memory for those that found nothing, in bytes: whoever makes names up pushes out no name that is there.
const NOTHING_BYTES: u64 = 2 * 1024 * 1024;
/// What a look-up takes beside its path, more or less: what the caches count on.
const USUAL_BYTES: u64 = 256;
/// Pause before a manifest that was not to be had is asked for again.
pub(crate) const RETRY: Duration = Duration::from_secs(10);

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A file: the index of its tree, its path there without symlinks, and what it is.
    File {
        /// Which of the trees.
        tree: usize,
        /// Where in it.
        path: EntryPath,
        /// What.
        file: FileEntry,
    },
    /// A folder, by its path without symlinks.
    Folder(Vec<u8>),
    /// Nothing.
    Nothing,
}

/// Why a path could not be looked up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreesError {
    /// The build's manifest is not here and not to be had now.
    #[error("the build's manifest is not here yet")]
    Manifest(#[from] ManifestsError),
    /// A page turned out to be missing or broken.
    #[error("the build's manifest cannot be read")]
    Read(#[from] ManifestError<StoreError>),
    /// A task ended unexpectedly.
    #[error("a task failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Roots of the trees in order, and the path: what a look-up depends on.
type Key = (Box<[Digest]>, Box<[u8]>);

/// A key's length; nodes of the cache and allocations take about as much as a key without a path.
fn key_bytes((roots, path): &Key) -> u64 {
    (128 + size_of::<Digest>() * roots.len() + path.len()) as u64
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Arc<Found>> for ByBytes {
    fn weight(&self, key: &Key, found: &Arc<Found>) -> u64 {
        let path = match &**found {
            Found::File { path, .. } => path.as_bytes().len(),
            Found::Folder(folder) => folder.len(),
            Found::Nothing => 0,
        };
        key_bytes(key) + (size_of::<Found>() + path) as u64
    }
}

impl Weighter<Key, ()> for ByBytes {
    fn weight(&self, key: &Key, _nothing: &()) -> u64 {
        key_bytes(key)
    }
}

/// Look-ups that were made.
struct Known {
    found: Cache<Key, Arc<Found>, ByBytes>,
    nothing: Cache<Key, (), ByBytes>,
}

impl Known {
    fn new() -> Self {
        let items = |bytes: u64| usize::try_from(bytes / USUAL_BYTES).unwrap_or(usize::MAX);
        Self {
            found: Cache::with_weighter(items(FOUND_BYTES), FOUND_BYTES, ByBytes),
            nothing: Cache::with_weighter(items(NOTHING_BYTES), NOTHING_BYTES, ByBytes),
        }
    }

    fn get(&self, key: &Key) -> Option<Arc<Found>> {
        let nothing = || self.nothing.get(key).map(|()| Arc::new(Found::Nothing));
        self.found.get(key).or_else(nothing)
    }

    fn keep(&self, key: Key, found: &Arc<Found>) {
        match &**found {
            Found::File { .. } | Found::Folder(_) => self.found.insert(key, Arc::clone(found)),
            Found::Nothing => self.nothing.insert(key, ()),
        }
    }
}

/// Manifests and what was found in them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Trees {
    manifests: Manifests,
    known: Arc<Known>,
    /// Asks mirrors; none: nobody but the archive is asked.
    client: Option<Client>,
}

impl Trees {
    pub(crate) fn new(manifests: Manifests) -> Self {
        Self {
            manifests,
            known: Arc::new(Known::new()),
            client: None,
        }
    }

    /// Mirrors are asked too, for what the archive does not give.
    pub(crate) fn asking_mirrors(self) -> Result<Self, reqwest::Error> {
        let client = Some(holders::client()?);
        Ok(Self { client, ..self })
    }

    /// Gets manifests before anybody asks for them, each again after `retry` until it is here. `urls`: mirrors that
    /// have a root at this moment; none when nobody can ask for it any more.
    pub(crate) async fn prepare(
        &self,
        mut roots: Vec<Digest>,
        retry: Duration,
        urls: impl Fn(&Digest) -> Option<Vec<String>>,
    ) {
        loop {
            let mut missing = Vec::new();
            for root in roots {
                let Some(urls) = urls(&root) else {
                    continue;
                };
                if let Err(error) = self.ensure(root, urls).await {
                    let error = wire::causes(&error);
                    tracing::warn!(%root, error, "a build's manifest is not to be had now");
                    missing.push(root);
                }
            }
            if missing.is_empty() {
                return;
            }
            roots = missing;
            tokio::time::sleep(retry).await;
        }
    }

    /// Forgets the pages that no root of `keep` reaches; says how many.
    pub(crate) async fn sweep(&self, keep: Vec<Digest>) -> Result<u64, ManifestsError> {
        self.manifests.sweep(keep).await
    }

    /// What a path leads to in these trees, symlinks followed. `urls`: mirrors that have the tree of that index.
    pub(crate) async fn find(
        &self,
        scope: &Scope,
        path: &[u8],
        urls: impl Fn(usize) -> Vec<String>,
    ) -> Result<Arc<Found>, TreesError> {
        // No manifest holds it, and nothing of that size is worth remembering.
        if path.len() > PATH_MAX_BYTES {
            return Ok(Arc::new(Found::Nothing));
        }
        let key = key(scope, path);
        if let Some(found) = self.known.get(&key) {
            return Ok(found);
        }
        let trees = scope.0.iter().enumerate();
        let held: Vec<_> = trees.map(|(at, tree)| (tree.root, urls(at))).collect();
        let found = Arc::new(self.find_held(scope, path, held).await?);
        self.known.keep(key, &found);
        Ok(found)
    }

    async fn find_held(
        &self,
        scope: &Scope,
        path: &[u8],
        held: Vec<(Digest, Vec<String>)>,
    ) -> Result<Found, TreesError> {
        for (root, urls) in &held {
            self.ensure(*root, urls.clone()).await?;
        }
        let error = match self.look(scope, path).await? {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        // A page went missing: all of them are looked at, once.
        let error = wire::causes(&error);
        tracing::warn!(error, "a manifest is made whole again");
        for (root, urls) in held {
            let holders = self.holders(urls);
            self.manifests.repair(root, holders.as_ref()).await?;
        }
        Ok(self.look(scope, path).await??)
    }

    async fn ensure(&self, root: Digest, urls: Vec<String>) -> Result<(), ManifestsError> {
        let holders = self.holders(urls);
        self.manifests.ensure(root, holders.as_ref()).await
    }

    fn holders(&self, urls: Vec<String>) -> Option<Holders> {
        Some(Holders::new(self.client.clone()?, urls))
    }

    async fn look(
        &self,
        scope: &Scope,
        path: &[u8],
    ) -> Result<Result<Found, ManifestError<StoreError>>, TreesError> {
        let (pages, scope, path) = (self.manifests.pages(), scope.clone(), path.to_vec());
        let looked = tokio::task::spawn_blocking(move || scope.place(&pages, &path)).await?;
        Ok(looked.map(|place| match place {
            Place::File(tree, path, file) => Found::File { tree, path, file },
            Place::Folder(folder) => Found::Folder(folder),
            Place::Nothing => Found::Nothing,
        }))
    }
}

fn key(scope: &Scope, path: &[u8]) -> Key {
    let roots = scope.0.iter().map(|tree| tree.root).collect();
    (roots, path.into())
}

#[cfg(test)]
mod tests;
