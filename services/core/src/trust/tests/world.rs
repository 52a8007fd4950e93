//! Keys and documents: root keys 1, 2 and 3 of which two must sign, archive 4, consistency 5, mirror nz1 with 6.

use std::collections::BTreeSet;

use super::*;
use crate::id::MirrorId;
use crate::sign::{KeyNumber, SecretKey};

pub(super) fn number(seed: u8) -> KeyNumber {
    KeyNumber([seed; 8])
}

pub(super) fn key(seed: u8) -> SecretKey {
    alias(seed, seed)
}

/// The key of `seed` under another number.
pub(super) fn alias(as_number: u8, seed: u8) -> SecretKey {
    SecretKey::from_seed(number(as_number), &[seed; 32])
}

/// One of many keys.
pub(super) fn numbered(at: usize) -> SecretKey {
    let at = u64::try_from(at).unwrap().to_be_bytes();
    let mut seed = [0xaa; 32];
    seed[..8].copy_from_slice(&at);
    let mut number = at;
    number[0] = 0xaa;
    SecretKey::from_seed(KeyNumber(number), &seed)
}

pub(super) fn mirror(name: &str) -> MirrorId {
    MirrorId::new(name).unwrap()
}

pub(super) fn threshold(keys: u32) -> Threshold {
    Threshold::new(keys).unwrap()
}

pub(super) fn role(seeds: &[u8], keys: u32) -> RoleKeys {
    RoleKeys {
        keys: seeds.iter().copied().map(number).collect(),
        threshold: threshold(keys),
    }
}

pub(super) fn parts() -> RootParts {
    RootParts {
        version: RootVersion::FIRST,
        issued: Timestamp::from_ms(1000),
        expires: Timestamp::from_ms(5000),
        keys: (1..=6)
            .map(|seed| (number(seed), key(seed).public()))
            .collect(),
        root: role(&[1, 2, 3], 2),
        archive: role(&[4], 1),
        consistency: role(&[5], 1),
        mirrors: [(mirror("nz1"), BTreeSet::from([number(6)]))].into(),
    }
}

pub(super) fn document(parts: RootParts) -> Root {
    Root::new(parts).unwrap()
}

pub(super) fn root() -> Root {
    document(parts())
}

/// All that a document says, as bytes: stands in for its encoding.
pub(super) fn message(root: &Root) -> Vec<u8> {
    let keys: Vec<[u8; 32]> = root
        .parts()
        .keys
        .values()
        .map(|key| *key.as_bytes())
        .collect();
    format!("{root:?} {keys:?}").into_bytes()
}

pub(super) fn sign(root: &Root, seeds: &[u8]) -> Vec<Signature> {
    let message = message(root);
    seeds.iter().map(|&seed| key(seed).sign(&message)).collect()
}
