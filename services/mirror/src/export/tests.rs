//! Trees against what the manifests say, over many changes, interruptions and restarts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod hostile;
mod world;

use std::cell::Cell;
use std::time::Duration;

use mirrorlog_core::id::Build;
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::tree::{Scope, Tree};

use super::trees::{Means, Spare};
use super::turn::{Next, Turn};
use super::*;
use crate::serving::{ServedChannel, Serving};
use world::{Dice, NEVER, Thing, Things, World, channel, mount, random_things};

#[test]
fn invariant_a_tree_is_what_its_manifests_say_whatever_was_interrupted() {
    let mut world = World::new();
    let (mut trees, mut inodes) = (world.trees(), world.inodes());
    let mut dice = Dice(7);
    let (mut interrupted, mut shown) = (0, 0);
    for step in 0..400 {
        // The second channel has folders of its own and, with equal content, some of the first.
        let first = random_things(&mut dice, "");
        let mut second = random_things(&mut dice, "own/");
        let shared = first.iter().filter(|_| dice.below(4) == 0);
        second.extend(shared.map(|(path, thing)| (path.clone(), thing.clone())));
        let parts = [("first", &first), ("second", &second)];
        let parts = &parts[..1 + dice.below(2) as usize];
        let goal = world.goal(parts);
        let mut expected = first.clone();
        expected.extend(parts.iter().flat_map(|(_, things)| (*things).clone()));

        let Spare::Tree(number) = trees.spare(3, Duration::ZERO, Timestamp::from_ms(step)) else {
            unreachable!("nothing rests");
        };
        let steps = Cell::new([dice.below(60), u64::MAX][dice.below(2) as usize]);
        let halted = || {
            let left = steps.get();
            steps.set(left.saturating_sub(1));
            left == 0
        };
        match trees.change(number, &goal, &world.means(&inodes, &halted)) {
            Ok(()) => {
                trees.show(number, Timestamp::from_ms(step)).unwrap();
                assert_eq!(world.shown(), expected, "step {step}");
                assert_eq!(trees.shown_scope(), Some(&goal.scope));
                shown += 1;
            }
            Err(ExportError::Stopped) => {
                interrupted += 1;
                assert!(trees.records[&number].dirty);
            }
            Err(error) => panic!("step {step}: {error:?}"),
        }
        if dice.below(4) == 0 {
            // The process ends, and another begins.
            (trees, inodes) = (world.trees(), world.inodes());
        }
    }
    assert!(interrupted > 50 && shown > 50, "{interrupted} {shown}");
    assert!(trees.records.len() <= 3);
}

#[test]
fn a_tree_rests_until_its_readers_have_ended() {
    let mut world = World::new();
    let (mut trees, inodes) = (world.trees(), world.inodes());
    let file = |text: &str| {
        let thing = Thing::File(text.as_bytes().to_vec(), 0o644, 1);
        Things::from([(b"file".to_vec(), thing)])
    };
    let settle = Duration::from_secs(10);
    let at = Timestamp::from_ms;
    for (number, now) in [(1, 0), (2, 1000)] {
        let Spare::Tree(spare) = trees.spare(2, settle, at(now)) else {
            unreachable!()
        };
        assert_eq!(spare, number);
        let goal = world.goal(&[("c", &file(&now.to_string()))]);
        trees
            .change(spare, &goal, &world.means(&inodes, NEVER))
            .unwrap();
        trees.show(spare, at(now)).unwrap();
    }
    let rest = |trees: &Trees, now| match trees.spare(2, settle, at(now)) {
        Spare::After(rest) => rest.as_millis(),
        Spare::Tree(_) => 0,
    };
    assert_eq!(rest(&trees, 2000), 9000);
    // Then it catches up, so that the next build finds little to change.
    let behind = |now| match trees.behind(2, settle, at(now)) {
        Some(Spare::Tree(number)) => Ok(number),
        Some(Spare::After(rest)) => Err(rest.as_millis()),
        None => unreachable!(),
    };
    assert_eq!((behind(2000), behind(11_000)), (Err(9000), Ok(1)));
    // Another start knows it too; a clock that was set back makes it wait no longer than that.
    let again = world.trees();
    assert_eq!(rest(&again, 3000), 8000);
    assert_eq!(rest(&again, -500_000), 10_000);
    assert_eq!(rest(&again, 11_000), 0);
}

