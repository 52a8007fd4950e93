//! Whatever is not exactly right is refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use bytes::Bytes;
use mirrorlog_core::limits::{
    EVENT_MAX_BYTES, INLINE_DELTA_MAX_BYTES, REPORT_MAX_BYTES, STATEMENT_MAX_BYTES,
};
use mirrorlog_core::sign::{KeyNumber, SecretKey, SignatureError};
use mirrorlog_core::statement::Statement;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use support::messages::{head, order, read, report, retraction, snapshot, verdict};
use support::{deltas, key, roots, snapshots, statements, trusted};
use wire::kv::{Numbering, decode_wanted, parse_wanted_key};
use wire::statement::Kind;
use wire::v1::{self, change, statement::Kind as Proto};
use wire::{DecodeError, Event, OpenError, Signed, delta, rpc, statement};

#[test]
fn other_schemas_and_no_kind_are_refused() {
    let kind = || Some(Proto::Head(head()));
    for found in [0, 2, u32::MAX] {
        let bytes = v1::Statement {
            schema: found,
            kind: kind(),
        }
        .encode_to_vec();
        assert_eq!(
            statement::decode(&bytes),
            Err(DecodeError::Schema { found })
        );
    }
    let bytes = v1::Statement {
        schema: 1,
        kind: None,
    }
    .encode_to_vec();
    assert!(statement::decode(&bytes).is_err());
    assert!(statement::decode(b"").is_err());
}

#[test]
fn sizes_are_bounded_by_kind() {
    // An unknown field of `padding` bytes, such as a newer writer may add.
    let padded = |kind, padding: usize| {
        let mut bytes = v1::Statement {
            schema: 1,
            kind: Some(kind),
        }
        .encode_to_vec();
        prost::encoding::bytes::encode(100, &vec![0; padding], &mut bytes);
        statement::decode(&bytes)
    };
    padded(Proto::Head(head()), STATEMENT_MAX_BYTES / 2).unwrap();
    padded(Proto::Report(report()), STATEMENT_MAX_BYTES).unwrap();
    let too_large = |result| {
        assert!(
            matches!(result, Err(DecodeError::TooLarge { .. })),
            "{result:?}"
        )
    };
    too_large(padded(Proto::Head(head()), STATEMENT_MAX_BYTES));
    too_large(padded(Proto::Report(report()), REPORT_MAX_BYTES));
    assert!(matches!(
        Signed::decode(&vec![0; REPORT_MAX_BYTES + 200]),
        Err(DecodeError::TooLarge { .. })
    ));
    assert!(matches!(
        Event::decode(&vec![0; EVENT_MAX_BYTES + 1]),
        Err(DecodeError::TooLarge { .. })
    ));
    let mut file = Signed::sign(&key(1), &read(Proto::Head(head())).unwrap()).to_signify("x");
    file.resize(REPORT_MAX_BYTES + 1000, 0);
    assert!(Signed::from_signify(&file).is_err());
    assert!(matches!(
        delta::decode(&vec![0; INLINE_DELTA_MAX_BYTES + 1]),
        Err(DecodeError::TooLarge { .. })
    ));
}

fn file() -> change::New {
    let digest = Bytes::from_static(&[1; 32]);
    change::New::File(v1::File {
        size_bytes: 1,
        digest,
        executable: false,
        mtime_s: 0,
    })
}

