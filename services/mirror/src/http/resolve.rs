//! A path in the trees of a request.

use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::manifest::{self, Entry, FileEntry, ManifestError};
use mirrorlog_core::path::{self, EntryPath, Found, Resolved};
use runtime::store::{Pages, StoreError};

/// Reading the manifests failed.
pub(super) type Fault = ManifestError<StoreError>;

/// One build of one channel.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) channel: ChannelId,
    pub(super) build: Build,
    pub(super) root: Digest,
}

/// The trees that are looked into as one; the first that has a path wins it.
#[derive(Clone, Debug)]
pub(super) struct Scope(pub(super) Vec<Tree>);

/// What a path leads to.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A file, and the index of its tree.
    File(usize, FileEntry),
    /// A folder, by its path without symlinks.
    Folder(Vec<u8>),
    /// Nothing, or a symlink that leads nowhere.
    Nothing,
}

impl Scope {
    /// Channels and builds, in order.
    pub(super) fn builds(&self) -> impl Iterator<Item = (&ChannelId, Build)> {
        self.0.iter().map(|tree| (&tree.channel, tree.build))
    }

    /// Follows symlinks, within these trees only.
    pub(super) fn place(&self, pages: &Pages, path: &[u8]) -> Result<Place, Fault> {
        if self.0.is_empty() {
            return Ok(Place::Nothing);
        }
        match path::resolve(path, |at| self.find(pages, at))? {
            Resolved::File((tree, file)) => Ok(Place::File(tree, file)),
            Resolved::Folder(path) if self.has_folder(pages, &path)? => Ok(Place::Folder(path)),
            Resolved::Folder(_) | Resolved::Refused => Ok(Place::Nothing),
        }
    }

    fn find(&self, pages: &Pages, at: &EntryPath) -> Result<Found<(usize, FileEntry)>, Fault> {
        for (index, tree) in self.0.iter().enumerate() {
            match manifest::get(pages, &tree.root, at)? {
                Some((_, Entry::File(file))) => return Ok(Found::File((index, file))),
                Some((_, Entry::Symlink { target })) => return Ok(Found::Symlink(target)),
                None => {}
            }
        }
        Ok(Found::Nothing)
    }

    fn has_folder(&self, pages: &Pages, path: &[u8]) -> Result<bool, Fault> {
        // The top is there even when nothing is in it.
        if path.is_empty() {
            return Ok(true);
        }
        for tree in &self.0 {
            let mut lines = manifest::list(pages, &tree.root, path);
            if lines.next().transpose()?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
