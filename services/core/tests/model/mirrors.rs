//! Log, mirrors, acks and retractions: [`Channel`](mirrorlog_core::mirror::Channel) under every interleaving.
//!
//! Modelled: a journal; a log that delivers late, out of order, twice, that is lost whole (a new stream) or at its
//! end (the same stream, shorter); mirrors whose processes die between any two of step, persist, effects and ack;
//! content that is durable only once its fetch has run, that the disk may lose, and that scrub finds; syncs that
//! fail; plans that come out cheap or dear; a reader who pins a build; the journal's and the head's way around
//! the log.
//!
//! Not modelled: time (grace is over and a pause has passed whenever a tick comes; a sync is fresh until its plan
//! is known; heads do not expire), single entries and the bytes shared by builds, a second loss while the first is
//! healed, more than one channel, a full disk, forks (the model of archives has them).

mod bounds;
mod choices;
mod process;
mod properties;
mod source;

use std::sync::Arc;

use mirrorlog_core::id::{Build, Lane};
use mirrorlog_core::mirror::{Flip, Input, Policy};
use stateright::{Model, Property};

use crate::facts::Builds;
use process::{Mirror, Process, Task, Work, at};
use source::{Archive, Event, Log, Say};

/// Which law the shells keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Kept,
    AckBeforePersist,
}

/// Small numbers reach every branch; a grace below zero is over at each tick, a pause of nothing too.
pub(crate) fn policy() -> Policy {
    Policy {
        retain_builds: 1,
        grace_ms: -1,
        retargets_max: 1,
        pin_after_ms: i64::MAX,
        retry_max_ms: 0,
        flip: Flip::Local,
    }
}

/// What may still go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    crashes: u8,
    wipes: u8,
    cuts: u8,
    losses: u8,
    failures: u8,
    pins: u8,
}

pub(crate) struct Mirrors {
    count: usize,
    script: &'static [Say],
    faults: Faults,
    rule: Rule,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    archive: Arc<Archive>,
    log: Arc<Log>,
    mirrors: Vec<Arc<Mirror>>,
    left: Faults,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The archive journals what comes next.
    Say,
    /// The outbox sends what the log lacks.
    Announce(Lane),
    /// The log is lost, and made anew.
    Wipe,
    /// The log's server dies and comes back without its newest event.
    Cut,
    Connect(usize, Lane),
    Deliver(usize, u64),
    /// The head comes by its own way.
    Head(usize),
    Answer(usize),
    Persist(usize),
    Perform(usize),
    /// A running sync says what it lacks.
    Lacks(usize, Lane),
    Planned(usize, Lane, Cost),
    Fetch(usize, Lane),
    Staged(usize, Lane),
    Fail(usize, Lane),
    Tick(usize),
    Lose(usize, Build),
    Scrub(usize, Build),
    Heal(usize, Build),
    Sweep(usize),
    Pin(usize, Build),
    Crash(usize),
    Start(usize),
}

/// What a newer build costs, beside what the running sync still lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    Same,
    More,
}

impl Cost {
    const fn bytes(self) -> u64 {
        match self {
            Self::Same => 1,
            Self::More => 2,
        }
    }
}

impl Mirrors {
    fn act(&self, world: &mut World, action: Action) {
        let rule = self.rule;
        let log = Arc::clone(&world.log);
        match action {
            Action::Say => {
                let say = self.script[world.archive.said];
                Arc::make_mut(&mut world.archive).say(say);
            }
            Action::Announce(lane) => {
                let Some(statement) = world.log.lacks(&world.archive, lane) else {
                    return;
                };
                Arc::make_mut(&mut world.log)
                    .events
                    .push(Event { lane, statement });
            }
            Action::Wipe => {
                world.left.wipes -= 1;
                let stream = world.log.stream + 1;
                world.log = Arc::new(Log {
                    stream,
                    events: Vec::new(),
                });
                world.each(|mirror| mirror.acked.clear());
            }
            Action::Cut => {
                world.left.cuts -= 1;
                let log = Arc::make_mut(&mut world.log);
                log.events.pop();
                let last = log.last();
                world.each(|mirror| {
                    mirror.acked.retain(|(_, sequence)| *sequence <= last);
                    if let Some(process) = &mut mirror.up {
                        process.subscribed = [None; 2];
                    }
                });
            }
            Action::Head(who) => {
                let head = world
                    .archive
                    .head()
                    .map(|head| Work::Input(Input::Head(head)));
                world.mirror(who).take(head, rule, &log);
            }
            Action::Answer(who) => {
                let archive = Arc::clone(&world.archive);
                world.mirror(who).answer(&archive, rule, &log);
            }
            Action::Deliver(who, sequence) => world.deliver(who, sequence, rule),
            Action::Connect(who, lane) => world.mirror(who).connect(lane, rule, &log),
            Action::Persist(who) => world.mirror(who).persist(rule, &log),
            Action::Perform(who) => world.mirror(who).perform(rule, &log),
            Action::Start(who) => {
                let mirror = world.mirror(who);
                mirror.start();
                mirror.take([Work::Resume], rule, &log);
            }
            Action::Crash(who) => {
                world.left.crashes -= 1;
                world.mirror(who).up = None;
            }
            Action::Lacks(..)
            | Action::Planned(..)
            | Action::Fetch(..)
            | Action::Staged(..)
            | Action::Fail(..) => self.sync(world, action),
            Action::Tick(..)
            | Action::Lose(..)
            | Action::Scrub(..)
            | Action::Heal(..)
            | Action::Sweep(..)
            | Action::Pin(..) => self.keep(world, action),
        }
    }

