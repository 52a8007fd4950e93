//! Reading: look-ups, ranges and listings.

use super::walk::{Node, Walk};
use super::{Entry, ManifestError, PageRead};
use crate::id::{Digest, Ordinal};
use crate::path::EntryPath;

/// Looks one path up; reads one page a level.
///
/// # Errors
/// [`ManifestError::Read`] when the source fails, [`ManifestError::Mismatch`] for a page that is
/// not what its parent says.
pub fn get<R: PageRead>(
    read: &R,
    root: &Digest,
    path: &EntryPath,
) -> Result<Option<(Ordinal, Entry)>, ManifestError<R::Error>> {
    let mut walk = Walk::new(read, root)?;
    walk.seek(path.as_bytes())?;
    Ok(match walk.node() {
        Node::Entry(ordinal, found, entry) if found == path => Some((ordinal, entry.clone())),
        Node::Entry(..) | Node::Page(..) | Node::End => None,
    })
}

/// The entry at an ordinal; reads one page a level.
///
/// # Errors
/// As [`get`].
pub fn at<R: PageRead>(
    read: &R,
    root: &Digest,
    ordinal: Ordinal,
) -> Result<Option<(EntryPath, Entry)>, ManifestError<R::Error>> {
    let mut walk = Walk::new(read, root)?;
    walk.seek_ordinal(ordinal)?;
    Ok(match walk.node() {
        Node::Entry(_, path, entry) => Some((path.clone(), entry.clone())),
        Node::Page(..) | Node::End => None,
    })
}

/// Entries in order whose path starts with the bytes `prefix` and is greater than `after` (if given).
///
/// Holds one page a level. After an error nothing more comes.
///
/// # Errors
/// As [`get`].
pub fn iter<'a, R: PageRead>(
    read: &'a R,
    root: &Digest,
    prefix: &[u8],
    after: Option<&EntryPath>,
) -> impl Iterator<Item = Result<(Ordinal, EntryPath, Entry), ManifestError<R::Error>>> + use<'a, R>
{
    let from = after.map_or_else(Vec::new, |after| just_after(after.as_bytes()));
    let mut range = Range::new(read, root, prefix, from);
    std::iter::from_fn(move || {
        let found = range.peek();
        range.pass();
        found.transpose()
    })
}

/// One line of a folder's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A folder, by name.
    Folder(Box<[u8]>),
    /// An entry, by name.
    Entry(Box<[u8]>, Entry),
}

/// Lists one folder (empty: the top), sub-folders as one line each, skipping what is below them unread.
///
/// Nothing comes for what is no folder. After an error nothing more comes.
///
/// # Errors
/// As [`get`].
pub fn list<'a, R: PageRead>(
    read: &'a R,
    root: &Digest,
    folder: &[u8],
) -> impl Iterator<Item = Result<Listed, ManifestError<R::Error>>> + use<'a, R> {
    list_from(read, root, folder, b"")
}

/// Lists one folder as [`list`] does, without the lines whose key is below `from`.
///
/// The key of a line is its name, with a slash behind a folder's. Lines come by rising key.
///
/// # Errors
/// As [`get`].
pub fn list_from<'a, R: PageRead>(
    read: &'a R,
    root: &Digest,
    folder: &[u8],
    from: &[u8],
) -> impl Iterator<Item = Result<Listed, ManifestError<R::Error>>> + use<'a, R> {
    let mut prefix = folder.to_vec();
    if !prefix.is_empty() {
        prefix.push(b'/');
    }
    let from = [prefix.as_slice(), from].concat();
    let mut range = Range::new(read, root, &prefix, from);
    std::iter::from_fn(move || {
        let (_, path, entry) = match range.peek().transpose()? {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        let below = path.as_bytes().get(prefix.len()..).unwrap_or_default();
        let Some(slash) = below.iter().position(|&b| b == b'/') else {
            range.pass();
            return Some(Ok(Listed::Entry(below.into(), entry)));
        };
        let mut beyond = path.as_bytes()[..prefix.len() + slash].to_vec();
        beyond.push(b'/' + 1);
        range.seek(beyond);
        Some(Ok(Listed::Folder(below[..slash].into())))
    })
}

/// The least bytes above `path`'s that can begin a path: paths have no NUL.
fn just_after(path: &[u8]) -> Vec<u8> {
    let mut key = path.to_vec();
    key.push(0);
    key
}

/// The entries whose path starts with a prefix, opened when first asked for.
struct Range<'a, R> {
    read: &'a R,
    root: Digest,
    prefix: Vec<u8>,
    walk: Option<Walk<'a, R>>,
    /// Where to go before the next entry is read.
    target: Option<Vec<u8>>,
    done: bool,
}

type Found<R> = Result<Option<(Ordinal, EntryPath, Entry)>, ManifestError<R>>;

impl<'a, R: PageRead> Range<'a, R> {
    fn new(read: &'a R, root: &Digest, prefix: &[u8], from: Vec<u8>) -> Self {
        let target = Some(from.max(prefix.to_vec()));
        Self {
            read,
            root: *root,
            prefix: prefix.to_vec(),
            walk: None,
            target,
            done: false,
        }
    }

    /// The entry here; an error is told once.
    fn peek(&mut self) -> Found<R::Error> {
        if self.done {
            return Ok(None);
        }
        let found = self.find();
        self.done = !matches!(found, Ok(Some(_)));
        found
    }

    fn find(&mut self) -> Found<R::Error> {
        let walk = match &mut self.walk {
            Some(walk) => walk,
            none => none.insert(Walk::new(self.read, &self.root)?),
        };
        match self.target.take() {
            Some(target) => walk.seek(&target)?,
            None => walk.descend()?,
        }
        Ok(match walk.node() {
            Node::Entry(ordinal, path, entry) if path.as_bytes().starts_with(&self.prefix) => {
                Some((ordinal, path.clone(), entry.clone()))
            }
            Node::Entry(..) | Node::Page(..) | Node::End => None,
        })
    }

    fn pass(&mut self) {
        if let Some(walk) = &mut self.walk {
            walk.pass();
        }
    }

    fn seek(&mut self, key: Vec<u8>) {
        self.target = Some(key);
    }
}
