//! Whatever is not served: a status, a word for programs, a line for people.

use std::error::Error;
use std::time::Duration;

use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::manifest::ManifestError;
use mirrorlog_core::url::UrlPathError;
use runtime::store::StoreError;

use super::body::builds_header;
use crate::suspects::Suspect;

/// Seconds after which a client may ask again for what the mirror is healing.
const RETRY_AFTER_SECONDS: u32 = 60;

/// Why there is no content.
#[derive(Debug)]
pub(super) enum Refusal {
    /// An answer without content: boxed, for it is rare.
    Answer(Box<Parts>),
    /// No answer yet: what it takes may not be in memory, and nobody may wait for the disk here.
    Later,
}

/// An answer without content.
#[derive(Debug)]
pub(super) struct Parts {
    status: StatusCode,
    /// The first word of the line, for programs.
    word: &'static str,
    text: String,
    headers: HeaderMap,
    /// What has to be looked at: the builds come with [`Refusal::of`].
    suspect: Option<Suspect>,
}

impl Refusal {
    fn new(status: StatusCode, word: &'static str, text: impl Into<String>) -> Self {
        Self::Answer(Box::new(Parts {
            status,
            word,
            text: text.into(),
            headers: HeaderMap::new(),
            suspect: None,
        }))
    }

    fn with(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let (Self::Answer(parts), Ok(value)) = (&mut self, value.try_into()) {
            parts.headers.insert(name, value);
        }
        self
    }

    /// Names the builds that the answer comes from.
    pub(super) fn of<'a>(
        mut self,
        builds: impl IntoIterator<Item = (&'a ChannelId, Build)>,
    ) -> Self {
        let Self::Answer(parts) = &mut self else {
            return self;
        };
        let builds: Vec<(&ChannelId, Build)> = builds.into_iter().collect();
        builds_header(&mut parts.headers, builds.iter().copied());
        if let Some(suspect) = &mut parts.suspect {
            suspect.builds = builds
                .iter()
                .map(|(id, build)| ((*id).clone(), *build))
                .collect();
        }
        self
    }

    fn suspecting(mut self, digest: Digest) -> Self {
        if let Self::Answer(parts) = &mut self {
            let builds = Vec::new();
            parts.suspect = Some(Suspect { digest, builds });
        }
        self
    }

    /// What the store lost, if that is why.
    pub(super) fn suspect(&self) -> Option<&Suspect> {
        match self {
            Self::Answer(parts) => parts.suspect.as_ref(),
            Self::Later => None,
        }
    }

    /// 400.
    pub(super) fn bad_path(why: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-path", why)
    }

    /// 400.
    pub(super) fn bad_request(why: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", why)
    }

    /// 404.
    pub(super) fn unknown_path(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown-path", text)
    }

    /// 404.
    pub(super) fn not_carried(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-carried", text)
    }

    /// 404.
    pub(super) fn unknown_channel(name: &[u8]) -> Self {
        let name = String::from_utf8_lossy(name);
        let text = format!("{} is not carried here", on_one_line(&name));
        Self::new(StatusCode::NOT_FOUND, "unknown-channel", text)
    }

    /// 404; `coming` when the build is known here and not whole yet.
    pub(super) fn unknown_build(channel: &ChannelId, build: &[u8], coming: bool) -> Self {
        let build = String::from_utf8_lossy(build);
        let why = if coming {
            "is not whole here yet"
        } else {
            "is not known here"
        };
        let text = format!("build {} of {channel} {why}", on_one_line(&build));
        Self::new(StatusCode::NOT_FOUND, "unknown-build", text)
    }

    /// 404.
    pub(super) fn unknown_head(channel: &ChannelId) -> Self {
        let text = format!("no signed head of {channel} has come here yet");
        Self::new(StatusCode::NOT_FOUND, "unknown-head", text)
    }

    /// 404.
    pub(super) fn unknown_root(name: &[u8]) -> Self {
        let name = String::from_utf8_lossy(name);
        let text = format!("{} is no root document that is here", on_one_line(&name));
        Self::new(StatusCode::NOT_FOUND, "unknown-root", text)
    }

