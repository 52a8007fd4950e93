//! What must hold of the mirrors in every state, and what must be reached.

use mirrorlog_core::archive::Item;
use mirrorlog_core::id::{Build, Lane};
use mirrorlog_core::mirror::Effect;
use stateright::Property;

use super::process::{Disk, Mirror};
use super::source::Say;
use super::{Mirrors, World};

pub(crate) const ACK: &str = "ack after effect";

pub(crate) fn all(model: &Mirrors) -> Vec<Property<Mirrors>> {
    let mut all = vec![
        Property::always(ACK, ack_after_effect),
        Property::always("no half snapshot", no_half_snapshot),
        Property::always("live is held", |_, world: &World| {
            let held = |disk: &Disk| {
                disk.channel
                    .live
                    .is_none_or(|live| disk.channel.held.contains_key(&live))
            };
            world.mirrors.iter().all(|mirror| held(&mirror.disk))
        }),
        Property::always(
            "builds move forward unless a retraction says otherwise",
            |_, world: &World| world.mirrors.iter().all(|mirror| !mirror.went_back),
        ),
        Property::always(
            "what is served is what is live, and not retracted",
            served_is_live,
        ),
        Property::always(
            "what a reader pinned stays until it is retracted",
            pinned_stays,
        ),
        Property::always("one archive never forks", |_, world: &World| {
            world
                .mirrors
                .iter()
                .all(|mirror| mirror.disk.channel.halt.is_none())
        }),
        Property::always(
            "when nothing more happens, the head is live everywhere",
            converged,
        ),
        Property::sometimes(
            "all is said and at rest",
            |model: &Mirrors, world: &World| {
                world.archive.said == model.script.len() && is_at_rest(world)
            },
        ),
        Property::sometimes(
            "the newest build is live on every mirror",
            |model, world: &World| {
                world.archive.said == model.script.len() && is_live_everywhere(world)
            },
        ),
    ];
    if model
        .script
        .iter()
        .any(|say| matches!(say, Say::Retract(..)))
    {
        all.push(Property::sometimes(
            "a retraction takes live away",
            |_, world: &World| {
                let obeys = |mirror: &Mirror| {
                    let channel = &mirror.disk.channel;
                    channel
                        .held
                        .keys()
                        .any(|one| channel.is_retracted(*one) && channel.live < Some(*one))
                };
                world.mirrors.iter().all(|mirror| obeys(mirror))
            },
        ));
    }
    if model
        .script
        .iter()
        .filter(|say| matches!(say, Say::Publish(Lane::Bulk) | Say::Split { .. }))
        .count()
        > 1
    {
        all.push(Property::sometimes(
            "a sync goes over to a newer build",
            |_, world: &World| {
                let over = |mirror: &Mirror| {
                    mirror
                        .disk
                        .channel
                        .bulk
                        .sync
                        .is_some_and(|sync| sync.retargets > 0)
                };
                world.mirrors.iter().any(|mirror| over(mirror))
            },
        ));
    }
    all.extend(of_faults(model));
    all
}

/// Windows that the bounds of this model open.
fn of_faults(model: &Mirrors) -> Vec<Property<Mirrors>> {
    let mut all = Vec::new();
    if model.faults.crashes > 0 {
        all.push(Property::sometimes(
            "a crash between step and persist",
            |_, world: &World| {
                world.left.crashes > 0 && world.mirrors.iter().any(|mirror| mirror.is_ahead())
            },
        ));
        all.push(Property::sometimes(
            "a crash between persist and effects",
            |_, world: &World| {
                world.left.crashes > 0
                    && waits(world, |effect| matches!(effect, Effect::Start { .. }))
            },
        ));
        all.push(Property::sometimes(
            "a crash between effects and ack",
            |_, world: &World| {
                world.left.crashes > 0
                    && waits(world, |effect| matches!(effect, Effect::Ack { .. }))
            },
        ));
        all.push(Property::sometimes(
            "a process starts with what another had left",
            |_, world: &World| {
                let starts =
                    |mirror: &Mirror| mirror.up.is_none() && mirror.disk.channel.live.is_some();
                world.mirrors.iter().any(|mirror| starts(mirror))
            },
        ));
    }
    if model.faults.losses > 0 {
        all.push(Property::sometimes(
            "a loss is healed",
            |_, world: &World| {
                let heals = |mirror: &Mirror| {
                    !mirror.disk.channel.healing.is_empty() && mirror.damaged.is_empty()
                };
                world.left.losses == 0 && world.mirrors.iter().any(|mirror| heals(mirror))
            },
        ));
    }
    if model.faults.pins > 0 {
        all.push(Property::sometimes(
            "a pinned build outlives its turn",
            |_, world: &World| {
                let mut up = world.mirrors.iter().filter_map(|mirror| mirror.up.as_ref());
                up.any(|process| {
                    process
                        .pinned
                        .iter()
                        .any(|one| Some(one) < process.channel.live && !process.tick_matters())
                })
            },
        ));
    }
    if model.faults.wipes > 0 {
        all.push(Property::sometimes(
            "a lost log is announced anew",
            |_, world: &World| {
                world.log.stream > 0 && world.log.last() == world.archive.statements.len() as u64
            },
        ));
    }
    all
}

