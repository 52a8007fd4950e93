//! One version of the root document.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::id::MirrorId;
use crate::limits::{MIRROR_KEYS_MAX, ROLE_KEYS_MAX, ROSTER_MAX};
use crate::sign::{KeyNumber, PublicKey, Threshold, TrustedKeys};
use crate::time::Timestamp;

/// What keys may be trusted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The next version of the root document.
    Root,
    /// Snapshots, heads, retractions and orders.
    Archive,
    /// Verdicts.
    Consistency,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Root, Self::Archive, Self::Consistency];

    /// The role's name in messages and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Archive => "archive",
            Self::Consistency => "consistency",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: use root, archive or consistency")]
pub struct NoRole(String);

impl FromStr for Role {
    type Err = NoRole;
    fn from_str(text: &str) -> Result<Self, NoRole> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| NoRole(text.to_owned()))
    }
}

/// A root document's number, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootVersion(u64);

impl RootVersion {
    /// The first.
    pub const FIRST: Self = Self(1);

    /// Takes a number; `None` for 0.
    pub const fn new(number: u64) -> Option<Self> {
        match number {
            0 => None,
            number => Some(Self(number)),
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The version after this one; `None` after the last there can be.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl fmt::Display for RootVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The keys of a role, and how many of them must sign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleKeys {
    /// Their numbers.
    pub keys: BTreeSet<KeyNumber>,
    /// How many.
    pub threshold: Threshold,
}

/// What a root document says, unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootParts {
    /// Its number.
    pub version: RootVersion,
    /// When it was made.
    pub issued: Timestamp,
    /// From then on it no longer counts.
    pub expires: Timestamp,
    /// Every key that it names.
    pub keys: BTreeMap<KeyNumber, PublicKey>,
    /// Who may make the next version.
    pub root: RoleKeys,
    /// Who speaks for the archive.
    pub archive: RoleKeys,
    /// Who speaks for the consistency service.
    pub consistency: RoleKeys,
    /// The roster: whose reports count.
    pub mirrors: BTreeMap<MirrorId, BTreeSet<KeyNumber>>,
}

impl RootParts {
    /// The keys of `role`.
    pub fn role(&self, role: Role) -> &RoleKeys {
        match role {
            Role::Root => &self.root,
            Role::Archive => &self.archive,
            Role::Consistency => &self.consistency,
        }
    }

    pub(super) fn role_mut(&mut self, role: Role) -> &mut RoleKeys {
        match role {
            Role::Root => &mut self.root,
            Role::Archive => &mut self.archive,
            Role::Consistency => &mut self.consistency,
        }
    }

    /// Every number that a role or the roster names.
    pub(super) fn named(&self) -> BTreeSet<KeyNumber> {
        let roles = Role::ALL.into_iter().flat_map(|role| &self.role(role).keys);
        roles
            .chain(self.mirrors.values().flatten())
            .copied()
            .collect()
    }
}

/// Why something is no root document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootFault {
    /// The two times are the wrong way round.
    #[error("it expires before it was issued")]
    Times,
    /// A number without a key.
    #[error("{user} names key {number}, whose public key is not in the document")]
    Unlisted {
        /// Who names it.
        user: String,
        /// The number.
        number: KeyNumber,
    },
    /// A key that does nothing.
    #[error("key {0} is in no role and belongs to no mirror: leave it out")]
    Unused(KeyNumber),
    /// A key that is listed under a number that is not its own.
    #[error("key {key} is listed as {listed}")]
    Number {
        /// Its own number.
        key: KeyNumber,
        /// Where it is listed.
        listed: KeyNumber,
    },
    /// One key that would count as two.
    #[error("{0} and {1} are one key under two numbers: list it once")]
    Twice(KeyNumber, KeyNumber),
    /// Two keys that cannot be told apart.
    #[error("another key already has the number {0}: make a new key")]
    Taken(KeyNumber),
    /// Fewer keys than must sign.
    #[error(
        "role {role} needs {threshold} or more keys, not {keys}: \
         add a key in the same step, or lower the threshold"
    )]
    Threshold {
        /// The role.
        role: Role,
        /// Its keys.
        keys: usize,
        /// How many must sign.
        threshold: Threshold,
    },
    /// A threshold where statements carry one signature.
    #[error(
        "role {role} cannot have a threshold of {threshold}: \
         each of its statements carries one signature, so it must be 1"
    )]
    OneSignature {
        /// The role.
        role: Role,
        /// What was asked.
        threshold: Threshold,
    },
    /// Too many keys.
    #[error("{user} has {found} keys, at most {max} are allowed")]
    TooManyKeys {
        /// Whose.
        user: String,
        /// How many.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// Too many mirrors.
    #[error("{found} mirrors, at most {ROSTER_MAX} are allowed")]
    TooManyMirrors {
        /// How many.
        found: usize,
    },
    /// A mirror without a key.
    #[error("mirror {0} has no key: give it one, or drop it")]
    NoKey(MirrorId),
    /// A root key that is also used where machines hold it.
    #[error("root key {number} is also a key of {user}: root keys do nothing else")]
    RootElsewhere {
        /// The key.
        number: KeyNumber,
        /// Who else has it.
        user: String,
    },
    /// A mirror's key that would speak for others.
    #[error("key {number} of mirror {mirror} is also in role {role}: a mirror's key has no role")]
    MirrorInRole {
        /// The mirror.
        mirror: MirrorId,
        /// The key.
        number: KeyNumber,
        /// The role.
        role: Role,
    },
    /// A change to something that is not there.
    #[error("{user} has no key {number}")]
    NoSuchKey {
        /// Whose it should be.
        user: String,
        /// The number.
        number: KeyNumber,
    },
    /// A mirror that is not in the roster.
    #[error("mirror {0} is not in the roster")]
    NoSuchMirror(MirrorId),
    /// The last number is used up.
    #[error("there is no version after {0}")]
    Last(RootVersion),
}

