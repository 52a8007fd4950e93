//! Whatever is written is read back as it was.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use mirrorlog_core::limits::{EVENT_MAX_BYTES, INLINE_DELTA_MAX_BYTES};
use mirrorlog_core::manifest::Entry;
use mirrorlog_core::sign::{KeyNumber, SecretKey};
use mirrorlog_core::statement::{Change, DeltaSource, Statement};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use support::directory::{directory_states, feedbacks};
use support::{
    builds, channels, deltas, heads, key, mirrors, order_kinds, path, pools, retractions,
    snapshots, statements, trusted,
};
use wire::directory::{DirectoryState, Feedback};
use wire::event::{Opened, message_id};
use wire::kv::{Numbering, decode_wanted, encode_wanted, parse_wanted_key, wanted_key};
use wire::signify;
use wire::{Event, EventBody, Signed, delta, rpc, statement};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn statements_come_back(said in statements()) {
        let bytes = statement::encode(&said);
        prop_assert_eq!(statement::decode(&bytes).unwrap(), said.clone());
        prop_assert_eq!(statement::encode(&said), bytes, "the same statement, the same bytes");
        prop_assert_eq!(statement::check(&said), Ok(()));
    }

    #[test]
    fn signed_statements_come_back(said in statements(), seed: u8, comment in "\\PC{0,30}") {
        let keys = trusted(&[&key(seed)]);
        let signed = Signed::sign(&key(seed), &said);
        for read in [
            Signed::decode(&signed.encode()).unwrap(),
            Signed::from_signify(&signed.to_signify(&comment)).unwrap(),
            Signed::from_proto(signed.to_proto()).unwrap(),
        ] {
            prop_assert_eq!(&read, &signed);
            prop_assert_eq!(read.digest(), signed.digest());
            prop_assert_eq!(read.open(&keys).unwrap(), said.clone());
        }
    }

    #[test]
    fn deltas_come_back(delta in deltas()) {
        let bytes = delta::encode(&delta);
        prop_assert_eq!(delta::decode(&bytes).unwrap(), delta);
    }

    #[test]
    fn snapshot_events_come_back(
        snapshot in snapshots(), head in option::of(heads()), delta in option::of(deltas()),
    ) {
        let head = head.map(|mut head| {
            head.channel = snapshot.channel.clone();
            head
        });
        let sign = |said: Statement| Signed::sign(&key(1), &said);
        let event = Event {
            body: EventBody::Snapshot(sign(Statement::Snapshot(snapshot.clone()))),
            head: head.clone().map(|head| sign(Statement::Head(head))),
            delta: delta.map_or(DeltaSource::Pages, DeltaSource::Inline),
        };
        let read = Event::decode(&event.encode()).unwrap();
        prop_assert_eq!(&read, &event);
        let opened = read.open(&trusted(&[&key(1)])).unwrap();
        prop_assert_eq!(opened, (Opened::Snapshot(snapshot), head));
    }

    #[test]
    fn retraction_events_come_back(retraction in retractions()) {
        let signed = Signed::sign(&key(1), &Statement::Retraction(retraction.clone()));
        let body = EventBody::Retraction(signed);
        let event = Event { body, head: None, delta: DeltaSource::Pages };
        let read = Event::decode(&event.encode()).unwrap();
        prop_assert_eq!(&read, &event);
        let opened = read.open(&trusted(&[&key(1)])).unwrap();
        prop_assert_eq!(opened, (Opened::Retraction(retraction), None));
    }

    #[test]
    fn keys_and_signatures_come_back(
        number: [u8; 8], seed: [u8; 32], comment in "\\PC{0,30}", message in vec(any::<u8>(), 0..99),
    ) {
        let secret = SecretKey::from_seed(KeyNumber(number), &seed);
        let signature = secret.sign(&message);
        let read = signify::parse_secret(signify::print_secret(&secret, &comment).as_bytes()).unwrap();
        prop_assert_eq!(read.seed(), secret.seed());
        prop_assert_eq!(read.public(), secret.public());
        let public = signify::print_public(&secret.public(), &comment);
        prop_assert_eq!(signify::parse_public(public.as_bytes()).unwrap(), secret.public());
        let detached = signify::print_signature(&signature, &comment);
        prop_assert_eq!(signify::parse_signature(detached.as_bytes()).unwrap(), signature);
        let embedded = signify::print_embedded(&signature, &message, &comment);
        prop_assert_eq!(signify::parse_embedded(&embedded).unwrap(), (signature, &message[..]));
    }

    #[test]
    fn bucket_values_come_back(
        epoch: u64, newest in option::of(builds()), wanted in builds(),
        channel in channels(), pool in pools(),
    ) {
        let numbering = Numbering { epoch, newest };
        prop_assert_eq!(Numbering::decode(numbering.encode().as_bytes()).unwrap(), numbering);
        prop_assert_eq!(decode_wanted(encode_wanted(wanted).as_bytes()).unwrap(), wanted);
        let key = wanted_key(&channel, &pool);
        prop_assert_eq!(parse_wanted_key(&key).unwrap(), (channel, pool));
    }

    #[test]
    fn requested_orders_come_back(mirror in mirrors(), kind in order_kinds()) {
        let request = rpc::order_request(&mirror, &kind);
        prop_assert_eq!(rpc::requested_order(request).unwrap(), (mirror, kind));
    }

    #[test]
    fn feedback_comes_back(feedback in feedbacks()) {
        let bytes = feedback.encode();
        prop_assert_eq!(Feedback::decode(&bytes).unwrap(), feedback);
    }

    #[test]
    fn directory_states_come_back(state in directory_states()) {
        let bytes = state.encode();
        prop_assert_eq!(DirectoryState::decode(&bytes).unwrap(), state);
    }

    #[test]
    fn whatever_was_said_to_people_can_be_read(
        mut retraction in retractions(), reason in vec(any::<char>(), 0..2000),
    ) {
        retraction.reason = reason.into_iter().collect();
        prop_assert_eq!(statement::check(&Statement::Retraction(retraction)), Ok(()));
    }
}

