//! What is shown of each mirror.

use client::{Candidate, Candidates, Carried, Outcome};
use comfy_table::{Table, presets};
use mirrorlog_core::id::Build;

use super::pick::{Progress, Standing};
use crate::output::{Output, bytes, plain};

/// What turns while a mirror is measured.
const SPINNER: [&str; 8] = ["⠋", "⠙", "⠸", "⠴", "⠦", "⠇", "⠏", "⠉"];

/// A mirror's line, in columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) mirror: String,
    pub(super) country: String,
    pub(super) distance: String,
    pub(super) speed: String,
    pub(super) build: String,
    /// Where there is room for it.
    pub(super) pool: String,
    pub(super) url: String,
    /// Why it cannot be chosen.
    pub(super) reason: Option<String>,
    /// What else is to be said of it.
    pub(super) remark: Option<String>,
}

/// The line of a mirror that is offered. `tick`: turns the spinner.
pub(super) fn row(
    one: &Candidate,
    standing: &Standing,
    build: Option<Build>,
    newest: Option<Build>,
    tick: usize,
) -> Row {
    let measured = standing.measured();
    let connect_ms = measured.as_ref().and_then(|measured| measured.connect_ms);
    let per_s = |speed: f64| format!("{}/s", bytes(speed.max(0.0) as u64));
    let (mut reason, mut remark) = (None, None);
    let known = || one.known.map(|speed| format!("{} known", per_s(speed)));
    let speed = match (standing, measured.map(|measured| measured.outcome)) {
        (_, Some(Outcome::Measured(speed))) => format!("{} measured", per_s(speed)),
        (_, Some(Outcome::Known(speed))) => format!("{} known", per_s(speed)),
        (_, Some(Outcome::Cache(why))) => {
            remark = Some(format!("{why}: its speed cannot be told"));
            "a cache answers".to_owned()
        }
        (_, Some(Outcome::Failed(why))) => {
            reason = Some(plain(&why));
            String::new()
        }
        (Standing::Measuring, None) => match known() {
            Some(known) => format!("{} {known}", SPINNER[tick % SPINNER.len()]),
            None => format!("{} measuring", SPINNER[tick % SPINNER.len()]),
        },
        (Standing::Queued, None) => known().unwrap_or_else(|| "· waits".to_owned()),
        (Standing::Idle | Standing::Done(_), None) => {
            known().unwrap_or_else(|| "not measured".to_owned())
        }
    };
    let build = match (build, newest) {
        (Some(build), Some(newest)) if newest > build => format!("{build} of {newest}"),
        (Some(build), _) => build.to_string(),
        (None, _) => "-".to_owned(),
    };
    let tier = plain(&one.tier);
    Row {
        mirror: one.id.to_string(),
        country: one
            .country
            .map_or_else(|| "-".to_owned(), |country| country.to_string()),
        distance: connect_ms.map_or_else(
            || tier.clone(),
            |ms| format!("{tier}, {}", milliseconds(ms)),
        ),
        speed,
        build,
        pool: one.pool.to_string(),
        url: one.url.clone(),
        reason,
        remark,
    }
}

/// All lines: those that are offered, then the others.
pub(super) fn rows(
    channel: &Carried,
    found: &Candidates,
    progress: &Progress,
    tick: usize,
) -> Vec<Row> {
    let offered = found.offered.iter().enumerate();
    let offered = offered
        .map(|(place, one)| row(one, &progress.at(place), found.build, channel.newest, tick));
    let excluded = found.excluded.iter().map(|one| Row {
        mirror: plain(&one.id),
        reason: Some(plain(&one.reason)),
        ..Row::default()
    });
    offered.chain(excluded).collect()
}

/// The lines on stdout, where nobody can choose.
pub(super) fn table(channel: &Carried, found: &Candidates, progress: &Progress, output: &Output) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "MIRROR", "COUNTRY", "POOL", "DISTANCE", "SPEED", "BUILD", "REMARK",
    ]);
    for row in rows(channel, found, progress, 0) {
        let remark = row
            .reason
            .map(|reason| format!("no: {reason}"))
            .or(row.remark);
        let remark = remark.unwrap_or_default();
        table.add_row([
            row.mirror,
            row.country,
            row.pool,
            row.distance,
            row.speed,
            row.build,
            remark,
        ]);
    }
    output.line(&table.trim_fmt());
}

fn milliseconds(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}
