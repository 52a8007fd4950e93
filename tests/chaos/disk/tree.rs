//! A tree of inodes, and the changes that are made to it. The same change is made to what a process sees at once, and to
//! what is on the disk when it is synced.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// An inode's number; never used again.
pub(super) type Ino = u64;

/// The top folder.
pub(super) const ROOT: Ino = 1;

/// What an inode is.
#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Arc<Vec<u8>>),
    Folder(BTreeMap<OsString, Ino>),
    Symlink(PathBuf),
    Socket,
}

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) body: Body,
    /// Permission bits.
    pub(super) mode: u16,
    /// Names that lead to it.
    pub(super) links: u32,
    pub(super) mtime: SystemTime,
    pub(super) ctime: SystemTime,
}

impl Inode {
    pub(super) fn new(body: Body, mode: u16) -> Self {
        let now = SystemTime::now();
        Self {
            body,
            mode,
            links: 0,
            mtime: now,
            ctime: now,
        }
    }

    pub(super) fn is_folder(&self) -> bool {
        matches!(self.body, Body::Folder(_))
    }
}

/// A change that is not durable by itself.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Write {
        ino: Ino,
        offset: u64,
        bytes: Arc<Vec<u8>>,
    },
    Resize {
        ino: Ino,
        size: u64,
    },
    Attributes {
        ino: Ino,
        mode: Option<u16>,
        mtime: Option<SystemTime>,
    },
    /// A new name: of a file that was made or linked, of a folder, of a symlink.
    Name {
        folder: Ino,
        name: OsString,
        ino: Ino,
    },
    Unname {
        folder: Ino,
        name: OsString,
    },
    Rename {
        from: (Ino, OsString),
        to: (Ino, OsString),
        exchange: bool,
    },
}

impl Op {
    /// The files and folders whose order of changes it is part of.
    pub(super) fn objects(&self) -> [Ino; 2] {
        match self {
            Self::Write { ino, .. } | Self::Resize { ino, .. } | Self::Attributes { ino, .. } => {
                [*ino; 2]
            }
            Self::Name { folder, .. } | Self::Unname { folder, .. } => [*folder; 2],
            Self::Rename { from, to, .. } => [from.0, to.0],
        }
    }

    /// Whether it changes what is in a file, not names or attributes.
    pub(super) fn is_data(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Resize { .. })
    }
}

/// Inodes by number. Some may have no name (yet, or any more): an open file outlives its names.
#[derive(Clone, Debug)]
pub(super) struct Tree(BTreeMap<Ino, Inode>);

impl Tree {
    pub(super) fn empty() -> Self {
        let root = Inode::new(Body::Folder(BTreeMap::new()), 0o755);
        Self(BTreeMap::from([(ROOT, root)]))
    }

    pub(super) fn get(&self, ino: Ino) -> Option<&Inode> {
        self.0.get(&ino)
    }

    /// A file's bytes.
    pub(super) fn bytes(&self, ino: Ino) -> Option<&[u8]> {
        match &self.get(ino)?.body {
            Body::File(bytes) => Some(bytes),
            Body::Folder(_) | Body::Symlink(_) | Body::Socket => None,
        }
    }

    pub(super) fn entries(&self, folder: Ino) -> Option<&BTreeMap<OsString, Ino>> {
        match &self.get(folder)?.body {
            Body::Folder(entries) => Some(entries),
            Body::File(_) | Body::Symlink(_) | Body::Socket => None,
        }
    }

    pub(super) fn find(&self, folder: Ino, name: &OsStr) -> Option<Ino> {
        self.entries(folder)?.get(name).copied()
    }

    /// The highest number in use.
    pub(super) fn last(&self) -> Ino {
        self.0.last_key_value().map_or(ROOT, |(ino, _)| *ino)
    }

    /// Takes an inode in that has no name yet.
    pub(super) fn insert(&mut self, ino: Ino, inode: Inode) {
        self.0.insert(ino, inode);
    }

