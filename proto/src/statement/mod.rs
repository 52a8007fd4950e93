//! Statements: what is signed.
//!
//! [`encode`] writes canonical bytes; they are signed and carried as they are, and nobody encodes
//! them again. Fields that a reader does not know are skipped; whatever changes the meaning of a
//! statement needs a new [`SCHEMA`]. In a root document, which decides whom to believe, nothing is
//! skipped: whoever does not understand all of it must not act on it.

mod archive;
mod order;
mod report;
mod root;
mod verdict;

use mirrorlog_core::limits::{REPORT_MAX_BYTES, ROOT_MAX_BYTES, STATEMENT_MAX_BYTES};
use mirrorlog_core::statement::Statement;
use mirrorlog_core::trust::Root;
use prost::Message as _;

use crate::error::{DecodeError, FieldError};
use crate::v1;
use crate::v1::statement::Kind as Proto;

pub(crate) use order::{kind_from_proto as order_kind, kind_to_proto as order_kind_to_proto};

/// The schema that this code writes, and the only one that it reads.
pub const SCHEMA: u32 = 1;

/// Which statement it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Statement::Snapshot`]
    Snapshot,
    /// [`Statement::Head`]
    Head,
    /// [`Statement::Retraction`]
    Retraction,
    /// [`Statement::Report`]
    Report,
    /// [`Statement::Verdict`]
    Verdict,
    /// [`Statement::Order`]
    Order,
    /// [`Statement::Root`]
    Root,
}

impl Kind {
    /// The kind of `statement`.
    pub const fn of(statement: &Statement) -> Self {
        match statement {
            Statement::Snapshot(_) => Self::Snapshot,
            Statement::Head(_) => Self::Head,
            Statement::Retraction(_) => Self::Retraction,
            Statement::Report(_) => Self::Report,
            Statement::Verdict(_) => Self::Verdict,
            Statement::Order(_) => Self::Order,
            Statement::Root(_) => Self::Root,
        }
    }

    /// The kind's name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Head => "head",
            Self::Retraction => "retraction",
            Self::Report => "report",
            Self::Verdict => "verdict",
            Self::Order => "order",
            Self::Root => "root",
        }
    }

    /// Most bytes that a statement of this kind may have.
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::Report => REPORT_MAX_BYTES,
            Self::Root => ROOT_MAX_BYTES,
            Self::Snapshot | Self::Head | Self::Retraction | Self::Verdict | Self::Order => {
                STATEMENT_MAX_BYTES
            }
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Encodes a statement.
///
/// Texts for people are cleaned ([`crate::rpc::clean_text`]); nothing else is changed or checked.
/// Whoever makes a statement of foreign parts calls [`check`] before signing it.
pub fn encode(statement: &Statement) -> Vec<u8> {
    let kind = match statement {
        Statement::Snapshot(snapshot) => Proto::Snapshot(archive::snapshot_to_proto(snapshot)),
        Statement::Head(head) => Proto::Head(archive::head_to_proto(head)),
        Statement::Retraction(taken) => Proto::Retraction(archive::retraction_to_proto(taken)),
        Statement::Report(report) => Proto::Report(report::to_proto(report)),
        Statement::Verdict(verdict) => Proto::Verdict(verdict::to_proto(verdict)),
        Statement::Order(order) => Proto::Order(order::to_proto(order)),
        Statement::Root(root) => Proto::Root(root::to_proto(root)),
    };
    v1::Statement {
        schema: SCHEMA,
        kind: Some(kind),
    }
    .encode_to_vec()
}

/// Decodes a statement and checks all of it.
///
/// # Errors
/// A [`DecodeError`] for the first thing that is wrong.
pub fn decode(bytes: &[u8]) -> Result<Statement, DecodeError> {
    decode_within(bytes, REPORT_MAX_BYTES)
}

/// Decodes a root document, which may be larger than any other statement.
///
/// # Errors
/// As [`decode`], and [`DecodeError::Field`] for a statement of another kind.
pub fn decode_root(bytes: &[u8]) -> Result<Root, DecodeError> {
    match decode_within(bytes, ROOT_MAX_BYTES)? {
        Statement::Root(root) => Ok(root),
        Statement::Snapshot(_)
        | Statement::Head(_)
        | Statement::Retraction(_)
        | Statement::Report(_)
        | Statement::Verdict(_)
        | Statement::Order(_) => Err(DecodeError::field("statement.kind", FieldError::Unexpected)),
    }
}

fn decode_within(bytes: &[u8], max_bytes: usize) -> Result<Statement, DecodeError> {
    DecodeError::check_size("statement", bytes.len(), max_bytes)?;
    let decoded = v1::Statement::decode(bytes);
    let proto = decoded.map_err(|source| DecodeError::Malformed {
        what: "statement",
        source,
    })?;
    if proto.schema != SCHEMA {
        return Err(DecodeError::Schema {
            found: proto.schema,
        });
    }
    let missing = || DecodeError::field("statement.kind", FieldError::Missing);
    let statement = match proto.kind.ok_or_else(missing)? {
        Proto::Snapshot(snapshot) => Statement::Snapshot(archive::snapshot_from_proto(snapshot)?),
        Proto::Head(head) => Statement::Head(archive::head_from_proto(head)?),
        Proto::Retraction(taken) => Statement::Retraction(archive::retraction_from_proto(taken)?),
        Proto::Report(report) => Statement::Report(report::from_proto(report)?),
        Proto::Verdict(verdict) => Statement::Verdict(verdict::from_proto(verdict)?),
        Proto::Order(order) => Statement::Order(order::from_proto(order)?),
        Proto::Root(root) => Statement::Root(root::from_proto(root)?),
    };
    let kind = Kind::of(&statement);
    DecodeError::check_size(kind.as_str(), bytes.len(), kind.max_bytes())?;
    if kind == Kind::Root && encode(&statement) != bytes {
        return Err(DecodeError::field("statement", FieldError::Spelling));
    }
    Ok(statement)
}

/// Checks that readers will accept the statement: limits, order of numbers, size.
///
/// # Errors
/// What [`decode`] or [`decode_root`] would say to its bytes.
pub fn check(statement: &Statement) -> Result<(), DecodeError> {
    let max_bytes = Kind::of(statement).max_bytes();
    decode_within(&encode(statement), max_bytes).map(|_accepted| ())
}
