//! Which build, which mirrors, in which order, and why not the others.
//!
//! **Which build.** Pools climb as clients do: the country's, the continent's, then all. A pool speaks when one of
//! its own mirrors is offered at the build that is wanted there; the newest such build of the narrowest level is
//! the answer. So a pool whose mirrors are all gone holds nobody back, and nobody is sent ahead of a quorum.
//!
//! **Which mirrors.** Complete at that build, answering, head not expired, meant for the client. Each of the
//! others has an [`ExcludeReason`].
//!
//! **Which order.** Longest netblock, AS, country, continent, world; inside a tier by speed, in steps of half an
//! octave; inside a step each client has an order of its own, in which a mirror of twice the weight comes first
//! for twice as many.

use std::fmt;
use std::net::IpAddr;

use crate::consistency::Audience;
use crate::id::{Build, ChannelId, PoolId};
use crate::statement::{RevokeReason, VerdictState};
use crate::time::Timestamp;

use super::health::Standing;
use super::member::{MirrorIndex, Profile, USUAL_WEIGHT};
use super::place::{Continent, Country, Network, Place, neighbourhood};
use super::view::{Carried, View};

/// Why a mirror is left out. The first word is for programs, the rest for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExcludeReason {
    /// It is not meant to carry the channel.
    NotCarried,
    /// It is for other networks only.
    Private,
    /// A build number was signed with two roots.
    Fork(Build),
    /// The channel's head has expired.
    Expired(Timestamp),
    /// It was not probed yet.
    Unprobed,
    /// It does not answer.
    Unreachable(Timestamp),
    /// Something else answers.
    WrongAnswer(Timestamp),
    /// It answers again, and is being checked.
    Returning {
        /// Good probes so far.
        passed: u32,
        /// Good probes that are needed.
        needed: u32,
    },
    /// Complete, and its URL for the build does not answer.
    NotServed(Build),
    /// Complete at an older build only.
    Behind(Build),
    /// Complete at a newer build, and no longer at this one.
    Ahead(Build),
    /// Whole there and not live yet.
    Verified,
    /// Not yet known to be whole.
    Pending,
    /// Nothing was said of it.
    NoVerdict,
    /// It was good, and is not any more.
    Revoked(RevokeReason),
    /// For a DNS pool: no address is known.
    NoAddress,
    /// For a DNS pool: it is not reached by HTTP at the pool's port and path.
    NotHttp,
    /// For a DNS pool: it does not carry every channel.
    Partial(ChannelId),
}

impl ExcludeReason {
    /// The word that programs match.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NotCarried => "not-carried",
            Self::Private => "private",
            Self::Fork(_) => "fork",
            Self::Expired(_) => "expired",
            Self::Unprobed => "unprobed",
            Self::Unreachable(_) => "unreachable",
            Self::WrongAnswer(_) => "wrong-answer",
            Self::Returning { .. } => "returning",
            Self::NotServed(_) => "not-served",
            Self::Behind(_) => "behind",
            Self::Ahead(_) => "ahead",
            Self::Verified => "verified",
            Self::Pending => "pending",
            Self::NoVerdict => "no-verdict",
            Self::Revoked(_) => "revoked",
            Self::NoAddress => "no-address",
            Self::NotHttp => "not-http",
            Self::Partial(_) => "partial",
        }
    }
}

