#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::id::{Build, Digest, Lane};
use crate::time::Timestamp;

fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

fn root(number: u8) -> Digest {
    Digest::of(&[number])
}

fn counted(number: u64) -> Counted {
    Counted { epoch: 1, number }
}

/// What may happen to an archive.
#[derive(Clone, Debug)]
enum Op {
    Publish {
        root: u8,
        lane: Lane,
        named: bool,
        wanted: u64,
        allow: bool,
    },
    /// The number was reserved, then the daemon died.
    CrashAfterReservation,
    Retract {
        first: u64,
        last: u64,
        replacement: Option<u8>,
    },
    /// The log's server lost the counter.
    CounterLost,
    /// The log's server went back to an older counter.
    CounterBack(u64),
    /// Journal and state come back from a copy made a few publications ago.
    Restore(usize),
    /// The log still has everything and is merged.
    Merge,
}

fn op() -> impl Strategy<Value = Op> {
    let lane = prop_oneof![Just(Lane::Bulk), Just(Lane::Priority)];
    let publish = (0..12_u8, lane, any::<bool>(), 0..20_u64, any::<bool>()).prop_map(
        |(root, lane, named, wanted, allow)| Op::Publish {
            root,
            lane,
            named,
            wanted,
            allow,
        },
    );
    prop_oneof![
        6 => publish,
        1 => Just(Op::CrashAfterReservation),
        2 => (1..16_u64, 0..4_u64, proptest::option::of(0..12_u8))
            .prop_map(|(first, more, replacement)| Op::Retract { first, last: first + more, replacement }),
        1 => Just(Op::CounterLost),
        1 => (0..4_u64).prop_map(Op::CounterBack),
        1 => (1..4_usize).prop_map(Op::Restore),
        1 => Just(Op::Merge),
    ]
}

/// An archive with its counter, its log, and all that was ever said in its name.
#[derive(Default)]
struct World {
    history: History,
    note: Note,
    counted: Option<(u64, u64)>,
    /// Of the process that wrote the counter last, and of the one that runs: no two have the same.
    counted_epoch: u64,
    epoch: u64,
    clock: i64,
    log: Vec<Said>,
    copies: Vec<(History, Note)>,
    roots: BTreeMap<Build, Digest>,
}

#[derive(Clone, Copy)]
enum Said {
    Snapshot(Published),
    Retraction(Withdrawal),
}

impl World {
    fn new() -> Self {
        Self {
            epoch: 1,
            ..Self::default()
        }
    }

    fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::from_ms(self.clock)
    }

    fn counter(&self) -> Counter {
        Counter {
            series: Series::Builds,
            journaled: self.history.newest().map_or(0, |newest| newest.build.get()),
            note: self.note,
            counted: self.counted.map(|(builds, _)| self.counted(builds)),
            reported: self.roots.keys().next_back().map_or(0, |build| build.get()),
        }
    }

    fn counted(&self, number: u64) -> Counted {
        Counted {
            epoch: self.counted_epoch,
            number,
        }
    }

    /// Another process runs on what lies there: it claims the counter under an epoch of its own.
    fn restart(&mut self) {
        self.epoch += 1;
        if let Some((builds, _)) = self.counted {
            self.note = self.note.claiming(&self.counted(builds), self.epoch);
            self.counted_epoch = self.epoch;
        }
    }

    fn may_retract(&self) -> bool {
        let journaled = self.history.next_retraction() - 1;
        let counted = self
            .counted
            .map(|(_, retractions)| self.counted(retractions));
        let (series, note) = (Series::Retractions, Note::default());
        let counter = Counter {
            series,
            journaled,
            note,
            counted,
            reported: 0,
        };
        counter.next().is_ok()
    }

    fn reserve(&mut self, count: u64) -> Option<Build> {
        // A journal that lacks a retraction is as much behind as one that lacks a build.
        let counter = self.counter();
        let first = counter.next_build().ok().filter(|_| self.may_retract())?;
        let last = first.get() + count - 1;
        self.note = self
            .note
            .reserving(counter.counted.as_ref(), self.epoch, last);
        self.counted = Some((last, self.history.next_retraction() - 1));
        self.counted_epoch = self.epoch;
        Some(first)
    }

    fn count(&mut self) {
        let builds = self.roots.keys().next_back().map_or(0, |build| build.get());
        let counted = self.counted.map_or(0, |(builds, _)| builds);
        self.counted = Some((builds.max(counted), self.history.next_retraction() - 1));
        self.counted_epoch = self.epoch;
    }

    fn say(&mut self, planned: Planned) {
        let created = self.now();
        let statement = Digest::of(format!("{planned:?}{created:?}").as_bytes());
        let previous = self.history.newest().map(|newest| newest.statement);
        let Planned {
            build,
            base,
            root,
            lane,
        } = planned;
        let published = Published {
            build,
            base,
            root,
            statement,
            previous,
            lane,
            created,
        };
        assert_eq!(self.history.admit_snapshot(published), Ok(Admitted::New));
        self.log.push(Said::Snapshot(published));
        let first = self.roots.insert(build, root);
        assert!(first.is_none(), "build {build} got a second root");
    }

    fn publish(&mut self, steps: &[Step], allow: bool, replaced: Option<(Build, Build)>) -> bool {
        let newest = self.history.newest().map(|newest| newest.build);
        if plan(&self.history, newest, steps, Build::FIRST, allow, replaced).is_err() {
            return false;
        }
        let Some(first) = self.reserve(steps.len() as u64) else {
            return false;
        };
        let planned = plan(&self.history, newest, steps, first, allow, replaced).unwrap();
        planned.into_iter().for_each(|planned| self.say(planned));
        true
    }

    fn retract(&mut self, first: Build, last: Build, replacement: Option<u8>) {
        let checked = check_retraction(&self.history, first, last, "bad", replacement.is_some());
        if checked.is_err() || !self.may_retract() {
            return;
        }
        if let Some(with) = replacement {
            let step = Step {
                root: root(with),
                base: self.history.newest().map(|n| n.build),
                lane: Lane::Priority,
            };
            if !self.publish(&[step], false, Some((first, last))) {
                return;
            }
        }
        let created = self.now();
        let withdrawal = Withdrawal {
            sequence: self.history.next_retraction(),
            first,
            last,
            replacement: replacement.and(self.history.newest().map(|newest| newest.build)),
            statement: Digest::of(format!("{first}{last}{created:?}").as_bytes()),
            created,
        };
        assert_eq!(self.history.admit_retraction(withdrawal), Ok(Admitted::New));
        self.log.push(Said::Retraction(withdrawal));
        self.count();
    }

    fn merge(&mut self) {
        for said in self.log.clone() {
            let admitted = match said {
                Said::Snapshot(published) => self.history.admit_snapshot(published),
                Said::Retraction(withdrawal) => self.history.admit_retraction(withdrawal),
            };
            assert!(admitted.is_ok(), "{admitted:?}");
        }
    }

    fn step(&mut self, op: Op) {
        self.copies.push((self.history.clone(), self.note));
        match op {
            Op::Publish {
                root: r,
                lane,
                named,
                wanted,
                allow,
            } => {
                let head = self.history.head().map(|head| head.build);
                let newest = self.history.newest().map(|newest| newest.build);
                let wanted = Build::new(wanted)
                    .filter(|wanted| Some(*wanted) <= head && !self.history.is_retracted(*wanted));
                let steps = match split(lane, named, head, wanted) {
                    Split::One => vec![Step {
                        root: root(r),
                        base: newest,
                        lane,
                    }],
                    Split::Two(base) => vec![
                        Step {
                            root: root(100 + r),
                            base: Some(base),
                            lane: Lane::Priority,
                        },
                        Step {
                            root: root(r),
                            base: None,
                            lane: Lane::Bulk,
                        },
                    ],
                };
                self.publish(&steps, allow, None);
            }
            Op::CrashAfterReservation => {
                self.reserve(1);
                self.restart();
            }
            Op::Retract {
                first,
                last,
                replacement,
            } => self.retract(build(first), build(last), replacement),
            // A lost counter is rebuilt from the log, so the log is merged.
            Op::CounterLost => {
                self.merge();
                self.counted = None;
            }
            // A journal restored from a copy while the counter goes back too is beyond any counting.
            Op::CounterBack(by) => {
                self.merge();
                let back =
                    |(builds, retractions): (u64, u64)| (builds.saturating_sub(by), retractions);
                self.counted = self.counted.map(back);
            }
            // The counter does not go back with the archive's copy: it lies with the log.
            Op::Restore(back) => {
                self.merge();
                self.count();
                let index = self.copies.len().saturating_sub(back + 1);
                (self.history, self.note) = self.copies[index].clone();
                self.restart();
            }
            Op::Merge => self.merge(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    // `World::say` asserts it at each publication, over every crash and restore.
    #[test]
    fn invariant_no_build_number_gets_a_second_root(ops in prop::collection::vec(op(), 1..40)) {
        let mut world = World::new();
        ops.into_iter().for_each(|op| world.step(op));
        world.merge();
    }

    #[test]
    fn invariant_builds_only_go_forward(ops in prop::collection::vec(op(), 1..40)) {
        let mut world = World::new();
        let mut newest = None;
        for op in ops {
            let restored = matches!(op, Op::Restore(_));
            world.step(op);
            let now = world.history.newest().map(|newest| newest.build);
            prop_assert!(restored || now >= newest);
            newest = now;
        }
        let all: Vec<_> = world.history.from(Build::FIRST).collect();
        for pair in all.windows(2) {
            prop_assert!(pair[0].build < pair[1].build);
            prop_assert!(pair[1].base.is_some_and(|base| base <= pair[0].build));
            prop_assert_eq!(pair[1].previous, Some(pair[0].statement));
        }
    }

    #[test]
    fn invariant_head_is_never_a_retracted_build(ops in prop::collection::vec(op(), 1..40)) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
            let history = &world.history;
            let head = history.head().map(|head| head.build);
            prop_assert!(head.is_none_or(|head| !history.is_retracted(head)));
            prop_assert!(head.is_some() || history.newest().is_none());
            let newer = history.from(Build::FIRST).filter(|p| Some(p.build) > head);
            prop_assert!(newer.map(|p| p.build).all(|newer| history.is_retracted(newer)));
        }
    }

    #[test]
    fn withdrawn_ranges_are_what_the_retractions_cover(ranges in prop::collection::vec((1..60_u64, 0..6_u64), 0..20)) {
        let mut history = History::default();
        let mut covered = BTreeSet::new();
        for number in 1..=80 {
            admit(&mut history, number, Lane::Bulk, Build::new(number - 1));
        }
        for (first, more) in ranges {
            let sequence = history.next_retraction();
            let last = first + more;
            withdraw(&mut history, sequence, first, last);
            covered.extend(first..=last);
        }
        for number in 1..=80 {
            prop_assert_eq!(history.is_retracted(build(number)), covered.contains(&number));
        }
        for pair in history.withdrawn().windows(2) {
            prop_assert!(pair[0].1.next() < pair[1].0, "ranges touch: {:?}", history.withdrawn());
        }
    }

    #[test]
    fn invariant_what_the_log_lacks_restores_the_lane(numbers in 1..40_u64, cut in 0..40_usize, keep in 1..50_usize) {
        let mut history = History::default();
        for number in 1..=numbers {
            let lane = if number % 3 == 0 { Lane::Priority } else { Lane::Bulk };
            admit(&mut history, number, lane, Build::new(number - 1));
        }
        for lane in Lane::ALL {
            let items = history.items(lane);
            let held = &items[..cut.min(items.len())];
            let lacking = history.lacking(lane, held.last().copied(), keep);
            prop_assert!(lacking.len() <= keep);
            prop_assert!(items.ends_with(&lacking));
            prop_assert!(lacking.len() == keep || held.len() + lacking.len() == items.len());
        }
    }
}

