//! Servers with the limits that every service keeps, stopped by a token.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Request, Response, StatusCode};
use futures::{Stream, StreamExt as _};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic_health::ServingStatus;
use tower::ServiceExt as _;

use super::guest::{Greeting, Guest, Reading};
use super::health::{Health, Watch};
use super::networks::{NetworkLimits, Networks, client_behind};
use crate::tls::Tls;

/// HTTP/2 flow control, in bytes: a stream may have this much under way, enough for 1 Gbit/s at 30 ms.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The same for a whole connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Largest request headers, in bytes.
const HEADERS_MAX_BYTES: u32 = 16 * 1024;
/// How long a server waits for requests under way when it is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// HTTP connections at a time.
const CONNECTIONS_MAX: usize = 16_384;
/// Time for a request's headers, the wait for the next request on a kept connection included.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(60);
/// Headers of one request.
const HEADERS_MAX: usize = 100;
/// Bytes that one connection holds for a client that does not read them, but for what came last: more of an answer is
/// made only below this. Also the most that a request's head may have.
const BUFFER_BYTES: usize = 64 * 1024;
/// Pause after the system gave no connection: it may be out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long an address in use is tried.
const LISTEN_RETRY_FOR: Duration = Duration::from_secs(5);
const LISTEN_RETRY_EVERY: Duration = Duration::from_millis(50);

/// HTTP/2's preface, which a client says before anything else (RFC 9113, 3.4): a connection that does not is none of
/// gRPC, and has no keep-alive that would end it.
const GREETING: Greeting = Greeting {
    bytes: 24,
    within: Duration::from_secs(10),
};
/// What a connection is told that finds no place: written once, not waited for.
const NO_PLACE: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Retry-After: 10\r\nConnection: close\r\nContent-Length: 59\r\n\r\n\
    too-many: your network has too many connections, try later\n";

/// How much an HTTP server takes on.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// What one network may take.
    pub networks: NetworkLimits,
    /// Proxies in front: what `X-Forwarded-For` says of their clients is believed, and their connections are not counted.
    pub trusted_proxies: Vec<IpNet>,
    /// Time for a request's headers, the wait for the next request on a kept connection included; stops those who
    /// send a byte now and then.
    pub headers_timeout: Duration,
    /// How a client has to read.
    pub reading: Reading,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            networks: NetworkLimits::default(),
            trusted_proxies: Vec::new(),
            headers_timeout: HEADERS_TIMEOUT,
            reading: Reading::default(),
        }
    }
}

/// How much a gRPC server takes on.
#[derive(Clone, Debug)]
pub struct GrpcLimits {
    /// What one network may take; of it, requests are not counted.
    pub networks: NetworkLimits,
    /// Calls under way on one connection.
    pub streams_max: u32,
    /// Time until a call is answered; a streamed answer may go on for longer.
    pub timeout: Duration,
    /// Silence on a connection after which the peer is asked whether it lives.
    pub keepalive_interval: Duration,
    /// Time in which it has to answer that.
    pub keepalive_timeout: Duration,
}

impl Default for GrpcLimits {
    fn default() -> Self {
        Self {
            networks: NetworkLimits::default(),
            streams_max: 256,
            timeout: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// Why a server ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// gRPC.
    #[error("gRPC server ended")]
    Grpc(#[from] tonic::transport::Error),
    /// The descriptors for reflection are not valid.
    #[error("gRPC reflection cannot be offered")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The address cannot be had.
    #[error("cannot listen on {address}; is another process using it?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// HTTP.
    #[error("HTTP server ended")]
    Http(#[from] io::Error),
}

/// Binds a TCP socket. An address that is in use is tried for a while: a process that was just killed may
/// hold it until its last thread has ended.
///
/// # Errors
/// [`ServeError::Listen`].
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let until = tokio::time::Instant::now() + LISTEN_RETRY_FOR;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(source) => {
                let in_use = source.kind() == io::ErrorKind::AddrInUse;
                if !in_use || tokio::time::Instant::now() >= until {
                    return Err(ServeError::Listen { address, source });
                }
                tokio::time::sleep(LISTEN_RETRY_EVERY).await;
            }
        }
    }
}

/// A gRPC server with TLS where it is given, the limits, a trace span for each call, `grpc.health.v1` and reflection.
/// The caller adds nothing and serves it; [`serve_grpc`] does that too.
///
/// # Errors
/// [`ServeError::Reflection`].
pub fn grpc_server(
    routes: Routes,
    limits: &GrpcLimits,
    tls: Option<&Tls>,
) -> Result<
    (
        tonic::transport::server::Router,
        tonic_health::server::HealthReporter,
    ),
    ServeError,
> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure();
        let builder = builder.register_encoded_file_descriptor_set(wire::v1::DESCRIPTORS);
        builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Old grpcurl asks for v1alpha only.
    let routes = routes.add_service(health);
    let routes = routes
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls.server())?;
    }
    let server = server
        .trace_fn(crate::trace::call_span)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADERS_MAX_BYTES)
        .max_concurrent_streams(limits.streams_max)
        .timeout(limits.timeout)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
        .add_routes(routes);
    Ok((server, reporter))
}

