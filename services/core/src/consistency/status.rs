//! What people see.

use std::collections::BTreeMap;

use crate::id::{Build, ChannelId, MirrorId, PoolId};
use crate::statement::{OrderOutcome, RevokeReason, VerdictState};
use crate::time::Timestamp;
use crate::view::View;

use super::carried::Carried;
use super::held::{Claim, Held};
use super::watched::Watched;
use super::{Audience, Consistency, wanted};
use crate::channel::Channel;

/// Mirrors x channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The channels.
    pub channels: Vec<ChannelStatus>,
    /// The mirrors that the configuration names.
    pub mirrors: Vec<MirrorStatus>,
}

/// One channel.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelStatus {
    /// Its id.
    pub channel: ChannelId,
    /// The newest unretracted build.
    pub build: Option<Build>,
    /// What each pool's clients should use.
    pub wanted: BTreeMap<PoolId, Build>,
    /// When the newest head expires.
    pub head_expires: Option<Timestamp>,
}

/// One mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorStatus {
    /// Its id.
    pub mirror: MirrorId,
    /// Its pool.
    pub pool: PoolId,
    /// Reported lately and answers.
    pub healthy: bool,
    /// One for each channel that it carries.
    pub channels: Vec<MirrorChannel>,
}

/// A verdict without its particulars, for the live build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is known, or nothing is live.
    Unknown,
    /// Not yet known to be whole.
    Pending,
    /// Staged and audited.
    Verified,
    /// Live and audited.
    Complete,
    /// Was good and is not any more.
    Revoked,
}

impl State {
    /// The word as it stands in `status --json`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Pending => "pending",
            Self::Verified => "verified",
            Self::Complete => "complete",
            Self::Revoked => "revoked",
        }
    }
}

/// One channel on one mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorChannel {
    /// The channel.
    pub channel: ChannelId,
    /// The part that it carries, as it reports.
    pub view: View,
    /// The build that it serves at the mount.
    pub live: Option<Build>,
    /// The newest build that is whole there.
    pub staged: Option<Build>,
    /// The verdict on the live build.
    pub state: State,
    /// Files missing of the build being fetched; 0 when nothing is.
    pub missing: u64,
    /// Unretracted builds newer than live.
    pub lag_builds: u64,
    /// Milliseconds since the oldest of them was signed.
    pub lag_ms: i64,
    /// Why it is not complete at the newest build, if there is anything to say.
    pub reason: Option<Reason>,
    /// Bytes a second of the fetch under way.
    pub fetch_bytes_per_s: u64,
    /// Every build that it reports.
    pub builds: Vec<BuildStatus>,
    /// How its last orders ended, newest last.
    pub orders: Vec<OrderOutcome>,
}

/// One build on one mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildStatus {
    /// The build.
    pub build: Build,
    /// The last verdict.
    pub verdict: Option<VerdictState>,
    /// Entries checked from outside for it.
    pub audited_files: u64,
    /// Entries that the last complete build had not.
    pub new_files: u64,
    /// Files drawn at random and found good since the last fault, over all audits.
    pub sampled_files: u64,
}

impl BuildStatus {
    /// How sure [`BuildStatus::bad_at_most`] is.
    pub const CONFIDENCE: f64 = 0.95;

    /// The largest share of bad files with which so many random ones would all be good in one of twenty cases: with 95 %
    /// confidence no larger share is bad. 1 when none was looked at.
    pub fn bad_at_most(&self) -> f64 {
        // Exact up to 2^53 files.
        match self.sampled_files {
            0 => 1.0,
            files => 1.0 - (1.0 - Self::CONFIDENCE).powf(1.0 / files as f64),
        }
    }
}

/// Why a mirror is not complete at the newest build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A build number was signed with two roots.
    Fork(Build),
    /// The mirror has not reported the channel.
    NoReport,
    /// The verdict on its live build.
    Revoked(RevokeReason),
    /// An operator takes it out, and says why.
    Drained(String),
    /// It does not answer.
    Unreachable,
    /// It has not reported lately.
    Stale,
    /// It says so itself.
    Halted(String),
    /// It has no public URL.
    Private,
    /// The channel's head has expired.
    Expired,
}

impl Consistency {
    /// What is known of one channel, or of all.
    pub fn status(&self, only: Option<&ChannelId>, now: Timestamp) -> Status {
        let asked = |id: &ChannelId| only.is_none_or(|only| only == id);
        let channels: Vec<_> = self.channels.iter().filter(|(id, _)| asked(id)).collect();
        let cut_off = self.is_cut_off();
        Status {
            channels: channels
                .iter()
                .map(|(id, channel)| channel_status(id, channel))
                .collect(),
            mirrors: self
                .mirrors
                .values()
                .map(|mirror| self.mirror_status(mirror, &channels, cut_off, now))
                .collect(),
        }
    }

    /// Public mirrors that are meant to carry `channel` and take clients.
    pub fn carriers(&self, channel: &ChannelId) -> Vec<MirrorId> {
        let carries = |watched: &&Watched| {
            let member = &watched.member;
            let drained = self.drains.of(&member.mirror).is_some();
            member.audience == Audience::Public && member.carries(channel) && !drained
        };
        self.mirrors
            .values()
            .filter(carries)
            .map(|watched| watched.member.mirror.clone())
            .collect()
    }

    /// The last verdict on a build of a mirror.
    pub fn verdict(
        &self,
        mirror: &MirrorId,
        channel: &ChannelId,
        build: Build,
    ) -> Option<&VerdictState> {
        self.mirrors
            .get(mirror)?
            .channels
            .get(channel)?
            .builds
            .get(&build)?
            .said()
    }

