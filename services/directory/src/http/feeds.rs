//! `/mirrors.atom` and `/builds.atom`: what changed, for feed readers (RFC 4287).
//!
//! An entry's id is a tag (RFC 4151) of the directory's name, so it stays when anything else changes: a reader shows
//! a mirror again when its standing changed, and a build once.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use mirrorlog_core::channel::Known;
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::health::Standing;
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::time::Timestamp;
use runtime::boot::now;

use super::Face;
use super::origin::{Notation, Origin};
use super::pages::told::{Around, Told, public};
use super::pages::{country, show};
use super::refusal::on_one_line;
use crate::site::Site;

/// Builds in the feed, the newest ones.
const BUILDS_MAX: usize = 50;

#[derive(Template)]
#[template(path = "feed.xml")]
struct Feed<'a> {
    title: String,
    author: String,
    origin: &'a Origin,
    /// Its own file.
    name: &'static str,
    updated: String,
    entries: Vec<Entry>,
}

struct Entry {
    id: String,
    title: String,
    link: String,
    at: Timestamp,
    updated: String,
    summary: String,
}

pub(super) async fn answer_mirrors(State(face): State<Arc<Face>>, headers: HeaderMap) -> Response {
    answer(&face, &headers, "mirrors.atom", mirrors)
}

pub(super) async fn answer_builds(State(face): State<Arc<Face>>, headers: HeaderMap) -> Response {
    answer(&face, &headers, "builds.atom", builds)
}

