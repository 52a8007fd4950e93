//! The log: NATS JetStream, as mirrorlog uses it. Bytes in, bytes out: what they mean is `wire`'s.
//!
//! What is read here heals by itself: a lost connection, consumer or stream is found again, and a reader's
//! `next` never ends and never fails. What is written is answered by the server before it returns.

pub mod access;
mod ack;
mod config;
mod consumer;
mod declare;
mod durable;
mod error;
mod events;
mod kv;
mod maker;
mod making;
mod peers;
mod places;
mod reader;
mod server;
pub mod supervise;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, ServerAddr};
use bytes::Bytes;
use mirrorlog_core::id::{ChannelId, Lane, MirrorId};
use tokio::sync::watch;

pub use ack::AckHandle;
pub use config::{NatsConfig, Refused, Replicas, ReplicasError};
pub use error::LogError;
pub use events::{Delivery, Event, Events};
pub use kv::{Bucket, KvChange, Watch};
pub use maker::consumer_asked_for;
pub use peers::Notices;
pub use reader::{Message, Messages};

use access::{Credentials, Right, User};
use consumer::Start;
use durable::Durable;
use reader::Reader;
use server::identity;

/// Questions about consumers that wait, of as many bytes as nats-server takes in one message (1 MiB).
const QUESTIONS_MAX: usize = 256;
/// How long a lost connection is retried: for ever, from 100 ms doubling to this.
pub const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for an answer of the server.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// An event that is neither acked nor kept alive with [`AckHandle::progress`] for this long is delivered again.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// A silent connection is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// A connection: reconnects for ever with backoff. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    client: Client,
    jetstream: jetstream::Context,
    replicas: Replicas,
    /// The user of whoever has the archive make his consumers.
    asker: Option<Arc<User>>,
    /// Whether others' consumers are made here.
    makes: bool,
    /// Counts established connections; 0 before the first.
    connections: watch::Sender<u64>,
    refused: Refused,
}

/// When this stream was created, as the server says (nanoseconds since 1970): a recreated stream has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamIdentity(pub i128);

/// The streams that the archive makes, as NATS' own tools read them: name and configuration as JSON.
pub fn declared_streams() -> Vec<(String, serde_json::Value)> {
    let buckets = declare::BUCKETS.map(declare::bucket_stream);
    let all = declare::streams().into_iter().chain(buckets);
    all.map(|config| {
        let json = serde_json::to_value(&config).unwrap_or_default();
        (config.name, json)
    })
    .collect()
}

/// Where an event lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The stream that was read or written.
    pub stream: StreamIdentity,
    /// The event's number in that stream, from 1 on.
    pub sequence: u64,
}

impl Log {
    /// Connects. `name` is shown by the server (`mirrorlog-mirror nz1`). Waits for the first connection
    /// for ever when `patient`.
    ///
    /// # Errors
    /// [`LogError::Address`] for an URL that is none; [`LogError::Credentials`]; [`LogError::Down`] when not
    /// `patient` and no server answers for 5 s.
    pub async fn connect(config: &NatsConfig, name: &str, patient: bool) -> Result<Self, LogError> {
        Self::connect_with(config, options(name), patient).await
    }

    /// Connects, as patiently as it takes, for [`Log::make_others_consumers`]: few questions wait, more are dropped and
    /// asked again.
    ///
    /// # Errors
    /// As [`Log::connect`].
    pub async fn connect_for_questions(config: &NatsConfig, name: &str) -> Result<Self, LogError> {
        let options = options(name).subscription_capacity(QUESTIONS_MAX);
        Self::connect_with(config, options, true).await
    }

