//! One mirror: its reports, its reachability, which audits are due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use roaring::RoaringBitmap;

use crate::id::{Build, ChannelId, Digest, Ordinal};
use crate::limits::{CLOCK_SKEW_MS, REPORT_BUILDS_MAX, TEXT_MAX_BYTES};
use crate::path::EntryPath;
use crate::statement::{
    OrderOutcome, Presence, Report, ReportedBuild, RevokeReason, Verdict, VerdictState,
};
use crate::time::Timestamp;

use super::channel::{Channel, Known};
use super::held::{Check, Claim, Held};
use super::{
    Audience, Audit, AuditId, CHANNELS_MAX, Depth, Effect, HELD_MAX, LOST_MAX, Leadership, Member,
    Reach, Refusal, Rules, SUSPECTS_MAX, Scope, VERDICT_RENEW_MS,
};

/// Most order outcomes kept of one mirror and channel.
const ORDERS_MAX: usize = 16;

/// What every rule needs: the rules themselves, the time, and where effects go.
pub(super) struct Context<'a> {
    pub(super) rules: &'a Rules,
    pub(super) leadership: Leadership,
    pub(super) audits: &'a mut u64,
    pub(super) now: Timestamp,
    pub(super) out: &'a mut Vec<Effect>,
}

impl Context<'_> {
    fn next_audit(&mut self) -> AuditId {
        *self.audits += 1;
        AuditId(*self.audits)
    }
}

/// One channel on one mirror.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Carried {
    /// Boot time, boot id and sequence of the last report: what is not greater is old.
    order: Option<(Timestamp, u64, u64)>,
    pub(super) live: Option<Build>,
    pub(super) target: Option<Build>,
    pub(super) fetch_bytes_per_s: u64,
    pub(super) disk_free_bytes: u64,
    pub(super) halted: Option<String>,
    pub(super) orders: VecDeque<OrderOutcome>,
    pub(super) builds: BTreeMap<Build, Held>,
    pub(super) last_complete: Option<(Build, Digest)>,
    suspects: Vec<EntryPath>,
    /// The last audit that was started before the newest suspect was seen.
    suspects_since: u64,
}

impl Carried {
    pub(super) fn was_reported(&self) -> bool {
        self.order.is_some()
    }

    pub(super) fn suspect(&mut self, reason: &RevokeReason, audits: u64) {
        let Some(path) = path_of(reason) else { return };
        self.suspects_since = audits;
        self.suspects.retain(|known| known != path);
        self.suspects.push(path.clone());
        if self.suspects.len() > SUSPECTS_MAX {
            self.suspects.remove(0);
        }
    }

    /// A pinned audit of `build` passed that was started as `id`.
    pub(super) fn clear_suspects(&mut self, build: Build, id: AuditId) {
        let is_newest = self
            .builds
            .last_key_value()
            .is_some_and(|(newest, _)| *newest == build);
        if is_newest && id.0 > self.suspects_since {
            self.suspects.clear();
        }
    }

    fn trim(&mut self) {
        while self.builds.len() > HELD_MAX {
            let unheld = |held: &Held| matches!(held.claim, Claim::Gone | Claim::Unheard);
            let oldest = self
                .builds
                .iter()
                .find(|(_, held)| unheld(held))
                .map(|(build, _)| *build);
            let Some(oldest) = oldest else { return };
            self.builds.remove(&oldest);
        }
    }
}

fn path_of(reason: &RevokeReason) -> Option<&EntryPath> {
    match reason {
        RevokeReason::DigestMismatch { path } | RevokeReason::Missing { path } => Some(path),
        RevokeReason::ReportedLoss { .. }
        | RevokeReason::Unreachable
        | RevokeReason::Retracted
        | RevokeReason::Dropped
        | RevokeReason::WrongBuild => None,
    }
}

