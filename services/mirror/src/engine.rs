//! The shell around `mirrorlog_core::mirror`.
//!
//! One law: receive, step, persist state and cursor in one atomic write, perform effects, ack.
//! Effects are idempotent and derived again at each start, so a crash between any two of these
//! costs time, never content.

mod backfill;
mod mailbox;
mod orders;
mod perform;
mod persist;
mod receive;
mod slot;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::mirror::{Channel, Flip, Input, Policy};
use mirrorlog_core::statement::{Head, Order, OrderOutcome, Snapshot, Verdict};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::view::View;
use runtime::log::{AckHandle, StreamIdentity};
use runtime::state::Write;
use tokio_util::sync::CancellationToken;
use wire::Signed;
use wire::state::Cursor;

pub(crate) use self::mailbox::Mailbox;
pub(crate) use self::slot::Slot;
use crate::config::FlipSetting;
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
    /// What the journal has of the builds that an order asks for.
    Backfill {
        order: u64,
        channel: ChannelId,
        found: Result<Vec<(Signed, Snapshot)>, String>,
    },
    /// A build that was asked for is whole, or could not be fetched now.
    Backfilled {
        channel: ChannelId,
        build: Build,
        outcome: Result<Whole, SyncError>,
    },
    /// The consistency service's word on a build here.
    Word(Box<Verdict>),
    /// An order was carried out.
    OrderDone {
        channel: Option<ChannelId>,
        outcome: OrderOutcome,
    },
    /// Another root document is in force, or it has expired.
    Trusted,
    /// Export trees show other builds of these channels.
    Shown { channels: Vec<ChannelId> },
    /// Time has passed.
    Tick,
}

/// Pause between two ticks.
pub(crate) const TICK: Duration = Duration::from_millis(500);

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
            | Self::Backfill { .. }
            | Self::Backfilled { .. }
            | Self::Word(_)
            | Self::OrderDone { .. }
            | Self::Trusted
            | Self::Shown { .. }
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
    /// The newest lease of the consistency service that spoke, and when it last did.
    pub(super) fence: (u64, Timestamp),
    /// Since when a build has waited for the consistency service's word.
    pub(super) unconfirmed_since: Option<tokio::time::Instant>,
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
            flip: match mirror.flip {
                FlipSetting::Local => Flip::Local,
                FlipSetting::Confirmed => Flip::Confirmed,
            },
            ..Policy::default()
        };
        let mut engine = Self {
            policy,
            slots: slot::load_all(&*parts.control, &parts.views)?,
            cursors: BTreeMap::new(),
            acks: HashMap::new(),
            outcomes: Vec::new(),
            sender,
            stop,
            last_progress_ack: tokio::time::Instant::now(),
            last_progress_report: tokio::time::Instant::now(),
            fence: (0, Timestamp::EPOCH),
            unconfirmed_since: None,
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
        self.resume_drained();
        let ids: Vec<ChannelId> = self.slots.keys().cloned().collect();
        for id in ids {
            // First of all: nothing may be compared with what was brought here in another view.
            self.look_at_view(&id).await;
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            let effects = slot.channel.resume(now);
            self.persist(&id, Vec::new()).await;
            self.perform(&id, effects).await;
        }
    }

    /// Builds that were brought here in another view are looked through again: something may be missing.
    async fn look_at_view(&mut self, id: &ChannelId) {
        let slot = self.slot(id);
        let view = slot.view.view().clone();
        if slot.held_view.as_ref() == Some(&view) {
            return;
        }
        let before = slot.held_view.as_ref();
        let before = before.map_or_else(|| "unknown".to_owned(), View::to_string);
        let held: Vec<Build> = slot.channel.held.keys().copied().collect();
        tracing::info!(channel = %id, before, now = %view, builds = held.len(), "the view has changed");
        for build in held {
            self.step(id, Input::Lost { build }, Vec::new()).await;
        }
        let key = Key::View(id.clone()).encode();
        // Only now: until it is written, the next start looks again.
        self.commit(vec![Write::Put(key, wire::state::encode_view(&view))])
            .await;
        self.slot(id).held_view = Some(view);
        self.serve(id);
        // A narrower one leaves content behind that nobody needs.
        self.parts.collections.ask();
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
            Message::Trusted => self.on_trusted().await,
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
                self.note_damage().await;
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
            Message::Backfill {
                order,
                channel,
                found,
            } => self.on_backfill(order, channel, found).await,
            Message::Backfilled {
                channel,
                build,
                outcome,
            } => self.on_backfilled(&channel, build, outcome).await,
            Message::Word(verdict) => self.on_word(&verdict).await,
            Message::OrderDone { channel, outcome } => self.on_order_done(channel, outcome).await,
            Message::Shown { channels } => channels.iter().for_each(|id| self.report(id)),
            Message::Tick => self.on_tick().await,
        }
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

    /// Files of export trees may be links to what was set aside.
    async fn note_damage(&self) {
        let Some(exports) = self.parts.exports.clone() else {
            return;
        };
        match tokio::task::spawn_blocking(move || exports.damaged()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(error = wire::causes(&error), "damage cannot be noted")
            }
            Err(error) => tracing::error!(%error, "noting damage ended badly"),
        }
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

    pub(super) fn slot(&mut self, id: &ChannelId) -> &mut Slot {
        let views = &self.parts.views;
        self.slots
            .entry(id.clone())
            .or_insert_with(|| Slot::new(Channel::new(id.clone()), views.of(id)))
    }
}