/// An effect of a persisted step is the next to be performed.
fn waits(world: &World, is: impl Fn(&Effect) -> bool) -> bool {
    let next = |mirror: &Mirror| {
        let effects = mirror.up.as_ref().map(|process| &process.effects);
        !mirror.is_ahead() && effects.and_then(|effects| effects.front()).is_some_and(&is)
    };
    world.mirrors.iter().any(|mirror| next(mirror))
}

fn is_at_rest(world: &World) -> bool {
    let mut more = Vec::new();
    Mirrors::progress(world, &mut more);
    more.is_empty()
}

fn is_live_everywhere(world: &World) -> bool {
    let head = world.archive.history.head().map(|head| head.build);
    let here = |mirror: &Mirror| {
        let shown = mirror.up.as_ref().map(|process| process.served.live);
        let sound = head.is_none_or(|head| mirror.content.has(head) && !mirror.damaged.has(head));
        shown == Some(head) && mirror.disk.channel.live == head && sound
    };
    world.mirrors.iter().all(|mirror| here(mirror))
}

fn converged(_model: &Mirrors, world: &World) -> bool {
    !is_at_rest(world) || is_live_everywhere(world)
}

fn no_half_snapshot(_model: &Mirrors, world: &World) -> bool {
    let whole = |mirror: &Mirror| {
        let Some(process) = &mirror.up else {
            return true;
        };
        let here = |one: Build| mirror.content.has(one) || mirror.damaged.has(one);
        let held = process.channel.held.keys().copied();
        held.chain(process.served.builds.iter())
            .chain(process.served.live)
            .all(here)
    };
    world.mirrors.iter().all(|mirror| whole(mirror))
}

fn served_is_live(_model: &Mirrors, world: &World) -> bool {
    let same = |mirror: &Mirror| {
        let Some(process) = mirror.up.as_ref().filter(|process| process.is_idle()) else {
            return true;
        };
        let live = process.channel.live;
        process.served.live == live && live.is_none_or(|live| !process.channel.is_retracted(live))
    };
    world
        .mirrors
        .iter()
        .filter(|mirror| !mirror.is_ahead())
        .all(|mirror| same(mirror))
}

fn pinned_stays(_model: &Mirrors, world: &World) -> bool {
    let mut up = world.mirrors.iter().filter_map(|mirror| mirror.up.as_ref());
    up.all(|process| {
        let channel = &process.channel;
        let stays = |one: Build| channel.held.contains_key(&one) || channel.is_retracted(one);
        process.pinned.iter().all(stays)
    })
}

/// What was acked has its effect on the disk, so that any crash may follow.
fn ack_after_effect(_model: &Mirrors, world: &World) -> bool {
    let archive = &world.archive;
    let done = |mirror: &Mirror, lane: Lane, sequence: u64| {
        let Some(event) = world.log.get(sequence) else {
            return true;
        };
        match archive.statements[event.statement].0 {
            Item::Retraction(number) => mirror.disk.channel.retracted.contains_key(&number),
            Item::Snapshot(build) => {
                let base = archive
                    .history
                    .get(build)
                    .and_then(|published| published.base);
                is_settled(mirror, lane, sequence, build, base)
            }
        }
    };
    let all = |mirror: &Mirror| {
        mirror
            .acked
            .iter()
            .all(|(lane, sequence)| done(mirror, *lane, *sequence))
    };
    world.mirrors.iter().all(|mirror| all(mirror))
}

/// Durable here, replaced by a durable newer target, overtaken by what is live, or taken back: itself or what
/// had replaced it.
fn is_settled(
    mirror: &Mirror,
    lane: Lane,
    sequence: u64,
    build: Build,
    base: Option<Build>,
) -> bool {
    let channel = &mirror.disk.channel;
    let here = mirror.content.has(build) || mirror.damaged.has(build);
    let state = channel.lane(lane);
    let targets = [
        state.sync.map(|sync| sync.target.build),
        state.next.map(|next| next.build),
    ];
    let newest = targets
        .into_iter()
        .flatten()
        .chain(channel.held.keys().copied())
        .max();
    // The same build came once more, and that event is open.
    let again = state
        .open
        .is_some_and(|open| open.build == build && open.sequence != sequence);
    let beyond = |live: Build| live >= build || base.is_none_or(|base| live > base);
    (channel.held.contains_key(&build) && here)
        || newest > Some(build)
        || again
        || channel.live.is_some_and(beyond)
        || channel.retracted.values().any(|taken| taken.last >= build)
}
