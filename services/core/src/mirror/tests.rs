#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

mod asked;
mod disowned;

const HOUR_MS: i64 = 3_600_000;

fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

fn target(number: u64) -> Target {
    let base = Build::new(number - 1);
    Target {
        build: build(number),
        base,
        root: Digest::of(&number.to_le_bytes()),
        created: Timestamp::from_seconds(i64::try_from(number).unwrap()),
    }
}

fn head(number: u64, issued_ms: i64) -> HeadSeen {
    HeadSeen {
        build: build(number),
        root: target(number).root,
        retractions: Digest::of(b""),
        issued: Timestamp::from_ms(issued_ms),
        expires: Timestamp::from_ms(issued_ms + 1000 * HOUR_MS),
    }
}

fn snapshot(number: u64, lane: Lane, sequence: u64) -> Input {
    Input::Snapshot {
        target: target(number),
        lane,
        sequence: Some(sequence),
    }
}

/// A mirror whose shell does everything at once, and that checks the invariants at each step.
struct Bench {
    channel: Channel,
    policy: Policy,
    now: Timestamp,
    delivered: BTreeMap<(Lane, u64), Target>,
    acked: BTreeSet<(Lane, u64)>,
    syncing: BTreeMap<Lane, Target>,
}

impl Bench {
    fn new() -> Self {
        Self {
            channel: Channel::new(ChannelId::new("noble").unwrap()),
            policy: Policy::default(),
            now: Timestamp::from_seconds(10_000),
            delivered: BTreeMap::new(),
            acked: BTreeSet::new(),
            syncing: BTreeMap::new(),
        }
    }

    fn with_head(number: u64) -> Self {
        let mut bench = Self::new();
        bench.step(Input::Head(head(number, 9_000_000)));
        bench
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        if let Input::Snapshot {
            target,
            lane,
            sequence: Some(sequence),
        } = &input
        {
            self.delivered.insert((*lane, *sequence), *target);
        }
        let before = self.channel.live;
        let effects = self.channel.step(&self.policy, input, self.now);
        self.check(before, &effects);
        effects
    }

    fn check(&mut self, before: Option<Build>, effects: &[Effect]) {
        let channel = &self.channel;
        // 1. No half snapshot: what is live is whole here.
        assert!(
            channel
                .live
                .is_none_or(|live| channel.held.contains_key(&live))
        );
        // 6. Builds move forward unless a retraction says otherwise.
        if let (Some(before), Some(live)) = (before, channel.live) {
            assert!(
                before <= live || channel.is_retracted(before),
                "{before} -> {live}"
            );
        }
        for effect in effects {
            match effect {
                Effect::Ack { lane, sequence } => self.check_ack(*lane, *sequence),
                Effect::Start { lane, target } => {
                    assert!(self.channel.halt.is_none());
                    self.syncing.insert(*lane, *target);
                }
                Effect::Cancel { lane } => {
                    self.syncing.remove(lane);
                }
                Effect::Backfill { target } => {
                    assert!(!self.channel.is_retracted(target.build));
                }
                Effect::Collect { target } => assert_ne!(self.channel.live, Some(target.build)),
                Effect::Plan { .. }
                | Effect::Serve
                | Effect::Heal { .. }
                | Effect::AskJournal { .. }
                | Effect::Report => {}
            }
        }
    }

    // 4. Ack after effect: durable here, replaced by a durable newer target, retracted, or
    // overtaken by what is live.
    fn check_ack(&mut self, lane: Lane, sequence: u64) {
        let Some(&Target { build, base, .. }) = self.delivered.get(&(lane, sequence)) else {
            return;
        };
        let channel = &self.channel;
        let state = channel.lane(lane);
        let newer_target = state
            .sync
            .map(|sync| sync.target.build)
            .into_iter()
            .chain(state.next.map(|next| next.build))
            .any(|target| target >= build);
        let beyond = |live| live >= build || base.is_none_or(|base| live > base);
        let overtaken = channel.live.is_some_and(beyond);
        assert!(
            channel.held.contains_key(&build)
                || newer_target
                || channel.is_retracted(build)
                || overtaken,
            "acked {build} without effect"
        );
        self.acked.insert((lane, sequence));
    }

    fn finish(&mut self, lane: Lane) {
        if let Some(target) = self.syncing.remove(&lane) {
            self.step(Input::Staged {
                lane,
                build: target.build,
            });
        }
    }
}

