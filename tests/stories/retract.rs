//! A bad build is taken back: replaced by a tree, by an older build, or by nothing.

use e2e::{DebianRepo, Network, Tree, sha256, until};

const BOTH: [&str; 2] = ["nz1", "nz2"];

/// A good build 1 and a bad build 2, everywhere.
fn network_with_a_bad_build(tree: &Tree) -> Network {
    let network = Network::up(2);
    tree.write("number", "1");
    tree.write("kept", "kept");
    assert_eq!(network.publish_everywhere("c", tree.path()), 1);
    tree.write("number", "bad");
    tree.write("trojan", "horse");
    assert_eq!(network.publish_everywhere("c", tree.path()), 2);
    network
}

fn bad_build_is_gone(network: &Network) {
    for mirror in BOTH {
        until("the bad build is gone", || {
            network.get(mirror, "/@/c/2/number").status == 410
        });
        let answer = network.get(mirror, "/@/c/2/trojan");
        assert!(
            answer.status == 410 && answer.text().starts_with("retracted"),
            "{}",
            answer.text()
        );
        assert_eq!(network.get(mirror, "/c/trojan").status, 404);
    }
    let log = network.run(["log", "c"]).ok().lines();
    assert_eq!(log[1]["retracted"], "a trojan", "{log:?}");
}

/// What was bad does not come back by mistake.
fn bad_content_is_refused(network: &Network, tree: &Tree) {
    tree.write("number", "bad");
    tree.write("trojan", "horse");
    let refused = network.publish("c", tree.path(), &[]).code_is(65);
    assert!(
        refused.stdout.contains("tree of a retracted build"),
        "{}",
        refused.stdout
    );
    tree.write("number", "good");
    let refused = network.publish("c", tree.path(), &[]).code_is(65);
    assert!(refused.stdout.contains("trojan"), "{}", refused.stdout);
    tree.remove("trojan");
    network
        .publish("c", tree.path(), &["--wait", "all", "--timeout", "30"])
        .ok();
    tree.write("trojan", "horse");
    network
        .publish(
            "c",
            tree.path(),
            &["--allow-retracted", "--wait", "all", "--timeout", "30"],
        )
        .ok();
}

#[test]
fn replaced_by_a_tree() {
    let tree = Tree::new();
    let network = network_with_a_bad_build(&tree);
    tree.write("number", "cure");
    tree.remove("trojan");
    let cure = tree.path().to_str().unwrap().to_owned();
    let args = [
        "retract",
        "c",
        "2",
        "--reason",
        "a trojan",
        "--replace-with",
        &cure,
    ];
    let ended = network.run(args).ok();
    assert_eq!(ended.json["replacement"], 3, "{}", ended.stdout);
    network.await_complete(&BOTH, "c", 3);
    bad_build_is_gone(&network);
    for mirror in BOTH {
        assert_eq!(network.get(mirror, "/c/number").text(), "cure");
        assert_eq!(
            network.get(mirror, "/@/c/1/number").text(),
            "1",
            "older builds stay"
        );
    }
    bad_content_is_refused(&network, &tree);
}

#[test]
fn replaced_by_an_older_build() {
    let tree = Tree::new();
    let network = network_with_a_bad_build(&tree);
    let ended = network
        .run([
            "retract",
            "c",
            "2",
            "--reason",
            "a trojan",
            "--replace-with",
            "1",
        ])
        .ok();
    assert_eq!(ended.json["replacement"], 3);
    network.await_complete(&BOTH, "c", 3);
    bad_build_is_gone(&network);
    let roots = ["1", "3"].map(|build| network.run(["show", "c", build]).ok().json["root"].clone());
    assert_eq!(roots[0], roots[1]);
    for mirror in BOTH {
        let answer = network.get(mirror, "/c/number");
        assert_eq!(
            (answer.text(), answer.header("mirrorlog-build")),
            ("1".to_owned(), "c=3")
        );
    }
}

#[test]
fn replaced_by_nothing() {
    let tree = Tree::new();
    let network = network_with_a_bad_build(&tree);
    // A mirror that is away hears of it when it is back.
    network.kill("nz2");
    let args = [
        "retract",
        "c",
        "2",
        "--reason",
        "a trojan",
        "--no-replacement",
    ];
    network.run(args).ok();
    network.restart("nz2");
    network.await_complete(&BOTH, "c", 1);
    bad_build_is_gone(&network);
    for mirror in BOTH {
        let answer = network.get(mirror, "/c/number");
        assert_eq!(
            (answer.text(), answer.header("mirrorlog-build")),
            ("1".to_owned(), "c=1")
        );
        assert_eq!(answer.header("etag"), format!("\"{}\"", sha256(b"1")));
    }
    // Build 1 is there already: the same tree is that build.
    tree.write("number", "1");
    tree.remove("trojan");
    let ended = network.publish("c", tree.path(), &[]).ok();
    assert_eq!((&ended.json["unchanged"], ended.build()), (&true.into(), 1));
    tree.write("number", "3");
    assert_eq!(
        network.publish_everywhere("c", tree.path()),
        3,
        "the number is not used again"
    );
}

#[test]
fn what_cannot_be_taken_back_is_said() {
    let tree = Tree::new();
    let network = network_with_a_bad_build(&tree);
    network
        .run(["retract", "c", "7", "--reason", "r", "--no-replacement"])
        .code_is(66);
    network
        .run([
            "retract",
            "nobody",
            "1",
            "--reason",
            "r",
            "--no-replacement",
        ])
        .code_is(66);
    assert_eq!(network.live("nz1", "c"), Some(2));

    // apt ignores an older Release: whoever takes one back has to say what clients get instead.
    let repo = DebianRepo::bookworm();
    assert_eq!(network.publish_everywhere("smithy", &repo.tree()), 1);
    network
        .run(["retract", "smithy", "1", "--reason", "r"])
        .code_is(2);
    assert_eq!(network.live("nz1", "smithy"), Some(1));
}
