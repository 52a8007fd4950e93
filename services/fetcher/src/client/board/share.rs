//! Shares: which peer brings which blob, how long it is waited for, and when others take its share over.
//!
//! Of the mirrors that bring one build, the heaviest in rendezvous order fetches a blob from the archive, and the others
//! wait for it. Whatever is to come from a peer, whole or on its way, waits in its list and is asked for in steps, so that it
//! can be given to another one. Waiting costs nothing while a mirror's own share comes. After that a peer has
//! [`PATIENCE`] from its last bytes, more if it says that it makes progress; one that is so slow that others would be done
//! long before has [`DRAG`]. Then its share is divided anew among the rest.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use mirrorlog_core::id::{Digest, MirrorId};
use mirrorlog_core::mirror::peers::Place;
use tokio::time::Instant;

use super::{Board, Job, Kind, SourceState, State};
use crate::client::peers::{Peer, Peers, Shunned};
use crate::client::{SOURCES_MAX, Source};

/// A peer that brings nothing for this long, while there is nothing else to do, is not waited for. Up to half as long
/// again, by chance, so that not all go to the archive at once.
const PATIENCE: Duration = Duration::from_secs(4);
/// A peer that says that it makes progress is given this long, or half as long as this mirror's own share took.
const PATIENCE_WITH_PROGRESS: Duration = Duration::from_secs(15);
/// But no longer than this.
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// When half of the peers are done, one that would take longer than this for the rest is not waited for.
const DRAG: Duration = Duration::from_secs(20);
/// A peer that is the only one, and slower than this in bytes a second, is not waited for.
const RATE_MIN: f64 = 256.0 * 1024.0;
/// Progress that was announced counts for this long.
const PROGRESS_COUNTS: Duration = Duration::from_secs(4);
/// A peer that brought nothing is left alone for this long.
const SLOW_SHUN: Duration = Duration::from_secs(60);
/// Pause before a peer that lacked something is asked again.
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// A peer is asked for so much at first, and for twice as much whenever it has brought most of it in half this time.
const ASK_FIRST_BYTES: u64 = 256 * 1024;
const ASK_MAX_BYTES: u64 = 64 * 1024 * 1024;
const ASK_TIME: Duration = Duration::from_secs(1);
/// Longest that it is not asked for more while it answers.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// What a blob counts for beside its bytes.
const ASK_COST_BYTES: u64 = 16 * 1024;
/// Weight of the newest tenth of a second in a source's rate: about three seconds count.
const RATE_WEIGHT: f64 = 0.03;
/// Rates are taken this often.
const RATE_EVERY: Duration = Duration::from_millis(100);

/// What a fetch knows of its peers as a whole.
pub(super) struct Sharing {
    root: Digest,
    own: Option<Place>,
    /// False on the priority lane, which waits for nobody.
    waits: bool,
    pub(super) shunned: Shunned,
    began: Instant,
    /// When the sources that were given sent something last.
    own_share_at: Instant,
    /// What they sent.
    own_bytes: u64,
    /// Whether one of them was down at the last look.
    was_down: bool,
    rated_at: Instant,
}

impl Sharing {
    pub(super) fn new(peers: &Peers, waits: bool) -> Self {
        let now = Instant::now();
        Self {
            root: peers.root,
            own: peers.own,
            waits: waits && peers.shares,
            shunned: peers.shunned.clone(),
            began: now,
            own_share_at: now,
            own_bytes: 0,
            was_down: false,
            rated_at: now,
        }
    }

    pub(super) fn own_share_came(&mut self, bytes: u64) {
        self.own_share_at = Instant::now();
        self.own_bytes += bytes;
    }
}

