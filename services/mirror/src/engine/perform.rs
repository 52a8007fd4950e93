//! What the core asks for, done.

use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::mirror::{Effect, Input, Target};
use runtime::log::AckHandle;
use runtime::state::Write;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::slot::Task;
use super::{Engine, Message};
use crate::inbox::chain;
use crate::state::Key;
use crate::sync::{Job, Lacks, Progress, SyncError, Whole};

/// Shortest time between two questions to the journal about one channel.
const ASK_PAUSE: Duration = Duration::from_secs(2);
/// Longest wait for the journal's whole answer: a stream that stands still must not be the last question.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);
/// Shortest time between two plans of one build: each looks at every file that it lacks.
const PLAN_PAUSE: Duration = Duration::from_secs(5);
/// Pause after a repair that failed: each looks at every file of its build.
const HEAL_PAUSE: Duration = Duration::from_secs(15);
/// Progress of a sync is told this often; what changes is told at once.
const PROGRESS_REPORT: Duration = Duration::from_secs(2);
/// A build that waits for a word longer than this is said at `/readyz`.
const UNCONFIRMED_SAID: Duration = Duration::from_secs(20);
/// Open events are kept alive this often: well within the consumer's ack wait.
const PROGRESS_ACK: Duration = Duration::from_secs(5);

impl Engine {
    pub(super) async fn perform(&mut self, id: &ChannelId, effects: Vec<Effect>) {
        let (mut serve, mut report) = (false, false);
        for effect in effects {
            match effect {
                Effect::Plan { lane, target } => self.plan(id, lane, target),
                Effect::Start { lane, target } => self.start(id, lane, target),
                Effect::Cancel { lane } => self.cancel(id, lane),
                Effect::Serve => serve = true,
                Effect::Ack { lane, sequence } => {
                    if serve {
                        self.serve(id);
                        serve = false;
                    }
                    if let Some(ack) = self.acks.remove(&(lane, sequence)) {
                        self.finish_event(&ack, false).await;
                    }
                }
                Effect::Collect { target } => {
                    tracing::info!(channel = %id, build = %target.build, "a build is no longer kept");
                    // Nobody needs what is still being fetched again of it.
                    if let Some(task) = self.slot(id).heals.get(&target.build) {
                        task.stop.cancel();
                    }
                    self.parts.collections.ask();
                }
                Effect::Heal { target } => self.heal(id, target),
                Effect::Backfill { target } => self.backfill(id, target),
                Effect::AskJournal { from } => self.ask_journal(id, from),
                Effect::Report => report = true,
            }
        }
        if serve {
            self.serve(id);
        }
        if report {
            self.report(id);
        }
    }

