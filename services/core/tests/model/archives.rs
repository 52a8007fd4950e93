//! Two archives with one key, a journal each, one counter and one log: publishing under every interleaving.
//!
//! Modelled: epochs, claims and reservations as compare-and-set with an answer that may never come, and a request
//! that arrives after its sender died; the journal; the outbox with the log's expected last sequence; comparing
//! and merging; crashes between any two steps; the loss of the log, and of the counters with it; a mirror that
//! reads the log late and in any order.
//!
//! The rules are core's: [`Counter`], [`Note`], [`History`] and the mirror's [`Channel`]. Not modelled:
//! retractions (their counter has the same rules), the priority lane, refusals before a number is taken, a journal
//! restored from an older copy.

mod bounds;
mod process;
mod properties;

use std::collections::BTreeMap;

use mirrorlog_core::archive::{Counted, History, Item, Note, Published};
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane};
use mirrorlog_core::mirror::{Channel, Input, Policy, Target};
use stateright::{Model, Property};

use crate::facts::NOW;
use process::{Change, Phase, Process};

/// Which law the archives keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Kept,
    JournalAfterLog,
}

/// What the loss of the log takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    Log,
    LogAndCounters,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    publications: u8,
    crashes: u8,
    silences: u8,
    wipes: u8,
}

pub(crate) struct Archives {
    count: usize,
    left: Left,
    loss: Loss,
    rule: Rule,
}

/// What one archive keeps through a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    history: History,
    note: Note,
    epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Archive {
    disk: Disk,
    up: Option<Process>,
}

/// The log's server: two keys, each with the revision of its last change, and one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    stream: u8,
    revision: u64,
    /// Epoch, who put it there, and when.
    epoch: Option<(u64, usize, u64)>,
    counter: Option<(Counted, u64)>,
    log: Vec<Published>,
}

/// A mirror that brings every build it hears of here at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reader {
    channel: Channel,
    snapshots: BTreeMap<Build, Digest>,
    saw_two: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    archives: Vec<Archive>,
    server: Server,
    /// Requests whose senders wait for no answer any more.
    late: Vec<Change>,
    reader: Reader,
    /// All that was ever signed.
    signed: Vec<Published>,
    /// Builds whose `publish` has returned, by their statements.
    returned: Vec<Digest>,
    left: Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start(usize),
    /// What the process does next by itself: take, claim, compare.
    Go(usize),
    /// The compare-and-set arrives, and its answer too.
    Arrive(usize),
    /// It is on its way, and nobody waits for the answer.
    Silence(usize),
    /// One that was given up arrives.
    Late(usize),
    Reserve(usize),
    Journal(usize),
    Announce(usize),
    /// Another look at epoch and stream.
    Round(usize),
    Crash(usize),
    Wipe,
    Read(usize),
}

impl Reader {
    fn new() -> Self {
        Self {
            channel: Channel::new(ChannelId::new("noble").unwrap()),
            snapshots: BTreeMap::new(),
            saw_two: false,
        }
    }

    /// As the mirror's shell: what it remembers is compared first, then the core is told.
    fn read(&mut self, published: &Published) {
        let policy = Policy::default();
        let (build, lane) = (published.build, published.lane);
        let known = *self.snapshots.entry(build).or_insert(published.root);
        if known != published.root {
            self.saw_two = true;
            let (first, second) = (known, published.root);
            self.channel.step(
                &policy,
                Input::Fork {
                    build,
                    first,
                    second,
                },
                NOW,
            );
            return;
        }
        let target = Target {
            build,
            base: published.base,
            root: published.root,
            created: published.created,
        };
        self.channel.step(
            &policy,
            Input::Snapshot {
                target,
                lane,
                sequence: None,
            },
            NOW,
        );
        self.channel
            .step(&policy, Input::Staged { lane, build }, NOW);
    }
}

impl Archives {
    fn act(&self, world: &mut World, action: Action) {
        match action {
            Action::Start(who) => world.archives[who].up = Some(Process::new(world.server.stream)),
            Action::Go(who) => process::go(world, who),
            Action::Arrive(who) => process::arrive(world, who),
            Action::Silence(who) => {
                world.left.silences -= 1;
                process::give_up(world, who);
            }
            Action::Late(index) => {
                let change = world.late.remove(index);
                world.server.set(change);
            }
            Action::Reserve(who) => {
                world.left.publications -= 1;
                process::reserve(world, who);
            }
            Action::Journal(who) => process::journal(world, who, self.rule),
            Action::Announce(who) => process::announce(world, who),
            Action::Round(who) => process::round(world, who),
            Action::Crash(who) => {
                world.left.crashes -= 1;
                process::give_up(world, who);
                world.archives[who].up = None;
            }
            Action::Wipe => {
                world.left.wipes -= 1;
                world.server.stream += 1;
                world.server.log.clear();
                if self.loss == Loss::LogAndCounters {
                    (world.server.epoch, world.server.counter) = (None, None);
                }
            }
            Action::Read(index) => {
                let published = world.server.log[index];
                world.reader.read(&published);
            }
        }
    }

    /// What goes on by itself.
    fn progress(&self, world: &World, who: usize, process: &Process, out: &mut Vec<Action>) {
        match process.phase {
            Phase::Fresh | Phase::Unclaimed | Phase::Uncompared if !process.halted => {
                out.push(Action::Go(who));
            }
            Phase::Taking(_) | Phase::Claiming(_) | Phase::Reserving { .. } => {
                out.push(Action::Arrive(who));
            }
            Phase::Reserved(_) | Phase::Announced(_) => out.push(Action::Journal(who)),
            Phase::Fresh | Phase::Unclaimed | Phase::Uncompared | Phase::Ready => {}
        }
        if process.may_send(&world.server) && process::lacks(world, who).is_some() {
            out.push(Action::Announce(who));
        }
        if process.is_stale(&world.server) {
            out.push(Action::Round(who));
        }
    }

    fn chance(&self, world: &World, who: usize, process: &Process, out: &mut Vec<Action>) {
        let left = world.left;
        let is_ready = process.phase == Phase::Ready && process.tail.is_some();
        if is_ready && !process.lost && !process.halted && left.publications > 0 {
            out.push(Action::Reserve(who));
        }
        let asks = matches!(
            process.phase,
            Phase::Taking(_) | Phase::Claiming(_) | Phase::Reserving { .. }
        );
        if asks && left.silences > 0 {
            out.push(Action::Silence(who));
        }
        if left.crashes > 0 {
            out.push(Action::Crash(who));
        }
        let overtaken = world
            .server
            .epoch
            .is_none_or(|(epoch, ..)| epoch != process.epoch);
        if process.phase == Phase::Ready && !process.lost && overtaken {
            out.push(Action::Round(who));
        }
    }
}

impl Model for Archives {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let archive = Archive {
            disk: Disk::default(),
            up: None,
        };
        vec![World {
            archives: vec![archive; self.count],
            server: Server::default(),
            late: Vec::new(),
            reader: Reader::new(),
            signed: Vec::new(),
            returned: Vec::new(),
            left: self.left,
        }]
    }

    fn actions(&self, world: &World, out: &mut Vec<Action>) {
        for (who, archive) in world.archives.iter().enumerate() {
            match &archive.up {
                None => out.push(Action::Start(who)),
                Some(process) => {
                    self.progress(world, who, process, out);
                    self.chance(world, who, process, out);
                }
            }
        }
        out.extend((0..world.late.len()).map(Action::Late));
        out.extend((0..world.server.log.len()).map(Action::Read));
        if world.left.wipes > 0 {
            out.push(Action::Wipe);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.act(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(self)
    }
}
