//! The chain of root documents, against people who make mistakes and people who mean harm.
#![allow(clippy::unwrap_used)]

mod attack;
mod world;

use super::*;
use crate::sign::{Signature, Threshold, ThresholdError};
use crate::time::Timestamp;
use world::{document, key, message, mirror, number, parts, root, sign, threshold};

fn pinned() -> Trusted {
    let first = root();
    Trusted::pin(first.clone(), &message(&first), &sign(&first, &[1, 2])).unwrap()
}

fn amended(root: &Root, amendments: &[Amendment]) -> Root {
    try_amended(root, amendments).unwrap()
}

fn try_amended(root: &Root, amendments: &[Amendment]) -> Result<Root, RootFault> {
    root.amended(
        amendments,
        Timestamp::from_ms(2000),
        Timestamp::from_ms(9000),
    )
}

fn update(trusted: &Trusted, next: &Root, signers: &[u8]) -> Result<Trusted, RootError> {
    trusted.update(next.clone(), &message(next), &sign(next, signers))
}

fn add(role: Role, seed: u8) -> Amendment {
    let key = key(seed).public();
    Amendment::Add { role, key }
}

#[test]
fn what_is_no_root_document_is_refused() {
    let refused = |change: &dyn Fn(&mut RootParts)| {
        let mut parts = parts();
        change(&mut parts);
        Root::new(parts).unwrap_err().to_string()
    };
    let key_of = |parts: &mut RootParts, seed| {
        parts.keys.insert(number(seed), key(seed).public());
    };
    for (found, expected) in [
        (
            refused(&|p| p.expires = Timestamp::EPOCH),
            "it expires before it was issued",
        ),
        (
            refused(&|p| {
                p.keys.remove(&number(1));
            }),
            "role root names key 0101010101010101, whose public key is not in the document",
        ),
        (
            refused(&|p| key_of(p, 9)),
            "key 0909090909090909 is in no role and belongs to no mirror: leave it out",
        ),
        (
            refused(&|p| {
                p.keys.insert(number(1), key(9).public());
            }),
            "key 0909090909090909 is listed as 0101010101010101",
        ),
        (
            refused(&|p| {
                let alias = world::alias(9, 1);
                p.keys.insert(number(9), alias.public());
                p.root.keys.insert(number(9));
            }),
            "0101010101010101 and 0909090909090909 are one key under two numbers: list it once",
        ),
        (
            refused(&|p| p.root.threshold = threshold(4)),
            "role root needs 4 or more keys, not 3: add a key in the same step, or lower the threshold",
        ),
        (
            refused(&|p| p.archive.threshold = threshold(2)),
            "role archive cannot have a threshold of 2: \
             each of its statements carries one signature, so it must be 1",
        ),
        (
            refused(&|p| {
                p.consistency.keys.clear();
                p.keys.remove(&number(5));
            }),
            "role consistency needs 1 or more keys, not 0: \
             add a key in the same step, or lower the threshold",
        ),
        (
            refused(&|p| {
                p.archive.keys.insert(number(2));
            }),
            "root key 0202020202020202 is also a key of role archive: root keys do nothing else",
        ),
        (
            refused(&|p| {
                p.mirrors.insert(mirror("nz2"), [number(2)].into());
            }),
            "root key 0202020202020202 is also a key of mirror nz2: root keys do nothing else",
        ),
        (
            refused(&|p| {
                p.mirrors.insert(mirror("nz2"), [number(4)].into());
            }),
            "key 0404040404040404 of mirror nz2 is also in role archive: a mirror's key has no role",
        ),
        (
            refused(&|p| {
                p.mirrors.insert(mirror("nz2"), [].into());
            }),
            "mirror nz2 has no key: give it one, or drop it",
        ),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn sizes_are_bounded() {
    let many = |count: usize| -> std::collections::BTreeSet<_> {
        (0..count)
            .map(|at| world::numbered(at).public().number())
            .collect()
    };
    let mut full = parts();
    full.root.keys = many(crate::limits::ROLE_KEYS_MAX + 1);
    assert!(matches!(
        Root::new(full),
        Err(RootFault::TooManyKeys { .. })
    ));
    let mut full = parts();
    full.mirrors
        .insert(mirror("nz1"), many(crate::limits::MIRROR_KEYS_MAX + 1));
    assert!(matches!(
        Root::new(full),
        Err(RootFault::TooManyKeys { .. })
    ));
    let mut full = parts();
    let names = (0..=crate::limits::ROSTER_MAX).map(|at| mirror(&format!("m{at}")));
    full.mirrors = names.map(|name| (name, [number(6)].into())).collect();
    assert!(matches!(
        Root::new(full),
        Err(RootFault::TooManyMirrors { .. })
    ));
}

#[test]
fn a_role_has_the_keys_that_the_document_names() {
    let trusted = pinned();
    assert_eq!(trusted.keys(Role::Root).threshold(), threshold(2));
    assert_eq!(trusted.keys(Role::Archive).threshold(), Threshold::ONE);
    let said = key(4).sign(b"said");
    trusted.keys(Role::Archive).verify(b"said", &said).unwrap();
    trusted
        .keys(Role::Consistency)
        .verify(b"said", &said)
        .unwrap_err();
    let reported = key(6).sign(b"report");
    let nz1 = trusted.mirror_keys(&mirror("nz1")).unwrap();
    nz1.verify(b"report", &reported).unwrap();
    nz1.verify(b"said", &said).unwrap_err();
    assert!(trusted.mirror_keys(&mirror("nz2")).is_none());
    assert_eq!(trusted.mirrors().collect::<Vec<_>>(), [&mirror("nz1")]);
}

#[test]
fn a_pin_needs_its_own_threshold() {
    let first = root();
    let error = Trusted::pin(
        first.clone(),
        &message(&first),
        &sign(&first, &[3, 3, 4, 9]),
    );
    let RootError::NotSelfSigned {
        source: ThresholdError::TooFew(tally),
        ..
    } = error.unwrap_err()
    else {
        panic!("another error");
    };
    assert_eq!((tally.missing(), tally.signed), (1, [number(3)].into()));
    assert_eq!(tally.open, [number(1), number(2)].into());
}

#[test]
fn a_key_is_rotated_with_the_old_and_the_new_threshold() {
    let trusted = pinned();
    let next = amended(
        trusted.root(),
        &[
            add(Role::Root, 7),
            Amendment::Remove {
                role: Role::Root,
                number: number(1),
            },
        ],
    );
    assert!(
        !next.parts().keys.contains_key(&number(1)),
        "a key without a use is left out"
    );
    // Old keys 1 2 3, new keys 2 3 7, two of each.
    for enough in [&[2, 3][..], &[1, 2, 7], &[1, 3, 2], &[7, 1, 3]] {
        let taken = update(&trusted, &next, enough).unwrap();
        assert_eq!(taken.version().get(), 2);
    }
    for old_only in [&[1, 2][..], &[1, 3]] {
        let error = update(&trusted, &next, old_only).unwrap_err();
        assert!(matches!(error, RootError::NotSelfSigned { .. }), "{error}");
    }
    for new_only in [&[7, 2][..], &[7, 3], &[7], &[]] {
        let error = update(&trusted, &next, new_only).unwrap_err();
        assert!(matches!(error, RootError::NotVouched { .. }), "{error}");
    }
}

#[test]
fn versions_come_one_by_one() {
    let first = pinned();
    let second = amended(first.root(), &[]);
    let third = amended(&second, &[]);
    let all = &[1, 2, 3];
    let skipped = update(&first, &third, all).unwrap_err();
    assert!(matches!(skipped, RootError::Skipped { .. }), "{skipped}");
    let last = update(&update(&first, &second, all).unwrap(), &third, all).unwrap();
    let old = update(&last, &second, all).unwrap_err();
    assert!(matches!(old, RootError::Rollback { .. }), "{old}");
    let same = update(&last, &third, all).unwrap_err();
    assert_eq!(same, RootError::InForce(third.version()));
    let other = amended(&second, &[add(Role::Archive, 9)]);
    let fork = update(&last, &other, all).unwrap_err();
    assert_eq!(fork, RootError::Fork(third.version()));
}

#[test]
fn the_last_number_has_no_successor() {
    let version = RootVersion::new(u64::MAX).unwrap();
    let last = document(RootParts { version, ..parts() });
    assert_eq!(try_amended(&last, &[]), Err(RootFault::Last(version)));
    let trusted = Trusted::pin(last.clone(), &message(&last), &sign(&last, &[1, 2])).unwrap();
    let other = document(RootParts {
        version,
        expires: Timestamp::from_ms(8000),
        ..parts()
    });
    assert_eq!(
        update(&trusted, &other, &[1, 2]),
        Err(RootError::Fork(version))
    );
}

#[test]
fn expiry_is_told_and_stops_no_step() {
    let trusted = pinned();
    let expires = trusted.root().parts().expires;
    let skew = crate::limits::CLOCK_SKEW_MS;
    assert!(!trusted.is_expired(expires.plus_ms(skew)));
    assert!(trusted.is_expired(expires.plus_ms(skew + 1)));
    let next = trusted
        .root()
        .amended(&[], Timestamp::EPOCH, Timestamp::EPOCH)
        .unwrap();
    let next = update(&trusted, &next, &[1, 2]).unwrap();
    assert!(next.is_expired(expires.plus_ms(skew)));
    update(&next, &amended(next.root(), &[]), &[2, 3]).unwrap();
}

#[test]
fn a_stolen_key_is_revoked_everywhere() {
    let revoke = |seed| Amendment::Revoke(number(seed));
    let next = amended(&root(), &[revoke(1)]);
    assert_eq!(next.parts().root.keys, [number(2), number(3)].into());
    let error = try_amended(&next, &[revoke(2)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "role root needs 2 or more keys, not 1: add a key in the same step, or lower the threshold"
    );
    amended(&next, &[revoke(2), add(Role::Root, 8)]);
    assert!(try_amended(&next, &[revoke(4)]).is_err());
    let renewed = amended(&next, &[revoke(4), add(Role::Archive, 8)]);
    assert_eq!(renewed.parts().archive.keys, [number(8)].into());
    assert!(amended(&next, &[revoke(6)]).parts().mirrors.is_empty());
    assert!(matches!(
        try_amended(&next, &[revoke(1)]),
        Err(RootFault::NoSuchKey { .. })
    ));
}

#[test]
fn the_roster_changes() {
    let enter = |name: &str, seed| Amendment::Mirror {
        mirror: mirror(name),
        key: key(seed).public(),
    };
    let two = amended(&root(), &[enter("nz1", 7), enter("ch1", 8)]);
    assert_eq!(
        two.parts().mirrors[&mirror("nz1")],
        [number(6), number(7)].into()
    );
    let one = amended(&two, &[Amendment::DropMirror(mirror("nz1"))]);
    assert_eq!(one.parts().mirrors.len(), 1);
    assert!(!one.parts().keys.contains_key(&number(6)));
    assert_eq!(
        try_amended(&one, &[Amendment::DropMirror(mirror("nz1"))]),
        Err(RootFault::NoSuchMirror(mirror("nz1")))
    );
    let taken = Amendment::Mirror {
        mirror: mirror("nz2"),
        key: world::alias(1, 9).public(),
    };
    assert_eq!(
        try_amended(&one, &[taken]),
        Err(RootFault::Taken(number(1)))
    );
}

/// 64 signatures are always enough, even when a full role is replaced whole.
#[test]
fn the_largest_change_of_keys_fits() {
    let full = |from: usize| -> Vec<_> { (from..from + 64).map(world::numbered).collect() };
    let (old, new) = (full(0), full(64));
    let highest = threshold(crate::limits::THRESHOLD_MAX);
    let with = |keys: &[crate::sign::SecretKey], version| {
        let mut parts = RootParts { version, ..parts() };
        for seed in [1, 2, 3] {
            parts.keys.remove(&number(seed));
        }
        let public = keys.iter().map(|key| (key.public().number(), key.public()));
        parts.keys.extend(public);
        parts.root.keys = keys.iter().map(|key| key.public().number()).collect();
        parts.root.threshold = highest;
        document(parts)
    };
    let (first, second) = (
        with(&old, RootVersion::FIRST),
        with(&new, RootVersion::new(2).unwrap()),
    );
    let signed = |root: &Root, keys: &[crate::sign::SecretKey]| -> Vec<Signature> {
        keys.iter()
            .take(32)
            .map(|key| key.sign(&message(root)))
            .collect()
    };
    let trusted = Trusted::pin(first.clone(), &message(&first), &signed(&first, &old)).unwrap();
    let mut both = signed(&second, &old);
    both.extend(signed(&second, &new));
    trusted
        .update(second.clone(), &message(&second), &both)
        .unwrap();
}
