//! Building: items in order go in at the bottom, pages come out level by level.

use std::collections::VecDeque;
use std::convert::Infallible;

use super::border::{Draw, Window};
use super::page::{self, Child, Totals};
use super::{Entry, ManifestError, Page, PageError, PageWrite, Summary};
use crate::id::Digest;
use crate::limits::MANIFEST_MAX_LEVELS;
use crate::path::EntryPath;

/// Builds a manifest from entries in order, in memory bounded by one window of items a level.
#[derive(Debug)]
pub struct Builder<W> {
    tower: Tower<W>,
    order: Order,
    totals: Totals,
}

impl<W: PageWrite> Builder<W> {
    /// Starts with nothing.
    pub fn new(write: W) -> Self {
        Self {
            tower: Tower::new(write, 0),
            order: Order::default(),
            totals: Totals::default(),
        }
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// [`ManifestError::Order`] and [`ManifestError::PrefixConflict`] for a path that cannot come
    /// here, [`ManifestError::Page`] for an entry that no page can hold, [`ManifestError::Write`]
    /// when the sink fails. After an error the builder is of no more use.
    pub fn push(
        &mut self,
        path: &EntryPath,
        entry: &Entry,
    ) -> Result<(), ManifestError<Infallible, W::Error>> {
        self.order.check(path)?;
        page::check_entry(path, entry).map_err(ManifestError::Page)?;
        self.totals
            .add(1, entry.size_bytes())
            .map_err(ManifestError::Page)?;
        Ok(self.tower.push(Item::entry(path, entry))?)
    }

    /// Writes what is left and returns the root.
    ///
    /// # Errors
    /// [`ManifestError::Write`] when the sink fails.
    pub fn finish(self) -> Result<Summary, ManifestError<Infallible, W::Error>> {
        Ok(self.tower.finish()?)
    }
}

/// Writing stopped.
#[derive(Debug)]
pub(super) enum WriteFault<W> {
    Sink(W),
    Page(PageError),
}

impl<R, W> From<WriteFault<W>> for ManifestError<R, W> {
    fn from(fault: WriteFault<W>) -> Self {
        match fault {
            WriteFault::Sink(error) => Self::Write(error),
            WriteFault::Page(error) => Self::Page(error),
        }
    }
}

/// One item of a page, of any level.
#[derive(Debug)]
pub(super) struct Item {
    key: EntryPath,
    encoded: Vec<u8>,
    entries: u64,
    bytes: u64,
}

impl Item {
    pub(super) fn entry(path: &EntryPath, entry: &Entry) -> Self {
        let encoded = page::encode_entry(path, entry);
        Self {
            key: path.clone(),
            encoded,
            entries: 1,
            bytes: entry.size_bytes(),
        }
    }

    pub(super) fn child(child: &Child) -> Self {
        let encoded = page::encode_child(child);
        Self {
            key: child.last.clone(),
            encoded,
            entries: child.entries,
            bytes: child.bytes,
        }
    }

