//! In which order mirrors are offered.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use expect_test::expect;

use super::*;

const MIB: f64 = 1024.0 * 1024.0;

/// The answer as text: what is offered, and what is not.
pub(super) fn ranking(world: &World, asked: &Asked) -> String {
    let (offer, view) = (world.offer(asked).unwrap(), world.view());
    let mut text = String::new();
    for one in offer.ranked {
        let name = &view.profile(one.mirror).mirror;
        match one.tier {
            Tier::Netblock(short) => writeln!(text, "{name} netblock, /{}", 128 - short),
            tier @ (Tier::As | Tier::Country | Tier::Continent | Tier::World) => {
                writeln!(text, "{name} {}", tier.as_str())
            }
        }
        .unwrap();
    }
    for (mirror, reason) in world.excluded(asked).unwrap() {
        writeln!(text, "- {} {reason}", view.profile(mirror).mirror).unwrap();
    }
    text
}

/// Clients of 2000 neighbourhoods in a country.
fn crowd(code: &str) -> impl Iterator<Item = Place> {
    let place = place(code);
    (0..2_000_u16).map(move |number| {
        let [high, low] = number.to_be_bytes();
        Place {
            address: Some(IpAddr::V4(Ipv4Addr::new(172, high, low, 9))),
            ..place
        }
    })
}

/// How many of them have this mirror in front.
fn first(world: &World, code: &str, name: &str) -> usize {
    let is_first = |place: &Place| world.offered(&Asked::wanted(*place))[0] == name;
    crowd(code).filter(is_first).count()
}

