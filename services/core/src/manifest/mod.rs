//! The manifest: a snapshot's entries in byte order of path, stored as a Merkle search tree of pages.
//!
//! A page is named by the SHA-256 of its canonical bytes. Leaves hold entries, inner pages hold
//! the digests, counts and byte sums of the pages below, and the top page's digest is the
//! manifest's root. Where pages end is decided by the entries alone (`border`), so:
//!
//! - equal entries have one root, whatever builds led there;
//! - builds that differ little share most pages, and [`diff`] and [`apply`] read and write
//!   only the rest: O(changes x depth).
//!
//! Pages come from a [`PageRead`] and go to a [`PageWrite`]; nothing here does IO.
//! Readers do not trust a page further than its digest: decoding checks it by itself, and each
//! step down checks it against its parent. `decisions/0001-manifest-pages.md` has the reasons.
//!
//! | file | idea |
//! | --- | --- |
//! | `entry` | what a path holds |
//! | `page`, `decode` | canonical bytes, strict decoding |
//! | `border` | where a page ends |
//! | `build` | entries in order to pages |
//! | `walk` | a place in a manifest, moving forward |
//! | `read` | [`get`], [`at`], [`iter`], [`list`], [`list_from`] |
//! | `diff` | [`diff`] |
//! | `apply` | [`apply`]: which changes count; `level`: pages of one level, forward and back; `rechunk`: one level's new pages |
//! | `memory` | pages in memory, for tests |

mod apply;
mod border;
mod build;
mod decode;
mod diff;
mod entry;
mod level;
pub mod memory;
mod page;
mod read;
mod rechunk;
mod walk;

use std::sync::Arc;

pub use apply::apply;
pub use build::Builder;
pub use diff::{Difference, diff};
pub use entry::{Entry, FileEntry, Mode};
pub use page::{Page, PageError};
pub use read::{Listed, at, get, iter, list, list_from};

use crate::id::Digest;
use crate::path::EntryPath;

/// Where pages are read.
pub trait PageRead {
    /// How reading fails.
    type Error;
    /// Reads one page, and checks its digest. An absent page is an error of the source.
    ///
    /// # Errors
    /// Whatever the source fails with.
    fn page(&self, digest: &Digest) -> Result<Arc<Page>, Self::Error>;
}

/// Where pages are written.
pub trait PageWrite {
    /// How writing fails.
    type Error;
    /// Stores canonical bytes under their digest; storing one twice is fine.
    ///
    /// # Errors
    /// Whatever the sink fails with.
    fn put_page(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<(), Self::Error>;
}

/// What a finished manifest amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Digest of the top page.
    pub root: Digest,
    /// Entries.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why a manifest could not be made or read. `R`, `W`: errors of the page source and sink.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError<R, W = std::convert::Infallible> {
    /// The page source failed.
    #[error("manifest page could not be read")]
    Read(#[source] R),
    /// The page sink failed.
    #[error("manifest page could not be written")]
    Write(#[source] W),
    /// Entries or changes came out of order.
    #[error("path {0} is not after the one before it")]
    Order(EntryPath),
    /// A path is a file or symlink, and a folder too.
    #[error("path {0} is an entry and also a folder of other entries")]
    PrefixConflict(EntryPath),
    /// No page can hold what was given, or the manifest would be too large.
    #[error("manifest cannot hold this")]
    Page(#[source] PageError),
    /// A page has its digest, but not the level, paths, counts or sums that its parent says.
    #[error("manifest page {0} is not what the page above it says")]
    Mismatch(Digest),
}

impl<W> ManifestError<std::convert::Infallible, W> {
    /// The same error among those of a reader that has a page source too.
    fn with_source<R>(self) -> ManifestError<R, W> {
        match self {
            Self::Read(never) => match never {},
            Self::Write(error) => ManifestError::Write(error),
            Self::Order(path) => ManifestError::Order(path),
            Self::PrefixConflict(path) => ManifestError::PrefixConflict(path),
            Self::Page(error) => ManifestError::Page(error),
            Self::Mismatch(digest) => ManifestError::Mismatch(digest),
        }
    }
}
