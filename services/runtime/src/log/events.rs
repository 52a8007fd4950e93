//! Events of the log: with acks through a durable consumer, or followed without.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::consumer::{
    AckPolicy, Consumer, DeliverPolicy, IntoConsumerConfig as _, ReplayPolicy, pull,
};
use async_nats::jetstream::{AckKind, stream};
use bytes::Bytes;
use mirrorlog_core::id::{ChannelId, Lane, MirrorId};
use mirrorlog_core::time::Timestamp;

use super::reader::{self, Broken, Healing, Raw, Read, Reader, Source};
use super::{
    ACK_WAIT, Log, LogError, Position, StreamIdentity, declare, event_subject, identity, trace,
};

/// Most events that a mirror may hold unacked in a lane; one per channel stays unacked during a long sync.
const ACK_PENDING_MAX: i64 = 1024;
/// The server forgets a mirror's consumer after this; its cursor makes a new one.
const CONSUMER_INACTIVE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Events of one consumer. Survives reconnects; recreates a lost consumer from its own floor.
pub struct Events {
    kind: Kind,
}

enum Kind {
    Durable(Box<Durable>),
    Follow(Box<Reader>),
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where it lies.
    pub position: Position,
    /// The lane of its subject.
    pub lane: Lane,
    /// The channel of its subject.
    pub channel: ChannelId,
    /// What was published.
    pub payload: Bytes,
    /// When the server stored it.
    pub published: Timestamp,
    /// W3C trace context of the publisher, to be set as parent.
    pub trace: opentelemetry::Context,
    /// To say what became of it.
    pub ack: AckHandle,
}

/// What a consumer says.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// The next event; may come twice and out of order.
    Event(Event),
    /// The stream was lost, made anew, or lost its end: cursors start over, and all that it has follows.
    StreamChanged(StreamIdentity),
}

impl Events {
    pub(super) fn follow(reader: Reader) -> Self {
        Self {
            kind: Kind::Follow(Box::new(reader)),
        }
    }

    pub(super) async fn durable(
        log: Log,
        mirror: &MirrorId,
        lane: Lane,
        channels: &[ChannelId],
        floor: Option<Position>,
    ) -> Result<Self, LogError> {
        let mut subjects: Vec<String> = channels
            .iter()
            .map(|channel| event_subject(lane, Some(channel)))
            .collect();
        subjects.sort_unstable();
        subjects.dedup();
        let mut durable = Durable {
            healing: Healing::new(log.clone()),
            log,
            name: format!("{mirror}-{lane}"),
            subjects: if subjects.is_empty() {
                vec![event_subject(lane, None)]
            } else {
                subjects
            },
            stream: floor.map(|position| position.stream),
            tracker: Arc::new(Mutex::new(Tracker::from(
                floor.map_or(0, |position| position.sequence),
            ))),
            source: None,
            opened: false,
            changed: None,
        };
        match durable.open().await {
            Ok(()) | Err(LogError::Down { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Self {
            kind: Kind::Durable(Box::new(durable)),
        })
    }

    /// The next event; never ends. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Delivery {
        loop {
            let (raw, stream, ack) = match &mut self.kind {
                Kind::Durable(durable) => match durable.next().await {
                    Ok((raw, stream, ack)) => (raw, stream, ack),
                    Err(changed) => return Delivery::StreamChanged(changed),
                },
                Kind::Follow(reader) => match reader.next().await {
                    Read::Message(raw, stream) => (raw, stream, AckHandle { to: None }),
                    Read::Changed(changed) => return Delivery::StreamChanged(changed),
                },
            };
            let Some((lane, channel)) = parse_subject(&raw.message.subject) else {
                // Only ids pass our publishers: somebody else writes to the log.
                tracing::error!(subject = %raw.message.subject, sequence = raw.sequence, "no channel's subject; left out");
                if let Err(error) = ack.terminate().await {
                    tracing::warn!(%error, "cannot terminate");
                }
                continue;
            };
            return Delivery::Event(Event {
                position: Position {
                    stream,
                    sequence: raw.sequence,
                },
                lane,
                channel,
                published: raw.published,
                trace: trace::context(raw.message.headers.as_ref()),
                payload: raw.message.payload,
                ack,
            });
        }
    }
}

fn parse_subject(subject: &str) -> Option<(Lane, ChannelId)> {
    let (lane, channel) = subject.strip_prefix("mirrorlog.log.")?.split_once('.')?;
    let lane = Lane::ALL.into_iter().find(|known| known.as_str() == lane)?;
    Some((lane, ChannelId::new(channel).ok()?))
}

/// Acks one event of a durable consumer; does nothing for followers.
#[derive(Clone)]
pub struct AckHandle {
    to: Option<AckTo>,
}

#[derive(Clone)]
struct AckTo {
    log: Log,
    tracker: Arc<Mutex<Tracker>>,
    sequence: u64,
}

impl AckHandle {
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

async fn send(log: &Log, reply: Option<Subject>, kind: AckKind) -> Result<(), LogError> {
    let Some(reply) = reply else { return Ok(()) };
    log.client
        .publish(reply, kind.into())
        .await
        .map_err(|error| LogError::down("acking", error))
}

/// Which events are under way, and below which number all are done. Wins over what the server remembers:
/// its floor may go back when it is killed.
#[derive(Debug, Default)]
struct Tracker {
    /// All events up to this sequence are done, as far as this consumer's subjects go.
    floor: u64,
    /// Delivered and not done, with where to ack the newest delivery.
    pending: BTreeMap<u64, Subject>,
    /// Done above the floor.
    done: BTreeSet<u64>,
}

impl Tracker {
    fn from(floor: u64) -> Self {
        Self {
            floor,
            ..Self::default()
        }
    }

