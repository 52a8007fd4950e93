//! The archive's statements on builds: snapshot, head, retraction.

use mirrorlog_core::id::Build;
use mirrorlog_core::limits::{MANIFEST_MAX_ENTRIES, RETRACTIONS_MAX, TEXT_MAX_BYTES};
use mirrorlog_core::statement::{Head, Retraction, Snapshot};

use crate::error::{DecodeError, FieldError};
use crate::field;
use crate::v1;

pub(super) fn snapshot_to_proto(snapshot: &Snapshot) -> v1::Snapshot {
    v1::Snapshot {
        channel: snapshot.channel.to_string(),
        build: snapshot.build.get(),
        base: field::optional_build(snapshot.base),
        root: field::digest_to_proto(&snapshot.root),
        previous: field::optional_digest_to_proto(snapshot.previous.as_ref()),
        created_ms: snapshot.created.as_ms(),
        entries: snapshot.entries,
        bytes: snapshot.bytes,
        lane: field::lane_to_proto(snapshot.lane),
        mount: snapshot.mount.to_string(),
        layout: field::layout_to_proto(snapshot.layout),
        precedence: snapshot.precedence,
        notices: field::notices_to_proto(&snapshot.notices),
    }
}

pub(super) fn snapshot_from_proto(proto: v1::Snapshot) -> Result<Snapshot, DecodeError> {
    let snapshot = Snapshot {
        channel: field::channel("snapshot.channel", &proto.channel)?,
        build: field::build("snapshot.build", proto.build)?,
        base: Build::new(proto.base),
        root: field::digest("snapshot.root", &proto.root)?,
        previous: field::optional_digest("snapshot.previous", &proto.previous)?,
        created: field::time("snapshot.created_ms", proto.created_ms)?,
        entries: proto.entries,
        bytes: proto.bytes,
        lane: field::lane("snapshot.lane", proto.lane)?,
        mount: field::mount("snapshot.mount", &proto.mount)?,
        layout: field::layout("snapshot.layout", proto.layout)?,
        precedence: proto.precedence,
        notices: field::notices("snapshot.notices", proto.notices)?,
    };
    let forward = snapshot.base.is_none_or(|base| base < snapshot.build);
    field::check_order(
        "snapshot.base",
        forward,
        "the base is not older than the build",
    )?;
    let linked = snapshot.previous.is_none() || snapshot.build > Build::FIRST;
    field::check_order(
        "snapshot.previous",
        linked,
        "a first build has no predecessor",
    )?;
    check_highest("snapshot.entries", snapshot.entries, MANIFEST_MAX_ENTRIES)?;
    Ok(snapshot)
}

pub(super) fn head_to_proto(head: &Head) -> v1::Head {
    v1::Head {
        channel: head.channel.to_string(),
        build: head.build.get(),
        root: field::digest_to_proto(&head.root),
        retractions: field::digest_to_proto(&head.retractions),
        issued_ms: head.issued.as_ms(),
        expires_ms: head.expires.as_ms(),
    }
}

pub(super) fn head_from_proto(proto: v1::Head) -> Result<Head, DecodeError> {
    let head = Head {
        channel: field::channel("head.channel", &proto.channel)?,
        build: field::build("head.build", proto.build)?,
        root: field::digest("head.root", &proto.root)?,
        retractions: field::digest("head.retractions", &proto.retractions)?,
        issued: field::time("head.issued_ms", proto.issued_ms)?,
        expires: field::time("head.expires_ms", proto.expires_ms)?,
    };
    let lasts = head.issued <= head.expires;
    field::check_order("head.expires_ms", lasts, "expires before it was issued")?;
    Ok(head)
}

pub(super) fn retraction_to_proto(retraction: &Retraction) -> v1::Retraction {
    v1::Retraction {
        channel: retraction.channel.to_string(),
        sequence: retraction.sequence,
        first: retraction.first.get(),
        last: retraction.last.get(),
        reason: field::clean_text(&retraction.reason, TEXT_MAX_BYTES),
        replacement: field::optional_build(retraction.replacement),
        created_ms: retraction.created.as_ms(),
    }
}

pub(super) fn retraction_from_proto(proto: v1::Retraction) -> Result<Retraction, DecodeError> {
    let retraction = Retraction {
        channel: field::channel("retraction.channel", &proto.channel)?,
        sequence: proto.sequence,
        first: field::build("retraction.first", proto.first)?,
        last: field::build("retraction.last", proto.last)?,
        reason: field::text("retraction.reason", proto.reason, TEXT_MAX_BYTES)?,
        replacement: Build::new(proto.replacement),
        created: field::time("retraction.created_ms", proto.created_ms)?,
    };
    if retraction.sequence == 0 {
        return Err(DecodeError::field("retraction.sequence", FieldError::Zero));
    }
    check_highest(
        "retraction.sequence",
        retraction.sequence,
        RETRACTIONS_MAX as u64,
    )?;
    let ordered = retraction.first <= retraction.last;
    field::check_order(
        "retraction.last",
        ordered,
        "the last build is before the first",
    )?;
    let good = retraction
        .replacement
        .is_none_or(|build| !retraction.covers(build));
    field::check_order(
        "retraction.replacement",
        good,
        "the replacement is itself retracted",
    )?;
    Ok(retraction)
}

fn check_highest(field: &'static str, found: u64, max: u64) -> Result<(), DecodeError> {
    if found > max {
        return Err(DecodeError::field(
            field,
            FieldError::TooHigh { found, max },
        ));
    }
    Ok(())
}