#[test]
fn the_longest_netblock_comes_first_then_as_country_continent_world() {
    let world = World::settled();
    let inside = Place {
        asn: Some(Asn(64_500)),
        ..at("10.7.7.7", "NZ")
    };
    expect![[r#"
        us1 netblock, /121
        nz3 netblock, /112
        au1 netblock, /104
        ch1 as
        nz1 country
        nz2 country
        au2 continent
        us2 world
    "#]]
    .assert_eq(&ranking(&world, &Asked::wanted(inside)));
    let six = at("2001:db8::1", "CH");
    expect![[r#"
        nz3 netblock, /48
        au1 netblock, /32
        ch1 country
        nz2 world
        au2 world
        us1 world
        nz1 world
        us2 world
    "#]]
    .assert_eq(&ranking(&world, &Asked::wanted(six)));
    expect![[r#"
        au2 country
        au1 country
        nz2 continent
        nz1 continent
        ch1 world
        us2 world
        us1 world
        - nz3 private: the mirror is for other networks
    "#]]
    .assert_eq(&ranking(&world, &Asked::wanted(place("AU"))));
    expect![[r#"
        nz2 world
        ch1 world
        au2 world
        us2 world
        au1 world
        us1 world
        nz1 world
        - nz3 private: the mirror is for other networks
    "#]]
    .assert_eq(&ranking(&world, &Asked::wanted(Place::default())));
}

#[test]
fn an_address_in_ipv6_clothes_is_the_same_client() {
    let world = World::settled();
    let plain = Asked::wanted(at("10.7.7.7", "NZ"));
    let mapped = Asked::wanted(at("::ffff:10.7.7.7", "NZ"));
    assert_eq!(world.offer(&plain), world.offer(&mapped));
}

#[test]
fn whoever_is_left_out_is_told_why() {
    let mut world = World::settled();
    world.publish(3);
    world.complete(3, &["au2", "ch1", "us1"]);
    world.say(&Saying {
        state: VerdictState::Verified,
        ..Saying::complete("nz1", 3)
    });
    world.say(&Saying {
        state: VerdictState::Revoked(RevokeReason::WrongBuild),
        ..Saying::complete("nz2", 3)
    });
    world.dies("us1");
    world.dies("us2");
    world.answers("us2");
    world.apply(&Op::Answers("ch1", Some((NOBLE, 3, false))));
    expect![[r#"
        au2 continent
        - au1 behind: the mirror is complete at build 2
        - ch1 not-served: the mirror's URL of build 3 does not answer
        - nz1 verified: whole on the mirror, and not live yet
        - nz2 revoked: wrong-build
        - nz3 private: the mirror is for other networks
        - us1 unreachable: the mirror does not answer
        - us2 returning: the mirror answers again, 1 of 2 checks passed
    "#]]
    .assert_eq(&ranking(&world, &Asked::pinned(place("NZ"), 3)));
    let mut jammy = Asked::pinned(place("NZ"), 2);
    jammy.channel = channel("jammy");
    expect![[r#"
        nz2 country
        nz1 country
        au2 continent
        au1 continent
        ch1 world
        - nz3 private: the mirror is for other networks
        - us1 unreachable: the mirror does not answer
        - us2 not-carried: the mirror does not carry this channel
    "#]]
    .assert_eq(&ranking(&world, &jammy));
}

#[test]
fn weights_share_clients_among_mirrors_of_one_speed() {
    let mut world = World::settled();
    let heavy = first(&world, "NZ", "nz2");
    let light = first(&world, "NZ", "nz1");
    assert_eq!(heavy + light, 2_000);
    assert!(
        (1_425..1_575).contains(&heavy),
        "{heavy} of 2000, at weight 300 of 400"
    );
    let even = first(&world, "AU", "au1");
    assert!(
        (925..1_075).contains(&even),
        "{even} of 2000, at equal weights"
    );
    // Somewhat slower is within the step.
    world.measure("nz1", 1.3 * MIB);
    world.measure("nz2", 1.1 * MIB);
    assert_eq!(first(&world, "NZ", "nz2"), heavy);
}

#[test]
fn a_step_of_speed_beats_any_weight() {
    let mut world = World::settled();
    world.measure("nz1", 3.0 * MIB);
    world.measure("nz2", 2.0 * MIB);
    assert_eq!(first(&world, "NZ", "nz1"), 2_000);
    world.measure("ch1", 999.0 * MIB);
    assert_eq!(
        first(&world, "NZ", "nz1"),
        2_000,
        "and no speed beats a tier"
    );
}

#[test]
fn neighbours_are_sent_to_the_same_mirror() {
    let world = World::settled();
    let offered = |last: u8| {
        let address = format!("172.16.1.{last}");
        world.offered(&Asked::wanted(at(&address, "NZ")))
    };
    for other in 1..=255 {
        assert_eq!(offered(other), offered(0));
    }
}

/// Whatever is computed for one client may be given to all of its kind.
#[test]
fn invariant_places_of_one_kind_get_one_answer() {
    let mut world = World::settled();
    world.measure("au1", 3.0 * MIB);
    let addresses = [
        "10.7.7.1",
        "10.7.7.2",
        "10.7.7.200",
        "::ffff:10.7.7.2",
        "10.7.8.1",
        "10.9.1.1",
        "172.16.1.1",
        "2001:db8::1",
        "2001:db8:0:9::1",
        "2001:db8:1::1",
    ];
    let mut answers = Vec::new();
    for code in ["NZ", "AU"] {
        for address in addresses {
            for asn in [None, Some(Asn(1)), Some(Asn(64_500))] {
                let place = Place {
                    asn,
                    ..at(address, code)
                };
                let offer = world.offer(&Asked::wanted(place)).unwrap();
                answers.push((world.view().kind_of(&place), offer));
            }
        }
    }
    let mut alike = 0;
    for (kind, offer) in &answers {
        for (_, other) in answers.iter().filter(|(other, _)| other == kind) {
            assert_eq!(offer, other, "{kind:?}");
            alike += 1;
        }
    }
    assert_eq!(
        alike,
        6 * (3 * 3 + 2 * 2 + 5),
        "the kinds are as few as can be"
    );
}
