//! Which want is served by which source, and what is left: the shared state of one fetch.
//!
//! A job is in exactly one place: a source's queue, a session, a writer's queue. Each ends by one of
//! `stored`, `absent`, `failed`, or comes back by `route`. Every lock is short and never held over IO.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mirrorlog_core::id::Digest;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Failure, FetchError, Fetched, Kind, PARTIAL_ABOVE_BYTES, Source, SourceStats, Wanted};

/// Most jobs between the caller's stream and the disk.
const JOBS_MAX: usize = 16 * 1024;
/// Most large blobs at a time: each holds a file open.
const LARGE_MAX: usize = 16;
/// A source that is the only one left is dropped after this many wrong answers.
const WRONG_MAX: u64 = 16;

/// A set of sources by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    pub(super) fn insert(&mut self, source: usize) {
        self.0 |= 1 << source;
    }
    pub(super) fn contains(self, source: usize) -> bool {
        self.0 & (1 << source) != 0
    }
    pub(super) fn is_only(self, source: usize) -> bool {
        self.0 == 1 << source
    }
}

/// A want on its way.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) kind: Kind,
    /// Where to go on inside a large blob.
    pub(super) offset: u64,
    /// Who contributed to a large blob's bytes so far; an earlier fetch counts as [`EARLIER`].
    pub(super) from: Set,
    /// Large, but kept in memory: another fetch holds its partial file.
    pub(super) in_memory: bool,
    absent_at: Set,
    failed_at: Set,
    reason: Option<String>,
}

/// Stands in [`Job::from`] for bytes that were here before this fetch.
pub(super) const EARLIER: usize = super::SOURCES_MAX;

impl Job {
    pub(super) fn is_large(&self) -> bool {
        self.kind == Kind::Blob && self.size_bytes > PARTIAL_ABOVE_BYTES
    }

    /// Whether it is written to a partial file as it comes.
    pub(super) fn is_partial(&self) -> bool {
        self.is_large() && !self.in_memory
    }

    /// `source` could not deliver it in this fetch.
    pub(super) fn fail(&mut self, source: usize, reason: String) {
        self.failed_at.insert(source);
        self.reason = Some(reason);
    }
}

impl From<Wanted> for Job {
    fn from(wanted: Wanted) -> Self {
        Self {
            digest: wanted.digest,
            size_bytes: wanted.size_bytes,
            kind: wanted.kind,
            offset: 0,
            from: Set::default(),
            in_memory: false,
            absent_at: Set::default(),
            failed_at: Set::default(),
            reason: None,
        }
    }
}

/// The shared state of one fetch.
pub(super) struct Board {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

struct State {
    sources: Vec<SourceState>,
    /// Digests of jobs that are not settled.
    open: HashSet<Digest>,
    large: usize,
    /// Jobs whose partial file another fetch holds.
    busy: Vec<Job>,
    /// The caller's stream has ended.
    fed: bool,
    fatal: Option<FetchError>,
    result: Fetched,
}

struct SourceState {
    queue: VecDeque<Job>,
    down_until: Option<Instant>,
    stats: SourceStats,
}

/// What a session may do for its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Ready,
    /// Nothing before then.
    DownUntil(Instant),
    Nothing,
    Dropped,
}

