//! One level's part of applying changes: cut anew what they can touch, keep the rest.
//!
//! Cutting starts at the earliest page whose end could depend on the next change (`restart`) and
//! stops where a new page starts with an old page that no change can touch: from there on the
//! old pages, up to the next change, are what cutting anew would give.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::border::{Draw, overflows};
use super::build::{Chunker, Item, WriteFault, put};
use super::level::{Level, Place, is_before};
use super::page::Child;
use super::walk::ReadFault;
use super::{ManifestError, Page, PageRead, PageWrite};
use crate::limits::{PAGE_MAX_ITEMS, PAGE_MIN_ITEMS};
use crate::path::EntryPath;
use crate::statement::Change;

/// What changes in the items of one level, by rising key.
#[derive(Debug)]
pub(super) enum Changes<'d> {
    /// At the leaves.
    Entries(Vec<&'d Change>),
    /// Above: pages that came and pages that went.
    Children(Vec<(EntryPath, Option<Child>)>),
}

impl Changes<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.key(0).is_none()
    }

    fn key(&self, index: usize) -> Option<&EntryPath> {
        match self {
            Self::Entries(changes) => changes.get(index).map(|change| &change.path),
            Self::Children(changes) => changes.get(index).map(|(key, _)| key),
        }
    }

    /// The item that is to be there; `None` when it is to go.
    fn item(&self, index: usize) -> Option<Item> {
        match self {
            Self::Entries(changes) => {
                let change = changes.get(index)?;
                Some(Item::entry(&change.path, change.new.as_ref()?))
            }
            Self::Children(changes) => Some(Item::child(changes.get(index)?.1.as_ref()?)),
        }
    }
}

/// What became of one level.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Pages that were cut anew; some may be as before.
    pub(super) added: Vec<Child>,
    removed: Vec<Child>,
    kept: Kept,
}

/// How many old pages stay.
#[derive(Debug)]
enum Kept {
    None,
    One(Child),
    Many,
}

/// How many pages a level has now.
#[derive(Debug)]
pub(super) enum Pages<'o> {
    None,
    One(&'o Child),
    Many,
}

impl Outcome {
    pub(super) fn pages(&self) -> Pages<'_> {
        match (&self.kept, self.added.as_slice()) {
            (Kept::None, []) => Pages::None,
            (Kept::None, [one]) => Pages::One(one),
            (Kept::One(one), []) => Pages::One(one),
            (Kept::None | Kept::One(_) | Kept::Many, _) => Pages::Many,
        }
    }

    /// What changes in the level above.
    pub(super) fn into_changes(self) -> Changes<'static> {
        let mut by_key: BTreeMap<EntryPath, (Option<Child>, Option<Child>)> = BTreeMap::new();
        for old in self.removed {
            let key = old.last.clone();
            by_key.entry(key).or_default().0 = Some(old);
        }
        for new in self.added {
            let key = new.last.clone();
            by_key.entry(key).or_default().1 = Some(new);
        }
        let changed = by_key.into_iter().filter(|(_, (old, new))| old != new);
        Changes::Children(changed.map(|(key, (_, new))| (key, new)).collect())
    }
}

/// An old page's start among the items that wait to be cut.
#[derive(Clone, Debug)]
struct Mark {
    place: Place,
    /// Changes in front of it.
    change: usize,
}

type Pulled<E> = Result<Option<(Item, Option<Mark>)>, ReadFault<E>>;

/// Cuts one level anew.
#[derive(Debug)]
pub(super) struct Rechunk<'a, R, W> {
    old: &'a Level<'a, R>,
    level: u8,
    write: &'a mut W,
    changes: &'a Changes<'a>,
    chunker: Chunker,
    /// For each item in `chunker`: whether an old page starts there.
    marks: VecDeque<Option<Mark>>,
    /// The old page whose items come next, `None` at the end.
    place: Option<Place>,
    /// That page, once an item was taken from it.
    page: Option<Arc<Page>>,
    index: usize,
    change: usize,
    /// The change that `restart` was last asked about, and its answer.
    restart: Option<(usize, Option<Place>)>,
    outcome: Outcome,
}

impl<'a, R: PageRead, W: PageWrite> Rechunk<'a, R, W> {
    pub(super) fn new(
        old: &'a Level<'a, R>,
        level: u8,
        write: &'a mut W,
        changes: &'a Changes<'a>,
    ) -> Self {
        Self {
            old,
            level,
            write,
            changes,
            chunker: Chunker::new(level),
            marks: VecDeque::new(),
            place: None,
            page: None,
            index: 0,
            change: 0,
            restart: None,
            outcome: Outcome {
                added: Vec::new(),
                removed: Vec::new(),
                kept: Kept::None,
            },
        }
    }

    pub(super) fn run(mut self) -> Result<Outcome, ManifestError<R::Error, W::Error>> {
        self.place = self.old.first()?;
        loop {
            self.keep_untouched()?;
            if !self.cut_one()? {
                return Ok(self.outcome);
            }
        }
    }