#[test]
fn one_build_is_fetched_flipped_and_acked() {
    let mut bench = Bench::with_head(1);
    let effects = bench.step(snapshot(1, Lane::Bulk, 7));
    assert!(effects.contains(&Effect::Start {
        lane: Lane::Bulk,
        target: target(1)
    }));
    assert_eq!(bench.channel.open_sequence(Lane::Bulk), Some(7));
    let effects = bench.step(Input::Staged {
        lane: Lane::Bulk,
        build: build(1),
    });
    assert_eq!(bench.channel.live, Some(build(1)));
    assert!(effects.contains(&Effect::Serve));
    assert!(effects.contains(&Effect::Ack {
        lane: Lane::Bulk,
        sequence: 7
    }));
    assert_eq!(bench.channel.open_sequence(Lane::Bulk), None);
}

#[test]
fn a_full_disk_sheds_the_oldest_first_and_never_what_is_live() {
    let mut bench = Bench::with_head(4);
    for number in 1..=4 {
        bench.step(snapshot(number, Lane::Bulk, number));
        bench.finish(Lane::Bulk);
    }
    let held = |bench: &Bench| -> Vec<u64> {
        bench.channel.held.keys().map(|build| build.get()).collect()
    };
    assert_eq!(held(&bench), [1, 2, 3, 4]);
    let leased = BTreeSet::from([build(1)]);
    let shed = |bench: &mut Bench| {
        let leased = leased.clone();
        bench.step(Input::Shed { leased })
    };
    let effects = shed(&mut bench);
    assert!(effects.contains(&Effect::Collect { target: target(2) }));
    assert!(effects.contains(&Effect::Serve) && effects.contains(&Effect::Report));
    shed(&mut bench);
    // What is read by number goes last.
    assert_eq!(held(&bench), [1, 4]);
    shed(&mut bench);
    assert_eq!(held(&bench), [4]);
    assert_eq!(bench.channel.sheddable(&leased), None);
    assert!(shed(&mut bench).is_empty());
    assert_eq!(bench.channel.live, Some(build(4)));
}

#[test]
fn priority_starts_beside_bulk_and_overtakes_it() {
    let mut bench = Bench::with_head(2);
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.finish(Lane::Bulk);
    bench.step(snapshot(2, Lane::Bulk, 2));
    let urgent = Target {
        base: Some(build(1)),
        ..target(3)
    };
    let input = Input::Snapshot {
        target: urgent,
        lane: Lane::Priority,
        sequence: Some(3),
    };
    let effects = bench.step(input);
    assert!(effects.contains(&Effect::Start {
        lane: Lane::Priority,
        target: urgent
    }));
    bench.finish(Lane::Priority);
    assert_eq!(bench.channel.live, Some(build(3)));
    assert_eq!(
        bench.channel.bulk.sync, None,
        "bulk to 2 is pointless behind 3"
    );
    assert!(bench.acked.contains(&(Lane::Bulk, 2)));
}

#[test]
fn a_priority_build_on_an_older_base_does_not_take_anyone_back() {
    let mut bench = Bench::with_head(2);
    for number in [1, 2] {
        bench.step(snapshot(number, Lane::Bulk, number));
        bench.finish(Lane::Bulk);
    }
    let urgent = Target {
        base: Some(build(1)),
        ..target(3)
    };
    bench.step(Input::Snapshot {
        target: urgent,
        lane: Lane::Priority,
        sequence: Some(3),
    });
    assert_eq!(bench.channel.priority.sync, None);
    bench.step(snapshot(4, Lane::Bulk, 4));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(4)));
}

#[test]
fn a_newer_build_replaces_the_target_only_when_it_costs_no_more() {
    let mut bench = Bench::with_head(1);
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.step(Input::Planned {
        lane: Lane::Bulk,
        build: build(1),
        missing_bytes: 100,
    });
    bench.step(snapshot(2, Lane::Bulk, 2));
    bench.step(Input::Planned {
        lane: Lane::Bulk,
        build: build(2),
        missing_bytes: 101,
    });
    assert_eq!(bench.channel.bulk.sync.unwrap().target, target(1));
    bench.step(snapshot(3, Lane::Bulk, 3));
    bench.step(Input::Planned {
        lane: Lane::Bulk,
        build: build(3),
        missing_bytes: 90,
    });
    assert_eq!(bench.channel.bulk.sync.unwrap().target, target(3));
    assert_eq!(bench.channel.bulk.sync.unwrap().retargets, 1);
}

