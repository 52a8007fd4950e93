//! What is lost comes back by itself, or with one command; what cannot be known is refused.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Network, Tree, noise, run, until};

const CHANNEL: &str = "c";

fn publish(network: &Network, tree: &Tree, number: u64) -> u64 {
    write(tree, number);
    network.publish_everywhere(CHANNEL, tree.path())
}

fn write(tree: &Tree, number: u64) {
    tree.write("number", number.to_string());
    tree.write(&format!("d/{number}"), noise(number, 10_000));
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

fn root(network: &Network, build: u64) -> String {
    let shown = network.run(["show", CHANNEL, &build.to_string()]).ok().json;
    shown["root"].as_str().unwrap().to_owned()
}

/// Journal and control state of the archive, and a copy of them as they are now.
fn backed_up(network: &Network) -> (PathBuf, PathBuf) {
    let (state, backup) = (
        network.dir().join("archive/state"),
        network.scratch().join("backup"),
    );
    network.kill("archive");
    copy(&state, &backup);
    network.restart("archive");
    (state, backup)
}

/// Journal and control state of the archive as they were two builds ago; the store is as it is.
#[test]
fn a_journal_from_an_older_backup_learns_the_newer_builds() {
    let network = Network::up(2);
    let tree = Tree::new();
    publish(&network, &tree, 1);
    let (state, backup) = backed_up(&network);
    for number in 2..=3 {
        publish(&network, &tree, number);
    }
    let roots = [2, 3].map(|build| root(&network, build));
    network.kill("archive");
    std::fs::remove_dir_all(&state).unwrap();
    copy(&backup, &state);
    network.restart("archive");
    until("the journal has what it signed", || {
        network.run(["show", CHANNEL, "3"]).code == 0
    });
    assert_eq!([2, 3].map(|build| root(&network, build)), roots);
    network.run(["verify"]).ok();
    assert_eq!(publish(&network, &tree, 4), 4, "no number is given twice");
}

/// The same, and the log is lost too: only the mirrors' reports say that there was more.
#[test]
fn a_journal_that_cannot_learn_the_newer_builds_refuses() {
    let network = Network::up(1);
    let tree = Tree::new();
    publish(&network, &tree, 1);
    let (state, backup) = backed_up(&network);
    publish(&network, &tree, 2);
    let newer = network.scratch().join("newer");
    network.kill("archive");
    copy(&state, &newer);
    std::fs::remove_dir_all(&state).unwrap();
    copy(&backup, &state);
    network.kill("nats");
    std::fs::remove_dir_all(network.dir().join("nats/jetstream")).unwrap();
    network.restart("nats");
    until("the mirror has reported again", || {
        network.get("nz1", "/readyz").text().contains("ready\"")
    });
    network.restart("archive");
    write(&tree, 3);
    let mut said = String::new();
    until("it refuses", || {
        let ended = network.publish(CHANNEL, tree.path(), &[]);
        assert_ne!(ended.code, 0, "build 2 has another root already");
        said = ended.stderr;
        said.contains("journal")
    });
    eprintln!("{said}");
    assert_eq!(network.get("nz1", "/c/number").text(), "2", "it serves");
    // One copy of the journal: the way back.
    network.kill("archive");
    std::fs::remove_dir_all(&state).unwrap();
    copy(&newer, &state);
    network.restart("archive");
    until("publishing works again", || {
        network.publish(CHANNEL, tree.path(), &[]).code == 0
    });
    network.await_complete(&["nz1"], CHANNEL, 3);
}

/// The whole archive as it was: the content of the newer builds is lost too.
#[test]
fn an_archive_from_an_older_backup_gets_its_content_back_by_publishing_again() {
    let network = Network::up(2);
    let tree = Tree::new();
    publish(&network, &tree, 1);
    let backup = network.scratch().join("backup");
    network.kill("archive");
    copy(&network.dir().join("archive"), &backup);
    network.restart("archive");
    publish(&network, &tree, 2);
    let before = root(&network, 2);
    network.kill("archive");
    std::fs::remove_dir_all(network.dir().join("archive")).unwrap();
    copy(&backup, &network.dir().join("archive"));
    network.restart("archive");
    until("the journal has what it signed", || {
        network.run(["show", CHANNEL, "2"]).code == 0
    });
    assert_eq!(root(&network, 2), before);
    network.run(["verify"]).code_is(65);
    // Mirrors hold build 2, and serve it meanwhile.
    assert_eq!(network.get("nz1", "/c/number").text(), "2");
    // Another tree can be published over what is not here.
    let other = Tree::new();
    write(&other, 7);
    let over = network.publish(CHANNEL, other.path(), &["--dry-run"]).ok();
    assert_eq!(over.build(), 3);
    let again = network.publish(CHANNEL, tree.path(), &[]).ok();
    assert_eq!(
        (again.build(), again.json["unchanged"].as_bool()),
        (2, Some(true))
    );
    network.run(["verify"]).ok();
    network.kill("nz2");
    network.wipe("nz2");
    network.restart("nz2");
    network.await_complete(&["nz1", "nz2"], CHANNEL, 2);
    assert_eq!(publish(&network, &tree, 3), 3);
}

fn fetched(network: &Network, mirror: &str) -> u64 {
    let metrics = network.ask_service(mirror, "/metrics").text();
    let lines = metrics.lines();
    let of = lines.filter(|line| line.starts_with("mirrorlog_fetch_bytes_total"));
    of.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
        .sum()
}

#[test]
fn a_mirror_without_its_database_goes_through_the_log_and_fetches_nothing_again() {
    let network = Network::up(1);
    let tree = Tree::new();
    tree.write("large", noise(9, 2_000_000));
    for number in 1..=3 {
        publish(&network, &tree, number);
    }
    let control = network.mirror_dir("nz1").join("state/control");
    for what in ["lost", "damaged"] {
        network.kill("nz1");
        match what {
            "lost" => std::fs::remove_dir_all(&control).unwrap(),
            _damaged => overwrite(&control),
        }
        network.restart("nz1");
        until("build 3 is live again", || {
            network.live("nz1", CHANNEL) == Some(3)
        });
        network.await_complete(&["nz1"], CHANNEL, 3);
        let bytes = fetched(&network, "nz1");
        assert!(bytes < 200_000, "{what}: {bytes} bytes were fetched again");
        assert_eq!(network.get("nz1", "/c/number").text(), "3");
    }
    assert_eq!(publish(&network, &tree, 4), 4);
}

fn overwrite(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(path, [0x5a; 4096]).unwrap();
        }
    }
}

