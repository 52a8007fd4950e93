//! Reads blobs ahead of the network and packs them into messages.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use runtime::store::Store;
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;
use wire::v1::piece::{Absent, Failed, Kind};
use wire::v1::{FetchBatch, Piece};

use super::inbox::{Inbox, Next, Want};
use crate::protocol::{
    MESSAGE_DATA_MAX_BYTES, MESSAGE_PIECES_MAX, MESSAGE_SHARED_BYTES, PIECE_COST_BYTES,
};

/// zstd level of pages: the fastest; pages are mostly digests, which do not compress.
const ZSTD_LEVEL: i32 = 1;
/// Least data worth a piece when credit runs out, in bytes; below it the account is overdrawn.
const CUT_MIN_BYTES: u64 = 16 * 1024;
/// A message is sent as it is when it took this long to fill (cold disks).
const FILL_TIME_MAX: Duration = Duration::from_millis(50);

/// The sending half of one stream.
pub(super) struct Reader {
    store: Store,
    inbox: Arc<Inbox>,
    readers: Arc<Semaphore>,
    /// Longest time in which a client takes no message.
    idle: Duration,
}

/// A blob that is half sent.
struct Current {
    want: Want,
    file: File,
    /// Where the rest begins.
    offset: u64,
    left_bytes: u64,
}

impl Reader {
    pub(super) fn new(
        store: Store,
        inbox: Arc<Inbox>,
        readers: Arc<Semaphore>,
        idle: Duration,
    ) -> Self {
        Self {
            store,
            inbox,
            readers,
            idle,
        }
    }

    /// Answers until the client is done or gone.
    pub(super) async fn run(&self, sender: &mpsc::Sender<Result<FetchBatch, Status>>) {
        let mut current = None;
        while self.inbox.ready(current.is_some()).await == Next::Send {
            // Room first, so that no reader is held by a client that does not read.
            let Ok(Ok(room)) = tokio::time::timeout(self.idle, sender.reserve()).await else {
                tracing::debug!("client is gone, or takes nothing of what it asked for");
                return;
            };
            let Ok(permit) = Arc::clone(&self.readers).acquire_owned().await else {
                return;
            };
            let (store, inbox) = (self.store.clone(), Arc::clone(&self.inbox));
            let packed = tokio::task::spawn_blocking(move || {
                let packed = Packer::new(&store, &inbox).pack(current);
                drop(permit);
                packed
            });
            match packed.await {
                Ok((batch, rest)) => {
                    current = rest;
                    if !batch.pieces.is_empty() {
                        room.send(Ok(batch));
                    }
                }
                Err(_) => {
                    room.send(Err(Status::internal("a reader failed")));
                    return;
                }
            }
        }
    }
}

/// One message being filled. Data goes into one buffer that all pieces share.
struct Packer<'a> {
    store: &'a Store,
    inbox: &'a Inbox,
    pieces: Vec<(u32, Body, bool)>,
    /// Room is made when it is first needed, for the whole message at once.
    buffer: Vec<u8>,
    /// Data in the message, in the buffer or not.
    used_bytes: usize,
}

enum Opened {
    Blob(Current),
    /// Absent, failed or sent whole.
    Answered,
    /// No wants, or no credit.
    Nothing,
}

enum Body {
    Data(Range<usize>),
    Other(Kind),
}

impl<'a> Packer<'a> {
    fn new(store: &'a Store, inbox: &'a Inbox) -> Self {
        Self {
            store,
            inbox,
            pieces: Vec::new(),
            buffer: Vec::new(),
            used_bytes: 0,
        }
    }

    /// Fills the message with what is left of `current` and further wants; returns what did not fit.
    fn pack(mut self, mut current: Option<Current>) -> (FetchBatch, Option<Current>) {
        let start = Instant::now();
        // Pages that were compressed need no room in the buffer, but in the message.
        while self.pieces.len() < MESSAGE_PIECES_MAX
            && self.used_bytes < MESSAGE_SHARED_BYTES
            && start.elapsed() < FILL_TIME_MAX
        {
            let opened = current
                .take()
                .map_or_else(|| self.open_next(), Opened::Blob);
            let blob = match opened {
                Opened::Blob(blob) => blob,
                Opened::Answered => continue,
                Opened::Nothing => break,
            };
            match self.fit(blob.left_bytes) {
                Some(room) => current = self.read(blob, room),
                None => {
                    current = Some(blob);
                    break;
                }
            }
        }
        (self.finish(), current)
    }

    /// Bytes of a blob that go into this message now; `None` when it is full or the credit is used up.
    fn fit(&self, left_bytes: u64) -> Option<u64> {
        let credit = self.inbox.credit();
        if credit == 0 {
            return None;
        }
        let most = if self.used_bytes > 0 || left_bytes <= MESSAGE_SHARED_BYTES as u64 {
            MESSAGE_SHARED_BYTES
        } else {
            MESSAGE_DATA_MAX_BYTES
        };
        let room = most.saturating_sub(self.used_bytes) as u64;
        let whole = left_bytes <= most as u64;
        if room == 0 || (self.used_bytes > 0 && whole && left_bytes > room) {
            return None;
        }
        Some(left_bytes.min(room).min(credit.max(CUT_MIN_BYTES)))
    }