#[test]
fn after_three_retargets_the_target_is_pinned() {
    let mut bench = Bench::with_head(1);
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.step(Input::Planned {
        lane: Lane::Bulk,
        build: build(1),
        missing_bytes: 100,
    });
    for number in 2..=9 {
        bench.step(snapshot(number, Lane::Bulk, number));
        bench.step(Input::Planned {
            lane: Lane::Bulk,
            build: build(number),
            missing_bytes: 50,
        });
    }
    assert_eq!(bench.channel.bulk.sync.unwrap().target, target(4));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(4)));
    assert_eq!(
        bench.channel.bulk.sync.unwrap().target,
        target(9),
        "then straight to the newest"
    );
}

#[test]
fn two_roots_for_one_build_halt_the_channel() {
    let mut bench = Bench::with_head(1);
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.finish(Lane::Bulk);
    let forged = Target {
        root: Digest::of(b"other"),
        ..target(1)
    };
    bench.step(Input::Snapshot {
        target: forged,
        lane: Lane::Bulk,
        sequence: Some(2),
    });
    assert!(matches!(bench.channel.halt, Some(Halt::Fork { .. })));
    assert!(!bench.acked.contains(&(Lane::Bulk, 2)));
    bench.step(snapshot(2, Lane::Bulk, 3));
    assert_eq!(
        bench.channel.live,
        Some(build(1)),
        "serving goes on, nothing is adopted"
    );
}

#[test]
fn a_halted_channel_starts_nothing_and_keeps_one_event_open() {
    let mut bench = Bench::with_head(1);
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.finish(Lane::Bulk);
    bench.step(snapshot(2, Lane::Bulk, 2));
    let (first, second) = (Digest::of(b"a"), Digest::of(b"b"));
    let effects = bench.step(Input::Fork {
        build: build(1),
        first,
        second,
    });
    assert!(effects.contains(&Effect::Cancel { lane: Lane::Bulk }));
    for number in 3..=9 {
        bench.step(snapshot(number, Lane::Bulk, number));
    }
    assert_eq!(bench.channel.open_sequence(Lane::Bulk), Some(9));
    assert_eq!(bench.acked.len(), 8, "the lane is not blocked for others");
    let planned = Input::Planned {
        lane: Lane::Bulk,
        build: build(2),
        missing_bytes: 0,
    };
    assert_eq!(bench.step(planned), vec![]);
    assert_eq!(bench.step(Input::Head(head(9, 9_100_000))), vec![]);
    let effects = bench.channel.resume(bench.now);
    bench.check(Some(build(1)), &effects);
    assert_eq!(bench.channel.live, Some(build(1)));
}

#[test]
fn a_burst_of_builds_goes_straight_to_the_newest() {
    let mut bench = Bench::with_head(1);
    for number in 1..=100 {
        bench.step(snapshot(number, Lane::Bulk, number));
    }
    let sync = bench.channel.bulk.sync.unwrap();
    assert_eq!((sync.target, sync.retargets), (target(100), 0));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(100)));
    assert_eq!(bench.acked.len(), 100);
}

#[test]
fn a_pinned_build_that_nobody_has_any_more_is_let_go() {
    let mut bench = Bench::with_head(1);
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.now = bench.now.plus_ms(bench.policy.pin_after_ms);
    bench.step(snapshot(2, Lane::Bulk, 2));
    let planned = Input::Planned {
        lane: Lane::Bulk,
        build: build(2),
        missing_bytes: 1 << 40,
    };
    for _attempt in 0..5 {
        assert_eq!(bench.channel.bulk.sync.unwrap().target, target(1));
        bench.step(Input::Failed {
            lane: Lane::Bulk,
            build: build(1),
        });
        bench.step(planned.clone());
    }
    assert_eq!(bench.channel.bulk.sync.unwrap().target, target(2));
}

#[test]
fn failures_are_forgotten_only_when_bytes_come() {
    let mut bench = Bench::with_head(1);
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.step(Input::Failed {
        lane: Lane::Bulk,
        build: build(1),
    });
    for (remaining_bytes, failures) in [(100, 1), (100, 1), (99, 0)] {
        bench.step(Input::Progress {
            lane: Lane::Bulk,
            build: build(1),
            remaining_bytes,
        });
        assert_eq!(bench.channel.bulk.sync.unwrap().failures, failures);
    }
}