#[test]
fn half_of_a_store_comes_back() {
    let network = Network::up(2);
    let tree = Tree::new();
    for number in 0..60 {
        tree.write(&format!("f/{number}"), noise(number, 3_000));
    }
    publish(&network, &tree, 1);
    network.kill("nz1");
    let store = network.mirror_dir("nz1").join("store");
    let mut removed = 0;
    for entry in std::fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.len() == 2 && u8::from_str_radix(&name, 16).unwrap().is_multiple_of(2) {
            removed += std::fs::read_dir(&path).unwrap().count();
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    assert!(removed > 10, "{removed}");
    network.restart("nz1");
    until("all is there again", || {
        network.run(["verify", "--mirror", "nz1"]).code == 0
    });
    network.await_complete(&["nz1", "nz2"], CHANNEL, 1);
    for number in 0..60 {
        assert_eq!(
            network.get("nz1", &format!("/c/f/{number}")).body,
            noise(number, 3_000)
        );
    }
}

/// A clone of the archive's machine is started while the archive runs.
#[test]
fn of_two_archives_one_publishes_and_the_other_says_why_not() {
    let network = Network::up(1);
    let tree = Tree::new();
    publish(&network, &tree, 1);
    network.kill("archive");
    let clone = network.dir().join("clone");
    copy(&network.dir().join("archive"), &clone);
    network.restart("archive");
    let file = clone.join("archive.toml");
    let mut config: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let (http, grpc) = (network.free_address(), network.free_address());
    for (section, address) in [("grpc", grpc), ("http", http.clone())] {
        let section = config[section].as_table_mut().unwrap();
        section.insert("listen".to_owned(), toml::Value::String(address));
    }
    std::fs::write(&file, config.to_string()).unwrap();
    network.add("archive", "clone", file, http);
    network.restart("clone");
    // The one that started later holds the fence, as soon as it has reached the log.
    let mut refused = String::new();
    let mut number = 1;
    until("the first one knows that it was taken over", || {
        number += 1;
        write(&tree, number);
        let ended = network.publish(CHANNEL, tree.path(), &[]);
        refused = ended.stderr.clone();
        ended.code == 77
    });
    assert!(
        refused.contains("another archive has taken over"),
        "{refused}"
    );
    let publish = || {
        let config = network.config("clone");
        let mut command = Command::new(e2e::binary());
        command.args(["--json", "--config"]).arg(config);
        command.args(["publish", CHANNEL]).arg(tree.path());
        network.run_command(&mut command)
    };
    let mut published = 0;
    until("the second one publishes", || {
        let ended = publish();
        if ended.code != 0 {
            eprintln!("the second one: {}", ended.stderr);
        }
        published = ended.json["build"].as_u64().unwrap_or(0);
        ended.code == 0
    });
    network.await_complete(&["nz1"], CHANNEL, published);
    // The first one is stopped, and the second; then the first has all of it.
    network.kill("clone");
    network.kill("archive");
    network.restart("archive");
    write(&tree, number + 1);
    until(
        "the first one has learnt what the second one published",
        || {
            let ended = network.publish(CHANNEL, tree.path(), &[]);
            ended.code == 0 && ended.build() == published + 1
        },
    );
    network.await_complete(&["nz1"], CHANNEL, published + 1);
}

/// Archive, log, consistency service and directory are all gone; mirrors restart, serve and catch up.
#[test]
fn without_the_whole_centre_mirrors_go_on_and_catch_up() {
    let network = Network::up(2);
    let tree = Tree::new();
    publish(&network, &tree, 1);
    publish(&network, &tree, 2);
    let centre = ["directory", "consistency", "archive", "nats"];
    for name in centre {
        network.kill(name);
    }
    for _ in 0..3 {
        for mirror in ["nz1", "nz2"] {
            network.kill(mirror);
            network.restart(mirror);
            until("it says that it is degraded", || {
                let ready = network.get(mirror, "/readyz");
                assert_eq!(ready.status, 200);
                ready.text().contains("degraded")
            });
            assert_eq!(network.get(mirror, "/c/number").text(), "2");
            assert_eq!(network.get(mirror, "/@/c/1/number").text(), "1");
        }
    }
    for name in centre.iter().rev() {
        network.restart(name);
    }
    assert_eq!(publish(&network, &tree, 3), 3);
    until("clients are sent there again", || {
        let why = network.run(["why", "nz1", CHANNEL]);
        why.code == 0 && why.json["offered"] == true
    });
}
