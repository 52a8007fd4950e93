//! Why a mirror is not offered.

use std::fmt;

use crate::consistency::Audience;
use crate::drain;
use crate::id::{Build, ChannelId};
use crate::statement::{RevokeReason, VerdictState};
use crate::time::Timestamp;
use crate::view;

use super::health::Standing;
use super::member::MirrorIndex;
use super::offer::{Needs, Question, longest};
use super::place::Place;
use super::view::{Carried, View};

/// Why a mirror is left out. The first word is for programs, the rest for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExcludeReason {
    /// It is not meant to carry the channel.
    NotCarried,
    /// It is for other networks only.
    Private,
    /// An operator takes it out, and says why.
    Drained(String),
    /// A build number was signed with two roots.
    Fork(Build),
    /// No signed head of the channel was heard: nobody says that its builds still count.
    NoHead,
    /// The channel's head has expired.
    Expired(Timestamp),
    /// It was not probed yet.
    Unprobed,
    /// It does not answer.
    Unreachable(Timestamp),
    /// Something else answers.
    WrongAnswer(Timestamp),
    /// It answers again, and is being checked.
    Returning {
        /// Good probes so far.
        passed: u32,
        /// Good probes that are needed.
        needed: u32,
    },
    /// Complete, and its URL for the build does not answer.
    NotServed(Build),
    /// Complete at an older build only.
    Behind(Build),
    /// Complete at a newer build, and no longer at this one.
    Ahead(Build),
    /// Whole there and not live yet.
    Verified,
    /// Not yet known to be whole.
    Pending,
    /// Nothing was said of it.
    NoVerdict,
    /// It was good, and is not any more.
    Revoked(RevokeReason),
    /// Complete, and carries a part only that is not all of what is asked for.
    PartOnly(view::View),
    /// For a DNS pool: no address is known.
    NoAddress,
    /// For a DNS pool: it is not reached by HTTP at the pool's port and path.
    NotHttp,
    /// For a DNS pool: it does not carry every channel.
    Partial(ChannelId),
}

impl ExcludeReason {
    /// The word that programs match.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NotCarried => "not-carried",
            Self::Private => "private",
            Self::Drained(_) => "drained",
            Self::Fork(_) => "fork",
            Self::NoHead => "no-head",
            Self::Expired(_) => "expired",
            Self::Unprobed => "unprobed",
            Self::Unreachable(_) => "unreachable",
            Self::WrongAnswer(_) => "wrong-answer",
            Self::Returning { .. } => "returning",
            Self::NotServed(_) => "not-served",
            Self::Behind(_) => "behind",
            Self::Ahead(_) => "ahead",
            Self::Verified => "verified",
            Self::Pending => "pending",
            Self::NoVerdict => "no-verdict",
            Self::Revoked(_) => "revoked",
            Self::PartOnly(_) => "part-only",
            Self::NoAddress => "no-address",
            Self::NotHttp => "not-http",
            Self::Partial(_) => "partial",
        }
    }
}

impl fmt::Display for ExcludeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        match self {
            Self::NotCarried => write!(f, "{word}: the mirror does not carry this channel"),
            Self::Private => write!(f, "{word}: the mirror is for other networks"),
            Self::Drained(reason) => f.write_str(&drain::text(reason)),
            Self::Fork(build) => write!(f, "{word}: build {build} was signed with two roots"),
            Self::NoHead => write!(f, "{word}: no signed head of the channel was heard yet"),
            Self::Expired(_) => write!(f, "{word}: the channel's head has expired"),
            Self::Unprobed => write!(f, "{word}: the mirror was not probed yet"),
            Self::Unreachable(_) => write!(f, "{word}: the mirror does not answer"),
            Self::WrongAnswer(_) => {
                write!(f, "{word}: something else answers at the mirror's URL")
            }
            Self::Returning { passed, needed } => write!(
                f,
                "{word}: the mirror answers again, {passed} of {needed} checks passed"
            ),
            Self::NotServed(build) => {
                write!(
                    f,
                    "{word}: the mirror's URL of build {build} does not answer"
                )
            }
            Self::Behind(build) => write!(f, "{word}: the mirror is complete at build {build}"),
            Self::Ahead(build) => {
                write!(
                    f,
                    "{word}: the mirror is at build {build} and no longer has this one"
                )
            }
            Self::Verified => write!(f, "{word}: whole on the mirror, and not live yet"),
            Self::Pending => write!(f, "{word}: not yet known to be whole"),
            Self::NoVerdict => write!(f, "{word}: nothing is known of this build on the mirror"),
            Self::Revoked(reason) => write!(f, "{word}: {reason}"),
            Self::PartOnly(part) => write!(f, "{word}: the mirror carries {part}"),
            Self::NoAddress => write!(f, "{word}: the mirror's address is not known"),
            Self::NotHttp => write!(
                f,
                "{word}: the mirror is not reached by plain HTTP at the pool's port and path"
            ),
            Self::Partial(channel) => write!(f, "{word}: the mirror does not carry {channel}"),
        }
    }
}

