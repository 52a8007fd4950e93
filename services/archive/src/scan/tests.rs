#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use mirrorlog_core::manifest::{self, Mode};
use tempfile::TempDir;

use super::*;
use crate::publish::{Purpose, Rule};

mod hostile;

struct Bench {
    _dir: TempDir,
    top: PathBuf,
    workspace: Workspace,
}

impl Bench {
    fn new() -> Self {
        Self::with(Purpose::Publish)
    }

    fn with(purpose: Purpose) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().to_owned();
        Self::at(dir, top, purpose)
    }

    /// Somewhere else.
    fn within(dir: TempDir, top: PathBuf) -> Self {
        Self::at(dir, top, Purpose::Publish)
    }

    fn at(dir: TempDir, top: PathBuf, purpose: Purpose) -> Self {
        std::fs::create_dir(top.join("tree")).unwrap();
        let workspace = Workspace::open(&top.join("store"), &top.join("scratch"), purpose).unwrap();
        Self {
            _dir: dir,
            top,
            workspace,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.join("tree").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Makes files look as if they had been there for long: only then the cache trusts them.
    fn age(&self) {
        std::thread::sleep(Duration::from_millis(2100));
    }

    fn scan(&self) -> (Scanned, Faults, u64) {
        self.scan_over(None)
    }

    fn scan_over(&self, published: Option<Digest>) -> (Scanned, Faults, u64) {
        let tree = Tree::open(&self.top.join("tree")).unwrap();
        let counters = Counters::default();
        let mut faults = Faults::default();
        let input = ScanInput {
            tree: &tree,
            workspace: &self.workspace,
            select: &|_path| true,
            cache: &self.top.join("scan/c.cache"),
            published,
            counters: &counters,
        };
        let scanned = scan(&input, &mut faults).unwrap();
        (scanned, faults, counters.files_read())
    }

    fn entries(&self, root: &Digest) -> Vec<(String, Entry)> {
        manifest::iter(&self.workspace, root, b"", None)
            .map(|found| found.unwrap())
            .map(|(_, path, entry)| (path.to_string(), entry))
            .collect()
    }
}

#[test]
fn a_tree_becomes_a_manifest_and_its_content_is_stored() {
    let bench = Bench::new();
    bench.write("pool/a.deb", "aaa");
    bench.write("pool/a/b.deb", "bb");
    bench.write("run", "#!");
    std::fs::set_permissions(bench.path("run"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::hard_link(bench.path("pool/a.deb"), bench.path("pool/c.deb")).unwrap();
    symlink("pool/a", bench.path("link")).unwrap();
    std::fs::create_dir_all(bench.path("empty/inside")).unwrap();
    let (scanned, faults, read) = bench.scan();
    assert!(faults.is_empty(), "{:?}", faults.list());
    assert_eq!(
        (scanned.summary.entries, scanned.summary.bytes, read),
        (5, 10, 4)
    );
    assert_eq!(scanned.empty_folders, 2);
    let entries = bench.entries(&scanned.summary.root);
    let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["link", "pool/a.deb", "pool/a/b.deb", "pool/c.deb", "run"]
    );
    assert_eq!(
        entries[0].1,
        Entry::Symlink {
            target: (*b"pool/a").into()
        }
    );
    assert_eq!(entries[4].1.file().unwrap().mode, Mode::Executable);
    assert_eq!(
        bench.workspace.store().size(&Digest::of(b"bb")).unwrap(),
        Some(2)
    );
}

#[test]
fn what_cannot_be_published_is_listed_and_nothing_is_cached() {
    let bench = Bench::new();
    bench.write("good", "x");
    bench.write("new\nline", "x");
    symlink("/etc/passwd", bench.path("absolute")).unwrap();
    symlink("../up", bench.path("up")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(bench.path("socket")).unwrap();
    let (scanned, faults, _read) = bench.scan();
    drop(socket);
    let mut rules: Vec<Rule> = faults.list().iter().map(|fault| fault.what).collect();
    rules.sort();
    assert_eq!(
        rules,
        [Rule::Path, Rule::SpecialFile, Rule::Symlink, Rule::Symlink]
    );
    assert_eq!(scanned.summary.entries, 1);
    assert!(!bench.top.join("scan/c.cache").exists());
}

#[test]
fn unchanged_files_are_not_read_again_and_fresh_ones_are() {
    let bench = Bench::new();
    bench.write("old/a", "1");
    bench.write("old/b", "2");
    let (first, ..) = bench.scan();
    let (_again, _faults, read) = bench.scan();
    assert_eq!(read, 2, "stamped within two seconds of the scan");
    bench.age();
    bench.scan();
    bench.write("old/c", "3");
    let (second, faults, read) = bench.scan();
    assert!(faults.is_empty());
    assert_eq!(read, 1, "only the new one");
    assert_eq!(second.summary.entries, 3);
    assert_ne!(first.summary.root, second.summary.root);
    // Content that the store lost is taken in again whatever the cache says.
    bench.workspace.store().remove(&Digest::of(b"1")).unwrap();
    bench.scan();
    assert_eq!(
        bench.workspace.store().size(&Digest::of(b"1")).unwrap(),
        Some(1)
    );
}

#[test]
fn a_dry_run_leaves_nothing_behind() {
    let bench = Bench::with(Purpose::DryRun);
    bench.write("a", "x");
    let (scanned, faults, _read) = bench.scan();
    assert!(faults.is_empty());
    assert_eq!(bench.entries(&scanned.summary.root).len(), 1);
    assert_eq!(
        bench.workspace.store().size(&Digest::of(b"x")).unwrap(),
        None
    );
    assert_eq!(
        bench.workspace.store().size(&scanned.summary.root).unwrap(),
        None
    );
}

#[test]
fn a_tree_that_changes_is_noticed() {
    let bench = Bench::new();
    for n in 0..3 {
        bench.write(&format!("d/{n}"), "before");
    }
    let tree = Tree::open(&bench.top.join("tree")).unwrap();
    let counters = Counters::default();
    let meddled = std::sync::atomic::AtomicBool::new(false);
    // Called for each entry while the scan runs: the moment at which somebody else writes.
    let select = |_path: &EntryPath| {
        if !meddled.swap(true, std::sync::atomic::Ordering::Relaxed) {
            std::fs::write(bench.path("d/1"), "after!").unwrap();
            std::fs::write(bench.path("d/new"), "x").unwrap();
        }
        true
    };
    let mut faults = Faults::default();
    let input = ScanInput {
        tree: &tree,
        workspace: &bench.workspace,
        select: &select,
        cache: &bench.top.join("scan/c.cache"),
        published: None,
        counters: &counters,
    };
    scan(&input, &mut faults).unwrap();
    let paths: Vec<&str> = faults
        .list()
        .iter()
        .map(|fault| fault.path.as_str())
        .collect();
    assert!(
        faults
            .list()
            .iter()
            .all(|fault| fault.what == Rule::Changed),
        "{:?}",
        faults.list()
    );
    assert!(paths.contains(&"d") && paths.contains(&"d/1"), "{paths:?}");
}

#[test]
fn immutable_files_are_linked_and_stay_cached() {
    let mut bench = Bench::new();
    bench.workspace = bench
        .workspace
        .with_immutable(&["pool/".to_owned(), "*.iso".to_owned()])
        .unwrap();
    for name in ["pool/a/b.deb", "image.iso", "dists/Release"] {
        bench.write(name, name);
    }
    bench.age();
    let (first, faults, read) = bench.scan();
    assert!(
        faults.is_empty(),
        "a second name is no change: {:?}",
        faults.list()
    );
    assert_eq!(read, 3);
    let links = |name: &str| {
        std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata(bench.path(name)).unwrap())
    };
    assert_eq!(
        (
            links("pool/a/b.deb"),
            links("image.iso"),
            links("dists/Release")
        ),
        (2, 2, 1)
    );
    let (second, faults, read) = bench.scan();
    assert!(faults.is_empty());
    assert_eq!((read, second.summary.root), (0, first.summary.root));
}

#[test]
fn a_lost_blob_of_a_published_build_is_stored_again() {
    let bench = Bench::new();
    bench.write("a", "content");
    bench.age();
    let (first, ..) = bench.scan();
    let Some(Entry::File(file)) = bench.entries(&first.summary.root).pop().map(|(_, e)| e) else {
        panic!("no file");
    };
    let store = bench.workspace.store();
    store.remove(&file.digest).unwrap();
    let again = bench.scan_over(Some(first.summary.root));
    assert_eq!(again.0.summary, first.summary);
    assert_eq!(again.2, 1, "read again");
    assert_eq!(store.size(&file.digest).unwrap(), Some(7));
    assert_eq!(bench.scan_over(Some(first.summary.root)).2, 0);
}
