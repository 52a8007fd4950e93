//! Names of packages.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use super::version::{Version, VersionError};
use crate::limits::NAME_MAX_BYTES;

const ENDING: &str = ".tgz";
/// Longest name of a package, in bytes: with `.tgz` behind it, it is a file's name.
pub const PACKAGE_NAME_MAX_BYTES: usize = NAME_MAX_BYTES - ENDING.len();

/// Why a text names no package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackageNameError {
    /// No file could have the name.
    #[error("package name is longer than {PACKAGE_NAME_MAX_BYTES} bytes")]
    TooLong,
    /// A character that no package's name has, or a first one that is no letter or digit.
    #[error(
        "package name {0:?} is not a letter or digit followed by letters, digits and any of '._+~@-'"
    )]
    Character(String),
    /// There is no digit behind any dash.
    #[error("package name {0:?} has no version: no '-' with a digit behind it")]
    NoVersion(String),
    /// The version.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// An empty flavor, or one that looks like a version.
    #[error("package name {0:?} has an empty flavor, or one that begins with a digit")]
    Flavor(String),
}

/// A package's name, `stem-version[-flavor…]`, such as `py3-setuptools-69.1.0p0v0` or `vim-9.1.0-no_x11`.
///
/// The version begins at the first digit that follows a dash, and has no dash. Ordered by bytes; who wants
/// the newest compares [`PackageName::version`].
#[derive(Clone)]
pub struct PackageName {
    text: Box<str>,
    stem_bytes: usize,
    version: Version,
}

impl PackageName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`PackageNameError`] for what pkg_add would not take for a package, and for what is no plain file name.
    pub fn new(text: &str) -> Result<Self, PackageNameError> {
        if text.len() > PACKAGE_NAME_MAX_BYTES {
            return Err(PackageNameError::TooLong);
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._+~@-".contains(&b);
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.bytes().all(fits) {
            return Err(PackageNameError::Character(text.to_owned()));
        }
        let dashes = text.match_indices('-').map(|(at, _)| at);
        let is_version = |at: &usize| text[at + 1..].starts_with(|c: char| c.is_ascii_digit());
        let stem_bytes = dashes.into_iter().find(is_version);
        let stem_bytes = stem_bytes.ok_or_else(|| PackageNameError::NoVersion(text.to_owned()))?;
        let mut rest = text[stem_bytes + 1..].split('-');
        let version = Version::new(rest.next().unwrap_or_default())?;
        let is_flavor = |flavor: &str| !flavor.is_empty() && !flavor.as_bytes()[0].is_ascii_digit();
        if !rest.all(is_flavor) {
            return Err(PackageNameError::Flavor(text.to_owned()));
        }
        Ok(Self {
            text: text.into(),
            stem_bytes,
            version,
        })
    }

    /// The package that a file holds, by its name: `None` for what is no `NAME.tgz`.
    pub fn of_file(file_name: &[u8]) -> Option<Self> {
        let name = file_name.strip_suffix(ENDING.as_bytes())?;
        Self::new(std::str::from_utf8(name).ok()?).ok()
    }

    /// `NAME.tgz`.
    pub fn file_name(&self) -> String {
        format!("{}{ENDING}", self.text)
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the version.
    pub fn stem(&self) -> &str {
        &self.text[..self.stem_bytes]
    }

    /// The version.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// What stands behind the version.
    pub fn flavors(&self) -> impl Iterator<Item = &str> {
        self.text[self.stem_bytes + 1..].split('-').skip(1)
    }
}

impl FromStr for PackageName {
    type Err = PackageNameError;
    fn from_str(text: &str) -> Result<Self, PackageNameError> {
        Self::new(text)
    }
}

impl fmt::Display for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Borrow<str> for PackageName {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl PartialEq for PackageName {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PackageName {}

impl PartialOrd for PackageName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PackageName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl std::hash::Hash for PackageName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
