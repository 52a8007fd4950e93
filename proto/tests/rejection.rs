//! Whatever is not exactly right is refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use bytes::Bytes;
use mirrorlog_core::limits::{
    EVENT_MAX_BYTES, INLINE_DELTA_MAX_BYTES, NOTICES_MAX, REPORT_BUILDS_MAX, REPORT_MAX_BYTES,
    STATEMENT_MAX_BYTES,
};
use mirrorlog_core::sign::{KeyNumber, SecretKey, SignatureError};
use mirrorlog_core::statement::Statement;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use support::{deltas, key, snapshots, statements, trusted};
use wire::kv::{Numbering, decode_wanted, parse_wanted_key};
use wire::statement::Kind;
use wire::v1::{self, change, order, presence, revoke_reason, statement::Kind as Proto};
use wire::{DecodeError, Event, FieldError, OpenError, Signed, delta, rpc, statement};

// A `v1` message for every kind, right in each field; the tests below spoil one at a time.

fn snapshot() -> v1::Snapshot {
    v1::Snapshot {
        channel: "noble".into(),
        build: 37,
        base: 36,
        root: Bytes::from_static(&[1; 32]),
        previous: Bytes::from_static(&[2; 32]),
        created_ms: 1_795_305_030_000,
        entries: 3,
        bytes: 4000,
        lane: v1::Lane::Bulk.into(),
        mount: "/ubuntu".into(),
        layout: v1::Layout::Debian.into(),
        precedence: 0,
        notices: vec![v1::Notice { package: "apt".into(), text: "needs a maintainer".into() }],
    }
}

fn head() -> v1::Head {
    v1::Head {
        channel: "noble".into(),
        build: 37,
        root: Bytes::from_static(&[1; 32]),
        retractions: Bytes::from_static(&[3; 32]),
        issued_ms: 1000,
        expires_ms: 2000,
    }
}

fn retraction() -> v1::Retraction {
    v1::Retraction {
        channel: "noble".into(),
        sequence: 1,
        first: 35,
        last: 37,
        reason: "wrong key".into(),
        replacement: 38,
        created_ms: 1000,
    }
}

fn reported() -> v1::ReportedBuild {
    v1::ReportedBuild {
        build: 37,
        root: Bytes::from_static(&[1; 32]),
        view: view(),
        presence: Some(v1::Presence {
            kind: Some(presence::Kind::All(presence::Everything {})),
        }),
        missing_files: 0,
        missing_bytes: 0,
    }
}

fn view() -> Option<v1::View> {
    Some(v1::View { kind: Some(v1::view::Kind::All(v1::view::Everything {})) })
}

fn report() -> v1::Report {
    v1::Report {
        mirror: "nz1".into(),
        channel: "noble".into(),
        boot: 7,
        sequence: 1,
        issued_ms: 2000,
        booted_ms: 1000,
        live: 37,
        builds: vec![reported()],
        target: 0,
        fetch_bytes_per_s: 0,
        disk_free_bytes: 1,
        halted: None,
        orders: vec![v1::OrderOutcome { id: 5, ok: true, text: "done".into() }],
    }
}

fn verdict() -> v1::Verdict {
    v1::Verdict {
        mirror: "nz1".into(),
        pool: "nz".into(),
        channel: "noble".into(),
        build: 37,
        root: Bytes::from_static(&[1; 32]),
        view: view(),
        state: v1::verdict::State::Complete.into(),
        reason: None,
        issued_ms: 1000,
        lease_revision: 9,
        audited_files: 3,
        new_files: 3,
    }
}

fn order() -> v1::Order {
    v1::Order {
        id: 5,
        mirror: "nz1".into(),
        issued_ms: 1000,
        kind: Some(order::Kind::Replay(replay())),
    }
}

fn replay() -> order::Replay {
    order::Replay {
        channel: String::new(),
        lane: 0,
        from: Some(order::replay::From::Build(30)),
    }
}

fn read(kind: Proto) -> Result<Statement, DecodeError> {
    statement::decode(&v1::Statement { schema: 1, kind: Some(kind) }.encode_to_vec())
}

