//! What a mirror does next with one channel: a state machine without IO.
//!
//! `(state, input, now) -> (state, effects)`. The shell (`services/mirror`) keeps one law:
//! receive, step, persist state and cursor in one atomic write, perform effects, ack. Effects are
//! idempotent, and [`Channel::resume`] derives them again after a restart.
//!
//! One sync runs per lane. A newer build replaces the target of a running sync only if the bytes
//! still to fetch do not grow; after [`Policy::retargets_max`] replacements, or after
//! [`Policy::pin_after_ms`], the target is pinned until it is live. The two lanes never wait for
//! each other: which of them gets the link is the fetch scheduler's matter.

mod apply;
mod asked;
pub mod peers;
mod retain;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Build, ChannelId, Digest, Lane};
use crate::limits::CLOCK_SKEW_MS;
use crate::time::Timestamp;

/// When a build that is whole here goes live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flip {
    /// At once: every entry was verified here.
    #[default]
    Local,
    /// Once the consistency service has verified it from outside.
    Confirmed,
}

/// What a mirror's operator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Builds kept, the live one included; at least 1.
    pub retain_builds: usize,
    /// How long a build stays after it stopped being live, in milliseconds.
    pub grace_ms: i64,
    /// Target changes before a sync is pinned.
    pub retargets_max: u8,
    /// Age at which a sync is pinned, in milliseconds.
    pub pin_after_ms: i64,
    /// Longest pause before a failed sync is tried again, in milliseconds.
    pub retry_max_ms: i64,
    /// When a build goes live.
    pub flip: Flip,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retain_builds: 3,
            grace_ms: 24 * 3600 * 1000,
            retargets_max: 3,
            pin_after_ms: 6 * 3600 * 1000,
            retry_max_ms: 60_000,
            flip: Flip::Local,
        }
    }
}

/// A build that a mirror may bring itself to, as its signed snapshot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its number.
    pub build: Build,
    /// What is live must not be newer than this.
    pub base: Option<Build>,
    /// Digest of the manifest's top page.
    pub root: Digest,
    /// When it was signed.
    pub created: Timestamp,
}

/// A build whose every entry is durable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// What it is.
    pub target: Target,
    /// When it became whole.
    pub since: Timestamp,
    /// When it was last live; `None` if it never was.
    pub last_live: Option<Timestamp>,
    /// An operator asked for it: it stays until then at least.
    pub keep_until: Option<Timestamp>,
    /// It may go live.
    pub confirmed: bool,
}

/// An older build that an operator asked for, and that is not whole here yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backfill {
    /// Which.
    pub target: Target,
    /// It stays until then.
    pub keep_until: Timestamp,
}

/// A running sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sync {
    /// Where it goes.
    pub target: Target,
    /// When it began, whatever its target was then.
    pub started: Timestamp,
    /// How often its target was replaced.
    pub retargets: u8,
    /// Bytes still to fetch; `None` before the first plan.
    pub remaining_bytes: Option<u64>,
    /// Failures in a row.
    pub failures: u32,
    /// Not tried again before; `None` while it runs.
    pub retry_at: Option<Timestamp>,
}

/// One lane of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LaneState {
    /// What is under way.
    pub sync: Option<Sync>,
    /// The newest build that was announced behind it.
    pub next: Option<Target>,
    /// The newest build's event, not acked yet.
    pub open: Option<OpenEvent>,
}

/// An event that was delivered and not acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpenEvent {
    /// Its sequence on the stream.
    pub sequence: u64,
    /// Its build.
    pub build: Build,
}

/// Builds taken back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Retracted {
    /// First.
    pub first: Build,
    /// Last.
    pub last: Build,
    /// For people.
    pub reason: String,
}

/// The newest head seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadSeen {
    /// The newest unretracted build.
    pub build: Build,
    /// Its root.
    pub root: Digest,
    /// Digest of all retractions.
    pub retractions: Digest,
    /// When it was signed.
    pub issued: Timestamp,
    /// From then on nothing new is adopted.
    pub expires: Timestamp,
}

/// Why a channel does not move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Halt {
    /// One build number with two roots, both signed.
    Fork {
        /// The number.
        build: Build,
        /// Seen first.
        first: Digest,
        /// Seen then.
        second: Digest,
    },
}

/// Everything a mirror must remember of one channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Channel {
    /// Which.
    pub id: ChannelId,
    /// The build served at the mount: one of `held`.
    pub live: Option<Build>,
    /// Builds that are whole here.
    pub held: BTreeMap<Build, Held>,
    /// The priority lane.
    pub priority: LaneState,
    /// The bulk lane.
    pub bulk: LaneState,
    /// By the retraction's sequence.
    pub retracted: BTreeMap<u64, Retracted>,
    /// The newest head.
    pub head: Option<HeadSeen>,
    /// Nothing moves while this is set.
    pub halt: Option<Halt>,
    /// The newest signed time seen: the clock never counts as earlier.
    pub time_floor: Timestamp,
    /// Builds of `held` of which something was lost and is being fetched again.
    pub healing: BTreeSet<Build>,
    /// Older builds that an operator asked for and that are on their way.
    pub backfills: BTreeMap<Build, Backfill>,
}

