//! Content on its way in.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::PageWrite;
use rustix::fs::Stat;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::partial::Finished;
use super::session::TempName;
use super::{
    BUFFER_BYTES, Store, StoreError, WRITE_AHEAD_BYTES, begin_writing, hash_file, make_folder,
    name_of, read_full,
};

/// A name younger than this, in seconds, may not be on the disk yet: another process may have
/// renamed it and not synced, or died before it did. Linux writes metadata back within half a
/// minute (ext4 `commit`, XFS and btrfs: 30 s); four times that is safe.
const SETTLED_AFTER_SECONDS: i64 = 120;

/// Content on its way in: nothing is visible or durable before [`commit`](Self::commit).
///
/// May be filled from several threads at once. Dropped without commit, its temporary files are
/// removed; adopted partials stay where they are and can be resumed.
#[derive(Debug)]
pub struct Batch {
    store: Store,
    incoming: Arc<Arriving>,
    /// True when content counted as present whose name may not be durable.
    unsettled: AtomicBool,
}

/// What a batch holds.
#[derive(Debug, Default)]
pub(super) struct Arriving(Mutex<BTreeMap<Digest, Incoming>>);

impl Arriving {
    /// Opens content that is whole and checked but not committed.
    pub(super) fn open(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        // Under the lock: nothing is renamed meanwhile.
        let incoming = self.lock();
        let path = match incoming.get(digest) {
            Some(Incoming::Temp(name)) => name.path(),
            Some(Incoming::Partial(partial)) => partial.path(),
            None => return Ok(None),
        };
        let file = File::open(&path).map_err(|e| StoreError::io("open", &path, e))?;
        Ok(Some(file))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Incoming>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
enum Incoming {
    Temp(TempName),
    Partial(Finished),
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingested {
    /// SHA-256 of what was stored.
    pub digest: Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
}

impl Batch {
    pub(super) fn new(store: Store) -> Self {
        let incoming = Arc::default();
        store.arrives(&incoming);
        Self {
            store,
            incoming,
            unsettled: AtomicBool::new(false),
        }
    }

    /// Takes content from memory. What the store or this batch has already is not
    /// written again: [`Store::quarantine`] a corrupt blob before putting it anew.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] when the bytes do not have this digest, [`StoreError::Full`], [`StoreError::Io`].
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let found = Digest::of(bytes);
        if found != *digest {
            return Err(StoreError::Mismatch {
                expected: *digest,
                found,
            });
        }
        self.put_hashed(digest, bytes)?;
        Ok(())
    }

    /// Takes the content of `source` from its beginning, whatever its position: shares the disk blocks
    /// where the file system can, else copies; what is hashed is what was stored.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Io`].
    pub fn ingest(&self, source: &File) -> Result<Ingested, StoreError> {
        let fail = |e: io::Error| StoreError::io("read", &descriptor_path(source), e);
        let size_bytes = source.metadata().map_err(fail)?.len();
        if size_bytes >= BUFFER_BYTES as u64 {
            return self.ingest_large(source);
        }
        // One byte more than it should have: a short read then proves the end without another call.
        let mut bytes = vec![0; size_bytes as usize + 1];
        let filled = read_once(source, &mut bytes, size_bytes as usize).map_err(fail)?;
        if filled > size_bytes as usize {
            return self.ingest_large(source);
        }
        let digest = Digest::of(&bytes[..filled]);
        self.put_hashed(&digest, &bytes[..filled])?;
        Ok(Ingested {
            digest,
            size_bytes: filled as u64,
        })
    }

    /// Takes a source file under a second name, without copying it: only for files that are never
    /// written in place, because that would change the stored content too. Copies as
    /// [`ingest`](Self::ingest) does where the file cannot be linked.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Io`].
    pub fn link(&self, source: &File) -> Result<Ingested, StoreError> {
        let fail = |e: io::Error| StoreError::io("read", &descriptor_path(source), e);
        let (digest, size_bytes) = hash_file(source).map_err(fail)?;
        self.link_hashed(source, &digest)?;
        Ok(Ingested { digest, size_bytes })
    }

    /// The same for a file that was just hashed: it is not read again, unless it has to be copied. True when it was.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] when it changed before it was copied; [`StoreError::Full`], [`StoreError::Io`].
    pub fn link_hashed(&self, source: &File, digest: &Digest) -> Result<bool, StoreError> {
        if self.has(digest)? {
            return Ok(false);
        }
        if let Some(name) = self.store.0.session.link(source)? {
            self.insert(*digest, Incoming::Temp(name));
            return Ok(false);
        }
        let found = self.ingest(source)?.digest;
        if found == *digest {
            return Ok(true);
        }
        Err(StoreError::Mismatch {
            expected: *digest,
            found,
        })
    }

    /// Takes a partial that is whole.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn adopt(&self, partial: Finished) -> Result<(), StoreError> {
        let digest = partial.digest();
        if self.has(&digest)? {
            return partial.discard();
        }
        self.insert(digest, Incoming::Partial(partial));
        Ok(())
    }

    /// Makes everything visible and durable: one `syncfs` so that content is on the disk before its
    /// names are, all renames in order of digest, one `syncfs` for the names. Costs nothing when there
    /// was nothing new.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Io`]. Some content may then be visible, whole as ever.
    pub fn commit(self) -> Result<(), StoreError> {
        if self.is_empty() {
            return if self.unsettled.load(Ordering::Relaxed) {
                self.store.sync()
            } else {
                Ok(())
            };
        }
        self.store.sync()?;
        // One by one: until it has its name, peers find it here.
        loop {
            let next = self.incoming().pop_first();
            let Some((digest, item)) = next else { break };
            reveal(&self.store, &digest, item)?;
        }
        self.store.sync()
    }

    /// The store that it is for.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Takes over what another batch of the same store holds, to be committed with it.
    pub fn absorb(&self, other: Self) {
        if other.unsettled.load(Ordering::Relaxed) {
            self.unsettled();
        }
        let incoming = std::mem::take(&mut *other.incoming());
        for (digest, item) in incoming {
            self.insert(digest, item);
        }
    }

    /// Blobs that `commit` will make visible.
    pub fn len(&self) -> usize {
        self.incoming().len()
    }

    /// True when `commit` would make nothing visible.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when the store or this batch has it. Asking makes it durable with the next commit.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn has(&self, digest: &Digest) -> Result<bool, StoreError> {
        if self.incoming().contains_key(digest) {
            return Ok(true);
        }
        let Some(stat) = self.store.stat(digest)? else {
            return Ok(false);
        };
        if !is_settled(&stat) {
            self.unsettled();
        }
        Ok(true)
    }

