//! What directories tell each other and remember is checked field by field.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use mirrorlog_core::directory::speed::Outcome;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use support::directory::{directory_states, feedbacks};
use support::messages;
use wire::directory::{DirectoryState, Feedback};
use wire::v1::directory_state::{ChannelBuild, MirrorHealth, WantedBuild};
use wire::v1::feedback::{Network, Outcome as Said};
use wire::v1::{self, statement::Kind as Proto};
use wire::{DecodeError, FieldError};

fn feedback() -> v1::Feedback {
    v1::Feedback {
        schema: 1,
        mirror: "nz1".into(),
        at_ms: 1_795_305_000_000,
        network: Some(Network::V4Block(0xc000)),
        source: 7,
        outcome: Some(Said::Failed("timeout".into())),
    }
}

fn state() -> v1::DirectoryState {
    v1::DirectoryState {
        schema: 1,
        saved_ms: 1_795_305_030_000,
        statements: vec![statement(1, Proto::Head(messages::head()))],
        wanted: vec![WantedBuild {
            channel: "noble".into(),
            pool: "nz".into(),
            build: 37,
        }],
        mirrors: vec![MirrorHealth {
            mirror: "nz1".into(),
            up: true,
            changed_ms: 1_795_305_000_000,
            unserved: Vec::new(),
        }],
        forks: vec![ChannelBuild {
            channel: "noble".into(),
            build: 36,
        }],
    }
}

fn statement(schema: u32, kind: Proto) -> bytes::Bytes {
    let kind = Some(kind);
    v1::Statement { schema, kind }.encode_to_vec().into()
}

fn read_feedback(spoil: impl FnOnce(&mut v1::Feedback)) -> Result<Feedback, DecodeError> {
    let mut feedback = feedback();
    spoil(&mut feedback);
    Feedback::decode(&feedback.encode_to_vec())
}

fn read_state(spoil: impl FnOnce(&mut v1::DirectoryState)) -> Result<DirectoryState, DecodeError> {
    let mut state = state();
    spoil(&mut state);
    DirectoryState::decode(&state.encode_to_vec())
}

/// The field that is refused, and why; panics when nothing is.
fn refused<T: std::fmt::Debug>(read: Result<T, DecodeError>) -> (&'static str, FieldError) {
    match read {
        Err(DecodeError::Field { field, source }) => (field, source),
        other => panic!("not refused for a field: {other:?}"),
    }
}

#[test]
fn what_the_tests_start_from_is_accepted() {
    read_feedback(|_| {}).unwrap();
    let state = read_state(|_| {}).unwrap();
    assert_eq!(
        (
            state.statements.len(),
            state.wanted.len(),
            state.mirrors.len()
        ),
        (1, 1, 1)
    );
}

#[test]
fn other_schemas_are_refused() {
    for found in [0, 2, u32::MAX] {
        let refused = DecodeError::Schema { found };
        assert_eq!(read_feedback(|f| f.schema = found), Err(refused.clone()));
        assert_eq!(read_state(|s| s.schema = found), Err(refused));
    }
    // No bytes are a message in which everything is zero.
    let none = DecodeError::Schema { found: 0 };
    assert_eq!(Feedback::decode(b""), Err(none.clone()));
    assert_eq!(DirectoryState::decode(b""), Err(none));
}

#[test]
fn feedback_is_checked_field_by_field() {
    let refused = |spoil: fn(&mut v1::Feedback)| refused(read_feedback(spoil));
    let missing = |field| (field, FieldError::Missing);
    assert_eq!(refused(|f| f.network = None), missing("feedback.network"));
    assert_eq!(refused(|f| f.outcome = None), missing("feedback.outcome"));
    assert_eq!(refused(|f| f.mirror.clear()).0, "feedback.mirror");
    assert_eq!(refused(|f| f.mirror = "NZ1".into()).0, "feedback.mirror");
    assert_eq!(refused(|f| f.mirror = "x".repeat(64)).0, "feedback.mirror");
    assert_eq!(refused(|f| f.at_ms = -1).0, "feedback.at_ms");
    assert_eq!(refused(|f| f.at_ms = i64::MAX).0, "feedback.at_ms");
}

#[test]
fn failures_of_unknown_kinds_are_refused() {
    for kind in ["", "gone", "Timeout", "timeout ", "timeouts"] {
        let failed = Some(Said::Failed(kind.into()));
        let (field, source) = refused(read_feedback(|f| f.outcome = failed));
        assert_eq!(
            (field, source),
            ("feedback.failed", FieldError::Missing),
            "{kind:?}"
        );
    }
}

#[test]
fn blocks_of_more_than_two_bytes_are_refused() {
    let read = |block| read_feedback(|f| f.network = Some(Network::V4Block(block)));
    read(0).unwrap();
    read(65_535).unwrap();
    for block in [65_536, u32::MAX] {
        let (found, max) = (block.into(), 65_535);
        let too_high = FieldError::TooHigh { found, max };
        assert_eq!(refused(read(block)), ("feedback.v4_block", too_high));
    }
}

