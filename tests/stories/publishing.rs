//! `publish` as scripts use it: what is said, what is done, and the code it ends with.

use std::io::Write as _;
use std::process::Stdio;

use e2e::{Network, Setup, Tree, sha256};
use serde_json::Value;

fn counts(json: &Value) -> [u64; 3] {
    ["added", "changed", "removed"].map(|name| json[name].as_u64().unwrap())
}

fn digest_of(network: &Network, at: &str, path: &str) -> Option<String> {
    let ended = network.run(["ls", at, path]);
    let entries = (ended.code == 0).then(|| ended.lines())?;
    let found = entries.into_iter().find(|entry| entry["path"] == path)?;
    Some(found["sha256"].as_str().unwrap().to_owned())
}

#[test]
fn the_same_tree_again_is_the_same_build() {
    let network = Network::up(1);
    let tree = Tree::new();
    tree.write("a", "a");
    tree.write("folder/b", "b");
    let dry = network.publish("c", tree.path(), &["--dry-run"]).ok();
    assert_eq!(counts(&dry.json), [2, 0, 0], "{}", dry.stdout);
    assert_eq!(
        network.run(["log", "c"]).stdout,
        "",
        "nothing was published"
    );

    let first = network.publish("c", tree.path(), &["--wait", "all"]).ok();
    assert_eq!(
        (first.build(), &first.json["unchanged"]),
        (1, &false.into())
    );
    assert_eq!(
        (counts(&first.json), &first.json["files"]),
        ([2, 0, 0], &2.into())
    );
    assert_eq!(first.json["complete"][0]["mirror"], "nz1");
    let seconds = &first.json["seconds"];
    for phase in ["scan", "ingest", "publish", "wait"] {
        assert!(seconds[phase].is_number(), "{phase} of {seconds}");
    }
    let again = network.publish("c", tree.path(), &["--wait", "all"]).ok();
    assert_eq!((again.build(), &again.json["unchanged"]), (1, &true.into()));
    assert_eq!(again.json["root"], first.json["root"]);
    assert_eq!(network.run(["log", "c"]).ok().lines().len(), 1);

    tree.write("folder/b", "other");
    tree.write("c", "c");
    tree.remove("a");
    let dry = network.publish("c", tree.path(), &["--dry-run"]).ok();
    assert_eq!(counts(&dry.json), [1, 1, 1]);
    assert_eq!(network.run(["log", "c"]).ok().lines().len(), 1);
    let next = network.publish("c", tree.path(), &["--wait", "all"]).ok();
    assert_eq!((next.build(), counts(&next.json)), (2, [1, 1, 1]));
    assert_eq!(next.json["root"], dry.json["root"]);
    // Back to what it was: a build of its own, for numbers only go up.
    tree.write("folder/b", "b");
    tree.write("a", "a");
    tree.remove("c");
    let back = network.publish("c", tree.path(), &["--wait", "all"]).ok();
    assert_eq!(back.build(), 3);
    let roots = [1, 2, 3]
        .map(|build| network.run(["show", "c", &build.to_string()]).ok().json["root"].clone());
    assert_ne!(roots[0], roots[1]);
    assert_eq!(back.json["root"], roots[2]);
}