fn admit(history: &mut History, number: u64, lane: Lane, base: Option<Build>) -> Published {
    let published = Published {
        build: build(number),
        base,
        root: Digest::of(&number.to_le_bytes()),
        statement: Digest::of(&(number + 1000).to_le_bytes()),
        previous: history.newest().map(|newest| newest.statement),
        lane,
        created: Timestamp::from_ms(number as i64),
    };
    assert_eq!(history.admit_snapshot(published), Ok(Admitted::New));
    published
}

fn withdraw(history: &mut History, sequence: u64, first: u64, last: u64) {
    let statement = Digest::of(&[sequence as u8, 9]);
    let created = history.newest_time();
    let withdrawal = Withdrawal {
        sequence,
        first: build(first),
        last: build(last),
        replacement: None,
        statement,
        created,
    };
    assert_eq!(history.admit_retraction(withdrawal), Ok(Admitted::New));
}

#[test]
fn a_second_statement_for_a_number_is_a_fork() {
    let mut history = History::default();
    let first = admit(&mut history, 1, Lane::Bulk, None);
    admit(&mut history, 2, Lane::Bulk, Some(Build::FIRST));
    assert_eq!(history.admit_snapshot(first), Ok(Admitted::Known));
    let other = Published {
        statement: Digest::of(b"other"),
        ..first
    };
    assert!(matches!(
        history.admit_snapshot(other),
        Err(HistoryError::Fork { .. })
    ));
    // A second successor of build 1 under a number that is free.
    let other = Published {
        build: build(3),
        previous: Some(first.statement),
        ..other
    };
    assert!(matches!(
        history.admit_snapshot(other),
        Err(HistoryError::Fork { .. })
    ));
    let other = Published {
        previous: Some(Digest::of(b"unheard of")),
        ..other
    };
    assert!(matches!(
        history.admit_snapshot(other),
        Err(HistoryError::Hole { .. })
    ));
}