/// What happens to a channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A verified snapshot, from the log (with its event) or from the journal.
    Snapshot {
        /// The build.
        target: Target,
        /// Which lane it came on.
        lane: Lane,
        /// Its event, when it came from the log.
        sequence: Option<u64>,
    },
    /// A verified retraction.
    Retraction {
        /// Its position among the channel's retractions.
        number: u64,
        /// What it takes back.
        retracted: Retracted,
        /// When it was signed.
        created: Timestamp,
        /// Its event, when it came from the log.
        event: Option<(Lane, u64)>,
    },
    /// A verified head.
    Head(HeadSeen),
    /// The shell knows two signed roots of one build, of which this state remembers none.
    Fork {
        /// The number.
        build: Build,
        /// Seen first.
        first: Digest,
        /// Seen then.
        second: Digest,
    },
    /// Keys were taken away: what they said is as if it had never been said, as far as it has had no effect yet. What a
    /// key said that counts is said again by whoever is asked.
    Disowned {
        /// The head was theirs.
        head: bool,
        /// Retractions that were theirs, by their number.
        retractions: BTreeSet<u64>,
    },
    /// The shell knows what a build would still cost.
    Planned {
        /// On this lane.
        lane: Lane,
        /// For this build.
        build: Build,
        /// Bytes that are not here.
        missing_bytes: u64,
    },
    /// A sync's remaining bytes.
    Progress {
        /// On this lane.
        lane: Lane,
        /// Of this build.
        build: Build,
        /// Bytes that are not here.
        remaining_bytes: u64,
    },
    /// Every entry of a build is durable here.
    Staged {
        /// On this lane.
        lane: Lane,
        /// This build.
        build: Build,
    },
    /// A sync ended without its build.
    Failed {
        /// On this lane.
        lane: Lane,
        /// Of this build.
        build: Build,
    },
    /// The disk is full: the oldest build that is not live goes, whatever the policy keeps; one that is read by number
    /// only when there is no other.
    Shed {
        /// Builds that somebody still reads by number.
        leased: BTreeSet<Build>,
    },
    /// Scrub found entries of a held build lost or corrupt.
    Lost {
        /// Of this build.
        build: Build,
    },
    /// What was lost of a held build is here again.
    Healed {
        /// Of this build.
        build: Build,
    },
    /// An operator asks for a build that is older than what is live.
    Backfill {
        /// Which.
        target: Target,
        /// It is to stay until then.
        keep_until: Timestamp,
    },
    /// Every entry of a build that was asked for is durable here.
    Backfilled {
        /// This build.
        build: Build,
    },
    /// The consistency service's word on a build. Counts with [`Flip::Confirmed`].
    Word {
        /// This build.
        build: Build,
        /// As it knows it.
        root: Digest,
        /// Verified or complete.
        good: bool,
    },
    /// Time has passed.
    Tick {
        /// Builds that somebody still reads by number.
        leased: BTreeSet<Build>,
    },
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Find out what a build would still cost, then say [`Input::Planned`].
    Plan {
        /// For this lane.
        lane: Lane,
        /// This build.
        target: Target,
    },
    /// Bring the lane to this build; a sync under way on the lane goes over to it.
    Start {
        /// On this lane.
        lane: Lane,
        /// To this build.
        target: Target,
    },
    /// Stop the lane's sync.
    Cancel {
        /// On this lane.
        lane: Lane,
    },
    /// Serve what `live`, `held` and `retracted` say now.
    Serve,
    /// Ack an event: its effect is durable.
    Ack {
        /// On this lane.
        lane: Lane,
        /// This event.
        sequence: u64,
    },
    /// Forget a build; its content goes with the next collection.
    Collect {
        /// What it was.
        target: Target,
    },
    /// Fetch again what is lost of a held build.
    Heal {
        /// Which.
        target: Target,
    },
    /// Fetch an older build, apart from the lanes.
    Backfill {
        /// Which.
        target: Target,
    },
    /// Ask the archive's journal for snapshots and retractions: the log did not bring them.
    AskJournal {
        /// From this build on.
        from: Build,
    },
    /// Tell the consistency service.
    Report,
}

impl Channel {
    /// A channel of which nothing is known.
    pub fn new(id: ChannelId) -> Self {
        Self {
            id,
            live: None,
            held: BTreeMap::new(),
            priority: LaneState::default(),
            bulk: LaneState::default(),
            retracted: BTreeMap::new(),
            head: None,
            halt: None,
            time_floor: Timestamp::EPOCH,
            healing: BTreeSet::new(),
            backfills: BTreeMap::new(),
        }
    }

