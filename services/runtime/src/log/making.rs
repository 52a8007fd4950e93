//! Making a consumer by one's own right, or having the archive make it.

use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, IntoConsumerConfig as _, pull};
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use tokio::time::Instant;

use super::access::{User, consumer_request};
use super::consumer::{Answer, Ask, Plan, Question};
use super::error::Cause;
use super::places::{LOOK_UP_TIMEOUT, READER};
use super::{Log, LogError, REQUEST_TIMEOUT, declare};

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
    use mirrorlog_core::id::Lane;
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::super::consumer::lane_consumer;
    use super::super::supervise::NatsServer;
    use super::super::{NatsConfig, Replicas};
    use super::*;

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
}
