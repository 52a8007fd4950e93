//! Liveness, readiness and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a service can do its work; shared by all its tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    started: bool,
    /// What keeps it from working, by cause.
    failed: BTreeMap<&'static str, String>,
    /// What it works without, by cause.
    degraded: BTreeMap<&'static str, String>,
}

/// How ready a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not up yet.
    Starting,
    /// All is well.
    Ready,
    /// It works, but without something; still counts as ready.
    Degraded(Vec<Reason>),
    /// It does not work.
    Failed(Vec<Reason>),
}

/// Why a service is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// For programs: one short word.
    pub cause: &'static str,
    /// For people.
    pub text: String,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Starting.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }

    /// Start-up is over.
    pub fn started(&self) {
        self.change(|state| !std::mem::replace(&mut state.started, true));
    }

    /// It works, but without something (`cause`: `log`, `archive`…). The same cause again replaces the text.
    pub fn degrade(&self, cause: &'static str, text: impl Into<String>) {
        let text = text.into();
        self.change(|state| {
            let was_failed = state.failed.remove(cause).is_some();
            let before = state.degraded.insert(cause, text.clone());
            was_failed || before.as_ref() != Some(&text)
        });
    }

    /// It does not work, and should get no requests.
    pub fn fail(&self, cause: &'static str, text: impl Into<String>) {
        let text = text.into();
        self.change(|state| {
            let was_degraded = state.degraded.remove(cause).is_some();
            let before = state.failed.insert(cause, text.clone());
            was_degraded || before.as_ref() != Some(&text)
        });
    }

    /// The cause is gone.
    pub fn recover(&self, cause: &'static str) {
        self.change(|state| {
            state.degraded.remove(cause).is_some() | state.failed.remove(cause).is_some()
        });
    }

    /// How ready it is now.
    pub fn readiness(&self) -> Readiness {
        self.0.borrow().readiness()
    }

    /// Waits until readiness may have changed since the receiver last looked.
    pub(super) fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }

    /// Logs and announces a change only when there is one.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        if self.0.send_if_modified(change) {
            tracing::info!(readiness = ?self.readiness(), "health changed");
        }
    }

    /// Routes `/healthz`, `/readyz` and `/metrics`, to be merged into a service's router.
    pub fn router(&self, registry: Arc<Registry>) -> Router {
        let health = self.clone();
        Router::new()
            .route(
                "/healthz",
                get(|| async { plain(StatusCode::OK, "text/plain", "ok\n".to_owned()) }),
            )
            .route(
                "/readyz",
                get(move || async move { readyz(&health.readiness()) }),
            )
            .route("/metrics", get(move || async move { metrics(&registry) }))
    }
}

pub(super) struct Watch(watch::Receiver<State>);

impl Watch {
    /// False when all [`Health`]s are gone.
    pub(super) async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    pub(super) fn works(&mut self) -> bool {
        match self.0.borrow_and_update().readiness() {
            Readiness::Ready | Readiness::Degraded(_) => true,
            Readiness::Starting | Readiness::Failed(_) => false,
        }
    }
}

impl State {
    fn readiness(&self) -> Readiness {
        let reasons = |causes: &BTreeMap<&'static str, String>| {
            causes
                .iter()
                .map(|(cause, text)| Reason {
                    cause,
                    text: text.clone(),
                })
                .collect()
        };
        if !self.failed.is_empty() {
            Readiness::Failed(reasons(&self.failed))
        } else if !self.started {
            Readiness::Starting
        } else if !self.degraded.is_empty() {
            Readiness::Degraded(reasons(&self.degraded))
        } else {
            Readiness::Ready
        }
    }
}

fn readyz(readiness: &Readiness) -> Response {
    let (code, status, reasons) = match readiness {
        Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting", [].as_slice()),
        Readiness::Ready => (StatusCode::OK, "ready", [].as_slice()),
        Readiness::Degraded(reasons) => (StatusCode::OK, "degraded", reasons.as_slice()),
        Readiness::Failed(reasons) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "failed",
            reasons.as_slice(),
        ),
    };
    let body = serde_json::json!({ "status": status, "reasons": reasons });
    plain(code, "application/json", format!("{body}\n"))
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => plain(StatusCode::OK, OPENMETRICS, text),
        Err(error) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain",
            format!("{error}\n"),
        ),
    }
}

fn plain(code: StatusCode, kind: &'static str, body: String) -> Response {
    (
        code,
        [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-store")],
        body,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_come_and_go() {
        let health = Health::new();
        assert_eq!(health.readiness(), Readiness::Starting);
        health.started();
        health.degrade("log", "cannot reach the log");
        let reason = |cause, text: &str| {
            vec![Reason {
                cause,
                text: text.to_owned(),
            }]
        };
        assert_eq!(
            health.readiness(),
            Readiness::Degraded(reason("log", "cannot reach the log"))
        );
        health.fail("disk", "no space");
        assert_eq!(
            health.readiness(),
            Readiness::Failed(reason("disk", "no space"))
        );
        health.degrade("disk", "little space");
        health.recover("log");
        assert_eq!(
            health.readiness(),
            Readiness::Degraded(reason("disk", "little space"))
        );
        health.recover("disk");
        assert_eq!(health.readiness(), Readiness::Ready);
    }
}
