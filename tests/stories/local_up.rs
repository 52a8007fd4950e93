//! The network of a folder: its places are its own while it is up, and it has them again.

use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use e2e::{Kept, binary, command, signal, until, until_within};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::Signal;
use serde_json::Value;

/// Starts the network of a folder and waits until all of it is ready.
fn up(home: &Path) -> (Kept, Value) {
    let file = home.join("local.json");
    std::fs::remove_file(&file).ok();
    let dir = home.to_str().unwrap();
    let started = command(&binary(), ["local", "up", "--mirrors", "1", "--dir", dir])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut up = Kept(started.unwrap());
    until_within(Duration::from_secs(60), "the network comes up", || {
        assert_eq!(up.0.try_wait().unwrap(), None);
        file.exists()
    });
    let local = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    (up, local)
}

/// Where somebody listens, by a URL.
fn place(url: &Value) -> SocketAddrV4 {
    let (_, place) = url.as_str().unwrap().split_once("://").unwrap();
    place.trim_end_matches('/').parse().unwrap()
}

/// What comes of taking a place for oneself alone, as those do who look for a free one.
fn taken(place: SocketAddrV4) -> Result<(), Errno> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &place)
}

/// Its mirror dies, and nobody else is given the mirror's place. Ends the network.
fn holds_the_place_of_its_mirror((mut network, local): (Kept, Value)) {
    let mirror = &local["mirrors"][0];
    let (served, pid) = (place(&mirror["http"]), mirror["pid"].as_u64().unwrap());
    // Of connections that have ended the system keeps the place for a minute; here there were none.
    let config = std::fs::read_to_string(mirror["config"].as_str().unwrap());
    let config: toml::Table = config.unwrap().parse().unwrap();
    let peers: SocketAddrV4 = config["grpc"]["listen"].as_str().unwrap().parse().unwrap();
    signal(u32::try_from(pid).unwrap(), Signal::KILL);
    until("the mirror is away", || TcpStream::connect(served).is_err());
    assert_eq!(taken(peers), Err(Errno::ADDRINUSE));
    // Whoever it is meant for may listen there.
    for place in [served, peers] {
        drop(TcpListener::bind(place).unwrap());
    }
    signal(network.0.id(), Signal::TERM);
    network.0.wait().unwrap();
    assert_eq!(taken(peers), Ok(()));
}

#[test]
fn places_stay_the_networks_while_those_who_listen_are_away() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("net");
    let first = up(&home);
    let of = |local: &Value| [&local["nats"]["url"], &local["mirrors"][0]["http"]].map(place);
    let places = of(&first.1);
    holds_the_place_of_its_mirror(first);
    // The second time they are not drawn.
    let second = up(&home);
    assert_eq!(of(&second.1), places);
    holds_the_place_of_its_mirror(second);

    let [nats, _] = places;
    let _other = TcpListener::bind(nats).unwrap();
    let refused = command(&binary(), ["local", "up", "--dir", home.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(69), "{said}");
    for told in [&nats.to_string(), "network.toml", "--dir"] {
        assert!(said.contains(told), "{said}");
    }
}
