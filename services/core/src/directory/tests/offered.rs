//! Whatever the directory is told, what it answers is right, whole and reasoned.

use proptest::prelude::*;

use super::inputs::any_sample;
use super::*;
use crate::directory::exclude::ExcludeReason;
use crate::directory::offer::{Needs, Ranked, explore};
use crate::directory::view::View;

fn is_everything_right(world: &World, asked: &Asked, ranked: &Ranked, build: Build) {
    let World { oracle, now, .. } = world;
    let (view, id) = (world.view(), &asked.channel);
    let profile = view.profile(ranked.mirror);
    let name = profile.mirror.clone();
    let signed = oracle.signed.get(&(id.clone(), build)).copied();
    let said = oracle.said.get(&(name.clone(), id.clone(), build));
    assert_eq!(
        said,
        signed.map(|root| (VerdictState::Complete, root)).as_ref(),
        "{name} is offered at {build} of {id}"
    );
    assert!(signed.is_some(), "{build} of {id} was never signed");
    assert!(view.health(ranked.mirror).is_up(), "{name} does not answer");
    let silent = oracle.silent.get(&name);
    assert!(
        silent.is_some_and(|silent| *silent < 2),
        "{name}: {silent:?}"
    );
    let looked = oracle.looked.get(&(name.clone(), id.clone()));
    assert_ne!(looked, Some(&(build, false)), "{name} does not serve it");
    assert!(!oracle.retracted.contains(&(id.clone(), build)));
    assert!(!oracle.forked.contains(id));
    let expires = oracle.heads.get(id).map(|(_, expires)| *expires);
    assert!(expires.is_none_or(|expires| *now < expires));
    assert!(profile.carries(id));
    let inside = |address| {
        profile
            .netblocks
            .iter()
            .any(|block| block.contains(address))
    };
    let private = profile.audience == Audience::Private;
    assert!(
        !private || asked.place.address.as_ref().is_some_and(inside),
        "{name} is private, and {:?} is elsewhere",
        asked.place
    );
}

fn is_partitioned(world: &World, asked: &Asked) {
    let view = world.view();
    let question = asked.at(world.now);
    let (offer, excluded) = match (view.offer(&question), view.excluded(&question)) {
        (Ok(offer), Ok(excluded)) => (offer, excluded),
        (offer, excluded) => {
            assert_eq!(offer.err(), excluded.err());
            return;
        }
    };
    let offered: BTreeSet<MirrorIndex> = offer.ranked.iter().map(|one| one.mirror).collect();
    assert_eq!(
        offered.len(),
        offer.ranked.len(),
        "a mirror is offered once"
    );
    let mut left: BTreeMap<MirrorIndex, ExcludeReason> = excluded.iter().cloned().collect();
    assert_eq!(left.len(), excluded.len(), "a mirror is excluded once");
    for (mirror, profile) in view.mirrors() {
        let reason = left.remove(&mirror);
        assert_ne!(offered.contains(&mirror), reason.is_some(), "{profile:?}");
        if let Some(reason) = &reason {
            let text = reason.to_string();
            let (word, people) = text.split_once(": ").unwrap();
            assert_eq!(word, reason.word());
            assert!(!people.is_empty());
        }
        if let Some(build) = offer.build {
            assert_eq!(view.exclude(mirror, &question, build), reason);
        }
    }
}

fn is_in_order(ranked: &[Ranked]) {
    for pair in ranked.windows(2) {
        assert!(pair[0].tier <= pair[1].tier, "{pair:?}");
        let same = pair[0].tier == pair[1].tier;
        assert!(!same || pair[0].score >= pair[1].score, "{pair:?}");
    }
    assert!(
        ranked
            .iter()
            .all(|one| one.score.is_finite() && one.score > 0.0)
    );
}

/// Applies the inputs; checks one question after each, and all after the last.
fn check(ops: &[Op], one: usize, check: impl Fn(&World, &Asked)) {
    let mut world = World::settled();
    let all = Asked::all();
    for (turn, op) in ops.iter().enumerate() {
        world.apply(op);
        // Any odd step that shares no factor with the count comes around to all of them.
        check(&world, &all[(one + turn * 11) % all.len()]);
    }
    all.iter().for_each(|asked| check(&world, asked));
}

fn offered(view: &View, asked: &Asked, now: Timestamp) -> BTreeSet<MirrorIndex> {
    let ranked = view.offer(&asked.at(now)).map(|offer| offer.ranked);
    let ranked = ranked.unwrap_or_default();
    ranked.iter().map(|one| one.mirror).collect()
}