    async fn connect_with(
        config: &NatsConfig,
        options: ConnectOptions,
        patient: bool,
    ) -> Result<Self, LogError> {
        let address = |source| LogError::Address {
            url: config.url.clone(),
            source,
        };
        let servers: Vec<ServerAddr> = config
            .url
            .split(',')
            .map(|url| url.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(address)?;
        let user = config.credentials.as_deref().map(Credentials::read);
        let user = user.transpose().map_err(LogError::Credentials)?;
        let connections = watch::Sender::new(0);
        let mut ready = told(options, connections.clone(), config.refused.clone());
        if let Some(user) = &user {
            ready = ready.custom_inbox_prefix(access::inbox(user.name()));
            ready = ready.credentials(user.text()).map_err(address)?;
        }
        if let Some(ca) = &config.ca {
            ready = ready.add_root_certificates(ca.clone());
        }
        let client = if patient {
            let client = ready
                .clone()
                .retry_on_initial_connect()
                .connect(&servers[..])
                .await;
            client.map_err(|error| LogError::down("connecting", error))?
        } else {
            let deadline = tokio::time::Instant::now() + REQUEST_TIMEOUT;
            loop {
                match ready.clone().connect(&servers[..]).await {
                    Ok(client) => break client,
                    Err(error) if tokio::time::Instant::now() + BACKOFF_MIN > deadline => {
                        return Err(LogError::down(
                            format!("connecting to {}", config.url),
                            error,
                        ));
                    }
                    Err(_) => tokio::time::sleep(BACKOFF_MIN).await,
                }
            }
        };
        // It is told of a little later: whoever reads at once would take that for a second one.
        let mut first = connections.subscribe();
        first
            .wait_for(|n| *n > 0)
            .await
            .map_err(|error| LogError::down("connecting", error))?;
        let right = user.as_ref().and_then(Credentials::right);
        let asker = user
            .filter(|_| right.is_some_and(Right::asks))
            .and_then(|user| User::named(user.name()));
        let api = match asker {
            Some(_) => access::ASKED_API,
            None => access::API,
        };
        let jetstream = jetstream::context::ContextBuilder::new()
            .api_prefix(api)
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT);
        Ok(Self {
            jetstream: jetstream.build(client.clone()),
            client,
            replicas: config.replicas,
            makes: right == Some(Right::Archive),
            asker: asker.map(Arc::new),
            connections,
            refused: config.refused.clone(),
        })
    }