#[test]
fn a_build_that_cannot_go_live_yet_is_served_by_number() {
    let mut bench = Bench::new();
    bench.step(snapshot(1, Lane::Bulk, 1));
    let effects = bench.step(Input::Staged {
        lane: Lane::Bulk,
        build: build(1),
    });
    assert_eq!(bench.channel.live, None, "no head");
    assert!(effects.contains(&Effect::Serve));
}

#[test]
fn a_build_that_was_passed_over_is_fetched_when_the_newer_one_is_taken_back() {
    let mut bench = Bench::with_head(3);
    for number in [1, 2, 3] {
        bench.step(snapshot(number, Lane::Bulk, number));
    }
    bench.step(Input::Retraction {
        number: 1,
        retracted: Retracted {
            first: build(3),
            last: build(3),
            reason: "bad".into(),
        },
        created: Timestamp::from_seconds(4),
        event: None,
    });
    let effects = bench.step(Input::Head(head(2, 9_100_000)));
    assert_eq!(effects, vec![Effect::AskJournal { from: build(2) }]);
    // The journal's answer is no news, and is stepped all the same.
    bench.step(Input::Snapshot {
        target: target(2),
        lane: Lane::Bulk,
        sequence: None,
    });
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(2)));
}

#[test]
fn a_retraction_goes_back_to_the_newest_good_build_and_forward_to_the_replacement() {
    let mut bench = Bench::with_head(1);
    for number in [1, 2] {
        bench.step(snapshot(number, Lane::Bulk, number));
        bench.finish(Lane::Bulk);
    }
    let retracted = Retracted {
        first: build(2),
        last: build(2),
        reason: "bad".into(),
    };
    let created = Timestamp::from_seconds(3);
    let event = Some((Lane::Priority, 3));
    bench.step(Input::Retraction {
        number: 1,
        retracted,
        created,
        event,
    });
    assert_eq!(bench.channel.live, Some(build(1)));
    bench.step(snapshot(3, Lane::Priority, 4));
    bench.finish(Lane::Priority);
    assert_eq!(bench.channel.live, Some(build(3)));
    let effects = bench.step(Input::Tick {
        leased: BTreeSet::new(),
    });
    assert!(effects.contains(&Effect::Collect { target: target(2) }));
}

#[test]
fn an_expired_head_stops_adopting_and_a_renewed_one_goes_on() {
    let mut bench = Bench::new();
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, None, "no head, nothing adopted");
    bench.step(Input::Head(head(1, 9_000_000)));
    assert_eq!(bench.channel.live, Some(build(1)));
    bench.now = bench.now.plus_ms(2000 * HOUR_MS);
    bench.step(snapshot(2, Lane::Bulk, 2));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(1)));
    bench.step(Input::Head(head(2, bench.now.as_ms())));
    assert_eq!(bench.channel.live, Some(build(2)));
}

#[test]
fn the_head_makes_a_mirror_ask_for_what_the_log_did_not_bring() {
    let mut bench = Bench::with_head(1);
    bench.step(snapshot(1, Lane::Bulk, 1));
    bench.finish(Lane::Bulk);
    let effects = bench.step(Input::Head(head(5, 9_500_000)));
    assert_eq!(effects, vec![Effect::AskJournal { from: build(2) }]);
}

#[test]
fn builds_beyond_the_newest_few_go_after_their_grace_unless_leased() {
    let mut bench = Bench::with_head(1);
    for number in 1..=5 {
        bench.step(snapshot(number, Lane::Bulk, number));
        bench.finish(Lane::Bulk);
    }
    bench.now = bench.now.plus_ms(25 * HOUR_MS);
    bench.step(Input::Tick {
        leased: BTreeSet::from([build(1)]),
    });
    assert_eq!(
        bench
            .channel
            .held
            .keys()
            .map(|b| b.get())
            .collect::<Vec<_>>(),
        [1, 3, 4, 5]
    );
}

