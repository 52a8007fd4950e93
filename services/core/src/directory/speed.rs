//! What clients saw: speeds and failures, by mirror and network.
//!
//! Every sample comes from somebody who may lie. So each number is a median, and each liar has few voices:
//!
//! | cap | stops |
//! | --- | --- |
//! | [`SOURCE_SAMPLES_MAX`] of a neighbourhood in a row | one household that speaks for its network |
//! | [`ROW_SAMPLES_MAX`] in a row, the newest | a row that grows without end |
//! | one voice a network in a mirror's overall figure | one network that speaks for all |
//! | [`NETWORKS_MIN`] networks before failures count elsewhere | two networks of one liar |
//! | [`ROWS_MAX`] rows, the one unheard longest goes | made-up networks that fill the memory |
//!
//! And whatever is said here only moves a mirror within its tier: no sample can exclude one.

use std::collections::BTreeMap;

use super::member::MirrorIndex;
use super::place::Network;
use crate::time::Timestamp;

/// Downloads below this many bytes say nothing about speed: TCP has not got going.
pub const SPEED_BYTES_MIN: u64 = 64 * 1024;
/// Samples of one neighbourhood in a row; of more, the newest.
pub const SOURCE_SAMPLES_MAX: usize = 4;
/// Samples of one network about one mirror; of more, the newest.
pub const ROW_SAMPLES_MAX: usize = 32;
/// Rows of all mirrors and networks.
pub const ROWS_MAX: usize = 50_000;
/// Networks that must have spoken of a mirror before its failures count outside of them.
pub const NETWORKS_MIN: usize = 3;
/// A sample counts half as much after this time, in milliseconds.
pub const HALF_LIFE_MS: i64 = 24 * 60 * 60 * 1000;
/// A sample is forgotten after this time, in milliseconds.
pub const FORGOTTEN_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// Fastest and slowest that is believed, in bytes a second.
const SPEED_RANGE: (f64, f64) = (1024.0, 1.25e10);
/// What is assumed of a mirror when nobody has measured any, in bytes a second.
const UNMEASURED: f64 = 1024.0 * 1024.0;
/// How many samples the overall figure is worth beside a network's own.
const PRIOR_SAMPLES: f64 = 3.0;
/// Good downloads that are assumed beside what was reported, so that a single failure is no verdict.
const PRIOR_SUCCESSES: f64 = 2.0;
/// The least that failures leave of a score.
const FACTOR_MIN: f64 = 0.05;

/// How a download failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// Its name was not found.
    Dns,
    /// The connection was refused or lost.
    Connection,
    /// TLS failed.
    Tls,
    /// Nothing came, or too slowly.
    Timeout,
    /// It answered with an error.
    Status,
    /// It did not have the file.
    Missing,
    /// It had other bytes.
    Corrupt,
    /// It had an older build.
    Stale,
}

impl Failure {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Dns,
        Self::Connection,
        Self::Tls,
        Self::Timeout,
        Self::Status,
        Self::Missing,
        Self::Corrupt,
        Self::Stale,
    ];

    /// The kind as it stands in feedback.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connection => "connection",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
            Self::Stale => "stale",
        }
    }

    /// Reads what clients write.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// How a download ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It came, so fast: bytes a second, of [`SPEED_BYTES_MIN`] at least.
    Speed(f64),
    /// It came, and was too small to tell how fast.
    Fine,
    /// It did not come.
    Failed(Failure),
}

/// One word of one client. No address: a neighbourhood is a number that a secret of the day made of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Which mirror.
    pub mirror: MirrorIndex,
    /// From which network.
    pub network: Network,
    /// From which neighbourhood in it.
    pub source: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Kept {
    source: u64,
    at: Timestamp,
    outcome: Outcome,
}

/// What one network said of one mirror.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    samples: Vec<Kept>,
    summary: Summary,
}

/// What a row comes to. Weights are as of `at`, and halve from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Summary {
    /// Failures by kind, as many as are kept.
    kinds: [u16; Failure::ALL.len()],
    at: Timestamp,
    /// Weighted median in bytes a second, and the weight of all speeds.
    speed: Option<(f64, f64)>,
    successes: f64,
    failures: f64,
}

fn weight(at: Timestamp, now: Timestamp) -> f64 {
    let age = now.ms_since(at).max(0) as f64;
    (-age / HALF_LIFE_MS as f64).exp2()
}

