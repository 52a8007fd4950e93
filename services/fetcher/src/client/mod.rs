//! The asking end: keeps wants and credit under way, checks every digest, makes content durable.
//!
//! | module | what it does |
//! | --- | --- |
//! | `source` | one host, a connection per lane |
//! | `peers` | mirrors of the same pool, each of which brings a share |
//! | `board` | which want is served by which source; what is left |
//! | `serve` | keeps one source busy, with backoff |
//! | `session` | one stream to one source |
//! | `writer` | checks and writes on blocking threads, one `syncfs` per batch |
//! | `engine` | starts all of it, and stops it in the right order |
//! | `walk` | fetches the missing pages of a manifest |

mod board;
mod engine;
mod peers;
mod serve;
mod session;
mod source;
mod walk;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use mirrorlog_core::id::{Digest, Lane};
use mirrorlog_core::manifest::PageError;
use runtime::Reaction;
use runtime::store::{Batch, Store, StoreError};
use tokio_util::sync::CancellationToken;

pub use peers::{Peer, Peers, Shunned};
pub use source::{Source, SourceError};
pub use walk::{Present, fetch_manifest};

use crate::limit::RateLimiter;

/// Most sources of one fetch.
pub const SOURCES_MAX: usize = 63;
/// Most bytes of inner pages that are held until all leaves are here. One page in a hundred is
/// an inner one; stops a manifest that was made to have hardly anything but inner pages, each the digest of the next.
pub(crate) const HELD_MAX_BYTES: usize = 256 * 1024 * 1024;
/// Larger blobs are written to a partial file, so that a later fetch goes on inside them.
pub const PARTIAL_ABOVE_BYTES: u64 = 1024 * 1024;

/// What a wanted digest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A manifest page: at most 64 KiB, may travel compressed.
    Page,
    /// A file's content.
    Blob,
}

/// One thing to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its SHA-256.
    pub digest: Digest,
    /// Its length in bytes; for a page any upper bound will do.
    pub size_bytes: u64,
    /// What it is.
    pub kind: Kind,
}

/// How to fetch. `Default` is bulk, without a rate, for ever until done.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Whose connection, queue and class of the rate limit.
    pub lane: Lane,
    /// Shared by all fetches of the process: the priority lane preempts the bulk lane through it.
    pub rate: Arc<RateLimiter>,
    /// Ends the fetch early. What has arrived is kept.
    pub cancel: CancellationToken,
    /// Counts while the fetch runs.
    pub progress: Arc<Progress>,
    /// Most bytes under way from one source when no rate is set.
    pub window_bytes: u64,
    /// A source that sends nothing for this long, though it could, is connected anew.
    pub stall: Duration,
    /// Mirrors that may have it, or are bringing it as well.
    pub peers: Option<Peers>,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            lane: Lane::Bulk,
            rate: RateLimiter::new(None),
            cancel: CancellationToken::new(),
            progress: Arc::default(),
            window_bytes: 8 * 1024 * 1024,
            stall: Duration::from_secs(10),
            peers: None,
        }
    }
}

/// Counters of a fetch, for progress bars and metrics.
#[derive(Debug, Default)]
pub struct Progress {
    received_bytes: AtomicU64,
    peers_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    stored_files: AtomicU64,
}