/// One mirror.
#[derive(Clone, Debug, PartialEq)]
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
        self.heard
            .is_some_and(|heard| now.ms_since(heard) <= rules.stale_after_ms)
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

    /// A probe or an audit says whether the mirror answers. True when it is back.
    pub(super) fn reached(&mut self, reach: Reach, rules: &Rules, now: Timestamp) -> bool {
        match reach {
            Reach::Answered => {
                let back = self.is_unreachable(rules);
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
        let held = carried
            .builds
            .entry(verdict.build)
            .or_insert_with(|| Held::new(verdict.root, verdict.view, Claim::Unheard));
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
        let live = carried.live;
        let mut changed = false;
        for (&build, held) in carried.builds.iter_mut().rev() {
            held.reconsider(live == Some(build));
            let known = channel.builds.get(&build);
            let verdict = held.judge(build, live, known, channel.is_retracted(build));
            let Some(state) = verdict.filter(|state| held.said() != Some(state)) else {
                continue;
            };
            changed = true;
            held.said = Some((state.clone(), cx.now));
            if state == VerdictState::Complete {
                let done = (build, held.root);
                carried.last_complete =
                    Some(carried.last_complete.map_or(done, |last| last.max(done)));
            }
            let verdict = held.verdict(&self.member, id, build, state, cx.now, revision);
            cx.out.push(Effect::PublishVerdict(verdict));
        }
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

impl Carried {
    fn take(&mut self, report: Report, channel: Option<&Channel>, rebooted: bool, now: Timestamp) {
        let fresh_start = rebooted || self.live != report.live;
        for (build, held) in &mut self.builds {
            if report.live != Some(*build) {
                held.live = Check::default();
            }
            if fresh_start {
                (held.retry_at, held.tries) = (now, 0);
            }
        }
        self.live = report.live;
        self.target = report.target;
        self.fetch_bytes_per_s = report.fetch_bytes_per_s;
        self.disk_free_bytes = report.disk_free_bytes;
        self.halted = report
            .halted
            .map(|text| text.chars().take(TEXT_MAX_BYTES / 4).collect());
        for outcome in report.orders {
            self.orders.retain(|known| known.id != outcome.id);
            self.orders.push_back(outcome);
        }
        while self.orders.len() > ORDERS_MAX {
            self.orders.pop_front();
        }
        let reported: BTreeSet<Build> = report.builds.iter().map(|held| held.build).collect();
        self.builds
            .retain(|build, held| held.said.is_some() || reported.contains(build));
        for (build, held) in &mut self.builds {
            if !reported.contains(build) {
                held.claim = Claim::Gone;
                (held.pinned, held.live) = (Check::default(), Check::default());
            }
        }
        for reported in report.builds {
            let known = channel.and_then(|channel| channel.builds.get(&reported.build));
            let (build, root, view) = (reported.build, reported.root, reported.view.clone());
            let held = self
                .builds
                .entry(build)
                .or_insert_with(|| Held::new(root, view, Claim::Unheard));
            held.take(reported, known, now);
        }
    }

    fn good(&self, channel: &Channel) -> Vec<Build> {
        let counts = |build: &Build, held: &Held| {
            held.is_good()
                && held.pinned.passed
                && held.claim == Claim::Whole
                && !channel.is_retracted(*build)
        };
        self.builds
            .iter()
            .filter(|(build, held)| counts(build, held))
            .map(|(build, _)| *build)
            .collect()
    }

    fn again(
        &mut self,
        member: &Member,
        id: &ChannelId,
        channel: &Channel,
        round: usize,
        cx: &mut Context<'_>,
    ) -> bool {
        let good = self.good(channel);
        let Some(&pinned) = good.get(round % good.len().max(1)) else {
            return false;
        };
        if let Some(live) = self.live.filter(|live| good.contains(live)) {
            self.start(member, id, channel, live, Scope::Live, cx);
        }
        self.start(member, id, channel, pinned, Scope::Pinned, cx);
        true
    }

    fn start_missing(
        &mut self,
        member: &Member,
        id: &ChannelId,
        channel: &Channel,
        cx: &mut Context<'_>,
    ) {
        let builds: Vec<Build> = self.builds.keys().rev().copied().collect();
        for build in builds {
            let Some(held) = self.builds.get(&build) else {
                continue;
            };
            let right = channel
                .builds
                .get(&build)
                .is_some_and(|known| known.root == held.root);
            if !right
                || held.claim != Claim::Whole
                || cx.now < held.retry_at
                || channel.is_retracted(build)
            {
                continue;
            }
            let (pinned, live) = (
                !held.pinned.passed,
                self.live == Some(build) && !held.live.passed,
            );
            if pinned {
                self.start(member, id, channel, build, Scope::Pinned, cx);
            }
            if live {
                self.start(member, id, channel, build, Scope::Live, cx);
            }
        }
    }

    fn start(
        &mut self,
        member: &Member,
        id: &ChannelId,
        channel: &Channel,
        build: Build,
        scope: Scope,
        cx: &mut Context<'_>,
    ) {
        let base = self.last_complete.filter(|(base, _)| *base != build);
        let (Some(held), Some(known)) = (self.builds.get_mut(&build), channel.builds.get(&build))
        else {
            return;
        };
        if held.check(scope).running.is_some() {
            return;
        }
        let run = cx.next_audit();
        held.check(scope).running = Some(run);
        let mut suspects = self.suspects.clone();
        let own = held.fault.as_ref().and_then(|fault| path_of(&fault.reason));
        if let Some(path) = own.filter(|path| !suspects.contains(path)) {
            suspects.push(path.clone());
        }
        cx.out.push(Effect::StartAudit(Audit {
            id: run,
            mirror: member.mirror.clone(),
            channel: id.clone(),
            build,
            root: known.root,
            mount: known.mount.clone(),
            base,
            scope,
            depth: if held.once_passed {
                Depth::Again
            } else {
                Depth::First
            },
            suspects,
            lost: held.lost.clone(),
        }));
    }
}

impl Held {
    fn take(&mut self, reported: ReportedBuild, known: Option<&Known>, now: Timestamp) {
        let before = self.claim;
        if self.root != reported.root {
            let said = self.said.take();
            *self = Self::new(reported.root, reported.view.clone(), before);
            self.said = said;
        }
        self.view = reported.view;
        let entries = known.map_or(0, |known| known.entries);
        self.claim = claim(&reported.presence, reported.missing_files, entries);
        match self.claim {
            Claim::Partial { missing } => {
                if let (Presence::Some(present), true) = (&reported.presence, self.once_passed) {
                    self.lost = lost(present, entries);
                }
                if self.fault.is_none() && (self.is_good() || self.pinned.passed) {
                    self.distrust(RevokeReason::ReportedLoss { files: missing }, Scope::Pinned);
                }
                (self.pinned, self.live) = (Check::default(), Check::default());
            }
            Claim::Whole => {
                if matches!(before, Claim::Partial { .. }) {
                    (self.retry_at, self.tries) = (now, 0);
                }
            }
            Claim::Unheard | Claim::Gone => {}
        }
    }

    fn adopt(&mut self, state: VerdictState, issued: Timestamp) {
        let trusted = match self.claim {
            Claim::Whole | Claim::Unheard => true,
            Claim::Partial { .. } | Claim::Gone => false,
        };
        self.pinned.passed = false;
        self.live.passed = false;
        self.fault = None;
        match &state {
            VerdictState::Pending => {}
            VerdictState::Verified => self.pinned.passed = trusted,
            VerdictState::Complete => (self.pinned.passed, self.live.passed) = (trusted, trusted),
            VerdictState::Revoked(RevokeReason::Retracted | RevokeReason::WrongBuild) => {}
            VerdictState::Revoked(reason) => self.distrust(reason.clone(), Scope::Live),
        }
        self.once_passed |= self.pinned.passed;
        if !trusted && matches!(state, VerdictState::Verified | VerdictState::Complete) {
            let files = if let Claim::Partial { missing } = self.claim {
                missing
            } else {
                0
            };
            self.distrust(RevokeReason::ReportedLoss { files }, Scope::Pinned);
        }
        self.said = Some((state, issued));
    }

    pub(super) fn verdict(
        &self,
        member: &Member,
        channel: &ChannelId,
        build: Build,
        state: VerdictState,
        now: Timestamp,
        revision: u64,
    ) -> Verdict {
        Verdict {
            mirror: member.mirror.clone(),
            pool: member.pool.clone(),
            channel: channel.clone(),
            build,
            root: self.root,
            view: self.view.clone(),
            state,
            issued: now,
            lease_revision: revision,
            audited_files: self.audited_files,
            new_files: self.new_files,
        }
    }

    /// True when a complete verdict is so old that it should be said again.
    pub(super) fn is_worn(&self, now: Timestamp) -> bool {
        let issued = self.said.as_ref().map_or(now, |(_, issued)| *issued);
        self.is_complete() && now.ms_since(issued) >= VERDICT_RENEW_MS
    }
}

/// What a mirror says of a build. A bitmap that names every ordinal says the same as "all".
fn claim(presence: &Presence, missing_files: u64, entries: u64) -> Claim {
    match presence {
        Presence::All => Claim::Whole,
        Presence::Some(present) => {
            let in_range = present.max().is_none_or(|max| u64::from(max) < entries);
            if entries > 0 && in_range && present.len() == entries {
                return Claim::Whole;
            }
            let missing = if missing_files > 0 {
                missing_files
            } else {
                entries.saturating_sub(present.len())
            };
            Claim::Partial {
                missing: missing.max(1),
            }
        }
    }
}

fn lost(present: &RoaringBitmap, entries: u64) -> Vec<Ordinal> {
    let mut missing = RoaringBitmap::new();
    missing.insert_range(0..u32::try_from(entries).unwrap_or(u32::MAX));
    missing -= present;
    missing.iter().take(LOST_MAX).map(Ordinal).collect()
}
