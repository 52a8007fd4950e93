//! Changes one tree on the disk. Nothing is done twice: what is as it should be stays untouched, so a change that was
//! interrupted is made again from its start.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use mirrorlog_core::manifest::{Entry, FileEntry};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::ExportError;
use super::inodes::{Inode, Inodes, fits, mode_of, times};

const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
/// A name on the way to its place; no path of a manifest is called so.
const NEW: &str = "@new";
const SEARCH: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// One tree, open for changes.
pub(super) struct Editor<'a> {
    dir: PathBuf,
    top: OwnedFd,
    inodes: &'a Inodes,
    /// The folder that was changed last.
    folder: Option<(Vec<u8>, OwnedFd)>,
}

/// A folder and a name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

impl<'a> Editor<'a> {
    /// Opens the tree in `dir`, or begins one.
    pub(super) fn open(dir: &Path, inodes: &'a Inodes) -> Result<Self, ExportError> {
        std::fs::create_dir_all(dir).map_err(|e| ExportError::io("make", dir, e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open(dir, flags, Mode::empty());
        let top = top.map_err(|e| ExportError::io("open", dir, e))?;
        rustix::fs::fchmod(&top, FOLDER_MODE).map_err(|e| ExportError::io("open", dir, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            top,
            inodes,
            folder: None,
        })
    }

    fn fail(&self, what: &'static str, path: &[u8], error: impl Into<io::Error>) -> ExportError {
        use std::os::unix::ffi::OsStrExt as _;
        let path = self.dir.join(std::ffi::OsStr::from_bytes(path));
        ExportError::io(what, &path, error)
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
        let (folder, name) = split(path);
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
        match link(&inode, &self.top, NEW.as_bytes()) {
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
        let (_, name) = split(path);
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
        let (folder, name) = split(path);
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
        rustix::fs::symlinkat(target, &self.top, NEW).map_err(|e| self.fail("link", path, e))?;
        self.move_new(path)
    }

    /// Puts a text in its place: the one path that no manifest has.
    pub(super) fn put_text(&mut self, path: &[u8], text: &str) -> Result<(), ExportError> {
        let (folder, _) = split(path);
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
        let (mut folder, name) = split(path);
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
        // No folder on the way is a symlink: `enter` has seen to it.
        while !folder.is_empty() {
            match rustix::fs::unlinkat(&self.top, folder, AtFlags::REMOVEDIR) {
                Ok(()) => self.folder = None,
                Err(Errno::NOTEMPTY | Errno::EXIST) => break,
                Err(e) => return Err(self.fail("remove", folder, e)),
            }
            folder = split(folder).0;
        }
        Ok(())
    }

    /// The folder that was made or entered last; the top before that.
    fn folder(&self) -> &OwnedFd {
        self.folder.as_ref().map_or(&self.top, |(_, open)| open)
    }

    /// Makes a folder and all above it; what has their names and is none gives way.
    fn make_folder(&mut self, folder: &[u8]) -> Result<(), ExportError> {
        if self
            .enter(folder)
            .map_err(|e| self.fail("open", folder, e))?
        {
            return Ok(());
        }
        let ends = folder.iter().enumerate().filter(|(_, b)| **b == b'/');
        let ends: Vec<usize> = ends.map(|(at, _)| at).chain([folder.len()]).collect();
        for end in ends {
            let part = &folder[..end];
            let made = match rustix::fs::mkdirat(&self.top, part, FOLDER_MODE) {
                Err(Errno::EXIST) => {
                    let stat = rustix::fs::statat(&self.top, part, AtFlags::SYMLINK_NOFOLLOW);
                    let stat = stat.map_err(|e| self.fail("look at", part, e))?;
                    if FileType::from_raw_mode(stat.st_mode).is_dir() {
                        continue;
                    }
                    rustix::fs::unlinkat(&self.top, part, AtFlags::empty())
                        .and_then(|()| rustix::fs::mkdirat(&self.top, part, FOLDER_MODE))
                }
                made => made,
            };
            // Whatever the process's umask is: servers of other users read here.
            made.and_then(|()| rustix::fs::chmodat(&self.top, part, FOLDER_MODE, AtFlags::empty()))
                .map_err(|e| self.fail("make", part, e))?;
        }
        match self.enter(folder) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.fail("open", folder, Errno::NOENT)),
            Err(e) => Err(self.fail("open", folder, e)),
        }
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
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.top, folder, SEARCH, Mode::empty(), inside) {
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
        let file = rustix::fs::openat(&self.top, NEW, flags, Mode::from_raw_mode(0o644))?;
        Ok(File::from(file))
    }

    fn clear_new(&self, path: &[u8]) -> Result<(), ExportError> {
        match rustix::fs::unlinkat(&self.top, NEW, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.fail("replace", path, e)),
        }
    }

    /// Gives what is called new its place. A folder that is there belongs to the build before: all of it goes.
    fn move_new(&mut self, path: &[u8]) -> Result<(), ExportError> {
        let (folder, name) = split(path);
        let moved = rustix::fs::renameat(&self.top, NEW, self.folder(), name);
        let moved = match moved {
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                use std::os::unix::ffi::OsStrExt as _;
                let dir = self.dir.join(std::ffi::OsStr::from_bytes(path));
                std::fs::remove_dir_all(&dir).map_err(|e| self.fail("remove", path, e))?;
                self.folder = None;
                self.enter(folder)
                    .and_then(|_| rustix::fs::renameat(&self.top, NEW, self.folder(), name))
            }
            moved => moved,
        };
        moved.map_err(|e| self.fail("replace", path, e))
    }

    /// Makes all of it durable, with everything else on the file system.
    pub(super) fn sync(&self) -> Result<(), ExportError> {
        rustix::fs::syncfs(&self.top).map_err(|e| ExportError::io("sync", &self.dir, e))
    }
}

fn link(inode: &Inode, folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::linkat(CWD, &inode.path, folder, name, AtFlags::empty())
}
