//! A folder in which others choose the names: what is opened, made or removed there stays below it, whatever the names
//! are and whoever swaps files and folders for symlinks meanwhile.
//!
//! A name is looked up and used in one step: by `openat2` with everything forbidden that could leave the folder, or as
//! one component in a folder that is open already. Nothing that was checked is looked up a second time.
//!
//! Folders of our own (the store, `state`, the journal) need none of this: nobody else can write there, and all names in
//! them are digests, numbers and ids.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
const OWN_FOLDER_MODE: Mode = Mode::from_raw_mode(0o700);
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What becomes of symlinks on the way of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// None is followed.
    Refused,
    /// Those that stay below the folder are followed.
    Inside,
}

/// Whose content a folder has in which folders are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Ours: what stands where a folder is to be goes, and everybody can read new folders, whatever the umask is.
    Ours,
    /// Somebody's: what is in the way stays, and the umask holds.
    Theirs,
}

/// A folder that nothing leads out of.
#[derive(Debug)]
pub struct Top {
    root: OwnedFd,
    path: PathBuf,
}

impl Top {
    /// Opens a folder. Its own path is the operator's: symlinks in it are followed.
    ///
    /// # Errors
    /// When it is none, or cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            root,
            path: path.to_owned(),
        })
    }

    /// Opens a folder, which is made if there is none.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn make(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Self::open(path)
    }

    /// As it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder itself.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// What a path below it is called, for messages only.
    pub fn shown(&self, path: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(path))
    }

    /// Opens a path below. Older kernels and strict sandboxes lack `openat2`: component by component then, and without
    /// any symlink.
    ///
    /// # Errors
    /// Of the file system; `ELOOP`, `ENOTDIR` or `EXDEV` for what would lead out.
    pub fn open_at(&self, path: &[u8], flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let (flags, resolve) = match links {
            Links::Refused => (flags | OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS),
            Links::Inside => (flags, ResolveFlags::empty()),
        };
        let flags = flags | OFlags::CLOEXEC;
        let path = if path.is_empty() { b"." } else { path };
        match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), beneath | resolve) {
            Err(Errno::NOSYS | Errno::PERM) => self.open_by_component(path, flags),
            other => other,
        }
    }

    fn open_by_component(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at: Option<OwnedFd> = None;
        let (folder, name) = halves(path);
        for component in folder.split(|&b| b == b'/').filter(|c| !c.is_empty()) {
            at = Some(rustix::fs::openat(
                at.as_ref().unwrap_or(&self.root),
                one_name(component)?,
                step,
                Mode::empty(),
            )?);
        }
        let name = if path == b"." { name } else { one_name(name)? };
        let at = at.as_ref().unwrap_or(&self.root);
        rustix::fs::openat(at, name, flags | OFlags::NOFOLLOW, Mode::empty())
    }

    /// Opens a folder below for looking into; empty: the folder itself.
    ///
    /// # Errors
    /// As [`open_at`](Self::open_at).
    pub fn folder(&self, path: &[u8], links: Links) -> Result<OwnedFd, Errno> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, links)
    }

    /// Opens a file below for reading, and says what it is.
    ///
    /// # Errors
    /// As [`open_at`](Self::open_at); `EINVAL` for a device, a pipe and whatever else is no file.
    pub fn file(&self, path: &[u8], links: Links) -> Result<(File, Stat), Errno> {
        // Not blocking: a pipe must hang nobody.
        let file = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, links)?;
        regular(file)
    }

    /// Opens a folder below, made with all that are above it where they lack.
    ///
    /// # Errors
    /// As [`open_at`](Self::open_at); `ENOTDIR` or `ELOOP` where something else is in the way and stays.
    pub fn make_folder(&self, path: &[u8], content: Content) -> Result<OwnedFd, Errno> {
        match self.folder(path, Links::Refused) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            opened => return opened,
        }
        let mut at: Option<OwnedFd> = None;
        for component in path.split(|&b| b == b'/') {
            let above = at.as_ref().unwrap_or(&self.root);
            at = Some(make_one(above, one_name(component)?, content)?);
        }
        at.ok_or(Errno::INVAL)
    }

    /// The place of a file below. Folders above it are opened, or made and opened.
    ///
    /// # Errors
    /// As [`make_folder`](Self::make_folder); `EINVAL` for a path that does not end in a name.
    pub fn place(&self, path: &[u8], folders: Folders) -> Result<Place, Errno> {
        let (folder, name) = split(path)?;
        let open = match folders {
            Folders::There => self.folder(folder, Links::Refused)?,
            Folders::Made => self.make_folder(folder, Content::Theirs)?,
        };
        Ok(Place {
            folder: Arc::new(open),
            name: name.into(),
            path: self.shown(path),
        })
    }
}

/// Whether the folders above a place have to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folders {
    /// They are there.
    There,
    /// They are made where they lack.
    Made,
}

/// A name in an open folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Place {
    folder: Arc<OwnedFd>,
    name: Box<[u8]>,
    path: PathBuf,
}

