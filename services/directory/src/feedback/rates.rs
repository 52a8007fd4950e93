//! How much each neighbourhood and each network may say: buckets that fill with time.
//!
//! | bound | stops |
//! | --- | --- |
//! | [`RATES_MAX`] buckets of each sort | a flood of newcomers that fills the memory |
//! | a full map is looked through once in [`SWEEP_PAUSE`] | newcomers of which each costs a walk over the map |
//! | the network is asked first | one network that fills the map of neighbourhoods |
//! | [`Rates::sweep`] each minute | a neighbourhood that is remembered longer than its limit needs |

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use mirrorlog_core::directory::place::{Network, neighbourhood};
use tokio::time::Instant;

use crate::config::FeedbackSection;

/// Buckets that are kept, of neighbourhoods and of networks each.
const RATES_MAX: usize = 65_536;
/// A full map is looked through for room at most once in this time; until then newcomers are refused.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);

/// What was said lately, by whom.
pub(super) struct Rates {
    sources: Buckets<u64>,
    networks: Buckets<Network>,
    /// Makes numbers of neighbourhoods, which nobody outside of this process can make.
    secret: RandomState,
}

impl Rates {
    pub(super) fn new(limits: &FeedbackSection) -> Self {
        Self {
            sources: Buckets::new(limits.per_source),
            networks: Buckets::new(limits.per_network),
            secret: RandomState::new(),
        }
    }

    /// Whether one more sample is within both limits; counts it when it is. What is refused for its neighbourhood
    /// is not counted against the network, or one household could silence it.
    pub(super) fn allow(&mut self, address: IpAddr, network: Network, now: Instant) -> bool {
        let source = self.secret.hash_one(neighbourhood(address));
        self.networks.has_one(network, now)
            && self.sources.take_one(source, now)
            && self.networks.take_one(network, now)
    }

    /// Forgets who may say as much as if it had said nothing: each, a minute after its last sample at the latest.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.sources.sweep(now);
        self.networks.sweep(now);
    }
}

struct Buckets<K> {
    most: f64,
    levels: BTreeMap<K, Level>,
    /// When it was last looked through.
    swept: Option<Instant>,
}

/// How much was left, and when.
struct Level {
    left: f64,
    since: Instant,
}

impl<K: Ord + Copy> Buckets<K> {
    fn new(per_minute: u32) -> Self {
        Self {
            most: f64::from(per_minute),
            levels: BTreeMap::new(),
            swept: None,
        }
    }

    fn has_one(&mut self, key: K, now: Instant) -> bool {
        self.left(key, now).is_some_and(|left| left >= 1.0)
    }

    fn take_one(&mut self, key: K, now: Instant) -> bool {
        let left = self.left(key, now).filter(|left| *left >= 1.0);
        let Some(left) = left else { return false };
        let level = Level {
            left: left - 1.0,
            since: now,
        };
        self.levels.insert(key, level);
        true
    }

    /// How much a key has left; none when it is a newcomer for whom there is no room.
    fn left(&mut self, key: K, now: Instant) -> Option<f64> {
        if let Some(level) = self.levels.get(&key) {
            return Some(level.filled(self.most, now));
        }
        if self.levels.len() >= RATES_MAX {
            let lately = |swept| now.duration_since(swept) < SWEEP_PAUSE;
            if self.swept.is_none_or(|swept| !lately(swept)) {
                self.sweep(now);
            }
        }
        (self.levels.len() < RATES_MAX).then_some(self.most)
    }

    /// Who is forgotten starts with a full bucket when it speaks again, which is the same.
    fn sweep(&mut self, now: Instant) {
        let most = self.most;
        self.levels
            .retain(|_, level| level.filled(most, now) < most);
        self.swept = Some(now);
    }
}

impl Level {
    fn filled(&self, most: f64, now: Instant) -> f64 {
        let minutes = now.duration_since(self.since).as_secs_f64() / 60.0;
        (self.left + minutes * most).min(most)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NETWORK: Network = Network::V4Block(1);

    fn rates(per_source: u32, per_network: u32) -> Rates {
        Rates::new(&FeedbackSection {
            accept: true,
            per_source,
            per_network,
        })
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_flood_is_cut_off_by_source_and_by_network() {
        let mut rates = rates(30, 600);
        let begun = Instant::now();
        let mut from = |address: String, at| rates.allow(address.parse().unwrap(), NETWORK, at);
        let lies = (0..10_000).filter(|lie| from(format!("10.0.0.{}", lie % 256), begun));
        assert_eq!(lies.count(), 30, "one neighbourhood");
        let lies = (0..10_000).filter(|lie| from(format!("10.0.{}.1", lie % 250 + 1), begun));
        assert_eq!(lies.count(), 570, "one network, the thirty before counted");
        let later = begun + seconds(60);
        assert!(
            from("10.0.0.1".to_owned(), later),
            "a minute later it may speak again"
        );
    }

    #[test]
    fn a_network_over_its_limit_fills_no_map() {
        let mut rates = rates(30, 600);
        let now = Instant::now();
        for neighbour in 0..10_000_u32 {
            let address = std::net::Ipv4Addr::from_bits(neighbour << 8);
            rates.allow(address.into(), NETWORK, now);
        }
        assert_eq!(rates.sources.levels.len(), 600);
    }

    #[test]
    fn a_full_map_costs_one_walk_in_ten_seconds() {
        let mut buckets = Buckets::new(30);
        let begun = Instant::now();
        let newcomers = RATES_MAX as u64..;
        for key in 0..RATES_MAX as u64 {
            assert!(buckets.take_one(key, begun));
        }
        let mut newcomer = newcomers.into_iter();
        let mut refused = |buckets: &mut Buckets<u64>, at| {
            let refused = !buckets.take_one(newcomer.next().unwrap(), at);
            (refused, buckets.swept, buckets.levels.len())
        };
        assert_eq!(
            refused(&mut buckets, begun),
            (true, Some(begun), RATES_MAX),
            "nobody can be forgotten yet"
        );
        // All could be from the second second on, and nobody looks.
        let nearly = begun + seconds(9);
        for _ in 0..1000 {
            assert_eq!(
                refused(&mut buckets, nearly),
                (true, Some(begun), RATES_MAX)
            );
        }
        assert!(buckets.take_one(0, nearly), "who is known goes on");
        let later = begun + SWEEP_PAUSE;
        assert_eq!(refused(&mut buckets, later), (false, Some(later), 2));
    }

    #[test]
    fn nobody_is_remembered_longer_than_the_limit_needs() {
        let mut rates = rates(30, 600);
        let begun = Instant::now();
        let address = "2001:db8:1::1".parse().unwrap();
        while rates.allow(address, NETWORK, begun) {}
        rates.sweep(begun + seconds(59));
        assert_eq!(rates.sources.levels.len(), 1);
        assert!(
            rates.sources.levels.values().all(|level| level.left < 1.0),
            "sweeping gives nothing back"
        );
        rates.sweep(begun + seconds(60));
        assert_eq!(rates.sources.levels.len(), 0);
        assert_eq!(rates.networks.levels.len(), 0);
    }

    #[test]
    fn a_limit_of_none_refuses_everybody_and_remembers_nobody() {
        let mut rates = rates(0, 600);
        assert!(!rates.allow("10.0.0.1".parse().unwrap(), NETWORK, Instant::now()));
        assert_eq!(rates.sources.levels.len(), 0);
        assert_eq!(rates.networks.levels.len(), 0);
    }
}
