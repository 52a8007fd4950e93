//! Sizes, rates and durations as people write them: `20MiB`, `20mbit`, `10m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// Why a text is no size, rate or duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No whole number with a known unit.
    #[error("{text:?} is not a {what}: write a whole number and a unit, such as {example}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What was given.
        text: String,
        /// A good one.
        example: &'static str,
    },
    /// More than 64 bits hold.
    #[error("{0:?} is too large")]
    TooLarge(String),
    /// A rate at which nothing moves.
    #[error("{0:?} is less than 8 bits a second, at which nothing moves")]
    Nothing(String),
}

/// Bytes; `20MiB` or `20MB` in configurations, a bare number is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Bytes a second; written in bits, `20mbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

/// A duration; `10m`, `1h30m`, `500ms` in configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SIZES: &[(&str, u64)] = &[
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1000),
    ("b", 1),
    ("", 1),
];
/// Bits a second.
const RATES: &[(&str, u64)] = &[
    ("gbit", 1_000_000_000),
    ("mbit", 1_000_000),
    ("kbit", 1000),
    ("bit", 1),
];
/// Milliseconds.
const SPANS: &[(&str, u64)] = &[
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

impl FromStr for ByteSize {
    type Err = UnitError;

    /// Units in any case: B, kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let malformed = || UnitError::Malformed {
            what: "size",
            text: text.to_owned(),
            example: "20MiB",
        };
        let (number, unit) = split(text).ok_or_else(malformed)?;
        let factor = factor_of(SIZES, unit).ok_or_else(malformed)?;
        Ok(Self(times(number, factor, text)?))
    }
}

impl FromStr for ByteRate {
    type Err = UnitError;

    /// Units in any case: bit, kbit, mbit, gbit (powers of 1000) a second.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let malformed = || UnitError::Malformed {
            what: "rate",
            text: text.to_owned(),
            example: "20mbit",
        };
        let (number, unit) = split(text).ok_or_else(malformed)?;
        let factor = factor_of(RATES, unit).ok_or_else(malformed)?;
        match times(number, factor, text)? / 8 {
            0 => Err(UnitError::Nothing(text.to_owned())),
            bytes => Ok(Self(bytes)),
        }
    }
}

impl FromStr for Span {
    type Err = UnitError;

    /// Units: ms, s, m, h, d, w; several may follow each other.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let malformed = || UnitError::Malformed {
            what: "duration",
            text: text.to_owned(),
            example: "10m",
        };
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut ms = 0_u64;
        while !rest.is_empty() || ms == 0 {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let letters = rest[digits..]
                .bytes()
                .take_while(u8::is_ascii_alphabetic)
                .count();
            let (part, after) = rest.split_at(digits + letters);
            let (number, unit) = split(part).ok_or_else(malformed)?;
            let factor = factor_of(SPANS, unit).ok_or_else(malformed)?;
            let sum = ms.checked_add(times(number, factor, text)?);
            ms = sum.ok_or_else(|| UnitError::TooLarge(text.to_owned()))?;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        Ok(Self(Duration::from_millis(ms)))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
            ("B", 1),
        ];
        print(f, self.0, &names)
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0.saturating_mul(8), RATES)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(
            f,
            u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX),
            SPANS,
        )
    }
}

/// The largest unit that divides the value.
fn print(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fits = |factor: u64| value != 0 && value.is_multiple_of(factor);
    let smallest = units.last().copied().unwrap_or(("", 1));
    let (unit, factor) = units
        .iter()
        .copied()
        .find(|(_, factor)| fits(*factor))
        .unwrap_or(smallest);
    write!(f, "{}{unit}", value / factor)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    // More digits than u64 has are told from no digits by `times`.
    let number = if digits > 20 {
        u64::MAX
    } else {
        text[..digits].parse::<u128>().ok()?.min(u64::MAX.into()) as u64
    };
    Some((number, text[digits..].trim_start()))
}

fn factor_of(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| *factor)
}

fn times(number: u64, factor: u64, text: &str) -> Result<u64, UnitError> {
    let product = number
        .checked_mul(factor)
        .filter(|product| *product < u64::MAX);
    product.ok_or_else(|| UnitError::TooLarge(text.to_owned()))
}

/// Takes a text, or a bare number where the type allows one.
struct Text<T>(&'static str, fn(&str) -> Result<T, UnitError>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        if number < 0 {
            return Err(E::invalid_value(Unexpected::Signed(number), &self));
        }
        (self.1)(&number.to_string()).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        (self.1)(&number.to_string()).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("size such as \"20MiB\"", Self::from_str))
    }
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Reads a field that is written as text, such as an id: `#[serde(deserialize_with = "text")]`.
///
/// # Errors
/// When it is no text, or not of the type's form.
pub fn text<'de, T, D>(input: D) -> Result<T, D::Error>
where
    T: std::str::FromStr<Err: fmt::Display>,
    D: serde::Deserializer<'de>,
{
    String::deserialize(input)?
        .parse()
        .map_err(serde::de::Error::custom)
}

