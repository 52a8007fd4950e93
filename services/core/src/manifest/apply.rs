//! Applying changes to a manifest, at the cost of the changes.

use std::sync::Arc;

use super::build::{Item, Tower, write_empty};
use super::level::{Level, Recent};
use super::page::{Child, check_entry};
use super::rechunk::{Changes, Pages, Rechunk};
use super::walk::{Node, ReadFault, Walk, load_root};
use super::{Builder, ManifestError, Page, PageError, PageRead, PageWrite, Summary};
use crate::id::Digest;
use crate::limits::MANIFEST_MAX_ENTRIES;
use crate::path::EntryPath;
use crate::statement::Change;

/// Applies changes (in byte order of path) to a manifest: O(changes x depth).
///
/// The result is what a [`Builder`] makes of the changed entries. `base`: `None` starts from
/// nothing. Removing an absent path, and setting what is there already, changes nothing.
/// Pages of the base that stay are neither read (but those at the edges) nor written.
///
/// # Errors
/// [`ManifestError::Order`] when changes do not rise, [`ManifestError::PrefixConflict`] when a
/// path would be an entry and a folder, [`ManifestError::Page`] for what no page can hold;
/// [`ManifestError::Read`], [`ManifestError::Mismatch`] and [`ManifestError::Write`] as for
/// readers and the builder. Pages written before an error are of no more use.
pub fn apply<R: PageRead, W: PageWrite>(
    read: &R,
    mut write: W,
    base: Option<&Digest>,
    delta: &[Change],
) -> Result<Summary, ManifestError<R::Error, W::Error>> {
    for (before, change) in delta.iter().zip(delta.iter().skip(1)) {
        if before.path >= change.path {
            return Err(ManifestError::Order(change.path.clone()));
        }
    }
    let Some(root) = base else {
        return build(write, delta);
    };
    let read = &Recent::new(read);
    let top = load_root(read, root)?;
    let (Some(last), entries, bytes) = (top.last_key().cloned(), top.entries(), top.bytes()) else {
        return build(write, delta);
    };
    let unchanged = Summary {
        root: *root,
        entries,
        bytes,
    };
    let mut changes = Changes::Entries(effective(read, root, delta)?);
    let above = Arc::new(Page::above(
        top.level(),
        Child {
            last,
            digest: *root,
            entries,
            bytes,
        },
    ));
    for level in 0..=top.level() {
        if changes.is_empty() {
            return Ok(unchanged);
        }
        let old = Level::new(read, Arc::clone(&above), level);
        let outcome = Rechunk::new(&old, level, &mut write, &changes).run()?;
        match outcome.pages() {
            Pages::None => return Ok(write_empty(&mut write)?),
            Pages::One(only) => return finished(only),
            // The only old page of its level was cut anew, so these are all pages of the level.
            Pages::Many if level == top.level() => {
                let mut tower = Tower::new(write, level.saturating_add(1));
                outcome
                    .added
                    .iter()
                    .try_for_each(|child| tower.push(Item::child(child)))?;
                return within_limit(tower.finish()?);
            }
            Pages::Many => changes = outcome.into_changes(),
        }
    }
    Ok(unchanged)
}

fn finished<R, W>(top: &Child) -> Result<Summary, ManifestError<R, W>> {
    within_limit(Summary {
        root: top.digest,
        entries: top.entries,
        bytes: top.bytes,
    })
}

fn within_limit<R, W>(summary: Summary) -> Result<Summary, ManifestError<R, W>> {
    if summary.entries > MANIFEST_MAX_ENTRIES {
        return Err(ManifestError::Page(PageError::Entries));
    }
    Ok(summary)
}

fn build<R, W: PageWrite>(
    write: W,
    delta: &[Change],
) -> Result<Summary, ManifestError<R, W::Error>> {
    let mut builder = Builder::new(write);
    for change in delta {
        if let Some(entry) = &change.new {
            builder
                .push(&change.path, entry)
                .map_err(ManifestError::with_source)?;
        }
    }
    builder.finish().map_err(ManifestError::with_source)
}

