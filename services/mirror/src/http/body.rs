//! Content: a version's headers, and its bytes from the store or from memory.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
    LAST_MODIFIED, LOCATION,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::manifest::FileEntry;
use runtime::store::Store;

use super::blob::Blob;
use super::conditions::{Outcome, Version, http_date, judge};
use super::refusal::Refusal;
use super::{Desk, Reach};

/// What one part of a made body brings.
const CHUNK_BYTES: u64 = 128 * 1024;
/// Parts of one body under way or waiting for the client: bounds its memory to two chunks.
const CHUNKS_AHEAD: usize = 2;

/// Headers of a file's answer, at most.
const HEADERS_USUAL: usize = 10;

const MIRRORLOG_BUILD: HeaderName = HeaderName::from_static("mirrorlog-build");

/// How long others may keep an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// For ever: the name never gets other content.
    Forever,
    /// As long as they ask first whether it still is the one: apt must not mix old and new indexes.
    Checked,
}

/// One version of one resource.
pub(super) struct Content<'a> {
    /// Path, for messages and the type.
    pub(super) name: &'a [u8],
    pub(super) kind: Option<&'static str>,
    pub(super) tag: Digest,
    /// Seconds since 1970.
    pub(super) modified: Option<i64>,
    pub(super) size_bytes: u64,
    pub(super) keep: Keep,
    pub(super) source: Source<'a>,
}

/// Where bytes are.
pub(super) enum Source<'a> {
    /// In the store, under the tag.
    Blob(&'a Store),
    /// Here.
    Memory(Bytes),
}

impl<'a> Content<'a> {
    /// A file of a tree.
    pub(super) fn file(store: &'a Store, name: &'a [u8], file: &FileEntry, keep: Keep) -> Self {
        Self {
            name,
            kind: None,
            tag: file.digest,
            modified: Some(file.mtime.as_seconds()),
            size_bytes: file.size_bytes,
            keep,
            source: Source::Blob(store),
        }
    }

    /// Bytes that are here already.
    pub(super) fn memory(name: &'a [u8], kind: &'static str, bytes: Bytes, keep: Keep) -> Self {
        Self {
            name,
            kind: Some(kind),
            tag: Digest::of(&bytes),
            modified: None,
            size_bytes: bytes.len() as u64,
            keep,
            source: Source::Memory(bytes),
        }
    }

    /// Answers a request with this content, or with what its conditions come to.
    ///
    /// # Errors
    /// 412, 416; 503 when the store lost the bytes; [`Refusal::Later`].
    pub(super) fn answer(
        self,
        desk: Desk<'_>,
        builds: &[(&ChannelId, Build)],
    ) -> Result<Response, Refusal> {
        let tag = format!("\"{}\"", self.tag);
        let version = Version {
            tag: &tag,
            modified: self.modified.filter(|&at| http_date(at).is_some()),
            size_bytes: self.size_bytes,
        };
        let refused = |refusal: Refusal| refusal.of(builds.iter().copied());
        let (status, range) = match judge(&desk.head.method, &desk.head.headers, version) {
            Outcome::Whole => (StatusCode::OK, None),
            Outcome::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
            Outcome::NotModified => (StatusCode::NOT_MODIFIED, None),
            Outcome::Failed => return Err(refused(Refusal::precondition(self.name))),
            Outcome::Unsatisfiable => {
                return Err(refused(Refusal::range(self.name, self.size_bytes)));
            }
        };
        let mut headers = self.headers(&tag);
        builds_header(&mut headers, builds.iter().copied());
        if status == StatusCode::NOT_MODIFIED {
            return Ok(response(status, headers, unsized_body()));
        }
        set(
            &mut headers,
            CONTENT_TYPE,
            self.kind.unwrap_or_else(|| kind_of(self.name)),
        );
        if let Some(range) = &range {
            let (first, last) = (range.start(), range.end());
            let text = format!("bytes {first}-{last}/{}", self.size_bytes);
            set(&mut headers, CONTENT_RANGE, text);
        }
        let first = range.as_ref().map_or(0, |range| *range.start());
        let length = range.as_ref().map_or(self.size_bytes, length_of);
        set(&mut headers, CONTENT_LENGTH, length);
        let body = self.body(desk.reach, first, length).map_err(refused)?;
        Ok(response(status, headers, body))
    }

