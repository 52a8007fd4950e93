//! Digests of a file's pieces, for metalinks: with them a client that met a corrupt mirror keeps what was good and
//! goes on elsewhere; with the whole digest alone aria2 gives up.
//!
//! Manifests know whole files only. So the pieces of a file are read once, from the mirrors that are offered, and
//! believed when the whole has the signed digest. A file of one piece needs none of that.
//!
//! Anybody may ask, so all of it is bounded: bytes an hour, each try of each file paid for whether it succeeds or
//! not; files at a time, and how long each may take. From which mirrors is read does not depend on who asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fetcher::web::{Pace, TooSlow};
use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::FileEntry;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use reqwest::Client;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::config::MetalinkSection;

/// The shortest piece, in bytes.
const LENGTH_MIN_BYTES: u64 = 256 * 1024;
/// Most pieces of a file: a metalink of 64 KiB more or less.
const PIECES_MAX: u64 = 1024;
/// Memory for digests, in bytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Files that are read at a time.
const AT_ONCE: usize = 2;
/// Files that wait to be read; more are answered without pieces.
const WAITING_MAX: usize = 64;
/// How long a request waits for pieces that are being read.
const PATIENCE: Duration = Duration::from_secs(8);
/// Longest silence of a mirror, and the window in which [`LEAST_BYTES`] have to come: a mirror that drips must not use up
/// the time that the file has, which the next mirror needs.
const STALL: Duration = Duration::from_secs(10);
/// Fewest bytes in such a window.
const LEAST_BYTES: u64 = 1024 * 1024;
/// Mirrors that are tried for one file.
const TRIES_MAX: usize = 3;
/// What a file may take beside its size at [`SLOWEST_BYTES_PER_S`], all tries together.
const GRACE: Duration = Duration::from_secs(30);
/// Slowest that mirrors may be: those that drip must not keep others' turns.
const SLOWEST_BYTES_PER_S: u64 = 1024 * 1024;
const HOUR: Duration = Duration::from_secs(3600);

/// A file's pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// Bytes of each piece but the last.
    pub(crate) length_bytes: u64,
    /// In order.
    pub(crate) hashes: Vec<Digest>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Digest, Arc<Pieces>> for ByBytes {
    fn weight(&self, _file: &Digest, pieces: &Arc<Pieces>) -> u64 {
        128 + 32 * pieces.hashes.len() as u64
    }
}

/// Who is told when a file was read; false while it is being read.
type Ready = watch::Receiver<bool>;

/// Pieces of files, read when they are asked for. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Library(Arc<Inner>);

struct Inner {
    client: Client,
    stall: Duration,
    known: Cache<Digest, Arc<Pieces>, ByBytes>,
    reading: Mutex<BTreeMap<Digest, Ready>>,
    turns: Semaphore,
    budget: Budget,
}

/// Bytes that may be read in an hour.
struct Budget {
    hourly_bytes: u64,
    /// Begin of the hour, and bytes that were paid in it.
    spent: Mutex<(Instant, u64)>,
}

impl Budget {
    fn new(hourly_bytes: u64) -> Self {
        Self {
            hourly_bytes,
            spent: Mutex::new((Instant::now(), 0)),
        }
    }

    /// True when so many bytes may be read; then they count as read.
    fn spend(&self, bytes: u64, now: Instant) -> bool {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(spent.0) > HOUR {
            *spent = (now, 0);
        }
        let sum = spent.1.saturating_add(bytes);
        let fits = sum <= self.hourly_bytes;
        if fits {
            spent.1 = sum;
        }
        fits
    }
}

/// How long a file may take, all tries together.
fn deadline_of(size_bytes: u64) -> Duration {
    GRACE + Duration::from_secs(size_bytes / SLOWEST_BYTES_PER_S)
}

/// The length of a file's pieces: the shortest power of two with which there are not too many.
fn length_of(size_bytes: u64) -> u64 {
    size_bytes
        .div_ceil(PIECES_MAX)
        .next_power_of_two()
        .max(LENGTH_MIN_BYTES)
}

