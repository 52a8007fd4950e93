//! What the mirrors follow: a journal that is always right, and a log that need not be.

use mirrorlog_core::archive::{self, History, Item, Published, Step, Withdrawal};
use mirrorlog_core::id::{Build, Digest, Lane};
use mirrorlog_core::mirror::{HeadSeen, Input, Retracted, Target};
use mirrorlog_core::statement::retractions_digest;
use mirrorlog_core::time::Timestamp;

use crate::facts::{NOW, build, digest};

/// One thing that the archive is made to say.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Say {
    /// A build on top of the newest.
    Publish(Lane),
    /// A priority build over this base, and a bulk build over that one.
    Split { base: u64 },
    /// These builds are taken back.
    Retract(u64, u64),
}

/// A journal, and the heads that were signed with each statement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Archive {
    pub(crate) history: History,
    /// What the script has said so far.
    pub(crate) said: usize,
    /// In order: each statement, with the head after it.
    pub(crate) statements: Vec<(Item, HeadSeen)>,
}

/// The digest of a retraction's signed bytes.
fn withdrawal_digest(number: u64) -> Digest {
    digest(b'w', 0, number)
}

/// What a mirror that knows these retractions compares with its head.
pub(crate) fn retractions_of(numbers: impl Iterator<Item = u64>) -> Digest {
    retractions_digest(numbers.map(withdrawal_digest))
}

impl Archive {
    /// Journals what comes next in the script.
    pub(crate) fn say(&mut self, say: Say) {
        self.said += 1;
        let newest = self.history.newest().map(|newest| newest.build);
        let (lanes, base): (&[Lane], _) = match &say {
            Say::Publish(lane) => (std::slice::from_ref(lane), newest),
            Say::Split { base } => (&[Lane::Priority, Lane::Bulk], Build::new(*base)),
            Say::Retract(first, last) => return self.retract(build(*first), build(*last)),
        };
        let first = newest.map_or(Build::FIRST, Build::next);
        let numbers = first.get()..;
        let step = |(number, lane): (u64, &Lane)| Step {
            root: digest(b'r', 0, number),
            base,
            lane: *lane,
        };
        let steps: Vec<Step> = numbers.zip(lanes).map(step).collect();
        let planned = archive::plan(&self.history, newest, &steps, first, false, None).unwrap();
        for one in planned {
            let before = self.history.newest().map(|newest| newest.statement);
            let published = Published {
                build: one.build,
                base: one.base,
                root: one.root,
                statement: digest(b's', 0, one.build.get()),
                previous: before,
                lane: one.lane,
                created: self.clock(),
            };
            self.history.admit_snapshot(published).unwrap();
            self.sign(Item::Snapshot(one.build));
        }
    }

    fn retract(&mut self, first: Build, last: Build) {
        archive::check_retraction(&self.history, first, last, "bad", false).unwrap();
        let sequence = self.history.next_retraction();
        let withdrawal = Withdrawal {
            sequence,
            first,
            last,
            replacement: None,
            statement: withdrawal_digest(sequence),
            created: self.clock(),
        };
        self.history.admit_retraction(withdrawal).unwrap();
        self.sign(Item::Retraction(sequence));
    }

    fn clock(&self) -> Timestamp {
        Timestamp::from_seconds(1 + i64::try_from(self.statements.len()).unwrap())
    }

    fn sign(&mut self, item: Item) {
        let head = self.history.head().unwrap();
        let withdrawn = self.history.retractions().iter();
        let head = HeadSeen {
            build: head.build,
            root: head.root,
            retractions: retractions_of(withdrawn.map(|one| one.sequence)),
            issued: self.clock(),
            expires: NOW.plus_ms(1),
        };
        self.statements.push((item, head));
    }

    /// The newest head.
    pub(crate) fn head(&self) -> Option<HeadSeen> {
        self.statements.last().map(|(_, head)| *head)
    }

    /// A statement as a mirror's input.
    pub(crate) fn input(&self, item: Item, event: Option<(Lane, u64)>) -> Input {
        match item {
            Item::Snapshot(number) => {
                let published = self.history.get(number).unwrap();
                Input::Snapshot {
                    target: target(published),
                    lane: published.lane,
                    sequence: event.map(|(_, sequence)| sequence),
                }
            }
            Item::Retraction(number) => {
                let index = usize::try_from(number - 1).unwrap();
                let withdrawal = self.history.retractions()[index];
                Input::Retraction {
                    number,
                    retracted: Retracted {
                        first: withdrawal.first,
                        last: withdrawal.last,
                        reason: String::new(),
                    },
                    created: withdrawal.created,
                    event,
                }
            }
        }
    }
}

pub(crate) fn target(published: &Published) -> Target {
    Target {
        build: published.build,
        base: published.base,
        root: published.root,
        created: published.created,
    }
}

/// An event: its lane, and which of the archive's statements it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Event {
    pub(crate) lane: Lane,
    pub(crate) statement: usize,
}

/// One stream; sequences count from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    /// Its identity; a stream that is made anew has another.
    pub(crate) stream: u8,
    pub(crate) events: Vec<Event>,
}

impl Log {
    pub(crate) fn last(&self) -> u64 {
        self.events.len() as u64
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<Event> {
        let index = usize::try_from(sequence.checked_sub(1)?).ok()?;
        self.events.get(index).copied()
    }

    /// The statement that the archive's outbox sends next on a lane.
    pub(crate) fn lacks(&self, archive: &Archive, lane: Lane) -> Option<usize> {
        let mut on_lane = self.events.iter().rev().filter(|event| event.lane == lane);
        let last = on_lane
            .next()
            .map(|event| archive.statements[event.statement].0);
        let next = *archive.history.lacking(lane, last, usize::MAX).first()?;
        archive
            .statements
            .iter()
            .position(|(item, _)| *item == next)
    }
}