    /// Makes a change. What it needs may be missing on a disk that lost something: then it changes what is there.
    pub(super) fn apply(&mut self, op: &Op, at: SystemTime) {
        match op {
            Op::Write { ino, offset, bytes } => self.edit(*ino, at, |file| {
                let begin = *offset as usize;
                let end = begin + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[begin..end].copy_from_slice(bytes);
            }),
            Op::Resize { ino, size } => self.edit(*ino, at, |file| file.resize(*size as usize, 0)),
            Op::Attributes { ino, mode, mtime } => {
                if let Some(inode) = self.0.get_mut(ino) {
                    inode.mode = mode.unwrap_or(inode.mode);
                    inode.mtime = mtime.unwrap_or(inode.mtime);
                    inode.ctime = at;
                }
            }
            Op::Name { folder, name, ino } => self.place(*folder, name, Some(*ino), at),
            Op::Unname { folder, name } => self.place(*folder, name, None, at),
            Op::Rename { from, to, exchange } => {
                let moved = self.find(from.0, &from.1);
                let replaced = self.find(to.0, &to.1);
                // It goes away under the old name first: links are never counted twice.
                self.place(from.0, &from.1, None, at);
                self.place(to.0, &to.1, moved, at);
                if *exchange {
                    self.place(from.0, &from.1, replaced, at);
                }
            }
        }
    }

    fn edit(&mut self, ino: Ino, at: SystemTime, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(inode) = self.0.get_mut(&ino) {
            (inode.mtime, inode.ctime) = (at, at);
            if let Body::File(bytes) = &mut inode.body {
                change(Arc::make_mut(bytes));
            }
        }
    }

    /// Lets a name lead to an inode, or to none.
    fn place(&mut self, folder: Ino, name: &OsStr, ino: Option<Ino>, at: SystemTime) {
        let Some(inode) = self.0.get_mut(&folder) else {
            return;
        };
        (inode.mtime, inode.ctime) = (at, at);
        let Body::Folder(entries) = &mut inode.body else {
            return;
        };
        let before = match ino {
            Some(ino) => entries.insert(name.to_owned(), ino),
            None => entries.remove(name),
        };
        if let Some(before) = before.and_then(|before| self.0.get_mut(&before)) {
            before.links = before.links.saturating_sub(1);
            before.ctime = at;
        }
        if let Some(inode) = ino.and_then(|ino| self.0.get_mut(&ino)) {
            inode.links += 1;
            inode.ctime = at;
        }
    }

    /// Drops the inodes that no name leads to: nobody has them open any more.
    pub(super) fn sweep(&mut self) {
        let (mut found, mut folders) = (BTreeSet::from([ROOT]), vec![ROOT]);
        while let Some(folder) = folders.pop() {
            let below: Vec<Ino> = self
                .entries(folder)
                .into_iter()
                .flat_map(|entries| entries.values().copied())
                .collect();
            for ino in below {
                if found.insert(ino) && self.entries(ino).is_some() {
                    folders.push(ino);
                }
            }
        }
        self.0.retain(|ino, _| found.contains(ino));
    }

    /// For people.
    pub(super) fn path(&self, folder: Ino, name: &OsStr) -> String {
        format!("{}/{}", self.name_of(folder), name.to_string_lossy())
    }

    /// For people: some path of it.
    pub(super) fn name_of(&self, ino: Ino) -> String {
        let mut folders: Vec<(Ino, String)> = vec![(ROOT, String::new())];
        while let Some((folder, path)) = folders.pop() {
            if folder == ino {
                return path;
            }
            for (name, below) in self.entries(folder).into_iter().flatten() {
                let path = format!("{path}/{}", name.to_string_lossy());
                if *below == ino {
                    return path;
                }
                if self.entries(*below).is_some() {
                    folders.push((*below, path));
                }
            }
        }
        format!("#{ino}")
    }
}
