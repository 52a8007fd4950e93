//! A tree on disk, opened so that no symlink leads out of it.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use mirrorlog_core::manifest::Mode;
use runtime::beneath::{Links, Top};
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

/// What stat says of a name, as far as it tells that content is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) size_bytes: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
    pub(crate) inode: u64,
    pub(crate) device: u64,
}

impl Stamp {
    /// True when a file of this stamp has the content that it had. Giving an immutable file a second
    /// name changes its ctime, so that does not count for it.
    pub(crate) fn is_same(&self, then: &Self, immutable: bool) -> bool {
        let ctime_ns = if immutable {
            then.ctime_ns
        } else {
            self.ctime_ns
        };
        Self { ctime_ns, ..*self } == *then
    }
}

/// What is at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File(Mode),
    Folder,
    Symlink(Box<[u8]>),
    Special(&'static str),
}

/// A folder whose content is to be published.
#[derive(Debug)]
pub(crate) struct Tree {
    top: Top,
    path: PathBuf,
}

impl Tree {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            top: Top::open(path)?,
            path: path.canonicalize()?,
        })
    }

    /// The tree's own path, without symlinks.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a folder; empty: the tree's top.
    pub(crate) fn folder(&self, path: &[u8]) -> io::Result<OwnedFd> {
        Ok(self.top.folder(path, Links::Refused)?)
    }

    /// Opens a file for reading, and says what it is now.
    pub(crate) fn file(&self, path: &[u8]) -> io::Result<(File, Stamp)> {
        // Not blocking: a pipe that was put there since must not hang the scan.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = self.top.open_at(path, flags, Links::Refused)?;
        let stamp = stamp(&rustix::fs::fstat(&file)?);
        Ok((File::from(file), stamp))
    }

    /// Stats one path without following a symlink at its end.
    pub(crate) fn look(&self, path: &[u8]) -> io::Result<(Stamp, Kind)> {
        let (folder, name) = split(path);
        let folder = self.folder(folder)?;
        look_at(&folder, name)
    }

    /// True when a symlink is on the way of a path, where none is followed.
    pub(crate) fn is_through_link(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        slashes
            .map(|(at, _)| self.look(&path[..at]))
            .any(|found| matches!(found, Ok((_, Kind::Symlink(_)))))
    }

    /// Looks at the tree's top itself.
    pub(crate) fn look_at_top(&self) -> io::Result<Stamp> {
        Ok(stamp(&rustix::fs::fstat(self.top.root())?))
    }
}

/// Opens a folder by its name in an open one. One name that is no link cannot lead out.
pub(crate) fn folder_at(folder: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::empty();
    Ok(rustix::fs::openat(folder, name, flags, mode)?)
}

/// Stats a name in an open folder.
pub(crate) fn look_at(folder: impl AsFd, name: &[u8]) -> io::Result<(Stamp, Kind)> {
    let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File(Mode::from_bits(stat.st_mode)),
        FileType::Directory => Kind::Folder,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&folder, name, Vec::new());
            // It was a symlink, and something else has the name by now.
            let target = target.map_err(|error| match error {
                Errno::INVAL => Errno::NOENT,
                other => other,
            })?;
            Kind::Symlink(CStr::to_bytes(&target).into())
        }
        FileType::Fifo => Kind::Special("a pipe"),
        FileType::Socket => Kind::Special("a socket"),
        FileType::CharacterDevice => Kind::Special("a character device"),
        FileType::BlockDevice => Kind::Special("a block device"),
        _unknown => Kind::Special("something unknown"),
    };
    Ok((stamp(&stat), kind))
}

/// The folder and the name of a path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// True for errors that a tree which changes under the reader gives.
pub(crate) fn means_changed(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        // The last two: it was moved out of the tree while it was looked up.
        Some(
            Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::ISDIR
                | Errno::NXIO
                | Errno::XDEV
                | Errno::AGAIN
        )
    )
}

fn stamp(stat: &Stat) -> Stamp {
    let ns = |seconds: i64, ns: u64| {
        let ns = i64::try_from(ns).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(ns)
    };
    Stamp {
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
        inode: stat.st_ino,
        device: stat.st_dev,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn symlinks_never_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("in", dir.path().join("same")).unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        assert!(tree.file(b"in/file").is_ok());
        for path in [&b"out/passwd"[..], b"same/file", b"../x", b"/etc/passwd"] {
            assert!(tree.file(path).is_err());
        }
        let top = tree.folder(b"").unwrap();
        assert!(folder_at(&top, b"in").is_ok());
        for link in [&b"out"[..], b"same"] {
            assert!(means_changed(&folder_at(&top, link).unwrap_err()));
        }
        assert!(matches!(tree.look(b"out").unwrap().1, Kind::Symlink(t) if &*t == b"/etc"));
    }
}
