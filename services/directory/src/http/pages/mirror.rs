//! `/mirrors/<id>.html`: one mirror, and why it is or is not offered.

use askama::Template;
use mirrorlog_core::consistency::Audience;
use mirrorlog_core::directory::health::Standing;
use mirrorlog_core::directory::member::{MirrorIndex, Profile};
use mirrorlog_core::directory::{Carried, View, Word};
use mirrorlog_core::id::{Build, ChannelId, MirrorId};
use mirrorlog_core::statement::VerdictState;
use mirrorlog_core::time::Timestamp;

use super::list::channels;
use super::show::{self, Land, When};
use super::told::{Around, Told, Tone};
use super::{Frame, protocol, rendered};
use crate::site::Site;

/// Builds of a channel that are shown, the newest ones.
const BUILDS_MAX: usize = 20;

#[derive(Template)]
#[template(path = "mirror.html")]
struct Page<'a> {
    frame: Frame<'a>,
    id: &'a str,
    land: Land,
    url: &'a str,
    health: Health,
    facts: Facts<'a>,
    speed: Option<Speed>,
    offered: usize,
    channels: Vec<Channel<'a>>,
}

/// What it declares.
struct Facts<'a> {
    pool: &'a str,
    protocol: &'a str,
    continent: Option<&'static str>,
    sponsor: Option<&'a str>,
    asn: Option<u32>,
    netblocks: String,
    addresses: String,
    weight: u32,
    channels: String,
}

/// What probes know.
struct Health {
    word: &'static str,
    text: &'static str,
    tone: Tone,
    since: Option<When>,
    /// Good probes so far, and as many as are needed.
    passed: Option<(u32, u32)>,
    latency: Option<(String, String)>,
    checked: Option<When>,
    probes: String,
}

/// What clients saw.
struct Speed {
    speed: Option<String>,
    networks: usize,
    failing: Option<String>,
    /// `timeout 3, corrupt 1`; empty when nobody complained.
    kinds: String,
}

struct Channel<'a> {
    id: &'a str,
    /// Its tree on the mirror.
    tree: Option<String>,
    told: Told,
    /// The build that clients near it are sent to.
    wanted: Option<Build>,
    builds: Vec<Held>,
    /// Builds that are not shown.
    older: usize,
}

struct Held {
    build: Build,
    created: Option<When>,
    word: &'static str,
    detail: Option<String>,
    tone: Tone,
    retracted: bool,
    issued: When,
}

/// The page of a mirror; none for one that is not known or not for everybody.
pub(crate) fn page(site: &Site, view: &View, id: &str, now: Timestamp) -> Option<String> {
    let mirror = view.find(&id.parse::<MirrorId>().ok()?)?;
    let profile = view.profile(mirror);
    if profile.audience == Audience::Private {
        return None;
    }
    let url = &site.mirror(mirror).url;
    let channels = view.channels();
    let channels: Vec<Channel<'_>> = channels
        .filter(|(channel, _)| profile.carries(channel))
        .map(|(channel, carried)| on_channel(view, mirror, url, channel, carried, now))
        .collect();
    Some(rendered(&Page {
        frame: Frame::new(site, view, "../", now),
        id: profile.mirror.as_str(),
        land: Land::new(profile.country),
        url,
        health: health(view, mirror, now),
        facts: facts(site, mirror, profile),
        speed: speed(view, mirror),
        offered: channels.iter().filter(|one| one.told.is_offered()).count(),
        channels,
    }))
}

fn facts<'a>(site: &'a Site, mirror: MirrorIndex, profile: &'a Profile) -> Facts<'a> {
    let section = site.mirror(mirror);
    let netblocks: Vec<String> = profile
        .netblocks
        .iter()
        .map(|net| net.to_string())
        .collect();
    let addresses = site.addresses.of(mirror).into_iter();
    let addresses: Vec<String> = addresses.map(|address| address.to_string()).collect();
    Facts {
        pool: profile.pool.as_str(),
        protocol: protocol(&section.url),
        continent: profile.continent.map(|continent| continent.title()),
        sponsor: section.sponsor.as_deref(),
        asn: profile.asn.map(|asn| asn.0),
        netblocks: netblocks.join(", "),
        addresses: addresses.join(", "),
        weight: profile.weight,
        channels: channels(&profile.channels),
    }
}

