//! One mirror: its reachability, its rounds.

use std::collections::BTreeMap;

use crate::id::ChannelId;
use crate::limits::{CLOCK_SKEW_MS, REPORT_BUILDS_MAX};
use crate::statement::{Report, RevokeReason, Verdict, VerdictState};
use crate::time::Timestamp;
use crate::view::Prepared;

use super::carried::{Carried, Context};
use super::held::{Claim, Held};
use super::{Audience, Effect, Leadership, Member, Reach, Refusal, Rules, Scope};
use crate::channel::CHANNELS_MAX;
use crate::channel::Channel;

/// One mirror.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(super) struct Watched {
    pub(super) member: Member,
    pub(super) heard: Option<Timestamp>,
    pub(super) failures: u32,
    last_failure: Timestamp,
    /// When the next round is; the epoch: not planned yet.
    due: Timestamp,
    round: usize,
    pub(super) channels: BTreeMap<ChannelId, Carried>,
}

impl Watched {
    pub(super) fn new(member: Member) -> Self {
        Self {
            member,
            heard: None,
            failures: 0,
            last_failure: Timestamp::EPOCH,
            due: Timestamp::EPOCH,
            round: 0,
            channels: BTreeMap::new(),
        }
    }

    pub(super) fn is_unreachable(&self, rules: &Rules) -> bool {
        self.failures >= rules.unreachable_failures
    }

    pub(super) fn is_fresh(&self, rules: &Rules, now: Timestamp) -> bool {
        // Heard in the future: the clock was set back, and says nothing of how long ago that was.
        self.heard
            .is_some_and(|heard| now.ms_since(heard).saturating_abs() <= rules.stale_after_ms)
    }

    /// Takes a report in. Old ones, and those that a mirror may not send, change nothing.
    pub(super) fn report(
        &mut self,
        report: Report,
        channel: Option<&Channel>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let names = || (report.mirror.clone(), report.channel.clone());
        let refuse = |why: fn(_, _) -> Refusal| {
            let (mirror, channel) = names();
            Err(why(mirror, channel))
        };
        if !self.member.carries(&report.channel) {
            return refuse(Refusal::NotCarried);
        }
        if report.builds.len() > REPORT_BUILDS_MAX {
            return refuse(Refusal::TooLarge);
        }
        if report.booted.ms_since(now) > CLOCK_SKEW_MS {
            return refuse(Refusal::Future);
        }
        let known = self.channels.contains_key(&report.channel);
        if !known && self.channels.len() >= CHANNELS_MAX {
            return Err(Refusal::TooManyChannels(report.channel));
        }
        let carried = self.channels.entry(report.channel.clone()).or_default();
        let order = (report.booted, report.boot, report.sequence);
        if carried.order.is_some_and(|last| order <= last) {
            return refuse(Refusal::Stale);
        }
        let rebooted = carried.order.is_none_or(|(_, boot, _)| boot != report.boot);
        carried.order = Some(order);
        self.heard = Some(now);
        carried.take(report, channel, rebooted, now);
        Ok(())
    }

    /// A probe or an audit says whether the mirror answers. True when it answers again.
    pub(super) fn reached(&mut self, reach: Reach, rules: &Rules, now: Timestamp) -> bool {
        match reach {
            Reach::Answered => {
                let back = self.failures > 0;
                self.failures = 0;
                back
            }
            Reach::Silent => {
                let apart = now.ms_since(self.last_failure) >= rules.retry_ms / 2;
                if self.failures == 0 || apart {
                    self.failures = self.failures.saturating_add(1);
                    self.last_failure = now;
                }
                self.due = self.due.min(now.plus_ms(rules.retry_ms));
                false
            }
        }
    }

    /// Nothing that was good counts while the mirror does not answer.
    pub(super) fn revoke_unreachable(&mut self) {
        for held in self
            .channels
            .values_mut()
            .flat_map(|carried| carried.builds.values_mut())
        {
            if held.is_good() && held.fault.is_none() {
                held.distrust(RevokeReason::Unreachable, Scope::Pinned);
            }
        }
    }

    /// Something was odd: the next round is not waited for.
    pub(super) fn look_again_soon(&mut self, rules: &Rules, now: Timestamp) {
        self.due = self.due.min(now.plus_ms(rules.retry_ms));
    }

    /// It answers again: everything may be tried at once.
    pub(super) fn try_again(&mut self, now: Timestamp) {
        for held in self
            .channels
            .values_mut()
            .flat_map(|carried| carried.builds.values_mut())
        {
            (held.retry_at, held.tries) = (now, 0);
        }
    }

    /// Forgets audits under way: somebody else makes them, or made them.
    pub(super) fn forget_audits(&mut self) {
        self.due = Timestamp::EPOCH;
        for held in self
            .channels
            .values_mut()
            .flat_map(|carried| carried.builds.values_mut())
        {
            (held.pinned.running, held.live.running) = (None, None);
            (held.retry_at, held.tries) = (Timestamp::EPOCH, 0);
        }
    }

