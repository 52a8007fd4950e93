//! A `v1` message for every kind, right in each field; tests spoil one at a time.

use bytes::Bytes;
use mirrorlog_core::statement::Statement;
use prost::Message as _;
use wire::v1::{self, order, presence, statement::Kind as Proto};
use wire::{DecodeError, statement};

pub(crate) fn snapshot() -> v1::Snapshot {
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
        notices: vec![v1::Notice {
            package: "apt".into(),
            text: "needs a maintainer".into(),
        }],
    }
}

pub(crate) fn head() -> v1::Head {
    v1::Head {
        channel: "noble".into(),
        build: 37,
        root: Bytes::from_static(&[1; 32]),
        retractions: Bytes::from_static(&[3; 32]),
        issued_ms: 1000,
        expires_ms: 2000,
    }
}

pub(crate) fn retraction() -> v1::Retraction {
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

pub(crate) fn reported() -> v1::ReportedBuild {
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

pub(crate) fn view() -> Option<v1::View> {
    Some(v1::View {
        kind: Some(v1::view::Kind::All(v1::view::Everything {})),
    })
}

pub(crate) fn report() -> v1::Report {
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
        orders: vec![v1::OrderOutcome {
            id: 5,
            ok: true,
            text: "done".into(),
        }],
    }
}

pub(crate) fn verdict() -> v1::Verdict {
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

pub(crate) fn order() -> v1::Order {
    v1::Order {
        id: 5,
        mirror: "nz1".into(),
        issued_ms: 1000,
        kind: Some(order::Kind::Replay(replay())),
    }
}

pub(crate) fn replay() -> order::Replay {
    order::Replay {
        channel: String::new(),
        lane: 0,
        from: Some(order::replay::From::Build(30)),
    }
}

pub(crate) fn read(kind: Proto) -> Result<Statement, DecodeError> {
    statement::decode(
        &v1::Statement {
            schema: 1,
            kind: Some(kind),
        }
        .encode_to_vec(),
    )
}
