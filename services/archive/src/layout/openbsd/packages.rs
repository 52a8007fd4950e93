//! The packages of a folder: each is what its name says, and what it needs is there.

use std::borrow::Cow;
use std::collections::BTreeSet;

use mirrorlog_core::id::Digest;
use mirrorlog_core::openbsd::{PackageName, PackingList, beside, resolve};
use rayon::prelude::*;
use runtime::package::{PackageError, read_packing_list};

use super::super::Check;
use super::folder::Folder;
use crate::publish::{Fault, Faults, PublishError, Rule, View};

/// Reads packing lists and compares them with what is there. `more`: another folder that has what is needed.
pub(super) fn check(
    check: &Check<'_>,
    folder: &Folder,
    more: Option<&Folder>,
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let within_reach = within_reach(folder, more);
    let unread = unread(check, folder, &within_reach)?;
    let found: Result<Vec<Faults>, PublishError> = unread
        .par_iter()
        .map(|name| one(check, folder, &within_reach, name))
        .collect();
    found?.into_iter().for_each(|found| faults.append(found));
    Ok(())
}

/// True when a folder has a file that is a package, and is not only called as one is.
pub(super) fn has_any(check: &Check<'_>, path: &[u8]) -> Result<bool, PublishError> {
    let folder = Folder::read(&check.view, path)?;
    for name in &folder.packages {
        let path = folder.at(name.file_name().as_bytes());
        if matches!(read(check, &path)?, Read::List(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// All names that a dependency may resolve to.
fn within_reach<'f>(
    folder: &'f Folder,
    more: Option<&'f Folder>,
) -> Cow<'f, BTreeSet<PackageName>> {
    match more {
        None => Cow::Borrowed(&folder.packages),
        Some(more) => Cow::Owned(folder.packages.union(&more.packages).cloned().collect()),
    }
}

/// The packages that have to be read: without a base all of them.
fn unread<'f>(
    check: &Check<'_>,
    folder: &'f Folder,
    now: &BTreeSet<PackageName>,
) -> Result<Vec<&'f PackageName>, PublishError> {
    let all = folder.packages.iter();
    let Some(since) = &check.since else {
        return Ok(all.collect());
    };
    let before = Folder::read(&since.base, folder.path())?;
    let more = match beside(folder.path()) {
        Some(path) => Some(Folder::read(&since.base, &path)?),
        None => None,
    };
    let went = within_reach(&before, more.as_ref()).difference(now).count() > 0;
    if went || !before.outline.has_lists() {
        return Ok(all.collect());
    }
    let mut unread = Vec::new();
    for name in all {
        let path = folder.at(name.file_name().as_bytes());
        if digest(&since.base, &path)? != digest(&check.view, &path)? {
            unread.push(name);
        }
    }
    Ok(unread)
}

fn digest(view: &View<'_>, path: &[u8]) -> Result<Option<Digest>, PublishError> {
    Ok(view.follow(path)?.map(|(_at, file)| file.digest))
}

fn one(
    check: &Check<'_>,
    folder: &Folder,
    within_reach: &BTreeSet<PackageName>,
    name: &PackageName,
) -> Result<Faults, PublishError> {
    let mut faults = Faults::default();
    let path = folder.at(name.file_name().as_bytes());
    let list = match read(check, &path)? {
        Read::List(list) => list,
        Read::Broken(fault) => {
            faults.push(fault);
            return Ok(faults);
        }
    };
    if list.name != *name {
        let expected = format!("the package {name}, as the file is called");
        let found = list.name.to_string();
        faults.push(Fault::new(&path, Rule::Disagree, expected, found));
    }
    for depend in &list.depends {
        if resolve(depend, within_reach).is_none() {
            let (spec, place) = (&depend.spec, folder.shown());
            let expected = format!("a package in {place} that meets its @depend {depend}");
            let found = format!("none that fits {spec}");
            faults.push(Fault::new(&path, Rule::Dependency, expected, found));
        }
    }
    Ok(faults)
}

/// How reading a package ended.
enum Read {
    List(PackingList),
    Broken(Fault),
}

fn read(check: &Check<'_>, path: &[u8]) -> Result<Read, PublishError> {
    let Some((at, file)) = check.view.follow(path)? else {
        let fault = Fault::new(
            path,
            Rule::Symlink,
            "a package",
            "a link that leads nowhere",
        );
        return Ok(Read::Broken(fault));
    };
    let Some(content) = check.view.workspace.content(check.tree, &at, &file)? else {
        return Ok(Read::Broken(Fault::changed(path, "nothing")));
    };
    match read_packing_list(content) {
        Ok(list) => Ok(Read::List(list)),
        Err(PackageError::Read(source)) => Err(PublishError::io(&check.place(&at), "read", source)),
        Err(
            error @ (PackageError::NoGzip
            | PackageError::Damaged(_)
            | PackageError::NoContents { .. }
            | PackageError::TooLarge { .. }
            | PackageError::LineTooLong
            | PackageError::List(_)),
        ) => {
            let expected = "a package that begins with its packing list";
            let found = runtime::chain(&error);
            Ok(Read::Broken(Fault::new(
                path,
                Rule::Malformed,
                expected,
                found,
            )))
        }
    }
}
