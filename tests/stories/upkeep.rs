//! What operators do: older builds for a mirror, a mirror out of rotation, a log with holes, a store with old builds.

use std::path::Path;

use e2e::{Network, Setup, Tree, log, noise, until};
use serde_json::{Value, json};

const CHANNEL: &str = "c";

fn publish(network: &Network, tree: &Tree, number: u64) -> u64 {
    tree.write("number", number.to_string());
    tree.write(&format!("only/{number}"), noise(number, 20_000));
    if number > 1 {
        tree.remove(&format!("only/{}", number - 1));
    }
    network.publish_everywhere(CHANNEL, tree.path())
}

fn numbers(value: &Value) -> Vec<u64> {
    let all = value.as_array().unwrap().iter();
    all.map(|one| one.as_u64().unwrap()).collect()
}

#[test]
fn a_mirror_that_came_late_gets_the_older_builds_that_it_is_ordered() {
    let network = Network::up(2);
    let tree = Tree::new();
    network.kill("nz2");
    for number in 1..=5 {
        tree.write("number", number.to_string());
        tree.write(&format!("only/{number}"), noise(number, 20_000));
        network.publish(CHANNEL, tree.path(), &["--wait", "1"]).ok();
    }
    network
        .run([
            "retract",
            CHANNEL,
            "2",
            "--reason",
            "bad",
            "--no-replacement",
        ])
        .ok();
    network.restart("nz2");
    network.await_complete(&["nz2"], CHANNEL, 5);
    let gone = network.get("nz2", "/@/c/3/number");
    assert!([404, 410].contains(&gone.status), "{}", gone.text());
    let order = ["backfill", "--mirror", "nz2", "--channel", CHANNEL];
    let order = |more: &[&str]| network.run(order.iter().chain(more)).ok().json;
    let would = order(&["--from", "1", "--to", "5", "--dry-run"]);
    assert_eq!(numbers(&would["builds"]), [1, 3, 4], "{would}");
    assert_eq!(numbers(&would["retracted"]), [2]);
    assert_eq!(numbers(&would["held"]), [5]);
    let none = network.channel("nz2", CHANNEL);
    assert_eq!(numbers(&none["retained"]), [5], "nothing was ordered");
    let done = order(&["--from", "1", "--to", "5"]);
    assert_eq!(numbers(&done["builds"]), [1, 3, 4], "{done}");
    for number in [1, 3, 4] {
        let pinned = network.get("nz2", &format!("/@/c/{number}/number"));
        assert_eq!((pinned.status, pinned.text()), (200, number.to_string()));
    }
    assert_eq!(network.live("nz2", CHANNEL), Some(5), "live stays");
    // A restart keeps them, and the same order again has nothing to do.
    network.kill("nz2");
    network.restart("nz2");
    assert_eq!(network.get("nz2", "/@/c/3/number").text(), "3");
    until("the consistency service has looked again", || {
        let again = order(&["--from", "1", "--to", "4"]);
        numbers(&again["builds"]).is_empty()
    });
    let more = ["--from", "7", "--to", "9"];
    let args = ["backfill", "--mirror", "nz2", "--channel", CHANNEL];
    network.run(args.iter().chain(&more)).code_is(66);
}

fn offered(network: &Network, mirror: &str) -> (bool, String) {
    let why = network.run(["why", mirror, CHANNEL]).ok().json;
    let reason = why["reason"].as_str().unwrap_or_default().to_owned();
    (why["offered"] == true, reason)
}

#[test]
fn a_drained_mirror_gets_no_clients_though_it_is_dead_and_the_log_is_lost() {
    let network = Network::up(2);
    let tree = Tree::new();
    publish(&network, &tree, 1);
    until("both are offered", || {
        offered(&network, "nz1").0 && offered(&network, "nz2").0
    });
    network.run(["mirror", "drain", "nobody"]).code_is(66);
    network.run(["mirror", "drain", "nz1", "--dry-run"]).ok();
    assert!(offered(&network, "nz1").0, "nothing was done");
    // It cannot hear the order.
    network.kill("nz1");
    let reason = "new disk";
    let drained = network.run(["mirror", "drain", "nz1", "--reason", reason]);
    assert_eq!(drained.ok().json["drained"], true);
    assert_eq!(
        offered(&network, "nz1"),
        (false, "drained: new disk".to_owned())
    );
    // The pool no longer waits for it: one of one is a majority.
    publish_to_one(&network, &tree, 2);
    until("build 2 is wanted", || {
        network.status(CHANNEL)["channels"][0]["wanted"]["nz"] == 2
    });
    network.kill("nats");
    std::fs::remove_dir_all(network.dir().join("nats/jetstream")).unwrap();
    network.restart("nats");
    network.restart("nz1");
    network.await_complete(&["nz1", "nz2"], CHANNEL, 2);
    assert_eq!(
        offered(&network, "nz1"),
        (false, "drained: new disk".to_owned())
    );
    let standing = network.standing("nz1", CHANNEL);
    assert_eq!(standing["reason"], "drained: new disk", "{standing}");
    // A directory that starts anew knows it.
    network.kill("directory");
    network.restart("directory");
    until("the directory knows it again", || {
        offered(&network, "nz1").1 == "drained: new disk"
    });
    network.run(["mirror", "resume", "nz1"]).ok();
    until("it is offered again", || offered(&network, "nz1").0);
}

