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

mod process;

use std::collections::BTreeMap;

use mirrorlog_core::archive::{Counted, History, Item, Note, Published};
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane};
use mirrorlog_core::mirror::{Channel, Input, Policy, Target};
use stateright::{Model, Property};

use crate::check::{Bound, breaks, holds};
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
        let mut all = vec![
            Property::always(LOST, no_lost_build),
            Property::always(
                "who sees two roots of a number halts",
                |_, world: &World| !world.reader.saw_two || world.reader.channel.halt.is_some(),
            ),
            Property::always(
                "when nothing more happens, the journal is on the log",
                announced,
            ),
            Property::sometimes(
                "every publication has returned",
                |model: &Self, world: &World| {
                    world.returned.len() == usize::from(model.left.publications)
                },
            ),
            Property::sometimes("a crash after the reservation", |_, world: &World| {
                is_in(world, |phase| matches!(phase, Phase::Reserved(_)))
            }),
            Property::sometimes("a crash after the journal", |_, world: &World| {
                world.left.crashes > 0 && world.server.log.len() < world.signed.len()
            }),
            Property::sometimes("a number stays unused", |_, world: &World| {
                world
                    .signed
                    .first()
                    .is_some_and(|first| first.build > Build::FIRST)
            }),
        ];
        if self.left.wipes > 0 {
            all.push(Property::sometimes(
                "a lost log is announced anew",
                |_, world: &World| {
                    world.server.stream > 0
                        && !world.signed.is_empty()
                        && world.server.log.len() == world.signed.len()
                },
            ));
        }
        if self.loss == Loss::LogAndCounters && self.count > 1 {
            // What nobody remembers cannot be fenced: the other journal is not asked, and no mirror has it yet.
            all.push(Property::sometimes(
                "a number gets two roots",
                |model, world: &World| !two_roots(model, world),
            ));
        } else {
            all.push(Property::always(TWO, two_roots));
            all.push(Property::always(
                "a snapshot has one successor",
                one_successor,
            ));
        }
        if self.count > 1 {
            all.push(Property::sometimes(
                "both archives publish",
                |_, world: &World| {
                    let by = |who: u8| {
                        world
                            .signed
                            .iter()
                            .any(|one| one.statement.as_bytes()[1] == who)
                    };
                    by(0) && by(1)
                },
            ));
            all.push(Property::sometimes(
                "the fence shuts one out",
                |_, world: &World| {
                    let mut up = world
                        .archives
                        .iter()
                        .filter_map(|archive| archive.up.as_ref());
                    up.any(|process| process.lost)
                },
            ));
        }
        all
    }
}

const LOST: &str = "no lost build: what publish returned is journaled, or still on the log";
const TWO: &str = "a number never has two roots";

fn is_in(world: &World, is: impl Fn(Phase) -> bool) -> bool {
    let mut up = world
        .archives
        .iter()
        .filter_map(|archive| archive.up.as_ref());
    world.left.crashes > 0 && up.any(|process| is(process.phase))
}

fn no_lost_build(_model: &Archives, world: &World) -> bool {
    let journals = world
        .archives
        .iter()
        .flat_map(|archive| archive.disk.history.from(Build::FIRST));
    let kept: Vec<Digest> = journals
        .chain(&world.server.log)
        .map(|one| one.statement)
        .collect();
    world
        .returned
        .iter()
        .all(|statement| kept.contains(statement))
}

fn two_roots(_model: &Archives, world: &World) -> bool {
    let builds = |index: usize| world.signed[..index].iter().map(|one| one.build);
    let mut all = world.signed.iter().enumerate();
    all.all(|(index, one)| builds(index).all(|other| other != one.build))
}

fn one_successor(_model: &Archives, world: &World) -> bool {
    let before = |index: usize| world.signed[..index].iter().map(|one| one.previous);
    let mut all = world.signed.iter().enumerate();
    all.all(|(index, one)| before(index).all(|other| other != one.previous))
}

/// Of an archive that the fence lets in.
fn announced(model: &Archives, world: &World) -> bool {
    let mut more = Vec::new();
    for (who, archive) in world.archives.iter().enumerate() {
        let Some(process) = &archive.up else {
            return true;
        };
        model.progress(world, who, process, &mut more);
    }
    let on_log = |one: &Published| world.server.log.contains(one);
    let in_office = |archive: &&Archive| {
        archive
            .up
            .as_ref()
            .is_some_and(|process| !process.lost && !process.halted)
    };
    let mut all = world.archives.iter().filter(in_office);
    !more.is_empty() || all.all(|archive| archive.disk.history.from(Build::FIRST).all(on_log))
}

const SMALL: Archives = Archives {
    count: 2,
    left: Left {
        publications: 2,
        crashes: 1,
        silences: 0,
        wipes: 1,
    },
    loss: Loss::Log,
    rule: Rule::Kept,
};

fn archives(small: Left, large: Left) -> Archives {
    let left = match Bound::asked() {
        Bound::Small => small,
        Bound::Large => large,
    };
    Archives { left, ..SMALL }
}

const fn left(publications: u8, crashes: u8, silences: u8, wipes: u8) -> Left {
    Left {
        publications,
        crashes,
        silences,
        wipes,
    }
}

#[test]
fn two_archives_and_the_loss_of_the_log() {
    holds("two archives", archives(left(2, 1, 0, 0), left(2, 1, 1, 1)));
}

#[test]
fn one_archive_and_the_loss_of_all_that_the_server_had() {
    let model = Archives {
        count: 1,
        loss: Loss::LogAndCounters,
        ..archives(left(2, 1, 1, 1), left(3, 2, 1, 1))
    };
    holds("one archive", model);
}

/// Where the fence ends: counters and log are gone, and the other archive's journal holds what no mirror has.
#[test]
fn two_archives_and_the_loss_of_all_that_the_server_had() {
    if Bound::asked() == Bound::Large {
        let loss = Loss::LogAndCounters;
        holds("two archives, counters lost", Archives { loss, ..SMALL });
    }
}

#[test]
fn broken_journal_after_log() {
    let model = Archives {
        rule: Rule::JournalAfterLog,
        ..SMALL
    };
    breaks("journal after log", model, LOST);
}