/// The field that is refused after `spoil` had its way; panics when nothing is.
fn refused<M>(mut message: M, wrap: fn(M) -> Proto, spoil: impl FnOnce(&mut M)) -> &'static str {
    spoil(&mut message);
    match read(wrap(message)) {
        Err(DecodeError::Field { field, .. }) => field,
        other => panic!("not refused for a field: {other:?}"),
    }
}

#[test]
fn what_the_tests_start_from_is_accepted() {
    for kind in [
        Proto::Snapshot(snapshot()),
        Proto::Head(head()),
        Proto::Retraction(retraction()),
        Proto::Report(report()),
        Proto::Verdict(verdict()),
        Proto::Order(order()),
    ] {
        read(kind).unwrap();
    }
}

#[test]
fn snapshots_are_checked_field_by_field() {
    let refused = |spoil: fn(&mut v1::Snapshot)| refused(snapshot(), Proto::Snapshot, spoil);
    assert_eq!(refused(|s| s.channel = "No".into()), "snapshot.channel");
    assert_eq!(refused(|s| s.channel = "x".repeat(64)), "snapshot.channel");
    assert_eq!(refused(|s| s.build = 0), "snapshot.build");
    assert_eq!(refused(|s| s.base = 37), "snapshot.base");
    assert_eq!(refused(|s| s.root.truncate(31)), "snapshot.root");
    assert_eq!(refused(|s| s.root.clear()), "snapshot.root");
    assert_eq!(refused(|s| s.previous.truncate(1)), "snapshot.previous");
    assert_eq!(refused(|s| (s.build, s.base) = (1, 0)), "snapshot.previous");
    assert_eq!(refused(|s| s.created_ms = -1), "snapshot.created_ms");
    assert_eq!(refused(|s| s.created_ms = i64::MAX), "snapshot.created_ms");
    assert_eq!(refused(|s| s.entries = 1 << 32), "snapshot.entries");
    assert_eq!(refused(|s| s.lane = 0), "snapshot.lane");
    assert_eq!(refused(|s| s.lane = 3), "snapshot.lane");
    assert_eq!(refused(|s| s.mount = "/@/x".into()), "snapshot.mount");
    assert_eq!(refused(|s| s.mount.clear()), "snapshot.mount");
    assert_eq!(refused(|s| s.layout = 0), "snapshot.layout");
    assert_eq!(refused(|s| s.layout = 99), "snapshot.layout");
    assert_eq!(refused(|s| s.notices[0].package.clear()), "snapshot.notices");
    assert_eq!(refused(|s| s.notices[0].text = "\x1b[2J".into()), "snapshot.notices");
    assert_eq!(refused(|s| s.notices[0].text = "x".repeat(1025)), "snapshot.notices");
    let many = |s: &mut v1::Snapshot| s.notices = vec![s.notices[0].clone(); NOTICES_MAX + 1];
    assert_eq!(refused(many), "snapshot.notices");
}

#[test]
fn heads_are_checked_field_by_field() {
    let refused = |spoil: fn(&mut v1::Head)| refused(head(), Proto::Head, spoil);
    assert_eq!(refused(|h| h.channel.clear()), "head.channel");
    assert_eq!(refused(|h| h.build = 0), "head.build");
    assert_eq!(refused(|h| h.root.clear()), "head.root");
    assert_eq!(refused(|h| h.retractions.clear()), "head.retractions");
    assert_eq!(refused(|h| h.issued_ms = -1), "head.issued_ms");
    assert_eq!(refused(|h| h.expires_ms = i64::MAX), "head.expires_ms");
    assert_eq!(refused(|h| h.expires_ms = 999), "head.expires_ms");
}

#[test]
fn retractions_are_checked_field_by_field() {
    let refused = |spoil: fn(&mut v1::Retraction)| refused(retraction(), Proto::Retraction, spoil);
    assert_eq!(refused(|r| r.channel.clear()), "retraction.channel");
    assert_eq!(refused(|r| r.sequence = 0), "retraction.sequence");
    assert_eq!(refused(|r| r.sequence = 4097), "retraction.sequence");
    assert_eq!(refused(|r| r.first = 0), "retraction.first");
    assert_eq!(refused(|r| r.last = 0), "retraction.last");
    assert_eq!(refused(|r| r.last = 34), "retraction.last");
    assert_eq!(refused(|r| r.replacement = 36), "retraction.replacement");
    assert_eq!(refused(|r| r.reason = "a\nb".into()), "retraction.reason");
    assert_eq!(refused(|r| r.reason = "x".repeat(1025)), "retraction.reason");
    assert_eq!(refused(|r| r.created_ms = -1), "retraction.created_ms");
}