/// A peer, as one fetch sees it.
pub(super) struct Neighbour {
    pub(super) id: MirrorId,
    place: Place,
    /// It is in the table, and not shunned.
    is_there: bool,
    /// It has the whole build, as it says.
    is_whole: bool,
    /// It was waited for in vain: it has no share in this fetch any more.
    is_slow: bool,
    /// What it is to bring, in the order in which it was wanted.
    waiting: BTreeMap<u64, Job>,
    /// How long it is waited for.
    patience: Duration,
    /// How much of it it is asked for next, and when at the latest.
    ask_bytes: u64,
    ask_at: Instant,
    /// What it was asked for last: when, how many blobs, how many of them it has not answered.
    asked_at: Instant,
    asked: usize,
    unanswered: usize,
    /// It lacked one of them: it is not asked again before its time.
    lacked: bool,
    /// When it sent content last, how much in all, and how fast.
    gained_at: Instant,
    gained_bytes: u64,
    rated_bytes: u64,
    rate: f64,
    /// When it said last that it had received more than before.
    moved_at: Instant,
    received_bytes: u64,
}

impl Neighbour {
    fn new(peer: &Peer, now: Instant) -> Self {
        Self {
            id: peer.id.clone(),
            place: Place::of(&peer.id),
            is_there: true,
            is_whole: false,
            is_slow: false,
            waiting: BTreeMap::new(),
            patience: PATIENCE + PATIENCE.mul_f64(chance() / 2.0),
            ask_bytes: ASK_FIRST_BYTES,
            ask_at: now,
            asked_at: now,
            asked: 0,
            unanswered: 0,
            lacked: false,
            gained_at: now,
            gained_bytes: 0,
            rated_bytes: 0,
            rate: 0.0,
            moved_at: now,
            received_bytes: peer.received_bytes,
        }
    }

    /// It was waited for in vain.
    pub(super) fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Its connection is gone: it is not asked before the table names it again.
    pub(super) fn left(&mut self) {
        self.is_there = false;
    }

    pub(super) fn wait(&mut self, job: Job) {
        self.waiting.insert(job.number, job);
    }

    pub(super) fn take_waiting(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    /// Whether it was waited for long enough.
    fn is_overdue(&self, sharing: &Sharing, now: Instant) -> bool {
        let last = self.gained_at.max(sharing.own_share_at);
        let own_share = sharing
            .own_share_at
            .saturating_duration_since(sharing.began);
        let moves = now.saturating_duration_since(self.moved_at) < PROGRESS_COUNTS;
        let patience = match moves {
            true => PATIENCE_WITH_PROGRESS.max(own_share / 2).min(PATIENCE_MAX),
            false => self.patience,
        };
        // What was given to it a moment ago has not waited yet.
        let oldest = self.waiting.values().filter_map(|job| Some(job.waits?.1));
        let last = oldest.min().map_or(last, |oldest| last.max(oldest));
        now.saturating_duration_since(last) > patience
    }

    /// Bytes that wait for it.
    fn waiting_bytes(&self) -> f64 {
        let bytes: u64 = self.waiting.values().map(|job| job.size_bytes).sum();
        bytes as f64
    }

    /// Whether it still takes long for what waits for it: while `others_are_done`, or at a rate that is not worth waiting
    /// for where it is the only one.
    fn drags(&self, others_are_done: bool, has_own_share: bool, now: Instant) -> bool {
        let oldest = self.waiting.values().filter_map(|job| Some(job.waits?.1));
        let waited = |since: Instant| now.saturating_duration_since(since) > DRAG;
        if !oldest.min().is_some_and(waited) || self.gained_bytes == 0 {
            return false;
        }
        let seconds = self.waiting_bytes() / self.rate.max(1.0);
        let late = others_are_done && seconds > DRAG.as_secs_f64();
        late || (!has_own_share && self.rate < RATE_MIN)
    }

    /// What it was asked for is still coming; not for ever, for what it refused is not counted.
    fn is_answering(&self, now: Instant) -> bool {
        let recent = now.saturating_duration_since(self.asked_at) < ANSWER_TIME;
        self.unanswered > 0 && !self.lacked && recent
    }

    fn take_rate(&mut self, steps: i32) {
        let new = self.gained_bytes - std::mem::replace(&mut self.rated_bytes, self.gained_bytes);
        let weight = 1.0 - (1.0 - RATE_WEIGHT).powi(steps);
        let now = new as f64 / (RATE_EVERY.as_secs_f64() * f64::from(steps));
        self.rate += (now - self.rate) * weight;
    }
}

impl Board {
    /// Takes over who is there; returns the sources that are new, to be served.
    pub(in crate::client) fn take_peers(&self, table: &[Peer]) -> Vec<(usize, Source)> {
        let new = self.lock().take_peers(table, Instant::now());
        self.wake();
        new
    }

