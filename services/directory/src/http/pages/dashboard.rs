//! `/`: the state of everything.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use mirrorlog_core::directory::health::Standing;
use mirrorlog_core::directory::member::{MirrorIndex, Profile};
use mirrorlog_core::directory::offer::Question;
use mirrorlog_core::directory::place::Place;
use mirrorlog_core::directory::{Carried, View};
use mirrorlog_core::id::{Build, ChannelId, PoolId};
use mirrorlog_core::time::Timestamp;

use super::show::{self, Land, When};
use super::told::{Around, Told, Tone, public};
use super::{Frame, protocol, rendered};
use crate::site::Site;

#[derive(Template)]
#[template(path = "dashboard.html")]
struct Dashboard<'a> {
    frame: Frame<'a>,
    up: usize,
    mirrors: usize,
    cards: Vec<Card<'a>>,
    groups: Vec<Group<'a>>,
}

/// One channel.
struct Card<'a> {
    id: &'a str,
    mount: Option<&'a str>,
    layout: Option<&'static str>,
    newest: Option<Newest>,
    wanted: Option<Build>,
    /// The build that pools want, newest first.
    pools: Vec<(Build, Vec<&'a str>)>,
    offered: usize,
    /// Mirrors that carry it.
    carriers: usize,
    expires: Option<When>,
    expired: bool,
    fork: Option<Build>,
    /// The newest build was taken back: the one before is shown.
    retracted: Option<Build>,
}

struct Newest {
    build: Build,
    created: When,
    files: String,
    bytes: String,
}

impl Card<'_> {
    /// How much of the bar is full.
    fn percent(&self) -> usize {
        (self.offered * 100).checked_div(self.carriers).unwrap_or(0)
    }
}

/// The mirrors of a continent.
struct Group<'a> {
    title: &'static str,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    id: &'a str,
    land: Land,
    pool: &'a str,
    protocol: &'a str,
    speed: Option<String>,
    /// In order of channel.
    states: Vec<Told>,
    standing: &'static str,
    tone: Tone,
    since: Option<When>,
}

/// The dashboard.
pub(crate) fn page(site: &Site, view: &View, now: Timestamp) -> String {
    let mut states: BTreeMap<MirrorIndex, Vec<Told>> = BTreeMap::new();
    let mut cards = Vec::new();
    let pools: BTreeSet<&PoolId> = public(view).map(|(_, profile)| &profile.pool).collect();
    for (id, carried) in view.channels() {
        let mut card = card(view, id, carried, &pools, now);
        let mut around = Around::new(view, id, now);
        for (mirror, profile) in public(view) {
            let told = around.told(mirror);
            card.carriers += usize::from(profile.carries(id));
            card.offered += usize::from(told.is_offered());
            states.entry(mirror).or_default().push(told);
        }
        cards.push(card);
    }
    let groups = by_continent(public(view))
        .into_iter()
        .map(|(title, all)| Group {
            title,
            rows: all
                .into_iter()
                .map(|(mirror, profile)| {
                    let states = states.remove(&mirror).unwrap_or_default();
                    row(site, view, mirror, profile, states, now)
                })
                .collect(),
        });
    let groups: Vec<Group<'_>> = groups.collect();
    rendered(&Dashboard {
        frame: Frame::new(site, view, "./", now),
        up: public(view)
            .filter(|(mirror, _)| view.health(*mirror).is_up())
            .count(),
        mirrors: public(view).count(),
        cards,
        groups,
    })
}

/// Mirrors by continent, country and id; those of no known place at the end.
pub(super) fn by_continent<'a>(
    mirrors: impl Iterator<Item = (MirrorIndex, &'a Profile)>,
) -> Vec<(&'static str, Vec<(MirrorIndex, &'a Profile)>)> {
    let mut groups: BTreeMap<_, Vec<(MirrorIndex, &Profile)>> = BTreeMap::new();
    for (mirror, profile) in mirrors {
        let continent = profile.continent;
        let group = groups.entry((continent.is_none(), continent)).or_default();
        group.push((mirror, profile));
    }
    let sorted = groups.into_iter().map(|((_, continent), mut group)| {
        // Stable: the ids stay in order.
        group.sort_by_cached_key(|(_, profile)| Land::new(profile.country).name);
        (continent.map_or("Elsewhere", |one| one.title()), group)
    });
    sorted.collect()
}

fn card<'a>(
    view: &View,
    id: &'a ChannelId,
    carried: &'a Carried,
    public: &BTreeSet<&PoolId>,
    now: Timestamp,
) -> Card<'a> {
    let channel = &carried.channel;
    let question = Question {
        needs: Default::default(),
        channel: id,
        build: None,
        place: &Place::default(),
        now,
    };
    let mut pools: BTreeMap<Build, Vec<&'a str>> = BTreeMap::new();
    for (pool, build) in &channel.wanted {
        if public.contains(pool) {
            pools.entry(*build).or_default().push(pool.as_str());
        }
    }
    let newest = channel.standing().next();
    let last = channel.builds.keys().next_back().copied();
    let expires = channel.head.as_ref().map(|head| head.expires);
    Card {
        id: id.as_str(),
        mount: carried.mount().map(|mount| mount.as_str()),
        layout: channel.last().map(|known| known.layout.as_str()),
        newest: newest.map(|(build, known)| Newest {
            build,
            created: When::new(known.created, now),
            files: show::count(known.entries),
            bytes: show::bytes(known.bytes),
        }),
        wanted: view.build_for(&question).unwrap_or_default(),
        pools: pools.into_iter().rev().collect(),
        offered: 0,
        carriers: 0,
        expires: expires.map(|at| When::new(at, now)),
        expired: view.is_expired(id, now),
        fork: channel.fork,
        retracted: last.filter(|build| channel.is_retracted(*build)),
    }
}

fn row<'a>(
    site: &'a Site,
    view: &'a View,
    mirror: MirrorIndex,
    profile: &'a Profile,
    states: Vec<Told>,
    now: Timestamp,
) -> Row<'a> {
    let health = view.health(mirror);
    let (standing, since) = match health.standing {
        Standing::New => ("not probed yet", None),
        Standing::Up { .. } => ("up for", Some(health.changed)),
        Standing::Down { since, .. } => ("down for", Some(since)),
        Standing::Returning { since, .. } => ("returning, down for", Some(since)),
    };
    let overall = view.speeds().overall(mirror);
    Row {
        id: profile.mirror.as_str(),
        land: Land::new(profile.country),
        pool: profile.pool.as_str(),
        protocol: protocol(&site.mirror(mirror).url),
        speed: overall.and_then(|overall| overall.speed).map(show::speed),
        states,
        standing,
        tone: Tone::of(&health.standing),
        since: since.map(|at| When::new(at, now)),
    }
}