#[test]
fn reports_are_checked_field_by_field() {
    let refused = |spoil: fn(&mut v1::Report)| refused(report(), Proto::Report, spoil);
    assert_eq!(refused(|r| r.mirror = "-x".into()), "report.mirror");
    assert_eq!(refused(|r| r.channel.clear()), "report.channel");
    assert_eq!(refused(|r| r.issued_ms = -1), "report.issued_ms");
    assert_eq!(refused(|r| r.booted_ms = -1), "report.booted_ms");
    assert_eq!(refused(|r| r.halted = Some("\x07".into())), "report.halted");
    assert_eq!(refused(|r| r.orders[0].text = "\r".into()), "report.orders.text");
    assert_eq!(refused(|r| r.orders = vec![r.orders[0].clone(); 65]), "report.orders");
    assert_eq!(refused(|r| r.builds[0].build = 0), "report.builds.build");
    assert_eq!(refused(|r| r.builds[0].root.clear()), "report.builds.root");
    assert_eq!(refused(|r| r.builds[0].view = None), "report.builds.view");
    assert_eq!(refused(|r| r.builds[0].view = Some(v1::View { kind: None })), "report.builds.view");
    assert_eq!(refused(|r| r.builds[0].presence = None), "report.builds.presence");
    assert_eq!(refused(|r| r.builds.push(reported())), "report.builds");
    let many = |r: &mut v1::Report| {
        let numbered = |build| v1::ReportedBuild { build, ..reported() };
        r.builds = (1..=REPORT_BUILDS_MAX as u64 + 1).map(numbered).collect();
    };
    assert_eq!(refused(many), "report.builds");
}

#[test]
fn bitmaps_are_checked() {
    let mut whole = Vec::new();
    roaring::RoaringBitmap::from_iter([1, 5, 70_000]).serialize_into(&mut whole).unwrap();
    let with = |bytes: &[u8]| {
        let ordinals = presence::Kind::Ordinals(Bytes::copy_from_slice(bytes));
        let presence = Some(v1::Presence { kind: Some(ordinals) });
        let builds = vec![v1::ReportedBuild { presence, ..reported() }];
        read(Proto::Report(v1::Report { builds, ..report() }))
    };
    with(&whole).unwrap();
    let is_refused = |bytes: &[u8]| {
        let field = "report.builds.presence.ordinals";
        assert_eq!(with(bytes), Err(DecodeError::Field { field, source: FieldError::Bitmap }));
    };
    for end in 0..whole.len() {
        is_refused(&whole[..end]);
    }
    is_refused(&[&whole[..], b"\0"].concat());
    // 65,536 containers are announced and none is there.
    is_refused(&[0x3a, 0x30, 0, 0, 0, 0, 1, 0]);
    is_refused(&[0x3b, 0x30, 0xff, 0xff]);
    // Values out of order.
    let mut unsorted = whole.clone();
    let values = unsorted.len() - 6;
    unsorted[values..values + 4].copy_from_slice(&[5, 0, 1, 0]);
    is_refused(&unsorted);
}

