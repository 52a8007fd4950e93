//! The border rule: where a page ends.
//!
//! A page is cut from a *window*: the items from its start that fit `PAGE_MAX_ITEMS` and
//! `PAGE_MAX_BYTES`. In this order:
//!
//! 1. **Natural border**: after the first item, from the `PAGE_MIN_ITEMS`th on, whose draw is
//!    below 2^64 / `PAGE_MEAN_ITEMS`. It depends on the page's own items only, so a change
//!    behind it cannot move it.
//! 2. **End of the level**: if nothing follows the window, all of it is one page.
//! 3. **Forced cut**: after the item with the smallest draw, from the `PAGE_MIN_ITEMS`th on, or
//!    from the window's middle on when that comes first. Two windows that overlap mostly agree
//!    on their smallest draw, so pages meet again behind a change even where names were chosen
//!    to have no natural border.
//!
//! An item's draw is the first 8 bytes, big-endian, of SHA-256(level || key). Page borders are
//! thus a function of the entries alone, not of the history.

use std::collections::VecDeque;

use sha2::{Digest as _, Sha256};

use super::page::{HEADER_BYTES, ITEM_MAX_BYTES};
use crate::limits::{PAGE_MAX_BYTES, PAGE_MAX_ITEMS, PAGE_MEAN_ITEMS, PAGE_MIN_ITEMS};
use crate::path::EntryPath;

/// Draws below this make a natural border.
const NATURAL_BELOW: u64 = u64::MAX / PAGE_MEAN_ITEMS + 1;

const _: () = assert!(PAGE_MEAN_ITEMS > 1 && PAGE_MEAN_ITEMS.is_power_of_two());
const _: () = assert!(PAGE_MIN_ITEMS >= 2 && PAGE_MIN_ITEMS < PAGE_MAX_ITEMS);
// Four of the largest items fit, so the middle is at two or more and every level shrinks.
const _: () = assert!((PAGE_MAX_BYTES - HEADER_BYTES) / ITEM_MAX_BYTES >= 4);

/// An item's draw: as good as random, yet the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn of(level: u8, key: &EntryPath) -> Self {
        let hash: [u8; 32] = Sha256::new()
            .chain_update([level])
            .chain_update(key.as_bytes())
            .finalize()
            .into();
        let [a, b, c, d, e, f, g, h, ..] = hash;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    pub(super) fn is_natural(self) -> bool {
        self.0 < NATURAL_BELOW
    }
}

/// True when `items` items, `bytes` bytes long together, do not fit one page: a page that starts
/// with them is cut without a look at what follows.
pub(super) fn overflows(items: usize, bytes: usize) -> bool {
    items > PAGE_MAX_ITEMS || HEADER_BYTES + bytes > PAGE_MAX_BYTES
}

/// Items of one level that wait to be cut into pages.
#[derive(Debug, Default)]
pub(super) struct Window {
    items: VecDeque<(Draw, usize)>,
    /// Items at the front that are known to fit the page, and to have no natural border.
    scanned: usize,
    scanned_bytes: usize,
}

impl Window {
    /// Adds an item behind the others; `bytes` is the length of its encoding.
    pub(super) fn push(&mut self, draw: Draw, bytes: usize) {
        self.items.push_back((draw, bytes));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the next page's items out and returns how many they are; `None` when that cannot be
    /// told before more items come. `ended`: no more will come.
    pub(super) fn cut(&mut self, ended: bool) -> Option<usize> {
        while let Some(&(draw, bytes)) = self.items.get(self.scanned) {
            if overflows(self.scanned + 1, self.scanned_bytes + bytes) {
                return Some(self.take(self.forced()));
            }
            self.scanned += 1;
            self.scanned_bytes += bytes;
            if self.scanned >= PAGE_MIN_ITEMS && draw.is_natural() {
                return Some(self.take(self.scanned));
            }
        }
        (ended && self.scanned > 0).then(|| self.take(self.scanned))
    }

    fn forced(&self) -> usize {
        let first = PAGE_MIN_ITEMS.min(self.scanned.div_ceil(2));
        let candidates = self
            .items
            .iter()
            .enumerate()
            .take(self.scanned)
            .skip(first - 1);
        let smallest = candidates.min_by_key(|(_, (draw, _))| *draw);
        smallest.map_or(self.scanned, |(index, _)| index + 1)
    }

    fn take(&mut self, count: usize) -> usize {
        self.items.drain(..count);
        self.scanned = 0;
        self.scanned_bytes = 0;
        count
    }
}
