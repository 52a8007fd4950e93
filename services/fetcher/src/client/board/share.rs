//! Shares: which peer brings which blob, how long it is waited for, and when others take its share over.
//!
//! Of the mirrors that bring one build, the heaviest in rendezvous order fetches a blob from the archive, and the others
//! wait for it. Waiting costs nothing while a mirror's own share comes. After that a peer has [`PATIENCE`] from its last
//! blob, more if it says that it makes progress; then its share is divided anew among the rest.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use mirrorlog_core::id::{Digest, MirrorId};
use mirrorlog_core::mirror::peers::Place;
use tokio::time::Instant;

use super::{Board, Job, Kind, SourceState, State};
use crate::client::peers::{Peer, Peers, Shunned};
use crate::client::{SOURCES_MAX, Source};
use crate::protocol::MESSAGE_WANTS_MAX;

/// A peer that brings nothing for this long, while there is nothing else to do, is not waited for. Up to half as long
/// again, by chance, so that not all go to the archive at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// A peer that says that it makes progress is given this long, or as long as this mirror's own share took.
const PATIENCE_WITH_PROGRESS: Duration = Duration::from_secs(10);
/// Progress that was announced counts for this long.
const PROGRESS_COUNTS: Duration = Duration::from_secs(4);
/// A peer that was too slow is left alone for this long.
const SLOW_SHUN: Duration = Duration::from_secs(60);
/// Pause before a peer that had nothing is asked again.
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// A peer that had nothing is asked for this many blobs; for twice as many whenever it has some.
const ASK_FIRST: usize = 16;
/// A large blob counts for this many: each takes a slot while it is asked for.
const LARGE_COUNTS: usize = 8;

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
}

impl Sharing {
    pub(super) fn new(peers: &Peers, waits: bool) -> Self {
        let now = Instant::now();
        Self {
            root: peers.root,
            own: peers.own,
            waits,
            shunned: peers.shunned.clone(),
            began: now,
            own_share_at: now,
        }
    }

    pub(super) fn own_share_came(&mut self) {
        self.own_share_at = Instant::now();
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
    /// How many of them it is asked for next, and when at the latest.
    ask: usize,
    ask_at: Instant,
    /// How many of those that it was asked for last it has not answered.
    unanswered: usize,
    /// It lacked one of them: it is not asked again before its time.
    lacked: bool,
    /// When it sent a blob last.
    gained_at: Instant,
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
            ask: ASK_FIRST,
            ask_at: now,
            unanswered: 0,
            lacked: false,
            gained_at: now,
            moved_at: now,
            received_bytes: peer.received_bytes,
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
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
        let own_share = last.saturating_duration_since(sharing.began);
        let moves = now.saturating_duration_since(self.moved_at) < PROGRESS_COUNTS;
        let patience = match moves {
            true => PATIENCE_WITH_PROGRESS.max(own_share),
            false => self.patience,
        };
        // What was given to it a moment ago has not waited yet.
        let oldest = self
            .waiting
            .values()
            .filter_map(|job| Some(job.waits?.1))
            .min();
        let last = oldest.map_or(last, |oldest| last.max(oldest));
        now.saturating_duration_since(last) > patience
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
        let (index, peer) = self.heaviest(job, now, |peer| !peer.is_slow)?;
        let own = sharing.own.filter(|_| !peer.is_whole);
        let weighs_less = |own: Place| own.weight(&job.digest) < peer.place.weight(&job.digest);
        own.is_none_or(weighs_less).then_some(index)
    }

    /// The peer that is asked when no given source is up, or none has it.
    pub(super) fn stand_in(&self, job: &Job, now: Instant) -> Option<usize> {
        let (index, _) = self.heaviest(job, now, |_| true)?;
        Some(index)
    }

    /// Of the peers that have the build, or else of those that are bringing it, the one to ask for a job.
    fn heaviest(
        &self,
        job: &Job,
        now: Instant,
        counts: impl Fn(&Neighbour) -> bool,
    ) -> Option<(usize, &Neighbour)> {
        let peers = self
            .sources
            .iter()
            .enumerate()
            .filter_map(|(index, source)| {
                let peer = source.peer.as_ref()?;
                let asked = job.absent_at.contains(index) || job.failed_at.contains(index);
                let usable = peer.is_there && !asked && !source.stats.dropped && source.is_up(now);
                (usable && counts(peer)).then_some((index, peer))
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
        (peer.ask, peer.lacked) = (ASK_FIRST, true);
        peer.ask_at = Instant::now() + ASK_PAUSE;
        !peer.is_whole && !nobody_else
    }

    /// A source delivered; true when it is asked for more at once.
    pub(super) fn gained(&mut self, source: usize) -> bool {
        let now = Instant::now();
        let Some(peer) = self.sources[source].peer.as_mut() else {
            return false;
        };
        peer.gained_at = now;
        peer.unanswered = peer.unanswered.saturating_sub(1);
        self.ask(source, now)
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
        let delivered = !peer.lacked && peer.unanswered <= peer.ask / 4;
        if delivered && peer.unanswered > 0 {
            peer.ask = (peer.ask * 2).min(MESSAGE_WANTS_MAX);
        } else if now < peer.ask_at {
            return false;
        }
        (peer.lacked, peer.unanswered) = (false, 0);
        peer.ask_at = now + ASK_PAUSE;
        let mut left = peer.ask;
        while left > 0
            && let Some((_, mut job)) = peer.waiting.pop_first()
        {
            job.is_due = true;
            peer.unanswered += 1;
            left = left.saturating_sub(if job.is_partial() { LARGE_COUNTS } else { 1 });
            if job.is_partial() {
                large_ready.push_back(job);
            } else {
                queue.push_back(job);
            }
        }
        true
    }

    fn look_at_peers(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for index in 0..self.sources.len() {
            let Some(sharing) = &self.sharing else {
                return false;
            };
            let source = &mut self.sources[index];
            let Some(peer) = source.peer.as_mut() else {
                continue;
            };
            let waited = !peer.waiting.is_empty() && !peer.is_slow;
            if waited && peer.is_overdue(sharing, now) {
                peer.is_slow = true;
                tracing::info!(peer = %peer.id, blobs = peer.waiting.len(), "a peer brings nothing; its share goes to others");
                source.shun(Some(sharing), SLOW_SHUN);
                self.reroute(index);
                changed = true;
            } else {
                changed |= self.ask(index, now);
            }
        }
        changed
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
            // Those with a slot have their file open: they stay.
            let queue = std::mem::take(&mut source.queue).into_iter();
            let (stay, go): (VecDeque<Job>, VecDeque<Job>) = queue.partition(|job| job.has_slot);
            source.queue = stay;
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
