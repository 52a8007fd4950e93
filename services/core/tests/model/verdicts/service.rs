//! One replica of the service, and one directory, around core's folds.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

use mirrorlog_core::consistency::{
    Audience, Audit, AuditId, AuditOutcome, Audited, Consistency, Effect, Input, Leadership,
    Member, Rules, Scope,
};
use mirrorlog_core::directory::health::ProbeRules;
use mirrorlog_core::directory::member::Profile;
use mirrorlog_core::directory::{self, Directory};
use mirrorlog_core::id::{Build, ChannelId, Lane, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::{
    Presence, Report, ReportedBuild, Retraction, RevokeReason, Snapshot, Verdict, VerdictState,
};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::view::View;

use super::{Mirror, Rule};
use crate::facts::{Builds, NOW, build, digest};

/// Every round audits everything that is good.
pub(crate) const ROUND_MS: i64 = 10_000;
const ENTRIES: u64 = 2;

fn mirror() -> MirrorId {
    MirrorId::new("nz1").unwrap()
}

fn pool() -> PoolId {
    PoolId::new("nz").unwrap()
}

fn channel() -> ChannelId {
    ChannelId::new("noble").unwrap()
}

fn snapshot(one: Build) -> Snapshot {
    Snapshot {
        channel: channel(),
        build: one,
        base: None,
        root: digest(b'r', 0, one.get()),
        previous: None,
        created: Timestamp::EPOCH,
        entries: ENTRIES,
        bytes: 1,
        lane: Lane::Bulk,
        mount: Mount::new("/ubuntu").unwrap(),
        layout: Layout::Plain,
        precedence: 0,
        notices: Vec::new(),
    }
}

fn retraction(one: Build) -> Retraction {
    Retraction {
        channel: channel(),
        sequence: 1,
        first: one,
        last: one,
        reason: "bad".into(),
        replacement: None,
        created: Timestamp::EPOCH,
    }
}

/// What the mirror says: each build is whole, or lacks an entry.
fn report(number: usize, says: Mirror, builds: u64) -> Report {
    let reported = |one: Build| ReportedBuild {
        build: one,
        root: digest(b'r', 0, one.get()),
        view: View::All,
        presence: match says.whole.has(one) {
            true => Presence::All,
            false => Presence::Some((1..2).collect()),
        },
        missing_files: u64::from(!says.whole.has(one)),
        missing_bytes: 0,
    };
    Report {
        mirror: mirror(),
        channel: channel(),
        boot: 1,
        sequence: number as u64,
        issued: Timestamp::EPOCH,
        booted: Timestamp::EPOCH,
        live: Some(says.live),
        builds: (1..=builds).map(build).map(reported).collect(),
        target: None,
        fetch_bytes_per_s: 0,
        disk_free_bytes: 0,
        halted: None,
        orders: Vec::new(),
    }
}

/// A verdict as it is handed in: with the rule broken, as if its lease were the newest.
fn handed_in(verdict: &Verdict, rule: Rule, newest: u64) -> Verdict {
    let mut verdict = verdict.clone();
    if rule == Rule::NotFenced {
        verdict.lease_revision = verdict.lease_revision.max(newest);
    }
    verdict
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Replica {
    fold: Consistency,
    /// It takes itself for the lease's holder.
    pub(crate) leads: bool,
    /// How many reports and verdicts it has heard.
    pub(crate) reports: usize,
    pub(crate) verdicts: usize,
    pub(crate) knows_retraction: bool,
    /// Builds of which it was told that something is lost, by a report or by an audit of its own.
    pub(crate) knows_lost: Builds,
    /// Builds that the last report which it heard calls whole.
    reported: Builds,
    pub(crate) audits: Vec<(AuditId, Build, Scope)>,
    pub(crate) outbox: VecDeque<Verdict>,
    /// The newest lease that spoke to it.
    newest: u64,
    pub(crate) overruled: bool,
}

impl Eq for Replica {}

impl Replica {
    pub(crate) fn new(builds: u64) -> Self {
        let member = Member {
            mirror: mirror(),
            pool: pool(),
            audience: Audience::Public,
            channels: Vec::new(),
        };
        let rules = Rules {
            round_ms: 1,
            retry_ms: 1_000,
            stale_after_ms: i64::MAX,
            unreachable_failures: 3,
            laggard_after_ms: i64::MAX,
        };
        let mut fold = Consistency::new(rules, [member]);
        for one in (1..=builds).map(build) {
            fold.step(Input::Snapshot(snapshot(one)), NOW);
        }
        Self {
            fold,
            leads: false,
            reports: 0,
            verdicts: 0,
            knows_retraction: false,
            knows_lost: Builds::default(),
            reported: Builds::default(),
            audits: Vec::new(),
            outbox: VecDeque::new(),
            newest: 0,
            overruled: false,
        }
    }

    pub(crate) fn step(&mut self, input: Input, now: Timestamp) {
        for effect in self.fold.step(input, now) {
            match effect {
                Effect::StartAudit(Audit {
                    id, build, scope, ..
                }) => self.audits.push((id, build, scope)),
                Effect::PublishVerdict(verdict) => self.outbox.push_back(verdict),
                Effect::Probe(_)
                | Effect::SetWanted { .. }
                | Effect::Fork { .. }
                | Effect::Refused(_) => {}
            }
        }
    }

    /// The lease is somebody else's: what was not sent is not said.
    pub(crate) fn yields(&mut self, now: Timestamp) {
        self.leads = false;
        let unsaid = std::mem::take(&mut self.outbox);
        self.step(Input::Lease(Leadership::Follower), now);
        for verdict in unsaid {
            let (mirror, channel, build) = (verdict.mirror, verdict.channel, verdict.build);
            self.step(
                Input::Unsaid {
                    mirror,
                    channel,
                    build,
                },
                now,
            );
        }
    }

    pub(crate) fn take_report(&mut self, number: usize, says: Mirror, builds: u64, now: Timestamp) {
        self.reports += 1;
        self.reported = says.whole;
        let lost = (1..=builds).map(build).filter(|one| !says.whole.has(*one));
        lost.for_each(|one| self.knows_lost.add(one));
        self.step(Input::Report(report(number, says, builds)), now);
    }

    pub(crate) fn take_verdict(&mut self, verdict: &Verdict, rule: Rule, now: Timestamp) {
        self.verdicts += 1;
        let before = self.says(verdict.build).cloned();
        let is_old = verdict.lease_revision < self.newest;
        let handed = handed_in(verdict, rule, self.newest.max(self.fold.fence()));
        self.newest = self.newest.max(verdict.lease_revision);
        self.step(Input::Verdict(handed), now);
        self.overruled |= is_old && before.as_ref() != self.says(verdict.build);
        // The leader has looked, and no report that was heard speaks against it.
        if verdict.state == VerdictState::Complete && !is_old && self.reported.has(verdict.build) {
            self.knows_lost.drop(verdict.build);
        }
    }

    pub(crate) fn hear_retraction(&mut self, one: Build, now: Timestamp) {
        self.knows_retraction = true;
        self.step(Input::Retraction(retraction(one)), now);
    }

    pub(crate) fn answer(
        &mut self,
        index: usize,
        whole: impl Fn(Build) -> bool,
        moved: impl Fn(Build, Scope) -> bool,
        now: Timestamp,
    ) {
        let (id, one, scope) = self.audits.remove(index);
        let outcome = if moved(one, scope) {
            AuditOutcome::Moved
        } else if whole(one) {
            self.knows_lost.drop(one);
            AuditOutcome::Passed {
                audited_files: ENTRIES,
                new_files: ENTRIES,
                // Only adds up, and would make every state another one.
                sampled_files: 0,
            }
        } else {
            self.knows_lost.add(one);
            let path = EntryPath::new(b"pool/a.deb").unwrap();
            AuditOutcome::Faulty(RevokeReason::DigestMismatch { path })
        };
        let audited = Audited {
            id,
            mirror: mirror(),
            channel: channel(),
            build: one,
            scope,
            outcome,
        };
        self.step(Input::Audited(audited), now);
    }

    fn says(&self, one: Build) -> Option<&VerdictState> {
        self.fold.verdict(&mirror(), &channel(), one)
    }

    /// Leading, it calls none of these complete.
    pub(crate) fn is_honest_about(&self, bad: Builds) -> bool {
        let follows = self.fold.leadership() == Leadership::Follower;
        follows
            || bad
                .iter()
                .all(|one| self.says(one) != Some(&VerdictState::Complete))
    }
}

/// A directory. Told apart by what it says and by the newest lease that it heard: time stands still between its
/// fence and any verdict.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    directory: Directory,
    words: BTreeMap<Build, VerdictState>,
    pub(crate) verdicts: usize,
    pub(crate) knows_retraction: bool,
    newest: u64,
    pub(crate) overruled: bool,
    pub(crate) was_revoked: bool,
}

impl Reader {
    pub(crate) fn new(builds: u64) -> Self {
        let profiles = vec![Profile::new(mirror(), pool())];
        let rules = ProbeRules { every_ms: ROUND_MS };
        let mut directory = Directory::new(rules, profiles);
        for one in (1..=builds).map(build) {
            directory.step(directory::Input::Snapshot(snapshot(one)), NOW);
        }
        Self {
            directory,
            words: BTreeMap::new(),
            verdicts: 0,
            knows_retraction: false,
            newest: 0,
            overruled: false,
            was_revoked: false,
        }
    }

    fn word(&self, one: Build) -> Option<VerdictState> {
        let view = self.directory.view();
        let word = view.channel(&channel())?.word(view.find(&mirror())?, one)?;
        Some(word.state.clone())
    }

    pub(crate) fn show(&mut self, verdict: &Verdict, rule: Rule, now: Timestamp) {
        self.verdicts += 1;
        let (one, before) = (verdict.build, self.word(verdict.build));
        let is_old = verdict.lease_revision < self.newest;
        let handed = handed_in(verdict, rule, self.newest);
        self.newest = self.newest.max(verdict.lease_revision);
        self.directory.step(directory::Input::Verdict(handed), now);
        let after = self.word(one);
        self.overruled |= is_old && before != after;
        match after {
            Some(state) => self.words.insert(one, state),
            None => self.words.remove(&one),
        };
        self.was_revoked |= self.is_revoked(one);
    }

    pub(crate) fn hear_retraction(&mut self, one: Build, now: Timestamp) {
        self.knows_retraction = true;
        self.directory
            .step(directory::Input::Retraction(retraction(one)), now);
    }

    pub(crate) fn is_complete(&self, one: Build) -> bool {
        self.words.get(&one) == Some(&VerdictState::Complete)
    }

    pub(crate) fn is_revoked(&self, one: Build) -> bool {
        matches!(self.words.get(&one), Some(VerdictState::Revoked(_)))
    }

    fn identity(
        &self,
    ) -> (
        &BTreeMap<Build, VerdictState>,
        (usize, bool, u64),
        bool,
        bool,
    ) {
        let heard = (self.verdicts, self.knows_retraction, self.newest);
        (&self.words, heard, self.overruled, self.was_revoked)
    }
}

impl PartialEq for Reader {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (self.identity(), other.identity());
        one == two
    }
}

impl Eq for Reader {}

impl Hash for Reader {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}
