//! What others ask for: older builds by an operator, and the word on builds that are to be confirmed.

use super::{Backfill, Channel, Effect, Flip, Held, Policy, Target};
use crate::id::{Build, Digest};
use crate::time::Timestamp;

impl Channel {
    /// An older build is wanted here for a while.
    pub(super) fn on_backfill(
        &mut self,
        target: Target,
        keep_until: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let build = target.build;
        if self.halt.is_some() || self.halts_on_fork(build, target.root, effects) {
            return;
        }
        if let Some(held) = self.held.get_mut(&build) {
            held.keep_until = held.keep_until.max(Some(keep_until));
            return;
        }
        // What is newer comes by itself.
        let older = self.live.is_some_and(|live| build < live);
        if older && !self.is_retracted(build) {
            let backfill = Backfill { target, keep_until };
            self.backfills.insert(build, backfill);
            effects.push(Effect::Backfill { target });
        }
    }

    /// Every entry of a build that was asked for is durable here.
    pub(super) fn on_backfilled(
        &mut self,
        policy: &Policy,
        build: Build,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let Some(backfill) = self.backfills.remove(&build) else {
            return;
        };
        if self.held.contains_key(&build) || self.is_retracted(build) {
            return;
        }
        let held = Held {
            keep_until: Some(backfill.keep_until),
            ..Held::new(backfill.target, policy, now)
        };
        self.held.insert(build, held);
        effects.push(Effect::Serve);
        effects.push(Effect::Report);
    }

    /// Forgets what was asked for and is taken back, or not needed any longer.
    pub(super) fn trim_backfills(&mut self, now: Timestamp) {
        let retracted = |build| {
            let mut taken = self.retracted.values();
            taken.any(|taken| taken.first <= build && build <= taken.last)
        };
        self.backfills
            .retain(|build, asked| now <= asked.keep_until && !retracted(*build));
    }

    /// The consistency service's word on a build: it may go live, or it may not after all.
    pub(super) fn on_word(
        &mut self,
        build: Build,
        root: Digest,
        good: bool,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let held = self.held.get_mut(&build);
        let Some(held) = held.filter(|held| held.target.root == root) else {
            return;
        };
        if held.confirmed != good {
            held.confirmed = good;
            self.settle(now, effects);
            effects.push(Effect::Report);
        }
    }

    /// With the policy `local` nobody's word is waited for.
    pub(super) fn confirm_all(&mut self, policy: &Policy) {
        if policy.flip == Flip::Local {
            for held in self.held.values_mut() {
                held.confirmed = true;
            }
        }
    }

    /// The newest build that is whole here and only waits for the consistency service's word.
    pub fn unconfirmed(&self) -> Option<Build> {
        let newer = |build: &Build| self.live.is_none_or(|live| live < *build);
        let mut held = self.held.iter().rev();
        let found = held
            .find(|(build, held)| newer(build) && !held.confirmed && !self.is_retracted(**build));
        found.map(|(build, _)| *build)
    }
}

impl Held {
    /// A build that has just become whole.
    pub fn new(target: Target, policy: &Policy, now: Timestamp) -> Self {
        Self {
            target,
            since: now,
            last_live: None,
            keep_until: None,
            confirmed: policy.flip == Flip::Local,
        }
    }
}
