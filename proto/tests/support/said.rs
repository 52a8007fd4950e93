//! What the golden files say: every kind, every variant.

use mirrorlog_core::id::{ChannelId, Lane, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::{Entry, FileEntry, Mode};
use mirrorlog_core::statement::{
    Change, Delta, DeltaSource, Head, Notice, Order, OrderKind, OrderOutcome, Presence, ReplayFrom,
    Report, ReportedBuild, Retraction, RevokeReason, Snapshot, Statement, Verdict, VerdictState,
};
use mirrorlog_core::time::{Mtime, Timestamp};
use mirrorlog_core::view::{Part, View};
use roaring::RoaringBitmap;
use wire::{Event, EventBody, Signed};

use super::{build, digest, key, path, roots};

fn time(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms)
}

pub(crate) fn channel() -> ChannelId {
    ChannelId::new("noble-security").unwrap()
}

fn mirror() -> MirrorId {
    MirrorId::new("nz1").unwrap()
}

pub(crate) fn snapshot() -> Snapshot {
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
        notices: vec![Notice {
            package: "openssl".into(),
            text: "restart your services – now".into(),
        }],
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

pub(crate) fn head() -> Head {
    Head {
        channel: channel(),
        build: build(37),
        root: digest(0x11),
        retractions: digest(0x33),
        issued: time(1_795_305_030_123),
        expires: time(1_795_909_830_123),
    }
}

pub(crate) fn retraction(replaced: bool) -> Retraction {
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
        orders: vec![OrderOutcome {
            id: 77,
            ok: false,
            text: "2 faults".into(),
        }],
        ..report()
    }
}

pub(crate) fn verdict(state: VerdictState) -> Statement {
    Statement::Verdict(said(state))
}

fn said(state: VerdictState) -> Verdict {
    Verdict {
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
    }
}

fn partial_verdict() -> Statement {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let part = Part {
        architectures: names(&["amd64", "arm64"]),
        components: names(&["main"]),
        include: names(&["dists/", "pool/"]),
        exclude: names(&["**/*-dbg_*"]),
    };
    Statement::Verdict(Verdict {
        view: View::new(part).unwrap(),
        ..said(VerdictState::Complete)
    })
}

fn revoked(reason: RevokeReason) -> Statement {
    verdict(VerdictState::Revoked(reason))
}

fn order(kind: OrderKind) -> Statement {
    Statement::Order(Order {
        id: 77,
        mirror: mirror(),
        issued: time(1_795_305_030_123),
        kind,
    })
}

fn replay(from: ReplayFrom) -> Statement {
    let (channel, lane) = (Some(channel()), Some(Lane::Priority));
    order(OrderKind::Replay {
        channel,
        lane,
        from,
    })
}

pub(crate) fn statements() -> Vec<(&'static str, Statement)> {
    let debs = path("pool/main/a/apt_2.6.2_amd64.deb");
    let everything = (None, None);
    vec![
        ("snapshot", Statement::Snapshot(snapshot())),
        (
            "snapshot_first_plain",
            Statement::Snapshot(first_snapshot(Layout::Plain)),
        ),
        (
            "snapshot_first_openbsd",
            Statement::Snapshot(first_snapshot(Layout::OpenBsd)),
        ),
        ("head", Statement::Head(head())),
        ("retraction", Statement::Retraction(retraction(false))),
        (
            "retraction_replaced",
            Statement::Retraction(retraction(true)),
        ),
        ("report_empty", Statement::Report(report())),
        ("report_busy", Statement::Report(busy_report())),
        ("verdict_pending", verdict(VerdictState::Pending)),
        ("verdict_verified", verdict(VerdictState::Verified)),
        ("verdict_complete", verdict(VerdictState::Complete)),
        ("verdict_partial", partial_verdict()),
        (
            "verdict_revoked_digest",
            revoked(RevokeReason::DigestMismatch { path: debs.clone() }),
        ),
        (
            "verdict_revoked_missing",
            revoked(RevokeReason::Missing { path: debs }),
        ),
        (
            "verdict_revoked_loss",
            revoked(RevokeReason::ReportedLoss { files: 12 }),
        ),
        (
            "verdict_revoked_unreachable",
            revoked(RevokeReason::Unreachable),
        ),
        (
            "verdict_revoked_retracted",
            revoked(RevokeReason::Retracted),
        ),
        ("verdict_revoked_dropped", revoked(RevokeReason::Dropped)),
        (
            "verdict_revoked_wrong_build",
            revoked(RevokeReason::WrongBuild),
        ),
        ("order_replay_build", replay(ReplayFrom::Build(build(30)))),
        (
            "order_replay_time",
            replay(ReplayFrom::Time(time(1_795_305_030_123))),
        ),
        ("order_replay_last_ack", replay(ReplayFrom::LastAck)),
        (
            "order_replay_everything",
            order(OrderKind::Replay {
                channel: everything.0,
                lane: everything.1,
                from: ReplayFrom::LastAck,
            }),
        ),
        (
            "order_verify",
            order(OrderKind::Verify {
                channel: Some(channel()),
                build: Some(build(37)),
            }),
        ),
        (
            "order_backfill",
            order(OrderKind::Backfill {
                channel: channel(),
                first: build(30),
                last: build(37),
            }),
        ),
        (
            "order_drain",
            order(OrderKind::Drain {
                reason: "disk is being replaced".to_owned(),
            }),
        ),
        ("order_resume", order(OrderKind::Resume)),
        ("root", Statement::Root(roots::root())),
        ("root_without_mirrors", Statement::Root(roots::small())),
        (
            "order_verify_everything",
            order(OrderKind::Verify {
                channel: None,
                build: None,
            }),
        ),
    ]
}

pub(crate) fn delta() -> Delta {
    let file = |size_bytes, mode| {
        let mtime = Mtime::from_seconds(1_795_305_030);
        Some(Entry::File(FileEntry {
            size_bytes,
            digest: digest(0x55),
            mode,
            mtime,
        }))
    };
    let change = |at, new| Change {
        path: path(at),
        new,
    };
    let link = Entry::Symlink {
        target: (*b"bookworm").into(),
    };
    vec![
        change("bin/ls", file(0, Mode::Executable)),
        change("dists/stable", Some(link)),
        change("pool/a", None),
        change("pool/a.deb", file(i64::MAX.cast_unsigned(), Mode::Plain)),
    ]
}

pub(crate) fn events() -> Vec<(&'static str, Event)> {
    let sign = |said| Signed::sign(&key(1), &said);
    let head = || Some(sign(Statement::Head(head())));
    let snapshot = || EventBody::Snapshot(sign(Statement::Snapshot(snapshot())));
    let retraction = || EventBody::Retraction(sign(Statement::Retraction(retraction(true))));
    let pages = || DeltaSource::Pages;
    vec![
        (
            "event_snapshot",
            Event {
                body: snapshot(),
                head: head(),
                delta: DeltaSource::Inline(delta()),
            },
        ),
        (
            "event_snapshot_pages",
            Event {
                body: snapshot(),
                head: head(),
                delta: pages(),
            },
        ),
        (
            "event_retraction",
            Event {
                body: retraction(),
                head: head(),
                delta: pages(),
            },
        ),
        (
            "event_retraction_all",
            Event {
                body: retraction(),
                head: None,
                delta: pages(),
            },
        ),
    ]
}
