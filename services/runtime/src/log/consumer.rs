//! Consumers of streams: what a reader wants, and who makes it.
//!
//! Whoever makes a consumer chooses where its messages are sent, past what he may publish himself. In a network with
//! permissions the archive therefore makes those of all others (ADR 24): a user says which of its consumers it wants and
//! from where on, and what that consumer is like is decided here, for both. Without permissions everybody makes his own.
//!
//! A mirror's consumers have fixed names. Services of the centre may run more than once by the same user: each reader gets
//! a name that is free, out of a few.

use std::time::Duration;

use async_nats::jetstream::consumer::{
    AckPolicy, Consumer, DeliverPolicy, IntoConsumerConfig as _, ReplayPolicy, pull,
};
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use mirrorlog_core::channel::CHANNELS_MAX;
use mirrorlog_core::id::{ChannelId, Lane};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::access::{self, Right, User, consumer_request};
use super::error::Cause;
use super::places::{LOOK_UP_TIMEOUT, READER};
use super::{ACK_WAIT, Log, LogError, REQUEST_TIMEOUT, declare, event_subject};

/// Most events that a mirror may hold unacked in a lane; one per channel stays unacked during a long sync.
const ACK_PENDING_MAX: i64 = 1024;
/// Most pulls that wait at a consumer.
const WAITING_MAX: i64 = 16;
/// The server forgets a mirror's consumer of a lane after this; its cursor makes a new one.
const LANE_INACTIVE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A plain reader's consumer is forgotten by the server this long after its reader.
const READER_INACTIVE: Duration = Duration::from_secs(60);
/// Longest wait for those who held a consumer: its server may be down.
const DELETE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for the server that is to hold a consumer.
const CREATE_ONCE: [Duration; 1] = [REQUEST_TIMEOUT];
/// The same where several servers hold the stream and somebody else waits: nats-server draws one of them, for minutes after
/// one was lost that one too, and is made to draw again where none answers. Only the archive does so, which makes few at a
/// time: when a thousand mirrors each made their own anew, servers that were only busy had everything to do twice.
const CREATE_AGAIN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(4)];
/// Longest wait until what was drawn in vain is gone.
const REDRAW_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest wait for the archive, longer than it tries.
pub(super) const ASK_TIMEOUT: Duration = REQUEST_TIMEOUT.saturating_mul(2);
/// So often it is asked meanwhile: it may be about to come back, as everybody is when nats-server was restarted.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Where a plain reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Start {
    All,
    LastPerSubject,
    Sequence(u64),
}

/// What is sent to the archive, as JSON. No answer of the server or of the archive reads as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Any number, the same when it is asked again: what was made is not made twice.
    pub(super) id: u64,
    pub(super) ask: Ask,
}

/// Which consumer a user wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Ask {
    /// A mirror's durable consumer of a lane, after `floor`; of all channels where none is named.
    Lane {
        lane: String,
        channels: Vec<String>,
        floor: u64,
    },
    /// A plain reader of a stream.
    Read {
        stream: String,
        start: Start,
        /// Any number, the same as long as the reader lives: by it a service's reader has its place again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reader: Option<u64>,
    },
}

/// What the archive says to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Answer {
    Made,
    /// The same, under this name.
    MadeAs(String),
    /// It can be asked again.
    Later(String),
    /// It never will be.
    Refused(String),
}

/// Why a user gets no such consumer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    #[error("{0:?} is no lane")]
    Lane(String),
    #[error("{0:?} is no channel's name")]
    Channel(String),
    #[error("a consumer is of {CHANNELS_MAX} channels at most")]
    Channels,
    #[error("no part of stream {0:?} is this user's to read")]
    Stream(String),
    #[error("lanes are for mirrors")]
    Lanes,
    #[error("a reader has a number")]
    Reader,
    #[error("messages are counted from 1 on")]
    Start,
}

/// A consumer as it is to be made.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) stream: String,
    pub(super) config: pull::Config,
    /// The names of which it gets one that is free; none where it has its own.
    pub(super) places: Vec<String>,
}