#[test]
fn a_list_of_changes_takes_the_place_of_a_scan() {
    let network = Network::up(1);
    let tree = Tree::new();
    for name in ["kept", "changed", "gone", "quiet"] {
        tree.write(&format!("d/{name}"), name);
    }
    network.publish_everywhere("c", tree.path());
    tree.write("d/changed", "another content");
    tree.write("d/new", "new");
    tree.remove("d/gone");
    // Not listed, so not looked at.
    tree.write("d/quiet", "changed in silence");
    let mut command = network.command(["publish", "c"]);
    command
        .arg(tree.path())
        .args(["--changed", "-", "-0", "--wait", "all"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"d/changed\0d/new\0d/gone\0")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((counts(&json), &json["build"]), ([1, 1, 1], &2.into()));
    assert_eq!(
        digest_of(&network, "c@2", "d/changed"),
        Some(sha256(b"another content"))
    );
    assert_eq!(
        digest_of(&network, "c@2", "d/quiet"),
        Some(sha256(b"quiet"))
    );
    assert_eq!(digest_of(&network, "c@2", "d/gone"), None);
    assert_eq!(network.get("nz1", "/c/d/gone").status, 404);
    assert_eq!(network.get("nz1", "/c/d/new").text(), "new");

    let list = network.scratch().join("list");
    std::fs::write(&list, "d/quiet\n").unwrap();
    let list = list.to_str().unwrap();
    let ended = network
        .publish("c", tree.path(), &["--changed", list, "--wait", "all"])
        .ok();
    assert_eq!((counts(&ended.json), ended.build()), ([0, 1, 0], 3));
    let again = network.publish("c", tree.path(), &["--changed", list]).ok();
    assert_eq!(again.json["unchanged"], true);
    let whole = network.publish("c", tree.path(), &[]).ok();
    assert_eq!(
        (whole.build(), &whole.json["unchanged"]),
        (3, &true.into()),
        "a scan finds nothing else"
    );
}

#[test]
fn exit_codes_tell_what_is_wrong() {
    let network =
        Network::start(&Setup::mirrors(2).env("MIRRORLOG_ARCHIVE_ALLOW_UNDECLARED", "false"));
    let tree = Tree::new();
    tree.write("a", "a");
    let unknown = network.publish("nobody", tree.path(), &[]).code_is(66);
    assert!(unknown.stderr.contains("nobody"), "{}", unknown.stderr);
    let one_line = unknown
        .stderr
        .lines()
        .filter(|line| !line.starts_with('{'))
        .count();
    assert_eq!(one_line, 1, "one line says it: {}", unknown.stderr);
    network.run(["log", "nobody"]).code_is(66);
    network.run(["publish", "NOT A CHANNEL", "/tmp"]).code_is(2);
    let missing = tree.path().join("nowhere");
    network.publish("nobody", &missing, &[]).code_is(66);

    let bad = network.scratch().join("bad.toml");
    std::fs::write(&bad, "[archive]\nstat = \"x\"\n").unwrap();
    let config = bad.to_str().unwrap();
    for args in [
        vec!["archive", "serve"],
        vec!["mirror", "serve"],
        vec!["consistency", "serve"],
        vec!["status"],
    ] {
        let mut args_with_config = vec!["--config", config];
        args_with_config.extend(args);
        let mut command = std::process::Command::new(e2e::binary());
        let ended = network.run_command(command.args(&args_with_config));
        assert_eq!(ended.code, 64, "{args_with_config:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("bad.toml"), "{}", ended.stderr);
    }
}

#[test]
fn who_waits_in_vain_is_told_for_whom() {
    let network = Network::up(2);
    let tree = Tree::new();
    tree.write("a", "a");
    network.publish_everywhere("c", tree.path());
    network.kill("nz2");
    tree.write("a", "b");
    let in_vain = || {
        let late = network
            .publish("c", tree.path(), &["--wait", "all", "--timeout", "2"])
            .code_is(75);
        assert_eq!(late.build(), 2, "it is published all the same");
        late
    };
    assert!(in_vain().stderr.contains("nz2"));
    // Nobody is told of those that have it.
    network.await_complete(&["nz1"], "c", 2);
    let late = in_vain();
    assert!(
        late.stderr.contains("nz2") && !late.stderr.contains("on nz1,"),
        "{}",
        late.stderr
    );
    let one = network
        .publish("c", tree.path(), &["--wait", "1", "--timeout", "20"])
        .ok();
    assert_eq!(one.json["complete"][0]["mirror"], "nz1");
    network.restart("nz2");
    network
        .publish("c", tree.path(), &["--wait", "all", "--timeout", "30"])
        .ok();

    network.kill("archive");
    tree.write("a", "c");
    let down = network.publish("c", tree.path(), &[]).code_is(69);
    assert!(down.stderr.contains("archive"), "{}", down.stderr);
    network.restart("archive");
    assert_eq!(network.publish_everywhere("c", tree.path()), 3);
}
