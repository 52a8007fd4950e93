//! Pages: what one digest of a manifest stands for, and their canonical bytes.
//!
//! ```text
//! page   version u8 = 1 | level u8, 0 for a leaf | items u32 | items, by rising key
//! leaf   path length u16 | path | kind u8 | kind 0 (mode 644), 1 (mode 755): size u64 | SHA-256 | mtime seconds i64
//!                                         | kind 2 (symlink): target length u16 | target
//! inner  key length u16 | last path below the child | child's SHA-256 | entries u64 | bytes u64
//! ```
//!
//! Integers are little-endian. One page has one encoding: what decodes, encodes to the same bytes.

use super::decode::Rest;
use super::{Entry, Mode};
use crate::id::Digest;
use crate::limits::{
    FILE_MAX_BYTES, MANIFEST_MAX_ENTRIES, MANIFEST_MAX_LEVELS, PAGE_MAX_BYTES, PAGE_MAX_ITEMS,
    PATH_MAX_BYTES, TARGET_MAX_BYTES,
};
use crate::path::{EntryPath, PathError, TargetError, resolve_target};

const VERSION: u8 = 1;
pub(super) const KIND_PLAIN: u8 = 0;
pub(super) const KIND_EXECUTABLE: u8 = 1;
pub(super) const KIND_SYMLINK: u8 = 2;

/// Bytes of a page before its first item.
pub(super) const HEADER_BYTES: usize = 6;
/// The longest item: a symlink.
pub(super) const ITEM_MAX_BYTES: usize = 2 + PATH_MAX_BYTES + 1 + 2 + TARGET_MAX_BYTES;

/// Why bytes are no page, or no page can hold an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// More bytes than a page may have.
    #[error("page has {0} bytes, at most {PAGE_MAX_BYTES} are allowed")]
    TooLarge(usize),
    /// The bytes end within the page.
    #[error("page ends too early")]
    Truncated,
    /// Bytes are left behind the last item.
    #[error("{0} bytes follow the page's last item")]
    Trailing(usize),
    /// A version that is not known here.
    #[error("page version {0} is not known")]
    Version(u8),
    /// A level above the limit.
    #[error("page level {0} is too high: a manifest has at most {MANIFEST_MAX_LEVELS} levels")]
    Level(u8),
    /// More items than a page may have, or none in an inner page.
    #[error("{0} items do not make a page")]
    Items(u32),
    /// An entry that is neither file nor symlink.
    #[error("entry kind {0} is not known")]
    Kind(u8),
    /// A key that is no path.
    #[error("page holds a bad path")]
    Path(#[source] PathError),
    /// A symlink that leads out, or cannot be stored.
    #[error("symlink {0} is bad")]
    Target(EntryPath, #[source] TargetError),
    /// A key that is not above the one before it.
    #[error("path {0} is not after the one before it in its page")]
    Order(EntryPath),
    /// A file larger than `off_t` holds.
    #[error("file {0} is larger than {FILE_MAX_BYTES} bytes")]
    FileSize(EntryPath),
    /// A child without entries.
    #[error("page below {0} is empty")]
    EmptyChild(EntryPath),
    /// More entries than ordinals.
    #[error("more than {MANIFEST_MAX_ENTRIES} entries")]
    Entries,
    /// A sum of bytes that does not fit 64 bits.
    #[error("files have more than 2^64 bytes together")]
    Bytes,
}

/// A page as the page above it describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Child {
    /// The last path below it.
    pub(super) last: EntryPath,
    pub(super) digest: Digest,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// A decoded, checked page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    level: u8,
    items: Items,
    entries: u64,
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Items {
    Leaf(Vec<(EntryPath, Entry)>),
    Inner(Vec<Child>),
}

impl Page {
    /// Decodes canonical bytes; checks order, bounds, counts. The caller has checked the digest.
    ///
    /// Not seen from one page, and therefore checked by the readers of this module: that a page
    /// is what its parent says.
    ///
    /// # Errors
    /// [`PageError`] for anything that [`Page::encode`] would not have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, PageError> {
        if bytes.len() > PAGE_MAX_BYTES {
            return Err(PageError::TooLarge(bytes.len()));
        }
        let mut rest = Rest(bytes);
        let version = rest.u8()?;
        if version != VERSION {
            return Err(PageError::Version(version));
        }
        let level = rest.u8()?;
        if level >= MANIFEST_MAX_LEVELS {
            return Err(PageError::Level(level));
        }
        let count = rest.u32()?;
        let fits = usize::try_from(count).is_ok_and(|count| count <= PAGE_MAX_ITEMS);
        if !fits || (count == 0 && level > 0) {
            return Err(PageError::Items(count));
        }
        let items = if level == 0 {
            Items::Leaf(rest.items(count, Rest::entry, |(path, _)| path)?)
        } else {
            Items::Inner(rest.items(count, Rest::child, |child| &child.last)?)
        };
        if !rest.0.is_empty() {
            return Err(PageError::Trailing(rest.0.len()));
        }
        Self::sum(level, items)
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = header(self.level, self.len());
        match &self.items {
            Items::Leaf(all) => all
                .iter()
                .for_each(|(p, e)| bytes.extend(encode_entry(p, e))),
            Items::Inner(all) => all
                .iter()
                .for_each(|child| bytes.extend(encode_child(child))),
        }
        bytes
    }

    /// Levels below this page: 0 for a leaf.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Digests of the pages below, in order; empty for a leaf.
    pub fn children(&self) -> impl Iterator<Item = Digest> + '_ {
        self.inner().iter().map(|child| child.digest)
    }

    /// Entries below this page.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes of all files below.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An inner page with one child that is stored nowhere: a place above the top.
    pub(super) fn above(level: u8, child: Child) -> Self {
        let (entries, bytes) = (child.entries, child.bytes);
        Self {
            level: level.saturating_add(1),
            items: Items::Inner(vec![child]),
            entries,
            bytes,
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.items {
            Items::Leaf(entries) => entries.len(),
            Items::Inner(children) => children.len(),
        }
    }

    /// The entries of a leaf; none for an inner page.
    pub(super) fn leaf(&self) -> &[(EntryPath, Entry)] {
        match &self.items {
            Items::Leaf(entries) => entries,
            Items::Inner(_) => &[],
        }
    }

    /// The children of an inner page; none for a leaf.
    pub(super) fn inner(&self) -> &[Child] {
        match &self.items {
            Items::Leaf(_) => &[],
            Items::Inner(children) => children,
        }
    }

    pub(super) fn key(&self, index: usize) -> Option<&EntryPath> {
        match &self.items {
            Items::Leaf(entries) => entries.get(index).map(|(path, _)| path),
            Items::Inner(children) => children.get(index).map(|child| &child.last),
        }
    }

    pub(super) fn last_key(&self) -> Option<&EntryPath> {
        self.key(self.len().wrapping_sub(1))
    }

    /// Index of the first item whose key is not below `key`.
    pub(super) fn index_of(&self, key: &[u8]) -> usize {
        match &self.items {
            Items::Leaf(entries) => entries.partition_point(|(path, _)| path.as_bytes() < key),
            Items::Inner(children) => children.partition_point(|c| c.last.as_bytes() < key),
        }
    }

    /// Encoded length of the items in front of `end`.
    pub(super) fn bytes_before(&self, end: usize) -> usize {
        match &self.items {
            Items::Leaf(all) => all.iter().take(end).map(|(p, e)| entry_bytes(p, e)).sum(),
            Items::Inner(all) => all.iter().take(end).map(child_bytes).sum(),
        }
    }

    fn sum(level: u8, items: Items) -> Result<Self, PageError> {
        let mut totals = Totals::default();
        match &items {
            Items::Leaf(all) => all
                .iter()
                .try_for_each(|(_, e)| totals.add(1, e.size_bytes()))?,
            Items::Inner(all) => all
                .iter()
                .try_for_each(|c| totals.add(c.entries, c.bytes))?,
        }
        Ok(Self {
            level,
            items,
            entries: totals.entries,
            bytes: totals.bytes,
        })
    }
}

