//! The web: every output from one view.
//!
//! | module | what |
//! | --- | --- |
//! | `ask` | who asks, and the parameters that outputs share |
//! | `mirrors` | `/v1/mirrors`: JSON |
//! | `channels` | `/v1/channels`: which channels are served where |
//! | `metalink` | `/metalink`: where a file is, and the digests of its pieces |
//! | `feedback` | `/v1/feedback`: what clients saw |
//! | `list` | `/mirrors.txt`: apt's mirror list |
//! | `pages` | `/`, `/mirrors.html`, `/mirrors/<id>.html`: HTML for people |
//! | `feeds` | `/mirrors.atom`, `/builds.atom` |
//! | `status` | `/status.json`: the form of Arch's rankers |
//! | `origin` | the directory's own URL, where links must be absolute |
//! | `redirect` | `/<mount>/<path>`: 302 to a mirror; `offers`: those that were made a moment ago |
//! | `statics` | all of it as files |
//! | `memo` | documents that were made in this second |
//! | `refusal` | whatever is not answered, with its reason |

pub mod ask;
mod channels;
pub mod feedback;
pub(crate) mod feeds;
mod list;
mod memo;
mod metalink;
mod mirrors;
mod offers;
pub(crate) mod origin;
pub(crate) mod pages;
mod redirect;
mod refusal;
#[cfg(test)]
mod sample;
pub(crate) mod statics;
mod status;

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::USER_AGENT;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use mirrorlog_core::directory::visit::{Visitor, Visits};
use mirrorlog_core::id::ChannelId;

use runtime::boot::Health;
use runtime::boot::health::Readiness;

use crate::feedback::Intake;
use crate::gauges::Gauges;
use crate::pieces::Library;
use crate::site::Site;
use crate::traces::Traces;
use list::Lists;
use memo::Memo;
use offers::Offers;
use refusal::Refusal;

/// Largest word of a client, in bytes: a hundred samples with a trace or two.
const FEEDBACK_MAX_BYTES: usize = 64 * 1024;
/// How long it may take to come, and to be answered; stops a body that drips. All of it at 20 kbit/s takes 27 s.
const FEEDBACK_TIMEOUT: Duration = Duration::from_secs(40);

/// What requests are answered from.
pub(crate) struct Face {
    site: Arc<Site>,
    gauges: Gauges,
    offers: Offers,
    lists: Lists,
    memo: Memo,
    library: Library,
    intake: Intake,
    traces: Traces,
    visits: Mutex<Visits>,
    /// Makes visitors of addresses: nobody else can tell whose number it is, not even this process after a restart.
    secret: RandomState,
}

impl Face {
    fn visits(&self) -> MutexGuard<'_, Visits> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts how an answer came out.
    fn counted<T>(&self, output: &'static str, answered: Result<T, Refusal>) -> Result<T, Refusal> {
        let outcome = match &answered {
            Ok(_) => "ok",
            Err(refusal) if refusal.status() == StatusCode::SERVICE_UNAVAILABLE => "nobody",
            Err(_) => "absent",
        };
        self.gauges.answered(output, outcome);
        answered
    }

    /// A client of a channel, as far as it can be told from others: two behind one address differ by their programs.
    fn visitor(&self, client: &Client<'_>, channel: &ChannelId) -> Visitor {
        let agent = client.headers.get(USER_AGENT);
        let agent = agent.map(|agent| agent.as_bytes());
        Visitor(self.secret.hash_one((client.peer, agent, channel)))
    }
}

/// Who asks.
struct Client<'a> {
    peer: Option<IpAddr>,
    headers: &'a HeaderMap,
}

/// Routes everything but health and metrics.
pub(crate) fn router(
    site: Arc<Site>,
    gauges: Gauges,
    library: Library,
    intake: Intake,
    traces: Traces,
    health: Health,
) -> Router {
    let face = Face {
        site,
        gauges,
        offers: Offers::new(),
        lists: Lists::new(),
        memo: Memo::new(),
        library,
        intake,
        traces,
        visits: Mutex::default(),
        secret: RandomState::new(),
    };
    Router::new()
        .route("/v1/mirrors", get(mirrors::answer))
        .route("/v1/channels", get(channels::answer))
        .route("/mirrors.txt", get(list::answer))
        .route("/metalink", get(metalink::answer))
        .route(
            "/v1/feedback",
            post(feedback::answer)
                .layer(DefaultBodyLimit::max(FEEDBACK_MAX_BYTES))
                .layer(from_fn(only_in_time)),
        )
        .route("/", get(pages::answer_dashboard))
        .route("/mirrors.html", get(pages::answer_list))
        .route("/mirrors/{file}", get(pages::answer_mirror))
        .route("/mirrors.atom", get(feeds::answer_mirrors))
        .route("/builds.atom", get(feeds::answer_builds))
        .route("/status.json", get(status::answer))
        .fallback(redirect::answer)
        .layer(from_fn_with_state(health, only_when_started))
        .with_state(Arc::new(face))
}

/// Before the log was read nothing is known: that is no answer to anything.
async fn only_when_started(State(health): State<Health>, request: Request, next: Next) -> Response {
    match health.readiness() {
        Readiness::Starting => {
            let text = "the directory has not read the log yet";
            Refusal::unavailable(text).into_response()
        }
        Readiness::Ready | Readiness::Degraded(_) | Readiness::Failed(_) => next.run(request).await,
    }
}

/// A client that never comes to the end of what it says is not waited for.
async fn only_in_time(request: Request, next: Next) -> Response {
    let answered = tokio::time::timeout(FEEDBACK_TIMEOUT, next.run(request)).await;
    answered.unwrap_or_else(|_late| Refusal::too_slow(FEEDBACK_TIMEOUT).into_response())
}

/// A random number; from the clock's last digits when the system has none to give.
fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| RandomState::new().hash_one(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::body::{Body, Bytes};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attack_a_body_that_drips_is_not_waited_for() {
        let router: Router = Router::new()
            .route("/", post(async |body: Bytes| body.len().to_string()))
            .layer(from_fn(only_in_time));
        let drip = futures::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        let begun = tokio::time::Instant::now();
        let request = |body| Request::post("/").body(body).unwrap();
        let asked = router.clone().oneshot(request(Body::from_stream(drip)));
        assert_eq!(asked.await.unwrap().status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(begun.elapsed(), FEEDBACK_TIMEOUT);
        let said = router.oneshot(request(Body::from("it"))).await;
        assert_eq!(said.unwrap().status(), StatusCode::OK);
    }
}
