//! What one channel published and took back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::id::{Build, Digest, Lane};
use crate::statement::{Retraction, Snapshot};
use crate::time::Timestamp;

/// A journaled snapshot, as far as the rules need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Published {
    /// Its number.
    pub build: Build,
    /// The build that it may be applied over.
    pub base: Option<Build>,
    /// Its manifest's root.
    pub root: Digest,
    /// Digest of its signed bytes.
    pub statement: Digest,
    /// Digest of the signed bytes of the snapshot before.
    pub previous: Option<Digest>,
    /// The lane on which it was published.
    pub lane: Lane,
    /// When it was signed.
    pub created: Timestamp,
}

impl Published {
    /// Takes what the rules need from a snapshot; `statement` is the digest of its signed bytes.
    pub fn of(snapshot: &Snapshot, statement: Digest) -> Self {
        Self {
            build: snapshot.build,
            base: snapshot.base,
            root: snapshot.root,
            statement,
            previous: snapshot.previous,
            lane: snapshot.lane,
            created: snapshot.created,
        }
    }
}

/// A journaled retraction, as far as the rules need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Withdrawal {
    /// Position among the channel's retractions, from 1 on.
    pub sequence: u64,
    /// First build taken back.
    pub first: Build,
    /// Last build taken back.
    pub last: Build,
    /// The build that replaces them.
    pub replacement: Option<Build>,
    /// Digest of its signed bytes.
    pub statement: Digest,
    /// When it was signed.
    pub created: Timestamp,
}

impl Withdrawal {
    /// Takes what the rules need from a retraction; `statement` is the digest of its signed bytes.
    pub fn of(retraction: &Retraction, statement: Digest) -> Self {
        Self {
            sequence: retraction.sequence,
            first: retraction.first,
            last: retraction.last,
            replacement: retraction.replacement,
            statement,
            created: retraction.created,
        }
    }
}

/// One thing that the archive said on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A snapshot, by build.
    Snapshot(Build),
    /// A retraction, by sequence.
    Retraction(u64),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(build) => write!(f, "build {build}"),
            Self::Retraction(sequence) => write!(f, "retraction {sequence}"),
        }
    }
}

/// What became of a statement that was offered to the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It continues the history.
    New,
    /// It was there already.
    Known,
}

/// Why a statement does not continue the history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Two signed statements claim one place. Halt: somebody has to find out which is right.
    #[error("fork: {item} exists as {known:?} and as {other:?}")]
    Fork {
        /// The place.
        item: Item,
        /// The statement held.
        known: Digest,
        /// The statement offered.
        other: Digest,
    },
    /// Something before it is not here. Halt until it is.
    #[error("{item} follows something that is missing here")]
    Hole {
        /// The statement that does not connect.
        item: Item,
    },
}

/// The index of one channel's journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    builds: BTreeMap<Build, Published>,
    retractions: Vec<Withdrawal>,
    /// Builds taken back: disjoint, ascending, not adjoining.
    withdrawn: Vec<(Build, Build)>,
}

impl History {
    /// Adds the next snapshot. Numbers may be skipped (a reservation lost in a crash); links may not.
    ///
    /// # Errors
    /// [`HistoryError::Fork`] when the number, or the place after the newest, is taken by another;
    /// [`HistoryError::Hole`] when the snapshot it names as previous is not here.
    pub fn admit_snapshot(&mut self, snapshot: Published) -> Result<Admitted, HistoryError> {
        let item = Item::Snapshot(snapshot.build);
        let fork = |known: Digest| HistoryError::Fork {
            item,
            known,
            other: snapshot.statement,
        };
        if let Some(known) = self.builds.get(&snapshot.build) {
            let same = known.statement == snapshot.statement;
            return if same {
                Ok(Admitted::Known)
            } else {
                Err(fork(known.statement))
            };
        }
        if let Some(after) = self.builds.range(snapshot.build..).next() {
            return Err(fork(after.1.statement));
        }
        let newest = self.newest();
        if snapshot.previous != newest.map(|newest| newest.statement) {
            let successor = self
                .builds
                .values()
                .find(|known| known.previous == snapshot.previous);
            return Err(
                successor.map_or(HistoryError::Hole { item }, |known| fork(known.statement))
            );
        }
        if snapshot
            .base
            .is_some_and(|base| !self.builds.contains_key(&base))
        {
            return Err(HistoryError::Hole { item });
        }
        self.builds.insert(snapshot.build, snapshot);
        Ok(Admitted::New)
    }

    /// Adds the next retraction.
    ///
    /// # Errors
    /// [`HistoryError::Fork`] when its sequence is taken by another,
    /// [`HistoryError::Hole`] when one before it, or a build that it names, is not here.
    pub fn admit_retraction(&mut self, retraction: Withdrawal) -> Result<Admitted, HistoryError> {
        let item = Item::Retraction(retraction.sequence);
        let known = retraction
            .sequence
            .checked_sub(1)
            .and_then(|index| self.retractions.get(usize::try_from(index).ok()?));
        if let Some(known) = known {
            let (known, other) = (known.statement, retraction.statement);
            return if known == other {
                Ok(Admitted::Known)
            } else {
                Err(HistoryError::Fork { item, known, other })
            };
        }
        let newest = self.newest().map(|newest| newest.build);
        let named = [Some(retraction.last), retraction.replacement];
        let missing = named
            .into_iter()
            .flatten()
            .any(|build| newest.is_none_or(|newest| newest < build));
        if retraction.sequence != self.next_retraction() || missing {
            return Err(HistoryError::Hole { item });
        }
        self.withdrawn = merged(&self.withdrawn, (retraction.first, retraction.last));
        self.retractions.push(retraction);
        Ok(Admitted::New)
    }