    /// Something counted as present that may not be durable yet: the commit makes it so.
    pub(super) fn unsettled(&self) {
        self.unsettled.store(true, Ordering::Relaxed);
    }

    /// Reads what this batch holds under a digest and has not committed; `None` when it holds nothing such.
    pub(super) fn read_back(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = match self.incoming().get(digest) {
            Some(Incoming::Temp(name)) => name.path(),
            Some(Incoming::Partial(_)) | None => return Ok(None),
        };
        let bytes = std::fs::read(&path).map_err(|e| StoreError::io("read", &path, e))?;
        Ok(Some(bytes))
    }

    /// True when it was written; false when it was here, and nobody looked at its bytes.
    pub(super) fn put_hashed(&self, digest: &Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        if self.has(digest)? {
            return Ok(false);
        }
        let (mut file, name) = self.store.0.session.create()?;
        file.write_all(bytes)
            .map_err(|e| StoreError::io("write", &name.path(), e))?;
        self.insert(*digest, Incoming::Temp(name));
        Ok(true)
    }

    fn ingest_large(&self, source: &File) -> Result<Ingested, StoreError> {
        let (file, name) = self.store.0.session.create()?;
        let path = name.path();
        let (digest, size_bytes) = if self.share(source, &file, &path)? {
            hash_file(&file).map_err(|e| StoreError::io("read", &path, e))?
        } else {
            copy(source, &file, &path)?
        };
        if !self.has(&digest)? {
            self.insert(digest, Incoming::Temp(name));
        }
        Ok(Ingested { digest, size_bytes })
    }