    /// Opens the next want's blob; answers on the spot what needs no reading.
    fn open_next(&mut self) -> Opened {
        let Some(want) = self.inbox.pop() else {
            return Opened::Nothing;
        };
        // Peers check what they get: they need not wait until it is durable here.
        let opened = match self.store.open_blob(&want.digest) {
            Ok(None) => self.store.open_arriving(&want.digest),
            opened => opened,
        };
        let opened = match opened {
            Ok(Some(file)) => open_at(file, want),
            Ok(None) => {
                self.push(want.id, Body::Other(Kind::Absent(Absent {})), 0, true);
                return Opened::Answered;
            }
            Err(error) => Err(error.to_string()),
        };
        match opened.and_then(|blob| self.compress(blob).map_err(|error| error.to_string())) {
            Ok(Some(blob)) => Opened::Blob(blob),
            Ok(None) => Opened::Answered,
            Err(reason) => {
                self.fail(want, reason);
                Opened::Answered
            }
        }
    }

    /// Sends a page at once if zstd makes it smaller; gives anything else back.
    fn compress(&mut self, blob: Current) -> io::Result<Option<Current>> {
        let fits = blob.left_bytes <= PAGE_MAX_BYTES as u64;
        if !blob.want.page || blob.want.offset > 0 || !fits {
            return Ok(Some(blob));
        }
        let mut page = vec![0; blob.left_bytes as usize];
        blob.file.read_exact_at(&mut page, 0)?;
        let packed = zstd::bulk::compress(&page, ZSTD_LEVEL)?;
        if packed.len() >= page.len() {
            return Ok(Some(blob));
        }
        let length = packed.len();
        self.push(
            blob.want.id,
            Body::Other(Kind::Zstd(packed.into())),
            length,
            true,
        );
        Ok(None)
    }

    fn read(&mut self, mut blob: Current, room: u64) -> Option<Current> {
        if self.buffer.capacity() == 0 {
            // A blob that is cut, by the message's end or by that of the credit, leaves no room for another.
            let is_cut = room < blob.left_bytes;
            let shared = if is_cut { 0 } else { MESSAGE_SHARED_BYTES };
            self.buffer.reserve_exact(shared.max(room as usize));
        }
        let start = self.buffer.len();
        let length = room as usize;
        if let Err(error) = append(&blob.file, blob.offset, length, &mut self.buffer) {
            self.fail(blob.want, error.to_string());
            return None;
        }
        blob.offset += room;
        blob.left_bytes -= room;
        let last = blob.left_bytes == 0;
        let end = start + length;
        self.push(blob.want.id, Body::Data(start..end), length, last);
        if last { None } else { Some(blob) }
    }

    fn fail(&mut self, want: Want, reason: String) {
        tracing::warn!(digest = %want.digest, reason, "blob could not be read");
        self.push(
            want.id,
            Body::Other(Kind::Failed(Failed { reason })),
            0,
            true,
        );
    }

    fn push(&mut self, id: u32, body: Body, length: usize, last: bool) {
        self.used_bytes += length;
        self.inbox.spend(length as u64 + PIECE_COST_BYTES);
        self.pieces.push((id, body, last));
    }

    fn finish(self) -> FetchBatch {
        let buffer = Bytes::from(self.buffer);
        let piece = |(id, body, last)| {
            let kind = match body {
                Body::Data(range) => Kind::Data(buffer.slice(range)),
                Body::Other(kind) => kind,
            };
            Piece {
                id,
                kind: Some(kind),
                last,
            }
        };
        FetchBatch {
            pieces: self.pieces.into_iter().map(piece).collect(),
        }
    }
}

/// Appends `length` bytes of a file. The room for them is not cleared first: that is a seventh of the server's CPU.
fn append(file: &File, mut offset: u64, length: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
    let end = buffer.len() + length;
    buffer.reserve_exact(length);
    while buffer.len() < end {
        match rustix::io::pread(file, rustix::buffer::spare_capacity(buffer), offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => offset += read as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // There may have been room for more of the blob.
    buffer.truncate(end);
    Ok(())
}

fn open_at(file: File, want: Want) -> Result<Current, String> {
    let size_bytes = file.metadata().map_err(|error| error.to_string())?.len();
    let Some(left_bytes) = size_bytes.checked_sub(want.offset) else {
        return Err(format!(
            "offset {} is past the end, {size_bytes}",
            want.offset
        ));
    };
    Ok(Current {
        offset: want.offset,
        want,
        file,
        left_bytes,
    })
}
