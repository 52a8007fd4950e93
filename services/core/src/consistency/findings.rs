//! What audits and probes find.

use crate::id::{Build, ChannelId, MirrorId};
use crate::statement::RevokeReason;
use crate::time::Timestamp;

use super::carried::Context;
use super::held::Claim;
use super::watched::Watched;
use super::{Audience, AuditOutcome, Audited, Consistency, Effect, Leadership, Reach, Scope};

impl Consistency {
    pub(super) fn audited(&mut self, audited: Audited, now: Timestamp, out: &mut Vec<Effect>) {
        let Audited {
            id,
            mirror,
            channel,
            build,
            scope,
            outcome,
        } = audited;
        match outcome {
            AuditOutcome::Unreachable => self.reached(&mirror, Reach::Silent, now, out),
            AuditOutcome::Passed { .. }
            | AuditOutcome::Faulty(_)
            | AuditOutcome::Withheld { .. }
            | AuditOutcome::Moved => {
                self.reached(&mirror, Reach::Answered, now, out);
            }
            AuditOutcome::Inconclusive => {}
        }
        let audits = self.audits;
        let Some(watched) = self.mirrors.get_mut(&mirror) else {
            return;
        };
        let Some(carried) = watched.channels.get_mut(&channel) else {
            return;
        };
        let order = carried.order;
        let suspected = match &outcome {
            AuditOutcome::Withheld { path } => carried.is_suspect(path),
            AuditOutcome::Passed { .. }
            | AuditOutcome::Faulty(_)
            | AuditOutcome::Moved
            | AuditOutcome::Unreachable
            | AuditOutcome::Inconclusive => false,
        };
        let Some(held) = carried.builds.get_mut(&build) else {
            return;
        };
        let current = held.check(scope).running == Some(id);
        if current {
            held.check(scope).running = None;
        }
        let mut elsewhere = false;
        let mut renew = false;
        match outcome {
            AuditOutcome::Passed {
                audited_files,
                new_files,
                sampled_files,
            } if current && held.claim == Claim::Whole => {
                held.pass(scope);
                held.sampled_files = held.sampled_files.saturating_add(sampled_files);
                renew = held.is_worn(now);
                if scope == Scope::Pinned {
                    (held.audited_files, held.new_files) = (audited_files, new_files);
                    carried.clear_suspects(build, id);
                }
            }
            AuditOutcome::Faulty(reason) => {
                let mismatch = matches!(reason, RevokeReason::DigestMismatch { .. });
                if current || mismatch {
                    held.distrust(reason.clone(), scope);
                    held.put_off(now, self.rules.retry_ms);
                    carried.suspect(&reason, audits);
                    elsewhere = mismatch;
                }
            }
            // Twice in a row is no bad luck: the file is not there.
            AuditOutcome::Withheld { path } if current => {
                let reason = RevokeReason::Missing { path: path.clone() };
                held.put_off(now, self.rules.retry_ms);
                if suspected {
                    held.distrust(reason.clone(), scope);
                }
                carried.suspect(&reason, audits);
                watched.look_again_soon(&self.rules, now);
            }
            AuditOutcome::Moved if current => {
                held.put_off(now, self.rules.retry_ms);
                if held.is_moved_in_word_only(order) {
                    held.distrust(RevokeReason::WrongBuild, scope);
                }
            }
            AuditOutcome::Unreachable | AuditOutcome::Inconclusive if current => {
                held.put_off(now, self.rules.retry_ms);
            }
            AuditOutcome::Passed { .. }
            | AuditOutcome::Withheld { .. }
            | AuditOutcome::Moved
            | AuditOutcome::Unreachable
            | AuditOutcome::Inconclusive => {}
        }
        if renew {
            self.unsay(&mirror, &channel, build);
        }
        let changed = self.settle(&mirror, &channel, now, out);
        if elsewhere {
            self.look_elsewhere(&mirror, &channel, now, out);
        }
        if changed {
            self.advance(&channel, now, out);
        }
    }

    pub(super) fn reached(
        &mut self,
        mirror: &MirrorId,
        reach: Reach,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let Some(watched) = self.mirrors.get_mut(mirror) else {
            return;
        };
        let back = watched.reached(reach, &self.rules, now);
        if back {
            watched.try_again(now);
        }
        if back || reach == Reach::Silent {
            self.revoke_unreachable(mirror);
            self.settle_mirror(mirror, now, out);
        }
    }

    fn look_elsewhere(
        &mut self,
        mirror: &MirrorId,
        id: &ChannelId,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        let Some(watched) = self.mirrors.get_mut(mirror) else {
            return;
        };
        let Some(channel) = self.channels.get(id) else {
            return;
        };
        let leadership = self.leadership;
        let mut cx = Context {
            rules: &self.rules,
            channels: &self.channels,
            leadership,
            audits: &mut self.audits,
            now,
            out,
        };
        watched.look_elsewhere(id, channel, &mut cx);
    }

    pub(super) fn revoke_unreachable(&mut self, mirror: &MirrorId) {
        if self.leadership == Leadership::Follower || self.is_cut_off() {
            return;
        }
        let Some(watched) = self.mirrors.get_mut(mirror) else {
            return;
        };
        if watched.is_unreachable(&self.rules) {
            watched.revoke_unreachable();
        }
    }

    /// Makes the next settling say a verdict again.
    pub(super) fn unsay(&mut self, mirror: &MirrorId, channel: &ChannelId, build: Build) {
        let carried = self
            .mirrors
            .get_mut(mirror)
            .and_then(|watched| watched.channels.get_mut(channel));
        if let Some(held) = carried.and_then(|carried| carried.builds.get_mut(&build)) {
            held.said = None;
        }
    }

    /// True when so many mirrors are silent at once that the auditor itself may be the one cut off:
    /// more than half of those that ever reported, and two at least.
    pub fn is_cut_off(&self) -> bool {
        let heard = |watched: &&Watched| {
            watched.member.audience == Audience::Public && watched.heard.is_some()
        };
        let all = self.mirrors.values().filter(heard).count();
        let silent = self
            .mirrors
            .values()
            .filter(heard)
            .filter(|watched| watched.failures > 0)
            .count();
        silent >= 2 && silent * 2 > all
    }
}
