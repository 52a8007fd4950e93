//! The shell around `mirrorlog_core::mirror`.
//!
//! One law: receive, step, persist state and cursor in one atomic write, perform effects, ack.
//! Effects are idempotent and derived again at each start, so a crash between any two of these
//! costs time, never content.

mod mailbox;
mod perform;
mod slot;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::mirror::{Channel, Input, Policy, Retracted, Target};
use mirrorlog_core::statement::{Head, Order, OrderOutcome, Snapshot, retractions_digest};
use mirrorlog_core::time::Timestamp;
use runtime::log::{AckHandle, StreamIdentity};
use runtime::state::Write;
use tokio_util::sync::CancellationToken;
use wire::Signed;
use wire::event::Opened;
use wire::state::Cursor;

pub(crate) use self::mailbox::Mailbox;
pub(crate) use self::slot::Slot;
use crate::inbox::Arrived;
use crate::journal::Answer;
use crate::run::Parts;
use crate::state::Key;
use crate::sync::{Missing, SyncError, Whole};

/// What reaches the engine.
pub(crate) enum Message {
    /// A verified event.
    Event(Box<Arrived>),
    /// An event that needs no step: before a replay's start, or parked (then with its channel).
    Skipped {
        lane: Lane,
        position: runtime::log::Position,
        ack: AckHandle,
        channel: Option<ChannelId>,
    },
    /// The log was made anew: its sequences start over.
    StreamChanged { lane: Lane, stream: StreamIdentity },
    /// A verified head.
    Head { signed: Signed, head: Head },
    /// The journal's answer.
    Journal {
        channel: ChannelId,
        answer: Option<Box<Answer>>,
    },
    /// What a build would still cost.
    Planned {
        channel: ChannelId,
        lane: Lane,
        build: Build,
        missing_bytes: u64,
    },
    /// A running sync knows what it lacks.
    Lacks {
        channel: ChannelId,
        build: Build,
        missing: Missing,
    },
    /// A sync ended.
    Synced {
        channel: ChannelId,
        lane: Lane,
        build: Build,
        outcome: Result<Whole, SyncError>,
    },
    /// A scrub or an order found these entries of a held build lost.
    Faults {
        channel: ChannelId,
        build: Build,
        missing: Missing,
    },
    /// A held build is whole again, or could not be healed now.
    Healed {
        channel: ChannelId,
        build: Build,
        outcome: Result<Whole, SyncError>,
    },
    /// An operator's order.
    Order(Order),
    /// An order was carried out.
    OrderDone {
        channel: Option<ChannelId>,
        outcome: OrderOutcome,
    },
    /// Time has passed.
    Tick,
}

/// Pause between two ticks.
pub(crate) const TICK: Duration = Duration::from_millis(500);
/// Pause before a failed write of control state is tried again.
const PERSIST_RETRY: Duration = Duration::from_secs(1);

impl Message {
    /// The lane that waits for this, if one does.
    fn lane(&self) -> Option<Lane> {
        match self {
            Self::Event(arrived) => Some(arrived.lane),
            Self::Skipped { lane, .. }
            | Self::StreamChanged { lane, .. }
            | Self::Planned { lane, .. }
            | Self::Synced { lane, .. } => Some(*lane),
            Self::Head { .. }
            | Self::Journal { .. }
            | Self::Lacks { .. }
            | Self::Faults { .. }
            | Self::Healed { .. }
            | Self::Order(_)
            | Self::OrderDone { .. }
            | Self::Tick => None,
        }
    }
}

/// Owns the state of all channels.
pub(crate) struct Engine {
    pub(super) parts: Arc<Parts>,
    pub(super) policy: Policy,
    pub(super) slots: BTreeMap<ChannelId, Slot>,
    pub(super) cursors: BTreeMap<Lane, Cursor>,
    pub(super) acks: HashMap<(Lane, u64), AckHandle>,
    pub(super) outcomes: Vec<OrderOutcome>,
    pub(super) sender: Mailbox,
    pub(super) stop: CancellationToken,
    pub(super) last_progress_ack: tokio::time::Instant,
    pub(super) last_progress_report: tokio::time::Instant,
}

