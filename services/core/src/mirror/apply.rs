//! Snapshots, plans, staging and the flip.

use std::collections::BTreeSet;

use super::{Channel, Effect, Halt, HeadSeen, Held, OpenEvent, Policy, Retracted, Sync, Target};
use crate::id::{Build, Digest, Lane};
use crate::time::Timestamp;

/// First pause after a failed sync, in milliseconds; doubles from there.
const RETRY_MIN_MS: i64 = 500;
/// Failures in a row after which a pin no longer holds: the archive may not have the build any more.
const PIN_FAILURES_MAX: u32 = 5;
/// So long after its start a sync that has not been planned yet goes over to any newer build: nothing
/// has been fetched for it, and what was missed comes from the log in one go.
const GATHER_MS: i64 = 5_000;

impl Channel {
    pub(super) fn on_snapshot(
        &mut self,
        policy: &Policy,
        target: Target,
        lane: Lane,
        sequence: Option<u64>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        self.time_floor = self.time_floor.max(target.created);
        let halted = self.halts_on_fork(target.build, target.root, effects);
        let done = self.is_done_with(&target) || self.is_older_than_known(lane, target.build);
        if done && !halted {
            effects.extend(sequence.map(|sequence| Effect::Ack { lane, sequence }));
            return;
        }
        // One event stays open, of a halted channel too: others' must not wait behind a lane full of these.
        self.open_event(lane, target.build, sequence, effects);
        let forked = self
            .known_root(target.build)
            .is_some_and(|root| root != target.root);
        let state = self.lane_mut(lane);
        if halted {
            if !done && !forked {
                state.next = Some(target);
            }
            return;
        }
        match &mut state.sync {
            None => {
                state.sync = Some(Sync::new(target, now));
                effects.push(Effect::Start { lane, target });
                effects.push(Effect::Report);
            }
            Some(sync) if sync.target.build == target.build => {}
            Some(sync) if sync.is_gathering(policy, now) => {
                sync.target = target;
                state.next = None;
                effects.push(Effect::Start { lane, target });
            }
            Some(sync) => {
                if state.next == Some(target) {
                    return;
                }
                state.next = Some(target);
                if !sync.is_pinned(policy, now) {
                    effects.push(Effect::Plan { lane, target });
                }
            }
        }
    }

    /// True when an event of this build would change nothing.
    pub fn is_settled(&self, lane: Lane, target: &Target) -> bool {
        let state = self.lane(lane);
        let sync = state.sync.map(|sync| sync.target);
        let targeted = [sync, state.next]
            .into_iter()
            .flatten()
            .any(|one| one == *target);
        targeted || self.is_done_with(target) || self.is_older_than_known(lane, target.build)
    }

    /// A build that needs no sync: held, retracted, or made pointless by what is live.
    pub(super) fn is_done_with(&self, target: &Target) -> bool {
        self.held.contains_key(&target.build)
            || self.is_retracted(target.build)
            || !self.is_applicable(target)
    }

    /// The newest unretracted build that was live or newer content was not: what `base` is compared with.
    fn live_unretracted(&self) -> Option<Build> {
        self.live.filter(|live| !self.is_retracted(*live))
    }

    fn is_applicable(&self, target: &Target) -> bool {
        match self.live_unretracted() {
            None => true,
            Some(live) => live < target.build && target.base.is_some_and(|base| live <= base),
        }
    }

    fn is_older_than_known(&self, lane: Lane, build: Build) -> bool {
        let state = self.lane(lane);
        let newest = state.next.or(state.sync.map(|sync| sync.target));
        newest.is_some_and(|newest| build < newest.build)
    }

    /// One event stays open for each lane: the newest. The older one is replaced by a durable newer target.
    fn open_event(
        &mut self,
        lane: Lane,
        build: Build,
        sequence: Option<u64>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(sequence) = sequence else { return };
        let before = self
            .lane_mut(lane)
            .open
            .replace(OpenEvent { sequence, build });
        if let Some(before) = before.filter(|before| before.sequence != sequence) {
            effects.push(Effect::Ack {
                lane,
                sequence: before.sequence,
            });
        }
    }

    pub(super) fn halts_on_fork(
        &mut self,
        build: Build,
        root: Digest,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.halt.is_none()
            && let Some(first) = self.known_root(build)
            && first != root
        {
            self.on_fork(build, first, root, effects);
        }
        self.halt.is_some()
    }

