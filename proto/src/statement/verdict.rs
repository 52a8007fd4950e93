//! The consistency service's verdict.

use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::{RevokeReason, Verdict, VerdictState};

use crate::error::{DecodeError, FieldError};
use crate::field;
use crate::v1;
use crate::v1::revoke_reason::{Kind, Nothing};
use crate::v1::verdict::State;

pub(super) fn to_proto(verdict: &Verdict) -> v1::Verdict {
    let (state, reason) = match &verdict.state {
        VerdictState::Pending => (State::Pending, None),
        VerdictState::Verified => (State::Verified, None),
        VerdictState::Complete => (State::Complete, None),
        VerdictState::Revoked(reason) => (State::Revoked, Some(reason_to_proto(reason))),
    };
    v1::Verdict {
        mirror: verdict.mirror.to_string(),
        pool: verdict.pool.to_string(),
        channel: verdict.channel.to_string(),
        build: verdict.build.get(),
        root: field::digest_to_proto(&verdict.root),
        view: Some(field::view_to_proto(&verdict.view)),
        state: state.into(),
        reason,
        issued_ms: verdict.issued.as_ms(),
        lease_revision: verdict.lease_revision,
        audited_files: verdict.audited_files,
        new_files: verdict.new_files,
    }
}

pub(super) fn from_proto(proto: v1::Verdict) -> Result<Verdict, DecodeError> {
    Ok(Verdict {
        mirror: field::mirror("verdict.mirror", &proto.mirror)?,
        pool: field::pool("verdict.pool", &proto.pool)?,
        channel: field::channel("verdict.channel", &proto.channel)?,
        build: field::build("verdict.build", proto.build)?,
        root: field::digest("verdict.root", &proto.root)?,
        view: field::view("verdict.view", proto.view)?,
        state: state_from_proto(proto.state, proto.reason)?,
        issued: field::time("verdict.issued_ms", proto.issued_ms)?,
        lease_revision: proto.lease_revision,
        audited_files: proto.audited_files,
        new_files: proto.new_files,
    })
}

fn state_from_proto(
    state: i32,
    reason: Option<v1::RevokeReason>,
) -> Result<VerdictState, DecodeError> {
    let good = match State::try_from(state) {
        Ok(State::Pending) => VerdictState::Pending,
        Ok(State::Verified) => VerdictState::Verified,
        Ok(State::Complete) => VerdictState::Complete,
        Ok(State::Revoked) => return reason_from_proto(reason).map(VerdictState::Revoked),
        Ok(State::Unspecified) | Err(_) => {
            return Err(DecodeError::field(
                "verdict.state",
                FieldError::Unknown(state),
            ));
        }
    };
    match reason {
        None => Ok(good),
        Some(_) => Err(DecodeError::field("verdict.reason", FieldError::Unexpected)),
    }
}

fn reason_to_proto(reason: &RevokeReason) -> v1::RevokeReason {
    let path = |path: &EntryPath| bytes::Bytes::copy_from_slice(path.as_bytes());
    let kind = match reason {
        RevokeReason::DigestMismatch { path: at } => Kind::DigestMismatch(path(at)),
        RevokeReason::Missing { path: at } => Kind::Missing(path(at)),
        RevokeReason::ReportedLoss { files } => Kind::ReportedLoss(*files),
        RevokeReason::Unreachable => Kind::Unreachable(Nothing {}),
        RevokeReason::Retracted => Kind::Retracted(Nothing {}),
        RevokeReason::Dropped => Kind::Dropped(Nothing {}),
        RevokeReason::WrongBuild => Kind::WrongBuild(Nothing {}),
    };
    v1::RevokeReason { kind: Some(kind) }
}

fn reason_from_proto(proto: Option<v1::RevokeReason>) -> Result<RevokeReason, DecodeError> {
    let missing = || DecodeError::field("verdict.reason", FieldError::Missing);
    Ok(
        match proto.and_then(|reason| reason.kind).ok_or_else(missing)? {
            Kind::DigestMismatch(path) => RevokeReason::DigestMismatch {
                path: field::path("verdict.reason.digest_mismatch", &path)?,
            },
            Kind::Missing(path) => RevokeReason::Missing {
                path: field::path("verdict.reason.missing", &path)?,
            },
            Kind::ReportedLoss(files) => RevokeReason::ReportedLoss { files },
            Kind::Unreachable(Nothing {}) => RevokeReason::Unreachable,
            Kind::Retracted(Nothing {}) => RevokeReason::Retracted,
            Kind::Dropped(Nothing {}) => RevokeReason::Dropped,
            Kind::WrongBuild(Nothing {}) => RevokeReason::WrongBuild,
        },
    )
}
