//! One folder: its lists, and what is there.

use std::collections::BTreeSet;

use mirrorlog_core::manifest::{self, Entry, Listed};
use mirrorlog_core::openbsd::{Checksum, PackageName, beside, checksums, listed_names, package};
use mirrorlog_core::path::{EntryPath, Found, Resolved, resolve};
use mirrorlog_core::sign::TrustedKeys;

use super::super::Check;
use super::{INDEX, Outline, SHA256, SHA256_SIG, packages, signed};
use crate::publish::{Fault, Faults, PublishError, Rule, View, manifest_error};

/// A folder's own names.
pub(super) struct Folder {
    path: Vec<u8>,
    names: BTreeSet<Box<[u8]>>,
    pub(super) outline: Outline,
    pub(super) packages: BTreeSet<PackageName>,
}

impl Folder {
    /// Lists a folder, behind its symlinks; one that is not there is empty.
    pub(super) fn read(view: &View<'_>, path: &[u8]) -> Result<Self, PublishError> {
        let path = &real(view, path)?[..];
        let mut folder = Self {
            path: path.to_vec(),
            names: BTreeSet::new(),
            outline: Outline::default(),
            packages: BTreeSet::new(),
        };
        for listed in manifest::list(view.workspace, view.root, path) {
            let name = match listed.map_err(manifest_error)? {
                Listed::Folder(name) => name,
                Listed::Entry(name, entry) => {
                    folder.outline.add(&name, entry.file().is_none());
                    folder.packages.extend(package(&name));
                    name
                }
            };
            folder.names.insert(name);
        }
        Ok(folder)
    }

    /// Where it is; empty: the tree's top.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// The path of a name in it.
    pub(super) fn at(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() {
            name.to_vec()
        } else {
            [&self.path[..], b"/", name].concat()
        }
    }

    /// The folder as people read it.
    pub(super) fn shown(&self) -> String {
        if self.path.is_empty() {
            "the top folder".to_owned()
        } else {
            String::from_utf8_lossy(&self.path).into_owned()
        }
    }
}

/// A folder's path without symlinks; as it is when they lead nowhere.
pub(super) fn real(view: &View<'_>, path: &[u8]) -> Result<Vec<u8>, PublishError> {
    let resolved = resolve(path, |at| {
        Ok::<_, PublishError>(match view.get(at)? {
            Some(Entry::File(_)) => Found::File(()),
            Some(Entry::Symlink { target }) => Found::Symlink(target),
            None => Found::Nothing,
        })
    })?;
    Ok(match resolved {
        Resolved::Folder(real) => real,
        Resolved::File(()) | Resolved::Refused => path.to_vec(),
    })
}

/// Checks one folder.
pub(super) fn check(
    check: &Check<'_>,
    keys: Option<&TrustedKeys>,
    path: &[u8],
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let folder = Folder::read(&check.view, path)?;
    if let Some((list, sums)) = sums(check, keys, &folder, faults)? {
        listed(check, &folder, list, &sums, faults)?;
        if keys.is_some() {
            unnamed_sets(&folder, list, &sums, faults);
        }
    }
    let index = folder.at(INDEX.as_bytes());
    if let Some(text) = check.read(&check.view, &index, faults)? {
        indexed(&folder, &index, &text, faults);
    }
    let more = match beside(path) {
        Some(path) => Some(Folder::read(&check.view, &path)?),
        None => None,
    };
    packages::check(check, &folder, more.as_ref(), faults)
}