impl Row {
    fn take(&mut self, kept: Kept) {
        let of_source = |one: &&Kept| one.source == kept.source;
        let full = self.samples.iter().filter(of_source).count() >= SOURCE_SAMPLES_MAX;
        let oldest = |samples: &[Kept], fits: &dyn Fn(&Kept) -> bool| {
            let fitting = samples.iter().enumerate().filter(|(_, one)| fits(one));
            fitting
                .min_by_key(|(_, one)| one.at)
                .map(|(index, _)| index)
        };
        let gone = if full {
            oldest(&self.samples, &|one| one.source == kept.source)
        } else if self.samples.len() >= ROW_SAMPLES_MAX {
            // The neighbourhood with most to say gives way, so that none crowds the others out.
            let count = |source| {
                self.samples
                    .iter()
                    .filter(|one| one.source == source)
                    .count()
            };
            let loudest = self
                .samples
                .iter()
                .map(|one| one.source)
                .max_by_key(|source| count(*source));
            oldest(&self.samples, &|one| Some(one.source) == loudest)
        } else {
            None
        };
        if let Some(gone) = gone {
            self.samples.swap_remove(gone);
        }
        self.samples.push(kept);
        self.sum_up();
    }

    fn forget(&mut self, now: Timestamp) {
        let before = self.samples.len();
        self.samples
            .retain(|one| now.ms_since(one.at) < FORGOTTEN_MS);
        if self.samples.len() != before {
            self.sum_up();
        }
    }

    fn newest(&self) -> Timestamp {
        let times = self.samples.iter().map(|one| one.at);
        times.max().unwrap_or(Timestamp::EPOCH)
    }

    fn sum_up(&mut self) {
        let at = self.newest();
        let mut summary = Summary {
            at,
            ..Summary::default()
        };
        let mut speeds = Vec::new();
        for one in &self.samples {
            let weight = weight(one.at, at);
            match one.outcome {
                Outcome::Speed(speed) => {
                    speeds.push((speed, weight));
                    summary.successes += weight;
                }
                Outcome::Fine => summary.successes += weight,
                Outcome::Failed(kind) => {
                    summary.failures += weight;
                    let counts = Failure::ALL.iter().zip(&mut summary.kinds);
                    for (_, count) in counts.filter(|(one, _)| **one == kind) {
                        *count += 1;
                    }
                }
            }
        }
        summary.speed = weighted_median(&mut speeds);
        self.summary = summary;
    }
}

impl Summary {
    /// Share of downloads that failed, with some good ones assumed; 0 when nobody complained.
    fn failing(&self, now: Timestamp) -> f64 {
        let fade = weight(self.at, now);
        let (good, bad) = (self.successes * fade, self.failures * fade);
        bad / (good + bad + PRIOR_SUCCESSES)
    }
}

/// The median by weight, and the sum of the weights.
fn weighted_median(values: &mut [(f64, f64)]) -> Option<(f64, f64)> {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = values.iter().map(|(_, weight)| weight).sum();
    let mut passed = 0.0;
    for (value, weight) in values.iter() {
        passed += weight;
        if passed * 2.0 >= total {
            return Some((*value, total));
        }
    }
    None
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// What a score is made of, beside weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Bytes a second that a client there may expect.
    pub speed: f64,
    /// True when somebody measured it, there or elsewhere.
    pub measured: bool,
    /// What failures leave of the score: 1 when nobody complained.
    pub factor: f64,
}

/// A mirror's overall figure: one voice a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overall {
    /// Median of the networks' medians, in bytes a second.
    pub speed: Option<f64>,
    /// Networks that spoke.
    pub networks: usize,
    /// Median of the networks' shares of failures, where enough networks spoke; else 0.
    pub failing: f64,
    /// Failures of all networks by kind, as many as are kept; in the order of [`Failure::ALL`].
    kinds: [u32; Failure::ALL.len()],
}

impl Overall {
    /// Failures that were reported and are kept, by kind; kinds that nobody reported are left out.
    pub fn failures(&self) -> impl Iterator<Item = (Failure, u32)> {
        let counted = Failure::ALL.into_iter().zip(self.kinds);
        counted.filter(|(_, count)| *count > 0)
    }
}

/// All samples that count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    rows: BTreeMap<(MirrorIndex, Network), Row>,
    stale: bool,
}

impl Ledger {
    /// Takes a sample in. Old ones, and those beyond belief, are passed over: false then.
    pub fn take(&mut self, sample: Sample, now: Timestamp) -> bool {
        let outcome = match sample.outcome {
            Outcome::Speed(speed) if speed.is_finite() && speed > 0.0 => {
                Outcome::Speed(speed.clamp(SPEED_RANGE.0, SPEED_RANGE.1))
            }
            Outcome::Speed(_) => return false,
            other @ (Outcome::Fine | Outcome::Failed(_)) => other,
        };
        if now.ms_since(sample.at) >= FORGOTTEN_MS {
            return false;
        }
        let key = (sample.mirror, sample.network);
        if !self.rows.contains_key(&key) && self.rows.len() >= ROWS_MAX {
            self.evict();
        }
        let kept = Kept {
            source: sample.source,
            at: sample.at.min(now),
            outcome,
        };
        self.rows.entry(key).or_default().take(kept);
        self.stale = true;
        true
    }

