//! A place in a manifest that moves forward and opens pages only when told to.

use std::sync::Arc;

use super::page::Child;
use super::{Entry, ManifestError, Page, PageRead};
use crate::id::{Digest, Ordinal};
use crate::path::EntryPath;

/// Reading stopped.
#[derive(Debug)]
pub(super) enum ReadFault<R> {
    Source(R),
    Mismatch(Digest),
}

impl<R, W> From<ReadFault<R>> for ManifestError<R, W> {
    fn from(fault: ReadFault<R>) -> Self {
        match fault {
            ReadFault::Source(error) => Self::Read(error),
            ReadFault::Mismatch(digest) => Self::Mismatch(digest),
        }
    }
}

/// Reads the top page; nobody has said anything about it but its digest.
pub(super) fn load_root<R: PageRead>(
    read: &R,
    root: &Digest,
) -> Result<Arc<Page>, ReadFault<R::Error>> {
    read.page(root).map_err(ReadFault::Source)
}

/// Reads a page and checks that it is what its parent says.
///
/// `level`: the page's, which falls by one with every step down and so bounds the depth.
/// `after`: the last path before the page.
pub(super) fn load<R: PageRead>(
    read: &R,
    child: &Child,
    level: u8,
    after: Option<&EntryPath>,
) -> Result<Arc<Page>, ReadFault<R::Error>> {
    let page = read.page(&child.digest).map_err(ReadFault::Source)?;
    let said = page.level() == level
        && page.last_key() == Some(&child.last)
        && page.entries() == child.entries
        && page.bytes() == child.bytes
        && after.is_none_or(|after| page.key(0).is_some_and(|first| first > after));
    if said {
        Ok(page)
    } else {
        Err(ReadFault::Mismatch(child.digest))
    }
}

/// An open page, and the place in it.
#[derive(Clone, Debug)]
struct Frame {
    page: Arc<Page>,
    index: usize,
    /// Entries in front of the page.
    first: u64,
    /// Entries in front of the item at `index`.
    ordinal: u64,
    /// The last path in front of the page.
    after: Option<EntryPath>,
}

impl Frame {
    fn top(page: Arc<Page>) -> Self {
        Self {
            page,
            index: 0,
            first: 0,
            ordinal: 0,
            after: None,
        }
    }

    fn covers(&self, key: &[u8]) -> bool {
        self.after
            .as_ref()
            .is_none_or(|after| after.as_bytes() < key)
            && self
                .page
                .last_key()
                .is_some_and(|last| key <= last.as_bytes())
    }

    /// Goes to the first item whose key is not below `key`.
    fn place(&mut self, key: &[u8]) {
        self.index = self.page.index_of(key);
        let passed: u64 = self
            .page
            .inner()
            .iter()
            .take(self.index)
            .map(|c| c.entries)
            .sum();
        let passed = if self.page.level() == 0 {
            self.index as u64
        } else {
            passed
        };
        self.ordinal = self.first.saturating_add(passed);
    }

    /// Goes to the item below which the entry with this ordinal is.
    fn place_at(&mut self, ordinal: u64) {
        (self.index, self.ordinal) = (0, self.first);
        while self.index < self.page.len() && self.ordinal + self.weight() <= ordinal {
            self.pass();
        }
    }

    fn pass(&mut self) {
        self.ordinal = self.ordinal.saturating_add(self.weight());
        self.index += 1;
    }

    /// Entries of the item at `index`.
    fn weight(&self) -> u64 {
        self.page
            .inner()
            .get(self.index)
            .map_or(1, |child| child.entries)
    }

    fn key_before(&self) -> Option<&EntryPath> {
        match self.index.checked_sub(1) {
            Some(before) => self.page.key(before),
            None => self.after.as_ref(),
        }
    }
}

/// What stands at a walk's place.
#[derive(Debug)]
pub(super) enum Node<'w> {
    /// Nothing: every entry has been passed.
    End,
    /// A page that is not open, and its level.
    Page(&'w Child, u8),
    /// An entry.
    Entry(Ordinal, &'w EntryPath, &'w Entry),
}

/// A place in a manifest.
///
/// It keeps the pages above itself open: seeking a path nearby reads few pages.
#[derive(Debug)]
pub(super) struct Walk<'a, R> {
    read: &'a R,
    top: Arc<Page>,
    /// From the top page down; each but the last has passed the item that the next one opened.
    frames: Vec<Frame>,
}

