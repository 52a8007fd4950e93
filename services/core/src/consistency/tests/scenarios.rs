//! Single stories, told step by step.

use super::*;

mod waiting;

const NZ: [&str; 3] = ["nz1", "nz2", "nz3"];

struct Story {
    fold: Consistency,
    now: Timestamp,
    sequence: u64,
}

impl Story {
    fn new() -> Self {
        let mut story = Self {
            fold: fresh(),
            now: Timestamp::from_seconds(2_000),
            sequence: 0,
        };
        story.feed(Input::Lease(Leadership::Leader { revision: 7 }));
        story.feed(snapshot(1));
        story
    }

    fn feed(&mut self, input: Input) -> Vec<Effect> {
        self.fold.step(input, self.now)
    }

    fn report(&mut self, name: &str, live: u64, builds: &[(u64, Has)]) -> Vec<Effect> {
        self.sequence += 1;
        let report = report(name, 1, self.sequence, live, builds);
        self.feed(Input::Report(report))
    }

    fn pass(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let passed = AuditOutcome::Passed {
            audited_files: 1,
            new_files: 1,
            sampled_files: 1,
        };
        audits(&effects)
            .into_iter()
            .flat_map(|audit| self.end(&audit, passed.clone()))
            .collect()
    }

    fn end(&mut self, audit: &Audit, outcome: AuditOutcome) -> Vec<Effect> {
        self.feed(Input::Audited(Audited {
            id: audit.id,
            mirror: audit.mirror.clone(),
            channel: audit.channel.clone(),
            build: audit.build,
            scope: audit.scope,
            outcome,
        }))
    }

    fn complete(&mut self, name: &str, number: u64) {
        let effects = self.report(name, number, &[(number, Has::All)]);
        self.pass(effects);
        assert_eq!(self.verdict(name, number), Some(VerdictState::Complete));
    }

    fn verdict(&self, name: &str, number: u64) -> Option<VerdictState> {
        self.fold
            .verdict(&mirror(name), &channel(), build(number))
            .cloned()
    }

    fn wanted(&self) -> Option<u64> {
        self.fold
            .wanted(&channel(), &PoolId::new("nz").unwrap())
            .map(Build::get)
    }

    /// Lets time go on until the mirror `nz1` is audited.
    fn next_audit(&mut self, scope: Scope) -> Audit {
        for _ in 0..100 {
            self.now = self.now.plus_ms(500);
            let effects = self.feed(Input::Tick { random: 1 });
            let started = audits(&effects);
            for other in started.iter().filter(|audit| audit.scope != scope) {
                let passed = AuditOutcome::Inconclusive;
                self.end(other, passed);
            }
            if let Some(audit) = started.into_iter().find(|audit| audit.scope == scope) {
                return audit;
            }
        }
        panic!("no audit")
    }

    fn silent(&mut self, names: &[&str], times: usize) {
        for _ in 0..times {
            self.now = self.now.plus_ms(1_000);
            for name in names {
                self.feed(Input::Probed {
                    mirror: mirror(name),
                    reach: Reach::Silent,
                });
            }
        }
        self.feed(Input::Tick { random: 1 });
    }
}

fn audits(effects: &[Effect]) -> Vec<Audit> {
    let audit = |effect: &Effect| match effect {
        Effect::StartAudit(audit) => Some(audit.clone()),
        Effect::Probe(_)
        | Effect::PublishVerdict(_)
        | Effect::SetWanted { .. }
        | Effect::Fork { .. }
        | Effect::Refused(_) => None,
    };
    effects.iter().filter_map(audit).collect()
}