    /// Swaps the channel's row of the serving table.
    pub(super) fn serve(&mut self, id: &ChannelId) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if let Some(served) = slot.served() {
            self.parts.serving.set(id.clone(), served);
        }
    }

    /// An event's end on the consumer. Failing is harmless: it is delivered again, and is then done already.
    pub(super) async fn finish_event(&self, ack: &AckHandle, parked: bool) {
        let done = if parked {
            ack.terminate().await
        } else {
            ack.ack().await
        };
        if let Err(error) = done {
            tracing::debug!(error = %chain(&error), "ack was not sent; the event will come again");
        }
    }

    pub(super) fn job(&mut self, id: &ChannelId, lane: Lane, target: &Target) -> Job {
        let slot = self.slot(id);
        let selection = slot.selection(target.build);
        let whole = slot.whole_root(&selection);
        let base = target.base.and_then(|base| slot.channel.held.get(&base));
        let base = base.map(|held| held.target.root);
        let delta = slot
            .deltas
            .get(&target.build)
            .filter(|_| base.is_some() || target.base.is_none());
        Job {
            lane,
            root: target.root,
            whole: whole.filter(|whole| *whole != target.root),
            delta: delta.map(|delta| (delta.clone(), base)),
            selection,
            trusts_pages: true,
            progress: Arc::new(Progress::default()),
            stop: CancellationToken::new(),
        }
    }

    fn plan(&mut self, id: &ChannelId, lane: Lane, target: Target) {
        let running = self
            .slot(id)
            .plans
            .get(&lane)
            .is_some_and(|task| !task.stop.is_cancelled());
        let recently = self
            .slot(id)
            .planned
            .get(&lane)
            .is_some_and(|(build, at)| *build == target.build && at.elapsed() < PLAN_PAUSE);
        if running || recently {
            return;
        }
        let now = tokio::time::Instant::now();
        self.slot(id).planned.insert(lane, (target.build, now));
        let job = self.job(id, lane, &target);
        let task = Task::of(&job);
        self.slot(id).plans.insert(lane, task);
        let (syncer, sender, channel) =
            (self.parts.syncer.clone(), self.sender.clone(), id.clone());
        let build = target.build;
        tokio::spawn(async move {
            let stop = job.stop.clone();
            let planned = stop.run_until_cancelled(syncer.plan(&job)).await;
            stop.cancel();
            match planned {
                Some(Ok(missing)) => {
                    let missing_bytes = missing.bytes;
                    let message = Message::Planned {
                        channel,
                        lane,
                        build,
                        missing_bytes,
                    };
                    // The engine is gone only when the process ends.
                    sender.send(message).await.ok();
                }
                Some(Err(error)) => {
                    tracing::debug!(%channel, %build, error = %chain(&error), "cannot plan a build now");
                }
                None => {}
            }
        });
    }

    fn start(&mut self, id: &ChannelId, lane: Lane, target: Target) {
        self.cancel(id, lane);
        let job = self.job(id, lane, &target);
        let build = target.build;
        let slot = self.slot(id);
        let task = Task::of(&job);
        slot.syncs.insert(lane, task);
        let ended = CancellationToken::new();
        let before = slot.ended.insert(lane, ended.clone());
        let ended = ended.drop_guard();
        slot.sync_started = Some(runtime::boot::now());
        let parent = slot
            .spans
            .get(&build)
            .cloned()
            .unwrap_or_else(tracing::Span::none);
        let span = tracing::info_span!(parent: &parent, "sync", channel = %id, %build, %lane);
        let (syncer, sender, channel) =
            (self.parts.syncer.clone(), self.sender.clone(), id.clone());
        let fetched = self.parts.metrics.fetched(lane);
        let work = async move {
            let ended = ended;
            // One at a time: what the one before is still making durable is not fetched again.
            if let Some(before) = before {
                before.cancelled().await;
            }
            if job.stop.is_cancelled() {
                return;
            }
            tracing::debug!("sync started");
            let lacks = Lacks {
                engine: sender.clone(),
                channel: channel.clone(),
                build,
            };
            // Not cut off when cancelled: the fetch then ends by itself and keeps what has arrived.
            let outcome = syncer.run(&job, &lacks).await;
            fetched.count(&job.progress);
            tracing::debug!("sync ended");
            drop(ended);
            if job.stop.is_cancelled() {
                return;
            }
            sender
                .send(Message::Synced {
                    channel,
                    lane,
                    build,
                    outcome,
                })
                .await
                .ok();
        };
        tokio::spawn(work.instrument(span));
    }

    fn cancel(&mut self, id: &ChannelId, lane: Lane) {
        let slot = self.slot(id);
        for task in [slot.syncs.remove(&lane), slot.plans.remove(&lane)]
            .into_iter()
            .flatten()
        {
            task.stop.cancel();
        }
    }

    fn heal(&mut self, id: &ChannelId, target: Target) {
        let build = target.build;
        let slot = self.slot(id);
        if slot.heals.contains_key(&build) {
            slot.heal_again.insert(build);
            return;
        }
        let now = tokio::time::Instant::now();
        if slot
            .heal_after
            .get(&build)
            .is_some_and(|after| *after > now)
        {
            return;
        }
        let mut job = self.job(id, Lane::Bulk, &target);
        (job.whole, job.delta, job.trusts_pages) = (None, None, false);
        let task = Task::of(&job);
        self.slot(id).heals.insert(build, task);
        self.run_apart(id, build, job, |channel, build, outcome| Message::Healed {
            channel,
            build,
            outcome,
        });
    }

    /// Runs a job apart from the lanes; how it ended comes back as a message.
    pub(super) fn run_apart(
        &self,
        id: &ChannelId,
        build: Build,
        job: Job,
        ended: fn(ChannelId, Build, Result<Whole, SyncError>) -> Message,
    ) {
        let (syncer, sender, channel) =
            (self.parts.syncer.clone(), self.sender.clone(), id.clone());
        let fetched = self.parts.metrics.fetched(Lane::Bulk);
        tokio::spawn(async move {
            let lacks = Lacks {
                engine: sender.clone(),
                channel: channel.clone(),
                build,
            };
            let ran = job.stop.run_until_cancelled(syncer.run(&job, &lacks)).await;
            fetched.count(&job.progress);
            let outcome = ran.unwrap_or(Err(SyncError::Stopped));
            // The engine is gone only when the process ends.
            sender.send(ended(channel, build, outcome)).await.ok();
        });
    }

    pub(super) fn ask_journal(&mut self, id: &ChannelId, from: Build) {
        let slot = self.slot(id);
        let recently = slot.asked.is_some_and(|asked| asked.elapsed() < ASK_PAUSE);
        if slot.asking.is_some() || recently {
            return;
        }
        let stop = CancellationToken::new();
        slot.asking = Some(stop.clone());
        let from = if std::mem::take(&mut slot.ask_again) {
            Build::FIRST
        } else {
            from
        };
        let (journal, sender, channel) =
            (self.parts.journal.clone(), self.sender.clone(), id.clone());
        tokio::spawn(async move {
            let asked = tokio::time::timeout(ASK_TIMEOUT, journal.ask(&channel, from));
            let answer = match stop.run_until_cancelled(asked).await {
                Some(Ok(Ok(answer))) => Some(Box::new(answer)),
                Some(Ok(Err(error))) => {
                    tracing::debug!(%channel, error = %chain(&error), "journal gave no answer");
                    None
                }
                Some(Err(_)) => {
                    tracing::debug!(%channel, "journal did not end its answer");
                    None
                }
                None => None,
            };
            sender.send(Message::Journal { channel, answer }).await.ok();
        });
    }

    pub(super) async fn on_synced(
        &mut self,
        id: &ChannelId,
        lane: Lane,
        build: Build,
        outcome: Result<Whole, SyncError>,
    ) {
        let slot = self.slot(id);
        if slot
            .channel
            .lane(lane)
            .sync
            .is_none_or(|sync| sync.target.build != build)
        {
            // The lane has gone over to another build since.
            return;
        }
        slot.syncs.remove(&lane);
        match outcome {
            // The pin goes at the end, when the build counts as held: no collection comes between.
            Ok(Whole {
                received_bytes,
                pin: _pin,
            }) => {
                slot.trouble = None;
                slot.missing.remove(&build);
                slot.received.insert(build, received_bytes);
                self.step(id, Input::Staged { lane, build }, Vec::new())
                    .await;
                self.forget_old(id).await;
            }
            Err(SyncError::Stopped) => {}
            Err(error) => {
                let text = chain(&error);
                if slot.trouble.as_ref() != Some(&text) {
                    tracing::warn!(channel = %id, %build, %lane, error = text, "sync failed; trying again");
                }
                slot.trouble = Some(text);
                self.step(id, Input::Failed { lane, build }, Vec::new())
                    .await;
                if error.is_full() {
                    self.shed(id).await;
                }
                self.report(id);
            }
        }
    }

    /// Makes room: one build of this channel goes, or of another one. Not before what was let go last has gone.
    async fn shed(&mut self, id: &ChannelId) {
        if self.parts.collections.is_pending() || self.trees_hold_more() {
            return;
        }
        let others = self.slots.keys().filter(|other| *other != id).cloned();
        let ids: Vec<ChannelId> = std::iter::once(id.clone()).chain(others).collect();
        for id in &ids {
            if self.give_up_backfills(id).await {
                return;
            }
        }
        for id in ids {
            let leased = self.leased(&id);
            let sheds = self.slot(&id).channel.sheddable(&leased);
            if let Some(build) = sheds {
                tracing::warn!(channel = %id, %build, "the disk is full: a retained build goes");
                self.step(&id, Input::Shed { leased }, Vec::new()).await;
                return;
            }
        }
        // Nothing is left to go; what went before a restart may still be there.
        self.parts.collections.ask_at_times();
    }

    /// True while export trees are of builds that are let go: they make room when they are changed, not before.
    fn trees_hold_more(&self) -> bool {
        let Some(exports) = &self.parts.exports else {
            return false;
        };
        let held = self
            .slots
            .values()
            .flat_map(|slot| slot.channel.held.values());
        let held: std::collections::BTreeSet<_> = held.map(|held| held.target.root).collect();
        !exports.roots().is_subset(&held)
    }

    /// Builds that somebody reads by number, or on the disk.
    pub(super) fn leased(&self, id: &ChannelId) -> std::collections::BTreeSet<Build> {
        let mut leased = self.parts.leases.of(id);
        leased.extend(self.parts.serving.exported_build(id));
        leased
    }

    pub(super) async fn on_healed(
        &mut self,
        id: &ChannelId,
        build: Build,
        outcome: Result<Whole, SyncError>,
    ) {
        let slot = self.slot(id);
        slot.heals.remove(&build);
        // What was found lost after the repair had looked makes it begin again, at the next tick.
        let again = slot.heal_again.remove(&build);
        match outcome {
            Ok(_) if again => {}
            Ok(_) => {
                tracing::info!(channel = %id, %build, "what was lost is here again");
                slot.missing.remove(&build);
                slot.trouble = None;
                self.step(id, Input::Healed { build }, Vec::new()).await;
                if let Some(exports) = &self.parts.exports {
                    exports.healed();
                }
            }
            Err(SyncError::Stopped) => {}
            Err(error) => {
                let after = tokio::time::Instant::now() + HEAL_PAUSE;
                slot.heal_after.insert(build, after);
                slot.trouble = Some(chain(&error));
            }
        }
    }

    pub(super) async fn forget_old(&mut self, id: &ChannelId) {
        let old = self.slot(id).forget_old();
        if !old.is_empty() {
            let deletes = old
                .into_iter()
                .map(|build| Key::Snapshot(id.clone(), build).encode());
            self.commit(deletes.map(Write::Delete).collect()).await;
        }
    }

    pub(super) async fn on_tick(&mut self) {
        self.show_unconfirmed();
        if self.last_progress_ack.elapsed() >= PROGRESS_ACK {
            self.last_progress_ack = tokio::time::Instant::now();
            for ack in self.acks.values() {
                if let Err(error) = ack.progress().await {
                    tracing::debug!(error = %chain(&error), "progress ack was not sent");
                }
            }
        }
        let tell_progress = self.last_progress_report.elapsed() >= PROGRESS_REPORT;
        if tell_progress {
            self.last_progress_report = tokio::time::Instant::now();
            self.ask_for_signatures();
        }
        let ids: Vec<ChannelId> = self.slots.keys().cloned().collect();
        for id in ids {
            let slot = self.slot(&id);
            for (lane, build, remaining_bytes) in slot.progress() {
                let policy = self.policy.clone();
                let input = Input::Progress {
                    lane,
                    build,
                    remaining_bytes,
                };
                // Progress changes nothing that is stored, and has no effects.
                self.slot(&id)
                    .channel
                    .step(&policy, input, runtime::boot::now());
            }
            if self.slot(&id).ask_again {
                self.ask_journal(&id, Build::FIRST);
            }
            self.ask_for_retractions(&id);
            let leased = self.leased(&id);
            self.step(&id, Input::Tick { leased }, Vec::new()).await;
            let slot = self.slot(&id);
            let waiting: Vec<Target> = slot
                .channel
                .healing
                .iter()
                .filter(|build| !slot.heals.contains_key(build))
                .filter_map(|build| slot.channel.held.get(build).map(|held| held.target))
                .collect();
            for target in waiting {
                self.heal(&id, target);
            }
            self.next_backfill(&id);
            if tell_progress && !self.slot(&id).syncs.is_empty() {
                self.report(&id);
            }
        }
    }

    /// A build that waits for the consistency service's word for long is said where operators look without it.
    fn show_unconfirmed(&mut self) {
        let waiting = self.slots.iter().find_map(|(id, slot)| {
            let build = slot.channel.unconfirmed()?;
            Some(format!(
                "build {build} of {id} is whole here and waits for the consistency service to verify it"
            ))
        });
        let health = &self.parts.health;
        match waiting {
            None => {
                self.unconfirmed_since = None;
                health.recover("unconfirmed");
            }
            Some(text) => {
                let since = self
                    .unconfirmed_since
                    .get_or_insert_with(tokio::time::Instant::now);
                if since.elapsed() >= UNCONFIRMED_SAID {
                    health.degrade("unconfirmed", text);
                }
            }
        }
    }

    /// Hands the channel's report over; only the newest waits.
    pub(super) fn report(&mut self, id: &ChannelId) {
        let outcomes = self.outcomes.clone();
        let table = self.parts.serving_reader.current();
        let served = table.channels.get(id);
        let exports = self.parts.exports.as_ref();
        let trouble = exports
            .zip(served)
            .and_then(|(exports, row)| exports.trouble(&row.mount));
        if let Some(slot) = self.slots.get(id) {
            self.parts.syncer.pool.stand(id, slot.standing());
            let live = served.and_then(|row| row.live);
            self.parts.reports.send(slot, live, trouble, outcomes);
        }
    }
}

impl super::Slot {
    fn progress(&self) -> Vec<(Lane, Build, u64)> {
        let of = |(lane, task): (&Lane, &Task)| {
            let sync = self.channel.lane(*lane).sync?;
            Some((*lane, sync.target.build, task.progress.remaining_bytes()?))
        };
        self.syncs.iter().filter_map(of).collect()
    }
}
