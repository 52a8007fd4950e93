//! Clients that ask for the large file and do not read it: what a server keeps for each of them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use e2e::until_within;

use crate::Peer;

/// Looks at memory that find no more of it, until that is all.
const STILL: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Peak memory with so many clients, in MiB.
pub(crate) fn peak_mib(peer: &Peer, path: &str, clients: usize) -> f64 {
    let address = peer.url.trim_start_matches("http://");
    peer.processes.reset_peak();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let open = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let mut streams: Vec<TcpStream> = (0..clients).map(open).collect();
    for stream in &mut streams {
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200", "{}", peer.name);
    }
    let (mut peak, mut still) = (0.0, 0);
    until_within(PATIENCE, "memory grows no more", || {
        let now = peer.processes.peak_mib();
        still = if now > peak { 0 } else { still + 1 };
        peak = now;
        still >= STILL
    });
    peak
}
