//! Mirrors of the same pool, as sources: each brings a share across the pool's border, and the others get it from there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirrorlog_core::id::{Digest, MirrorId};
use mirrorlog_core::mirror::peers::Place;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Source;
use crate::limit::RateLimiter;

/// The peers of one fetch.
#[derive(Clone, Debug)]
pub struct Peers {
    /// What is brought, as peers call it: those that have it, or are bringing it, count.
    pub root: Digest,
    /// Whether each brings a share, and waits for the others'. If not, or on the priority lane, peers only stand in for
    /// sources that are down.
    pub shares: bool,
    /// This mirror's own place, when peers can fetch from it: it then brings a share itself.
    pub own: Option<Place>,
    /// Who is there. May change while the fetch runs.
    pub table: watch::Receiver<Arc<Vec<Peer>>>,
    /// The rate of what comes from peers; may be that of the fetch.
    pub rate: Arc<RateLimiter>,
    /// Who failed lately; shared by all fetches of the process.
    pub shunned: Shunned,
}

/// A mirror of the same pool that can be fetched from.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub id: MirrorId,
    /// Where it answers; its connections are kept from fetch to fetch.
    pub source: Source,
    /// What it has (`true`) or is bringing (`false`), as it says.
    pub roots: BTreeMap<Digest, bool>,
    /// What it has received since it started, as it says: grows while it makes progress.
    pub received_bytes: u64,
}

/// Peers that failed, and until when they are left alone. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Shunned(Arc<Mutex<HashMap<MirrorId, Instant>>>);

impl Shunned {
    /// True while a peer is to be left alone.
    pub fn contains(&self, peer: &MirrorId) -> bool {
        let until = self.lock().get(peer).copied();
        until.is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn shun(&self, peer: &MirrorId, time: Duration) {
        let now = Instant::now();
        let mut shunned = self.lock();
        shunned.retain(|_, until| now < *until);
        let until = shunned.entry(peer.clone()).or_insert(now);
        *until = (*until).max(now + time);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MirrorId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