impl Ask {
    pub(super) fn lane(lane: Lane, channels: &[ChannelId], floor: u64) -> Self {
        Self::Lane {
            lane: lane.as_str().to_owned(),
            channels: channels.iter().map(ToString::to_string).collect(),
            floor,
        }
    }

    /// What is made for that user: names and filters are its own, whatever it asks.
    pub(super) fn plan(&self, user: &User) -> Result<Plan, AskError> {
        match self {
            Self::Lane { .. } if user.right() != Right::Mirror => Err(AskError::Lanes),
            Self::Lane {
                lane,
                channels,
                floor,
            } => {
                let known = Lane::ALL.into_iter().find(|known| known.as_str() == lane);
                let lane = known.ok_or_else(|| AskError::Lane(lane.clone()))?;
                if channels.len() > CHANNELS_MAX {
                    return Err(AskError::Channels);
                }
                let channel = |text: &String| {
                    ChannelId::new(text).map_err(|_| AskError::Channel(text.clone()))
                };
                let channels: Vec<ChannelId> =
                    channels.iter().map(channel).collect::<Result<_, _>>()?;
                Ok(Plan {
                    stream: declare::LOG.to_owned(),
                    config: lane_consumer(user.name(), lane, &channels, *floor),
                    places: Vec::new(),
                })
            }
            Self::Read {
                stream,
                start,
                reader,
            } => {
                if *start == Start::Sequence(0) {
                    return Err(AskError::Start);
                }
                let parts = access::readable(user.right(), user.name());
                let part = parts.into_iter().find(|(name, _)| name == stream);
                let (_, filter) = part.ok_or_else(|| AskError::Stream(stream.clone()))?;
                let mut plan = Plan::reader(stream, filter, *start, Some(user));
                if !plan.places.is_empty() {
                    let reader = reader.ok_or(AskError::Reader)?;
                    let metadata = &mut plan.config.metadata;
                    metadata.insert(READER.to_owned(), reader.to_string());
                }
                Ok(plan)
            }
        }
    }
}

impl Plan {
    /// A plain reader's; `asker` is the user for whom somebody else makes it.
    pub(super) fn reader(stream: &str, filter: String, start: Start, asker: Option<&User>) -> Self {
        let is_mirror = |user: &&User| user.right() == Right::Mirror;
        let own = asker
            .filter(is_mirror)
            .map(|user| access::reader(user.name()));
        let several = asker.filter(|user| !is_mirror(user));
        Self {
            stream: stream.to_owned(),
            config: plain_consumer(own, filter, start),
            places: several.map_or_else(Vec::new, |user| access::readers(user.name())),
        }
    }
}

/// The durable consumer `<mirror>-<lane>`, after `floor`, of `channels` (empty: all).
pub(super) fn lane_consumer(
    mirror: &str,
    lane: Lane,
    channels: &[ChannelId],
    floor: u64,
) -> pull::Config {
    let mut subjects: Vec<String> = channels
        .iter()
        .map(|channel| event_subject(lane, Some(channel)))
        .collect();
    subjects.sort_unstable();
    subjects.dedup();
    if subjects.is_empty() {
        subjects.push(event_subject(lane, None));
    }
    let (filter_subject, filter_subjects) = match subjects.as_slice() {
        [one] => (one.clone(), Vec::new()),
        _many => (String::new(), subjects),
    };
    let deliver_policy = match floor {
        0 => DeliverPolicy::All,
        floor => DeliverPolicy::ByStartSequence {
            start_sequence: floor.saturating_add(1),
        },
    };
    pull::Config {
        durable_name: Some(access::lane_consumer(mirror, lane)),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        filter_subject,
        filter_subjects,
        replay_policy: ReplayPolicy::Instant,
        max_waiting: WAITING_MAX,
        max_ack_pending: ACK_PENDING_MAX,
        inactive_threshold: LANE_INACTIVE,
        num_replicas: 1,
        ..pull::Config::default()
    }
}