/// Reads a list of what [`text`] reads.
///
/// # Errors
/// When it is no list of texts, or one of them is not of the type's form.
pub fn texts<'de, T, D>(input: D) -> Result<Vec<T>, D::Error>
where
    T: std::str::FromStr<Err: fmt::Display>,
    D: serde::Deserializer<'de>,
{
    let texts = Vec::<String>::deserialize(input)?;
    texts
        .iter()
        .map(|one| one.parse().map_err(serde::de::Error::custom))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let good: &[(&str, u64, &str)] = &[
            ("0", 0, "0B"),
            ("512", 512, "512B"),
            ("1000B", 1000, "1000B"),
            ("1024", 1024, "1KiB"),
            ("20MiB", 20 << 20, "20MiB"),
            ("20 MiB", 20 << 20, "20MiB"),
            ("20mib", 20 << 20, "20MiB"),
            ("5kB", 5000, "5000B"),
            ("3GB", 3_000_000_000, "2929687500B"),
            ("2TiB", 2 << 40, "2TiB"),
        ];
        for (text, bytes, shown) in good {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.0, *bytes, "{text}");
            assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
            if !shown.ends_with("29687500B") {
                assert_eq!(size.to_string(), *shown, "{text}");
            }
        }
        for text in ["", "MiB", "-1", "1.5GiB", "20mbit", "1M", "1 2", "٣B"] {
            assert!(
                matches!(text.parse::<ByteSize>(), Err(UnitError::Malformed { .. })),
                "{text:?}"
            );
        }
        for text in [
            "18446744073709551616",
            "99999999999999999999999999",
            "17179869184GiB",
        ] {
            assert_eq!(
                text.parse::<ByteSize>(),
                Err(UnitError::TooLarge(text.to_owned()))
            );
        }
    }

    #[test]
    fn rates_are_bits() {
        let good: &[(&str, u64, &str)] = &[
            ("20mbit", 2_500_000, "20mbit"),
            ("20Mbit", 2_500_000, "20mbit"),
            ("1gbit", 125_000_000, "1gbit"),
            ("8bit", 1, "8bit"),
            ("100kbit", 12_500, "100kbit"),
        ];
        for (text, bytes, shown) in good {
            let rate: ByteRate = text.parse().unwrap();
            assert_eq!(
                (rate.0, rate.to_string().as_str()),
                (*bytes, *shown),
                "{text}"
            );
        }
        assert_eq!(
            "7bit".parse::<ByteRate>(),
            Err(UnitError::Nothing("7bit".to_owned()))
        );
        for text in ["20", "20MB", "mbit", "", "20 m bit"] {
            assert!(
                matches!(text.parse::<ByteRate>(), Err(UnitError::Malformed { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn durations() {
        let good: &[(&str, u64, &str)] = &[
            ("0", 0, "0ms"),
            ("0s", 0, "0ms"),
            ("500ms", 500, "500ms"),
            ("90s", 90_000, "90s"),
            ("10m", 600_000, "10m"),
            ("1h30m", 5_400_000, "90m"),
            ("7d", 604_800_000, "1w"),
            ("2d", 172_800_000, "2d"),
        ];
        for (text, ms, shown) in good {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(*ms), "{text}");
            assert_eq!(span.to_string(), *shown, "{text}");
        }
        for text in ["", "10", "m", "10 minutes", "1h30", "-1s", "1.5h", "10µs"] {
            assert!(
                matches!(text.parse::<Span>(), Err(UnitError::Malformed { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn configurations_take_texts() {
        #[derive(Debug, Deserialize)]
        struct Sample {
            size: ByteSize,
            bare: ByteSize,
            rate: ByteRate,
            every: Span,
        }
        let text = "size = '20MiB'\nbare = 4096\nrate = '8mbit'\nevery = '10m'";
        let sample: Sample = toml::from_str(text).unwrap();
        assert_eq!(
            (sample.size.0, sample.bare.0, sample.rate.0),
            (20 << 20, 4096, 1_000_000)
        );
        assert_eq!(sample.every.0, Duration::from_secs(600));
        let error = toml::from_str::<Sample>(&text.replace("10m", "10"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("not a duration"), "{error}");
        assert!(toml::from_str::<Sample>(&text.replace("4096", "-1")).is_err());
    }
}
