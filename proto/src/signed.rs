//! Signed statements: the bytes that were signed, as they are, and the signature.

use bytes::Bytes;
use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::REPORT_MAX_BYTES;
use mirrorlog_core::sign::{SecretKey, Signature, SignatureError, TrustedKeys};
use mirrorlog_core::statement::{Head, Order, Report, Retraction, Snapshot, Statement, Verdict};
use prost::Message as _;

use crate::error::DecodeError;
use crate::signify::{self, SIGNATURE_BYTES, SignifyError};
use crate::statement::{self, Kind};
use crate::v1;

/// Room for tags and lengths around the two parts.
const FRAME_BYTES: usize = 16;
const ENCODED_MAX_BYTES: usize = REPORT_MAX_BYTES + SIGNATURE_BYTES + FRAME_BYTES;

/// A statement as it travels. Nothing in it may be believed before [`Signed::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The signed bytes.
    pub statement: Bytes,
    /// The signature over them.
    pub signature: Signature,
}

/// Why a signed statement was not accepted. Park; after a change of keys it may be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The signature, which is checked before anything else is looked at.
    #[error("signature is not accepted")]
    Signature(#[from] SignatureError),
    /// Well signed, and not to be read.
    #[error("signed statement is not accepted")]
    Decode(#[from] DecodeError),
    /// Well signed, and something else.
    #[error("this is a signed {found}, where a {expected} is needed")]
    Kind {
        /// What was asked for.
        expected: Kind,
        /// What it is.
        found: Kind,
    },
}

macro_rules! open_as {
    ($($(#[$doc:meta])* $name:ident -> $kind:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// As [`Signed::open`], and [`OpenError::Kind`] for a statement of another kind.
            pub fn $name(&self, keys: &TrustedKeys) -> Result<$kind, OpenError> {
                let statement = self.open(keys)?;
                let found = Kind::of(&statement);
                let Statement::$kind(inner) = statement else {
                    return Err(OpenError::Kind { expected: Kind::$kind, found });
                };
                Ok(inner)
            }
        )*
    };
}

impl Signed {
    /// Encodes a statement and signs its bytes. See [`statement::check`] for what readers refuse.
    pub fn sign(key: &SecretKey, statement: &Statement) -> Self {
        let statement = Bytes::from(statement::encode(statement));
        let signature = key.sign(&statement);
        Self {
            statement,
            signature,
        }
    }

    /// Verifies the signature, then decodes the statement.
    ///
    /// # Errors
    /// [`OpenError::Signature`] before a byte was decoded, else [`OpenError::Decode`].
    pub fn open(&self, keys: &TrustedKeys) -> Result<Statement, OpenError> {
        keys.verify(&self.statement, &self.signature)?;
        Ok(statement::decode(&self.statement)?)
    }

    open_as! {
        /// Opens a snapshot.
        open_snapshot -> Snapshot;
        /// Opens a head.
        open_head -> Head;
        /// Opens a retraction.
        open_retraction -> Retraction;
        /// Opens a report. That the mirror it names is the key's owner is the caller's to check.
        open_report -> Report;
        /// Opens a verdict.
        open_verdict -> Verdict;
        /// Opens an order.
        open_order -> Order;
    }

    /// SHA-256 of the signed bytes: the statement's name.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.statement)
    }

    /// As a protobuf message. Copies no statement.
    pub fn to_proto(&self) -> v1::Signed {
        v1::Signed {
            statement: self.statement.clone(),
            signature: Bytes::copy_from_slice(&signify::signature_to_bytes(&self.signature)),
        }
    }

    /// From a protobuf message. Verifies nothing.
    ///
    /// # Errors
    /// A [`DecodeError`] for a statement larger than any, and for what is no signature.
    pub fn from_proto(proto: v1::Signed) -> Result<Self, DecodeError> {
        DecodeError::check_size("statement", proto.statement.len(), REPORT_MAX_BYTES)?;
        let signature = signify::signature_from_bytes(&proto.signature);
        let signature = signature.map_err(|source| DecodeError::field("signature", source))?;
        Ok(Self {
            statement: proto.statement,
            signature,
        })
    }

    /// As protobuf bytes: reports, verdicts and orders on the log, heads in their bucket.
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// From protobuf bytes. Verifies nothing.
    ///
    /// # Errors
    /// A [`DecodeError`] for bytes that are none or too many.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "signed statement";
        DecodeError::check_size(what, bytes.len(), ENCODED_MAX_BYTES)?;
        let proto = v1::Signed::decode(bytes);
        Self::from_proto(proto.map_err(|source| DecodeError::Malformed { what, source })?)
    }

    /// As signify's embedded format: over HTTP and on disk. `signify -V -e -q -p KEY -x FILE -m -` verifies it
    /// and writes the statement.
    pub fn to_signify(&self, comment: &str) -> Vec<u8> {
        signify::print_embedded(&self.signature, &self.statement, comment)
    }

    /// From signify's embedded format. Verifies nothing.
    ///
    /// # Errors
    /// A [`SignifyError`] for any byte before the statement that is not as it must be.
    pub fn from_signify(file: &[u8]) -> Result<Self, SignifyError> {
        let (signature, message) = signify::parse_embedded(file)?;
        Ok(Self {
            statement: Bytes::copy_from_slice(message),
            signature,
        })
    }
}
