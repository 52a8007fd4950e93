//! Times, sizes and speeds as people read them.

use askama::Template;
use askama::filters::HtmlSafe;
use mirrorlog_core::directory::place::Country;
use mirrorlog_core::time::Timestamp;

use super::country;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Hours say more than one day does.
const TWO_DAYS: i64 = 2 * DAY;

/// A point in time: how long ago, and in UTC for whoever points at it.
#[derive(Clone, Template)]
#[template(
    ext = "html",
    source = r#"<time datetime="{{ iso }}" title="{{ utc }}">{{ ago }}</time>"#
)]
pub(super) struct When {
    pub(super) iso: String,
    pub(super) utc: String,
    pub(super) ago: String,
    /// The same without `ago` and `in`.
    pub(super) long: String,
}

// Its template escapes.
impl HtmlSafe for When {}

impl When {
    pub(super) fn new(at: Timestamp, now: Timestamp) -> Self {
        Self {
            iso: iso(at),
            utc: utc(at),
            ago: ago(at, now),
            long: span(now.ms_since(at)),
        }
    }
}

/// A country with its flag.
#[derive(Clone, Template)]
#[template(
    ext = "html",
    source = r#"{% if let Some(flag) = flag %}<span class="flag" aria-hidden="true">{{ flag }}</span> {% endif %}{{ name }}"#
)]
pub(super) struct Land {
    flag: Option<String>,
    pub(super) name: String,
}

// Its template escapes.
impl HtmlSafe for Land {}

impl Land {
    pub(super) fn new(country: Option<Country>) -> Self {
        Self {
            flag: country.map(country::flag),
            name: country.map_or_else(|| "somewhere".to_owned(), country::title),
        }
    }

    /// For attributes.
    pub(super) fn line(&self) -> String {
        let flag = self.flag.as_deref().unwrap_or_default();
        format!("{flag} {}", self.name).trim_start().to_owned()
    }
}

/// RFC 3339, as machines read it.
pub(crate) fn iso(at: Timestamp) -> String {
    written(at, "%Y-%m-%dT%H:%M:%SZ")
}

fn utc(at: Timestamp) -> String {
    written(at, "%Y-%m-%d %H:%M UTC")
}

fn written(at: Timestamp, format: &str) -> String {
    let time = jiff::Timestamp::from_second(at.as_seconds()).unwrap_or_default();
    time.strftime(format).to_string()
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    let passed = now.ms_since(at);
    match passed {
        // Clocks differ a little.
        -999..=999 => "now".to_owned(),
        ..=-1000 => format!("in {}", span(passed)),
        1000.. => format!("{} ago", span(passed)),
    }
}

/// A duration by its largest unit.
fn span(ms: i64) -> String {
    let ms = ms.saturating_abs();
    let (unit, name) = match ms {
        ..MINUTE => (SECOND, "s"),
        MINUTE..HOUR => (MINUTE, "min"),
        HOUR..TWO_DAYS => (HOUR, "h"),
        _more => (DAY, "days"),
    };
    format!("{} {name}", ms / unit)
}

/// A whole number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in powers of 1000, with two digits or more.
pub(crate) fn bytes(number: u64) -> String {
    let mut value = number as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    let digits = usize::from(value < 9.95 && unit != "B");
    format!("{value:.digits$} {unit}")
}

/// A speed, in megabytes a second.
pub(super) fn speed(bytes_per_s: f64) -> String {
    let megabytes = bytes_per_s / 1e6;
    let digits = match megabytes {
        ..0.095 => 2,
        ..9.95 => 1,
        _faster => 0,
    };
    format!("{megabytes:.digits$} MB/s")
}

/// Milliseconds with a digit where it matters.
pub(super) fn milliseconds(ms: f64) -> String {
    let digits = usize::from(ms < 9.95);
    format!("{ms:.digits$} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        let counts = [0, 999, 1000, 1_234_567].map(count);
        assert_eq!(counts, ["0", "999", "1,000", "1,234,567"]);
        let sizes = [0, 999, 1000, 9_960, 999_600, 5_230_000_000, 73_000_000_000];
        assert_eq!(
            sizes.map(bytes),
            [
                "0 B", "999 B", "1.0 kB", "10 kB", "1.0 MB", "5.2 GB", "73 GB"
            ]
        );
        let speeds = [12_345.0, 1_250_000.0, 98_700_000.0].map(speed);
        assert_eq!(speeds, ["0.01 MB/s", "1.2 MB/s", "99 MB/s"]);
    }

    #[test]
    fn times_are_told_from_now() {
        let now = Timestamp::from_seconds(1_795_305_030);
        let told = |ms| ago(now.plus_ms(ms), now);
        let past = [-400, -5 * SECOND, -3 * MINUTE, -47 * HOUR, -50 * HOUR].map(told);
        assert_eq!(
            past,
            ["now", "5 s ago", "3 min ago", "47 h ago", "2 days ago"]
        );
        assert_eq!(told(6 * DAY), "in 6 days");
        assert_eq!(iso(now), "2026-11-21T23:50:30Z");
        assert_eq!(utc(now), "2026-11-21 23:50 UTC");
    }

    #[test]
    fn what_is_shown_is_escaped() {
        let land = Land {
            flag: None,
            name: "<b>".to_owned(),
        };
        assert_eq!(land.to_string(), "&#60;b&#62;");
    }
}
