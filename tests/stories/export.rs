//! Trees of files for nginx and rsync: what is in them, and that nobody sees half of a build there.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::{Network, Nginx, Setup, Tree, binary, noise, unpacked_tools, until};
use reqwest::Method;

/// What downstreams compare: content, mode and time of files, targets of symlinks.
fn seen(root: &Path) -> BTreeMap<String, (Vec<u8>, u32, i64)> {
    let mut seen = BTreeMap::new();
    let mut folders = vec![std::fs::canonicalize(root).unwrap()];
    let first = folders[0].clone();
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            let name = path
                .strip_prefix(&first)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_symlink() {
                let target = std::fs::read_link(&path).unwrap();
                seen.insert(name, (target.into_os_string().into_encoded_bytes(), 0, 0));
            } else {
                let mode = metadata.permissions().mode() & 0o7777;
                seen.insert(
                    name,
                    (std::fs::read(&path).unwrap(), mode, metadata.mtime()),
                );
            }
        }
    }
    seen
}

fn exported(network: &Network, mirror: &str) -> PathBuf {
    network.config(mirror).parent().unwrap().join("export")
}

#[test]
fn the_export_tree_is_the_build() {
    let network = Network::start(&Setup::mirrors(1).export());
    let tree = Tree::new();
    let executable = |path: &str| {
        let path = tree.path().join(path);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    tree.write("a/b/one", "1");
    tree.write("a/run", "same");
    tree.write("same", "same");
    tree.write("gone/deep/file", "x");
    tree.write("empty", "");
    executable("a/run");
    std::os::unix::fs::symlink("a/b", tree.path().join("link")).unwrap();
    network.publish_everywhere("c", tree.path());
    let dir = exported(&network, "nz1");
    let local = std::fs::read(network.dir().join("local.json")).unwrap();
    let local: serde_json::Value = serde_json::from_slice(&local).unwrap();
    assert_eq!(local["mirrors"][0]["export"], dir.to_str().unwrap());
    let agrees = |build: u64| {
        let mut there = seen(&dir.join("c"));
        let (trace, ..) = there.remove("project/trace/nz1").unwrap();
        let trace = String::from_utf8(trace).unwrap();
        assert!(trace.contains("\nCreator: mirrorlog/"), "{trace}");
        assert_eq!(there, seen(tree.path()), "build {build}");
        // The mirror's own answers are of the same build.
        assert_eq!(network.live("nz1", "c"), Some(build));
    };
    agrees(1);

    // A folder becomes a file, a file a folder, a symlink a file; modes change and nothing else.
    tree.remove("gone/deep/file");
    std::fs::remove_dir_all(tree.path().join("gone")).unwrap();
    tree.write("gone", "now a file");
    tree.remove("empty");
    tree.write("empty/file", "");
    tree.remove("link");
    tree.write("link", "now a file");
    executable("same");
    assert_eq!(network.publish_everywhere("c", tree.path()), 2);
    agrees(2);

    // A mirror that was killed goes on where it was.
    network.kill("nz1");
    tree.write("a/b/one", "2");
    let third = network.publish("c", tree.path(), &[]).ok().build();
    network.restart("nz1");
    network.await_complete(&["nz1"], "c", third);
    agrees(3);
    network.stop();
}

const FILES: usize = 60;
const FLIPS: u64 = 100;
/// Longer than a run of rsync here takes.
const SETTLE: Duration = Duration::from_secs(15);

/// A mirror behind nginx, that is audited through nginx.
fn behind_nginx(network: &Network) -> Nginx {
    network.kill("nz1");
    network.configure("nz1", |config| {
        let export = config["export"].as_table_mut().unwrap();
        export.insert("settle".to_owned(), format!("{}s", SETTLE.as_secs()).into());
        export.insert("trees".to_owned(), 60.into());
    });
    let mut snippet = Command::new(binary());
    snippet.arg("--config").arg(network.config("nz1"));
    let snippet = network
        .run_command(snippet.args(["mirror", "nginx-snippet"]))
        .ok()
        .stdout;
    let nginx = Nginx::serve(&unpacked_tools(), |address| {
        let here = format!("listen {address};");
        snippet
            .replace("listen 80;", &here)
            .replace("listen [::]:80;", "")
    });
    for service in ["consistency", "directory"] {
        network.kill(service);
        network.configure(service, |config| {
            let mirrors = config["mirrors"].as_array_mut().unwrap();
            mirrors[0]["url"] = nginx.url.clone().into();
        });
    }
    for service in ["nz1", "consistency", "directory"] {
        network.restart(service);
    }
    nginx
}

/// Every file of build `n` says so.
fn write_build(tree: &Tree, n: u64) {
    for number in 0..FILES {
        let mut content = format!("{n}\n").into_bytes();
        content.extend(noise(number as u64, 4000));
        tree.write(&format!("dists/{number:02}"), content);
    }
    tree.write(&format!("pool/{n}"), format!("{n}\n"));
}

fn build_of(content: &[u8]) -> u64 {
    let line = content.split(|b| *b == b'\n').next().unwrap();
    std::str::from_utf8(line).unwrap().parse().unwrap()
}

/// Invariant 1, for those who read the disk.
#[test]
fn invariant_no_half_snapshot_through_nginx_and_a_slow_rsync() {
    let network = Network::start(&Setup::mirrors(1).export());
    let nginx = behind_nginx(&network);
    let tree = Tree::new();
    write_build(&tree, 1);
    network.publish_everywhere("c", tree.path());
    let done = AtomicBool::new(false);
    let (copies, answers, pinned) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (mirrored, url) = (exported(&network, "nz1").join("c"), nginx.url.clone());
    std::thread::scope(|scope| {
        // Downstreams with rsync: each copy is one build throughout, from its first file to its last.
        scope.spawn(|| {
            let home = tempfile::tempdir().unwrap();
            while !done.load(Ordering::Relaxed) {
                let copy = home.path().join("copy");
                let begun = Instant::now();
                let ended = Command::new("rsync")
                    .args(["-aH", "--delete", "--whole-file", "--bwlimit=30"])
                    .arg(format!("{}/", mirrored.display()))
                    .arg(&copy)
                    .status();
                // Whoever takes longer than trees rest has no promise.
                if begun.elapsed() >= SETTLE {
                    continue;
                }
                assert!(ended.unwrap().success());
                let files = seen(&copy);
                let builds = files.iter().filter(|(path, _)| path.starts_with("dists/"));
                let builds: Vec<u64> = builds.map(|(_, (content, ..))| build_of(content)).collect();
                assert_eq!(builds.len(), FILES);
                assert!(builds.iter().all(|build| *build == builds[0]), "{builds:?}");
                // All packages up to that build, and none of a later one.
                let packages = files
                    .keys()
                    .filter(|path| path.starts_with("pool/"))
                    .count();
                assert_eq!(packages as u64, builds[0]);
                copies.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Readers over nginx: live never goes back, a package of an index that was seen is there, and a pinned URL
        // has that build's content or none.
        for reader in 0..2_usize {
            let (url, network) = (&url, &network);
            let (done, answers, pinned) = (&done, &answers, &pinned);
            scope.spawn(move || {
                let mut newest = 0;
                let mut turn = reader;
                while !done.load(Ordering::Relaxed) {
                    turn += 1;
                    let path = format!("dists/{:02}", turn % FILES);
                    let answer = network
                        .http()
                        .ask(Method::GET, &format!("{url}/c/{path}"), &[]);
                    assert_eq!(answer.status, 200, "{path}");
                    let build = build_of(&answer.body);
                    assert!(build >= newest, "{path} is of build {build} after {newest}");
                    newest = build;
                    let package =
                        network
                            .http()
                            .ask(Method::GET, &format!("{url}/c/pool/{build}"), &[]);
                    assert_eq!(package.status, 200, "package of build {build}");
                    let exact = format!("{url}/@/c/{build}/{path}");
                    let exact = network.http().ask(Method::GET, &exact, &[]);
                    match exact.status {
                        200 => {
                            assert_eq!(build_of(&exact.body), build);
                            pinned.fetch_add(1, Ordering::Relaxed);
                        }
                        status => assert_eq!(status, 410, "build {build}"),
                    }
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let stop = Stop(&done);
        for n in 2..=FLIPS + 1 {
            write_build(&tree, n);
            assert_eq!(network.publish_everywhere("c", tree.path()), n);
        }
        until("copies were made", || copies.load(Ordering::Relaxed) >= 3);
        drop(stop);
    });
    let [copies, answers, pinned] = [copies, answers, pinned].map(AtomicU64::into_inner);
    eprintln!(
        "{FLIPS} flips: {copies} copies by rsync, {answers} answers of nginx, {pinned} pinned ones"
    );
    assert!(answers > 100 && pinned > 100);
    network.stop();
}

/// Lets the readers end, also when the story fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