impl Library {
    pub(crate) fn new(config: MetalinkSection) -> Result<Self, reqwest::Error> {
        Self::with_stall(config, STALL)
    }

    fn with_stall(config: MetalinkSection, stall: Duration) -> Result<Self, reqwest::Error> {
        Ok(Self(Arc::new(Inner {
            client: fetcher::web::client(stall, AT_ONCE)?,
            stall,
            known: Cache::with_weighter(1024, CACHE_BYTES, ByBytes),
            reading: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
            budget: Budget::new(config.pieces_per_hour.0),
        })))
    }

    /// A file's pieces; none when they cannot be had now. `urls` are where it may be read, the best first.
    pub(crate) async fn of(
        &self,
        file: &FileEntry,
        urls: impl FnOnce() -> Vec<String>,
    ) -> Option<Arc<Pieces>> {
        let length_bytes = length_of(file.size_bytes);
        if file.size_bytes <= length_bytes {
            let hashes = vec![file.digest];
            return Some(Arc::new(Pieces {
                length_bytes,
                hashes,
            }));
        }
        if let Some(known) = self.0.known.get(&file.digest) {
            return Some(known);
        }
        let mut ready = self.read(file, urls())?;
        // Read or not, the look below tells.
        timeout(PATIENCE, ready.wait_for(|ready| *ready)).await.ok();
        self.0.known.get(&file.digest)
    }

    /// Begins to read a file, unless somebody does already or too much was read.
    fn read(&self, file: &FileEntry, urls: Vec<String>) -> Option<Ready> {
        let mut reading = self
            .0
            .reading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = reading.get(&file.digest) {
            return Some(ready.clone());
        }
        if urls.is_empty() || reading.len() >= WAITING_MAX || !self.pay(file) {
            return None;
        }
        let (told, ready) = watch::channel(false);
        reading.insert(file.digest, ready.clone());
        let (this, file) = (self.clone(), *file);
        tokio::spawn(async move {
            // Fails only when the semaphore is closed, which it never is.
            let _turn = this.0.turns.acquire().await;
            let tried = timeout(deadline_of(file.size_bytes), this.try_all(&file, &urls));
            match tried.await {
                Ok(Some(pieces)) => this.0.known.insert(file.digest, Arc::new(pieces)),
                // Why is said already.
                Ok(None) => {}
                Err(_late) => {
                    tracing::warn!(file = %file.digest, "mirrors are too slow to read a file's pieces")
                }
            }
            let mut reading = this
                .0
                .reading
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            reading.remove(&file.digest);
            drop(reading);
            told.send_replace(true);
        });
        Some(ready)
    }

    fn pay(&self, file: &FileEntry) -> bool {
        self.0.budget.spend(file.size_bytes, Instant::now())
    }

    /// Reads a file from one mirror after the other; the first try is paid already.
    async fn try_all(&self, file: &FileEntry, urls: &[String]) -> Option<Pieces> {
        for (before, url) in urls.iter().take(TRIES_MAX).enumerate() {
            if before > 0 && !self.pay(file) {
                return None;
            }
            match self.read_from(file, url).await {
                Ok(pieces) => return Some(pieces),
                Err(why) => tracing::warn!(url, why, "a file's pieces cannot be read"),
            }
        }
        None
    }

