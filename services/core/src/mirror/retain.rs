//! What is kept, what is let go, what is healed.

use std::collections::BTreeSet;

use super::{Channel, Effect, Policy};
use crate::id::{Build, Lane};
use crate::time::Timestamp;

impl Channel {
    pub(super) fn on_lost(&mut self, build: Build, effects: &mut Vec<Effect>) {
        let Some(held) = self.held.get(&build) else {
            return;
        };
        let target = held.target;
        if self.healing.insert(build) {
            effects.push(Effect::Report);
        }
        effects.push(Effect::Heal { target });
    }

    pub(super) fn on_tick(
        &mut self,
        policy: &Policy,
        leased: &BTreeSet<Build>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        self.ask_when_behind(effects);
        for lane in Lane::ALL {
            self.retry(policy, lane, now, effects);
        }
        self.confirm_all(policy);
        self.settle(now, effects);
        self.trim_backfills(now);
        self.collect(policy, leased, now, effects);
    }

    fn retry(&mut self, policy: &Policy, lane: Lane, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.halt.is_some() {
            return;
        }
        let state = self.lane_mut(lane);
        let Some(sync) = &mut state.sync else { return };
        if sync.retry_at.is_some_and(|at| at <= now) {
            sync.retry_at = None;
            effects.push(Effect::Start {
                lane,
                target: sync.target,
            });
        }
        if let Some(next) = state.next.filter(|_| !sync.is_pinned(policy, now)) {
            effects.push(Effect::Plan { lane, target: next });
        }
    }

    /// Lets go of retracted builds, and of those beyond the newest [`Policy::retain_builds`] whose
    /// grace is over. Live, and what somebody reads by number, stays.
    fn collect(
        &mut self,
        policy: &Policy,
        leased: &BTreeSet<Build>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let good = self
            .held
            .keys()
            .rev()
            .filter(|build| !self.is_retracted(**build));
        let kept: BTreeSet<Build> = good.take(policy.retain_builds.max(1)).copied().collect();
        let gone: Vec<Build> = self
            .held
            .values()
            .filter(|held| {
                let build = held.target.build;
                let since = held.last_live.unwrap_or(held.since);
                let asked_for = held.keep_until.is_some_and(|until| now <= until);
                let old = now.ms_since(since) > policy.grace_ms && !asked_for;
                let stale = old && !leased.contains(&build);
                let pinned = self.live == Some(build) || kept.contains(&build);
                !pinned && (stale || self.is_retracted(build))
            })
            .map(|held| held.target.build)
            .collect();
        for build in gone {
            self.let_go(build, effects);
        }
    }

    /// The build that goes first when the disk is full.
    pub fn sheddable(&self, leased: &BTreeSet<Build>) -> Option<Build> {
        let others = || self.held.keys().filter(|build| Some(**build) != self.live);
        let unread = others().find(|build| !leased.contains(build));
        unread.or_else(|| others().next()).copied()
    }

    pub(super) fn on_shed(&mut self, leased: &BTreeSet<Build>, effects: &mut Vec<Effect>) {
        // What an operator asked for goes before anything that is whole here.
        if !self.backfills.is_empty() {
            self.backfills.clear();
            effects.push(Effect::Report);
            return;
        }
        if let Some(build) = self.sheddable(leased) {
            self.let_go(build, effects);
            effects.push(Effect::Report);
        }
    }

    fn let_go(&mut self, build: Build, effects: &mut Vec<Effect>) {
        self.healing.remove(&build);
        if let Some(held) = self.held.remove(&build) {
            effects.push(Effect::Collect {
                target: held.target,
            });
            effects.push(Effect::Serve);
        }
    }
}