#[test]
fn a_build_goes_from_pending_to_verified_to_complete() {
    let mut story = Story::new();
    let effects = story.report("nz1", 0, &[(1, Has::Loss)]);
    assert_eq!(story.verdict("nz1", 1), Some(VerdictState::Pending));
    assert!(audits(&effects).is_empty());
    let effects = story.report("nz1", 0, &[(1, Has::All)]);
    let started = audits(&effects);
    assert_eq!(started.len(), 1);
    assert_eq!(
        (started[0].scope, started[0].depth, started[0].base),
        (Scope::Pinned, Depth::First, None)
    );
    story.pass(effects);
    assert_eq!(story.verdict("nz1", 1), Some(VerdictState::Verified));
    let effects = story.report("nz1", 1, &[(1, Has::All)]);
    assert_eq!(audits(&effects)[0].scope, Scope::Live);
    let effects = story.pass(effects);
    assert_eq!(story.verdict("nz1", 1), Some(VerdictState::Complete));
    let published = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::PublishVerdict(_)))
        .count();
    assert_eq!(published, 1);
    assert_eq!(story.wanted(), Some(1));
}

#[test]
fn staged_and_live_in_one_report_start_both_audits_at_once() {
    let mut story = Story::new();
    let effects = story.report("nz1", 1, &[(1, Has::All)]);
    let scopes: Vec<Scope> = audits(&effects).iter().map(|audit| audit.scope).collect();
    assert_eq!(scopes, [Scope::Pinned, Scope::Live]);
}

#[test]
fn the_next_build_is_audited_against_the_last_complete_one() {
    let mut story = Story::new();
    story.complete("nz1", 1);
    story.feed(snapshot(2));
    let effects = story.report("nz1", 1, &[(1, Has::All), (2, Has::All)]);
    assert_eq!(audits(&effects)[0].base, Some((build(1), root(1))));
    story.pass(effects);
    let effects = story.report("nz1", 2, &[(1, Has::All), (2, Has::All)]);
    story.pass(effects);
    assert_eq!(
        story.verdict("nz1", 1),
        Some(VerdictState::Complete),
        "still served pinned"
    );
    assert_eq!(story.verdict("nz1", 2), Some(VerdictState::Complete));
    story.report("nz1", 2, &[(2, Has::All)]);
    assert_eq!(
        story.verdict("nz1", 1),
        None,
        "dropped, said so and forgotten"
    );
}

#[test]
fn loss_revokes_and_heal_restores_after_an_audit() {
    let mut story = Story::new();
    story.complete("nz1", 1);
    story.report("nz1", 1, &[(1, Has::Loss)]);
    let lost = VerdictState::Revoked(RevokeReason::ReportedLoss { files: 1 });
    assert_eq!(story.verdict("nz1", 1), Some(lost.clone()));
    let effects = story.report("nz1", 1, &[(1, Has::All)]);
    assert_eq!(
        story.verdict("nz1", 1),
        Some(lost),
        "a word alone restores nothing"
    );
    let started = audits(&effects);
    assert_eq!(started[0].lost, [Ordinal(0)]);
    assert_eq!(started[0].depth, Depth::Again);
    story.pass(effects);
    assert_eq!(story.verdict("nz1", 1), Some(VerdictState::Complete));
}

#[test]
fn a_mismatch_on_one_build_looks_at_the_others_and_is_looked_at_again() {
    let mut story = Story::new();
    story.complete("nz1", 1);
    story.feed(snapshot(2));
    let effects = story.report("nz1", 2, &[(1, Has::All), (2, Has::All)]);
    story.pass(effects);
    let bad = AuditOutcome::Faulty(RevokeReason::DigestMismatch { path: path() });
    story.now = story.now.plus_ms(20_000);
    story.feed(Input::Tick { random: 0 });
    story.now = story.now.plus_ms(20_000);
    let effects = story.feed(Input::Tick { random: 0 });
    let round = audits(&effects);
    let effects = story.end(&round[0], bad);
    assert!(matches!(
        story.verdict("nz1", 2),
        Some(VerdictState::Revoked(_))
    ));
    let elsewhere = audits(&effects);
    assert!(
        elsewhere
            .iter()
            .all(|audit| audit.build == build(1) && audit.suspects == [path()])
    );
    story.now = story.now.plus_ms(2_000);
    let again = story.feed(Input::Tick { random: 0 });
    let again: Vec<Audit> = audits(&again)
        .into_iter()
        .filter(|audit| audit.build == build(2))
        .collect();
    assert!(
        again.iter().all(|audit| audit.suspects == [path()]),
        "{again:?}"
    );
    assert_eq!(again.len(), 2, "pinned and live");
    story.end(
        &again[0],
        AuditOutcome::Passed {
            audited_files: 1,
            new_files: 0,
            sampled_files: 1,
        },
    );
    assert!(
        matches!(story.verdict("nz1", 2), Some(VerdictState::Revoked(_))),
        "live is still open"
    );
    story.end(
        &again[1],
        AuditOutcome::Passed {
            audited_files: 1,
            new_files: 0,
            sampled_files: 1,
        },
    );
    assert_eq!(story.verdict("nz1", 2), Some(VerdictState::Complete));
}