impl Board {
    pub(super) fn new(sources: &[Source]) -> Self {
        let source = |source: &Source| SourceState {
            queue: VecDeque::new(),
            down_until: None,
            stats: SourceStats {
                address: source.address().to_owned(),
                ..SourceStats::default()
            },
        };
        let state = State {
            sources: sources.iter().map(source).collect(),
            open: HashSet::new(),
            large: 0,
            busy: Vec::new(),
            fed: false,
            fatal: None,
            result: Fetched::default(),
        };
        Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
        }
    }

    /// Wakes whenever something below may answer differently.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Registers a want. `None` if its digest is open already.
    pub(super) fn open(&self, wanted: Wanted) -> Option<Job> {
        let job = Job::from(wanted);
        let mut state = self.lock();
        if !state.open.insert(job.digest) {
            return None;
        }
        Some(job)
    }

    pub(super) fn has_room(&self) -> bool {
        self.lock().open.len() < JOBS_MAX
    }

    pub(super) fn has_room_for_large(&self) -> bool {
        self.lock().large < LARGE_MAX
    }

    /// A large blob is begun.
    pub(super) fn start_large(&self) {
        self.lock().large += 1;
    }

    /// The caller's stream has ended.
    pub(super) fn fed(&self) {
        self.lock().fed = true;
        self.wake();
    }

    /// Whether nothing is left to do, for good or ill.
    pub(super) fn is_over(&self) -> bool {
        let state = self.lock();
        state.fatal.is_some() || (state.fed && state.open.is_empty())
    }

    pub(super) fn fail(&self, error: FetchError) {
        self.lock().fatal.get_or_insert(error);
        self.wake();
    }

    pub(super) fn take_fatal(&self) -> Option<FetchError> {
        self.lock().fatal.take()
    }

    pub(super) fn take_result(&self) -> Fetched {
        let mut state = self.lock();
        let mut result = std::mem::take(&mut state.result);
        result.sources = state
            .sources
            .iter()
            .map(|source| source.stats.clone())
            .collect();
        result
    }

    /// Queues a job at the best source, or settles it when none is left: then it returns false.
    pub(super) fn route(&self, job: Job) -> bool {
        let queued = self.lock().route(job);
        self.wake();
        queued
    }

    pub(super) fn work(&self, source: usize) -> Work {
        let mut state = self.lock();
        let source = &mut state.sources[source];
        if source.stats.dropped {
            return Work::Dropped;
        }
        if source.queue.is_empty() {
            return Work::Nothing;
        }
        match source.down_until {
            Some(until) if until > Instant::now() => Work::DownUntil(until),
            Some(_) | None => Work::Ready,
        }
    }

    /// Up to `count` jobs for a source.
    pub(super) fn take(&self, source: usize, count: usize) -> Vec<Job> {
        let mut state = self.lock();
        let queue = &mut state.sources[source].queue;
        let count = count.min(queue.len());
        queue.drain(..count).collect()
    }

    pub(super) fn is_dropped(&self, source: usize) -> bool {
        self.lock().sources[source].stats.dropped
    }

    /// A job is done: `bytes` long, and from `source` unless it was here already.
    pub(super) fn stored(&self, job: &Job, source: Option<usize>, bytes: u64) {
        let mut state = self.lock();
        state.result.files += 1;
        state.result.bytes += bytes;
        if let Some(source) = source {
            state.sources[source].stats.files += 1;
        }
        if state.close(job) {
            drop(state);
            self.wake();
        }
    }

    pub(super) fn received(&self, source: usize, bytes: u64) {
        self.lock().sources[source].stats.received_bytes += bytes;
    }

    /// `source` does not have it. The caller routes the job again.
    pub(super) fn absent(&self, job: &mut Job, source: usize) {
        job.absent_at.insert(source);
        self.lock().sources[source].stats.absent += 1;
    }

    /// `source` sent bytes of another digest, or broke the protocol. The caller routes the job again.
    pub(super) fn wrong(&self, job: &mut Job, source: usize, reason: &str) {
        let address = {
            let mut state = self.lock();
            let usable = state
                .sources
                .iter()
                .filter(|source| !source.stats.dropped)
                .count();
            let stats = &mut state.sources[source].stats;
            stats.wrong += 1;
            stats.dropped |= usable > 1 || stats.wrong >= WRONG_MAX;
            let address = stats.address.clone();
            job.fail(source, format!("{address}: {reason}"));
            if state.sources.iter().all(|source| source.stats.dropped) {
                state
                    .fatal
                    .get_or_insert(FetchError::AllDropped { digest: job.digest });
            } else if state.sources[source].stats.dropped {
                state.reroute(source);
            }
            address
        };
        tracing::warn!(source = address, digest = %job.digest, reason, "source sent wrong bytes");
        self.wake();
    }

    /// The connection was lost: others stand in until then.
    pub(super) fn down(&self, source: usize, until: Instant) {
        {
            let mut state = self.lock();
            state.sources[source].stats.lost += 1;
            state.sources[source].down_until = Some(until);
            state.reroute(source);
        }
        self.wake();
    }

    /// The connection works.
    pub(super) fn up(&self, source: usize) {
        self.lock().sources[source].down_until = None;
    }

    /// Another fetch is receiving it: see [`Self::take_busy`].
    pub(super) fn busy(&self, job: Job) {
        self.lock().busy.push(job);
    }

    pub(super) fn take_busy(&self) -> Vec<Job> {
        std::mem::take(&mut self.lock().busy)
    }

    fn wake(&self) {
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn route(&mut self, job: Job) -> bool {
        let now = Instant::now();
        let fits = |(index, source): &(usize, &mut SourceState)| {
            !source.stats.dropped
                && !job.absent_at.contains(*index)
                && !job.failed_at.contains(*index)
        };
        // The first that is up; else the one that is up again first.
        let wait = |source: &SourceState| source.down_until.map_or(now, |until| until.max(now));
        let best = self
            .sources
            .iter_mut()
            .enumerate()
            .filter(fits)
            .min_by_key(|(_, source)| wait(source));
        if let Some((_, source)) = best {
            source.queue.push_back(job);
            return true;
        }
        self.close(&job);
        // A source that was dropped before it was asked has not said "absent".
        let unasked =
            self.sources.iter().enumerate().find(|(index, _)| {
                !job.absent_at.contains(*index) && !job.failed_at.contains(*index)
            });
        let unasked = unasked.map(|(_, source)| format!("{}: dropped", source.stats.address));
        match job.reason.or(unasked) {
            Some(reason) => self.result.failed.push(Failure {
                digest: job.digest,
                reason,
            }),
            None => self.result.absent.push(job.digest),
        }
        false
    }

    fn reroute(&mut self, source: usize) {
        for job in std::mem::take(&mut self.sources[source].queue) {
            self.route(job);
        }
    }

    /// Settles a job; true if someone may wait for that.
    fn close(&mut self, job: &Job) -> bool {
        let was_full = self.open.len() >= JOBS_MAX;
        self.open.remove(&job.digest);
        if job.is_large() {
            self.large -= 1;
        }
        was_full || job.is_large() || self.open.is_empty()
    }
}