/// Entries and bytes, added up within their limits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl Totals {
    pub(super) fn add(&mut self, entries: u64, bytes: u64) -> Result<(), PageError> {
        let sum = self
            .entries
            .checked_add(entries)
            .filter(|&sum| sum <= MANIFEST_MAX_ENTRIES);
        self.entries = sum.ok_or(PageError::Entries)?;
        self.bytes = self.bytes.checked_add(bytes).ok_or(PageError::Bytes)?;
        Ok(())
    }
}

/// Checks what the types do not: the size of a file, where a symlink leads.
pub(super) fn check_entry(path: &EntryPath, entry: &Entry) -> Result<(), PageError> {
    match entry {
        Entry::File(file) if file.size_bytes > FILE_MAX_BYTES => {
            Err(PageError::FileSize(path.clone()))
        }
        Entry::File(_) => Ok(()),
        Entry::Symlink { target } => resolve_target(path, target)
            .map(drop)
            .map_err(|source| PageError::Target(path.clone(), source)),
    }
}

/// The bytes before the first item. `items` is at most `PAGE_MAX_ITEMS`.
pub(super) fn header(level: u8, items: usize) -> Vec<u8> {
    let mut bytes = vec![VERSION, level];
    bytes.extend_from_slice(&u32::try_from(items).unwrap_or(u32::MAX).to_le_bytes());
    bytes
}

pub(super) fn encode_entry(path: &EntryPath, entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entry_bytes(path, entry));
    put_short(&mut bytes, path.as_bytes());
    match entry {
        Entry::File(file) => {
            bytes.push(match file.mode {
                Mode::Plain => KIND_PLAIN,
                Mode::Executable => KIND_EXECUTABLE,
            });
            bytes.extend_from_slice(&file.size_bytes.to_le_bytes());
            bytes.extend_from_slice(file.digest.as_bytes());
            bytes.extend_from_slice(&file.mtime.as_seconds().to_le_bytes());
        }
        Entry::Symlink { target } => {
            bytes.push(KIND_SYMLINK);
            put_short(&mut bytes, target);
        }
    }
    bytes
}

pub(super) fn encode_child(child: &Child) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(child_bytes(child));
    put_short(&mut bytes, child.last.as_bytes());
    bytes.extend_from_slice(child.digest.as_bytes());
    bytes.extend_from_slice(&child.entries.to_le_bytes());
    bytes.extend_from_slice(&child.bytes.to_le_bytes());
    bytes
}

/// Length of [`encode_entry`]'s answer.
fn entry_bytes(path: &EntryPath, entry: &Entry) -> usize {
    let value_bytes = match entry {
        Entry::File(_) => 8 + 32 + 8,
        Entry::Symlink { target } => 2 + target.len(),
    };
    2 + path.as_bytes().len() + 1 + value_bytes
}

/// Length of [`encode_child`]'s answer.
fn child_bytes(child: &Child) -> usize {
    2 + child.last.as_bytes().len() + 32 + 8 + 8
}

/// Paths and checked targets are shorter than 2^16 bytes.
fn put_short(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend_from_slice(text);
}