/// A reader's consumer, without acks; the server names it where `name` is none.
pub(super) fn plain_consumer(name: Option<String>, filter: String, start: Start) -> pull::Config {
    let deliver_policy = match start {
        Start::All => DeliverPolicy::All,
        Start::LastPerSubject => DeliverPolicy::LastPerSubject,
        Start::Sequence(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
    };
    pull::Config {
        name,
        deliver_policy,
        ack_policy: AckPolicy::None,
        max_deliver: -1,
        replay_policy: ReplayPolicy::Instant,
        filter_subject: filter,
        max_waiting: WAITING_MAX,
        inactive_threshold: READER_INACTIVE,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    }
}

impl Log {
    /// Makes a consumer, in the place of one of the same name; where this user may not, by the archive, which is told
    /// what to `ask`. What there is then is compared with the plan.
    pub(super) async fn make_consumer(
        &self,
        plan: Plan,
        ask: Ask,
    ) -> Result<Consumer<pull::Config>, LogError> {
        let Some(asker) = self.asker.as_deref() else {
            return self.make_own_consumer(plan).await;
        };
        let Plan {
            stream,
            config,
            places,
        } = plan;
        let wanted = name_of(&config).map(str::to_owned);
        let called = match &wanted {
            Some(name) => format!("consumer {name}"),
            None => "a reader".to_owned(),
        };
        let not_yet = |reason: String| LogError::NotYetMade {
            consumer: called.clone(),
            stream: stream.clone(),
            reason,
        };
        let reader = match &ask {
            Ask::Read { reader, .. } => reader.map(|number| number.to_string()),
            Ask::Lane { .. } => None,
        };
        let answer = self.ask_archive(asker, ask).await;
        let answer = answer.map_err(|error| {
            let away = "it does not answer: is it running, and connected to NATS?";
            not_yet(format!("{away} ({error})"))
        })?;
        let name = match answer {
            Answer::Made => wanted.ok_or_else(|| not_yet("it did not name it".to_owned()))?,
            Answer::MadeAs(name) if places.contains(&name) => name,
            Answer::MadeAs(name) => return Err(not_yet(format!("it named it {name}"))),
            Answer::Later(reason) => return Err(not_yet(reason)),
            Answer::Refused(reason) => {
                return Err(LogError::NotMade {
                    consumer: called,
                    stream,
                    reason,
                });
            }
        };
        let doing = || format!("asking for consumer {name} of {stream}");
        let jetstream = &self.jetstream;
        let made = jetstream.get_consumer_from_stream(&name, &stream).await;
        let made = made.map_err(|error| match is_absent(&error) {
            // It was made: whoever removed it since is about to make it again.
            true => LogError::down(doing(), error),
            false => consumer_error(&doing(), error),
        })?;
        let standing = made.cached_info();
        declare::same_consumer(&name, &config.into_consumer_config(), &standing.config)?;
        // Two archives may have given one place away: whoever has it would read what this one then misses.
        let is_ours = standing.config.metadata.get(READER) == reader.as_ref();
        if !places.is_empty() && (!is_ours || is_read(&made)) {
            return Err(not_yet(format!("{name} is another reader's")));
        }
        Ok(made)
    }

    /// Makes a consumer by this service's own right.
    pub(super) async fn make_own_consumer(
        &self,
        plan: Plan,
    ) -> Result<Consumer<pull::Config>, LogError> {
        let Plan {
            stream, mut config, ..
        } = plan;
        let name = match name_of(&config).map(str::to_owned) {
            Some(name) => {
                self.remove_consumer(&name, &stream, DELETE_TIMEOUT).await?;
                name
            }
            // One that comes too late is found, and removed, by its name.
            None => {
                let drawn = getrandom::u64();
                let drawn = drawn.map_err(|error| LogError::down("drawing a number", error))?;
                config.name.insert(format!("{drawn:016x}")).clone()
            }
        };
        let doing = || format!("creating consumer {name} of {stream}");
        let waits: &[Duration] = if self.makes && self.replicas.count() > 1 {
            &CREATE_AGAIN
        } else {
            &CREATE_ONCE
        };
        for wait in waits {
            let created = self
                .jetstream
                .create_consumer_on_stream(config.clone(), &stream);
            let made = match tokio::time::timeout(*wait, created).await {
                Ok(made) => Some(made.map_err(|error| consumer_error(&doing(), error))?),
                Err(_) => self.made_late(&name, &stream).await?,
            };
            if let Some(made) = made {
                let echoed = &made.cached_info().config;
                declare::same_consumer(&name, &config.into_consumer_config(), echoed)?;
                return Ok(made);
            }
            tracing::debug!(
                name,
                stream,
                "the server that is to hold it does not answer"
            );
            self.remove_consumer(&name, &stream, REDRAW_TIMEOUT).await?;
        }
        let reason = "no server that was to hold it answers";
        Err(LogError::down(doing(), reason))
    }

    /// A consumer that was made after it was waited for; none where nobody answers for it.
    async fn made_late(
        &self,
        name: &str,
        stream: &str,
    ) -> Result<Option<Consumer<pull::Config>>, LogError> {
        let asked = self.jetstream.get_consumer_from_stream(name, stream);
        let doing = || format!("creating consumer {name} of {stream}");
        match tokio::time::timeout(LOOK_UP_TIMEOUT, asked).await {
            Err(_) => Ok(None),
            Ok(Err(error)) if is_absent(&error) || is_leaderless(&error) => Ok(None),
            Ok(Err(error)) => Err(consumer_error(&doing(), error)),
            // Another archive made it meanwhile, and its reader has it.
            Ok(Ok(made)) if is_read(&made) => Err(LogError::down(doing(), "it is read already")),
            Ok(Ok(made)) => Ok(Some(made)),
        }
    }

    /// Makes room for a new one of that name.
    async fn remove_consumer(
        &self,
        name: &str,
        stream: &str,
        longest: Duration,
    ) -> Result<(), LogError> {
        let deleted = self.jetstream.delete_consumer_from_stream(name, stream);
        match tokio::time::timeout(longest, deleted).await {
            Ok(Ok(_)) => Ok(()),
            // It is deleted without an answer of those who held it.
            Err(_) => Ok(()),
            Ok(Err(error)) if is_absent(&error) || is_leaderless(&error) => Ok(()),
            Ok(Err(error)) => {
                let doing = format!("deleting consumer {name} of {stream}");
                Err(consumer_error(&doing, error))
            }
        }
    }

    async fn ask_archive(&self, asker: &User, ask: Ask) -> Result<Answer, Cause> {
        let id = getrandom::u64()?;
        let payload = Bytes::from(serde_json::to_vec(&Question { id, ask })?);
        let deadline = Instant::now() + ASK_TIMEOUT;
        loop {
            let again = Instant::now() + ASK_AGAIN;
            let request = async_nats::client::Request::new()
                .payload(payload.clone())
                .timeout(Some(ASK_AGAIN));
            let subject = consumer_request(asker.name());
            let answer = self.client.send_request(subject, request);
            match answer.await {
                Ok(answer) => return Ok(serde_json::from_slice(&answer.payload)?),
                Err(error) if again >= deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep_until(again).await,
            }
        }
    }
}

/// True once somebody got something of it.
fn is_read(consumer: &Consumer<pull::Config>) -> bool {
    consumer.cached_info().delivered.consumer_sequence > 0
}

fn name_of(config: &pull::Config) -> Option<&str> {
    let name = config.durable_name.as_deref();
    name.or(config.name.as_deref())
}

/// Sorts the client library's error.
pub(super) fn consumer_error(doing: &str, error: stream::ConsumerError) -> LogError {
    match error.kind() {
        stream::ConsumerErrorKind::JetStream(error) => LogError::server(doing, error),
        stream::ConsumerErrorKind::TimedOut
        | stream::ConsumerErrorKind::Request
        | stream::ConsumerErrorKind::InvalidConsumerType
        | stream::ConsumerErrorKind::InvalidName
        | stream::ConsumerErrorKind::Other => LogError::down(doing, error),
    }
}

/// True when the server says that there is no such consumer or stream.
pub(super) fn is_absent(error: &stream::ConsumerError) -> bool {
    use jetstream::ErrorCode as Code;
    match error.kind() {
        stream::ConsumerErrorKind::JetStream(error) => {
            [Code::CONSUMER_NOT_FOUND, Code::STREAM_NOT_FOUND].contains(&error.error_code())
        }
        stream::ConsumerErrorKind::TimedOut
        | stream::ConsumerErrorKind::Request
        | stream::ConsumerErrorKind::InvalidConsumerType
        | stream::ConsumerErrorKind::InvalidName
        | stream::ConsumerErrorKind::Other => false,
    }
}

/// True when nobody answers for the consumer: the servers that hold it are down, or very slow.
pub(super) fn is_leaderless(error: &stream::ConsumerError) -> bool {
    use jetstream::ErrorCode as Code;
    match error.kind() {
        stream::ConsumerErrorKind::TimedOut => true,
        stream::ConsumerErrorKind::JetStream(error) => {
            [Code::CLUSTER_NOT_AVAILABLE, Code::CONSUMER_OFFLINE].contains(&error.error_code())
        }
        stream::ConsumerErrorKind::Request
        | stream::ConsumerErrorKind::InvalidConsumerType
        | stream::ConsumerErrorKind::InvalidName
        | stream::ConsumerErrorKind::Other => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::StreamExt as _;
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::super::supervise::NatsServer;
    use super::super::{NatsConfig, Replicas};
    use super::*;

    fn read(stream: &str) -> Ask {
        Ask::Read {
            stream: stream.to_owned(),
            start: Start::All,
            reader: None,
        }
    }

    fn user(name: &str) -> User {
        User::named(name).unwrap()
    }

    /// nats-server's answers about consumers, played by hand: what was asked, and which creations are answered.
    struct Played {
        log: Log,
        asked: mpsc::UnboundedReceiver<&'static str>,
        _server: NatsServer,
        _dir: tempfile::TempDir,
    }

    impl Played {
        /// `answers` creation number n, counted from 0; `late` is what one that looks is told, if anything.
        async fn up(
            answers: fn(usize) -> bool,
            late: Option<u64>,
            (makes, replicas): (bool, Replicas),
        ) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let server = NatsServer::start(dir.path(), None).await.unwrap();
            let config = NatsConfig {
                replicas,
                ..NatsConfig::new(&server.url)
            };
            let mut log = Log::connect(&config, "test", false).await.unwrap();
            let api = jetstream::context::ContextBuilder::new().api_prefix("PLAYED");
            log.jetstream = api.build(log.client.clone());
            log.makes = makes;
            let client = log.client.clone();
            let mut questions = client.subscribe("PLAYED.>").await.unwrap();
            client.flush().await.unwrap();
            let (heard, asked) = mpsc::unbounded_channel();
            tokio::spawn(async move {
                let (mut created, mut config) = (0, serde_json::Value::Null);
                let info = |config: &serde_json::Value, delivered: u64| {
                    json!({"stream_name": "S", "name": "nz1-bulk", "created": "2026-01-01T00:00:00Z",
                        "config": config, "delivered": {"consumer_seq": delivered, "stream_seq": 0},
                        "ack_floor": {"consumer_seq": 0, "stream_seq": 0}, "num_ack_pending": 0,
                        "num_redelivered": 0, "num_waiting": 0, "num_pending": 0})
                };
                while let Some(question) = questions.next().await {
                    let subject = question.subject.as_str();
                    let (what, answer) = if subject.contains(".DELETE.") {
                        ("delete", (created == 0).then(|| json!({"success": true})))
                    } else if subject.contains(".CREATE.") {
                        let asked: serde_json::Value =
                            serde_json::from_slice(&question.payload).unwrap();
                        config = asked["config"].clone();
                        created += 1;
                        let answer = answers(created - 1).then(|| info(&config, 0));
                        ("create", answer)
                    } else {
                        ("look", late.map(|delivered| info(&config, delivered)))
                    };
                    heard.send(what).ok();
                    if let (Some(answer), Some(reply)) = (answer, question.reply) {
                        let answer = serde_json::to_vec(&answer).unwrap();
                        client.publish(reply, answer.into()).await.unwrap();
                    }
                }
            });
            Self {
                log,
                asked,
                _server: server,
                _dir: dir,
            }
        }

        async fn made(&mut self) -> (Result<(), LogError>, Vec<&'static str>) {
            let plan = Plan {
                stream: "S".to_owned(),
                config: lane_consumer("nz1", Lane::Bulk, &[], 0),
                places: Vec::new(),
            };
            let made = self.log.make_own_consumer(plan).await.map(drop);
            let mut asked = Vec::new();
            while let Ok(what) = self.asked.try_recv() {
                asked.push(what);
            }
            (made, asked)
        }
    }

    #[tokio::test]
    async fn where_a_lost_server_is_drawn_another_is() {
        let mut net = Played::up(|number| number == 1, None, (true, Replicas::Three)).await;
        let (made, asked) = net.made().await;
        made.unwrap();
        assert_eq!(asked, ["delete", "create", "look", "delete", "create"]);
    }

    #[tokio::test]
    async fn a_server_that_is_slow_is_not_made_to_begin_anew() {
        let mut net = Played::up(|_| false, Some(0), (true, Replicas::Three)).await;
        let (made, asked) = net.made().await;
        made.unwrap();
        assert_eq!(asked, ["delete", "create", "look"]);
    }

    #[tokio::test]
    async fn what_somebody_reads_meanwhile_is_left_to_him() {
        let mut net = Played::up(|_| false, Some(1), (true, Replicas::Three)).await;
        let (made, asked) = net.made().await;
        let error = made.unwrap_err();
        assert_eq!(
            wire::causes(&error),
            "NATS does not answer (creating consumer nz1-bulk of S): it is read already"
        );
        assert_eq!(asked, ["delete", "create", "look"]);
    }

    #[tokio::test]
    async fn where_one_server_holds_the_stream_or_everybody_makes_his_own_none_is_drawn_again() {
        for who in [(true, Replicas::One), (false, Replicas::Three)] {
            let mut net = Played::up(|_| false, None, who).await;
            let (made, asked) = net.made().await;
            assert!(matches!(made.unwrap_err(), LogError::Down { .. }));
            assert_eq!(asked[..2], ["delete", "create"]);
            assert_eq!(asked.iter().filter(|what| **what == "create").count(), 1);
        }
    }

    #[test]
    fn whoever_asks_waits_until_all_was_tried() {
        for waits in [&CREATE_ONCE[..], &CREATE_AGAIN[..]] {
            let tries = waits
                .iter()
                .map(|wait| *wait + LOOK_UP_TIMEOUT + REDRAW_TIMEOUT);
            let all = LOOK_UP_TIMEOUT + DELETE_TIMEOUT + tries.sum::<Duration>();
            assert!(all < ASK_TIMEOUT, "{all:?}");
        }
    }

    #[test]
    fn a_mirror_gets_its_own_consumers_and_no_others() {
        let channels = ["noble", "noble-security"].map(|name| ChannelId::new(name).unwrap());
        let plan = Ask::lane(Lane::Bulk, &channels, 7)
            .plan(&user("nz1"))
            .unwrap();
        assert_eq!(plan.stream, declare::LOG);
        assert_eq!(plan.config.durable_name.as_deref(), Some("nz1-bulk"));
        let subjects = [
            "mirrorlog.log.bulk.noble",
            "mirrorlog.log.bulk.noble-security",
        ];
        assert_eq!(plan.config.filter_subjects, subjects);

        let plan = read(declare::ORDER).plan(&user("nz1")).unwrap();
        assert_eq!(plan.config.name.as_deref(), Some("nz1-read"));
        assert_eq!(plan.config.filter_subject, "mirrorlog.order.nz1");
        let nowhere = Ask::Read {
            stream: declare::ORDER.to_owned(),
            start: Start::Sequence(0),
            reader: None,
        };
        assert_eq!(nowhere.plan(&user("nz1")).unwrap_err(), AskError::Start);
        for stream in [
            declare::LOG,
            declare::REPORT,
            declare::FEEDBACK,
            "KV_mirrorlog_salt",
            "",
        ] {
            let error = read(stream).plan(&user("nz1")).unwrap_err();
            assert_eq!(error, AskError::Stream(stream.to_owned()));
        }
    }

    #[test]
    fn a_service_of_the_centre_gets_readers_of_what_is_its_own() {
        let ask = |stream: &str, reader| Ask::Read {
            stream: stream.to_owned(),
            start: Start::LastPerSubject,
            reader,
        };
        let plan = ask(declare::REPORT, Some(7)).plan(&user("consistency"));
        let plan = plan.unwrap();
        assert_eq!(plan.config.filter_subject, declare::REPORTS);
        assert_eq!(plan.config.name, None);
        assert_eq!(plan.places[0], "consistency-1");
        assert_eq!(plan.config.metadata[READER], "7");
        let plan = ask(declare::FEEDBACK, Some(7)).plan(&user("directory"));
        assert_eq!(plan.unwrap().places[1], "directory-2");
        let nobody = ask(declare::REPORT, None).plan(&user("consistency"));
        assert_eq!(nobody.unwrap_err(), AskError::Reader);
        for (name, stream) in [
            ("consistency", declare::FEEDBACK),
            ("consistency", declare::ORDER),
            ("directory", declare::REPORT),
            ("directory", "KV_mirrorlog_lease"),
            ("archive", declare::LOG),
        ] {
            let error = ask(stream, Some(1)).plan(&user(name)).unwrap_err();
            assert_eq!(error, AskError::Stream(stream.to_owned()));
            let lane = Ask::lane(Lane::Bulk, &[], 0).plan(&user(name));
            assert_eq!(lane.unwrap_err(), AskError::Lanes);
        }
    }

    #[test]
    fn what_is_no_lane_or_channel_is_refused() {
        let ask = |lane: &str, channels: Vec<String>| Ask::Lane {
            lane: lane.to_owned(),
            channels,
            floor: u64::MAX,
        };
        ask("bulk", Vec::new()).plan(&user("nz1")).unwrap();
        let lane = ask("fast", Vec::new()).plan(&user("nz1")).unwrap_err();
        assert_eq!(lane, AskError::Lane("fast".into()));
        for channel in ["", "*", ">", "a.b", "noble.>", "Noble", "a b"] {
            let error = ask("bulk", vec![channel.into()])
                .plan(&user("nz1"))
                .unwrap_err();
            assert_eq!(error, AskError::Channel(channel.into()));
        }
        let many = vec!["noble".to_owned(); CHANNELS_MAX + 1];
        let error = ask("bulk", many).plan(&user("nz1")).unwrap_err();
        assert_eq!(error, AskError::Channels);
    }

    #[test]
    fn asks_are_read_back_and_answers_are_none() {
        let channels = [ChannelId::new("noble").unwrap()];
        for ask in [
            Ask::lane(Lane::Priority, &channels, 0),
            read(declare::ORDER),
            Ask::Read {
                stream: declare::LOG.to_owned(),
                start: Start::Sequence(9),
                reader: Some(u64::MAX),
            },
        ] {
            let question = Question { id: u64::MAX, ask };
            let bytes = serde_json::to_vec(&question).unwrap();
            let back: Question = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(back, question);
        }
        for answer in [
            Answer::Made,
            Answer::MadeAs("x".into()),
            Answer::Later("x".into()),
            Answer::Refused("x".into()),
        ] {
            let bytes = serde_json::to_vec(&answer).unwrap();
            assert!(serde_json::from_slice::<Question>(&bytes).is_err());
        }
    }
}
