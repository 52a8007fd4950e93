//! The digest of content that comes in pieces, computed beside the writing of it.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use mirrorlog_core::id::Digest;
use sha2::{Digest as _, Sha256};

/// Content with more to come than this is hashed on a thread of its own, in bytes: a core hashes about 2 GB/s, and
/// whoever writes has that time for the next piece.
const BESIDE_ABOVE_BYTES: u64 = 8 * 1024 * 1024;
/// Pieces that may wait for that thread.
const QUEUE_MAX: usize = 2;

/// Takes pieces in order and gives the digest of all.
#[derive(Debug)]
pub(super) enum Hasher {
    Here(Sha256),
    Beside {
        queue: SyncSender<Bytes>,
        thread: JoinHandle<Sha256>,
    },
}

impl Hasher {
    /// Goes on from `hash`, with `left_bytes` to come.
    pub(super) fn new(hash: Sha256, left_bytes: u64) -> Self {
        if left_bytes <= BESIDE_ABOVE_BYTES {
            return Self::Here(hash);
        }
        let mut beside = hash.clone();
        let (queue, pieces) = sync_channel::<Bytes>(QUEUE_MAX);
        let thread = std::thread::Builder::new().name("hash".to_owned());
        let thread = thread.spawn(move || {
            for piece in pieces {
                beside.update(&piece);
            }
            beside
        });
        match thread {
            Ok(thread) => Self::Beside { queue, thread },
            // No more threads to be had: then it takes a little longer.
            Err(_) => Self::Here(hash),
        }
    }

    /// Takes the next piece.
    pub(super) fn update(&mut self, piece: Bytes) -> io::Result<()> {
        match self {
            Self::Here(hash) => hash.update(&piece),
            Self::Beside { queue, .. } => queue.send(piece).map_err(|_| panicked())?,
        }
        Ok(())
    }

    /// The digest of everything.
    pub(super) fn finish(self) -> io::Result<Digest> {
        let hash = match self {
            Self::Here(hash) => hash,
            Self::Beside { queue, thread } => {
                drop(queue);
                thread.join().map_err(|_| panicked())?
            }
        };
        Ok(Digest::from_bytes(hash.finalize().into()))
    }
}

fn panicked() -> io::Error {
    io::Error::other("the hashing thread panicked")
}
