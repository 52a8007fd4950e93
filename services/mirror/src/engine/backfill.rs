//! Older builds that an operator asked for: fetched one after the other, apart from the lanes.

use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::mirror::{Input, Target};
use mirrorlog_core::statement::{OrderOutcome, Snapshot};
use tokio::time::Instant;
use wire::Signed;

use super::receive::target_of;
use super::slot::Task;
use super::{Engine, Message};
use crate::inbox::chain;
use crate::sync::{SyncError, Whole};

/// Pause after one that failed.
const AGAIN: Duration = Duration::from_secs(15);

impl Engine {
    /// Asks the journal for the builds of an order.
    pub(super) fn ask_backfill(&self, order: u64, channel: ChannelId, first: Build, last: Build) {
        let (journal, sender) = (self.parts.journal.clone(), self.sender.clone());
        tokio::spawn(async move {
            let found = journal.between(&channel, first, last).await;
            let found = found.map_err(|error| chain(&error));
            let message = Message::Backfill {
                order,
                channel,
                found,
            };
            // The engine is gone only when the process ends.
            sender.send(message).await.ok();
        });
    }

    /// Takes the builds of an order on, and says which.
    pub(super) async fn on_backfill(
        &mut self,
        order: u64,
        id: ChannelId,
        found: Result<Vec<(Signed, Snapshot)>, String>,
    ) {
        let outcome = |ok, text| OrderOutcome {
            id: order,
            ok,
            text,
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.note_order(order).await;
                let text = format!("the archive was not to be asked: {error}; order it again");
                return self.on_order_done(Some(id), outcome(false, text)).await;
            }
        };
        let keep_ms = i64::try_from(self.parts.config.mirror.backfill_keep.0.as_millis());
        let keep_until = runtime::boot::now().plus_ms(keep_ms.unwrap_or(i64::MAX / 4));
        let mut coming = Vec::new();
        for (signed, snapshot) in found {
            let target = target_of(&snapshot);
            let writes = self.remember(signed, &snapshot).await;
            let input = Input::Backfill { target, keep_until };
            self.step(&id, input, writes).await;
            if self.slot(&id).channel.backfills.contains_key(&target.build) {
                coming.push(target.build.to_string());
            }
        }
        self.forget_old(&id).await;
        self.note_order(order).await;
        let text = if coming.is_empty() {
            "none of these builds is to be fetched: they are here, newer than what is live, or taken back".to_owned()
        } else {
            format!("fetching builds {}", coming.join(", "))
        };
        self.on_order_done(Some(id), outcome(true, text)).await;
    }

    /// Begins with a build, unless another one of the channel is under way: then at a later tick.
    pub(super) fn backfill(&mut self, id: &ChannelId, target: Target) {
        let slot = self.slot(id);
        let waits = slot.backfill_after.is_some_and(|at| Instant::now() < at);
        if slot.backfill.is_some() || waits || slot.channel.halt.is_some() {
            return;
        }
        let mut job = self.job(id, Lane::Bulk, &target);
        job.delta = None;
        self.slot(id).backfill = Some((target.build, Task::of(&job)));
        let build = target.build;
        tracing::info!(channel = %id, %build, "fetching a build that was asked for");
        self.run_apart(id, build, job, |channel, build, outcome| {
            Message::Backfilled {
                channel,
                build,
                outcome,
            }
        });
    }

    /// The next one that waits, if none is under way.
    pub(super) fn next_backfill(&mut self, id: &ChannelId) {
        let slot = self.slot(id);
        let asked = &slot.channel.backfills;
        if let Some((build, task)) = &slot.backfill
            && !asked.contains_key(build)
        {
            task.stop.cancel();
        }
        // The newest first: it shares most with what is here. One that failed lets the others go before.
        let failed = slot.backfill_failed;
        let older = failed.and_then(|failed| asked.range(..failed).next_back());
        let next = older.or_else(|| asked.last_key_value());
        if let Some(target) = next.map(|(_, asked)| asked.target) {
            self.backfill(id, target);
        }
    }

    /// What an operator asked for makes room for what is published. True when there was something to give up.
    pub(super) async fn give_up_backfills(&mut self, id: &ChannelId) -> bool {
        if self.slot(id).channel.backfills.is_empty() {
            return false;
        }
        tracing::warn!(channel = %id, "the disk is full: builds that were asked for are given up");
        let leased = self.leased(id);
        self.step(id, Input::Shed { leased }, Vec::new()).await;
        if let Some((_, task)) = &self.slot(id).backfill {
            task.stop.cancel();
        }
        self.parts.collections.ask();
        true
    }

    pub(super) async fn on_backfilled(
        &mut self,
        id: &ChannelId,
        build: Build,
        outcome: Result<Whole, SyncError>,
    ) {
        let slot = self.slot(id);
        slot.backfill = None;
        match outcome {
            // The pin goes at the end, when the build counts as held: no collection comes between.
            Ok(Whole { pin: _pin, .. }) => {
                slot.missing.remove(&build);
                (slot.trouble, slot.backfill_failed) = (None, None);
                tracing::info!(channel = %id, %build, "a build that was asked for is here");
                self.step(id, Input::Backfilled { build }, Vec::new()).await;
                self.next_backfill(id);
            }
            Err(SyncError::Stopped) => {}
            Err(error) => {
                slot.backfill_after = Some(Instant::now() + AGAIN);
                slot.backfill_failed = Some(build);
                let text = format!("build {build} was asked for: {}", chain(&error));
                tracing::warn!(channel = %id, error = text, "not fetched; trying again");
                slot.trouble = Some(text);
                if error.is_full() {
                    self.give_up_backfills(id).await;
                }
                self.report(id);
            }
        }
    }
}