impl fmt::Display for ExcludeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        match self {
            Self::NotCarried => write!(f, "{word}: the mirror does not carry this channel"),
            Self::Private => write!(f, "{word}: the mirror is for other networks"),
            Self::Fork(build) => write!(f, "{word}: build {build} was signed with two roots"),
            Self::Expired(_) => write!(f, "{word}: the channel's head has expired"),
            Self::Unprobed => write!(f, "{word}: the mirror was not probed yet"),
            Self::Unreachable(_) => write!(f, "{word}: the mirror does not answer"),
            Self::WrongAnswer(_) => {
                write!(f, "{word}: something else answers at the mirror's URL")
            }
            Self::Returning { passed, needed } => write!(
                f,
                "{word}: the mirror answers again, {passed} of {needed} checks passed"
            ),
            Self::NotServed(build) => {
                write!(
                    f,
                    "{word}: the mirror's URL of build {build} does not answer"
                )
            }
            Self::Behind(build) => write!(f, "{word}: the mirror is complete at build {build}"),
            Self::Ahead(build) => {
                write!(
                    f,
                    "{word}: the mirror is at build {build} and no longer has this one"
                )
            }
            Self::Verified => write!(f, "{word}: whole on the mirror, and not live yet"),
            Self::Pending => write!(f, "{word}: not yet known to be whole"),
            Self::NoVerdict => write!(f, "{word}: nothing is known of this build on the mirror"),
            Self::Revoked(reason) => write!(f, "{word}: {reason}"),
            Self::NoAddress => write!(f, "{word}: the mirror's address is not known"),
            Self::NotHttp => write!(
                f,
                "{word}: the mirror is not reached by plain HTTP at the pool's port and path"
            ),
            Self::Partial(channel) => write!(f, "{word}: the mirror does not carry {channel}"),
        }
    }
}

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
fn longest(profile: &Profile, address: IpAddr) -> Option<u8> {
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

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// For which channel.
    pub channel: &'a ChannelId,
    /// The build that the client pins; `None` for what is wanted.
    pub build: Option<Build>,
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

/// How wide a pool of clients is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Country(Country),
    Continent(Continent),
    World,
}

impl Level {
    fn of(place: &Place) -> impl Iterator<Item = Self> {
        let country = place.country.map(Self::Country);
        let continent = place.continent.map(Self::Continent);
        [country, continent, Some(Self::World)]
            .into_iter()
            .flatten()
    }

    fn has(self, pool: &PoolId) -> bool {
        let country = || pool.country().parse::<Country>().ok();
        match self {
            Self::Country(here) => country() == Some(here),
            Self::Continent(here) => country().and_then(Continent::of) == Some(here),
            Self::World => true,
        }
    }
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

