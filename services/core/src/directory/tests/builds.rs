//! Which build clients are given.

use expect_test::expect;

use super::*;
use crate::directory::offer::Unanswered;

const ALL_OTHERS: [&str; 5] = ["au1", "au2", "ch1", "us1", "us2"];

/// Everybody but New Zealand is at build 3.
fn nz_is_behind() -> World {
    let mut world = World::settled();
    world.publish(3);
    world.complete(3, &ALL_OTHERS);
    world.wanted(3, &["au", "ch", "us-east", "us-west"]);
    world
}

fn refused(world: &World, asked: &Asked) -> Unanswered {
    let refused = world.offer(asked).unwrap_err();
    assert_eq!(world.excluded(asked), Err(refused.clone()));
    refused
}

#[test]
fn a_country_is_not_sent_ahead_of_its_pool() {
    let world = nz_is_behind();
    assert_eq!(world.build_for(place("NZ")), Some(2));
    assert_eq!(world.build_for(place("AU")), Some(3));
    assert_eq!(world.build_for(place("DE")), Some(3), "its continent's");
    assert_eq!(world.build_for(place("BR")), Some(3), "the newest of all");
    let oceania = Place::on_continent(Continent::Oceania);
    assert_eq!(world.build_for(oceania), Some(3));
    assert_eq!(
        world.offered(&Asked::wanted(place("NZ")))[..2],
        ["nz2", "nz1"]
    );
}

#[test]
fn a_continent_is_not_sent_ahead_of_its_newest_pool() {
    let mut world = nz_is_behind();
    world.wanted(2, &["ch"]);
    assert_eq!(world.build_for(place("DE")), Some(2));
    world.dies("ch1");
    assert_eq!(
        world.build_for(place("DE")),
        Some(3),
        "nobody is left there"
    );
}

#[test]
fn without_a_head_nobody_is_offered() {
    let mut world = World::new();
    world.feed(snapshot(NOBLE, 1, root(1)));
    world.complete(1, &["nz1"]);
    world.wanted(1, &["nz"]);
    world.answers("nz1");
    let asked = Asked::wanted(Place::default());
    assert_eq!(world.offered(&asked), Vec::<&str>::new());
    let excluded = world.excluded(&asked).unwrap();
    let why = excluded
        .iter()
        .find(|(mirror, _)| *mirror == world.find("nz1"));
    assert_eq!(why.unwrap().1.word(), "no-head");
    world.feed(head(NOBLE, world.now, world.now.plus_ms(1000)));
    assert_eq!(world.offered(&asked), ["nz1"]);
}

#[test]
fn a_pool_whose_mirrors_are_all_dead_holds_nobody_back() {
    let mut world = nz_is_behind();
    world.dies("nz1");
    assert_eq!(world.build_for(place("NZ")), Some(2), "one is left");
    world.dies("nz2");
    // nz3 answers, and is private: it does not speak for the pool.
    assert_eq!(world.build_for(place("NZ")), Some(3));
    let offered = world.offered(&Asked::wanted(place("NZ")));
    assert_eq!(offered[..2], ["au2", "au1"], "the nearest first");
}

#[test]
fn a_pool_speaks_only_at_the_build_that_it_wants() {
    let mut world = nz_is_behind();
    world.wanted(3, &["nz"]);
    world.wanted(2, &["au", "ch", "us-east", "us-west"]);
    assert_eq!(
        world.build_for(place("NZ")),
        Some(2),
        "no mirror of nz has 3: its continent's is given"
    );
}

#[test]
fn when_nobody_is_offered_the_build_still_tells_why() {
    let mut world = nz_is_behind();
    MIRRORS.iter().for_each(|name| world.dies(name));
    let asked = Asked::wanted(place("NZ"));
    let offer = world.offer(&asked).unwrap();
    assert_eq!((offer.build, offer.ranked), (Some(build(3)), Vec::new()));
    assert_eq!(world.excluded(&asked).unwrap().len(), MIRRORS.len());
}