#[test]
fn what_was_healed_is_linked_again() {
    let mut world = World::new();
    let (mut trees, inodes) = (world.trees(), world.inodes());
    let things = Things::from([
        (b"a".to_vec(), Thing::File(b"one".to_vec(), 0o644, 1)),
        // The same content with another time: a copy.
        (b"b".to_vec(), Thing::File(b"one".to_vec(), 0o644, 2)),
    ]);
    let goal = world.goal(&[("c", &things)]);
    trees
        .change(1, &goal, &world.means(&inodes, NEVER))
        .unwrap();
    trees.show(1, Timestamp::from_ms(0)).unwrap();
    assert_eq!(world.shown(), things);
    // Rot in the blob and in the copy.
    let top = world.dir().join("deep/ubuntu");
    for name in ["a", "b"] {
        std::fs::write(top.join(name), "two").unwrap();
    }
    let digest = Digest::of(b"one");
    world.store.quarantine(&digest).unwrap();
    let batch = world.store.batch();
    batch.put(&digest, b"one").unwrap();
    batch.commit().unwrap();
    assert_eq!(inodes.check_copies().unwrap(), 1);
    trees.link_again(1, &inodes, &world.pages, NEVER).unwrap();
    assert_eq!(world.shown(), things);
    assert_eq!(inodes.check_copies().unwrap(), 0);
}

#[test]
fn a_half_changed_tree_keeps_no_damaged_file() {
    let mut world = World::new();
    let (mut trees, inodes) = (world.trees(), world.inodes());
    let file = |text: &str| Thing::File(text.as_bytes().to_vec(), 0o644, 1);
    let stays = (b"a".to_vec(), file("stays"));
    let first = Things::from([stays.clone(), (b"b".to_vec(), file("1"))]);
    let second = Things::from([stays, (b"b".to_vec(), file("2"))]);
    let goals = [world.goal(&[("c", &first)]), world.goal(&[("c", &second)])];
    trees
        .change(1, &goals[0], &world.means(&inodes, NEVER))
        .unwrap();
    let halted = trees.change(1, &goals[1], &world.means(&inodes, &|| true));
    assert!(matches!(halted, Err(ExportError::Stopped)));
    // Rot in what both builds have, and its cure, before the tree is finished.
    let digest = Digest::of(b"stays");
    std::fs::write(world.store.path_of(&digest), "sta-s").unwrap();
    world.store.quarantine(&digest).unwrap();
    let batch = world.store.batch();
    batch.put(&digest, b"stays").unwrap();
    batch.commit().unwrap();
    let means = Means {
        generation: 1,
        ..world.means(&inodes, NEVER)
    };
    // Another process knows of it too: from the record.
    let mut trees = world.trees();
    trees.change(1, &goals[1], &means).unwrap();
    assert_eq!(trees.exact(&goals[1].scope, 1), Some(1));
    trees.show(1, Timestamp::from_ms(0)).unwrap();
    assert_eq!(world.shown(), second);
}

#[test]
fn readers_that_were_led_on_stay_in_a_tree_that_rests() {
    let mut world = World::new();
    let (mut trees, inodes) = (world.trees(), world.inodes());
    let file = |text: &str| {
        let thing = Thing::File(text.as_bytes().to_vec(), 0o644, 1);
        Things::from([(b"file".to_vec(), thing)])
    };
    let goals = ["1", "2", "3"].map(|text| world.goal(&[("c", &file(text))]));
    let at = Timestamp::from_ms;
    for (number, goal) in [(1, &goals[0]), (2, &goals[1])] {
        trees
            .change(number, goal, &world.means(&inodes, NEVER))
            .unwrap();
    }
    trees.show(1, at(0)).unwrap();
    // The record of the tree that is left cannot be written.
    let home = world.dir().join(TREES).join("deep@ubuntu");
    std::fs::create_dir(home.join("1.new")).unwrap();
    assert!(trees.show(2, at(500)).is_err());
    assert_eq!((trees.shown, world.shown()), (Some(1), file("1")));
    std::fs::remove_dir(home.join("1.new")).unwrap();
    trees.show(2, at(1000)).unwrap();
    assert_eq!(world.shown(), file("2"));
    // The next process knows, and does not take a tree that waits for its first readers for one that was left.
    for trees in [&trees, &world.trees()] {
        match trees.spare(2, Duration::from_secs(10), at(2000)) {
            Spare::After(rest) => assert_eq!(rest, Duration::from_secs(9)),
            Spare::Tree(number) => unreachable!("{number} may still be read"),
        }
    }
    trees
        .change(3, &goals[2], &world.means(&inodes, NEVER))
        .unwrap();
    let next = world.trees().spare(3, Duration::from_secs(10), at(2000));
    assert!(matches!(next, Spare::Tree(3)));
    // A build that was taken back: the one before is there, and nobody waits.
    assert_eq!(trees.exact(&goals[0].scope, 0), Some(1));
    assert_eq!(trees.exact(&goals[1].scope, 0), None);
}

