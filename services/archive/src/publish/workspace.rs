//! Where a publish puts content and pages, and reads them again: the store, or where content is not kept
//! nothing but scratch pages that go with it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{self, Entry, FileEntry, Page, PageRead};
use mirrorlog_core::path::{EntryPath, Found, Resolved, resolve};
use runtime::store::{Batch, Pages, Store, StoreError};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::error::{PublishError, manifest_error};
use crate::scan::Tree;

const PAGE_CACHE_BYTES: usize = 24 << 20;
const BUFFER_BYTES: usize = 256 * 1024;

/// Whether a publish is for real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Publish,
    DryRun,
    /// The content goes elsewhere; what the tree's files are is remembered here.
    Elsewhere,
}

/// Store and pages of one publish.
pub(crate) struct Workspace {
    pages: Pages,
    scratch: Option<Scratch>,
    purpose: Purpose,
    immutable: GlobSet,
}

struct Scratch {
    pages: Pages,
    _dir: TempDir,
}

impl Workspace {
    /// Opens the archive's store; for a dry run, a scratch one for pages too, in a folder that is emptied.
    pub(crate) fn open(
        store_dir: &Path,
        scratch_dir: &Path,
        purpose: Purpose,
    ) -> Result<Self, PublishError> {
        let pages = Pages::new(Store::open(store_dir)?, PAGE_CACHE_BYTES);
        let scratch = match purpose {
            Purpose::Publish => None,
            Purpose::DryRun | Purpose::Elsewhere => {
                let made = match std::fs::remove_dir_all(scratch_dir) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                    Ok(()) | Err(_) => std::fs::create_dir_all(scratch_dir),
                };
                let made = made.and_then(|()| TempDir::new_in(scratch_dir));
                let dir = made.map_err(|e| PublishError::io(scratch_dir, "made", e))?;
                let pages = Pages::new(Store::open(dir.path())?, PAGE_CACHE_BYTES);
                Some(Scratch { pages, _dir: dir })
            }
        };
        Ok(Self {
            pages,
            scratch,
            purpose,
            immutable: GlobSet::empty(),
        })
    }

    /// Links files below these globs into the store in place of copying them; `pool/` means all below it.
    pub(crate) fn with_immutable(mut self, globs: &[String]) -> Result<Self, PublishError> {
        let wrong = |e: globset::Error| PublishError::Config(format!("ingest.immutable: {e}"));
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            let below = if glob.ends_with('/') { "**" } else { "" };
            let glob = GlobBuilder::new(&format!("{glob}{below}"))
                .literal_separator(true)
                .build();
            set.add(glob.map_err(wrong)?);
        }
        self.immutable = set.build().map_err(wrong)?;
        Ok(self)
    }

    /// True when the operator says that the file at this path is never written in place.
    pub(crate) fn is_immutable(&self, path: &EntryPath) -> bool {
        use std::os::unix::ffi::OsStrExt as _;
        self.immutable
            .is_match(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())))
    }

    /// The archive's store.
    pub(crate) fn store(&self) -> &Store {
        self.pages.store()
    }

    /// Where new pages go.
    pub(crate) fn page_store(&self) -> &Store {
        self.scratch
            .as_ref()
            .map_or(&self.pages, |scratch| &scratch.pages)
            .store()
    }

    /// False when content stays in the tree.
    pub(crate) fn keeps_content(&self) -> bool {
        self.purpose == Purpose::Publish
    }

    /// False for a dry run: what it found is not remembered.
    pub(crate) fn keeps_stats(&self) -> bool {
        self.purpose != Purpose::DryRun
    }

    /// Reads a file to its end: into the store, or just for its digest.
    pub(crate) fn take_in(
        &self,
        batch: &Batch,
        path: &EntryPath,
        source: &File,
    ) -> Result<(Digest, u64), PublishError> {
        if self.keeps_content() {
            let immutable = self.is_immutable(path);
            let ingested = if immutable {
                batch.link(source)?
            } else {
                batch.ingest(source)?
            };
            return Ok((ingested.digest, ingested.size_bytes));
        }
        let failed = |e| PublishError::io(Path::new(&path.to_string()), "read", e);
        let mut source = source;
        let mut hash = Sha256::new();
        let mut size_bytes = 0;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let filled = source.read(&mut buffer).map_err(failed)?;
            if filled == 0 {
                return Ok((Digest::from_bytes(hash.finalize().into()), size_bytes));
            }
            hash.update(&buffer[..filled]);
            size_bytes += filled as u64;
        }
    }

    /// Opens content that was scanned: from the store, or else from the tree, where there is one.
    pub(crate) fn content(
        &self,
        tree: Option<&Tree>,
        path: &EntryPath,
        file: &FileEntry,
    ) -> Result<Option<File>, PublishError> {
        if let Some(blob) = self.store().open_blob(&file.digest)? {
            return Ok(Some(blob));
        }
        let Some(tree) = tree else {
            return Ok(None);
        };
        match tree.file(path.as_bytes()) {
            Ok((file, _stamp)) => Ok(Some(file)),
            Err(error) if crate::scan::means_changed(&error) => Ok(None),
            Err(error) => Err(PublishError::io(
                &tree.path().join(path.to_string()),
                "read",
                error,
            )),
        }
    }
}

impl PageRead for Workspace {
    type Error = StoreError;
    fn page(&self, digest: &Digest) -> Result<Arc<Page>, StoreError> {
        match &self.scratch {
            Some(scratch) => match scratch.pages.page(digest) {
                Err(StoreError::Absent(_)) => self.pages.page(digest),
                other => other,
            },
            None => self.pages.page(digest),
        }
    }
}

/// One manifest, to be looked into.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) root: &'a Digest,
}

impl<'a> View<'a> {
    /// The entry at a path.
    pub(crate) fn get(&self, path: &EntryPath) -> Result<Option<Entry>, PublishError> {
        let found = manifest::get(self.workspace, self.root, path).map_err(manifest_error)?;
        Ok(found.map(|(_ordinal, entry)| entry))
    }

    /// The file that a path names after its symlinks, and where it is.
    pub(crate) fn follow(
        &self,
        path: &[u8],
    ) -> Result<Option<(EntryPath, FileEntry)>, PublishError> {
        let resolved = resolve(path, |at| {
            Ok::<_, PublishError>(match self.get(at)? {
                Some(Entry::File(file)) => Found::File((at.clone(), file)),
                Some(Entry::Symlink { target }) => Found::Symlink(target),
                None => Found::Nothing,
            })
        })?;
        Ok(match resolved {
            Resolved::File(file) => Some(file),
            Resolved::Folder(_) | Resolved::Refused => None,
        })
    }

    /// Entries whose path starts with `prefix`, in order.
    pub(crate) fn below(
        &self,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = Result<(EntryPath, Entry), PublishError>> + 'a {
        let entries = manifest::iter(self.workspace, self.root, prefix, None);
        entries.map(|found| match found {
            Ok((_ordinal, path, entry)) => Ok((path, entry)),
            Err(error) => Err(manifest_error(error)),
        })
    }
}
