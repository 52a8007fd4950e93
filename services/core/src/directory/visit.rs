//! One client stays on one build, through one run of its package manager.
//!
//! A run of apt is one index after another and then packages. Were each sent to the build that is wanted at that
//! second, a flip in between would give an index of one build and another one of the next. So the first request of
//! a visit chooses the build and the others keep to it, until the visit is over: nothing was asked for a while, an
//! entry point (`InRelease`, `Release`; in a tree without them any path) is asked for again, or the build is not to
//! be had any more.
//!
//! Visits are kept in memory only, under numbers that a secret of the process made of addresses.

use std::collections::{BTreeMap, VecDeque};

use crate::id::Build;
use crate::time::Timestamp;

/// A visit is over when nothing was asked for this long, in milliseconds.
pub const IDLE_MS: i64 = 60_000;
/// No visit lasts longer than this, in milliseconds: who never pauses gets news all the same.
pub const LONGEST_MS: i64 = 10 * 60_000;
/// Most visits that are kept; of more, the oldest one is over.
pub const VISITS_MAX: usize = 65_536;
/// Most entry points of one visit that are remembered, the first ones: a new run begins as the last one did.
pub const ENTRIES_MAX: usize = 32;

/// A visitor: a number that stands for a client and a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Visitor(pub u64);

#[derive(Clone, Debug)]
struct Visit {
    build: Build,
    began: Timestamp,
    asked: Timestamp,
    /// Entry points asked for in this visit, as numbers.
    entries: Vec<u64>,
}

impl Visit {
    fn is_over(&self, now: Timestamp) -> bool {
        now.ms_since(self.asked) > IDLE_MS || now.ms_since(self.began) > LONGEST_MS
    }
}

/// All visits under way.
#[derive(Clone, Debug, Default)]
pub struct Visits {
    visits: BTreeMap<Visitor, Visit>,
    /// In order of beginning.
    order: VecDeque<(Timestamp, Visitor)>,
    swept: Timestamp,
}

impl Visits {
    /// The build that the visitor is on, if it is on one. `entry`: a number of the entry point that is asked for.
    pub fn build(&mut self, visitor: Visitor, entry: Option<u64>, now: Timestamp) -> Option<Build> {
        let visit = self.visits.get_mut(&visitor)?;
        let over = visit.is_over(now);
        let again = entry.is_some_and(|entry| visit.entries.contains(&entry));
        if over || again {
            self.visits.remove(&visitor);
            return None;
        }
        visit.asked = now;
        if visit.entries.len() < ENTRIES_MAX {
            visit.entries.extend(entry);
        }
        Some(visit.build)
    }

    /// Begins a visit.
    pub fn begin(&mut self, visitor: Visitor, build: Build, entry: Option<u64>, now: Timestamp) {
        self.sweep(now);
        while self.order.len() >= VISITS_MAX
            && let Some((began, oldest)) = self.order.pop_front()
        {
            // An old line of one who came again says nothing of the new visit.
            let same = |visit: &Visit| visit.began == began;
            if self.visits.get(&oldest).is_some_and(same) {
                self.visits.remove(&oldest);
            }
        }
        let visit = Visit {
            build,
            began: now,
            asked: now,
            entries: entry.into_iter().collect(),
        };
        self.visits.insert(visitor, visit);
        self.order.push_back((now, visitor));
    }

    /// Ends a visit.
    pub fn end(&mut self, visitor: Visitor) {
        self.visits.remove(&visitor);
    }

    /// Forgets those that are over, once a minute.
    fn sweep(&mut self, now: Timestamp) {
        if now.ms_since(self.swept) <= IDLE_MS {
            return;
        }
        self.swept = now;
        self.visits.retain(|_, visit| !visit.is_over(now));
        let visits = &self.visits;
        let stands = |began: &Timestamp, visitor: &Visitor| {
            let visit = visits.get(visitor);
            visit.is_some_and(|visit| visit.began == *began)
        };
        self.order.retain(|(began, visitor)| stands(began, visitor));
    }

    /// Visits that are kept.
    pub fn len(&self) -> usize {
        self.visits.len()
    }

    /// True when nobody is on a visit.
    pub fn is_empty(&self) -> bool {
        self.visits.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RELEASE: Option<u64> = Some(1);
    const UPDATES: Option<u64> = Some(2);

    fn build(number: u64) -> Build {
        Build::new(number).unwrap()
    }

    #[test]
    fn a_run_keeps_its_build_and_the_next_one_gets_the_next() {
        let (mut visits, at) = (Visits::default(), Timestamp::from_ms);
        let (a, b) = (Visitor(1), Visitor(2));
        assert_eq!(visits.build(a, RELEASE, at(0)), None);
        visits.begin(a, build(37), RELEASE, at(0));
        for (entry, ms) in [
            (None, 1),
            (UPDATES, 2),
            (None, IDLE_MS),
            (None, 2 * IDLE_MS),
        ] {
            assert_eq!(visits.build(a, entry, at(ms)), Some(build(37)), "{ms}");
        }
        assert_eq!(visits.build(b, None, at(3)), None, "another client");
        let again = 2 * IDLE_MS + 1;
        assert_eq!(visits.build(a, RELEASE, at(again)), None, "a new run");
        visits.begin(a, build(38), RELEASE, at(again));
        assert_eq!(visits.build(a, None, at(again + 1)), Some(build(38)));
        assert_eq!(visits.build(a, None, at(again + 2 + IDLE_MS)), None, "idle");
    }

    #[test]
    fn who_never_pauses_gets_news_all_the_same() {
        let (mut visits, at) = (Visits::default(), Timestamp::from_ms);
        visits.begin(Visitor(1), build(37), None, at(0));
        let mut ms = 0;
        while visits.build(Visitor(1), None, at(ms)).is_some() {
            ms += IDLE_MS / 2;
        }
        assert!((LONGEST_MS..=LONGEST_MS + IDLE_MS).contains(&ms), "{ms}");
    }

    #[test]
    fn visits_that_are_over_are_forgotten() {
        let (mut visits, at) = (Visits::default(), Timestamp::from_ms);
        for visitor in 0..100 {
            visits.begin(Visitor(visitor), build(1), None, at(0));
        }
        visits.begin(Visitor(100), build(1), None, at(2 * IDLE_MS));
        assert_eq!((visits.len(), visits.order.len()), (1, 1));
    }

    #[test]
    fn visits_are_bounded() {
        let mut visits = Visits::default();
        for visitor in 0..VISITS_MAX as u64 + 100 {
            let at = Timestamp::from_ms(i64::try_from(visitor).unwrap());
            visits.begin(Visitor(visitor), build(1), None, at);
        }
        assert_eq!(visits.len(), VISITS_MAX);
        assert!(visits.order.len() <= VISITS_MAX);
    }
}