    /// True while connected.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Why there is no connection, for people; none while there is one.
    pub fn why_away(&self) -> Option<&'static str> {
        (!self.is_connected()).then(|| self.refused.why_away())
    }

    /// Creates streams and buckets as declared where they are missing, and compares those that are there.
    ///
    /// # Errors
    /// [`LogError::TooOld`], [`LogError::Differs`], [`LogError::Server`]: an operator has to act.
    /// [`LogError::Down`], [`LogError::FewServers`]: try again.
    pub async fn ensure(&self) -> Result<(), LogError> {
        let buckets = declare::BUCKETS.map(declare::bucket_stream);
        for config in declare::streams().iter().chain(&buckets) {
            self.ensure_stream(config).await?;
        }
        Ok(())
    }

    /// When the stream of events was created.
    ///
    /// # Errors
    /// As [`Log::ensure`].
    pub async fn identity(&self) -> Result<StreamIdentity, LogError> {
        Ok(identity(
            &self
                .ensure_stream(&declare::stream_named(declare::LOG))
                .await?,
        ))
    }

    /// The first and the last sequence of the stream of events; a first one above 1: older ones were let go.
    ///
    /// # Errors
    /// As [`Log::ensure`].
    pub async fn extent(&self) -> Result<(u64, u64), LogError> {
        let stream = declare::stream_named(declare::LOG);
        let state = self.ensure_stream(&stream).await?.state;
        Ok((state.first_sequence, state.last_sequence))
    }

    /// Appends to `mirrorlog.log.<lane>.<channel>` and waits until the server has it; the current span's trace
    /// context goes with it. `expected_last` is the subject's last sequence (0: none). A message id that is the
    /// subject's last, or that the server still knows, makes no second event: the position is that of the first.
    ///
    /// # Errors
    /// [`LogError::Refused`] when the subject's last sequence is another one; [`LogError::Down`] when it is
    /// unknown whether the event was stored (the same call may be repeated); else as [`Log::ensure`].
    pub async fn publish_event(
        &self,
        lane: Lane,
        channel: &ChannelId,
        message_id: &str,
        expected_last: u64,
        payload: Bytes,
    ) -> Result<Position, LogError> {
        let stream = self.identity().await?;
        let subject = event_subject(lane, Some(channel));
        let mut headers = trace::headers();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id);
        let appended = self
            .append(
                declare::LOG,
                subject.clone(),
                headers,
                Some(expected_last),
                payload,
            )
            .await;
        let sequence = match appended {
            // Servers differ in what they look at first, the id or the sequence; and ids are forgotten.
            Err(refused @ LogError::Refused { .. }) => {
                let last = self.last(declare::LOG, &subject).await?;
                let ours = last.filter(|last| message_id_of(last) == Some(message_id));
                ours.map(|last| last.sequence).ok_or(refused)?
            }
            answer => answer?,
        };
        Ok(Position { stream, sequence })
    }

    /// Newest event on a subject: sequence and payload.
    ///
    /// # Errors
    /// As [`Log::ensure`].
    pub async fn last_event(
        &self,
        lane: Lane,
        channel: &ChannelId,
    ) -> Result<Option<(u64, Bytes)>, LogError> {
        let last = self
            .last(declare::LOG, &event_subject(lane, Some(channel)))
            .await?;
        Ok(last.map(|message| (message.sequence, message.payload)))
    }

    /// Events of a lane through the durable pull consumer `<mirror>-<lane>`, from `floor + 1` (or from the start),
    /// of `channels` (empty: all). A `floor` of another stream gives [`Delivery::StreamChanged`] first.
    ///
    /// # Errors
    /// [`LogError::TooOld`], [`LogError::Differs`], [`LogError::Server`]. A server that is down is no error:
    /// the events come when it is back.
    pub async fn consume(
        &self,
        mirror: &MirrorId,
        lane: Lane,
        channels: &[ChannelId],
        floor: Option<Position>,
    ) -> Result<Events, LogError> {
        let durable = Durable::new(self.clone(), mirror, lane, channels, floor).await?;
        Ok(Events::durable(durable))
    }

    /// All events from a sequence or the start (0), without a durable consumer and without acks.
    ///
    /// # Errors
    /// As [`Log::consume`].
    pub async fn follow(&self, from: u64) -> Result<Events, LogError> {
        let start = if from <= 1 {
            Start::All
        } else {
            Start::Sequence(from)
        };
        let mut reader = Reader::new(self.clone(), declare::LOG, declare::EVENTS.into(), start);
        reader.try_open().await?;
        Ok(Events::follow(reader))
    }

    /// Stores a mirror's report about a channel.
    ///
    /// # Errors
    /// As [`Log::ensure`].
    pub async fn publish_report(
        &self,
        mirror: &MirrorId,
        channel: &ChannelId,
        payload: Bytes,
    ) -> Result<(), LogError> {
        let subject = format!("mirrorlog.report.{mirror}.{channel}");
        self.append(declare::REPORT, subject, trace::headers(), None, payload)
            .await
            .map(drop)
    }

    /// Last report of every (mirror, channel), then new ones.
    ///
    /// # Errors
    /// As [`Log::consume`].
    pub async fn reports(&self) -> Result<Messages, LogError> {
        let all = declare::REPORTS.to_owned();
        self.messages(declare::REPORT, all, Start::LastPerSubject)
            .await
    }

    /// Stores a verdict about a mirror's copy of a channel.
    ///
    /// # Errors
    /// As [`Log::ensure`].
    pub async fn publish_verdict(
        &self,
        channel: &ChannelId,
        mirror: &MirrorId,
        payload: Bytes,
    ) -> Result<(), LogError> {
        let subject = format!("mirrorlog.verdict.{channel}.{mirror}");
        self.append(declare::VERDICT, subject, trace::headers(), None, payload)
            .await
            .map(drop)
    }

    /// All retained verdicts, oldest first, then new ones.
    ///
    /// # Errors
    /// As [`Log::consume`].
    pub async fn verdicts(&self) -> Result<Messages, LogError> {
        let all = declare::VERDICTS.to_owned();
        self.messages(declare::VERDICT, all, Start::All).await
    }

    /// Retained verdicts on one mirror, oldest first, then new ones.
    ///
    /// # Errors
    /// As [`Log::consume`].
    pub async fn verdicts_on(&self, mirror: &MirrorId) -> Result<Messages, LogError> {
        let subject = format!("mirrorlog.verdict.*.{mirror}");
        self.messages(declare::VERDICT, subject, Start::All).await
    }

    /// Stores an operator's order to a mirror; a message id that the server still knows makes no second one.
    ///
    /// # Errors
    /// As [`Log::ensure`].
    pub async fn publish_order(
        &self,
        mirror: &MirrorId,
        message_id: &str,
        payload: Bytes,
    ) -> Result<(), LogError> {
        let mut headers = trace::headers();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id);
        let subject = format!("mirrorlog.order.{mirror}");
        self.append(declare::ORDER, subject, headers, None, payload)
            .await
            .map(drop)
    }

    /// Retained orders to a mirror after a sequence (or all of them), then new ones.
    ///
    /// # Errors
    /// As [`Log::consume`].
    pub async fn orders(
        &self,
        mirror: &MirrorId,
        after: Option<u64>,
    ) -> Result<Messages, LogError> {
        let start = after.map_or(Start::All, |sequence| Start::Sequence(sequence + 1));
        self.messages(declare::ORDER, format!("mirrorlog.order.{mirror}"), start)
            .await
    }

    /// Stores what a client saw of a mirror, under `mirrorlog.feedback.<mirror>.<network>`. `network_token` is one
    /// token of a subject (`as64496`): each network has room of its own.
    ///
    /// # Errors
    /// As [`Log::ensure`].
    pub async fn publish_feedback(
        &self,
        mirror: &MirrorId,
        network_token: &str,
        payload: Bytes,
    ) -> Result<(), LogError> {
        let subject = format!("mirrorlog.feedback.{mirror}.{network_token}");
        self.append(declare::FEEDBACK, subject, trace::headers(), None, payload)
            .await
            .map(drop)
    }

    /// What clients saw in the last days, of all mirrors and networks, oldest first, then new ones.
    ///
    /// # Errors
    /// As [`Log::consume`].
    pub async fn feedback(&self) -> Result<Messages, LogError> {
        let all = declare::CLIENTS_WORDS.to_owned();
        self.messages(declare::FEEDBACK, all, Start::All).await
    }

    /// KV bucket `mirrorlog_<name>`; made when it is missing.
    ///
    /// # Errors
    /// As [`Log::ensure`].
    pub async fn bucket(&self, name: &str) -> Result<Bucket, LogError> {
        Bucket::open(self.clone(), name).await
    }

    async fn messages(
        &self,
        stream: &str,
        filter: String,
        start: Start,
    ) -> Result<Messages, LogError> {
        let mut reader = Reader::new(self.clone(), stream, filter, start);
        reader.try_open().await?;
        Ok(Messages::new(reader))
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

fn options(name: &str) -> ConnectOptions {
    ConnectOptions::new()
        .name(name)
        .connection_timeout(REQUEST_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None)
        .reconnect_delay_callback(backoff)
}

/// Counts connections, and says what happens to them.
fn told(
    options: ConnectOptions,
    connections: watch::Sender<u64>,
    refused: Refused,
) -> ConnectOptions {
    // As the client names it when it connects.
    let violation = async_nats::ConnectErrorKind::AuthorizationViolation.to_string();
    options.event_callback(move |event| {
        match &event {
            async_nats::Event::Connected => {
                refused.set(false);
                connections.send_modify(|n| *n += 1);
                tracing::info!("connected to NATS");
            }
            // One for each message that was dropped.
            async_nats::Event::SlowConsumer(_) => tracing::debug!(%event, "NATS connection"),
            async_nats::Event::ClientError(async_nats::ClientError::Other(why)) => {
                refused.set(why.starts_with(&violation));
                tracing::warn!(%event, "NATS connection: {}", refused.why_away());
            }
            async_nats::Event::Disconnected
            | async_nats::Event::LameDuckMode
            | async_nats::Event::Draining
            | async_nats::Event::Closed
            | async_nats::Event::ServerError(_)
            | async_nats::Event::ClientError(_) => tracing::warn!(%event, "NATS connection"),
        }
        std::future::ready(())
    })
}

fn message_id_of(message: &jetstream::message::StreamMessage) -> Option<&str> {
    let id = message.headers.get(async_nats::header::NATS_MESSAGE_ID)?;
    Some(id.as_str())
}

/// 100 ms doubling to [`RECONNECT_MAX`].
fn backoff(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1))
        .unwrap_or(u32::MAX)
        .min(16);
    BACKOFF_MIN
        .saturating_mul(1 << doublings)
        .min(RECONNECT_MAX)
}

/// The subject of a channel's events, of all channels' for `None`.
fn event_subject(lane: Lane, channel: Option<&ChannelId>) -> String {
    format!(
        "mirrorlog.log.{lane}.{}",
        channel.map_or("*", ChannelId::as_str)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_bound() {
        let waits: Vec<u128> = [0, 1, 2, 3, 6, 7, 1000, usize::MAX]
            .map(|n| backoff(n).as_millis())
            .to_vec();
        assert_eq!(waits, [100, 100, 200, 400, 3200, 5000, 5000, 5000]);
    }
}
