//! Reports, audits, verdicts and leases: [`Consistency`](mirrorlog_core::consistency::Consistency) under every
//! interleaving, with a [`Directory`](mirrorlog_core::directory::Directory) that hears what was said.
//!
//! Modelled: replicas of the service that hear reports, retractions and verdicts each in its own time; a lease that
//! goes over while its old holder still acts and its verdicts are still on their way; audits that see what the
//! mirror serves at that moment; content that is lost and healed; a mirror that goes live later; a mirror that
//! reports what it has not.
//!
//! Not modelled: silence and unreachability, samples that miss (an audit sees all of its build), views, more than
//! one mirror and channel, a replica that starts anew from retained verdicts, reports out of order.

mod bounds;
mod properties;
mod service;

use std::sync::Arc;

use mirrorlog_core::consistency::{Input, Leadership, Scope};
use mirrorlog_core::id::Build;
use mirrorlog_core::statement::{Verdict, VerdictState};
use mirrorlog_core::time::Timestamp;
use stateright::{Model, Property};

use crate::facts::{Builds, NOW, build};
use service::{Reader, Replica};

/// Which law the services keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Kept,
    /// A verdict counts whatever its lease.
    NotFenced,
    /// An audit passes when the mirror reports all of the build.
    AuditTrustsReports,
}

/// What a mirror says of what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Honesty {
    Honest,
    /// Says that it has all, and lacks something of every build.
    Liar,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    leases: u8,
    rounds: u8,
    losses: u8,
    retractions: u8,
}

pub(crate) struct Verdicts {
    replicas: usize,
    builds: u64,
    honesty: Honesty,
    left: Left,
    rule: Rule,
}

/// A mirror, as it is or as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mirror {
    pub(crate) live: Build,
    pub(crate) whole: Builds,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    now: Timestamp,
    mirror: Mirror,
    /// Builds that were whole on it once.
    once_whole: Builds,
    /// Those that some replica has not heard, and the last; `said` were made in all.
    reports: Vec<Mirror>,
    said: usize,
    lease: (usize, u64),
    verdicts: Vec<Arc<Verdict>>,
    replicas: Vec<Arc<Replica>>,
    reader: Arc<Reader>,
    /// Builds taken back.
    retracted: Option<Build>,
    left: Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Lead(usize),
    /// A replica learns that it lost the lease.
    Yield(usize),
    Report,
    TakeReport(usize),
    Answer(usize, usize),
    /// A verdict reaches the log.
    Post(usize),
    TakeVerdict(usize),
    /// The directory hears a verdict.
    Show,
    Retract,
    HearRetraction(usize),
    ShowRetraction,
    Flip,
    Lose(Build),
    Heal(Build),
    Round,
}

impl Verdicts {
    fn says(&self, world: &World) -> Mirror {
        match self.honesty {
            Honesty::Honest => world.mirror,
            Honesty::Liar => Mirror {
                whole: (1..=self.builds).map(build).collect(),
                ..world.mirror
            },
        }
    }

    /// What goes on by itself.
    fn progress(&self, world: &World, out: &mut Vec<Action>) {
        if world.reports.last() != Some(&self.says(world)) {
            out.push(Action::Report);
        }
        for (who, replica) in world.replicas.iter().enumerate() {
            if replica.leads && world.lease.0 != who {
                out.push(Action::Yield(who));
            }
            if replica.reports < world.reports.len() {
                out.push(Action::TakeReport(who));
            }
            out.extend((0..replica.audits.len()).map(|index| Action::Answer(who, index)));
            if !replica.outbox.is_empty() {
                out.push(Action::Post(who));
            }
            if replica.verdicts < world.verdicts.len() {
                out.push(Action::TakeVerdict(who));
            }
            if world.retracted.is_some() && !replica.knows_retraction {
                out.push(Action::HearRetraction(who));
            }
        }
        if world.reader.verdicts < world.verdicts.len() {
            out.push(Action::Show);
        }
        if world.retracted.is_some() && !world.reader.knows_retraction {
            out.push(Action::ShowRetraction);
        }
        if self.honesty == Honesty::Honest {
            let all = (1..=self.builds).map(build);
            let lost = all.filter(|one| !world.mirror.whole.has(*one));
            out.extend(lost.map(Action::Heal));
        }
    }

    fn chance(&self, world: &World, out: &mut Vec<Action>) {
        let left = world.left;
        if left.leases > 0 {
            let others = (0..self.replicas).filter(|who| *who != world.lease.0);
            out.extend(others.map(Action::Lead));
        }
        if left.retractions > 0 {
            out.push(Action::Retract);
        }
        if world.mirror.live.get() < self.builds {
            out.push(Action::Flip);
        }
        if left.losses > 0 {
            out.extend(world.mirror.whole.iter().map(Action::Lose));
        }
        if left.rounds > 0 {
            out.push(Action::Round);
        }
    }