    /// At the start of a new page: when an old page starts here too, keeps the old pages up to
    /// the one where cutting has to start again.
    fn keep_untouched(&mut self) -> Result<(), ReadFault<R::Error>> {
        let mark = match (self.marks.front(), &self.place, &self.page) {
            (Some(Some(mark)), _, _) => mark.clone(),
            (None, Some(place), None) => Mark {
                place: place.clone(),
                change: self.change,
            },
            (Some(None), _, _) | (None, None, _) | (None, _, Some(_)) => return Ok(()),
        };
        let until = self.restart(mark.change)?;
        if !is_before(&mark.place, until.as_ref()) {
            return Ok(());
        }
        self.chunker.clear();
        self.marks.clear();
        let reached = &mark.place.child().last;
        while self
            .outcome
            .removed
            .last()
            .is_some_and(|child| child.last >= *reached)
        {
            self.outcome.removed.pop();
        }
        let next = self.old.next(&mark.place)?;
        let one = next.as_ref().map(|p| &p.child().last) == until.as_ref().map(|p| &p.child().last);
        self.outcome.kept = match (&self.outcome.kept, one) {
            (Kept::None, true) => Kept::One(mark.place.child().clone()),
            (Kept::None | Kept::One(_) | Kept::Many, _) => Kept::Many,
        };
        self.place = until;
        self.page = None;
        self.change = mark.change;
        Ok(())
    }

    /// Cuts the next page; false when no items are left.
    fn cut_one(&mut self) -> Result<bool, ManifestError<R::Error, W::Error>> {
        let mut ended = false;
        loop {
            if let Some(new) = self.chunker.cut(ended).map_err(ManifestError::Page)? {
                self.marks.drain(..new.items);
                self.store(new.child, new.encoded)?;
                return Ok(true);
            }
            if ended {
                return Ok(false);
            }
            match self.pull()? {
                Some((item, mark)) => {
                    self.chunker.push(item);
                    self.marks.push_back(mark);
                }
                None => ended = true,
            }
        }
    }

    /// Writes a page, unless it is an old one.
    fn store(&mut self, child: Child, encoded: Vec<u8>) -> Result<(), WriteFault<W::Error>> {
        let mut near = self
            .outcome
            .removed
            .iter()
            .rev()
            .take_while(|old| old.last >= child.last);
        let is_old = near.any(|old| *old == child);
        if !is_old {
            put(self.write, &child, encoded)?;
        }
        self.outcome.added.push(child);
        Ok(())
    }

    /// The next item of the level as it is to be.
    fn pull(&mut self) -> Pulled<R::Error> {
        loop {
            let mark = self.enter_page()?;
            let old = self.page.as_deref().and_then(|page| page.key(self.index));
            let order = match (old, self.changes.key(self.change)) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.cmp(new),
            };
            let item = match order {
                Ordering::Less => self
                    .page
                    .as_deref()
                    .and_then(|page| Item::of(page, self.index)),
                Ordering::Equal | Ordering::Greater => self.changes.item(self.change),
            };
            if order.is_le() {
                self.pass_old()?;
            }
            if order.is_ge() {
                self.change += 1;
            }
            if let Some(item) = item {
                return Ok(Some((item, mark)));
            }
        }
    }

    /// Reads the old page whose items come next; returns its mark when it is a new one.
    fn enter_page(&mut self) -> Result<Option<Mark>, ReadFault<R::Error>> {
        let (None, Some(place)) = (&self.page, &self.place) else {
            return Ok(None);
        };
        self.page = Some(self.old.page(place)?);
        self.index = 0;
        self.outcome.removed.push(place.child().clone());
        Ok(Some(Mark {
            place: place.clone(),
            change: self.change,
        }))
    }

    fn pass_old(&mut self) -> Result<(), ReadFault<R::Error>> {
        self.index += 1;
        if self
            .page
            .as_deref()
            .is_some_and(|page| self.index >= page.len())
            && let Some(place) = &self.place
        {
            self.place = self.old.next(place)?;
            self.page = None;
        }
        Ok(())
    }

    /// The earliest old page whose end could depend on a change; `None` without such a change.
    ///
    /// That is the page where the key belongs, and those in front of it whose window reached it.
    /// A natural border stops the search: no earlier window contained it, else that window's
    /// page had ended there.
    fn restart(&mut self, change: usize) -> Result<Option<Place>, ReadFault<R::Error>> {
        if let Some((known, place)) = &self.restart
            && *known == change
        {
            return Ok(place.clone());
        }
        let place = match self.changes.key(change) {
            None => None,
            Some(key) => self.find_restart(key)?,
        };
        self.restart = Some((change, place.clone()));
        Ok(place)
    }

    fn find_restart(&self, key: &EntryPath) -> Result<Option<Place>, ReadFault<R::Error>> {
        let found = match self.old.seek(key)? {
            Some(place) => Some(place),
            None => self.old.last()?,
        };
        let Some(mut place) = found else {
            return Ok(None);
        };
        let page = self.old.page(&place)?;
        let mut items = page.index_of(key.as_bytes());
        let mut bytes = page.bytes_before(items);
        while let Some(previous) = self.old.previous(&place)? {
            let natural = Draw::of(self.level, &previous.child().last).is_natural();
            if natural && previous.child().entries > few_entries(self.level) {
                break;
            }
            let page = self.old.page(&previous)?;
            items += page.len();
            bytes += page.bytes_before(page.len());
            if (natural && page.len() >= PAGE_MIN_ITEMS) || overflows(items, bytes) {
                break;
            }
            place = previous;
        }
        Ok(Some(place))
    }
}

/// Most entries below a page of fewer than `PAGE_MIN_ITEMS` items.
fn few_entries(level: u8) -> u64 {
    let below_item = (PAGE_MAX_ITEMS as u64).saturating_pow(u32::from(level));
    (PAGE_MIN_ITEMS as u64 - 1).saturating_mul(below_item)
}