impl Place {
    /// The place of a file by its path, whose folder somebody we trust chose.
    ///
    /// # Errors
    /// When the folder cannot be opened; `EINVAL` for a path that does not end in a name.
    pub fn of(path: &Path) -> Result<Self, Errno> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        let name = path.file_name().ok_or(Errno::INVAL)?.as_bytes();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            folder: Arc::new(rustix::fs::open(folder, flags, Mode::empty())?),
            name: one_name(name)?.into(),
            path: path.to_owned(),
        })
    }

    /// Another name in the same folder.
    ///
    /// # Errors
    /// `EINVAL` for what is no name.
    pub fn beside(&self, name: &[u8]) -> Result<Self, Errno> {
        Ok(Self {
            folder: Arc::clone(&self.folder),
            name: one_name(name)?.into(),
            path: self.path.with_file_name(OsStr::from_bytes(name)),
        })
    }

    /// What it is called, for messages only.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// What is there, no symlink followed; none: nothing.
    ///
    /// # Errors
    /// Of the file system.
    pub fn look(&self) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(&self.folder, &*self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the file that is there, no symlink followed. `flags` say what for.
    ///
    /// # Errors
    /// Of the file system; `EINVAL` for what is no file.
    pub fn open(&self, flags: OFlags) -> Result<(File, Stat), Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        regular(rustix::fs::openat(
            &self.folder,
            &*self.name,
            flags,
            FILE_MODE,
        )?)
    }

    /// Makes a file for reading and writing where nothing is.
    ///
    /// # Errors
    /// Of the file system; `EEXIST`.
    pub fn create_new(&self) -> Result<File, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        self.open(flags).map(|(file, _)| file)
    }

    /// Gives what is here another name in this folder, in the place of what has it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn rename(&self, to: &Self) -> Result<(), Errno> {
        rustix::fs::renameat(&self.folder, &*self.name, &to.folder, &*to.name)
    }

    /// Opens the folder that is here. What is none, or is not this user's own, gives way to a new one.
    ///
    /// # Errors
    /// Of the file system.
    pub fn own_folder(&self) -> Result<OwnedFd, Errno> {
        let open = || rustix::fs::openat(&self.folder, &*self.name, FOLDER, Mode::empty());
        if let Ok(there) = open()
            && rustix::fs::fstat(&there)?.st_uid == rustix::process::geteuid().as_raw()
        {
            return Ok(there);
        }
        self.remove_all()?;
        rustix::fs::mkdirat(&self.folder, &*self.name, OWN_FOLDER_MODE)?;
        open()
    }

    /// Removes what is here, with all that is below it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn remove_all(&self) -> Result<(), Errno> {
        remove_all(&self.folder, &self.name)
    }

    /// The folder, by a path that leads to it whatever others rename: for what takes paths only.
    pub fn anchor(&self) -> PathBuf {
        anchor(&self.folder)
    }

    /// Removes the file or symlink that is here, if any.
    ///
    /// # Errors
    /// Of the file system.
    pub fn remove(&self) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.folder, &*self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The folder and the name of a path.
///
/// # Errors
/// `EINVAL` for a path that does not end in a name.
pub fn split(path: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    match halves(path) {
        _ if path.first() == Some(&b'/') => Err(Errno::INVAL),
        (folder, name) => Ok((folder, one_name(name)?)),
    }
}

/// Removes what is at a name of an open folder, with all that is below it. No symlink is followed.
///
/// # Errors
/// Of the file system; `EINVAL` for what is no name.
pub fn remove_all(folder: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let name = one_name(name)?;
    match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let below = rustix::fs::openat(&folder, name, FOLDER, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&below)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            inner => remove_all(&below, inner)?,
        }
    }
    match rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a folder in an open one, made if there is none.
fn make_one(above: &OwnedFd, name: &[u8], content: Content) -> Result<OwnedFd, Errno> {
    let made = match rustix::fs::mkdirat(above, name, FOLDER_MODE) {
        Err(Errno::EXIST) => match rustix::fs::openat(above, name, FOLDER, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) if content == Content::Ours => {
                rustix::fs::unlinkat(above, name, AtFlags::empty())?;
                rustix::fs::mkdirat(above, name, FOLDER_MODE)
            }
            opened => return opened,
        },
        made => made,
    };
    made?;
    let open = rustix::fs::openat(above, name, FOLDER, Mode::empty())?;
    match content {
        Content::Ours => rustix::fs::fchmod(&open, FOLDER_MODE)?,
        Content::Theirs => {}
    }
    Ok(open)
}

/// A path that leads to an open folder, as long as it is open.
pub fn anchor(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// The error of a call of this module, which says more than "not a directory" about what would lead out.
pub fn explained(error: Errno) -> io::Error {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => {
            let kind = io::Error::from(error).kind();
            let text = "a symlink or a file stands where a folder has to be, and no symlink is followed there: \
                        remove it, or choose another folder";
            io::Error::new(kind, text)
        }
        other => other.into(),
    }
}

/// One component, which leads nowhere else.
fn one_name(name: &[u8]) -> Result<&[u8], Errno> {
    match name {
        b"" | b"." | b".." => Err(Errno::INVAL),
        name if name.contains(&b'/') => Err(Errno::INVAL),
        name => Ok(name),
    }
}

fn halves(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn regular(file: OwnedFd) -> Result<(File, Stat), Errno> {
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode).is_file() {
        true => Ok((File::from(file), stat)),
        false => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests;
