//! What each layout checks of a tree before it is published.

mod check;
mod checksum;
mod debian;
mod deps;
mod index;
mod openbsd;
mod openpgp;
mod release;
mod unpack;
mod version;

use std::io;
use std::path::{Path, PathBuf};

use mirrorlog_core::id::Digest;
use mirrorlog_core::layout::Layout;
use mirrorlog_core::time::Timestamp;

use check::Check;
pub use checksum::{Algorithm, Stated, Sum};
pub use deps::{Relation, relation};
pub use index::{IndexKind, Named, read_index};
pub use release::{Release, ReleaseError};
pub use unpack::{Packing, Unpacked};
pub use version::compare as compare_versions;

use crate::publish::{Faults, PublishError, View};
use crate::scan::Tree;

/// What the checks go by.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) layout: Layout,
    /// A channel that takes what its siblings leave has no Release, or SHA256, of its own.
    pub(crate) needs_suites: bool,
    pub(crate) allow_expired: bool,
    pub(crate) deps: bool,
    pub(crate) openpgp_keyring: Option<PathBuf>,
    /// Public keys of which one must have signed each SHA256.sig; empty: signatures are not verified.
    pub(crate) signify_keys: Vec<PathBuf>,
    pub(crate) now: Timestamp,
    /// Root of the build that this one follows.
    pub(crate) before: Option<Digest>,
}

/// How much of a manifest is to be checked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent<'a> {
    /// All of it.
    Whole,
    /// What differs from this root, which was checked when it was published.
    Since(&'a Digest),
}

/// Checks a manifest by its layout. Content comes from the store, or else from the tree, where there is one.
///
/// # Errors
/// Faults of disk and store; faults of the tree go into `faults`.
pub(crate) fn validate(
    rules: &Rules,
    tree: Option<&Tree>,
    view: View<'_>,
    extent: Extent<'_>,
    faults: &mut Faults,
) -> Result<(), PublishError> {
    match rules.layout {
        Layout::Plain => Ok(()),
        Layout::Debian => debian::validate(rules, tree, view, extent, faults),
        Layout::OpenBsd => openbsd::validate(rules, tree, view, extent, faults),
    }
}

/// The layout that a tree looks like: debian when there is a `dists/*/Release` or `InRelease`, or one a
/// folder deeper, as in `dists/bookworm/updates`; openbsd when a folder has packages of OpenBSD and lists
/// of them, or signed sets.
///
/// # Errors
/// When `dists` is there and cannot be read.
pub fn detect(tree: &Path) -> io::Result<Layout> {
    if is_debian(tree)? {
        return Ok(Layout::Debian);
    }
    Ok(if openbsd::is_openbsd(tree) {
        Layout::OpenBsd
    } else {
        Layout::Plain
    })
}

fn is_debian(tree: &Path) -> io::Result<bool> {
    let dists = match std::fs::read_dir(tree.join("dists")) {
        Ok(dists) => dists,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(false),
        Err(error) => return Err(error),
    };
    let is_suite = |folder: &Path| {
        let has = |name| folder.join(name).is_file();
        has("Release") || has("InRelease")
    };
    for suite in dists {
        let suite = suite?;
        let path = suite.path();
        if is_suite(&path) {
            return Ok(true);
        }
        if suite.file_type()?.is_dir() {
            for nested in std::fs::read_dir(&path)? {
                if is_suite(&nested?.path()) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
