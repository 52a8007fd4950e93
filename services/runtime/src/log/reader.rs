//! Reading a stream without end: what both durable consumers and plain readers need, and the plain readers.

use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::stream;
use bytes::Bytes;
use futures::StreamExt as _;
use mirrorlog_core::time::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Reaction;

use super::consumer::{Ask, Plan, Start};
use super::{
    BACKOFF_MIN, Log, LogError, Position, RECONNECT_MAX, StreamIdentity, declare, identity, trace,
};

/// Most messages asked for in one pull; bounds what waits in memory.
const PULL_MESSAGES_MAX: usize = 64;
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// A consumer that is silent for two of these is looked after.
const PULL_HEARTBEAT: Duration = Duration::from_secs(5);

/// A pull consumer's messages with the check that none was lost on the way.
pub(super) struct Source {
    messages: pull::Stream,
    /// The stream that is read.
    pub(super) stream: StreamIdentity,
    /// The consumer's own numbering of its deliveries: a gap is a delivery that did not arrive.
    next_delivery: u64,
    /// Whether nothing was behind the last message when it was sent.
    at_end: bool,
}

/// Why a source is of no use any more.
pub(super) enum Broken {
    /// Nothing is wrong, but what was under way on the old connection may be lost.
    Reconnected,
    /// The server or the client library says so.
    Failed(String),
}

/// One message with its place.
pub(super) struct Raw {
    pub(super) message: async_nats::Message,
    pub(super) sequence: u64,
    pub(super) published: Timestamp,
}

impl Source {
    pub(super) async fn open(
        consumer: &Consumer<pull::Config>,
        stream: StreamIdentity,
    ) -> Result<Self, LogError> {
        let next_delivery = consumer.cached_info().delivered.consumer_sequence + 1;
        let messages = consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES_MAX)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_HEARTBEAT)
            .messages()
            .await
            .map_err(|error| LogError::down("pulling", error))?;
        Ok(Self {
            messages,
            stream,
            next_delivery,
            at_end: false,
        })
    }

    /// The next message, or why this source is of no use any more.
    async fn next(&mut self) -> Result<Raw, Broken> {
        let message = match self.messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(Broken::Failed(error.to_string())),
            None => return Err(Broken::Failed("the pull ended".into())),
        };
        let info = message
            .info()
            .map_err(|error| Broken::Failed(error.to_string()))?;
        if info.consumer_sequence != self.next_delivery {
            let came = info.consumer_sequence;
            return Err(Broken::Failed(format!(
                "delivery {came} came in place of {}",
                self.next_delivery
            )));
        }
        self.next_delivery += 1;
        let published_ms = info.published.unix_timestamp_nanos() / 1_000_000;
        let published = Timestamp::from_ms(i64::try_from(published_ms).unwrap_or(i64::MAX));
        let sequence = info.stream_sequence;
        self.at_end = info.pending == 0;
        Ok(Raw {
            message: message.message,
            sequence,
            published,
        })
    }
}

/// When to look again after a failure: 100 ms doubling to 5 s, at once after a new connection.
pub(super) struct Healing {
    log: Log,
    connections: watch::Receiver<u64>,
    wait: Duration,
    not_before: Option<Instant>,
}

impl Healing {
    pub(super) fn new(log: Log) -> Self {
        let connections = log.connections.subscribe();
        Self {
            log,
            connections,
            wait: BACKOFF_MIN,
            not_before: None,
        }
    }

    /// What is opened from now on belongs to the connection of now.
    pub(super) fn opening(&mut self) {
        self.connections.mark_unchanged();
    }

    /// Remembers that something failed.
    pub(super) fn failed(&mut self) {
        self.not_before = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(RECONNECT_MAX);
    }

    /// Remembers that messages flow.
    pub(super) fn flows(&mut self) {
        self.wait = BACKOFF_MIN;
        self.not_before = None;
    }

    /// Returns when it is time to try: connected, and the backoff over or the connection new.
    pub(super) async fn ready(&mut self) {
        loop {
            let until = self.not_before.unwrap_or_else(Instant::now);
            let reconnected = tokio::select! {
                changed = self.connections.changed() => changed.is_ok(),
                () = tokio::time::sleep_until(until) => false,
            };
            if reconnected {
                self.flows();
            } else if !self.log.is_connected() {
                self.failed();
                continue;
            }
            return;
        }
    }

    /// The source's next message; fails when it broke or a new connection took its place.
    pub(super) async fn next(&mut self, source: &mut Source) -> Result<Raw, Broken> {
        let read = tokio::select! {
            biased;
            Ok(()) = self.connections.changed() => Err(Broken::Reconnected),
            raw = source.next() => raw,
        };
        match &read {
            Ok(_) | Err(Broken::Reconnected) => self.flows(),
            Err(Broken::Failed(reason)) => {
                tracing::debug!(reason, "reading stopped");
                self.failed();
            }
        }
        read
    }
}

/// Reads a stream in order, without acks; comes back by itself after the message that it gave last.
pub(super) struct Reader {
    log: Log,
    stream: stream::Config,
    filter: String,
    start: Start,
    /// By this the archive knows it again, where it makes the consumers.
    number: Option<u64>,
    /// The last message given, in which stream; sequence 0 before the first.
    cursor: Option<Position>,
    source: Option<Source>,
    healing: Healing,
    caught_up: bool,
}

