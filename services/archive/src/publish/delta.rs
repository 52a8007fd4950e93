//! `--changed`: looks at the listed paths only and makes the changes to a base manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::Entry;
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::{Change, Delta};
use rayon::prelude::*;
use runtime::store::Batch;

use super::error::PublishError;
use super::fault::{Fault, Faults, Rule};
use super::workspace::{View, Workspace};
use crate::scan::{
    Found, Item, Kind, ScanInput, Stamp, Step, fault_or_error, means_changed, recheck_one, take,
    walk,
};

/// What is at the listed paths now. A listed folder, there or gone, means everything below it.
pub(crate) struct Listed {
    scopes: BTreeSet<EntryPath>,
    present: BTreeMap<EntryPath, Entry>,
    read: Vec<(EntryPath, Stamp)>,
}

impl Listed {
    /// Looks at `paths` (relative to the tree) and reads what is there into `batch`.
    pub(crate) fn look(
        input: &ScanInput<'_>,
        batch: &Batch,
        paths: &[Vec<u8>],
        faults: &mut Faults,
    ) -> Result<Self, PublishError> {
        let scopes = scopes(paths, faults);
        let mut items = Vec::new();
        for scope in &scopes {
            look_at(input, scope, &mut items, faults)?;
        }
        let found: Result<Vec<Found>, PublishError> = items
            .par_iter()
            .with_min_len(8)
            .map(|item| take(input, batch, item))
            .collect();
        let mut listed = Self {
            scopes,
            present: BTreeMap::new(),
            read: Vec::new(),
        };
        for (item, found) in items.into_iter().zip(found?) {
            input.counters.seen(1);
            match found {
                Found::Folder => listed.read.push((item.path, item.stamp)),
                Found::Fault(fault) => faults.push(fault),
                Found::Entry { entry, read } => {
                    if read {
                        listed.read.push((item.path.clone(), item.stamp));
                    }
                    listed.present.insert(item.path, entry);
                }
            }
        }
        Ok(listed)
    }

    /// What somebody says that looked there: whatever `scopes` names is as `present` says, or gone.
    pub(crate) fn told(
        paths: &[Vec<u8>],
        present: BTreeMap<EntryPath, Entry>,
        faults: &mut Faults,
    ) -> Self {
        let scopes = scopes(paths, faults);
        let told = |path: &EntryPath| {
            let own = |path: &EntryPath| scopes.contains(path);
            own(path) || folders_of(path).any(|folder| own(&folder))
        };
        for path in present.keys().filter(|path| !told(path)) {
            let expected = "a path that is listed, or below one";
            faults.push(Fault::new(path.as_bytes(), Rule::Path, expected, "another"));
        }
        Self {
            scopes,
            present,
            read: Vec::new(),
        }
    }

    /// What is there, for whoever makes the manifest.
    pub(crate) fn into_told(self) -> (BTreeSet<EntryPath>, BTreeMap<EntryPath, Entry>) {
        (self.scopes, self.present)
    }

    /// Looks again at what was read.
    pub(crate) fn recheck(
        &self,
        input: &ScanInput<'_>,
        faults: &mut Faults,
    ) -> Result<(), PublishError> {
        for (path, stamp) in &self.read {
            if let Some(fault) = recheck_one(
                input.tree,
                path.as_bytes(),
                stamp,
                input.workspace.is_immutable(path),
            )? {
                faults.push(fault);
            }
        }
        Ok(())
    }

    /// The changes that make `base` say what is on disk.
    pub(crate) fn against(
        &self,
        workspace: &Workspace,
        base: Option<&Digest>,
    ) -> Result<Delta, PublishError> {
        let mut old = BTreeMap::new();
        if let Some(root) = base {
            let view = View { workspace, root };
            for scope in &self.scopes {
                if let Some(entry) = view.get(scope)? {
                    old.insert(scope.clone(), entry);
                    continue; // a file or symlink has nothing below it
                }
                let prefix = [scope.as_bytes(), b"/"].concat();
                for found in view.below(&prefix) {
                    let (path, entry) = found?;
                    old.insert(path, entry);
                }
            }
        }
        let mut delta = Delta::new();
        for (path, entry) in &self.present {
            if old.remove(path).as_ref() != Some(entry) {
                delta.push(Change {
                    path: path.clone(),
                    new: Some(entry.clone()),
                });
            }
        }
        delta.extend(old.into_keys().map(|path| Change { path, new: None }));
        delta.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(delta)
    }
}

/// The listed paths, checked, without those that lie below another listed one.
fn scopes(paths: &[Vec<u8>], faults: &mut Faults) -> BTreeSet<EntryPath> {
    let mut all = BTreeSet::new();
    for path in paths {
        let plain = trim(path);
        match EntryPath::new(plain) {
            Ok(path) => {
                all.insert(path);
            }
            Err(error) => {
                faults.push(Fault::new(
                    path,
                    Rule::Path,
                    "a path below the tree",
                    error.to_string(),
                ));
            }
        }
    }
    let below_another = |path: &EntryPath| folders_of(path).any(|folder| all.contains(&folder));
    all.iter()
        .filter(|path| !below_another(path))
        .cloned()
        .collect()
}

/// The folders that a path is in.
fn folders_of(path: &EntryPath) -> impl Iterator<Item = EntryPath> {
    let bytes = path.as_bytes();
    let slashes = bytes.iter().enumerate().filter(|(_, b)| **b == b'/');
    slashes.filter_map(|(at, _)| EntryPath::new(&bytes[..at]).ok())
}

/// Without `./` in front and slashes at the end, as find and rsync print paths.
fn trim(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"./") {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    path
}

fn look_at(
    input: &ScanInput<'_>,
    scope: &EntryPath,
    items: &mut Vec<Item>,
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let (stamp, kind) = match input.tree.look(scope.as_bytes()) {
        Ok(found) => found,
        Err(_) if input.tree.is_through_link(scope.as_bytes()) => {
            let expected = "a path without symlinks on its way: list what they lead to";
            faults.push(Fault::new(
                scope.as_bytes(),
                Rule::Path,
                expected,
                "a symlink",
            ));
            return Ok(());
        }
        Err(error) if means_changed(&error) => return Ok(()), // gone
        Err(error) => {
            faults.push(fault_or_error(input.tree, scope.as_bytes(), error)?);
            return Ok(());
        }
    };
    let is_folder = kind == Kind::Folder;
    items.push(Item {
        path: scope.clone(),
        stamp,
        kind,
    });
    if is_folder {
        walk(input.tree, scope.as_bytes(), &mut |steps| {
            for step in steps {
                match step {
                    Step::Item(item) => items.push(item),
                    Step::Fault(fault) => faults.push(fault),
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nested_and_repeated_paths_are_looked_at_once() {
        let mut faults = Faults::default();
        let paths =
            ["b/", "./a/x", "a/x", "b.c", "b/y/z", "a/x/deep"].map(|p| p.as_bytes().to_vec());
        let names: Vec<String> = scopes(&paths, &mut faults)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names, ["a/x", "b", "b.c"]);
        assert!(faults.is_empty());
    }

    #[test]
    fn paths_outside_are_faults() {
        let mut faults = Faults::default();
        let paths =
            ["../x", "/etc/passwd", "a/../../b", ".", "", "@/x"].map(|p| p.as_bytes().to_vec());
        assert!(scopes(&paths, &mut faults).is_empty());
        assert_eq!(faults.count(), 6);
    }
}
