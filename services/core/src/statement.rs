//! What is said and signed: snapshots, heads, retractions by the archive, reports by mirrors,
//! verdicts by the consistency service, orders by operators, and who is trusted for what.

use std::fmt;

use roaring::RoaringBitmap;

use crate::id::{Build, ChannelId, Digest, Lane, MirrorId, Mount, PoolId};
use crate::layout::Layout;
use crate::manifest::Entry;
use crate::path::EntryPath;
use crate::time::Timestamp;
use crate::trust::Root;
use crate::view::View;

/// A sentence about a package that clients show, for example "needs a maintainer".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The package.
    pub package: String,
    /// The sentence, one line.
    pub text: String,
}

/// An immutable build of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The channel.
    pub channel: ChannelId,
    /// Its number.
    pub build: Build,
    /// A mirror may apply this build only if what it serves is not newer than this; `None` for a first build.
    pub base: Option<Build>,
    /// Digest of the manifest's top page.
    pub root: Digest,
    /// Digest of the signed bytes of the snapshot before; `None` for a first build.
    pub previous: Option<Digest>,
    /// When it was signed.
    pub created: Timestamp,
    /// Entries in the manifest.
    pub entries: u64,
    /// Bytes of all its files (a content counts once for each path).
    pub bytes: u64,
    /// The lane on which it was published.
    pub lane: Lane,
    /// Where it is served.
    pub mount: Mount,
    /// Shape of its tree.
    pub layout: Layout,
    /// Order among the channels of a mount: the lowest wins a path that two of them name.
    pub precedence: u32,
    /// What clients show about packages.
    pub notices: Vec<Notice>,
}

/// Which build of a channel is the newest; renewed by the archive on a timer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Head {
    /// The channel.
    pub channel: ChannelId,
    /// The newest unretracted build.
    pub build: Build,
    /// Its root.
    pub root: Digest,
    /// [`retractions_digest`] of all retractions so far.
    pub retractions: Digest,
    /// When it was signed.
    pub issued: Timestamp,
    /// From then on it no longer counts.
    pub expires: Timestamp,
}

/// Takes builds back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retraction {
    /// The channel.
    pub channel: ChannelId,
    /// Position among the channel's retractions, from 1 on.
    pub sequence: u64,
    /// First build taken back.
    pub first: Build,
    /// Last build taken back.
    pub last: Build,
    /// For people.
    pub reason: String,
    /// The build that replaces them, published in the same step.
    pub replacement: Option<Build>,
    /// When it was signed.
    pub created: Timestamp,
}

impl Retraction {
    /// True when it takes `build` back.
    pub fn covers(&self, build: Build) -> bool {
        self.first <= build && build <= self.last
    }
}

/// Digest of a channel's retractions: SHA-256 over the digests of their signed bytes, in order of sequence.
pub fn retractions_digest(statements: impl IntoIterator<Item = Digest>) -> Digest {
    let mut bytes = Vec::new();
    for digest in statements {
        bytes.extend_from_slice(digest.as_bytes());
    }
    Digest::of(&bytes)
}

/// What changed at one path between two builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: EntryPath,
    /// What the newer build has there; `None` when it was removed.
    pub new: Option<Entry>,
}

/// Changes from a base build to a build, in byte order of path.
pub type Delta = Vec<Change>;

/// Where an event's delta is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeltaSource {
    /// In the event.
    Inline(Delta),
    /// Nowhere: diff the manifests.
    Pages,
}

/// How much of one build a mirror holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence {
    /// Every entry of the view.
    All,
    /// The entries with these ordinals.
    Some(RoaringBitmap),
}

/// One build in a report.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportedBuild {
    /// The build.
    pub build: Build,
    /// Its root.
    pub root: Digest,
    /// The part that the mirror carries.
    pub view: View,
    /// What of it is there.
    pub presence: Presence,
    /// Entries missing.
    pub missing_files: u64,
    /// Bytes missing.
    pub missing_bytes: u64,
}

