//! Keys that were taken away: what they said that had no effect yet.

use super::*;

fn disown(bench: &mut Bench, head: bool, retractions: &[u64]) {
    let retractions = retractions.iter().copied().collect();
    bench.step(Input::Disowned { head, retractions });
}

fn live_at_one() -> Bench {
    let mut bench = Bench::with_head(1);
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(1)));
    bench
}

#[test]
fn invariant_a_head_of_the_future_keeps_honest_ones_out_only_as_long_as_its_key_counts() {
    let mut bench = live_at_one();
    let stolen = head(1, 90_000_000_000);
    bench.step(Input::Head(stolen));
    let honest = head(2, 9_100_000);
    bench.step(Input::Head(honest));
    assert_eq!(bench.channel.head, Some(stolen), "the later one counts");
    disown(&mut bench, true, &[]);
    assert_eq!(bench.channel.head, None);
    assert_eq!(bench.channel.live, Some(build(1)), "serving goes on");
    bench.step(Input::Head(honest));
    bench.step(snapshot(2, Lane::Bulk, 2));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(2)));
}

#[test]
fn a_retraction_by_a_key_that_was_taken_away_takes_nothing_back() {
    let mut bench = live_at_one();
    let retracted = Retracted {
        first: build(2),
        last: build(900),
        reason: "all of them".into(),
    };
    bench.step(Input::Retraction {
        number: 1,
        retracted,
        created: Timestamp::from_seconds(4),
        event: None,
    });
    assert!(bench.channel.is_retracted(build(2)));
    disown(&mut bench, false, &[1]);
    assert!(!bench.channel.is_retracted(build(2)));
    bench.step(Input::Head(head(2, 9_100_000)));
    bench.step(snapshot(2, Lane::Bulk, 2));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(2)));
}

#[test]
fn a_fork_that_a_stolen_key_made_ends_with_the_key() {
    let mut bench = live_at_one();
    bench.step(Input::Fork {
        build: build(1),
        first: Digest::of(b"a"),
        second: Digest::of(b"b"),
    });
    assert!(bench.channel.halt.is_some());
    disown(&mut bench, false, &[]);
    assert_eq!(bench.channel.halt, None);
    bench.step(Input::Head(head(2, 9_100_000)));
    bench.step(snapshot(2, Lane::Bulk, 2));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(2)));
}
