//! Samples, what is made of them, and the table.

use std::fmt::Write as _;

use crate::measure::Used;
use crate::ours::Cost;
use crate::rsync::Copied;

/// What one side took in one repetition.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) cpu_s: f64,
    /// Of the mirrors alone; rsync: of the daemon alone.
    pub(crate) part_cpu_s: f64,
    pub(crate) payload_bytes: f64,
    /// What was sent beside the payload; less than nothing where the payload was compressed.
    pub(crate) metadata_bytes: f64,
    pub(crate) audit_bytes: f64,
}

impl Sample {
    pub(crate) fn of_ours(cost: &Cost, payload_bytes: u64) -> Self {
        Self {
            seconds: cost.seconds,
            cpu_s: cost.cpu_s,
            part_cpu_s: cost.mirrors_cpu_s,
            payload_bytes: payload_bytes as f64,
            metadata_bytes: cost.wire_bytes as f64 - payload_bytes as f64,
            audit_bytes: cost.audit_bytes as f64,
        }
    }

    pub(crate) fn of_rsync(copied: &Copied) -> Self {
        Self {
            part_cpu_s: copied.daemon_cpu_s,
            payload_bytes: copied.payload_bytes as f64,
            metadata_bytes: copied.metadata_bytes as f64,
            ..Self::of(&copied.used)
        }
    }

    pub(crate) fn of(used: &Used) -> Self {
        Self {
            seconds: used.seconds,
            cpu_s: used.cpu_s,
            ..Self::default()
        }
    }
}

/// One comparison: repetitions of both sides, taken by turns.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) files: usize,
    pub(crate) peer: &'static str,
    /// The ratio of seconds that is wanted at least.
    pub(crate) target: Option<f64>,
    pub(crate) ours: Vec<Sample>,
    pub(crate) theirs: Vec<Sample>,
}

impl Row {
    pub(crate) fn new(what: &str, files: usize, peer: &'static str, target: Option<f64>) -> Self {
        Self {
            what: what.to_owned(),
            files,
            peer,
            target,
            ours: Vec::new(),
            theirs: Vec::new(),
        }
    }

    /// Takes a repetition in and says it.
    pub(crate) fn add(&mut self, ours: Sample, theirs: Sample, note: &str) {
        eprintln!(
            "{:<38} {:>9} files  {:>8.3} s  {:<24} {:>8.3} s  {:>6.2} times  cpu {:.3} ({:.3}) and {:.3} s  \
             metadata {:.0} and {:.0}, audit {:.0} bytes  {note}",
            self.what,
            self.files,
            ours.seconds,
            self.peer,
            theirs.seconds,
            theirs.seconds / ours.seconds,
            ours.cpu_s,
            ours.part_cpu_s,
            theirs.cpu_s,
            ours.metadata_bytes,
            theirs.metadata_bytes,
            ours.audit_bytes,
        );
        self.ours.push(ours);
        self.theirs.push(theirs);
    }

    /// Whether the peer was there.
    pub(crate) fn is_compared(&self) -> bool {
        self.theirs.iter().all(|one| one.seconds > 0.0)
    }

    /// How many times as long the peer took, in each repetition, sorted.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let pairs = self.ours.iter().zip(&self.theirs);
        let mut ratios: Vec<f64> = pairs
            .map(|(ours, theirs)| theirs.seconds / ours.seconds)
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    fn markdown(&self) -> String {
        let ours = |of: fn(&Sample) -> f64| median(self.ours.iter().map(of));
        let theirs = |of: fn(&Sample) -> f64| median(self.theirs.iter().map(of));
        let counted = |bytes: f64| {
            if bytes == 0.0 {
                String::new()
            } else {
                format!("{:.0}", bytes / 1024.0)
            }
        };
        let cpu = |all: f64, part: f64| format!("{all:.2} ({part:.2})");
        let mut cells = vec![
            self.what.clone(),
            thousands(self.files),
            seconds(ours(|one| one.seconds)),
        ];
        if self.is_compared() {
            let ratios = self.ratios();
            let ratio = median(ratios.iter().copied());
            let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
            let met = self.target.map(|target| yes(ratio >= target));
            cells.push(format!(
                "{}: {}",
                self.peer,
                seconds(theirs(|one| one.seconds))
            ));
            cells.push(format!("{ratio:.2} ({least:.2} to {most:.2})"));
            cells.push(self.target.map_or_else(String::new, round));
            cells.push(met.unwrap_or_default().to_owned());
        } else {
            cells.extend(["", "", "", ""].map(String::from));
        }
        cells.push(cpu(ours(|one| one.cpu_s), ours(|one| one.part_cpu_s)));
        cells.push(cpu(theirs(|one| one.cpu_s), theirs(|one| one.part_cpu_s)));
        cells.push(counted(ours(|one| one.payload_bytes)));
        cells.push(counted(ours(|one| one.metadata_bytes)));
        cells.push(counted(ours(|one| one.audit_bytes)));
        cells.push(counted(theirs(|one| one.metadata_bytes)));
        format!("| {} |\n", cells.join(" | "))
    }
}

