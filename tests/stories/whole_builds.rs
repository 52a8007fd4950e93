//! A real Debian repository in two builds: every file of both on every mirror, by its build's URL; live is the newest;
//! what is signed verifies with signify; apt works.

use std::collections::BTreeMap;

use e2e::{Apt, DebianRepo, Network, run, sha256, tool, until};
use reqwest::Method;

const CHANNEL: &str = "smithy";

#[test]
fn two_debian_builds_are_whole_on_three_mirrors() {
    let network = Network::up(3);
    let mut repo = DebianRepo::bookworm();
    let first = repo.files();
    assert_eq!(network.publish_everywhere(CHANNEL, &repo.tree()), 1);
    let url = |mirror: &str, under: &str| format!("{}/{under}", network.url(mirror));
    let old = Apt::new(&repo, "old", &url("nz1", CHANNEL), "bookworm");
    old.update();
    repo.upgrade();
    let second = repo.files();
    assert_eq!(network.publish_everywhere(CHANNEL, &repo.tree()), 2);

    for mirror in network.mirrors() {
        every_file_is_there(&network, mirror, "@/smithy/1", &first);
        every_file_is_there(&network, mirror, "@/smithy/2", &second);
        every_file_is_there(&network, mirror, CHANNEL, &second);
        old_paths_are_served_for_a_while(&network, mirror, &first, &second);
        statements_verify(&network, mirror);

        let live = Apt::new(&repo, mirror, &url(mirror, CHANNEL), "stable");
        live.update();
        assert_eq!(
            live.download("anvil"),
            second[&DebianRepo::pool_path("anvil", "1.1-1")]
        );
        let mut named = live.would_install("forge");
        named.sort();
        assert_eq!(named, ["anvil 1.1-1", "bellows 2.1-3", "forge 1.0-1"]);
        let pinned = Apt::new(
            &repo,
            &format!("{mirror}-1"),
            &url(mirror, "@/smithy/1"),
            "bookworm",
        );
        pinned.update();
        assert_eq!(
            pinned.download("chisel"),
            first[&DebianRepo::pool_path("chisel", "0.9-1")]
        );
    }

    // An apt with the lists of build 1: its packages are still there, and it gets on.
    assert_eq!(
        old.download("chisel"),
        first[&DebianRepo::pool_path("chisel", "0.9-1")]
    );
    old.update();
    assert_eq!(
        old.download("drill"),
        second[&DebianRepo::pool_path("drill", "3.0-1")]
    );
    network.stop();
}

fn every_file_is_there(
    network: &Network,
    mirror: &str,
    under: &str,
    files: &BTreeMap<String, Vec<u8>>,
) {
    let build = under.rsplit('/').next().unwrap();
    let build = build.parse().unwrap_or(2);
    for (path, content) in files {
        let answer = network.get(mirror, &format!("/{under}/{path}"));
        assert_eq!(answer.status, 200, "{under}/{path}: {}", answer.text());
        assert!(answer.body == *content, "{under}/{path} has other bytes");
        assert_eq!(answer.header("etag"), format!("\"{}\"", sha256(content)));
        assert_eq!(
            answer.header("mirrorlog-build"),
            format!("{CHANNEL}={build}")
        );
    }
    // The link `stable -> bookworm` is followed.
    let answer = network.get(mirror, &format!("/{under}/dists/stable/InRelease"));
    assert!(answer.body == files["dists/bookworm/InRelease"]);
}

/// Pool files and indexes by hash that live lacks: immutable, so served from the build before.
fn old_paths_are_served_for_a_while(
    network: &Network,
    mirror: &str,
    first: &BTreeMap<String, Vec<u8>>,
    second: &BTreeMap<String, Vec<u8>>,
) {
    let by_hash = |path: &str| path.contains("/by-hash/");
    let kept = first
        .keys()
        .filter(|path| by_hash(path) && second.contains_key(*path));
    assert!(kept.count() > 0, "the archive keeps indexes by hash");
    let gone: Vec<_> = first
        .iter()
        .filter(|(path, _)| !second.contains_key(*path))
        .collect();
    assert_eq!(gone.len(), 2, "anvil 1.0 and chisel are gone");
    for (path, content) in gone {
        let answer = network.get(mirror, &format!("/{CHANNEL}/{path}"));
        assert_eq!(
            (answer.status, answer.header("mirrorlog-build")),
            (200, "smithy=1")
        );
        assert!(answer.body == *content);
        let pinned = network.get(mirror, &format!("/@/{CHANNEL}/2/{path}"));
        assert_eq!(pinned.status, 404, "build 2 itself does not have it");
        assert!(pinned.text().starts_with("unknown-path"));
    }
}

/// What a mirror hands out verifies with the archive's key and a foreign program.
fn statements_verify(network: &Network, mirror: &str) {
    let names = ["head", "1/snapshot", "2/snapshot"];
    for name in names {
        let answer = network.get(mirror, &format!("/@/{CHANNEL}/{name}"));
        assert_eq!(answer.status, 200, "{name}");
        let [signed, opened] = ["signed", "opened"].map(|file| network.scratch().join(file));
        std::fs::write(&signed, &answer.body).unwrap();
        let mut verify = tool("signify-openbsd");
        verify
            .args(["-V", "-e", "-x"])
            .arg(&signed)
            .arg("-m")
            .arg(&opened);
        let said = run(verify.arg("-p").arg(network.key()));
        assert_eq!(
            String::from_utf8(said).unwrap().trim(),
            "Signature Verified"
        );
        let statement = std::fs::read(&opened).unwrap();
        assert!(
            answer.body.ends_with(&statement),
            "the statement follows the signature"
        );
        assert!(!statement.is_empty());
    }
}