#[test]
fn one_silent_mirror_is_revoked_and_comes_back_after_an_audit() {
    let mut story = Story::new();
    NZ.iter().for_each(|name| story.complete(name, 1));
    story.silent(&["nz1"], 3);
    assert_eq!(
        story.verdict("nz1", 1),
        Some(VerdictState::Revoked(RevokeReason::Unreachable))
    );
    let effects = story.feed(Input::Probed {
        mirror: mirror("nz1"),
        reach: Reach::Answered,
    });
    story.pass(effects);
    assert_eq!(story.verdict("nz1", 1), Some(VerdictState::Complete));
}

#[test]
fn silence_of_most_mirrors_revokes_nobody() {
    let mut story = Story::new();
    NZ.iter().for_each(|name| story.complete(name, 1));
    story.silent(&["nz1", "nz2"], 9);
    NZ.iter()
        .for_each(|name| assert_eq!(story.verdict(name, 1), Some(VerdictState::Complete)));
    assert_eq!(story.wanted(), Some(1));
}

#[test]
fn wanted_needs_a_strict_majority_and_follows_a_retraction_back() {
    let mut story = Story::new();
    NZ.iter().for_each(|name| story.complete(name, 1));
    story.feed(snapshot(2));
    let both = [(1, Has::All), (2, Has::All)];
    let effects = story.report("nz1", 2, &both);
    story.pass(effects);
    assert_eq!(story.wanted(), Some(1), "one of three");
    let effects = story.report("nz2", 2, &both);
    story.pass(effects);
    assert_eq!(story.wanted(), Some(2), "two of three");
    story.feed(retraction(1, 2, 2));
    assert_eq!(
        story.verdict("nz1", 2),
        Some(VerdictState::Revoked(RevokeReason::Retracted))
    );
    assert_eq!(story.wanted(), Some(1));
}

#[test]
fn another_root_than_signed_is_revoked_and_never_audited() {
    let mut story = Story::new();
    let effects = story.report("nz1", 1, &[(1, Has::OtherRoot)]);
    assert_eq!(
        story.verdict("nz1", 1),
        Some(VerdictState::Revoked(RevokeReason::WrongBuild))
    );
    assert!(audits(&effects).is_empty());
}

#[test]
fn a_report_that_comes_before_its_snapshot_waits_for_it() {
    let mut story = Story::new();
    let effects = story.report("nz1", 3, &[(3, Has::All)]);
    assert!(effects.is_empty());
    let effects = story.feed(snapshot(3));
    assert_eq!(audits(&effects).len(), 2);
}

#[test]
fn two_roots_under_one_number_freeze_the_channel() {
    let mut story = Story::new();
    let Input::Snapshot(mut other) = snapshot(1) else {
        panic!()
    };
    other.root = root(2);
    let effects = story.feed(Input::Snapshot(other));
    assert_eq!(
        effects,
        [Effect::Fork {
            channel: channel(),
            build: build(1)
        }]
    );
    assert!(story.report("nz1", 1, &[(1, Has::All)]).is_empty());
    let status = story.fold.status(None, story.now);
    assert_eq!(
        status.mirrors[0].channels[0].reason,
        Some(Reason::Fork(build(1)))
    );
}

