//! Walks a tree in byte order of full path, reading ahead in parallel, in bounded memory.
//!
//! Folders come at `path + "/"` in that order, before what is in them.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use mirrorlog_core::path::EntryPath;
use rayon::prelude::*;
use rustix::fs::{Dir, FileType, RawDir};

use super::tree::{Kind, Stamp, Tree, look_at, means_changed};
use crate::publish::{Fault, PublishError, Rule};

/// Names looked at in one go.
const CHUNK: usize = 512;
/// A folder ahead with at most this many names is looked at whole; a larger one when its turn comes.
const SMALL_FOLDER: usize = 128;

/// Room for the names of a usual folder, in bytes.
const NAMES_BYTES: usize = 512;
/// Buffer for a folder's names, in bytes.
const LIST_BYTES: usize = 16 * 1024;

/// A name in the tree.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) path: EntryPath,
    pub(crate) stamp: Stamp,
    pub(crate) kind: Kind,
}

impl Item {
    /// What it is ordered by: folders end in a slash.
    pub(crate) fn key(&self) -> Vec<u8> {
        let slash: &[u8] = match self.kind {
            Kind::Folder => b"/",
            Kind::File(_) | Kind::Symlink(_) | Kind::Special(_) => b"",
        };
        [self.path.as_bytes(), slash].concat()
    }
}

/// What a walk finds.
pub(crate) enum Step {
    Item(Item),
    /// A name that cannot be published; the walk goes on after it.
    Fault(Fault),
}

/// An ordered walk.
pub(crate) struct Walk<'a> {
    tree: &'a Tree,
    stack: Vec<Frame>,
}

impl<'a> Walk<'a> {
    /// Walks everything below the tree's top.
    pub(crate) fn new(tree: &'a Tree) -> Result<Self, PublishError> {
        Self::below(tree, b"")
    }

    /// Walks everything below one folder; the folder itself does not come.
    pub(crate) fn below(tree: &'a Tree, folder: &[u8]) -> Result<Self, PublishError> {
        let frame = Frame::read(tree, folder.to_vec());
        let (frame, _fd) = frame.map_err(|e| read_error(tree, folder, e))?;
        Ok(Self {
            tree,
            stack: vec![frame],
        })
    }

    /// Paths of the symlinks directly in a folder; none when there is no such folder.
    pub(crate) fn links_in(tree: &Tree, folder: &[u8]) -> Result<Vec<Vec<u8>>, PublishError> {
        let list = || -> io::Result<Vec<Vec<u8>>> {
            let fd = tree.folder(folder)?;
            let mut links = Vec::new();
            for entry in Dir::read_from(&fd)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if matches!(look_at(&fd, name)?.1, Kind::Symlink(_)) {
                    links.push([folder, b"/", name].concat());
                }
            }
            Ok(links)
        };
        match list() {
            Ok(links) => Ok(links),
            Err(error) => fault_or_error(tree, folder, error).map(|_fault| Vec::new()),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Step, PublishError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let frame = self.stack.last_mut()?;
            if frame.ready.is_empty()
                && frame.next < frame.names.index.len()
                && let Err(error) = frame.fill_parallel(self.tree)
            {
                return Some(Err(error));
            }
            match frame.ready.pop_front() {
                None => {
                    self.stack.pop();
                }
                Some(Ready::Fault(fault)) => return Some(Ok(Step::Fault(fault))),
                Some(Ready::Leaf(item)) => return Some(Ok(Step::Item(item))),
                Some(Ready::Folder(item, below)) => {
                    self.stack.push(below);
                    return Some(Ok(Step::Item(item)));
                }
            }
        }
    }
}

/// Names of one folder, in one allocation.
struct Names {
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
    fn get(&self, name: Name) -> &[u8] {
        let start = name.start as usize;
        &self.bytes[start..start + usize::from(name.len)]
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
}

/// One folder on the way down.
struct Frame {
    folder: Vec<u8>,
    names: Names,
    next: usize,
    ready: VecDeque<Ready>,
}

enum Ready {
    Leaf(Item),
    Folder(Item, Frame),
    Fault(Fault),
}

impl Frame {
    /// Reads a folder's names; the folder is still open then.
    fn read(tree: &Tree, folder: Vec<u8>) -> io::Result<(Self, OwnedFd)> {
        let fd = tree.folder(&folder)?;
        let mut names = Names {
            bytes: Vec::with_capacity(NAMES_BYTES),
            index: Vec::with_capacity(NAMES_BYTES / 32),
        };
        let mut buffer = [MaybeUninit::uninit(); LIST_BYTES];
        let mut listed = RawDir::new(&fd, &mut buffer);
        while let Some(entry) = listed.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let folder = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => look_at(&fd, name)?.1 == Kind::Folder,
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
        let frame = Self {
            folder,
            names,
            next: 0,
            ready: VecDeque::new(),
        };
        Ok((frame, fd))
    }

    /// Looks at the next names, and at what is in the small folders among them.
    fn fill_parallel(&mut self, tree: &Tree) -> Result<(), PublishError> {
        let fd = match tree.folder(&self.folder) {
            Ok(fd) => fd,
            Err(error) => return self.give_up(tree, error),
        };
        let end = self.names.index.len().min(self.next + CHUNK);
        let chunk = &self.names.index[self.next..end];
        let one = |name: &Name| self.look(tree, &fd, *name, true);
        let ready: Result<Vec<Ready>, PublishError> = if chunk.len() == 1 {
            chunk.iter().map(one).collect()
        } else {
            chunk.par_iter().map(one).collect()
        };
        self.ready = ready?.into();
        self.next = end;
        Ok(())
    }

