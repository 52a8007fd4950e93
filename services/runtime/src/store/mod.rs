//! The store: pages and blobs as files named by their SHA-256, `store/ab/cdef…`.
//!
//! ```text
//! store/ab/cdef…      content, never changed once it has this name
//! store/tmp/<pid>-…/  content on its way in, one locked folder a process; a dead one's is cleared
//! store/partial/<hex> content that arrives in pieces, kept over restarts
//! store/lost/<hex>    content that was found corrupt
//! store/gc.lock       shared: content is being added; exclusive: a sweep
//! ```
//! Several processes may use one store at once. A name exists only for whole content, and content
//! is on the disk before its name is (see [`Batch::commit`]), so a crash leaves no half blob.
//!
//! All calls block, but for those that say so: run them on blocking threads.

mod batch;
mod committer;
mod draft;
mod error;
mod filter;
mod hasher;
mod marks;
mod names;
mod pages;
mod partial;
mod session;
#[cfg(test)]
mod tests;
mod walk;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mirrorlog_core::id::Digest;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, ReadWriteFlags};
use sha2::{Digest as _, Sha256};

pub use batch::{Batch, Ingested};
pub use committer::Committer;
pub use draft::{Draft, Drafted, Recalled};
pub use error::StoreError;
pub use filter::{Filter, Named};
pub use marks::{Keep, MarkError};
pub use names::Names;
pub use pages::{InMemory, NotInMemory, Pages};
pub use partial::{Finished, Partial};

use batch::Arriving;
use session::Session;

/// Buffer for reading and hashing, in bytes; files up to this size are handled in memory, in few calls.
const BUFFER_BYTES: usize = 256 * 1024;
/// Large files are written to the disk in pieces of this size while they come.
const WRITE_AHEAD_BYTES: u64 = 8 * 1024 * 1024;
/// Permission bits of blobs: they are public, and export trees link them.
const BLOB_MODE: Mode = Mode::from_raw_mode(0o644);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);

/// A content-addressed folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    folder: OwnedFd,
    session: Session,
    /// False once the file system said that it cannot share extents.
    reflinks: AtomicBool,
    /// What the batches of this process hold.
    arriving: Mutex<Vec<Weak<Arriving>>>,
}