#[test]
fn verdicts_are_checked_field_by_field() {
    let refused = |spoil: fn(&mut v1::Verdict)| refused(verdict(), Proto::Verdict, spoil);
    let revoke = |kind| {
        let reason = Some(v1::RevokeReason { kind });
        let state = v1::verdict::State::Revoked.into();
        read(Proto::Verdict(v1::Verdict { reason, state, ..verdict() }))
    };
    assert_eq!(refused(|v| v.mirror.clear()), "verdict.mirror");
    assert_eq!(refused(|v| v.pool = "NZ".into()), "verdict.pool");
    assert_eq!(refused(|v| v.channel.clear()), "verdict.channel");
    assert_eq!(refused(|v| v.build = 0), "verdict.build");
    assert_eq!(refused(|v| v.root.clear()), "verdict.root");
    assert_eq!(refused(|v| v.view = None), "verdict.view");
    assert_eq!(refused(|v| v.issued_ms = -1), "verdict.issued_ms");
    assert_eq!(refused(|v| v.state = 0), "verdict.state");
    assert_eq!(refused(|v| v.state = 5), "verdict.state");
    assert_eq!(refused(|v| v.state = v1::verdict::State::Revoked.into()), "verdict.reason");
    assert_eq!(refused(|v| v.reason = Some(v1::RevokeReason { kind: None })), "verdict.reason");
    revoke(Some(revoke_reason::Kind::ReportedLoss(3))).unwrap();
    revoke(None).unwrap_err();
    for path in [&b"../x"[..], b"", b"a//b", &[b'x'; 5000]] {
        let path = Bytes::copy_from_slice(path);
        revoke(Some(revoke_reason::Kind::Missing(path.clone()))).unwrap_err();
        revoke(Some(revoke_reason::Kind::DigestMismatch(path))).unwrap_err();
    }
}

#[test]
fn orders_are_checked_field_by_field() {
    let spoiled = |spoil: fn(&mut v1::Order)| refused(order(), Proto::Order, spoil);
    assert_eq!(spoiled(|o| o.mirror.clear()), "order.mirror");
    assert_eq!(spoiled(|o| o.issued_ms = -1), "order.issued_ms");
    assert_eq!(spoiled(|o| o.kind = None), "order.kind");
    let wrap = |replay| Proto::Order(v1::Order { kind: Some(order::Kind::Replay(replay)), ..order() });
    let spoiled = |spoil: fn(&mut order::Replay)| refused(replay(), wrap, spoil);
    assert_eq!(spoiled(|r| r.channel = "X".into()), "order.replay.channel");
    assert_eq!(spoiled(|r| r.lane = 7), "order.replay.lane");
    assert_eq!(spoiled(|r| r.from = None), "order.replay.from");
    assert_eq!(spoiled(|r| r.from = Some(order::replay::From::Build(0))), "order.replay.build");
    assert_eq!(spoiled(|r| r.from = Some(order::replay::From::TimeMs(-1))), "order.replay.time_ms");
}

#[test]
fn other_schemas_and_no_kind_are_refused() {
    let kind = || Some(Proto::Head(head()));
    for found in [0, 2, u32::MAX] {
        let bytes = v1::Statement { schema: found, kind: kind() }.encode_to_vec();
        assert_eq!(statement::decode(&bytes), Err(DecodeError::Schema { found }));
    }
    let bytes = v1::Statement { schema: 1, kind: None }.encode_to_vec();
    assert!(statement::decode(&bytes).is_err());
    assert!(statement::decode(b"").is_err());
}

#[test]
fn sizes_are_bounded_by_kind() {
    // An unknown field of `padding` bytes, such as a newer writer may add.
    let padded = |kind, padding: usize| {
        let mut bytes = v1::Statement { schema: 1, kind: Some(kind) }.encode_to_vec();
        prost::encoding::bytes::encode(100, &vec![0; padding], &mut bytes);
        statement::decode(&bytes)
    };
    padded(Proto::Head(head()), STATEMENT_MAX_BYTES / 2).unwrap();
    padded(Proto::Report(report()), STATEMENT_MAX_BYTES).unwrap();
    let too_large = |result| assert!(matches!(result, Err(DecodeError::TooLarge { .. })), "{result:?}");
    too_large(padded(Proto::Head(head()), STATEMENT_MAX_BYTES));
    too_large(padded(Proto::Report(report()), REPORT_MAX_BYTES));
    assert!(matches!(
        Signed::decode(&vec![0; REPORT_MAX_BYTES + 200]),
        Err(DecodeError::TooLarge { .. })
    ));
    assert!(matches!(Event::decode(&vec![0; EVENT_MAX_BYTES + 1]), Err(DecodeError::TooLarge { .. })));
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
    change::New::File(v1::File { size_bytes: 1, digest, executable: false, mtime_s: 0 })
}

