//! Which want is served by which source, and what is left: the shared state of one fetch.
//!
//! A job is in exactly one place: a source's queue, what waits for a peer, the large ones that wait for a slot, a
//! session, a writer's queue. Each ends by one of `stored`, `absent`, `failed`, or comes back by `route`. Every lock is
//! short and never held over IO.

mod share;

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirrorlog_core::id::{Digest, Lane};
use tokio::sync::watch;
use tokio::time::Instant;

use self::share::{Neighbour, Sharing};
use super::{
    Failure, FetchError, FetchOptions, Fetched, Kind, PARTIAL_ABOVE_BYTES, Source, SourceStats,
    Wanted,
};

/// Most jobs between the caller's stream and the disk.
const JOBS_MAX: usize = 16 * 1024;
/// Most large blobs at a time: each holds a file open.
const LARGE_MAX: usize = 16;
/// A source that is the only one left is dropped after this many wrong answers.
const WRONG_MAX: u64 = 16;
/// A peer that was lost is left alone for this long; it may be starting anew.
const LOST_SHUN: Duration = Duration::from_secs(30);
/// A peer that sent wrong bytes is left alone for this long.
const WRONG_SHUN: Duration = Duration::from_secs(600);

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
    /// Large, and one of the few that may have a file open.
    has_slot: bool,
    /// Counts the wants in the order in which they came.
    number: u64,
    /// The peer that it waits for, and since when.
    waits: Option<(usize, Instant)>,
    /// Has waited for its peer, which is to be asked now.
    is_due: bool,
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
            has_slot: false,
            number: 0,
            waits: None,
            is_due: false,
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
    sharing: Option<Sharing>,
    /// Digests of jobs that are not settled.
    open: HashSet<Digest>,
    /// Wants that came so far.
    wanted: u64,
    /// Large blobs that have a slot.
    large: usize,
    /// Large blobs that wait for one.
    large_ready: VecDeque<Job>,
    /// Large blobs with a slot that a source was to bring and does not: their place is to be found again.
    unplaced: Vec<Job>,
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
    /// A mirror of the same pool; `None` for sources that were given as such.
    peer: Option<Neighbour>,
}

impl SourceState {
    fn new(source: &Source, peer: Option<Neighbour>) -> Self {
        Self {
            queue: VecDeque::new(),
            down_until: None,
            stats: SourceStats {
                address: source.address().to_owned(),
                ..SourceStats::default()
            },
            peer,
        }
    }

    fn is_up(&self, now: Instant) -> bool {
        self.down_until.is_none_or(|until| until <= now)
    }

    fn shun(&self, sharing: Option<&Sharing>, time: Duration) {
        if let Some((peer, sharing)) = self.peer.as_ref().zip(sharing) {
            sharing.shunned.shun(&peer.id, time);
        }
    }
}

