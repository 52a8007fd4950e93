//! Asking mirrors over HTTP, as their clients do.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect};

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
