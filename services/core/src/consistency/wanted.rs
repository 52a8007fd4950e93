//! Which build a pool's clients should use.

use std::collections::BTreeMap;

use crate::id::{Build, ChannelId, MirrorId, PoolId};
use crate::time::Timestamp;

use super::watched::Watched;
use super::{Audience, Rules};
use crate::channel::Channel;

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

/// Reported lately, and answers as far as we can tell. When the auditor itself may be cut off, silence proves nothing.
pub(super) fn is_healthy(mirror: &Watched, rules: &Rules, cut_off: bool, now: Timestamp) -> bool {
    mirror.is_fresh(rules, now) && (cut_off || !mirror.is_unreachable(rules))
}

/// Moves each pool's wanted build forward; backward only when it was retracted. Returns what changed.
pub(super) fn advance(
    id: &ChannelId,
    channel: &mut Channel,
    mirrors: &BTreeMap<MirrorId, Watched>,
    rules: &Rules,
    cut_off: bool,
    now: Timestamp,
) -> Vec<(PoolId, Option<Build>)> {
    // Mirrors of a part count where there are none of the whole: clients want everything, if they can have it.
    let mut pools: BTreeMap<&PoolId, Counts> = BTreeMap::new();
    for mirror in mirrors.values() {
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
        if !is_healthy(mirror, rules, cut_off, now) {
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
        let stands = |build: &Build| !channel.is_retracted(*build);
        let candidate = |count: &Count| {
            let healthy = count.healthy + counts.none.healthy;
            let mut builds = count.complete.iter().rev();
            let found = builds.find(|(build, complete)| **complete * 2 > healthy && stands(build));
            found.map(|(build, _)| *build)
        };
        let candidate = candidate(&counts.whole).or_else(|| candidate(&counts.part));
        let current = channel.wanted.get(pool).copied();
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