#[test]
fn a_pinned_older_build_is_offered_where_it_is_kept() {
    let mut world = nz_is_behind();
    for mirror in ["au1", "nz1"] {
        world.say(&Saying {
            state: VerdictState::Revoked(RevokeReason::Dropped),
            ..Saying::complete(mirror, 1)
        });
    }
    expect![[r#"
        nz2 country
        au2 continent
        ch1 world
        us2 world
        us1 world
        - au1 ahead: the mirror is at build 3 and no longer has this one
        - nz1 ahead: the mirror is at build 2 and no longer has this one
        - nz3 private: the mirror is for other networks
    "#]]
    .assert_eq(&rankings::ranking(&world, &Asked::pinned(place("NZ"), 1)));
}

#[test]
fn a_build_that_was_taken_back_is_nobody_s() {
    let mut world = nz_is_behind();
    world.retract(3, 3);
    let error = refused(&world, &Asked::pinned(place("NZ"), 3));
    assert_eq!(error, Unanswered::Retracted(channel(NOBLE), build(3)));
    expect!["build 3 of noble was taken back by the archive"].assert_eq(&error.to_string());
    // The wanted values have not caught up yet.
    assert_eq!(world.build_for(place("AU")), Some(2), "nz still wants 2");
    world.retract(2, 2);
    assert_eq!(world.build_for(place("AU")), None);
    assert_eq!(
        world.offered(&Asked::wanted(place("AU"))),
        Vec::<&str>::new()
    );
}

#[test]
fn a_build_or_channel_that_nobody_published_is_unknown() {
    let world = nz_is_behind();
    let error = refused(&world, &Asked::pinned(place("NZ"), 4));
    assert_eq!(error, Unanswered::UnknownBuild(channel(NOBLE), build(4)));
    expect!["build 4 of noble is not known here"].assert_eq(&error.to_string());
    let asked = Asked {
        channel: channel("plucky"),
        ..Asked::wanted(place("NZ"))
    };
    let error = refused(&world, &asked);
    assert_eq!(error, Unanswered::UnknownChannel(channel("plucky")));
    expect!["channel plucky is not known here"].assert_eq(&error.to_string());
}

#[test]
fn a_head_counts_until_the_moment_that_it_expires() {
    let mut world = World::settled();
    let expires = world.now.plus_ms(10);
    world.feed(head(NOBLE, world.now, expires));
    let asked = Asked::wanted(place("NZ"));
    let offered = |world: &World| world.offered(&asked).len();
    world.now = expires.plus_ms(-1);
    assert_eq!(offered(&world), 7);
    world.now = expires;
    assert_eq!(offered(&world), 0, "from then on it no longer counts");
    world.feed(head(NOBLE, world.now, expires.plus_ms(1)));
    assert_eq!(offered(&world), 7);
}

#[test]
fn a_fork_stops_its_channel_and_no_other() {
    let mut world = World::settled();
    let effects = world.feed(snapshot(NOBLE, 2, root(99)));
    let fork = Effect::Fork {
        channel: channel(NOBLE),
        build: build(2),
    };
    assert_eq!(effects, [fork]);
    let noble = Asked::wanted(place("NZ"));
    let jammy = Asked {
        channel: channel("jammy"),
        ..noble.clone()
    };
    assert_eq!(world.offered(&noble), Vec::<&str>::new());
    assert_eq!(world.offered(&jammy).len(), 6);
}

/// A build that was signed this moment.
fn publish_now(world: &mut World, number: u64) {
    let Input::Snapshot(mut signed) = snapshot(NOBLE, number, root(number)) else {
        unreachable!("a snapshot is a snapshot");
    };
    signed.created = world.now;
    world.feed(Input::Snapshot(signed));
}

#[test]
fn a_wanted_build_whose_verdicts_are_on_their_way_holds_nobody_up() {
    let mut world = World::settled();
    publish_now(&mut world, 3);
    world.wanted(3, &["au", "ch", "nz", "us-east", "us-west"]);
    assert_eq!(world.build_for(place("NZ")), Some(2));
    assert!(!world.offered(&Asked::wanted(place("NZ"))).is_empty());
    world.complete(3, &["nz1"]);
    assert_eq!(world.build_for(place("NZ")), Some(3));
    // They do not come: then it is said, and nobody is held at an old build.
    let mut lost = World::settled();
    publish_now(&mut lost, 3);
    lost.wanted(3, &["au", "ch", "nz", "us-east", "us-west"]);
    lost.apply(&Op::Tick(61_000));
    assert_eq!(lost.build_for(place("NZ")), Some(3));
    assert!(lost.offered(&Asked::wanted(place("NZ"))).is_empty());
}
