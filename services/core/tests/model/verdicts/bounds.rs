//! How far the models of verdicts go.

use super::properties::{FENCED, TRUE};
use super::*;
use crate::check::{Bound, breaks, holds};

const fn left(leases: u8, rounds: u8, losses: u8, retractions: u8) -> Left {
    Left {
        leases,
        rounds,
        losses,
        retractions,
    }
}

const LEASES: Verdicts = Verdicts {
    replicas: 2,
    builds: 1,
    honesty: Honesty::Honest,
    left: left(1, 0, 0, 0),
    rule: Rule::Kept,
};

const LIAR: Verdicts = Verdicts {
    replicas: 1,
    builds: 1,
    honesty: Honesty::Liar,
    left: left(0, 1, 0, 1),
    rule: Rule::Kept,
};

/// With a loss beside it there are more states than a machine holds: losses are the next model's.
#[test]
fn the_lease_goes_over() {
    holds("leases", LEASES);
}

#[test]
fn content_is_lost_and_a_build_taken_back() {
    let one = |left| Verdicts {
        replicas: 1,
        left,
        ..LEASES
    };
    holds("audits", one(left(0, 0, 1, 1)));
    if Bound::asked() == Bound::Large {
        holds("audits in rounds", one(left(0, 1, 1, 0)));
    }
}

#[test]
fn a_build_goes_live_and_is_taken_back() {
    let left = match Bound::asked() {
        Bound::Small => left(0, 0, 0, 0),
        Bound::Large => left(0, 0, 0, 1),
    };
    let (replicas, builds) = (1, 2);
    holds(
        "flip",
        Verdicts {
            replicas,
            builds,
            left,
            ..LEASES
        },
    );
}

#[test]
fn a_mirror_that_lies_is_never_complete() {
    holds("liar", LIAR);
}

#[test]
fn broken_verdicts_not_fenced() {
    let rule = Rule::NotFenced;
    breaks("verdicts not fenced", Verdicts { rule, ..LEASES }, FENCED);
}

#[test]
fn broken_audit_trusts_reports() {
    let rule = Rule::AuditTrustsReports;
    breaks("audit trusts reports", Verdicts { rule, ..LIAR }, TRUE);
}
