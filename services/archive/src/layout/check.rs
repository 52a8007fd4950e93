//! What the checks of every layout share: the manifest, what differs from the one before, small files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{self, Entry};
use mirrorlog_core::path::EntryPath;

use super::{Extent, Rules};
use crate::publish::{Fault, Faults, PublishError, Rule, View, manifest_error};
use crate::scan::Tree;

/// Largest Release, SHA256 or index.txt, in bytes; stops one file from filling memory.
pub(super) const SMALL_FILE_MAX_BYTES: u64 = 64 << 20;

/// What every check needs.
pub(super) struct Check<'a> {
    pub(super) rules: &'a Rules,
    pub(super) tree: Option<&'a Tree>,
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

impl<'a> Check<'a> {
    /// Looks up what differs from the base, if there is one.
    pub(super) fn new(
        rules: &'a Rules,
        tree: Option<&'a Tree>,
        view: View<'a>,
        extent: Extent<'a>,
    ) -> Result<Self, PublishError> {
        let since = match extent {
            Extent::Whole => None,
            Extent::Since(root) => {
                let workspace = view.workspace;
                since(View { workspace, root }, &view)?
            }
        };
        Ok(Self {
            rules,
            tree,
            view,
            since,
        })
    }

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

    /// Where a file is, for people.
    pub(super) fn place(&self, at: &EntryPath) -> PathBuf {
        let tree = self.tree.map(Tree::path).unwrap_or(Path::new(""));
        tree.join(at.to_string())
    }

    /// A small file's bytes.
    pub(super) fn read(
        &self,
        view: &View<'_>,
        path: &[u8],
        faults: &mut Faults,
    ) -> Result<Option<Vec<u8>>, PublishError> {
        use std::io::Read as _;
        let Some((at, file)) = view.follow(path)? else {
            return Ok(None);
        };
        if file.size_bytes > SMALL_FILE_MAX_BYTES {
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
        let failed = |e| PublishError::io(&self.place(&at), "read", e);
        content
            .take(SMALL_FILE_MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Ok(Some(bytes))
    }
}
