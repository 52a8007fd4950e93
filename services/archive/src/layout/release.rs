//! Release and InRelease files: deb822 fields and lists of digests.

use std::collections::BTreeMap;

use mirrorlog_core::time::Timestamp;

use super::checksum::{Algorithm, Stated, Sum};

/// A parsed Release.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// Fields of one line, by lower-case name.
    pub fields: BTreeMap<String, String>,
    /// Listed files, by name relative to the suite's folder.
    pub listed: BTreeMap<String, Stated>,
}

/// Why a text is no Release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    #[error("no UTF-8")]
    Encoding,
    #[error("line {0} is no field")]
    Line(usize),
    #[error("line {0} is no digest, size and name")]
    Listed(usize),
    #[error("{name} is listed with two sizes")]
    TwoSizes { name: String },
    #[error("field {0} is there twice")]
    Twice(String),
    #[error("no clear-signed text: {0}")]
    Armor(&'static str),
    #[error("field {field} is no date: {text}")]
    Date { field: String, text: String },
}

impl Release {
    /// Parses a Release.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReleaseError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ReleaseError::Encoding)?;
        let mut release = Self::default();
        let mut list: Option<Algorithm> = None;
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            if line.trim().is_empty() {
                list = None;
                continue;
            }
            if line.starts_with([' ', '\t']) {
                if let Some(algorithm) = list {
                    release
                        .list(algorithm, line)
                        .map_err(|e| e.unwrap_or(ReleaseError::Listed(number)))?;
                }
                continue;
            }
            let (name, value) = line.split_once(':').ok_or(ReleaseError::Line(number))?;
            let is_name = |a: &Algorithm| a.release_field().eq_ignore_ascii_case(name);
            list = Algorithm::ALL.into_iter().find(is_name);
            let name = name.to_ascii_lowercase();
            if release
                .fields
                .insert(name.clone(), value.trim().to_owned())
                .is_some()
            {
                return Err(ReleaseError::Twice(name));
            }
        }
        Ok(release)
    }

    /// Parses an InRelease: only what is inside the signature's armor counts, and nothing may be outside.
    pub fn parse_signed(bytes: &[u8]) -> Result<Self, ReleaseError> {
        Self::parse(signed_text(bytes)?.as_bytes())
    }

    /// A date field, if it is there.
    pub fn date(&self, field: &str) -> Result<Option<Timestamp>, ReleaseError> {
        let Some(text) = self.fields.get(field) else {
            return Ok(None);
        };
        let wrong = || ReleaseError::Date {
            field: field.to_owned(),
            text: text.clone(),
        };
        // The day of the week is not looked at, as by apt.
        let day = text.split_once(',').map_or(text.as_str(), |(_, day)| day);
        let zoned = day.strip_suffix("UTC").map_or_else(
            || day.trim().to_owned(),
            |day| format!("{}+0000", day.trim_start()),
        );
        let zoned = jiff::fmt::rfc2822::parse(&zoned).map_err(|_| wrong())?;
        Ok(Some(Timestamp::from_ms(zoned.timestamp().as_millisecond())))
    }

    fn list(&mut self, algorithm: Algorithm, line: &str) -> Result<(), Option<ReleaseError>> {
        let (sum, size_bytes, name) = listed_line(algorithm, line).ok_or(None)?;
        let stated = self.listed.entry(name.to_owned()).or_insert(Stated {
            size_bytes,
            sums: Vec::new(),
        });
        if stated.size_bytes != size_bytes {
            return Err(Some(ReleaseError::TwoSizes {
                name: name.to_owned(),
            }));
        }
        stated.sums.push(sum);
        Ok(())
    }
}

/// `<hex> <size> <name>`, as Release and Sources have it. A name has neither control characters nor white space of any
/// kind: apt ends a word at a vertical tab, which is none to Rust.
pub(crate) fn listed_line(algorithm: Algorithm, line: &str) -> Option<(Sum, u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let sum = Sum::parse(algorithm, words.next()?)?;
    let size_bytes = words.next()?.parse().ok()?;
    let name = words.next()?;
    let odd = name.contains(|c: char| c.is_control() || c.is_whitespace());
    (words.next().is_none() && !odd).then_some((sum, size_bytes, name))
}

/// The text inside a clear-signed message (RFC 9580, section 7).
fn signed_text(bytes: &[u8]) -> Result<String, ReleaseError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ReleaseError::Encoding)?;
    let mut lines = text.lines().map(|line| line.trim_end_matches('\r'));
    if lines.next() != Some("-----BEGIN PGP SIGNED MESSAGE-----") {
        return Err(ReleaseError::Armor(
            "it does not start with a signed message",
        ));
    }
    // Armor headers, up to an empty line.
    if !lines.by_ref().any(str::is_empty) {
        return Err(ReleaseError::Armor("its header does not end"));
    }
    let mut inside = String::new();
    let mut ended = false;
    for line in lines.by_ref() {
        if line == "-----BEGIN PGP SIGNATURE-----" {
            ended = true;
            break;
        }
        inside.push_str(line.strip_prefix("- ").unwrap_or(line));
        inside.push('\n');
    }
    if !ended
        || !lines
            .by_ref()
            .any(|line| line == "-----END PGP SIGNATURE-----")
    {
        return Err(ReleaseError::Armor("its signature does not end"));
    }
    if lines.any(|line| !line.trim().is_empty()) {
        return Err(ReleaseError::Armor("text follows the signature"));
    }
    Ok(inside)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "Origin: x\nSuite: t\nDate: Sat, 21 Nov 2026 23:50:30 UTC\nSHA256:\n \
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages\n";

    #[test]
    fn fields_lists_and_dates() {
        let release = Release::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(release.fields["suite"], "t");
        let stated = &release.listed["main/binary-amd64/Packages"];
        assert_eq!(stated.sha256(), Some(mirrorlog_core::id::Digest::of(b"")));
        assert_eq!(
            release.date("date").unwrap(),
            Some(Timestamp::from_seconds(1_795_305_030))
        );
        assert_eq!(release.date("valid-until").unwrap(), None);
    }

    #[test]
    fn names_are_one_word_for_apt_too() {
        for odd in [
            "\u{b}", "\0", "\u{1b}", "\u{7f}", "\u{85}", "\u{a0}", "\u{2028}",
        ] {
            let text = TEXT.replace("Packages", &format!("Pack{odd}ages"));
            let refused = Release::parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused, ReleaseError::Listed(5), "{odd:?}");
        }
    }

    #[test]
    fn signed_text_is_what_is_inside() {
        let signed = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{TEXT}-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n"
        );
        assert_eq!(
            Release::parse_signed(signed.as_bytes()),
            Release::parse(TEXT.as_bytes())
        );
        let outside = format!("{signed}Suite: evil\n");
        assert!(matches!(
            Release::parse_signed(outside.as_bytes()),
            Err(ReleaseError::Armor(_))
        ));
        assert!(matches!(
            Release::parse_signed(TEXT.as_bytes()),
            Err(ReleaseError::Armor(_))
        ));
    }

    #[test]
    fn broken_texts_are_refused() {
        for (text, error) in [
            ("no field\n", ReleaseError::Line(1)),
            ("SHA256:\n 00 0 x\n", ReleaseError::Listed(2)),
            ("A: 1\nA: 2\n", ReleaseError::Twice("a".into())),
        ] {
            assert_eq!(Release::parse(text.as_bytes()), Err(error));
        }
    }
}