/// Where a job went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routed {
    /// A source is asked for it.
    Queued,
    /// It comes back later.
    Waiting,
    /// Nobody has it.
    Settled,
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
    pub(super) fn new(sources: &[Source], options: &FetchOptions) -> Self {
        let sharing = options.peers.as_ref();
        let sharing = sharing.map(|peers| Sharing::new(peers, options.lane == Lane::Bulk));
        let sources = sources.iter().map(|source| SourceState::new(source, None));
        let state = State {
            sources: sources.collect(),
            sharing,
            open: HashSet::new(),
            wanted: 0,
            large: 0,
            large_ready: VecDeque::new(),
            unplaced: Vec::new(),
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
        let mut job = Job::from(wanted);
        let mut state = self.lock();
        if !state.open.insert(job.digest) {
            return None;
        }
        state.wanted += 1;
        job.number = state.wanted;
        Some(job)
    }

    pub(super) fn has_room(&self) -> bool {
        self.lock().open.len() < JOBS_MAX
    }

    /// The next large blob that may be begun; it has a slot from now on.
    pub(super) fn start_large(&self) -> Option<Job> {
        let mut state = self.lock();
        if state.large >= LARGE_MAX {
            return None;
        }
        let mut job = state.large_ready.pop_front()?;
        job.has_slot = true;
        state.large += 1;
        Some(job)
    }

    /// The caller's stream has ended.
    pub(super) fn fed(&self) {
        self.lock().fed = true;
        self.wake();
    }

    /// Peers among those that contributed to a blob of a wrong digest, when nobody can be blamed: they are not asked for it
    /// again.
    pub(super) fn doubt(&self, job: &mut Job, from: Set) {
        let state = self.lock();
        for (index, source) in state.sources.iter().enumerate() {
            if from.contains(index) && source.peer.is_some() {
                job.fail(
                    index,
                    format!("{}: perhaps wrong bytes", source.stats.address),
                );
            }
        }
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

    /// Queues a job at the best source, lets it wait for a peer or a slot, or settles it when no source is left.
    pub(super) fn route(&self, job: Job) -> Routed {
        let routed = self.lock().route(job);
        self.wake();
        routed
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
        let mut wakes = false;
        if let Some(source) = source {
            state.sources[source].stats.files += 1;
            wakes = state.gained(source);
        }
        if state.close(job) || wakes {
            drop(state);
            self.wake();
        }
    }

    /// `bytes` came from a source, `content_bytes` of them content.
    pub(super) fn received(&self, source: usize, bytes: u64, content_bytes: u64) {
        let mut state = self.lock();
        state.sources[source].stats.received_bytes += bytes;
        if content_bytes > 0 {
            state.received(source, content_bytes);
        }
    }

    /// `source` does not have it. The caller routes the job again.
    pub(super) fn absent(&self, job: &mut Job, source: usize) {
        let mut state = self.lock();
        state.sources[source].stats.absent += 1;
        if !state.may_still_come(job, source) {
            job.absent_at.insert(source);
        }
    }

    /// `source` sent bytes of another digest, or broke the protocol. The caller routes the job again.
    pub(super) fn wrong(&self, job: &mut Job, source: usize, reason: &str) {
        let address = {
            let mut state = self.lock();
            let State {
                sources, sharing, ..
            } = &mut *state;
            let given = |source: &&SourceState| source.peer.is_none() && !source.stats.dropped;
            let usable = sources.iter().filter(given).count();
            let by = &mut sources[source];
            by.stats.wrong += 1;
            by.stats.dropped |= by.peer.is_some() || usable > 1 || by.stats.wrong >= WRONG_MAX;
            by.shun(sharing.as_ref(), WRONG_SHUN);
            let address = by.stats.address.clone();
            job.fail(source, format!("{address}: {reason}"));
            if !sources.iter().any(|source| given(&source)) {
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
            let State {
                sources, sharing, ..
            } = &mut *state;
            let lost = &mut sources[source];
            lost.stats.lost += 1;
            lost.down_until = Some(until);
            lost.shun(sharing.as_ref(), LOST_SHUN);
            if let Some(peer) = lost.peer.as_mut() {
                peer.left();
                // Twice is enough for one fetch.
                lost.stats.dropped |= lost.stats.lost > 1;
            }
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
    fn route(&mut self, mut job: Job) -> Routed {
        let now = Instant::now();
        let best = self.share_of(&job, now).or_else(|| self.best(&job, now));
        let Some(best) = best else {
            return self.settle(job);
        };
        let peer = self.sources[best].peer.as_mut();
        if let Some(peer) = peer.filter(|_| !job.is_due) {
            if std::mem::take(&mut job.has_slot) {
                self.large -= 1;
            }
            if job.waits.is_none_or(|(peer, _)| peer != best) {
                job.waits = Some((best, now));
            }
            peer.wait(job);
            return Routed::Waiting;
        }
        if job.is_partial() && !job.has_slot {
            self.large_ready.push_back(job);
            return Routed::Waiting;
        }
        self.sources[best].queue.push_back(job);
        Routed::Queued
    }

    /// The first given source that is up; else a peer; else the source that is up again first.
    fn best(&self, job: &Job, now: Instant) -> Option<usize> {
        let fits = |(index, source): &(usize, &SourceState)| {
            !source.stats.dropped
                && !job.absent_at.contains(*index)
                && !job.failed_at.contains(*index)
        };
        let sources = || self.sources.iter().enumerate().filter(fits);
        let given = || sources().filter(|(_, source)| source.peer.is_none());
        let wait = |source: &SourceState| source.down_until.map_or(now, |until| until.max(now));
        let up = given().find(|(_, source)| source.is_up(now));
        let up = up.map(|(index, _)| index);
        up.or_else(|| self.stand_in(job, now))
            .or_else(|| Some(given().min_by_key(|(_, source)| wait(source))?.0))
    }

    /// No source is left for a job.
    fn settle(&mut self, job: Job) -> Routed {
        self.close(&job);
        // A source that was dropped before it was asked has not said "absent".
        let unasked = self.sources.iter().enumerate().find(|(index, source)| {
            source.peer.is_none()
                && !job.absent_at.contains(*index)
                && !job.failed_at.contains(*index)
        });
        let unasked = unasked.map(|(_, source)| format!("{}: dropped", source.stats.address));
        match job.reason.or(unasked) {
            Some(reason) => self.result.failed.push(Failure {
                digest: job.digest,
                reason,
            }),
            None => self.result.absent.push(job.digest),
        }
        Routed::Settled
    }

    fn reroute(&mut self, source: usize) {
        let source = &mut self.sources[source];
        let waiting = source.peer.as_mut().map(Neighbour::take_waiting);
        let queued = std::mem::take(&mut source.queue);
        for mut job in queued.into_iter().chain(waiting.into_iter().flatten()) {
            job.is_due = false;
            if job.has_slot {
                self.unplaced.push(job);
            } else {
                self.route(job);
            }
        }
    }

    /// Settles a job; true if someone may wait for that.
    fn close(&mut self, job: &Job) -> bool {
        let was_full = self.open.len() >= JOBS_MAX;
        self.open.remove(&job.digest);
        if job.has_slot {
            self.large -= 1;
        }
        was_full || job.is_large() || self.open.is_empty()
    }
}
