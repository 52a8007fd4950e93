//! Why bytes were refused.

use mirrorlog_core::id::IdError;
use mirrorlog_core::limits::THRESHOLD_MAX;
use mirrorlog_core::path::{PathError, TargetError};
use mirrorlog_core::trust::RootFault;
use mirrorlog_core::view::ViewError;

use crate::signify::SignifyError;
use crate::statement::SCHEMA;

/// Why bytes were refused. Park: the same bytes never decode later, unless by a newer mirrorlog.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than anything honest has.
    #[error("{what} has {size_bytes} bytes, at most {max_bytes} are allowed")]
    TooLarge {
        /// What was to be decoded.
        what: &'static str,
        /// Its size.
        size_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// No protobuf, or cut short.
    #[error("bytes are no {what}")]
    Malformed {
        /// What was to be decoded.
        what: &'static str,
        /// What protobuf says.
        source: prost::DecodeError,
    },
    /// Written by a newer mirrorlog.
    #[error("schema {found} is not known here, only {SCHEMA}: a newer mirrorlog is needed")]
    Schema {
        /// The schema that the bytes name.
        found: u32,
    },
    /// One field is wrong.
    #[error("{field} is not valid")]
    Field {
        /// Its name, from the outermost message on.
        field: &'static str,
        /// What is wrong with it.
        source: FieldError,
    },
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Required and not there, or of a kind that is not known here.
    #[error("missing, or of a kind that is not known here")]
    Missing,
    /// There where it may not be.
    #[error("not allowed here")]
    Unexpected,
    /// No `host:port`.
    #[error("not of the form host:port")]
    Address,
    /// 0 where numbers start at 1.
    #[error("0 is no number here, they start at 1")]
    Zero,
    /// An enum's value.
    #[error("value {0} is not known here")]
    Unknown(i32),
    /// Not of the one size that it must have.
    #[error("{found} bytes, {expected} are needed")]
    Size {
        /// Bytes needed.
        expected: usize,
        /// Bytes there.
        found: usize,
    },
    /// Longer than allowed.
    #[error("{size_bytes} bytes, at most {max_bytes} are allowed")]
    TooLong {
        /// Bytes there.
        size_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// A list that is longer than allowed.
    #[error("{found} items, at most {max} are allowed")]
    TooMany {
        /// Items there.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A number outside its range.
    #[error("{found} is more than {max}")]
    TooHigh {
        /// The number.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A time before 1970 or after 9999.
    #[error("{0} ms is not between the years 1970 and 9999")]
    Time(i64),
    /// Text that could forge lines or drive a terminal.
    #[error("control character in a text")]
    Control,
    /// Two fields or two neighbours contradict each other.
    #[error("{0}")]
    Order(&'static str),
    /// Text that is no number of the exact form that is written.
    #[error("{0:?} is not a plain decimal number")]
    Decimal(String),
    /// Text that is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// No roaring bitmap in portable serialisation.
    #[error("not a roaring bitmap")]
    Bitmap,
    /// An id, a mount or a digest.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A view.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A symlink's target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A signature, or a public key.
    #[error(transparent)]
    Signature(#[from] SignifyError),
    /// Bytes beside those that the value is written as: fields that are not known here, or a second spelling.
    #[error("it has bytes that are not known here: a newer mirrorlog may be needed")]
    Spelling,
    /// How many keys must sign.
    #[error("a threshold is between 1 and {THRESHOLD_MAX}")]
    Threshold,
    /// Who is trusted for what.
    #[error(transparent)]
    Root(#[from] RootFault),
}

impl DecodeError {
    pub(crate) fn field(field: &'static str, source: impl Into<FieldError>) -> Self {
        Self::Field {
            field,
            source: source.into(),
        }
    }

    /// Refuses more than `max_bytes`.
    pub(crate) fn check_size(
        what: &'static str,
        size_bytes: usize,
        max_bytes: usize,
    ) -> Result<(), Self> {
        if size_bytes > max_bytes {
            return Err(Self::TooLarge {
                what,
                size_bytes,
                max_bytes,
            });
        }
        Ok(())
    }
}

/// An error and its causes in one line, for logs and for those who are told over gRPC.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
