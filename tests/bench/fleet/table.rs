//! What is printed.

use crate::cost::{Costs, Cpu};

/// One build.
pub(crate) struct Row {
    pub(crate) build: u64,
    pub(crate) files: usize,
    /// Seconds of `publish` without its waiting.
    pub(crate) published: f64,
    /// Seconds from the start of `publish` until each mirror is complete.
    pub(crate) complete: Vec<f64>,
    /// Milliseconds from the log to each mirror.
    pub(crate) lag_ms: Vec<f64>,
    /// Files asked for by the auditor.
    pub(crate) asked: u64,
    pub(crate) cpu: Cpu,
}

pub(crate) fn print_head(costs: &Costs) {
    let names = costs.names();
    println!(
        "\n| build | new files | publish | half complete | all complete | event lag median | p99 | max | files audited | CPU {} |",
        names.join(" | ")
    );
    println!("|{}", " ---: |".repeat(9 + names.len()));
}

impl Row {
    pub(crate) fn print(&self) {
        let Self {
            build,
            files,
            published,
            asked,
            ..
        } = self;
        let cpu: Vec<String> = self
            .cpu
            .0
            .iter()
            .map(|seconds| format!("{seconds:.2} s"))
            .collect();
        println!(
            "| {build} | {files} | {published:.2} s | {:.2} s | {:.2} s | {:.0} ms | {:.0} ms | {:.0} ms | {asked} | {} |",
            part(&self.complete, 0.5),
            part(&self.complete, 1.0),
            part(&self.lag_ms, 0.5),
            part(&self.lag_ms, 0.99),
            part(&self.lag_ms, 1.0),
            cpu.join(" | ")
        );
    }
}

/// The medians of the builds, the worst of them, and memory.
pub(crate) fn print_end(rows: &[Row], limit: f64, costs: &Costs) {
    let all = |of: &dyn Fn(&Row) -> f64| rows.iter().map(of).collect::<Vec<f64>>();
    let complete = all(&|row| part(&row.complete, 1.0));
    let lags: Vec<f64> = rows
        .iter()
        .flat_map(|row| row.lag_ms.iter().copied())
        .collect();
    println!("\n| after the first build | median | worst |\n| --- | ---: | ---: |");
    let line = |what: &str, values: &[f64], unit: &str| {
        println!(
            "| {what} | {:.2} {unit} | {:.2} {unit} |",
            part(values, 0.5),
            part(values, 1.0)
        );
    };
    line("until all are complete", &complete, "s");
    println!(
        "| event lag of a mirror (p99 {:.0} ms) | {:.0} ms | {:.0} ms |",
        part(&lags, 0.99),
        part(&lags, 0.5),
        part(&lags, 1.0)
    );
    for (place, name) in costs.names().iter().enumerate() {
        line(
            &format!("CPU of {name} a build"),
            &all(&|row| row.cpu.0[place]),
            "s",
        );
    }
    for (name, mib) in costs.peaks() {
        println!("| peak memory of {name} | | {mib:.0} MiB |");
    }
    let late = complete.iter().filter(|seconds| **seconds > limit).count();
    println!(
        "\n{late} of {} builds took longer than {limit:.0} s",
        rows.len()
    );
}

/// The smallest value that so large a part of all does not exceed.
fn part(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * part).ceil() as usize;
    values
        .get(place.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}
