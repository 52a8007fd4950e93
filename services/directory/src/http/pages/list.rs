//! `/mirrors.html`: the mirrors by place.

use askama::Template;
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::health::Standing;
use mirrorlog_core::directory::member::{MirrorIndex, Profile, USUAL_WEIGHT};
use mirrorlog_core::id::ChannelId;
use mirrorlog_core::time::Timestamp;

use super::dashboard::by_continent;
use super::show::{self, Land};
use super::told::{Tone, public};
use super::{Frame, protocol, rendered};
use crate::site::Site;

#[derive(Template)]
#[template(path = "mirrors.html")]
struct List<'a> {
    frame: Frame<'a>,
    continents: Vec<Continent<'a>>,
    mirrors: usize,
    countries: usize,
}

struct Continent<'a> {
    title: &'static str,
    /// For links.
    anchor: String,
    countries: Vec<Country<'a>>,
}

struct Country<'a> {
    land: Land,
    mirrors: Vec<Mirror<'a>>,
}

struct Mirror<'a> {
    id: &'a str,
    url: &'a str,
    protocol: &'a str,
    speed: Option<String>,
    /// When it is not the usual one.
    weight: Option<u32>,
    sponsor: Option<&'a str>,
    channels: String,
    trouble: Option<&'static str>,
    tone: Tone,
}

/// The list of mirrors for people.
pub(crate) fn page(site: &Site, view: &View, now: Timestamp) -> String {
    let groups = by_continent(public(view)).into_iter();
    let continents: Vec<Continent<'_>> = groups
        .map(|(title, mirrors)| Continent {
            title,
            anchor: title.to_ascii_lowercase().replace(' ', "-"),
            countries: by_country(site, view, mirrors),
        })
        .collect();
    rendered(&List {
        frame: Frame::new(site, view, "./", now),
        mirrors: public(view).count(),
        countries: continents.iter().map(|one| one.countries.len()).sum(),
        continents,
    })
}

fn by_country<'a>(
    site: &'a Site,
    view: &'a View,
    mirrors: Vec<(MirrorIndex, &'a Profile)>,
) -> Vec<Country<'a>> {
    let mut countries: Vec<Country<'a>> = Vec::new();
    for (mirror, profile) in mirrors {
        let shown = shown(site, view, mirror, profile);
        let land = Land::new(profile.country);
        match countries.last_mut() {
            Some(country) if country.land.name == land.name => country.mirrors.push(shown),
            Some(_) | None => countries.push(Country {
                land,
                mirrors: vec![shown],
            }),
        }
    }
    countries
}

fn shown<'a>(
    site: &'a Site,
    view: &'a View,
    mirror: MirrorIndex,
    profile: &'a Profile,
) -> Mirror<'a> {
    let section = site.mirror(mirror);
    let overall = view.speeds().overall(mirror);
    let standing = view.health(mirror).standing;
    Mirror {
        id: profile.mirror.as_str(),
        url: &section.url,
        protocol: protocol(&section.url),
        speed: overall.and_then(|overall| overall.speed).map(show::speed),
        weight: (profile.weight != USUAL_WEIGHT).then_some(profile.weight),
        sponsor: section.sponsor.as_deref(),
        channels: channels(&profile.channels),
        trouble: match standing {
            Standing::New => Some("not checked yet"),
            Standing::Up { .. } => None,
            Standing::Down { .. } => Some("does not answer now"),
            Standing::Returning { .. } => Some("answers again, being checked"),
        },
        tone: Tone::of(&standing),
    }
}

/// The channels that a mirror declares.
pub(super) fn channels(declared: &[ChannelId]) -> String {
    if declared.is_empty() {
        return "all channels".to_owned();
    }
    let names: Vec<&str> = declared.iter().map(ChannelId::as_str).collect();
    names.join(", ")
}
