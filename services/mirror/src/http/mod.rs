//! The public face: trees live and by build, and what proves them.
//!
//! One request takes one look at the table and makes one trip to the blocking threads, for the
//! look-up, the headers and a small file's bytes; only larger bodies go back for more.
//!
//! | module | what |
//! | --- | --- |
//! | `live` | `/<mount>/…`: live, then grace; `mounts`: which channels those are |
//! | `pinned` | `/@/…`: one build exactly, and the signed statements |
//! | `body` | a file's headers and bytes; `conditions`: what RFC 9110 makes of the request's |
//! | `listing` | a folder as HTML |
//! | `trace` | Debian's trace file; `probe`: bytes that no cache has |
//! | `refusal` | whatever is not served, with its reason |

mod body;
mod conditions;
mod listing;
mod live;
mod mounts;
mod pinned;
mod probe;
mod refusal;
#[cfg(test)]
mod tests;
mod trace;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::request;
use axum::response::{IntoResponse as _, Response};
use mirrorlog_core::manifest::ManifestError;
use runtime::store::{Pages, StoreError};
use tracing::{Instrument as _, Span};

use crate::collect::Leases;
use crate::metrics::HttpRequests;
use crate::run::Parts;
use crate::serving::ServingReader;
use crate::suspects::Suspects;
use mirrorlog_core::url::Asked;
use refusal::Refusal;
use trace::Site;

/// Reading the manifests failed.
type Fault = ManifestError<StoreError>;

/// What requests are answered from.
pub(crate) struct Face {
    serving: ServingReader,
    pages: Pages,
    leases: Arc<Leases>,
    suspects: Suspects,
    requests: HttpRequests,
    site: Site,
}

impl Face {
    fn of(parts: &Parts) -> Self {
        Self {
            serving: parts.serving_reader.clone(),
            pages: parts.syncer.pages.clone(),
            leases: Arc::clone(&parts.leases),
            suspects: parts.suspects.clone(),
            requests: parts.metrics.http_requests.clone(),
            site: Site::of(&parts.config),
        }
    }
}

/// Routes everything but health and metrics.
pub(crate) fn router(parts: Arc<Parts>) -> Router {
    routes(Face::of(&parts))
}

fn routes(face: Face) -> Router {
    Router::new().fallback(answer).with_state(Arc::new(face))
}

async fn answer(State(face): State<Arc<Face>>, request: Request) -> Response {
    let (head, _body) = request.into_parts();
    let span = tracing::debug_span!("http", method = %head.method, path = head.uri.path());
    let requests = face.requests.clone();
    let response = respond(face, head).instrument(span.clone()).await;
    let status = response.status();
    requests.count(status);
    span.in_scope(|| tracing::debug!(status = status.as_u16(), "answered"));
    response
}

async fn respond(face: Arc<Face>, head: request::Parts) -> Response {
    if ![Method::GET, Method::HEAD].contains(&head.method) {
        return Refusal::method(&head.method).into_response();
    }
    let span = Span::current();
    let looked = tokio::task::spawn_blocking(move || span.in_scope(|| look(&face, &head))).await;
    looked.unwrap_or_else(|error| {
        tracing::error!(%error, "a request could not be answered");
        Refusal::internal().into_response()
    })
}

/// Blocks.
fn look(face: &Face, head: &request::Parts) -> Response {
    let table = face.serving.current();
    let asked = Asked::parse(head.uri.path()).map_err(Refusal::from);
    let answered = asked.and_then(|asked| match asked.own() {
        Some(below) => pinned::answer(face, &table, head, &asked, &below),
        None => live::answer(face, &table, head, &asked),
    });
    answered.unwrap_or_else(|refusal| {
        if let Some(suspect) = refusal.suspect() {
            face.suspects.tell(suspect.clone());
        }
        refusal.into_response()
    })
}
