//! Versions of packages, and which of two is newer.

use std::cmp::Ordering;

/// Why a text is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("version {0:?} is not a digit followed by digits, letters and any of '._+~@'")]
pub struct VersionError(pub String);

/// A version such as `9.1.0`, `2.0rc1`, `1.2.3ap4` or `69.1.0p0v0`: dotted parts, perhaps a suffix, then the
/// port's own revision `pN` and the style of numbering `vN`.
///
/// Not `Ord`: pkg_add's order, which [`Version::compare`] keeps, is none. Two versions with other texts may be as new
/// as each other, and three may go round in a circle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    style: Option<u64>,
    parts: Vec<Box<str>>,
    suffix: Suffix,
    revision: Option<u64>,
}

/// What ends the last part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
        let mut parts: Vec<Box<str>> = text
            .trim_end_matches('.')
            .split('.')
            .map(Into::into)
            .collect();
        let suffix = parts.last_mut().map_or(Suffix::None, take_suffix);
        Ok(Self {
            style,
            parts,
            suffix,
            revision,
        })
    }

    /// Which is newer, in pkg_add's eyes: by style, then parts, then suffix. Revisions count between versions that
    /// have the same text before them.
    pub fn compare(&self, other: &Self) -> Ordering {
        self.unrevised(other)
            .unwrap_or_else(|| self.revision.cmp(&other.revision))
    }

    /// How a bound of a spec compares to a version: the revision counts only when the bound has one.
    pub(super) fn cmp_as_bound(&self, version: &Self) -> Ordering {
        self.unrevised(version)
            .unwrap_or_else(|| match self.revision {
                None => Ordering::Equal,
                Some(_) => self.revision.cmp(&version.revision),
            })
    }

    /// The order without revisions; `None` where these decide.
    fn unrevised(&self, other: &Self) -> Option<Ordering> {
        if self.style != other.style {
            return Some(self.style.cmp(&other.style));
        }
        if self.parts == other.parts && self.suffix == other.suffix {
            return None;
        }
        let parts = self.parts.iter().zip(&other.parts);
        let order = parts
            .map(|(a, b)| compare_parts(a, b))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| self.parts.len().cmp(&other.parts.len()));
        Some(order.then_with(|| self.suffix.compare(other.suffix)))
    }
}

/// What stands between dots: by number and then by one letter behind it, when both are so; else as texts.
fn compare_parts(a: &str, b: &str) -> Ordering {
    match (numbered(a), numbered(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (None, _) | (_, None) => a.cmp(b),
    }
}

/// `12` or `12b`.
fn numbered(part: &str) -> Option<(u64, &str)> {
    let (digits, letter) = split_digits(part);
    let fits =
        letter.is_empty() || (letter.len() == 1 && letter.as_bytes()[0].is_ascii_lowercase());
    number(digits)
        .filter(|_| fits)
        .map(|number| (number, letter))
}

impl Suffix {
    /// Alpha, beta, then pre and rc, of which none is newer; none, pl. Those of one kind go by number.
    fn compare(self, other: Self) -> Ordering {
        let rank = |suffix| match suffix {
            Self::Alpha(number) => (0, number),
            Self::Beta(number) => (1, number),
            Self::Pre(number) | Self::Rc(number) => (2, number),
            Self::None => (3, 0),
            Self::Pl(number) => (4, number),
        };
        match (self, other) {
            (Self::Pre(_), Self::Rc(_)) | (Self::Rc(_), Self::Pre(_)) => Ordering::Equal,
            (
                Self::Alpha(_)
                | Self::Beta(_)
                | Self::Pre(_)
                | Self::Rc(_)
                | Self::None
                | Self::Pl(_),
                _,
            ) => rank(self).cmp(&rank(other)),
        }
    }
}

/// Cuts `rc1` and the like off a part that is a number otherwise.
fn take_suffix(part: &mut Box<str>) -> Suffix {
    let (digits, rest) = split_digits(part);
    let kinds: [(&str, Kind); 5] = [
        ("alpha", Suffix::Alpha),
        ("beta", Suffix::Beta),
        ("pre", Suffix::Pre),
        ("rc", Suffix::Rc),
        ("pl", Suffix::Pl),
    ];
    for (word, kind) in kinds {
        if let Some(value) = rest.strip_prefix(word)
            && !digits.is_empty()
            && value.bytes().all(|b| b.is_ascii_digit())
        {
            let suffix = kind(number(value).unwrap_or(0));
            *part = digits.into();
            return suffix;
        }
    }
    Suffix::None
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
