//! One archive's process, and the server that all share: what `services/archive` does around core's rules.

use mirrorlog_core::archive::{Counter, Series};
use mirrorlog_core::time::Timestamp;

use super::{Archive, Build, Counted, Item, Lane, Note, Published, Rule, Server, World};
use crate::facts::digest;

/// A compare-and-set of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Epoch {
        epoch: u64,
        who: usize,
        revision: u64,
    },
    Counter {
        counted: Counted,
        revision: u64,
    },
}

/// What a process is at. A request is under way in those that end in -ing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// No epoch yet.
    Fresh,
    Taking(Change),
    /// The counter is not under this epoch yet.
    Unclaimed,
    Claiming(Change),
    /// The journal is not compared with the log yet.
    Uncompared,
    Ready,
    /// `before`: a compare-and-set that was refused noted nothing that counts.
    Reserving {
        change: Change,
        before: Note,
    },
    Reserved(u64),
    /// With the journal after the log: said, and not journaled.
    Announced(Published),
}

/// What a crash takes away.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) phase: Phase,
    pub(crate) epoch: u64,
    /// The lane's last sequence; `None` until compared.
    pub(crate) tail: Option<usize>,
    stream: u8,
    /// Another archive has taken over.
    pub(crate) lost: bool,
    pub(crate) halted: bool,
}

impl Process {
    pub(crate) const fn new(stream: u8) -> Self {
        Self {
            phase: Phase::Fresh,
            epoch: 0,
            tail: None,
            stream,
            lost: false,
            halted: false,
        }
    }

    pub(crate) fn may_send(&self, server: &Server) -> bool {
        self.stream == server.stream && self.tail == Some(server.log.len()) && !self.halted
    }

    /// The stream was made anew, or a send was refused: a round is due, in the channel's turn.
    pub(crate) fn is_stale(&self, server: &Server) -> bool {
        let behind = self.stream != server.stream || self.tail != Some(server.log.len());
        self.phase == Phase::Ready && behind && !self.lost && !self.halted
    }

    fn lose(&mut self) {
        (self.lost, self.phase) = (true, Phase::Ready);
    }
}

impl Server {
    fn epoch_revision(&self) -> u64 {
        self.epoch.map_or(0, |(_, _, revision)| revision)
    }

    fn counter_revision(&self) -> u64 {
        self.counter.map_or(0, |(_, revision)| revision)
    }

    pub(crate) fn set(&mut self, change: Change) -> bool {
        let next = self.revision + 1;
        let done = match change {
            Change::Epoch {
                epoch,
                who,
                revision,
            } if revision == self.epoch_revision() => {
                self.epoch = Some((epoch, who, next));
                true
            }
            Change::Counter { counted, revision } if revision == self.counter_revision() => {
                self.counter = Some((counted, next));
                true
            }
            Change::Epoch { .. } | Change::Counter { .. } => false,
        };
        self.revision += u64::from(done);
        done
    }
}

fn up(archive: &mut Archive) -> &mut Process {
    archive.up.as_mut().unwrap()
}

/// Takes the epoch, claims the counter, compares: up to the next request.
pub(crate) fn go(world: &mut World, who: usize) {
    let (server, archive) = (&world.server, &mut world.archives[who]);
    let counter = server.counter.map(|(counted, _)| counted);
    let process = archive.up.as_mut().unwrap();
    match process.phase {
        Phase::Fresh => {
            let held = server.epoch.map_or(0, |(epoch, ..)| epoch);
            let epoch = held.max(archive.disk.epoch).max(process.epoch) + 1;
            archive.disk.epoch = epoch;
            let revision = server.epoch_revision();
            process.phase = Phase::Taking(Change::Epoch {
                epoch,
                who,
                revision,
            });
        }
        Phase::Unclaimed => {
            process.phase = match counter.filter(|counted| counted.epoch != process.epoch) {
                Some(counted) if counted.epoch > process.epoch => return process.lose(),
                Some(counted) => {
                    archive.disk.note = archive.disk.note.claiming(&counted, process.epoch);
                    let number = counted.number;
                    let counted = Counted {
                        epoch: process.epoch,
                        number,
                    };
                    let revision = server.counter_revision();
                    Phase::Claiming(Change::Counter { counted, revision })
                }
                None => Phase::Uncompared,
            };
        }
        Phase::Uncompared => compare(server, archive),
        Phase::Taking(_)
        | Phase::Claiming(_)
        | Phase::Ready
        | Phase::Reserving { .. }
        | Phase::Reserved(_)
        | Phase::Announced(_) => {}
    }
}

/// Merges what the log has and the journal lacks; a fork or a hole halts.
fn compare(server: &Server, archive: &mut Archive) {
    let history = &mut archive.disk.history;
    let mut found = server.log.clone();
    found.sort_unstable_by_key(|published| published.build);
    let merged = found
        .into_iter()
        .try_for_each(|one| history.admit_snapshot(one).map(drop));
    let process = up(archive);
    process.phase = Phase::Ready;
    process.halted = merged.is_err();
    process.tail = Some(server.log.len());
}

