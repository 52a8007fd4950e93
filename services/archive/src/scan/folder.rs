//! What is in folders: their names in order, and a worker's look at a few of them.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mirrorlog_core::path::EntryPath;
use rustix::fs::{FileType, RawDir};

use super::tree::{Kind, Tree, folder_at, look_at};
use super::walk::{Item, Step, fault_or_error};
use crate::publish::{Fault, PublishError, Rule};

/// Room for the names of a usual folder, in bytes.
const NAMES_BYTES: usize = 512;
/// Buffer for a folder's names, in bytes.
const LIST_BYTES: usize = 16 * 1024;
/// How much work a worker takes at a time: a name counts as one, a folder's as eight.
pub(super) const SHARE: usize = 256;
const FOLDER_SHARE: usize = 8;
/// A folder with at most this many names is gone through by whoever finds it; a larger one is shared out.
pub(super) const SMALL_FOLDER: usize = 128;
/// Names after which a worker goes into no further folder; those of the folders that it has open still come.
const LOOKS_MAX: usize = 1024;
/// Folders inside each other that a worker has open.
const OPEN_MAX: usize = 8;
/// Names of folders ahead that may be in memory, some 40 bytes each; a folder itself counts as twenty. The names of a
/// folder found beyond that are read again when its turn comes.
pub(super) const HELD_MAX: usize = 1 << 20;
const FOLDER_HELD: usize = 20;

/// Names of one folder in order, in one allocation.
pub(super) struct Names {
    bytes: Vec<u8>,
    index: Vec<Name>,
}

#[derive(Clone, Copy)]
struct Name {
    start: u32,
    len: u16,
    folder: bool,
}

impl Names {
    /// Reads the names of an open folder.
    pub(super) fn read(fd: &OwnedFd) -> io::Result<Self> {
        let mut names = Self {
            bytes: Vec::with_capacity(NAMES_BYTES),
            index: Vec::with_capacity(NAMES_BYTES / 32),
        };
        let mut buffer = [MaybeUninit::uninit(); LIST_BYTES];
        let mut listed = RawDir::new(fd, &mut buffer);
        while let Some(entry) = listed.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let folder = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => look_at(fd, name)?.1 == Kind::Folder,
                FileType::RegularFile
                | FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice => false,
            };
            let too_many = |_| io::Error::other("more names in one folder than 4 GiB hold");
            let start = u32::try_from(names.bytes.len()).map_err(too_many)?;
            let len = u16::try_from(name.len()).map_err(io::Error::other)?;
            names.bytes.extend_from_slice(name);
            names.index.push(Name { start, len, folder });
        }
        names.sort();
        Ok(names)
    }

    fn get(&self, name: Name) -> &[u8] {
        let start = name.start as usize;
        &self.bytes[start..start + usize::from(name.len)]
    }

    fn len(&self) -> usize {
        self.index.len()
    }

    fn sort(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let key = |name: &Name| {
            let start = name.start as usize;
            let plain = bytes[start..start + usize::from(name.len)].iter().copied();
            plain.chain(name.folder.then_some(b'/'))
        };
        self.index.sort_unstable_by(|a, b| key(a).cmp(key(b)));
        self.bytes = bytes;
    }

    /// Where one worker's share ends that begins at a name.
    fn share_end(&self, begin: usize) -> usize {
        let mut share = 0;
        let enough = |name: &Name| {
            share += if name.folder { FOLDER_SHARE } else { 1 };
            share >= SHARE
        };
        let found = self.index[begin..].iter().position(enough);
        found.map_or(self.index.len(), |at| begin + at + 1)
    }
}

/// A folder that is shared out.
pub(super) struct Folder {
    /// Empty: the tree's top.
    path: Vec<u8>,
    names: Names,
    held: Arc<AtomicUsize>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        let held = self.names.len() + FOLDER_HELD;
        self.held.fetch_sub(held, Ordering::Relaxed);
    }
}

/// What of a folder nobody has begun yet.
pub(super) struct Rest {
    folder: Arc<Folder>,
    next: usize,
}

impl Rest {
    /// Splits off what one worker does next.
    pub(super) fn share(&mut self) -> Share {
        let begin = self.next;
        self.next = self.folder.names.share_end(begin);
        Share::Names(Arc::clone(&self.folder), begin..self.next)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next == self.folder.names.len()
    }
}

/// Work of one worker.
pub(super) enum Share {
    /// Some names of a folder.
    Names(Arc<Folder>, Range<usize>),
    /// A folder whose names are not in memory.
    List(Vec<u8>),
}

/// A part of what a walk finds, in order.
pub(super) enum Piece {
    Steps(Vec<Step>),
    /// The names of a folder, which others go through.
    Rest(Rest),
    /// A folder whose names are read when its turn comes.
    Later(Vec<u8>),
    /// A folder that was there and cannot be opened any more.
    Gone(Fault),
    /// Nothing can be found any more.
    Failed(PublishError),
}

/// One worker's way through its share.
pub(super) struct Visit<'a> {
    tree: &'a Tree,
    held: &'a Arc<AtomicUsize>,
    done: Vec<Piece>,
    steps: Vec<Step>,
    looks: usize,
}

