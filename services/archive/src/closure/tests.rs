#![allow(clippy::unwrap_used)]

use mirrorlog_core::id::{ChannelId, Digest};
use mirrorlog_core::layout::Layout;

use super::*;
use crate::publish::Sibling;

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for (suite, package) in [("noble", "a"), ("noble-security", "b")] {
        let index = format!(
            "Package: {package}\nFilename: pool/{package}.deb\nSize: 1\nSHA256: {}\n\n",
            Digest::of(b"x")
        );
        write(&format!("dists/{suite}/main/binary-amd64/Packages"), &index);
        let line = format!(
            " {} {} main/binary-amd64/Packages\n",
            Digest::of(index.as_bytes()),
            index.len()
        );
        write(
            &format!("dists/{suite}/Release"),
            &format!("Suite: {suite}\nSHA256:\n{line}"),
        );
        write(&format!("pool/{package}.deb"), "x");
    }
    write("pool/other.deb", "x");
    write("README", "x");
    std::os::unix::fs::symlink("noble", dir.path().join("dists/lts")).unwrap();
    std::os::unix::fs::symlink("lts", dir.path().join("dists/stable")).unwrap();
    dir
}

fn channel(suites: &[&str], catch_all: bool) -> Channel {
    let sibling = |suite: &str| Sibling {
        id: ChannelId::new(suite).unwrap(),
        root: None,
        suites: vec![suite.to_owned()],
    };
    Channel {
        head_collected: false,
        head_lost: false,
        id: ChannelId::new("c").unwrap(),
        layout: Layout::Debian,
        head: None,
        newest: 0,
        wanted: None,
        retracted_roots: Vec::new(),
        retracted_steps: Vec::new(),
        suites: suites.iter().map(|s| (*s).to_owned()).collect(),
        catch_all,
        siblings: if catch_all {
            vec![sibling("noble"), sibling("noble-security")]
        } else {
            Vec::new()
        },
    }
}

fn taken(channel: &Channel) -> Vec<String> {
    let dir = tree();
    let tree = Tree::open(dir.path()).unwrap();
    let mut faults = Faults::default();
    let part = Part::of(channel, &tree, &mut faults).unwrap();
    assert!(faults.is_empty());
    let all = [
        "README",
        "dists/lts",
        "dists/noble-security/Release",
        "dists/noble/Release",
        "dists/noble/main/binary-amd64/Packages",
        "dists/stable",
        "pool/a.deb",
        "pool/b.deb",
        "pool/other.deb",
    ];
    let takes = |path: &&str| part.takes(&EntryPath::new(path.as_bytes()).unwrap());
    all.into_iter().filter(takes).map(str::to_owned).collect()
}

#[test]
fn a_closure_takes_its_suite_the_links_to_it_and_what_its_indexes_name() {
    let expected = [
        "dists/lts",
        "dists/noble/Release",
        "dists/noble/main/binary-amd64/Packages",
        "dists/stable",
        "pool/a.deb",
    ];
    assert_eq!(taken(&channel(&["noble"], false)), expected);
    assert_eq!(
        taken(&channel(&["stable"], false)),
        expected,
        "a link is as good"
    );
    assert_eq!(
        taken(&channel(&["noble-security"], false)),
        ["dists/noble-security/Release", "pool/b.deb"]
    );
}

#[test]
fn catch_all_takes_the_rest() {
    assert_eq!(taken(&channel(&[], true)), ["README", "pool/other.deb"]);
}

#[test]
fn a_configured_suite_that_is_not_there_is_a_fault() {
    let dir = tree();
    let tree = Tree::open(dir.path()).unwrap();
    let mut faults = Faults::default();
    Part::of(&channel(&["jammy"], false), &tree, &mut faults).unwrap();
    assert_eq!(faults.list()[0].path, "dists/jammy");
}
