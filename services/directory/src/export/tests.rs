//! What an export writes and removes, and what not.
#![allow(clippy::unwrap_used)]

use super::*;

use crate::hostile::around::{Canary, RACES, Swapper};
use crate::hostile::names::{Hostile, NAMES, is_below};

#[test]
fn what_is_no_longer_written_goes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| (name.to_owned(), name.to_owned());
    std::fs::write(dir.path().join("robots.txt"), "mine").unwrap();
    assert_eq!(write_all(dir.path(), &[file("a/x"), file("b")]).unwrap(), 2);
    assert_eq!(write_all(dir.path(), &[file("b")]).unwrap(), 1);
    assert!(!dir.path().join("a/x").exists());
    assert_eq!(std::fs::read_to_string(dir.path().join("b")).unwrap(), "b");
    assert!(dir.path().join("robots.txt").exists());
    let foreign = write_all(dir.path(), &[file("b"), file("robots.txt")]);
    assert!(matches!(foreign, Err(ExportError::Foreign { .. })));
    let kept = std::fs::read_to_string(dir.path().join("robots.txt"));
    assert_eq!(kept.unwrap(), "mine");
}

#[test]
fn an_export_that_was_cut_off_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| (name.to_owned(), name.to_owned());
    std::fs::create_dir(dir.path().join("b")).unwrap();
    std::fs::write(dir.path().join(WRITTEN), "b\n").unwrap();
    let cut = write_all(dir.path(), &[file("a"), file("b")]);
    assert!(matches!(cut, Err(ExportError::Write { .. })));
    assert!(dir.path().join("a").exists());
    std::fs::remove_dir(dir.path().join("b")).unwrap();
    assert_eq!(write_all(dir.path(), &[file("a"), file("b")]).unwrap(), 2);
}

#[test]
fn invariant_no_name_that_a_record_was_given_is_removed_outside() {
    let canary = Canary::new();
    let dir = canary.inside().join("www");
    std::fs::create_dir(&dir).unwrap();
    for (name, out) in [("poo", "pool"), ("pool.", "secret"), ("b", "dists")] {
        std::os::unix::fs::symlink(canary.around().join(out), dir.join(name)).unwrap();
    }
    let mut hostile = Hostile(51);
    // Folders through symlinks are refused, and end the export.
    let is_refused = |name: &str| {
        let mut out = ["poo/", "pool./", "b/"].iter();
        out.any(|out| name.starts_with(out)) && is_below(name.as_bytes())
    };
    let paths = (0..NAMES).map(|_| String::from_utf8(hostile.path()));
    let paths: Vec<String> = paths.filter_map(Result::ok).collect();
    let lines: Vec<&str> = paths.iter().flat_map(|path| path.lines()).collect();
    let (through, plain): (Vec<&str>, Vec<&str>) = lines.iter().partition(|name| is_refused(name));
    assert!(plain.len() > 10_000 && through.len() > 500);
    for name in through {
        let removed = remove(&Top::open(&dir).unwrap(), name);
        assert!(removed.is_err() || !dir.join(name).exists(), "{name:?}");
    }
    let top = Top::open(&dir).unwrap();
    let gone = plain
        .iter()
        .filter(|name| remove(&top, name).is_ok())
        .count();
    assert!(gone > 10_000, "{gone}");
    canary.check();
}

#[test]
fn races_write_nothing_outside_of_the_export() {
    let canary = Canary::new();
    let dir = canary.inside().join("www");
    std::fs::create_dir_all(dir.join("noble")).unwrap();
    let out = |name: &str| canary.around().join(name);
    let swapper = Swapper::start(
        &canary.aside(),
        &[
            (dir.join("noble"), out("pool")),
            (dir.join("index.html"), out("secret")),
            (dir.join("index.html.new"), out("secret")),
            (dir.join(WRITTEN), out("secret")),
        ],
    );
    let file = |name: &str| (name.to_owned(), name.to_owned());
    let all = ["noble/a", "noble/new", "noble/gone", "index.html"].map(file);
    let (mut written, mut refused) = (0, 0);
    for step in 0..RACES as usize {
        // Every second time what the first one wrote is removed.
        let some = &all[step % 2 * 2..];
        match write_all(&dir, some) {
            Ok(_) => written += 1,
            Err(_) => refused += 1,
        }
    }
    let swaps = swapper.end();
    assert!(swaps > u64::from(RACES) / 10, "{swaps}");
    assert!(written > 100 && refused > 100, "{written} {refused}");
    canary.check();
}