impl Engine {
    /// Takes up the state that was left.
    pub(crate) fn load(
        parts: Arc<Parts>,
        sender: Mailbox,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let mirror = &parts.config.mirror;
        let policy = Policy {
            retain_builds: mirror.retain_builds.max(1),
            grace_ms: i64::try_from(mirror.grace.0.as_millis()).unwrap_or(i64::MAX),
            ..Policy::default()
        };
        let mut engine = Self {
            policy,
            slots: slot::load_all(&*parts.control)?,
            cursors: BTreeMap::new(),
            acks: HashMap::new(),
            outcomes: Vec::new(),
            sender,
            stop,
            last_progress_ack: tokio::time::Instant::now(),
            last_progress_report: tokio::time::Instant::now(),
            parts,
        };
        for lane in Lane::ALL {
            if let Some(bytes) = engine.parts.control.get(&Key::Cursor(lane).encode())? {
                engine.cursors.insert(lane, Cursor::decode(&bytes)?);
            }
        }
        Ok(engine)
    }

    /// Where a lane's consumer starts: below every event that is still open, else behind the last one taken.
    pub(crate) fn floor(&self, lane: Lane) -> Option<runtime::log::Position> {
        let cursor = self.cursors.get(&lane)?;
        let open = self
            .slots
            .values()
            .filter_map(|slot| slot.channel.open_sequence(lane))
            .min();
        Some(runtime::log::Position {
            stream: StreamIdentity(i128::from(cursor.stream_created_ns)),
            sequence: open.map_or(cursor.delivered, |open| open.saturating_sub(1)),
        })
    }

