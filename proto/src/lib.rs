//! Bytes to core types and back: the only place where that happens.
//!
//! Readers are strict: sizes are bounded before anything is decoded, every id, digest, path,
//! number and time is checked, and an enum value that is not known here is an error.
//! What is refused once is refused for ever, so every error of this crate means: park it.
//!
//! | module | bytes |
//! | --- | --- |
//! | [`statement`] | what is signed |
//! | [`signed`] | a statement with its signature |
//! | [`root`] | a root document with its signatures |
//! | [`signify`] | keys, signatures and signed messages as signify's files |
//! | [`event`], [`delta`] | what travels on the log |
//! | [`peer`] | what mirrors of one pool tell each other |
//! | [`kv`] | values and keys of the key-value buckets |
//! | [`rpc`], [`codec`] | fields of gRPC messages; the messages |
//! | [`state`] | what a mirror remembers between two starts |
//! | [`directory`] | what directories tell each other and remember |
#![warn(missing_docs)]

pub mod codec;
pub mod delta;
pub mod directory;
mod error;
pub mod event;
mod field;
pub mod kv;
pub mod peer;
pub mod root;
pub mod rpc;
pub mod signed;
pub mod signify;
pub mod state;
pub mod statement;

pub use error::{DecodeError, FieldError, causes};
pub use event::{Event, EventBody};
pub use root::{SignedRoot, SignedRootError};
pub use signed::{OpenError, Signed};

/// Generated from `mirrorlog/v1/*.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("mirrorlog.v1");
    /// Descriptors of all messages and services, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
