//! Core decides and touches nothing: no runtime, no clock, no disk, no network in what it depends on.
//! And the walls between our crates, as STYLE.md draws them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// What core names itself. A new one is a decision: it must neither wait, nor read, nor ask for the time.
const DIRECT: [&str; 8] = [
    "bytes",
    "ed25519-dalek",
    "globset",
    "hex",
    "ipnet",
    "roaring",
    "sha2",
    "thiserror",
];

/// Crates that wait, or do input and output, or know the time; by the start of their names.
const IMPURE: [&str; 28] = [
    "tokio",
    "async",
    "futures",
    "mio",
    "smol",
    "polling",
    "socket2",
    "hyper",
    "tonic",
    "axum",
    "tower",
    "reqwest",
    "rustls",
    "sled",
    "tempfile",
    "memmap",
    "rustix",
    "nix",
    "libc",
    "notify",
    "walkdir",
    "ignore",
    "time",
    "chrono",
    "jiff",
    "tracing",
    "log",
    "getrandom",
];

/// Who may depend on whom among our crates. The binary and the tests see all.
const WALLS: [(&str, &[&str]); 9] = [
    ("mirrorlog-core", &[]),
    ("wire", &["mirrorlog-core"]),
    ("runtime", &["mirrorlog-core", "wire"]),
    ("fetcher", &["mirrorlog-core", "wire", "runtime"]),
    ("archive", &["mirrorlog-core", "wire", "runtime", "fetcher"]),
    ("mirror", &["mirrorlog-core", "wire", "runtime", "fetcher"]),
    (
        "consistency",
        &["mirrorlog-core", "wire", "runtime", "fetcher"],
    ),
    (
        "directory",
        &["mirrorlog-core", "wire", "runtime", "fetcher"],
    ),
    ("client", &["mirrorlog-core", "wire", "runtime", "fetcher"]),
];
const SEE_ALL: [&str; 4] = ["mirrorlog", "e2e", "bench", "fuzz"];

fn metadata() -> Metadata {
    // Offline works only for a platform whose crates are all here.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let options = ["--offline", "--filter-platform", &platform].map(str::to_owned);
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(options)
        .exec()
        .unwrap()
}

fn direct(package: &Package) -> BTreeSet<&str> {
    let normal = package
        .dependencies
        .iter()
        .filter(|one| one.kind == DependencyKind::Normal);
    normal.map(|one| one.name.as_str()).collect()
}

/// Everything that is linked with the package alone, by name. `cargo metadata` joins the features of the whole
/// workspace; `cargo tree` does not.
fn closure(package: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--offline", "--edges", "normal", "--prefix", "none"];
    let mut tree = Command::new(env!("CARGO"));
    tree.args(arguments)
        .args(["--format", "{p}", "--package", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = tree.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn core_names_only_what_it_may() {
    let metadata = metadata();
    let core = find(&metadata, "mirrorlog-core");
    assert_eq!(direct(core), BTreeSet::from(DIRECT));
}

#[test]
fn core_is_linked_with_nothing_impure() {
    let linked = closure("mirrorlog-core");
    assert!(linked.contains("digest"), "the closure is not followed");
    let impure: Vec<_> = linked
        .iter()
        .filter(|name| {
            let first = name.split(['-', '_']).next().unwrap();
            IMPURE.contains(&name.as_str()) || IMPURE.contains(&first)
        })
        .collect();
    assert!(impure.is_empty(), "core is linked with {impure:?}");
}

#[test]
fn clocks_are_banned_in_core() {
    let clippy = include_str!("../clippy.toml");
    for clock in ["std::time::SystemTime::now", "std::time::Instant::now"] {
        assert!(clippy.contains(clock), "clippy.toml does not ban {clock}");
    }
}

#[test]
fn no_crate_looks_over_its_wall() {
    let metadata = metadata();
    let walls = BTreeMap::from(WALLS);
    let ours: BTreeSet<&str> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        if SEE_ALL.contains(&name) {
            continue;
        }
        let allowed = walls
            .get(name)
            .unwrap_or_else(|| panic!("crate {name} has no wall here"));
        let seen: Vec<_> = direct(package)
            .into_iter()
            .filter(|dep| ours.contains(dep) && !allowed.contains(dep))
            .collect();
        assert!(seen.is_empty(), "{name} must not depend on {seen:?}");
    }
}

fn find<'a>(metadata: &'a Metadata, name: &str) -> &'a Package {
    let mut packages = metadata.packages.iter();
    packages
        .find(|package| package.name.as_str() == name)
        .unwrap()
}
