//! Bytes of a blob: from the page cache where they are wanted, from the disk on blocking threads.
//!
//! A chunk is read when the connection has sent nearly all of the one before, so a client that does not read costs no
//! thread, and two chunks of memory at most, however large the file.

use std::fs::File;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use mirrorlog_core::id::Digest;
use runtime::store::{Store, read_cached};
use rustix::fs::Advice;

use super::Reach;
use super::refusal::{Refusal, shown};

/// Bodies up to this size are read where the path is looked up.
const SMALL_BYTES: u64 = 64 * 1024;
/// What one read of a larger body brings, at most.
const CHUNK_BYTES: u64 = 128 * 1024;
/// What the disk is asked to have ready behind a chunk that it had not.
const AHEAD_BYTES: u64 = 1024 * 1024;

/// One blob, as an entry names it.
pub(super) struct Blob<'a> {
    pub(super) store: &'a Store,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    /// For messages.
    pub(super) name: &'a [u8],
}

impl Blob<'_> {
    /// A part of it. Its length is compared with the entry's before the first byte goes out.
    ///
    /// # Errors
    /// 503 when the store lost it; [`Refusal::Later`].
    pub(super) fn body(&self, reach: Reach, first: u64, length: u64) -> Result<Body, Refusal> {
        match reach {
            Reach::Memory => self.at_once(first, length).ok_or(Refusal::Later),
            Reach::Disk => self.waiting(first, length),
        }
    }

    /// `None` when that takes the disk, or something is wrong: that is found again, and said, by who may wait.
    fn at_once(&self, first: u64, length: u64) -> Option<Body> {
        let file = self.store.open_cached(&self.digest)?;
        if file.metadata().ok()?.len() != self.size_bytes {
            return None;
        }
        if length > SMALL_BYTES {
            return Some(self.stream(file, first, length));
        }
        let bytes = read_cached(&file, first, usize::try_from(length).ok()?)?;
        (bytes.len() as u64 == length).then(|| bytes.into())
    }

    fn waiting(&self, first: u64, length: u64) -> Result<Body, Refusal> {
        let (digest, size_bytes) = (self.digest, self.size_bytes);
        let Some(file) = self.store.open_blob(&digest)? else {
            tracing::error!(%digest, path = %shown(self.name), "a served blob is not in the store");
            return Err(Refusal::lost("lost", self.name, &digest));
        };
        let unreadable = |error: io::Error| {
            tracing::error!(%digest, %error, "a served blob cannot be read");
            Refusal::lost("unreadable", self.name, &digest)
        };
        let found_bytes = file.metadata().map_err(unreadable)?.len();
        if found_bytes != size_bytes {
            tracing::error!(%digest, found_bytes, size_bytes, "a served blob has the wrong size");
            return Err(Refusal::lost("damaged", self.name, &digest));
        }
        if length > SMALL_BYTES {
            return Ok(self.stream(file, first, length));
        }
        Ok(Body::from(read(&file, first, length).map_err(unreadable)?))
    }

    fn stream(&self, file: File, first: u64, length: u64) -> Body {
        let rest = Rest {
            file: Arc::new(file),
            digest: self.digest,
            at: first,
            end: first + length,
        };
        Body::from_stream(futures::stream::try_unfold(rest, Rest::next))
    }
}

/// What of a body is still to be read.
struct Rest {
    file: Arc<File>,
    digest: Digest,
    at: u64,
    end: u64,
}

impl Rest {
    /// Waits for nothing as long as the page cache has something.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let (at, length) = (self.at, CHUNK_BYTES.min(self.end - self.at));
        if length == 0 {
            return Ok(None);
        }
        let cached = usize::try_from(length).map(|length| read_cached(&self.file, at, length));
        let bytes = match cached {
            Ok(Some(bytes)) if !bytes.is_empty() => bytes.into(),
            Ok(_) | Err(_) => self.waiting(at, length).await?,
        };
        self.at += bytes.len() as u64;
        Ok(Some((bytes, self)))
    }

    async fn waiting(&self, at: u64, length: u64) -> io::Result<Bytes> {
        let file = Arc::clone(&self.file);
        let reading = move || {
            let bytes = read(&file, at, length)?;
            // A file system that takes no advice is only slower.
            let ahead = std::num::NonZeroU64::new(AHEAD_BYTES);
            rustix::fs::fadvise(&*file, at + length, ahead, Advice::WillNeed).ok();
            Ok(bytes)
        };
        let read = tokio::task::spawn_blocking(reading).await;
        let read = read.map_err(io::Error::other).flatten();
        let digest = self.digest;
        // The client sees a cut connection: the length that it was told does not come.
        read.inspect_err(|error| tracing::error!(%digest, %error, "a body was cut off"))
    }
}

/// Reads exactly `length` bytes; fewer are an error.
fn read(file: &File, mut at: u64, length: u64) -> io::Result<Bytes> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let mut bytes: Vec<u8> = Vec::with_capacity(length);
    while bytes.len() < length {
        // A capacity can be more than was asked for.
        let missing = length - bytes.len();
        let filled = match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(filled) => filled,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        at += filled.min(missing) as u64;
    }
    bytes.truncate(length);
    Ok(bytes.into())
}