/// The changes that change something, checked against the base and against each other.
fn effective<'d, R: PageRead, W>(
    read: &'d R,
    root: &Digest,
    delta: &'d [Change],
) -> Result<Vec<&'d Change>, ManifestError<R::Error, W>> {
    let mut walk = Walk::new(read, root)?;
    let mut folders = Folders {
        delta,
        walk: walk.clone(),
        known: None,
    };
    let mut effective = Vec::new();
    for change in delta {
        walk.seek(change.path.as_bytes())?;
        let old = match walk.node() {
            Node::Entry(_, path, entry) if *path == change.path => Some(entry),
            Node::Entry(..) | Node::Page(..) | Node::End => None,
        };
        if old == change.new.as_ref() {
            continue;
        }
        if let Some(entry) = &change.new {
            check_entry(&change.path, entry).map_err(ManifestError::Page)?;
            let conflict = match old {
                // The base has nothing below it; the delta's entries below it are checked themselves.
                Some(_) => None,
                None if folders.has_entry_below(&walk, &change.path)? => Some(change.path.clone()),
                None => folders.entry_above(&walk, &change.path)?,
            };
            if let Some(path) = conflict {
                return Err(ManifestError::PrefixConflict(path));
            }
        }
        effective.push(change);
    }
    Ok(effective)
}

/// Looks for entries that are folders too, in the base as the delta leaves it.
struct Folders<'a, R> {
    delta: &'a [Change],
    /// For look-ups away from the changes.
    walk: Walk<'a, R>,
    /// The path whose folders were looked at last.
    known: Option<&'a EntryPath>,
}

impl<'a, R: PageRead> Folders<'a, R> {
    /// What the delta has at a path: nothing, a removal, an entry.
    fn change(&self, path: &[u8]) -> Option<&'a Change> {
        let found = self
            .delta
            .binary_search_by(|change| change.path.as_bytes().cmp(path));
        found.ok().and_then(|index| self.delta.get(index))
    }

    /// True when an entry below `path` stays. `here` stands behind `path`, which the base lacks.
    fn has_entry_below(
        &self,
        here: &Walk<'a, R>,
        path: &EntryPath,
    ) -> Result<bool, ReadFault<R::Error>> {
        // What starts with the path's bytes follows it at once.
        let Node::Entry(_, next, _) = here.node() else {
            return Ok(false);
        };
        if !next.as_bytes().starts_with(path.as_bytes()) {
            return Ok(false);
        }
        let mut below = here.clone();
        below.seek(&[path.as_bytes(), b"/"].concat())?;
        while let Node::Entry(_, found, _) = below.node()
            && found.is_below(path.as_bytes())
        {
            if self
                .change(found.as_bytes())
                .is_none_or(|change| change.new.is_some())
            {
                return Ok(true);
            }
            below.pass();
            below.descend()?;
        }
        Ok(false)
    }

    /// The entry, if any, that stays or comes where `path` needs a folder.
    fn entry_above(
        &mut self,
        here: &Walk<'a, R>,
        path: &'a EntryPath,
    ) -> Result<Option<EntryPath>, ReadFault<R::Error>> {
        let bytes = path.as_bytes();
        for (at, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let folder = &bytes[..at];
            match self.change(folder) {
                Some(Change { path, new: Some(_) }) => return Ok(Some(path.clone())),
                Some(Change { new: None, .. }) => continue,
                None => {}
            }
            // Something of the base beside the path, or the path before, is in the same folder.
            let next = match here.node() {
                Node::Entry(_, next, _) => Some(next),
                Node::Page(..) | Node::End => None,
            };
            let mut beside = [here.path_before(), next, self.known].into_iter().flatten();
            if beside.any(|path| path.is_below(folder)) {
                continue;
            }
            self.walk.seek(folder)?;
            if let Node::Entry(_, found, _) = self.walk.node()
                && found.as_bytes() == folder
            {
                return Ok(Some(found.clone()));
            }
        }
        self.known = Some(path);
        Ok(None)
    }
}
