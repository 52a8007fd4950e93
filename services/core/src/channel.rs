//! What is published in one channel: snapshots, retractions, the head, and which build is wanted where.
//!
//! Consistency service and directory both keep it, each from the log and the archive's journal.

use std::collections::BTreeMap;

use crate::id::{Build, Digest, Lane, Mount, PoolId};
use crate::layout::Layout;
use crate::limits::RETRACTIONS_MAX;
use crate::statement::{Head, Retraction, Snapshot};
use crate::time::Timestamp;

/// Most channels that are followed; stops a flood of made-up names.
pub const CHANNELS_MAX: usize = 1024;
/// Most snapshots remembered of a channel, the newest ones.
pub const SNAPSHOTS_MAX: usize = 4096;

/// What is known of a signed build.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Known {
    /// Digest of the manifest's top page.
    pub root: Digest,
    /// Entries in the manifest.
    pub entries: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// When it was signed.
    pub created: Timestamp,
    /// The lane on which it was published.
    pub lane: Lane,
    /// Where it is served.
    pub mount: Mount,
    /// Shape of its tree.
    pub layout: Layout,
    /// Order among the channels of the mount: the lowest wins a path.
    pub precedence: u32,
}

/// One channel.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub struct Channel {
    /// Every build that is remembered, retracted ones included.
    pub builds: BTreeMap<Build, Known>,
    /// By sequence: first and last build taken back.
    retractions: BTreeMap<u64, (Build, Build)>,
    /// The newest head.
    pub head: Option<Head>,
    /// The build that each pool's clients should use.
    pub wanted: BTreeMap<PoolId, Build>,
    /// A build number that was signed with two roots: the channel is frozen.
    pub fork: Option<Build>,
}

/// What a snapshot was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was not known.
    New,
    /// It was.
    Known,
    /// Its number has another root already.
    Fork,
}

impl Channel {
    /// Takes a snapshot in. Of two with one number the first stays.
    pub fn snapshot(&mut self, snapshot: &Snapshot) -> Taken {
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
                bytes: snapshot.bytes,
                created: snapshot.created,
                lane: snapshot.lane,
                mount: snapshot.mount.clone(),
                layout: snapshot.layout,
                precedence: snapshot.precedence,
            },
        );
        while self.builds.len() > SNAPSHOTS_MAX {
            self.builds.pop_first();
        }
        Taken::New
    }

    /// True when the retraction was not known.
    pub fn retract(&mut self, retraction: &Retraction) -> bool {
        if self.retractions.len() >= RETRACTIONS_MAX {
            return false;
        }
        let range = (retraction.first, retraction.last);
        self.retractions.insert(retraction.sequence, range) != Some(range)
    }

    /// What was taken back, by sequence: first and last build.
    pub fn retractions(&self) -> impl Iterator<Item = (u64, Build, Build)> {
        let all = self.retractions.iter();
        all.map(|(sequence, (first, last))| (*sequence, *first, *last))
    }

    /// Takes the head if it was issued later than the one before.
    pub fn head(&mut self, head: Head) {
        if self
            .head
            .as_ref()
            .is_none_or(|old| old.issued < head.issued)
        {
            self.head = Some(head);
        }
    }

    /// True when `build` was taken back.
    pub fn is_retracted(&self, build: Build) -> bool {
        self.retractions
            .values()
            .any(|&(first, last)| first <= build && build <= last)
    }

    /// Builds that clients may use, newest first.
    pub fn standing(&self) -> impl Iterator<Item = (Build, &Known)> {
        let builds = self
            .builds
            .iter()
            .rev()
            .map(|(build, known)| (*build, known));
        builds.filter(|(build, _)| !self.is_retracted(*build))
    }

    /// The newest build that clients may use.
    pub fn newest(&self) -> Option<Build> {
        self.standing().next().map(|(build, _)| build)
    }

    /// The newest build, retracted or not: where and how the channel is served now.
    pub fn last(&self) -> Option<&Known> {
        self.builds.values().next_back()
    }

    /// How far `live` is behind: builds, and milliseconds since the oldest of them was signed.
    pub fn lag(&self, live: Option<Build>, now: Timestamp) -> (u64, i64) {
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