    /// True when the channel's head has expired: nobody is offered.
    pub fn is_expired(&self, channel: &ChannelId, now: Timestamp) -> bool {
        self.channel(channel)
            .is_some_and(|carried| expired(carried, now).is_some())
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

    /// The build that a client should use: the pinned one, or what is wanted where it is.
    ///
    /// # Errors
    /// As [`View::offer`].
    pub fn build_for(&self, question: &Question<'_>) -> Result<Option<Build>, Unanswered> {
        let id = question.channel;
        let Some(carried) = self.channel(id) else {
            return Err(Unanswered::UnknownChannel(id.clone()));
        };
        let channel = &carried.channel;
        let Some(build) = question.build else {
            return Ok(self.wanted_for(carried, question));
        };
        if channel.is_retracted(build) {
            return Err(Unanswered::Retracted(id.clone(), build));
        }
        if !channel.builds.contains_key(&build) {
            return Err(Unanswered::UnknownBuild(id.clone(), build));
        }
        Ok(Some(build))
    }

    fn wanted_for(&self, carried: &Carried, question: &Question<'_>) -> Option<Build> {
        let channel = &carried.channel;
        for level in Level::of(question.place) {
            let here = channel.wanted.keys().filter(|pool| level.has(pool));
            let newest = here
                .filter_map(|pool| self.wanted_in(carried, pool, question))
                .max();
            if newest.is_some() {
                return newest;
            }
        }
        // Nobody is offered: what would be wanted still tells why.
        let wanted = channel.wanted.values().copied();
        wanted.filter(|build| !channel.is_retracted(*build)).max()
    }

    /// The build that is wanted in a pool, if a mirror of its own is offered at it.
    pub(super) fn wanted_in(
        &self,
        carried: &Carried,
        pool: &PoolId,
        question: &Question<'_>,
    ) -> Option<Build> {
        let build = *carried.channel.wanted.get(pool)?;
        // Whether a mirror of the pool is offered at all does not depend on who asks.
        let anybody = Place::default();
        let speaks = |(mirror, profile): (MirrorIndex, &Profile)| {
            profile.pool == *pool
                && profile.audience == Audience::Public
                && self
                    .exclude_in(carried, mirror, question, build, &anybody)
                    .is_none()
        };
        let stands = !carried.channel.is_retracted(build);
        (stands && self.mirrors().any(speaks)).then_some(build)
    }

    /// Why a mirror is not offered to a client for a build; `None` when it is.
    pub fn exclude(
        &self,
        mirror: MirrorIndex,
        question: &Question<'_>,
        build: Build,
    ) -> Option<ExcludeReason> {
        let Some(carried) = self.channel(question.channel) else {
            return Some(ExcludeReason::NotCarried);
        };
        self.exclude_in(carried, mirror, question, build, question.place)
    }

    fn exclude_in(
        &self,
        carried: &Carried,
        mirror: MirrorIndex,
        question: &Question<'_>,
        build: Build,
        place: &Place,
    ) -> Option<ExcludeReason> {
        let Question { channel, now, .. } = *question;
        let profile = self.profile(mirror);
        if !profile.carries(channel) {
            return Some(ExcludeReason::NotCarried);
        }
        let inside = || {
            let within = place.address.and_then(|at| longest(profile, at));
            within.is_some()
        };
        if profile.audience == Audience::Private && !inside() {
            return Some(ExcludeReason::Private);
        }
        if let Some(build) = carried.channel.fork {
            return Some(ExcludeReason::Fork(build));
        }
        if let Some(expires) = expired(carried, now) {
            return Some(ExcludeReason::Expired(expires));
        }
        let health = self.health(mirror);
        match health.standing {
            Standing::New => return Some(ExcludeReason::Unprobed),
            Standing::Up { .. } => {}
            Standing::Down { since, wrong: true } => {
                return Some(ExcludeReason::WrongAnswer(since));
            }
            Standing::Down { since, .. } => return Some(ExcludeReason::Unreachable(since)),
            Standing::Returning { passed, needed, .. } => {
                return Some(ExcludeReason::Returning { passed, needed });
            }
        }
        if let Some(reason) = incomplete(carried, mirror, build) {
            return Some(reason);
        }
        let unserved = health.unserved(channel) == Some(build);
        unserved.then_some(ExcludeReason::NotServed(build))
    }

    /// Why a mirror is not offered while no build is wanted.
    fn before_any(
        &self,
        carried: &Carried,
        mirror: MirrorIndex,
        question: &Question<'_>,
    ) -> ExcludeReason {
        let newest = carried.channel.newest().unwrap_or(Build::FIRST);
        let reason = self.exclude_in(carried, mirror, question, newest, question.place);
        // Complete, and its pool has no quorum yet.
        reason.unwrap_or(ExcludeReason::Pending)
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

/// When the channel's head expired, if it has.
fn expired(carried: &Carried, now: Timestamp) -> Option<Timestamp> {
    let head = carried.channel.head.as_ref()?;
    (head.expires <= now).then_some(head.expires)
}

fn incomplete(carried: &Carried, mirror: MirrorIndex, build: Build) -> Option<ExcludeReason> {
    if carried.channel.is_retracted(build) {
        return Some(ExcludeReason::Revoked(RevokeReason::Retracted));
    }
    let word = carried.word(mirror, build).map(|word| &word.state);
    match word {
        Some(VerdictState::Complete) => None,
        Some(VerdictState::Verified) => Some(ExcludeReason::Verified),
        Some(VerdictState::Revoked(reason)) => Some(ExcludeReason::Revoked(reason.clone())),
        Some(VerdictState::Pending) | None => {
            let pending = word.is_some();
            Some(match carried.newest_complete(mirror) {
                Some(newest) if newest > build => ExcludeReason::Ahead(newest),
                Some(newest) => ExcludeReason::Behind(newest),
                None if pending => ExcludeReason::Pending,
                None => ExcludeReason::NoVerdict,
            })
        }
    }
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

/// The finalizer of SplitMix64: each bit of the input changes half of the output.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A number in [0, 1).
pub(super) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
