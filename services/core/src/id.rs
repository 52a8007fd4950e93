//! Names and numbers, one type each, so that two of them cannot be exchanged by mistake.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::limits::{ID_MAX_BYTES, MOUNT_MAX_BYTES, NAME_MAX_BYTES};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is no id.
    #[error("{what} {text:?} is not valid: use 1 to 63 of a-z, 0-9 and '-', not starting with '-'")]
    Malformed {
        /// Which kind of id was asked for.
        what: &'static str,
        /// What was given.
        text: String,
    },
    /// The text is no mount.
    #[error(
        "mount {0:?} is not valid: use an absolute path such as /debian, without '.', '..', '@' or a slash at the end"
    )]
    Mount(String),
    /// The text is no SHA-256 in hex.
    #[error("{0:?} is not a SHA-256 digest: 64 hex digits are needed")]
    Digest(String),
    /// The text is no build number.
    #[error("{0:?} is not a build number: a whole number from 1 on is needed")]
    Build(String),
}

fn check_id(what: &'static str, text: &str) -> Result<(), IdError> {
    let body = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let bytes = text.as_bytes();
    let fits = !bytes.is_empty() && bytes.len() <= ID_MAX_BYTES;
    if fits && bytes[0] != b'-' && bytes.iter().copied().all(body) {
        Ok(())
    } else {
        Err(IdError::Malformed {
            what,
            text: text.to_owned(),
        })
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks `text` against `[a-z0-9][a-z0-9-]{0,62}`.
            ///
            /// # Errors
            /// [`IdError::Malformed`] when it does not match.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check_id($what, text)?;
                Ok(Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// An independently versioned tree, for example `noble-security`.
    ChannelId,
    "channel"
);
text_id!(
    /// A mirror.
    MirrorId,
    "mirror id"
);
text_id!(
    /// A region of mirrors; starts with the country's code, for example `nz` or `us-west`.
    PoolId,
    "pool"
);

impl PoolId {
    /// The part before the first `-`: the country's code.
    pub fn country(&self) -> &str {
        self.0.split('-').next().unwrap_or(&self.0)
    }
}

/// URL prefix under which channels are served as one tree, for example `/ubuntu`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mount(Box<str>);

impl Mount {
    /// Checks that `text` is an absolute path of plain components without a slash at the end.
    ///
    /// # Errors
    /// [`IdError::Mount`] otherwise; names of mirrorlog's own (`@…`, `healthz`, `readyz`, `metrics`) are refused too.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let refused = || IdError::Mount(text.to_owned());
        let path = text.strip_prefix('/').ok_or_else(refused)?;
        let plain = |c: &str| {
            !c.is_empty()
                && c != "."
                && c != ".."
                && c.len() <= NAME_MAX_BYTES
                && !c.starts_with('@')
                && c.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.+~".contains(&b))
        };
        let reserved = ["healthz", "readyz", "metrics"].contains(&path);
        if text.len() > MOUNT_MAX_BYTES || reserved || !path.split('/').all(plain) {
            return Err(refused());
        }
        Ok(Self(text.into()))
    }

    /// The mount as text, with a slash in front and none at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Mount {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A snapshot's number in its channel, from 1 on; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Build(u64);

impl Build {
    /// The first build of a channel.
    pub const FIRST: Self = Self(1);

    /// Makes a build number; `None` for 0, which is no build.
    pub const fn new(number: u64) -> Option<Self> {
        if number == 0 {
            None
        } else {
            Some(Self(number))
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The build after this one; saturates.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl FromStr for Build {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let number = text.parse().ok().and_then(Self::new);
        number.ok_or_else(|| IdError::Build(text.to_owned()))
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An entry's position in its manifest, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordinal(pub u32);

/// A SHA-256 digest (FIPS 180-4): the name of a blob, a page or a statement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Takes 32 bytes that are a digest already.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Hashes `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(Sha256::digest(data).into())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest as 64 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        let mut text = [0; 64];
        // It fits. Each served file's name and tag come from here, and `hex::encode` goes character by character.
        hex::encode_to_slice(self.0, &mut text).ok();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 32];
        let decoded = hex::decode_to_slice(text, &mut bytes);
        decoded.map_err(|_| IdError::Digest(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex()[..12])
    }
}

/// Urgency of a publication: each lane has a subject, a consumer, a cursor and a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Overtakes everything.
    Priority,
    /// Everything else.
    Bulk,
}

impl Lane {
    /// Both lanes, the more urgent first.
    pub const ALL: [Self; 2] = [Self::Priority, Self::Bulk];

    /// The lane as it stands in subjects and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Priority => "priority",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
