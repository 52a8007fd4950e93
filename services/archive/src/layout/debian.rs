//! The Debian layout: what apt would find wrong, found before it is published.
//!
//! For each suite, that is each folder below `dists/` with a Release or InRelease that lists digests:
//! 1. Release and InRelease parse, agree, are not past Valid-Until, and are signed when keys are configured.
//! 2. Each listed name is there in at least one compression, and what is there has its size and digests.
//!    Names of architectures that the tree never carried may be absent.
//! 3. Each index (Packages, Sources) unpacks to what is listed, and each file it names is there with size
//!    and digest.
//! 4. Files in `by-hash` folders are named by their content.
//!
//! After a change, only what differs from a build that was checked before is checked again.

mod architectures;
mod by_hash;
mod files;
mod suite;

pub(crate) use files::read_paragraphs;
pub(crate) use suite::Index;

use mirrorlog_core::manifest::{self, Listed};
use rayon::prelude::*;

use super::{Check, Extent, Rules};
use crate::publish::{Fault, Faults, PublishError, Rule, View, manifest_error};
use crate::scan::Tree;

/// Folders below `dists/` in which suites are looked for: `dists/bookworm/updates` is two deep.
const SUITE_MAX_DEPTH: usize = 3;

/// Checks a manifest.
///
/// # Errors
/// Faults of disk and store.
pub(super) fn validate(
    rules: &Rules,
    tree: Option<&Tree>,
    view: View<'_>,
    extent: Extent<'_>,
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let mut check = Check::new(rules, tree, view, extent)?;
    let folders = suites(&view)?;
    if folders.is_empty() && rules.needs_suites {
        let expected = "a Release or InRelease for each suite (or --layout plain)";
        faults.push(Fault::new(b"dists", Rule::Missing, expected, "none"));
        return Ok(());
    }
    let mut indexes = Vec::new();
    let mut own = Vec::new();
    for folder in &folders {
        let suite = suite::check(&check, folder, faults)?;
        indexes.extend(suite.indexes);
        own.extend(suite.own);
    }
    if let Some(since) = &mut check.since {
        for path in &own {
            since.lost.remove(path);
        }
    }
    let found: Result<Vec<Faults>, PublishError> = indexes
        .par_iter()
        .map(|index| files::check(&check, index))
        .collect();
    found?.into_iter().for_each(|found| faults.append(found));
    by_hash::check(&check, faults)?;
    if rules.deps {
        super::deps::check(&check, &indexes, faults)?;
    }
    Ok(())
}

/// The folders of all suites, each once: symlinked ones are not followed.
pub(crate) fn suites(view: &View<'_>) -> Result<Vec<Vec<u8>>, PublishError> {
    let mut found = Vec::new();
    let mut pending = vec![(b"dists".to_vec(), 0)];
    while let Some((folder, depth)) = pending.pop() {
        for listed in manifest::list(view.workspace, view.root, &folder) {
            match listed.map_err(manifest_error)? {
                Listed::Folder(name) if depth < SUITE_MAX_DEPTH && &*name != b"by-hash" => {
                    pending.push(([&folder[..], b"/", &name].concat(), depth + 1));
                }
                Listed::Folder(_) => {}
                Listed::Entry(name, _)
                    if depth > 0 && (&*name == b"Release" || &*name == b"InRelease") =>
                {
                    if found.last() != Some(&folder) {
                        found.push(folder.clone());
                    }
                }
                Listed::Entry(..) => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
