//! What people see: HTML from the server, without scripts.
//!
//! | page | what |
//! | --- | --- |
//! | `/` | [`dashboard`]: channels, and every mirror in every one of them |
//! | `/mirrors.html` | [`list`]: the mirrors by place, readable without a style sheet |
//! | `/mirrors/<id>.html` | [`mirror`]: one mirror, and why it is or is not offered |
//!
//! Each is a function of the view and the time, so that an export writes the same pages. Links are relative: they
//! hold below any prefix. Private mirrors are on none of them.

pub(crate) mod country;
mod dashboard;
mod list;
mod mirror;
pub(crate) mod show;
#[cfg(test)]
mod tests;
pub(crate) mod told;

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use mirrorlog_core::directory::View;
use mirrorlog_core::layout::Layout;
use mirrorlog_core::time::Timestamp;
use runtime::boot::now;

use super::Face;
use super::refusal::Refusal;
use crate::site::{Links, Site};
use show::When;

pub(crate) use dashboard::page as dashboard;
pub(crate) use list::page as list;
pub(crate) use mirror::page as mirror;

/// Nothing is loaded from anywhere, and nothing runs.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

pub(super) async fn answer_dashboard(State(face): State<Arc<Face>>) -> Response {
    let (view, now) = (face.site.view(), now());
    let make = || dashboard(&face.site, &view, now);
    answer(&face, face.memo.of("dashboard", &view, now, make))
}

pub(super) async fn answer_list(State(face): State<Arc<Face>>) -> Response {
    let (view, now) = (face.site.view(), now());
    let make = || list(&face.site, &view, now);
    answer(&face, face.memo.of("list", &view, now, make))
}

pub(super) async fn answer_mirror(
    State(face): State<Arc<Face>>,
    Path(file): Path<String>,
) -> Result<Response, Refusal> {
    let id = file.strip_suffix(".html").unwrap_or(&file);
    let page = file
        .ends_with(".html")
        .then(|| mirror(&face.site, &face.site.view(), id, now()));
    let Some(page) = page.flatten() else {
        face.gauges.answered("page", "absent");
        return Err(Refusal::unknown_mirror(id));
    };
    Ok(answer(&face, page.into()))
}

fn answer(face: &Face, page: Bytes) -> Response {
    face.gauges.answered("page", "ok");
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
    ];
    (
        headers.map(|(name, value)| (name, HeaderValue::from_static(value))),
        page,
    )
        .into_response()
}

/// What stands around every page.
struct Frame<'a> {
    site: &'a str,
    /// The way from the page to the top.
    up: &'static str,
    made: When,
    channels: Vec<Lists<'a>>,
}

/// Where programs find a channel's mirrors.
struct Lists<'a> {
    channel: &'a str,
    json: String,
    /// Only for trees that apt reads.
    apt: Option<String>,
}

impl<'a> Frame<'a> {
    fn new(site: &'a Site, view: &'a View, up: &'static str, now: Timestamp) -> Self {
        let channels = view.channels().map(|(id, carried)| {
            let last = carried.channel.last();
            let debian = last.is_some_and(|known| known.layout == Layout::Debian);
            let (json, apt) = match site.links {
                Links::Queries => (
                    format!("v1/mirrors?channel={id}"),
                    format!("mirrors.txt?channel={id}"),
                ),
                Links::Files => (format!("{id}/mirrors.json"), format!("{id}/mirrors.txt")),
            };
            Lists {
                channel: id.as_str(),
                json,
                apt: debian.then_some(apt),
            }
        });
        Self {
            site: &site.name,
            up,
            made: When::new(now, now),
            channels: channels.collect(),
        }
    }
}

pub(super) fn rendered(page: &impl Template) -> String {
    page.render().unwrap_or_else(|error| {
        // Writing to a string cannot fail, and no template of ours does.
        tracing::error!(%error, "a page cannot be made");
        String::new()
    })
}

/// The part of a URL that names its protocol.
pub(super) fn protocol(url: &str) -> &str {
    url.split_once(':').map_or(url, |(scheme, _)| scheme)
}
