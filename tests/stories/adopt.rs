//! A mirror that rsync fed for years is taken over: what it has is not fetched, and its readers notice nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use e2e::{DebianRepo, Ended, Network, Setup, binary, run, sha256};

/// `mirror adopt` of nz1.
fn adopt(network: &Network, from: &Path, deed: &[&str]) -> Ended {
    let mut command = Command::new(binary());
    command
        .arg("--json")
        .arg("--config")
        .arg(network.config("nz1"));
    command
        .args(["mirror", "adopt", "--mount", "/smithy", "--from"])
        .arg(from);
    network.run_command(command.args(deed))
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let listed = run(Command::new("find")
        .current_dir(dir)
        .args([".", "-type", "f"]));
    let paths = String::from_utf8(listed).unwrap();
    let read = |path: &str| (path[2..].to_owned(), std::fs::read(dir.join(path)).unwrap());
    paths
        .lines()
        .map(read)
        .filter(|(path, _)| !path.starts_with("project/trace/"))
        .collect()
}

#[test]
fn a_tree_of_rsync_becomes_a_mirror_of_ours() {
    let network = Network::start(&Setup::mirrors(1).export());
    network.kill("nz1");
    network.wipe("nz1");
    let mut repo = DebianRepo::bookworm();
    let old = network.scratch().join("srv/debian");
    std::fs::create_dir_all(&old).unwrap();
    // As on real disks, dates have fractions of seconds, which builds have not.
    let touch = "find . -type f -exec sh -c 'touch -d @$(stat -c %Y \"$1\").5 \"$1\"' - {} \\;";
    run(Command::new("sh")
        .current_dir(repo.tree())
        .args(["-c", touch]));
    let source = format!("{}/", repo.tree().display());
    run(Command::new("rsync").arg("-a").arg(source).arg(&old));
    let before = files(&old);
    let nothing = adopt(&network, &old, &["--dry-run"]).code_is(66);
    assert!(nothing.stderr.contains("no channel"), "{}", nothing.stderr);

    repo.upgrade();
    network
        .publish("smithy", &repo.tree(), &["--layout", "debian"])
        .ok();
    let now = repo.files();
    // Each content once.
    let had: BTreeMap<String, usize> = before.values().map(|c| (sha256(c), c.len())).collect();
    let wanted: BTreeMap<String, usize> = now.values().map(|c| (sha256(c), c.len())).collect();
    let (have, missing): (Vec<_>, Vec<_>) = wanted
        .iter()
        .partition(|(digest, _)| had.contains_key(*digest));
    let sum = |some: &[(&String, &usize)]| {
        let bytes: usize = some.iter().map(|(_, bytes)| **bytes).sum();
        serde_json::json!({ "files": some.len(), "bytes": bytes })
    };
    assert!(!have.is_empty() && !missing.is_empty());
    let dry = adopt(&network, &old, &["--dry-run"]).ok();
    assert_eq!(
        (&dry.json["have"], &dry.json["missing"]),
        (&sum(&have), &sum(&missing))
    );
    assert_eq!(dry.json["channels"][0]["build"], 1);
    // Nothing to lead readers to yet.
    adopt(&network, &old, &["--switch"]).code_is(75);
    let taken = adopt(&network, &old, &[]).ok();
    assert_eq!(
        (&taken.json["taken"], &taken.json["missing"]),
        (&sum(&have), &sum(&missing))
    );
    let again = adopt(&network, &old, &[]).ok();
    assert_eq!(again.json["taken"]["files"], 0);
    assert_eq!(again.json["have"], sum(&have));
    assert_eq!(files(&old), before);

    network.restart("nz1");
    network.await_complete(&["nz1"], "smithy", 1);
    let metrics = network.ask_service("nz1", "/metrics").text();
    let fetched = metrics
        .lines()
        .filter(|line| line.starts_with("mirrorlog_fetch_bytes_total"));
    let fetched = fetched.filter_map(|line| line.split(' ').next_back()?.parse::<u64>().ok());
    let (fetched, missing) = (
        fetched.sum::<u64>(),
        sum(&missing)["bytes"].as_u64().unwrap(),
    );
    // Of content nothing but that; framing is small.
    assert!(
        fetched <= missing + missing / 10 + 4096,
        "{fetched} for {missing}"
    );

    // Nothing was copied for a date's sake.
    let copies = network.mirror_dir("nz1").join("export/@copies");
    assert_eq!(std::fs::read_dir(copies).unwrap().count(), 0);
    let switched = adopt(&network, &old, &["--switch"]).ok();
    assert_eq!(switched.json["changed"], true);
    assert_eq!(files(&old), now);
    let aside = switched.json["tree"].as_str().unwrap().to_owned();
    assert_eq!(files(Path::new(&aside)), before);
    adopt(&network, &old, &["--undo"]).ok();
    assert_eq!(files(&old), before);
    assert!(!Path::new(&aside).exists());
    network.stop();
}
