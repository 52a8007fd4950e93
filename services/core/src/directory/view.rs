//! One moment of all that the directory knows. Cheap to clone, and never changed once it is given away.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::channel::Channel;
use crate::drain::Drains;
use crate::id::{Build, ChannelId, Digest, MirrorId, Mount};
use crate::statement::VerdictState;
use crate::time::Timestamp;
use crate::view::{Prepared, Selection};

use super::health::Health;
use super::member::{MirrorIndex, Profile};
use super::speed::Speeds;

/// The consistency service's word on one build of one mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// The word.
    pub state: VerdictState,
    /// Of which root.
    pub root: Digest,
    /// Of which part.
    pub part: Prepared,
    /// When it was said.
    pub issued: Timestamp,
}

/// One channel: what is published, and what the verdicts say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Carried {
    /// What is published.
    pub channel: Channel,
    /// By mirror.
    pub(super) words: BTreeMap<MirrorIndex, BTreeMap<Build, Word>>,
}

impl Carried {
    /// The word on a build of a mirror; words on another root than the signed one do not count.
    pub fn word(&self, mirror: MirrorIndex, build: Build) -> Option<&Word> {
        let word = self.words.get(&mirror)?.get(&build)?;
        let known = self.channel.builds.get(&build)?;
        (known.root == word.root).then_some(word)
    }

    /// True when the mirror is complete at `build`.
    pub fn is_complete(&self, mirror: MirrorIndex, build: Build) -> bool {
        let word = self.word(mirror, build);
        word.is_some_and(|word| word.state == VerdictState::Complete)
    }

    /// Whether some mirror carries a part only.
    pub fn has_parts(&self) -> bool {
        let words = self.words.values().flat_map(BTreeMap::values);
        words.into_iter().any(|word| !word.part.view().is_all())
    }

    /// The part of a build that a mirror carries, as the word on it says.
    pub fn part(&self, mirror: MirrorIndex, build: Build) -> Selection {
        let layout = self.channel.builds.get(&build).map(|known| known.layout);
        let word = self.word(mirror, build).zip(layout);
        word.map_or(Selection::ALL, |(word, layout)| word.part.selection(layout))
    }

    /// The newest build that the mirror is complete at and that stands.
    pub fn newest_complete(&self, mirror: MirrorIndex) -> Option<Build> {
        let words = self.words.get(&mirror)?;
        let mut builds = words.keys().rev();
        builds
            .find(|build| self.is_complete(mirror, **build) && !self.channel.is_retracted(**build))
            .copied()
    }

    /// True unless a build newer than `build` was found bad on the mirror: then its live tree may be that one, though
    /// `build` itself is still served pinned.
    pub fn is_live_sound(&self, mirror: MirrorIndex, build: Build) -> bool {
        let newer = self.words_on(mirror).filter(|(one, _)| *one > build);
        let mut standing = newer.filter(|(one, _)| !self.channel.is_retracted(*one));
        !standing.any(|(_, word)| matches!(word.state, VerdictState::Revoked(_)))
    }

    /// All words on a mirror, oldest build first.
    pub fn words_on(&self, mirror: MirrorIndex) -> impl Iterator<Item = (Build, &Word)> {
        let words = self.words.get(&mirror).into_iter().flatten();
        words.map(|(build, word)| (*build, word))
    }

    /// Where the channel is served.
    pub fn mount(&self) -> Option<&Mount> {
        self.channel.last().map(|known| &known.mount)
    }
}

/// One moment of all that the directory knows.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) profiles: Arc<[Profile]>,
    pub(super) seeds: Arc<[u64]>,
    /// Mirrors with netblocks: few, and every request asks.
    pub(super) bounded: Arc<[MirrorIndex]>,
    pub(super) health: Arc<Vec<Health>>,
    pub(super) channels: BTreeMap<ChannelId, Arc<Carried>>,
    pub(super) drains: Arc<Drains>,
    pub(super) speeds: Arc<Speeds>,
    pub(super) revision: u64,
    pub(super) membership: u64,
    pub(super) changed: Timestamp,
}

impl View {
    pub(super) fn new(mut profiles: Vec<Profile>) -> Self {
        profiles.sort_by(|a, b| a.mirror.cmp(&b.mirror));
        let numbered = (0u32..).map(MirrorIndex).zip(&profiles);
        let bounded = numbered.filter(|(_, profile)| !profile.netblocks.is_empty());
        Self {
            bounded: bounded.map(|(mirror, _)| mirror).collect(),
            seeds: profiles.iter().map(Profile::seed).collect(),
            health: Arc::new(vec![Health::default(); profiles.len()]),
            profiles: profiles.into(),
            channels: BTreeMap::new(),
            drains: Arc::default(),
            speeds: Arc::default(),
            revision: 0,
            membership: 0,
            changed: Timestamp::EPOCH,
        }
    }

    /// Counts up whenever an answer may be another one: what was computed from an older revision is stale.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Counts up whenever the revision does, except for what clients saw: that changes orders, and no set of mirrors.
    pub fn membership(&self) -> u64 {
        self.membership
    }

    /// When the revision last counted up.
    pub fn changed(&self) -> Timestamp {
        self.changed
    }

    /// All mirrors, in order of id.
    pub fn mirrors(&self) -> impl Iterator<Item = (MirrorIndex, &Profile)> {
        (0u32..).map(MirrorIndex).zip(self.profiles.iter())
    }

    /// A mirror by its id.
    pub fn find(&self, mirror: &MirrorId) -> Option<MirrorIndex> {
        let found = self
            .profiles
            .binary_search_by(|profile| profile.mirror.cmp(mirror));
        found
            .ok()
            .and_then(|at| u32::try_from(at).ok())
            .map(MirrorIndex)
    }

    /// What a mirror declares.
    pub fn profile(&self, mirror: MirrorIndex) -> &Profile {
        &self.profiles[mirror.get()]
    }

    /// What probes know of a mirror.
    pub fn health(&self, mirror: MirrorIndex) -> &Health {
        &self.health[mirror.get()]
    }

    /// Which mirrors take no clients.
    pub fn drains(&self) -> &Drains {
        &self.drains
    }

    /// What clients saw.
    pub fn speeds(&self) -> &Speeds {
        &self.speeds
    }

    /// All channels, in order of id.
    pub fn channels(&self) -> impl Iterator<Item = (&ChannelId, &Carried)> {
        self.channels.iter().map(|(id, carried)| (id, &**carried))
    }

    /// True unless the mirror's live tree of `channel` may be a newer build than `build` that was found bad.
    pub fn live_is_sound(&self, channel: &ChannelId, mirror: MirrorIndex, build: Build) -> bool {
        self.channel(channel)
            .is_none_or(|carried| carried.is_live_sound(mirror, build))
    }

    /// One channel.
    pub fn channel(&self, channel: &ChannelId) -> Option<&Carried> {
        self.channels.get(channel).map(|carried| &**carried)
    }
}
