//! `/mirrors.txt`: apt's mirror list (apt-transport-mirror(1)).
//!
//! Indexes come from the pinned build, so that a run never sees two; packages from the live tree, whose names are
//! the same from build to build, so that caches keep them; from the pinned build too where that tree is known to be
//! bad. apt asks again in every run, with a range after what it has: it gets the whole list or 416, never a part of
//! another version, and never a redirect.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_RANGE, LAST_MODIFIED, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::offer::{PlaceKind, Question, explore};
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::time::Timestamp;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use runtime::boot::now;

use super::ask::{Asked, Part};
use super::refusal::Refusal;
use super::{Face, random};
use crate::site::Site;

pub(super) async fn answer(
    State(face): State<Arc<Face>>,
    headers: HeaderMap,
    asked: Asked,
) -> Result<Response, Refusal> {
    let (view, now) = (face.site.view(), now());
    let made = Kind::of(&view, &asked).and_then(|kind| {
        let version = version(&view, &kind, now);
        Ok((
            version,
            face.lists.of(&face.site, &view, &asked, kind, now)?,
        ))
    });
    let (version, text) = face.counted("list", made)?;
    let mut answer = HeaderMap::new();
    answer.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    // It depends on who asks.
    answer.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    let date = version.map(|at| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at)));
    if let Some(date) = date {
        let same = |name| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value == Some(date.as_str())
        };
        let unchanged = same(IF_RANGE) && headers.contains_key(RANGE);
        if unchanged {
            let range = format!("bytes */{}", text.len());
            if let Ok(range) = HeaderValue::try_from(range) {
                answer.insert(CONTENT_RANGE, range);
            }
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, answer).into_response());
        }
        let not_modified = same(IF_MODIFIED_SINCE);
        if let Ok(date) = HeaderValue::try_from(date) {
            answer.insert(LAST_MODIFIED, date);
        }
        if not_modified {
            return Ok((StatusCode::NOT_MODIFIED, answer).into_response());
        }
    }
    Ok((StatusCode::OK, answer, text).into_response())
}

/// What stands as the list's date. Clients give it back and it is only ever compared for equality, so it is no
/// time: the second from which on nothing has changed, less up to a day by what list it is. A client that came
/// to another country must not be told that what it has is what it would get.
///
/// None while that second is not over, for more may come in it.
fn version(view: &View, kind: &Kind, now: Timestamp) -> Option<u64> {
    let whole = view.changed().as_seconds() + 1;
    if whole > now.as_seconds() {
        return None;
    }
    // Without a key: replicas of one version agree.
    let mut hasher = DefaultHasher::new();
    kind.hash(&mut hasher);
    u64::try_from(whole)
        .ok()?
        .checked_sub(hasher.finish() % DAY_S)
}

/// Seconds of a day.
const DAY_S: u64 = 86_400;
/// Memory for lists that were made in this second, in bytes.
const LISTS_BYTES: u64 = 16 * 1024 * 1024;

/// All that a list of one view depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    channel: ChannelId,
    build: Option<Build>,
    place: PlaceKind,
    part: Part,
    limit: usize,
}

impl Kind {
    fn of(view: &View, asked: &Asked) -> Result<Self, Refusal> {
        Ok(Self {
            channel: asked.channel(view)?.clone(),
            build: asked.build,
            place: view.kind_of(&asked.place),
            part: asked.part.clone(),
            limit: asked.limit,
        })
    }
}

/// The view's revision, and the second: in each one another mirror is tried out.
type Key = (u64, i64, Kind);

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Bytes> for ByBytes {
    fn weight(&self, (_, _, kind): &Key, list: &Bytes) -> u64 {
        256 + kind.part.bytes() + list.len() as u64
    }
}

/// Lists that were made in this second: ranking a thousand mirrors for each request would be most of its cost.
pub(super) struct Lists(Cache<Key, Bytes, ByBytes>);

impl Lists {
    pub(super) fn new() -> Self {
        Self(Cache::with_weighter(4096, LISTS_BYTES, ByBytes))
    }

    fn of(
        &self,
        site: &Site,
        view: &View,
        asked: &Asked,
        kind: Kind,
        now: Timestamp,
    ) -> Result<Bytes, Refusal> {
        let key = (view.revision(), now.as_seconds(), kind);
        if let Some(list) = self.0.get(&key) {
            return Ok(list);
        }
        let list = Bytes::from(text(site, view, asked, now, random())?);
        self.0.insert(key, list.clone());
        Ok(list)
    }
}

