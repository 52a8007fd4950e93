#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::directory::place::Asn;

const MIB: f64 = 1024.0 * 1024.0;
const NOW: Timestamp = Timestamp::from_ms(100 * FORGOTTEN_MS);

fn sample(mirror: u32, network: u32, source: u64, outcome: Outcome) -> Sample {
    Sample {
        mirror: MirrorIndex(mirror),
        network: Network::As(Asn(network)),
        source,
        at: NOW,
        outcome,
    }
}

fn estimate(speeds: &Speeds, mirror: u32, network: u32) -> Estimate {
    speeds.estimate(MirrorIndex(mirror), Some(Network::As(Asn(network))), NOW)
}

#[test]
fn a_network_s_own_samples_win_over_those_of_others() {
    let mut ledger = Ledger::default();
    for source in 0..8 {
        ledger.take(sample(0, 1, source, Outcome::Speed(8.0 * MIB)), NOW);
        ledger.take(sample(0, 2, source, Outcome::Speed(MIB)), NOW);
        ledger.take(sample(0, 3, source, Outcome::Speed(2.0 * MIB)), NOW);
    }
    let speeds = ledger.settle(NOW).unwrap();
    assert_eq!(ledger.settle(NOW), None, "nothing is new");
    let (fast, slow) = (estimate(&speeds, 0, 1).speed, estimate(&speeds, 0, 2).speed);
    assert!(fast > 4.0 * MIB && slow < 1.5 * MIB, "{fast} {slow}");
    let unheard = estimate(&speeds, 0, 9);
    assert_eq!((unheard.speed, unheard.measured), (2.0 * MIB, true));
    // A mirror that nobody measured is taken for a usual one.
    let unmeasured = estimate(&speeds, 7, 9);
    assert_eq!((unmeasured.speed, unmeasured.measured), (2.0 * MIB, false));
}

#[test]
fn old_samples_fade_and_are_forgotten() {
    let mut ledger = Ledger::default();
    let mut old = sample(0, 1, 1, Outcome::Speed(64.0 * MIB));
    old.at = NOW.plus_ms(-3 * HALF_LIFE_MS);
    for source in 0..4 {
        ledger.take(Sample { source, ..old }, NOW);
    }
    ledger.take(sample(0, 1, 9, Outcome::Speed(MIB)), NOW);
    let speeds = ledger.settle(NOW).unwrap();
    assert_eq!(
        speeds.overall(MirrorIndex(0)).unwrap().speed,
        Some(MIB),
        "one of today is more than four of three days ago"
    );
    let later = NOW.plus_ms(FORGOTTEN_MS);
    let speeds = ledger.settle(later).unwrap();
    assert_eq!((speeds.rows(), speeds.overall(MirrorIndex(0))), (0, None));
    assert!(!ledger.take(old, later), "what is too old is not taken");
}

/// The attack of the issue: one network, ten thousand lies.
#[test]
fn invariant_ten_thousand_lies_from_one_network_move_nothing_elsewhere() {
    let mut ledger = Ledger::default();
    for network in 1..=5 {
        for source in 0..4 {
            ledger.take(sample(0, network, source, Outcome::Speed(10.0 * MIB)), NOW);
        }
    }
    let speeds = ledger.settle(NOW).unwrap();
    let honest = estimate(&speeds, 0, 2);
    for lie in 0..10_000 {
        let outcome = if lie % 2 == 0 {
            Outcome::Failed(Failure::Corrupt)
        } else {
            Outcome::Speed(1024.0)
        };
        ledger.take(sample(0, 666, lie, outcome), NOW);
    }
    let speeds = ledger.settle(NOW).unwrap();
    assert_eq!(estimate(&speeds, 0, 2), honest);
    assert_eq!(
        estimate(&speeds, 0, 77).factor,
        1.0,
        "nor where nobody spoke"
    );
    let kinds: Vec<_> = speeds.overall(MirrorIndex(0)).unwrap().failures().collect();
    assert_eq!(kinds, [(Failure::Corrupt, 16)], "said, and seen by people");
    assert!(
        estimate(&speeds, 0, 666).factor < 0.6,
        "they believe themselves"
    );
}

#[test]
fn one_household_does_not_speak_for_its_network() {
    let mut ledger = Ledger::default();
    for source in 0..6 {
        ledger.take(sample(0, 1, source, Outcome::Speed(10.0 * MIB)), NOW);
    }
    for _ in 0..10_000 {
        ledger.take(sample(0, 1, 99, Outcome::Failed(Failure::Timeout)), NOW);
    }
    let speeds = ledger.settle(NOW).unwrap();
    let found = estimate(&speeds, 0, 1);
    assert!(found.factor > 0.4, "{found:?}");
    assert!(found.speed > 9.0 * MIB, "{found:?}");
}

#[test]
fn rows_are_bounded() {
    let mut ledger = Ledger::default();
    for network in 0..u32::try_from(ROWS_MAX).unwrap() + 10_000 {
        ledger.take(sample(0, network, 0, Outcome::Fine), NOW);
    }
    assert!(ledger.rows.len() <= ROWS_MAX && ledger.rows.len() > ROWS_MAX / 2);
    let newest = Network::As(Asn(u32::try_from(ROWS_MAX).unwrap() + 9_999));
    assert!(ledger.rows.contains_key(&(MirrorIndex(0), newest)));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(
            !ledger.take(sample(0, 1, 0, Outcome::Speed(bad)), NOW),
            "{bad}"
        );
    }
}

proptest! {
    /// Whatever is said, in whatever order, figures stay finite, bounded and positive.
    #[test]
    fn invariant_figures_stay_within_what_is_believed(
        said in prop::collection::vec((0u32..3, 0u32..6, 0u64..9, 0u8..3, 1.0f64..1e15, -FORGOTTEN_MS..FORGOTTEN_MS), 0..200)
    ) {
        let mut ledger = Ledger::default();
        for (mirror, network, source, kind, speed, age_ms) in said {
            let outcome = match kind {
                0 => Outcome::Speed(speed),
                1 => Outcome::Fine,
                _ => Outcome::Failed(Failure::Timeout),
            };
            let at = NOW.plus_ms(age_ms);
            ledger.take(Sample { at, ..sample(mirror, network, source, outcome) }, NOW);
        }
        let speeds = ledger.settle(NOW).unwrap_or_default();
        for row in ledger.rows.values() {
            prop_assert!(row.samples.len() <= ROW_SAMPLES_MAX);
            for one in &row.samples {
                let same = row.samples.iter().filter(|other| other.source == one.source);
                prop_assert!(same.count() <= SOURCE_SAMPLES_MAX);
            }
        }
        for mirror in 0..3 {
            for network in 0..7 {
                let found = estimate(&speeds, mirror, network);
                // One rounding of logarithms more.
                prop_assert!(found.speed >= SPEED_RANGE.0 * 0.99 && found.speed <= SPEED_RANGE.1 * 1.01);
                prop_assert!(found.factor >= FACTOR_MIN && found.factor <= 1.0);
            }
        }
    }
}
