//! What the consistency service is told: a hint, signed, never a proof.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, MirrorId};
use mirrorlog_core::mirror::{Halt, Target};
use mirrorlog_core::sign::SecretKey;
use mirrorlog_core::statement::{OrderOutcome, Presence, Report, ReportedBuild, Statement};
use mirrorlog_core::time::Timestamp;
use runtime::log::Log;
use runtime::state::Control;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};
use wire::Signed;

use crate::boots::Boot;
use crate::engine::Slot;

/// Order outcomes that a report repeats, so that one lost report loses none.
const OUTCOMES_KEPT: usize = 8;

/// The engine's end: the newest report of each channel waits, older ones are replaced.
pub(crate) struct Reports {
    pending: Arc<std::sync::Mutex<BTreeMap<ChannelId, Pending>>>,
    wake: Arc<Notify>,
    store: runtime::store::Store,
}

struct Pending {
    report: Unsigned,
    outcomes: Vec<OrderOutcome>,
    fresh: bool,
    /// What led to it, for the trace; only its first sending belongs there.
    span: Span,
}

/// A report without what the sender adds.
#[derive(Clone)]
struct Unsigned {
    live: Option<Build>,
    builds: Vec<ReportedBuild>,
    target: Option<Build>,
    received_bytes: u64,
    halted: Option<String>,
}

impl Reports {
    pub(crate) fn new(store: runtime::store::Store) -> Self {
        Self {
            pending: Arc::default(),
            wake: Arc::default(),
            store,
        }
    }

    /// Replaces the channel's waiting report. `live` is what is served, `trouble` what keeps it from being more.
    pub(crate) fn send(
        &self,
        slot: &Slot,
        live: Option<Build>,
        trouble: Option<String>,
        outcomes: Vec<OrderOutcome>,
    ) {
        let report = describe(slot, live, trouble);
        let mut pending = self
            .pending
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = pending.remove(&slot.channel.id);
        let mut kept = before.map(|before| before.outcomes).unwrap_or_default();
        kept.extend(outcomes);
        kept.drain(..kept.len().saturating_sub(OUTCOMES_KEPT));
        pending.insert(
            slot.channel.id.clone(),
            Pending {
                report,
                outcomes: kept,
                fresh: true,
                span: slot.newest_span(),
            },
        );
        drop(pending);
        self.wake.notify_one();
    }

    /// Signs and publishes: at once when something happened, else every `every`.
    pub(crate) async fn publish(
        self: Arc<Self>,
        mirror: MirrorId,
        key: SecretKey,
        control: Arc<dyn Control>,
        mut log: watch::Receiver<Option<Log>>,
        every: Duration,
        stop: CancellationToken,
    ) {
        let mut boot = Boot::begin(&control).await;
        let mut sequence = 0;
        let mut rates: BTreeMap<ChannelId, (u64, Timestamp)> = BTreeMap::new();
        let mut due = tokio::time::interval(every);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let all = tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => false,
                _ = due.tick() => true,
            };
            let Ok(connected) = log.wait_for(Option::is_some).await.map(|log| log.clone()) else {
                return;
            };
            let Some(connected) = connected else { continue };
            if boot.clock_was_set() {
                tracing::warn!("the clock was set: reports begin anew");
                (boot, sequence) = (Boot::begin(&control).await, 0);
            }
            for (channel, report, outcomes, span) in self.take(all) {
                sequence += 1;
                let issued = runtime::boot::now();
                let before = rates.insert(channel.clone(), (report.received_bytes, issued));
                let statement = Statement::Report(Report {
                    mirror: mirror.clone(),
                    channel: channel.clone(),
                    boot: boot.id,
                    sequence,
                    issued,
                    booted: boot.booted,
                    live: report.live,
                    builds: report.builds,
                    target: report.target,
                    fetch_bytes_per_s: rate(before, report.received_bytes, issued),
                    disk_free_bytes: self.store.free_bytes().unwrap_or(0),
                    halted: report.halted,
                    orders: outcomes,
                });
                let signed = Signed::sign(&key, &statement).encode();
                let sent = connected.publish_report(&mirror, &channel, signed.into());
                let Some(sent) = stop.run_until_cancelled(sent.instrument(span)).await else {
                    return;
                };
                if let Err(error) = sent {
                    let error = crate::inbox::chain(&error);
                    tracing::debug!(error, %channel, "report was not sent; the next one will be");
                    self.again(&channel);
                }
            }
        }
    }

    fn take(&self, all: bool) -> Vec<(ChannelId, Unsigned, Vec<OrderOutcome>, Span)> {
        let mut pending = self
            .pending
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = pending.iter_mut().filter(|(_, one)| all || one.fresh);
        due.map(|(channel, one)| {
            one.fresh = false;
            let span = std::mem::replace(&mut one.span, Span::none());
            (
                channel.clone(),
                one.report.clone(),
                one.outcomes.clone(),
                span,
            )
        })
        .collect()
    }

    fn again(&self, channel: &ChannelId) {
        let mut pending = self
            .pending
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(one) = pending.get_mut(channel) {
            one.fresh = true;
        }
    }
}