/// Serves gRPC on a bound TCP socket until `shutdown`, with TLS where it is given; calls under way then have five seconds.
///
/// # Errors
/// [`ServeError`].
pub async fn serve_grpc(
    listener: TcpListener,
    routes: Routes,
    health: &Health,
    limits: &GrpcLimits,
    tls: Option<&Tls>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let networks = Networks::new(limits.networks.clone());
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let incoming = incoming.filter_map(move |accepted| {
        let guest = accepted
            .map(|stream| guest_of(stream, &networks))
            .transpose();
        std::future::ready(guest)
    });
    serve_incoming(incoming, routes, health, limits, tls, shutdown).await
}

/// Serves gRPC on a Unix socket, as [`serve_grpc`] does.
///
/// # Errors
/// [`ServeError`].
pub async fn serve_grpc_unix(
    listener: UnixListener,
    routes: Routes,
    health: &Health,
    limits: &GrpcLimits,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    serve_incoming(
        UnixListenerStream::new(listener),
        routes,
        health,
        limits,
        None,
        shutdown,
    )
    .await
}

/// None when its network has as many connections as it may.
fn guest_of(stream: TcpStream, networks: &Networks) -> Option<Guest> {
    let place = networks.enter(stream.peer_addr().ok()?.ip())?;
    Some(Guest::new(
        stream,
        place,
        Reading::default(),
        Some(GREETING),
    ))
}

/// Serves HTTP with the usual limits: see [`serve_http_within`].
///
/// # Errors
/// [`ServeError::Http`].
pub async fn serve_http(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    serve_http_within(listener, router, HttpLimits::default(), shutdown).await
}

/// Serves HTTP on a bound TCP socket until `shutdown`; requests under way then have five seconds. Handlers find
/// the peer in `ConnectInfo<SocketAddr>`. Connections are bounded, those of one network too, and each has to send a
/// request's headers in time, to read what it asked for, and not to ask too much.
///
/// # Errors
/// [`ServeError::Http`].
pub async fn serve_http_within(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let serving = accept_http(listener, router, limits, shutdown.clone());
    within_grace(serving, &shutdown).await
}

async fn accept_http(
    listener: TcpListener,
    router: Router,
    mut limits: HttpLimits,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.headers_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let proxies: Arc<[IpNet]> = limits.trusted_proxies.clone().into();
    limits.networks.exempt.extend(limits.trusted_proxies);
    let networks = Networks::new(limits.networks);
    loop {
        // Whoever finds no place waits in the system's queue.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small, and their readers wait for them. A socket that refuses is only slower.
        stream.set_nodelay(true).ok();
        let Some(seat) = networks.enter(peer.ip()) else {
            tracing::debug!(%peer, "a network has too many connections");
            // Whoever does not take it is closed all the same.
            stream.try_write(NO_PLACE).ok();
            continue;
        };
        let stream = Guest::new(stream, seat, limits.reading, None);
        let (router, networks, proxies) = (router.clone(), networks.clone(), Arc::clone(&proxies));
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let client = client_behind(&proxies, peer.ip(), request.headers());
            let asked = networks.ask(client);
            request.extensions_mut().insert(ConnectInfo(peer));
            let router = router.clone();
            async move {
                match asked {
                    Ok(()) => router.oneshot(request).await,
                    Err(wait) => Ok(asks_too_much(wait)),
                }
            }
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

/// 429, and when to ask again.
fn asks_too_much(wait: Duration) -> Response<Body> {
    let text = "too-many: your network asks too much, try later\n";
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = answer.headers_mut();
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(RETRY_AFTER, (wait.as_secs() + 1).into());
    answer
}

async fn serve_incoming<I, IO>(
    incoming: I,
    routes: Routes,
    health: &Health,
    limits: &GrpcLimits,
    tls: Option<&Tls>,
    shutdown: CancellationToken,
) -> Result<(), ServeError>
where
    I: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (server, reporter) = grpc_server(routes, limits, tls)?;
    let serving = server.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = within_grace(async { Ok(serving.await?) }, &shutdown) => ended,
        never = report(reporter, health.watch()) => match never {},
    }
}

/// Waits for the server, but not for ever once it is told to stop: streams may have no end.
async fn within_grace(
    serving: impl Future<Output = Result<(), ServeError>>,
    shutdown: &CancellationToken,
) -> Result<(), ServeError> {
    tokio::select! {
        ended = serving => ended,
        () = async { shutdown.cancelled().await; tokio::time::sleep(GRACE).await } => {
            tracing::debug!("connections that did not end were cut");
            Ok(())
        }
    }
}

/// Tells gRPC's health service what [`Health`] says.
async fn report(
    reporter: tonic_health::server::HealthReporter,
    mut health: Watch,
) -> std::convert::Infallible {
    loop {
        let status = if health.works() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        reporter.set_service_status("", status).await;
        if !health.changed().await {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod tests;
