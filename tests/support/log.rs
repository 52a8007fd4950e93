//! What an accident does to the log: spoken to nats-server in its own protocol, as anybody with access could.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

/// Asks JetStream's API of the server at `url` (`nats://host:port`).
pub fn ask(url: &str, subject: &str, request: &Value) -> Value {
    let address = url.trim_start_matches("nats://");
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let payload = request.to_string();
    let inbox = "_INBOX.e2e";
    let said = format!(
        "CONNECT {{\"verbose\":false}}\r\nSUB {inbox} 1\r\nPUB {subject} {inbox} {}\r\n{payload}\r\n",
        payload.len()
    );
    (&stream).write_all(said.as_bytes()).unwrap();
    loop {
        let mut line = String::new();
        assert!(
            reader.read_line(&mut line).unwrap() > 0,
            "the server hung up"
        );
        if line.starts_with("PING") {
            (&stream).write_all(b"PONG\r\n").unwrap();
        } else if let Some(head) = line.strip_prefix("MSG ") {
            let length: usize = head.split_whitespace().last().unwrap().parse().unwrap();
            let mut answer = vec![0; length];
            reader.read_exact(&mut answer).unwrap();
            return serde_json::from_slice(&answer).unwrap();
        } else {
            assert!(!line.starts_with("-ERR"), "{line}");
        }
    }
}

/// Makes the log lose one event, as a damaged block does.
pub fn lose_event(url: &str, sequence: u64) {
    let answer = ask(
        url,
        "$JS.API.STREAM.MSG.DELETE.MIRRORLOG",
        &json!({ "seq": sequence }),
    );
    assert_eq!(answer["success"], true, "{answer}");
}

/// What the server says of the stream of events.
pub fn state(url: &str) -> Value {
    ask(url, "$JS.API.STREAM.INFO.MIRRORLOG", &json!({}))["state"].clone()
}