#[test]
fn a_verdict_of_an_older_lease_is_refused() {
    let mut story = Story::new();
    let effects = story.report("nz1", 1, &[(1, Has::All)]);
    let Effect::PublishVerdict(mut verdict) = effects[0].clone() else {
        panic!("{effects:?}")
    };
    verdict.lease_revision = 6;
    let effects = story.feed(Input::Verdict(verdict.clone()));
    assert_eq!(
        effects,
        [Effect::Refused(Refusal::Fenced {
            found: 6,
            current: 7
        })]
    );
    verdict.lease_revision = 8;
    verdict.state = VerdictState::Complete;
    story.feed(Input::Verdict(verdict));
    assert_eq!(
        story.fold.leadership(),
        Leadership::Follower,
        "a newer leader has spoken"
    );
    assert_eq!(story.verdict("nz1", 1), Some(VerdictState::Complete));
}

#[test]
fn a_takeover_with_retained_verdicts_says_nothing_twice() {
    let mut story = Story::new();
    story.report("nz1", 1, &[(1, Has::All)]);
    let verdict = Verdict {
        mirror: mirror("nz1"),
        pool: PoolId::new("nz").unwrap(),
        channel: channel(),
        build: build(1),
        root: root(1),
        view: View::All,
        state: VerdictState::Complete,
        issued: story.now,
        lease_revision: 3,
        audited_files: 1,
        new_files: 1,
    };
    let mut next = fresh();
    next.step(snapshot(1), story.now);
    next.step(Input::Verdict(verdict), story.now);
    next.step(
        Input::Report(report("nz1", 1, 1, 1, &[(1, Has::All)])),
        story.now,
    );
    let effects = next.step(Input::Lease(Leadership::Leader { revision: 4 }), story.now);
    let nz = PoolId::new("nz").unwrap();
    assert_eq!(
        effects,
        [Effect::SetWanted {
            channel: channel(),
            pool: nz,
            build: Some(build(1))
        }]
    );
}

#[test]
fn a_thousand_mirrors_fit_and_lag_is_the_age_of_the_oldest_missed_build() {
    let member = |number: u32| Member {
        mirror: mirror(&format!("m{number}")),
        pool: PoolId::new("nz").unwrap(),
        audience: Audience::Public,
        channels: Vec::new(),
    };
    let mut fold = Consistency::new(rules(), (0..1000).map(member));
    let now = Timestamp::from_seconds(1_060);
    for number in 1..=3 {
        fold.step(snapshot(number), now);
    }
    fold.step(Input::Lease(Leadership::Leader { revision: 1 }), now);
    for number in 0..1000 {
        let report = report(&format!("m{number}"), 1, 1, 1, &[(1, Has::All)]);
        fold.step(Input::Report(report), now);
    }
    let status = fold.status(Some(&channel()), now);
    let first = &status.mirrors[0].channels[0];
    assert_eq!((first.lag_builds, first.lag_ms), (2, 60_000));
    assert_eq!(status.mirrors.len(), 1000);
}

#[test]
fn a_verdict_that_could_not_be_published_is_said_again() {
    let mut story = Story::new();
    story.complete("nz1", 1);
    let (mirror, channel) = (mirror("nz1"), channel());
    let effects = story.feed(Input::Unsaid {
        mirror,
        channel,
        build: build(1),
    });
    assert!(
        matches!(&effects[..], [Effect::PublishVerdict(again)] if again.state == VerdictState::Complete),
        "{effects:?}"
    );
}

