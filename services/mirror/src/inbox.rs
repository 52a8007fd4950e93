//! Events, heads and orders from the log, verified before the engine sees them.

use std::time::Duration;

use bytes::Bytes;
use mirrorlog_core::drain::Drains;
use mirrorlog_core::id::{ChannelId, Lane, MirrorId};
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{DeltaSource, Head, Order, ReplayFrom, Verdict};
use mirrorlog_core::time::Timestamp;
use runtime::doubt::Room as _;
use runtime::early::{About, Early};
use runtime::log::{self, AckHandle, Delivery, Log, LogError, Position};
use runtime::trust::Keys;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use wire::Signed;
use wire::event::Opened;

use crate::engine::{Mailbox, Message};
use crate::parked::Parked;

/// Pause before a failed subscription is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// A verified event.
pub(crate) struct Arrived {
    pub(crate) lane: Lane,
    pub(crate) position: Position,
    pub(crate) opened: Opened,
    pub(crate) signed: Signed,
    pub(crate) head: Option<(Signed, Head)>,
    pub(crate) delta: DeltaSource,
    pub(crate) ack: AckHandle,
    /// The span that follows the build from its publisher.
    pub(crate) span: tracing::Span,
}

/// What every reader of the log needs.
#[derive(Clone)]
pub(crate) struct Inbox {
    pub(crate) log: Log,
    pub(crate) mirror: MirrorId,
    pub(crate) channels: Vec<ChannelId>,
    pub(crate) keys: Keys,
    pub(crate) parked: Parked,
    pub(crate) engine: Mailbox,
}

/// Where a replay asked a lane to begin.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    pub(crate) channel: Option<ChannelId>,
    pub(crate) from: ReplayFrom,
}

