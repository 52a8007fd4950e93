//! A mirror's lane, read through a durable pull consumer that stands where the mirror does.

use std::sync::{Arc, Mutex};

use async_nats::jetstream::consumer::{Consumer, IntoConsumerConfig as _, pull};
use async_nats::jetstream::{AckKind, stream};
use mirrorlog_core::id::{ChannelId, Lane, MirrorId};

use crate::Reaction;

use super::ack::{AckHandle, Tracker, lock, send};
use super::consumer::{Ask, Plan, lane_consumer};
use super::making::{consumer_error, is_absent, is_leaderless};
use super::reader::{self, Broken, Healing, Raw, Source};
use super::{Log, LogError, Position, StreamIdentity, access, declare, identity};

/// A mirror's lane, read through a durable pull consumer.
pub(super) struct Durable {
    log: Log,
    name: String,
    mirror: String,
    lane: Lane,
    channels: Vec<ChannelId>,
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
        let mut durable = Self {
            healing: Healing::new(log.clone()),
            log,
            name: access::lane_consumer(mirror.as_str(), lane),
            mirror: mirror.to_string(),
            lane,
            channels: channels.to_vec(),
            stream: floor.map(|position| position.stream),
            tracker: Tracker::shared(floor.map_or(0, |position| position.sequence)),
            source: None,
            opened: false,
            changed: None,
        };
        match durable.open().await {
            Err(error) if error.reaction() != Reaction::Retry => Err(error),
            Ok(()) | Err(_) => Ok(durable),
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
        let config = lane_consumer(&self.mirror, self.lane, &self.channels, floor);
        let stream = &info.config.name;
        if let Some(standing) = self.standing(stream, floor, &config).await? {
            return Ok(standing);
        }
        tracing::debug!(consumer = %self.name, floor, "creating consumer");
        let plan = Plan {
            stream: stream.clone(),
            config,
            places: Vec::new(),
        };
        let ask = Ask::lane(self.lane, &self.channels, floor);
        self.log.make_consumer(plan, ask).await
    }

    /// The consumer that is there, if it can be gone on with. It needs nobody who makes one.
    async fn standing(
        &self,
        stream: &str,
        floor: u64,
        asked: &pull::Config,
    ) -> Result<Option<Consumer<pull::Config>>, LogError> {
        if self.opened {
            return Ok(None);
        }
        let name = &self.name;
        let found = self
            .log
            .jetstream
            .get_consumer_from_stream(name, stream)
            .await;
        match found {
            Ok(found) if stands_at(&found, floor) && self.same(asked, &found) => Ok(Some(found)),
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            // One server of a cluster holds it. When that one is down nobody speaks for it, for as long as that lasts.
            Err(error) if is_leaderless(&error) => {
                tracing::info!(consumer = %name, "the consumer's server is down, another one is to have it");
                Ok(None)
            }
            Err(error) => {
                let doing = format!("asking for consumer {name}");
                Err(consumer_error(&doing, error))
            }
        }
    }

    fn same(&self, asked: &pull::Config, found: &Consumer<pull::Config>) -> bool {
        let asked = asked.into_consumer_config();
        declare::same_consumer(&self.name, &asked, &found.cached_info().config).is_ok()
    }
}

/// True when the server's consumer would go on exactly after `floor`.
fn stands_at(found: &Consumer<pull::Config>, floor: u64) -> bool {
    let info = found.cached_info();
    info.ack_floor.stream_sequence == floor && info.num_ack_pending == 0
}
