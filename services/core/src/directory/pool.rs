//! DNS pools: `nz.<zone>`, `oceania.<zone>`, `world.<zone>`, `0.nz.<zone>` to `3.nz.<zone>`.
//!
//! Whoever asks a pool uses live URLs and sees no build in them. So a pool holds mirrors of one build only: those
//! that are live at the build that most mirrors of the region have; and a member carries every channel, for names
//! know no channels.

use std::collections::BTreeMap;

use crate::consistency::Audience;
use crate::id::{Build, ChannelId, PoolId};
use crate::mix::mix;
use crate::time::Timestamp;

use super::exclude::ExcludeReason;
use super::member::{MirrorIndex, Profile};
use super::offer::{Question, unit};
use super::place::{Continent, Country, Place};
use super::view::{Carried, View};

/// Numbered pools beside each pool: `0` to `3`.
pub const PARTS: u8 = 4;

/// Where a pool's mirrors are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Region {
    /// The zone's own name: near whoever asks.
    Near,
    /// All of them.
    World,
    /// On a continent.
    Continent(Continent),
    /// In a country.
    Country(Country),
    /// A pool of the configuration that is no country, such as `us-west`.
    Pool(PoolId),
}

/// A pool's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolName {
    /// Which quarter of the mirrors; `None` for all of them.
    pub part: Option<u8>,
    /// Of which region.
    pub region: Region,
}

impl PoolName {
    /// Reads the labels in front of the zone, in lower case, the leftmost first. `None` for no pool's name.
    pub fn parse(labels: &[&str]) -> Option<Self> {
        let part = |label: &str| {
            label
                .parse::<u8>()
                .ok()
                .filter(|part| *part < PARTS && label.len() == 1)
        };
        let (part, region) = match labels {
            [] => (None, Region::Near),
            [one] => match part(one) {
                Some(part) => (Some(part), Region::Near),
                None => (None, region(one)?),
            },
            [number, one] => (Some(part(number)?), region(one)?),
            _deeper => return None,
        };
        Some(Self { part, region })
    }
}

fn region(label: &str) -> Option<Region> {
    if label == "world" {
        return Some(Region::World);
    }
    if let Some(continent) = Continent::from_name(label) {
        return Some(Region::Continent(continent));
    }
    if let Ok(country) = label.parse::<Country>() {
        return Some(Region::Country(country));
    }
    PoolId::new(label).ok().map(Region::Pool)
}

impl Region {
    fn has(&self, profile: &Profile) -> bool {
        match self {
            Self::Near | Self::World => true,
            Self::Continent(continent) => profile.continent == Some(*continent),
            Self::Country(country) => profile.country == Some(*country),
            Self::Pool(pool) => profile.pool == *pool,
        }
    }

    /// The regions around a place, the narrowest first.
    fn around(place: &Place) -> impl Iterator<Item = Self> {
        let country = place.country.map(Self::Country);
        let continent = place.continent.map(Self::Continent);
        [country, continent, Some(Self::World)]
            .into_iter()
            .flatten()
    }

    /// Where its clients are taken to be.
    fn place(&self, asker: &Place) -> Place {
        match self {
            Self::Near => *asker,
            Self::World => Place::default(),
            Self::Continent(continent) => Place::on_continent(*continent),
            Self::Country(country) => Place::in_country(*country),
            Self::Pool(pool) => {
                let country = pool.country().parse::<Country>();
                country.map(Place::in_country).unwrap_or_default()
            }
        }
    }
}

/// What a pool's name stands for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    /// The build of each channel that its members serve.
    pub builds: BTreeMap<ChannelId, Build>,
    /// Its members; for [`Region::Near`] the nearest ones only.
    pub members: Vec<MirrorIndex>,
}

/// What is asked of the pools.
#[derive(Clone, Copy, Debug)]
pub struct PoolQuestion<'a> {
    /// The name.
    pub name: &'a PoolName,
    /// Who asks: the resolver, as far as its place is known.
    pub asker: &'a Place,
    /// The channels that the names stand for; empty for all.
    pub channels: &'a [ChannelId],
    /// Now.
    pub now: Timestamp,
}