    /// What happens to a lane's sync.
    fn sync(&self, world: &mut World, action: Action) {
        let log = Arc::clone(&world.log);
        let (Action::Lacks(who, lane)
        | Action::Planned(who, lane, _)
        | Action::Fetch(who, lane)
        | Action::Staged(who, lane)
        | Action::Fail(who, lane)) = action
        else {
            return;
        };
        world.left.failures -= u8::from(matches!(action, Action::Fail(..)));
        let mirror = world.mirror(who);
        let Some(process) = &mut mirror.up else {
            return;
        };
        let (task, plan) = (&mut process.syncs[at(lane)], &mut process.plans[at(lane)]);
        let running = match *task {
            Some(Task::Running(one) | Task::Whole(one)) => Some(one),
            None => None,
        };
        let planned = |build, missing_bytes| Input::Planned {
            lane,
            build,
            missing_bytes,
        };
        let input = match (action, running) {
            (Action::Planned(_, _, cost), _) => {
                plan.take().map(|build| planned(build, cost.bytes()))
            }
            (Action::Lacks(..), Some(build)) => Some(planned(build, Cost::Same.bytes())),
            (Action::Fetch(..), Some(build)) => {
                *task = Some(Task::Whole(build));
                mirror.content.add(build);
                mirror.damaged.drop(build);
                None
            }
            (Action::Staged(..), Some(build)) => {
                *task = None;
                Some(Input::Staged { lane, build })
            }
            (Action::Fail(..), Some(build)) => {
                *task = None;
                Some(Input::Failed { lane, build })
            }
            (_, _) => None,
        };
        mirror.take(input.map(Work::Input), self.rule, &log);
    }

    /// What happens to what is held.
    fn keep(&self, world: &mut World, action: Action) {
        let log = Arc::clone(&world.log);
        world.left.losses -= u8::from(matches!(action, Action::Lose(..)));
        world.left.pins -= u8::from(matches!(action, Action::Pin(..)));
        let (Action::Tick(who)
        | Action::Sweep(who)
        | Action::Lose(who, _)
        | Action::Scrub(who, _)
        | Action::Heal(who, _)
        | Action::Pin(who, _)) = action
        else {
            return;
        };
        let mirror = world.mirror(who);
        let Some(process) = &mut mirror.up else {
            return;
        };
        let input = match action {
            Action::Tick(_) => {
                // The shell takes repairs up again that nobody is at.
                let healing = process.channel.healing.iter();
                healing.for_each(|one| process.heals.add(*one));
                Some(process.tick())
            }
            Action::Lose(_, build) => {
                mirror.content.drop(build);
                mirror.damaged.add(build);
                None
            }
            Action::Scrub(_, build) => Some(Input::Lost { build }),
            Action::Heal(_, build) => {
                process.heals.drop(build);
                mirror.content.add(build);
                mirror.damaged.drop(build);
                Some(Input::Healed { build })
            }
            Action::Sweep(_) => {
                mirror.content = mirror.content.and(process.wanted());
                mirror.damaged = mirror.damaged.and(process.wanted());
                None
            }
            Action::Pin(_, build) => {
                process.pinned.add(build);
                None
            }
            Action::Say
            | Action::Announce(_)
            | Action::Wipe
            | Action::Cut
            | Action::Connect(..)
            | Action::Deliver(..)
            | Action::Head(_)
            | Action::Answer(_)
            | Action::Persist(_)
            | Action::Perform(_)
            | Action::Lacks(..)
            | Action::Planned(..)
            | Action::Fetch(..)
            | Action::Staged(..)
            | Action::Fail(..)
            | Action::Crash(_)
            | Action::Start(_) => None,
        };
        mirror.take(input.map(Work::Input), self.rule, &log);
    }
}

impl World {
    fn mirror(&mut self, who: usize) -> &mut Mirror {
        Arc::make_mut(&mut self.mirrors[who])
    }

    fn each(&mut self, change: impl Fn(&mut Mirror)) {
        self.mirrors
            .iter_mut()
            .for_each(|mirror| change(Arc::make_mut(mirror)));
    }

    /// An event, and the head that rides in it.
    fn deliver(&mut self, who: usize, sequence: u64, rule: Rule) {
        let (log, archive) = (Arc::clone(&self.log), Arc::clone(&self.archive));
        let Some(event) = log.get(sequence) else {
            return;
        };
        let (item, head) = archive.statements[event.statement];
        let lane = event.lane;
        let input = archive.input(item, Some((lane, sequence)));
        let work = [
            Work::Input(Input::Head(head)),
            Work::Event {
                lane,
                stream: log.stream,
                sequence,
                input,
            },
        ];
        self.mirror(who).take(work, rule, &log);
    }
}

impl Model for Mirrors {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            archive: Arc::default(),
            log: Arc::default(),
            mirrors: (0..self.count).map(|_| Arc::new(Mirror::new())).collect(),
            left: self.faults,
        }]
    }

    fn actions(&self, world: &World, out: &mut Vec<Action>) {
        Self::progress(world, out);
        self.chance(world, out);
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
