//! Which root document is in force, and which one may follow it.

use crate::id::MirrorId;
use crate::limits::CLOCK_SKEW_MS;
use crate::sign::{Signature, ThresholdError, TrustedKeys};
use crate::time::Timestamp;
use crate::trust::root::{Role, Root, RootVersion};

/// Why a root document was not taken. What was in force stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Too few root keys of the version in force have signed it.
    #[error("root keys of version {in_force}, which is in force, do not vouch for this document")]
    NotVouched {
        /// The version in force.
        in_force: RootVersion,
        /// Who has signed, and how many more must.
        #[source]
        source: ThresholdError,
    },
    /// Too few of its own root keys have signed it.
    #[error(
        "root document {version} is not signed by enough of the root keys that it names itself"
    )]
    NotSelfSigned {
        /// Its number.
        version: RootVersion,
        /// Who has signed, and how many more must.
        #[source]
        source: ThresholdError,
    },
    /// An older version.
    #[error(
        "root document {found} is older than {in_force}, which is in force: it is never taken again"
    )]
    Rollback {
        /// Its number.
        found: RootVersion,
        /// The version in force.
        in_force: RootVersion,
    },
    /// The very document that is in force.
    #[error("root document {0} is in force already: nothing is to be done")]
    InForce(RootVersion),
    /// Two documents of one number, both signed by enough keys.
    #[error(
        "root document {0} is not the {0} that is in force, and both are signed: \
         ask the holders of the root keys which is right, and pin that one"
    )]
    Fork(RootVersion),
    /// A version whose predecessor was not seen.
    #[error(
        "root document {found} does not follow {in_force}: every version between is needed, in order"
    )]
    Skipped {
        /// Its number.
        found: RootVersion,
        /// The version in force.
        in_force: RootVersion,
    },
}

/// The root document in force.
///
/// The message of a document is the bytes from which it was decoded; `wire` sees to that, and that they say that they
/// are a root document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted(Root);

impl Trusted {
    /// Takes the document that a person pinned. TUF 5.3 starts from one (5.2: it is shipped with the client); that it is
    /// whole is checked with its own keys.
    ///
    /// # Errors
    /// [`RootError::NotSelfSigned`].
    pub fn pin(root: Root, message: &[u8], signatures: &[Signature]) -> Result<Self, RootError> {
        check_own(&root, message, signatures)?;
        Ok(Self(root))
    }

    /// Takes the version that follows (TUF 5.3). Whether it has expired is asked only of the last one there is, with
    /// [`Trusted::is_expired`]; the caller persists what this returns before it uses it (5.3.8) and goes on with the
    /// next version (5.3.9).
    ///
    /// # Errors
    /// [`RootError`].
    pub fn update(
        &self,
        next: Root,
        message: &[u8],
        signatures: &[Signature],
    ) -> Result<Self, RootError> {
        // TUF 5.3.4 (1), arbitrary software: a threshold of the version in force has signed.
        self.check_vouched(message, signatures)?;
        // TUF 5.3.4 (2): so has a threshold of the new version, whose holders thereby show that they have their keys.
        check_own(&next, message, signatures)?;
        // TUF 5.3.5, rollback: exactly one more. An older one would bring back keys that were taken away; a skipped one
        // could hide that they were.
        self.check_version(&next)?;
        // TUF 5.3.6: its expiry does not matter yet. TUF 5.3.7: it is in force.
        Ok(Self(next))
    }

    /// Checks that enough root keys of the version in force have signed, before the message is decoded.
    ///
    /// # Errors
    /// [`RootError::NotVouched`].
    pub fn check_vouched(&self, message: &[u8], signatures: &[Signature]) -> Result<(), RootError> {
        let checked = self.keys(Role::Root).verify_all(message, signatures);
        checked.map_err(|source| RootError::NotVouched {
            in_force: self.version(),
            source,
        })
    }

    fn check_version(&self, next: &Root) -> Result<(), RootError> {
        let (found, in_force) = (next.version(), self.version());
        if found < in_force {
            Err(RootError::Rollback { found, in_force })
        } else if *next == self.0 {
            Err(RootError::InForce(found))
        } else if found == in_force {
            Err(RootError::Fork(found))
        } else if Some(found) != in_force.next() {
            Err(RootError::Skipped { found, in_force })
        } else {
            Ok(())
        }
    }

    /// True when the document no longer counts (TUF 5.3.10, freeze): asked of the newest version there is.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now.ms_since(self.0.parts().expires) > CLOCK_SKEW_MS
    }

    /// The document.
    pub fn root(&self) -> &Root {
        &self.0
    }

    /// Its number.
    pub fn version(&self) -> RootVersion {
        self.0.version()
    }

    /// Whom to believe in a role.
    pub fn keys(&self, role: Role) -> TrustedKeys {
        self.0.keys(role)
    }

    /// Whom to believe about a mirror; `None` for one that is not in the roster.
    pub fn mirror_keys(&self, mirror: &MirrorId) -> Option<TrustedKeys> {
        self.0.mirror_keys(mirror)
    }

    /// The roster.
    pub fn mirrors(&self) -> impl Iterator<Item = &MirrorId> {
        self.0.parts().mirrors.keys()
    }
}

fn check_own(root: &Root, message: &[u8], signatures: &[Signature]) -> Result<(), RootError> {
    let checked = root.keys(Role::Root).verify_all(message, signatures);
    checked.map_err(|source| RootError::NotSelfSigned {
        version: root.version(),
        source,
    })
}
