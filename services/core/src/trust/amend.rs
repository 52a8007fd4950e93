//! How the following version of a root document is made.

use super::root::{Role, Root, RootFault, RootParts};
use crate::id::MirrorId;
use crate::sign::{KeyNumber, PublicKey, Threshold};
use crate::time::Timestamp;

/// One change to a root document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amendment {
    /// Trusts a key for a role.
    Add {
        /// The role.
        role: Role,
        /// The key.
        key: PublicKey,
    },
    /// Takes a key from a role.
    Remove {
        /// The role.
        role: Role,
        /// The key's number.
        number: KeyNumber,
    },
    /// Changes how many keys of a role must sign.
    Threshold {
        /// The role.
        role: Role,
        /// How many.
        threshold: Threshold,
    },
    /// Puts a mirror into the roster, or gives it one more key.
    Mirror {
        /// The mirror.
        mirror: MirrorId,
        /// The key.
        key: PublicKey,
    },
    /// Takes a mirror out of the roster, with all its keys.
    DropMirror(MirrorId),
    /// Takes a key out of everything. A mirror whose only key it was leaves the roster.
    Revoke(KeyNumber),
}

impl Root {
    /// Makes the version that follows this one, with all `amendments`. They are checked together, so a step may take the
    /// last key of a role when it also adds one.
    ///
    /// # Errors
    /// The first [`RootFault`]; nothing is changed then.
    pub fn amended(
        &self,
        amendments: &[Amendment],
        issued: Timestamp,
        expires: Timestamp,
    ) -> Result<Self, RootFault> {
        let mut parts = self.parts().clone();
        let last = parts.version;
        parts.version = last.next().ok_or(RootFault::Last(last))?;
        (parts.issued, parts.expires) = (issued, expires);
        for amendment in amendments {
            amend(&mut parts, amendment)?;
        }
        let named = parts.named();
        parts.keys.retain(|number, _| named.contains(number));
        Self::new(parts)
    }
}

fn amend(parts: &mut RootParts, amendment: &Amendment) -> Result<(), RootFault> {
    match amendment {
        Amendment::Add { role, key } => {
            list(parts, *key)?;
            parts.role_mut(*role).keys.insert(key.number());
        }
        Amendment::Remove { role, number } => {
            if !parts.role_mut(*role).keys.remove(number) {
                let user = format!("role {role}");
                return Err(RootFault::NoSuchKey {
                    user,
                    number: *number,
                });
            }
        }
        Amendment::Threshold { role, threshold } => parts.role_mut(*role).threshold = *threshold,
        Amendment::Mirror { mirror, key } => {
            list(parts, *key)?;
            let keys = parts.mirrors.entry(mirror.clone()).or_default();
            keys.insert(key.number());
        }
        Amendment::DropMirror(mirror) => {
            if parts.mirrors.remove(mirror).is_none() {
                return Err(RootFault::NoSuchMirror(mirror.clone()));
            }
        }
        Amendment::Revoke(number) => revoke(parts, *number)?,
    }
    Ok(())
}

/// Lists a key. The number of another key is refused: signatures name keys by number.
fn list(parts: &mut RootParts, key: PublicKey) -> Result<(), RootFault> {
    let listed = parts.keys.entry(key.number()).or_insert(key);
    if *listed == key {
        Ok(())
    } else {
        Err(RootFault::Taken(key.number()))
    }
}

fn revoke(parts: &mut RootParts, number: KeyNumber) -> Result<(), RootFault> {
    if parts.keys.remove(&number).is_none() {
        let user = "the document".to_owned();
        return Err(RootFault::NoSuchKey { user, number });
    }
    for role in Role::ALL {
        parts.role_mut(role).keys.remove(&number);
    }
    parts
        .mirrors
        .retain(|_, keys| !keys.remove(&number) || !keys.is_empty());
    Ok(())
}