#[test]
fn a_mirror_that_did_not_answer_is_audited_as_soon_as_it_does() {
    let mut story = Story::new();
    let effects = story.report("nz1", 0, &[(1, Has::All)]);
    let first = audits(&effects).remove(0);
    let effects = story.end(&first, AuditOutcome::Unreachable);
    assert!(audits(&effects).is_empty());
    let effects = story.feed(Input::Probed {
        mirror: mirror("nz1"),
        reach: Reach::Answered,
    });
    assert_eq!(audits(&effects).len(), 1);
}

#[test]
fn a_complete_verdict_is_renewed_before_it_is_forgotten() {
    let mut story = Story::new();
    story.complete("nz1", 1);
    let (mut said, mut rounds) = (0, 0);
    while story.now < Timestamp::from_seconds(2_000).plus_ms(VERDICT_RENEW_MS + 60_000) {
        story.now = story.now.plus_ms(10_000);
        let effects = story.feed(Input::Tick { random: 1 });
        rounds += audits(&effects).len();
        let effects = story.pass(effects);
        said += effects
            .iter()
            .filter(|effect| matches!(effect, Effect::PublishVerdict(_)))
            .count();
    }
    assert_eq!(said, 1);
    assert!(rounds > 300, "{rounds}");
}

#[test]
fn a_live_build_that_is_not_held_completes_nothing() {
    let mut story = Story::new();
    // Never signed, or signed and not held: the mount may serve anything.
    for live in [99, 2] {
        story.feed(snapshot(2));
        let effects = story.report("nz1", live, &[(1, Has::All)]);
        story.pass(effects);
        assert_eq!(story.verdict("nz1", 1), Some(VerdictState::Verified));
    }
    let effects = story.report("nz1", 2, &[(1, Has::All), (2, Has::All)]);
    story.pass(effects);
    assert_eq!(story.verdict("nz1", 1), Some(VerdictState::Complete));
    // A flip that is heard of before its build takes nothing back.
    story.report("nz1", 3, &[(1, Has::All), (2, Has::All)]);
    assert_eq!(story.verdict("nz1", 2), Some(VerdictState::Complete));
}

#[test]
fn a_file_withheld_twice_is_missing() {
    let mut story = Story::new();
    story.complete("nz1", 1);
    let withheld = AuditOutcome::Withheld { path: path() };
    let audit = story.next_audit(Scope::Pinned);
    story.end(&audit, withheld.clone());
    assert_eq!(story.verdict("nz1", 1), Some(VerdictState::Complete));
    let audit = story.next_audit(Scope::Pinned);
    assert_eq!(audit.suspects, [path()], "asked for again");
    story.end(&audit, withheld);
    let missing = RevokeReason::Missing { path: path() };
    assert_eq!(
        story.verdict("nz1", 1),
        Some(VerdictState::Revoked(missing))
    );
}

#[test]
fn a_mirror_that_only_says_it_moved_on_serves_the_wrong_build() {
    let mut story = Story::new();
    story.complete("nz1", 1);
    for round in 0..=MOVED_MAX {
        assert_eq!(story.verdict("nz1", 1), Some(VerdictState::Complete));
        let audit = story.next_audit(Scope::Live);
        story.end(&audit, AuditOutcome::Moved);
        if round < MOVED_MAX {
            story.report("nz1", 1, &[(1, Has::All)]);
        }
    }
    assert_eq!(
        story.verdict("nz1", 1),
        Some(VerdictState::Revoked(RevokeReason::WrongBuild))
    );
}

#[test]
fn a_live_audit_knows_who_wins_a_path() {
    let mut story = Story::new();
    let Input::Snapshot(noble) = snapshot(1) else {
        unreachable!()
    };
    let sibling = |name: &str, precedence| Snapshot {
        channel: ChannelId::new(name).unwrap(),
        precedence,
        ..noble.clone()
    };
    let elsewhere = Snapshot {
        mount: Mount::new("/other").unwrap(),
        ..sibling("elsewhere", 0)
    };
    for snapshot in [sibling("above", 0), sibling("below", 9), elsewhere] {
        story.feed(Input::Snapshot(snapshot));
    }
    let effects = story.report("nz1", 1, &[(1, Has::All)]);
    let above = |scope| {
        let audit = audits(&effects).into_iter().find(|a| a.scope == scope);
        audit.unwrap().above
    };
    assert_eq!(above(Scope::Live), [ChannelId::new("above").unwrap()]);
    assert!(above(Scope::Pinned).is_empty());
}

