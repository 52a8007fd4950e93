//! Blobs that arrive in pieces: `partial/<digest>`, kept over restarts.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use bytes::Bytes;
use mirrorlog_core::id::Digest;
use mirrorlog_core::time::Timestamp;
use rustix::fs::{AtFlags, FlockOperation, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::hasher::Hasher;
use super::{BLOB_MODE, Store, StoreError, WRITE_AHEAD_BYTES, begin_writing, hash_into, try_lock};

/// A blob that arrives in pieces and may be resumed. Locked: one receiver at a time, over all processes.
#[derive(Debug)]
pub struct Partial {
    file: PartialFile,
    hash: Hasher,
    offset: u64,
    size_bytes: u64,
}

/// A partial that is whole, for [`Batch::adopt`](super::Batch::adopt). Holds one open file.
#[derive(Debug)]
pub struct Finished(PartialFile);

#[derive(Debug)]
struct PartialFile {
    store: Store,
    digest: Digest,
    /// Below the store's folder.
    name: String,
    /// Locked as long as it is open.
    file: File,
}

impl Partial {
    /// Opens or resumes; hashes what is there. [`offset`](Self::offset) tells where to go on.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while somebody else receives this blob, [`StoreError::Io`].
    pub fn open(store: &Store, digest: &Digest, size_bytes: u64) -> Result<Self, StoreError> {
        Self::begin(
            PartialFile::open(store, digest, name_of(digest))?,
            size_bytes,
        )
    }

    /// The same, shared with nobody but those of the same name: what one of them brought, others do not go on with.
    /// `owner` is of `a-z`, `0-9` and `-`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_of(
        store: &Store,
        digest: &Digest,
        size_bytes: u64,
        owner: &str,
    ) -> Result<Self, StoreError> {
        let name = format!("{}.{size_bytes}.{owner}", name_of(digest));
        Self::begin(PartialFile::open(store, digest, name)?, size_bytes)
    }

    fn begin(file: PartialFile, size_bytes: u64) -> Result<Self, StoreError> {
        let fail = |e| StoreError::io("read", &file.path(), e);
        let (mut hash, mut offset) = (Sha256::new(), 0);
        let there = file.file.metadata().map_err(fail)?.len();
        if there > size_bytes {
            file.file.set_len(0).map_err(fail)?;
        } else if there > 0 {
            offset = hash_into(&file.file, &mut hash).map_err(fail)?;
        }
        let left_bytes = size_bytes.saturating_sub(offset);
        Ok(Self {
            file,
            hash: Hasher::new(hash, left_bytes),
            offset,
            size_bytes,
        })
    }

    /// Bytes that are here: the next write goes there.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends.
    ///
    /// # Errors
    /// [`StoreError::Size`] when it would grow past its size, [`StoreError::Full`], [`StoreError::Io`]:
    /// open it anew then.
    pub fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let end = self.offset.saturating_add(bytes.len() as u64);
        if end > self.size_bytes {
            return Err(self.wrong_size(end));
        }
        self.hash
            .update(bytes.clone())
            .map_err(|e| StoreError::io("hash", &self.file.path(), e))?;
        (&self.file.file)
            .write_all(&bytes)
            .map_err(|e| StoreError::io("write", &self.file.path(), e))?;
        let piece = |at: u64| at / WRITE_AHEAD_BYTES * WRITE_AHEAD_BYTES;
        let (from, until) = (piece(self.offset), piece(end));
        if from < until {
            begin_writing(&self.file.file, from, until - from);
        }
        self.offset = end;
        Ok(())
    }

    /// Checks length and digest.
    ///
    /// # Errors
    /// [`StoreError::Size`] when bytes are missing (they may still come: the file stays);
    /// [`StoreError::Mismatch`], and the file is deleted.
    pub fn finish(self) -> Result<Finished, StoreError> {
        if self.offset != self.size_bytes {
            return Err(self.wrong_size(self.offset));
        }
        let found = self.hash.finish();
        let found = found.map_err(|e| StoreError::io("hash", &self.file.path(), e))?;
        if found != self.file.digest {
            let expected = self.file.digest;
            self.file.remove()?;
            return Err(StoreError::Mismatch { expected, found });
        }
        Ok(Finished(self.file))
    }

    fn wrong_size(&self, found_bytes: u64) -> StoreError {
        StoreError::Size {
            digest: self.file.digest,
            expected_bytes: self.size_bytes,
            found_bytes,
        }
    }
}

/// Where a partial that everybody shares is.
fn name_of(digest: &Digest) -> String {
    format!("partial/{digest}")
}

impl Finished {
    pub(super) fn digest(&self) -> Digest {
        self.0.digest
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path()
    }

    pub(super) fn discard(self) -> Result<(), StoreError> {
        self.0.remove()
    }

    pub(super) fn move_to(&mut self, folder: &OwnedFd, name: &str) -> Result<(), Errno> {
        rustix::fs::renameat(folder, &self.0.name, folder, name)
    }
}

impl Store {
    /// Removes partials that nobody has touched since `before`; returns how many bytes that freed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sweep_partials(&self, before: Timestamp) -> Result<u64, StoreError> {
        let dir = self.dir().join("partial");
        let listed = match std::fs::read_dir(&dir) {
            Ok(listed) => listed,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(StoreError::io("list", &dir, e)),
        };
        let mut freed_bytes = 0;
        for item in listed {
            let name = item
                .map_err(|e| StoreError::io("list", &dir, e))?
                .file_name();
            let Some((digest, name)) = name.to_str().and_then(|name| {
                let digest = name.split('.').next()?.parse().ok()?;
                Some((digest, format!("partial/{name}")))
            }) else {
                continue;
            };
            let file = match PartialFile::open(self, &digest, name) {
                Ok(file) => file,
                Err(StoreError::Busy(_)) => continue,
                Err(e) => return Err(e),
            };
            let metadata = file
                .file
                .metadata()
                .map_err(|e| StoreError::io("look at", &file.path(), e))?;
            if Timestamp::from_seconds(metadata.mtime()) < before {
                freed_bytes += metadata.len();
                file.remove()?;
            }
        }
        Ok(freed_bytes)
    }
}

impl PartialFile {
    fn open(store: &Store, digest: &Digest, name: String) -> Result<Self, StoreError> {
        store.make_subfolder("partial")?;
        let folder = &store.0.folder;
        let path = store.dir().join(&name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
        loop {
            let file = rustix::fs::openat(folder, &name, flags, BLOB_MODE);
            let file = File::from(file.map_err(|e| StoreError::io("open", &path, e))?);
            let locked = try_lock(&file, FlockOperation::NonBlockingLockExclusive);
            if !locked.map_err(|e| StoreError::io("lock", &path, e))? {
                return Err(StoreError::Busy(*digest));
            }
            // Its last owner may have finished and moved it between our open and our lock.
            let ours = rustix::fs::fstat(&file).map_err(|e| StoreError::io("look at", &path, e))?;
            match rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if named.st_ino == ours.st_ino => {
                    return Ok(Self {
                        store: store.clone(),
                        digest: *digest,
                        name,
                        file,
                    });
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(e) => return Err(StoreError::io("look at", &path, e)),
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.store.dir().join(&self.name)
    }

    fn remove(self) -> Result<(), StoreError> {
        let removed = rustix::fs::unlinkat(&self.store.0.folder, &self.name, AtFlags::empty());
        removed.map_err(|e| StoreError::io("remove", &self.path(), e))
    }
}
