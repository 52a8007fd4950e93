//! Where a process keeps content on its way in: `tmp/<pid>-<number>/`, locked as long as it lives.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{BLOB_MODE, StoreError, lock, try_lock};

/// Made on first use, so that a reader needs no right to write.
#[derive(Debug)]
pub(super) struct Session {
    tmp: PathBuf,
    folder: Mutex<Option<Arc<TempFolder>>>,
}

/// A locked folder of temporary files.
#[derive(Debug)]
pub(super) struct TempFolder {
    path: PathBuf,
    folder: OwnedFd,
    next: AtomicU64,
}

/// A temporary file's name; the file is removed when this is dropped, unless it was moved away.
#[derive(Debug)]
pub(super) struct TempName {
    folder: Arc<TempFolder>,
    name: String,
    moved: bool,
}

impl Session {
    pub(super) fn new(store: &Path) -> Self {
        Self {
            tmp: store.join("tmp"),
            folder: Mutex::new(None),
        }
    }

    /// Makes an empty temporary file.
    pub(super) fn create(&self) -> Result<(File, TempName), StoreError> {
        let folder = self.folder()?;
        let name = folder.next.fetch_add(1, Ordering::Relaxed).to_string();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder.folder, &name, flags, BLOB_MODE);
        let file = file.map_err(|e| StoreError::io("make", &folder.path.join(&name), e))?;
        Ok((
            File::from(file),
            TempName {
                folder,
                name,
                moved: false,
            },
        ))
    }

    /// Makes a temporary second name for a file; `None` where the file system or its rules do not let us.
    pub(super) fn link(&self, source: &File) -> Result<Option<TempName>, StoreError> {
        use std::os::fd::AsRawFd as _;
        let folder = self.folder()?;
        let name = folder.next.fetch_add(1, Ordering::Relaxed).to_string();
        let opened = format!("/proc/self/fd/{}", source.as_raw_fd());
        let linked = rustix::fs::linkat(
            rustix::fs::CWD,
            &opened,
            &folder.folder,
            &name,
            AtFlags::SYMLINK_FOLLOW,
        );
        match linked {
            Ok(()) => Ok(Some(TempName {
                folder,
                name,
                moved: false,
            })),
            Err(
                Errno::XDEV
                | Errno::PERM
                | Errno::ACCESS
                | Errno::MLINK
                | Errno::NOENT
                | Errno::OPNOTSUPP,
            ) => Ok(None),
            Err(error) => Err(StoreError::io("make", &folder.path.join(&name), error)),
        }
    }

    fn folder(&self) -> Result<Arc<TempFolder>, StoreError> {
        let mut slot = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &*slot {
            return Ok(Arc::clone(folder));
        }
        let folder = Arc::new(TempFolder::make(&self.tmp)?);
        *slot = Some(Arc::clone(&folder));
        Ok(folder)
    }
}

impl TempFolder {
    /// Clears what dead processes left and makes a folder of our own, both under one lock: a folder
    /// that is made but not yet locked must not look dead to others.
    fn make(tmp: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(tmp).map_err(|e| StoreError::io("make", tmp, e))?;
        let guard = open_folder(tmp)?;
        lock(&guard, FlockOperation::LockExclusive).map_err(|e| StoreError::io("lock", tmp, e))?;
        clear_dead(tmp)?;
        let mut number = 0;
        let path = loop {
            let path = tmp.join(format!("{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => break path,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(StoreError::io("make", &path, e)),
            }
        };
        let folder = open_folder(&path)?;
        lock(&folder, FlockOperation::LockExclusive)
            .map_err(|e| StoreError::io("lock", &path, e))?;
        Ok(Self {
            path,
            folder,
            next: AtomicU64::new(0),
        })
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "temporary folder stays; the next process clears it");
        }
    }
}

impl TempName {
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }

    /// Gives the file its name in the store.
    pub(super) fn move_to(
        &mut self,
        folder: &OwnedFd,
        name: &str,
    ) -> Result<(), rustix::io::Errno> {
        rustix::fs::renameat(&self.folder.folder, &self.name, folder, name)?;
        self.moved = true;
        Ok(())
    }
}

impl Drop for TempName {
    fn drop(&mut self) {
        if self.moved {
            return;
        }
        if let Err(error) = rustix::fs::unlinkat(&self.folder.folder, &self.name, AtFlags::empty())
        {
            tracing::debug!(path = %self.path().display(), %error, "temporary file stays; the next process clears it");
        }
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| StoreError::io("open", path, e))
}

/// Removes the folders that nobody has locked. One that cannot be removed (another user's) only costs space.
fn clear_dead(tmp: &Path) -> Result<(), StoreError> {
    let listed = std::fs::read_dir(tmp).map_err(|e| StoreError::io("list", tmp, e))?;
    for item in listed {
        let path = item.map_err(|e| StoreError::io("list", tmp, e))?.path();
        let dead = match open_folder(&path) {
            Ok(folder) => {
                try_lock(&folder, FlockOperation::NonBlockingLockExclusive).unwrap_or(false)
            }
            Err(_) => false,
        };
        if dead && let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot clear a dead process's temporary folder");
        }
    }
    Ok(())
}