    /// Adopts the leader's word.
    pub(super) fn adopt(&mut self, verdict: Verdict) {
        let carried = self.channels.entry(verdict.channel).or_default();
        if verdict.state == VerdictState::Revoked(RevokeReason::Dropped) {
            let claim = carried.builds.get(&verdict.build).map(|held| held.claim);
            if matches!(claim, Some(Claim::Gone | Claim::Unheard)) {
                carried.builds.remove(&verdict.build);
            }
            return;
        }
        if verdict.state == VerdictState::Complete {
            let done = (verdict.build, verdict.root);
            carried.last_complete = Some(carried.last_complete.map_or(done, |last| last.max(done)));
        }
        let (root, view) = (verdict.root, &verdict.view);
        let fresh = || Held::new(root, Prepared::new(view.clone()), Claim::Unheard);
        let held = carried.builds.entry(verdict.build).or_insert_with(fresh);
        if held.root != root || held.view.view() != view {
            // It speaks of something else than what the mirror reports by now: said, and no reason to trust that.
            held.said = Some((verdict.state, verdict.issued));
            return;
        }
        held.adopt(verdict.state, verdict.issued);
        (held.audited_files, held.new_files) = (verdict.audited_files, verdict.new_files);
        carried.trim();
    }

    /// Says what follows from what is known, and starts the audits that are missing. True when a verdict changed.
    pub(super) fn settle(
        &mut self,
        id: &ChannelId,
        channel: &Channel,
        cx: &mut Context<'_>,
    ) -> bool {
        let unreachable = self.is_unreachable(cx.rules);
        let Some(carried) = self.channels.get_mut(id) else {
            return false;
        };
        carried.trim();
        let Leadership::Leader { revision } = cx.leadership else {
            return false;
        };
        if channel.fork.is_some() {
            return false;
        }
        let changed = carried.speak(&self.member, id, channel, revision, cx);
        carried.builds.retain(|_, held| held.claim != Claim::Gone);
        if self.member.audience == Audience::Public && !unreachable {
            carried.start_missing(&self.member, id, channel, cx);
        }
        changed
    }

    /// Audits a sample again, if it is time to.
    pub(super) fn round(
        &mut self,
        channels: &BTreeMap<ChannelId, Channel>,
        random: u64,
        cx: &mut Context<'_>,
    ) {
        if self.member.audience == Audience::Private || self.heard.is_none() {
            return;
        }
        let round_ms = cx.rules.round_ms.max(1);
        let jitter = i64::try_from(random % round_ms.unsigned_abs()).unwrap_or(0);
        if self.due == Timestamp::EPOCH {
            self.due = cx.now.plus_ms(jitter);
        }
        if cx.now < self.due {
            return;
        }
        self.due = cx.now.plus_ms(round_ms / 2 + jitter);
        self.round = self.round.wrapping_add(1);
        if self.failures > 0 {
            self.due = cx.now.plus_ms(cx.rules.retry_ms);
            cx.out.push(Effect::Probe(self.member.mirror.clone()));
            return;
        }
        let mut audited = false;
        for (id, carried) in &mut self.channels {
            let Some(channel) = channels.get(id).filter(|channel| channel.fork.is_none()) else {
                continue;
            };
            audited |= carried.again(&self.member, id, channel, self.round, cx);
        }
        if !audited {
            cx.out.push(Effect::Probe(self.member.mirror.clone()));
        }
    }

    /// After other bytes than signed were seen at one path: looks at it in every other build that counts as good.
    pub(super) fn look_elsewhere(
        &mut self,
        id: &ChannelId,
        channel: &Channel,
        cx: &mut Context<'_>,
    ) {
        if cx.leadership == Leadership::Follower || self.member.audience == Audience::Private {
            return;
        }
        let Some(carried) = self.channels.get_mut(id) else {
            return;
        };
        for build in carried.good(channel) {
            carried.start(&self.member, id, channel, build, Scope::Pinned, cx);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::id::{MirrorId, PoolId};

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_fresh() {
        let member = Member {
            mirror: MirrorId::new("nz1").unwrap(),
            pool: PoolId::new("nz").unwrap(),
            audience: Audience::Public,
            channels: Vec::new(),
        };
        let (rules, now) = (Rules::default(), Timestamp::from_seconds(1_800_000_000));
        let mut watched = Watched::new(member);
        watched.heard = Some(now);
        let day_ms = 24 * 60 * 60 * 1000;
        for (later_ms, fresh) in [
            (0, true),
            (rules.stale_after_ms, true),
            (rules.stale_after_ms + 1, false),
            (-1000, true),
            (-day_ms, false),
        ] {
            let at = now.plus_ms(later_ms);
            assert_eq!(watched.is_fresh(&rules, at), fresh, "{later_ms}");
        }
    }
}