/// The list for a client.
pub(crate) fn text(
    site: &Site,
    view: &View,
    asked: &Asked,
    now: Timestamp,
    random: u64,
) -> Result<String, Refusal> {
    let channel = asked.channel(view)?;
    let question = Question {
        channel,
        build: asked.build,
        needs: asked.part.needs(),
        place: &asked.place,
        now,
    };
    let mut offer = view.offer(&question)?;
    let mount = view.channel(channel).and_then(|carried| carried.mount());
    let (Some(build), Some(mount), false) = (offer.build, mount, offer.ranked.is_empty()) else {
        let text = format!(
            "no mirror is offered for {channel} now; /v1/mirrors?channel={channel} says why"
        );
        return Err(Refusal::nobody(text));
    };
    explore(&mut offer.ranked, random);
    let mut text = format!(
        "# {}: {channel}, build {build}\n",
        site.name.replace('\n', " ")
    );
    for (place, ranked) in offer.ranked.iter().take(asked.limit.max(1)).enumerate() {
        let (url, priority) = (&site.mirror(ranked.mirror).url, place + 1);
        let pinned = site.pinned(ranked.mirror, channel, build, b"");
        let live = format!("{url}{mount}/");
        let packages = if view.live_is_sound(channel, ranked.mirror, build) {
            &live
        } else {
            &pinned
        };
        // Writing to a string cannot fail.
        write!(
            text,
            "{pinned}\tpriority:{priority} type:index\n{packages}\tpriority:{priority} type:deb\n"
        )
        .ok();
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mirrorlog_core::directory::place::Place;
    use mirrorlog_core::statement::{RevokeReason, VerdictState};

    use super::super::sample::{MINUTE, Sample};
    use super::*;

    fn asked(country: &str, limit: usize) -> Asked {
        Asked {
            channel: Some(ChannelId::new("noble").unwrap()),
            build: None,
            place: Place::in_country(country.parse().unwrap()),
            limit,
            path: None,
            part: Part::default(),
        }
    }

    #[test]
    fn each_list_has_a_date_of_its_own() {
        let sample = Sample::story();
        let later = sample.now.plus_ms(MINUTE);
        let date = |asked: &Asked| {
            let kind = Kind::of(sample.view(), asked).unwrap();
            version(sample.view(), &kind, later).unwrap()
        };
        let here = date(&asked("NZ", 20));
        assert_eq!(here, date(&asked("NZ", 20)));
        assert_ne!(here, date(&asked("CH", 20)), "roamed");
        assert_ne!(here, date(&asked("NZ", 5)));
        assert!(i64::try_from(here).unwrap() <= later.as_seconds());
        let kind = Kind::of(sample.view(), &asked("NZ", 20)).unwrap();
        let changed = sample.view().changed();
        assert_eq!(
            version(sample.view(), &kind, changed),
            None,
            "more may come"
        );
    }

    #[test]
    fn packages_do_not_come_from_a_live_tree_that_is_bad() {
        let mut sample = Sample::new(&[
            ("nz1", "nz", "http://nz1.example/pub", ""),
            ("nz2", "nz", "http://nz2.example", ""),
        ]);
        for (number, ago_ms) in [(1, 90 * MINUTE), (2, 60 * MINUTE)] {
            sample.publish("noble", number, ago_ms);
        }
        for mirror in ["nz1", "nz2"] {
            sample.complete(mirror, "noble", 1, 80 * MINUTE);
            sample.answers(mirror, 20.0, 0);
        }
        sample.wanted("noble", "nz", 1);
        let lost = VerdictState::Revoked(RevokeReason::ReportedLoss { files: 1 });
        sample.say("nz1", "noble", 2, lost, MINUTE);
        let text = text(
            &sample.site(),
            sample.view(),
            &asked("NZ", 20),
            sample.now,
            0,
        )
        .unwrap();
        let packages = text.lines().filter(|line| line.ends_with("type:deb"));
        let mut urls: Vec<&str> = packages
            .filter_map(|line| line.split('\t').next())
            .collect();
        urls.sort_unstable();
        assert_eq!(
            urls,
            [
                "http://nz1.example/pub/@/noble/1/",
                "http://nz2.example/ubuntu/"
            ]
        );
    }
}