    /// Performs again what the state says should be under way.
    pub(crate) async fn resume(&mut self) {
        let now = runtime::boot::now();
        let ids: Vec<ChannelId> = self.slots.keys().cloned().collect();
        for id in ids {
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            let effects = slot.channel.resume(now);
            self.persist(&id, Vec::new()).await;
            self.perform(&id, effects).await;
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, mut inbox: mailbox::Inbox) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                () = self.stop.cancelled() => break,
                message = inbox.next() => message.unwrap_or(Message::Tick),
                _ = tick.tick() => Message::Tick,
            };
            self.handle(message).await;
        }
        for slot in self.slots.values_mut() {
            slot.cancel_all();
        }
    }

    async fn handle(&mut self, message: Message) {
        match message {
            Message::Event(arrived) => self.on_event(*arrived).await,
            Message::Skipped {
                lane,
                position,
                ack,
                channel,
            } => {
                self.take_position(lane, position);
                self.persist_cursors().await;
                self.finish_event(&ack, channel.is_some()).await;
                if let Some(channel) = channel {
                    // Whatever was asked lately was asked before this.
                    self.slot(&channel).ask_again = true;
                    self.ask_journal(&channel, Build::FIRST);
                }
            }
            Message::StreamChanged { lane, stream } => self.on_stream_changed(lane, stream).await,
            Message::Head { signed, head } => self.on_head(signed, &head, Vec::new()).await,
            Message::Journal { channel, answer } => self.on_journal(&channel, answer).await,
            Message::Planned {
                channel,
                lane,
                build,
                missing_bytes,
            } => {
                self.step(
                    &channel,
                    Input::Planned {
                        lane,
                        build,
                        missing_bytes,
                    },
                    Vec::new(),
                )
                .await;
            }
            Message::Lacks {
                channel,
                build,
                missing,
            } => self.on_lacks(&channel, build, missing).await,
            Message::Synced {
                channel,
                lane,
                build,
                outcome,
            } => {
                self.on_synced(&channel, lane, build, outcome).await;
            }
            Message::Faults {
                channel,
                build,
                missing,
            } => {
                // One that was let go meanwhile has nothing to lose.
                if let Some(slot) = self.slots.get_mut(&channel)
                    && slot.channel.held.contains_key(&build)
                {
                    slot.missing.insert(build, missing);
                    self.step(&channel, Input::Lost { build }, Vec::new()).await;
                }
            }
            Message::Healed {
                channel,
                build,
                outcome,
            } => {
                self.on_healed(&channel, build, outcome).await;
            }
            Message::Order(order) => self.on_order(order).await,
            Message::OrderDone { channel, outcome } => self.on_order_done(channel, outcome).await,
            Message::Tick => self.on_tick().await,
        }
    }

    async fn on_event(&mut self, arrived: Arrived) {
        let Arrived {
            lane,
            position,
            opened,
            signed,
            head,
            delta,
            ack,
            span,
        } = arrived;
        let channel = match &opened {
            Opened::Snapshot(snapshot) => snapshot.channel.clone(),
            Opened::Retraction(retraction) => retraction.channel.clone(),
        };
        // The head first: it allows the build that comes with it to be adopted.
        if let Some((signed, head)) = head {
            self.on_head(signed, &head, vec![]).await;
        }
        // Only now: the cursor must not be written before what it passes has been stepped.
        self.take_position(lane, position);
        self.acks.insert((lane, position.sequence), ack);
        match opened {
            Opened::Snapshot(snapshot) => {
                span.in_scope(|| tracing::info!(build = %snapshot.build, "a build was announced"));
                let slot = self.slot(&channel);
                slot.deltas.insert(snapshot.build, delta);
                slot.spans.insert(snapshot.build, span);
                self.on_snapshot(signed, &snapshot, Some((lane, position.sequence)))
                    .await;
            }
            Opened::Retraction(retraction) => {
                let event = Some((lane, position.sequence));
                self.on_retraction(signed, &retraction, event).await;
            }
        }
    }

    async fn on_snapshot(
        &mut self,
        signed: Signed,
        snapshot: &Snapshot,
        event: Option<(Lane, u64)>,
    ) {
        let channel = snapshot.channel.clone();
        let lane = event.map_or(snapshot.lane, |(lane, _)| lane);
        let target = target_of(snapshot);
        let writes = self.remember(signed, snapshot).await;
        let sequence = event.map(|(_, sequence)| sequence);
        self.step(
            &channel,
            Input::Snapshot {
                target,
                lane,
                sequence,
            },
            writes,
        )
        .await;
        if self.slot(&channel).is_crowded() {
            self.forget_old(&channel).await;
        }
    }

    /// Keeps a signed snapshot, but never in place of another one: that is a fork.
    async fn remember(&mut self, signed: Signed, snapshot: &Snapshot) -> Vec<Write> {
        let slot = self.slot(&snapshot.channel);
        match slot.snapshots.get(&snapshot.build) {
            Some((_, known)) if known.root != snapshot.root => {
                let fork = Input::Fork {
                    build: snapshot.build,
                    first: known.root,
                    second: snapshot.root,
                };
                self.step(&snapshot.channel, fork, Vec::new()).await;
                Vec::new()
            }
            Some(_) => Vec::new(),
            None => {
                let key = Key::Snapshot(snapshot.channel.clone(), snapshot.build).encode();
                let write = Write::Put(key, signed.encode());
                slot.snapshots
                    .insert(snapshot.build, (signed, snapshot.clone()));
                vec![write]
            }
        }
    }

    async fn on_lacks(&mut self, id: &ChannelId, build: Build, missing: Missing) {
        let slot = self.slot(id);
        let lanes = Lane::ALL.into_iter().filter(|lane| {
            let sync = slot.channel.lane(*lane).sync;
            sync.is_some_and(|sync| sync.target.build == build)
        });
        let lanes: Vec<Lane> = lanes.collect();
        let missing_bytes = missing.bytes;
        slot.missing.insert(build, missing);
        for lane in lanes {
            let planned = Input::Planned {
                lane,
                build,
                missing_bytes,
            };
            self.step(id, planned, Vec::new()).await;
        }
        self.report(id);
    }

    async fn on_retraction(
        &mut self,
        signed: Signed,
        retraction: &mirrorlog_core::statement::Retraction,
        event: Option<(Lane, u64)>,
    ) {
        let channel = retraction.channel.clone();
        let key = Key::Retraction(channel.clone(), retraction.sequence).encode();
        let write = Write::Put(key, signed.encode());
        self.slot(&channel)
            .retractions
            .insert(retraction.sequence, signed.digest());
        let input = Input::Retraction {
            number: retraction.sequence,
            retracted: Retracted {
                first: retraction.first,
                last: retraction.last,
                reason: retraction.reason.clone(),
            },
            created: retraction.created,
            event,
        };
        self.step(&channel, input, vec![write]).await;
    }

    async fn on_head(&mut self, signed: Signed, head: &Head, mut writes: Vec<Write>) {
        let channel = head.channel.clone();
        let slot = self.slot(&channel);
        if slot
            .channel
            .head
            .is_some_and(|seen| head.issued <= seen.issued)
        {
            return;
        }
        writes.push(Write::Put(
            Key::Head(channel.clone()).encode(),
            signed.encode(),
        ));
        slot.head = Some(signed);
        let seen = mirrorlog_core::mirror::HeadSeen {
            build: head.build,
            root: head.root,
            retractions: head.retractions,
            issued: head.issued,
            expires: head.expires,
        };
        self.step(&channel, Input::Head(seen), writes).await;
        self.serve(&channel);
        self.ask_for_retractions(&channel);
    }

    /// Asks the journal when the head counts retractions that are not known here.
    pub(super) fn ask_for_retractions(&mut self, channel: &ChannelId) {
        let slot = self.slot(channel);
        let Some(head) = slot.channel.head else {
            return;
        };
        if retractions_digest(slot.retractions.values().copied()) != head.retractions {
            self.ask_journal(channel, head.build);
        }
    }

    async fn on_journal(&mut self, channel: &ChannelId, answer: Option<Box<Answer>>) {
        if let Some(slot) = self.slots.get_mut(channel) {
            slot.asking = None;
            slot.asked = Some(tokio::time::Instant::now());
        }
        let Some(answer) = answer else { return };
        for (signed, retraction) in answer.retractions {
            if !self
                .slot(channel)
                .retractions
                .contains_key(&retraction.sequence)
            {
                self.on_retraction(signed, &retraction, None).await;
            }
        }
        if let Some((signed, head)) = answer.head {
            self.on_head(signed, &head, Vec::new()).await;
        }
        // The newest first: a mirror any number of builds behind goes straight to its target, and passes
        // over what is older. Known ones too: a passed-over build counts again when a newer is taken back.
        for (signed, snapshot) in answer.snapshots.into_iter().rev() {
            let target = target_of(&snapshot);
            let slot = self.slot(channel);
            let known = slot.snapshots.get(&snapshot.build);
            let forked = known.is_some_and(|(_, known)| known.root != snapshot.root);
            if forked || !slot.channel.is_settled(snapshot.lane, &target) {
                self.on_snapshot(signed, &snapshot, None).await;
            }
        }
    }

    async fn on_stream_changed(&mut self, lane: Lane, stream: StreamIdentity) {
        tracing::warn!(%lane, "the log was made anew; replaying it from its start");
        self.reset_cursor(lane, stream);
        self.persist_cursors().await;
    }

    fn reset_cursor(&mut self, lane: Lane, stream: StreamIdentity) {
        let stream_created_ns = i64::try_from(stream.0).unwrap_or(i64::MAX);
        self.cursors.insert(
            lane,
            Cursor {
                stream_created_ns,
                delivered: 0,
            },
        );
        self.acks.retain(|(of, _), _| *of != lane);
        for slot in self.slots.values_mut() {
            slot.channel.forget_open(lane);
        }
    }

    fn take_position(&mut self, lane: Lane, position: runtime::log::Position) {
        let stream_created_ns = i64::try_from(position.stream.0).unwrap_or(i64::MAX);
        let known = self
            .cursors
            .get(&lane)
            .map(|cursor| cursor.stream_created_ns);
        if known.is_some_and(|known| known != stream_created_ns) {
            self.reset_cursor(lane, position.stream);
        }
        let cursor = self.cursors.entry(lane).or_default();
        cursor.stream_created_ns = stream_created_ns;
        cursor.delivered = cursor.delivered.max(position.sequence);
    }

    /// Receive, step, persist, perform.
    pub(super) async fn step(&mut self, id: &ChannelId, input: Input, writes: Vec<Write>) {
        let now = runtime::boot::now();
        let policy = self.policy.clone();
        let slot = self.slot(id);
        let before = slot.channel.live;
        let effects = slot.channel.step(&policy, input, now);
        self.persist(id, writes).await;
        self.note_flip(id, before, now);
        self.perform(id, effects).await;
    }

    fn note_flip(&mut self, id: &ChannelId, before: Option<Build>, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let live = slot.channel.live;
        if live == before {
            return;
        }
        let received_bytes = live
            .and_then(|live| slot.received.get(&live).copied())
            .unwrap_or(0);
        let started = slot.sync_started.unwrap_or(now);
        slot.flip = Some(crate::serving::Flip {
            started,
            finished: now,
            received_bytes,
        });
        let parent = live.and_then(|live| slot.spans.get(&live));
        let flip = |parent| tracing::info_span!(parent: parent, "flip", channel = %id);
        let _entered = parent.map(|parent| flip(parent).entered());
        match live {
            Some(live) => {
                let from = before.map_or(0, Build::get);
                tracing::info!(channel = %id, build = %live, from, "a build went live");
            }
            None => tracing::warn!(channel = %id, "nothing is live: all held builds are retracted"),
        }
    }

    /// One atomic, durable write of a channel's state, of `writes` and of the cursors that moved.
    async fn persist(&mut self, id: &ChannelId, mut writes: Vec<Write>) {
        let parts = Arc::clone(&self.parts);
        let slot = self.slot(id);
        parts
            .coming
            .set(id, slot.targets().map(|target| target.root).collect());
        parts.metrics.told(id, slot);
        let bytes = wire::state::encode_channel(&slot.channel);
        if slot.stored != bytes {
            writes.push(Write::Put(Key::Channel(id.clone()).encode(), bytes.clone()));
            slot.stored = bytes;
        }
        self.commit(writes).await;
    }

    /// The same for all channels at once: what an end of the log means for them goes with its cursor.
    pub(super) async fn persist_cursors(&mut self) {
        let mut writes = Vec::new();
        for (id, slot) in &mut self.slots {
            let bytes = wire::state::encode_channel(&slot.channel);
            if slot.stored != bytes {
                writes.push(Write::Put(Key::Channel(id.clone()).encode(), bytes.clone()));
                slot.stored = bytes;
            }
        }
        self.commit(writes).await;
    }

    async fn commit(&mut self, mut writes: Vec<Write>) {
        for (lane, cursor) in &self.cursors {
            if self.parts.stored_cursors.lock().await.get(lane) != Some(cursor) {
                writes.push(Write::Put(Key::Cursor(*lane).encode(), cursor.encode()));
            }
        }
        if writes.is_empty() {
            return;
        }
        loop {
            let control = Arc::clone(&self.parts.control);
            let batch = writes.clone();
            let done = tokio::task::spawn_blocking(move || control.commit(&batch)).await;
            match done {
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    let error = crate::inbox::chain(&error);
                    tracing::error!(
                        error,
                        "control state cannot be written; nothing moves until it can"
                    );
                }
                Err(error) => tracing::error!(%error, "writing control state was interrupted"),
            }
            if self.stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(PERSIST_RETRY).await;
        }
        *self.parts.stored_cursors.lock().await = self.cursors.clone();
    }

    pub(super) fn slot(&mut self, id: &ChannelId) -> &mut Slot {
        self.slots
            .entry(id.clone())
            .or_insert_with(|| Slot::new(Channel::new(id.clone())))
    }
}

fn target_of(snapshot: &Snapshot) -> Target {
    Target {
        build: snapshot.build,
        base: snapshot.base,
        root: snapshot.root,
        created: snapshot.created,
    }
}