    /// Drops the sixteenth of the rows that was unheard longest: one at a time would cost a look at all for each.
    fn evict(&mut self) {
        let mut ages: Vec<Timestamp> = self.rows.values().map(|row| row.summary.at).collect();
        ages.sort_unstable();
        let Some(limit) = ages.get(ROWS_MAX / 16) else {
            return;
        };
        let mut left = ROWS_MAX / 16;
        self.rows.retain(|_, row| {
            let goes = left > 0 && row.summary.at <= *limit;
            left -= usize::from(goes);
            !goes
        });
    }

    /// Forgets the oldest samples, and gives new figures if any sample came or went since the last time.
    pub fn settle(&mut self, now: Timestamp) -> Option<Speeds> {
        let oldest = now.plus_ms(-FORGOTTEN_MS);
        for row in self.rows.values_mut() {
            if row.samples.iter().any(|one| one.at <= oldest) {
                row.forget(now);
                self.stale = true;
            }
        }
        if !std::mem::take(&mut self.stale) {
            return None;
        }
        self.rows.retain(|_, row| !row.samples.is_empty());
        let rows = self.rows.iter().map(|(key, row)| (*key, row.summary));
        Some(Speeds::of(rows.collect(), now))
    }
}

/// What all samples come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Speeds {
    rows: BTreeMap<(MirrorIndex, Network), Summary>,
    overall: BTreeMap<MirrorIndex, Overall>,
    /// What is assumed of a mirror that nobody measured: the median of those that somebody did.
    usual: Option<f64>,
}

impl Speeds {
    fn of(rows: BTreeMap<(MirrorIndex, Network), Summary>, now: Timestamp) -> Self {
        let mut by_mirror: BTreeMap<MirrorIndex, Vec<&Summary>> = BTreeMap::new();
        for ((mirror, _), row) in &rows {
            by_mirror.entry(*mirror).or_default().push(row);
        }
        let overall = by_mirror.into_iter().map(|(mirror, rows)| {
            let speeds = rows.iter().filter_map(|row| Some(row.speed?.0)).collect();
            let failing = rows.iter().map(|row| row.failing(now)).collect();
            let heard = rows.len() >= NETWORKS_MIN;
            let mut kinds = [0; Failure::ALL.len()];
            for row in &rows {
                for (sum, count) in kinds.iter_mut().zip(row.kinds) {
                    *sum += u32::from(count);
                }
            }
            let overall = Overall {
                speed: median(speeds),
                networks: rows.len(),
                failing: median(failing).filter(|_| heard).unwrap_or(0.0),
                kinds,
            };
            (mirror, overall)
        });
        let overall: BTreeMap<MirrorIndex, Overall> = overall.collect();
        Self {
            usual: median(overall.values().filter_map(|one| one.speed).collect()),
            overall,
            rows,
        }
    }

    /// What is known of a mirror, wherever one is.
    pub fn overall(&self, mirror: MirrorIndex) -> Option<Overall> {
        self.overall.get(&mirror).copied()
    }

    /// What a client of `network` may expect of a mirror.
    pub fn estimate(
        &self,
        mirror: MirrorIndex,
        network: Option<Network>,
        now: Timestamp,
    ) -> Estimate {
        let overall = self.overall(mirror);
        let elsewhere = overall.and_then(|overall| overall.speed);
        let prior = elsewhere.or(self.usual).unwrap_or(UNMEASURED);
        let row = network.and_then(|network| self.rows.get(&(mirror, network)));
        let here = row.and_then(|row| Some((row.speed?, row.at)));
        let speed = here.map_or(prior, |((speed, samples), at)| {
            let samples = samples * weight(at, now);
            let share = samples / (samples + PRIOR_SAMPLES);
            (share * speed.ln() + (1.0 - share) * prior.ln()).exp()
        });
        let failing = row.map_or(0.0, |row| row.failing(now));
        let failing = failing.max(overall.map_or(0.0, |overall| overall.failing));
        Estimate {
            speed,
            measured: here.is_some() || elsewhere.is_some(),
            factor: ((1.0 - failing) * (1.0 - failing)).max(FACTOR_MIN),
        }
    }

    /// Rows that count.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }
}

#[cfg(test)]
#[path = "speed_tests.rs"]
mod tests;
