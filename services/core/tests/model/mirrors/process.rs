//! A mirror's process around the real state machine: receive, step, persist, perform, ack.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::mirror::{Channel, Effect, Input};

use super::source::{Archive, Log, retractions_of};
use super::{Rule, policy};
use crate::facts::{Builds, NOW};

/// Where a lane stands, as `services/mirror` keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Cursor {
    /// `None`: nothing was ever taken from the log.
    pub(crate) stream: Option<u8>,
    pub(crate) delivered: u64,
}

/// What one atomic write replaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) channel: Channel,
    pub(crate) cursors: [Cursor; 2],
}

/// What the engine has taken and not stepped yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    Event {
        lane: Lane,
        stream: u8,
        sequence: u64,
        input: Input,
    },
    /// Passed over when it would change nothing.
    Journal(Input),
    Input(Input),
    StreamChanged {
        lane: Lane,
        stream: u8,
    },
    Resume,
}

/// A sync under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    Running(Build),
    /// All of it is durable; the engine does not know yet.
    Whole(Build),
}

/// What the HTTP server shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Served {
    pub(crate) live: Option<Build>,
    pub(crate) builds: Builds,
}

/// What a crash takes away.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) channel: Channel,
    pub(crate) cursors: [Cursor; 2],
    pub(crate) work: VecDeque<Work>,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) handles: BTreeMap<(Lane, u64), u8>,
    /// The stream that each lane's consumer is on.
    pub(crate) subscribed: [Option<u8>; 2],
    /// Where it was made to start.
    pub(crate) floors: [u64; 2],
    pub(crate) syncs: [Option<Task>; 2],
    pub(crate) plans: [Option<Build>; 2],
    pub(crate) heals: Builds,
    pub(crate) asking: Option<Build>,
    pub(crate) served: Served,
    /// Builds that a reader reads by number.
    pub(crate) pinned: Builds,
}

/// One mirror.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mirror {
    pub(crate) disk: Disk,
    /// Builds whose content is durable here.
    pub(crate) content: Builds,
    /// Builds whose content was, until the disk lost some of it.
    pub(crate) damaged: Builds,
    /// Events of the current stream that the log was told to be done.
    pub(crate) acked: BTreeSet<(Lane, u64)>,
    /// Live went back, or away, and no retraction said so.
    pub(crate) went_back: bool,
    pub(crate) up: Option<Process>,
}

pub(crate) const fn at(lane: Lane) -> usize {
    match lane {
        Lane::Priority => 0,
        Lane::Bulk => 1,
    }
}

impl Process {
    /// Nothing is half done.
    pub(crate) fn is_idle(&self) -> bool {
        self.work.is_empty() && self.effects.is_empty()
    }

    /// Below every open event, else behind the last one taken: `Engine::floor`.
    pub(crate) fn floor(&self, lane: Lane) -> u64 {
        let open = self.channel.open_sequence(lane);
        open.map_or(self.cursors[at(lane)].delivered, |open| {
            open.saturating_sub(1)
        })
    }

    /// True when the head counts retractions that are not known here.
    pub(crate) fn lacks_retractions(&self) -> bool {
        let known = || retractions_of(self.channel.retracted.keys().copied());
        self.channel
            .head
            .is_some_and(|head| head.retractions != known())
    }

    /// True when a tick would change anything.
    pub(crate) fn tick_matters(&self) -> bool {
        let mut after = self.channel.clone();
        let effects = after.step(&policy(), self.tick(), NOW);
        let does = |effect: &Effect| match effect {
            Effect::AskJournal { .. } => self.asking.is_none(),
            Effect::Plan { lane, .. } => self.plans[at(*lane)].is_none(),
            Effect::Start { .. }
            | Effect::Cancel { .. }
            | Effect::Serve
            | Effect::Ack { .. }
            | Effect::Collect { .. }
            | Effect::Heal { .. }
            | Effect::Backfill { .. }
            | Effect::Report => true,
        };
        let asks = self.asking.is_none() && self.lacks_retractions();
        asks || after != self.channel || effects.iter().any(does)
    }

    pub(crate) fn tick(&self) -> Input {
        Input::Tick {
            leased: self.pinned.iter().collect(),
        }
    }

