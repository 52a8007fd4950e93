//! Parts of the network are away, for a while or for good.

use e2e::{Network, Tree, until};

const CHANNEL: &str = "c";

fn tree_of(build: u64) -> Tree {
    let tree = Tree::new();
    write(&tree, build);
    tree
}

fn write(tree: &Tree, build: u64) {
    tree.write("number", build.to_string());
    tree.write(&format!("only/{build}"), build.to_string());
}

#[test]
fn a_mirror_that_was_away_goes_straight_to_the_newest_build() {
    let network = Network::up(2);
    let tree = tree_of(1);
    network.publish_everywhere(CHANNEL, tree.path());
    network.kill("nz2");
    for build in 2..=6 {
        tree.remove(&format!("only/{}", build - 1));
        write(&tree, build);
        let ended = network.publish(CHANNEL, tree.path(), &["--wait", "1"]).ok();
        assert_eq!(ended.build(), build);
    }
    network.restart("nz2");
    network.await_complete(&["nz2"], CHANNEL, 6);
    // At most the one that was announced first, and was live before the next was known.
    let retained = network.channel("nz2", CHANNEL)["retained"].clone();
    let between = retained.as_array().unwrap().len() - 2;
    assert!(
        between <= 1,
        "it went through builds that nobody wants: {retained}"
    );
    assert_eq!(network.get("nz2", "/c/number").text(), "6");
    let skipped = network.get("nz2", "/@/c/4/number");
    assert_eq!(skipped.status, 410, "{}", skipped.text());
}

#[test]
fn mirrors_serve_and_restart_without_the_centre() {
    let network = Network::up(2);
    let tree = tree_of(1);
    network.publish_everywhere(CHANNEL, tree.path());
    write(&tree, 2);
    network.publish_everywhere(CHANNEL, tree.path());
    for name in ["archive", "nats", "consistency"] {
        network.kill(name);
    }
    for mirror in ["nz1", "nz2"] {
        network.kill(mirror);
        network.restart(mirror);
        assert_eq!(network.get(mirror, "/c/number").text(), "2");
        assert_eq!(network.get(mirror, "/@/c/1/number").text(), "1");
        until("it says that it is degraded", || {
            let ready = network.get(mirror, "/readyz");
            assert_eq!(ready.status, 200, "it serves");
            ready.text().contains("degraded")
        });
        assert_eq!(network.get(mirror, "/healthz").status, 200);
    }
    for name in ["nats", "archive", "consistency"] {
        network.restart(name);
    }
    write(&tree, 3);
    assert_eq!(network.publish_everywhere(CHANNEL, tree.path()), 3);
    for mirror in ["nz1", "nz2"] {
        until("it is degraded no more", || {
            network.get(mirror, "/readyz").text().contains("ready\"")
        });
    }
}

#[test]
fn the_log_is_killed_and_comes_back() {
    let network = Network::up(2);
    let tree = tree_of(1);
    network.publish_everywhere(CHANNEL, tree.path());
    for build in 2..=4 {
        network.kill("nats");
        network.restart("nats");
        write(&tree, build);
        assert_eq!(network.publish_everywhere(CHANNEL, tree.path()), build);
    }
}

#[test]
fn a_log_that_lost_everything_is_filled_again() {
    let network = Network::up(2);
    let tree = tree_of(1);
    network.publish_everywhere(CHANNEL, tree.path());
    write(&tree, 2);
    network.publish_everywhere(CHANNEL, tree.path());
    // A mirror that needs the log to learn of build 2.
    network.kill("nz2");
    write(&tree, 3);
    network.publish(CHANNEL, tree.path(), &["--wait", "1"]).ok();
    network.kill("nats");
    std::fs::remove_dir_all(network.dir().join("nats/jetstream")).unwrap();
    network.restart("nats");
    network.restart("nz2");
    network.await_complete(&["nz1", "nz2"], CHANNEL, 3);
    write(&tree, 4);
    assert_eq!(network.publish_everywhere(CHANNEL, tree.path()), 4);
    let log = network.run(["log", CHANNEL]).ok().lines();
    assert_eq!(
        log.iter()
            .map(|line| line["build"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
}

#[test]
fn a_directory_that_begins_after_the_log_was_lost_offers_all() {
    let network = Network::up(2);
    let tree = tree_of(1);
    network.publish_everywhere(CHANNEL, tree.path());
    network.kill("nats");
    network.kill("directory");
    std::fs::remove_dir_all(network.dir().join("nats/jetstream")).unwrap();
    std::fs::remove_dir_all(network.dir().join("directory/state")).unwrap();
    network.restart("nats");
    network.restart("directory");
    // Nothing is published meanwhile: what was said has to be said again.
    until("both mirrors are offered", || {
        let answer = network.ask_service("directory", "/v1/mirrors?channel=c");
        answer.json()["mirrors"].as_array().map(Vec::len) == Some(2)
    });
}

#[test]
fn verdicts_are_made_anew() {
    let network = Network::up(2);
    let tree = tree_of(1);
    network.publish_everywhere(CHANNEL, tree.path());
    write(&tree, 2);
    network.publish_everywhere(CHANNEL, tree.path());
    network.kill("consistency");
    std::fs::remove_dir_all(network.dir().join("consistency/state")).unwrap();
    network.restart("consistency");
    network.await_complete(&["nz1", "nz2"], CHANNEL, 2);
    let status = network.status(CHANNEL);
    assert_eq!(status["channels"][0]["wanted"]["nz"], 2, "{status}");
    write(&tree, 3);
    assert_eq!(network.publish_everywhere(CHANNEL, tree.path()), 3);
}
