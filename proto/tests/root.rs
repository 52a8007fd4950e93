//! Root documents: what is refused, and what is taken.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use bytes::Bytes;
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::limits::{
    MIRROR_KEYS_MAX, REPORT_MAX_BYTES, ROLE_KEYS_MAX, ROOT_MAX_BYTES, ROSTER_MAX, SIGNATURES_MAX,
};
use mirrorlog_core::sign::{KeyNumber, SecretKey};
use mirrorlog_core::statement::Statement;
use mirrorlog_core::trust::{RoleKeys, Root, RootError, RootParts, RootVersion};
use proptest::prelude::*;
use prost::Message as _;
use support::roots::{encode, next, number, proto, root, roots, signed};
use support::{key, messages};
use wire::root::SIGNED_ROOT_MAX_BYTES;
use wire::v1::{self, statement::Kind as Proto};
use wire::{DecodeError, Signed, SignedRoot, SignedRootError, statement};

#[test]
fn every_part_is_checked() {
    statement::decode_root(&encode(proto())).unwrap();
    let refused = |change: &dyn Fn(&mut v1::Root)| {
        let mut proto = proto();
        change(&mut proto);
        match statement::decode_root(&encode(proto)) {
            Err(DecodeError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    let keys = |role: &mut Option<v1::root::Role>, keys: &[u8]| {
        role.as_mut().unwrap().keys = keys.iter().map(|&seed| number(seed)).collect();
    };
    let threshold = |role: &mut Option<v1::root::Role>, threshold| {
        role.as_mut().unwrap().threshold = threshold;
    };
    let again = || proto().mirrors[0].clone();
    for (found, field) in [
        (refused(&|r| r.version = 0), "root.version"),
        (refused(&|r| r.issued_ms = -1), "root.issued_ms"),
        (refused(&|r| r.expires_ms = i64::MAX), "root.expires_ms"),
        (refused(&|r| r.expires_ms = 999), "root"),
        (refused(&|r| r.keys.swap(0, 1)), "root.keys"),
        (refused(&|r| r.keys[1] = r.keys[0].clone()), "root.keys"),
        (refused(&|r| r.keys[0] = Bytes::new()), "root.keys"),
        (refused(&|r| r.keys.truncate(5)), "root"),
        (refused(&|r| r.root = None), "root.root"),
        (refused(&|r| r.archive = None), "root.archive"),
        (refused(&|r| r.consistency = None), "root.consistency"),
        (refused(&|r| keys(&mut r.root, &[2, 1, 3])), "root.root"),
        (refused(&|r| keys(&mut r.root, &[1, 1, 2, 3])), "root.root"),
        (
            refused(&|r| keys(&mut r.root, &[1; ROLE_KEYS_MAX + 1])),
            "root.root",
        ),
        (refused(&|r| keys(&mut r.root, &[1, 2, 3, 4])), "root"),
        (refused(&|r| threshold(&mut r.root, 0)), "root.root"),
        (refused(&|r| threshold(&mut r.root, 33)), "root.root"),
        (refused(&|r| threshold(&mut r.root, 4)), "root"),
        (refused(&|r| threshold(&mut r.archive, 2)), "root"),
        (refused(&|r| r.mirrors.push(again())), "root.mirrors"),
        (
            refused(&|r| r.mirrors = vec![again(); ROSTER_MAX + 1]),
            "root.mirrors",
        ),
        (
            refused(&|r| r.mirrors[0].mirror.push('!')),
            "root.mirrors.mirror",
        ),
        (
            refused(&|r| r.mirrors[0].keys.push(number(1))),
            "root.mirrors.keys",
        ),
        (
            refused(&|r| r.mirrors[0].keys[0] = Bytes::from_static(b"7 bytes")),
            "root.mirrors.keys",
        ),
        (refused(&|r| r.mirrors[0].keys.clear()), "root"),
    ] {
        assert_eq!(found, field);
    }
}

/// Who does not know every byte of it must not act on it.
#[test]
fn unknown_and_repeated_fields_are_refused() {
    let inner = proto().encode_to_vec();
    let wrap = |inner: &[u8]| {
        let mut bytes = v1::Statement {
            schema: 1,
            kind: None,
        }
        .encode_to_vec();
        prost::encoding::bytes::encode(8, &inner.to_vec(), &mut bytes);
        bytes
    };
    statement::decode_root(&wrap(&inner)).unwrap();
    let mut unknown = inner.clone();
    prost::encoding::uint64::encode(15, &1, &mut unknown);
    let mut twice = inner.clone();
    prost::encoding::uint64::encode(1, &7, &mut twice);
    let mut outside = wrap(&inner);
    prost::encoding::uint64::encode(99, &1, &mut outside);
    for bytes in [wrap(&unknown), wrap(&twice), outside] {
        let error = statement::decode_root(&bytes).unwrap_err();
        assert!(
            matches!(
                error,
                DecodeError::Field {
                    field: "statement",
                    ..
                }
            ),
            "{error}"
        );
        statement::decode(&bytes).unwrap_err();
    }
}

#[test]
fn other_kinds_are_no_root_document() {
    let head = messages::read(Proto::Head(messages::head())).unwrap();
    let mut disguised = signed(&root());
    disguised.statement = statement::encode(&head).into();
    disguised.signatures.clear();
    disguised.sign(&key(2));
    disguised.sign(&key(3));
    let trusted = signed(&root()).pin().unwrap();
    for result in [disguised.pin(), disguised.open_next(&trusted)] {
        assert!(
            matches!(result, Err(SignedRootError::Decode(_))),
            "{result:?}"
        );
    }
    // Signed with one key as other statements are, it is nobody's word about anything.
    let alone = Signed::sign(&key(2), &Statement::Root(root()));
    let opened = alone.open(&support::trusted(&[&key(2)])).unwrap();
    assert_eq!(opened, Statement::Root(root()));
}

#[test]
fn nothing_is_decoded_before_the_version_in_force_vouches_for_it() {
    let trusted = signed(&root()).pin().unwrap();
    let mut garbage = signed(&next());
    garbage.statement = Bytes::from_static(b"\xff\xff no protobuf");
    garbage.signatures.clear();
    garbage.sign(&key(2));
    let unvouched = |result| {
        matches!(
            result,
            Err(SignedRootError::Root(RootError::NotVouched { .. }))
        )
    };
    assert!(unvouched(garbage.open_next(&trusted)));
    garbage.sign(&key(3));
    assert!(matches!(
        garbage.open_next(&trusted),
        Err(SignedRootError::Decode(_))
    ));

    let mut next = signed(&next());
    next.signatures.truncate(1);
    assert!(unvouched(next.open_next(&trusted)));
    next.sign(&key(2));
    assert_eq!(next.signatures.len(), 1, "a key signs once");
    next.sign(&key(1));
    let own = next.open_next(&trusted).unwrap_err();
    assert!(
        matches!(own, SignedRootError::Root(RootError::NotSelfSigned { .. })),
        "{own}"
    );
    next.sign(&key(9));
    next.open_next(&trusted).unwrap();
}

#[test]
fn signatures_are_bounded() {
    let mut flood = signed(&root());
    flood.signatures = vec![flood.signatures[0]; SIGNATURES_MAX];
    SignedRoot::decode(&flood.encode()).unwrap();
    flood.signatures.push(flood.signatures[0]);
    assert!(SignedRoot::decode(&flood.encode()).is_err());
    assert!(flood.pin().is_err());
    assert!(matches!(
        SignedRoot::decode(&vec![0; SIGNED_ROOT_MAX_BYTES + 1]),
        Err(DecodeError::TooLarge { .. })
    ));
}

/// Every limit reached at once, it still fits; other statements stay as small as they were.
#[test]
fn the_largest_document_fits() {
    let key = |at: usize| {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&at.to_be_bytes());
        SecretKey::from_seed(KeyNumber(at.to_be_bytes()), &seed).public()
    };
    let numbers = |first: usize, count: usize| {
        (first..first + count)
            .map(|at| KeyNumber(at.to_be_bytes()))
            .collect()
    };
    let role = |at: usize| RoleKeys {
        keys: numbers(at * ROLE_KEYS_MAX, ROLE_KEYS_MAX),
        ..RoleKeys::default()
    };
    let first = 3 * ROLE_KEYS_MAX;
    let mirror = |at: usize| {
        let id = MirrorId::new(&format!("{at:063}")).unwrap();
        (id, numbers(first + at * MIRROR_KEYS_MAX, MIRROR_KEYS_MAX))
    };
    let times = root().parts().clone();
    let all = first + ROSTER_MAX * MIRROR_KEYS_MAX;
    let full = Root::new(RootParts {
        version: RootVersion::new(u64::MAX).unwrap(),
        keys: (0..all).map(|at| (key(at).number(), key(at))).collect(),
        root: role(0),
        archive: role(1),
        consistency: role(2),
        mirrors: (0..ROSTER_MAX).map(mirror).collect(),
        ..times
    });
    let full = full.unwrap();
    let signed = SignedRoot::new(&full).unwrap();
    let size = signed.statement.len();
    assert!(REPORT_MAX_BYTES < size && size <= ROOT_MAX_BYTES, "{size}");
    assert_eq!(
        SignedRoot::decode(&signed.encode())
            .unwrap()
            .read()
            .unwrap(),
        full
    );
    assert!(matches!(
        statement::decode(&signed.statement),
        Err(DecodeError::TooLarge { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn signed_roots_come_back(root in roots(), signers in proptest::collection::btree_set(any::<u8>(), 0..6)) {
        let mut signed = SignedRoot::new(&root).unwrap();
        for seed in signers {
            signed.sign(&key(seed));
        }
        let read = SignedRoot::decode(&signed.encode()).unwrap();
        prop_assert_eq!(&read, &signed);
        prop_assert_eq!(read.digest(), signed.digest());
        prop_assert_eq!(read.read().unwrap(), root);
    }

    /// Both signatures are needed, so every bit is.
    #[test]
    fn one_flipped_bit_changes_no_document(at: prop::sample::Index, bit in 0..8_u8) {
        let trusted = signed(&root()).pin().unwrap();
        let mut bytes = signed(&next()).encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = SignedRoot::decode(&bytes) {
            prop_assert!(read.open_next(&trusted).is_err());
        }
    }

    #[test]
    fn truncated_roots_are_refused(cut: prop::sample::Index) {
        let bytes = signed(&root()).encode();
        let cut = &bytes[..cut.index(bytes.len())];
        prop_assert!(!SignedRoot::decode(cut).is_ok_and(|read| read.pin().is_ok()));
    }
}
