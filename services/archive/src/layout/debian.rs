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

use std::collections::BTreeSet;

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{self, Entry, Listed};
use mirrorlog_core::path::EntryPath;
use rayon::prelude::*;

use super::{Extent, Rules};
use crate::publish::{Fault, Faults, PublishError, Rule, View, manifest_error};
use crate::scan::Tree;

/// Folders below `dists/` in which suites are looked for: `dists/bookworm/updates` is two deep.
const SUITE_MAX_DEPTH: usize = 3;

/// What every check needs.
pub(super) struct Check<'a> {
    pub(super) rules: &'a Rules,
    pub(super) tree: &'a Tree,
    pub(super) view: View<'a>,
    pub(super) since: Option<Since<'a>>,
}

/// What differs from a build that was checked before.
pub(super) struct Since<'a> {
    pub(super) base: View<'a>,
    /// Paths that were added, changed or removed.
    pub(super) touched: BTreeSet<EntryPath>,
    /// Those that the base had with other content, and that an index may name.
    pub(super) lost: BTreeSet<EntryPath>,
}

/// Checks a manifest.
///
/// # Errors
/// Faults of disk and store.
pub(super) fn validate(
    rules: &Rules,
    tree: &Tree,
    view: View<'_>,
    extent: Extent<'_>,
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let since = match extent {
        Extent::Whole => None,
        Extent::Since(base) => since(
            View {
                workspace: view.workspace,
                root: base,
            },
            &view,
        )?,
    };
    let mut check = Check {
        rules,
        tree,
        view,
        since,
    };
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

/// What differs between two manifests; `None` when symlinks moved, because then anything may.
fn since<'a>(base: View<'a>, view: &View<'_>) -> Result<Option<Since<'a>>, PublishError> {
    let (mut touched, mut lost) = (BTreeSet::new(), BTreeSet::new());
    for difference in manifest::diff(view.workspace, Some(base.root), Some(view.root)) {
        let difference = difference.map_err(manifest_error)?;
        let new = difference.new.map(|(_ordinal, entry)| entry);
        let content =
            |entry: &Option<Entry>| entry.as_ref().and_then(Entry::file).map(|file| file.digest);
        let is_link = |entry: &Option<Entry>| matches!(entry, Some(Entry::Symlink { .. }));
        if is_link(&difference.old) || is_link(&new) {
            return Ok(None);
        }
        if difference.old.is_some() && content(&difference.old) != content(&new) {
            lost.insert(difference.path.clone());
        }
        touched.insert(difference.path);
    }
    Ok(Some(Since {
        base,
        touched,
        lost,
    }))
}

impl Check<'_> {
    /// True when a file was checked, with the same content at the same path, in the base.
    pub(super) fn was_there(
        &self,
        path: &EntryPath,
        digest: &Digest,
    ) -> Result<bool, PublishError> {
        let Some(since) = &self.since else {
            return Ok(false);
        };
        Ok(since
            .base
            .get(path)?
            .and_then(|old| old.file().map(|file| file.digest))
            == Some(*digest))
    }

    /// A small file's bytes.
    pub(super) fn read(
        &self,
        view: &View<'_>,
        path: &[u8],
        faults: &mut Faults,
    ) -> Result<Option<Vec<u8>>, PublishError> {
        use std::io::Read as _;
        const RELEASE_MAX_BYTES: u64 = 64 << 20;
        let Some((at, file)) = view.follow(path)? else {
            return Ok(None);
        };
        if file.size_bytes > RELEASE_MAX_BYTES {
            faults.push(Fault::new(
                path,
                Rule::Size,
                "at most 64 MiB",
                format!("{} bytes", file.size_bytes),
            ));
            return Ok(None);
        }
        let Some(content) = view.workspace.content(self.tree, &at, &file)? else {
            faults.push(Fault::changed(path, "nothing"));
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let failed = |e| PublishError::io(&self.tree.path().join(at.to_string()), "read", e);
        content
            .take(RELEASE_MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests;
