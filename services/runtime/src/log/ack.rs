//! What became of events: told to the server, and kept here as the floor from which a consumer is made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::Subject;
use async_nats::jetstream::AckKind;

use super::{Log, LogError};

/// Acks one event of a durable consumer; does nothing for followers. Cheap to clone.
#[derive(Clone, Default)]
pub struct AckHandle {
    to: Option<Arc<AckTo>>,
}

struct AckTo {
    log: Log,
    tracker: Arc<Mutex<Tracker>>,
    sequence: u64,
}

impl AckHandle {
    pub(super) fn new(log: Log, tracker: Arc<Mutex<Tracker>>, sequence: u64) -> Self {
        Self {
            to: Some(Arc::new(AckTo {
                log,
                tracker,
                sequence,
            })),
        }
    }

    /// The event took effect, or needs none any more.
    ///
    /// # Errors
    /// [`LogError::Down`] when the connection is closed. A lost ack only makes the event come again.
    pub async fn ack(&self) -> Result<(), LogError> {
        self.finish(AckKind::Ack).await
    }

    /// Keeps it unacked and alive; to be called well within [`ACK_WAIT`].
    ///
    /// # Errors
    /// As [`AckHandle::ack`].
    pub async fn progress(&self) -> Result<(), LogError> {
        let Some(to) = &self.to else { return Ok(()) };
        let reply = lock(&to.tracker).pending.get(&to.sequence).cloned();
        send(&to.log, reply, AckKind::Progress).await
    }

    /// Never deliver it again (parked).
    ///
    /// # Errors
    /// As [`AckHandle::ack`].
    pub async fn terminate(&self) -> Result<(), LogError> {
        self.finish(AckKind::Term).await
    }

    async fn finish(&self, kind: AckKind) -> Result<(), LogError> {
        let Some(to) = &self.to else { return Ok(()) };
        let reply = lock(&to.tracker).finish(to.sequence);
        send(&to.log, reply, kind).await
    }
}

impl std::fmt::Debug for AckHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AckHandle")
            .field(&self.to.as_ref().map(|to| to.sequence))
            .finish()
    }
}

/// Answers a delivery; does nothing without a place to answer to.
pub(super) async fn send(log: &Log, reply: Option<Subject>, kind: AckKind) -> Result<(), LogError> {
    let Some(reply) = reply else { return Ok(()) };
    // What is sent without a connection waits in a queue, and once that is full the sender waits too.
    if !log.is_connected() {
        return Err(LogError::down("acking", "not connected"));
    }
    log.client
        .publish(reply, kind.into())
        .await
        .map_err(|error| LogError::down("acking", error))
}

/// Which events are under way, and below which number all are done. Wins over what the server remembers:
/// its floor may go back when it is killed.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    /// All events up to this sequence are done, as far as this consumer's subjects go.
    pub(super) floor: u64,
    /// Delivered and not done, with where to ack the newest delivery.
    pending: BTreeMap<u64, Subject>,
    /// Done above the floor.
    done: BTreeSet<u64>,
}

impl Tracker {
    pub(super) fn shared(floor: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self::from(floor)))
    }

    fn from(floor: u64) -> Self {
        Self {
            floor,
            ..Self::default()
        }
    }

    /// Takes note of a delivery. False when the event is done already.
    pub(super) fn deliver(&mut self, sequence: u64, reply: Subject) -> bool {
        let new = sequence > self.floor && !self.done.contains(&sequence);
        if new {
            self.pending.insert(sequence, reply);
        }
        new
    }

    /// The event is done; gives where to say so.
    fn finish(&mut self, sequence: u64) -> Option<Subject> {
        let reply = self.pending.remove(&sequence)?;
        self.done.insert(sequence);
        let first_pending = self
            .pending
            .first_key_value()
            .map_or(u64::MAX, |(first, _)| *first);
        while let Some(first_done) = self
            .done
            .first()
            .copied()
            .filter(|done| *done < first_pending)
        {
            self.floor = first_done;
            self.done.pop_first();
        }
        Some(reply)
    }
}

pub(super) fn lock(tracker: &Mutex<Tracker>) -> MutexGuard<'_, Tracker> {
    tracker.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_stops_below_what_is_under_way() {
        let mut tracker = Tracker::from(10);
        for sequence in [11, 14, 15, 20] {
            assert!(tracker.deliver(sequence, "reply".into()));
        }
        assert!(!tracker.deliver(10, "reply".into()));
        tracker.finish(14);
        tracker.finish(20);
        assert_eq!(tracker.floor, 10);
        assert!(!tracker.deliver(14, "again".into()));
        tracker.finish(11);
        assert_eq!(tracker.floor, 14);
        tracker.finish(15);
        assert_eq!(tracker.floor, 20);
        assert!(tracker.pending.is_empty() && tracker.done.is_empty());
        assert!(tracker.finish(15).is_none());
    }
}
