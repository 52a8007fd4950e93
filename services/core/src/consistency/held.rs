//! One build on one mirror, and the verdict that follows from what is known of it.

use roaring::RoaringBitmap;

use crate::id::{Build, ChannelId, Digest, Ordinal};
use crate::statement::{Presence, ReportedBuild, RevokeReason, Verdict, VerdictState};
use crate::time::Timestamp;
use crate::view::Prepared;

use super::{AuditId, LOST_MAX, MOVED_MAX, Member, Scope, VERDICT_RENEW_MS};
use crate::channel::Known;

/// How often the time to the next attempt doubles.
const RETRY_DOUBLINGS_MAX: u32 = 3;

/// What the mirror says of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Claim {
    /// Nothing yet: known from a retained verdict.
    Unheard,
    /// Every entry is there.
    Whole,
    /// So many files are not there.
    Partial { missing: u64 },
    /// No longer in its reports.
    Gone,
}

/// One kind of audit of a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Check {
    /// Passed, and nothing spoke against it since.
    pub(super) passed: bool,
    pub(super) running: Option<AuditId>,
}

/// What speaks against a build, until the same kind of audit passes again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fault {
    pub(super) reason: RevokeReason,
    pub(super) seen_by: Scope,
}

/// What a mirror says that it serves at the mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) build: Option<Build>,
    /// It was signed, and the mirror reports all of it.
    pub(super) stands: bool,
}

/// Boot time, boot id and sequence of a report.
pub(super) type ReportOrder = (Timestamp, u64, u64);

/// One build on one mirror.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub(super) root: Digest,
    pub(super) view: Prepared,
    pub(super) claim: Claim,
    pub(super) pinned: Check,
    pub(super) live: Check,
    /// A pinned audit passed once: what is asked for again is a sample.
    pub(super) once_passed: bool,
    pub(super) fault: Option<Fault>,
    /// The last verdict, and when it was issued.
    pub(super) said: Option<(VerdictState, Timestamp)>,
    pub(super) audited_files: u64,
    pub(super) new_files: u64,
    /// Files drawn at random and found good since this replica began to look, or since the last fault.
    pub(super) sampled_files: u64,
    /// When entries were reported lost last, until a pinned audit has passed since.
    pub(super) lost_at: Option<Timestamp>,
    /// Entries once reported lost, until an audit has seen them again.
    pub(super) lost: Vec<Ordinal>,
    pub(super) tries: u32,
    pub(super) retry_at: Timestamp,
    /// The last report that called the build live although its URL named a newer one, and how many did.
    pub(super) moved: Option<(ReportOrder, u32)>,
}

impl Held {
    pub(super) fn new(root: Digest, view: Prepared, claim: Claim) -> Self {
        Self {
            root,
            view,
            claim,
            pinned: Check::default(),
            live: Check::default(),
            once_passed: false,
            fault: None,
            said: None,
            audited_files: 0,
            new_files: 0,
            sampled_files: 0,
            lost_at: None,
            lost: Vec::new(),
            tries: 0,
            retry_at: Timestamp::EPOCH,
            moved: None,
        }
    }

    pub(super) fn check(&mut self, scope: Scope) -> &mut Check {
        match scope {
            Scope::Pinned => &mut self.pinned,
            Scope::Live => &mut self.live,
        }
    }

    pub(super) fn said(&self) -> Option<&VerdictState> {
        self.said.as_ref().map(|(state, _)| state)
    }

