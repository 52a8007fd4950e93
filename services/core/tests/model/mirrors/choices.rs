//! What may happen next.

use super::*;

impl Mirrors {
    /// What goes on by itself: without these, nothing more happens.
    pub(super) fn progress(world: &World, out: &mut Vec<Action>) {
        for lane in Lane::ALL {
            if world.log.lacks(&world.archive, lane).is_some() {
                out.push(Action::Announce(lane));
            }
        }
        for (who, mirror) in world.mirrors.iter().enumerate() {
            match &mirror.up {
                None => out.push(Action::Start(who)),
                Some(_) if mirror.is_ahead() => out.push(Action::Persist(who)),
                Some(process) if !process.effects.is_empty() => out.push(Action::Perform(who)),
                Some(process) => Self::idle(world, who, mirror, process, out),
            }
        }
    }

    fn idle(world: &World, who: usize, mirror: &Mirror, process: &Process, out: &mut Vec<Action>) {
        for (sequence, event) in (1..).zip(&world.log.events) {
            let lane = at(event.lane);
            let on = process.subscribed[lane] == Some(world.log.stream);
            let due = sequence > process.floors[lane]
                && !mirror.acked.contains(&(event.lane, sequence))
                && !process.handles.contains_key(&(event.lane, sequence));
            if on && due {
                out.push(Action::Deliver(who, sequence));
            }
        }
        let issued = |head: mirrorlog_core::mirror::HeadSeen| head.issued;
        if world.archive.head().map(issued) > process.channel.head.map(issued) {
            out.push(Action::Head(who));
        }
        if process.asking.is_some() {
            out.push(Action::Answer(who));
        }
        for lane in Lane::ALL {
            if process.subscribed[at(lane)] != Some(world.log.stream) {
                out.push(Action::Connect(who, lane));
            }
            match process.syncs[at(lane)] {
                Some(Task::Running(_)) => out.push(Action::Fetch(who, lane)),
                Some(Task::Whole(_)) => out.push(Action::Staged(who, lane)),
                None => {}
            }
        }
        if process.tick_matters() {
            out.push(Action::Tick(who));
        }
        let held: Builds = process.channel.held.keys().copied().collect();
        let healing = |one: &Build| process.channel.healing.contains(one);
        let lost = mirror.damaged.and(held).iter();
        out.extend(
            lost.filter(|one| !healing(one))
                .map(|one| Action::Scrub(who, one)),
        );
        out.extend(process.heals.iter().map(|one| Action::Heal(who, one)));
        let kept = mirror.content.and(process.wanted());
        if kept != mirror.content {
            out.push(Action::Sweep(who));
        }
    }

    /// What may happen and need not.
    pub(super) fn chance(&self, world: &World, out: &mut Vec<Action>) {
        let left = world.left;
        if world.archive.said < self.script.len() {
            out.push(Action::Say);
        }
        if left.wipes > 0 && world.log.last() > 0 {
            out.push(Action::Wipe);
        }
        if left.cuts > 0 && world.log.last() > 0 {
            out.push(Action::Cut);
        }
        for (who, mirror) in world.mirrors.iter().enumerate() {
            let Some(process) = &mirror.up else { continue };
            if left.crashes > 0 {
                out.push(Action::Crash(who));
            }
            if process.is_idle() && !mirror.is_ahead() {
                self.whim(world, who, mirror, process, out);
            }
        }
    }

    fn whim(
        &self,
        world: &World,
        who: usize,
        mirror: &Mirror,
        process: &Process,
        out: &mut Vec<Action>,
    ) {
        for (sequence, event) in (1..).zip(&world.log.events) {
            let lane = at(event.lane);
            let again = sequence <= process.floors[lane]
                || mirror.acked.contains(&(event.lane, sequence))
                || process.handles.contains_key(&(event.lane, sequence));
            if again && process.subscribed[lane] == Some(world.log.stream) {
                out.push(Action::Deliver(who, sequence));
            }
        }
        for lane in Lane::ALL {
            let sync = process.channel.lane(lane).sync;
            if let Some(Task::Running(_)) = process.syncs[at(lane)] {
                if sync.is_some_and(|sync| sync.remaining_bytes.is_none()) {
                    out.push(Action::Lacks(who, lane));
                }
                if world.left.failures > 0 {
                    out.push(Action::Fail(who, lane));
                }
            }
            if process.plans[at(lane)].is_some() {
                out.push(Action::Planned(who, lane, Cost::Same));
                out.push(Action::Planned(who, lane, Cost::More));
            }
        }
        let held: Builds = mirror.disk.channel.held.keys().copied().collect();
        if world.left.losses > 0 {
            out.extend(
                mirror
                    .content
                    .and(held)
                    .iter()
                    .map(|one| Action::Lose(who, one)),
            );
        }
        if world.left.pins > 0 {
            out.extend(
                process
                    .served
                    .builds
                    .iter()
                    .map(|one| Action::Pin(who, one)),
            );
        }
    }
}
