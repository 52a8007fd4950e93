//! One channel in memory: the core's state and what belongs to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mirrorlog_core::id::{Build, ChannelId, Digest, Lane};
use mirrorlog_core::mirror::{Channel, Target};
use mirrorlog_core::statement::{DeltaSource, Snapshot, Statement};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::view::{Prepared, Selection, View};
use runtime::state::Control;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::Signed;
use wire::peer::PeerBuild;

use crate::peers;
use crate::serving::{Flip, ServedBuild, ServedChannel};
use crate::state::Key;
use crate::sync::{Job, Missing, Progress};
use crate::views::Views;

/// Snapshots remembered for each channel beyond those that are held or wanted.
const SNAPSHOTS_KEPT: usize = 16;

/// A running task of a channel.
pub(crate) struct Task {
    pub(crate) stop: CancellationToken,
    pub(crate) progress: Arc<Progress>,
}

impl Task {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            stop: job.stop.clone(),
            progress: Arc::clone(&job.progress),
        }
    }
}

/// One channel.
pub(crate) struct Slot {
    /// The core's state.
    pub(crate) channel: Channel,
    /// The part that is carried here.
    pub(crate) view: Prepared,
    /// The view that its builds were brought here in; `None` when that is not known.
    pub(crate) held_view: Option<View>,
    /// Its bytes as they were written last.
    pub(crate) stored: Vec<u8>,
    /// Signed snapshots by build.
    pub(crate) snapshots: BTreeMap<Build, (Signed, Snapshot)>,
    /// A snapshot's signature is by a key that counts no more.
    pub(super) unvouched: bool,
    /// When they were last asked for again.
    pub(super) vouched_at: Option<tokio::time::Instant>,
    /// Digests of the signed retractions by their number.
    pub(crate) retractions: BTreeMap<u64, Digest>,
    /// The newest signed head.
    pub(crate) head: Option<Signed>,
    /// Deltas that came with events, until their build is held.
    pub(crate) deltas: BTreeMap<Build, DeltaSource>,
    /// Spans that follow a build from its publisher, until it is live.
    pub(crate) spans: BTreeMap<Build, tracing::Span>,
    /// What builds lack that are not whole here.
    pub(crate) missing: BTreeMap<Build, Missing>,
    /// Content bytes fetched for a build.
    pub(crate) received: BTreeMap<Build, u64>,
    /// When the newest sync began.
    pub(crate) sync_started: Option<Timestamp>,
    /// How live came here.
    pub(crate) flip: Option<Flip>,
    /// Running syncs.
    pub(crate) syncs: BTreeMap<Lane, Task>,
    /// Of the last sync that was begun: cancelled when it has ended, some time after it was stopped.
    pub(crate) ended: BTreeMap<Lane, CancellationToken>,
    /// Running plans for a build behind the running sync.
    pub(crate) plans: BTreeMap<Lane, Task>,
    /// What was planned last behind the running sync, and when.
    pub(crate) planned: BTreeMap<Lane, (Build, Instant)>,
    /// Running repairs.
    pub(crate) heals: BTreeMap<Build, Task>,
    /// Builds of which more was lost while they were repaired.
    pub(crate) heal_again: BTreeSet<Build>,
    /// Repairs that failed are not tried again before.
    pub(crate) heal_after: BTreeMap<Build, Instant>,
    /// The build that is being fetched because an operator asked for it.
    pub(crate) backfill: Option<(Build, Task)>,
    /// None is begun before: the last one failed.
    pub(crate) backfill_after: Option<Instant>,
    /// The one that failed last: the next older one goes before it.
    pub(crate) backfill_failed: Option<Build>,
    /// A question to the journal under way.
    pub(crate) asking: Option<CancellationToken>,
    /// When the journal answered last.
    pub(crate) asked: Option<Instant>,
    /// A question to the journal that nobody else will ask waits for its turn.
    pub(crate) ask_again: bool,
    /// Why the last sync failed; cleared by the next that does not.
    pub(crate) trouble: Option<String>,
}

impl Slot {
    pub(crate) fn new(channel: Channel, view: View) -> Self {
        Self {
            channel,
            held_view: Some(view.clone()),
            view: Prepared::new(view),
            stored: Vec::new(),
            snapshots: BTreeMap::new(),
            unvouched: false,
            vouched_at: None,
            retractions: BTreeMap::new(),
            head: None,
            deltas: BTreeMap::new(),
            spans: BTreeMap::new(),
            missing: BTreeMap::new(),
            received: BTreeMap::new(),
            sync_started: None,
            flip: None,
            syncs: BTreeMap::new(),
            ended: BTreeMap::new(),
            plans: BTreeMap::new(),
            planned: BTreeMap::new(),
            heals: BTreeMap::new(),
            heal_again: BTreeSet::new(),
            heal_after: BTreeMap::new(),
            backfill: None,
            backfill_after: None,
            backfill_failed: None,
            asking: None,
            asked: None,
            ask_again: false,
            trouble: None,
        }
    }

