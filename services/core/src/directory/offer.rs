//! Which mirrors, in which order.
//!
//! **Which mirrors.** Complete at that build, answering, head not expired, meant for the client. Each of the
//! others has an [`ExcludeReason`](super::exclude::ExcludeReason). Which build that is says `climb`.
//!
//! **Which order.** Longest netblock, AS, country, continent, world; inside a tier by speed, in steps of half an
//! octave; inside a step each client has an order of its own, in which a mirror of twice the weight comes first
//! for twice as many.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::id::{Build, ChannelId};
use crate::mix::mix;
use crate::path::EntryPath;
use crate::time::Timestamp;

use super::exclude::ExcludeReason;
use super::member::{MirrorIndex, Profile, USUAL_WEIGHT};
use super::place::{Continent, Country, Network, Place, neighbourhood};
use super::view::View;

/// How near a mirror is to a client; the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The client is in one of its netblocks; by how much shorter than 128 bits the prefix is.
    Netblock(u8),
    /// In the same autonomous system.
    As,
    /// In the same country.
    Country,
    /// On the same continent.
    Continent,
    /// Elsewhere.
    World,
}

impl Tier {
    /// The tier as it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Netblock(_) => "netblock",
            Self::As => "as",
            Self::Country => "country",
            Self::Continent => "continent",
            Self::World => "world",
        }
    }

    /// The tier of a mirror for a client.
    pub fn of(profile: &Profile, place: &Place) -> Self {
        if let Some(length) = place.address.and_then(|at| longest(profile, at)) {
            return Self::Netblock(128 - length);
        }
        let both = |a: bool, b: bool| a && b;
        if both(place.asn.is_some(), profile.asn == place.asn) {
            Self::As
        } else if both(place.country.is_some(), profile.country == place.country) {
            Self::Country
        } else if both(
            place.continent.is_some(),
            profile.continent == place.continent,
        ) {
            Self::Continent
        } else {
            Self::World
        }
    }
}

/// The longest prefix of a mirror's netblocks around an address; IPv4 as if mapped into IPv6, so that lengths compare.
pub(super) fn longest(profile: &Profile, address: IpAddr) -> Option<u8> {
    let address = address.to_canonical();
    let around = profile
        .netblocks
        .iter()
        .filter(|block| block.contains(&address));
    let length = |block: &ipnet::IpNet| match block {
        ipnet::IpNet::V4(block) => 96 + block.prefix_len(),
        ipnet::IpNet::V6(block) => block.prefix_len(),
    };
    around.map(length).max()
}

/// A mirror in its place among those that are offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Which.
    pub mirror: MirrorIndex,
    /// How near.
    pub tier: Tier,
    /// Higher is better; compares within a tier. About bytes a second.
    pub score: f64,
}

/// What of a channel a client needs: whoever lacks some of it is not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Needs<'a> {
    /// Whatever there is.
    #[default]
    Everything,
    /// What is of these architectures and components; an empty set stands for all.
    Part {
        /// The architectures.
        architectures: &'a BTreeSet<String>,
        /// The components.
        components: &'a BTreeSet<String>,
    },
    /// This path.
    Path(&'a EntryPath),
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// For which channel.
    pub channel: &'a ChannelId,
    /// The build that the client pins; `None` for what is wanted.
    pub build: Option<Build>,
    /// What of it is needed.
    pub needs: Needs<'a>,
    /// Where the client is.
    pub place: &'a Place,
    /// Now.
    pub now: Timestamp,
}

/// Why there is no answer at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// No such channel.
    #[error("channel {0} is not known here")]
    UnknownChannel(ChannelId),
    /// No such build, or not yet.
    #[error("build {1} of {0} is not known here")]
    UnknownBuild(ChannelId, Build),
    /// The build was taken back.
    #[error("build {1} of {0} was taken back by the archive")]
    Retracted(ChannelId, Build),
}

/// The answer: a build and the mirrors that have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// The build; `None` while none is wanted anywhere.
    pub build: Option<Build>,
    /// The best first; may be empty.
    pub ranked: Vec<Ranked>,
}