/// A version of the root document: well-formed, not yet trusted. See [`super::Trusted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(RootParts);

impl Root {
    /// Checks what a root document says.
    ///
    /// # Errors
    /// The first [`RootFault`].
    pub fn new(parts: RootParts) -> Result<Self, RootFault> {
        if parts.expires < parts.issued {
            return Err(RootFault::Times);
        }
        check_sizes(&parts)?;
        check_keys(&parts)?;
        for role in Role::ALL {
            check_threshold(role, parts.role(role))?;
        }
        check_root_apart(&parts)?;
        check_mirrors_apart(&parts)?;
        Ok(Self(parts))
    }

    /// What it says.
    pub fn parts(&self) -> &RootParts {
        &self.0
    }

    /// Its number.
    pub fn version(&self) -> RootVersion {
        self.0.version
    }

    /// The keys of a role, with its threshold.
    pub fn keys(&self, role: Role) -> TrustedKeys {
        let role = self.0.role(role);
        TrustedKeys::with_threshold(self.listed(&role.keys), role.threshold)
    }

    /// The keys of a mirror, any one of which may sign; `None` for a mirror that is not in the roster.
    pub fn mirror_keys(&self, mirror: &MirrorId) -> Option<TrustedKeys> {
        let keys = self.0.mirrors.get(mirror)?;
        Some(TrustedKeys::new(self.listed(keys)))
    }

    fn listed(&self, numbers: &BTreeSet<KeyNumber>) -> impl Iterator<Item = PublicKey> {
        let keys = numbers.iter().filter_map(|number| self.0.keys.get(number));
        keys.copied()
    }
}

fn check_sizes(parts: &RootParts) -> Result<(), RootFault> {
    for role in Role::ALL {
        check_count(
            || format!("role {role}"),
            parts.role(role).keys.len(),
            ROLE_KEYS_MAX,
        )?;
    }
    if parts.mirrors.len() > ROSTER_MAX {
        let found = parts.mirrors.len();
        return Err(RootFault::TooManyMirrors { found });
    }
    for (mirror, keys) in &parts.mirrors {
        check_count(|| format!("mirror {mirror}"), keys.len(), MIRROR_KEYS_MAX)?;
        if keys.is_empty() {
            return Err(RootFault::NoKey(mirror.clone()));
        }
    }
    Ok(())
}

fn check_count(user: impl Fn() -> String, found: usize, max: usize) -> Result<(), RootFault> {
    if found > max {
        let user = user();
        return Err(RootFault::TooManyKeys { user, found, max });
    }
    Ok(())
}

/// Every number has its key, every key its own number and a use, and no key has two numbers.
fn check_keys(parts: &RootParts) -> Result<(), RootFault> {
    let mut by_bytes = BTreeMap::new();
    for (&listed, key) in &parts.keys {
        if key.number() != listed {
            let key = key.number();
            return Err(RootFault::Number { key, listed });
        }
        if let Some(first) = by_bytes.insert(key.as_bytes(), listed) {
            return Err(RootFault::Twice(first, listed));
        }
    }
    let roles = Role::ALL.map(|role| (format!("role {role}"), &parts.role(role).keys));
    let mirrors = parts.mirrors.iter();
    let mirrors = mirrors.map(|(mirror, keys)| (format!("mirror {mirror}"), keys));
    for (user, numbers) in roles.into_iter().chain(mirrors) {
        if let Some(&number) = numbers.iter().find(|key| !parts.keys.contains_key(key)) {
            return Err(RootFault::Unlisted { user, number });
        }
    }
    let named = parts.named();
    match parts.keys.keys().find(|number| !named.contains(number)) {
        Some(number) => Err(RootFault::Unused(*number)),
        None => Ok(()),
    }
}

fn check_threshold(role: Role, keys: &RoleKeys) -> Result<(), RootFault> {
    let threshold = keys.threshold;
    let many = match role {
        Role::Root => false,
        Role::Archive | Role::Consistency => threshold > Threshold::ONE,
    };
    if many {
        return Err(RootFault::OneSignature { role, threshold });
    }
    let keys = keys.keys.len();
    if !threshold.is_met_by(keys) {
        return Err(RootFault::Threshold {
            role,
            keys,
            threshold,
        });
    }
    Ok(())
}

/// Root keys lie offline; a key that also signs builds or reports lies in a machine that others reach.
fn check_root_apart(parts: &RootParts) -> Result<(), RootFault> {
    for role in [Role::Archive, Role::Consistency] {
        let mut shared = parts.root.keys.intersection(&parts.role(role).keys);
        if let Some(&number) = shared.next() {
            let user = format!("role {role}");
            return Err(RootFault::RootElsewhere { number, user });
        }
    }
    for (mirror, keys) in &parts.mirrors {
        if let Some(&number) = keys.iter().find(|key| parts.root.keys.contains(key)) {
            let user = format!("mirror {mirror}");
            return Err(RootFault::RootElsewhere { number, user });
        }
    }
    Ok(())
}

fn check_mirrors_apart(parts: &RootParts) -> Result<(), RootFault> {
    for (mirror, keys) in &parts.mirrors {
        for role in [Role::Archive, Role::Consistency] {
            if let Some(&number) = keys.iter().find(|key| parts.role(role).keys.contains(key)) {
                let mirror = mirror.clone();
                return Err(RootFault::MirrorInRole {
                    mirror,
                    number,
                    role,
                });
            }
        }
    }
    Ok(())
}