/// Who is believed is the fold's to say, so whatever a double can be arrives there.
#[test]
fn speeds_beyond_belief_are_read() {
    for speed in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        let read = read_feedback(|f| f.outcome = Some(Said::Speed(speed))).unwrap();
        let Outcome::Speed(read) = read.outcome else {
            panic!("{speed} became {read:?}");
        };
        assert_eq!(read.to_bits(), speed.to_bits());
    }
}

#[test]
fn feedback_is_bounded() {
    // An unknown field that fills the message up, such as a newer writer may add.
    let padded = |size_bytes: usize| {
        let mut bytes = feedback().encode_to_vec();
        // Two bytes of tag, two of length.
        let padding = size_bytes - bytes.len() - 4;
        prost::encoding::bytes::encode(100, &vec![0; padding], &mut bytes);
        assert_eq!(bytes.len(), size_bytes);
        Feedback::decode(&bytes)
    };
    padded(256).unwrap();
    let too_large = DecodeError::TooLarge {
        what: "feedback",
        size_bytes: 257,
        max_bytes: 256,
    };
    assert_eq!(padded(257), Err(too_large));
    let largest = v1::Feedback {
        mirror: "x".repeat(63),
        at_ms: 253_402_300_799_999,
        network: Some(Network::Asn(u32::MAX)),
        source: u64::MAX,
        outcome: Some(Said::Failed("connection".into())),
        ..feedback()
    };
    Feedback::decode(&largest.encode_to_vec()).unwrap();
}

#[test]
fn states_are_checked_field_by_field() {
    let refused = |spoil: fn(&mut v1::DirectoryState)| refused(read_state(spoil));
    assert_eq!(refused(|s| s.saved_ms = -1).0, "saved_ms");
    assert_eq!(refused(|s| s.wanted[0].channel.clear()).0, "wanted.channel");
    assert_eq!(refused(|s| s.wanted[0].pool = "NZ".into()).0, "wanted.pool");
    assert_eq!(
        refused(|s| s.wanted[0].build = 0),
        ("wanted.build", FieldError::Zero)
    );
    assert_eq!(
        refused(|s| s.mirrors[0].mirror = "-x".into()).0,
        "mirrors.mirror"
    );
    assert_eq!(
        refused(|s| s.mirrors[0].changed_ms = i64::MAX).0,
        "mirrors.changed_ms"
    );
    // One bad item among good ones.
    assert_eq!(
        refused(|s| s.wanted.push(WantedBuild::default())).0,
        "wanted.channel"
    );
    assert_eq!(refused(|s| s.forks[0].build = 0).0, "build.build");
    assert_eq!(
        refused(|s| s.mirrors.push(MirrorHealth::default())).0,
        "mirrors.mirror"
    );
}

#[test]
fn damaged_statements_are_refused() {
    let read = |bytes: bytes::Bytes| read_state(|s| s.statements.push(bytes));
    let garbage = read(bytes::Bytes::from_static(b"\xff\xff no protobuf"));
    assert!(
        matches!(
            garbage,
            Err(DecodeError::Malformed {
                what: "statement",
                ..
            })
        ),
        "{garbage:?}"
    );
    let head = || Proto::Head(messages::head());
    let whole = statement(1, head());
    read(whole.clone()).unwrap();
    for end in 0..whole.len() {
        read(whole.slice(..end)).unwrap_err();
    }
    assert_eq!(
        read(statement(2, head())),
        Err(DecodeError::Schema { found: 2 })
    );
    let head = v1::Head {
        build: 0,
        ..messages::head()
    };
    let zero = read(statement(1, Proto::Head(head)));
    assert_eq!(refused(zero), ("head.build", FieldError::Zero));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The outcome comes last, so no cut leaves a whole message.
    #[test]
    fn truncated_feedback_is_refused(feedback in feedbacks(), cut: prop::sample::Index) {
        let bytes = feedback.encode();
        prop_assert!(Feedback::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn no_truncated_state_passes_for_the_whole(
        state in directory_states(), cut: prop::sample::Index,
    ) {
        let bytes = state.encode();
        let cut = DirectoryState::decode(&bytes[..cut.index(bytes.len())]);
        prop_assert_ne!(cut, Ok(state));
    }

    /// No input makes a decoder panic; what it accepts, it writes and reads again.
    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(feedback) = Feedback::decode(&bytes) {
            let again = Feedback::decode(&feedback.encode()).unwrap();
            prop_assert_eq!(again.encode(), feedback.encode(), "what is not a number included");
        }
        if let Ok(state) = DirectoryState::decode(&bytes) {
            prop_assert_eq!(DirectoryState::decode(&state.encode()), Ok(state));
        }
    }
}
