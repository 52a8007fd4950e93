//! The log and the journal come in any order, and more than once.

use proptest::prelude::*;

use super::inputs::{any_channel, any_saying};
use super::*;

const START: Timestamp = Timestamp::from_seconds(2_000);

/// Statements of the archive: each stands for itself.
fn statement() -> impl Strategy<Value = (&'static str, u8, u64, u64)> {
    (any_channel(), 0..3_u8, 1..=LAST, 0..2_u64)
}

fn input((position, statement): (u64, &(&'static str, u8, u64, u64))) -> Input {
    let (name, kind, number, more) = *statement;
    match kind {
        0 => retraction(name, position, number, number + more),
        1 => {
            let issued = START.plus_ms(i64::try_from(position).unwrap());
            head(name, issued, issued.plus_ms(60_000))
        }
        _snapshot => snapshot(name, number, root(number)),
    }
}

fn state(inputs: &[Input]) -> Vec<(ChannelId, Carried)> {
    let mut world = World::new();
    for input in inputs {
        world.feed(input.clone());
    }
    let channels = world.view().channels();
    channels
        .map(|(id, one)| (id.clone(), one.clone()))
        .collect()
}

/// Puts the verdicts, in their order, between the others.
fn weave(mut verdicts: Vec<Input>, others: Vec<Input>, turns: &[bool]) -> Vec<Input> {
    verdicts.reverse();
    let mut woven = Vec::new();
    let mut turns = turns.iter().cycle();
    for other in others {
        while !turns.next().unwrap() && !verdicts.is_empty() {
            woven.extend(verdicts.pop());
        }
        woven.push(other);
    }
    woven.extend(verdicts.into_iter().rev());
    woven
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn invariant_order_and_repetition_change_nothing(
        (statements, shuffled) in prop::collection::vec(statement(), 1..40).prop_flat_map(|all| {
            let numbered: Vec<Input> = (1..).zip(&all).map(input).collect();
            (Just(numbered.clone()), Just(numbered).prop_shuffle())
        }),
        sayings in prop::collection::vec(any_saying(), 0..60),
        turns in prop::collection::vec(any::<bool>(), 1..30),
    ) {
        let times = (0..).map(|ms| START.plus_ms(ms));
        let verdicts: Vec<Input> = times
            .zip(&sayings)
            .map(|(issued, saying)| Input::Verdict(verdict(saying, issued, 1)))
            .collect();
        let straight = [statements.clone(), verdicts.clone()].concat();
        let mut turns = turns;
        turns.push(true);
        let woven = weave(verdicts.clone(), shuffled.clone(), &turns);
        let replayed = [straight.clone(), verdicts, shuffled].concat();
        let stuttered: Vec<Input> = woven.iter().flat_map(|one| [one.clone(), one.clone()]).collect();
        let expected = state(&straight);
        for other in [woven, replayed, stuttered] {
            prop_assert_eq!(state(&other), expected.clone());
        }
    }
}
