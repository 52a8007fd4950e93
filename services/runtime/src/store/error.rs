//! How the store fails.

use std::io;
use std::path::{Path, PathBuf};

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::PageError;

use crate::Reaction;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No blob of this digest is here.
    #[error("{0} is not in the store")]
    Absent(Digest),
    /// The bytes do not have the digest that was stated.
    #[error("content should have digest {expected} but has {found}")]
    Mismatch {
        /// The digest stated.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// A blob that arrived in pieces has the wrong length.
    #[error("{digest} should be {expected_bytes} bytes long but {found_bytes} came")]
    Size {
        /// The blob.
        digest: Digest,
        /// The length stated.
        expected_bytes: u64,
        /// The length that came, or would have come.
        found_bytes: u64,
    },
    /// The blob is larger than the caller takes.
    #[error("{digest} is {size_bytes} bytes long, at most {max_bytes} are taken here")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its length.
        size_bytes: u64,
        /// The caller's limit.
        max_bytes: u64,
    },
    /// The blob has its digest but is no manifest page.
    #[error("{digest} is not a manifest page")]
    Page {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: PageError,
    },
    /// Somebody else is receiving the same blob.
    #[error("{0} is being received by another task or process")]
    Busy(Digest),
    /// The disk, or the user's quota on it, is full.
    #[error("no space left for {}", path.display())]
    Full {
        /// Where it was to go.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Anything else that the file system says.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// What the caller best does: wait and retry, put the content aside, or stop and say so.
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Absent(_) | Self::Busy(_) => Reaction::Retry,
            Self::Mismatch { .. }
            | Self::Size { .. }
            | Self::TooLarge { .. }
            | Self::Page { .. } => Reaction::Park,
            Self::Full { .. } | Self::Io { .. } => Reaction::Halt,
        }
    }

    /// True when nothing but space is missing.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    pub(super) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.to_owned(), source.into());
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if full.contains(&source.kind()) {
            Self::Full { path, source }
        } else {
            Self::Io {
                action,
                path,
                source,
            }
        }
    }
}