/// What a mirror says about one channel. A hint, never a proof.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Who says it.
    pub mirror: MirrorId,
    /// Of which channel.
    pub channel: ChannelId,
    /// Drawn at random at each start of the mirror.
    pub boot: u64,
    /// Counts up within a boot.
    pub sequence: u64,
    /// When it was said.
    pub issued: Timestamp,
    /// When this boot began; of two boots the later one counts.
    pub booted: Timestamp,
    /// The build served at the mount.
    pub live: Option<Build>,
    /// Every build of which something is held, live included.
    pub builds: Vec<ReportedBuild>,
    /// The build being fetched.
    pub target: Option<Build>,
    /// Bytes a second of the fetch under way.
    pub fetch_bytes_per_s: u64,
    /// Free bytes on the store's disk.
    pub disk_free_bytes: u64,
    /// Why the channel does not move, if it does not.
    pub halted: Option<String>,
    /// Ids of operator orders carried out since the last report, with their outcome.
    pub orders: Vec<OrderOutcome>,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OrderOutcome {
    /// The order's id.
    pub id: u64,
    /// False when it failed or found faults.
    pub ok: bool,
    /// For people.
    pub text: String,
}

/// Why a build that was good is not any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RevokeReason {
    /// A file answered with other bytes than signed.
    DigestMismatch {
        /// Where.
        path: EntryPath,
    },
    /// A file that was reported present is not served.
    Missing {
        /// Where.
        path: EntryPath,
    },
    /// The mirror reports entries as lost.
    ReportedLoss {
        /// How many.
        files: u64,
    },
    /// The mirror does not answer.
    Unreachable,
    /// The build was retracted.
    Retracted,
    /// The mirror no longer reports the build.
    Dropped,
    /// Another build answered where this one was asked for.
    WrongBuild,
}

impl fmt::Display for RevokeReason {
    /// A word that programs match, and what people need beside it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DigestMismatch { path } => write!(f, "digest-mismatch: {path}"),
            Self::Missing { path } => write!(f, "missing: {path}"),
            Self::ReportedLoss { files } => write!(f, "reported-loss: {files} files"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Retracted => f.write_str("retracted"),
            Self::Dropped => f.write_str("dropped"),
            Self::WrongBuild => f.write_str("wrong-build"),
        }
    }
}

/// The consistency service's word on (mirror, channel, build, view).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VerdictState {
    /// Not yet known to be whole.
    Pending,
    /// Staged and audited.
    Verified,
    /// Live at it or at a newer one, and still served pinned.
    Complete,
    /// Was good and is not any more.
    Revoked(RevokeReason),
}

/// A verdict, as published.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// Whom it is about.
    pub mirror: MirrorId,
    /// The mirror's pool.
    pub pool: PoolId,
    /// The channel.
    pub channel: ChannelId,
    /// The build.
    pub build: Build,
    /// Its root.
    pub root: Digest,
    /// The part that it speaks of.
    pub view: View,
    /// The word.
    pub state: VerdictState,
    /// When it was said.
    pub issued: Timestamp,
    /// Revision of the leader's lease: a lower one than already seen is ignored.
    pub lease_revision: u64,
    /// Entries whose content was checked from outside for this verdict.
    pub audited_files: u64,
    /// Entries that the build has and the last complete one had not.
    pub new_files: u64,
}

/// What an operator asks of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OrderKind {
    /// Go through the log again.
    Replay {
        /// Which channels; `None` for all.
        channel: Option<ChannelId>,
        /// Which lane; `None` for both.
        lane: Option<Lane>,
        /// From where.
        from: ReplayFrom,
    },
    /// Re-hash what is stored, and fetch again what is lost.
    Verify {
        /// Which channels; `None` for all.
        channel: Option<ChannelId>,
        /// Which build; `None` for all that are retained.
        build: Option<Build>,
    },
    /// Fetch older builds that are not here.
    Backfill {
        /// Which channel.
        channel: ChannelId,
        /// The first.
        first: Build,
        /// The last.
        last: Build,
    },
    /// Take no more clients; serve and follow as before.
    Drain {
        /// For people.
        reason: String,
    },
    /// Take clients again.
    Resume,
}

/// Where a replay starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplayFrom {
    /// At this build's event.
    Build(Build),
    /// At the first event of this time or later.
    Time(Timestamp),
    /// After the last event that was acked.
    LastAck,
}

/// An operator's order to one mirror, signed by the archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// Drawn at random; a mirror carries an order out once.
    pub id: u64,
    /// To whom.
    pub mirror: MirrorId,
    /// When.
    pub issued: Timestamp,
    /// What.
    pub kind: OrderKind,
}

/// Anything that is signed. The kind is inside the signed bytes, so none can pass for another.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// By the archive.
    Snapshot(Snapshot),
    /// By the archive.
    Head(Head),
    /// By the archive.
    Retraction(Retraction),
    /// By a mirror.
    Report(Report),
    /// By the consistency service.
    Verdict(Verdict),
    /// By the archive.
    Order(Order),
    /// By the holders of the root keys.
    Root(Root),
}
