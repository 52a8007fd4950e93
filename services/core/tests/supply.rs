//! What we are built from: the rules of deny.toml, held in every run of the tests, and the list that operators get.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand, Package};
use spdx::{Expression, Licensee, ParseMode};
use toml::Value;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

const LIST: &str = "deploy/third-party-licences.md";

const HEAD: &str = "# Third-party licences

Every crate that mirrorlog is built and tested from, out of Cargo.lock, for Linux on x86_64. Written by
`MIRRORLOG_GOLDEN=new cargo test -p mirrorlog-core --test supply`; a test compares it.

| crate | version | licence |
| --- | --- | --- |
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(file: impl AsRef<Path>) -> Value {
    let file = root().join(file);
    let text = std::fs::read_to_string(&file).unwrap();
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn metadata() -> Metadata {
    // Offline works only for a platform whose crates are all here.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let options = ["--offline", "--locked", "--filter-platform", &platform].map(str::to_owned);
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(options)
        .exec()
        .unwrap()
}

/// What is built on this platform, ours apart.
fn foreign(metadata: &Metadata) -> Vec<&Package> {
    let nodes = &metadata.resolve.as_ref().unwrap().nodes;
    let built: BTreeSet<_> = nodes.iter().map(|node| &node.id).collect();
    let packages = metadata.packages.iter();
    packages
        .filter(|package| built.contains(&package.id) && package.source.is_some())
        .collect()
}

/// Name, version and source of everything in the lock file, other platforms' crates too.
fn locked() -> Vec<(String, String, Option<String>)> {
    let lock = read("Cargo.lock");
    let packages = lock["package"].as_array().unwrap().iter();
    let text = |package: &Value, key: &str| Some(package.get(key)?.as_str()?.to_owned());
    packages
        .map(|one| {
            let (name, version) = (text(one, "name"), text(one, "version"));
            (name.unwrap(), version.unwrap(), text(one, "source"))
        })
        .collect()
}

fn strings<'a>(list: &'a Value, key: &str) -> BTreeSet<&'a str> {
    let all = list.as_array().unwrap().iter();
    all.map(|one| match one.get(key) {
        Some(value) => value.as_str().unwrap(),
        None => one.as_str().unwrap(),
    })
    .collect()
}

#[test]
fn every_licence_is_one_that_we_allow() {
    let deny = read("deny.toml");
    let allowed: Vec<Licensee> = strings(&deny["licenses"]["allow"], "")
        .into_iter()
        .map(|licence| Licensee::parse(licence).unwrap())
        .collect();
    let metadata = metadata();
    let packages = foreign(&metadata);
    assert!(packages.len() > 100, "dependencies are not seen");
    let refused: Vec<String> = packages
        .into_iter()
        .filter(|package| {
            let licence = package.license.as_deref().unwrap_or_default();
            // Old crates write `MIT/Apache-2.0`.
            let expression = Expression::parse_mode(licence, ParseMode::LAX);
            !expression.is_ok_and(|expression| {
                expression.evaluate(|needed| allowed.iter().any(|one| one.satisfies(needed)))
            })
        })
        .map(|package| {
            format!(
                "{} {}: {:?}",
                package.name, package.version, package.license
            )
        })
        .collect();
    assert!(refused.is_empty(), "not in deny.toml: {refused:#?}");
}

#[test]
fn everything_comes_from_the_registry() {
    let deny = read("deny.toml");
    let allowed = strings(&deny["sources"]["allow-registry"], "");
    assert_eq!(
        allowed.into_iter().collect::<Vec<_>>(),
        [&CRATES_IO["registry+".len()..]]
    );
    assert!(deny["sources"]["allow-git"].as_array().unwrap().is_empty());
    let metadata = metadata();
    let ours: BTreeSet<&str> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    for (name, version, source) in locked() {
        match source.as_deref() {
            Some(source) => assert_eq!(source, CRATES_IO, "{name} {version}"),
            None => assert!(ours.contains(name.as_str()), "{name} comes from a folder"),
        }
    }
}

#[test]
fn nothing_banned_and_no_second_version_that_has_no_reason() {
    let deny = read("deny.toml");
    let bans = &deny["bans"];
    let locked = locked();
    let banned = strings(&bans["deny"], "crate");
    let found = locked
        .iter()
        .filter(|(name, ..)| banned.contains(name.as_str()));
    assert_eq!(
        found.collect::<Vec<_>>(),
        Vec::<&(String, String, Option<String>)>::new()
    );
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, version, _) in &locked {
        versions.entry(name).or_default().insert(version);
    }
    let skipped = strings(&bans["skip"], "crate");
    for (name, versions) in &versions {
        let named = |version: &&&str| skipped.contains(format!("{name}@{version}").as_str());
        let left = versions.iter().filter(|version| !named(version)).count();
        assert_eq!(
            left, 1,
            "{name} {versions:?}: name all but one in deny.toml, with a reason"
        );
    }
    for skip in skipped {
        let (name, version) = skip.split_once('@').unwrap();
        let there = versions
            .get(name)
            .is_some_and(|all| all.len() > 1 && all.contains(version));
        assert!(
            there,
            "deny.toml names {skip}, which is no second version any more"
        );
    }
}

#[test]
fn no_crate_of_ours_has_unsafe_code() {
    let workspace = read("Cargo.toml");
    let lint = &workspace["workspace"]["lints"]["rust"]["unsafe_code"];
    assert_eq!(lint.as_str(), Some("forbid"));
    let members = workspace["workspace"]["members"].as_array().unwrap();
    assert!(members.len() > 10);
    for member in members {
        let member = member.as_str().unwrap();
        let manifest = read(Path::new(member).join("Cargo.toml"));
        // Cargo refuses lints of its own beside it.
        let inherits = manifest["lints"]["workspace"].as_bool();
        assert_eq!(inherits, Some(true), "{member} has other lints");
    }
}

#[test]
fn the_list_of_licences_is_that_of_the_lock_file() {
    let metadata = metadata();
    let lines: BTreeSet<String> = foreign(&metadata)
        .into_iter()
        .map(|package| {
            let licence = package.license.as_deref().unwrap_or("none");
            format!("| {} | {} | {licence} |\n", package.name, package.version)
        })
        .collect();
    let file = root().join(LIST);
    if std::env::var("MIRRORLOG_GOLDEN").is_ok_and(|mode| mode == "new") {
        let text: String = lines.iter().map(String::as_str).collect();
        std::fs::write(&file, HEAD.to_owned() + &text).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let listed = text.strip_prefix(HEAD).unwrap_or_default();
    let listed: BTreeSet<String> = listed.lines().map(|line| format!("{line}\n")).collect();
    let missing: Vec<_> = lines.difference(&listed).collect();
    // Other machines need a few crates less.
    let more: Vec<_> = match std::env::consts::ARCH {
        "x86_64" => listed.difference(&lines).collect(),
        _other => Vec::new(),
    };
    assert!(
        missing.is_empty() && more.is_empty(),
        "{LIST} lacks {missing:?} and has {more:?}: write it anew, see its head"
    );
}