/// A figure that must not be exceeded.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) what: String,
    pub(crate) measured: f64,
    pub(crate) limit: Option<f64>,
    pub(crate) unit: &'static str,
}

/// The most that processes had resident, in MiB.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) files: usize,
    pub(crate) mirrors: u16,
    /// From the start, first publish and first sync included.
    pub(crate) archive: f64,
    pub(crate) mirror: f64,
    pub(crate) consistency: f64,
    /// The largest `publish`: the first.
    pub(crate) publish: f64,
    /// Since the first sync, counted anew.
    pub(crate) later: [f64; 3],
    /// The client, the daemon.
    pub(crate) rsync: Option<[f64; 2]>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) rows: Vec<Row>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) memory: Vec<Memory>,
}

impl Results {
    pub(crate) fn limit(
        &mut self,
        what: &str,
        measured: f64,
        limit: Option<f64>,
        unit: &'static str,
    ) {
        self.limits.push(Limit {
            what: what.to_owned(),
            measured,
            limit,
            unit,
        });
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        if !self.rows.is_empty() {
            text.push_str(
                "| what | files | mirrorlog | against | times as fast (min to max) | target | met | \
                 our CPU s (mirrors) | their CPU s (daemon) | payload KiB | our metadata KiB | audit KiB | \
                 their metadata KiB |\n\
                 | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            );
            self.rows
                .iter()
                .for_each(|row| text.push_str(&row.markdown()));
        }
        if !self.memory.is_empty() {
            text.push_str(
                "\n| peak memory, MiB | mirrors | archive | mirror | consistency | publish | \
                 later: archive, mirror, consistency | rsync client, daemon |\n\
                 | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            );
        }
        for memory in &self.memory {
            let rsync = memory.rsync.map_or_else(String::new, |[client, daemon]| {
                format!("{client:.0}, {daemon:.0}")
            });
            let [archive, mirror, consistency] = memory.later;
            let later = format!("{archive:.0}, {mirror:.0}, {consistency:.0}");
            writeln!(
                text,
                "| {} files | {} | {:.0} | {:.0} | {:.0} | {:.0} | {later} | {rsync} |",
                thousands(memory.files),
                memory.mirrors,
                memory.archive,
                memory.mirror,
                memory.consistency,
                memory.publish,
            )
            .unwrap();
        }
        if !self.limits.is_empty() {
            text.push_str("\n| figure | measured | at most | met |\n| --- | --- | --- | --- |\n");
        }
        for Limit {
            what,
            measured,
            limit,
            unit,
        } in &self.limits
        {
            let (most, met) = limit.map_or((String::new(), ""), |limit| {
                (format!("{} {unit}", round(limit)), yes(*measured <= limit))
            });
            writeln!(
                text,
                "| {what} | {} {unit} | {most} | {met} |",
                round(*measured)
            )
            .unwrap();
        }
        text
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// 1,000,000
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn seconds(s: f64) -> String {
    if s < 1.0 {
        format!("{:.0} ms", s * 1e3)
    } else {
        format!("{s:.2} s")
    }
}

/// No more digits than mean something.
fn round(number: f64) -> String {
    if number.abs() < 10.0 {
        format!("{number:.2}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    } else {
        format!("{number:.0}")
    }
}

fn yes(met: bool) -> &'static str {
    if met { "yes" } else { "no" }
}
