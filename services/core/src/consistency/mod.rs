//! When a build is complete, and which build is wanted.
//!
//! A fold without IO: `step(input, now) -> effects`. Snapshots and retractions say what there is,
//! reports what mirrors claim, audits what a client would get. A mirror's word is a hint: only an
//! audit through its public URL makes a build `verified`, and a second one on the live URL `complete`.
//!
//! ```text
//!            report: all present        live audit passed,
//!            + pinned audit passed      or live at a newer build
//!  pending ----------------------> verified ------------------> complete
//!     ^                               |                             |
//!     +---- heal + pinned audit ---- revoked(reason) <--------------+
//! ```
//!
//! Every replica folds the same inputs; only the one that holds the lease audits and publishes.
//! The others adopt its verdicts, so that a takeover starts from where it stopped.
//!
//! | part | what it does |
//! | --- | --- |
//! | `held` | one build on one mirror, and the verdict that follows from what is known of it |
//! | `carried` | one channel on one mirror: its reports, which audits are due |
//! | `watched` | one mirror: its reachability, its rounds |
//! | `fold`, `findings` | one step for each input |
//! | `wanted` | which build a pool's clients should use |
//! | `status` | what people see |

mod carried;
mod findings;
mod fold;
mod held;
mod status;
#[cfg(test)]
mod tests;
mod wanted;
mod watched;

use std::collections::BTreeMap;

use crate::drain::Drains;
use crate::id::{Build, ChannelId, Digest, MirrorId, Mount, Ordinal, PoolId};
use crate::path::EntryPath;
use crate::statement::{Head, Order, Report, Retraction, RevokeReason, Snapshot, Verdict};
use crate::view::Selection;

use crate::channel::Channel;
pub use status::{BuildStatus, ChannelStatus, MirrorChannel, MirrorStatus, Reason, State, Status};
use watched::Watched;

/// Most builds remembered of one mirror and channel: twice what a report may hold.
pub const HELD_MAX: usize = 2 * crate::limits::REPORT_BUILDS_MAX;
/// Most paths that an audit is told to look at because they were bad before.
pub const SUSPECTS_MAX: usize = 32;
/// Most entries that an audit is told to look at because they were reported lost before.
pub const LOST_MAX: usize = 256;
/// Reports that may say that a build is live while its URL names a newer one.
pub const MOVED_MAX: u32 = 3;
/// A complete verdict is said again after this time, so that no reader takes it for forgotten.
pub const VERDICT_RENEW_MS: i64 = 60 * 60 * 1000;

/// Who may be asked to serve clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Audience {
    /// Has a public URL: audited and offered.
    Public,
    /// Has none: never audited, never offered.
    Private,
}

/// A mirror that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Its id.
    pub mirror: MirrorId,
    /// Its pool.
    pub pool: PoolId,
    /// Whether clients may be sent to it.
    pub audience: Audience,
    /// The channels that it carries; empty for all.
    pub channels: Vec<ChannelId>,
}

impl Member {
    /// True when the mirror is meant to carry `channel`.
    pub fn carries(&self, channel: &ChannelId) -> bool {
        self.channels.is_empty() || self.channels.contains(channel)
    }
}

/// How long and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Mean time between two audit rounds of a mirror, in milliseconds.
    pub round_ms: i64,
    /// Time to the first retry of an audit or probe that failed, in milliseconds; doubles up to 8-fold.
    pub retry_ms: i64,
    /// A mirror that has not reported for this long is not healthy, in milliseconds.
    pub stale_after_ms: i64,
    /// Failures in a row, at least half of `retry_ms` apart, that make a mirror unreachable.
    pub unreachable_failures: u32,
    /// So long after a mirror of a pool was complete at a build, those that are not are no longer waited for, in
    /// milliseconds.
    pub laggard_after_ms: i64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            round_ms: 600_000,
            retry_ms: 20_000,
            stale_after_ms: 300_000,
            unreachable_failures: 3,
            laggard_after_ms: 3_600_000,
        }
    }
}

/// Names one run of an audit, so that a late result is not taken for a newer one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditId(u64);

impl AuditId {
    /// The number, for logs.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Which URL is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `/@/<channel>/<build>/…`
    Pinned,
    /// `/<mount>/…`
    Live,
}

/// How much of a build is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every entry new since the base, and a sample of the rest.
    First,
    /// A sample.
    Again,
}

/// An audit to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// This run.
    pub id: AuditId,
    /// Whom to ask.
    pub mirror: MirrorId,
    /// For which channel.
    pub channel: ChannelId,
    /// For which build.
    pub build: Build,
    /// Its signed root.
    pub root: Digest,
    /// Where the channel is served live.
    pub mount: Mount,
    /// The last build that was complete on this mirror: what it holds was checked before.
    pub base: Option<(Build, Digest)>,
    /// Which URL.
    pub scope: Scope,
    /// How much.
    pub depth: Depth,
    /// Paths that were bad on this mirror before; looked at whatever the sample.
    pub suspects: Vec<EntryPath>,
    /// Entries that the mirror once reported lost; looked at whatever the sample.
    pub lost: Vec<Ordinal>,
    /// What of the build the mirror declares to carry.
    pub selection: Selection,
    /// Channels of the same mount that win a path which both name; for the live URL.
    pub above: Vec<ChannelId>,
}

