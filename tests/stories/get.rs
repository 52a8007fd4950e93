//! `get`: files of one build, from whoever has them, as people and scripts use it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use e2e::{Ended, Network, OpenBsdRepo, Setup, Tree, noise, sha256, until};

/// `get …` into a folder of its own, as somebody in NZ.
fn get(network: &Network, name: &str, args: &[&str]) -> (Ended, PathBuf) {
    let out = network.scratch().join("get").join(name);
    let mut command = network.command(["get"]);
    command
        .args(args)
        .arg("--output")
        .arg(&out)
        .args(["--country", "nz"])
        .arg("--key")
        .arg(network.key())
        .args(["--directory", network.directory()])
        .env("MIRRORLOG_CLIENT_STATE", network.scratch().join("client"));
    (network.run_command(&mut command), out)
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn files_of_one_build_are_verified_and_put_into_a_folder() {
    let network = Network::start(&Setup::pools("nz=2"));
    let tree = Tree::new();
    tree.write("dir/one", "one");
    tree.write("dir/sub/two", "two");
    tree.write("top", "top");
    network
        .publish(
            "c",
            tree.path(),
            &["--wait", "all", "--notice", "top=needs a maintainer"],
        )
        .ok();
    network.await_offered("channel=c", &["nz1", "nz2"]);
    let (got, out) = get(&network, "folder", &["c", "dir", "/top"]);
    let got = got.ok();
    assert_eq!(got.build(), 1);
    assert_eq!(std::fs::read(out.join("dir/sub/two")).unwrap(), b"two");
    assert_eq!(std::fs::read(out.join("top")).unwrap(), b"top");
    assert!(
        got.stderr.contains("top: needs a maintainer"),
        "{}",
        got.stderr
    );
    assert_eq!(got.json["notices"][0]["text"], "needs a maintainer");
    let top = got.json["files"]
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["path"] == "top")
        .unwrap()
        .clone();
    assert_eq!(
        (&top["sha256"], &top["asked"]),
        (&sha256(b"top").into(), &1.into())
    );

    // An older build by its number, what does not exist, what is a mistake.
    tree.write("top", "newer");
    network.publish_everywhere("c", tree.path());
    let (old, out) = get(&network, "old", &["c@1", "top"]);
    assert_eq!(
        (old.ok().build(), std::fs::read(out.join("top")).unwrap()),
        (1, b"top".to_vec())
    );
    for (args, code, says) in [
        (
            &["c@9", "top"][..],
            66,
            "there is no build 9 of c: the newest is 2",
        ),
        (&["c", "nothing"], 66, "nothing is not in build 2 of c"),
        (&["d", "top"], 66, "channel d is not known"),
        (&["c"], 2, "PATH"),
    ] {
        let (ended, _) = get(&network, "none", args);
        let ended = ended.code_is(code);
        assert!(ended.stderr.contains(says), "{args:?}: {}", ended.stderr);
    }
    let (dry, out) = get(&network, "dry", &["c", "dir", "--dry-run"]);
    let dry = dry.ok();
    assert!(
        !out.exists() && dry.json["files"].as_array().unwrap().len() == 2,
        "{}",
        dry.stdout
    );
    let last = dry.json["sources"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["name"], &last["level"]),
        (&"the archive".into(), &"universe".into())
    );
    let mut keyless = network.command(["get", "c", "top", "--directory", network.directory()]);
    let keyless = network
        .run_command(keyless.env_remove("MIRRORLOG_KEY"))
        .code_is(64);
    assert!(keyless.stderr.contains("--key"), "{}", keyless.stderr);

    // What was taken back is refused by its number, and what replaces it is taken.
    network
        .run([
            "retract",
            "c",
            "2",
            "--reason",
            "bad",
            "--replace-with",
            "1",
        ])
        .ok();
    network.await_complete(&["nz1", "nz2"], "c", 3);
    until("the replacement is wanted", || {
        network
            .ask_directory("/v1/mirrors?channel=c&country=nz")
            .json()["build"]
            == 3
    });
    get(&network, "bad", &["c@2", "top"]).0.code_is(65);
    let (cure, out) = get(&network, "cure", &["c", "top"]);
    assert_eq!(
        (cure.ok().build(), std::fs::read(out.join("top")).unwrap()),
        (3, b"top".to_vec())
    );
}