/// The request under way is answered.
pub(crate) fn arrive(world: &mut World, who: usize) {
    let process = up(&mut world.archives[who]);
    match process.phase {
        Phase::Taking(change) => {
            let done = world.server.set(change);
            if let (Change::Epoch { epoch, .. }, true) = (change, done) {
                (process.epoch, process.phase) = (epoch, Phase::Unclaimed);
            } else {
                process.phase = Phase::Fresh;
            }
        }
        Phase::Claiming(change) => {
            world.server.set(change);
            // Refused or not, it is looked at again.
            process.phase = Phase::Unclaimed;
        }
        Phase::Reserving { change, before } => {
            let Change::Counter { counted, .. } = change else {
                return;
            };
            let done = world.server.set(change)
                // An answer that was lost leaves our own reservation behind.
                || world.server.counter.is_some_and(|(held, _)| held == counted);
            if done {
                process.phase = Phase::Reserved(counted.number);
            } else {
                ask(world, who, before);
            }
        }
        Phase::Fresh
        | Phase::Unclaimed
        | Phase::Uncompared
        | Phase::Ready
        | Phase::Reserved(_)
        | Phase::Announced(_) => {}
    }
}

/// The request stays under way, and nobody waits for it.
pub(crate) fn give_up(world: &mut World, who: usize) {
    let process = up(&mut world.archives[who]);
    let (change, next) = match process.phase {
        Phase::Taking(change) => (change, Phase::Fresh),
        Phase::Claiming(change) => (change, Phase::Unclaimed),
        Phase::Reserving { change, .. } => (change, Phase::Ready),
        Phase::Fresh
        | Phase::Unclaimed
        | Phase::Uncompared
        | Phase::Ready
        | Phase::Reserved(_)
        | Phase::Announced(_) => return,
    };
    process.phase = next;
    world.late.push(change);
}

pub(crate) fn reserve(world: &mut World, who: usize) {
    let before = world.archives[who].disk.note;
    ask(world, who, before);
}

/// Notes and asks for the next number, or refuses.
fn ask(world: &mut World, who: usize, before: Note) {
    let held = world.reader.channel.held.keys().next_back();
    let reported = held.map_or(0, |newest| newest.get());
    let (server, archive) = (&world.server, &mut world.archives[who]);
    let counted = server.counter.map(|(counted, _)| counted);
    let process = archive.up.as_mut().unwrap();
    if counted.is_some_and(|counted| counted.epoch > process.epoch) {
        return process.lose();
    }
    let newest = archive.disk.history.newest();
    let counter = Counter {
        series: Series::Builds,
        journaled: newest.map_or(0, |newest| newest.build.get()),
        note: before,
        counted,
        reported,
    };
    let Ok(number) = counter.next() else {
        process.phase = Phase::Ready;
        return;
    };
    archive.disk.note = before.reserving(counted.as_ref(), process.epoch, number);
    let epoch = process.epoch;
    let change = Change::Counter {
        counted: Counted { epoch, number },
        revision: server.counter_revision(),
    };
    process.phase = Phase::Reserving { change, before };
}

/// Signs under the reserved number, and journals; then `publish` returns.
pub(crate) fn journal(world: &mut World, who: usize, rule: Rule) {
    let unique = u64::from(world.left.publications);
    let history = &mut world.archives[who].disk.history;
    let newest = history.newest().copied();
    let phase = world.archives[who].up.as_ref().map(|process| process.phase);
    let published = match phase {
        Some(Phase::Reserved(number)) => Published {
            build: Build::new(number).unwrap(),
            base: newest.map(|newest| newest.build),
            root: digest(b'r', u8::try_from(who).unwrap(), number << 8 | unique),
            statement: digest(b's', u8::try_from(who).unwrap(), number << 8 | unique),
            previous: newest.map(|newest| newest.statement),
            lane: Lane::Bulk,
            created: Timestamp::EPOCH,
        },
        Some(Phase::Announced(published)) => {
            let archive = &mut world.archives[who];
            up(archive).phase = Phase::Ready;
            // Whether it is refused by now or not: it was returned.
            archive.disk.history.admit_snapshot(published).ok();
            return;
        }
        _ => return,
    };
    world.signed.push(published);
    world.returned.push(published.statement);
    if rule == Rule::JournalAfterLog {
        world.server.log.push(published);
        up(&mut world.archives[who]).phase = Phase::Announced(published);
        return;
    }
    let archive = &mut world.archives[who];
    let journaled = archive.disk.history.admit_snapshot(published);
    let process = up(archive);
    process.phase = Phase::Ready;
    process.halted |= journaled.is_err();
}

/// The oldest statement that the log lacks.
pub(crate) fn lacks(world: &World, who: usize) -> Option<Published> {
    let history = &world.archives[who].disk.history;
    let last = world
        .server
        .log
        .last()
        .map(|last| Item::Snapshot(last.build));
    let lacking = history.lacking(Lane::Bulk, last, usize::MAX);
    match lacking.first()? {
        Item::Snapshot(build) => history.get(*build).copied(),
        Item::Retraction(_) => None,
    }
}

pub(crate) fn announce(world: &mut World, who: usize) {
    let Some(published) = lacks(world, who) else {
        return;
    };
    world.server.log.push(published);
    up(&mut world.archives[who]).tail = Some(world.server.log.len());
}

/// Looks at epoch and stream again; claims and compares.
pub(crate) fn round(world: &mut World, who: usize) {
    let server = &mut world.server;
    let process = up(&mut world.archives[who]);
    let (own, held) = (process.epoch, server.epoch);
    match held {
        Some((epoch, by, _)) if epoch > own || (epoch == own && by != who) => {
            return process.lose();
        }
        Some((epoch, ..)) if epoch == own => {}
        Some(_) | None => {
            let revision = server.epoch_revision();
            server.set(Change::Epoch {
                epoch: own,
                who,
                revision,
            });
        }
    }
    let same = process.stream == server.stream;
    process.stream = server.stream;
    process.tail = None;
    process.phase = if same {
        Phase::Uncompared
    } else {
        Phase::Unclaimed
    };
}
