//! Members of the pools. Looking at a thousand mirrors for each question would be most of its cost, so they are
//! remembered for as long as the view stands, and for some seconds at most: addresses change without it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mirrorlog_core::directory::View;
use mirrorlog_core::directory::member::MirrorIndex;
use mirrorlog_core::directory::place::{Continent, Country, Place};
use mirrorlog_core::directory::pool::{PoolName, PoolQuestion, Region};
use mirrorlog_core::id::ChannelId;
use mirrorlog_core::time::Timestamp;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::site::Site;

/// Pools that are remembered, about.
const POOLS_MAX: usize = 4096;
/// Addresses in all of them, about 100 bytes each.
const KEPT_MAX: u64 = 250_000;
/// They are made anew after this time, in milliseconds.
const FRESH_MS: i64 = 10_000;
/// Addresses in an answer.
const ADDRESSES_MAX: usize = 4;

/// What the members depend on: the view, and how many heads time alone made expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Edition {
    membership: u64,
    expired: usize,
}

impl Edition {
    /// True when this is not the edition that was seen, and no older view's.
    pub(super) fn replaces(self, seen: Self) -> bool {
        self != seen && self.membership >= seen.membership
    }
}

/// All that the members depend on. Where somebody asks from is no more than a country here.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    edition: Edition,
    window: i64,
    name: PoolName,
    near: (Option<Country>, Option<Continent>),
}

/// Addresses of one family, by mirror.
type Side = BTreeMap<MirrorIndex, Vec<IpAddr>>;

/// A pool as it is answered from.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Members {
    /// `channel=build`, of each channel.
    pub(super) builds: Vec<String>,
    pub(super) v4: Side,
    pub(super) v6: Side,
}

/// Weighs a pool by its addresses; its name and its builds count as some more.
#[derive(Clone)]
struct ByAddresses;

impl Weighter<Key, Arc<Members>> for ByAddresses {
    fn weight(&self, _key: &Key, members: &Arc<Members>) -> u64 {
        let sides = members.v4.values().chain(members.v6.values());
        let count = sides.map(Vec::len).sum::<usize>() + members.builds.len();
        u64::try_from(count).unwrap_or(KEPT_MAX) + 8
    }
}

/// Draws at most four addresses, another sample each time. Mirrors of more weight come more often.
pub(super) fn draw(side: &Side, view: &View, random: u64) -> Vec<IpAddr> {
    let mirrors: Vec<MirrorIndex> = side.keys().copied().collect();
    let drawn = view.draw(&mirrors, ADDRESSES_MAX, random);
    // The first address of each, then the second ones: a mirror with many crowds nobody out.
    let nth = |nth| {
        let of = move |mirror| side.get(mirror).and_then(|all| all.get(nth)).copied();
        drawn.iter().filter_map(of)
    };
    (0..ADDRESSES_MAX)
        .flat_map(nth)
        .take(ADDRESSES_MAX)
        .collect()
}

/// The pools of the zone.
pub(super) struct Pools {
    site: Arc<Site>,
    channels: Vec<ChannelId>,
    port: u16,
    known: Cache<Key, Arc<Members>, ByAddresses>,
}

impl Pools {
    pub(super) fn new(site: Arc<Site>, channels: Vec<ChannelId>, port: u16) -> Self {
        Self {
            site,
            channels,
            port,
            known: Cache::with_weighter(POOLS_MAX, KEPT_MAX, ByAddresses),
        }
    }

    pub(super) fn edition(&self, view: &View, now: Timestamp) -> Edition {
        let ours = |id: &ChannelId| self.channels.is_empty() || self.channels.contains(id);
        let expired = view
            .channels()
            .filter(|(id, _)| ours(id) && view.is_expired(id, now));
        Edition {
            membership: view.membership(),
            expired: expired.count(),
        }
    }

    /// The members of a pool, for somebody at `place`.
    pub(super) fn of(
        &self,
        view: &View,
        edition: Edition,
        name: &PoolName,
        place: &Place,
        now: Timestamp,
    ) -> Arc<Members> {
        let near = match name.region {
            Region::Near => (place.country, place.continent),
            Region::World | Region::Continent(_) | Region::Country(_) | Region::Pool(_) => {
                (None, None)
            }
        };
        let key = Key {
            edition,
            window: now.as_ms().div_euclid(FRESH_MS),
            name: name.clone(),
            near,
        };
        if let Some(members) = self.known.get(&key) {
            return members;
        }
        let members = Arc::new(self.look(view, name, near, now));
        self.known.insert(key, Arc::clone(&members));
        members
    }

    fn look(
        &self,
        view: &View,
        name: &PoolName,
        (country, continent): (Option<Country>, Option<Continent>),
        now: Timestamp,
    ) -> Members {
        let asker = Place {
            country,
            continent,
            ..Place::default()
        };
        let question = PoolQuestion {
            name,
            asker: &asker,
            channels: &self.channels,
            now,
        };
        let reachable = |mirror| self.site.unreachable_by_name(mirror, self.port);
        let pool = view.pool(&question, reachable);
        let text = |(channel, build)| format!("{channel}={build}");
        let mut members = Members {
            builds: pool.builds.iter().map(text).collect(),
            ..Members::default()
        };
        for mirror in pool.members {
            for address in self.site.addresses.of(mirror) {
                let address = address.to_canonical();
                let side = match address {
                    IpAddr::V4(_) => &mut members.v4,
                    IpAddr::V6(_) => &mut members.v6,
                };
                side.entry(mirror).or_default().push(address);
            }
        }
        members
    }
}
