//! `/metalink`: where a file is to be had, and how to tell that it is the right one; version 4 (RFC 5854), or 3 as
//! Fedora's clients read it.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use askama::Template;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse as _, Response};
use mirrorlog_core::directory::member::MirrorIndex;
use mirrorlog_core::directory::offer::{Needs, Offer, Question};
use mirrorlog_core::directory::place::{Country, Place};
use mirrorlog_core::directory::{Carried, View};
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::manifest::FileEntry;
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::tree::{Scope, Tree};
use runtime::boot::now;

use super::Face;
use super::ask::Asked;
use super::refusal::Refusal;
use crate::pieces::Pieces;
use crate::trees::Found;
use crate::trees::holders::HOLDERS_MAX;

const V3: &str = "application/metalink+xml";
const V4: &str = "application/metalink4+xml";
/// Earlier versions of the file that a version 3 names.
const ALTERNATES_MAX: usize = 4;

#[derive(Template)]
#[template(path = "metalink3.xml")]
struct Version3<'a> {
    pubdate: String,
    file: &'a File,
    pieces: Option<&'a Pieces>,
    alternates: Vec<File>,
    sources: &'a [Source],
}

#[derive(Template)]
#[template(path = "metalink4.xml")]
struct Version4<'a> {
    version: &'static str,
    published: String,
    file: &'a File,
    pieces: Option<&'a Pieces>,
    sources: &'a [Source],
}

/// One version of the file.
struct File {
    name: String,
    size_bytes: u64,
    sha256: Digest,
    timestamp: i64,
}

impl File {
    fn of(path: &EntryPath, file: &FileEntry) -> Self {
        let name = String::from_utf8_lossy(path.name());
        Self {
            // Characters that no XML may hold.
            name: name.replace(|c: char| c.is_control(), "\u{fffd}"),
            size_bytes: file.size_bytes,
            sha256: file.digest,
            timestamp: file.mtime.as_seconds(),
        }
    }
}

/// Where it is to be had.
struct Source {
    url: String,
    protocol: &'static str,
    country: Option<Country>,
    /// From 1 on.
    place: usize,
}

impl Source {
    fn preference(&self) -> usize {
        101usize.saturating_sub(self.place).max(1)
    }
}

pub(super) async fn answer(
    State(face): State<Arc<Face>>,
    headers: HeaderMap,
    asked: Asked,
) -> Result<Response, Refusal> {
    face.counted("metalink", respond(&face, &headers, &asked).await)
}

async fn respond(face: &Face, headers: &HeaderMap, asked: &Asked) -> Result<Response, Refusal> {
    let view = face.site.view();
    let channel = asked.channel(&view)?;
    let path = asked.path.as_deref().unwrap_or_default();
    let path = path.trim_start_matches('/').as_bytes();
    let needed = EntryPath::new(path).ok();
    let question = Question {
        channel,
        build: asked.build,
        needs: Needs::Everything,
        place: &asked.place,
        now: now(),
    };
    let mut offer = view.offer(&question)?;
    let parts = view.channel(channel).is_some_and(Carried::has_parts);
    if let Some(path) = needed.as_ref().filter(|_| parts) {
        // Whoever has the path in the build that is everybody's; that of the path only where nobody has the whole.
        let build = offer.build.filter(|_| !offer.ranked.is_empty());
        let question = Question {
            build: build.or(asked.build),
            needs: Needs::Path(path),
            ..question
        };
        offer = view.offer(&question)?;
    }
    let (Some(build), false) = (offer.build, offer.ranked.is_empty()) else {
        let text = format!(
            "no mirror is offered for {channel} now; /v1/mirrors?channel={channel} says why"
        );
        return Err(Refusal::nobody(text));
    };
    let urls = holders(face, &offer);
    let (path, entry) = find(face, &view, channel, build, path, &urls)
        .await?
        .ok_or_else(|| Refusal::unknown_path(path))?;
    let sources = sources(face, &view, channel, &offer, &path, asked.limit);
    let read = || read_from(face, &view, channel, build, &path, question.now);
    let pieces = face.library.of(&entry, read).await;
    let file = File::of(&path, &entry);
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let (kind, text) = if wants_v3(accepts.unwrap_or_default()) {
        let document = Version3 {
            pubdate: http_date(question.now),
            file: &file,
            pieces: pieces.as_deref(),
            alternates: alternates(face, &view, channel, build, (&path, &entry), &urls).await,
            sources: &sources,
        };
        (V3, document.render())
    } else {
        let published = jiff::Timestamp::from_second(question.now.as_seconds());
        let document = Version4 {
            version: env!("CARGO_PKG_VERSION"),
            published: published.unwrap_or_default().to_string(),
            file: &file,
            pieces: pieces.as_deref(),
            sources: &sources,
        };
        (V4, document.render())
    };
    let text = text.map_err(|error| Refusal::unavailable(error.to_string()))?;
    let fields: [(HeaderName, &str); 3] = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "private, no-cache"),
        (VARY, "Accept"),
    ];
    Ok((fields, text + "\n").into_response())
}

