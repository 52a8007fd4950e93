//! Which build a pool's clients should use.

use std::collections::BTreeMap;

use crate::id::{Build, ChannelId, MirrorId, PoolId};
use crate::time::Timestamp;

use super::watched::Watched;
use super::{Audience, Rules};
use crate::channel::Channel;
use crate::drain::Drains;

/// When a build was first seen complete on a mirror of a pool that does not want it yet.
pub(super) type Arrived = BTreeMap<(ChannelId, PoolId, Build), Timestamp>;

/// What a pool's mirrors are judged by.
pub(super) struct Judging<'a> {
    pub(super) mirrors: &'a BTreeMap<MirrorId, Watched>,
    pub(super) drains: &'a Drains,
    pub(super) rules: &'a Rules,
    pub(super) cut_off: bool,
    pub(super) now: Timestamp,
}

#[derive(Default)]
struct Count {
    healthy: usize,
    complete: BTreeMap<Build, usize>,
}

/// Of one pool, by what they carry.
#[derive(Default)]
struct Counts {
    whole: Count,
    part: Count,
    none: Count,
}

impl Judging<'_> {
    /// Reported lately, takes clients, and answers as far as we can tell. When the auditor itself may be cut off,
    /// silence proves nothing.
    pub(super) fn is_healthy(&self, mirror: &Watched) -> bool {
        let answers = self.cut_off || !mirror.is_unreachable(self.rules);
        let drained = self.drains.of(&mirror.member.mirror).is_some();
        mirror.is_fresh(self.rules, self.now) && answers && !drained
    }
}

/// Moves each pool's wanted build forward; backward only when it was retracted. Returns what changed.
///
/// A build is wanted when a strict majority of the pool's healthy mirrors is complete at it. Those that are not so long
/// after the first was (`Rules::laggard_after_ms`) are no longer waited for.
pub(super) fn advance(
    id: &ChannelId,
    channel: &mut Channel,
    arrived: &mut Arrived,
    judging: &Judging<'_>,
) -> Vec<(PoolId, Option<Build>)> {
    let (rules, now) = (judging.rules, judging.now);
    // Mirrors of a part count where there are none of the whole: clients want everything, if they can have it.
    let mut pools: BTreeMap<&PoolId, Counts> = BTreeMap::new();
    for mirror in judging.mirrors.values() {
        if mirror.member.audience == Audience::Private || !mirror.member.carries(id) {
            continue;
        }
        let count = pools.entry(&mirror.member.pool).or_default();
        let carried = mirror.channels.get(id);
        let views = carried.iter().flat_map(|carried| carried.builds.values());
        let whole: Vec<bool> = views.map(|held| held.view.view().is_all()).collect();
        let count = match &whole[..] {
            // Who has nothing of it counts wherever a majority is looked for.
            [] => &mut count.none,
            whole if whole.contains(&true) => &mut count.whole,
            _parts => &mut count.part,
        };
        if !judging.is_healthy(mirror) {
            continue;
        }
        count.healthy += 1;
        let builds = mirror
            .channels
            .get(id)
            .into_iter()
            .flat_map(|carried| &carried.builds);
        for (build, _) in builds.filter(|(_, held)| held.is_complete()) {
            *count.complete.entry(*build).or_default() += 1;
        }
    }
    let mut changes = Vec::new();
    for (pool, counts) in pools {
        let current = channel.wanted.get(pool).copied();
        note_arrivals(arrived, id, pool, &counts, current, now);
        let stands = |build: &Build| !channel.is_retracted(*build);
        let candidate = |count: &Count| {
            let healthy = count.healthy + counts.none.healthy;
            let is_late = |build: Build| {
                let since = arrived.get(&(id.clone(), pool.clone(), build));
                since.is_some_and(|since| now.ms_since(*since) > rules.laggard_after_ms)
            };
            let mut builds = count.complete.iter().rev();
            let found = builds.find(|(build, complete)| {
                let enough = **complete * 2 > healthy || is_late(**build);
                enough && stands(build)
            });
            found.map(|(build, _)| *build)
        };
        let candidate = candidate(&counts.whole).or_else(|| candidate(&counts.part));
        let next = current
            .filter(|build| !channel.is_retracted(*build))
            .max(candidate);
        if next != current {
            changes.push((pool.clone(), next));
        }
    }
    for (pool, build) in &changes {
        match build {
            Some(build) => channel.wanted.insert(pool.clone(), *build),
            None => channel.wanted.remove(pool),
        };
    }
    changes
}

/// Remembers since when builds that the pool does not want yet have been complete somewhere in it, and forgets others.
fn note_arrivals(
    arrived: &mut Arrived,
    id: &ChannelId,
    pool: &PoolId,
    counts: &Counts,
    wanted: Option<Build>,
    now: Timestamp,
) {
    let complete = |build: &Build| {
        let counts = [&counts.whole, &counts.part];
        counts
            .iter()
            .any(|count| count.complete.contains_key(build))
    };
    arrived.retain(|(of, at, build), _| {
        (of, at) != (id, pool) || (complete(build) && wanted.is_none_or(|wanted| wanted < *build))
    });
    for build in counts
        .whole
        .complete
        .keys()
        .chain(counts.part.complete.keys())
    {
        if wanted.is_none_or(|wanted| wanted < *build) {
            let key = (id.clone(), pool.clone(), *build);
            arrived.entry(key).or_insert(now);
        }
    }
}
