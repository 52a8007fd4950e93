//! How much of a server one network may take: an IPv4 /24 or an IPv6 /48, which one household or office has.
//!
//! | bound | stops |
//! | --- | --- |
//! | [`NetworkLimits::connections`] | one network that takes every place there is |
//! | [`NetworkLimits::requests_per_s`] | one network that asks faster than others can be answered |
//! | [`NETWORKS_MAX`] buckets | millions of networks, which an IPv6 prefix has, that fill the memory |
//! | a full table is looked through once in [`SWEEP_PAUSE`] | newcomers of which each costs a walk over the table |

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use ipnet::IpNet;
use mirrorlog_core::directory::place::neighbourhood;
use serde::Deserialize;

/// Networks whose requests are counted one by one; when so many have asked within a moment, further ones share one
/// bucket until some may be forgotten.
const NETWORKS_MAX: usize = 65_536;
/// A full table is looked through for room at most once in this time.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// What one network may take.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkLimits {
    /// Connections at a time; further ones are told 429 and closed. 0: as many as there are.
    pub connections: u32,
    /// Requests a second, in the long run; further ones are told 429. 0: as many as come.
    pub requests_per_s: u32,
    /// Requests that may come at once.
    pub burst: u32,
    /// Networks for which there is no limit: the machine itself, proxies, monitors.
    pub exempt: Vec<IpNet>,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            requests_per_s: 500,
            burst: 5000,
            exempt: loopback(),
        }
    }
}

fn loopback() -> Vec<IpNet> {
    let nets = ["127.0.0.0/8", "::1/128"].map(str::parse);
    nets.into_iter().flatten().collect()
}

type Buckets = RateLimiter<
    IpNet,
    HashMapStateStore<IpNet>,
    MonotonicClock,
    NoOpMiddleware<<MonotonicClock as Clock>::Instant>,
>;

/// Who is connected, and how much was asked lately. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Networks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: NetworkLimits,
    connected: Mutex<HashMap<IpNet, u32>>,
    buckets: Option<Buckets>,
    networks_max: usize,
    /// When the table was last looked through.
    swept: Mutex<Option<tokio::time::Instant>>,
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    networks: Networks,
    network: Option<IpNet>,
}

impl Networks {
    /// Nobody is connected yet.
    pub fn new(limits: NetworkLimits) -> Self {
        Self::with_table(limits, NETWORKS_MAX)
    }

    fn with_table(limits: NetworkLimits, networks_max: usize) -> Self {
        let quota = NonZeroU32::new(limits.requests_per_s).map(|rate| {
            Quota::per_second(rate).allow_burst(NonZeroU32::new(limits.burst).unwrap_or(rate))
        });
        Self(Arc::new(Inner {
            limits,
            connected: Mutex::default(),
            buckets: quota.map(|quota| RateLimiter::hashmap_with_clock(quota, MonotonicClock)),
            networks_max,
            swept: Mutex::default(),
        }))
    }

    /// A place for one more connection; none when its network has as many as it may.
    pub fn enter(&self, peer: IpAddr) -> Option<Place> {
        let most = self.0.limits.connections;
        let network = (most > 0 && !self.is_exempt(peer)).then(|| neighbourhood(peer));
        if let Some(network) = network {
            let mut connected = self.connected();
            let here = connected.entry(network).or_default();
            if *here >= most {
                return None;
            }
            *here += 1;
        }
        Some(Place {
            networks: self.clone(),
            network,
        })
    }

    /// Counts a request.
    ///
    /// # Errors
    /// How long to wait, when the client's network asks too much.
    pub fn ask(&self, client: IpAddr) -> Result<(), Duration> {
        let Some(buckets) = self.0.buckets.as_ref().filter(|_| !self.is_exempt(client)) else {
            return Ok(());
        };
        let network = if self.has_room(buckets) {
            neighbourhood(client)
        } else {
            IpNet::default()
        };
        buckets
            .check_key(&network)
            .map_err(|refused| refused.wait_time_from(MonotonicClock.now()))
    }

    /// Forgets who may ask as much as if it had never asked, where that makes room.
    fn has_room(&self, buckets: &Buckets) -> bool {
        if buckets.len() < self.0.networks_max {
            return true;
        }
        let now = tokio::time::Instant::now();
        {
            let mut swept = self.0.swept.lock().unwrap_or_else(PoisonError::into_inner);
            if swept.is_some_and(|at| now.duration_since(at) < SWEEP_PAUSE) {
                return false;
            }
            *swept = Some(now);
        }
        buckets.retain_recent();
        buckets.len() < self.0.networks_max
    }