    /// Takes note of a delivery. False when the event is done already.
    fn deliver(&mut self, sequence: u64, reply: Subject) -> bool {
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

fn lock(tracker: &Mutex<Tracker>) -> MutexGuard<'_, Tracker> {
    tracker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mirror's lane, read through a durable pull consumer.
struct Durable {
    log: Log,
    name: String,
    subjects: Vec<String>,
    /// The stream that the tracker's numbers belong to; none before the first connection without a floor.
    stream: Option<StreamIdentity>,
    tracker: Arc<Mutex<Tracker>>,
    source: Option<Source>,
    healing: Healing,
    /// True once a consumer was opened by this reader: what it then held may be lost with the connection.
    opened: bool,
    /// A change of stream that the caller has not heard of.
    changed: Option<StreamIdentity>,
}

impl Durable {
    async fn next(&mut self) -> Result<(Raw, StreamIdentity, AckHandle), StreamIdentity> {
        loop {
            if let Some(changed) = self.changed.take() {
                return Err(changed);
            }
            if self.source.is_none() {
                self.healing.ready().await;
                if let Err(error) = self.open().await {
                    reader::report(declare::LOG, &error);
                    self.healing.failed();
                }
                continue;
            }
            let Some(source) = &mut self.source else {
                continue;
            };
            let stream = source.stream;
            match self.healing.next(source).await {
                Err(Broken::Reconnected | Broken::Failed(_)) => self.source = None,
                Ok(raw) => {
                    let reply = raw.message.reply.clone();
                    let Some(reply) = reply else { continue };
                    if lock(&self.tracker).deliver(raw.sequence, reply.clone()) {
                        let (log, tracker) = (self.log.clone(), self.tracker.clone());
                        let to = Some(AckTo {
                            log,
                            tracker,
                            sequence: raw.sequence,
                        });
                        return Ok((raw, stream, AckHandle { to }));
                    }
                    if let Err(error) = send(&self.log, Some(reply), AckKind::Ack).await {
                        tracing::debug!(%error, "cannot ack again");
                    }
                }
            }
        }
    }

    /// Opens the consumer that is there if it stands where the tracker does, else a new one in its place.
    async fn open(&mut self) -> Result<(), LogError> {
        self.healing.opening();
        let info = self
            .log
            .ensure_stream(&declare::stream_named(declare::LOG))
            .await?;
        let now = identity(&info);
        let floor = lock(&self.tracker).floor;
        if self.stream.is_some_and(|was| was != now) || floor > info.state.last_sequence {
            tracing::warn!(consumer = %self.name, floor, "the log was made anew or lost its end");
            // Handles that are still out belong to the old stream; their acks go nowhere.
            self.tracker = Arc::default();
            self.changed = Some(now);
            self.opened = true;
        }
        self.stream = Some(now);
        let consumer = self.consumer(&info).await?;
        self.source = Some(Source::open(&consumer, now).await?);
        self.opened = true;
        Ok(())
    }

    async fn consumer(&self, info: &stream::Info) -> Result<Consumer<pull::Config>, LogError> {
        let floor = lock(&self.tracker).floor;
        let asked = self.config(floor);
        let found = self
            .log
            .jetstream
            .get_consumer_from_stream(&self.name, &info.config.name)
            .await;
        match found {
            Ok(found)
                if !self.opened
                    && stands_at(&found, floor)
                    && self.same(&asked, &found).is_ok() =>
            {
                return Ok(found);
            }
            Ok(_) => {
                let deleted = self
                    .log
                    .jetstream
                    .delete_consumer_from_stream(&self.name, &info.config.name)
                    .await;
                match deleted {
                    Err(error) if !reader::is_absent(&error) => {
                        return Err(reader::consumer_error(
                            &format!("deleting consumer {}", self.name),
                            error,
                        ));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            Err(error) if reader::is_absent(&error) => {}
            Err(error) => {
                return Err(reader::consumer_error(
                    &format!("asking for consumer {}", self.name),
                    error,
                ));
            }
        }
        tracing::debug!(consumer = %self.name, floor, "creating consumer");
        let made = reader::create_consumer(&self.log, asked.clone(), &info.config.name).await?;
        self.same(&asked, &made)?;
        Ok(made)
    }

    fn same(&self, asked: &pull::Config, found: &Consumer<pull::Config>) -> Result<(), LogError> {
        declare::same_consumer(
            &self.name,
            &asked.into_consumer_config(),
            &found.cached_info().config,
        )
    }

    fn config(&self, floor: u64) -> pull::Config {
        let deliver_policy = match floor {
            0 => DeliverPolicy::All,
            floor => DeliverPolicy::ByStartSequence {
                start_sequence: floor + 1,
            },
        };
        let (filter_subject, filter_subjects) = match self.subjects.as_slice() {
            [one] => (one.clone(), Vec::new()),
            many => (String::new(), many.to_vec()),
        };
        pull::Config {
            durable_name: Some(self.name.clone()),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            filter_subject,
            filter_subjects,
            replay_policy: ReplayPolicy::Instant,
            max_waiting: 16,
            max_ack_pending: ACK_PENDING_MAX,
            inactive_threshold: CONSUMER_INACTIVE,
            num_replicas: 1,
            ..pull::Config::default()
        }
    }
}

/// True when the server's consumer would go on exactly after `floor`.
fn stands_at(found: &Consumer<pull::Config>, floor: u64) -> bool {
    let info = found.cached_info();
    info.ack_floor.stream_sequence == floor && info.num_ack_pending == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn subjects_give_lane_and_channel() {
        let (lane, channel) = parse_subject("mirrorlog.log.priority.noble-security").unwrap();
        assert_eq!((lane, channel.as_str()), (Lane::Priority, "noble-security"));
        for bad in [
            "mirrorlog.log.bulk.Noble",
            "mirrorlog.log.fast.noble",
            "mirrorlog.log.bulk",
            "other.log.bulk.noble",
        ] {
            assert!(parse_subject(bad).is_none(), "{bad}");
        }
    }

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
