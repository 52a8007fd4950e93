//! Those who ask for much and read nothing: what they take of a mirror's memory.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use e2e::{Group, Network, Tree, noise, sha256, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use wire::v1::fetcher_client::FetcherClient;
use wire::v1::piece::Kind;
use wire::v1::{FetchRequest, Want};

const CHANNEL: &str = "c";
/// More than all buffers between a server and a client that does not read.
const FILE_BYTES: usize = 64 * 1024 * 1024;
/// As many connections as one network may hold (`[http.limits]`).
const CONNECTIONS: usize = 512;
/// As many streams as one network may hold, and as all may.
const STREAMS: [usize; 2] = [64, 1024];
/// Streams on one gRPC connection.
const STREAMS_PER_CONNECTION: usize = 128;
/// What 512 readers of HTTP may take, in MiB.
const HTTP_MAX_MIB: f64 = 256.0;
/// What one stream may take, in MiB: two batches that were read ahead, those that are being written, and a part of one in
/// HTTP/2's buffer.
const STREAM_MAX_MIB: f64 = 4.0;

/// A mirror that is live at a build with one large file, and the file's digest.
fn network_with_a_large_file() -> (Network, Vec<u8>) {
    let network = Network::up(1);
    let tree = Tree::new();
    let content = noise(1, FILE_BYTES);
    tree.write("large", &content);
    network.publish_everywhere(CHANNEL, tree.path());
    (network, hex::decode(sha256(&content)).unwrap())
}

/// Waits until a process has taken no more for two seconds, and gives its peak since the last reset, in MiB.
fn settled_mib(mirror: &Group) -> f64 {
    let (mut last, mut unchanged) = (0.0, 0);
    until("memory stays as it is", || {
        let now = mirror.peak_mib();
        unchanged = if now > last { 0 } else { unchanged + 1 };
        last = now;
        unchanged >= 100
    });
    last
}

#[test]
fn attack_http_readers_that_do_not_read_take_little_memory() {
    let (network, _) = network_with_a_large_file();
    let mirror = Group::of(network.pid("nz1"));
    let url = network.url("nz1");
    let address = url.strip_prefix("http://").unwrap();
    mirror.reset_peak();
    let before = mirror.peak_mib();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = TcpStream::connect(address).unwrap();
        let request = format!("GET /{CHANNEL}/large HTTP/1.1\r\nHost: {address}\r\n\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        held.push(connection);
    }
    // All are served: each has got the first bytes, and reads no others.
    for connection in &mut held {
        connection
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut first = [0; 12];
        connection.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    let taken = settled_mib(&mirror) - before;
    assert!(taken < HTTP_MAX_MIB, "{taken:.0} MiB");
    // Nobody else notices.
    assert_eq!(network.get("nz1", "/healthz").status, 200);
}

#[test]
fn attack_fetchers_that_do_not_read_take_a_bounded_part_of_memory() {
    let (network, digest) = network_with_a_large_file();
    let mirror = Group::of(network.pid("nz1"));
    let address = format!("http://{}", network.fetch_addresses()[1]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut held = Vec::new();
    for streams in STREAMS {
        held.clear();
        settled_mib(&mirror);
        mirror.reset_peak();
        let before = mirror.peak_mib();
        runtime.block_on(async {
            let mut client = None;
            for number in 0..streams {
                if number % STREAMS_PER_CONNECTION == 0 {
                    // What one stream does not read is not to hold up the others of its connection.
                    let endpoint = Endpoint::from_shared(address.clone()).unwrap();
                    let endpoint = endpoint.initial_connection_window_size(1 << 30);
                    client = Some(FetcherClient::new(endpoint.connect().await.unwrap()));
                }
                let want = Want {
                    id: 1,
                    digest: digest.clone().into(),
                    ..Want::default()
                };
                let (requests, from) = mpsc::channel(1);
                let request = FetchRequest {
                    wants: vec![want],
                    credit_bytes: u64::MAX / 2,
                };
                requests.send(request).await.unwrap();
                let client = client.as_mut().unwrap();
                let answers = client.fetch(ReceiverStream::new(from)).await.unwrap();
                let mut answers = answers.into_inner();
                let first = answers.message().await.unwrap().unwrap();
                assert!(matches!(first.pieces[0].kind, Some(Kind::Data(_))));
                held.push((requests, answers));
            }
        });
        let taken = settled_mib(&mirror) - before;
        let bound = streams as f64 * STREAM_MAX_MIB;
        assert!(taken < bound, "{streams} streams: {taken:.0} MiB");
    }
    assert_eq!(network.get("nz1", "/healthz").status, 200);
}