    pub(super) fn on_fork(
        &mut self,
        build: Build,
        first: Digest,
        second: Digest,
        effects: &mut Vec<Effect>,
    ) {
        if self.halt.is_some() {
            return;
        }
        self.halt = Some(Halt::Fork {
            build,
            first,
            second,
        });
        effects.extend(Lane::ALL.map(|lane| Effect::Cancel { lane }));
        effects.push(Effect::Report);
    }

    fn known_root(&self, build: Build) -> Option<Digest> {
        let of_lane = |lane: Lane| {
            let state = self.lane(lane);
            [state.sync.map(|sync| sync.target), state.next]
                .into_iter()
                .flatten()
                .find(|target| target.build == build)
                .map(|target| target.root)
        };
        let held = self.held.get(&build).map(|held| held.target.root);
        let head = self
            .head
            .filter(|head| head.build == build)
            .map(|head| head.root);
        let asked = self.backfills.get(&build).map(|asked| asked.target.root);
        held.or(asked)
            .or_else(|| of_lane(Lane::Priority))
            .or_else(|| of_lane(Lane::Bulk))
            .or(head)
    }

    pub(super) fn on_head(&mut self, head: HeadSeen, now: Timestamp, effects: &mut Vec<Effect>) {
        self.time_floor = self.time_floor.max(head.issued);
        if self.head.is_some_and(|seen| head.issued <= seen.issued) {
            return;
        }
        if self.halts_on_fork(head.build, head.root, effects) {
            return;
        }
        let was_expired = self.is_expired(now);
        self.head = Some(head);
        self.ask_when_behind(effects);
        self.settle(now, effects);
        if was_expired != self.is_expired(now) {
            effects.push(Effect::Report);
        }
    }

    /// A fork may have been theirs, and so may the newest time: both are found again when they were not.
    pub(super) fn on_disowned(
        &mut self,
        head: bool,
        retractions: &BTreeSet<u64>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        if head {
            self.head = None;
            self.time_floor = Timestamp::EPOCH;
        }
        self.retracted
            .retain(|number, _| !retractions.contains(number));
        self.halt = None;
        self.settle(now, effects);
        effects.push(Effect::Report);
    }

    /// Asks the journal when the head names a build that the log has not brought.
    pub(super) fn ask_when_behind(&self, effects: &mut Vec<Effect>) {
        let Some(head) = self.head.filter(|_| self.halt.is_none()) else {
            return;
        };
        let targets = Lane::ALL.into_iter().flat_map(|lane| {
            let state = self.lane(lane);
            [
                state.sync.map(|sync| sync.target.build),
                state.next.map(|next| next.build),
            ]
        });
        let known = targets.flatten().chain(self.held.keys().copied()).max();
        if known.is_none_or(|known| known < head.build) {
            effects.push(Effect::AskJournal {
                from: known.map_or(head.build, Build::next),
            });
        }
    }

    pub(super) fn on_planned(
        &mut self,
        policy: &Policy,
        lane: Lane,
        build: Build,
        missing_bytes: u64,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        if self.halt.is_some() {
            return;
        }
        let state = self.lane_mut(lane);
        let Some(sync) = &mut state.sync else { return };
        if sync.target.build == build {
            sync.remaining_bytes = Some(missing_bytes);
            return;
        }
        let Some(next) = state.next.filter(|next| next.build == build) else {
            return;
        };
        let cheaper = sync
            .remaining_bytes
            .is_some_and(|remaining| missing_bytes <= remaining);
        let waiting = sync.retry_at.is_some();
        if sync.is_pinned(policy, now) || !(cheaper || waiting) {
            return;
        }
        sync.target = next;
        sync.retargets = sync.retargets.saturating_add(1);
        sync.remaining_bytes = Some(missing_bytes);
        sync.failures = 0;
        sync.retry_at = None;
        state.next = None;
        effects.push(Effect::Start { lane, target: next });
        effects.push(Effect::Report);
    }

    pub(super) fn on_progress(&mut self, lane: Lane, build: Build, remaining_bytes: u64) {
        if let Some(sync) = &mut self.lane_mut(lane).sync
            && sync.target.build == build
        {
            let before = sync.remaining_bytes.replace(remaining_bytes);
            if before.is_some_and(|before| remaining_bytes < before) {
                sync.failures = 0;
            }
        }
    }

