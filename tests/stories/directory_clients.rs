//! Clients that take a metalink, and what a directory does when everything else is gone.

use std::process::Command;

use e2e::{Network, Setup, Tree, noise, run, sha256, tool, until};
use reqwest::Method;

const SIZE: usize = 3_000_000;

#[test]
fn aria2_leaves_a_corrupt_mirror() {
    let network = Network::start(&Setup::pools("nz=3"));
    let tree = Tree::new();
    let content = noise(7, SIZE);
    tree.write("iso/big.bin", content.clone());
    network.publish_everywhere("c", tree.path());
    network.await_offered("channel=c", &["nz1", "nz2", "nz3"]);
    let path = "/metalink?channel=c&path=iso/big.bin";
    let url = format!("{}{path}", network.directory());
    let accept = |kind| network.http().ask(Method::GET, &url, &[("accept", kind)]);

    let four = accept("application/metalink4+xml");
    assert_eq!(four.status, 200, "{}", four.text());
    assert_eq!(four.header("content-type"), "application/metalink4+xml");
    let text = four.text();
    assert!(
        text.contains("<file name=\"big.bin\">"),
        "the name has no folders: {text}"
    );
    assert!(text.contains(&format!(
        "<hash type=\"sha-256\">{}</hash>",
        sha256(&content)
    )));
    let length = 262_144;
    assert!(
        text.contains(&format!("<pieces length=\"{length}\" type=\"sha-256\">")),
        "{text}"
    );
    for piece in content.chunks(length) {
        assert!(text.contains(&format!("<hash>{}</hash>", sha256(piece))));
    }
    let three = accept("application/metalink+xml");
    assert_eq!(three.header("content-type"), "application/metalink+xml");
    assert!(
        three.text().contains("<metalink version=\"3.0\""),
        "{}",
        three.text()
    );
    assert!(three.text().contains("preference=\"100\""));
    for kind in [&four, &three] {
        for mirror in network.mirrors() {
            assert!(
                kind.text()
                    .contains(&format!("{}/@/c/1/iso/big.bin", network.url(mirror)))
            );
        }
    }

    // The first mirror's copy goes bad in the middle, after the metalink was made.
    let first = network.offered("channel=c").remove(0);
    let digest = sha256(&content);
    let store = network.mirror_dir(&first).join("store");
    let blob = store.join(&digest[..2]).join(&digest[2..]);
    let mut bad = content.clone();
    bad[SIZE / 2] ^= 0xff;
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, bad).unwrap();
    for (name, metalink) in [("four.meta4", &four), ("three.metalink", &three)] {
        let folder = network.scratch().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(name), &metalink.body).unwrap();
        let mut aria2 = tool("aria2c");
        aria2
            .args([
                "--no-conf",
                "--max-tries=3",
                "--retry-wait=1",
                "--metalink-preferred-protocol=none",
            ])
            .arg(format!("--metalink-file={name}"))
            .current_dir(&folder);
        run(&mut aria2);
        let got = std::fs::read(folder.join("big.bin")).unwrap();
        assert!(got == content, "{name}");
    }
    for bad in [
        "/metalink?channel=c&path=nothing",
        "/metalink?channel=c",
        "/metalink?channel=c&path=iso",
    ] {
        assert_eq!(network.ask_directory(bad).status, 404, "{bad}");
    }
}

#[test]
fn a_directory_goes_on_without_the_centre() {
    let network = Network::start(&Setup::pools("nz=2"));
    let tree = Tree::new();
    tree.write("sub/file", "one");
    network.publish_everywhere("c", tree.path());
    network.await_offered("channel=c", &["nz1", "nz2"]);
    // The state is saved within two seconds; its manifests are there before the first question.
    let out = network.scratch().join("static");
    until("the state is saved", || {
        let mut export = Command::new(e2e::binary());
        export.arg("--config").arg(network.config("directory"));
        // Before the first state there is nothing to export.
        network.run_command(export.args(["directory", "export"]).arg(&out));
        let list = std::fs::read_to_string(out.join("c/mirrors.txt")).unwrap_or_default();
        ["nz1", "nz2"]
            .iter()
            .all(|id| list.contains(network.url(id)))
    });
    for service in ["archive", "consistency", "nats"] {
        network.kill(service);
    }
    network.kill("directory");
    network.restart("directory");
    network.await_offered("channel=c", &["nz1", "nz2"]);
    let ready = network.ask_service("directory", "/readyz").json();
    assert_eq!(ready["status"], "degraded");
    let answer = network.ask_directory("/c/sub/file");
    assert_eq!(answer.status, 302, "{}", answer.text());
    assert_eq!(network.http().get(answer.header("location")).text(), "one");
    // It still notices who dies.
    network.kill("nz1");
    network.await_offered("channel=c", &["nz2"]);
    let before = network.ask_directory("/c/sub/file");
    assert!(before.header("location").starts_with(network.url("nz2")));
    for service in ["nats", "archive", "consistency", "nz1"] {
        network.restart(service);
    }
    network.await_offered("channel=c", &["nz1", "nz2"]);
    until("it is ready", || {
        network.ask_service("directory", "/readyz").json()["status"] == "ready"
    });
}

#[test]
fn the_redirector_knows_who_holds_what() {
    let network = Network::start(&Setup::pools("nz=2"));
    let tree = Tree::new();
    tree.write("a b/ü+&.txt", "odd");
    tree.write("file", "one");
    std::os::unix::fs::symlink("a b", tree.path().join("link")).unwrap();
    network.publish_everywhere("c", tree.path());
    network.await_offered("channel=c", &["nz1", "nz2"]);
    let odd = network.ask_directory("/c/link/%C3%BC+&.txt");
    assert_eq!(odd.status, 302, "{}", odd.text());
    let target = network.http().get(odd.header("location"));
    assert_eq!((target.status, target.text().as_str()), (200, "odd"));
    assert!(odd.header("digest").starts_with("SHA-256="));
    assert_eq!(odd.header("mirrorlog-build"), "c=1");
    for (path, status) in [
        ("/c/nothing", 404),
        ("/nowhere/file", 404),
        ("/c/a%2ffile", 400),
        ("/c//file", 404),
        ("/c/file/", 404),
        ("/c/a%20b", 301),
        ("/c/a%20b/", 302),
        ("/c/", 302),
        ("/c", 301),
    ] {
        assert_eq!(network.ask_directory(path).status, status, "{path}");
    }
    let url = format!("{}/c/file", network.directory());
    assert_eq!(network.http().ask(Method::POST, &url, &[]).status, 405);
    assert_eq!(network.http().ask(Method::HEAD, &url, &[]).status, 302);

    // Nobody is left: the answer says so, and does not guess.
    network.kill("nz1");
    network.kill("nz2");
    until("nobody is offered", || {
        network.ask_directory("/c/file").status == 503
    });
    let nobody = network.ask_directory("/c/file");
    assert!(nobody.text().starts_with("no-mirror"), "{}", nobody.text());
    assert!(!nobody.header("retry-after").is_empty());
    assert_eq!(network.ask_directory("/mirrors.txt?channel=c").status, 503);
    assert_eq!(network.offered("channel=c"), Vec::<String>::new());
}