/// How an audit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Which run.
    pub id: AuditId,
    /// Who was asked.
    pub mirror: MirrorId,
    /// For which channel.
    pub channel: ChannelId,
    /// For which build.
    pub build: Build,
    /// Which URL.
    pub scope: Scope,
    /// What came out.
    pub outcome: AuditOutcome,
}

/// What came out of an audit. Absent, bad and not reached are different answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditOutcome {
    /// Everything that was looked at is as signed.
    Passed {
        /// Files whose content was checked.
        audited_files: u64,
        /// Files that the base had not.
        new_files: u64,
        /// Of those whose content was checked: drawn at random from the whole build.
        sampled_files: u64,
    },
    /// The mirror answered, and wrongly.
    Faulty(RevokeReason),
    /// The live URL serves a newer build by now, says the mirror.
    Moved,
    /// The mirror answered for other files, and not for this one. Once it may be bad luck.
    Withheld {
        /// Which.
        path: EntryPath,
    },
    /// The mirror did not answer.
    Unreachable,
    /// Could not be checked for a reason that is not the mirror's, for example a manifest that is not to be had.
    Inconclusive,
}

/// Whether a mirror answered at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It answered.
    Answered,
    /// It did not.
    Silent,
}

/// Whether this replica may audit and publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leadership {
    /// Follows the leader's verdicts.
    Follower,
    /// Holds the lease.
    Leader {
        /// The lease's revision; verdicts carry it.
        revision: u64,
    },
}

/// What the fold is told. Signatures were checked before.
#[derive(Clone, Debug)]
pub enum Input {
    /// A snapshot, signed by the archive.
    Snapshot(Snapshot),
    /// A head, signed by the archive.
    Head(Head),
    /// A retraction, signed by the archive.
    Retraction(Retraction),
    /// A report, signed by the mirror that it names.
    Report(Report),
    /// An audit ended.
    Audited(Audited),
    /// A probe ended.
    Probed {
        /// Whose.
        mirror: MirrorId,
        /// How.
        reach: Reach,
    },
    /// A verdict on the log, signed by this service's key.
    Verdict(Verdict),
    /// A verdict could not be published: it is to be said again.
    Unsaid {
        /// About whom.
        mirror: MirrorId,
        /// On which channel.
        channel: ChannelId,
        /// On which build.
        build: Build,
    },
    /// A wanted build, as it was found in its bucket.
    Wanted {
        /// The channel.
        channel: ChannelId,
        /// The pool.
        pool: PoolId,
        /// The build.
        build: Option<Build>,
    },
    /// An order, signed by the archive; counts when it says whether a mirror takes clients.
    Order(Order),
    /// The lease was won or lost.
    Lease(Leadership),
    /// Time went on. Called about once a second.
    Tick {
        /// Fresh randomness, so that no mirror can tell when it is audited.
        random: u64,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Audit, and say how it ended.
    StartAudit(Audit),
    /// See whether this mirror answers, and say so.
    Probe(MirrorId),
    /// Sign and publish.
    PublishVerdict(Verdict),
    /// Record the wanted build; `None` when there is none any more.
    SetWanted {
        /// The channel.
        channel: ChannelId,
        /// The pool.
        pool: PoolId,
        /// The build.
        build: Option<Build>,
    },
    /// A build number was signed with two roots: the channel is frozen.
    Fork {
        /// The channel.
        channel: ChannelId,
        /// The number.
        build: Build,
    },
    /// An input changed nothing, and why.
    Refused(Refusal),
}

/// Why an input changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The configuration does not name the mirror.
    #[error("mirror {0} is not in the configuration")]
    UnknownMirror(MirrorId),
    /// The mirror is not meant to carry the channel.
    #[error("mirror {0} is not meant to carry channel {1}")]
    NotCarried(MirrorId, ChannelId),
    /// An older boot, or an older sequence of the same boot.
    #[error("report of mirror {0} on channel {1} is not newer than the last one")]
    Stale(MirrorId, ChannelId),
    /// Dated further ahead than clocks may differ.
    #[error("report of mirror {0} on channel {1} is dated in the future")]
    Future(MirrorId, ChannelId),
    /// More than a report may hold.
    #[error("report of mirror {0} on channel {1} is larger than allowed")]
    TooLarge(MirrorId, ChannelId),
    /// More channels than are followed.
    #[error("channel {0} is one too many")]
    TooManyChannels(ChannelId),
    /// A verdict by a leader that has been replaced.
    #[error("verdict of lease {found}, but lease {current} has spoken")]
    Fenced {
        /// The verdict's lease.
        found: u64,
        /// The newest lease seen.
        current: u64,
    },
}

/// The fold's state.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Consistency {
    rules: Rules,
    mirrors: BTreeMap<MirrorId, Watched>,
    channels: BTreeMap<ChannelId, Channel>,
    drains: Drains,
    /// When a build was first seen complete in a pool, of builds that the pool does not want yet.
    arrived: wanted::Arrived,
    leadership: Leadership,
    fence: u64,
    audits: u64,
}