    /// The build that a pool's clients should use.
    pub fn wanted(&self, channel: &ChannelId, pool: &PoolId) -> Option<Build> {
        self.channels.get(channel)?.wanted.get(pool).copied()
    }

    /// Every build, retracted or not, whose manifest may be asked for: remembered, and reported by a mirror or newest.
    pub fn roots(&self) -> Vec<crate::id::Digest> {
        let newest = self
            .channels
            .values()
            .filter_map(|channel| channel.builds.values().next_back());
        let carried = || {
            self.mirrors
                .values()
                .flat_map(|mirror| mirror.channels.values())
        };
        let held = carried()
            .flat_map(|carried| carried.builds.values())
            .map(|held| held.root);
        let bases = carried()
            .filter_map(|carried| carried.last_complete)
            .map(|(_, root)| root);
        newest
            .map(|known| known.root)
            .chain(held)
            .chain(bases)
            .collect()
    }

    fn mirror_status(
        &self,
        mirror: &Watched,
        channels: &[(&ChannelId, &Channel)],
        cut_off: bool,
        now: Timestamp,
    ) -> MirrorStatus {
        let judging = wanted::Judging {
            mirrors: &self.mirrors,
            drains: &self.drains,
            rules: &self.rules,
            cut_off,
            now,
        };
        let healthy = judging.is_healthy(mirror);
        let carried = channels.iter().filter(|(id, _)| mirror.member.carries(id));
        MirrorStatus {
            mirror: mirror.member.mirror.clone(),
            pool: mirror.member.pool.clone(),
            healthy,
            channels: carried
                .map(|(id, channel)| self.mirror_channel(mirror, id, channel, now))
                .collect(),
        }
    }

    fn mirror_channel(
        &self,
        mirror: &Watched,
        id: &ChannelId,
        channel: &Channel,
        now: Timestamp,
    ) -> MirrorChannel {
        let none = Carried::default();
        let carried = mirror.channels.get(id).unwrap_or(&none);
        let live = carried.live.and_then(|live| carried.builds.get(&live));
        let (lag_builds, lag_ms) = channel.lag(carried.live, now);
        let whole = |(build, held): &(&Build, &Held)| {
            let signed = channel
                .builds
                .get(build)
                .is_some_and(|known| known.root == held.root);
            held.claim == Claim::Whole && signed
        };
        let target = carried
            .target
            .and_then(|target| carried.builds.get(&target));
        MirrorChannel {
            channel: id.clone(),
            view: carried
                .builds
                .values()
                .next_back()
                .map(|held| held.view.view().clone())
                .unwrap_or_default(),
            live: carried.live,
            staged: carried
                .builds
                .iter()
                .rev()
                .find(whole)
                .map(|(build, _)| *build),
            state: state(live),
            missing: missing(target).max(missing(live)),
            lag_builds,
            lag_ms,
            reason: self.reason(mirror, carried, channel, live, now),
            fetch_bytes_per_s: carried.fetch_bytes_per_s,
            builds: carried
                .builds
                .iter()
                .map(|(build, held)| build_status(*build, held))
                .collect(),
            orders: carried.orders.iter().cloned().collect(),
        }
    }

    fn reason(
        &self,
        mirror: &Watched,
        carried: &Carried,
        channel: &Channel,
        live: Option<&Held>,
        now: Timestamp,
    ) -> Option<Reason> {
        if let Some((reason, _)) = self.drains.of(&mirror.member.mirror) {
            return Some(Reason::Drained(reason.to_owned()));
        }
        if let Some(build) = channel.fork {
            return Some(Reason::Fork(build));
        }
        if !carried.was_reported() {
            return Some(Reason::NoReport);
        }
        if let Some(VerdictState::Revoked(reason)) = live.and_then(Held::said) {
            return Some(Reason::Revoked(reason.clone()));
        }
        if mirror.is_unreachable(&self.rules) {
            return Some(Reason::Unreachable);
        }
        if !mirror.is_fresh(&self.rules, now) {
            return Some(Reason::Stale);
        }
        if let Some(text) = &carried.halted {
            return Some(Reason::Halted(text.clone()));
        }
        if mirror.member.audience == Audience::Private {
            return Some(Reason::Private);
        }
        let expired = channel.head.as_ref().is_some_and(|head| head.expires < now);
        expired.then_some(Reason::Expired)
    }
}

fn channel_status(id: &ChannelId, channel: &Channel) -> ChannelStatus {
    ChannelStatus {
        channel: id.clone(),
        build: channel.newest(),
        wanted: channel.wanted.clone(),
        head_expires: channel.head.as_ref().map(|head| head.expires),
    }
}

fn state(live: Option<&Held>) -> State {
    match live.and_then(Held::said) {
        None => State::Unknown,
        Some(VerdictState::Pending) => State::Pending,
        Some(VerdictState::Verified) => State::Verified,
        Some(VerdictState::Complete) => State::Complete,
        Some(VerdictState::Revoked(_)) => State::Revoked,
    }
}

fn missing(held: Option<&Held>) -> u64 {
    match held.map(|held| held.claim) {
        Some(Claim::Partial { missing }) => missing,
        Some(Claim::Unheard | Claim::Whole | Claim::Gone) | None => 0,
    }
}

fn build_status(build: Build, held: &Held) -> BuildStatus {
    BuildStatus {
        build,
        verdict: held.said().cloned(),
        audited_files: held.audited_files,
        new_files: held.new_files,
        sampled_files: held.sampled_files,
    }
}
