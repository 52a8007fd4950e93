//! What must hold of verdicts in every state, and what must be reached.

use super::*;

pub(super) const FENCED: &str = "the verdict of an old lease never overrides a newer one's";
pub(super) const TRUE: &str = "no build is complete that was never whole";

pub(super) fn all(model: &Verdicts) -> Vec<Property<Verdicts>> {
    let mut all = vec![
        Property::always(FENCED, |_, world: &World| {
            !world.reader.overruled && world.replicas.iter().all(|replica| !replica.overruled)
        }),
        Property::always(TRUE, |_, world: &World| {
            let complete = |verdict: &&Arc<Verdict>| verdict.state == VerdictState::Complete;
            let mut complete = world.verdicts.iter().filter(complete);
            complete.all(|verdict| world.once_whole.has(verdict.build))
        }),
        Property::always(
            "a leader that knows of a loss does not say complete",
            |_, world: &World| {
                world
                    .replicas
                    .iter()
                    .all(|replica| replica.is_honest_about(replica.knows_lost))
            },
        ),
        Property::always("retracted is never complete", |_, world: &World| {
            let known = |replica: &Replica| -> Builds {
                world
                    .retracted
                    .filter(|_| replica.knows_retraction)
                    .into_iter()
                    .collect()
            };
            world
                .replicas
                .iter()
                .all(|replica| replica.is_honest_about(known(replica)))
        }),
        Property::always(
            "when nothing more happens, the directory says what is true",
            at_rest,
        ),
        Property::sometimes("all is at rest", |model: &Verdicts, world: &World| {
            let mut more = Vec::new();
            model.progress(world, &mut more);
            more.is_empty() && world.said > 0
        }),
    ];
    if model.honesty == Honesty::Honest && model.rule == Rule::Kept {
        all.push(Property::sometimes(
            "complete is reached",
            |model: &Verdicts, world: &World| {
                (1..=model.builds).all(|one| world.reader.is_complete(build(one)))
            },
        ));
    }
    if model.left.losses > 0 {
        all.push(Property::sometimes(
            "a loss revokes what was complete",
            |_, world: &World| world.reader.is_revoked(Build::FIRST),
        ));
        all.push(Property::sometimes(
            "complete again after a loss",
            |_, world: &World| {
                let revoked =
                    |verdict: &Arc<Verdict>| matches!(verdict.state, VerdictState::Revoked(_));
                world.verdicts.iter().any(revoked)
                    && world.left.losses == 0
                    && world.reader.is_complete(Build::FIRST)
            },
        ));
    }
    if model.replicas > 1 {
        all.push(Property::sometimes(
            "two replicas act as leaders",
            |_, world: &World| world.replicas.iter().all(|replica| replica.leads),
        ));
        all.push(Property::sometimes(
            "an old lease's verdict comes after a newer one's",
            |_, world: &World| {
                world
                    .verdicts
                    .windows(2)
                    .any(|two| two[0].lease_revision > two[1].lease_revision)
            },
        ));
    }
    all
}

/// Of a mirror that reports what is so. Without a loss, complete is reached by itself.
fn at_rest(model: &Verdicts, world: &World) -> bool {
    let mut more = Vec::new();
    model.progress(world, &mut more);
    if model.honesty == Honesty::Liar || !more.is_empty() {
        return true;
    }
    let undisturbed = world.left.losses == model.left.losses;
    (1..=model.builds).map(build).all(|one| {
        let good = world.mirror.whole.has(one) && world.retracted != Some(one);
        let reached = world.mirror.live >= one;
        let says = world.reader.is_complete(one);
        (!says || good) && (says || !(good && reached && undisturbed))
    })
}
