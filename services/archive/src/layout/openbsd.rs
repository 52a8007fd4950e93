//! The OpenBSD layout: what pkg_add and the installer would find wrong, found before it is published.
//!
//! A folder is checked when it has SHA256 or SHA256.sig, or packages:
//! 1. SHA256 is there when packages are, or SHA256.sig. It parses, each file that it lists is there with that
//!    digest, and each package is listed.
//! 2. SHA256.sig is a signature of signify's with the same lines behind it. When keys are configured it must
//!    be there, by one of them, and name each set too (`*.tgz`; an operator's own `site*` apart, of which the
//!    installer asks). Other files that it does not name are not vouched for, and the signature inside a package
//!    is not looked at: pkg_add does that.
//! 3. index.txt names each package, and nothing that is not there. (What ls says of sizes and dates is from
//!    before the packages were signed, and does not count.)
//! 4. Each package begins with a packing list that has its file's name, and each `@depend` of it is met by a
//!    package of the same folder. Which of several pkg_add takes is not looked at: it takes one of them. For
//!    `packages-stable/ARCH` those of `packages/ARCH` count too, as pkg_add looks into both.
//!
//! Files of other archives that are called as packages are make no folder of packages: where there is no list, and the
//! folder is no `packages*/ARCH`, a packing list has to be in one of them.
//!
//! After a change, only folders in which something differs are checked again, and those with symlinks, which
//! may lead to it. Of their packages only those with other content are read; a package that is new breaks no
//! other one. But when one went, who needed it stands in the packing lists alone, so all of the folder's are
//! read again.

mod detect;
mod folder;
mod packages;
mod signed;

pub(super) use detect::is_openbsd;

use std::collections::BTreeMap;

use mirrorlog_core::manifest::Entry;
use mirrorlog_core::openbsd::{beside, package};

use super::{Check, Extent, Rules};
use crate::publish::{Fault, Faults, PublishError, Rule, View};
use crate::scan::{Tree, split};

const SHA256: &str = "SHA256";
const SHA256_SIG: &str = "SHA256.sig";
const INDEX: &str = "index.txt";

/// What stands out in a folder.
#[derive(Clone, Copy, Debug, Default)]
struct Outline {
    has_sums: bool,
    has_index: bool,
    has_packages: bool,
    has_links: bool,
}

/// Checks a manifest.
///
/// # Errors
/// Faults of disk and store, and of the configured keys.
pub(super) fn validate(
    rules: &Rules,
    tree: Option<&Tree>,
    view: View<'_>,
    extent: Extent<'_>,
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let check = Check::new(rules, tree, view, extent)?;
    let keys = signed::keys(rules)?;
    let outlines = outlines(&check.view)?;
    let mut any = outlines.values().any(|outline| outline.has_lists());
    for (path, outline) in &outlines {
        let looked_at = !any || differs(&check, path, *outline)?;
        if looked_at && is_checked(&check, path, *outline)? {
            any = true;
            folder::check(&check, keys.as_ref(), path, faults)?;
        }
    }
    if !any && rules.needs_suites {
        let expected = "a folder with SHA256, or with packages (or --layout plain)";
        faults.push(Fault::new(b".", Rule::Missing, expected, "none"));
    }
    Ok(())
}

/// True when a folder is to be as OpenBSD's are.
fn is_checked(check: &Check<'_>, path: &[u8], outline: Outline) -> Result<bool, PublishError> {
    if outline.has_lists() || !outline.has_packages {
        return Ok(outline.has_lists());
    }
    Ok(is_for_packages(path) || packages::has_any(check, path)?)
}

/// `…/packages/ARCH`, `…/packages-stable/ARCH` and the like.
fn is_for_packages(path: &[u8]) -> bool {
    let (above, _architecture) = split(path);
    split(above).1.starts_with(b"packages")
}

/// All folders with entries of their own.
fn outlines(view: &View<'_>) -> Result<BTreeMap<Vec<u8>, Outline>, PublishError> {
    let mut outlines: BTreeMap<Vec<u8>, Outline> = BTreeMap::new();
    for found in view.below(b"") {
        let (path, entry) = found?;
        let (folder, name) = split(path.as_bytes());
        if !outlines.contains_key(folder) {
            outlines.insert(folder.to_vec(), Outline::default());
        }
        if let Some(outline) = outlines.get_mut(folder) {
            outline.add(name, matches!(entry, Entry::Symlink { .. }));
        }
    }
    Ok(outlines)
}

impl Outline {
    fn add(&mut self, name: &[u8], is_link: bool) {
        self.has_links |= is_link;
        self.has_sums |= name == SHA256.as_bytes() || name == SHA256_SIG.as_bytes();
        self.has_index |= name == INDEX.as_bytes();
        self.has_packages = self.has_packages || package(name).is_some();
    }

    /// True when it lists what it has.
    fn has_lists(&self) -> bool {
        self.has_sums || (self.has_index && self.has_packages)
    }
}

/// True when what is said in or of a folder may be other than it was in the base.
fn differs(check: &Check<'_>, path: &[u8], outline: Outline) -> Result<bool, PublishError> {
    let Some(since) = &check.since else {
        return Ok(true);
    };
    let within = |folder: &[u8]| {
        let mut touched = since.touched.iter();
        touched.any(|path| folder.is_empty() || path.is_below(folder))
    };
    if outline.has_links || within(path) {
        return Ok(true);
    }
    Ok(match beside(path) {
        // A link may lead to what changed elsewhere.
        Some(beside) => within(&beside) || folder::real(&check.view, &beside)? != beside,
        None => false,
    })
}

#[cfg(test)]
mod tests;