impl Progress {
    /// Bytes that came over the network, repeated ones and framing included.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Those of them that came from peers.
    pub fn peers_bytes(&self) -> u64 {
        self.peers_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of whole, checked pages and blobs.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Whole, checked pages and blobs.
    pub fn stored_files(&self) -> u64 {
        self.stored_files.load(Ordering::Relaxed)
    }

    fn received(&self, bytes: u64, from_peer: bool) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        if from_peer {
            self.peers_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn stored(&self, bytes: u64) {
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.stored_files.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a fetch achieved. Everything stored is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Pages and blobs stored.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What every source says it does not have.
    pub absent: Vec<Digest>,
    /// What no source could deliver now, though one at least did not say "absent".
    pub failed: Vec<Failure>,
    /// In the order in which the sources were given, then peers; empty when nothing had to be asked for.
    pub sources: Vec<SourceStats>,
}

impl Fetched {
    /// Whether everything wanted is here.
    pub fn is_whole(&self) -> bool {
        self.absent.is_empty() && self.failed.is_empty()
    }
}

/// A want that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was wanted.
    pub digest: Digest,
    /// The last source's words, or ours about it.
    pub reason: String,
}

/// What one source did for a fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStats {
    /// Its address.
    pub address: String,
    /// Pages and blobs that it delivered.
    pub files: u64,
    /// Bytes received from it, framing included.
    pub received_bytes: u64,
    /// Wants that it answered with "absent".
    pub absent: u64,
    /// Wants that it answered with bytes of another digest, or against the protocol.
    pub wrong: u64,
    /// Connections lost or stalled.
    pub lost: u64,
    /// Whether it was dropped for wrong bytes.
    pub dropped: bool,
}

/// Why a fetch did not end.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Cancelled; retry at will. What had arrived is kept.
    #[error("fetch cancelled")]
    Cancelled,
    /// No source was given, or too many: halt.
    #[error("{0} sources given, 1 to {SOURCES_MAX} can be used")]
    Sources(usize),
    /// Every source was dropped for wrong bytes: retry with others.
    #[error("all sources sent wrong bytes, the last one for {digest}")]
    AllDropped {
        /// The last digest that was answered wrongly.
        digest: Digest,
    },
    /// A page has the digest that was asked for and is no valid page: park.
    #[error("page {digest} of the manifest is not valid")]
    Page {
        /// Which page.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: PageError,
    },
    /// Its inner pages take more memory than those of any: park.
    #[error(
        "the manifest has more inner pages than any, more than {HELD_MAX_BYTES} bytes by page {digest}"
    )]
    TooLarge {
        /// The first one that is too much.
        digest: Digest,
    },
    /// The store could not be written: retry when there is room.
    #[error("fetched content could not be stored")]
    Store(#[from] StoreError),
    /// A task of the fetch ended unexpectedly: retry.
    #[error("a task of the fetch failed")]
    Task(#[from] tokio::task::JoinError),
}

impl FetchError {
    /// What the caller best does about it.
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Cancelled | Self::AllDropped { .. } | Self::Task(_) => Reaction::Retry,
            Self::Page { .. } | Self::TooLarge { .. } => Reaction::Park,
            Self::Sources(_) => Reaction::Halt,
            Self::Store(error) => error.reaction(),
        }
    }
}

/// Fetches `wants` into `store` from `sources`, which are tried in their order.
///
/// A want goes to the first source that is up and has not said "absent"; the next ones stand in for it. With
/// [`peers`](FetchOptions::peers), blobs of the bulk lane go to the peer that has them or is to bring them, and to the
/// sources only those that this mirror is to bring itself, or that no peer brings in time.
/// Connections that are lost or stall are made anew with backoff, for ever, until cancelled. A source that
/// sends wrong bytes is dropped for this fetch if another one is left. The caller asks only for what the
/// store lacks, and names each digest once. Large blobs go on where an earlier fetch stopped.
///
/// When it returns `Ok`, what it counts as stored is durable.
///
/// # Errors
/// See [`FetchError`]. Absent and failed wants are no error: see [`Fetched`].
pub async fn fetch<W>(
    sources: &[Source],
    wants: W,
    store: &Store,
    options: &FetchOptions,
) -> Result<Fetched, FetchError>
where
    W: Stream<Item = Wanted> + Send,
{
    fetch_with(sources, wants, store.batch(), options).await
}

/// [`fetch`] into a batch that holds something already: both become durable together, whatever of the
/// wants arrives.
///
/// # Errors
/// See [`fetch`].
pub async fn fetch_with<W>(
    sources: &[Source],
    wants: W,
    batch: Batch,
    options: &FetchOptions,
) -> Result<Fetched, FetchError>
where
    W: Stream<Item = Wanted> + Send,
{
    engine::run(sources, wants, batch, options, None).await
}

/// [`fetch`] for wants at hand.
///
/// # Errors
/// See [`fetch`].
pub async fn fetch_all<I>(
    sources: &[Source],
    wants: I,
    store: &Store,
    options: &FetchOptions,
) -> Result<Fetched, FetchError>
where
    I: IntoIterator<Item = Wanted>,
    I::IntoIter: Send,
{
    fetch(sources, futures::stream::iter(wants), store, options).await
}