fn ranked(tiers: &[u8]) -> Vec<Ranked> {
    let tier = |tier: &u8| match tier {
        0 => Tier::Country,
        1 => Tier::Continent,
        _other => Tier::World,
    };
    let mut ranked: Vec<Ranked> = (0u32..)
        .zip(tiers)
        .map(|(index, one)| Ranked {
            mirror: MirrorIndex(index),
            tier: tier(one),
            score: 1.0,
        })
        .collect();
    ranked.sort_by_key(|one| one.tier);
    ranked
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn invariant_everything_offered_is_complete_and_answers(ops in ops(), one in 0..1_000_usize) {
        check(&ops, one, |world, asked| {
            let Ok(offer) = world.offer(asked) else { return };
            for ranked in &offer.ranked {
                is_everything_right(world, asked, ranked, offer.build.unwrap());
            }
        });
    }

    #[test]
    fn invariant_every_mirror_is_offered_or_excluded_with_a_reason(ops in ops(), one in 0..1_000_usize) {
        check(&ops, one, is_partitioned);
    }

    #[test]
    fn invariant_order_is_by_tier_then_score(ops in ops(), one in 0..1_000_usize) {
        check(&ops, one, |world, asked| {
            let Ok(offer) = world.offer(asked) else { return };
            is_in_order(&offer.ranked);
            assert_eq!(world.offer(asked).unwrap(), offer, "the same question twice");
        });
    }

    /// Whatever is computed from a view may be kept while its revision stands.
    #[test]
    fn invariant_offers_change_with_the_revision_only(ops in ops()) {
        let mut world = World::settled();
        let all = Asked::all();
        for op in &ops {
            let before = world.view().clone();
            world.apply(op);
            let view = world.view();
            if view.revision() == before.revision() {
                for asked in all.iter().step_by(5) {
                    let question = asked.at(world.now);
                    prop_assert_eq!(before.offer(&question), view.offer(&question), "{:?}", op);
                }
            }
        }
    }

    #[test]
    fn invariant_samples_exclude_nobody(
        ops in ops(),
        samples in prop::collection::vec(any_sample(), 1..200),
    ) {
        let mut world = World::settled();
        ops.iter().for_each(|op| world.apply(op));
        let before = world.view().clone();
        samples.iter().for_each(|op| world.apply(op));
        world.apply(&Op::Tick(2_000));
        for asked in Asked::all() {
            let now = world.now;
            prop_assert_eq!(
                offered(&before, &asked, now),
                offered(world.view(), &asked, now)
            );
        }
    }

    #[test]
    fn invariant_exploring_keeps_the_best_two_and_the_third_s_tier(
        tiers in prop::collection::vec(0..3_u8, 0..12),
        random in any::<u64>(),
    ) {
        let before = ranked(&tiers);
        let mut after = before.clone();
        explore(&mut after, random);
        let Some(third) = after.get(2).copied() else {
            prop_assert_eq!(after, before);
            return Ok(());
        };
        prop_assert_eq!(third.tier, before[2].tier);
        let moved = before.iter().position(|one| *one == third).unwrap();
        prop_assert!(moved >= 2);
        after.remove(2);
        after.insert(moved, third);
        prop_assert_eq!(after, before, "only one of them was moved");
    }
}

#[test]
fn exploring_reaches_all_of_the_third_s_tier() {
    let before = ranked(&[0, 1, 1, 1, 1, 2, 2]);
    let third = |random| {
        let mut ranked = before.clone();
        explore(&mut ranked, random);
        ranked[2].mirror.get()
    };
    let thirds: BTreeSet<usize> = (0..100).map(third).collect();
    assert_eq!(thirds, BTreeSet::from([2, 3, 4]));
}

#[test]
fn a_mirror_of_a_part_is_offered_to_those_who_need_no_more() {
    let mut world = World::settled();
    let part = crate::view::Part {
        architectures: ["amd64".to_owned()].into(),
        components: ["main".to_owned()].into(),
        ..crate::view::Part::default()
    };
    let part = crate::view::View::new(part).unwrap();
    let of_part = Verdict {
        view: part.clone(),
        ..verdict(&Saying::complete("nz1", 2), world.now, world.lease)
    };
    let before = world.view().revision();
    assert_eq!(world.feed(Input::Verdict(of_part)), []);
    assert_ne!(
        world.view().revision(),
        before,
        "what was computed before is stale"
    );
    let nz1 = world.find("nz1");
    let asked = Asked::wanted(Place::in_country("NZ".parse().unwrap()));
    let why = |needs: Needs<'_>| {
        let question = Question {
            needs,
            ..asked.at(world.now)
        };
        world.view().exclude(nz1, &question, build(2))
    };
    let names = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    let (amd64, i386, main, all) = (names("amd64"), names("i386"), names("main"), names(""));
    let of = |architectures, components| Needs::Part {
        architectures,
        components,
    };
    let reason = ExcludeReason::PartOnly(part);
    let left_out = Some(reason.clone());
    assert_eq!(why(Needs::Everything), left_out);
    assert_eq!(why(of(&amd64, &main)), None);
    assert_eq!(why(of(&amd64, &all)), left_out);
    assert_eq!(why(of(&i386, &main)), left_out);
    let path = |text: &str| crate::path::EntryPath::new(text.as_bytes()).unwrap();
    let here = path("pool/main/h/hello_1_amd64.deb");
    let elsewhere = path("pool/main/h/hello_1_i386.deb");
    assert_eq!(why(Needs::Path(&here)), None);
    assert_eq!(why(Needs::Path(&elsewhere)), left_out);
    assert!(
        reason
            .to_string()
            .starts_with("part-only: the mirror carries architectures amd64")
    );
}
