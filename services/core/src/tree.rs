//! Builds as trees: what a path leads to in one build, or in several that are served as one.

use crate::id::{Build, ChannelId, Digest};
use crate::manifest::{self, Entry, FileEntry, ManifestError, PageRead};
use crate::path::{self, EntryPath, Found, Resolved};
use crate::view::Selection;

/// A file that was found: the index of its tree, its path there, and what it is.
type At = (usize, EntryPath, FileEntry);

/// One build of one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The channel.
    pub channel: ChannelId,
    /// The build.
    pub build: Build,
    /// Digest of its manifest's top page.
    pub root: Digest,
    /// What of it is looked into; the rest is as if it were not there.
    pub selection: Selection,
}

/// The trees that are looked into as one; the first that has a path wins it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(pub Vec<Tree>);

/// What a path leads to.
#[derive(Clone, Debug)]
pub enum Place {
    /// A file: the index of its tree, and its path there without symlinks.
    File(usize, EntryPath, FileEntry),
    /// A folder, by its path without symlinks.
    Folder(Vec<u8>),
    /// Nothing, or a symlink that leads nowhere.
    Nothing,
}

impl Scope {
    /// Channels and builds, in order.
    pub fn builds(&self) -> impl Iterator<Item = (&ChannelId, Build)> {
        self.0.iter().map(|tree| (&tree.channel, tree.build))
    }

    /// Follows symlinks, within these trees only.
    ///
    /// # Errors
    /// [`ManifestError`] when a page cannot be read, or is not what the page above it says.
    pub fn place<R: PageRead>(
        &self,
        pages: &R,
        path: &[u8],
    ) -> Result<Place, ManifestError<R::Error>> {
        if self.0.is_empty() {
            return Ok(Place::Nothing);
        }
        match path::resolve(path, |at| self.find(pages, at))? {
            Resolved::File((tree, at, file)) => Ok(Place::File(tree, at, file)),
            Resolved::Folder(path) if self.has_folder(pages, &path)? => Ok(Place::Folder(path)),
            Resolved::Folder(_) | Resolved::Refused => Ok(Place::Nothing),
        }
    }

    /// What a path is, symlinks not followed: of the first tree that has it.
    ///
    /// # Errors
    /// As for [`place`](Self::place).
    pub fn entry<R: PageRead>(
        &self,
        pages: &R,
        at: &EntryPath,
    ) -> Result<Option<Entry>, ManifestError<R::Error>> {
        for tree in self.0.iter().filter(|tree| tree.selection.has(at)) {
            if let Some((_, entry)) = manifest::get(pages, &tree.root, at)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn find<R: PageRead>(
        &self,
        pages: &R,
        at: &EntryPath,
    ) -> Result<Found<At>, ManifestError<R::Error>> {
        let trees = self.0.iter().enumerate();
        for (index, tree) in trees.filter(|(_, tree)| tree.selection.has(at)) {
            match manifest::get(pages, &tree.root, at)? {
                Some((_, Entry::File(file))) => return Ok(Found::File((index, at.clone(), file))),
                Some((_, Entry::Symlink { target })) => return Ok(Found::Symlink(target)),
                None => {}
            }
        }
        Ok(Found::Nothing)
    }

    fn has_folder<R: PageRead>(
        &self,
        pages: &R,
        path: &[u8],
    ) -> Result<bool, ManifestError<R::Error>> {
        // The top is there even when nothing is in it.
        if path.is_empty() {
            return Ok(true);
        }
        for tree in self.0.iter().filter(|tree| tree.selection.has_below(path)) {
            let mut lines = manifest::list(pages, &tree.root, path);
            if lines.next().transpose()?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
