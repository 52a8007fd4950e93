//! Random histories of rotations, with somebody who holds all but one of the root keys that are needed.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::world::role;
use super::*;

/// Root keys of the honest have seeds below this; the attacker's own ones above.
const OWN: u8 = 100;

/// What the holders of the root keys decide for the next version.
#[derive(Clone, Debug)]
struct Rotation {
    seeds: BTreeSet<u8>,
    threshold: Index,
    archive: u8,
}

fn rotations() -> impl Strategy<Value = Rotation> {
    let seeds = proptest::collection::btree_set(10..20_u8, 1..6);
    (seeds, any::<Index>(), 30..34_u8).prop_map(|(seeds, threshold, archive)| Rotation {
        seeds,
        threshold,
        archive,
    })
}

fn all(root: &Root) -> Vec<u8> {
    root.parts()
        .root
        .keys
        .iter()
        .map(|number| number.0[0])
        .collect()
}

fn follow(root: &Root, rotation: &Rotation) -> Root {
    let old = root.parts();
    let removed = old
        .root
        .keys
        .iter()
        .filter(|number| !rotation.seeds.contains(&number.0[0]));
    let removed = removed.map(|&number| Amendment::Remove {
        role: Role::Root,
        number,
    });
    let added = rotation.seeds.iter().map(|&seed| add(Role::Root, seed));
    let most = u32::try_from(rotation.seeds.len()).unwrap();
    let threshold = threshold(1 + u32::try_from(rotation.threshold.index(most as usize)).unwrap());
    let mut amendments: Vec<Amendment> = removed.chain(added).collect();
    amendments.push(Amendment::Threshold {
        role: Role::Root,
        threshold,
    });
    let replaced = old.archive.keys.iter();
    amendments.extend(replaced.map(|&number| Amendment::Remove {
        role: Role::Archive,
        number,
    }));
    amendments.push(add(Role::Archive, rotation.archive));
    amended(root, &amendments)
}

/// All versions, each with its signatures by all keys of the version before and of its own.
fn history(rotations: &[Rotation]) -> Vec<(Root, Vec<Signature>)> {
    let first = root();
    let mut versions = vec![(first.clone(), sign(&first, &all(&first)))];
    for rotation in rotations {
        let last = &versions[versions.len() - 1].0;
        let next = follow(last, rotation);
        let mut signers = all(last);
        signers.extend(all(&next));
        let signatures = sign(&next, &signers);
        versions.push((next, signatures));
    }
    versions
}

fn pin(first: &(Root, Vec<Signature>)) -> Trusted {
    Trusted::pin(first.0.clone(), &message(&first.0), &first.1).unwrap()
}

fn offer(
    trusted: &Trusted,
    (root, signatures): &(Root, Vec<Signature>),
) -> Result<Trusted, RootError> {
    trusted.update(root.clone(), &message(root), signatures)
}

