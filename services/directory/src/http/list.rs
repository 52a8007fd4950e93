//! `/mirrors.txt`: apt's mirror list (apt-transport-mirror(1)).
//!
//! Indexes come from the pinned build, so that a run never sees two; packages from the live tree, whose names are
//! the same from build to build, so that caches keep them. apt asks again in every run, with a range after what it
//! has: it gets the whole list or 416, never a part of another version, and never a redirect.

use std::fmt::Write as _;
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

use super::ask::Asked;
use super::refusal::Refusal;
use super::{Face, random};
use crate::site::Site;

pub(super) async fn answer(
    State(face): State<Arc<Face>>,
    headers: HeaderMap,
    asked: Asked,
) -> Result<Response, Refusal> {
    let (view, now) = (face.site.view(), now());
    let text = face.counted("list", face.lists.of(&face.site, &view, &asked, now))?;
    let version = version(&view, now);
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

/// The second from which on nothing has changed; none while that second is not over, for more may come in it.
fn version(view: &View, now: Timestamp) -> Option<u64> {
    let whole = view.changed().as_seconds() + 1;
    (whole <= now.as_seconds())
        .then(|| u64::try_from(whole).ok())
        .flatten()
}

/// Memory for lists that were made in this second, in bytes.
const LISTS_BYTES: u64 = 16 * 1024 * 1024;

/// All that a list depends on, its second included: in each one another mirror is tried out.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    revision: u64,
    second: i64,
    channel: ChannelId,
    build: Option<Build>,
    kind: PlaceKind,
    limit: usize,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Bytes> for ByBytes {
    fn weight(&self, _key: &Key, list: &Bytes) -> u64 {
        256 + list.len() as u64
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
        now: Timestamp,
    ) -> Result<Bytes, Refusal> {
        let key = Key {
            revision: view.revision(),
            second: now.as_seconds(),
            channel: asked.channel(view)?.clone(),
            build: asked.build,
            kind: view.kind_of(&asked.place),
            limit: asked.limit,
        };
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
        // Writing to a string cannot fail.
        write!(
            text,
            "{pinned}\tpriority:{priority} type:index\n{url}{mount}/\tpriority:{priority} type:deb\n"
        )
        .ok();
    }
    Ok(text)
}