    /// One lane's state.
    pub fn lane(&self, lane: Lane) -> &LaneState {
        match lane {
            Lane::Priority => &self.priority,
            Lane::Bulk => &self.bulk,
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut LaneState {
        match lane {
            Lane::Priority => &mut self.priority,
            Lane::Bulk => &mut self.bulk,
        }
    }

    /// True when a retraction takes `build` back.
    pub fn is_retracted(&self, build: Build) -> bool {
        self.retracted
            .values()
            .any(|r| r.first <= build && build <= r.last)
    }

    /// The newest build that is whole here and not retracted.
    pub fn newest_held(&self) -> Option<&Held> {
        self.held
            .values()
            .rev()
            .find(|held| !self.is_retracted(held.target.build))
    }

    /// `now`, but never below the newest signed time seen.
    pub fn clock(&self, now: Timestamp) -> Timestamp {
        now.max(self.time_floor)
    }

    /// True when no valid head allows new builds to be adopted.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        let clock = self.clock(now);
        self.head
            .is_none_or(|head| clock.ms_since(head.expires) > CLOCK_SKEW_MS)
    }

    /// The one sequence that the mirror's cursor on `lane` must stay below, if any.
    pub fn open_sequence(&self, lane: Lane) -> Option<u64> {
        self.lane(lane).open.map(|open| open.sequence)
    }

    /// Forgets the lane's open event: its stream is gone, and the new one brings the event again.
    pub fn forget_open(&mut self, lane: Lane) {
        self.lane_mut(lane).open = None;
    }

    /// Effects to perform after a restart: everything that the state says should be under way.
    pub fn resume(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = vec![Effect::Serve];
        for lane in Lane::ALL {
            let halted = self.halt.is_some();
            if let Some(sync) = &mut self.lane_mut(lane).sync {
                sync.remaining_bytes = None;
                sync.retry_at = None;
                if !halted {
                    effects.push(Effect::Start {
                        lane,
                        target: sync.target,
                    });
                }
            }
        }
        for build in &self.healing {
            if let Some(held) = self.held.get(build) {
                effects.push(Effect::Heal {
                    target: held.target,
                });
            }
        }
        if self.halt.is_none() {
            effects.extend(self.backfills.values().map(|asked| Effect::Backfill {
                target: asked.target,
            }));
        }
        self.ask_when_behind(&mut effects);
        self.settle(now, &mut effects);
        effects.push(Effect::Report);
        effects
    }

    /// Takes one input; returns what the shell is to do, in order.
    pub fn step(&mut self, policy: &Policy, input: Input, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Snapshot {
                target,
                lane,
                sequence,
            } => {
                self.on_snapshot(policy, target, lane, sequence, now, &mut effects);
            }
            Input::Retraction {
                number,
                retracted,
                created,
                event,
            } => {
                self.time_floor = self.time_floor.max(created);
                self.on_retraction(number, retracted, now, &mut effects);
                effects.extend(event.map(|(lane, sequence)| Effect::Ack { lane, sequence }));
            }
            Input::Head(head) => self.on_head(head, now, &mut effects),
            Input::Fork {
                build,
                first,
                second,
            } => self.on_fork(build, first, second, &mut effects),
            Input::Disowned { head, retractions } => {
                self.on_disowned(head, &retractions, now, &mut effects);
            }
            Input::Planned {
                lane,
                build,
                missing_bytes,
            } => {
                self.on_planned(policy, lane, build, missing_bytes, now, &mut effects);
            }
            Input::Progress {
                lane,
                build,
                remaining_bytes,
            } => {
                self.on_progress(lane, build, remaining_bytes);
            }
            Input::Staged { lane, build } => self.on_staged(policy, lane, build, now, &mut effects),
            Input::Failed { lane, build } => self.on_failed(policy, lane, build, now),
            Input::Shed { leased } => self.on_shed(&leased, &mut effects),
            Input::Lost { build } => self.on_lost(build, &mut effects),
            Input::Healed { build } => {
                if self.healing.remove(&build) {
                    self.settle(now, &mut effects);
                    effects.push(Effect::Report);
                }
            }
            Input::Backfill { target, keep_until } => {
                self.on_backfill(target, keep_until, &mut effects);
            }
            Input::Backfilled { build } => {
                self.on_backfilled(policy, build, now, &mut effects);
            }
            Input::Word { build, root, good } => {
                if policy.flip == Flip::Confirmed {
                    self.on_word(build, root, good, now, &mut effects);
                }
            }
            Input::Tick { leased } => self.on_tick(policy, &leased, now, &mut effects),
        }
        effects
    }
}
