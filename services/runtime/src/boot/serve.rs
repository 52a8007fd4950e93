//! Servers with the limits that every service keeps, stopped by a token.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use futures::Stream;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic_health::ServingStatus;
use tower::ServiceExt as _;

use super::health::{Health, Watch};
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

/// How much a gRPC server takes on.
#[derive(Clone, Copy, Debug)]
pub struct GrpcLimits {
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
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
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

/// Serves HTTP on a bound TCP socket until `shutdown`; requests under way then have five seconds. Handlers find
/// the peer in `ConnectInfo<SocketAddr>`. Connections are bounded, and each has to send a request's headers in time.
///
/// # Errors
/// [`ServeError::Http`].
pub async fn serve_http(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    within_grace(accept_http(listener, router, shutdown.clone()), &shutdown).await
}

async fn accept_http(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
        let router = router.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().oneshot(request)
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
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tonic::transport::Endpoint;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    use super::*;
    use crate::trace::TraceCalls;

    #[tokio::test]
    async fn grpc_answers_health_and_reflection_and_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, stop) = (Health::new(), CancellationToken::new());
        let serving = {
            let (health, stop) = (health.clone(), stop.clone());
            let routes = Routes::default();
            tokio::spawn(async move {
                serve_grpc(
                    listener,
                    routes,
                    &health,
                    &GrpcLimits::default(),
                    None,
                    stop,
                )
                .await
            })
        };
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut client = HealthClient::with_interceptor(channel.clone(), TraceCalls);
        let mut statuses = client
            .watch(HealthCheckRequest {
                service: String::new(),
            })
            .await
            .unwrap()
            .into_inner();
        let wait_for = |wanted: ServingStatus| {
            tonic_health::pb::health_check_response::ServingStatus::from(wanted) as i32
        };
        health.started();
        while statuses.message().await.unwrap().unwrap().status != wait_for(ServingStatus::Serving)
        {
        }
        health.degrade("log", "away");
        health.fail("disk", "full");
        while statuses.message().await.unwrap().unwrap().status
            != wait_for(ServingStatus::NotServing)
        {}

        let ask = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::new(channel);
        let answers = client
            .server_reflection_info(futures::stream::iter([ask]))
            .await
            .unwrap();
        let answer = answers
            .into_inner()
            .message()
            .await
            .unwrap()
            .unwrap()
            .message_response
            .unwrap();
        let MessageResponse::ListServicesResponse(list) = answer else {
            panic!("{answer:?}")
        };
        let names: Vec<String> = list
            .service
            .into_iter()
            .map(|service| service.name)
            .collect();
        assert!(
            names.contains(&"mirrorlog.v1.Fetcher".to_owned()),
            "{names:?}"
        );

        // The watch above never ends; the server does.
        tokio::time::pause();
        stop.cancel();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn http_tells_health_and_metrics() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, stop) = (Health::new(), CancellationToken::new());
        let mut registry = crate::boot::metrics::registry("test");
        crate::boot::metrics::outbox_pending(&mut registry).set(2);
        let serving = tokio::spawn(serve_http(
            listener,
            health.router(Arc::new(registry)),
            stop.clone(),
        ));
        let get = async |path: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].to_owned(), body.to_owned())
        };
        let both = |code: &str, body: &str| (code.to_owned(), body.to_owned());
        assert_eq!(get("/healthz").await, both("200", "ok\n"));
        assert_eq!(
            get("/readyz").await,
            both("503", "{\"reasons\":[],\"status\":\"starting\"}\n")
        );
        health.started();
        assert_eq!(
            get("/readyz").await,
            both("200", "{\"reasons\":[],\"status\":\"ready\"}\n")
        );
        health.degrade("log", "no answer");
        let degraded =
            "{\"reasons\":[{\"cause\":\"log\",\"text\":\"no answer\"}],\"status\":\"degraded\"}\n";
        assert_eq!(get("/readyz").await, both("200", degraded));
        health.fail("disk", "full");
        assert_eq!(get("/readyz").await.0, "503");
        let (code, text) = get("/metrics").await;
        assert_eq!(code, "200");
        assert!(
            text.contains("mirrorlog_outbox_pending 2\n") && text.ends_with("# EOF\n"),
            "{text}"
        );
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
