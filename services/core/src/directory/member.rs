//! A mirror as the directory's configuration and the mirror itself declare it.

use ipnet::IpNet;

use super::place::{Asn, Continent, Country};
use crate::consistency::Audience;
use crate::id::{ChannelId, Digest, MirrorId, PoolId};

/// The weight of a mirror that says nothing else.
pub const USUAL_WEIGHT: u32 = 100;

/// A mirror of the directory. Everything about it that does not change while the service runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Its id.
    pub mirror: MirrorId,
    /// Its pool.
    pub pool: PoolId,
    /// Its country: declared, else its pool's.
    pub country: Option<Country>,
    /// Its continent: declared, else its country's.
    pub continent: Option<Continent>,
    /// Its autonomous system: declared, else looked up.
    pub asn: Option<Asn>,
    /// Clients in these networks come first. For a private mirror: nobody else is sent to it.
    pub netblocks: Vec<IpNet>,
    /// Whether everybody may be sent to it, or only its netblocks.
    pub audience: Audience,
    /// Share of the clients among mirrors of equal speed, relative to others; [`USUAL_WEIGHT`] by default.
    pub weight: u32,
    /// The channels that it carries; empty for all.
    pub channels: Vec<ChannelId>,
}

impl Profile {
    /// A public mirror of a pool, with all else following from that.
    pub fn new(mirror: MirrorId, pool: PoolId) -> Self {
        let country = pool.country().parse::<Country>().ok();
        Self {
            mirror,
            country,
            continent: country.and_then(Continent::of),
            pool,
            asn: None,
            netblocks: Vec::new(),
            audience: Audience::Public,
            weight: USUAL_WEIGHT,
            channels: Vec::new(),
        }
    }

    /// True when the mirror is meant to carry `channel`.
    pub fn carries(&self, channel: &ChannelId) -> bool {
        self.channels.is_empty() || self.channels.contains(channel)
    }

    /// A number of the mirror's own, for spreading clients.
    pub(super) fn seed(&self) -> u64 {
        let digest = Digest::of(self.mirror.as_str().as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// A mirror's position among the directory's mirrors, which are in order of id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorIndex(pub(super) u32);

impl MirrorIndex {
    /// The position.
    pub fn get(self) -> usize {
        self.0 as usize
    }
}
