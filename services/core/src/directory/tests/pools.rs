//! DNS pools: names, members, draws.

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::directory::exclude::ExcludeReason;
use crate::directory::pool::{PARTS, Pool, PoolName, PoolQuestion, Region};

fn name(text: &str) -> PoolName {
    let labels: Vec<&str> = text.split('.').filter(|label| !label.is_empty()).collect();
    PoolName::parse(&labels).unwrap()
}

fn ask(world: &World, name: &PoolName, asker: &Place, down: &BTreeSet<MirrorIndex>) -> Pool {
    let question = PoolQuestion {
        name,
        asker,
        channels: &[],
        now: world.now,
    };
    let reachable = |mirror| down.contains(&mirror).then_some(ExcludeReason::NoAddress);
    world.view().pool(&question, reachable)
}

fn members<'a>(world: &'a World, text: &str, asker: &Place) -> Vec<&'a str> {
    let pool = ask(world, &name(text), asker, &BTreeSet::new());
    names(world.view(), pool.members)
}

#[test]
fn names_of_pools() {
    let read = |text: &str| {
        let labels: Vec<&str> = text.split('.').filter(|label| !label.is_empty()).collect();
        match PoolName::parse(&labels) {
            Some(PoolName { part, region }) => format!("{text:?}: {part:?} {region:?}\n"),
            None => format!("{text:?}: none\n"),
        }
    };
    let all = [
        "",
        "nz",
        "0.nz",
        "3.nz",
        "4.nz",
        "3",
        "4",
        "01",
        "01.nz",
        "+1",
        "oceania",
        "1.world",
        "us-west",
        "2.us-west",
        "a.b.c",
        "nz.0",
        "_dmarc",
    ];
    expect![[r#"
        "": None Near
        "nz": None Country(NZ)
        "0.nz": Some(0) Country(NZ)
        "3.nz": Some(3) Country(NZ)
        "4.nz": none
        "3": Some(3) Near
        "4": None Pool(4)
        "01": None Pool(01)
        "01.nz": none
        "+1": none
        "oceania": None Continent(Oceania)
        "1.world": Some(1) World
        "us-west": None Pool(us-west)
        "2.us-west": Some(2) Pool(us-west)
        "a.b.c": none
        "nz.0": none
        "_dmarc": none
    "#]]
    .assert_eq(&all.map(read).concat());
}

#[test]
fn a_name_exists_where_a_mirror_is_configured() {
    let world = World::new();
    let all = [
        "", "3", "world", "oceania", "europe", "africa", "nz", "1.ch", "us", "us-east", "us-west",
        "de", "4",
    ];
    let exists: Vec<&str> = all
        .into_iter()
        .filter(|text| world.view().has_pool(&name(text)))
        .collect();
    assert_eq!(
        exists,
        [
            "", "3", "world", "oceania", "europe", "nz", "1.ch", "us", "us-east", "us-west"
        ]
    );
}

#[test]
fn pools_hold_those_of_their_region() {
    let world = World::settled();
    let nobody = Place::default();
    let line = |text: &str| format!("{text:?}: {}\n", members(&world, text, &nobody).join(" "));
    // nz3 is private; us2 does not carry jammy.
    let all = [
        "", "world", "oceania", "europe", "asia", "nz", "au", "us", "us-west",
    ];
    expect![[r#"
        "": au1 au2 ch1 nz1 nz2 us1
        "world": au1 au2 ch1 nz1 nz2 us1
        "oceania": au1 au2 nz1 nz2
        "europe": ch1
        "asia": 
        "nz": nz1 nz2
        "au": au1 au2
        "us": us1
        "us-west": us1
    "#]]
    .assert_eq(&all.map(line).concat());
    let near = |place: Place| members(&world, "", &place).join(" ");
    assert_eq!(near(place("NZ")), "nz1 nz2", "those of the country");
    assert_eq!(
        near(place("FJ")),
        "au1 au2 nz1 nz2",
        "else of the continent"
    );
    assert_eq!(near(place("BR")), "au1 au2 ch1 nz1 nz2 us1", "else all");
}

#[test]
fn a_mirror_that_is_ahead_waits_for_the_others() {
    let mut world = World::settled();
    world.publish(3);
    world.complete(3, &["nz1"]);
    let nobody = Place::default();
    assert_eq!(members(&world, "nz", &nobody), ["nz2"]);
    world.complete(3, &["nz2"]);
    assert_eq!(
        members(&world, "nz", &nobody),
        ["nz1", "nz2"],
        "all flipped"
    );
    world.wanted(3, &["nz"]);
    assert_eq!(members(&world, "nz", &nobody), ["nz1", "nz2"]);
}

#[test]
fn those_who_are_ahead_stand_in_only_together() {
    let mut world = World::settled();
    for number in [3, 4] {
        world.publish(number);
    }
    world.complete(3, &["nz1"]);
    world.complete(4, &["nz2"]);
    let pool = ask(&world, &name("nz"), &Place::default(), &BTreeSet::new());
    assert_eq!(
        names(world.view(), pool.members),
        ["nz1"],
        "the less far ahead of two"
    );
    assert_eq!(
        pool.builds[&channel(NOBLE)],
        build(3),
        "and the name says so"
    );
}

#[test]
fn a_live_tree_that_was_found_bad_is_in_no_pool() {
    let mut world = World::settled();
    world.publish(3);
    let bad = Saying {
        state: VerdictState::Revoked(RevokeReason::Unreachable),
        ..Saying::complete("nz1", 3)
    };
    world.say(&bad);
    // Build 2 is still served pinned, and what is live may be build 3.
    assert!(
        world
            .offered(&Asked::wanted(Place::default()))
            .contains(&"nz1")
    );
    assert!(
        !world
            .view()
            .live_is_sound(&channel(NOBLE), world.find("nz1"), build(2))
    );
    assert_eq!(members(&world, "nz", &Place::default()), ["nz2"]);
}

#[test]
fn a_channel_that_has_begun_to_travel_empties_no_pool() {
    let mut world = World::settled();
    world.apply(&Op::Publish("begun", 1));
    let begun = Saying {
        channel: "begun",
        ..Saying::complete("nz1", 1)
    };
    world.say(&begun);
    world.say(&Saying {
        mirror: "nz2",
        ..begun
    });
    world.want("begun", "nz", Some(1));
    let nobody = Place::default();
    assert_eq!(members(&world, "nz", &nobody), ["nz1", "nz2"]);
    assert_eq!(
        members(&world, "au", &nobody),
        ["au1", "au2"],
        "it has not come so far"
    );
    assert!(members(&world, "world", &nobody).contains(&"au1"));
}

#[test]
fn a_build_that_was_taken_back_puts_nobody_ahead() {
    let mut world = World::settled();
    world.publish(3);
    world.complete(3, &["nz1"]);
    world.retract(3, 3);
    assert_eq!(members(&world, "nz", &Place::default()), ["nz1", "nz2"]);
}

#[test]
fn channels_that_the_names_do_not_stand_for_keep_nobody_out() {
    let world = World::settled();
    let channels = [channel(NOBLE)];
    let pool = name("us");
    let question = PoolQuestion {
        name: &pool,
        asker: &Place::default(),
        channels: &channels,
        now: world.now,
    };
    let found = world.view().pool(&question, |_| None);
    assert_eq!(names(world.view(), found.members), ["us1", "us2"]);
    assert_eq!(found.builds, BTreeMap::from([(channel(NOBLE), build(2))]));
}

#[test]
fn a_pool_by_its_own_name_is_not_emptied_by_its_neighbour() {
    let mut world = World::settled();
    world.publish(3);
    world.complete(3, &["us2"]);
    world.wanted(3, &["us-east"]);
    let noble = |text: &str| {
        let channels = [channel(NOBLE)];
        let question = PoolQuestion {
            name: &name(text),
            asker: &Place::default(),
            channels: &channels,
            now: world.now,
        };
        let found = world.view().pool(&question, |_| None);
        names(world.view(), found.members).join(" ")
    };
    assert_eq!(
        (noble("us"), noble("us-east")),
        ("us1".into(), "us2".into()),
        "a half is not most of the country"
    );
    assert_eq!(noble("us-west"), "us1");
}

#[test]
fn a_numbered_pool_of_few_mirrors_falls_back_to_all() {
    let world = World::settled();
    let nobody = Place::default();
    for part in 0..PARTS {
        assert_eq!(members(&world, &format!("{part}.ch"), &nobody), ["ch1"]);
    }
    let parts = (0..PARTS).map(|part| members(&world, &format!("{part}.nz"), &nobody).join(" "));
    let parts: Vec<String> = parts.collect();
    expect![[r#"
        nz1 nz2
        nz2
        nz1 nz2
        nz1"#]]
    .assert_eq(&parts.join("\n"));
}

#[test]
fn draws_follow_weights() {
    let world = World::settled();
    let both = [world.find("nz1"), world.find("nz2")];
    let heavy = (0..4_000)
        .filter(|random| world.view().draw(&both, 1, *random) == [both[1]])
        .count();
    assert!((2_850..3_150).contains(&heavy), "{heavy} of 4000");
}

fn any_name() -> impl Strategy<Value = PoolName> {
    let region = prop_oneof![
        Just(Region::Near),
        Just(Region::World),
        prop::sample::select(&[Continent::Oceania, Continent::Europe, Continent::Africa][..])
            .prop_map(Region::Continent),
        prop::sample::select(&["NZ", "AU", "US", "CH", "DE"][..])
            .prop_map(|code| Region::Country(country(code))),
        prop::sample::select(&POOLS[..]).prop_map(|one| Region::Pool(pool(one))),
    ];
    (prop::option::of(0..PARTS), region).prop_map(|(part, region)| PoolName { part, region })
}

/// The build of a channel that live URLs of a mirror give.
fn is_live(world: &World, mirror: MirrorIndex, pool: &Pool) -> bool {
    pool.builds.iter().all(|(id, build)| {
        let carried = world.view().channel(id).unwrap();
        carried.newest_complete(mirror) == Some(*build)
    })
}

fn is_complete(world: &World, mirror: MirrorIndex, pool: &Pool) -> bool {
    pool.builds.iter().all(|(id, build)| {
        let carried = world.view().channel(id).unwrap();
        carried.is_complete(mirror, *build)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn invariant_a_pool_has_one_build(
        ops in ops(),
        name in any_name(),
        asker in prop::sample::select(places()),
        down in prop::collection::btree_set(0..8_u32, 0..4),
    ) {
        let down: BTreeSet<MirrorIndex> = down.into_iter().map(MirrorIndex).collect();
        let mut world = World::settled();
        for op in &ops {
            world.apply(op);
            let pool = ask(&world, &name, &asker, &down);
            let live = |mirror: &MirrorIndex| is_live(&world, *mirror, &pool);
            let complete = |mirror: &MirrorIndex| is_complete(&world, *mirror, &pool);
            let members = &pool.members;
            prop_assert!(members.iter().all(live) || !members.iter().any(live));
            prop_assert!(members.iter().all(complete));
            for member in members {
                let profile = world.view().profile(*member);
                prop_assert!(!down.contains(member));
                prop_assert!(world.view().health(*member).is_up());
                prop_assert_eq!(profile.audience, Audience::Public);
                prop_assert!(pool.builds.keys().all(|id| profile.carries(id)));
            }
            let whole = PoolName { part: None, ..name.clone() };
            let whole = ask(&world, &whole, &asker, &down).members;
            prop_assert!(members.iter().all(|member| whole.contains(member)));
            prop_assert_eq!(members.is_empty(), whole.is_empty(), "a part stands in");
        }
    }

    #[test]
    fn invariant_a_draw_repeats_nobody(
        members in prop::collection::btree_set(0..8_u32, 0..8),
        count in 0..10_usize,
        random in any::<u64>(),
    ) {
        let world = World::new();
        let members: Vec<MirrorIndex> = members.into_iter().map(MirrorIndex).collect();
        let drawn = world.view().draw(&members, count, random);
        let distinct: BTreeSet<&MirrorIndex> = drawn.iter().collect();
        prop_assert_eq!(distinct.len(), count.min(members.len()));
        prop_assert_eq!(drawn.len(), distinct.len());
        prop_assert!(drawn.iter().all(|mirror| members.contains(mirror)));
    }
}
