//! Who is trusted for what.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::limits::{MIRROR_KEYS_MAX, ROLE_KEYS_MAX, ROSTER_MAX};
use mirrorlog_core::sign::{KeyNumber, PublicKey, Threshold};
use mirrorlog_core::trust::{Role, RoleKeys, Root, RootParts, RootVersion};

use crate::error::{DecodeError, FieldError};
use crate::field;
use crate::signify;
use crate::v1;
use crate::v1::root;

/// Every role and every mirror with all the keys that it may have.
const KEYS_MAX: usize = Role::ALL.len() * ROLE_KEYS_MAX + ROSTER_MAX * MIRROR_KEYS_MAX;

pub(super) fn to_proto(root: &Root) -> v1::Root {
    let parts = root.parts();
    let key = |key| Bytes::copy_from_slice(&signify::public_to_bytes(key));
    let role = |role: &RoleKeys| root::Role {
        threshold: role.threshold.get(),
        keys: numbers_to_proto(&role.keys),
    };
    let mirror = |(mirror, keys): (&MirrorId, _)| root::Mirror {
        mirror: mirror.to_string(),
        keys: numbers_to_proto(keys),
    };
    v1::Root {
        version: parts.version.get(),
        issued_ms: parts.issued.as_ms(),
        expires_ms: parts.expires.as_ms(),
        keys: parts.keys.values().map(key).collect(),
        root: Some(role(&parts.root)),
        archive: Some(role(&parts.archive)),
        consistency: Some(role(&parts.consistency)),
        mirrors: parts.mirrors.iter().map(mirror).collect(),
    }
}

pub(super) fn from_proto(proto: v1::Root) -> Result<Root, DecodeError> {
    let version = RootVersion::new(proto.version);
    let parts = RootParts {
        version: version.ok_or_else(|| DecodeError::field("root.version", FieldError::Zero))?,
        issued: field::time("root.issued_ms", proto.issued_ms)?,
        expires: field::time("root.expires_ms", proto.expires_ms)?,
        keys: keys(&proto.keys)?,
        root: role("root.root", proto.root)?,
        archive: role("root.archive", proto.archive)?,
        consistency: role("root.consistency", proto.consistency)?,
        mirrors: mirrors(&proto.mirrors)?,
    };
    Root::new(parts).map_err(|fault| DecodeError::field("root", fault))
}

fn keys(keys: &[Bytes]) -> Result<BTreeMap<KeyNumber, PublicKey>, DecodeError> {
    field::check_count("root.keys", keys.len(), KEYS_MAX)?;
    let read = |bytes: &Bytes| {
        let key = signify::public_from_bytes(bytes);
        key.map_err(|source| DecodeError::field("root.keys", source))
    };
    let keys = keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let sorted = keys.is_sorted_by(|a, b| a.number() < b.number());
    field::check_order("root.keys", sorted, "not sorted, or a number comes twice")?;
    Ok(keys.into_iter().map(|key| (key.number(), key)).collect())
}

fn role(field: &'static str, proto: Option<root::Role>) -> Result<RoleKeys, DecodeError> {
    let proto = proto.ok_or_else(|| DecodeError::field(field, FieldError::Missing))?;
    let threshold = Threshold::new(proto.threshold);
    Ok(RoleKeys {
        keys: numbers(field, &proto.keys, ROLE_KEYS_MAX)?,
        threshold: threshold.ok_or_else(|| DecodeError::field(field, FieldError::Threshold))?,
    })
}

fn mirrors(
    mirrors: &[root::Mirror],
) -> Result<BTreeMap<MirrorId, BTreeSet<KeyNumber>>, DecodeError> {
    field::check_count("root.mirrors", mirrors.len(), ROSTER_MAX)?;
    let sorted = mirrors.is_sorted_by(|a, b| a.mirror < b.mirror);
    field::check_order(
        "root.mirrors",
        sorted,
        "not sorted, or a mirror comes twice",
    )?;
    let read = |proto: &root::Mirror| {
        let mirror = field::mirror("root.mirrors.mirror", &proto.mirror)?;
        let keys = numbers("root.mirrors.keys", &proto.keys, MIRROR_KEYS_MAX)?;
        Ok((mirror, keys))
    };
    mirrors.iter().map(read).collect()
}

fn numbers_to_proto(numbers: &BTreeSet<KeyNumber>) -> Vec<Bytes> {
    let number = |number: &KeyNumber| Bytes::copy_from_slice(&number.0);
    numbers.iter().map(number).collect()
}

fn numbers(
    field: &'static str,
    numbers: &[Bytes],
    max: usize,
) -> Result<BTreeSet<KeyNumber>, DecodeError> {
    field::check_count(field, numbers.len(), max)?;
    let read = |bytes: &Bytes| {
        let exact = <[u8; 8]>::try_from(&bytes[..]).map(KeyNumber);
        exact.map_err(|_| {
            let found = bytes.len();
            DecodeError::field(field, FieldError::Size { expected: 8, found })
        })
    };
    let numbers = numbers.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let sorted = numbers.is_sorted_by(|a, b| a < b);
    field::check_order(field, sorted, "not sorted, or a number comes twice")?;
    Ok(numbers.into_iter().collect())
}
