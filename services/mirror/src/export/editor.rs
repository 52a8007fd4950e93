//! Changes one tree on the disk. Nothing is done twice: what is as it should be stays untouched, so a change that was
//! interrupted is made again from its start.
//!
//! A tree has symlinks that a build says, and servers and downstreams read it by its path. No symlink is followed here:
//! each step uses one name in a folder that was opened through none.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use mirrorlog_core::manifest::{Entry, FileEntry};
use runtime::beneath::{Content, Links, Top, remove_all, split};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::ExportError;
use super::inodes::{Inode, Inodes, fits, mode_of, times};

const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
/// A name on the way to its place; no path of a manifest is called so.
const NEW: &str = "@new";
/// Where a folder goes whose name a file gets; no path of a manifest is called so either.
const OLD: &str = "@old";

/// One tree, open for changes.
pub(super) struct Editor<'a> {
    top: Top,
    inodes: &'a Inodes,
    /// The folder that was changed last.
    folder: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Editor<'a> {
    /// Opens the tree in `dir`, or begins one.
    pub(super) fn open(dir: &Path, inodes: &'a Inodes) -> Result<Self, ExportError> {
        let top = Top::make(dir).map_err(|e| ExportError::io("make", dir, e))?;
        rustix::fs::fchmod(top.root(), FOLDER_MODE).map_err(|e| ExportError::io("open", dir, e))?;
        let editor = Self {
            top,
            inodes,
            folder: None,
        };
        // What an interrupted change left.
        editor.clear_old(b"")?;
        Ok(editor)
    }

    fn fail(&self, what: &'static str, path: &[u8], error: impl Into<io::Error>) -> ExportError {
        ExportError::io(what, &self.top.shown(path), error)
    }

    /// The folder and the name of a path.
    fn split<'p>(&self, path: &'p [u8]) -> Result<(&'p [u8], &'p [u8]), ExportError> {
        split(path).map_err(|e| self.fail("use", path, e))
    }

    /// Puts an entry in its place, whatever is there.
    pub(super) fn put(&mut self, path: &[u8], entry: &Entry) -> Result<(), ExportError> {
        match entry {
            Entry::File(file) => self.put_file(path, file),
            Entry::Symlink { target } => self.put_symlink(path, target),
        }
    }

    fn put_file(&mut self, path: &[u8], file: &FileEntry) -> Result<(), ExportError> {
        let inode = self.inodes.of(file)?;
        let (folder, name) = self.split(path)?;
        self.make_folder(folder)?;
        match link(&inode, self.folder(), name) {
            Ok(()) => return Ok(()),
            Err(Errno::MLINK) => return self.put_copy(path, file, &inode),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(self.fail("link", path, e)),
        }
        let there = self.look(name).map_err(|e| self.fail("look at", path, e))?;
        if there.as_ref().is_some_and(|there| inode.is(there)) {
            return Ok(());
        }
        self.clear_new(path)?;
        match link(&inode, self.top.root(), NEW.as_bytes()) {
            Ok(()) => self.move_new(path),
            Err(Errno::MLINK) => self.put_copy(path, file, &inode),
            Err(e) => Err(self.fail("link", path, e)),
        }
    }

    /// The content has as many names as the file system allows: a file of its own.
    fn put_copy(
        &mut self,
        path: &[u8],
        file: &FileEntry,
        inode: &Inode,
    ) -> Result<(), ExportError> {
        let (_, name) = self.split(path)?;
        let there = self.look(name).map_err(|e| self.fail("look at", path, e))?;
        if there.is_some_and(|there| fits(&there, file)) && self.has_content(name, file) {
            return Ok(());
        }
        self.clear_new(path)?;
        let copied = || -> io::Result<()> {
            let mut from = File::open(&inode.path)?;
            let mut to = self.create_new()?;
            io::copy(&mut from, &mut to)?;
            rustix::fs::fchmod(&to, mode_of(file))?;
            rustix::fs::futimens(&to, &times(file))?;
            Ok(())
        };
        copied().map_err(|e| self.fail("copy", path, e))?;
        self.move_new(path)
    }

    /// True when the bytes of a file of this tree alone are those of an entry.
    fn has_content(&self, name: &[u8], file: &FileEntry) -> bool {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = rustix::fs::openat(self.folder(), name, flags, Mode::empty());
        let digest = open.map_err(io::Error::from);
        let digest = digest.and_then(|open| runtime::store::hash(&File::from(open)));
        digest.is_ok_and(|digest| digest == file.digest)
    }

    fn put_symlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), ExportError> {
        let (folder, name) = self.split(path)?;
        self.make_folder(folder)?;
        match rustix::fs::symlinkat(target, self.folder(), name) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(self.fail("link", path, e)),
        }
        let there = rustix::fs::readlinkat(self.folder(), name, Vec::new());
        if there.is_ok_and(|there| there.as_bytes() == target) {
            return Ok(());
        }
        self.clear_new(path)?;
        rustix::fs::symlinkat(target, self.top.root(), NEW)
            .map_err(|e| self.fail("link", path, e))?;
        self.move_new(path)
    }

    /// Puts a text in its place: the one path that no manifest has.
    pub(super) fn put_text(&mut self, path: &[u8], text: &str) -> Result<(), ExportError> {
        let (folder, _) = self.split(path)?;
        self.make_folder(folder)?;
        self.clear_new(path)?;
        let written = || -> io::Result<()> {
            let mut file = self.create_new()?;
            file.write_all(text.as_bytes())?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
            Ok(())
        };
        written().map_err(|e| self.fail("write", path, e))?;
        self.move_new(path)
    }

    /// Removes what is at a path, and the folders that are empty then.
    pub(super) fn remove(&mut self, path: &[u8]) -> Result<(), ExportError> {
        let (mut folder, name) = self.split(path)?;
        if !self
            .enter(folder)
            .map_err(|e| self.fail("open", folder, e))?
        {
            return Ok(());
        }
        match rustix::fs::unlinkat(self.folder(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A folder has the name by now: what is in it was put there.
            Err(Errno::ISDIR) => return Ok(()),
            Err(e) => return Err(self.fail("remove", path, e)),
        }
        while !folder.is_empty() {
            let (above, name) = self.split(folder)?;
            let entered = self.enter(above);
            if !entered.map_err(|e| self.fail("open", above, e))? {
                break;
            }
            match rustix::fs::unlinkat(self.folder(), name, AtFlags::REMOVEDIR) {
                Ok(()) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => break,
                Err(e) => return Err(self.fail("remove", folder, e)),
            }
            folder = above;
        }
        Ok(())
    }

    /// The folder that was made or entered last; the top before that.
    fn folder(&self) -> &OwnedFd {
        self.folder
            .as_ref()
            .map_or(self.top.root(), |(_, open)| open)
    }

    /// Makes a folder and all above it; what has their names and is none gives way.
    fn make_folder(&mut self, folder: &[u8]) -> Result<(), ExportError> {
        if self
            .enter(folder)
            .map_err(|e| self.fail("open", folder, e))?
        {
            return Ok(());
        }
        let made = self.top.make_folder(folder, Content::Ours);
        let made = made.map_err(|e| self.fail("make", folder, e))?;
        self.folder = Some((folder.to_owned(), made));
        Ok(())
    }

    /// Opens a folder of the tree, through no symlink. False when there is none.
    fn enter(&mut self, folder: &[u8]) -> Result<bool, Errno> {
        if folder.is_empty() {
            self.folder = None;
            return Ok(true);
        }
        if self.folder.as_ref().is_some_and(|(last, _)| last == folder) {
            return Ok(true);
        }
        match self.top.folder(folder, Links::Refused) {
            Ok(open) => {
                self.folder = Some((folder.to_owned(), open));
                Ok(true)
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn look(&self, name: &[u8]) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(self.folder(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn create_new(&self) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.top.root(), NEW, flags, Mode::from_raw_mode(0o644))?;
        Ok(File::from(file))
    }

    fn clear_new(&self, path: &[u8]) -> Result<(), ExportError> {
        match rustix::fs::unlinkat(self.top.root(), NEW, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.fail("replace", path, e)),
        }
    }

    fn clear_old(&self, path: &[u8]) -> Result<(), ExportError> {
        remove_all(self.top.root(), OLD.as_bytes()).map_err(|e| self.fail("remove", path, e))
    }

    /// Gives what is called new its place. A folder that is there belongs to the build before: all of it goes.
    fn move_new(&mut self, path: &[u8]) -> Result<(), ExportError> {
        let (_, name) = self.split(path)?;
        let give = |to: &Self| rustix::fs::renameat(to.top.root(), NEW, to.folder(), name);
        match give(self) {
            Ok(()) => return Ok(()),
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {}
            Err(e) => return Err(self.fail("replace", path, e)),
        }
        rustix::fs::renameat(self.folder(), name, self.top.root(), OLD)
            .and_then(|()| give(self))
            .map_err(|e| self.fail("replace", path, e))?;
        self.clear_old(path)
    }

    /// Makes all of it durable, with everything else on the file system.
    pub(super) fn sync(&self) -> Result<(), ExportError> {
        rustix::fs::syncfs(self.top.root()).map_err(|e| ExportError::io("sync", self.top.path(), e))
    }
}

fn link(inode: &Inode, folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::linkat(CWD, &inode.path, folder, name, AtFlags::empty())
}
