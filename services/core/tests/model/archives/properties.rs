//! What must hold of the archives in every state, and what must be reached.

use super::*;

pub(super) const LOST: &str =
    "no lost build: what publish returned is journaled, or still on the log";
pub(super) const TWO: &str = "a number never has two roots";

pub(super) fn all(model: &Archives) -> Vec<Property<Archives>> {
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
            |model: &Archives, world: &World| {
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
    if model.left.wipes > 0 {
        all.push(Property::sometimes(
            "a lost log is announced anew",
            |_, world: &World| {
                world.server.stream > 0
                    && !world.signed.is_empty()
                    && world.server.log.len() == world.signed.len()
            },
        ));
    }
    if model.loss == Loss::LogAndCounters && model.count > 1 {
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
    if model.count > 1 {
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
