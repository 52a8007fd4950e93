//! What only a real connection shows.

use mirrorlog_core::id::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Put, World};

async fn exchange(address: std::net::SocketAddr, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is cut may end in an error; what came counts.
    stream.read_to_end(&mut answer).await.ok();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let body = answer.split_off(end + 4);
    (
        String::from_utf8(answer).unwrap().to_ascii_lowercase(),
        body,
    )
}

#[tokio::test]
async fn framing() {
    let world = World::new();
    let big = vec![7_u8; 600_000];
    let root = world.tree(&[
        (b"big", Put::File(&big)),
        (b"ten", Put::File(b"0123456789")),
    ]);
    world.serve("main", "/d", &[(1, root)], Some(1));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = runtime::boot::serve_http(listener, world.router.clone(), stop.clone());
    let serving = tokio::spawn(serving);
    let ask = async |method: &str, path: &str, more: &str| {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
        exchange(address, &request).await
    };
    let (head, body) = ask("GET", "/d/big", "").await;
    assert!(head.starts_with("http/1.1 200") && body == big, "{head}");
    assert!(
        head.contains("content-length: 600000\r\n") && !head.contains("chunked"),
        "{head}"
    );
    let (head, body) = ask("HEAD", "/d/big", "").await;
    assert!(
        head.contains("content-length: 600000\r\n") && body.is_empty(),
        "{head}"
    );
    // A 304 says nothing of a length (RFC 9110, 8.6), and does not end the connection.
    let tag = format!("If-None-Match: \"{}\"\r\n", Digest::of(b"0123456789"));
    let twice = format!("GET /d/ten HTTP/1.1\r\nHost: x\r\n{tag}\r\n");
    let last = "GET /d/ten HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (head, rest) = exchange(address, &format!("{twice}{last}")).await;
    assert!(head.starts_with("http/1.1 304"), "{head}");
    assert!(
        !head.contains("content-length") && !head.contains("transfer-encoding"),
        "{head}"
    );
    assert!(rest.starts_with(b"HTTP/1.1 200") && rest.ends_with(b"0123456789"));
    let (head, _) = ask("GET", "/d", "").await;
    assert!(
        head.starts_with("http/1.1 301") && head.contains("content-length: 0\r\n"),
        "{head}"
    );
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_whose_file_shrinks_is_cut_off() {
    let world = World::new();
    // More than what sockets hold.
    let size = 24 * 1024 * 1024;
    let huge = vec![7_u8; size];
    let root = world.tree(&[(b"huge", Put::File(&huge))]);
    world.serve("main", "/d", &[(1, root)], Some(1));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let serving = runtime::boot::serve_http(listener, world.router.clone(), stop.clone());
    let serving = tokio::spawn(serving);
    stream
        .write_all(b"GET /d/huge HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut came = vec![0; 1000];
    stream.read_exact(&mut came).await.unwrap();
    let path = world.store.path_of(&Digest::of(&huge));
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(1000).unwrap();
    // Cut, not left waiting: the connection would stay open otherwise.
    stream.read_to_end(&mut came).await.ok();
    let end = came
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let body = &came[end + 4..];
    assert!(body.len() < size && body.iter().all(|byte| *byte == 7));
    stop.cancel();
    serving.await.unwrap().unwrap();
}