#[test]
fn a_restored_journal_is_behind() {
    let note = Note {
        number: 7,
        epochs: [1, 1],
    };
    let (series, counted) = (Series::Builds, Some(counted(7)));
    let sound = Counter {
        series,
        journaled: 7,
        note,
        counted,
        reported: 99,
    };
    assert_eq!(sound.next(), Ok(8));
    let other = Some(Counted {
        epoch: 1,
        number: 9,
    });
    let text = Counter {
        counted: other,
        ..sound
    }
    .next()
    .unwrap_err()
    .to_string();
    assert_eq!(text, "the counter knows build 9, but the journal ends at 7");
    let lost = Counter {
        counted: None,
        reported: 8,
        ..sound
    };
    assert_eq!(lost.next().unwrap_err().witness, Witness::Mirror);
    let crashed = Counter {
        journaled: 6,
        ..sound
    };
    assert_eq!(crashed.next_build(), Ok(build(8)));
    assert_eq!(
        Counter {
            series: Series::Retractions,
            ..crashed
        }
        .next(),
        Ok(7)
    );
}

#[test]
fn a_split_counts_as_a_change_against_the_head_it_found() {
    let mut history = History::default();
    for number in 1..=5 {
        admit(&mut history, number, Lane::Bulk, Build::new(number - 1));
    }
    admit(&mut history, 6, Lane::Priority, Some(build(3)));
    admit(&mut history, 7, Lane::Bulk, Some(build(6)));
    let before = |number| history.before(build(number)).map(|p| p.build.get());
    assert_eq!(
        (before(1), before(5), before(6), before(7)),
        (None, Some(4), Some(3), Some(5))
    );
}

#[test]
fn a_replacement_must_not_be_the_tree_that_it_replaces() {
    let mut history = History::default();
    let first = admit(&mut history, 1, Lane::Bulk, None);
    let step = Step {
        root: first.root,
        base: Some(Build::FIRST),
        lane: Lane::Priority,
    };
    let range = Some((Build::FIRST, Build::FIRST));
    let planned = |allow, range| {
        plan(
            &history,
            Some(Build::FIRST),
            &[step],
            build(2),
            allow,
            range,
        )
    };
    assert!(matches!(
        planned(false, range),
        Err(Refusal::Retracted { .. })
    ));
    assert!(planned(true, range).is_ok() && planned(false, None).is_ok());
    assert_eq!(
        check_retraction(&history, Build::FIRST, Build::FIRST, "bad", false),
        Err(Refusal::NothingLeft)
    );
    assert_eq!(
        check_retraction(&history, Build::FIRST, Build::FIRST, "bad", true),
        Ok(())
    );
}