    /// Looks at all names of a small folder, in this thread.
    fn fill_small(&mut self, tree: &Tree, fd: &OwnedFd) -> Result<(), PublishError> {
        if self.names.index.len() > SMALL_FOLDER {
            return Ok(());
        }
        let ready: Result<VecDeque<Ready>, PublishError> = self
            .names
            .index
            .iter()
            .map(|name| self.look(tree, fd, *name, false))
            .collect();
        self.ready = ready?;
        self.next = self.names.index.len();
        Ok(())
    }

    fn look(
        &self,
        tree: &Tree,
        fd: &OwnedFd,
        name: Name,
        ahead: bool,
    ) -> Result<Ready, PublishError> {
        let bytes = self.names.get(name);
        let slash: &[u8] = if self.folder.is_empty() { b"" } else { b"/" };
        let path = match EntryPath::from_vec([&self.folder, slash, bytes].concat()) {
            Ok(path) => path,
            Err((e, path)) => {
                let fault = Fault::new(
                    &path,
                    Rule::Path,
                    "a path that a manifest can hold",
                    e.to_string(),
                );
                return Ok(Ready::Fault(fault));
            }
        };
        let (stamp, kind) = match look_at(fd, bytes) {
            Ok(found) => found,
            Err(error) => return fault_or_error(tree, path.as_bytes(), error).map(Ready::Fault),
        };
        if (kind == Kind::Folder) != name.folder {
            return Ok(Ready::Fault(Fault::changed(
                path.as_bytes(),
                "another kind of file",
            )));
        }
        if !name.folder {
            return Ok(Ready::Leaf(Item { path, stamp, kind }));
        }
        let (mut below, fd) = match Self::read(tree, path.as_bytes().to_vec()) {
            Ok(below) => below,
            Err(error) => return fault_or_error(tree, path.as_bytes(), error).map(Ready::Fault),
        };
        if ahead {
            below.fill_small(tree, &fd)?;
        }
        Ok(Ready::Folder(Item { path, stamp, kind }, below))
    }

    fn give_up(&mut self, tree: &Tree, error: io::Error) -> Result<(), PublishError> {
        let fault = fault_or_error(tree, &self.folder, error)?;
        self.ready = VecDeque::from([Ready::Fault(fault)]);
        self.next = self.names.index.len();
        Ok(())
    }
}

/// Sorts an error at a path: the tree's fault, or an error of the disk.
pub(crate) fn fault_or_error(
    tree: &Tree,
    path: &[u8],
    error: io::Error,
) -> Result<Fault, PublishError> {
    if means_changed(&error) {
        return Ok(Fault::changed(path, error.to_string()));
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Ok(Fault::new(
            path,
            Rule::Unreadable,
            "something this user may read",
            "permission denied",
        ));
    }
    Err(read_error(tree, path, error))
}

fn read_error(tree: &Tree, path: &[u8], error: io::Error) -> PublishError {
    use std::os::unix::ffi::OsStrExt as _;
    let path = tree.path().join(std::ffi::OsStr::from_bytes(path));
    PublishError::io(&path, "read", error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn walk(root: &std::path::Path) -> Vec<Vec<u8>> {
        let tree = Tree::open(root).unwrap();
        Walk::new(&tree)
            .unwrap()
            .map(|step| match step.unwrap() {
                Step::Item(item) => item.key(),
                Step::Fault(fault) => panic!("{fault}"),
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn walk_is_in_byte_order_and_complete(
            paths in proptest::collection::btree_set("[a.0-]{1,3}(/[a.0-]{1,2}){0,3}", 1..40)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut made = Vec::new();
            for path in paths {
                if path.split('/').any(|c| c == "." || c == "..") { continue; }
                let full = dir.path().join(&path);
                // A name that is a file already cannot be a folder too: such paths are left out.
                if std::fs::create_dir_all(full.parent().unwrap()).is_ok() && !full.exists() {
                    std::fs::write(&full, "x").unwrap();
                    made.push(path.into_bytes());
                }
            }
            let keys = walk(dir.path());
            prop_assert!(keys.is_sorted());
            let mut files: Vec<_> = keys.into_iter().filter(|k| !k.ends_with(b"/")).collect();
            files.sort();
            made.sort();
            prop_assert_eq!(files, made);
        }
    }

    #[test]
    fn large_folders_are_walked_in_chunks() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("big")).unwrap();
        for n in 0..CHUNK * 2 + 3 {
            std::fs::write(dir.path().join(format!("big/{n}")), "").unwrap();
        }
        let keys = walk(dir.path());
        assert_eq!(keys.len(), CHUNK * 2 + 4);
        assert!(keys.is_sorted());
    }

    #[test]
    fn reserved_names_are_faults() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("@")).unwrap();
        std::fs::write(dir.path().join("@/x"), "").unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let steps: Vec<_> = Walk::new(&tree).unwrap().map(Result::unwrap).collect();
        assert!(matches!(
            &steps[..],
            [Step::Fault(Fault {
                what: Rule::Path,
                ..
            })]
        ));
    }
}
