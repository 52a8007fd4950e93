//! What a layout promises about its paths.

use std::fmt;
use std::str::FromStr;

use crate::path::EntryPath;

/// Shape of a channel's tree: which checks `publish` makes, and which paths never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// Any tree of files.
    Plain,
    /// `dists/` and `pool/`, as apt reads them.
    Debian,
    /// `SHA256`, `SHA256.sig`, `index.txt` and packages, as pkg_add reads them.
    OpenBsd,
}

impl Layout {
    /// The layout as it stands on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Debian => "debian",
            Self::OpenBsd => "openbsd",
        }
    }

    /// True when one name never gets other content, so that a removed path may still be served for the grace time.
    ///
    /// Debian: everything below `pool/`, and by-hash files. Plain trees promise nothing of the kind, nor does
    /// OpenBSD: snapshots rebuild a package under the name that it had, and a package of an older build would
    /// be one that SHA256 and index.txt of the live one do not know. Who wants one build throughout gives
    /// pkg_add that build's pinned URL.
    pub fn is_immutable(self, path: &EntryPath) -> bool {
        match self {
            Self::Plain | Self::OpenBsd => false,
            Self::Debian => {
                path.is_below(b"pool")
                    || path
                        .as_bytes()
                        .split(|&b| b == b'/')
                        .any(|part| part == b"by-hash")
            }
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no layout: use plain, debian or openbsd")]
pub struct LayoutError(pub String);

impl FromStr for Layout {
    type Err = LayoutError;
    fn from_str(text: &str) -> Result<Self, LayoutError> {
        match text {
            "plain" => Ok(Self::Plain),
            "debian" => Ok(Self::Debian),
            "openbsd" => Ok(Self::OpenBsd),
            other => Err(LayoutError(other.to_owned())),
        }
    }
}