    fn is_exempt(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0
            .limits
            .exempt
            .iter()
            .any(|net| net.contains(&address))
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<IpNet, u32>> {
        let connected = self.0.connected.lock();
        connected.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(network) = self.network else { return };
        let mut connected = self.networks.connected();
        if let Some(here) = connected.get_mut(&network) {
            *here -= 1;
            if *here == 0 {
                connected.remove(&network);
            }
        }
    }
}

/// Goes back from the peer through the addresses that trusted proxies wrote down, to the first that is none.
///
/// What is no address ends the way: nothing to the left of it is believed.
pub fn client_behind(proxies: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let trusted = |at: IpAddr| proxies.iter().any(|net| net.contains(&at));
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    // By bytes: a line of which one part is no text must not be passed over for the line before.
    let mut words = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut client = peer.to_canonical();
    while trusted(client)
        && let Some(word) = words.next()
    {
        let address = std::str::from_utf8(word)
            .ok()
            .and_then(|text| text.trim().parse::<IpAddr>().ok());
        let Some(address) = address else {
            break;
        };
        client = address.to_canonical();
    }
    client
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Instant;

    use super::*;

    fn limits(connections: u32, requests_per_s: u32, burst: u32) -> NetworkLimits {
        NetworkLimits {
            connections,
            requests_per_s,
            burst,
            exempt: loopback(),
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_are_counted_by_network_and_given_back() {
        let networks = Networks::new(limits(2, 0, 0));
        let [one, two] = ["192.0.2.1", "::ffff:192.0.2.200"].map(|at| networks.enter(address(at)));
        assert!(one.is_some() && two.is_some());
        assert!(networks.enter(address("192.0.2.77")).is_none());
        assert!(
            networks.enter(address("192.0.3.77")).is_some(),
            "another /24"
        );
        drop(one);
        assert!(networks.enter(address("192.0.2.77")).is_some());
        drop(two);
        assert_eq!(networks.connected().len(), 0, "nobody is remembered");
        let places: Vec<_> = (0..100)
            .map(|_| networks.enter(address("127.0.0.1")))
            .collect();
        assert!(places.iter().all(Option::is_some), "the machine itself");
    }

    #[test]
    fn a_network_that_asks_too_much_waits_and_others_do_not() {
        let networks = Networks::new(limits(0, 1, 10));
        let asked = (0..255).filter(|host| {
            let host = Ipv4Addr::new(192, 0, 2, *host);
            networks.ask(host.into()).is_ok()
        });
        assert_eq!(asked.count(), 10);
        let wait = networks.ask(address("192.0.2.1")).unwrap_err();
        assert!(
            wait <= Duration::from_secs(1) && wait > Duration::from_millis(500),
            "{wait:?}"
        );
        assert!(networks.ask(address("192.0.3.1")).is_ok());
        let v6 = (0..100_u16).filter(|subnet| {
            let host = Ipv6Addr::new(0x2001, 0xdb8, 1, *subnet, 1, 2, 3, *subnet);
            networks.ask(host.into()).is_ok()
        });
        assert_eq!(v6.count(), 10, "a /48 is one network");
        assert!((0..1000).all(|_| networks.ask(address("::1")).is_ok()));
    }

    #[test]
    fn nothing_is_limited_where_the_operator_says_so() {
        let networks = Networks::new(limits(0, 0, 0));
        let places: Vec<_> = (0..1000)
            .map(|_| networks.enter(address("192.0.2.1")))
            .collect();
        assert!(places.iter().all(Option::is_some));
        assert!((0..100_000).all(|_| networks.ask(address("192.0.2.1")).is_ok()));
    }

    fn ipv6_network(number: u32) -> IpAddr {
        let [high, low] = [number >> 16, number & 0xffff].map(|half| half as u16);
        Ipv6Addr::new(0x2001, high, low, 0, 0, 0, 0, 1).into()
    }

    #[test]
    fn a_million_ipv6_networks_share_a_table() {
        let (begun, networks) = (Instant::now(), Networks::new(limits(0, 1, 3)));
        let answered = (0..1_000_000).filter(|number| networks.ask(ipv6_network(*number)).is_ok());
        let (answered, table) = (answered.count(), networks.0.buckets.as_ref().unwrap().len());
        assert!(table <= NETWORKS_MAX + 1, "{table}");
        // Each has its first request, and what is above the table shares one bucket. Once a second those are forgotten whose
        // bucket is full again.
        let tables = 2 + usize::try_from(begun.elapsed().as_secs()).unwrap();
        assert!(
            (NETWORKS_MAX..tables * NETWORKS_MAX).contains(&answered),
            "{answered}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_is_looked_through_once_in_a_while() {
        let networks = Networks::with_table(limits(0, 1_000_000, 1), 4);
        let table = || networks.0.buckets.as_ref().unwrap().len();
        for number in 0..4 {
            networks.ask(ipv6_network(number)).unwrap();
        }
        assert_eq!(table(), 4);
        // Their buckets are full again at once: whoever finds the table full makes room.
        std::thread::sleep(Duration::from_millis(2));
        networks.ask(ipv6_network(4)).unwrap();
        assert_eq!(table(), 1);
        for number in 5..9 {
            // Some share a bucket by now.
            networks.ask(ipv6_network(number)).ok();
        }
        assert_eq!(table(), 5, "four of their own, and the one that is shared");
        tokio::time::advance(SWEEP_PAUSE).await;
        std::thread::sleep(Duration::from_millis(2));
        networks.ask(ipv6_network(10)).unwrap();
        assert_eq!(table(), 1);
    }
}