#[test]
fn each_of_the_31_subsets_of_five_mirrors_that_lack_a_file() {
    let network = Network::start(&Setup::pools("nz=3,ch=2"));
    let tree = Tree::new();
    for subset in 1..32 {
        tree.write(&format!("f{subset}"), format!("content {subset}"));
    }
    network.publish_everywhere("c", tree.path());
    let all = ["ch1", "ch2", "nz1", "nz2", "nz3"];
    network.await_offered("channel=c", &all);
    // Nobody notices what is lost, and takes the mirror out, or mends it, while this is played.
    for mirror in all {
        network.kill(mirror);
        let file = network.config(mirror);
        let config = std::fs::read_to_string(&file)
            .unwrap()
            .replace("[scrub]\nevery = \"10s\"", "[scrub]\nevery = \"1h\"");
        assert!(config.contains("1h"));
        std::fs::write(&file, config).unwrap();
        network.restart(mirror);
    }
    network.await_offered("channel=c", &all);
    network.pause("consistency");
    // The order stays as it is now: the client goes by the list that it has.
    get(&network, "list", &["c", "f1"]).0.ok();
    network.kill("directory");
    let plan = get(&network, "plan", &["c", "f1", "--dry-run"]).0.ok().json;
    let sources = plan["sources"].as_array().unwrap().iter();
    let order: Vec<String> = sources
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((order.len(), order[5].as_str()), (6, "the archive"));
    let blob = |mirror: &str, subset: usize| {
        let digest = sha256(format!("content {subset}").as_bytes());
        network
            .mirror_dir(mirror)
            .join("store")
            .join(&digest[..2])
            .join(&digest[2..])
    };
    let lose = |subset: usize| {
        let without = order[..5]
            .iter()
            .enumerate()
            .filter(|(place, _)| subset >> place & 1 == 1);
        without.for_each(|(_, mirror)| std::fs::remove_file(blob(mirror, subset)).unwrap());
    };
    let ends_at = |subset: usize| {
        let name = format!("f{subset}");
        let (got, out) = get(&network, &name, &["c", &name]);
        let got = got.ok();
        let first = (0..5).find(|place| subset >> place & 1 == 0).unwrap_or(5);
        let file = &got.json["files"][0];
        let expected = (&order[first].as_str().into(), &(first + 1).into());
        assert_eq!((&file["source"], &file["asked"]), expected, "{subset:05b}");
        let content = std::fs::read(out.join(&name)).unwrap();
        assert_eq!(content, format!("content {subset}").as_bytes());
    };
    // A mirror that is asked for what it lost mends all of it at once, from the archive.
    lose(31);
    ends_at(31);
    until("the mirrors are mended", || {
        order[..5].iter().all(|mirror| blob(mirror, 31).exists())
    });
    network.pause("archive");
    (1..31).for_each(lose);
    (1..31).for_each(ends_at);
    network.resume("archive");
    network.resume("consistency");
}

#[test]
fn without_directory_and_with_dead_mirrors_it_still_comes() {
    let network = Network::start(&Setup::pools("nz=2"));
    let tree = Tree::new();
    tree.write("one", "one");
    network.publish_everywhere("c", tree.path());
    network.await_offered("channel=c", &["nz1", "nz2"]);
    get(&network, "first", &["c", "one"]).0.ok();
    network.kill("directory");
    let (kept, _) = get(&network, "kept", &["c", "one"]);
    let kept = kept.ok();
    assert!(
        kept.stderr.contains("the directory does not answer")
            && kept.stderr.contains("ago is used"),
        "{}",
        kept.stderr
    );
    network.kill("nz1");
    get(&network, "one-left", &["c", "one"]).0.ok();
    network.kill("nz2");
    let (last, _) = get(&network, "archive", &["c", "one"]);
    assert_eq!(last.ok().json["files"][0]["source"], "the archive");
    network.kill("archive");
    let (none, out) = get(&network, "nobody", &["c", "one"]);
    let none = none.code_is(69);
    assert!(
        none.stderr.contains("no source can be reached") && names(&out).is_empty(),
        "{}",
        none.stderr
    );
}

#[test]
fn a_package_brings_what_it_needs_from_the_same_build() {
    let network = Network::start(&Setup::pools("nz=2"));
    let repo = OpenBsdRepo::new();
    network.publish_everywhere("openbsd-amd64", &repo.tree());
    network.await_offered("channel=openbsd-amd64", &["nz1", "nz2"]);
    let path = OpenBsdRepo::at("vim-9.1.0-gtk3.tgz");
    let (got, out) = get(&network, "vim", &["openbsd-amd64", &path]);
    let got = got.ok();
    let expected = [
        "gettext-runtime-0.22.5.tgz",
        "gtk+3-3.24.41.tgz",
        "libiconv-1.17.tgz",
        "vim-9.1.0-gtk3.tgz",
    ];
    assert_eq!(names(&out), expected.map(str::to_owned).into());
    for name in expected {
        assert_eq!(
            std::fs::read(out.join(name)).unwrap(),
            repo.files()[&OpenBsdRepo::at(name)],
            "{name}"
        );
    }
    let needed = got.json["files"]
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["path"] == OpenBsdRepo::at(expected[2]));
    assert_eq!(needed.unwrap()["needed_by"], expected[0]);
    let (alone, out) = get(&network, "alone", &["openbsd-amd64", &path, "--no-deps"]);
    alone.ok();
    assert_eq!(names(&out).len(), 1);
}

#[test]
fn what_no_mirror_has_yet_is_waited_for() {
    let network = Network::start(&Setup::pools("nz=2").limit("4mbit"));
    let tree = Tree::new();
    tree.write("d", "one");
    network.publish_everywhere("c", tree.path());
    network.await_offered("channel=c", &["nz1", "nz2"]);
    tree.write("d", "two");
    tree.write("big", noise(1, 4_000_000));
    network.publish("c", tree.path(), &[]).ok();
    until("the directory has heard of it", || {
        network
            .ask_directory("/v1/mirrors?channel=c&build=2")
            .status
            == 200
    });
    network.pause("archive");
    let (now, _) = get(
        &network,
        "now",
        &["c@2", "d", "--retry-after", "0s", "--stall", "3s"],
    );
    let now = now.code_is(75);
    assert!(
        now.stderr.contains("nz1 does not have the build yet"),
        "{}",
        now.stderr
    );

    let out = network.scratch().join("waited");
    let mut command = network.command(["get", "c@2", "d", "--retry-after", "2s", "--stall", "3s"]);
    command
        .arg("--output")
        .arg(&out)
        .arg("--key")
        .arg(network.key());
    command.args(["--directory", network.directory(), "--country", "nz"]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let waits = lines.find(|line| line.as_ref().unwrap().contains("looking again in 0:02"));
    assert!(waits.is_some() && !out.join("d").exists());
    network.resume("archive");
    // Whatever else it says has to be read.
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read(out.join("d")).unwrap(), b"two");
}