impl View {
    /// True when no head of the channel counts: nobody is offered.
    pub fn is_expired(&self, channel: &ChannelId, now: Timestamp) -> bool {
        self.channel(channel)
            .is_some_and(|carried| outdated(carried, now).is_some())
    }

    /// Why a mirror is not offered to a client for a build; `None` when it is.
    pub fn exclude(
        &self,
        mirror: MirrorIndex,
        question: &Question<'_>,
        build: Build,
    ) -> Option<ExcludeReason> {
        let Some(carried) = self.channel(question.channel) else {
            return Some(ExcludeReason::NotCarried);
        };
        self.exclude_in(carried, mirror, question, build, question.place)
    }

    pub(super) fn exclude_in(
        &self,
        carried: &Carried,
        mirror: MirrorIndex,
        question: &Question<'_>,
        build: Build,
        place: &Place,
    ) -> Option<ExcludeReason> {
        let Question { channel, now, .. } = *question;
        let profile = self.profile(mirror);
        if !profile.carries(channel) {
            return Some(ExcludeReason::NotCarried);
        }
        let inside = || {
            let within = place.address.and_then(|at| longest(profile, at));
            within.is_some()
        };
        if profile.audience == Audience::Private && !inside() {
            return Some(ExcludeReason::Private);
        }
        if let Some((reason, _)) = self.drains.of(&profile.mirror) {
            return Some(ExcludeReason::Drained(reason.to_owned()));
        }
        if let Some(build) = carried.channel.fork {
            return Some(ExcludeReason::Fork(build));
        }
        if let Some(reason) = outdated(carried, now) {
            return Some(reason);
        }
        let health = self.health(mirror);
        match health.standing {
            Standing::New => return Some(ExcludeReason::Unprobed),
            Standing::Up { .. } => {}
            Standing::Down { since, wrong: true } => {
                return Some(ExcludeReason::WrongAnswer(since));
            }
            Standing::Down { since, .. } => return Some(ExcludeReason::Unreachable(since)),
            Standing::Returning { passed, needed, .. } => {
                return Some(ExcludeReason::Returning { passed, needed });
            }
        }
        if let Some(reason) = incomplete(carried, mirror, build) {
            return Some(reason);
        }
        if let Some(word) = carried
            .word(mirror, build)
            .filter(|word| !word.part.view().is_all())
        {
            let enough = match question.needs {
                Needs::Everything => false,
                Needs::Part {
                    architectures,
                    components,
                } => word.part.view().covers(architectures, components),
                Needs::Path(path) => carried.part(mirror, build).has(path),
            };
            if !enough {
                return Some(ExcludeReason::PartOnly(word.part.view().clone()));
            }
        }
        let unserved = health.unserved(channel) == Some(build);
        unserved.then_some(ExcludeReason::NotServed(build))
    }

    /// Why a mirror is not offered while no build is wanted.
    pub(super) fn before_any(
        &self,
        carried: &Carried,
        mirror: MirrorIndex,
        question: &Question<'_>,
    ) -> ExcludeReason {
        let newest = carried.channel.newest().unwrap_or(Build::FIRST);
        let reason = self.exclude_in(carried, mirror, question, newest, question.place);
        // Complete, and its pool has no quorum yet.
        reason.unwrap_or(ExcludeReason::Pending)
    }
}

/// Why no build of the channel counts: its head has expired, or was never heard.
fn outdated(carried: &Carried, now: Timestamp) -> Option<ExcludeReason> {
    match &carried.channel.head {
        None => Some(ExcludeReason::NoHead),
        Some(head) if head.expires <= now => Some(ExcludeReason::Expired(head.expires)),
        Some(_) => None,
    }
}

fn incomplete(carried: &Carried, mirror: MirrorIndex, build: Build) -> Option<ExcludeReason> {
    if carried.channel.is_retracted(build) {
        return Some(ExcludeReason::Revoked(RevokeReason::Retracted));
    }
    let word = carried.word(mirror, build).map(|word| &word.state);
    match word {
        Some(VerdictState::Complete) => None,
        Some(VerdictState::Verified) => Some(ExcludeReason::Verified),
        Some(VerdictState::Revoked(reason)) => Some(ExcludeReason::Revoked(reason.clone())),
        Some(VerdictState::Pending) | None => {
            let pending = word.is_some();
            Some(match carried.newest_complete(mirror) {
                Some(newest) if newest > build => ExcludeReason::Ahead(newest),
                Some(newest) => ExcludeReason::Behind(newest),
                None if pending => ExcludeReason::Pending,
                None => ExcludeReason::NoVerdict,
            })
        }
    }
}
