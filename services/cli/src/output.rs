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

/// Milliseconds since 1970 as a date in UTC.
pub(crate) fn date(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| ms.to_string(),
        |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}