#[test]
fn a_table_that_was_lost_hides_nothing() {
    let mut world = World::new();
    let file = Thing::File(b"1".to_vec(), 0o644, 1);
    let things = Things::from([(b"file".to_vec(), file)]);
    let goal = world.goal(&[("c", &things)]);
    let exports = world.exports();
    let (serving, _reader) = ServingWriter::new();
    serving.gate();
    let (mount, stop) = (mount(), CancellationToken::new());
    let turn = Turn {
        exports: &exports,
        mount: &mount,
        serving: &serving,
        stop: &stop,
    };
    let mut trees = world.trees();
    let (next, _) = turn.take(&mut trees, Arc::clone(&goal.table));
    assert!(matches!(next, Ok(Next::Again)));
    assert_eq!(world.shown(), things);
    let (next, _) = turn.take(&mut trees, Arc::default());
    assert!(matches!(next, Ok(Next::Rest)));
    assert_eq!(world.shown(), things);
    // That the channel is known and nothing of it is live is another thing.
    let mut table = Serving::clone(&goal.table);
    let mut row = ServedChannel::clone(&table.channels[&channel("c")]);
    row.live = None;
    table.channels.insert(channel("c"), Arc::new(row));
    turn.take(&mut trees, Arc::new(table)).0.unwrap();
    assert!(!world.dir().join("deep/ubuntu").exists());
}

#[test]
fn a_content_may_have_more_paths_than_a_file_has_names() {
    let mut world = World::new();
    let (mut trees, inodes) = (world.trees(), world.inodes());
    // ext4 allows 65,000.
    let things: Things = (0..65_100)
        .map(|n| {
            (
                format!("{n:05}").into_bytes(),
                Thing::File(Vec::new(), 0o644, 5),
            )
        })
        .collect();
    let goal = world.goal(&[("c", &things)]);
    for _again in 0..2 {
        trees
            .change(1, &goal, &world.means(&inodes, NEVER))
            .unwrap();
    }
    trees.show(1, Timestamp::from_ms(0)).unwrap();
    assert_eq!(world.shown(), things);
}

#[test]
fn a_tree_of_which_nobody_knows_what_it_is_is_made_anew() {
    let mut world = World::new();
    let (mut trees, inodes) = (world.trees(), world.inodes());
    let things = Things::from([(b"a".to_vec(), Thing::File(b"one".to_vec(), 0o644, 1))]);
    let goal = world.goal(&[("c", &things)]);
    trees
        .change(1, &goal, &world.means(&inodes, NEVER))
        .unwrap();
    trees
        .change(2, &goal, &world.means(&inodes, NEVER))
        .unwrap();
    let home = world.dir().join(TREES).join("deep@ubuntu");
    std::fs::write(home.join("1/stray"), "x").unwrap();
    std::fs::write(home.join("1.json"), "{ nonsense").unwrap();
    let mut trees = world.trees();
    assert_eq!(trees.records.keys().copied().collect::<Vec<_>>(), [2]);
    // Pages of what the other was are gone.
    std::fs::write(home.join("2/stray"), "x").unwrap();
    let other = Tree {
        channel: channel("c"),
        build: Build::FIRST,
        root: Digest::of(b"gone"),
        selection: mirrorlog_core::view::Selection::ALL,
    };
    trees.records.get_mut(&2).unwrap().scopes = vec![Scope(vec![other])];
    trees
        .change(2, &goal, &world.means(&inodes, NEVER))
        .unwrap();
    trees.show(2, Timestamp::from_ms(0)).unwrap();
    assert_eq!(world.shown(), things);
}