    /// Tries to share the source's disk blocks; false where that cannot be.
    fn share(&self, source: &File, file: &File, path: &Path) -> Result<bool, StoreError> {
        if !self.store.reflinks() {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(file, source) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => {
                self.store.without_reflinks();
                Ok(false)
            }
            Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => {
                Err(StoreError::io("write", path, e))
            }
            // Another file system, a swap file, odd flags: this source cannot be shared, it may be copied.
            Err(_) => Ok(false),
        }
    }

    fn insert(&self, digest: Digest, item: Incoming) {
        let mut incoming = self.incoming();
        let spare = match incoming.entry(digest) {
            Entry::Vacant(slot) => {
                slot.insert(item);
                None
            }
            Entry::Occupied(_) => Some(item),
        };
        // Two threads brought the same content: the second file goes, outside the lock.
        drop(incoming);
        drop(spare);
    }

    fn incoming(&self) -> MutexGuard<'_, BTreeMap<Digest, Incoming>> {
        self.incoming.lock()
    }
}

impl PageWrite for &Batch {
    type Error = StoreError;

    fn put_page(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.put(&digest, &bytes)
    }
}

impl PageWrite for &mut Batch {
    type Error = StoreError;

    fn put_page(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.put(&digest, &bytes)
    }
}

/// Renames one file to its digest; another process may have brought the same, then equal content replaces it.
fn reveal(store: &Store, digest: &Digest, mut item: Incoming) -> Result<(), StoreError> {
    let name = name_of(digest);
    let folder = &store.0.folder;
    let mut rename = || match &mut item {
        Incoming::Temp(temp) => temp.move_to(folder, &name),
        Incoming::Partial(partial) => partial.move_to(folder, &name),
    };
    let renamed = match rename() {
        Err(Errno::NOENT) => make_folder(folder, &name[..2]).and_then(|()| rename()),
        other => other,
    };
    renamed.map_err(|e| StoreError::io("name", &store.path_of(digest), e))
}

pub(super) fn is_settled(stat: &Stat) -> bool {
    let age_seconds = crate::boot::now()
        .as_seconds()
        .saturating_sub(stat.st_ctime);
    // A negative age means that the clock was set back: then nothing is known.
    age_seconds >= SETTLED_AFTER_SECONDS
}

/// Reads up to the buffer's end; done at `expected` bytes, where a regular file ends.
fn read_once(file: &File, buffer: &mut [u8], expected: usize) -> io::Result<usize> {
    use std::os::unix::fs::FileExt as _;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        if filled == expected {
            break;
        }
    }
    Ok(filled)
}

fn copy(source: &File, mut file: &File, path: &Path) -> Result<(Digest, u64), StoreError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut offset = 0;
    loop {
        let filled = read_full(source, offset, &mut buffer);
        let filled = filled.map_err(|e| StoreError::io("read", &descriptor_path(source), e))?;
        hash.update(&buffer[..filled]);
        file.write_all(&buffer[..filled])
            .map_err(|e| StoreError::io("write", path, e))?;
        offset += filled as u64;
        if filled > 0 && offset.is_multiple_of(WRITE_AHEAD_BYTES) {
            begin_writing(file, offset - WRITE_AHEAD_BYTES, WRITE_AHEAD_BYTES);
        }
        if filled < buffer.len() {
            return Ok((Digest::from_bytes(hash.finalize().into()), offset));
        }
    }
}

/// The path that a file was opened by, for messages.
fn descriptor_path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(&link).unwrap_or_else(|_| PathBuf::from(link))
}