/// What a reader says.
pub(super) enum Read {
    Message(Raw, StreamIdentity),
    /// The stream was made anew or lost its end; what follows is from its start.
    Changed(StreamIdentity),
}

impl Reader {
    pub(super) fn new(log: Log, stream: &str, filter: String, start: Start) -> Self {
        let healing = Healing::new(log.clone());
        Self {
            log,
            stream: declare::stream_named(stream),
            filter,
            start,
            number: None,
            cursor: None,
            source: None,
            healing,
            caught_up: false,
        }
    }

    /// True once there was a consumer.
    pub(super) fn opened(&self) -> bool {
        self.cursor.is_some()
    }

    /// True once a message was given that was the stream's last at that moment.
    pub(super) fn caught_up(&self) -> bool {
        self.caught_up
    }

    /// Opens now, so that the caller learns of what only an operator can mend. A server that is down is
    /// looked for later.
    pub(super) async fn try_open(&mut self) -> Result<(), LogError> {
        match self.open().await {
            Err(error) if error.reaction() != Reaction::Retry => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(super) async fn next(&mut self) -> Read {
        loop {
            if self.source.is_none() {
                self.healing.ready().await;
                match self.open().await {
                    Ok(None) => {}
                    Ok(Some(changed)) => return Read::Changed(changed),
                    Err(error) => {
                        report(&self.stream.name, &error);
                        self.healing.failed();
                    }
                }
            }
            let Some(source) = &mut self.source else {
                continue;
            };
            match self.healing.next(source).await {
                Ok(raw) => {
                    let stream = source.stream;
                    self.cursor = Some(Position {
                        stream,
                        sequence: raw.sequence,
                    });
                    self.caught_up |= source.at_end;
                    return Read::Message(raw, stream);
                }
                Err(Broken::Reconnected | Broken::Failed(_)) => self.source = None,
            }
        }
    }

    /// Makes a consumer after the cursor. Says when the stream is not the one that was read.
    async fn open(&mut self) -> Result<Option<StreamIdentity>, LogError> {
        self.healing.opening();
        let info = self.log.ensure_stream(&self.stream).await?;
        let stream = identity(&info);
        let changed = self
            .cursor
            .is_some_and(|at| at.stream != stream || at.sequence > info.state.last_sequence);
        // Whoever gave the first sequence knew another stream, if this one has not come so far.
        let beyond =
            matches!(self.start, Start::Sequence(first) if first > info.state.last_sequence + 1);
        if changed || (self.cursor.is_none() && beyond) {
            self.start = match self.start {
                Start::Sequence(_) | Start::All => Start::All,
                Start::LastPerSubject => Start::LastPerSubject,
            };
        }
        let cursor = self.cursor.filter(|_| !changed).unwrap_or(Position {
            stream,
            sequence: 0,
        });
        let start = match cursor.sequence {
            0 => self.start,
            last => Start::Sequence(last + 1),
        };
        let (asker, filter) = (self.log.asker.as_deref(), self.filter.clone());
        let plan = Plan::reader(&self.stream.name, filter, start, asker);
        // A mirror's has a name of its own.
        if self.number.is_none() && !plan.places.is_empty() {
            let drawn = getrandom::u64();
            self.number = Some(drawn.map_err(|error| LogError::down("drawing a number", error))?);
        }
        let ask = Ask::Read {
            stream: self.stream.name.clone(),
            start,
            reader: self.number,
        };
        let consumer = self.log.make_consumer(plan, ask).await?;
        self.source = Some(Source::open(&consumer, stream).await?);
        self.cursor = Some(cursor);
        Ok(changed.then_some(stream))
    }
}

/// Says why reading does not go on: as a warning what passes, as an error what an operator has to mend.
pub(super) fn report(stream: &str, error: &LogError) {
    let cause = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    match error.reaction() {
        Reaction::Halt | Reaction::Park => {
            tracing::error!(stream, %error, cause, "cannot read, trying again")
        }
        Reaction::Retry => tracing::warn!(stream, %error, cause, "cannot read, trying again"),
    }
}

/// Messages of reports, verdicts or orders.
pub struct Messages {
    reader: Reader,
}

/// One report, verdict or order.
#[derive(Clone, Debug)]
pub struct Message {
    /// `mirrorlog.report.<mirror>.<channel>` and the like.
    pub subject: String,
    /// Its number in its stream.
    pub sequence: u64,
    /// What was published.
    pub payload: Bytes,
    /// W3C trace context of the publisher, to be set as parent.
    pub trace: opentelemetry::Context,
}

impl Messages {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader }
    }

    /// True once there was something to read from; stays so.
    pub fn opened(&self) -> bool {
        self.reader.opened()
    }

    /// True once the newest message of a moment was read; stays so.
    pub fn caught_up(&self) -> bool {
        self.reader.caught_up()
    }

    /// The next message; never ends, may repeat. After the stream was made anew it begins again.
    /// Cancelling it loses nothing.
    pub async fn next(&mut self) -> Message {
        loop {
            match self.reader.next().await {
                Read::Message(raw, _) => {
                    let trace = trace::context(raw.message.headers.as_ref());
                    let subject = raw.message.subject.to_string();
                    return Message {
                        subject,
                        sequence: raw.sequence,
                        payload: raw.message.payload,
                        trace,
                    };
                }
                Read::Changed(stream) => {
                    tracing::warn!(stream = stream.0, "the stream was made anew")
                }
            }
        }
    }
}