/// Version 4 unless only version 3 is asked for.
fn wants_v3(accept: &str) -> bool {
    accept.contains(V3) && !accept.contains(V4)
}

/// Mirrors that have the manifest, should the archive be away; an older build's are most likely the same.
fn holders(face: &Face, offer: &Offer) -> Vec<String> {
    let ranked = offer.ranked.iter().take(HOLDERS_MAX);
    ranked
        .map(|ranked| face.site.mirror(ranked.mirror).url.clone())
        .collect()
}

async fn find(
    face: &Face,
    view: &View,
    channel: &ChannelId,
    build: Build,
    path: &[u8],
    urls: &[String],
) -> Result<Option<(EntryPath, FileEntry)>, Refusal> {
    let known = view
        .channel(channel)
        .and_then(|carried| carried.channel.builds.get(&build));
    let Some(known) = known else {
        return Ok(None);
    };
    let tree = Tree {
        channel: channel.clone(),
        build,
        root: known.root,
        selection: mirrorlog_core::view::Selection::ALL,
    };
    let trees = &face.site.trees;
    let found = trees
        .find(&Scope(vec![tree]), path, |_only| urls.to_vec())
        .await?;
    Ok(match &*found {
        Found::File { path, file, .. } => Some((path.clone(), *file)),
        Found::Folder(_) | Found::Nothing => None,
    })
}

fn sources(
    face: &Face,
    view: &View,
    channel: &ChannelId,
    offer: &Offer,
    path: &EntryPath,
    limit: usize,
) -> Vec<Source> {
    let Some(build) = offer.build else {
        return Vec::new();
    };
    let ranked = offer.ranked.iter().take(limit.max(1)).zip(1..);
    let source = ranked.map(|(ranked, place)| {
        let url = face
            .site
            .pinned(ranked.mirror, channel, build, path.as_bytes());
        Source {
            protocol: if url.starts_with("https:") {
                "https"
            } else {
                "http"
            },
            url,
            country: view.profile(ranked.mirror).country,
            place,
        }
    });
    source.collect()
}

/// Where a file's pieces are read: where anybody would be sent, for whoever asks must not choose whom it costs.
fn read_from(
    face: &Face,
    view: &View,
    channel: &ChannelId,
    build: Build,
    path: &EntryPath,
    now: Timestamp,
) -> Vec<String> {
    let anybody = Place::default();
    let place = (&anybody, view.kind_of(&anybody));
    let offered = face
        .offers
        .of(view, channel, (Some(build), Some(path)), place, now);
    let mirrors = offered.iter().flat_map(|offered| &offered.mirrors);
    let url = |mirror: &MirrorIndex| face.site.pinned(*mirror, channel, build, path.as_bytes());
    mirrors.map(url).collect()
}

/// Earlier versions of the file, newest first, each once: a client whose mirror is a build behind knows them good.
async fn alternates(
    face: &Face,
    view: &View,
    channel: &ChannelId,
    build: Build,
    (path, now): (&EntryPath, &FileEntry),
    urls: &[String],
) -> Vec<File> {
    let Some(carried) = view.channel(channel) else {
        return Vec::new();
    };
    let mut versions = vec![now.digest];
    let mut files = Vec::new();
    let older = carried.channel.standing().filter(|(one, _)| *one < build);
    for (older, _) in older.take(ALTERNATES_MAX) {
        // What cannot be looked up is left out.
        let found = find(face, view, channel, older, path.as_bytes(), urls).await;
        if let Ok(Some((path, entry))) = found
            && !versions.contains(&entry.digest)
        {
            versions.push(entry.digest);
            files.push(File::of(&path, &entry));
        }
    }
    files
}

fn http_date(at: Timestamp) -> String {
    let seconds = u64::try_from(at.as_seconds()).unwrap_or(0);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_4_unless_only_3_is_asked_for() {
        assert!(wants_v3("application/metalink+xml"));
        for other in [
            "",
            "*/*",
            "application/metalink4+xml, application/metalink+xml",
        ] {
            assert!(!wants_v3(other), "{other}");
        }
    }
}