impl View {
    /// True when the name exists: a mirror is configured there, offered or not.
    pub fn has_pool(&self, name: &PoolName) -> bool {
        let public = |profile: &Profile| profile.audience == Audience::Public;
        let whole = matches!(name.region, Region::Near | Region::World);
        whole
            || self
                .profiles
                .iter()
                .any(|profile| public(profile) && name.region.has(profile))
    }

    /// The members of a pool at this moment. `reachable` says what keeps a mirror out that core knows nothing of:
    /// its address and port.
    pub fn pool(
        &self,
        question: &PoolQuestion<'_>,
        reachable: impl Fn(MirrorIndex) -> Option<ExcludeReason>,
    ) -> Pool {
        let PoolQuestion { name, asker, .. } = *question;
        let place = name.region.place(asker);
        let builds = self.pool_builds(question, &place);
        let joins = |mirror: &MirrorIndex, strict| {
            name.region.has(self.profile(*mirror))
                && reachable(*mirror).is_none()
                && self
                    .pool_exclude(*mirror, &builds, &place, question.now, strict)
                    .is_none()
        };
        let all = || self.mirrors().map(|(mirror, _)| mirror);
        let mut members: Vec<MirrorIndex> = all().filter(|mirror| joins(mirror, true)).collect();
        let mut builds = builds.clone();
        if members.is_empty() {
            // While the last ones flip, all are ahead of what is wanted for a moment: those that are so together.
            let ahead: Vec<MirrorIndex> = all().filter(|mirror| joins(mirror, false)).collect();
            (builds, members) = self.largest_group(builds, ahead);
        }
        if name.region == Region::Near {
            members = self.nearest(members, &place);
        }
        if let Some(part) = name.part {
            let of_part = |mirror: &&MirrorIndex| {
                let seed = self.seeds.get(mirror.get()).copied().unwrap_or(0);
                mix(seed) % u64::from(PARTS) == u64::from(part)
            };
            let some: Vec<MirrorIndex> = members.iter().filter(of_part).copied().collect();
            // A quarter of few mirrors may be nobody: the whole pool stands in.
            if !some.is_empty() {
                members = some;
            }
        }
        Pool { builds, members }
    }

    fn pool_builds(
        &self,
        question: &PoolQuestion<'_>,
        place: &Place,
    ) -> BTreeMap<ChannelId, Build> {
        let asked = |id: &ChannelId| question.channels.is_empty() || question.channels.contains(id);
        let build = |(channel, carried): (&ChannelId, &Carried)| {
            let of = |region: &Region| self.majority(channel, carried, region, question.now);
            let build = match &question.name.region {
                Region::Near => Region::around(place).find_map(|region| of(&region)),
                region @ (Region::World
                | Region::Continent(_)
                | Region::Country(_)
                | Region::Pool(_)) => of(region),
            };
            Some((channel.clone(), build?))
        };
        self.channels()
            .filter(|(id, _)| asked(id))
            .filter_map(build)
            .collect()
    }

    /// The newest build that most of a region's mirrors are offered at. A channel without one, such as one at its end
    /// or one that has only begun to travel, empties no name for the others.
    fn majority(
        &self,
        channel: &ChannelId,
        carried: &Carried,
        region: &Region,
        now: Timestamp,
    ) -> Option<Build> {
        let there = |(mirror, profile): &(MirrorIndex, &Profile)| {
            profile.audience == Audience::Public
                && profile.carries(channel)
                && region.has(profile)
                && self.health(*mirror).is_up()
        };
        let up: Vec<MirrorIndex> = self
            .mirrors()
            .filter(there)
            .map(|(mirror, _)| mirror)
            .collect();
        let place = Place::default();
        let question = Question {
            needs: Default::default(),
            channel,
            build: None,
            place: &place,
            now,
        };
        let most = |build: Build| {
            let offered = up.iter();
            let offered = offered.filter(|mirror| {
                carried.is_complete(**mirror, build)
                    && self.exclude(**mirror, &question, build).is_none()
            });
            offered.count() * 2 > up.len()
        };
        let mut builds: Vec<Build> = up
            .iter()
            .flat_map(|mirror| carried.words_on(*mirror))
            .map(|(build, _)| build)
            .collect();
        builds.sort_unstable();
        builds.dedup();
        builds.into_iter().rev().find(|build| most(*build))
    }

