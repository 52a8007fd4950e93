//! A tree that is not whole is refused whole: every fault named, nothing published.

use std::sync::atomic::{AtomicBool, Ordering};

use e2e::{DebianRepo, Ended, Network, Tree, sha256};
use serde_json::Value;

const CHANNEL: &str = "smithy";

fn refused(network: &Network, repo: &DebianRepo) -> (Ended, Vec<Value>) {
    let ended = network.publish(CHANNEL, &repo.tree(), &[]).code_is(65);
    assert_eq!(ended.json["refused"], true, "{}", ended.stdout);
    let faults = ended.json["faults"].clone();
    let list = faults.as_array().or_else(|| faults["faults"].as_array());
    let list = list
        .unwrap_or_else(|| panic!("no list of faults: {}", ended.stdout))
        .clone();
    assert_eq!(
        network.run(["log", CHANNEL]).ok().lines().len(),
        1,
        "nothing was published"
    );
    (ended, list)
}

#[test]
fn every_fault_is_named_and_nothing_is_published() {
    let network = Network::up(1);
    let mut repo = DebianRepo::bookworm();
    network.publish_everywhere(CHANNEL, &repo.tree());
    repo.upgrade();

    let missing = DebianRepo::pool_path("drill", "3.0-1");
    let corrupt = DebianRepo::pool_path("forge", "1.0-1");
    let good = repo.files();
    std::fs::remove_file(repo.tree().join(&missing)).unwrap();
    let mut bytes = good[&corrupt].clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(repo.tree().join(&corrupt), &bytes).unwrap();
    let (ended, faults) = refused(&network, &repo);
    assert_eq!(faults.len(), 2, "{}", ended.stdout);
    let of = |path: &str| {
        let fault = faults.iter().find(|fault| fault["path"] == path);
        fault
            .unwrap_or_else(|| panic!("{path} is not named: {}", ended.stdout))
            .clone()
    };
    let size = format!("{} bytes", good[&missing].len());
    assert!(
        of(&missing)["expected"].to_string().contains(&size),
        "{}",
        of(&missing)
    );
    assert_eq!(of(&missing)["found"], "nothing");
    let (expected, found) = (
        of(&corrupt)["expected"].to_string(),
        of(&corrupt)["found"].to_string(),
    );
    assert!(expected.contains(&sha256(&good[&corrupt])), "{expected}");
    assert!(found.contains(&sha256(&bytes)), "{found}");
    assert!(
        ended.stderr.contains(&missing) && ended.stderr.contains(&corrupt),
        "{}",
        ended.stderr
    );
    repo.write_file(&missing, &good[&missing]);
    repo.write_file(&corrupt, &good[&corrupt]);

    // Release names another Packages than the one that lies there.
    let index = "dists/bookworm/main/binary-amd64/Packages.xz";
    repo.write_file(index, b"no index at all");
    let (ended, faults) = refused(&network, &repo);
    assert!(
        faults.iter().any(|fault| fault["path"] == index),
        "{}",
        ended.stdout
    );
    repo.write_file(index, &good[index]);

    assert_eq!(network.publish_everywhere(CHANNEL, &repo.tree()), 2);
}

#[test]
fn special_files_and_links_that_leave_are_refused() {
    let network = Network::up(1);
    let tree = Tree::new();
    tree.write("a", "a");
    std::os::unix::fs::symlink("../../outside", tree.path().join("leaves")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path().join("socket")).unwrap();
    let ended = network.publish("plain", tree.path(), &[]).code_is(65);
    for path in ["leaves", "socket"] {
        assert!(
            ended.stdout.contains(&format!("\"{path}\"")),
            "{path}: {}",
            ended.stdout
        );
    }
    tree.remove("leaves");
    tree.remove("socket");
    assert_eq!(network.publish_everywhere("plain", tree.path()), 1);
}

/// Two files always have the same content, but never at quite the same moment. What is published has them
/// as they were at one moment, or is refused.
#[test]
fn a_tree_that_changes_while_it_is_read_is_refused_or_whole() {
    let network = Network::up(1);
    let tree = Tree::new();
    for number in 0..3000 {
        tree.write(&format!("m/{number}"), number.to_string());
    }
    let write = |round: u32| {
        tree.write("a", format!("{round:08}"));
        tree.write("z", format!("{round:08}"));
    };
    write(0);
    network.publish_everywhere("plain", tree.path());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut round = 1;
            while !stop.load(Ordering::Relaxed) {
                write(round);
                round += 1;
                std::thread::yield_now();
            }
            round
        });
        for _ in 0..5 {
            let ended = network.publish("plain", tree.path(), &[]);
            match ended.code {
                0 => {}
                65 => assert!(ended.stdout.contains("\"path\""), "{}", ended.stdout),
                code => panic!("exit code {code}: {}", ended.stderr),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 5, "the tree changed");
    });
    for line in network.run(["log", "plain"]).ok().lines() {
        let build = line["build"].as_u64().unwrap();
        let entries = network.run(["ls", &format!("plain@{build}")]).ok().lines();
        let digest =
            |path| entries.iter().find(|entry| entry["path"] == path).unwrap()["sha256"].clone();
        assert_eq!(digest("a"), digest("z"), "build {build}");
    }
}
