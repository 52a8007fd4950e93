//! Whatever is not answered: a status, a word for programs, a line for people.

use std::time::Duration;

use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use mirrorlog_core::directory::offer::Unanswered;
use mirrorlog_core::url::UrlPathError;

use crate::trees::TreesError;

/// Seconds after which a client may ask again.
const RETRY_AFTER_S: u32 = 10;

/// An answer without content: boxed, for it is rare.
#[derive(Debug)]
pub(super) struct Refusal(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    /// The first word of the line, for programs.
    word: &'static str,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, word: &'static str, text: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            word,
            text: text.into(),
        }))
    }

    /// 400.
    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", text)
    }

    /// 404.
    pub(super) fn unknown_path(path: &[u8]) -> Self {
        let path = on_one_line(&String::from_utf8_lossy(path));
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-path",
            format!("/{path} is in no build that is offered here"),
        )
    }

    /// 404.
    pub(super) fn unknown_mirror(id: &str) -> Self {
        let id = on_one_line(id);
        let text = format!("no mirror is called {id}");
        Self::new(StatusCode::NOT_FOUND, "unknown-mirror", text)
    }

    /// 405.
    pub(super) fn method(method: &Method) -> Self {
        let text = format!("{method} is not answered here");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", text)
    }

    /// 503: there is such a file, and no mirror that may be named for it.
    pub(super) fn nobody(text: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no-mirror", text)
    }

    /// 503.
    pub(super) fn unavailable(text: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text)
    }

    /// 403.
    pub(super) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "not-accepted", text)
    }

    /// 429.
    pub(super) fn too_many(text: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", text)
    }

    /// 408.
    pub(super) fn too_slow(limit: Duration) -> Self {
        let text = format!(
            "the request did not come to its end in {} s",
            limit.as_secs()
        );
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", text)
    }

    /// The word and the text, as they are answered.
    pub(super) fn line(&self) -> String {
        format!("{}: {}", self.0.word, self.0.text)
    }

    /// The status.
    pub(super) fn status(&self) -> StatusCode {
        self.0.status
    }
}

impl From<Unanswered> for Refusal {
    fn from(unanswered: Unanswered) -> Self {
        let text = unanswered.to_string();
        match unanswered {
            Unanswered::UnknownChannel(_) => {
                Self::new(StatusCode::NOT_FOUND, "unknown-channel", text)
            }
            Unanswered::UnknownBuild(..) => Self::new(StatusCode::NOT_FOUND, "unknown-build", text),
            Unanswered::Retracted(..) => Self::new(StatusCode::GONE, "retracted", text),
        }
    }
}

impl From<UrlPathError> for Refusal {
    fn from(error: UrlPathError) -> Self {
        match error {
            UrlPathError::Malformed(why) => Self::new(StatusCode::BAD_REQUEST, "bad-path", why),
            UrlPathError::DoubledSlash => {
                Self::new(StatusCode::NOT_FOUND, "unknown-path", error.to_string())
            }
        }
    }
}

impl From<TreesError> for Refusal {
    fn from(error: TreesError) -> Self {
        tracing::warn!(error = wire::causes(&error), "a path cannot be looked up");
        Self::unavailable(error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Parts { status, word, text } = *self.0;
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, kind);
        // What is missing now may be there in a second.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RETRY_AFTER, RETRY_AFTER_S.into());
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        (status, headers, format!("{word}: {text}\n")).into_response()
    }
}

pub(super) fn on_one_line(text: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(plain).collect()
}
