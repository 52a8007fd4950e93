//! Where a command's words go: one JSON document to stdout, people's text and bars to stderr or a terminal.

use std::io::{IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};

use crate::args::Args;
use crate::failure::Failure;

/// How to speak.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// One JSON document, or one a line where it streams.
    pub(crate) json: bool,
    /// No more than was asked for.
    pub(crate) quiet: bool,
}

/// Bold.
pub(crate) const BOLD: Style = Style::new().bold();
/// What is well.
pub(crate) const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
/// What is wrong.
pub(crate) const BAD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));

impl Output {
    pub(crate) fn new(args: &Args) -> Self {
        Self {
            json: args.json,
            quiet: args.quiet,
        }
    }

    /// The answer as JSON, on stdout.
    pub(crate) fn json(&self, value: &serde_json::Value) {
        self.line(&value.to_string());
    }

    /// A line of the answer, on stdout. A closed pipe ends nothing.
    pub(crate) fn line(&self, text: &str) {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{text}").ok();
    }

    /// A line for people beside the answer, on stderr.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            let mut out = anstream::stderr().lock();
            writeln!(out, "{text}").ok();
        }
    }

    /// How a command failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        let mut out = anstream::stderr().lock();
        writeln!(out, "{BAD}mirrorlog:{BAD:#} {failure}").ok();
    }

    /// True when progress bars make sense.
    pub(crate) fn bars(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}

/// `1.4 GB` and the like, in powers of ten.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `1 build`, `2 builds`.
pub(crate) fn count(number: u64, one: &str) -> String {
    match (number, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {one}s"),
    }
}

/// Text that others chose, such as a path or a reason: on one line, and without orders to the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// A time such as 2026-11-23T10:00:00Z, or a day: its first moment in UTC. Milliseconds since 1970.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let time = text.parse::<jiff::Timestamp>().or_else(|_| {
        let day = text.parse::<jiff::civil::Date>()?;
        day.to_zoned(jiff::tz::TimeZone::UTC)
            .map(|day| day.timestamp())
    });
    time.ok().map(jiff::Timestamp::as_millisecond)
}

/// Milliseconds since 1970 as a date in UTC.
pub(crate) fn date(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| ms.to_string(),
        |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays_on_its_line() {
        assert_eq!(plain("a b ü\n\u{1b}[2J"), "a b ü\\n\\u{1b}[2J");
    }

    #[test]
    fn one_is_one() {
        assert_eq!(count(1, "entry"), "1 entry");
        assert_eq!(count(0, "entry"), "0 entries");
        assert_eq!(count(2, "build"), "2 builds");
    }

    #[test]
    fn a_day_is_a_time() {
        assert_eq!(parse_time("2026-11-23"), parse_time("2026-11-23T00:00:00Z"));
        assert!(parse_time("2026-11-23").is_some());
        assert_eq!(parse_time("yesterday"), None);
    }
}
