//! Who is waited for before a build is wanted, and what audits add up to.

use super::*;

fn order(name: &str, id: u64, kind: OrderKind) -> Input {
    Input::Order(Order {
        id,
        mirror: mirror(name),
        issued: Timestamp::from_ms(i64::try_from(id).unwrap()),
        kind,
    })
}

fn drain(name: &str, id: u64) -> Input {
    let reason = "new disk".to_owned();
    order(name, id, OrderKind::Drain { reason })
}

/// Three mirrors at build 1, and `nz1` alone at build 2.
fn one_ahead() -> Story {
    let mut story = Story::new();
    for name in NZ {
        story.complete(name, 1);
    }
    story.feed(snapshot(2));
    let effects = story.report("nz1", 2, &[(1, Has::All), (2, Has::All)]);
    story.pass(effects);
    assert_eq!(story.verdict("nz1", 2), Some(VerdictState::Complete));
    story
}

/// Lets time go on while all report and answer.
fn go_on(story: &mut Story, seconds: i64) {
    for _ in 0..seconds / 10 {
        story.now = story.now.plus_ms(10_000);
        for (name, builds) in [("nz1", &[1, 2][..]), ("nz2", &[1]), ("nz3", &[1])] {
            let builds: Vec<_> = builds.iter().map(|build| (*build, Has::All)).collect();
            let live = builds.last().unwrap().0;
            let effects = story.report(name, live, &builds);
            story.pass(effects);
        }
        let effects = story.feed(Input::Tick { random: 1 });
        story.pass(effects);
    }
}

#[test]
fn laggards_are_waited_for_until_the_deadline_and_not_beyond() {
    let mut story = one_ahead();
    go_on(&mut story, 290);
    assert_eq!(story.wanted(), Some(1), "nz2 and nz3 may still come");
    go_on(&mut story, 20);
    assert_eq!(story.wanted(), Some(2), "they are no longer waited for");
    // The deadline is each build's own.
    story.feed(snapshot(3));
    let all = [(1, Has::All), (2, Has::All), (3, Has::All)];
    let effects = story.report("nz1", 3, &all);
    story.pass(effects);
    assert_eq!(story.wanted(), Some(2));
}

#[test]
fn a_build_that_was_lost_again_begins_to_wait_anew() {
    let mut story = one_ahead();
    go_on(&mut story, 200);
    let effects = story.report("nz1", 2, &[(1, Has::All), (2, Has::Loss)]);
    story.pass(effects);
    story.feed(Input::Tick { random: 1 });
    let effects = story.report("nz1", 2, &[(1, Has::All), (2, Has::All)]);
    story.pass(effects);
    go_on(&mut story, 200);
    assert_eq!(story.wanted(), Some(1));
}

#[test]
fn a_drained_mirror_is_not_waited_for_and_is_told_apart() {
    let mut story = one_ahead();
    story.feed(drain("nz2", 1));
    assert_eq!(story.wanted(), Some(1), "one of two is no majority");
    story.feed(drain("nz3", 2));
    assert_eq!(story.wanted(), Some(2), "the one that takes clients has it");
    assert_eq!(
        story.fold.carriers(&channel()),
        [mirror("au1"), mirror("nz1")]
    );
    let status = story.fold.status(None, story.now);
    let of = |name: &str| {
        let found = status.mirrors.iter().find(|one| one.mirror == mirror(name));
        let found = found.unwrap();
        (found.healthy, found.channels[0].reason.clone())
    };
    assert_eq!(
        of("nz2"),
        (false, Some(Reason::Drained("new disk".to_owned())))
    );
    story.feed(order("nz2", 3, OrderKind::Resume));
    // Delivered again, late.
    story.feed(drain("nz2", 1));
    assert_eq!(story.fold.carriers(&channel()).len(), 3);
    assert_eq!(story.wanted(), Some(2), "forward only");
}

#[test]
fn random_files_add_up_to_a_confidence_and_a_fault_begins_anew() {
    let mut story = Story::new();
    story.complete("nz1", 1);
    let live = |story: &Story| {
        let status = story.fold.status(None, story.now);
        let mirrors = status.mirrors.into_iter();
        let mut found = mirrors.filter(|one| one.mirror == mirror("nz1"));
        let channel = found.next().unwrap().channels.remove(0);
        channel.builds[0].clone()
    };
    assert_eq!(live(&story).sampled_files, 2, "pinned and live");
    for _ in 0..20 {
        let audit = story.next_audit(Scope::Pinned);
        let passed = AuditOutcome::Passed {
            audited_files: 16,
            new_files: 0,
            sampled_files: 16,
        };
        story.end(&audit, passed);
    }
    let seen = live(&story);
    assert_eq!(seen.sampled_files, 322);
    // (1 - p)^322 = 0.05
    assert!(
        (seen.bad_at_most() - 0.009_26).abs() < 0.000_01,
        "{}",
        seen.bad_at_most()
    );
    let audit = story.next_audit(Scope::Pinned);
    let reason = RevokeReason::DigestMismatch { path: path() };
    story.end(&audit, AuditOutcome::Faulty(reason));
    assert_eq!(
        (live(&story).sampled_files, live(&story).bad_at_most()),
        (0, 1.0)
    );
}

/// The other replica hears of a loss, and then of a word that was said before it.
#[test]
fn a_word_of_before_a_loss_is_not_taken_over() {
    let mut next = fresh();
    let now = Timestamp::from_seconds(2_000);
    next.step(snapshot(1), now);
    let report = |sequence, has| Input::Report(report("nz1", 1, sequence, 1, &[(1, has)]));
    let word = |issued| Verdict {
        mirror: mirror("nz1"),
        pool: PoolId::new("nz").unwrap(),
        channel: channel(),
        build: build(1),
        root: root(1),
        view: View::All,
        state: VerdictState::Complete,
        issued,
        lease_revision: 3,
        audited_files: 1,
        new_files: 1,
    };
    next.step(report(1, Has::All), now);
    next.step(report(2, Has::Loss), now.plus_ms(1_000));
    next.step(report(3, Has::All), now.plus_ms(2_000));
    let mut late = next.clone();
    late.step(Input::Verdict(word(now)), now.plus_ms(3_000));
    let lead = Input::Lease(Leadership::Leader { revision: 4 });
    let effects = late.step(lead.clone(), now.plus_ms(4_000));
    assert_eq!(audits(&effects).len(), 2, "pinned and live, first of all");
    let said = late.verdict(&mirror("nz1"), &channel(), build(1));
    assert_eq!(said, Some(&VerdictState::Pending));
    // One that was said after it counts.
    next.step(Input::Verdict(word(now.plus_ms(2_500))), now.plus_ms(3_000));
    let effects = next.step(lead, now.plus_ms(4_000));
    assert!(audits(&effects).is_empty());
    let said = next.verdict(&mirror("nz1"), &channel(), build(1));
    assert_eq!(said, Some(&VerdictState::Complete));
}
