//! A mirror's report.

use std::collections::BTreeSet;

use mirrorlog_core::id::Build;
use mirrorlog_core::limits::{
    REPORT_BUILDS_MAX, REPORT_MAX_BYTES, REPORT_ORDERS_MAX, TEXT_MAX_BYTES,
};
use mirrorlog_core::statement::{Presence, Report, ReportedBuild};
use roaring::RoaringBitmap;

use crate::error::{DecodeError, FieldError};
use crate::field;
use crate::v1;
use crate::v1::presence::{Everything, Kind};

const ORDINALS: &str = "report.builds.presence.ordinals";

pub(super) fn to_proto(report: &Report) -> v1::Report {
    let halted = report.halted.as_ref();
    v1::Report {
        mirror: report.mirror.to_string(),
        channel: report.channel.to_string(),
        boot: report.boot,
        sequence: report.sequence,
        issued_ms: report.issued.as_ms(),
        booted_ms: report.booted.as_ms(),
        live: field::optional_build(report.live),
        builds: report.builds.iter().map(build_to_proto).collect(),
        target: field::optional_build(report.target),
        fetch_bytes_per_s: report.fetch_bytes_per_s,
        disk_free_bytes: report.disk_free_bytes,
        halted: halted.map(|text| field::clean_text(text, TEXT_MAX_BYTES)),
        orders: report
            .orders
            .iter()
            .map(field::order_outcome_to_proto)
            .collect(),
    }
}

pub(super) fn from_proto(proto: v1::Report) -> Result<Report, DecodeError> {
    field::check_count("report.builds", proto.builds.len(), REPORT_BUILDS_MAX)?;
    field::check_count("report.orders", proto.orders.len(), REPORT_ORDERS_MAX)?;
    let builds = proto.builds.into_iter().map(build_from_proto);
    let builds: Vec<ReportedBuild> = builds.collect::<Result<_, _>>()?;
    let distinct: BTreeSet<Build> = builds.iter().map(|reported| reported.build).collect();
    let once = distinct.len() == builds.len();
    field::check_order("report.builds", once, "one build is reported twice")?;
    let halted = proto
        .halted
        .map(|text| field::text("report.halted", text, TEXT_MAX_BYTES));
    let orders = proto.orders.into_iter();
    let orders = orders.map(|outcome| field::order_outcome("report.orders.text", outcome));
    Ok(Report {
        mirror: field::mirror("report.mirror", &proto.mirror)?,
        channel: field::channel("report.channel", &proto.channel)?,
        boot: proto.boot,
        sequence: proto.sequence,
        issued: field::time("report.issued_ms", proto.issued_ms)?,
        booted: field::time("report.booted_ms", proto.booted_ms)?,
        live: Build::new(proto.live),
        builds,
        target: Build::new(proto.target),
        fetch_bytes_per_s: proto.fetch_bytes_per_s,
        disk_free_bytes: proto.disk_free_bytes,
        halted: halted.transpose()?,
        orders: orders.collect::<Result<_, _>>()?,
    })
}

fn build_to_proto(reported: &ReportedBuild) -> v1::ReportedBuild {
    let presence = match &reported.presence {
        Presence::All => Kind::All(Everything {}),
        Presence::Some(ordinals) => Kind::Ordinals(bitmap_to_bytes(ordinals).into()),
    };
    v1::ReportedBuild {
        build: reported.build.get(),
        root: field::digest_to_proto(&reported.root),
        view: Some(field::view_to_proto(&reported.view)),
        presence: Some(v1::Presence {
            kind: Some(presence),
        }),
        missing_files: reported.missing_files,
        missing_bytes: reported.missing_bytes,
    }
}

fn build_from_proto(proto: v1::ReportedBuild) -> Result<ReportedBuild, DecodeError> {
    let presence = match proto.presence.and_then(|presence| presence.kind) {
        Some(Kind::All(Everything {})) => Presence::All,
        Some(Kind::Ordinals(bytes)) => Presence::Some(bitmap_from_bytes(&bytes)?),
        None => {
            return Err(DecodeError::field(
                "report.builds.presence",
                FieldError::Missing,
            ));
        }
    };
    Ok(ReportedBuild {
        build: field::build("report.builds.build", proto.build)?,
        root: field::digest("report.builds.root", &proto.root)?,
        view: field::view("report.builds.view", proto.view)?,
        presence,
        missing_files: proto.missing_files,
        missing_bytes: proto.missing_bytes,
    })
}

fn bitmap_to_bytes(bitmap: &RoaringBitmap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    match bitmap.serialize_into(&mut bytes) {
        Ok(()) => bytes,
        Err(error) => unreachable!("a Vec takes every byte: {error}"),
    }
}

/// Reads the portable serialisation (RoaringFormatSpec). It holds about as much memory as it has
/// bytes, whatever they are: runs stay runs.
fn bitmap_from_bytes(bytes: &[u8]) -> Result<RoaringBitmap, DecodeError> {
    field::check_length(ORDINALS, bytes.len(), REPORT_MAX_BYTES)?;
    let refused = || DecodeError::field(ORDINALS, FieldError::Bitmap);
    let mut rest = bytes;
    let bitmap = RoaringBitmap::deserialize_from(&mut rest).map_err(|_| refused())?;
    if rest.is_empty() {
        Ok(bitmap)
    } else {
        Err(refused())
    }
}
