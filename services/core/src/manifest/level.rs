//! The pages of one level of a manifest, forward and back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use super::page::Child;
use super::walk::{ReadFault, load};
use super::{Page, PageRead};
use crate::id::Digest;
use crate::path::EntryPath;

/// Decoded pages kept while changes are applied: checking a change and cutting anew ask for the same ones.
const RECENT_PAGES: usize = 128;

/// A page source that remembers the last pages.
#[derive(Debug)]
pub(super) struct Recent<'a, R> {
    read: &'a R,
    pages: RefCell<VecDeque<(Digest, Arc<Page>)>>,
}

impl<'a, R> Recent<'a, R> {
    pub(super) fn new(read: &'a R) -> Self {
        Self {
            read,
            pages: RefCell::default(),
        }
    }
}

impl<R: PageRead> PageRead for Recent<'_, R> {
    type Error = R::Error;

    fn page(&self, digest: &Digest) -> Result<Arc<Page>, R::Error> {
        let known = |(of, _): &(Digest, Arc<Page>)| of == digest;
        let mut pages = self.pages.borrow_mut();
        let hit = pages
            .iter()
            .position(known)
            .and_then(|index| pages.remove(index));
        let page = match hit {
            Some((_, page)) => page,
            None => self.read.page(digest)?,
        };
        pages.truncate(RECENT_PAGES - 1);
        pages.push_front((*digest, Arc::clone(&page)));
        Ok(page)
    }
}

/// One level of a manifest.
#[derive(Debug)]
pub(super) struct Level<'a, R> {
    read: &'a R,
    /// A page above the manifest's top one, so that the top one has a place too.
    above: Arc<Page>,
    level: u8,
}

/// The place of one page in its level.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// From the page above the top one down to the page's parent; never empty.
    steps: Vec<Step>,
    child: Child,
}

#[derive(Clone, Debug)]
struct Step {
    page: Arc<Page>,
    index: usize,
    /// The last path in front of `page`.
    after: Option<EntryPath>,
}

/// Which item to go to in each page on the way down.
#[derive(Clone, Copy)]
enum Aim<'k> {
    First,
    Last,
    /// The first whose last path is not below the key.
    Key(&'k [u8]),
}

impl Place {
    /// What the page's parent says about it.
    pub(super) fn child(&self) -> &Child {
        &self.child
    }
}

/// True when `place` is in front of `other`; `None` is the end of the level.
pub(super) fn is_before(place: &Place, other: Option<&Place>) -> bool {
    other.is_none_or(|other| place.child.last < other.child.last)
}

type Reached<E> = Result<Option<Place>, ReadFault<E>>;

impl<'a, R: PageRead> Level<'a, R> {
    /// `above`: [`Page::above`] of a manifest with entries; `level` is not above its top page's.
    pub(super) fn new(read: &'a R, above: Arc<Page>, level: u8) -> Self {
        Self { read, above, level }
    }

    pub(super) fn first(&self) -> Reached<R::Error> {
        self.enter(Aim::First)
    }

    pub(super) fn last(&self) -> Reached<R::Error> {
        self.enter(Aim::Last)
    }

    /// The first page whose last path is not below `key`; `None` when there is none.
    pub(super) fn seek(&self, key: &EntryPath) -> Reached<R::Error> {
        if self.above.last_key().is_none_or(|last| last < key) {
            return Ok(None);
        }
        self.enter(Aim::Key(key.as_bytes()))
    }

    /// The page behind; `None` at the end.
    pub(super) fn next(&self, place: &Place) -> Reached<R::Error> {
        let mut steps = place.steps.clone();
        while let Some(step) = steps.last_mut() {
            if step.index + 1 < step.page.len() {
                step.index += 1;
                return self.descend(steps, Aim::First);
            }
            steps.pop();
        }
        Ok(None)
    }

    /// The page in front; `None` at the start.
    pub(super) fn previous(&self, place: &Place) -> Reached<R::Error> {
        let mut steps = place.steps.clone();
        while let Some(step) = steps.last_mut() {
            if step.index > 0 {
                step.index -= 1;
                return self.descend(steps, Aim::Last);
            }
            steps.pop();
        }
        Ok(None)
    }

    /// Reads the page at a place.
    pub(super) fn page(&self, place: &Place) -> Result<Arc<Page>, ReadFault<R::Error>> {
        let after = place.steps.last().and_then(Step::key_before);
        load(self.read, &place.child, self.level, after)
    }

    fn enter(&self, aim: Aim<'_>) -> Reached<R::Error> {
        let top = Step {
            page: Arc::clone(&self.above),
            index: 0,
            after: None,
        };
        self.descend(vec![top], aim)
    }

    /// From the item that the last step names down to this level.
    fn descend(&self, mut steps: Vec<Step>, aim: Aim<'_>) -> Reached<R::Error> {
        loop {
            let Some(step) = steps.last() else {
                return Ok(None);
            };
            let Some(child) = step.page.inner().get(step.index).cloned() else {
                return Ok(None);
            };
            let level = step.page.level().saturating_sub(1);
            if level <= self.level {
                return Ok(Some(Place { steps, child }));
            }
            let after = step.key_before().cloned();
            let page = load(self.read, &child, level, after.as_ref())?;
            let index = match aim {
                Aim::First => 0,
                Aim::Last => page.len().saturating_sub(1),
                Aim::Key(key) => page.index_of(key),
            };
            steps.push(Step { page, index, after });
        }
    }
}

impl Step {
    fn key_before(&self) -> Option<&EntryPath> {
        match self.index.checked_sub(1) {
            Some(before) => self.page.key(before),
            None => self.after.as_ref(),
        }
    }
}
