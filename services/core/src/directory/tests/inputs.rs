//! Random inputs.

use proptest::prelude::*;

use super::*;
use crate::directory::speed::{Failure, Outcome};

/// The newest build that random inputs speak of.
pub(super) const LAST: u64 = 5;

/// A random input.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Publish(&'static str, u64),
    Fork(&'static str, u64),
    Retract(&'static str, u64, u64),
    Say(Saying),
    Want(&'static str, &'static str, Option<u64>),
    /// Issued so long ago, valid for so much longer.
    Head(&'static str, i64, i64),
    Answers(&'static str, Option<(&'static str, u64, bool)>),
    Silent(&'static str),
    Sample(&'static str, Network, u64, Outcome),
    Tick(i64),
}

pub(super) fn any_mirror() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&MIRRORS[..])
}

pub(super) fn any_channel() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&CHANNELS[..])
}

pub(super) fn any_state() -> impl Strategy<Value = VerdictState> {
    prop_oneof![
        8 => Just(VerdictState::Complete),
        1 => Just(VerdictState::Pending),
        1 => Just(VerdictState::Verified),
        1 => Just(VerdictState::Revoked(RevokeReason::Unreachable)),
        1 => Just(VerdictState::Revoked(RevokeReason::Dropped)),
    ]
}

pub(super) fn any_saying() -> impl Strategy<Value = Saying> {
    let lie = prop::bool::weighted(0.1);
    let parts = (any_mirror(), any_channel(), 1..=LAST, lie, any_state());
    parts.prop_map(|(mirror, channel, build, lie, state)| Saying {
        mirror,
        channel,
        build,
        root: root(if lie { 99 } else { build }),
        state,
    })
}

pub(super) fn any_sample() -> impl Strategy<Value = Op> {
    let network = prop_oneof![
        (1..4_u32).prop_map(|asn| Network::As(Asn(asn))),
        Just(Network::of(&at("10.7.7.7", "NZ")).unwrap()),
    ];
    let outcome = prop_oneof![
        (1e3..1e9_f64).prop_map(Outcome::Speed),
        Just(Outcome::Fine),
        prop::sample::select(&Failure::ALL[..]).prop_map(Outcome::Failed),
    ];
    (any_mirror(), network, 0..9_u64, outcome)
        .prop_map(|(mirror, network, source, outcome)| Op::Sample(mirror, network, source, outcome))
}

fn op() -> impl Strategy<Value = Op> {
    let pools = prop::sample::select(&POOLS[..]);
    let wanted = prop::option::weighted(0.9, 1..=LAST);
    let look = (any_channel(), 1..=LAST, prop::bool::weighted(0.7));
    prop_oneof![
        4 => (any_channel(), 1..=LAST).prop_map(|(channel, build)| Op::Publish(channel, build)),
        1 => (any_channel(), 4..=LAST).prop_map(|(channel, build)| Op::Fork(channel, build)),
        1 => (any_channel(), 1..=LAST, 0..2_u64)
            .prop_map(|(channel, first, more)| Op::Retract(channel, first, first + more)),
        12 => any_saying().prop_map(Op::Say),
        6 => (any_channel(), pools, wanted)
            .prop_map(|(channel, pool, build)| Op::Want(channel, pool, build)),
        2 => (any_channel(), 0..9_000_i64, 0..60_000_i64)
            .prop_map(|(channel, age_ms, left_ms)| Op::Head(channel, age_ms, left_ms)),
        8 => (any_mirror(), prop::option::of(look))
            .prop_map(|(mirror, look)| Op::Answers(mirror, look)),
        4 => any_mirror().prop_map(Op::Silent),
        3 => any_sample(),
        4 => (1..3_000_i64).prop_map(Op::Tick),
    ]
}

/// Random inputs, in a row.
pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..80)
}