fn describe(slot: &Slot, live: Option<Build>, trouble: Option<String>) -> Unsigned {
    let channel = &slot.channel;
    let mut builds: BTreeMap<Build, ReportedBuild> = BTreeMap::new();
    for held in channel
        .held
        .values()
        .filter(|held| !channel.is_retracted(held.target.build))
    {
        let lacks = slot.missing.get(&held.target.build);
        let lost = channel.healing.contains(&held.target.build);
        let missing = lacks.filter(|_| lost);
        let build = reported(slot, held.target, missing, lost);
        builds.insert(held.target.build, build);
    }
    let syncs = mirrorlog_core::id::Lane::ALL.map(|lane| channel.lane(lane).sync);
    for target in syncs.into_iter().flatten().map(|sync| sync.target) {
        let missing = slot.missing.get(&target.build);
        builds.insert(target.build, reported(slot, target, missing, true));
    }
    let tasks = slot.syncs.values().chain(slot.heals.values());
    let halted = match &channel.halt {
        Some(Halt::Fork { build, .. }) => Some(format!("fork: build {build} has two roots")),
        None => {
            let waits = || {
                let build = channel.unconfirmed()?;
                Some(format!(
                    "unconfirmed: build {build} is whole here and waits for the consistency service to verify it"
                ))
            };
            slot.trouble.clone().or(trouble).or_else(waits)
        }
    };
    let newest = builds
        .len()
        .saturating_sub(mirrorlog_core::limits::REPORT_BUILDS_MAX);
    Unsigned {
        live,
        target: syncs
            .into_iter()
            .flatten()
            .map(|sync| sync.target.build)
            .max(),
        builds: builds.into_values().skip(newest).collect(),
        received_bytes: tasks.map(|task| task.progress.received_bytes()).sum(),
        halted: halted.map(|text| text.chars().take(500).collect()),
    }
}

/// Entries outside of the view count as present: nothing is missing there.
fn reported(
    slot: &Slot,
    target: Target,
    missing: Option<&crate::sync::Missing>,
    partial: bool,
) -> ReportedBuild {
    let presence = match missing {
        Some(missing) => {
            let entries = u32::try_from(missing.entries).unwrap_or(u32::MAX);
            let mut here = roaring::RoaringBitmap::new();
            here.insert_range(0..entries);
            here -= &missing.ordinals;
            here.optimize();
            Presence::Some(here)
        }
        None if partial => Presence::Some(roaring::RoaringBitmap::new()),
        None => Presence::All,
    };
    ReportedBuild {
        build: target.build,
        root: target.root,
        view: slot.view.view().clone(),
        presence,
        missing_files: missing.map_or(0, |missing| missing.ordinals.len()),
        missing_bytes: missing.map_or(0, |missing| missing.bytes),
    }
}

/// Bytes a second since the report before.
fn rate(before: Option<(u64, Timestamp)>, received: u64, now: Timestamp) -> u64 {
    let Some((before, at)) = before else { return 0 };
    let elapsed_ms = u64::try_from(now.ms_since(at)).unwrap_or(0);
    received
        .saturating_sub(before)
        .saturating_mul(1000)
        .checked_div(elapsed_ms)
        .unwrap_or(0)
}
