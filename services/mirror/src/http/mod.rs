//! The public face: trees live and by build, and what proves them.
//!
//! A request is answered from one look at the table. A file whose manifest pages and bytes are in memory is answered
//! where the request was read: going to another thread and back costs more than all of it. Whatever may wait for the
//! disk or takes long, a listing for one, makes one trip to the blocking threads; larger bodies go there for what the
//! page cache has not.
//!
//! | module | what |
//! | --- | --- |
//! | `live` | `/<mount>/…`: live, then grace; `mounts`: which channels those are |
//! | `pinned` | `/@/…`: one build exactly, and the signed statements |
//! | `body` | a version's headers; `blob`: its bytes from the store |
//! | `conditions` | what RFC 9110 makes of the request's |
//! | `listing` | a folder as HTML |
//! | `trace` | Debian's trace file; `probe`: bytes that no cache has |
//! | `refusal` | whatever is not served, with its reason |

mod blob;
mod body;
pub mod conditions;
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
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::request;
use axum::response::{IntoResponse as _, Response};
use mirrorlog_core::manifest::ManifestError;
use mirrorlog_core::tree::{Place, Scope};
use runtime::store::{Pages, Store, StoreError};
use runtime::trust::Trust;
use tokio::sync::Semaphore;
use tracing::{Instrument as _, Span};

use crate::collect::Leases;
use crate::metrics::HttpRequests;
use crate::run::Parts;
use crate::serving::ServingReader;
use crate::suspects::Suspects;
use mirrorlog_core::url::Asked;
use refusal::Refusal;

pub(crate) use mounts::Mounted;
pub(crate) use trace::{Site, Trace};

/// Reading the manifests failed.
type Fault = ManifestError<StoreError>;

/// Slashes of a path that is looked up at once. Each folder above what is not there costs look-ups, in each build
/// that is held: deeper ones must not hold up the connections of others.
const SLASHES_AT_ONCE: usize = 24;

/// Requests that may look things up on the disk at once; further ones wait. Each holds the decoded pages on the way to
/// its file. What goes on after the look-up, bodies and listings, is not among them.
const DESKS: usize = 16;
/// Longest wait for a turn: a disk that answers nobody must not gather requests.
const DESK_WAIT: Duration = Duration::from_secs(20);

/// How far a request may reach for what answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Only what is in memory: on the threads that serve connections.
    Memory,
    /// Anything: on blocking threads.
    Disk,
}

/// What requests are answered from.
pub(crate) struct Face {
    serving: ServingReader,
    pages: Pages,
    leases: Arc<Leases>,
    suspects: Suspects,
    requests: HttpRequests,
    trust: Trust,
    site: Site,
    /// For those that reach for the disk.
    desks: Arc<Semaphore>,
}

impl Face {
    fn of(parts: &Parts) -> Self {
        Self {
            serving: parts.serving_reader.clone(),
            pages: parts.syncer.pages.clone(),
            leases: Arc::clone(&parts.leases),
            suspects: parts.suspects.clone(),
            requests: parts.metrics.http_requests.clone(),
            trust: parts.trust.clone(),
            site: Site::of(&parts.config),
            desks: Arc::new(Semaphore::new(DESKS)),
        }
    }
}

/// Routes everything but health and metrics.
pub(crate) fn router(parts: Arc<Parts>) -> Router {
    routes(Arc::new(Face::of(&parts)))
}

fn routes(face: Arc<Face>) -> Router {
    Router::new().fallback(answer).with_state(face)
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
    match look(&face, Reach::Memory, &head) {
        Err(Refusal::Later) => {}
        looked => return answered(looked),
    }
    let turn = tokio::time::timeout(DESK_WAIT, Arc::clone(&face.desks).acquire_owned()).await;
    let Ok(Ok(desk)) = turn else {
        return Refusal::busy(DESK_WAIT).into_response();
    };
    let span = Span::current();
    let looking = move || {
        let looked = span.in_scope(|| answered(look(&face, Reach::Disk, &head)));
        drop(desk);
        looked
    };
    let looked = tokio::task::spawn_blocking(looking).await;
    looked.unwrap_or_else(|error| {
        tracing::error!(%error, "a request could not be answered");
        Refusal::internal().into_response()
    })
}

/// Blocks if it may reach for the disk.
fn look(face: &Face, reach: Reach, head: &request::Parts) -> Result<Response, Refusal> {
    let table = face.serving.current();
    let asked = Asked::parse(head.uri.path())?;
    let desk = Desk { face, reach, head };
    if asked.path.iter().filter(|&&b| b == b'/').count() > SLASHES_AT_ONCE {
        desk.leisurely()?;
    }
    let answered = match asked.own() {
        Some(below) => pinned::answer(desk, &table, &asked, &below),
        None => live::answer(desk, &table, &asked),
    };
    answered.inspect_err(|refusal| {
        if let Some(suspect) = refusal.suspect() {
            face.suspects.tell(suspect.clone());
        }
    })
}

fn answered(looked: Result<Response, Refusal>) -> Response {
    looked.unwrap_or_else(Refusal::into_response)
}

/// Where one request is answered.
#[derive(Clone, Copy)]
struct Desk<'a> {
    face: &'a Face,
    reach: Reach,
    head: &'a request::Parts,
}

impl Desk<'_> {
    /// Goes on only where it may take long.
    ///
    /// # Errors
    /// [`Refusal::Later`].
    fn leisurely(self) -> Result<(), Refusal> {
        match self.reach {
            Reach::Memory => Err(Refusal::Later),
            Reach::Disk => Ok(()),
        }
    }

    /// What a path leads to.
    ///
    /// # Errors
    /// 503 when the store fails; [`Refusal::Later`].
    fn place(self, scope: &Scope, path: &[u8]) -> Result<Place, Refusal> {
        let pages = &self.face.pages;
        match self.reach {
            // What is wrong is found again, and said, where waiting is allowed.
            Reach::Memory => scope
                .place(&pages.in_memory(), path)
                .map_err(|_| Refusal::Later),
            Reach::Disk => Ok(scope.place(pages, path)?),
        }
    }

    fn store(&self) -> &Store {
        self.face.pages.store()
    }
}
