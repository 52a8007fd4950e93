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
    let mut statuses = Vec::new();
    for _ in 0..200 {
        statuses.push(server.ask("127.9.9.9", "").await.0);
    }
    let good = statuses.iter().filter(|status| **status == 200).count();
    assert!((10..20).contains(&good), "{good}");
    assert_eq!(
        statuses.iter().filter(|status| **status == 429).count(),
        200 - good
    );
    let (status, text) = server.ask("127.9.9.9", "").await;
    assert!(
        status == 429 && text.contains("retry-after: 1\r\n"),
        "{text}"
    );
    // Nobody is believed to be somebody else.
    let lie = server
        .ask("127.9.9.9", "X-Forwarded-For: 192.0.2.1\r\n")
        .await;
    assert_eq!(lie.0, 429);
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
    let begun = Instant::now();
    // One byte every few milliseconds, until nothing more comes from the server: it has closed its end.
    let mut one = [0];
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while begun.elapsed() < Duration::from_millis(900) {
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
            least_bytes: 64 * 1024,
            within: Duration::from_millis(500),
        },
        ..limits(0, 0, 0)
    };
    let server = Server::start(steady).await;
    let mut stream = server.connect("127.0.0.1").await;
    let request = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let (mut came, mut buffer) = (0, vec![0; 256 * 1024]);
    let mut tick = tokio::time::interval(Duration::from_millis(15));
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
