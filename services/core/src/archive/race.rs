//! Two archives with one key, one journal's copy each, one counter and one log: every interleaving.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::id::{Build, Digest, Lane};
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A new process: raises the epoch.
    Start,
    /// Reads the counter, notes, and is about to put it under its own epoch.
    Claim,
    /// Compares the log with its journal, reads the counter, notes, and is about to reserve.
    Reserve,
    /// The compare-and-set arrives.
    Arrive,
    /// No answer to the compare-and-set: it may still arrive.
    GiveUp,
    /// What was reserved is signed, journaled, and announced.
    Journal,
    Announce,
    Merge,
    Crash,
    /// A compare-and-set that was given up arrives after all.
    Late,
}

#[derive(Clone, Copy)]
struct Change {
    revision: u64,
    counted: Counted,
    reserves: bool,
}

#[derive(Default)]
struct Archive {
    /// 0: not running.
    epoch: u64,
    /// Another one has taken over.
    lost: bool,
    history: History,
    note: Note,
    pending: Option<Change>,
    reserved: Option<u64>,
    announced: usize,
}

#[derive(Default)]
struct World {
    archives: [Archive; 2],
    epochs: u64,
    counted: Option<Counted>,
    revision: u64,
    late: Vec<Change>,
    log: Vec<Published>,
    /// Statements by number, and by the statement that they follow.
    builds: BTreeMap<Build, Digest>,
    followers: BTreeMap<Option<Digest>, Digest>,
}

impl World {
    fn step(&mut self, who: usize, op: Op) {
        if self.archives[who].epoch == 0 && !matches!(op, Op::Start | Op::Late) {
            return;
        }
        match op {
            Op::Start => self.start(who),
            Op::Claim | Op::Reserve => self.read(who, matches!(op, Op::Reserve)),
            Op::Arrive => self.arrive(who),
            Op::GiveUp => self.late.extend(self.archives[who].pending.take()),
            Op::Journal => self.journal(who),
            Op::Announce => self.announce(who),
            Op::Merge => self.merge(who),
            Op::Crash => {
                self.late.extend(self.archives[who].pending.take());
                let archive = &mut self.archives[who];
                (archive.epoch, archive.reserved) = (0, None);
            }
            Op::Late => {
                if let Some(change) = self.late.pop() {
                    self.set(change);
                }
            }
        }
    }

    fn start(&mut self, who: usize) {
        self.epochs += 1;
        let archive = &mut self.archives[who];
        if archive.epoch == 0 {
            (archive.epoch, archive.lost) = (self.epochs, false);
        }
    }

    fn read(&mut self, who: usize, reserves: bool) {
        if reserves {
            self.merge(who);
        }
        let archive = &mut self.archives[who];
        let (epoch, counted) = (archive.epoch, self.counted);
        archive.lost |= counted.is_some_and(|counted| counted.epoch > epoch);
        if archive.lost || archive.pending.is_some() || archive.reserved.is_some() {
            return;
        }
        let number = if reserves {
            let journaled = archive
                .history
                .newest()
                .map_or(0, |newest| newest.build.get());
            let (series, note) = (Series::Builds, archive.note);
            let Ok(number) = (Counter {
                series,
                journaled,
                note,
                counted,
                reported: 0,
            })
            .next() else {
                return;
            };
            archive.note = archive.note.reserving(counted.as_ref(), epoch, number);
            number
        } else {
            let Some(counted) = counted.filter(|counted| counted.epoch != epoch) else {
                return;
            };
            archive.note = archive.note.claiming(&counted, epoch);
            counted.number
        };
        archive.pending = Some(Change {
            revision: self.revision,
            counted: Counted { epoch, number },
            reserves,
        });
    }

    fn set(&mut self, change: Change) -> bool {
        let fits = change.revision == self.revision;
        if fits {
            self.revision += 1;
            self.counted = Some(change.counted);
        }
        fits
    }

    fn arrive(&mut self, who: usize) {
        if let Some(change) = self.archives[who].pending.take()
            && self.set(change)
            && change.reserves
        {
            self.archives[who].reserved = Some(change.counted.number);
        }
    }

    fn journal(&mut self, who: usize) {
        let Some(number) = self.archives[who].reserved.take() else {
            return;
        };
        let history = &mut self.archives[who].history;
        let newest = history.newest().copied();
        let build = Build::new(number).unwrap();
        let statement = Digest::of(format!("{who} {number} {}", self.revision).as_bytes());
        let previous = newest.map(|newest| newest.statement);
        let (base, root, lane) = (newest.map(|newest| newest.build), statement, Lane::Bulk);
        let published = Published {
            build,
            base,
            root,
            statement,
            previous,
            lane,
            created: Timestamp::EPOCH,
        };
        assert_eq!(history.admit_snapshot(published), Ok(Admitted::New));
        assert_eq!(
            self.builds.insert(build, statement),
            None,
            "build {build} has two roots"
        );
        assert_eq!(
            self.followers.insert(previous, statement),
            None,
            "build {build} is a fork"
        );
    }

    fn announce(&mut self, who: usize) {
        let archive = &mut self.archives[who];
        let next = archive
            .history
            .from(Build::FIRST)
            .nth(archive.announced)
            .copied();
        if let Some(published) = next {
            archive.announced += 1;
            if !self.log.contains(&published) {
                self.log.push(published);
            }
        }
    }

    fn merge(&mut self, who: usize) {
        // A daemon merges in its turn only: never between a reservation and the journal.
        if self.archives[who].reserved.is_some() || self.archives[who].pending.is_some() {
            return;
        }
        for published in &self.log {
            self.archives[who]
                .history
                .admit_snapshot(*published)
                .unwrap();
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => Just(Op::Start),
        2 => Just(Op::Claim),
        4 => Just(Op::Reserve),
        6 => Just(Op::Arrive),
        1 => Just(Op::GiveUp),
        4 => Just(Op::Journal),
        4 => Just(Op::Announce),
        2 => Just(Op::Merge),
        1 => Just(Op::Crash),
        1 => Just(Op::Late),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn invariant_two_archives_never_fork(ops in prop::collection::vec((0..2_usize, op()), 1..120)) {
        let mut world = World::default();
        ops.into_iter().for_each(|(who, op)| world.step(who, op));
    }
}
