//! What directories tell each other and remember: strategies, and what the golden files say.

use mirrorlog_core::directory::place::{Asn, Network};
use mirrorlog_core::directory::speed::{Failure, Outcome};
use mirrorlog_core::id::{MirrorId, PoolId};
use mirrorlog_core::statement::{Statement, VerdictState};
use mirrorlog_core::time::Timestamp;
use proptest::collection::vec;
use proptest::num::f64;
use proptest::prelude::*;
use proptest::sample::select;
use wire::directory::{DirectoryState, Feedback, MirrorHealth};

use super::said::{channel, head, retraction, snapshot, verdict};
use super::{build, builds, channels, mirrors, pools, statements, times};

pub(crate) fn feedbacks() -> impl Strategy<Value = Feedback> {
    let what = (any::<u64>(), networks(), outcomes());
    (mirrors(), times(), what).prop_map(|(mirror, at, (source, network, outcome))| Feedback {
        mirror,
        at,
        network,
        source,
        outcome,
    })
}

fn networks() -> impl Strategy<Value = Network> {
    prop_oneof![
        any::<u32>().prop_map(|asn| Network::As(Asn(asn))),
        any::<u16>().prop_map(Network::V4Block),
        any::<u32>().prop_map(Network::V6Block),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    // Any number, believable or not; what is none equals nothing, not even itself.
    let speeds = f64::ANY.prop_filter("not a number", |speed| !speed.is_nan());
    prop_oneof![
        speeds.prop_map(Outcome::Speed),
        Just(Outcome::Fine),
        select(&Failure::ALL[..]).prop_map(Outcome::Failed),
    ]
}

pub(crate) fn directory_states() -> impl Strategy<Value = DirectoryState> {
    let wanted = vec((channels(), pools(), builds()), 0..4);
    let pairs = || vec((channels(), builds()), 0..3);
    let health = (mirrors(), any::<bool>(), times(), pairs());
    let health = health.prop_map(|(mirror, up, changed, unserved)| MirrorHealth {
        mirror,
        up,
        changed,
        unserved,
    });
    let parts = (
        times(),
        vec(statements(), 0..4),
        wanted,
        vec(health, 0..4),
        pairs(),
    );
    parts.prop_map(
        |(saved, statements, wanted, mirrors, forks)| DirectoryState {
            saved,
            statements,
            wanted,
            mirrors,
            forks,
        },
    )
}

/// Every network, every outcome, every kind of failure.
pub(crate) fn golden_feedback() -> Vec<(String, Feedback)> {
    let feedback = |network, outcome| Feedback {
        mirror: mirror("nz1"),
        at: minute(),
        network,
        source: 0x0123_4567_89ab_cdef,
        outcome,
    };
    let (asn, v4) = (Network::As(Asn(64_500)), Network::V4Block(0xc000));
    let mut all = vec![
        (
            "feedback_speed".to_owned(),
            feedback(asn, Outcome::Speed(9.4e6)),
        ),
        ("feedback_fine".to_owned(), feedback(v4, Outcome::Fine)),
    ];
    all.extend(Failure::ALL.map(|kind| {
        let v6 = Network::V6Block(0x2001_0db8);
        let name = format!("feedback_failed_{}", kind.as_str());
        (name, feedback(v6, Outcome::Failed(kind)))
    }));
    all
}

pub(crate) fn golden_states() -> Vec<(&'static str, DirectoryState)> {
    let pool = |text| PoolId::new(text).unwrap();
    let full = DirectoryState {
        saved: Timestamp::from_ms(1_795_305_030_123),
        statements: vec![
            Statement::Snapshot(snapshot()),
            Statement::Retraction(retraction(false)),
            Statement::Head(head()),
            verdict(VerdictState::Complete),
        ],
        wanted: vec![
            (channel(), pool("nz"), build(37)),
            (channel(), pool("us-east"), build(36)),
        ],
        mirrors: vec![
            MirrorHealth {
                mirror: mirror("nz1"),
                up: true,
                changed: minute(),
                unserved: vec![(channel(), build(37))],
            },
            MirrorHealth {
                mirror: mirror("us-east1"),
                up: false,
                changed: Timestamp::EPOCH,
                unserved: Vec::new(),
            },
        ],
        forks: vec![(channel(), build(36))],
    };
    vec![
        ("directory_state", full),
        ("directory_state_empty", DirectoryState::default()),
    ]
}

fn mirror(text: &str) -> MirrorId {
    MirrorId::new(text).unwrap()
}

fn minute() -> Timestamp {
    Timestamp::from_ms(1_795_305_000_000)
}
