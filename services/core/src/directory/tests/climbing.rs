//! While the wanted builds go forward, so do all clients.

use proptest::prelude::*;

use super::inputs::any_sample;
use super::*;

/// Never silent, and always complete at what its pool wants.
const STEADY: [(&str, &str); 5] = [
    ("au", "au1"),
    ("ch", "ch1"),
    ("nz", "nz1"),
    ("us-east", "us2"),
    ("us-west", "us1"),
];
const OTHERS: [&str; 3] = ["au2", "nz2", "nz3"];
const NEWEST: u64 = 9;

#[derive(Clone, Debug)]
enum Step {
    /// A pool wants this build, unless it wants a newer one.
    Forward(usize, u64),
    Complete(&'static str, u64),
    Other(Op),
}

fn step() -> impl Strategy<Value = Step> {
    let other = prop::sample::select(&OTHERS[..]);
    prop_oneof![
        4 => (0..STEADY.len(), 1..=NEWEST).prop_map(|(pool, number)| Step::Forward(pool, number)),
        4 => (prop::sample::select(&MIRRORS[..]), 1..=NEWEST)
            .prop_map(|(mirror, number)| Step::Complete(mirror, number)),
        2 => other.clone().prop_map(|mirror| Step::Other(Op::Silent(mirror))),
        2 => other.prop_map(|mirror| Step::Other(Op::Answers(mirror, None))),
        1 => any_sample().prop_map(Step::Other),
        1 => (1..3_000_i64).prop_map(|ms| Step::Other(Op::Tick(ms))),
    ]
}

fn forward(world: &mut World, wanted: &mut BTreeMap<usize, u64>, at: usize, number: u64) {
    let (pool, steady) = STEADY[at];
    let wanted = wanted.entry(at).or_insert(2);
    *wanted = number.max(*wanted);
    world.complete(*wanted, &[steady]);
    world.wanted(*wanted, &[pool]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn invariant_nobody_is_sent_back(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::settled();
        (3..=NEWEST).for_each(|number| world.publish(number));
        let mut wanted = BTreeMap::new();
        let mut before = vec![Some(2); places().len()];
        for step in steps {
            match &step {
                Step::Forward(pool, number) => forward(&mut world, &mut wanted, *pool, *number),
                Step::Complete(mirror, number) => world.complete(*number, &[mirror]),
                Step::Other(op) => world.apply(op),
            }
            let after: Vec<Option<u64>> = places().into_iter().map(|at| world.build_for(at)).collect();
            for (place, (before, after)) in places().iter().zip(before.iter().zip(&after)) {
                prop_assert!(before <= after, "{:?}: from {:?} to {:?}", place, before, after);
            }
            before = after;
        }
    }
}
