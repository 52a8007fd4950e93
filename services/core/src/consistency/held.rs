//! One build on one mirror, and the verdict that follows from what is known of it.

use crate::id::{Build, Digest, Ordinal};
use crate::statement::{RevokeReason, VerdictState};
use crate::time::Timestamp;
use crate::view::View;

use super::channel::Known;
use super::{AuditId, Scope};

/// What the mirror says of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Check {
    /// Passed, and nothing spoke against it since.
    pub(super) passed: bool,
    pub(super) running: Option<AuditId>,
}

/// What speaks against a build, until the same kind of audit passes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: RevokeReason,
    pub(super) seen_by: Scope,
}

/// One build on one mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) root: Digest,
    pub(super) view: View,
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
    /// Entries once reported lost, until an audit has seen them again.
    pub(super) lost: Vec<Ordinal>,
    pub(super) tries: u32,
    pub(super) retry_at: Timestamp,
}

impl Held {
    pub(super) fn new(root: Digest, view: View, claim: Claim) -> Self {
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
            lost: Vec::new(),
            tries: 0,
            retry_at: Timestamp::EPOCH,
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
        self.fault = Some(Fault { reason, seen_by });
    }

    /// An audit of this kind passed.
    pub(super) fn pass(&mut self, scope: Scope) {
        *self.check(scope) = Check {
            passed: true,
            running: None,
        };
        self.tries = 0;
        if scope == Scope::Pinned {
            self.once_passed = true;
            self.lost.clear();
        }
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
        self.retry_at = now.plus_ms(retry_ms << self.tries.min(6));
        self.tries = self.tries.saturating_add(1);
    }

    /// The verdict that follows; `None` as long as nothing can be said.
    pub(super) fn judge(
        &self,
        build: Build,
        live: Option<Build>,
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
                let newer = live.is_some_and(|live| live > build);
                let at_it = live == Some(build) && self.live.passed;
                if newer || at_it {
                    VerdictState::Complete
                } else {
                    VerdictState::Verified
                }
            }
        })
    }
}
