//! What clients near a mirror are told of it.
//!
//! Pools may want different builds, so a mirror is shown as those see it who are sent to it first: the clients of
//! its own country.

use std::collections::BTreeMap;

use mirrorlog_core::consistency::Audience;
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::exclude::ExcludeReason;
use mirrorlog_core::directory::health::Standing;
use mirrorlog_core::directory::member::{MirrorIndex, Profile};
use mirrorlog_core::directory::offer::Question;
use mirrorlog_core::directory::place::{Continent, Country, Place};
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::time::Timestamp;

/// The mirrors that everybody may know of, in order of id.
pub(crate) fn public(view: &View) -> impl Iterator<Item = (MirrorIndex, &Profile)> {
    let mirrors = view.mirrors();
    mirrors.filter(|(_, profile)| profile.audience == Audience::Public)
}

/// Whether a mirror is offered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    /// It is, at this build.
    Offered(Build),
    /// It is not.
    Excluded(ExcludeReason),
}

impl Told {
    pub(crate) fn is_offered(&self) -> bool {
        matches!(self, Self::Offered(_))
    }

    /// The build or the reason's word.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Offered(build) => build.to_string(),
            Self::Excluded(reason) => reason.word().to_owned(),
        }
    }

    /// A sentence.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Offered(build) => format!("offered at build {build}"),
            Self::Excluded(reason) => reason.to_string(),
        }
    }

    pub(super) fn tone(&self) -> Tone {
        match self {
            Self::Offered(_) => Tone::Good,
            Self::Excluded(reason) => match reason {
                ExcludeReason::NotCarried
                | ExcludeReason::Private
                | ExcludeReason::Drained(_)
                | ExcludeReason::Unprobed
                | ExcludeReason::NoVerdict
                | ExcludeReason::NoAddress
                | ExcludeReason::NotHttp
                | ExcludeReason::PartOnly(_)
                | ExcludeReason::Partial(_) => Tone::Quiet,
                ExcludeReason::Returning { .. }
                | ExcludeReason::Behind(_)
                | ExcludeReason::Ahead(_)
                | ExcludeReason::Verified
                | ExcludeReason::Pending => Tone::Wait,
                ExcludeReason::Fork(_)
                | ExcludeReason::NoHead
                | ExcludeReason::Expired(_)
                | ExcludeReason::Unreachable(_)
                | ExcludeReason::WrongAnswer(_)
                | ExcludeReason::NotServed(_)
                | ExcludeReason::Revoked(_) => Tone::Bad,
            },
        }
    }
}

/// How good the news is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Wait,
    Bad,
    Quiet,
}

impl Tone {
    /// The class in the style sheet.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Wait => "wait",
            Self::Bad => "bad",
            Self::Quiet => "quiet",
        }
    }

    pub(super) const fn of(standing: &Standing) -> Self {
        match standing {
            Standing::New => Self::Quiet,
            Standing::Up { .. } => Self::Good,
            Standing::Down { .. } => Self::Bad,
            Standing::Returning { .. } => Self::Wait,
        }
    }
}

/// One channel, as it is told around each mirror.
pub(crate) struct Around<'a> {
    view: &'a View,
    channel: &'a ChannelId,
    now: Timestamp,
    /// A build, or why nobody is offered any: by where clients are.
    places: BTreeMap<(Option<Country>, Option<Continent>), Here>,
}

struct Here {
    build: Option<Build>,
    /// While there is no build; in order of mirror.
    reasons: Vec<(MirrorIndex, ExcludeReason)>,
}

impl<'a> Around<'a> {
    pub(crate) fn new(view: &'a View, channel: &'a ChannelId, now: Timestamp) -> Self {
        Self {
            view,
            channel,
            now,
            places: BTreeMap::new(),
        }
    }

    /// The build that clients near a mirror are sent to.
    pub(crate) fn build(&mut self, mirror: MirrorIndex) -> Option<Build> {
        let place = near(self.view.profile(mirror));
        self.here(&place).build
    }

    /// Whether a mirror is offered to those near it.
    pub(crate) fn told(&mut self, mirror: MirrorIndex) -> Told {
        let (view, channel, now) = (self.view, self.channel, self.now);
        let place = near(view.profile(mirror));
        let here = self.here(&place);
        let Some(build) = here.build else {
            let found = here.reasons.binary_search_by_key(&mirror, |(one, _)| *one);
            let reason = found.ok().and_then(|at| here.reasons.get(at));
            let reason = reason.map(|(_, reason)| reason.clone());
            return Told::Excluded(reason.unwrap_or(ExcludeReason::NoVerdict));
        };
        let question = question(channel, &place, now);
        match view.exclude(mirror, &question, build) {
            Some(reason) => Told::Excluded(reason),
            None => Told::Offered(build),
        }
    }

    fn here(&mut self, place: &Place) -> &Here {
        let (view, channel, now) = (self.view, self.channel, self.now);
        let key = (place.country, place.continent);
        self.places.entry(key).or_insert_with(|| {
            let question = question(channel, place, now);
            // No answer at all means that the channel is not known: nothing is offered.
            let build = view.build_for(&question).unwrap_or_default();
            let reasons = match build {
                Some(_) => Vec::new(),
                None => view.excluded(&question).unwrap_or_default(),
            };
            Here { build, reasons }
        })
    }
}

fn near(profile: &Profile) -> Place {
    Place {
        country: profile.country,
        continent: profile.continent,
        ..Place::default()
    }
}

fn question<'a>(channel: &'a ChannelId, place: &'a Place, now: Timestamp) -> Question<'a> {
    Question {
        needs: Default::default(),
        channel,
        build: None,
        place,
        now,
    }
}