    /// Why a mirror is not in a pool of these builds. `strict`: live at exactly these.
    pub fn pool_exclude(
        &self,
        mirror: MirrorIndex,
        builds: &BTreeMap<ChannelId, Build>,
        place: &Place,
        now: Timestamp,
        strict: bool,
    ) -> Option<ExcludeReason> {
        if self.profile(mirror).audience == Audience::Private {
            return Some(ExcludeReason::Private);
        }
        if builds.is_empty() {
            return Some(ExcludeReason::NoVerdict);
        }
        builds.iter().find_map(|(channel, build)| {
            let question = Question {
                needs: Default::default(),
                channel,
                build: Some(*build),
                place,
                now,
            };
            match self.exclude(mirror, &question, *build) {
                Some(ExcludeReason::NotCarried) => Some(ExcludeReason::Partial(channel.clone())),
                Some(reason) => Some(reason),
                None => {
                    let carried = self.channel(channel)?;
                    if !carried.is_live_sound(mirror, *build) {
                        return Some(ExcludeReason::NotServed(*build));
                    }
                    let newest = carried.newest_complete(mirror)?;
                    (strict && newest != *build).then_some(ExcludeReason::Ahead(newest))
                }
            }
        })
    }

    /// Of mirrors that are ahead of `builds`, the most that are at the same ones, and those; of two equal groups the
    /// one that is less far ahead.
    fn largest_group(
        &self,
        builds: BTreeMap<ChannelId, Build>,
        ahead: Vec<MirrorIndex>,
    ) -> (BTreeMap<ChannelId, Build>, Vec<MirrorIndex>) {
        let mut groups: BTreeMap<BTreeMap<ChannelId, Build>, Vec<MirrorIndex>> = BTreeMap::new();
        for mirror in ahead {
            let live = builds.iter().map(|(channel, build)| {
                let carried = self.channel(channel);
                let newest = carried.and_then(|carried| carried.newest_complete(mirror));
                (channel.clone(), newest.unwrap_or(*build))
            });
            groups.entry(live.collect()).or_default().push(mirror);
        }
        let largest = groups
            .into_iter()
            .rev()
            .max_by_key(|(_, members)| members.len());
        largest.unwrap_or((builds, Vec::new()))
    }

    /// Those of the country, else of the continent, else all.
    fn nearest(&self, members: Vec<MirrorIndex>, place: &Place) -> Vec<MirrorIndex> {
        let of_country = |mirror: &&MirrorIndex| {
            place.country.is_some() && self.profile(**mirror).country == place.country
        };
        let of_continent = |mirror: &&MirrorIndex| {
            place.continent.is_some() && self.profile(**mirror).continent == place.continent
        };
        let here: Vec<MirrorIndex> = members.iter().filter(of_country).copied().collect();
        let around: Vec<MirrorIndex> = members.iter().filter(of_continent).copied().collect();
        [here, around]
            .into_iter()
            .find(|some| !some.is_empty())
            .unwrap_or(members)
    }

    /// Draws members for one answer, without repeating one: a mirror of twice the weight is drawn twice as often.
    pub fn draw(&self, members: &[MirrorIndex], count: usize, random: u64) -> Vec<MirrorIndex> {
        // Efraimidis and Spirakis: the largest u^(1/w) are a weighted sample.
        let key = |(turn, mirror): (usize, &MirrorIndex)| {
            let weight = f64::from(self.profile(*mirror).weight.max(1));
            let drawn = unit(mix(random ^ mix(turn as u64)));
            (drawn.powf(1.0 / weight), *mirror)
        };
        let mut keyed: Vec<(f64, MirrorIndex)> = members.iter().enumerate().map(key).collect();
        keyed.sort_by(|a, b| b.0.total_cmp(&a.0));
        keyed.truncate(count);
        keyed.into_iter().map(|(_, mirror)| mirror).collect()
    }
}