/// What the attacker offers after `last`: a document that gives the archive to them, of some version, with root keys
/// of their choice.
fn forgery(last: &Root, ahead: u64, keep_root: bool) -> Root {
    let old = last.parts();
    let mut parts = RootParts {
        version: RootVersion::new(old.version.get().saturating_add(ahead)).unwrap(),
        archive: role(&[OWN], 1),
        ..old.clone()
    };
    parts.keys.insert(number(OWN), key(OWN).public());
    for number in &old.archive.keys {
        parts.keys.remove(number);
    }
    if !keep_root {
        for number in &old.root.keys {
            parts.keys.remove(number);
        }
        parts.root = role(&[OWN + 1], 1);
        parts.keys.insert(number(OWN + 1), key(OWN + 1).public());
    }
    document(parts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// One key less than needed, every signature ever made and any number of keys of their own are not enough.
    #[test]
    fn invariant_less_than_the_threshold_makes_no_version(
        rotations in vec(rotations(), 0..5), stolen: Index, ahead in 0..3_u64, keep_root: bool,
        replays in vec(any::<Index>(), 0..8),
    ) {
        let versions = history(&rotations);
        let mut trusted = pin(&versions[0]);
        for next in &versions[1..] {
            trusted = offer(&trusted, next).unwrap();
        }
        let last = trusted.root().clone();
        let needed = last.parts().root.threshold.get() as usize;
        let mut held = all(&last);
        let turn = stolen.index(held.len());
        held.rotate_left(turn);
        held.truncate(needed - 1);

        let forged = forgery(&last, ahead, keep_root);
        let bytes = message(&forged);
        let mut signatures = sign(&forged, &held);
        signatures.extend(sign(&forged, &held));
        signatures.extend(sign(&forged, &[OWN, OWN + 1]));
        // Own keys under the numbers of keys that were not stolen, and stolen ones under other numbers.
        let others = all(&last).into_iter().filter(|seed| !held.contains(seed));
        signatures.extend(others.map(|seed| world::alias(seed, OWN).sign(&bytes)));
        signatures.extend(held.iter().map(|&seed| world::alias(OWN + 2, seed).sign(&bytes)));
        let said: Vec<Signature> = versions.iter().flat_map(|(_, signed)| signed.clone()).collect();
        signatures.extend(replays.iter().map(|at| said[at.index(said.len())]));
        let taken = trusted.update(forged, &bytes, &signatures);
        prop_assert!(matches!(taken, Err(RootError::NotVouched { .. })), "{:?}", taken);
    }

    /// Any threshold of the keys that remain makes the next version, whatever the others do or add.
    #[test]
    fn invariant_less_than_the_threshold_stops_no_version(
        rotations in vec(rotations(), 1..5), turns in vec(any::<Index>(), 5), noise in vec(any::<u8>(), 0..20),
    ) {
        let versions = history(&rotations);
        let mut trusted = pin(&versions[0]);
        for (next, turn) in versions[1..].iter().zip(turns) {
            let enough = |root: &Root| {
                let mut seeds = all(root);
                let turn = turn.index(seeds.len());
                seeds.rotate_left(turn);
                seeds.truncate(root.parts().root.threshold.get() as usize);
                seeds
            };
            let mut signatures: Vec<Signature> = noise.iter().map(|&seed| key(seed).sign(b"noise")).collect();
            signatures.extend(sign(&next.0, &enough(trusted.root())));
            signatures.extend(sign(&next.0, &enough(&next.0)));
            trusted = offer(&trusted, &(next.0.clone(), signatures)).unwrap();
        }
        prop_assert_eq!(trusted.root(), &versions[versions.len() - 1].0);
    }

    /// Whatever is offered in whatever order, how often ever: versions go up by one, along the one true history.
    #[test]
    fn invariant_reordered_and_replayed_documents_change_nothing(
        rotations in vec(rotations(), 0..6), offers in vec(any::<Index>(), 0..40),
    ) {
        let versions = history(&rotations);
        let mut trusted = pin(&versions[0]);
        for at in offers {
            let at = at.index(versions.len());
            let before = trusted.version().get();
            match offer(&trusted, &versions[at]) {
                Ok(next) => {
                    prop_assert_eq!(next.version().get(), before + 1);
                    trusted = next;
                }
                Err(_refused) => prop_assert_ne!(at as u64, before, "the next version is always taken"),
            }
            let number = usize::try_from(trusted.version().get()).unwrap();
            prop_assert_eq!(trusted.root(), &versions[number - 1].0);
        }
    }

    /// A signed document of which one byte was changed is not signed any more.
    #[test]
    fn invariant_mutated_documents_are_refused(rotation in rotations(), at: Index, bit in 0..8_u8) {
        let versions = history(&[rotation]);
        let trusted = pin(&versions[0]);
        let (next, signatures) = &versions[1];
        let mut bytes = message(next);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let taken = trusted.update(next.clone(), &bytes, signatures);
        prop_assert!(matches!(taken, Err(RootError::NotVouched { .. })), "{:?}", taken);
    }

    /// Keys are taken away until the threshold holds, and no further.
    #[test]
    fn revocation_stops_at_the_threshold(revoked in vec(1..=3_u8, 0..4)) {
        let mut current = root();
        for seed in revoked {
            let here = current.parts().root.keys.contains(&number(seed));
            let spare = current.parts().root.keys.len() > 2;
            match try_amended(&current, &[Amendment::Revoke(number(seed))]) {
                Ok(next) => {
                    prop_assert!(here && spare);
                    current = next;
                }
                Err(RootFault::Threshold { .. }) => prop_assert!(here && !spare),
                Err(other) => {
                    prop_assert!(!here, "{}", other);
                }
            }
        }
    }
}