    /// Stops every task.
    pub(crate) fn cancel_all(&mut self) {
        let tasks = self
            .syncs
            .values()
            .chain(self.plans.values())
            .chain(self.heals.values())
            .chain(self.backfill.as_ref().map(|(_, task)| task));
        for task in tasks {
            task.stop.cancel();
        }
        if let Some(asking) = &self.asking {
            asking.cancel();
        }
    }

    /// The newest build that is whole here in what `selection` selects: a new build is compared with it.
    pub(crate) fn whole_root(&self, selection: &Selection) -> Option<Digest> {
        if self.held_view.as_ref() != Some(self.view.view()) {
            return None;
        }
        let held = self.channel.held.values().rev();
        let mut whole = held.filter(|held| {
            let build = held.target.build;
            !self.channel.healing.contains(&build) && self.selection(build) == *selection
        });
        whole.next().map(|held| held.target.root)
    }

    /// What of a build is carried here.
    pub(crate) fn selection(&self, build: Build) -> Selection {
        // Without its snapshot the channel's shape is that of any other build.
        let known = self
            .snapshots
            .get(&build)
            .or_else(|| self.snapshots.values().next_back());
        known.map_or(Selection::ALL, |(_, snapshot)| {
            self.view.selection(snapshot.layout)
        })
    }

    /// What peers are told: the builds that are whole here, and those that are on their way.
    pub(crate) fn standing(&self) -> Vec<PeerBuild> {
        let channel = &self.channel;
        let held = channel.held.values().map(|held| held.target);
        let held = held.filter(|target| !channel.is_retracted(target.build));
        let held = held.map(|target| (target.root, !channel.healing.contains(&target.build)));
        let running = self.syncs.keys();
        let running = running.filter_map(|lane| channel.lane(*lane).sync);
        let coming = running.map(|sync| (sync.target.root, false));
        let builds = held.chain(coming).map(|(root, whole)| PeerBuild {
            channel: channel.id.clone(),
            root: peers::shared(&root, self.view.view()),
            whole,
        });
        builds.collect()
    }

    /// The table's row for this channel; `None` before any snapshot is known.
    pub(crate) fn served(&self) -> Option<ServedChannel> {
        let (_, newest) = self.snapshots.last_key_value()?;
        // Where it is served moves with the flip, not with the announcement of another place.
        let live = self.channel.live;
        let live = live.and_then(|live| self.snapshots.get(&live));
        let shown = &live.unwrap_or(newest).1;
        let builds = self.channel.held.values().filter_map(|held| {
            let build = held.target.build;
            let (signed, snapshot) = self.snapshots.get(&build)?;
            let comment = format!("mirrorlog snapshot {} {build}", snapshot.channel);
            let served = ServedBuild {
                root: held.target.root,
                selection: self.view.selection(snapshot.layout),
                created: snapshot.created,
                snapshot: signed.to_signify(&comment).into(),
                urgent: snapshot.lane == Lane::Priority,
            };
            (!self.channel.is_retracted(build)).then_some((build, served))
        });
        let comment = format!("mirrorlog head {}", self.channel.id);
        let retracted = self.channel.retracted.values().map(|r| (r.first, r.last));
        Some(ServedChannel {
            mount: shown.mount.clone(),
            layout: shown.layout,
            selection: self.view.selection(shown.layout),
            precedence: shown.precedence,
            live: self.channel.live,
            builds: builds.collect(),
            retracted: retracted.collect(),
            newest_known: self.snapshots.keys().next_back().copied(),
            head: self
                .head
                .as_ref()
                .map(|head| head.to_signify(&comment).into()),
            head_expires: self.channel.head.map(|head| head.expires),
            flip: self.flip,
        })
    }