#[test]
fn rows_wait_for_their_tree() {
    let (serving, reader) = ServingWriter::new();
    let mut world = World::new();
    let one = Things::from([(b"a".to_vec(), Thing::File(b"one".to_vec(), 0o644, 1))]);
    let goals = [world.goal(&[("c", &one)]), world.goal(&[("c", &one)])];
    let id = channel("c");
    let row = |at: usize| ServedChannel::clone(&goals[at].table.channels[&id]);
    let live = || reader.current().channels[&id].live.map(Build::get);
    serving.gate();
    // What was live before there were trees goes on without; what comes later waits.
    serving.set(id.clone(), row(0));
    assert_eq!(live(), Some(1));
    serving.resumed();
    serving.set(id.clone(), row(0));
    assert_eq!(live(), Some(1));
    let new = channel("new");
    serving.set(new.clone(), row(0));
    assert_eq!(reader.current().channels[&new].live, None);
    assert_eq!(reader.current().channels[&new].builds.len(), 1);
    assert!(
        serving
            .exported(&mount(), Some(goals[0].scope.clone()))
            .is_empty()
    );
    let mut next = row(1);
    next.builds.extend(row(0).builds);
    serving.set(id.clone(), next.clone());
    assert_eq!(live(), Some(1));
    assert_eq!(reader.current().channels[&id].builds.len(), 2);
    assert_eq!(
        serving.exported(&mount(), Some(goals[1].scope.clone())),
        std::slice::from_ref(&id)
    );
    assert_eq!(live(), Some(2));
    // What was taken back is left at once.
    let mut back = row(0);
    back.retracted = vec![(Build::new(2).unwrap(), Build::new(2).unwrap())];
    serving.set(id.clone(), back);
    assert_eq!(live(), Some(1));
}

/// The first tree takes its time: a build that came meanwhile is live without one, and stays it.
#[test]
fn invariant_live_does_not_go_back_to_what_the_first_tree_shows() {
    let (serving, reader) = ServingWriter::new();
    let mut world = World::new();
    let one = Things::from([(b"a".to_vec(), Thing::File(b"one".to_vec(), 0o644, 1))]);
    let goals = [world.goal(&[("c", &one)]), world.goal(&[("c", &one)])];
    let id = channel("c");
    let row = |at: usize| ServedChannel::clone(&goals[at].table.channels[&id]);
    let live = || reader.current().channels[&id].live.map(Build::get);
    serving.gate();
    serving.set(id.clone(), row(0));
    serving.resumed();
    let mut next = row(1);
    next.builds.extend(row(0).builds);
    serving.set(id.clone(), next);
    assert_eq!(live(), Some(2));
    for goal in &goals {
        serving.exported(&mount(), Some(goal.scope.clone()));
        assert_eq!(live(), Some(2));
    }
}

/// What the tree shows is taken back, so live goes on without it; a tree that was begun before that is late.
#[test]
fn invariant_live_does_not_go_back_to_what_a_late_tree_shows() {
    let (serving, reader) = ServingWriter::new();
    let mut world = World::new();
    let one = Things::from([(b"a".to_vec(), Thing::File(b"one".to_vec(), 0o644, 1))]);
    let goals: [_; 3] = std::array::from_fn(|_| world.goal(&[("c", &one)]));
    let id = channel("c");
    let row = |at: usize| ServedChannel::clone(&goals[at].table.channels[&id]);
    let live = || reader.current().channels[&id].live.map(Build::get);
    serving.gate();
    serving.resumed();
    serving.set(id.clone(), row(0));
    assert_eq!(live(), None, "there is no tree yet");
    serving.exported(&mount(), Some(goals[0].scope.clone()));
    assert_eq!(live(), Some(1));
    let mut next = row(2);
    next.builds.extend(row(1).builds);
    next.retracted.push((Build::FIRST, Build::FIRST));
    serving.set(id.clone(), next);
    assert_eq!(live(), Some(3), "what was taken back keeps nobody waiting");
    for goal in &goals[1..] {
        serving.exported(&mount(), Some(goal.scope.clone()));
        assert_eq!(live(), Some(3));
    }
}
