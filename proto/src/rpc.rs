//! Fields of gRPC messages, both ways.
//!
//! A handler reads each field with the function of its name; `?` turns what is refused into
//! `INVALID_ARGUMENT`.

use mirrorlog_core::id::MirrorId;
use mirrorlog_core::statement::{OrderKind, VerdictState};

pub use crate::field::{
    build, channel, clean_text, digest, digest_to_proto, lane, lane_to_proto, layout,
    layout_to_proto, mirror, mount, notices, notices_to_proto, optional_build, optional_channel,
    optional_digest, optional_digest_to_proto, order_outcome, order_outcome_to_proto, path, pool,
    time, view, view_to_proto,
};

use crate::error::{DecodeError, FieldError, causes};
use crate::signed::Signed;
use crate::{statement, v1};

impl From<DecodeError> for tonic::Status {
    fn from(error: DecodeError) -> Self {
        Self::invalid_argument(causes(&error))
    }
}

/// Reads a signed statement of a reply or a request. Verifies nothing.
///
/// # Errors
/// A [`DecodeError`] when it is absent or none.
pub fn signed(field: &'static str, proto: Option<v1::Signed>) -> Result<Signed, DecodeError> {
    let missing = || DecodeError::field(field, FieldError::Missing);
    Signed::from_proto(proto.ok_or_else(missing)?)
}

/// Asks for an order; the archive sets its id and time.
pub fn order_request(mirror: &MirrorId, kind: &OrderKind) -> v1::OrderRequest {
    let kind = Some(statement::order_kind_to_proto(kind));
    let order = v1::Order {
        id: 0,
        mirror: mirror.to_string(),
        issued_ms: 0,
        kind,
    };
    v1::OrderRequest { order: Some(order) }
}

/// Reads what [`order_request`] writes.
///
/// # Errors
/// A [`DecodeError`] for an order to nobody or of no known kind.
pub fn requested_order(request: v1::OrderRequest) -> Result<(MirrorId, OrderKind), DecodeError> {
    let missing = || DecodeError::field("order", FieldError::Missing);
    let order = request.order.ok_or_else(missing)?;
    Ok((
        mirror("order.mirror", &order.mirror)?,
        statement::order_kind(order.kind)?,
    ))
}

/// A verdict's word as status shows it: `pending`, `verified`, `complete` or `revoked`.
pub const fn state_text(state: &VerdictState) -> &'static str {
    match state {
        VerdictState::Pending => "pending",
        VerdictState::Verified => "verified",
        VerdictState::Complete => "complete",
        VerdictState::Revoked(_) => "revoked",
    }
}
