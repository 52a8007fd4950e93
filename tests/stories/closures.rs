//! One tree, several channels: each takes its suites and the pool files that they name, one takes the rest, and
//! all are one tree again under their mount.

use e2e::{Apt, DebianRepo, Network, Setup};

const CHANNELS: &str = r#"
[[channels]]
name = "bookworm"
mount = "/debian"
layout = "debian"
suites = ["bookworm"]

[[channels]]
name = "trixie"
mount = "/debian"
layout = "debian"
suites = ["trixie", "trixie-updates"]

[[channels]]
name = "rest"
mount = "/debian"
layout = "plain"
catch_all = true
"#;

/// Two suites that share a package, one of them in two parts; and files of no suite.
fn repo() -> DebianRepo {
    let mut repo = DebianRepo::bookworm();
    repo.add("trixie", "bellows", "2.1-3", "");
    repo.add("trixie", "anvil", "2.0-1", "");
    repo.add("trixie-updates", "anvil", "2.0-2", "");
    repo.write_file("README", b"what this is\n");
    repo.write_file("indices/files", b"nothing that a suite names\n");
    repo.write();
    repo
}

fn network() -> Network {
    let network =
        Network::start(&Setup::mirrors(2).env("MIRRORLOG_ARCHIVE_ALLOW_UNDECLARED", "false"));
    network.kill("archive");
    let config = network.config("archive");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + CHANNELS).unwrap();
    network.restart("archive");
    network
}

/// Paths of a channel's newest build.
fn paths(network: &Network, channel: &str) -> Vec<String> {
    let entries = network.run(["ls", channel]).ok().lines();
    entries
        .iter()
        .map(|entry| entry["path"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn channels_of_one_tree_are_one_tree_again() {
    let network = network();
    let mut repo = repo();
    for channel in ["bookworm", "trixie", "rest"] {
        assert_eq!(
            network.publish_everywhere(channel, &repo.tree()),
            1,
            "{channel}"
        );
    }
    let [bookworm, trixie, rest] =
        ["bookworm", "trixie", "rest"].map(|channel| paths(&network, channel));
    let shared = DebianRepo::pool_path("bellows", "2.1-3");
    assert!(bookworm.contains(&shared) && trixie.contains(&shared) && !rest.contains(&shared));
    assert!(
        bookworm.contains(&"dists/stable".to_owned()),
        "links to a suite go with it: {bookworm:?}"
    );
    assert!(
        !bookworm.iter().any(|path| path.contains("trixie")),
        "{bookworm:?}"
    );
    assert!(
        trixie.contains(&DebianRepo::pool_path("anvil", "2.0-2")),
        "both of its suites: {trixie:?}"
    );
    assert!(
        !trixie.contains(&DebianRepo::pool_path("anvil", "1.0-1")),
        "{trixie:?}"
    );
    assert_eq!(rest, ["README", "indices/files"], "what no other takes");
    let files = repo.files();
    for path in files.keys() {
        let taken = [&bookworm, &trixie, &rest]
            .iter()
            .filter(|paths| paths.contains(path))
            .count();
        assert!(taken >= 1, "{path} is in no channel");
    }
    for mirror in network.mirrors() {
        for (path, content) in &files {
            let answer = network.get(mirror, &format!("/debian/{path}"));
            assert!(
                answer.status == 200 && answer.body == *content,
                "{path}: {}",
                answer.status
            );
        }
        let url = format!("{}/debian", network.url(mirror));
        for (suite, package, version) in [
            ("bookworm", "anvil", "1.0-1"),
            ("trixie-updates", "anvil", "2.0-2"),
        ] {
            let apt = Apt::new(&repo, &format!("{mirror}-{suite}"), &url, suite);
            apt.update();
            assert!(apt.download(package) == files[&DebianRepo::pool_path(package, version)]);
        }
    }

    // One of them moves on; a path that a sibling still names stays.
    repo.drop_package("bookworm", "bellows");
    repo.drop_package("bookworm", "forge");
    repo.add("bookworm", "drill", "3.0-1", "");
    repo.write();
    assert_eq!(network.publish_everywhere("bookworm", &repo.tree()), 2);
    assert!(!paths(&network, "bookworm").contains(&shared));
    for mirror in network.mirrors() {
        assert!(network.get(mirror, &format!("/debian/{shared}")).body == files[&shared]);
        let drill = DebianRepo::pool_path("drill", "3.0-1");
        assert_eq!(network.get(mirror, &format!("/debian/{drill}")).status, 200);
        assert_eq!(network.live(mirror, "trixie"), Some(1));
    }
}

#[test]
fn a_shared_path_has_one_content() {
    let network = network();
    let mut repo = repo();
    for channel in ["bookworm", "trixie"] {
        network.publish_everywhere(channel, &repo.tree());
    }
    let shared = DebianRepo::pool_path("bellows", "2.1-3");
    let other = repo.files()[&DebianRepo::pool_path("chisel", "0.9-1")].clone();
    std::fs::remove_file(repo.tree().join(&shared)).unwrap();
    repo.write_file(&shared, &other);
    repo.write();
    let refused = network.publish("trixie", &repo.tree(), &[]).code_is(65);
    assert!(
        refused.stdout.contains(&shared) && refused.stdout.contains("shared-path"),
        "{}",
        refused.stdout
    );
    assert_eq!(network.run(["log", "trixie"]).ok().lines().len(), 1);
}