    pub(super) fn on_staged(
        &mut self,
        policy: &Policy,
        lane: Lane,
        build: Build,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let state = self.lane_mut(lane);
        let Some(sync) = state.sync.take_if(|sync| sync.target.build == build) else {
            return;
        };
        if !self.is_retracted(build) {
            self.held.insert(build, Held::new(sync.target, policy, now));
        }
        self.settle(now, effects);
        // Live or not: whoever audits it asks for it by number.
        effects.push(Effect::Serve);
        effects.push(Effect::Report);
    }

    pub(super) fn on_failed(&mut self, policy: &Policy, lane: Lane, build: Build, now: Timestamp) {
        if let Some(sync) = &mut self.lane_mut(lane).sync
            && sync.target.build == build
        {
            let pause_ms = RETRY_MIN_MS << sync.failures.min(16);
            sync.failures = sync.failures.saturating_add(1);
            sync.retry_at = Some(now.plus_ms(pause_ms.min(policy.retry_max_ms)));
        }
    }

    pub(super) fn on_retraction(
        &mut self,
        number: u64,
        retracted: Retracted,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        if self.retracted.insert(number, retracted).is_some() {
            return;
        }
        self.trim_backfills(now);
        self.settle(now, effects);
        effects.push(Effect::Serve);
        effects.push(Effect::Report);
    }

    /// Brings live, the lanes and the open events in line with what is held and retracted.
    pub(super) fn settle(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.halt.is_some() {
            return;
        }
        self.flip(now, effects);
        for lane in Lane::ALL {
            self.settle_lane(lane, now, effects);
        }
    }

    /// The flip: the newest held build that may follow what is live. Going back takes a retraction, and nobody's word.
    fn flip(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let live_is_bad = self.live.is_some_and(|live| self.is_retracted(live));
        let candidate = self
            .held
            .values()
            .rev()
            .find(|held| {
                let target = &held.target;
                let good = !self.is_retracted(target.build);
                let whole = !self.healing.contains(&target.build);
                let timely = held.confirmed && whole && !self.is_expired(now);
                let adoptable = timely && self.is_applicable(target);
                let fallback = live_is_bad && self.live.is_some_and(|live| target.build < live);
                good && (adoptable || fallback)
            })
            .map(|held| held.target);
        let live = match (candidate, live_is_bad) {
            (Some(target), _) => Some(target.build),
            (None, true) => None,
            (None, false) => return,
        };
        for build in [self.live, live].into_iter().flatten() {
            if let Some(held) = self.held.get_mut(&build) {
                held.last_live = Some(now);
            }
        }
        self.live = live;
        effects.push(Effect::Serve);
    }

    /// Drops what has become pointless, starts what waits, acks what is done.
    fn settle_lane(&mut self, lane: Lane, now: Timestamp, effects: &mut Vec<Effect>) {
        let state = self.lane(lane);
        let pointless = |target: &Target| self.is_done_with(target);
        let drop_sync = state.sync.is_some_and(|sync| pointless(&sync.target));
        let drop_next = state.next.is_some_and(|next| pointless(&next));
        let state = self.lane_mut(lane);
        if drop_next {
            state.next = None;
        }
        if drop_sync {
            state.sync = None;
            if state.next.is_none() {
                effects.push(Effect::Cancel { lane });
            }
        }
        if state.sync.is_none()
            && let Some(next) = state.next.take()
        {
            state.sync = Some(Sync::new(next, now));
            effects.push(Effect::Start { lane, target: next });
        }
        if state.sync.is_none()
            && let Some(open) = state.open.take()
        {
            effects.push(Effect::Ack {
                lane,
                sequence: open.sequence,
            });
        }
    }
}

impl Sync {
    fn new(target: Target, now: Timestamp) -> Self {
        Self {
            target,
            started: now,
            retargets: 0,
            remaining_bytes: None,
            failures: 0,
            retry_at: None,
        }
    }

    /// True when the target stays until it is live, or until it proves impossible.
    pub fn is_pinned(&self, policy: &Policy, now: Timestamp) -> bool {
        let old = self.retargets >= policy.retargets_max
            || now.ms_since(self.started) >= policy.pin_after_ms;
        old && self.failures < PIN_FAILURES_MAX
    }

    /// True for a moment after the start, while nothing has been fetched.
    fn is_gathering(&self, policy: &Policy, now: Timestamp) -> bool {
        let fresh = self.remaining_bytes.is_none()
            && self.failures == 0
            && now.ms_since(self.started) < GATHER_MS;
        fresh && !self.is_pinned(policy, now)
    }
}