    async fn read_from(&self, file: &FileEntry, url: &str) -> Result<Pieces, String> {
        let text = |error: reqwest::Error| wire::causes(&error);
        let mut pace = Pace::new(LEAST_BYTES, self.0.stall);
        let slow = |error: TooSlow| error.to_string();
        let asked = pace.wait(self.0.client.get(url).send()).await;
        let mut answer = asked.map_err(slow)?.map_err(text)?;
        if !answer.status().is_success() {
            return Err(format!("it answers {}", answer.status()));
        }
        let mut cutter = Cutter::new(length_of(file.size_bytes));
        loop {
            let next = pace.wait(answer.chunk()).await;
            let Some(chunk) = next.map_err(slow)?.map_err(text)? else {
                break;
            };
            pace.came(chunk.len());
            if cutter.read_bytes + chunk.len() as u64 > file.size_bytes {
                return Err("it is longer than signed".to_owned());
            }
            cutter.take(&chunk);
        }
        let (whole, pieces) = cutter.finish();
        if whole == file.digest {
            Ok(pieces)
        } else {
            Err("it has other bytes than signed".to_owned())
        }
    }
}

/// Cuts a stream into pieces, and hashes each and the whole.
struct Cutter {
    length_bytes: u64,
    read_bytes: u64,
    whole: Sha256,
    piece: Sha256,
    hashes: Vec<Digest>,
}