    /// 404.
    pub(super) fn unknown_page(name: &[u8]) -> Self {
        let name = String::from_utf8_lossy(name);
        let text = format!("{} is no manifest page that is here", on_one_line(&name));
        Self::new(StatusCode::NOT_FOUND, "unknown-page", text)
    }

    /// 410.
    pub(super) fn collected(channel: &ChannelId, build: Build) -> Self {
        let text = format!("build {build} of {channel} is older than what is kept here");
        Self::new(StatusCode::GONE, "collected", text)
    }

    /// 410.
    pub(super) fn retracted(channel: &ChannelId, build: Build) -> Self {
        let text = format!("build {build} of {channel} was taken back by the archive");
        Self::new(StatusCode::GONE, "retracted", text)
    }

    /// 405.
    pub(super) fn method(method: &Method) -> Self {
        let text = format!("{method} is not answered here");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", text)
            .with(ALLOW, HeaderValue::from_static("GET, HEAD"))
    }

    /// 412.
    pub(super) fn precondition(name: &[u8]) -> Self {
        let text = format!(
            "{} is another version than the request asks for",
            shown(name)
        );
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", text)
    }

    /// 416.
    pub(super) fn range(name: &[u8], size_bytes: u64) -> Self {
        let text = format!("{} has {size_bytes} bytes", shown(name));
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "unsatisfiable-range",
            text,
        )
        .with(CONTENT_RANGE, format!("bytes */{size_bytes}"))
    }

    /// 503: the content is named by a build, and its bytes are not what they should be here.
    pub(super) fn lost(word: &'static str, name: &[u8], digest: &Digest) -> Self {
        let text = format!("{} is damaged here and will be fetched again", shown(name));
        Self::unavailable(word, text).suspecting(*digest)
    }

    /// 500.
    pub(super) fn internal() -> Self {
        let text = "the request could not be answered; the mirror's log has the cause";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", text)
    }

    /// 503: the disk is so slow that others have waited for so long; logged here.
    pub(super) fn busy(waited: Duration) -> Self {
        let seconds = waited.as_secs();
        tracing::warn!(seconds, "the disk is too slow: a request was turned away");
        let text = format!("the disk here answered nothing for {seconds} s");
        Self::unavailable("busy", text)
    }

    /// 503 for a fault of the store; logged here.
    pub(super) fn store(error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = %crate::inbox::chain(error), "the store cannot be read");
        Self::unavailable(
            "unavailable",
            "the mirror cannot read its store now".to_owned(),
        )
    }

    fn unavailable(word: &'static str, text: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, word, text)
            .with(RETRY_AFTER, RETRY_AFTER_SECONDS)
    }
}

impl From<ManifestError<StoreError>> for Refusal {
    fn from(error: ManifestError<StoreError>) -> Self {
        let refusal = Self::store(&error);
        if let ManifestError::Read(source) = &error {
            refusal.of_store(source)
        } else {
            refusal
        }
    }
}

impl From<UrlPathError> for Refusal {
    fn from(error: UrlPathError) -> Self {
        match error {
            UrlPathError::Malformed(why) => Self::bad_path(why),
            UrlPathError::DoubledSlash => Self::unknown_path(error.to_string()),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::store(&error).of_store(&error)
    }
}

impl Refusal {
    fn of_store(self, error: &StoreError) -> Self {
        match error {
            StoreError::Absent(digest)
            | StoreError::Mismatch {
                expected: digest, ..
            } => self.suspecting(*digest),
            StoreError::Size { .. }
            | StoreError::TooLarge { .. }
            | StoreError::Page { .. }
            | StoreError::Busy(_)
            | StoreError::Full { .. }
            | StoreError::Io { .. } => self,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let parts = match self {
            Self::Answer(parts) => parts,
            // Whoever may wait does not put off.
            Self::Later => return Self::internal().into_response(),
        };
        let Parts {
            status,
            word,
            text,
            mut headers,
            suspect: _,
        } = *parts;
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, kind);
        // What is missing or broken now may be here in a second.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        (status, headers, format!("{word}: {text}\n")).into_response()
    }
}

/// A path for people, whatever its bytes.
pub(super) fn shown(path: &[u8]) -> String {
    format!("/{}", on_one_line(&String::from_utf8_lossy(path)))
}

fn on_one_line(text: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(plain).collect()
}
