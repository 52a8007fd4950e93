//! Root documents: root keys 1, 2 and 3 of which two must sign, archive 4, consistency 5, mirrors from 6 on.

use std::collections::BTreeSet;

use bytes::Bytes;
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::sign::{KeyNumber, Threshold};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::trust::{Amendment, Role, RoleKeys, Root, RootParts, RootVersion};
use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;
use prost::Message as _;
use wire::v1::{self, statement::Kind};
use wire::{SignedRoot, signify};

use super::{key, mirrors, times};

fn role(seeds: impl IntoIterator<Item = u8>, threshold: u32) -> RoleKeys {
    RoleKeys {
        keys: seeds.into_iter().map(|seed| KeyNumber([seed; 8])).collect(),
        threshold: Threshold::new(threshold).unwrap(),
    }
}

fn parts() -> RootParts {
    let keys = (1..=5).map(|seed| (KeyNumber([seed; 8]), key(seed).public()));
    RootParts {
        version: RootVersion::FIRST,
        issued: Timestamp::from_ms(1_795_305_030_123),
        expires: Timestamp::from_ms(1_826_841_030_123),
        keys: keys.collect(),
        root: role(1..=3, 2),
        archive: role([4], 1),
        consistency: role([5], 1),
        mirrors: [].into(),
    }
}

pub(crate) fn small() -> Root {
    Root::new(parts()).unwrap()
}

/// With a roster.
pub(crate) fn root() -> Root {
    let mut parts = parts();
    let keys = (6..=8).map(|seed| (KeyNumber([seed; 8]), key(seed).public()));
    parts.keys.extend(keys);
    let mirror = |name| MirrorId::new(name).unwrap();
    parts.mirrors = [
        (mirror("ch1"), role([6], 1).keys),
        (mirror("nz1"), role([7, 8], 1).keys),
    ]
    .into();
    Root::new(parts).unwrap()
}

/// What follows it: root key 1 replaced by 9.
pub(crate) fn next() -> Root {
    let (role, number) = (Role::Root, KeyNumber([1; 8]));
    let key = key(9).public();
    let amendments = [
        Amendment::Add { role, key },
        Amendment::Remove { role, number },
    ];
    let root = root();
    let issued = root.parts().issued.plus_ms(1000);
    let expires = root.parts().expires.plus_ms(1000);
    root.amended(&amendments, issued, expires).unwrap()
}

/// Signed by root keys 2 and 3, which is enough for every one of these.
pub(crate) fn signed(root: &Root) -> SignedRoot {
    let mut signed = SignedRoot::new(root).unwrap();
    signed.sign(&key(2));
    signed.sign(&key(3));
    signed
}

pub(crate) fn roots() -> impl Strategy<Value = Root> {
    let keys = (
        btree_set(1..=30_u8, 1..8),
        btree_set(31..=40_u8, 1..4),
        btree_set(41..=50_u8, 1..4),
        btree_map(mirrors(), btree_set(51..=99_u8, 1..=2), 0..5),
    );
    let said = (1..=u64::MAX, times(), times(), any::<prop::sample::Index>());
    (keys, said).prop_map(|(keys, (version, a, b, threshold))| {
        let (root, archive, consistency, mirrors) = keys;
        let most = root.len();
        let threshold = 1 + u32::try_from(threshold.index(most)).unwrap();
        let numbers =
            |seeds: BTreeSet<u8>| seeds.into_iter().map(|seed| KeyNumber([seed; 8])).collect();
        let mut parts = RootParts {
            version: RootVersion::new(version).unwrap(),
            issued: a.min(b),
            expires: a.max(b),
            keys: [].into(),
            root: role(root, threshold),
            archive: role(archive, 1),
            consistency: role(consistency, 1),
            mirrors: mirrors
                .into_iter()
                .map(|(mirror, seeds)| (mirror, numbers(seeds)))
                .collect(),
        };
        let roles = [&parts.root, &parts.archive, &parts.consistency].map(|role| &role.keys);
        let named = roles.into_iter().chain(parts.mirrors.values()).flatten();
        parts.keys = named
            .map(|number| (*number, key(number.0[0]).public()))
            .collect();
        Root::new(parts).unwrap()
    })
}

/// The small one as a protobuf message, to be spoilt.
pub(crate) fn proto() -> v1::Root {
    let key = |seed| Bytes::copy_from_slice(&signify::public_to_bytes(&key(seed).public()));
    let role = |seeds: &[u8], threshold| v1::root::Role {
        threshold,
        keys: seeds.iter().map(|&seed| number(seed)).collect(),
    };
    v1::Root {
        version: 1,
        issued_ms: 1000,
        expires_ms: 2000,
        keys: (1..=6).map(key).collect(),
        root: Some(role(&[1, 2, 3], 2)),
        archive: Some(role(&[4], 1)),
        consistency: Some(role(&[5], 1)),
        mirrors: vec![v1::root::Mirror {
            mirror: "nz1".into(),
            keys: vec![number(6)],
        }],
    }
}

pub(crate) fn number(seed: u8) -> Bytes {
    Bytes::copy_from_slice(&[seed; 8])
}

pub(crate) fn encode(root: v1::Root) -> Vec<u8> {
    v1::Statement {
        schema: 1,
        kind: Some(Kind::Root(root)),
    }
    .encode_to_vec()
}