fn changes(changes: &[(&'static str, Option<change::New>)]) -> Vec<u8> {
    let change = |(path, new): &(&'static str, _)| v1::Change {
        path: Bytes::from_static(path.as_bytes()),
        new: Clone::clone(new),
    };
    v1::Delta { changes: changes.iter().map(change).collect() }.encode_to_vec()
}

#[test]
fn deltas_are_checked() {
    let link = |target: &'static str| Some(change::New::Symlink(Bytes::from_static(target.as_bytes())));
    let gone = || Some(change::New::Removed(change::Removed {}));
    let accepted = changes(&[("a", Some(file())), ("a.b", gone()), ("b/c", link("../a"))]);
    assert_eq!(delta::decode(&accepted).unwrap().len(), 3);
    let big = change::New::File(v1::File { size_bytes: 1 << 63, digest: Bytes::from_static(&[1; 32]), executable: false, mtime_s: 0 });
    let short = change::New::File(v1::File { size_bytes: 1, digest: Bytes::new(), executable: false, mtime_s: 0 });
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
    let good = v1::Event { kind: kind(&snapshot), head: Some(head.clone()), delta: None };
    decode(good.clone()).unwrap();

    decode(v1::Event { kind: None, ..good.clone() }).unwrap_err();
    let delta = Some(v1::Delta::default());
    let taken = Some(v1::event::Kind::Retraction(retraction.to_proto()));
    decode(v1::Event { kind: taken.clone(), head: None, delta: delta.clone() }).unwrap_err();
    decode(v1::Event { kind: taken, head: None, delta: None }).unwrap();
    decode(v1::Event { head: Some(v1::Signed { signature: Bytes::new(), ..head }), ..good.clone() }).unwrap_err();
    let many = (10_000..13_000).map(|number| v1::Change { path: format!("{number:05}").into(), new: Some(file()) });
    let large = v1::Delta { changes: many.collect() };
    assert!(large.encoded_len() > INLINE_DELTA_MAX_BYTES);
    decode(v1::Event { delta: Some(large), ..good }).unwrap_err();

    // A retraction that travels as a snapshot.
    let keys = trusted(&[&key(1)]);
    let disguised = v1::Event { kind: kind(&retraction), head: None, delta: None };
    let (expected, found) = (Kind::Snapshot, Kind::Retraction);
    assert_eq!(decode(disguised).unwrap().open(&keys), Err(OpenError::Kind { expected, found }));
    // A head of another channel.
    let other = read(Proto::Head(v1::Head { channel: "other".into(), ..self::head() })).unwrap();
    let head = Some(Signed::sign(&key(1), &other).to_proto());
    let mixed = decode(v1::Event { kind: kind(&snapshot), head, delta: None }).unwrap();
    assert!(matches!(mixed.open(&keys), Err(OpenError::Decode(_))));
}

#[test]
fn nothing_is_decoded_before_its_signature_holds() {
    let garbage = Bytes::from_static(b"\xff\xff no protobuf");
    let mut signed = Signed { signature: key(1).sign(&garbage), statement: garbage };
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
    assert_eq!(signed.open(&trusted(&[&key(1)])), Err(OpenError::Signature(unknown)));
    assert!(signed.open(&trusted(&[])).is_err());
    signed.open(&trusted(&[&key(1), &key(2)])).unwrap();
    // A stranger's key under a trusted key's number.
    let stranger = SecretKey::from_seed(KeyNumber([1; 8]), &[9; 32]);
    let mismatch = SignatureError::Mismatch(KeyNumber([1; 8]));
    let forged = Signed::sign(&stranger, &said);
    assert_eq!(forged.open(&trusted(&[&key(1)])), Err(OpenError::Signature(mismatch)));
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
            assert_eq!(result.is_ok(), at == as_kind, "{at} as {as_kind}: {result:?}");
        }
    }
}

#[test]
fn bucket_values_have_one_spelling() {
    for wrong in ["", "1", "1 2 3", " 1 2", "1 2\n", "01 2", "+1 2", "1  2", "-1 2", "1 99999999999999999999"] {
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
    assert!(status.message().starts_with("channel is not valid: channel \"No\" is not valid: use"));
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