fn delta_of(changes: usize) -> Vec<Change> {
    let change = |number: usize| Change {
        path: path(&format!("pool/{number:06}")),
        new: Some(Entry::Symlink {
            target: vec![b'x'; 100].into(),
        }),
    };
    (0..changes).map(change).collect()
}

#[test]
fn a_delta_that_is_too_large_stays_out_of_its_event() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let snapshot = snapshots().new_tree(&mut runner).unwrap().current();
    let body = EventBody::Snapshot(Signed::sign(&key(1), &Statement::Snapshot(snapshot)));
    let fits = (0..1000)
        .rev()
        .find(|&n| delta::encode(&delta_of(n)).len() <= INLINE_DELTA_MAX_BYTES);
    let fits = fits.unwrap();
    for (changes, is_inline) in [(fits, true), (fits + 1, false)] {
        let delta = DeltaSource::Inline(delta_of(changes));
        let event = Event {
            body: body.clone(),
            head: None,
            delta: delta.clone(),
        };
        let bytes = event.encode();
        assert!(bytes.len() <= EVENT_MAX_BYTES);
        let expected = if is_inline { delta } else { DeltaSource::Pages };
        assert_eq!(Event::decode(&bytes).unwrap().delta, expected);
    }
}

#[test]
fn message_ids_name_channel_number_and_digest() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let snapshot = snapshots().new_tree(&mut runner).unwrap().current();
    let retraction = retractions().new_tree(&mut runner).unwrap().current();
    let signed = Signed::sign(&key(1), &Statement::Snapshot(snapshot.clone()));
    let start = &signed.digest().to_hex()[..16];
    let expected = format!("{}/{}/{start}", snapshot.channel, snapshot.build);
    assert_eq!(message_id(&Opened::Snapshot(snapshot), &signed), expected);
    let expected = format!("{}/r{}/{start}", retraction.channel, retraction.sequence);
    assert_eq!(
        message_id(&Opened::Retraction(retraction), &signed),
        expected
    );
}
