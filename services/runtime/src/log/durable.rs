//! A mirror's lane, read through a durable pull consumer that stands where the mirror does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{
    AckPolicy, Consumer, DeliverPolicy, IntoConsumerConfig as _, ReplayPolicy, pull,
};
use async_nats::jetstream::{AckKind, stream};
use mirrorlog_core::id::{ChannelId, Lane, MirrorId};

use super::ack::{AckHandle, Tracker, lock, send};
use super::reader::{self, Broken, Healing, Raw, Source};
use super::{ACK_WAIT, Log, LogError, Position, StreamIdentity, declare, event_subject, identity};

/// Most events that a mirror may hold unacked in a lane; one per channel stays unacked during a long sync.
const ACK_PENDING_MAX: i64 = 1024;
/// The server forgets a mirror's consumer after this; its cursor makes a new one.
const CONSUMER_INACTIVE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A mirror's lane, read through a durable pull consumer.
pub(super) struct Durable {
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
    /// Opens now, so that the caller learns of what only an operator can mend. A server that is down is
    /// looked for later.
    pub(super) async fn new(
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
        if subjects.is_empty() {
            subjects.push(event_subject(lane, None));
        }
        let mut durable = Self {
            healing: Healing::new(log.clone()),
            log,
            name: format!("{mirror}-{lane}"),
            subjects,
            stream: floor.map(|position| position.stream),
            tracker: Tracker::shared(floor.map_or(0, |position| position.sequence)),
            source: None,
            opened: false,
            changed: None,
        };
        match durable.open().await {
            Ok(()) | Err(LogError::Down { .. }) => Ok(durable),
            Err(error) => Err(error),
        }
    }

    /// The next event, or the stream's new identity.
    pub(super) async fn next(
        &mut self,
    ) -> Result<(Raw, StreamIdentity, AckHandle), StreamIdentity> {
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
                    let Some(reply) = raw.message.reply.clone() else {
                        continue;
                    };
                    if lock(&self.tracker).deliver(raw.sequence, reply.clone()) {
                        let ack =
                            AckHandle::new(self.log.clone(), self.tracker.clone(), raw.sequence);
                        return Ok((raw, stream, ack));
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
        let stream = &info.config.name;
        if let Some(standing) = self.standing(stream, floor, &asked).await? {
            return Ok(standing);
        }
        tracing::debug!(consumer = %self.name, floor, "creating consumer");
        let made = reader::create_consumer(&self.log, asked.clone(), stream).await?;
        self.same(&asked, &made)?;
        Ok(made)
    }

    /// The consumer that is there, if it can be gone on with; one that cannot is deleted.
    async fn standing(
        &self,
        stream: &str,
        floor: u64,
        asked: &pull::Config,
    ) -> Result<Option<Consumer<pull::Config>>, LogError> {
        let name = &self.name;
        let found = self
            .log
            .jetstream
            .get_consumer_from_stream(name, stream)
            .await;
        match found {
            Ok(found)
                if !self.opened && stands_at(&found, floor) && self.same(asked, &found).is_ok() =>
            {
                return Ok(Some(found));
            }
            Ok(_) => {}
            Err(error) if reader::is_absent(&error) => return Ok(None),
            // One server of a cluster holds it. When that one is down nobody speaks for it, for as long as that lasts.
            Err(error) if reader::is_leaderless(&error) => {
                tracing::info!(consumer = %name, "the consumer's server is down, another one is to have it");
            }
            Err(error) => {
                let doing = format!("asking for consumer {name}");
                return Err(reader::consumer_error(&doing, error));
            }
        }
        let deleted = self
            .log
            .jetstream
            .delete_consumer_from_stream(name, stream)
            .await;
        match deleted {
            Ok(_) => Ok(None),
            // It is deleted without an answer of those who held it.
            Err(error) if reader::is_absent(&error) || reader::is_leaderless(&error) => Ok(None),
            Err(error) => {
                let doing = format!("deleting consumer {name}");
                Err(reader::consumer_error(&doing, error))
            }
        }
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