    /// The item at `index` of a page; `None` beyond its end.
    pub(super) fn of(page: &Page, index: usize) -> Option<Self> {
        let entry = page
            .leaf()
            .get(index)
            .map(|(path, entry)| Self::entry(path, entry));
        entry.or_else(|| page.inner().get(index).map(Self::child))
    }
}

/// Cuts the items of one level into pages.
#[derive(Debug)]
pub(super) struct Chunker {
    level: u8,
    window: Window,
    items: VecDeque<Item>,
}

/// A page that was cut and is not written yet.
#[derive(Debug)]
pub(super) struct NewPage {
    pub(super) child: Child,
    /// How many items it has.
    pub(super) items: usize,
    pub(super) encoded: Vec<u8>,
}

impl Chunker {
    pub(super) fn new(level: u8) -> Self {
        Self {
            level,
            window: Window::default(),
            items: VecDeque::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.window.clear();
        self.items.clear();
    }

    pub(super) fn push(&mut self, item: Item) {
        self.window
            .push(Draw::of(self.level, &item.key), item.encoded.len());
        self.items.push_back(item);
    }

    /// The next page, once its end is known. `ended`: no more items will come.
    pub(super) fn cut(&mut self, ended: bool) -> Result<Option<NewPage>, PageError> {
        let Some(count) = self.window.cut(ended) else {
            return Ok(None);
        };
        let mut encoded = page::header(self.level, count);
        let mut totals = Totals::default();
        let mut last = None;
        for item in self.items.drain(..count) {
            encoded.extend_from_slice(&item.encoded);
            totals.add(item.entries, item.bytes)?;
            last = Some(item.key);
        }
        Ok(last.map(|last| {
            let digest = Digest::of(&encoded);
            let child = Child {
                last,
                digest,
                entries: totals.entries,
                bytes: totals.bytes,
            };
            NewPage {
                child,
                items: count,
                encoded,
            }
        }))
    }
}

/// The levels from one on upwards, each fed by the pages of the one below it.
#[derive(Debug)]
pub(super) struct Tower<W> {
    write: W,
    lowest: u8,
    storeys: Vec<Storey>,
}

#[derive(Debug)]
struct Storey {
    chunker: Chunker,
    /// Pages written so far.
    pages: u64,
    /// The last of them.
    last: Option<Child>,
}

impl<W: PageWrite> Tower<W> {
    pub(super) fn new(write: W, lowest: u8) -> Self {
        Self {
            write,
            lowest,
            storeys: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, item: Item) -> Result<(), WriteFault<W::Error>> {
        self.feed(0, item)
    }

    /// Ends every level; the lowest one with a single page has the root.
    pub(super) fn finish(mut self) -> Result<Summary, WriteFault<W::Error>> {
        let mut at = 0;
        while at < self.storeys.len() {
            self.drain(at, true)?;
            if let Some(Storey {
                pages: 1,
                last: Some(root),
                ..
            }) = self.storeys.get(at)
            {
                return Ok(Summary {
                    root: root.digest,
                    entries: root.entries,
                    bytes: root.bytes,
                });
            }
            at += 1;
        }
        write_empty(&mut self.write)
    }

    fn feed(&mut self, at: usize, item: Item) -> Result<(), WriteFault<W::Error>> {
        if at == self.storeys.len() {
            let level = u8::try_from(at)
                .unwrap_or(u8::MAX)
                .saturating_add(self.lowest);
            if level >= MANIFEST_MAX_LEVELS {
                return Err(WriteFault::Page(PageError::Level(level)));
            }
            self.storeys.push(Storey {
                chunker: Chunker::new(level),
                pages: 0,
                last: None,
            });
        }
        if let Some(storey) = self.storeys.get_mut(at) {
            storey.chunker.push(item);
        }
        self.drain(at, false)
    }

    fn drain(&mut self, at: usize, ended: bool) -> Result<(), WriteFault<W::Error>> {
        while let Some(storey) = self.storeys.get_mut(at)
            && let Some(page) = storey.chunker.cut(ended).map_err(WriteFault::Page)?
        {
            storey.pages += 1;
            storey.last = Some(page.child.clone());
            put(&mut self.write, &page.child, page.encoded)?;
            self.feed(at + 1, Item::child(&page.child))?;
        }
        Ok(())
    }
}

pub(super) fn put<W: PageWrite>(
    write: &mut W,
    child: &Child,
    encoded: Vec<u8>,
) -> Result<(), WriteFault<W::Error>> {
    write
        .put_page(child.digest, encoded)
        .map_err(WriteFault::Sink)
}

/// Writes the manifest without entries: an empty leaf.
pub(super) fn write_empty<W: PageWrite>(write: &mut W) -> Result<Summary, WriteFault<W::Error>> {
    let encoded = page::header(0, 0);
    let root = Digest::of(&encoded);
    write.put_page(root, encoded).map_err(WriteFault::Sink)?;
    Ok(Summary {
        root,
        entries: 0,
        bytes: 0,
    })
}

/// Checks that paths rise, and that none is a folder of a later one.
///
/// `a`, `a-x`, `a/b` is the order of bytes, so the conflict need not be with the path before.
#[derive(Debug, Default)]
struct Order {
    last: Vec<u8>,
    /// Lengths of the paths so far that `last` starts with, itself included, the longest at the end.
    prefixes: Vec<usize>,
}

impl Order {
    fn check<R, W>(&mut self, path: &EntryPath) -> Result<(), ManifestError<R, W>> {
        let bytes = path.as_bytes();
        if !self.last.is_empty() && bytes <= self.last.as_slice() {
            return Err(ManifestError::Order(path.clone()));
        }
        let common = self
            .last
            .iter()
            .zip(bytes)
            .take_while(|(a, b)| a == b)
            .count();
        while self.prefixes.last().is_some_and(|&length| length > common) {
            self.prefixes.pop();
        }
        // Shorter ones were checked when the longest one came: it and `path` agree up to there.
        if let Some(&length) = self.prefixes.last()
            && bytes.get(length) == Some(&b'/')
        {
            let entry = EntryPath::new(&bytes[..length]).unwrap_or_else(|_| path.clone());
            return Err(ManifestError::PrefixConflict(entry));
        }
        self.last.truncate(common);
        self.last.extend_from_slice(&bytes[common..]);
        self.prefixes.push(bytes.len());
        Ok(())
    }
}