fn amd64() -> View {
    let part = crate::view::Part {
        architectures: ["amd64".to_owned()].into(),
        ..crate::view::Part::default()
    };
    View::new(part).unwrap()
}

/// A report of builds that are whole, in a view.
fn in_view(story: &mut Story, name: &str, live: u64, builds: &[u64], view: &View) -> Vec<Effect> {
    story.sequence += 1;
    let builds: Vec<(u64, Has)> = builds.iter().map(|build| (*build, Has::All)).collect();
    let mut report = report(name, 1, story.sequence, live, &builds);
    for build in &mut report.builds {
        build.view = view.clone();
    }
    story.feed(Input::Report(report))
}

fn said_of(effects: &[Effect]) -> Vec<(VerdictState, View)> {
    let verdicts = effects.iter().filter_map(|effect| match effect {
        Effect::PublishVerdict(verdict) => Some((verdict.state.clone(), verdict.view.clone())),
        Effect::StartAudit(_)
        | Effect::Probe(_)
        | Effect::SetWanted { .. }
        | Effect::Fork { .. }
        | Effect::Refused(_) => None,
    });
    verdicts.collect()
}

#[test]
fn a_verdict_speaks_of_the_part_that_was_audited() {
    let mut story = Story::new();
    let effects = in_view(&mut story, "nz1", 1, &[1], &amd64());
    assert_eq!(audits(&effects)[0].selection.view(), amd64());
    let effects = story.pass(effects);
    let effects = [effects.clone(), story.pass(effects)].concat();
    let complete = (VerdictState::Complete, amd64());
    assert!(said_of(&effects).contains(&complete), "{effects:?}");
    let status = story.fold.status(None, story.now);
    let carried = status.mirrors.iter().flat_map(|mirror| &mirror.channels);
    assert_eq!(carried.filter(|one| one.view == amd64()).count(), 1);
    // Of the whole nothing was audited: all of it is new.
    let effects = in_view(&mut story, "nz1", 1, &[1], &View::All);
    assert_eq!(said_of(&effects), [(VerdictState::Pending, View::All)]);
    let audit = &audits(&effects)[0];
    assert_eq!((audit.depth, audit.base), (Depth::First, None));
    story.pass(effects);
    story.feed(snapshot(2));
    let effects = in_view(&mut story, "nz1", 1, &[1, 2], &View::All);
    let base = audits(&effects)
        .iter()
        .find(|audit| audit.build == build(2))
        .map(|audit| audit.base);
    assert_eq!(base, Some(Some((build(1), root(1)))));
    // Nor is what one of two builds was found to be in a narrower view any help for the other.
    let effects = in_view(&mut story, "nz1", 1, &[1, 2], &amd64());
    assert!(
        audits(&effects).iter().all(|audit| audit.base.is_none()),
        "{effects:?}"
    );
}

#[test]
fn mirrors_of_a_part_make_a_quorum_only_among_themselves() {
    let mut story = Story::new();
    for name in NZ {
        story.complete(name, 1);
    }
    assert_eq!(story.wanted(), Some(1));
    story.feed(snapshot(2));
    // Two of three have a part of it: who wants the whole finds it nowhere.
    for name in ["nz1", "nz2"] {
        for live in [1, 2] {
            let effects = in_view(&mut story, name, live, &[1, 2], &amd64());
            let effects = story.pass(effects);
            story.pass(effects);
        }
        assert_eq!(story.verdict(name, 2), Some(VerdictState::Complete));
    }
    assert_eq!(story.wanted(), Some(1));
    story.complete("nz3", 2);
    assert_eq!(story.wanted(), Some(2));
}
