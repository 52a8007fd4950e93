//! Statements are checked field by field.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use bytes::Bytes;
use mirrorlog_core::limits::{NOTICES_MAX, REPORT_BUILDS_MAX};
use support::messages::{
    head, order, read, replay, report, reported, retraction, snapshot, verdict,
};
use wire::v1::{self, order, presence, revoke_reason, statement::Kind as Proto};
use wire::{DecodeError, FieldError};

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
    assert_eq!(
        refused(|s| s.notices[0].package.clear()),
        "snapshot.notices"
    );
    assert_eq!(
        refused(|s| s.notices[0].text = "\x1b[2J".into()),
        "snapshot.notices"
    );
    assert_eq!(
        refused(|s| s.notices[0].text = "x".repeat(1025)),
        "snapshot.notices"
    );
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
    assert_eq!(
        refused(|r| r.reason = "x".repeat(1025)),
        "retraction.reason"
    );
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
    assert_eq!(
        refused(|r| r.orders[0].text = "\r".into()),
        "report.orders.text"
    );
    assert_eq!(
        refused(|r| r.orders = vec![r.orders[0].clone(); 65]),
        "report.orders"
    );
    assert_eq!(refused(|r| r.builds[0].build = 0), "report.builds.build");
    assert_eq!(refused(|r| r.builds[0].root.clear()), "report.builds.root");
    assert_eq!(refused(|r| r.builds[0].view = None), "report.builds.view");
    assert_eq!(
        refused(|r| r.builds[0].view = Some(v1::View { kind: None })),
        "report.builds.view"
    );
    assert_eq!(
        refused(|r| r.builds[0].presence = None),
        "report.builds.presence"
    );
    assert_eq!(refused(|r| r.builds.push(reported())), "report.builds");
    let many = |r: &mut v1::Report| {
        let numbered = |build| v1::ReportedBuild {
            build,
            ..reported()
        };
        r.builds = (1..=REPORT_BUILDS_MAX as u64 + 1).map(numbered).collect();
    };
    assert_eq!(refused(many), "report.builds");
}

#[test]
fn bitmaps_are_checked() {
    let mut whole = Vec::new();
    roaring::RoaringBitmap::from_iter([1, 5, 70_000])
        .serialize_into(&mut whole)
        .unwrap();
    let with = |bytes: &[u8]| {
        let ordinals = presence::Kind::Ordinals(Bytes::copy_from_slice(bytes));
        let presence = Some(v1::Presence {
            kind: Some(ordinals),
        });
        let builds = vec![v1::ReportedBuild {
            presence,
            ..reported()
        }];
        read(Proto::Report(v1::Report { builds, ..report() }))
    };
    with(&whole).unwrap();
    let is_refused = |bytes: &[u8]| {
        let field = "report.builds.presence.ordinals";
        assert_eq!(
            with(bytes),
            Err(DecodeError::Field {
                field,
                source: FieldError::Bitmap
            })
        );
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
        read(Proto::Verdict(v1::Verdict {
            reason,
            state,
            ..verdict()
        }))
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
    assert_eq!(
        refused(|v| v.state = v1::verdict::State::Revoked.into()),
        "verdict.reason"
    );
    assert_eq!(
        refused(|v| v.reason = Some(v1::RevokeReason { kind: None })),
        "verdict.reason"
    );
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
    let wrap = |replay| {
        Proto::Order(v1::Order {
            kind: Some(order::Kind::Replay(replay)),
            ..order()
        })
    };
    let spoiled = |spoil: fn(&mut order::Replay)| refused(replay(), wrap, spoil);
    assert_eq!(spoiled(|r| r.channel = "X".into()), "order.replay.channel");
    assert_eq!(spoiled(|r| r.lane = 7), "order.replay.lane");
    assert_eq!(spoiled(|r| r.from = None), "order.replay.from");
    assert_eq!(
        spoiled(|r| r.from = Some(order::replay::From::Build(0))),
        "order.replay.build"
    );
    assert_eq!(
        spoiled(|r| r.from = Some(order::replay::From::TimeMs(-1))),
        "order.replay.time_ms"
    );
}

#[test]
fn a_view_has_one_spelling() {
    let part = |change: &dyn Fn(&mut v1::view::Part)| {
        let mut part = v1::view::Part {
            architectures: vec!["amd64".into(), "arm64".into()],
            exclude: vec!["pool/**/*-dbg_*".into()],
            ..v1::view::Part::default()
        };
        change(&mut part);
        let mut report = report();
        report.builds[0].view = Some(v1::View {
            kind: Some(v1::view::Kind::Part(part)),
        });
        read(Proto::Report(report))
    };
    part(&|_| {}).unwrap();
    let refused: [&dyn Fn(&mut v1::view::Part); 6] = [
        &|part| part.architectures.reverse(),
        &|part| part.architectures = vec!["amd64".into(); 2],
        &|part| part.components = vec!["a b".into()],
        &|part| part.exclude = vec!["pool/[".into()],
        &|part| part.include = vec!["a\nb".into()],
        &|part| *part = v1::view::Part::default(),
    ];
    for change in refused {
        assert!(part(change).is_err());
    }
}