    /// Builds that are on their way.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        let of_lane = |lane| {
            let state = self.channel.lane(lane);
            [state.sync.map(|sync| sync.target), state.next]
        };
        let asked = self.channel.backfills.values().map(|asked| asked.target);
        Lane::ALL
            .into_iter()
            .flat_map(of_lane)
            .flatten()
            .chain(asked)
    }

    /// When the oldest good build that is newer than `live` was signed; `None` when that is the newest.
    pub(crate) fn behind_since(&self, live: Option<Build>) -> Option<Timestamp> {
        let newer = self.snapshots.iter().filter(|(build, _)| {
            let good = !self.channel.is_retracted(**build);
            good && live.is_none_or(|live| live < **build)
        });
        newer.map(|(_, (_, snapshot))| snapshot.created).next()
    }

    /// Files of the newest good build that are not here; `None` before anybody looked.
    pub(crate) fn files_missing(&self) -> Option<u64> {
        let newest = self.snapshots.keys().rev();
        let newest = newest
            .copied()
            .find(|build| !self.channel.is_retracted(*build))?;
        let whole = self.channel.held.contains_key(&newest);
        if whole && !self.channel.healing.contains(&newest) {
            return Some(0);
        }
        self.missing
            .get(&newest)
            .map(|missing| missing.ordinals.len())
    }

    /// True when so many builds were announced that old ones have to be forgotten before the next sync ends.
    pub(crate) fn is_crowded(&self) -> bool {
        self.snapshots.len().max(self.deltas.len()) > 4 * SNAPSHOTS_KEPT
    }

    /// Forgets what only unheld, old builds needed; returns the snapshots to delete.
    pub(crate) fn forget_old(&mut self) -> Vec<Build> {
        let held: BTreeSet<Build> = self.channel.held.keys().copied().collect();
        let targets: BTreeSet<Build> = self.targets().map(|target| target.build).collect();
        let needed = |build: &Build| held.contains(build) || targets.contains(build);
        let surplus = self.snapshots.len().saturating_sub(SNAPSHOTS_KEPT);
        let old: Vec<Build> = self
            .snapshots
            .keys()
            .take(surplus)
            .filter(|build| !needed(build))
            .copied()
            .collect();
        for build in &old {
            self.snapshots.remove(build);
        }
        let live = self.channel.live;
        let waits = |build: &Build| held.contains(build) && live.is_none_or(|live| live < *build);
        self.spans
            .retain(|build, _| targets.contains(build) || waits(build));
        self.deltas.retain(|build, _| targets.contains(build));
        self.received.retain(|build, _| held.contains(build));
        self.missing.retain(|build, _| needed(build));
        self.heal_after.retain(|build, _| held.contains(build));
        old
    }

    /// Of the event that is being worked on; none when nothing is.
    pub(crate) fn newest_span(&self) -> tracing::Span {
        let newest = self.spans.values().next_back().cloned();
        newest.unwrap_or_else(tracing::Span::none)
    }
}

/// Reads all channels from the control database.
pub(crate) fn load_all(
    control: &dyn Control,
    views: &Views,
) -> anyhow::Result<BTreeMap<ChannelId, Slot>> {
    let mut slots = BTreeMap::new();
    for (key, value) in control.scan(b"channel/")? {
        let Some(Key::Channel(id)) = Key::decode(&key) else {
            continue;
        };
        let mut slot = Slot::new(wire::state::decode_channel(&value)?, views.of(&id));
        slot.stored = value;
        let stored = control.get(&Key::View(id.clone()).encode());
        // One that cannot be read is another one: its builds are looked through.
        slot.held_view = stored.ok().and_then(|stored| match stored {
            None => Some(View::All),
            Some(bytes) => wire::state::decode_view(&bytes).ok(),
        });
        slots.insert(id, slot);
    }
    for (id, slot) in &mut slots {
        load_statements(control, id, slot)?;
    }
    Ok(slots)
}

/// Statements on our own disk were verified before they were written.
fn load_statements(control: &dyn Control, id: &ChannelId, slot: &mut Slot) -> anyhow::Result<()> {
    for (key, value) in control.scan(format!("snapshot/{id}/").as_bytes())? {
        let Some(Key::Snapshot(_, build)) = Key::decode(&key) else {
            continue;
        };
        let signed = Signed::decode(&value)?;
        if let Statement::Snapshot(snapshot) = wire::statement::decode(&signed.statement)? {
            slot.snapshots.insert(build, (signed, snapshot));
        }
    }
    for (key, value) in control.scan(format!("retraction/{id}/").as_bytes())? {
        let Some(Key::Retraction(_, number)) = Key::decode(&key) else {
            continue;
        };
        slot.retractions
            .insert(number, Signed::decode(&value)?.digest());
    }
    let head = control.get(&Key::Head(id.clone()).encode())?;
    slot.head = head.map(|bytes| Signed::decode(&bytes)).transpose()?;
    Ok(())
}