    fn takes(&mut self, lane: Lane, stream: u8, sequence: u64) {
        let cursor = &mut self.cursors[at(lane)];
        if cursor.stream.is_some_and(|known| known != stream) {
            self.reset(lane, stream);
        }
        let cursor = &mut self.cursors[at(lane)];
        cursor.stream = Some(stream);
        cursor.delivered = cursor.delivered.max(sequence);
        self.handles.insert((lane, sequence), stream);
    }

    fn reset(&mut self, lane: Lane, stream: u8) {
        self.cursors[at(lane)] = Cursor {
            stream: Some(stream),
            delivered: 0,
        };
        self.handles.retain(|(of, _), _| *of != lane);
        self.channel.forget_open(lane);
    }

    /// Steps one piece of work; `None` when it is passed over.
    fn step(&mut self, work: Work) -> Option<Vec<Effect>> {
        let input = match work {
            Work::Event {
                lane,
                stream,
                sequence,
                input,
            } => {
                self.takes(lane, stream, sequence);
                input
            }
            Work::Journal(input) => {
                if let Input::Snapshot { target, lane, .. } = &input
                    && self.channel.is_settled(*lane, target)
                {
                    return None;
                }
                input
            }
            Work::Input(Input::Head(head)) => {
                if self
                    .channel
                    .head
                    .is_some_and(|seen| head.issued <= seen.issued)
                {
                    return None;
                }
                Input::Head(head)
            }
            Work::Input(input) => input,
            Work::StreamChanged { lane, stream } => {
                self.reset(lane, stream);
                self.subscribed[at(lane)] = Some(stream);
                self.floors[at(lane)] = 0;
                return Some(Vec::new());
            }
            Work::Resume => return Some(self.channel.resume(NOW)),
        };
        let asks = matches!(input, Input::Head(_) | Input::Tick { .. });
        let mut effects = self.channel.step(&policy(), input, NOW);
        if asks && self.lacks_retractions() {
            let from = self.channel.head.map_or(Build::FIRST, |head| head.build);
            effects.push(Effect::AskJournal { from });
        }
        Some(effects)
    }

    /// Performs what no one outside sees and a crash undoes.
    fn perform(&mut self, effect: &Effect) {
        match effect {
            Effect::Plan { lane, target } => {
                self.plans[at(*lane)].get_or_insert(target.build);
            }
            Effect::Start { lane, target } => {
                self.syncs[at(*lane)] = Some(Task::Running(target.build));
                self.plans[at(*lane)] = None;
            }
            Effect::Cancel { lane } => {
                self.syncs[at(*lane)] = None;
                self.plans[at(*lane)] = None;
            }
            Effect::Serve => {
                let held = self.channel.held.keys().copied();
                self.served = Served {
                    live: self.channel.live,
                    builds: held
                        .filter(|one| !self.channel.is_retracted(*one))
                        .collect(),
                };
            }
            Effect::Heal { target } => self.heals.add(target.build),
            Effect::AskJournal { from } => {
                self.asking.get_or_insert(*from);
            }
            Effect::Collect { target } => self.heals.drop(target.build),
            // Reports and what follows from them are the model of verdicts.
            // Nobody orders older builds here.
            Effect::Report | Effect::Ack { .. } | Effect::Backfill { .. } => {}
        }
    }

    /// Builds that a collection of garbage keeps.
    pub(crate) fn wanted(&self) -> Builds {
        let of_lane = |lane| {
            let state = self.channel.lane(lane);
            [state.sync.map(|sync| sync.target), state.next]
        };
        let targets = Lane::ALL.into_iter().flat_map(of_lane).flatten();
        let targets = targets.map(|target| target.build);
        self.channel.held.keys().copied().chain(targets).collect()
    }
}

impl Mirror {
    pub(crate) fn new() -> Self {
        let channel = Channel::new(ChannelId::new("noble").unwrap());
        let disk = Disk {
            channel,
            cursors: <[Cursor; 2]>::default(),
        };
        let mut mirror = Self {
            disk,
            content: Builds::default(),
            damaged: Builds::default(),
            acked: BTreeSet::new(),
            went_back: false,
            up: None,
        };
        mirror.start();
        let process = mirror.up.as_mut().unwrap();
        process.subscribed = [Some(0); 2];
        mirror
    }

    /// A process takes up what the one before left.
    pub(crate) fn start(&mut self) {
        self.up = Some(Process {
            channel: self.disk.channel.clone(),
            cursors: self.disk.cursors,
            work: VecDeque::new(),
            effects: VecDeque::new(),
            handles: BTreeMap::new(),
            subscribed: [None; 2],
            floors: [0; 2],
            syncs: [None; 2],
            plans: [None; 2],
            heals: Builds::default(),
            asking: None,
            served: Served::default(),
            pinned: Builds::default(),
        });
    }

