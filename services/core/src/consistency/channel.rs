//! Snapshots, retractions, head and wanted builds of one channel.

use std::collections::BTreeMap;

use crate::id::{Build, Digest, Mount, PoolId};
use crate::limits::RETRACTIONS_MAX;
use crate::statement::{Head, Retraction, Snapshot};
use crate::time::Timestamp;

use super::SNAPSHOTS_MAX;

/// What is known of a signed build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) root: Digest,
    pub(super) entries: u64,
    pub(super) created: Timestamp,
    pub(super) mount: Mount,
    pub(super) precedence: u32,
}

/// One channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Channel {
    pub(super) builds: BTreeMap<Build, Known>,
    /// By sequence: first and last build taken back.
    retractions: BTreeMap<u64, (Build, Build)>,
    pub(super) head: Option<Head>,
    pub(super) wanted: BTreeMap<PoolId, Build>,
    pub(super) fork: Option<Build>,
}

/// What a snapshot was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    Known,
    Fork,
}

impl Channel {
    pub(super) fn snapshot(&mut self, snapshot: &Snapshot) -> Taken {
        if let Some(known) = self.builds.get(&snapshot.build) {
            if known.root == snapshot.root {
                return Taken::Known;
            }
            self.fork = Some(snapshot.build);
            return Taken::Fork;
        }
        self.builds.insert(
            snapshot.build,
            Known {
                root: snapshot.root,
                entries: snapshot.entries,
                created: snapshot.created,
                mount: snapshot.mount.clone(),
                precedence: snapshot.precedence,
            },
        );
        while self.builds.len() > SNAPSHOTS_MAX {
            self.builds.pop_first();
        }
        Taken::New
    }

    /// True when the retraction was not known.
    pub(super) fn retract(&mut self, retraction: &Retraction) -> bool {
        if self.retractions.len() >= RETRACTIONS_MAX {
            return false;
        }
        let range = (retraction.first, retraction.last);
        self.retractions.insert(retraction.sequence, range) != Some(range)
    }

    /// Takes the head if it was issued later than the one before.
    pub(super) fn head(&mut self, head: Head) {
        if self
            .head
            .as_ref()
            .is_none_or(|old| old.issued < head.issued)
        {
            self.head = Some(head);
        }
    }

    pub(super) fn is_retracted(&self, build: Build) -> bool {
        self.retractions
            .values()
            .any(|&(first, last)| first <= build && build <= last)
    }

    /// Builds that clients may use, newest first.
    pub(super) fn standing(&self) -> impl Iterator<Item = (Build, &Known)> {
        let builds = self
            .builds
            .iter()
            .rev()
            .map(|(build, known)| (*build, known));
        builds.filter(|(build, _)| !self.is_retracted(*build))
    }

    pub(super) fn newest(&self) -> Option<Build> {
        self.standing().next().map(|(build, _)| build)
    }

    /// The newest build, retracted or not: where and how the channel is served now.
    pub(super) fn last(&self) -> Option<&Known> {
        self.builds.values().next_back()
    }

    /// How far `live` is behind: builds, and milliseconds since the oldest of them was signed.
    pub(super) fn lag(&self, live: Option<Build>, now: Timestamp) -> (u64, i64) {
        let behind = self
            .standing()
            .take_while(|(build, _)| live.is_none_or(|live| *build > live));
        let (mut builds, mut oldest) = (0, now);
        for (_, known) in behind {
            builds += 1;
            oldest = oldest.min(known.created);
        }
        (builds, now.ms_since(oldest))
    }
}