#[test]
fn http_is_what_clients_expect() {
    let network = Network::up(1);
    let repo = DebianRepo::bookworm();
    network.publish_everywhere(CHANNEL, &repo.tree());
    let files = repo.files();
    let deb = DebianRepo::pool_path("forge", "1.0-1");
    let (path, content) = (format!("/{CHANNEL}/{deb}"), &files[&deb]);
    let ask = |method, headers: &[(&str, &str)]| network.ask("nz1", method, &path, headers);

    let head = ask(Method::HEAD, &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), content.len().to_string());
    let etag = head.header("etag").to_owned();
    let same = ask(Method::GET, &[("if-none-match", &etag)]);
    assert_eq!((same.status, same.body.len()), (304, 0));
    let other = ask(Method::GET, &[("if-none-match", "\"0\"")]);
    assert_eq!((other.status, &other.body), (200, content));
    let date = head.header("last-modified").to_owned();
    assert_eq!(
        ask(Method::GET, &[("if-modified-since", &date)]).status,
        304
    );
    let later = ask(
        Method::GET,
        &[("if-modified-since", "Sat, 01 Jan 2050 00:00:00 GMT")],
    );
    assert_eq!(later.status, 200, "304 only on the exact date");

    let part = ask(Method::GET, &[("range", "bytes=100-199")]);
    assert_eq!((part.status, &part.body[..]), (206, &content[100..200]));
    assert_eq!(
        part.header("content-range"),
        format!("bytes 100-199/{}", content.len())
    );
    let tail = ask(Method::GET, &[("range", "bytes=-10"), ("if-range", &etag)]);
    assert_eq!(
        (tail.status, &tail.body[..]),
        (206, &content[content.len() - 10..])
    );
    let stale = ask(
        Method::GET,
        &[("range", "bytes=-10"), ("if-range", "\"0\"")],
    );
    assert_eq!((stale.status, &stale.body), (200, content));
    let beyond = format!("bytes={}-", content.len());
    assert_eq!(ask(Method::GET, &[("range", &beyond)]).status, 416);
    assert_eq!(ask(Method::DELETE, &[]).status, 405);

    listings_name_everything(&network, &files);
    let probe = network.get("nz1", "/@/probe/n0nce?bytes=1000");
    assert_eq!(
        (probe.body.len(), probe.header("cache-control")),
        (1000, "no-store")
    );
    let status = network.get("nz1", "/@/smithy").json();
    assert_eq!(
        (&status["live"], &status["mount"]),
        (&1.into(), &"/smithy".into())
    );
    assert_eq!(network.get("nz1", "/@/smithy/9/x").status, 404);
    assert_eq!(network.get("nz1", "/@/nobody").status, 404);
    let trace = network.get("nz1", "/smithy/project/trace/nz1").text();
    assert!(
        trace.contains("\nDate: ") && trace.contains("\nArchive serial: "),
        "{trace}"
    );
    metrics_tell_what_alerts_rely_on(&network);
}

/// Each is told by the service that knows it.
fn metrics_tell_what_alerts_rely_on(network: &Network) {
    let names = [
        ("archive", "head_expires_timestamp_seconds"),
        ("archive", "outbox_pending"),
        ("archive", "disk_free_bytes"),
        ("consistency", "channel_lag_seconds"),
        ("consistency", "verdict"),
        ("consistency", "files_missing"),
        ("nz1", "last_scrub_timestamp_seconds"),
        ("nz1", "fetch_bytes_total"),
        ("nz1", "disk_free_bytes"),
        ("nz1", "build_info"),
    ];
    for (service, name) in names {
        until(&format!("{service} tells {name}"), || {
            let metrics = network.ask_service(service, "/metrics").text();
            metrics
                .lines()
                .any(|line| line.starts_with(&format!("mirrorlog_{name}")))
        });
    }
}

/// One line an entry, `HREF` in double quotes, as `pkg_add` reads it.
fn listings_name_everything(network: &Network, files: &BTreeMap<String, Vec<u8>>) {
    let mut folders = vec![String::new()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let page = network.get("nz1", &format!("/@/{CHANNEL}/1/{folder}"));
        assert_eq!(page.status, 200, "{folder}");
        let text = page.text();
        let names = text
            .lines()
            .filter_map(|line| line.split("HREF=\"").nth(1)?.split('"').next());
        for name in names.filter(|name| !name.starts_with(['.', '/', '?'])) {
            match name.strip_suffix('/') {
                // A link to a folder would be walked twice.
                Some(_) if name == "stable/" => {}
                Some(_) => folders.push(format!("{folder}{name}")),
                None => found.push(format!("{folder}{name}")),
            }
        }
    }
    found.sort();
    found.retain(|path| path != "dists/stable");
    assert_eq!(found, files.keys().cloned().collect::<Vec<_>>());
}