impl View {
    /// The mirrors for a client, the best first, and the build that they are offered for.
    ///
    /// # Errors
    /// [`Unanswered`] for a channel or a build that nobody may be asked for.
    pub fn offer(&self, question: &Question<'_>) -> Result<Offer, Unanswered> {
        let build = self.build_for(question)?;
        let mut ranked = Vec::new();
        if let (Some(build), Some(carried)) = (build, self.channel(question.channel)) {
            let network = Network::of(question.place);
            let spread = spread(question.place);
            for (mirror, profile) in self.mirrors() {
                let excluded = self.exclude_in(carried, mirror, question, build, question.place);
                if excluded.is_none() {
                    ranked.push(Ranked {
                        mirror,
                        tier: Tier::of(profile, question.place),
                        score: self.score(mirror, network, spread, question.now),
                    });
                }
            }
        }
        ranked.sort_by(|a, b| a.tier.cmp(&b.tier).then(b.score.total_cmp(&a.score)));
        Ok(Offer { build, ranked })
    }

    /// What kind of place it is.
    pub fn kind_of(&self, place: &Place) -> PlaceKind {
        let lengths = self.bounded.iter().filter_map(|mirror| {
            let length = longest(self.profile(*mirror), place.address?)?;
            Some(u64::from(mirror.0) << 8 | u64::from(length))
        });
        PlaceKind {
            country: place.country,
            continent: place.continent,
            network: Network::of(place),
            known_as: place.asn.is_some(),
            spread: spread(place),
            inside: lengths.fold(0, |sum, one| mix(sum ^ one)),
        }
    }

    /// The mirrors that are left out, and why; in order of id.
    ///
    /// # Errors
    /// As [`View::offer`].
    pub fn excluded(
        &self,
        question: &Question<'_>,
    ) -> Result<Vec<(MirrorIndex, ExcludeReason)>, Unanswered> {
        let build = self.build_for(question)?;
        let Some(carried) = self.channel(question.channel) else {
            return Ok(Vec::new());
        };
        let reason = |(mirror, _)| {
            let reason = match build {
                Some(build) => self.exclude_in(carried, mirror, question, build, question.place)?,
                None => self.before_any(carried, mirror, question),
            };
            Some((mirror, reason))
        };
        Ok(self.mirrors().filter_map(reason).collect())
    }

    fn score(
        &self,
        mirror: MirrorIndex,
        network: Option<Network>,
        spread: u64,
        now: Timestamp,
    ) -> f64 {
        let estimate = self.speeds().estimate(mirror, network, now);
        let speed = (estimate.speed * estimate.factor).max(1.0);
        let step = ((speed.log2() * 2.0).floor() / 2.0).exp2();
        // Weighted rendezvous hashing: of n mirrors each is first for its share of the clients.
        let seed = self.seeds.get(mirror.get()).copied().unwrap_or(0);
        let drawn = unit(mix(seed ^ mix(spread)));
        let weight = f64::from(self.profile(mirror).weight.max(1)) / f64::from(USUAL_WEIGHT);
        // Below the next step, which is 1.414 times this one.
        step * (1.0 + 0.4 * drawn.powf(1.0 / weight))
    }
}

/// Moves a random one of the mirrors below the second place to the third: of three suggested, two are the best.
/// It is drawn from the third's own tier, so that nobody is sent around the world for an experiment.
pub fn explore(ranked: &mut [Ranked], random: u64) {
    let Some(third) = ranked.get(2).map(|one| one.tier) else {
        return;
    };
    let same = ranked[2..].iter().filter(|one| one.tier == third).count() as u64;
    let drawn = usize::try_from(random % same.max(1)).unwrap_or(0);
    ranked[2..=2 + drawn].rotate_right(1);
}

/// Groups of clients that have one order of the mirrors.
const SPREAD_GROUPS: u64 = 1024;

/// The group of a client: neighbours are sent to the same mirrors, whose caches are warm.
pub fn spread(place: &Place) -> u64 {
    let Some(address) = place.address else {
        return 0;
    };
    let bits = match neighbourhood(address).network() {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => u64::try_from(u128::from(v6) >> 64).unwrap_or(0),
    };
    mix(bits) % SPREAD_GROUPS
}

/// Everything of a place that an offer depends on, and no more: offers of one view to equal kinds are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlaceKind {
    country: Option<Country>,
    continent: Option<Continent>,
    network: Option<Network>,
    known_as: bool,
    spread: u64,
    /// Of the netblocks around the address.
    inside: u64,
}

/// A number in [0, 1).
pub(super) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