fn health(view: &View, mirror: MirrorIndex, now: Timestamp) -> Health {
    let health = view.health(mirror);
    let (word, text, since, passed) = match health.standing {
        Standing::New => ("new", "It was not probed yet.", None, None),
        Standing::Up { silent: 0 } => ("up", "It answers.", Some(health.changed), None),
        Standing::Up { .. } => (
            "up",
            "It answers, though not the last time.",
            Some(health.changed),
            None,
        ),
        Standing::Down { since, wrong: true } => (
            "down",
            "Something else answers at its URL.",
            Some(since),
            None,
        ),
        Standing::Down { since, .. } => ("down", "It does not answer.", Some(since), None),
        Standing::Returning {
            since,
            passed,
            needed,
        } => (
            "returning",
            "It answers again, and is being checked.",
            Some(since),
            Some((passed, needed)),
        ),
    };
    let latency = health.latency_ms.map(|mean| {
        let deviation = show::milliseconds(health.deviation_ms);
        (show::milliseconds(mean), deviation)
    });
    Health {
        word,
        text,
        tone: Tone::of(&health.standing),
        since: since.map(|at| When::new(at, now)),
        passed,
        latency,
        checked: health.checked.map(|at| When::new(at, now)),
        probes: show::count(health.probes),
    }
}

fn speed(view: &View, mirror: MirrorIndex) -> Option<Speed> {
    let overall = view.speeds().overall(mirror)?;
    let kinds = overall.failures();
    let kinds: Vec<String> = kinds
        .map(|(kind, count)| format!("{} {count}", kind.as_str()))
        .collect();
    let failing = (overall.failing > 0.0).then(|| format!("{:.1} %", overall.failing * 100.0));
    Some(Speed {
        speed: overall.speed.map(show::speed),
        networks: overall.networks,
        failing,
        kinds: kinds.join(", "),
    })
}

fn on_channel<'a>(
    view: &View,
    mirror: MirrorIndex,
    url: &str,
    id: &'a ChannelId,
    carried: &'a Carried,
    now: Timestamp,
) -> Channel<'a> {
    let mut around = Around::new(view, id, now);
    // Words on another root than the signed one do not count.
    let words = carried.words_on(mirror).filter_map(|(build, _)| {
        let word = carried.word(mirror, build)?;
        Some((build, word))
    });
    let mut words: Vec<(Build, &Word)> = words.collect();
    words.reverse();
    let shown = words.iter().take(BUILDS_MAX);
    Channel {
        id: id.as_str(),
        tree: carried.mount().map(|mount| format!("{url}{mount}/")),
        told: around.told(mirror),
        wanted: around.build(mirror),
        builds: shown
            .map(|(build, word)| held(carried, *build, word, now))
            .collect(),
        older: words.len().saturating_sub(BUILDS_MAX),
    }
}

fn held(carried: &Carried, build: Build, word: &Word, now: Timestamp) -> Held {
    let (text, detail, tone) = match &word.state {
        VerdictState::Pending => ("pending", None, Tone::Wait),
        VerdictState::Verified => ("verified", None, Tone::Wait),
        VerdictState::Complete => ("complete", None, Tone::Good),
        VerdictState::Revoked(reason) => ("revoked", Some(reason.to_string()), Tone::Bad),
    };
    let known = carried.channel.builds.get(&build);
    Held {
        build,
        created: known.map(|known| When::new(known.created, now)),
        word: text,
        detail,
        tone,
        retracted: carried.channel.is_retracted(build),
        issued: When::new(word.issued, now),
    }
}
