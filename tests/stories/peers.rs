//! Mirrors of one pool feed each other: a build crosses the pool's border about once, and no peer holds others up.

use e2e::{Network, Setup, Tree, noise, until_within};
use std::time::Duration;

const FILES: u64 = 300;
const FILE_BYTES: usize = 100_000;
const LARGE: u64 = 10;
const LARGE_BYTES: usize = 1_500_000;
const PAYLOAD_BYTES: u64 = FILES * FILE_BYTES as u64 + LARGE * LARGE_BYTES as u64;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a mirror has received since it started, from the archive and from peers.
fn received(network: &Network, mirror: &str) -> (u64, u64) {
    let metrics = network.get(mirror, "/metrics").text();
    let from = |source: &str| -> u64 {
        let source = format!("source=\"{source}\"");
        let lines = metrics.lines().filter(|line| {
            line.starts_with("mirrorlog_fetch_bytes_total") && line.contains(&source)
        });
        let values = lines.map(|line| line.rsplit(' ').next().unwrap());
        values.map(|value| value.parse::<u64>().unwrap()).sum()
    };
    (from("archive"), from("peer"))
}

/// Fills a tree with new content, small and large.
fn renew(tree: &Tree, build: u64) {
    for file in 0..FILES {
        tree.write(
            &format!("d{}/{file}", file % 7),
            noise(build * 1000 + file, FILE_BYTES),
        );
    }
    for file in 0..LARGE {
        tree.write(
            &format!("large/{file}"),
            noise(build * 1000 + 500 + file, LARGE_BYTES),
        );
    }
}

#[test]
fn a_build_crosses_a_pools_border_once_and_no_peer_holds_others_up() {
    let network = Network::start(&Setup::pools("nz=5,au=1"));
    // Behind NAT: it asks, and nobody can ask it.
    network.kill("nz5");
    network.configure("nz5", |config| {
        config["peers"].as_table_mut().unwrap().remove("address");
    });
    network.restart("nz5");
    let tree = Tree::new();
    renew(&tree, 1);
    assert_eq!(network.publish_everywhere("c", tree.path()), 1);
    let pool = ["nz1", "nz2", "nz3", "nz4", "nz5"];
    let first = pool.map(|mirror| received(&network, mirror));
    let crossed: u64 = first.iter().map(|(archive, _)| archive).sum();
    let copies = crossed as f64 / PAYLOAD_BYTES as f64;
    assert!((1.0..1.5).contains(&copies), "{copies} copies: {first:?}");
    assert!(
        first[4].1 * 10 > PAYLOAD_BYTES * 8,
        "what is behind NAT gets it inside: {first:?}"
    );
    assert_eq!(received(&network, "au1").1, 0, "other pools are no peers");

    // One stalls while others count on it, and one dies.
    renew(&tree, 2);
    network.pause("nz1");
    network.kill("nz2");
    network.publish("c", tree.path(), &[]).ok();
    until_within(PATIENCE, "the others are live", || {
        ["nz3", "nz4", "nz5"]
            .iter()
            .all(|mirror| network.live(mirror, "c") == Some(2))
    });
    network.resume("nz1");
    network.restart("nz2");
    network.await_complete(&pool, "c", 2);

    // A mirror that lost everything comes back from its peers alone.
    network.kill("archive");
    network.kill("nz2");
    network.wipe("nz2");
    network.restart("nz2");
    until_within(PATIENCE, "it is live without the archive", || {
        network.live("nz2", "c") == Some(2)
    });
    assert_eq!(
        network.get("nz2", "/c/large/3").body,
        noise(2503, LARGE_BYTES)
    );
    network.restart("archive");
    network.stop();
}