    /// A build that was published, retracted or not.
    pub fn get(&self, build: Build) -> Option<&Published> {
        self.builds.get(&build)
    }

    /// All builds from `from` on, ascending.
    pub fn from(&self, from: Build) -> impl Iterator<Item = &Published> {
        self.builds.range(from..).map(|(_, published)| published)
    }

    /// The newest build, retracted ones included.
    pub fn newest(&self) -> Option<&Published> {
        self.builds.last_key_value().map(|(_, published)| published)
    }

    /// The newest build that was not taken back.
    pub fn head(&self) -> Option<&Published> {
        self.builds
            .values()
            .rev()
            .find(|published| !self.is_retracted(published.build))
    }

    /// The head as it would be if `first..=last` were taken back too.
    pub fn head_without(&self, first: Build, last: Build) -> Option<&Published> {
        let goes = |build: Build| first <= build && build <= last;
        let stays = |build: Build| !goes(build) && !self.is_retracted(build);
        self.builds
            .values()
            .rev()
            .find(|published| stays(published.build))
    }

    /// True when `build` was taken back.
    pub fn is_retracted(&self, build: Build) -> bool {
        self.withdrawn
            .iter()
            .any(|(first, last)| *first <= build && build <= *last)
    }

    /// Builds taken back, as disjoint ascending ranges, first and last included.
    pub fn withdrawn(&self) -> &[(Build, Build)] {
        &self.withdrawn
    }

    /// All retractions by sequence.
    pub fn retractions(&self) -> &[Withdrawal] {
        &self.retractions
    }

    /// The sequence of the next retraction.
    pub fn next_retraction(&self) -> u64 {
        self.retractions.len() as u64 + 1
    }

    /// Published builds that were taken back.
    pub fn retracted(&self) -> impl Iterator<Item = &Published> {
        self.withdrawn
            .iter()
            .flat_map(|(first, last)| self.builds.range(*first..=*last))
            .map(|(_, published)| published)
    }

    /// The build against which `build` counts as a change: what it added is bad content once it is taken back.
    ///
    /// That is the build before it; for the first step of a priority split the base that it was put on,
    /// and for the second step the head that the split found.
    pub fn before(&self, build: Build) -> Option<&Published> {
        let published = self.builds.get(&build)?;
        if self.is_interim(published) {
            return published.base.and_then(|base| self.builds.get(&base));
        }
        let predecessor = self.predecessor(build)?;
        if self.is_interim(predecessor) {
            self.predecessor(predecessor.build)
        } else {
            Some(predecessor)
        }
    }

    fn predecessor(&self, build: Build) -> Option<&Published> {
        self.builds
            .range(..build)
            .next_back()
            .map(|(_, published)| published)
    }

    /// True for the first step of a priority split: it rests on an older build than the one before it.
    fn is_interim(&self, published: &Published) -> bool {
        published.lane == Lane::Priority
            && published.base != self.predecessor(published.build).map(|before| before.build)
    }

    /// The newest signed time: nothing is signed with an earlier one.
    pub fn newest_time(&self) -> Timestamp {
        let snapshots = self.newest().map(|newest| newest.created);
        let retractions = self.retractions.last().map(|last| last.created);
        snapshots.max(retractions).unwrap_or_default()
    }

    /// What belongs on a lane, in the order in which it was said. Retractions go on the priority lane.
    pub fn items(&self, lane: Lane) -> Vec<Item> {
        let snapshots = self
            .builds
            .values()
            .filter(|published| published.lane == lane);
        let mut timed: Vec<(Timestamp, Item)> = snapshots
            .map(|published| (published.created, Item::Snapshot(published.build)))
            .collect();
        if lane == Lane::Priority {
            timed.extend(
                self.retractions
                    .iter()
                    .map(|retraction| (retraction.created, Item::Retraction(retraction.sequence))),
            );
        }
        timed.sort_unstable();
        timed.into_iter().map(|(_, item)| item).collect()
    }

    /// What has to be said again on a lane of which the log has `present`: of the newest `keep`, everything from the first
    /// that is not there, because readers take the last one for the newest. `discarded`: the server has let its oldest
    /// events go for want of room, so that those before the first that is there are not missed.
    pub fn lost(
        &self,
        lane: Lane,
        present: &BTreeSet<Item>,
        keep: usize,
        discarded: bool,
    ) -> Vec<Item> {
        let items = self.items(lane);
        let newest = items.len().saturating_sub(keep);
        let first = items.iter().position(|item| present.contains(item));
        let start = match first {
            Some(first) if discarded => newest.max(first),
            Some(_) | None => newest,
        };
        let lacking = items[start..]
            .iter()
            .position(|item| !present.contains(item));
        lacking.map_or(Vec::new(), |lacking| items[start + lacking..].to_vec())
    }

    /// What the log lacks on a lane whose last event is `last`: everything after it, of the newest `keep`.
    pub fn lacking(&self, lane: Lane, last: Option<Item>, keep: usize) -> Vec<Item> {
        let items = self.items(lane);
        let known = last.and_then(|last| items.iter().position(|item| *item == last));
        let start = known
            .map_or(0, |index| index + 1)
            .max(items.len().saturating_sub(keep));
        items[start..].to_vec()
    }
}

/// Adds a range to disjoint ascending ranges, joining what touches.
fn merged(ranges: &[(Build, Build)], (mut first, mut last): (Build, Build)) -> Vec<(Build, Build)> {
    let mut all = Vec::with_capacity(ranges.len() + 1);
    let mut after = Vec::new();
    for &(start, end) in ranges {
        if end.next() < first {
            all.push((start, end));
        } else if last.next() < start {
            after.push((start, end));
        } else {
            first = first.min(start);
            last = last.max(end);
        }
    }
    all.push((first, last));
    all.extend(after);
    all
}
