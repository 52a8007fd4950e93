//! Backfills, and builds that wait for a word.

use super::*;

fn held(bench: &Bench) -> Vec<u64> {
    bench.channel.held.keys().map(|build| build.get()).collect()
}

fn tick(bench: &mut Bench) -> Vec<Effect> {
    bench.step(Input::Tick {
        leased: BTreeSet::new(),
    })
}

fn ask(bench: &mut Bench, number: u64, keep_ms: i64) -> Vec<Effect> {
    let keep_until = bench.now.plus_ms(keep_ms);
    bench.step(Input::Backfill {
        target: target(number),
        keep_until,
    })
}

/// A mirror that came when build 5 was the newest.
fn at_five() -> Bench {
    let mut bench = Bench::with_head(5);
    bench.step(snapshot(5, Lane::Bulk, 5));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(5)));
    bench
}

#[test]
fn an_older_build_is_fetched_served_and_kept_for_its_time() {
    let mut bench = at_five();
    let effects = ask(&mut bench, 3, 72 * HOUR_MS);
    assert_eq!(effects, [Effect::Backfill { target: target(3) }]);
    let effects = bench.step(Input::Backfilled { build: build(3) });
    assert_eq!(effects, [Effect::Serve, Effect::Report]);
    assert_eq!(held(&bench), [3, 5]);
    assert_eq!(bench.channel.live, Some(build(5)), "nobody goes back");
    for number in 6..=9 {
        bench.step(snapshot(number, Lane::Bulk, number));
        bench.finish(Lane::Bulk);
    }
    bench.now = bench.now.plus_ms(71 * HOUR_MS);
    tick(&mut bench);
    assert_eq!(
        held(&bench),
        [3, 7, 8, 9],
        "beyond the newest three, and kept"
    );
    bench.now = bench.now.plus_ms(2 * HOUR_MS);
    tick(&mut bench);
    assert_eq!(held(&bench), [7, 8, 9]);
}

#[test]
fn what_is_here_newer_or_retracted_is_not_fetched_again() {
    let mut bench = at_five();
    assert_eq!(ask(&mut bench, 5, HOUR_MS), []);
    assert_eq!(ask(&mut bench, 6, HOUR_MS), [], "comes by itself");
    let retracted = Retracted {
        first: build(2),
        last: build(2),
        reason: "bad".into(),
    };
    bench.step(Input::Retraction {
        number: 1,
        retracted,
        created: bench.now,
        event: None,
    });
    assert_eq!(ask(&mut bench, 2, HOUR_MS), []);
    assert!(bench.channel.backfills.is_empty());
}

#[test]
fn a_restart_goes_on_and_a_retraction_or_time_ends_it() {
    let mut bench = at_five();
    ask(&mut bench, 3, HOUR_MS);
    ask(&mut bench, 4, HOUR_MS);
    let effects = bench.channel.resume(bench.now);
    for number in [3, 4] {
        let target = target(number);
        assert!(effects.contains(&Effect::Backfill { target }));
    }
    bench.step(Input::Retraction {
        number: 1,
        retracted: Retracted {
            first: build(3),
            last: build(3),
            reason: "bad".into(),
        },
        created: bench.now,
        event: None,
    });
    bench.step(Input::Backfilled { build: build(3) });
    assert_eq!(held(&bench), [5], "taken back while it was on its way");
    bench.now = bench.now.plus_ms(2 * HOUR_MS);
    tick(&mut bench);
    assert!(bench.channel.backfills.is_empty(), "nobody waits for it");
}

#[test]
fn another_root_for_an_older_build_halts_the_channel() {
    let mut bench = at_five();
    ask(&mut bench, 3, HOUR_MS);
    let other = Target {
        root: Digest::of(b"another"),
        ..target(3)
    };
    let effects = bench.step(Input::Backfill {
        target: other,
        keep_until: bench.now,
    });
    assert!(effects.contains(&Effect::Report));
    assert!(bench.channel.halt.is_some());
}

fn word(bench: &mut Bench, number: u64, good: bool) {
    bench.step(Input::Word {
        build: build(number),
        root: target(number).root,
        good,
    });
}

#[test]
fn a_build_to_be_confirmed_goes_live_with_the_word_and_not_before() {
    let mut bench = Bench::with_head(1);
    bench.policy.flip = Flip::Confirmed;
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.finish(Lane::Bulk);
    assert_eq!(held(&bench), [1], "staged, and served by number");
    assert_eq!(bench.channel.live, None);
    assert_eq!(bench.channel.unconfirmed(), Some(build(1)));
    bench.step(Input::Word {
        build: build(1),
        root: Digest::of(b"another"),
        good: true,
    });
    assert_eq!(bench.channel.live, None, "a word on something else");
    word(&mut bench, 1, true);
    assert_eq!(bench.channel.live, Some(build(1)));
    assert_eq!(bench.channel.unconfirmed(), None);
    bench.step(snapshot(2, Lane::Bulk, 2));
    bench.finish(Lane::Bulk);
    word(&mut bench, 2, false);
    tick(&mut bench);
    assert_eq!(bench.channel.live, Some(build(1)));
    // The policy was changed back, and the mirror started again.
    bench.policy.flip = Flip::Local;
    tick(&mut bench);
    assert_eq!(bench.channel.live, Some(build(2)));
}

#[test]
fn a_retraction_needs_no_word_to_go_back() {
    let mut bench = Bench::with_head(1);
    bench.policy.flip = Flip::Confirmed;
    for number in 1..=2 {
        bench.step(snapshot(number, Lane::Bulk, number));
        bench.finish(Lane::Bulk);
        word(&mut bench, number, true);
    }
    word(&mut bench, 1, false);
    bench.step(Input::Retraction {
        number: 1,
        retracted: Retracted {
            first: build(2),
            last: build(2),
            reason: "bad".into(),
        },
        created: bench.now,
        event: None,
    });
    assert_eq!(bench.channel.live, Some(build(1)));
}

#[test]
fn a_staged_build_that_lost_something_goes_live_when_it_is_healed() {
    let mut bench = Bench::with_head(2);
    bench.policy.flip = Flip::Confirmed;
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.finish(Lane::Bulk);
    bench.step(Input::Lost { build: build(1) });
    word(&mut bench, 1, true);
    assert_eq!(bench.channel.live, None, "it is not whole");
    bench.step(Input::Healed { build: build(1) });
    assert_eq!(bench.channel.live, Some(build(1)));
}