    /// Asks peers again whose time has come, and gives up those that are overdue.
    pub(in crate::client) fn look_at_peers(&self) {
        if self.lock().look_at_peers(Instant::now()) {
            self.wake();
        }
    }

    /// Large blobs whose place is to be found again.
    pub(in crate::client) fn take_unplaced(&self) -> Vec<Job> {
        std::mem::take(&mut self.lock().unplaced)
    }

    /// Whether a source is a peer that is not waited for any more.
    pub(in crate::client) fn is_given_up(&self, source: usize) -> bool {
        let state = self.lock();
        state.sources[source]
            .peer
            .as_ref()
            .is_some_and(Neighbour::is_slow)
    }

    /// Whether a source is a peer.
    pub(in crate::client) fn is_peer(&self, source: usize) -> bool {
        self.lock().sources[source].peer.is_some()
    }
}

impl State {
    /// The peer that brings a job here, whole or a share of the build; `None` when this mirror fetches it itself.
    pub(super) fn share_of(&self, job: &Job, now: Instant) -> Option<usize> {
        let sharing = self.sharing.as_ref().filter(|sharing| sharing.waits)?;
        if job.kind == Kind::Page {
            return None;
        }
        let (index, peer) = self.heaviest(job, now)?;
        let own = sharing.own.filter(|_| !peer.is_whole);
        let weighs_less = |own: Place| own.weight(&job.digest) < peer.place.weight(&job.digest);
        own.is_none_or(weighs_less).then_some(index)
    }

    /// The peer that is asked when no given source is up, or none has it.
    pub(super) fn stand_in(&self, job: &Job, now: Instant) -> Option<usize> {
        Some(self.heaviest(job, now)?.0)
    }

    /// Of the peers that have the build, or else of those that are bringing it, the one to ask for a job.
    fn heaviest(&self, job: &Job, now: Instant) -> Option<(usize, &Neighbour)> {
        let peers = self
            .sources
            .iter()
            .enumerate()
            .filter_map(|(index, source)| {
                let peer = source.peer.as_ref()?;
                let asked = job.absent_at.contains(index) || job.failed_at.contains(index);
                let usable = peer.is_there && !asked && !source.stats.dropped && source.is_up(now);
                (usable && !peer.is_slow).then_some((index, peer))
            });
        peers.max_by_key(|(_, peer)| (peer.is_whole, peer.place.weight(&job.digest)))
    }

    /// Whether a source that lacks a job now may bring it later: a peer that is at it, while others may still have it.
    pub(super) fn may_still_come(&mut self, job: &mut Job, source: usize) -> bool {
        let given = self.sources.iter().enumerate();
        let mut given = given.filter(|(_, source)| source.peer.is_none());
        let nobody_else = given.all(|(index, source)| {
            source.stats.dropped || job.absent_at.contains(index) || job.failed_at.contains(index)
        });
        let Some(peer) = self.sources[source].peer.as_mut() else {
            return false;
        };
        job.is_due = false;
        peer.unanswered = peer.unanswered.saturating_sub(1);
        (peer.ask_bytes, peer.lacked) = (ASK_FIRST_BYTES, true);
        peer.ask_at = Instant::now() + ASK_PAUSE;
        !peer.is_whole && !nobody_else
    }