fn publish_to_one(network: &Network, tree: &Tree, number: u64) {
    tree.write("number", number.to_string());
    // All that take clients: the drained one is not waited for.
    let ended = network.publish(CHANNEL, tree.path(), &["--wait", "all", "--timeout", "30"]);
    assert_eq!(ended.ok().json["complete"].as_array().unwrap().len(), 1);
}

#[test]
fn a_balancer_sees_that_a_mirror_is_drained() {
    let network = Network::up(1);
    let tree = Tree::new();
    publish(&network, &tree, 1);
    let ready = || network.ask_service("nz1", "/readyz");
    network.run(["mirror", "drain", "nz1"]).ok();
    until("it is not ready", || ready().status == 503);
    assert!(ready().text().contains("drained"), "{}", ready().text());
    assert_eq!(network.get("nz1", "/c/number").text(), "1", "it serves");
    network.kill("nz1");
    network.spawn("nz1");
    until("it remembers", || {
        let http = network.http();
        let url = format!("{}/readyz", network.url("nz1"));
        let answer = http.try_ask(reqwest::Method::GET, &url, &[]);
        answer.is_ok_and(|answer| answer.status == 503 && answer.text().contains("drained"))
    });
    network.run(["mirror", "resume", "nz1"]).ok();
    until("it is ready again", || ready().status == 200);
}

#[test]
fn a_hole_in_the_log_is_found_and_filled() {
    let network = Network::up(2);
    let tree = Tree::new();
    for number in 1..=4 {
        publish(&network, &tree, number);
    }
    let look = || network.run(["log-repair", "--dry-run"]).ok().json;
    assert_eq!(look()["channels"][0]["lacking"], json!([]));
    // In the middle, where the archive's own comparison does not look.
    log::lose_event(network.nats(), 2);
    let lacking = look()["channels"][0].clone();
    assert_eq!(lacking["lacking"], json!(["build 2 (bulk)"]), "{lacking}");
    assert_eq!(
        (&lacking["journaled"], &lacking["logged"]),
        (&json!(4), &json!(3))
    );
    assert_eq!(
        log::state(network.nats())["messages"],
        3,
        "nothing was changed"
    );
    let repaired = network.run(["log-repair"]).ok().json;
    assert_eq!(
        repaired["channels"][0]["lacking"],
        json!(["build 2 (bulk)"])
    );
    let after = look()["channels"][0].clone();
    assert_eq!(
        (&after["lacking"], &after["waiting"]),
        (&json!([]), &json!(0))
    );
    // What comes twice does nothing twice, and nobody goes back.
    assert_eq!(publish(&network, &tree, 5), 5);
    for mirror in ["nz1", "nz2"] {
        assert_eq!(network.get(mirror, "/c/number").text(), "5");
    }
    network.kill("nats");
    network.run(["log-repair"]).code_is(69);
}

fn keep(network: &Network, builds: i64) {
    network.kill("archive");
    network.configure("archive", |config| {
        let gc: toml::Table = format!("keep_builds = {builds}\nkeep = \"0s\"")
            .parse()
            .unwrap();
        config.insert("gc".to_owned(), toml::Value::Table(gc));
    });
    network.restart("archive");
    // Not before its journal was compared with the log.
    until("it would collect", || {
        network.run(["gc", "--dry-run"]).code == 0
    });
}

fn files_in(store: &Path) -> usize {
    let folders = std::fs::read_dir(store).unwrap().flatten();
    let folders = folders.filter(|folder| folder.file_name().len() == 2);
    folders
        .map(|folder| std::fs::read_dir(folder.path()).unwrap().count())
        .sum()
}

