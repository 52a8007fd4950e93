//! Which file a path is, in which build: manifests of the builds that are offered.

use std::sync::Arc;

use fetcher::manifests::{Manifests, ManifestsError, Nobody};
use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{FileEntry, ManifestError};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::tree::{Place, Scope};
use quick_cache::sync::Cache;
use runtime::store::StoreError;

/// Look-ups that are remembered.
const FOUND_MAX: usize = 131_072;

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

/// Manifests and what was found in them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Trees {
    manifests: Manifests,
    found: Arc<Cache<Key, Arc<Found>>>,
}

impl Trees {
    pub(crate) fn new(manifests: Manifests) -> Self {
        Self {
            manifests,
            found: Arc::new(Cache::new(FOUND_MAX)),
        }
    }

    /// Gets a build's manifest before anybody asks for it.
    pub(crate) async fn prepare(&self, root: Digest) -> Result<(), ManifestsError> {
        self.manifests.ensure::<Nobody>(root, None).await
    }

    /// Forgets the pages that no root of `keep` reaches; says how many.
    pub(crate) async fn sweep(&self, keep: Vec<Digest>) -> Result<u64, ManifestsError> {
        self.manifests.sweep(keep).await
    }

    /// What was found before, without waiting.
    pub(crate) fn known(&self, scope: &Scope, path: &[u8]) -> Option<Arc<Found>> {
        self.found.get(&key(scope, path))
    }

    /// What a path leads to in these trees, symlinks followed.
    pub(crate) async fn find(&self, scope: &Scope, path: &[u8]) -> Result<Arc<Found>, TreesError> {
        if let Some(found) = self.known(scope, path) {
            return Ok(found);
        }
        let found = match self.look(scope, path).await? {
            Ok(found) => found,
            // A page went missing: all of them are looked at, once.
            Err(error) => {
                tracing::warn!(
                    error = wire::causes(&error),
                    "a manifest is made whole again"
                );
                for tree in &scope.0 {
                    self.manifests.repair::<Nobody>(tree.root, None).await?;
                }
                self.look(scope, path).await??
            }
        };
        let found = Arc::new(found);
        self.found.insert(key(scope, path), Arc::clone(&found));
        Ok(found)
    }

    async fn look(
        &self,
        scope: &Scope,
        path: &[u8],
    ) -> Result<Result<Found, ManifestError<StoreError>>, TreesError> {
        for tree in &scope.0 {
            self.prepare(tree.root).await?;
        }
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
