//! Clients that want to harm, played on loopback: each network is a /24 of 127.0.0.0/8.
#![allow(clippy::unwrap_used)]

use axum::routing::get;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;

/// Longer than any of these limits, shorter than anybody waits for a test.
const SOON: Duration = Duration::from_secs(5);
/// More than sockets hold.
const BODY_BYTES: usize = 32 * 1024 * 1024;

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    async fn start(limits: HttpLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let body = Bytes::from(vec![7; BODY_BYTES]);
        let router = Router::new()
            .route("/", get(async || "here"))
            .route("/large", get(async move || body));
        let serving = serve_http_within(listener, router, limits, stop.clone());
        Self {
            address,
            stop,
            serving: tokio::spawn(serving),
        }
    }

    /// A connection from one of the addresses of this machine.
    async fn connect(&self, from: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// The status of one answer, and its head.
    async fn ask(&self, from: &str, more: &str) -> (u16, String) {
        let mut stream = self.connect(from).await;
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.ok();
        answer(stream).await
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(SOON * 2, self.serving)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// What a server says until it closes; 0 when it closes without a word.
async fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut came = Vec::new();
    timeout(SOON, stream.read_to_end(&mut came))
        .await
        .unwrap()
        .ok();
    let text = String::from_utf8_lossy(&came).to_ascii_lowercase();
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    (status.unwrap_or(0), text)
}

fn limits(connections: u32, requests_per_s: u32, burst: u32) -> HttpLimits {
    HttpLimits {
        networks: NetworkLimits {
            connections,
            requests_per_s,
            burst,
            exempt: Vec::new(),
        },
        headers_timeout: Duration::from_millis(300),
        reading: Reading {
            least_bytes: 1024 * 1024,
            within: Duration::from_millis(300),
        },
        ..HttpLimits::default()
    }
}

#[tokio::test]
async fn attack_many_connections_of_one_network_leave_places_for_others() {
    let patient = HttpLimits {
        headers_timeout: Duration::from_secs(60),
        ..limits(20, 0, 0)
    };
    let server = Server::start(patient).await;
    let mut held = Vec::new();
    for host in 1..=20 {
        held.push(server.connect(&format!("127.9.9.{host}")).await);
    }
    // Those were accepted in order, so the next one is the first too many.
    for host in 100..200 {
        let (status, text) = server.ask(&format!("127.9.9.{host}"), "").await;
        assert!(status == 429 || status == 0, "{text}");
    }
    let refused = answer(server.connect("127.9.9.7").await).await;
    assert_eq!(refused.0, 429);
    assert!(refused.1.contains("retry-after: 10\r\n"), "{}", refused.1);
    assert!(refused.1.ends_with("try later\n"), "{}", refused.1);
    assert_eq!(
        server.ask("127.9.8.1", "").await.0,
        200,
        "a neighbour network"
    );
    drop(held);
    // Places come back when connections are gone.
    let back = async { while server.ask("127.9.9.1", "").await.0 != 200 {} };
    timeout(SOON, back).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn attack_a_flood_of_requests_is_told_to_wait() {
    let server = Server::start(limits(0, 1, 10)).await;
    let (begun, mut statuses) = (Instant::now(), Vec::new());
    for _ in 0..200 {
        statuses.push(server.ask("127.9.9.9", "").await.0);
    }
    let mut good = statuses.iter().filter(|status| **status == 200).count();
    // Ten at once, and then one more each second.
    let more = |begun: Instant| 1 + usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!((10..=10 + more(begun)).contains(&good), "{good}");
    assert_eq!(
        statuses.iter().filter(|status| **status == 429).count(),
        200 - good
    );
    // Nobody is believed to be somebody else.
    for line in ["", "X-Forwarded-For: 192.0.2.1\r\n"] {
        for _ in 0..20 {
            let (status, text) = server.ask("127.9.9.9", line).await;
            if status == 200 {
                good += 1;
            } else {
                let told = text.contains("retry-after: 1\r\n");
                assert!(status == 429 && told, "{text}");
            }
        }
    }
    assert!(good <= 10 + more(begun), "{good}");
    assert_eq!(server.ask("127.9.8.9", "").await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_counted_one_by_one() {
    let proxied = HttpLimits {
        trusted_proxies: vec!["127.9.9.0/24".parse().unwrap()],
        ..limits(1, 1, 2)
    };
    let server = Server::start(proxied).await;
    let _held = server.connect("127.9.9.1").await;
    let asked = async |client: &str| {
        let line = format!("X-Forwarded-For: {client}\r\n");
        server.ask("127.9.9.1", &line).await.0
    };
    assert_eq!(asked("192.0.2.1").await, 200);
    assert_eq!(asked("192.0.2.2").await, 200);
    assert_eq!(asked("192.0.2.3").await, 429);
    assert_eq!(asked("192.0.3.1").await, 200);
    server.stop().await;
}

#[tokio::test]
async fn attack_headers_that_drip_are_left() {
    let server = Server::start(limits(0, 0, 0)).await;
    let mut stream = server.connect("127.0.0.1").await;
    let begun = Instant::now();
    let drip = async {
        stream.write_all(b"GET / HTTP/1.1\r\n").await?;
        // A byte of a header that has no end, whenever the one before was sent.
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            tick.tick().await;
            stream.write_all(b"a").await?;
        }
    };
    let dripped: io::Result<()> = timeout(SOON, drip).await.unwrap();
    assert!(dripped.is_err() && begun.elapsed() < Duration::from_secs(2));
    // One that says nothing at all.
    let silent = answer(server.connect("127.0.0.1").await).await;
    assert!(silent.0 == 0 || silent.0 == 408, "{}", silent.1);
    server.stop().await;
}

#[tokio::test]
async fn attack_huge_heads_are_refused() {
    let server = Server::start(limits(0, 0, 0)).await;
    let value = "a".repeat(4 * BUFFER_BYTES);
    let (status, _) = server.ask("127.0.0.1", &format!("X: {value}\r\n")).await;
    assert!(status == 431 || status == 0, "{status}");
    let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
    let (status, _) = server.ask("127.0.0.1", &many).await;
    assert!(status == 431 || status == 0, "{status}");
    assert_eq!(server.ask("127.0.0.1", "X: a\r\n").await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn attack_a_reader_that_drips_is_cut_off() {
    let server = Server::start(limits(0, 0, 0)).await;
    let mut stream = server.connect("127.0.0.1").await;
    let request = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    // One byte every few milliseconds, until nothing more comes from the server: it has closed its end.
    let mut one = [0];
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..90 {
        tick.tick().await;
        if stream.read_exact(&mut one).await.is_err() {
            break;
        }
    }
    // What sockets held comes, and then the cut: much less than all.
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .ok();
    assert!(rest.len() < BODY_BYTES, "{}", rest.len());
    server.stop().await;
}

#[tokio::test]
async fn a_slow_reader_that_goes_on_is_served_to_the_end() {
    let steady = HttpLimits {
        reading: Reading {
            least_bytes: 192 * 1024,
            within: Duration::from_millis(1500),
        },
        ..limits(0, 0, 0)
    };
    let server = Server::start(steady).await;
    let mut stream = server.connect("127.0.0.1").await;
    let request = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let (mut came, mut buffer) = (0, vec![0; 256 * 1024]);
    let mut tick = tokio::time::interval(Duration::from_millis(45));
    loop {
        tick.tick().await;
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            read => came += read,
        }
    }
    assert!(came > BODY_BYTES, "{came}");
    server.stop().await;
}

/// A gRPC server with nothing but health and reflection.
async fn grpc(networks: NetworkLimits) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let serving = stop.clone();
    let limits = GrpcLimits {
        networks,
        ..GrpcLimits::default()
    };
    tokio::spawn(async move {
        let (routes, health) = (Routes::default(), Health::new());
        serve_grpc(listener, routes, &health, &limits, None, serving)
            .await
            .unwrap();
    });
    (address, stop)
}

/// What a connection brings until the server closes it.
async fn until_closed(mut stream: TcpStream) -> Vec<u8> {
    let mut came = Vec::new();
    stream.read_to_end(&mut came).await.ok();
    came
}

#[tokio::test(start_paused = true)]
async fn attack_a_grpc_connection_that_says_nothing_is_closed() {
    let (address, stop) = grpc(NetworkLimits::default()).await;
    // Nothing, and half of the preface.
    for said in [&b""[..], b"PRI * HTTP/2"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let begun = Instant::now();
        let closed = timeout(GREETING.within * 2, until_closed(stream)).await;
        assert!(closed.is_ok(), "{said:?}");
        assert!(begun.elapsed() <= GREETING.within + Duration::from_secs(1));
    }
    stop.cancel();
}

#[tokio::test]
async fn attack_many_grpc_connections_of_one_network_leave_places_for_others() {
    let (address, stop) = grpc(limits(3, 0, 0).networks).await;
    let connect = async |from: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream
            .write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat())
            .await
            .ok();
        stream
    };
    let mut held = Vec::new();
    for host in 1..=3 {
        let mut stream = connect(&format!("127.9.9.{host}")).await;
        stream.read_exact(&mut [0; 9]).await.unwrap();
        held.push(stream);
    }
    let refused = timeout(SOON, until_closed(connect("127.9.9.4").await))
        .await
        .unwrap();
    assert!(refused.is_empty());
    // The server's settings come to a neighbour.
    connect("127.9.8.1")
        .await
        .read_exact(&mut [0; 9])
        .await
        .unwrap();
    drop(held);
    stop.cancel();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head, payload.to_vec()].concat()
}

