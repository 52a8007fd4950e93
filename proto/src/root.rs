//! Signed root documents: the bytes that were signed, as they are, and several signatures.

use bytes::Bytes;
use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::{ROOT_MAX_BYTES, SIGNATURES_MAX};
use mirrorlog_core::sign::{SecretKey, Signature};
use mirrorlog_core::statement::Statement;
use mirrorlog_core::trust::{Root, RootError, Trusted};
use prost::Message as _;

use crate::error::DecodeError;
use crate::field;
use crate::signify::{self, SIGNATURE_BYTES};
use crate::statement;
use crate::v1;

/// Room for the tag and the length of a field.
const FRAME_BYTES: usize = 8;
/// Largest signed root document, in bytes.
pub const SIGNED_ROOT_MAX_BYTES: usize =
    ROOT_MAX_BYTES + FRAME_BYTES + SIGNATURES_MAX * (SIGNATURE_BYTES + FRAME_BYTES);

/// A root document as it travels and lies on disk. Nothing in it may be believed before [`SignedRoot::pin`] or
/// [`SignedRoot::open_next`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRoot {
    /// The signed bytes.
    pub statement: Bytes,
    /// The signatures over them.
    pub signatures: Vec<Signature>,
}

/// Why a signed root document was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedRootError {
    /// Its signatures or its number.
    #[error("root document is not accepted")]
    Root(#[from] RootError),
    /// Its bytes.
    #[error("bytes are no root document")]
    Decode(#[from] DecodeError),
}

impl SignedRoot {
    /// Encodes a document, which nobody has signed yet.
    ///
    /// # Errors
    /// A [`DecodeError`] for what readers would refuse.
    pub fn new(root: &Root) -> Result<Self, DecodeError> {
        let statement = Statement::Root(root.clone());
        statement::check(&statement)?;
        Ok(Self {
            statement: statement::encode(&statement).into(),
            signatures: Vec::new(),
        })
    }

    /// Adds a key's signature, in place of an earlier one under its number.
    pub fn sign(&mut self, key: &SecretKey) {
        let signature = key.sign(&self.statement);
        self.signatures.retain(|other| other.key != signature.key);
        self.signatures.push(signature);
    }

    /// Reads the document and believes nothing: to show it, and to sign it.
    ///
    /// # Errors
    /// A [`DecodeError`] for the first thing that is wrong.
    pub fn read(&self) -> Result<Root, DecodeError> {
        statement::decode_root(&self.statement)
    }

    /// Takes it as the document that a person pinned.
    ///
    /// # Errors
    /// [`SignedRootError`]: it is no root document, or not signed by enough of the keys that it names.
    pub fn pin(&self) -> Result<Trusted, SignedRootError> {
        let root = self.read()?;
        Ok(Trusted::pin(root, &self.statement, &self.signatures)?)
    }

    /// Takes it as the version after the one in force.
    ///
    /// # Errors
    /// [`SignedRootError::Root`] before a byte was decoded when too few keys vouch for it; else any
    /// [`SignedRootError`].
    pub fn open_next(&self, trusted: &Trusted) -> Result<Trusted, SignedRootError> {
        trusted.check_vouched(&self.statement, &self.signatures)?;
        let next = self.read()?;
        Ok(trusted.update(next, &self.statement, &self.signatures)?)
    }

    /// SHA-256 of the signed bytes: the document's name.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.statement)
    }

    /// As protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        let signature = |signature| Bytes::copy_from_slice(&signify::signature_to_bytes(signature));
        v1::SignedRoot {
            statement: self.statement.clone(),
            signatures: self.signatures.iter().map(signature).collect(),
        }
        .encode_to_vec()
    }

    /// From protobuf bytes. Verifies nothing.
    ///
    /// # Errors
    /// A [`DecodeError`] for bytes that are none or too many, and for too many signatures.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "signed root document";
        DecodeError::check_size(what, bytes.len(), SIGNED_ROOT_MAX_BYTES)?;
        let proto = v1::SignedRoot::decode(bytes);
        let proto = proto.map_err(|source| DecodeError::Malformed { what, source })?;
        DecodeError::check_size("root", proto.statement.len(), ROOT_MAX_BYTES)?;
        field::check_count("signatures", proto.signatures.len(), SIGNATURES_MAX)?;
        let read = |bytes: &Bytes| {
            let signature = signify::signature_from_bytes(bytes);
            signature.map_err(|source| DecodeError::field("signatures", source))
        };
        Ok(Self {
            statement: proto.statement,
            signatures: proto
                .signatures
                .iter()
                .map(read)
                .collect::<Result<_, _>>()?,
        })
    }
}