impl Inbox {
    /// Follows one lane from `floor` until `stop`. Gives up only when the engine is gone.
    pub(crate) async fn follow_lane(
        self,
        lane: Lane,
        floor: Option<Position>,
        replay: Option<Replay>,
        stop: CancellationToken,
    ) {
        let work = async {
            let mut events = self.subscribe(lane, floor).await;
            loop {
                let message = match events.next().await {
                    Delivery::Event(event) => self.take(lane, event, replay.as_ref()).await,
                    Delivery::StreamChanged(identity) => Message::StreamChanged {
                        lane,
                        stream: identity,
                    },
                };
                if self.engine.send(message).await.is_err() {
                    return;
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn subscribe(&self, lane: Lane, floor: Option<Position>) -> log::Events {
        loop {
            match self
                .log
                .consume(&self.mirror, lane, &self.channels, floor)
                .await
            {
                Ok(events) => return events,
                Err(error) => pause(&format!("consumer of lane {lane}"), &error).await,
            }
        }
    }

    async fn take(&self, lane: Lane, event: log::Event, replay: Option<&Replay>) -> Message {
        let position = event.position;
        let channel = event.channel.clone();
        let ack = event.ack.clone();
        let keys = self.keys.now();
        match self.open(lane, &event, &keys) {
            Ok(arrived) if replay.is_some_and(|replay| replay.skips(&event, &arrived.opened)) => {
                Message::Skipped {
                    lane,
                    position,
                    ack,
                    channel: None,
                }
            }
            Ok(arrived) => Message::Event(Box::new(arrived)),
            Err(reason) => {
                let name = format!("{lane}-{}-{}", position.stream.0, position.sequence);
                let (of, payload) = (&event.channel, event.payload);
                self.parked
                    .keep_event(name, &reason, of, payload, &keys)
                    .await;
                Message::Skipped {
                    lane,
                    position,
                    ack,
                    channel: Some(channel),
                }
            }
        }
    }

    fn open(&self, lane: Lane, event: &log::Event, keys: &TrustedKeys) -> Result<Arrived, String> {
        let decoded = wire::Event::decode(&event.payload).map_err(|e| chain(&e))?;
        let (opened, head) = decoded.open(keys).map_err(|e| chain(&e))?;
        let channel = match &opened {
            Opened::Snapshot(snapshot) => &snapshot.channel,
            Opened::Retraction(retraction) => &retraction.channel,
        };
        let said = match &opened {
            Opened::Snapshot(snapshot) => snapshot.created,
            Opened::Retraction(retraction) => retraction.created,
        };
        check_time(head.as_ref().map_or(said, |head| said.max(head.issued)))?;
        if *channel != event.channel {
            return Err(format!(
                "statement of {channel} on the subject of {}",
                event.channel
            ));
        }
        let span =
            tracing::info_span!("event", %channel, %lane, sequence = event.position.sequence);
        runtime::trace::with_parent(&span, &event.trace);
        Ok(Arrived {
            lane,
            position: event.position,
            opened,
            signed: decoded.body.signed().clone(),
            head: decoded.head.zip(head),
            delta: decoded.delta,
            ack: event.ack.clone(),
            span,
        })
    }

    /// Follows the heads of all channels.
    pub(crate) async fn follow_heads(self, stop: CancellationToken) {
        let work = async {
            loop {
                let mut watch = match self.watch_heads().await {
                    Ok(watch) => watch,
                    Err(error) => {
                        pause("heads", &error).await;
                        continue;
                    }
                };
                loop {
                    let change = watch.next().await;
                    let Some(value) = change.value else { continue };
                    match self.open_head(&change.key, &value) {
                        Ok(Some((signed, head))) => {
                            let message = Message::Head { signed, head };
                            if self.engine.send(message).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => {}
                        Err(reason) => {
                            let name = format!("head-{}-{}", change.key, change.revision);
                            self.parked.keep(&name, &reason, value).await;
                        }
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn watch_heads(&self) -> Result<log::Watch, LogError> {
        self.log.bucket("head").await?.watch().await
    }

    fn open_head(&self, key: &str, value: &Bytes) -> Result<Option<(Signed, Head)>, String> {
        let signed = Signed::decode(value).map_err(|e| chain(&e))?;
        let head = signed.open_head(&self.keys.now()).map_err(|e| chain(&e))?;
        check_time(head.issued)?;
        if head.channel.as_str() != key {
            return Err(format!("head of {} under the key {key}", head.channel));
        }
        let carried = self.channels.is_empty() || self.channels.contains(&head.channel);
        Ok(carried.then_some((signed, head)))
    }

    /// Follows whether this mirror is to take clients, where those who send them look. An order that comes both ways is
    /// carried out once.
    pub(crate) async fn follow_drains(self, stop: CancellationToken) {
        let work = async {
            loop {
                let watch = async { self.log.bucket("drain").await?.watch().await };
                let mut watch = match watch.await {
                    Ok(watch) => watch,
                    Err(error) => {
                        pause("drains", &error).await;
                        continue;
                    }
                };
                let mut early = Early::new(&self.keys);
                loop {
                    let (revision, value, again) = tokio::select! {
                        biased;
                        (revision, value) = early.next() => (revision, value, true),
                        change = watch.next() => match change.value {
                            Some(value) if change.key == self.mirror.as_str() => (change.revision, value, false),
                            Some(_) | None => continue,
                        },
                    };
                    let name = format!("drain-{revision}");
                    match self.open_order(&value, early.keys()) {
                        Ok(order) => {
                            if again {
                                self.parked.take_back(&name).await;
                            } else {
                                early.said(&About::clients(&order));
                            }
                            if Drains::concerns(&order.kind)
                                && self.engine.send(Message::Order(order)).await.is_err()
                            {
                                return;
                            }
                        }
                        Err(reason) => {
                            early.keep(revision, &value, About::clients);
                            if !again {
                                self.parked.keep(&name, &reason, value).await;
                            }
                        }
                    }
                }
            }
        };
        stop.run_until_cancelled(work.instrument(tracing::info_span!("drains")))
            .await;
    }

    /// Follows what the consistency service says of this mirror.
    pub(crate) async fn follow_words(self, keys: Keys, stop: CancellationToken) {
        let work = async {
            loop {
                let mut messages = match self.log.verdicts_on(&self.mirror).await {
                    Ok(messages) => messages,
                    Err(error) => {
                        pause("verdicts", &error).await;
                        continue;
                    }
                };
                let mut early = Early::new(&keys);
                loop {
                    let (sequence, payload, again) = tokio::select! {
                        biased;
                        (sequence, payload) = early.next() => (sequence, payload, true),
                        message = messages.next() => (message.sequence, message.payload, false),
                    };
                    let name = format!("verdict-{sequence}");
                    match self.open_word(&payload, early.keys()) {
                        Ok(verdict) => {
                            if again {
                                self.parked.take_back(&name).await;
                            } else {
                                early.said(&About::verdict(&verdict));
                            }
                            let message = Message::Word(Box::new(verdict));
                            if self.engine.send(message).await.is_err() {
                                return;
                            }
                        }
                        Err(reason) => {
                            early.keep(sequence, &payload, About::order);
                            if !again {
                                self.parked.keep(&name, &reason, payload).await;
                            }
                        }
                    }
                }
            }
        };
        stop.run_until_cancelled(work.instrument(tracing::info_span!("verdicts")))
            .await;
    }

    fn open_word(&self, payload: &Bytes, keys: &TrustedKeys) -> Result<Verdict, String> {
        let signed = Signed::decode(payload).map_err(|e| chain(&e))?;
        let verdict = signed.open_verdict(keys).map_err(|e| chain(&e))?;
        if verdict.mirror == self.mirror {
            Ok(verdict)
        } else {
            Err(format!(
                "verdict on {} on the subject of {}",
                verdict.mirror, self.mirror
            ))
        }
    }

    /// Follows the orders to this mirror.
    pub(crate) async fn follow_orders(self, stop: CancellationToken) {
        let work = async {
            loop {
                let mut messages = match self.log.orders(&self.mirror, None).await {
                    Ok(messages) => messages,
                    Err(error) => {
                        pause("orders", &error).await;
                        continue;
                    }
                };
                let mut early = Early::new(&self.keys);
                loop {
                    let (sequence, payload, again) = tokio::select! {
                        biased;
                        (sequence, payload) = early.next() => (sequence, payload, true),
                        message = messages.next() => (message.sequence, message.payload, false),
                    };
                    let name = format!("order-{sequence}");
                    match self.open_order(&payload, early.keys()) {
                        Ok(order) => {
                            if again {
                                self.parked.take_back(&name).await;
                            } else {
                                early.said(&About::order(&order));
                            }
                            if self.engine.send(Message::Order(order)).await.is_err() {
                                return;
                            }
                        }
                        Err(reason) => {
                            early.keep(sequence, &payload, About::order);
                            if !again {
                                self.parked.keep(&name, &reason, payload).await;
                            }
                        }
                    }
                }
            }
        };
        stop.run_until_cancelled(work.instrument(tracing::info_span!("orders")))
            .await;
    }

    fn open_order(&self, payload: &Bytes, keys: &TrustedKeys) -> Result<Order, String> {
        let signed = Signed::decode(payload).map_err(|e| chain(&e))?;
        let order = signed.open_order(keys).map_err(|e| chain(&e))?;
        if order.mirror == self.mirror {
            Ok(order)
        } else {
            Err(format!(
                "order to {} on the subject of {}",
                order.mirror, self.mirror
            ))
        }
    }
}

impl Replay {
    fn skips(&self, event: &log::Event, opened: &Opened) -> bool {
        if self
            .channel
            .as_ref()
            .is_some_and(|channel| *channel != event.channel)
        {
            return true;
        }
        match (self.from, opened) {
            (ReplayFrom::Build(first), Opened::Snapshot(snapshot)) => snapshot.build < first,
            (ReplayFrom::Time(time), _) => event.published < time,
            (ReplayFrom::Build(_), Opened::Retraction(_)) | (ReplayFrom::LastAck, _) => false,
        }
    }
}

/// How far a statement may be dated ahead, in milliseconds: as far as clocks of machines that nobody looks after are off.
const AHEAD_MAX_MS: i64 = 2 * 24 * 3600 * 1000;
/// A statement of the far future would keep every honest one out: of two heads the later one counts.
pub(crate) fn check_time(said: Timestamp) -> Result<(), String> {
    match said.ms_since(runtime::boot::now()) {
        ahead if ahead > AHEAD_MAX_MS => {
            Err("it is dated days ahead of this machine's clock".to_owned())
        }
        _near => Ok(()),
    }
}

/// An error with its causes, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

async fn pause(what: &str, error: &LogError) {
    tracing::warn!(error = %chain(error), "{what} cannot be read now; trying again");
    tokio::time::sleep(RETRY).await;
}