impl Cutter {
    fn new(length_bytes: u64) -> Self {
        Self {
            length_bytes,
            read_bytes: 0,
            whole: Sha256::new(),
            piece: Sha256::new(),
            hashes: Vec::new(),
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let left = self.length_bytes - self.read_bytes % self.length_bytes;
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let (piece, rest) = bytes.split_at(some);
            self.piece.update(piece);
            self.read_bytes += some as u64;
            bytes = rest;
            if self.read_bytes.is_multiple_of(self.length_bytes) {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        let piece = std::mem::take(&mut self.piece);
        self.hashes
            .push(Digest::from_bytes(piece.finalize().into()));
    }

    fn finish(mut self) -> (Digest, Pieces) {
        if !self.read_bytes.is_multiple_of(self.length_bytes) {
            self.cut();
        }
        let whole = Digest::from_bytes(self.whole.finalize().into());
        let Self {
            length_bytes,
            hashes,
            ..
        } = self;
        (
            whole,
            Pieces {
                length_bytes,
                hashes,
            },
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::http::StatusCode;
    use mirrorlog_core::manifest::Mode;
    use mirrorlog_core::time::Mtime;
    use runtime::boot::ByteSize;

    use super::*;

    const SIZE_BYTES: u64 = LENGTH_MIN_BYTES + 1;

    fn file(number: u64) -> FileEntry {
        FileEntry {
            size_bytes: SIZE_BYTES,
            digest: Digest::of(&number.to_be_bytes()),
            mode: Mode::Plain,
            mtime: Mtime::from_seconds(0),
        }
    }

    fn library(hourly_bytes: u64) -> Library {
        let pieces_per_hour = ByteSize(hourly_bytes);
        Library::new(MetalinkSection { pieces_per_hour }).unwrap()
    }

    /// A mirror that has nothing, and how often it was asked.
    async fn empty_mirror() -> (String, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let router = axum::Router::new().fallback(move || {
            count.fetch_add(1, Ordering::Relaxed);
            async { StatusCode::NOT_FOUND }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, asked)
    }

    #[tokio::test]
    async fn every_try_is_paid_for() {
        let (url, asked) = empty_mirror().await;
        let library = library(5 * SIZE_BYTES);
        let urls = || vec![url.clone(); 5];
        let mut after = Vec::new();
        for number in 0..3 {
            assert_eq!(library.of(&file(number), urls).await, None);
            after.push(asked.load(Ordering::Relaxed));
        }
        assert_eq!(after, [3, 5, 5]);
    }

    /// One that answers with these parts, a moment after each other, and counts what was sent.
    async fn mirror(part: Vec<u8>, pause: Duration) -> (String, Arc<AtomicU32>) {
        let sent = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&sent);
        let router = axum::Router::new().fallback(move || {
            let parts = (part.clone(), Arc::clone(&count));
            let parts = futures::stream::unfold(parts, move |(part, count)| async move {
                tokio::time::sleep(pause).await;
                count.fetch_add(1, Ordering::Relaxed);
                let bytes = axum::body::Bytes::from(part.clone());
                Some((Ok::<_, std::io::Error>(bytes), (part, count)))
            });
            async { axum::body::Body::from_stream(parts) }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, sent)
    }

    #[tokio::test]
    async fn attack_a_mirror_that_drips_leaves_time_for_the_next() {
        let bytes: Vec<u8> = (0..SIZE_BYTES).map(|at| (at % 251) as u8).collect();
        let file = FileEntry {
            digest: Digest::of(&bytes),
            ..file(0)
        };
        let (drips, _) = mirror(vec![0], Duration::from_millis(50)).await;
        // Ends when the client goes away.
        let good = axum::Router::new().fallback(move || std::future::ready(bytes.clone()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good_url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, good).await });
        let section = MetalinkSection {
            pieces_per_hour: ByteSize(10 * SIZE_BYTES),
        };
        let library = Library::with_stall(section, Duration::from_secs(2)).unwrap();
        let begun = Instant::now();
        let pieces = library.of(&file, || vec![drips, good_url]).await;
        assert_eq!(pieces.unwrap().hashes.len(), 2);
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn attack_a_body_without_end_is_left_at_the_signed_size() {
        const PART_BYTES: usize = 16 * 1024;
        let (endless, sent) = mirror(vec![7; PART_BYTES], Duration::from_millis(1)).await;
        let library = library(10 * SIZE_BYTES);
        assert_eq!(library.of(&file(0), || vec![endless]).await, None);
        // What the sockets took before the server saw that nobody reads, and no more.
        let after = sent.load(Ordering::Relaxed) as usize * PART_BYTES;
        assert!(after < SIZE_BYTES as usize + (8 << 20), "{after}");
    }

    #[tokio::test]
    async fn without_a_budget_or_a_mirror_nothing_is_read() {
        let (url, asked) = empty_mirror().await;
        let urls = || vec![url.clone()];
        assert_eq!(library(0).of(&file(0), urls).await, None);
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        let library = library(SIZE_BYTES);
        assert_eq!(library.of(&file(0), Vec::new).await, None);
        library.of(&file(0), urls).await;
        assert_eq!(asked.load(Ordering::Relaxed), 1, "nobody was not paid for");
        let small = FileEntry {
            size_bytes: 1,
            ..file(1)
        };
        assert!(library.of(&small, Vec::new).await.is_some());
    }

    #[test]
    fn the_budget_comes_back_after_an_hour() {
        let (budget, now) = (Budget::new(10), Instant::now());
        assert!(budget.spend(10, now) && !budget.spend(1, now));
        let later = now + HOUR + Duration::from_secs(1);
        assert!(!budget.spend(11, later) && budget.spend(10, later));
        assert!(!budget.spend(u64::MAX, later));
    }

    #[test]
    fn a_slow_file_has_its_time() {
        assert_eq!(deadline_of(0), GRACE);
        assert_eq!(deadline_of(600 << 20), GRACE + Duration::from_secs(600));
    }

    #[test]
    fn pieces_are_those_of_the_file_however_it_comes() {
        let bytes: Vec<u8> = (0..1000u32).flat_map(u32::to_be_bytes).collect();
        for (length, step) in [(512, 7), (512, 512), (1000, 4000), (4000, 1), (100, 333)] {
            let mut cutter = Cutter::new(length);
            for chunk in bytes.chunks(step) {
                cutter.take(chunk);
            }
            let (whole, pieces) = cutter.finish();
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let expected: Vec<Digest> = bytes.chunks(length).map(Digest::of).collect();
            assert_eq!((whole, pieces.hashes), (Digest::of(&bytes), expected));
        }
    }

    #[test]
    fn no_file_has_too_many_pieces() {
        for size_bytes in [1, LENGTH_MIN_BYTES, 300_000_000, 1 << 40, u64::MAX >> 1] {
            let length = length_of(size_bytes);
            assert!(size_bytes.div_ceil(length) <= PIECES_MAX, "{size_bytes}");
            assert!(length.is_power_of_two());
        }
    }
}