impl<R> Clone for Walk<'_, R> {
    fn clone(&self) -> Self {
        Self {
            read: self.read,
            top: Arc::clone(&self.top),
            frames: self.frames.clone(),
        }
    }
}

impl<'a, R: PageRead> Walk<'a, R> {
    /// Opens the top page and stands at its first item.
    pub(super) fn new(read: &'a R, root: &Digest) -> Result<Self, ReadFault<R::Error>> {
        let top = load_root(read, root)?;
        let mut walk = Self {
            read,
            frames: vec![Frame::top(Arc::clone(&top))],
            top,
        };
        walk.settle();
        Ok(walk)
    }

    pub(super) fn node(&self) -> Node<'_> {
        let Some(frame) = self.frames.last() else {
            return Node::End;
        };
        match (
            frame.page.inner().get(frame.index),
            frame.page.leaf().get(frame.index),
        ) {
            (Some(child), _) => Node::Page(child, frame.page.level().saturating_sub(1)),
            (None, Some((path, entry))) => Node::Entry(ordinal(frame.ordinal), path, entry),
            (None, None) => Node::End,
        }
    }

    /// The last path in front of this place.
    pub(super) fn path_before(&self) -> Option<&EntryPath> {
        self.frames
            .last()
            .map_or_else(|| self.top.last_key(), Frame::key_before)
    }

    /// Passes the item here: one entry, or all that are below a page, unread.
    pub(super) fn pass(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.pass();
        }
        self.settle();
    }

    /// Opens the page here and stands at its first item.
    pub(super) fn open(&mut self) -> Result<(), ReadFault<R::Error>> {
        let Some(frame) = self.frames.last_mut() else {
            return Ok(());
        };
        let Some(child) = frame.page.inner().get(frame.index) else {
            return Ok(());
        };
        let after = frame.key_before().cloned();
        let level = frame.page.level().saturating_sub(1);
        let page = load(self.read, child, level, after.as_ref())?;
        let first = frame.ordinal;
        frame.pass();
        self.frames.push(Frame {
            page,
            index: 0,
            first,
            ordinal: first,
            after,
        });
        Ok(())
    }

    /// Opens pages until an entry, or the end, is here.
    pub(super) fn descend(&mut self) -> Result<(), ReadFault<R::Error>> {
        while let Node::Page(..) = self.node() {
            self.open()?;
        }
        Ok(())
    }

    /// Goes, forward or back, to the first entry whose path is not below `key`.
    pub(super) fn seek(&mut self, key: &[u8]) -> Result<(), ReadFault<R::Error>> {
        while self.frames.last().is_some_and(|frame| !frame.covers(key)) {
            self.frames.pop();
        }
        if self.frames.is_empty() {
            let top = Frame::top(Arc::clone(&self.top));
            if !top.covers(key) {
                return Ok(());
            }
            self.frames.push(top);
        }
        loop {
            if let Some(frame) = self.frames.last_mut() {
                frame.place(key);
            }
            match self.node() {
                Node::Page(..) => self.open()?,
                Node::End | Node::Entry(..) => return Ok(()),
            }
        }
    }

    /// Goes to the entry with this ordinal, or to the end.
    pub(super) fn seek_ordinal(&mut self, ordinal: Ordinal) -> Result<(), ReadFault<R::Error>> {
        self.frames.clear();
        if u64::from(ordinal.0) >= self.top.entries() {
            return Ok(());
        }
        self.frames.push(Frame::top(Arc::clone(&self.top)));
        loop {
            if let Some(frame) = self.frames.last_mut() {
                frame.place_at(u64::from(ordinal.0));
            }
            match self.node() {
                Node::Page(..) => self.open()?,
                Node::End | Node::Entry(..) => return Ok(()),
            }
        }
    }

    fn settle(&mut self) {
        while self
            .frames
            .last()
            .is_some_and(|frame| frame.index >= frame.page.len())
        {
            self.frames.pop();
        }
    }
}

/// A decoded page has at most `MANIFEST_MAX_ENTRIES` entries, so its ordinals fit.
fn ordinal(number: u64) -> Ordinal {
    Ordinal(u32::try_from(number).unwrap_or(u32::MAX))
}
