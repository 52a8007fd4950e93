//! Bytes that were once written must be read for ever, and be written the same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;

use mirrorlog_core::id::{ChannelId, Lane, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::{Entry, FileEntry, Mode};
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{
    Change, Delta, DeltaSource, Head, Notice, Order, OrderKind, OrderOutcome, Presence, ReplayFrom,
    Report, ReportedBuild, Retraction, RevokeReason, Snapshot, Statement, Verdict, VerdictState,
};
use mirrorlog_core::time::{Mtime, Timestamp};
use mirrorlog_core::view::View;
use roaring::RoaringBitmap;
use support::{build, digest, key, path, trusted};
use wire::kv::{Numbering, encode_wanted, wanted_key};
use wire::{Event, EventBody, Signed, delta, signify, statement};

const CHANGED: &str = "
Bytes on the wire or on disk are no longer what they were. Logs, journals and mirrors in the field
hold the old ones.
- Not intended? Undo the change that caused it.
- Intended? Never edit a file in tests/golden. Give the new bytes a new name, keep the old file and
  a test that it still decodes to the same value, and tell operators in the changelog.
A file for a new case is written by: MIRRORLOG_GOLDEN=new cargo test -p wire --test golden";

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The bytes of a golden file, after a check that `encoded` is the same.
fn golden(name: &str, encoded: &[u8]) -> Vec<u8> {
    let file = directory().join(format!("{name}.hex"));
    if !file.exists() && std::env::var("MIRRORLOG_GOLDEN").is_ok_and(|mode| mode == "new") {
        let text = hex::encode(encoded);
        let lines = text.as_bytes().chunks(96).map(|line| str::from_utf8(line).unwrap());
        let lines: String = lines.map(|line| format!("{line}\n")).collect();
        std::fs::write(&file, lines).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let bytes = hex::decode(text.split_whitespace().collect::<String>()).unwrap();
    assert!(bytes == encoded, "{name}: {}\nnow: {}{CHANGED}", text.trim(), hex::encode(encoded));
    bytes
}

fn time(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms)
}

fn channel() -> ChannelId {
    ChannelId::new("noble-security").unwrap()
}

fn mirror() -> MirrorId {
    MirrorId::new("nz1").unwrap()
}

fn snapshot() -> Snapshot {
    Snapshot {
        channel: channel(),
        build: build(37),
        base: Some(build(36)),
        root: digest(0x11),
        previous: Some(digest(0x22)),
        created: time(1_795_305_030_123),
        entries: 100_000,
        bytes: 5_000_000_000_000,
        lane: Lane::Priority,
        mount: Mount::new("/ubuntu").unwrap(),
        layout: Layout::Debian,
        precedence: 2,
        notices: vec![Notice { package: "openssl".into(), text: "restart your services – now".into() }],
    }
}

fn first_snapshot(layout: Layout) -> Snapshot {
    Snapshot {
        build: build(1),
        base: None,
        previous: None,
        lane: Lane::Bulk,
        layout,
        precedence: 0,
        notices: Vec::new(),
        ..snapshot()
    }
}

fn head() -> Head {
    Head {
        channel: channel(),
        build: build(37),
        root: digest(0x11),
        retractions: digest(0x33),
        issued: time(1_795_305_030_123),
        expires: time(1_795_909_830_123),
    }
}

fn retraction(replaced: bool) -> Retraction {
    Retraction {
        channel: channel(),
        sequence: 2,
        first: build(35),
        last: build(37),
        reason: "built with a broken compiler".into(),
        replacement: replaced.then(|| build(38)),
        created: time(1_795_305_030_123),
    }
}

fn report() -> Report {
    Report {
        mirror: mirror(),
        channel: channel(),
        boot: u64::MAX,
        sequence: 3,
        issued: time(1_795_305_030_123),
        booted: time(1_795_305_000_000),
        live: None,
        builds: Vec::new(),
        target: None,
        fetch_bytes_per_s: 0,
        disk_free_bytes: 0,
        halted: None,
        orders: Vec::new(),
    }
}

fn busy_report() -> Report {
    let reported = |number, presence, missing_files| ReportedBuild {
        build: build(number),
        root: digest(0x40 + u8::try_from(number).unwrap()),
        view: View::All,
        presence,
        missing_files,
        missing_bytes: missing_files * 1000,
    };
    let mut runs = RoaringBitmap::new();
    runs.insert_range(10..=20);
    runs.insert_range(65_000..=70_000);
    runs.optimize();
    let sparse = RoaringBitmap::from_iter([0, 7, 65_535, 65_536, u32::MAX]);
    Report {
        live: Some(build(36)),
        builds: vec![
            reported(36, Presence::All, 0),
            reported(37, Presence::Some(sparse), 5),
            reported(38, Presence::Some(runs), 9),
            reported(39, Presence::Some(RoaringBitmap::new()), 12),
        ],
        target: Some(build(39)),
        fetch_bytes_per_s: 2_500_000,
        disk_free_bytes: 1 << 40,
        halted: Some("fork: build 37 has two roots".into()),
        orders: vec![OrderOutcome { id: 77, ok: false, text: "2 faults".into() }],
        ..report()
    }
}

fn verdict(state: VerdictState) -> Statement {
    Statement::Verdict(Verdict {
        mirror: mirror(),
        pool: PoolId::new("nz").unwrap(),
        channel: channel(),
        build: build(37),
        root: digest(0x11),
        view: View::All,
        state,
        issued: time(1_795_305_030_123),
        lease_revision: 4,
        audited_files: 50,
        new_files: 60,
    })
}

fn revoked(reason: RevokeReason) -> Statement {
    verdict(VerdictState::Revoked(reason))
}

fn order(kind: OrderKind) -> Statement {
    Statement::Order(Order { id: 77, mirror: mirror(), issued: time(1_795_305_030_123), kind })
}

fn replay(from: ReplayFrom) -> Statement {
    let (channel, lane) = (Some(channel()), Some(Lane::Priority));
    order(OrderKind::Replay { channel, lane, from })
}

fn statements() -> Vec<(&'static str, Statement)> {
    let debs = path("pool/main/a/apt_2.6.2_amd64.deb");
    let everything = (None, None);
    vec![
        ("snapshot", Statement::Snapshot(snapshot())),
        ("snapshot_first_plain", Statement::Snapshot(first_snapshot(Layout::Plain))),
        ("snapshot_first_openbsd", Statement::Snapshot(first_snapshot(Layout::OpenBsd))),
        ("head", Statement::Head(head())),
        ("retraction", Statement::Retraction(retraction(false))),
        ("retraction_replaced", Statement::Retraction(retraction(true))),
        ("report_empty", Statement::Report(report())),
        ("report_busy", Statement::Report(busy_report())),
        ("verdict_pending", verdict(VerdictState::Pending)),
        ("verdict_verified", verdict(VerdictState::Verified)),
        ("verdict_complete", verdict(VerdictState::Complete)),
        ("verdict_revoked_digest", revoked(RevokeReason::DigestMismatch { path: debs.clone() })),
        ("verdict_revoked_missing", revoked(RevokeReason::Missing { path: debs })),
        ("verdict_revoked_loss", revoked(RevokeReason::ReportedLoss { files: 12 })),
        ("verdict_revoked_unreachable", revoked(RevokeReason::Unreachable)),
        ("verdict_revoked_retracted", revoked(RevokeReason::Retracted)),
        ("verdict_revoked_dropped", revoked(RevokeReason::Dropped)),
        ("verdict_revoked_wrong_build", revoked(RevokeReason::WrongBuild)),
        ("order_replay_build", replay(ReplayFrom::Build(build(30)))),
        ("order_replay_time", replay(ReplayFrom::Time(time(1_795_305_030_123)))),
        ("order_replay_last_ack", replay(ReplayFrom::LastAck)),
        ("order_replay_everything", order(OrderKind::Replay {
            channel: everything.0,
            lane: everything.1,
            from: ReplayFrom::LastAck,
        })),
        ("order_verify", order(OrderKind::Verify { channel: Some(channel()), build: Some(build(37)) })),
        ("order_verify_everything", order(OrderKind::Verify { channel: None, build: None })),
    ]
}

fn delta() -> Delta {
    let file = |size_bytes, mode| {
        let mtime = Mtime::from_seconds(1_795_305_030);
        Some(Entry::File(FileEntry { size_bytes, digest: digest(0x55), mode, mtime }))
    };
    let change = |at, new| Change { path: path(at), new };
    let link = Entry::Symlink { target: (*b"bookworm").into() };
    vec![
        change("bin/ls", file(0, Mode::Executable)),
        change("dists/stable", Some(link)),
        change("pool/a", None),
        change("pool/a.deb", file(i64::MAX.cast_unsigned(), Mode::Plain)),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    let sign = |said| Signed::sign(&key(1), &said);
    let head = || Some(sign(Statement::Head(head())));
    let snapshot = || EventBody::Snapshot(sign(Statement::Snapshot(snapshot())));
    let retraction = || EventBody::Retraction(sign(Statement::Retraction(retraction(true))));
    let pages = || DeltaSource::Pages;
    vec![
        ("event_snapshot", Event {
            body: snapshot(),
            head: head(),
            delta: DeltaSource::Inline(delta()),
        }),
        ("event_snapshot_pages", Event { body: snapshot(), head: head(), delta: pages() }),
        ("event_retraction", Event { body: retraction(), head: head(), delta: pages() }),
        ("event_retraction_all", Event { body: retraction(), head: None, delta: pages() }),
    ]
}

#[test]
fn statements_are_what_they_were() {
    for (name, said) in statements() {
        let bytes = golden(name, &statement::encode(&said));
        assert_eq!(statement::decode(&bytes).unwrap(), said, "{name}");
    }
}

#[test]
fn signed_statements_are_what_they_were() {
    let signed = Signed::sign(&key(7), &Statement::Head(head()));
    assert_eq!(Signed::decode(&golden("signed", &signed.encode())).unwrap(), signed);
    let file = golden("signed_signify", &signed.to_signify("head of noble-security"));
    assert_eq!(Signed::from_signify(&file).unwrap(), signed);
    assert_eq!(signed.open_head(&trusted(&[&key(7)])).unwrap(), head());
}

#[test]
fn events_and_deltas_are_what_they_were() {
    let bytes = golden("delta", &delta::encode(&delta()));
    assert_eq!(delta::decode(&bytes).unwrap(), delta());
    for (name, event) in events() {
        let bytes = golden(name, &event.encode());
        let decoded = Event::decode(&bytes).unwrap();
        assert_eq!(decoded, event, "{name}");
        decoded.open(&trusted(&[&key(1)])).unwrap();
    }
}

#[test]
fn key_files_are_what_they_were() {
    let secret = golden("signify_secret", signify::print_secret(&key(7), "golden").as_bytes());
    assert_eq!(signify::parse_secret(&secret).unwrap().seed(), key(7).seed());
    let public = golden("signify_public", signify::print_public(&key(7).public(), "golden").as_bytes());
    assert_eq!(signify::parse_public(&public).unwrap(), key(7).public());
    let signature = key(7).sign(b"message");
    let detached = signify::print_signature(&signature, "golden");
    let detached = golden("signify_signature", detached.as_bytes());
    assert_eq!(signify::parse_signature(&detached).unwrap(), signature);
}

/// Files made by signify 31 (Debian's signify-openbsd) are read, and written the same.
#[test]
fn files_of_signify_itself_are_read_and_written() {
    let read = |name| std::fs::read(directory().join("signify-openbsd").join(name)).unwrap();
    let public = signify::parse_public(&read("key.pub")).unwrap();
    let comment = "golden vector, for tests only public key";
    assert_eq!(signify::print_public(&public, comment).as_bytes(), read("key.pub"));

    // Its salt is random and of no meaning in a key without a passphrase; ours is zero.
    let secret = signify::parse_secret(&read("key.sec")).unwrap();
    assert_eq!(secret.public(), public);

    let message = read("message");
    let signature = signify::parse_signature(&read("message.sig")).unwrap();
    TrustedKeys::new([public]).verify(&message, &signature).unwrap();
    assert_eq!(secret.sign(&message), signature);
    let comment = "verify with key.pub";
    assert_eq!(signify::print_signature(&signature, comment).as_bytes(), read("message.sig"));
    let embedded = read("message.emb");
    assert_eq!(signify::parse_embedded(&embedded).unwrap(), (signature, &message[..]));
    assert_eq!(signify::print_embedded(&signature, &message, comment), embedded);
}

#[test]
fn bucket_values_are_what_they_were() {
    let numbering = Numbering { epoch: 3, newest: Some(build(37)) };
    assert_eq!(numbering.encode(), "3 37", "{CHANGED}");
    assert_eq!(Numbering { epoch: 1, newest: None }.encode(), "1 0", "{CHANGED}");
    assert_eq!(encode_wanted(build(37)), "37", "{CHANGED}");
    let pool = PoolId::new("nz").unwrap();
    assert_eq!(wanted_key(&channel(), &pool), "noble-security.nz", "{CHANGED}");
}

/// A file that no test reads any more would be no proof of anything.
#[test]
fn every_golden_file_is_read() {
    let others = ["signed", "signed_signify", "delta"];
    let keys = ["signify_secret", "signify_public", "signify_signature"];
    let elsewhere = ["mirror_state"]; // src/state.rs
    let names = others.into_iter().chain(keys).chain(elsewhere);
    let mut expected: BTreeSet<String> = names.map(str::to_owned).collect();
    expected.extend(statements().into_iter().map(|(name, _)| name.to_owned()));
    expected.extend(events().into_iter().map(|(name, _)| name.to_owned()));
    let names = std::fs::read_dir(directory()).unwrap().map(|file| file.unwrap().path());
    let files = names.filter(|path| path.extension().is_some_and(|extension| extension == "hex"));
    let found = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    assert_eq!(found.collect::<BTreeSet<String>>(), expected);
}
