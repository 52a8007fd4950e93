//! Versions of packages, and which of two is newer.

use std::cmp::Ordering;

/// Why a text is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("version {0:?} is not a digit followed by digits, letters and any of '._+~@'")]
pub struct VersionError(pub String);

/// A version such as `9.1.0`, `2.0rc1`, `1.2.3ap4` or `69.1.0p0v0`: dotted parts, perhaps a suffix, then the
/// port's own revision `pN` and the style of numbering `vN`.
///
/// Ordered by age: style, parts, suffix (alpha, beta, pre, rc, none, pl), revision. Parts go by their number,
/// then by the letters behind it. Two versions are equal when neither is newer, whatever their texts
/// (`1.01` and `1.1`). pkg_add orders no pre against an rc; here pre is the older one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    style: Option<u64>,
    parts: Vec<Part>,
    suffix: Suffix,
    revision: Option<u64>,
}

/// What stands between dots. One without a number is newer than any number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Number(u64, Box<str>),
    Text(Box<str>),
}

/// What ends the last part, from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Suffix {
    Alpha(u64),
    Beta(u64),
    Pre(u64),
    Rc(u64),
    None,
    Pl(u64),
}

/// Makes a suffix of the number behind its word.
type Kind = fn(u64) -> Suffix;

impl Version {
    /// Parses a version.
    ///
    /// # Errors
    /// [`VersionError`] when it does not begin with a digit, or has a character that no version has.
    pub fn new(text: &str) -> Result<Self, VersionError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._+~@".contains(&b);
        if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.bytes().all(fits) {
            return Err(VersionError(text.to_owned()));
        }
        let (text, style) = split_number(text, "v");
        let (text, revision) = split_number(text, "p");
        let mut parts: Vec<Part> = text.split('.').map(Part::new).collect();
        let suffix = parts.last_mut().map_or(Suffix::None, Part::take_suffix);
        Ok(Self {
            style,
            parts,
            suffix,
            revision,
        })
    }

    /// How a bound of a spec compares to a version: the revision counts only when the bound has one.
    pub(super) fn cmp_as_bound(&self, version: &Self) -> Ordering {
        let order = self.unrevised().cmp(&version.unrevised());
        match self.revision {
            None => order,
            Some(_) => order.then(self.revision.cmp(&version.revision)),
        }
    }

    fn unrevised(&self) -> (Option<u64>, &[Part], Suffix) {
        (self.style, &self.parts, self.suffix)
    }

    /// True when this one's parts are the first ones of `version`, as `2.4` are those of `2.4.6`.
    pub(super) fn begins(&self, version: &Self) -> bool {
        self.style == version.style && version.parts.starts_with(&self.parts)
    }
}

impl Part {
    fn new(text: &str) -> Self {
        let (digits, rest) = split_digits(text);
        match number(digits) {
            Some(number) => Self::Number(number, rest.into()),
            None => Self::Text(text.into()),
        }
    }

    /// Cuts `rc1` and the like off.
    fn take_suffix(&mut self) -> Suffix {
        let Self::Number(_, rest) = self else {
            return Suffix::None;
        };
        let kinds: [(&str, Kind); 5] = [
            ("alpha", Suffix::Alpha),
            ("beta", Suffix::Beta),
            ("pre", Suffix::Pre),
            ("rc", Suffix::Rc),
            ("pl", Suffix::Pl),
        ];
        for (word, kind) in kinds {
            if let Some(digits) = rest.strip_prefix(word)
                && digits.bytes().all(|b| b.is_ascii_digit())
            {
                let suffix = kind(number(digits).unwrap_or(0));
                *rest = "".into();
                return suffix;
            }
        }
        Suffix::None
    }
}

/// Cuts a letter and the number behind it off the end.
fn split_number<'t>(text: &'t str, letter: &str) -> (&'t str, Option<u64>) {
    let head = text.trim_end_matches(|c: char| c.is_ascii_digit());
    match head.strip_suffix(letter) {
        Some(before) if head.len() < text.len() => (before, number(&text[head.len()..])),
        Some(_) | None => (text, None),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// The number that digits say; those beyond 2^64 are all the same one. `None` without digits.
fn number(digits: &str) -> Option<u64> {
    let add = |n: u64, b: u8| n.saturating_mul(10).saturating_add(u64::from(b - b'0'));
    (!digits.is_empty()).then(|| digits.bytes().fold(0, add))
}