/// What SHA256 says, or without one what SHA256.sig says, and which of them it is.
fn sums(
    check: &Check<'_>,
    keys: Option<&TrustedKeys>,
    folder: &Folder,
    faults: &mut Faults,
) -> Result<Option<(&'static str, Vec<Checksum>)>, PublishError> {
    let [plain_at, signed_at] = [SHA256, SHA256_SIG].map(|name| folder.at(name.as_bytes()));
    let plain = check.read(&check.view, &plain_at, faults)?;
    let signed = check.read(&check.view, &signed_at, faults)?;
    if signed.is_none() && keys.is_some() {
        let expected = "a list that is signed by a configured key";
        faults.push(Fault::new(&signed_at, Rule::Signature, expected, "nothing"));
    }
    let message = signed
        .as_ref()
        .and_then(|file| signed::message(keys, &signed_at, file, faults));
    if let (Some(plain), Some(message)) = (&plain, message)
        && let Some(found) = signed::disagreement(plain, message)
    {
        let expected = "the lines of SHA256";
        faults.push(Fault::new(&signed_at, Rule::Disagree, expected, found));
    }
    let (list, at, text) = match (&plain, message) {
        (Some(plain), _) => (SHA256, plain_at, plain.as_slice()),
        (None, Some(message)) => (SHA256_SIG, signed_at, message),
        (None, None) => {
            if plain.is_none() && signed.is_none() && folder.outline.has_packages {
                let expected = "a list of the packages beside it, or SHA256.sig";
                faults.push(Fault::new(&plain_at, Rule::Missing, expected, "nothing"));
            }
            return Ok(None);
        }
    };
    match checksums(text) {
        Ok(sums) => Ok(Some((list, sums))),
        Err(error) => {
            let expected = "lines as sha256(1) prints them";
            faults.push(Fault::new(
                &at,
                Rule::Malformed,
                expected,
                error.to_string(),
            ));
            Ok(None)
        }
    }
}

/// Compares the files with a list of digests.
fn listed(
    check: &Check<'_>,
    folder: &Folder,
    list: &str,
    sums: &[Checksum],
    faults: &mut Faults,
) -> Result<(), PublishError> {
    for Checksum { name, digest } in sums {
        let path = folder.at(name);
        if EntryPath::new(&path).is_err() {
            let (at, expected) = (folder.at(list.as_bytes()), "names of files in the folder");
            let found = String::from_utf8_lossy(name);
            faults.push(Fault::new(&at, Rule::Path, expected, found));
            continue;
        }
        match check.view.follow(&path)? {
            Some((_at, file)) if file.digest == *digest => {}
            Some((_at, file)) => {
                let expected = format!("SHA256 {digest}, as {list} says");
                let found = file.digest.to_string();
                faults.push(Fault::new(&path, Rule::Digest, expected, found));
            }
            None => {
                let expected = format!("a file of SHA256 {digest}, as {list} says");
                faults.push(Fault::new(&path, Rule::Missing, expected, "nothing"));
            }
        }
    }
    let names: BTreeSet<&[u8]> = sums.iter().map(|sum| &*sum.name).collect();
    unnamed(folder, list, &names, faults);
    Ok(())
}

/// Compares the names with those of index.txt.
fn indexed(folder: &Folder, index: &[u8], text: &[u8], faults: &mut Faults) {
    let names: BTreeSet<&[u8]> = listed_names(text).collect();
    for name in &names {
        if !folder.names.contains(*name) {
            let found = format!("{}, which is not there", String::from_utf8_lossy(name));
            let expected = "names of what is in the folder";
            faults.push(Fault::new(index, Rule::Disagree, expected, found));
        }
    }
    unnamed(folder, INDEX, &names, faults);
}

/// Finds packages that a list leaves out.
fn unnamed(folder: &Folder, list: &str, names: &BTreeSet<&[u8]>, faults: &mut Faults) {
    for package in &folder.packages {
        let file = package.file_name();
        if !names.contains(file.as_bytes()) {
            let path = folder.at(file.as_bytes());
            let expected = format!("a line in {list}");
            faults.push(Fault::new(&path, Rule::Disagree, expected, "none"));
        }
    }
}

/// Finds sets that a signed list leaves out: nobody vouches for them.
fn unnamed_sets(folder: &Folder, list: &str, sums: &[Checksum], faults: &mut Faults) {
    let is_set = |name: &[u8]| {
        name.ends_with(b".tgz") && !name.starts_with(b"site") && package(name).is_none()
    };
    let names: BTreeSet<&[u8]> = sums.iter().map(|sum| &*sum.name).collect();
    let sets = folder.names.iter().filter(|name| is_set(name));
    for set in sets.filter(|name| !names.contains(&***name)) {
        let expected = format!("a line in {list}");
        faults.push(Fault::new(
            &folder.at(set),
            Rule::Disagree,
            expected,
            "none",
        ));
    }
}
