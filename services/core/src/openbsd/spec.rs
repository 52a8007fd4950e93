//! What a dependency asks for.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;

use super::name::PackageName;
use super::version::{Version, VersionError};

/// Longest spec, in bytes; stops one line from filling memory.
pub const SPEC_MAX_BYTES: usize = 4096;
/// Shell wildcards in a stem.
const WILDCARDS: [char; 2] = ['*', '?'];

/// Why a text is no spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// More than any port writes.
    #[error("package spec has {0} bytes, at most {SPEC_MAX_BYTES} are allowed")]
    TooLong(usize),
    /// A part between two `|` that is not `stem-versions[-flavors]`.
    #[error("package spec {0:?} is not a stem, '-', and '*' or versions such as '>=1.0,<2'")]
    Malformed(String),
    /// A version in it.
    #[error("package spec {spec:?}")]
    Version {
        /// The whole spec.
        spec: String,
        /// What is wrong with the version.
        #[source]
        source: VersionError,
    },
}

/// Which packages will do, as in packages-specs(7): alternatives with `|` between them, each
/// `stem-versions[-flavors]`.
///
/// Versions are `*`, or bounds with commas between them that all have to hold: `>=3.10,<3.11`. One without an
/// operator stands for `=`. A bound without a revision `pN` takes any. `2.4.*`, as older ports wrote it, is no version:
/// pkg_add finds nothing for it. Flavors are lists with commas between
/// them, of which one has to hold: `gtk3-lua,no_x11`, each flavor there, or with `!` not there.
#[derive(Clone, PartialEq, Eq)]
pub struct Spec {
    text: Box<str>,
    alternatives: Vec<Pattern>,
}

/// One alternative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    stem: Box<str>,
    versions: Vec<VersionBound>,
    /// Empty: any flavors will do.
    flavors: Vec<Vec<Flavor>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum VersionBound {
    Below(Version),
    AtMost(Version),
    Equal(Version),
    AtLeast(Version),
    Above(Version),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Flavor {
    There(Box<str>),
    Absent(Box<str>),
}

impl Spec {
    /// Parses a spec.
    ///
    /// # Errors
    /// [`SpecError`] for what no package can match, because pkg_add does not understand it.
    pub fn new(text: &str) -> Result<Self, SpecError> {
        if text.len() > SPEC_MAX_BYTES {
            return Err(SpecError::TooLong(text.len()));
        }
        let parse = |part| Pattern::new(text, part);
        Ok(Self {
            alternatives: text.split('|').map(parse).collect::<Result<_, _>>()?,
            text: text.into(),
        })
    }

    /// The spec as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True when the package will do.
    pub fn matches(&self, name: &PackageName) -> bool {
        self.alternatives.iter().any(|one| one.matches(name))
    }

    pub(super) fn alternatives(&self) -> std::slice::Iter<'_, Pattern> {
        self.alternatives.iter()
    }
}

impl Pattern {
    fn new(spec: &str, text: &str) -> Result<Self, SpecError> {
        let malformed = || SpecError::Malformed(spec.to_owned());
        let is_version = |at: &usize| {
            let rest = &text[at + 1..];
            rest.starts_with('*') || operator(rest).1.starts_with(|c: char| c.is_ascii_digit())
        };
        let mut dashes = text.match_indices('-').map(|(at, _)| at);
        let dash = dashes.find(is_version).ok_or_else(malformed)?;
        let (stem, rest) = (&text[..dash], &text[dash + 1..]);
        let (versions, flavors) = match rest.split_once('-') {
            Some((versions, flavors)) => (versions, Some(flavors)),
            None => (rest, None),
        };
        let in_stem = |b: u8| b.is_ascii_alphanumeric() || b"._+~@-*?".contains(&b);
        if stem.is_empty() || !stem.bytes().all(in_stem) {
            return Err(malformed());
        }
        let versions = match versions {
            "*" => Vec::new(),
            bounds => bounds
                .split(',')
                .map(VersionBound::new)
                .collect::<Result<_, _>>()
                .map_err(|source| SpecError::Version {
                    spec: spec.to_owned(),
                    source,
                })?,
        };
        let lists = flavors.into_iter().flat_map(|flavors| flavors.split(','));
        let flavors = lists.map(|list| list.split('-').map(Flavor::new).collect::<Option<_>>());
        Ok(Self {
            stem: stem.into(),
            versions,
            flavors: flavors.collect::<Option<_>>().ok_or_else(malformed)?,
        })
    }

    /// Those of `names` that will do. Only names that begin as the stem does are looked at.
    pub(super) fn among<'n>(
        &self,
        names: &'n BTreeSet<PackageName>,
    ) -> impl Iterator<Item = &'n PackageName> {
        let plain = self.stem.split(WILDCARDS).next().unwrap_or_default();
        let from: (Bound<&str>, Bound<&str>) = (Bound::Included(plain), Bound::Unbounded);
        names
            .range::<str, _>(from)
            .take_while(move |name| name.as_str().starts_with(plain))
            .filter(|name| self.matches(name))
    }

    fn matches(&self, name: &PackageName) -> bool {
        let has = |flavor: &Flavor| match flavor {
            Flavor::There(wanted) => name.flavors().any(|flavor| *flavor == **wanted),
            Flavor::Absent(unwanted) => name.flavors().all(|flavor| *flavor != **unwanted),
        };
        is_like(&self.stem, name.stem())
            && self
                .versions
                .iter()
                .all(|bound| bound.holds(name.version()))
            && (self.flavors.is_empty() || self.flavors.iter().any(|list| list.iter().all(has)))
    }
}

impl VersionBound {
    fn new(text: &str) -> Result<Self, VersionError> {
        let (operator, rest) = operator(text);
        let version = Version::new(rest)?;
        Ok(match operator {
            "<" => Self::Below(version),
            "<=" => Self::AtMost(version),
            ">=" => Self::AtLeast(version),
            ">" => Self::Above(version),
            _equal => Self::Equal(version),
        })
    }

    fn holds(&self, version: &Version) -> bool {
        match self {
            Self::Below(bound) => bound.cmp_as_bound(version) == Ordering::Greater,
            Self::AtMost(bound) => bound.cmp_as_bound(version) != Ordering::Less,
            Self::Equal(bound) => bound.cmp_as_bound(version) == Ordering::Equal,
            Self::AtLeast(bound) => bound.cmp_as_bound(version) != Ordering::Greater,
            Self::Above(bound) => bound.cmp_as_bound(version) == Ordering::Less,
        }
    }
}

impl Flavor {
    fn new(text: &str) -> Option<Self> {
        let (name, kind): (&str, fn(Box<str>) -> Self) = match text.strip_prefix('!') {
            Some(name) => (name, Self::Absent),
            None => (text, Self::There),
        };
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._+~@".contains(&b);
        (!name.is_empty() && name.bytes().all(fits)).then(|| kind(name.into()))
    }
}

/// The operator before a version, which may be none, and what follows it.
fn operator(text: &str) -> (&str, &str) {
    let found = ["<=", ">=", "<", ">", "="]
        .into_iter()
        .find(|operator| text.starts_with(operator));
    text.split_at(found.map_or(0, str::len))
}

/// Matches `*` and `?` as a shell does; linear in the text for each `*`, whatever the pattern.
fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&b) if b == b'?' || b == text[t] => {
                p += 1;
                t += 1;
            }
            Some(_) | None => match star {
                // The last star takes one more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}