/// Nobody says anything for eight days: the head expires, ticks and restarts come and go.
#[test]
fn invariant_a_week_without_the_centre_changes_nothing() {
    let mut bench = Bench::new();
    let mut renewed = head(3, bench.now.as_ms());
    renewed.expires = renewed.issued.plus_ms(7 * 24 * HOUR_MS);
    bench.step(Input::Head(renewed));
    for number in 1..=3 {
        bench.step(snapshot(number, Lane::Bulk, number));
        bench.finish(Lane::Bulk);
    }
    let before = bench.channel.clone();
    for hour in 0..8 * 24 {
        bench.now = bench.now.plus_ms(HOUR_MS);
        let effects = bench.step(Input::Tick {
            leased: BTreeSet::new(),
        });
        let quiet =
            |effect: &Effect| !matches!(effect, Effect::Collect { .. } | Effect::Start { .. });
        assert!(effects.iter().all(quiet), "hour {hour}: {effects:?}");
        if hour % 24 == 23 {
            let live = bench.channel.live;
            let effects = bench.channel.resume(bench.now);
            bench.check(live, &effects);
        }
        assert_eq!(bench.channel.live, Some(build(3)));
        assert_eq!(bench.channel.held.len(), before.held.len());
    }
    assert!(bench.channel.is_expired(bench.now));
    // A build that comes without a head that counts is brought here and waits; the head lets it go live.
    bench.step(snapshot(4, Lane::Bulk, 4));
    bench.finish(Lane::Bulk);
    assert_eq!(bench.channel.live, Some(build(3)), "nothing new is adopted");
    bench.step(Input::Head(head(4, bench.now.as_ms())));
    assert_eq!(bench.channel.live, Some(build(4)));
}

#[test]
fn a_failed_sync_is_tried_again_with_growing_pauses() {
    let mut bench = Bench::with_head(1);
    bench.step(snapshot(1, Lane::Bulk, 1));
    for pause_ms in [500, 1000, 2000] {
        bench.step(Input::Failed {
            lane: Lane::Bulk,
            build: build(1),
        });
        bench.now = bench.now.plus_ms(pause_ms - 1);
        let effects = bench.step(Input::Tick {
            leased: BTreeSet::new(),
        });
        assert!(
            !effects
                .iter()
                .any(|effect| matches!(effect, Effect::Start { .. }))
        );
        bench.now = bench.now.plus_ms(1);
        let effects = bench.step(Input::Tick {
            leased: BTreeSet::new(),
        });
        assert!(effects.contains(&Effect::Start {
            lane: Lane::Bulk,
            target: target(1)
        }));
    }
}

