//! Which downloads say how fast a mirror is, and who comes first by it.
//!
//! Real downloads are the measure. A probe, whose bytes come from a nonce that no cache has seen, is made only of
//! mirrors of which nothing is known. Bytes that a cache in between gave say nothing of the mirror: a cache shows
//! itself by its headers, by an answer to a nonce that is another nonce's, or by being much faster than the probe.

use crate::time::Timestamp;

/// Downloads below this say nothing about speed, in bytes: TCP has hardly begun.
pub const SAMPLE_BYTES_MIN: u64 = 64 * 1024;
/// Bytes of a probe.
pub const PROBE_BYTES: u64 = 128 * 1024;
/// A download that is faster than the mirror's own probe by this factor came from somewhere nearer.
const CACHE_FACTOR: f64 = 8.0;
/// Below this a difference may be chance: a small probe over a fast network is all latency. Bytes a second.
const CACHE_ABOVE_BYTES_PER_S: f64 = 50.0e6;
/// What a mirror was worth halves in this time.
const HALF_LIFE_MS: f64 = 3.0 * 24.0 * 3600.0 * 1000.0;
/// After this it is as if nothing were known.
const FORGOTTEN_MS: i64 = 14 * 24 * 3600 * 1000;

/// How some bytes came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    /// How many.
    pub bytes: u64,
    /// In which time, from the request to the last byte.
    pub seconds: f64,
    /// True when the answer's headers say that a cache gave it.
    pub cached: bool,
}

/// What a transfer says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Judged {
    /// Bytes a second of the mirror.
    Speed(f64),
    /// Nothing: too few bytes, or no time.
    Nothing,
    /// Nothing of the mirror: a cache in between gave it.
    Cache,
}

/// What is remembered of a mirror.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// Bytes a second, later ones weighing more.
    pub bytes_per_s: f64,
    /// Of the last probe, if there was one.
    pub probe_bytes_per_s: Option<f64>,
    /// When it was last measured.
    pub at: Timestamp,
}

impl Known {
    /// True when it is too old to say anything.
    pub fn is_forgotten(&self, now: Timestamp) -> bool {
        now.ms_since(self.at) > FORGOTTEN_MS
    }
}

/// What a download says of its mirror, given what is known of it.
pub fn judge(transfer: &Transfer, known: Option<&Known>) -> Judged {
    if transfer.cached {
        return Judged::Cache;
    }
    if transfer.bytes < SAMPLE_BYTES_MIN || !transfer.seconds.is_finite() || transfer.seconds <= 0.0
    {
        return Judged::Nothing;
    }
    let speed = transfer.bytes as f64 / transfer.seconds;
    let probed = known.and_then(|known| known.probe_bytes_per_s);
    match probed {
        Some(probe) if speed > CACHE_ABOVE_BYTES_PER_S && speed > probe * CACHE_FACTOR => {
            Judged::Cache
        }
        Some(_) | None => Judged::Speed(speed),
    }
}

/// What is known after a measurement.
pub fn learn(known: Option<&Known>, bytes_per_s: f64, now: Timestamp) -> Known {
    let old = known.filter(|known| !known.is_forgotten(now));
    let speed = old.map_or(bytes_per_s, |old| {
        let age_ms = now.ms_since(old.at).max(0) as f64;
        // A fresh old value counts as much as the new one, an old one less.
        let weight = 0.5 * (-age_ms / HALF_LIFE_MS).exp2();
        weight * old.bytes_per_s + (1.0 - weight) * bytes_per_s
    });
    let probe_bytes_per_s = old.and_then(|old| old.probe_bytes_per_s);
    Known {
        bytes_per_s: speed,
        probe_bytes_per_s,
        at: now,
    }
}

/// What is known after a probe: its speed counts only while nothing better is known.
pub fn learn_probe(known: Option<&Known>, bytes_per_s: f64, now: Timestamp) -> Known {
    let fresh = known.filter(|known| !known.is_forgotten(now));
    let speed = fresh.map_or(bytes_per_s, |known| known.bytes_per_s);
    Known {
        bytes_per_s: speed,
        probe_bytes_per_s: Some(bytes_per_s),
        at: now,
    }
}

/// Sorts mirrors of one level: the known ones by speed in steps of an octave, the fastest first; those of which
/// nothing is known stay where the directory put them, among the others by their place.
///
/// `speeds`: in the directory's order. Gives the new order as indexes.
pub fn rank(speeds: &[Option<f64>]) -> Vec<usize> {
    let known: Vec<usize> = (0..speeds.len())
        .filter(|index| speeds[*index].is_some())
        .collect();
    let mut best = known.clone();
    let step = |index: &usize| speeds[*index].map_or(0.0, |speed| speed.max(1.0).log2().floor());
    best.sort_by(|a, b| step(b).total_cmp(&step(a)));
    let mut order: Vec<usize> = (0..speeds.len()).collect();
    for (slot, index) in known.into_iter().zip(best) {
        order[slot] = index;
    }
    order
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn transfer(bytes: u64, seconds: f64) -> Transfer {
        Transfer {
            bytes,
            seconds,
            cached: false,
        }
    }

    #[test]
    fn small_and_timeless_transfers_say_nothing() {
        assert_eq!(
            judge(&transfer(SAMPLE_BYTES_MIN - 1, 1.0), None),
            Judged::Nothing
        );
        assert_eq!(judge(&transfer(1 << 20, 0.0), None), Judged::Nothing);
        assert_eq!(judge(&transfer(1 << 20, f64::NAN), None), Judged::Nothing);
        assert_eq!(
            judge(&transfer(SAMPLE_BYTES_MIN, 0.5), None),
            Judged::Speed(131_072.0)
        );
    }

    #[test]
    fn a_cache_is_no_mirror() {
        let cached = Transfer {
            cached: true,
            ..transfer(1 << 20, 1.0)
        };
        assert_eq!(judge(&cached, None), Judged::Cache);
        let now = Timestamp::from_seconds(1000);
        let probed = learn_probe(None, 2.0e6, now);
        assert_eq!(
            judge(&transfer(100 << 20, 1.0), Some(&probed)),
            Judged::Cache
        );
        assert_eq!(
            judge(&transfer(10 << 20, 1.0), Some(&probed)),
            Judged::Speed(10_485_760.0),
            "may be chance"
        );
    }

    #[test]
    fn later_measurements_weigh_more_and_old_ones_are_forgotten() {
        let at = Timestamp::from_seconds;
        let first = learn(None, 8.0e6, at(0));
        assert_eq!(first.bytes_per_s, 8.0e6);
        assert_eq!(learn(Some(&first), 4.0e6, at(0)).bytes_per_s, 6.0e6);
        assert_eq!(
            learn(Some(&first), 4.0e6, at(3 * 86_400)).bytes_per_s,
            5.0e6
        );
        assert_eq!(
            learn(Some(&first), 4.0e6, at(15 * 86_400)).bytes_per_s,
            4.0e6
        );
        let probed = learn_probe(Some(&first), 1.0e6, at(10));
        assert_eq!(
            (probed.bytes_per_s, probed.probe_bytes_per_s),
            (8.0e6, Some(1.0e6))
        );
    }

    #[test]
    fn the_unknown_keep_their_place() {
        let order = rank(&[Some(1.0e6), None, Some(9.0e6), Some(8.5e6), None]);
        assert_eq!(order, [2, 1, 3, 0, 4]);
        assert_eq!(
            rank(&[Some(1.0e6), Some(1.02e6)]),
            [0, 1],
            "as good as equal"
        );
        assert_eq!(rank(&[]), [] as [usize; 0]);
    }
}
