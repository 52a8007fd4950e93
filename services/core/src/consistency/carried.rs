//! One channel on one mirror: its reports, which audits are due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::id::{Build, ChannelId, Digest};
use crate::limits::TEXT_MAX_BYTES;
use crate::path::EntryPath;
use crate::statement::{OrderOutcome, Report, ReportedBuild, RevokeReason, VerdictState};
use crate::time::Timestamp;
use crate::view::Prepared;

use super::held::{Check, Claim, Held, Live, ReportOrder};
use super::{
    Audit, AuditId, Depth, Effect, HELD_MAX, Leadership, Member, Rules, SUSPECTS_MAX, Scope,
};
use crate::channel::{Channel, Known};

/// Most order outcomes kept of one mirror and channel.
const ORDERS_MAX: usize = 16;

/// What every rule needs: the rules themselves, the time, and where effects go.
pub(super) struct Context<'a> {
    pub(super) rules: &'a Rules,
    pub(super) channels: &'a BTreeMap<ChannelId, Channel>,
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

    /// Channels of the mount that win a path which `id` names too.
    fn above(&self, id: &ChannelId, known: &Known) -> Vec<ChannelId> {
        let wins = |other: &&ChannelId, last: &Known| {
            last.mount == known.mount && (last.precedence, *other) < (known.precedence, id)
        };
        let channels = self.channels.iter();
        channels
            .filter(|(other, channel)| channel.last().is_some_and(|last| wins(other, last)))
            .map(|(other, _)| other.clone())
            .collect()
    }
}

/// One channel on one mirror.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub(super) struct Carried {
    /// Boot time, boot id and sequence of the last report: what is not greater is old.
    pub(super) order: Option<ReportOrder>,
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

    pub(super) fn is_suspect(&self, path: &EntryPath) -> bool {
        self.suspects.contains(path)
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

    pub(super) fn trim(&mut self) {
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

impl Carried {
    pub(super) fn take(
        &mut self,
        report: Report,
        channel: Option<&Channel>,
        rebooted: bool,
        now: Timestamp,
    ) {
        let fresh_start = rebooted || self.live != report.live;
        for (build, held) in &mut self.builds {
            if report.live != Some(*build) {
                held.live = Check::default();
                held.moved = None;
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
        let views = |reported: &ReportedBuild| {
            let held = self.builds.get(&reported.build);
            held.is_some_and(|held| *held.view.view() != reported.view)
        };
        if report.builds.iter().any(views) {
            // In another view more may be new than since that build.
            self.last_complete = None;
        }
        for reported in report.builds {
            let known = channel.and_then(|channel| channel.builds.get(&reported.build));
            let (build, root) = (reported.build, reported.root);
            // A mirror's builds are of one view: its globs are made ready once.
            let mut others = self.builds.values().map(|held| &held.view);
            let same = others.find(|view| *view.view() == reported.view).cloned();
            let view = || same.unwrap_or_else(|| Prepared::new(reported.view.clone()));
            let held = self
                .builds
                .entry(build)
                .or_insert_with(|| Held::new(root, view(), Claim::Unheard));
            held.take(reported, known, now);
        }
    }

    pub(super) fn good(&self, channel: &Channel) -> Vec<Build> {
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

    pub(super) fn again(
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

    pub(super) fn start_missing(
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

    pub(super) fn start(
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
        let above = match scope {
            Scope::Live => cx.above(id, known),
            Scope::Pinned => Vec::new(),
        };
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
            selection: held.view.selection(known.layout),
            above,
        }));
    }

    /// Publishes the verdicts that changed. True when there were any.
    pub(super) fn speak(
        &mut self,
        member: &Member,
        id: &ChannelId,
        channel: &Channel,
        revision: u64,
        cx: &mut Context<'_>,
    ) -> bool {
        let held = |live: Build| self.builds.get(&live).zip(channel.builds.get(&live));
        let live = Live {
            build: self.live,
            stands: self
                .live
                .and_then(held)
                .is_some_and(|(held, known)| held.root == known.root && held.claim == Claim::Whole),
        };
        let mut changed = false;
        for (&build, held) in self.builds.iter_mut().rev() {
            held.reconsider(live.build == Some(build));
            let known = channel.builds.get(&build);
            let verdict = held.judge(build, live, known, channel.is_retracted(build));
            let Some(state) = verdict.filter(|state| held.said() != Some(state)) else {
                continue;
            };
            changed = true;
            held.said = Some((state.clone(), cx.now));
            if state == VerdictState::Complete {
                let done = (build, held.root);
                self.last_complete = Some(self.last_complete.map_or(done, |last| last.max(done)));
            }
            let verdict = held.verdict(member, id, build, state, cx.now, revision);
            cx.out.push(Effect::PublishVerdict(verdict));
        }
        changed
    }
}