#[derive(Clone, Debug)]
enum Move {
    Publish(Lane),
    Redeliver(usize),
    Stage(Lane),
    Fail(Lane),
    Plan(Lane, u64),
    Retract,
    Restart,
    Wait(i64),
    Lose(u64),
    Heal,
    Backfill(u64),
    Backfilled,
    Word(u64, bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let lane = prop_oneof![Just(Lane::Bulk), Just(Lane::Priority)];
    let one = prop_oneof![
        4 => lane.clone().prop_map(Move::Publish),
        2 => (0usize..64).prop_map(Move::Redeliver),
        4 => lane.clone().prop_map(Move::Stage),
        1 => lane.clone().prop_map(Move::Fail),
        3 => (lane, 0u64..100).prop_map(|(lane, bytes)| Move::Plan(lane, bytes)),
        1 => Just(Move::Retract),
        1 => Just(Move::Restart),
        2 => (0i64..4_000_000).prop_map(Move::Wait),
        1 => (0u64..64).prop_map(Move::Lose),
        1 => Just(Move::Heal),
        1 => (0u64..64).prop_map(Move::Backfill),
        1 => Just(Move::Backfilled),
        1 => (0u64..64, any::<bool>()).prop_map(|(build, good)| Move::Word(build, good)),
    ];
    prop::collection::vec(one, 0..80)
}

/// Plays moves; returns the bench, the newest build and the newest unretracted one.
fn play(moves: Vec<Move>) -> (Bench, Vec<Input>) {
    let mut bench = Bench::new();
    let mut events: Vec<Input> = Vec::new();
    let (mut newest, mut retractions) = (0, 0);
    for one in moves {
        match one {
            Move::Publish(lane) => {
                newest += 1;
                let sequence = events.len() as u64 + 1;
                let input = snapshot(newest, lane, sequence);
                events.push(input.clone());
                bench.step(Input::Head(head(newest, bench.now.as_ms())));
                bench.step(input);
            }
            Move::Redeliver(at) if !events.is_empty() => {
                let input = events[at % events.len()].clone();
                bench.step(input);
            }
            Move::Stage(lane) => bench.finish(lane),
            Move::Fail(lane) => {
                if let Some(target) = bench.syncing.get(&lane) {
                    bench.step(Input::Failed {
                        lane,
                        build: target.build,
                    });
                }
            }
            Move::Plan(lane, missing_bytes) => {
                let state = bench.channel.lane(lane);
                let planned = state.next.or(state.sync.map(|sync| sync.target));
                if let Some(target) = planned {
                    bench.step(Input::Planned {
                        lane,
                        build: target.build,
                        missing_bytes,
                    });
                }
            }
            Move::Retract if newest > 1 => {
                retractions += 1;
                let last = build(newest - 1);
                let retracted = Retracted {
                    first: last,
                    last,
                    reason: "bad".into(),
                };
                let created = bench.now;
                bench.step(Input::Retraction {
                    number: retractions,
                    retracted,
                    created,
                    event: None,
                });
            }
            Move::Restart => {
                bench.syncing.clear();
                let before = bench.channel.live;
                let effects = bench.channel.resume(bench.now);
                bench.check(before, &effects);
            }
            Move::Wait(ms) => {
                bench.now = bench.now.plus_ms(ms);
                bench.step(Input::Tick {
                    leased: BTreeSet::new(),
                });
            }
            Move::Lose(one) if newest > 0 => {
                let build = build(one % newest + 1);
                bench.step(Input::Lost { build });
            }
            Move::Heal => {
                if let Some(build) = bench.channel.healing.first().copied() {
                    bench.step(Input::Healed { build });
                }
            }
            Move::Backfill(one) if newest > 0 => {
                let keep_until = bench.now.plus_ms(HOUR_MS);
                bench.step(Input::Backfill {
                    target: target(one % newest + 1),
                    keep_until,
                });
            }
            Move::Backfilled => {
                if let Some(build) = bench.channel.backfills.keys().next().copied() {
                    bench.step(Input::Backfilled { build });
                }
            }
            Move::Word(one, good) if newest > 0 => {
                let target = target(one % newest + 1);
                bench.step(Input::Word {
                    build: target.build,
                    root: target.root,
                    good,
                });
            }
            Move::Redeliver(_)
            | Move::Retract
            | Move::Lose(_)
            | Move::Backfill(_)
            | Move::Word(..) => {}
        }
    }
    (bench, events)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Invariants 1, 4 and 6 are checked in `Bench::check` at every step.
    #[test]
    fn invariant_whole_forward_and_acked_after_effect(moves in moves()) {
        play(moves);
    }

    /// Whatever happened, once nothing new comes every mirror ends at the newest unretracted build.
    #[test]
    fn invariant_every_mirror_ends_at_the_newest_good_build(moves in moves()) {
        let (mut bench, events) = play(moves);
        for input in events {
            bench.step(input);
        }
        for _round in 0..8 {
            bench.now = bench.now.plus_ms(120_000);
            bench.step(Input::Tick { leased: BTreeSet::new() });
            bench.finish(Lane::Priority);
            bench.finish(Lane::Bulk);
        }
        let published = bench.delivered.values().map(|target| target.build).collect::<BTreeSet<_>>();
        let best = published.into_iter().rev().find(|b| !bench.channel.is_retracted(*b));
        prop_assert_eq!(bench.channel.live, best);
        prop_assert_eq!(bench.channel.open_sequence(Lane::Bulk), None);
        prop_assert_eq!(bench.channel.open_sequence(Lane::Priority), None);
    }

    /// At most one event of a lane is open, so nothing blocks at max-ack-pending.
    #[test]
    fn invariant_one_open_event_for_each_lane(moves in moves()) {
        let (bench, _events) = play(moves);
        for lane in Lane::ALL {
            let unacked = bench.delivered.keys()
                .filter(|(l, s)| *l == lane && !bench.acked.contains(&(*l, *s)))
                .count();
            prop_assert!(unacked <= 1, "{} open on {}", unacked, lane);
        }
    }

    /// The same inputs give the same states, and a restart changes nothing that is served.
    #[test]
    fn invariant_restart_serves_the_same(moves in moves()) {
        let (mut bench, _events) = play(moves);
        let live = bench.channel.live;
        bench.channel.resume(bench.now);
        let again = bench.channel.live;
        prop_assert!(live <= again || live.is_some_and(|l| bench.channel.is_retracted(l)));
    }
}