impl Store {
    /// Opens the store in `dir`, or makes it. Folders in it are made when first needed.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the folder cannot be made or opened.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| StoreError::io("make", dir, e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(dir, flags, Mode::empty())
            .map_err(|e| StoreError::io("open", dir, e))?;
        let session = Session::new(dir);
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            folder,
            session,
            reflinks: AtomicBool::new(true),
            arriving: Mutex::default(),
        })))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Where the blob is, or would be.
    pub fn path_of(&self, digest: &Digest) -> PathBuf {
        self.0.dir.join(name_of(digest))
    }

    /// Size in bytes if it is there; the bytes are not looked at.
    ///
    /// # Errors
    /// [`StoreError::Io`]: a fault is never "absent".
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let stat = self.stat(digest)?;
        Ok(stat.map(|stat| size_of(&stat)))
    }

    /// Opens a blob for reading; the bytes are not looked at.
    ///
    /// # Errors
    /// [`StoreError::Io`]: a fault is never "absent".
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0.folder, name_of(digest), flags, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(StoreError::io("open", &self.path_of(digest), e)),
        }
    }

    /// Opens content that a batch of this process holds, whole and checked, and has not committed. It may be gone after a
    /// crash: for those only who check what they get and make it durable themselves.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open_arriving(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        let batches: Vec<_> = {
            let arriving = self.arriving();
            arriving.iter().filter_map(Weak::upgrade).collect()
        };
        for batch in batches {
            if let Some(file) = batch.open(digest)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// A batch begins to hold content.
    fn arrives(&self, batch: &Arc<Arriving>) {
        let mut arriving = self.arriving();
        arriving.retain(|one| one.strong_count() > 0);
        arriving.push(Arc::downgrade(batch));
    }

    fn arriving(&self) -> MutexGuard<'_, Vec<Weak<Arriving>>> {
        self.0
            .arriving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a blob if that takes memory only: `None` when the disk would have to be asked, when the system cannot tell
    /// (Linux before 5.12), or when there is no such blob. Never blocks.
    pub fn open_cached(&self, digest: &Digest) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let name = name_of(digest);
        let (folder, cached) = (&self.0.folder, ResolveFlags::CACHED);
        let file = rustix::fs::openat2(folder, name, flags, Mode::empty(), cached);
        file.ok().map(File::from)
    }

    /// Reads a whole blob of at most `max_bytes` and checks its digest.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`]; [`StoreError::Mismatch`] when the bytes are wrong; [`StoreError::Io`].
    pub fn read(&self, digest: &Digest, max_bytes: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(file) = self.open_blob(digest)? else {
            return Ok(None);
        };
        let fail = |e: io::Error| StoreError::io("read", &self.path_of(digest), e);
        let size_bytes = file.metadata().map_err(fail)?.len();
        let max_bytes = max_bytes as u64;
        if size_bytes > max_bytes {
            return Err(StoreError::TooLarge {
                digest: *digest,
                size_bytes,
                max_bytes,
            });
        }
        let mut bytes = vec![0; usize::try_from(size_bytes).unwrap_or(usize::MAX)];
        let filled = read_full(&file, 0, &mut bytes).map_err(fail)?;
        bytes.truncate(filled);
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(StoreError::Mismatch {
                expected: *digest,
                found,
            });
        }
        Ok(Some(bytes))
    }

    /// Hashes one blob again. `Some(false)`: it is there and its bytes are wrong, or its disk blocks
    /// cannot be read (that is how file systems with checksums tell of rot).
    ///
    /// # Errors
    /// [`StoreError::Io`] for every other fault.
    pub fn check(&self, digest: &Digest) -> Result<Option<bool>, StoreError> {
        let Some(file) = self.open_blob(digest)? else {
            return Ok(None);
        };
        match hash_file(&file) {
            Ok((found, _)) => Ok(Some(found == *digest)),
            Err(e) if is_rot(&e) => Ok(Some(false)),
            Err(e) => Err(StoreError::io("read", &self.path_of(digest), e)),
        }
    }

    /// Starts a batch of content.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// Free bytes for unprivileged users on the store's disk.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::fstatvfs(&self.0.folder)
            .map_err(|e| StoreError::io("look at", &self.0.dir, e))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Moves a corrupt blob to `lost/`, so that it counts as absent. Nothing happens when it is absent already.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn quarantine(&self, digest: &Digest) -> Result<(), StoreError> {
        self.make_subfolder("lost")?;
        let folder = &self.0.folder;
        match rustix::fs::renameat(folder, name_of(digest), folder, format!("lost/{digest}")) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(StoreError::io("set aside", &self.path_of(digest), e)),
        }
    }

    /// Removes a blob; absent is fine. Not durable by itself: after a crash it may be back.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.0.folder, name_of(digest), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(StoreError::io("remove", &self.path_of(digest), e)),
        }
    }

    /// Keeps sweeps away while content is looked up or added that nothing references yet.
    /// Waits while a sweep is under way.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn pin(&self) -> Result<Pin, StoreError> {
        let (file, path) = self.gc_lock()?;
        lock(&file, FlockOperation::LockShared).map_err(|e| StoreError::io("lock", &path, e))?;
        Ok(Pin { _lock: file })
    }

    /// Takes the sweep's lock; `None` while somebody holds a pin or sweeps.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn try_sweep_lock(&self) -> Result<Option<Pin>, StoreError> {
        let (file, path) = self.gc_lock()?;
        let locked = try_lock(&file, FlockOperation::NonBlockingLockExclusive);
        let locked = locked.map_err(|e| StoreError::io("lock", &path, e))?;
        Ok(locked.then_some(Pin { _lock: file }))
    }

    fn gc_lock(&self) -> Result<(File, PathBuf), StoreError> {
        let path = self.0.dir.join("gc.lock");
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(|e| StoreError::io("open", &path, e))?;
        Ok((file, path))
    }

    fn stat(&self, digest: &Digest) -> Result<Option<Stat>, StoreError> {
        match rustix::fs::statat(&self.0.folder, name_of(digest), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(StoreError::io("look at", &self.path_of(digest), e)),
        }
    }

    fn make_subfolder(&self, name: &str) -> Result<(), StoreError> {
        make_folder(&self.0.folder, name)
            .map_err(|e| StoreError::io("make", &self.0.dir.join(name), e))
    }

    /// Writes everything on the store's file system to its disk.
    fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::syncfs(&self.0.folder).map_err(|e| StoreError::io("sync", &self.0.dir, e))
    }

    fn reflinks(&self) -> bool {
        self.0.reflinks.load(Ordering::Relaxed)
    }

    fn without_reflinks(&self) {
        self.0.reflinks.store(false, Ordering::Relaxed);
    }
}

