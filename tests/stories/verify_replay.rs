//! Content that rots on a mirror is found, said, healed; going through the log again costs nothing.

use std::path::PathBuf;

use e2e::{Network, Tree, noise, sha256, until};

fn blob(network: &Network, mirror: &str, digest: &str) -> PathBuf {
    network
        .mirror_dir(mirror)
        .join("store")
        .join(&digest[..2])
        .join(&digest[2..])
}

#[test]
fn a_rotten_file_is_named_and_healed() {
    let network = Network::up(2);
    // Nothing else finds it.
    network.kill("nz1");
    network.configure("nz1", |config| {
        config["scrub"]["every"] = "1h".into();
    });
    network.restart("nz1");
    let tree = Tree::new();
    let content = noise(1, 300_000);
    tree.write("d/rots", &content);
    tree.write("d/stays", "stays");
    network.publish_everywhere("c", tree.path());
    network.run(["verify", "--mirror", "nz1"]).ok();
    let file = blob(&network, "nz1", &sha256(&content));
    let mut rotten = std::fs::read(&file).unwrap();
    assert_eq!(rotten, content);
    rotten[150_000] ^= 1;
    // As rot does it: in place.
    std::fs::write(&file, &rotten).unwrap();
    let found = network.run(["verify", "--mirror", "nz1"]).code_is(65);
    let said = format!("{}{}", found.stdout, found.stderr);
    assert!(
        said.contains("d/rots") || said.contains(&sha256(&content)),
        "it names what is rotten: {said}"
    );
    until("the file is healed", || {
        std::fs::read(&file).is_ok_and(|bytes| bytes == content)
    });
    network.run(["verify", "--mirror", "nz1"]).ok();
    network.await_complete(&["nz1", "nz2"], "c", 1);
    network.run(["verify", "--mirror", "nobody"]).code_is(66);
}

/// Rot in the archive's own store: found, set aside, and there again once the tree is published again.
#[test]
fn what_rots_in_the_archive_comes_back_by_publishing_again() {
    let network = Network::up(1);
    let tree = Tree::new();
    let content = noise(3, 50_000);
    tree.write("d/rots", &content);
    network.publish_everywhere("c", tree.path());
    let digest = sha256(&content);
    let store = network.dir().join("archive/store");
    let file = store.join(&digest[..2]).join(&digest[2..]);
    let mut rotten = content.clone();
    rotten[7] ^= 1;
    std::fs::write(&file, rotten).unwrap();
    let found = network.run(["verify"]).code_is(65);
    let fault = found.json["faults"][0]["name"].as_str().unwrap().to_owned();
    assert!(fault.contains("d/rots"), "{fault}");
    let again = network.publish("c", tree.path(), &[]).ok();
    assert_eq!(again.json["unchanged"], true);
    network.run(["verify"]).ok();
    assert_eq!(std::fs::read(&file).unwrap(), content);
}

/// Lost while nobody heals: the archive is away. The verdict goes, and comes back with the file.
#[test]
fn a_lost_file_revokes_the_verdict_until_it_is_back() {
    let network = Network::up(1);
    let tree = Tree::new();
    let content = noise(2, 100_000);
    tree.write("lost", &content);
    network.publish_everywhere("c", tree.path());
    network.kill("archive");
    let file = blob(&network, "nz1", &sha256(&content));
    std::fs::remove_file(&file).unwrap();
    let answer = network.get("nz1", "/c/lost");
    assert_ne!(
        answer.status, 200,
        "a missing file is an error, never other bytes"
    );
    until("the verdict is revoked", || {
        let metrics = network.ask_service("consistency", "/metrics").text();
        let mut lines = metrics
            .lines()
            .filter(|line| line.starts_with("mirrorlog_verdict{"));
        lines.any(|line| line.contains("state=\"revoked\"") && line.ends_with(" 1"))
    });
    network.restart("archive");
    until("the file is back", || file.exists());
    network.await_complete(&["nz1"], "c", 1);
    assert!(network.get("nz1", "/c/lost").body == content);
}

#[test]
fn going_through_the_log_again_fetches_nothing() {
    let network = Network::up(1);
    let tree = Tree::new();
    for build in 1..=3_u64 {
        tree.write(&format!("d/{build}"), noise(build, 50_000));
        network.publish_everywhere("c", tree.path());
    }
    let fetched = || {
        let metrics = network.get("nz1", "/metrics").text();
        let lines: Vec<_> = metrics
            .lines()
            .filter(|line| line.starts_with("mirrorlog_fetch_bytes_total"))
            .map(str::to_owned)
            .collect();
        assert!(!lines.is_empty(), "{metrics}");
        lines
    };
    let before = fetched();
    let dry = network
        .run(["replay", "--mirror", "nz1", "--from", "2", "--dry-run"])
        .ok();
    assert_eq!(dry.json["events"], serde_json::json!(["c@2", "c@3"]));
    for from in ["1", "last-ack", "2026-01-01T00:00:00Z"] {
        network
            .run(["replay", "--mirror", "nz1", "--from", from])
            .ok();
    }
    tree.write("d/4", "4");
    assert_eq!(network.publish_everywhere("c", tree.path()), 4);
    let sum = |lines: &[String]| {
        lines
            .iter()
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum::<f64>()
    };
    let more = sum(&fetched()) - sum(&before);
    assert!(
        more < 20_000.0,
        "{more} bytes were fetched for a build of one byte"
    );
    assert_eq!(network.live("nz1", "c"), Some(4));
}