    /// True when the process knows something that is not durable.
    pub(crate) fn is_ahead(&self) -> bool {
        let differs = |process: &Process| {
            process.channel != self.disk.channel || process.cursors != self.disk.cursors
        };
        self.up.as_ref().is_some_and(differs)
    }

    /// Takes work and goes on until something must become durable, or be done.
    pub(crate) fn take(&mut self, work: impl IntoIterator<Item = Work>, rule: Rule, log: &Log) {
        let Some(process) = &mut self.up else { return };
        process.work.extend(work);
        self.go_on(rule, log);
    }

    fn go_on(&mut self, rule: Rule, log: &Log) {
        while !self.is_ahead()
            && let Some(process) = &mut self.up
            && process.effects.is_empty()
            && let Some(work) = process.work.pop_front()
        {
            let before = process.channel.live;
            let Some(effects) = process.step(work) else {
                continue;
            };
            let live = process.channel.live;
            let allowed = before.is_none_or(|before| process.channel.is_retracted(before));
            self.went_back |= live < before && !allowed;
            process.effects.extend(effects);
            if rule == Rule::AckBeforePersist {
                let effects: Vec<Effect> = process.effects.iter().cloned().collect();
                for effect in &effects {
                    self.ack(effect, log);
                }
            }
        }
    }

    /// The one atomic write.
    pub(crate) fn persist(&mut self, rule: Rule, log: &Log) {
        if let Some(process) = &self.up {
            self.disk = Disk {
                channel: process.channel.clone(),
                cursors: process.cursors,
            };
        }
        self.go_on(rule, log);
    }

    /// Performs effects up to one that the outside sees.
    pub(crate) fn perform(&mut self, rule: Rule, log: &Log) {
        while let Some(process) = &mut self.up
            && let Some(effect) = process.effects.pop_front()
        {
            process.perform(&effect);
            if self.ack(&effect, log) {
                break;
            }
        }
        self.go_on(rule, log);
    }

    /// An ack reaches the log only on the stream that brought its event.
    fn ack(&mut self, effect: &Effect, log: &Log) -> bool {
        let Effect::Ack { lane, sequence } = effect else {
            return false;
        };
        let process = self.up.as_mut();
        let stream = process.and_then(|process| process.handles.remove(&(*lane, *sequence)));
        let lane_there = log.get(*sequence).is_some_and(|event| event.lane == *lane);
        if stream != Some(log.stream) || !lane_there {
            return false;
        }
        self.acked.insert((*lane, *sequence))
    }

    /// Connects a lane's consumer, or finds that the log is another one or has lost its end.
    pub(crate) fn connect(&mut self, lane: Lane, rule: Rule, log: &Log) {
        let Some(process) = &mut self.up else { return };
        let floor = process.floor(lane);
        let known = process.cursors[at(lane)].stream;
        if known.is_some_and(|known| known != log.stream) || floor > log.last() {
            let stream = log.stream;
            self.take([Work::StreamChanged { lane, stream }], rule, log);
            return;
        }
        process.subscribed[at(lane)] = Some(log.stream);
        process.floors[at(lane)] = floor;
    }

    /// Everything that the journal answers.
    pub(crate) fn answer(&mut self, archive: &Archive, rule: Rule, log: &Log) {
        let Some(process) = &mut self.up else { return };
        let Some(from) = process.asking.take() else {
            return;
        };
        let history = &archive.history;
        let item = |item| archive.input(item, None);
        let unknown = history.retractions().iter();
        let unknown = unknown.filter(|one| !process.channel.retracted.contains_key(&one.sequence));
        let mut work: Vec<Work> = unknown
            .map(|one| {
                Work::Input(item(mirrorlog_core::archive::Item::Retraction(
                    one.sequence,
                )))
            })
            .collect();
        work.extend(archive.head().map(|head| Work::Input(Input::Head(head))));
        let builds: Vec<Build> = history
            .from(from)
            .map(|published| published.build)
            .collect();
        let newest_first = builds.into_iter().rev();
        work.extend(
            newest_first
                .map(|one| Work::Journal(item(mirrorlog_core::archive::Item::Snapshot(one)))),
        );
        self.take(work, rule, log);
    }
}
