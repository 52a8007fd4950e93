//! Which build: pools climb as clients do, the country's, the continent's, then all.
//!
//! A pool speaks when one of its own mirrors is offered at the build that is wanted there; the newest such build of
//! the narrowest level is the answer. So a pool whose mirrors are all gone holds nobody back, and nobody is sent
//! ahead of a quorum.

use crate::consistency::Audience;
use crate::id::{Build, PoolId};

use super::member::{MirrorIndex, Profile};
use super::offer::{Question, Unanswered};
use super::place::{Continent, Country, Place};
use super::view::{Carried, View};

/// How long after a build was signed the verdicts on it may come later than the word that it is wanted.
const VERDICTS_COME_MS: i64 = 60_000;
/// Builds below the wanted one that are looked at meanwhile.
const OLDER_MAX: usize = 4;

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
        let mut levels = Level::of(question.place);
        let spoken = levels.find_map(|level| self.wanted_at(carried, level, question));
        if spoken.is_some() {
            return spoken;
        }
        if let Some(before) = self.before_the_verdicts(carried, question) {
            return Some(before);
        }
        // Nobody is offered: what would be wanted still tells why.
        let wanted = channel.wanted.values().copied();
        wanted.filter(|build| !channel.is_retracted(*build)).max()
    }

    /// The newest build below the wanted one that anybody is offered at, while the wanted one is so new that the
    /// verdicts on it may still be on their way: they come by another road than the word that it is wanted.
    fn before_the_verdicts(&self, carried: &Carried, question: &Question<'_>) -> Option<Build> {
        let channel = &carried.channel;
        let wanted = channel.wanted.values().copied().max()?;
        let created = channel.builds.get(&wanted)?.created;
        if question.now.ms_since(created) > VERDICTS_COME_MS {
            return None;
        }
        let anybody = Place::default();
        let offered = |build: Build| {
            self.mirrors().any(|(mirror, profile)| {
                let excluded = self.exclude_in(carried, mirror, question, build, &anybody);
                profile.audience == Audience::Public && excluded.is_none()
            })
        };
        let older = channel
            .builds
            .range(..wanted)
            .rev()
            .map(|(build, _)| *build);
        let mut standing = older
            .take(OLDER_MAX)
            .filter(|build| !channel.is_retracted(*build));
        standing.find(|build| offered(*build))
    }

    /// The newest build that a pool of this level speaks for.
    fn wanted_at(&self, carried: &Carried, level: Level, question: &Question<'_>) -> Option<Build> {
        let pools = carried.channel.wanted.keys();
        pools
            .filter(|pool| level.has(pool))
            .filter_map(|pool| self.wanted_in(carried, pool, question))
            .max()
    }

    /// The build that is wanted in a pool, if a mirror of its own is offered at it.
    fn wanted_in(
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
}