fn answer(
    face: &Face,
    headers: &HeaderMap,
    name: &'static str,
    make: impl FnOnce(&Site, &View, Timestamp, &Origin) -> String,
) -> Response {
    let (view, now) = (face.site.view(), now());
    let around = (&*face.site, &*view, now);
    let feed = face
        .memo
        .of_origin(name, around, headers, Notation::Xml, |origin| {
            make(&face.site, &view, now, origin)
        });
    face.gauges.answered("feed", "ok");
    let headers = [
        (CONTENT_TYPE, "application/atom+xml; charset=utf-8"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (
        headers.map(|(name, value)| (name, HeaderValue::from_static(value))),
        feed,
    )
        .into_response()
}

/// One entry a mirror, the last that changed first.
pub(crate) fn mirrors(site: &Site, view: &View, now: Timestamp, origin: &Origin) -> String {
    let mut around: Vec<(&ChannelId, Around<'_>)> = view
        .channels()
        .map(|(id, _)| (id, Around::new(view, id, now)))
        .collect();
    let mut entries: Vec<Entry> = Vec::new();
    for (mirror, profile) in public(view) {
        let health = view.health(mirror);
        let id = &profile.mirror;
        let standing = match health.standing {
            Standing::New => "not probed yet",
            Standing::Up { .. } => "up",
            Standing::Down { .. } => "down",
            Standing::Returning { .. } => "returning",
        };
        let carried = around.iter_mut();
        let states: Vec<String> = carried
            .filter(|(channel, _)| profile.carries(channel))
            .map(|(channel, around)| match around.told(mirror) {
                Told::Offered(build) => format!(" {channel}: offered at build {build}."),
                Told::Excluded(reason) => format!(" {channel}: not offered ({reason})."),
            })
            .collect();
        let place = profile.country.map(|one| country::title(one) + ", ");
        entries.push(Entry {
            id: origin.tag("mirror", id.as_str()),
            title: format!("{id}: {standing}"),
            link: format!("{}/", site.mirror(mirror).url),
            at: health.changed,
            updated: show::iso(health.changed),
            summary: format!(
                "{}pool {}.{}",
                place.unwrap_or_default(),
                profile.pool,
                states.concat()
            ),
        });
    }
    // Stable: the ids stay in order.
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
    rendered(site, view, "mirrors.atom", "mirrors", origin, entries)
}

/// The newest builds of all channels, newest first.
pub(crate) fn builds(site: &Site, view: &View, _now: Timestamp, origin: &Origin) -> String {
    let mut newest: Vec<(&ChannelId, Build, &Known, bool)> = Vec::new();
    for (id, carried) in view.channels() {
        let channel = &carried.channel;
        let builds = channel.builds.iter().rev().take(BUILDS_MAX);
        newest
            .extend(builds.map(|(build, known)| (id, *build, known, channel.is_retracted(*build))));
    }
    newest.sort_by_key(|(_, _, known, _)| std::cmp::Reverse(known.created));
    newest.truncate(BUILDS_MAX);
    let entries = newest
        .into_iter()
        .map(|(channel, build, known, retracted)| Entry {
            id: origin.tag("build", &format!("{channel}/{build}")),
            title: format!("{channel} build {build}"),
            link: format!("{}/#channel-{channel}", origin.url()),
            at: known.created,
            updated: show::iso(known.created),
            summary: format!(
                "{} files, {}, {} lane{}.",
                show::count(known.entries),
                show::bytes(known.bytes),
                known.lane,
                if retracted { "; retracted" } else { "" }
            ),
        });
    rendered(
        site,
        view,
        "builds.atom",
        "builds",
        origin,
        entries.collect(),
    )
}

fn rendered(
    site: &Site,
    view: &View,
    name: &'static str,
    what: &str,
    origin: &Origin,
    entries: Vec<Entry>,
) -> String {
    // XML has no way to write most control characters.
    let author = on_one_line(&site.name);
    let newest = entries.iter().map(|entry| entry.at).max();
    let feed = Feed {
        title: format!("{author}: {what}"),
        author,
        origin,
        name,
        updated: show::iso(newest.unwrap_or(view.changed())),
        entries,
    };
    super::pages::rendered(&feed)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::sample::{MINUTE, Sample};
    use super::*;

    fn sample() -> Sample {
        let mut sample = Sample::new(&[
            ("ch1", "ch", "https://ch1.example/pub", ""),
            ("nz1", "nz", "http://nz1.example", "channels = ['jammy']"),
        ]);
        sample.publish("noble", 1, 90 * MINUTE);
        sample.publish("noble", 2, 30 * MINUTE);
        sample.publish("noble-security", 1, 60 * MINUTE);
        sample.retract("noble", 2);
        sample.complete("ch1", "noble", 1, 80 * MINUTE);
        sample.wanted("noble", "ch", 1);
        sample.answers("nz1", 20.0, 7 * MINUTE);
        sample.answers("ch1", 20.0, 5 * MINUTE);
        sample.named("Müller & <Söhne>")
    }

    #[test]
    fn a_mirror_is_an_entry_that_changes_with_its_standing() {
        let sample = sample();
        let site = sample.site();
        let origin = Origin::of(&site, None);
        expect![[r#"
            <?xml version="1.0" encoding="utf-8"?>
            <feed xmlns="http://www.w3.org/2005/Atom">
            <title>Müller &#38; &#60;Söhne&#62;: mirrors</title>
            <id>tag:localhost,2026:feed/mirrors.atom</id>
            <link rel="self" type="application/atom+xml" href="http://localhost/mirrors.atom"/>
            <link rel="alternate" type="text/html" href="http://localhost/"/>
            <updated>2026-11-21T23:45:30Z</updated>
            <author><name>Müller &#38; &#60;Söhne&#62;</name></author>
            <generator>mirrorlog</generator>
            <entry>
            <id>tag:localhost,2026:mirror/ch1</id>
            <title>ch1: up</title>
            <link rel="alternate" href="https://ch1.example/pub/"/>
            <updated>2026-11-21T23:45:30Z</updated>
            <summary>Switzerland, pool ch. noble: offered at build 1. noble-security: not offered (no-verdict: nothing is known of this build on the mirror).</summary>
            </entry>
            <entry>
            <id>tag:localhost,2026:mirror/nz1</id>
            <title>nz1: up</title>
            <link rel="alternate" href="http://nz1.example/"/>
            <updated>2026-11-21T23:43:30Z</updated>
            <summary>New Zealand, pool nz.</summary>
            </entry>
            </feed>"#]].assert_eq(&mirrors(&site, sample.view(), sample.now, &origin));
    }

    #[test]
    fn builds_come_newest_first() {
        let sample = sample();
        let site = sample.site();
        let origin = Origin::of(&site, None);
        expect![[r#"
            <?xml version="1.0" encoding="utf-8"?>
            <feed xmlns="http://www.w3.org/2005/Atom">
            <title>Müller &#38; &#60;Söhne&#62;: builds</title>
            <id>tag:localhost,2026:feed/builds.atom</id>
            <link rel="self" type="application/atom+xml" href="http://localhost/builds.atom"/>
            <link rel="alternate" type="text/html" href="http://localhost/"/>
            <updated>2026-11-21T23:20:30Z</updated>
            <author><name>Müller &#38; &#60;Söhne&#62;</name></author>
            <generator>mirrorlog</generator>
            <entry>
            <id>tag:localhost,2026:build/noble/2</id>
            <title>noble build 2</title>
            <link rel="alternate" href="http://localhost/#channel-noble"/>
            <updated>2026-11-21T23:20:30Z</updated>
            <summary>118,304 files, 96 GB, bulk lane; retracted.</summary>
            </entry>
            <entry>
            <id>tag:localhost,2026:build/noble-security/1</id>
            <title>noble-security build 1</title>
            <link rel="alternate" href="http://localhost/#channel-noble-security"/>
            <updated>2026-11-21T22:50:30Z</updated>
            <summary>4,211 files, 5.2 GB, priority lane.</summary>
            </entry>
            <entry>
            <id>tag:localhost,2026:build/noble/1</id>
            <title>noble build 1</title>
            <link rel="alternate" href="http://localhost/#channel-noble"/>
            <updated>2026-11-21T22:20:30Z</updated>
            <summary>118,303 files, 96 GB, bulk lane.</summary>
            </entry>
            </feed>"#]]
        .assert_eq(&builds(&site, sample.view(), sample.now, &origin));
    }

    #[test]
    fn only_the_newest_builds_are_in_the_feed() {
        let mut sample = Sample::empty();
        for number in 1..=60 {
            let ago_ms = (100 - i64::try_from(number).unwrap_or(0)) * MINUTE;
            sample.publish("noble", number, ago_ms);
        }
        let site = sample.site();
        let feed = builds(&site, sample.view(), sample.now, &Origin::of(&site, None));
        assert_eq!(feed.matches("<entry>").count(), BUILDS_MAX);
        assert!(feed.contains("noble build 60") && !feed.contains("noble build 10<"));
    }
}