/// Headers of a call: POST, http, / (RFC 7541, appendix A), with or without the end of the stream.
fn call(stream: u32, flags: u8) -> Vec<u8> {
    const END_HEADERS: u8 = 4;
    frame(1, END_HEADERS | flags, stream, &[0x83, 0x86, 0x84])
}

/// Error code of the GOAWAY among frames, if there is one.
fn goaway(mut bytes: &[u8]) -> Option<u32> {
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let (kind, rest) = (bytes[3], &bytes[9..]);
        let payload = rest.get(..length)?;
        if kind == 7 {
            return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        bytes = &rest[length..];
    }
    None
}

#[tokio::test]
async fn attack_rapid_resets_end_the_connection() {
    const ENHANCE_YOUR_CALM: u32 = 0xb;
    let (address, stop) = grpc(NetworkLimits::default()).await;
    let mut flood = [PREFACE, &frame(4, 0, 0, &[])].concat();
    for number in 0..10_000_u32 {
        let stream = 2 * number + 1;
        flood.extend(call(stream, 0));
        flood.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let (mut from, mut to) = TcpStream::connect(address).await.unwrap().into_split();
    let flooding = tokio::spawn(async move { to.write_all(&flood).await });
    let mut came = Vec::new();
    timeout(SOON, from.read_to_end(&mut came))
        .await
        .unwrap()
        .ok();
    assert_eq!(goaway(&came), Some(ENHANCE_YOUR_CALM));
    drop(from);
    flooding.await.unwrap().ok();
    stop.cancel();
}

#[tokio::test]
async fn attack_more_streams_than_allowed_are_refused() {
    const REFUSED_STREAM: u32 = 7;
    let (address, stop) = grpc(NetworkLimits::default()).await;
    let allowed = GrpcLimits::default().streams_max;
    let mut flood = [PREFACE, &frame(4, 0, 0, &[])].concat();
    // None of them ends.
    flood.extend((0..=allowed).flat_map(|number| call(2 * number + 1, 0)));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&flood).await.unwrap();
    let mut came = Vec::new();
    let refused = async {
        loop {
            let mut some = [0; 4096];
            let read = stream.read(&mut some).await.unwrap();
            assert!(read > 0, "closed without a word");
            came.extend_from_slice(&some[..read]);
            let reset = frame(3, 0, 2 * allowed + 1, &REFUSED_STREAM.to_be_bytes());
            if came.windows(reset.len()).any(|frame| frame == reset) {
                return;
            }
        }
    };
    timeout(SOON, refused).await.unwrap();
    stop.cancel();
}
