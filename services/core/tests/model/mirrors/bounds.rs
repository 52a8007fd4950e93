//! How far the models of mirrors go.

use super::*;
use crate::check::{Bound, breaks, holds};

const BULK: Say = Say::Publish(Lane::Bulk);
const PRIORITY: Say = Say::Publish(Lane::Priority);
/// Two bulk builds, and the newest is taken back.
const TAKEN_BACK: &[Say] = &[BULK, BULK, Say::Retract(2, 2)];
/// The same of a priority build.
const URGENT: &[Say] = &[BULK, PRIORITY, Say::Retract(2, 2)];
/// A bulk build, then a priority build over it with a bulk build over that one.
const SPLIT: &[Say] = &[BULK, Say::Split { base: 1 }];
/// All of it.
const ALL: &[Say] = &[BULK, Say::Split { base: 1 }, Say::Retract(3, 3)];

/// `faults`: one letter for each that may happen.
fn mirrors(count: usize, script: &'static [Say], faults: &str) -> Mirrors {
    let times = |letter| u8::try_from(faults.matches(letter).count()).unwrap();
    let faults = Faults {
        crashes: times('c'),
        wipes: times('w'),
        cuts: times('e'),
        losses: times('l'),
        failures: times('f'),
        pins: times('p'),
    };
    Mirrors {
        count,
        script,
        faults,
        rule: Rule::Kept,
    }
}

#[test]
fn a_mirror_dies_while_a_build_is_taken_back() {
    let (script, faults) = match Bound::asked() {
        Bound::Small => (TAKEN_BACK, ""),
        Bound::Large => (TAKEN_BACK, "c"),
    };
    holds("taken back", mirrors(1, script, faults));
}

#[test]
fn an_urgent_build_is_taken_back() {
    if Bound::asked() == Bound::Large {
        holds("urgent, taken back", mirrors(1, URGENT, "c"));
    }
}

#[test]
fn a_mirror_dies_and_the_log_is_lost() {
    let faults = match Bound::asked() {
        Bound::Small => "cw",
        Bound::Large => "ccww",
    };
    holds("log lost", mirrors(1, &[BULK, BULK], faults));
}

#[test]
fn a_mirror_dies_and_the_log_loses_its_end() {
    let faults = match Bound::asked() {
        Bound::Small => "e",
        Bound::Large => "ccee",
    };
    holds("log's end lost", mirrors(1, &[BULK, BULK], faults));
}

#[test]
fn content_is_lost_syncs_fail_and_a_reader_pins() {
    let faults = match Bound::asked() {
        Bound::Small => "lp",
        Bound::Large => "clfp",
    };
    holds("content lost", mirrors(1, &[BULK, BULK], faults));
}

#[test]
fn a_split_goes_past_a_mirror_that_dies() {
    if Bound::asked() == Bound::Large {
        holds("split", mirrors(1, SPLIT, "c"));
    }
}

#[test]
fn three_builds_and_a_retraction() {
    if Bound::asked() == Bound::Large {
        holds("three builds", mirrors(1, ALL, ""));
    }
}

#[test]
fn two_mirrors_converge() {
    let (script, faults): (&[Say], _) = match Bound::asked() {
        Bound::Small => (&[BULK], "c"),
        Bound::Large => (&[BULK, BULK], ""),
    };
    holds("two mirrors", mirrors(2, script, faults));
}

#[test]
fn broken_ack_before_persist() {
    let model = Mirrors {
        rule: Rule::AckBeforePersist,
        ..mirrors(1, TAKEN_BACK, "c")
    };
    breaks("ack before persist", model, properties::ACK);
}
