//! The whole log against the journals, on request. The daemon itself compares only the end of each lane ([`crate::reconcile`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::archive::{History, Item};
use mirrorlog_core::id::{ChannelId, Lane};
use runtime::log::Delivery;
use wire::Event;
use wire::v1::RepairedChannel;

use crate::daemon::{Channel, Daemon, Link};
use crate::journal::Entry;
use crate::reconcile::ReconcileError;

/// How long the log may be silent while it is read.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Whether the log is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It is only looked at.
    Look,
    /// What it lacks is said again.
    Repair,
}

/// What the log has of one channel.
#[derive(Default)]
struct Found {
    present: BTreeMap<Lane, BTreeSet<Item>>,
    unknown: BTreeSet<Item>,
    foreign: u64,
}

impl Daemon {
    /// Compares all channels with the whole log and with what mirrors report.
    ///
    /// # Errors
    /// [`ReconcileError`]: try again.
    pub(crate) async fn repair(
        self: &Arc<Self>,
        link: &Link,
        deed: Deed,
    ) -> Result<Vec<RepairedChannel>, ReconcileError> {
        if deed == Deed::Repair {
            // What the log knows and the journal does not is merged first.
            self.reconcile(link).await;
        }
        let channels = self.channels();
        // What is published while the log is read is not missed.
        let before: Vec<Arc<History>> = channels
            .iter()
            .map(|channel| channel.journal.history())
            .collect();
        let (first, _) = link.log.extent().await?;
        let mut last = 0;
        for channel in &channels {
            for lane in Lane::ALL {
                last = last.max(self.last_sequence(channel, lane, link).await?);
            }
        }
        let found = self.read_log(link, last).await?;
        let none = Found::default();
        let mut repaired = Vec::new();
        for (channel, before) in channels.iter().zip(&before) {
            let found = found.get(&channel.declared.name).unwrap_or(&none);
            repaired.push(
                self.repair_channel(channel, before, link, found, first > 1, deed)
                    .await?,
            );
        }
        Ok(repaired)
    }

    /// Reads the log up to sequence `to`.
    async fn read_log(
        &self,
        link: &Link,
        to: u64,
    ) -> Result<BTreeMap<ChannelId, Found>, ReconcileError> {
        let mut all: BTreeMap<ChannelId, Found> = BTreeMap::new();
        if to == 0 {
            return Ok(all);
        }
        let mut events = link.log.follow(0).await?;
        loop {
            let next = tokio::time::timeout(SILENCE_MAX, events.next()).await;
            let event = match next.map_err(|_silent| ReconcileError::Silent)? {
                Delivery::Event(event) => event,
                Delivery::StreamChanged(_) => continue,
            };
            let found = all.entry(event.channel.clone()).or_default();
            let decoded = Event::decode(&event.payload).ok();
            let entry = decoded.and_then(|event_body| {
                Entry::open(event_body.body, &event.channel, &self.keys).ok()
            });
            match (entry, self.channel(&event.channel)) {
                (Some(entry), Some(channel)) => note(found, &channel, event.lane, &entry),
                (Some(entry), None) => drop(found.unknown.insert(entry.known.item())),
                (None, _) => found.foreign += 1,
            }
            if event.position.sequence >= to {
                return Ok(all);
            }
        }
    }

    async fn repair_channel(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        before: &History,
        link: &Link,
        found: &Found,
        discarded: bool,
        deed: Deed,
    ) -> Result<RepairedChannel, ReconcileError> {
        let turn = channel.turn.lock().await;
        let history = channel.journal.history();
        let (mut lacking, mut logged, mut journaled) = (Vec::new(), 0, 0);
        let none = BTreeSet::new();
        for lane in Lane::ALL {
            let present = found.present.get(&lane).unwrap_or(&none);
            let keep = self.config.reconcile_keep;
            let missed = before.lost(lane, present, keep, discarded);
            let lost = match missed.is_empty() {
                true => Vec::new(),
                false => history.lost(lane, present, keep, discarded),
            };
            journaled += history.items(lane).len() as u64;
            logged += present.len() as u64;
            let missing = missed.iter().filter(|item| !present.contains(item));
            lacking.extend(missing.map(|item| format!("{item} ({lane})")));
            if deed == Deed::Repair && !lost.is_empty() && channel.journal.halted().is_none() {
                let mut tail = channel.lane(lane).tail.lock().await;
                *tail = Some(self.last_sequence(channel, lane, link).await?);
                self.outbox.replace(channel, lane, &lost);
            }
        }
        drop(turn);
        if deed == Deed::Repair {
            self.flush(channel, link).await;
        }
        let reported = self.newest_reported(channel, link).await?;
        let newest = history.newest().map_or(0, |newest| newest.build.get());
        Ok(RepairedChannel {
            channel: channel.declared.name.to_string(),
            journaled,
            logged,
            lacking,
            unknown: found.unknown.iter().map(ToString::to_string).collect(),
            foreign: found.foreign,
            newest,
            reported,
            halted: channel.journal.halted().unwrap_or_default(),
            waiting: self.outbox.waits(channel),
        })
    }

    async fn last_sequence(
        &self,
        channel: &Channel,
        lane: Lane,
        link: &Link,
    ) -> Result<u64, ReconcileError> {
        let last = link.log.last_event(lane, &channel.declared.name).await?;
        Ok(last.map_or(0, |(sequence, _)| sequence))
    }
}

/// A statement of this archive on the log: known, or another one than the journal's.
fn note(found: &mut Found, channel: &Channel, lane: Lane, entry: &Entry) {
    let (history, item) = (channel.journal.history(), entry.known.item());
    let held = match item {
        Item::Snapshot(build) => history.get(build).map(|held| held.statement),
        Item::Retraction(sequence) => {
            let mut held = history.retractions().iter();
            let held = held.find(|held| held.sequence == sequence);
            held.map(|held| held.statement)
        }
    };
    if held == Some(entry.known.statement()) {
        found.present.entry(lane).or_default().insert(item);
    } else {
        tracing::warn!(channel = %channel.declared.name, %item, "on the log, and not in the journal");
        found.unknown.insert(item);
    }
}
