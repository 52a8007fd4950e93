//! Which mirror is the right one for whom.
//!
//! A fold without IO, as the consistency service's: `step(input, now) -> effects` over what was published, what
//! the verdicts say, how probes ended and what clients saw. All that anybody is answered comes from one [`View`]
//! of it, so no two outputs can disagree.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`place`] | where clients and mirrors are |
//! | [`member`] | a mirror as it is declared |
//! | [`health`] | whether it answers |
//! | [`speed`] | what clients saw, and how little a liar can do |
//! | `fold` | one step for each input |
//! | `view` | one moment of all of it |
//! | `climb` | which build |
//! | [`exclude`] | which mirrors not, and why |
//! | [`offer`] | which mirrors, in which order |
//! | [`pool`] | the same as names of DNS pools |
//! | [`visit`] | one client stays on one build |

mod climb;
pub mod exclude;
mod fold;
pub mod health;
pub mod member;
pub mod offer;
pub mod place;
pub mod pool;
pub mod speed;
#[cfg(test)]
mod tests;
mod view;
pub mod visit;

use crate::id::{Build, ChannelId, Digest, PoolId};
use crate::statement::{Head, Order, Retraction, Snapshot, Verdict};

use health::{ProbeRules, Probed};
use member::MirrorIndex;
use speed::{Ledger, Sample};
pub use view::{Carried, View, Word};

/// Most builds of one mirror and channel whose verdicts are remembered, the newest ones.
pub const WORDS_MAX: usize = crate::consistency::HELD_MAX;
/// Most channels that one probe looks at.
pub const LOOKS_MAX: usize = 16;

/// What the directory is told. Signatures were checked before.
#[derive(Clone, Debug)]
pub enum Input {
    /// A snapshot, signed by the archive.
    Snapshot(Snapshot),
    /// A head, signed by the archive.
    Head(Head),
    /// A retraction, signed by the archive.
    Retraction(Retraction),
    /// A verdict, signed by the consistency service.
    Verdict(Verdict),
    /// A wanted build, as the consistency service keeps it.
    Wanted {
        /// The channel.
        channel: ChannelId,
        /// The pool.
        pool: PoolId,
        /// The build; `None` when there is none any more.
        build: Option<Build>,
    },
    /// An order, signed by the archive; counts when it says whether a mirror takes clients.
    Order(Order),
    /// A probe ended.
    Probed {
        /// Whose.
        mirror: MirrorIndex,
        /// How.
        probed: Probed,
        /// Builds that it looked at, and whether each is served.
        looked: Vec<(ChannelId, Build, bool)>,
    },
    /// A client said what it saw.
    Sample(Sample),
    /// Time went on. Called several times a second.
    Tick,
}

/// A build that a probe looks at: its signed snapshot must be served, and name this root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The channel.
    pub channel: ChannelId,
    /// The build.
    pub build: Build,
    /// Its root.
    pub root: Digest,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// See whether a mirror answers and serves these, and say so.
    Probe {
        /// Which.
        mirror: MirrorIndex,
        /// What to look at.
        looks: Vec<Look>,
    },
    /// A build number was signed with two roots: the channel is offered no more.
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
    #[error("mirror {0} is not in the directory's configuration")]
    UnknownMirror(crate::id::MirrorId),
    /// More channels than are followed.
    #[error("channel {0} is one too many")]
    TooManyChannels(ChannelId),
    /// A verdict by a leader that has been replaced.
    #[error("verdict of lease {found}, but lease {current} has spoken")]
    Fenced {
        /// The verdict's lease.
        found: u64,
        /// The newest lease that spoke.
        current: u64,
    },
}

/// The fold's state.
#[derive(Clone, Debug)]
pub struct Directory {
    rules: ProbeRules,
    view: View,
    ledger: Ledger,
    /// The newest lease that gave a verdict, and when it last did.
    fence: (u64, crate::time::Timestamp),
    settled: crate::time::Timestamp,
}
