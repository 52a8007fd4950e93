//! The files that trees link to: one for each content, mode and time.
//!
//! A hard link has the mode and the time of its file. The first entry with some content gives them to the blob in the
//! store itself, whose own nobody looks at; every other mode or time has a copy.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{FileEntry, Mode as EntryMode};
use runtime::store::Store;
use rustix::fs::{AtFlags, CWD, Mode, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::ExportError;

/// Where files are found that entries of trees are links to.
pub(super) struct Inodes {
    store: Store,
    copies: PathBuf,
    /// Whoever gives a blob its mode and time, or makes a copy.
    making: Mutex<()>,
}

/// A file to link to.
pub(super) struct Inode {
    pub(super) path: PathBuf,
    device: u64,
    number: u64,
}

impl Inode {
    fn new(path: PathBuf, stat: &Stat) -> Self {
        Self {
            path,
            device: stat.st_dev,
            number: stat.st_ino,
        }
    }

    /// True when that is a link to it.
    pub(super) fn is(&self, stat: &Stat) -> bool {
        (self.device, self.number) == (stat.st_dev, stat.st_ino)
    }
}

impl Inodes {
    /// Copies are kept in `copies`, on the file system of the store.
    pub(super) fn new(store: Store, copies: PathBuf) -> Result<Self, ExportError> {
        std::fs::create_dir_all(&copies).map_err(|e| ExportError::io("make", &copies, e))?;
        Ok(Self {
            store,
            copies,
            making: Mutex::new(()),
        })
    }

    /// The file with an entry's content, mode and time; made if there is none.
    pub(super) fn of(&self, file: &FileEntry) -> Result<Inode, ExportError> {
        let blob = self.store.path_of(&file.digest);
        let look = |path: &Path| match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(ExportError::io("look at", path, e)),
        };
        let absent = || ExportError::Absent(file.digest);
        let stat = look(&blob)?.ok_or_else(absent)?;
        if fits(&stat, file) {
            return Ok(Inode::new(blob, &stat));
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let stat = look(&blob)?.ok_or_else(absent)?;
        if fits(&stat, file) {
            return Ok(Inode::new(blob, &stat));
        }
        // Nothing links to it: no tree has it yet with another mode or time.
        if stat.st_nlink == 1 {
            dress(&blob, file).map_err(|e| ExportError::io("set mode and time of", &blob, e))?;
            return Ok(Inode::new(blob, &stat));
        }
        let name = format!(
            "{}-{:o}-{}",
            file.digest,
            mode_of(file).bits(),
            file.mtime.as_seconds()
        );
        let copy = self.copies.join(name);
        if let Some(stat) = look(&copy)?
            && fits(&stat, file)
        {
            return Ok(Inode::new(copy, &stat));
        }
        self.make_copy(&blob, &copy, file)
            .map_err(|e| ExportError::io("make", &copy, e))?;
        let stat = look(&copy)?.ok_or_else(absent)?;
        Ok(Inode::new(copy, &stat))
    }

    /// A copy is whole on the disk before it has its name.
    fn make_copy(&self, blob: &Path, copy: &Path, file: &FileEntry) -> io::Result<()> {
        let new = self.copies.join(".new");
        std::fs::copy(blob, &new)?;
        dress(&new, file)?;
        File::open(&new)?.sync_all()?;
        std::fs::rename(&new, copy)
    }

    /// Hashes the copies again, and removes those that no tree links to or whose bytes are wrong.
    /// Says how many were wrong: trees still link to them.
    pub(super) fn check_copies(&self) -> Result<u64, ExportError> {
        let fail = |e: io::Error| ExportError::io("look at", &self.copies, e);
        let mut wrong = 0;
        for item in std::fs::read_dir(&self.copies).map_err(fail)? {
            let path = item.map_err(fail)?.path();
            let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(digest) = digest_of(&path) else {
                continue;
            };
            use std::os::unix::fs::MetadataExt as _;
            let metadata = std::fs::symlink_metadata(&path).map_err(fail)?;
            let unused = metadata.nlink() == 1;
            let bad = !unused && !is_whole(&path, &digest);
            wrong += u64::from(bad);
            if unused || bad {
                std::fs::remove_file(&path).map_err(fail)?;
            }
        }
        Ok(wrong)
    }
}

/// What a copy's name says of its content.
fn digest_of(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?;
    name.split('-').next()?.parse().ok()
}

fn is_whole(path: &Path, digest: &Digest) -> bool {
    let hash = || runtime::store::hash(&File::open(path)?);
    hash().is_ok_and(|found| found == *digest)
}

pub(super) fn mode_of(file: &FileEntry) -> Mode {
    match file.mode {
        EntryMode::Plain => Mode::from_raw_mode(0o644),
        EntryMode::Executable => Mode::from_raw_mode(0o755),
    }
}

/// True when a file looks like an entry; its bytes are not looked at. Manifests have whole seconds; a tree that was
/// adopted has fractions, and a copy of all of it for their sake would help nobody.
pub(super) fn fits(stat: &Stat, file: &FileEntry) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()
        && Mode::from_raw_mode(stat.st_mode) == mode_of(file)
        && stat.st_mtime == file.mtime.as_seconds()
        && u64::try_from(stat.st_size).is_ok_and(|size| size == file.size_bytes)
}

/// Gives a file the mode and the time of an entry.
pub(super) fn dress(path: &Path, file: &FileEntry) -> io::Result<()> {
    rustix::fs::chmod(path, mode_of(file))?;
    rustix::fs::utimensat(CWD, path, &times(file), AtFlags::empty())?;
    Ok(())
}

/// The entry's time of change; the time of access stays.
pub(super) fn times(file: &FileEntry) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: file.mtime.as_seconds(),
            tv_nsec: 0,
        },
    }
}