impl<'a> Visit<'a> {
    /// Does a share.
    pub(super) fn run(tree: &'a Tree, held: &'a Arc<AtomicUsize>, share: Share) -> Vec<Piece> {
        let mut visit = Self {
            tree,
            held,
            done: Vec::new(),
            steps: Vec::with_capacity(SHARE),
            looks: 0,
        };
        let outcome = match share {
            Share::Names(folder, range) => visit.names(&folder, range),
            Share::List(path) => visit.list(path),
        };
        visit.end_steps();
        visit.done.extend(outcome.err().map(Piece::Failed));
        visit.done
    }

    fn names(&mut self, folder: &Folder, range: Range<usize>) -> Result<(), PublishError> {
        match self.tree.folder(&folder.path) {
            Ok(fd) => self.look_at_names(&folder.path, &fd, &folder.names, range, 1),
            Err(error) => self.gone(&folder.path, error),
        }
    }

    fn list(&mut self, path: Vec<u8>) -> Result<(), PublishError> {
        let names = self.tree.folder(&path).and_then(|fd| Names::read(&fd));
        match names {
            Ok(names) => self.done.push(Piece::Rest(rest(path, names, self.held))),
            Err(error) => self.gone(&path, error)?,
        }
        Ok(())
    }

    fn gone(&mut self, path: &[u8], error: io::Error) -> Result<(), PublishError> {
        let fault = fault_or_error(self.tree, path, error)?;
        self.done.push(Piece::Gone(fault));
        Ok(())
    }

    fn look_at_names(
        &mut self,
        folder: &[u8],
        fd: &OwnedFd,
        names: &Names,
        range: Range<usize>,
        open: usize,
    ) -> Result<(), PublishError> {
        for name in &names.index[range] {
            self.looks += 1;
            if let Err(fault) = self.look(folder, fd, names.get(*name), name.folder, open)? {
                self.steps.push(Step::Fault(fault));
            }
        }
        Ok(())
    }

    /// Looks at one name, and into it when it is a folder. The inner error is the tree's.
    fn look(
        &mut self,
        folder: &[u8],
        fd: &OwnedFd,
        name: &[u8],
        is_folder: bool,
        open: usize,
    ) -> Result<Result<(), Fault>, PublishError> {
        let slash: &[u8] = if folder.is_empty() { b"" } else { b"/" };
        let path = match EntryPath::from_vec([folder, slash, name].concat()) {
            Ok(path) => path,
            Err((error, path)) => {
                let expected = "a path that a manifest can hold";
                return Ok(Err(Fault::new(
                    &path,
                    Rule::Path,
                    expected,
                    error.to_string(),
                )));
            }
        };
        let (stamp, kind) = match look_at(fd, name) {
            Ok(found) => found,
            Err(error) => return fault_or_error(self.tree, path.as_bytes(), error).map(Err),
        };
        if (kind == Kind::Folder) != is_folder {
            let found = "another kind of file";
            return Ok(Err(Fault::changed(path.as_bytes(), found)));
        }
        if !is_folder {
            self.steps.push(Step::Item(Item { path, stamp, kind }));
            return Ok(Ok(()));
        }
        let opened = folder_at(fd, name);
        let below = match opened.and_then(|below| Ok((Names::read(&below)?, below))) {
            Ok(below) => below,
            Err(error) => return fault_or_error(self.tree, path.as_bytes(), error).map(Err),
        };
        let bytes = path.as_bytes().to_vec();
        self.steps.push(Step::Item(Item { path, stamp, kind }));
        self.enter(bytes, below.0, &below.1, open).map(Ok)
    }

    /// Goes through a small folder; leaves a larger one to others.
    fn enter(
        &mut self,
        path: Vec<u8>,
        names: Names,
        fd: &OwnedFd,
        open: usize,
    ) -> Result<(), PublishError> {
        let is_small = names.len() <= SMALL_FOLDER;
        if is_small && self.looks < LOOKS_MAX && open < OPEN_MAX {
            let range = 0..names.len();
            return self.look_at_names(&path, fd, &names, range, open + 1);
        }
        self.end_steps();
        self.done
            .push(if self.held.load(Ordering::Relaxed) < HELD_MAX {
                Piece::Rest(rest(path, names, self.held))
            } else {
                Piece::Later(path)
            });
        Ok(())
    }

    fn end_steps(&mut self) {
        if !self.steps.is_empty() {
            let steps = std::mem::take(&mut self.steps);
            self.done.push(Piece::Steps(steps));
        }
    }
}

/// A folder with its names, which count as held until it is dropped.
pub(super) fn rest(path: Vec<u8>, mut names: Names, held: &Arc<AtomicUsize>) -> Rest {
    names.bytes.shrink_to_fit();
    names.index.shrink_to_fit();
    held.fetch_add(names.len() + FOLDER_HELD, Ordering::Relaxed);
    let held = Arc::clone(held);
    Rest {
        folder: Arc::new(Folder { path, names, held }),
        next: 0,
    }
}
