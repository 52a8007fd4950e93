//! Why a tree is refused: every fault with its path, what was expected and what was found.

use std::fmt;

/// Most faults that are kept; the rest is only counted.
pub const FAULTS_MAX: usize = 10_000;

/// Which rule a path breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(into = "&'static str")]
pub enum Rule {
    /// The path itself cannot be in a manifest.
    Path,
    /// A device, socket or pipe.
    SpecialFile,
    /// A symlink that leads out of the tree.
    Symlink,
    /// It cannot be read.
    Unreadable,
    /// It changed while it was read.
    Changed,
    /// It is named and not there.
    Missing,
    /// Its size is another than stated.
    Size,
    /// Its digest is another than stated.
    Digest,
    /// It cannot be parsed.
    Malformed,
    /// Its time has not come.
    Early,
    /// Its time is over.
    Expired,
    /// Its signature does not verify.
    Signature,
    /// Two files that must say the same do not.
    Disagree,
    /// A file and a folder of the same name.
    Conflict,
    /// Another channel of the mount has other content there.
    Shared,
    /// Content that was retracted.
    Retracted,
    /// A dependency that no package meets.
    Dependency,
}

impl Rule {
    /// The rule's name for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::SpecialFile => "special-file",
            Self::Symlink => "symlink",
            Self::Unreadable => "unreadable",
            Self::Changed => "changed-while-read",
            Self::Missing => "missing",
            Self::Size => "size",
            Self::Digest => "digest",
            Self::Malformed => "malformed",
            Self::Early => "not-yet-valid",
            Self::Expired => "expired",
            Self::Signature => "signature",
            Self::Disagree => "disagree",
            Self::Conflict => "conflict",
            Self::Shared => "shared-path",
            Self::Retracted => "retracted",
            Self::Dependency => "dependency",
        }
    }
}

impl Rule {
    /// All of them.
    const ALL: [Self; 17] = [
        Self::Path,
        Self::SpecialFile,
        Self::Symlink,
        Self::Unreadable,
        Self::Changed,
        Self::Missing,
        Self::Size,
        Self::Digest,
        Self::Malformed,
        Self::Early,
        Self::Expired,
        Self::Signature,
        Self::Disagree,
        Self::Conflict,
        Self::Shared,
        Self::Retracted,
        Self::Dependency,
    ];

    /// The rule of a name; one that is not known here is as good as a malformed file.
    pub(crate) fn named(name: &str) -> Self {
        let known = Self::ALL.into_iter().find(|rule| rule.as_str() == name);
        known.unwrap_or(Self::Malformed)
    }
}

impl From<Rule> for &'static str {
    fn from(rule: Rule) -> Self {
        rule.as_str()
    }
}

/// One reason to refuse a tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Fault {
    /// Where, relative to the tree; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// Which rule it breaks.
    pub what: Rule,
    /// What the rule asks for.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Fault {
    /// Makes a fault.
    pub fn new(
        path: &[u8],
        what: Rule,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            path: String::from_utf8_lossy(path).into_owned(),
            what,
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A path that changed under the reader.
    pub(crate) fn changed(path: &[u8], found: impl Into<String>) -> Self {
        Self::new(
            path,
            Rule::Changed,
            "a tree that stays as it is while it is read",
            found,
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            what,
            expected,
            found,
        } = self;
        write!(
            f,
            "{path}: {}: expected {expected}, found {found}",
            what.as_str()
        )
    }
}

/// Faults of one tree, bounded by [`FAULTS_MAX`]; in JSON a list.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(into = "Vec<Fault>")]
pub struct Faults {
    list: Vec<Fault>,
    count: u64,
}

impl Faults {
    /// Adds one; beyond the bound it is only counted.
    pub fn push(&mut self, fault: Fault) {
        self.count += 1;
        if self.list.len() < FAULTS_MAX {
            self.list.push(fault);
        }
    }

    /// Adds what others found.
    pub fn append(&mut self, other: Self) {
        let uncounted = other.count - other.list.len() as u64;
        for fault in other.list {
            self.push(fault);
        }
        self.count += uncounted;
    }

    /// There are so many, as somebody says who has kept only some.
    pub(crate) fn counted(&mut self, count: u64) {
        self.count = self.count.max(count);
    }

    /// Those that were kept, in the order in which they were found.
    pub fn list(&self) -> &[Fault] {
        &self.list
    }

    /// The same, one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.list.iter()
    }

    /// How many there are, those that were not kept included.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// True when the tree is good so far.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl From<Faults> for Vec<Fault> {
    fn from(faults: Faults) -> Self {
        faults.list
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
