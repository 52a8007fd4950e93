//! Asking mirrors over HTTP, as their clients do.

use std::future::Future;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect};
use tokio::time::{Instant, timeout_at};

/// Redirects followed on the mirror itself.
const REDIRECTS_MAX: usize = 3;
const IDLE: Duration = Duration::from_secs(30);

/// A client for all mirrors: HTTP/1.1 with connections kept for the next request, without proxies.
///
/// `timeout`: longest wait for a connection, and for the next bytes of an answer.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(timeout: Duration, connections_per_mirror: usize) -> Result<Client, reqwest::Error> {
    builder(timeout, timeout, connections_per_mirror)
        .no_proxy()
        .build()
}

/// The same, yet to be built, and through the environment's proxies unless told otherwise.
///
/// `connect`: longest wait for a connection; `read`: for the next bytes of an answer.
pub fn builder(connect: Duration, read: Duration, connections_per_mirror: usize) -> ClientBuilder {
    // Fails when a provider is set already, which is as good.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    Client::builder()
        .user_agent(concat!("mirrorlog/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect)
        .read_timeout(read)
        .pool_max_idle_per_host(connections_per_mirror)
        .pool_idle_timeout(IDLE)
        .redirect(redirect::Policy::custom(stay))
        .tcp_nodelay(true)
}

/// Follows redirects on one host only: what another mirror, the archive or a machine of ours answers
/// says nothing about this mirror. A redirect elsewhere is its answer, and no file.
fn stay(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let (to, previous) = (attempt.url(), attempt.previous());
    let here = previous.first().is_none_or(|from| {
        let upgrade = from.scheme() == "http"
            && to.scheme() == "https"
            && (from.port(), to.port()) == (None, None)
            && from.host() == to.host();
        from.origin() == to.origin() || upgrade
    });
    if here && previous.len() <= REDIRECTS_MAX {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// Whether enough comes of an answer: so many bytes in every window, the first of which begins with the question.
///
/// A byte now and then is no progress, and neither are headers that never end: whoever sends next to nothing is as good
/// as silent, and found out within one window.
#[derive(Debug)]
pub struct Pace {
    least_bytes: u64,
    window: Duration,
    since: Instant,
    bytes: u64,
    /// Bytes a second in the last window that ended.
    last: Option<u64>,
}

/// Too little came in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("next to nothing came for {} s", .0.as_secs())]
pub struct TooSlow(pub Duration);

impl Pace {
    /// The first window begins now.
    pub fn new(least_bytes: u64, window: Duration) -> Self {
        Self {
            least_bytes,
            window,
            since: Instant::now(),
            bytes: 0,
            last: None,
        }
    }

    /// Waits for something that the source does, while enough comes.
    ///
    /// # Errors
    /// [`TooSlow`].
    pub async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Result<T, TooSlow> {
        let mut work = std::pin::pin!(work);
        loop {
            // What is here already counts, however late this machine looks.
            if let Ok(done) = timeout_at(self.since + self.window, &mut work).await {
                return Ok(done);
            }
            if self.bytes < self.least_bytes {
                return Err(TooSlow(self.window));
            }
            let seconds = self.since.elapsed().as_secs_f64().max(0.001);
            self.last = Some((self.bytes as f64 / seconds) as u64);
            (self.since, self.bytes) = (Instant::now(), 0);
        }
    }

    /// Counts what came.
    pub fn came(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Bytes a second in the window that ended since the last call, if one did.
    pub fn take_last(&mut self) -> Option<u64> {
        self.last.take()
    }
}