#[test]
fn content_of_old_builds_goes_and_everything_else_stays() {
    let network = Network::start(&Setup::mirrors(1));
    let tree = Tree::new();
    for number in 1..=6 {
        publish(&network, &tree, number);
    }
    let store = network.dir().join("archive/store");
    let before = files_in(&store);
    assert_eq!(network.run(["gc"]).ok().json["files"], 0, "all are kept");
    keep(&network, 2);
    let would = network.run(["gc", "--dry-run"]).ok().json;
    assert_eq!(would["builds"][CHANNEL], json!([1, 2, 3, 4]), "{would}");
    assert_eq!(files_in(&store), before);
    let did = network.run(["gc"]).ok().json;
    assert_eq!(did["files"], would["files"]);
    // A file of each, its number, and no page.
    assert_eq!(did["files"], 8, "{did}");
    assert_eq!(files_in(&store), before - 8);
    network.run(["verify"]).ok();
    // Manifests stay.
    let diff = network.run(["diff", CHANNEL, "1", "3"]).ok();
    assert!(diff.stdout.contains("only/3"), "{}", diff.stdout);
    network.run(["ls", "c@1"]).ok();
    network
        .run(["verify", "--channel", CHANNEL, "--build", "1"])
        .code_is(66);
    let replace = ["retract", CHANNEL, "6", "--reason", "bad", "--replace-with"];
    network.run(replace.iter().chain(&["2"])).code_is(66);
    let done = network.run(replace.iter().chain(&["5"])).ok();
    assert_eq!(done.json["replacement"], 7);
    network.await_complete(&["nz1"], CHANNEL, 7);
    assert_eq!(network.get("nz1", "/c/number").text(), "5");
    // What is published again is there again.
    tree.write("number", "1");
    tree.remove("only/6");
    tree.write("only/1", noise(1, 20_000));
    assert_eq!(network.publish_everywhere(CHANNEL, tree.path()), 8);
    assert_eq!(network.get("nz1", "/c/only/1").body, noise(1, 20_000));
    let backfill = ["backfill", "--mirror", "nz1", "--channel", CHANNEL];
    network.kill("nz1");
    network.wipe("nz1");
    network.restart("nz1");
    until("what was lost is known", || {
        let standing = network.standing("nz1", CHANNEL);
        // Of the other lane's last build it may have fetched that one too.
        let old = numbers(&standing["retained"])
            .iter()
            .any(|build| *build < 7);
        standing["live"] == 8 && !old
    });
    let plan = network.run(
        backfill
            .iter()
            .chain(&["--from", "1", "--to", "8", "--dry-run"]),
    );
    let plan = plan.ok().json;
    assert_eq!(numbers(&plan["collected"]), [1, 2, 3, 4], "{plan}");
    assert_eq!(numbers(&plan["builds"])[0], 5, "{plan}");
    // What is left out is not waited for.
    let done = network.run(backfill.iter().chain(&["--from", "1", "--to", "8"]));
    assert_eq!(numbers(&done.ok().json["builds"]), numbers(&plan["builds"]));
    assert_eq!(network.get("nz1", "/@/c/5/number").text(), "5");
    let none = network.run(backfill.iter().chain(&["--from", "1", "--to", "4"]));
    none.code_is(66);
    // Nobody can fetch what would be left.
    let retract = [
        "retract",
        CHANNEL,
        "5-8",
        "--reason",
        "bad",
        "--no-replacement",
    ];
    let refused = network.run(retract).code_is(65);
    assert!(
        refused.stderr.contains("no longer kept"),
        "{}",
        refused.stderr
    );
}

/// A channel that is not declared any more, and a journal that knows less than the mirrors: nothing of these goes.
#[test]
fn nothing_is_collected_while_a_journal_may_lack_something() {
    let network = Network::up(1);
    let tree = Tree::new();
    publish(&network, &tree, 1);
    keep(&network, 1);
    let (state, older) = (
        network.dir().join("archive/state"),
        network.scratch().join("older"),
    );
    let copy = |from: &Path, to: &Path| {
        e2e::run(std::process::Command::new("cp").arg("-a").arg(from).arg(to));
    };
    network.kill("archive");
    copy(&state, &older);
    network.restart("archive");
    publish(&network, &tree, 2);
    publish(&network, &tree, 3);
    let newer = network.scratch().join("newer");
    network.kill("archive");
    copy(&state, &newer);
    let store = network.dir().join("archive/store");
    let before = files_in(&store);
    std::fs::remove_dir_all(&state).unwrap();
    copy(&older, &state);
    network.kill("nats");
    std::fs::remove_dir_all(network.dir().join("nats/jetstream")).unwrap();
    network.spawn("archive");
    until("it serves without the log", || network.is_ready("archive"));
    let refused = network.run(["gc"]).code_is(75);
    assert!(
        refused.stderr.contains("nothing is collected"),
        "{}",
        refused.stderr
    );
    network.restart("nats");
    until("mirrors are known to hold more", || {
        let refused = network.run(["gc"]).code_is(75);
        refused.stderr.contains("build 3")
    });
    assert_eq!(files_in(&store), before);
    network.kill("archive");
    std::fs::remove_dir_all(&state).unwrap();
    copy(&newer, &state);
    std::fs::create_dir(state.join("journal/gone")).unwrap();
    network.restart("archive");
    until("the log was compared", || {
        let refused = network.run(["gc", "--dry-run"]).code_is(75);
        refused.stderr.contains("journal/gone")
    });
    std::fs::remove_dir(state.join("journal/gone")).unwrap();
    until("it collects again", || network.run(["gc"]).code == 0);
    network.run(["verify"]).ok();
    assert_eq!(publish(&network, &tree, 4), 4);
}

#[test]
fn nothing_of_a_publication_under_way_is_collected() {
    let network = Network::up(1);
    let tree = Tree::new();
    publish(&network, &tree, 1);
    keep(&network, 1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut done = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let ended = network.run(["gc"]);
                assert!([0, 75].contains(&ended.code), "{}", ended.stderr);
                done += u64::from(ended.code == 0);
            }
            done
        });
        for number in 2..=12 {
            publish(&network, &tree, number);
            network.run(["verify"]).ok();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0, "some ran to their end");
    });
    network.run(["verify"]).ok();
}