    /// Content has come from a source.
    pub(super) fn received(&mut self, source: usize, bytes: u64) {
        let from = &mut self.sources[source];
        match (&mut from.peer, &mut self.sharing) {
            (Some(peer), _) => {
                peer.gained_at = Instant::now();
                peer.gained_bytes += bytes;
            }
            (None, Some(sharing)) => sharing.own_share_came(bytes),
            (None, None) => {}
        }
    }

    /// A source delivered a blob; true when it is asked for more at once.
    pub(super) fn gained(&mut self, source: usize) -> bool {
        let Some(peer) = self.sources[source].peer.as_mut() else {
            return false;
        };
        peer.unanswered = peer.unanswered.saturating_sub(1);
        self.ask(source, Instant::now())
    }

    /// Asks a peer for the next of what it is to bring; true when it did.
    fn ask(&mut self, source: usize, now: Instant) -> bool {
        let Self {
            sources,
            large_ready,
            ..
        } = self;
        let SourceState { queue, peer, .. } = &mut sources[source];
        let Some(peer) = peer.as_mut() else {
            return false;
        };
        if !queue.is_empty() || peer.waiting.is_empty() {
            return false;
        }
        let brought = !peer.lacked && peer.asked > 0 && peer.unanswered <= peer.asked / 4;
        if brought {
            let took = now.saturating_duration_since(peer.asked_at);
            if took < ASK_TIME / 2 {
                peer.ask_bytes = (peer.ask_bytes * 2).min(ASK_MAX_BYTES);
            } else if took > ASK_TIME {
                peer.ask_bytes = (peer.ask_bytes / 2).max(ASK_FIRST_BYTES);
            }
        } else if now < peer.ask_at || peer.is_answering(now) {
            return false;
        }
        (peer.lacked, peer.asked, peer.unanswered) = (false, 0, 0);
        (peer.asked_at, peer.ask_at) = (now, now + ASK_PAUSE);
        let mut left = i64::try_from(peer.ask_bytes).unwrap_or(i64::MAX);
        while left > 0
            && let Some((_, mut job)) = peer.waiting.pop_first()
        {
            job.is_due = true;
            peer.asked += 1;
            left = left.saturating_sub_unsigned(job.size_bytes + ASK_COST_BYTES);
            if job.is_partial() {
                large_ready.push_back(job);
            } else {
                queue.push_back(job);
            }
        }
        peer.unanswered = peer.asked;
        true
    }

    fn look_at_peers(&mut self, now: Instant) -> bool {
        let Some(sharing) = &mut self.sharing else {
            return false;
        };
        let since = now.saturating_duration_since(sharing.rated_at);
        let steps = i32::try_from(since.as_millis() / RATE_EVERY.as_millis()).unwrap_or(1);
        if steps > 0 {
            sharing.rated_at = now;
            let peers = self
                .sources
                .iter_mut()
                .filter_map(|source| source.peer.as_mut());
            peers.for_each(|peer| peer.take_rate(steps));
        }
        let mut changed = self.look_at_given(now);
        for index in 0..self.sources.len() {
            changed |= self.give_up(index, now) || self.ask(index, now);
        }
        changed
    }

    /// When a given source may be asked again, what waits for those that stood in for it is its own again.
    fn look_at_given(&mut self, now: Instant) -> bool {
        let mut given = self.sources.iter().filter(|source| source.peer.is_none());
        let is_down = given.any(|source| !source.stats.dropped && !source.is_up(now));
        let Some(sharing) = &mut self.sharing else {
            return false;
        };
        let was_down = std::mem::replace(&mut sharing.was_down, is_down);
        let is_back = was_down && !is_down;
        if is_back {
            self.divide_anew();
        }
        is_back
    }