fn changes(changes: &[(&'static str, Option<change::New>)]) -> Vec<u8> {
    let change = |(path, new): &(&'static str, _)| v1::Change {
        path: Bytes::from_static(path.as_bytes()),
        new: Clone::clone(new),
    };
    v1::Delta {
        changes: changes.iter().map(change).collect(),
    }
    .encode_to_vec()
}

#[test]
fn deltas_are_checked() {
    let link =
        |target: &'static str| Some(change::New::Symlink(Bytes::from_static(target.as_bytes())));
    let gone = || Some(change::New::Removed(change::Removed {}));
    let accepted = changes(&[("a", Some(file())), ("a.b", gone()), ("b/c", link("../a"))]);
    assert_eq!(delta::decode(&accepted).unwrap().len(), 3);
    let big = change::New::File(v1::File {
        size_bytes: 1 << 63,
        digest: Bytes::from_static(&[1; 32]),
        executable: false,
        mtime_s: 0,
    });
    let short = change::New::File(v1::File {
        size_bytes: 1,
        digest: Bytes::new(),
        executable: false,
        mtime_s: 0,
    });
    for (wrong, field) in [
        (vec![("a", gone()), ("a", gone())], "delta.changes.path"),
        (vec![("b", gone()), ("a", gone())], "delta.changes.path"),
        (vec![("a/b", gone()), ("a.b", gone())], "delta.changes.path"),
        (vec![("../a", gone())], "delta.changes.path"),
        (vec![("@/a", gone())], "delta.changes.path"),
        (vec![("", gone())], "delta.changes.path"),
        (vec![("a", None)], "delta.changes.new"),
        (vec![("a", Some(big))], "delta.changes.file.size_bytes"),
        (vec![("a", Some(short))], "delta.changes.file.digest"),
        (vec![("a", link(""))], "delta.changes.symlink"),
        (vec![("a", link("/etc/passwd"))], "delta.changes.symlink"),
        (vec![("a/b", link("../../x"))], "delta.changes.symlink"),
    ] {
        match delta::decode(&changes(&wrong)) {
            Err(DecodeError::Field { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{wrong:?}: {other:?}"),
        }
    }
}

#[test]
fn events_are_checked() {
    let head = Signed::sign(&key(1), &read(Proto::Head(head())).unwrap()).to_proto();
    let retraction = Signed::sign(&key(1), &read(Proto::Retraction(retraction())).unwrap());
    let snapshot = Signed::sign(&key(1), &read(Proto::Snapshot(snapshot())).unwrap());
    let kind = |signed: &Signed| Some(v1::event::Kind::Snapshot(signed.to_proto()));
    let decode = |event: v1::Event| Event::decode(&event.encode_to_vec());
    let good = v1::Event {
        kind: kind(&snapshot),
        head: Some(head.clone()),
        delta: None,
    };
    decode(good.clone()).unwrap();

    decode(v1::Event {
        kind: None,
        ..good.clone()
    })
    .unwrap_err();
    let delta = Some(v1::Delta::default());
    let taken = Some(v1::event::Kind::Retraction(retraction.to_proto()));
    decode(v1::Event {
        kind: taken.clone(),
        head: None,
        delta: delta.clone(),
    })
    .unwrap_err();
    decode(v1::Event {
        kind: taken,
        head: None,
        delta: None,
    })
    .unwrap();
    decode(v1::Event {
        head: Some(v1::Signed {
            signature: Bytes::new(),
            ..head
        }),
        ..good.clone()
    })
    .unwrap_err();
    let many = (10_000..13_000).map(|number| v1::Change {
        path: format!("{number:05}").into(),
        new: Some(file()),
    });
    let large = v1::Delta {
        changes: many.collect(),
    };
    assert!(large.encoded_len() > INLINE_DELTA_MAX_BYTES);
    decode(v1::Event {
        delta: Some(large),
        ..good
    })
    .unwrap_err();

    // A retraction that travels as a snapshot.
    let keys = trusted(&[&key(1)]);
    let disguised = v1::Event {
        kind: kind(&retraction),
        head: None,
        delta: None,
    };
    let (expected, found) = (Kind::Snapshot, Kind::Retraction);
    assert_eq!(
        decode(disguised).unwrap().open(&keys),
        Err(OpenError::Kind { expected, found })
    );
    // A head of another channel.
    let other = read(Proto::Head(v1::Head {
        channel: "other".into(),
        ..support::messages::head()
    }))
    .unwrap();
    let head = Some(Signed::sign(&key(1), &other).to_proto());
    let mixed = decode(v1::Event {
        kind: kind(&snapshot),
        head,
        delta: None,
    })
    .unwrap();
    assert!(matches!(mixed.open(&keys), Err(OpenError::Decode(_))));
}

#[test]
fn nothing_is_decoded_before_its_signature_holds() {
    let garbage = Bytes::from_static(b"\xff\xff no protobuf");
    let mut signed = Signed {
        signature: key(1).sign(&garbage),
        statement: garbage,
    };
    let keys = trusted(&[&key(1)]);
    assert!(matches!(signed.open(&keys), Err(OpenError::Decode(_))));
    signed.signature.bytes[0] ^= 1;
    let mismatch = SignatureError::Mismatch(KeyNumber([1; 8]));
    assert_eq!(signed.open(&keys), Err(OpenError::Signature(mismatch)));
}

#[test]
fn unknown_keys_and_borrowed_numbers_are_refused() {
    let said = read(Proto::Head(head())).unwrap();
    let signed = Signed::sign(&key(2), &said);
    let unknown = SignatureError::UnknownKey(KeyNumber([2; 8]));
    assert_eq!(
        signed.open(&trusted(&[&key(1)])),
        Err(OpenError::Signature(unknown))
    );
    assert!(signed.open(&trusted(&[])).is_err());
    signed.open(&trusted(&[&key(1), &key(2)])).unwrap();
    // A stranger's key under a trusted key's number.
    let stranger = SecretKey::from_seed(KeyNumber([1; 8]), &[9; 32]);
    let mismatch = SignatureError::Mismatch(KeyNumber([1; 8]));
    let forged = Signed::sign(&stranger, &said);
    assert_eq!(
        forged.open(&trusted(&[&key(1)])),
        Err(OpenError::Signature(mismatch))
    );
}

#[test]
fn no_kind_passes_for_another() {
    let keys = trusted(&[&key(1)]);
    let kinds = [
        Proto::Snapshot(snapshot()),
        Proto::Head(head()),
        Proto::Retraction(retraction()),
        Proto::Report(report()),
        Proto::Verdict(verdict()),
        Proto::Order(order()),
        Proto::Root(roots::proto()),
    ];
    for (at, kind) in kinds.into_iter().enumerate() {
        let signed = Signed::sign(&key(1), &read(kind).unwrap());
        let opened = [
            signed.open_snapshot(&keys).map(drop),
            signed.open_head(&keys).map(drop),
            signed.open_retraction(&keys).map(drop),
            signed.open_report(&keys).map(drop),
            signed.open_verdict(&keys).map(drop),
            signed.open_order(&keys).map(drop),
        ];
        for (as_kind, result) in opened.into_iter().enumerate() {
            assert_eq!(
                result.is_ok(),
                at == as_kind,
                "{at} as {as_kind}: {result:?}"
            );
        }
    }
}

#[test]
fn bucket_values_have_one_spelling() {
    for wrong in [
        "",
        "1",
        "1 2 3",
        " 1 2",
        "1 2\n",
        "01 2",
        "+1 2",
        "1  2",
        "-1 2",
        "1 99999999999999999999",
    ] {
        assert!(Numbering::decode(wrong.as_bytes()).is_err(), "{wrong:?}");
    }
    for wrong in [&b""[..], b"0", b"07", b"+7", b"7 ", b"\xff", &[b'7'; 99]] {
        assert!(decode_wanted(wrong).is_err(), "{wrong:?}");
    }
    for wrong in ["", "noble", ".nz", "noble.", "noble.n.z", "No.nz"] {
        assert!(parse_wanted_key(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_refusal_tells_a_client_what_is_wrong() {
    let status = tonic::Status::from(rpc::channel("channel", "No").unwrap_err());
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(
        status
            .message()
            .starts_with("channel is not valid: channel \"No\" is not valid: use")
    );
    rpc::signed("head", None).unwrap_err();
    rpc::requested_order(v1::OrderRequest { order: None }).unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever the cut falls, no whole signature is left.
    #[test]
    fn truncated_signed_statements_are_refused(said in statements(), cut: prop::sample::Index) {
        let bytes = Signed::sign(&key(1), &said).encode();
        let cut = &bytes[..cut.index(bytes.len())];
        prop_assert!(Signed::decode(cut).is_err());
    }

    #[test]
    fn truncated_files_do_not_verify(snapshot in snapshots(), cut: prop::sample::Index) {
        let file = Signed::sign(&key(1), &Statement::Snapshot(snapshot)).to_signify("x");
        let cut = &file[..cut.index(file.len())];
        if let Ok(signed) = Signed::from_signify(cut) {
            let refused = signed.open(&trusted(&[&key(1)]));
            prop_assert!(matches!(refused, Err(OpenError::Signature(_))));
        }
    }

    #[test]
    fn one_flipped_bit_is_noticed(said in statements(), at: prop::sample::Index, bit in 0..8_u8) {
        let mut bytes = Signed::sign(&key(1), &said).encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(signed) = Signed::decode(&bytes) {
            prop_assert!(signed.open(&trusted(&[&key(1)])).is_err());
        }
    }

    /// No input makes a decoder panic; what it accepts, it writes and reads again.
    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(said) = statement::decode(&bytes) {
            prop_assert_eq!(statement::decode(&statement::encode(&said)), Ok(said));
        }
        if let Ok(event) = Event::decode(&bytes) {
            prop_assert_eq!(Event::decode(&event.encode()), Ok(event));
        }
        prop_assert!(Signed::decode(&bytes).is_ok() <= (bytes.len() >= 74));
    }

    #[test]
    fn truncated_deltas_are_shorter_or_refused(delta in deltas(), cut: prop::sample::Index) {
        let bytes = delta::encode(&delta);
        if bytes.is_empty() {
            return Ok(());
        }
        if let Ok(shorter) = delta::decode(&bytes[..cut.index(bytes.len())]) {
            prop_assert!(delta.starts_with(&shorter) && shorter.len() < delta.len());
        }
    }
}
