//! Which part of a tree a channel takes: all of it, the closure over its suites, or what the closures
//! of its mount's other channels leave.
//!
//! The closure over a suite is `dists/<suite>/`, the symlinks in `dists/` that lead to it, and the files
//! that its indexes name.

mod path_set;

use std::collections::BTreeSet;
use std::io::{self, Read as _};

use mirrorlog_core::path::{EntryPath, resolve_target};

use crate::layout::{IndexKind, Packing, Release, read_index};
use crate::publish::{Channel, Fault, Faults, PublishError, Rule};
use crate::scan::{Kind, Tree, fault_or_error, links_in};
use path_set::PathSet;

const RELEASE_MAX_BYTES: u64 = 64 << 20;
/// Symlinks from suite to suite that are followed, `stable -> bookworm`; stops loops.
const LINKS_MAX: usize = 8;

/// A channel's part of a tree.
pub(crate) enum Part {
    /// Everything.
    Whole,
    /// The closure over its suites.
    Closure(Closure),
    /// What these closures leave.
    Rest(Vec<Closure>),
}

impl Part {
    /// The part of `channel`. A suite that is not there is a fault.
    ///
    /// # Errors
    /// Faults of the disk.
    pub(crate) fn of(
        channel: &Channel,
        tree: &Tree,
        faults: &mut Faults,
    ) -> Result<Self, PublishError> {
        if channel.catch_all {
            let siblings = channel
                .siblings
                .iter()
                .filter(|sibling| !sibling.suites.is_empty());
            let closures =
                siblings.map(|sibling| Closure::of(tree, &sibling.suites, &mut Faults::default()));
            return Ok(Self::Rest(closures.collect::<Result<_, _>>()?));
        }
        if channel.suites.is_empty() {
            return Ok(Self::Whole);
        }
        Ok(Self::Closure(Closure::of(tree, &channel.suites, faults)?))
    }

    /// True when the part is the whole tree.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole)
    }

    /// True when an entry belongs to the part.
    pub(crate) fn takes(&self, path: &EntryPath) -> bool {
        match self {
            Self::Whole => true,
            Self::Closure(closure) => closure.takes(path),
            Self::Rest(others) => !others.iter().any(|closure| closure.takes(path)),
        }
    }
}

/// The closure over some suites.
#[derive(Default)]
pub(crate) struct Closure {
    /// `dists/bookworm`, without symlinks.
    folders: BTreeSet<Vec<u8>>,
    /// `dists/stable`, which leads to one of them.
    links: BTreeSet<Vec<u8>>,
    /// Files that the indexes name.
    named: PathSet,
}

impl Closure {
    fn of(tree: &Tree, suites: &[String], faults: &mut Faults) -> Result<Self, PublishError> {
        let mut closure = Self::default();
        for suite in suites {
            let path = format!("dists/{suite}").into_bytes();
            match closure.follow(tree, path.clone())? {
                Some(folder) => {
                    closure.folders.insert(folder);
                }
                None => {
                    let fault = Fault::new(
                        &path,
                        Rule::Missing,
                        "the suite's folder, as configured",
                        "nothing",
                    );
                    faults.push(fault);
                }
            }
        }
        closure.find_links(tree)?;
        for folder in closure.folders.clone() {
            closure.read_suite(tree, &folder)?;
        }
        closure.named.finish();
        Ok(closure)
    }

    fn takes(&self, path: &EntryPath) -> bool {
        let bytes = path.as_bytes();
        self.folders.iter().any(|folder| path.is_below(folder))
            || self.links.contains(bytes)
            || self.named.contains(bytes)
    }

    /// The folder that a suite's path leads to; the links on the way belong to the closure.
    fn follow(&mut self, tree: &Tree, mut path: Vec<u8>) -> Result<Option<Vec<u8>>, PublishError> {
        for _link in 0..LINKS_MAX {
            match tree.look(&path) {
                Ok((_, Kind::Folder)) => return Ok(Some(path)),
                Ok((_, Kind::Symlink(target))) => {
                    let Ok(link) = EntryPath::new(&path) else {
                        return Ok(None);
                    };
                    let Ok(next) = resolve_target(&link, &target) else {
                        return Ok(None);
                    };
                    self.links.insert(std::mem::replace(&mut path, next));
                }
                Ok((_, Kind::File(_) | Kind::Special(_))) => return Ok(None),
                Err(error) => return fault_or_error(tree, &path, error).map(|_fault| None),
            }
        }
        Ok(None)
    }

    /// Symlinks directly in `dists/` that lead to one of the folders.
    fn find_links(&mut self, tree: &Tree) -> Result<(), PublishError> {
        if self.folders.is_empty() {
            return Ok(());
        }
        for name in links_in(tree, b"dists")? {
            let mut others = Self::default();
            if let Some(folder) = others.follow(tree, name)?
                && self.folders.contains(&folder)
            {
                self.links.append(&mut others.links);
            }
        }
        Ok(())
    }

    /// Collects what the indexes of a suite name. What is broken or missing in it is for the layout's checks to say.
    fn read_suite(&mut self, tree: &Tree, folder: &[u8]) -> Result<(), PublishError> {
        let Some(release) = release(tree, folder)? else {
            return Ok(());
        };
        let mut names: Vec<(&str, Packing, &str)> = Vec::new();
        for name in release.listed.keys() {
            let (packing, plain) = Packing::of(name);
            names.push((plain, packing, name));
        }
        names.sort_unstable();
        let mut done = "";
        for (plain, packing, name) in names {
            let Some(kind) = IndexKind::of(plain).filter(|_| plain != done) else {
                continue;
            };
            let path = [folder, b"/", name.as_bytes()].concat();
            if self.read_one(tree, kind, packing, &path)? {
                done = plain;
            }
        }
        Ok(())
    }

    /// True when the index is there and was read.
    fn read_one(
        &mut self,
        tree: &Tree,
        kind: IndexKind,
        packing: Packing,
        path: &[u8],
    ) -> Result<bool, PublishError> {
        let file = match tree.file(path) {
            Ok((file, _stamp)) => file,
            Err(error) => return fault_or_error(tree, path, error).map(|_fault| false),
        };
        let named = &mut self.named;
        let read = packing.unpack(file).and_then(|mut unpacked| {
            read_index(kind, &mut unpacked, |file| {
                named.push(&file.path);
                Ok(())
            })
        });
        match read {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::debug!(path = %String::from_utf8_lossy(path), %error, "index not read");
                Ok(false)
            }
        }
    }
}

fn release(tree: &Tree, folder: &[u8]) -> Result<Option<Release>, PublishError> {
    let read = |name: &[u8]| -> Result<Option<Vec<u8>>, PublishError> {
        let path = [folder, name].concat();
        let bytes = tree.file(&path).and_then(|(file, _stamp)| {
            let mut bytes = Vec::new();
            file.take(RELEASE_MAX_BYTES).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        });
        match bytes {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => fault_or_error(tree, &path, error).map(|_fault| None),
        }
    };
    if let Some(bytes) = read(b"/InRelease")?
        && let Ok(release) = Release::parse_signed(&bytes)
    {
        return Ok(Some(release));
    }
    Ok(read(b"/Release")?.and_then(|bytes| Release::parse(&bytes).ok()))
}

#[cfg(test)]
mod tests;