    /// Verified or complete by the last verdict.
    pub(super) fn is_good(&self) -> bool {
        match self.said() {
            Some(VerdictState::Verified | VerdictState::Complete) => true,
            Some(VerdictState::Pending | VerdictState::Revoked(_)) | None => false,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.said() == Some(&VerdictState::Complete)
    }

    /// Takes back what audits said; results of those under way no longer count.
    pub(super) fn distrust(&mut self, reason: RevokeReason, seen_by: Scope) {
        self.pinned = Check::default();
        self.live = Check::default();
        self.sampled_files = 0;
        self.fault = Some(Fault { reason, seen_by });
    }

    /// An audit of this kind passed.
    pub(super) fn pass(&mut self, scope: Scope) {
        *self.check(scope) = Check {
            passed: true,
            running: None,
        };
        self.tries = 0;
        match scope {
            Scope::Pinned => {
                self.once_passed = true;
                self.lost_at = None;
                self.lost.clear();
            }
            Scope::Live => self.moved = None,
        }
    }

    /// The live URL names a newer build, and the mirror's report does not. True when reports have said
    /// so too often for a flip that was under way.
    pub(super) fn is_moved_in_word_only(&mut self, order: Option<ReportOrder>) -> bool {
        let Some(order) = order else { return false };
        let (last, times) = self.moved.unwrap_or((order, 0));
        let times = times + u32::from(times == 0 || last < order);
        self.moved = Some((order, times));
        times > MOVED_MAX
    }

    /// Drops the fault once the audits that could see it again have passed since.
    pub(super) fn reconsider(&mut self, is_live: bool) {
        let Some(fault) = &self.fault else { return };
        let live_too = fault.seen_by == Scope::Live && is_live;
        if self.pinned.passed && (self.live.passed || !live_too) {
            self.fault = None;
        }
    }

    /// Puts the next attempt off, longer each time.
    pub(super) fn put_off(&mut self, now: Timestamp, retry_ms: i64) {
        self.retry_at = now.plus_ms(retry_ms << self.tries.min(RETRY_DOUBLINGS_MAX));
        self.tries = self.tries.saturating_add(1);
    }

    /// The verdict that follows; `None` as long as nothing can be said.
    pub(super) fn judge(
        &self,
        build: Build,
        live: Live,
        known: Option<&Known>,
        retracted: bool,
    ) -> Option<VerdictState> {
        if retracted {
            return Some(VerdictState::Revoked(RevokeReason::Retracted));
        }
        if self.claim == Claim::Gone {
            return Some(VerdictState::Revoked(RevokeReason::Dropped));
        }
        let Some(known) = known else {
            return self.said().cloned();
        };
        if known.root != self.root {
            return Some(VerdictState::Revoked(RevokeReason::WrongBuild));
        }
        if let Some(fault) = &self.fault {
            return Some(VerdictState::Revoked(fault.reason.clone()));
        }
        Some(match self.claim {
            Claim::Unheard | Claim::Gone => return self.said().cloned(),
            Claim::Partial { .. } => VerdictState::Pending,
            Claim::Whole if !self.pinned.passed => VerdictState::Pending,
            Claim::Whole => {
                // A live build that nobody signed, or that is not held, proves nothing.
                let newer = live.build.is_some_and(|live| live > build)
                    && (live.stands || self.is_complete());
                let at_it = live.build == Some(build) && self.live.passed;
                if newer || at_it {
                    VerdictState::Complete
                } else {
                    VerdictState::Verified
                }
            }
        })
    }
}

impl Held {
    pub(super) fn take(&mut self, reported: ReportedBuild, known: Option<&Known>, now: Timestamp) {
        let before = self.claim;
        // What was checked of another part says nothing of this one.
        if self.root != reported.root || *self.view.view() != reported.view {
            let said = self.said.take();
            let same = *self.view.view() == reported.view;
            let view = match same {
                true => self.view.clone(),
                false => Prepared::new(reported.view.clone()),
            };
            *self = Self::new(reported.root, view, before);
            self.said = said;
        }
        let entries = known.map_or(0, |known| known.entries);
        self.claim = claim(&reported.presence, reported.missing_files, entries);
        match self.claim {
            Claim::Partial { missing } => {
                self.lost_at = Some(now);
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

    pub(super) fn adopt(&mut self, state: VerdictState, issued: Timestamp) {
        // A word of before a loss, that comes after it, says nothing of what was brought again since.
        let outdated = self.lost_at.is_some_and(|lost| issued < lost);
        let trusted = match self.claim {
            Claim::Whole | Claim::Unheard => !outdated,
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
        let lacks = matches!(self.claim, Claim::Partial { .. } | Claim::Gone);
        if lacks && matches!(state, VerdictState::Verified | VerdictState::Complete) {
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
            view: self.view.view().clone(),
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