    fn act(&self, world: &mut World, action: Action) {
        let now = world.now;
        match action {
            Action::Lead(who) => {
                world.left.leases -= 1;
                world.lease = (who, world.lease.1 + 1);
                let revision = world.lease.1;
                let replica = world.replica(who);
                replica.leads = true;
                replica.step(Input::Lease(Leadership::Leader { revision }), now);
            }
            Action::Yield(who) => world.replica(who).yields(now),
            Action::Report => {
                let says = self.says(world);
                world.reports.push(says);
                world.said += 1;
            }
            Action::TakeReport(who) => {
                let index = world.replicas[who].reports;
                let report = world.reports[index];
                let number = world.said - world.reports.len() + index + 1;
                world
                    .replica(who)
                    .take_report(number, report, self.builds, now);
            }
            Action::Answer(who, index) => self.answer(world, who, index),
            Action::Post(who) => {
                let verdict = world.replica(who).outbox.pop_front();
                world.verdicts.extend(verdict.map(Arc::new));
            }
            Action::TakeVerdict(who) => {
                let index = world.replicas[who].verdicts;
                let verdict = Arc::clone(&world.verdicts[index]);
                world.replica(who).take_verdict(&verdict, self.rule, now);
            }
            Action::Show => {
                let verdict = Arc::clone(&world.verdicts[world.reader.verdicts]);
                Arc::make_mut(&mut world.reader).show(&verdict, self.rule, now);
            }
            Action::Retract => {
                world.left.retractions -= 1;
                world.retracted = Some(build(self.builds));
            }
            Action::HearRetraction(who) => {
                if let Some(one) = world.retracted {
                    world.replica(who).hear_retraction(one, now);
                }
            }
            Action::ShowRetraction => {
                if let Some(one) = world.retracted {
                    Arc::make_mut(&mut world.reader).hear_retraction(one, now);
                }
            }
            Action::Flip => world.mirror.live = world.mirror.live.next(),
            Action::Lose(one) => {
                world.left.losses -= 1;
                world.mirror.whole.drop(one);
            }
            Action::Heal(one) => world.mirror.whole.add(one),
            Action::Round => {
                world.left.rounds -= 1;
                world.now = now.plus_ms(service::ROUND_MS);
                for who in 0..self.replicas {
                    let now = world.now;
                    world.replica(who).step(Input::Tick { random: 0 }, now);
                }
            }
        }
    }

    /// An audit sees what is served when it looks.
    fn answer(&self, world: &mut World, who: usize, index: usize) {
        let (mirror, now) = (world.mirror, world.now);
        let trusts = self.rule == Rule::AuditTrustsReports;
        let whole = |one| trusts || mirror.whole.has(one);
        let moved = |one, scope| scope == Scope::Live && mirror.live != one;
        world.replica(who).answer(index, whole, moved, now);
    }
}

impl World {
    /// What everybody has heard tells states apart no more.
    fn forget_heard(&mut self) {
        let heard = self.replicas.iter().map(|replica| replica.verdicts);
        let heard = heard.chain([self.reader.verdicts]).min().unwrap_or(0);
        let reported = self.replicas.iter().map(|replica| replica.reports).min();
        let reported = reported
            .unwrap_or(0)
            .min(self.reports.len().saturating_sub(1));
        if heard == 0 && reported == 0 {
            return;
        }
        self.verdicts.drain(..heard);
        self.reports.drain(..reported);
        Arc::make_mut(&mut self.reader).verdicts -= heard;
        for replica in &mut self.replicas {
            let replica = Arc::make_mut(replica);
            (replica.verdicts, replica.reports) =
                (replica.verdicts - heard, replica.reports - reported);
        }
    }

    fn replica(&mut self, who: usize) -> &mut Replica {
        Arc::make_mut(&mut self.replicas[who])
    }
}

impl Model for Verdicts {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let whole: Builds = match self.honesty {
            Honesty::Honest => (1..=self.builds).map(build).collect(),
            Honesty::Liar => Builds::default(),
        };
        let mut world = World {
            now: NOW,
            mirror: Mirror {
                live: Build::FIRST,
                whole,
            },
            once_whole: whole,
            reports: Vec::new(),
            said: 0,
            lease: (0, 1),
            verdicts: Vec::new(),
            replicas: (0..self.replicas)
                .map(|_| Arc::new(Replica::new(self.builds)))
                .collect(),
            reader: Arc::new(Reader::new(self.builds)),
            retracted: None,
            left: self.left,
        };
        let first = world.replica(0);
        first.leads = true;
        first.step(Input::Lease(Leadership::Leader { revision: 1 }), NOW);
        vec![world]
    }

    fn actions(&self, world: &World, out: &mut Vec<Action>) {
        self.progress(world, out);
        self.chance(world, out);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.act(&mut next, action);
        next.forget_heard();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(self)
    }
}