    /// Gives up a peer that is overdue, or drags.
    fn give_up(&mut self, index: usize, now: Instant) -> bool {
        let Some(sharing) = &self.sharing else {
            return false;
        };
        let waits = |peer: &Neighbour| !peer.is_slow && !peer.waiting.is_empty();
        let is_idle = now.saturating_duration_since(sharing.own_share_at) > PATIENCE;
        if !is_idle || !self.sources[index].peer.as_ref().is_some_and(waits) {
            return false;
        }
        let peers = || {
            self.sources
                .iter()
                .filter_map(|source| source.peer.as_ref())
        };
        let counted = peers()
            .filter(|peer| peer.is_there && !peer.is_slow)
            .count();
        let others_are_done = 2 * peers().filter(|peer| waits(peer)).count() <= counted;
        let has_own_share = sharing.own_bytes > 0;
        let source = &mut self.sources[index];
        let Some(peer) = source.peer.as_mut() else {
            return false;
        };
        let overdue = peer.is_overdue(sharing, now);
        if !overdue && !peer.drags(others_are_done, has_own_share, now) {
            return false;
        }
        peer.is_slow = true;
        tracing::info!(peer = %peer.id, blobs = peer.waiting.len(), rate = peer.rate, overdue, "a peer brings nothing, or little; its share goes to others");
        if overdue {
            source.shun(Some(sharing), SLOW_SHUN);
        }
        self.reroute(index);
        true
    }

    fn take_peers(&mut self, table: &[Peer], now: Instant) -> Vec<(usize, Source)> {
        let Some(sharing) = &self.sharing else {
            return Vec::new();
        };
        let (root, shunned) = (sharing.root, sharing.shunned.clone());
        let counts = |peer: &&Peer| peer.roots.contains_key(&root) && !shunned.contains(&peer.id);
        let mut here: BTreeMap<(MirrorId, String), &Peer> = table
            .iter()
            .filter(counts)
            .map(|peer| ((peer.id.clone(), peer.source.address().to_owned()), peer))
            .collect();
        let (mut new, mut changed) = (Vec::new(), false);
        for source in &mut self.sources {
            let Some(peer) = source.peer.as_mut() else {
                continue;
            };
            let listed = here.remove(&(peer.id.clone(), source.stats.address.clone()));
            changed |= peer.is_there != listed.is_some();
            peer.is_there = listed.is_some();
            if let Some(listed) = listed {
                changed |= peer.take(listed, &root, now);
            }
        }
        for peer in here.into_values() {
            if self.sources.len() >= SOURCES_MAX {
                break;
            }
            let mut neighbour = Neighbour::new(peer, now);
            neighbour.take(peer, &root, now);
            new.push((self.sources.len(), peer.source.clone()));
            let state = SourceState::new(&peer.source, Some(neighbour));
            self.sources.push(state);
            changed = true;
        }
        if changed {
            self.divide_anew();
        }
        new
    }

    /// Routes again what is not asked for yet: shares are others now.
    fn divide_anew(&mut self) {
        let mut jobs: BTreeMap<u64, Job> = BTreeMap::new();
        for source in &mut self.sources {
            let queue = std::mem::take(&mut source.queue);
            // Those with a slot have their file open: whoever has it places them.
            let (open, go): (Vec<Job>, Vec<Job>) = queue.into_iter().partition(|job| job.has_slot);
            self.unplaced.extend(open);
            jobs.extend(go.into_iter().map(|job| (job.number, job)));
            if let Some(peer) = source.peer.as_mut() {
                jobs.append(&mut peer.waiting);
            }
        }
        let large = std::mem::take(&mut self.large_ready);
        jobs.extend(large.into_iter().map(|job| (job.number, job)));
        for mut job in jobs.into_values() {
            job.is_due = false;
            self.route(job);
        }
    }
}

impl Neighbour {
    /// Takes over what it says of itself; true when it has become whole, or is so no more.
    fn take(&mut self, said: &Peer, root: &Digest, now: Instant) -> bool {
        if said.received_bytes != self.received_bytes {
            (self.received_bytes, self.moved_at) = (said.received_bytes, now);
        }
        let whole = said.roots.get(root).copied().unwrap_or(false);
        std::mem::replace(&mut self.is_whole, whole) != whole
    }
}

/// A number from 0 to 1, another one each time.
fn chance() -> f64 {
    (RandomState::new().hash_one(0) % 1000) as f64 / 1000.0
}