    fn headers(&self, tag: &str) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(HEADERS_USUAL);
        set(&mut headers, ETAG, tag);
        if let Some(date) = self.modified.and_then(http_date) {
            set(&mut headers, LAST_MODIFIED, date);
        }
        set(&mut headers, ACCEPT_RANGES, "bytes");
        keep_header(&mut headers, self.keep);
        headers
    }

    fn body(self, reach: Reach, first: u64, length: u64) -> Result<Body, Refusal> {
        match self.source {
            Source::Blob(store) => {
                let blob = Blob {
                    store,
                    digest: self.tag,
                    size_bytes: self.size_bytes,
                    name: self.name,
                };
                blob.body(reach, first, length)
            }
            Source::Memory(bytes) => {
                let [first, end] =
                    [first, first + length].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
                Ok(Body::from(
                    bytes.slice(first.min(bytes.len())..end.min(bytes.len())),
                ))
            }
        }
    }
}

/// The headers as they are: a tuple's `into_response` would look at each once more.
fn response(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn length_of(range: &RangeInclusive<u64>) -> u64 {
    range.end() - range.start() + 1
}

/// A body of `length` bytes that `part` (offset, length) makes on blocking threads, a little ahead of the client.
pub(super) fn chunked(
    length: u64,
    part: impl Fn(u64, u64) -> io::Result<Bytes> + Send + Sync + 'static,
) -> Body {
    let part = Arc::new(part);
    let starts = (0..length.div_ceil(CHUNK_BYTES)).map(|index| index * CHUNK_BYTES);
    let chunks = futures::stream::iter(starts).map(move |at| {
        let part = Arc::clone(&part);
        let making = move || part(at, CHUNK_BYTES.min(length - at));
        let made = tokio::task::spawn_blocking(making);
        async move { made.await.map_err(io::Error::other)? }
    });
    Body::from_stream(chunks.buffered(CHUNKS_AHEAD))
}

/// 301 to the same name with a slash, relative: a mirror may stand behind a prefix.
pub(super) fn redirect<'a>(
    name: &[u8],
    builds: impl IntoIterator<Item = (&'a ChannelId, Build)>,
) -> Response {
    let mut headers = HeaderMap::new();
    set(
        &mut headers,
        LOCATION,
        format!("{}/", mirrorlog_core::url::encode(name)),
    );
    keep_header(&mut headers, Keep::Checked);
    builds_header(&mut headers, builds);
    (StatusCode::MOVED_PERMANENTLY, headers).into_response()
}

/// `Mirrorlog-Build: noble=37, noble-security=4`; nothing when no channel has a part in it.
pub(super) fn builds_header<'a>(
    headers: &mut HeaderMap,
    builds: impl IntoIterator<Item = (&'a ChannelId, Build)>,
) {
    let builds = builds.into_iter();
    let text: Vec<String> = builds
        .map(|(channel, build)| format!("{channel}={build}"))
        .collect();
    if !text.is_empty() {
        set(headers, MIRRORLOG_BUILD, text.join(", "));
    }
}

/// `Cache-Control`.
pub(super) fn keep_header(headers: &mut HeaderMap, keep: Keep) {
    let text = match keep {
        Keep::Forever => "public, max-age=31536000, immutable",
        Keep::Checked => "public, no-cache",
    };
    set(headers, CACHE_CONTROL, text);
}

/// Sets a header; a value that no header can hold is left out.
pub(super) fn set(headers: &mut HeaderMap, name: HeaderName, value: impl TryInto<HeaderValue>) {
    if let Ok(value) = value.try_into() {
        headers.insert(name, value);
    }
}

/// A body of a length that nobody states: a 304 must not say `Content-Length: 0` (RFC 9110, 8.6).
pub(super) fn unsized_body() -> Body {
    Body::from_stream(futures::stream::empty::<io::Result<Bytes>>())
}

/// The media type that a name stands for.
fn kind_of(path: &[u8]) -> &'static str {
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    let name = String::from_utf8_lossy(name);
    let (stem, extension) = name.rsplit_once('.').unwrap_or((&name, ""));
    match extension {
        "deb" | "udeb" | "ddeb" => "application/vnd.debian.binary-package",
        "zst" => "application/zstd",
        "tgz" => "application/gzip",
        "" | "sig" if TEXTS.contains(&stem) => "text/plain; charset=utf-8",
        other => {
            let guess = mime_guess::from_ext(other).first_raw();
            guess.unwrap_or("application/octet-stream")
        }
    }
}

/// Names without an extension that a browser may show.
const TEXTS: [&str; 10] = [
    "Contents",
    "InRelease",
    "Packages",
    "README",
    "Release",
    "SHA256",
    "SHA256SUMS",
    "SHA512SUMS",
    "Sources",
    "ls-lR",
];
