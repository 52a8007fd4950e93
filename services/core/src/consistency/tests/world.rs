//! A fold, and beside it what the outside knows: built from inputs alone, without the fold's help.

use super::*;

pub(super) type Key = (MirrorId, Build);

/// What the outside knows.
#[derive(Default)]
pub(super) struct Oracle {
    pub(super) signed: BTreeSet<Build>,
    pub(super) retracted: BTreeSet<Build>,
    pub(super) whole: BTreeSet<Key>,
    pub(super) live: BTreeMap<MirrorId, Build>,
    pub(super) pinned: BTreeSet<Key>,
    pub(super) live_ok: BTreeSet<Key>,
    pub(super) said: BTreeMap<Key, VerdictState>,
    pub(super) wanted: BTreeMap<PoolId, Build>,
}

pub(super) struct World {
    pub(super) fold: Consistency,
    pub(super) oracle: Oracle,
    pub(super) now: Timestamp,
    open: Vec<Audit>,
    closed: Vec<Audit>,
    boots: BTreeMap<usize, (u64, u64)>,
    last: BTreeMap<usize, Report>,
    revision: u64,
    retractions: u64,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            fold: fresh(),
            oracle: Oracle::default(),
            now: Timestamp::from_seconds(2_000),
            open: Vec::new(),
            closed: Vec::new(),
            boots: BTreeMap::new(),
            last: BTreeMap::new(),
            revision: 0,
            retractions: 0,
        }
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.fold.step(input, self.now);
        for effect in &effects {
            invariant_only_the_leader_acts(&self.fold, effect);
            match effect {
                Effect::StartAudit(audit) => self.open.push(audit.clone()),
                Effect::PublishVerdict(verdict) => self.published(verdict),
                Effect::SetWanted { pool, build, .. } => {
                    invariant_wanted_never_goes_back_without_retraction(&self.oracle, pool, *build);
                    invariant_wanted_is_complete_on_a_strict_majority(&self.oracle, pool, *build);
                    match build {
                        Some(build) => self.oracle.wanted.insert(pool.clone(), *build),
                        None => self.oracle.wanted.remove(pool),
                    };
                }
                Effect::Probe(_) | Effect::Fork { .. } | Effect::Refused(_) => {}
            }
        }
        invariant_memory_is_bounded(&self.fold);
        effects
    }

    pub(super) fn published(&mut self, verdict: &Verdict) {
        let key = (verdict.mirror.clone(), verdict.build);
        assert_eq!(verdict.lease_revision, self.revision);
        invariant_complete_implies_all_present_and_audited(&self.oracle, &key, &verdict.state);
        invariant_retracted_is_never_good(&self.oracle, &key, &verdict.state);
        invariant_mass_silence_revokes_nobody(&self.fold, &verdict.state);
        // A retracted build that was dropped is forgotten, and taken back again when it returns.
        let again = verdict.state == VerdictState::Revoked(RevokeReason::Retracted);
        let before = self.oracle.said.get(&key);
        assert!(
            again || before != Some(&verdict.state),
            "a verdict is said once"
        );
        if matches!(verdict.state, VerdictState::Revoked(_)) {
            self.oracle.pinned.remove(&key);
            self.oracle.live_ok.remove(&key);
        }
        self.oracle.said.insert(key, verdict.state.clone());
    }

    pub(super) fn report(&mut self, who: usize, reboot: bool, live: u64, builds: &[(u64, Has)]) {
        let (boot, sequence) = self.boots.get(&who).copied().unwrap_or((1, 0));
        let next = if reboot {
            (boot + 1, 1)
        } else {
            (boot, sequence + 1)
        };
        self.boots.insert(who, next);
        let name = mirror(MIRRORS[who]);
        let report = report(MIRRORS[who], next.0, next.1, live, builds);
        self.last.insert(who, report.clone());
        self.oracle.whole.retain(|(mirror, _)| *mirror != name);
        let good = |has: &Has| matches!(has, Has::All | Has::EveryOrdinal);
        for (number, has) in builds.iter().filter(|(_, has)| good(has)) {
            // A bitmap counts as whole only once the snapshot says how many entries there are.
            if *has == Has::All || self.oracle.signed.contains(&build(*number)) {
                self.oracle.whole.insert((name.clone(), build(*number)));
            }
        }
        let lost: Vec<Key> = self
            .keys(&name)
            .filter(|key| !self.oracle.whole.contains(key))
            .collect();
        for key in lost {
            self.oracle.pinned.remove(&key);
            self.oracle.live_ok.remove(&key);
        }
        match Build::new(live) {
            Some(live) => self.oracle.live.insert(name.clone(), live),
            None => self.oracle.live.remove(&name),
        };
        self.oracle
            .live_ok
            .retain(|(mirror, at)| *mirror != name || Some(*at) == Build::new(live));
        self.feed(Input::Report(report));
    }

    pub(super) fn keys(&self, name: &MirrorId) -> impl Iterator<Item = Key> + use<> {
        let name = name.clone();
        (1..6).map(move |number| (name.clone(), build(number)))
    }

    pub(super) fn audit(&mut self, audit: &Audit, outcome: AuditOutcome) -> Vec<Effect> {
        let key = (audit.mirror.clone(), audit.build);
        match (&outcome, audit.scope) {
            (AuditOutcome::Passed { .. }, Scope::Pinned) => _ = self.oracle.pinned.insert(key),
            (AuditOutcome::Passed { .. }, Scope::Live) => _ = self.oracle.live_ok.insert(key),
            (AuditOutcome::Faulty(RevokeReason::DigestMismatch { .. }), _) => {
                self.oracle.pinned.remove(&key);
                self.oracle.live_ok.remove(&key);
            }
            // Counts only when it is not late; then the verdict says so.
            (AuditOutcome::Faulty(_), _) => {}
            (
                AuditOutcome::Moved
                | AuditOutcome::Withheld { .. }
                | AuditOutcome::Unreachable
                | AuditOutcome::Inconclusive,
                _,
            ) => {}
        }
        self.feed(Input::Audited(Audited {
            id: audit.id,
            mirror: audit.mirror.clone(),
            channel: audit.channel.clone(),
            build: audit.build,
            scope: audit.scope,
            outcome,
        }))
    }

    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Snapshot(number) => {
                self.oracle.signed.insert(build(number));
                self.feed(snapshot(number));
            }
            Op::Retract(first, last) => {
                self.retractions += 1;
                self.oracle.retracted.extend((first..=last).map(build));
                self.feed(retraction(self.retractions, first, last));
            }
            Op::Report {
                mirror,
                reboot,
                live,
                builds,
            } => self.report(mirror, reboot, live, &builds),
            Op::OldReport { mirror } => {
                if let Some(old) = self.last.get(&mirror).cloned() {
                    invariant_old_boot_or_sequence_changes_nothing(&self.fold, &old, self.now);
                }
            }
            Op::Audit { pick, outcome } => {
                if self.open.is_empty() {
                    return;
                }
                let audit = self.open.swap_remove(pick % self.open.len());
                self.closed.push(audit.clone());
                self.answer(&audit, outcome);
            }
            Op::LateMismatch { pick } => {
                if !self.closed.is_empty() {
                    let audit = self.closed[pick % self.closed.len()].clone();
                    self.answer(&audit, 6);
                }
            }
            Op::Probe { mirror: who, reach } => {
                self.feed(Input::Probed {
                    mirror: mirror(MIRRORS[who]),
                    reach,
                });
            }
            Op::Tick { ms, random } => {
                self.now = self.now.plus_ms(ms);
                self.feed(Input::Tick { random });
            }
            Op::Lead => {
                self.revision += 1;
                self.open.clear();
                self.feed(Input::Lease(Leadership::Leader {
                    revision: self.revision,
                }));
            }
            Op::Follow => {
                self.open.clear();
                self.feed(Input::Lease(Leadership::Follower));
            }
        }
    }

    pub(super) fn answer(&mut self, audit: &Audit, outcome: usize) {
        let outcome = match outcome {
            6 => AuditOutcome::Faulty(RevokeReason::DigestMismatch { path: path() }),
            7 => AuditOutcome::Faulty(RevokeReason::Missing { path: path() }),
            8 => AuditOutcome::Faulty(RevokeReason::WrongBuild),
            9 => AuditOutcome::Moved,
            10 => AuditOutcome::Unreachable,
            11 => AuditOutcome::Inconclusive,
            12 => AuditOutcome::Withheld { path: path() },
            _passed => AuditOutcome::Passed {
                audited_files: 3,
                new_files: 2,
                sampled_files: 1,
            },
        };
        let mismatch = matches!(
            outcome,
            AuditOutcome::Faulty(RevokeReason::DigestMismatch { .. })
        );
        self.audit(audit, outcome);
        if mismatch {
            invariant_digest_mismatch_always_revokes(&self.fold, audit);
        }
    }
}