/// Reads at most `length` bytes that the page cache has: fewer when the disk would have to be asked for the next,
/// `None` when the file system cannot tell. Never blocks.
pub fn read_cached(file: &File, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut slices = [io::IoSliceMut::new(&mut bytes)];
    let filled = rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT).ok()?;
    bytes.truncate(filled);
    Some(bytes)
}

/// A lock on the store's content; dropped, it is released.
#[derive(Debug)]
pub struct Pin {
    _lock: File,
}

fn name_of(digest: &Digest) -> String {
    let mut name = digest.to_hex();
    name.insert(2, '/');
    name
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn make_folder(parent: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::mkdirat(parent, name, FOLDER_MODE) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Has the disk begin with what was written at `offset`, so that the sync at the end finds little to do.
/// That is what Linux does about dirty pages that are not needed; they stay in memory as they are.
fn begin_writing(file: &File, offset: u64, length: u64) {
    // A file system that takes no advice is only slower.
    if let Some(length) = std::num::NonZeroU64::new(length) {
        rustix::fs::fadvise(file, offset, Some(length), rustix::fs::Advice::DontNeed).ok();
    }
}

/// Fills `buffer` from `offset` on; less only at the end of the file.
fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    use std::os::unix::fs::FileExt as _;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Digest of a whole file.
///
/// # Errors
/// What reading gives.
pub fn hash(file: &File) -> io::Result<Digest> {
    hash_file(file).map(|(digest, _)| digest)
}

/// Digest and length of a whole file.
fn hash_file(file: &File) -> io::Result<(Digest, u64)> {
    let mut hash = Sha256::new();
    let size_bytes = hash_into(file, &mut hash)?;
    Ok((Digest::from_bytes(hash.finalize().into()), size_bytes))
}

fn hash_into(file: &File, hash: &mut Sha256) -> io::Result<u64> {
    // Small files are many: no more is cleared for them than they fill.
    let size_bytes = usize::try_from(file.metadata()?.len()).unwrap_or(BUFFER_BYTES);
    let mut buffer = vec![0; size_bytes.saturating_add(1).min(BUFFER_BYTES)];
    let mut offset = 0;
    loop {
        let filled = read_full(file, offset, &mut buffer)?;
        hash.update(&buffer[..filled]);
        offset += filled as u64;
        if filled < buffer.len() {
            return Ok(offset);
        }
    }
}

/// True when the medium, not the system, is at fault.
fn is_rot(error: &io::Error) -> bool {
    let Some(errno) = Errno::from_io_error(error) else {
        return false;
    };
    [Errno::IO, Errno::BADMSG, Errno::UCLEAN].contains(&errno)
}

/// Takes a lock, however long that takes.
fn lock<Fd: AsFd>(file: Fd, how: FlockOperation) -> Result<(), Errno> {
    loop {
        match rustix::fs::flock(&file, how) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Takes a lock unless somebody else has it.
fn try_lock<Fd: AsFd>(file: Fd, how: FlockOperation) -> Result<bool, Errno> {
    match rustix::fs::flock(file, how) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}
