//! About ten small real packages: from the system's own apt sources, else built here.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::failure::{ABSENT, Failure, IO, OrExit as _};
use crate::output::Output;

/// Small, old, and in every Debian and Ubuntu.
const NAMES: [&str; 10] = [
    "hello",
    "tree",
    "bc",
    "dc",
    "ed",
    "figlet",
    "sl",
    "time",
    "cowsay",
    "moreutils",
];

/// Fetches packages into `dir` without touching the system's apt. Returns their files.
pub(super) async fn gather(dir: &Path, output: &Output) -> Result<Vec<PathBuf>, Failure> {
    std::fs::create_dir_all(dir).or_exit(IO)?;
    if fetch(dir).await {
        let debs = found(dir)?;
        if debs.len() >= 4 {
            output.line(&format!(
                "  {} packages from the system's apt sources",
                debs.len()
            ));
            return Ok(debs);
        }
    }
    output.line("  the system's apt sources give none; building a few with dpkg-deb");
    for (number, name) in NAMES.iter().take(6).enumerate() {
        build(dir, name, number + 1).await?;
    }
    found(dir)
}

fn found(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let files = std::fs::read_dir(dir).or_exit(IO)?;
    let mut debs: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    debs.retain(|file| file.extension().is_some_and(|extension| extension == "deb"));
    debs.sort();
    Ok(debs)
}

/// `apt-get update` and `download` with lists and caches of its own.
async fn fetch(dir: &Path) -> bool {
    let own = |option: &str, name: &str| format!("{option}={}", dir.join(name).display());
    let options = [
        own("Dir::State::Lists", "lists"),
        own("Dir::Cache", "cache"),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Retries=1".to_owned(),
        "Acquire::Languages=none".to_owned(),
    ];
    for folder in ["lists/partial", "cache/archives/partial"] {
        if std::fs::create_dir_all(dir.join(folder)).is_err() {
            return false;
        }
    }
    for words in [&["update"][..], &["download"][..]] {
        let mut command = Command::new("apt-get");
        for option in &options {
            command.arg("-o").arg(option);
        }
        command
            .arg("-q")
            .args(words)
            .current_dir(dir)
            .stdin(Stdio::null());
        if words[0] == "download" {
            command.args(NAMES);
        }
        match command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await
        {
            Ok(status) if status.success() => {}
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

async fn build(dir: &Path, name: &str, number: usize) -> Result<(), Failure> {
    let tree = dir.join(format!("build-{name}"));
    std::fs::create_dir_all(tree.join("DEBIAN")).or_exit(IO)?;
    std::fs::create_dir_all(tree.join("usr/share/doc").join(name)).or_exit(IO)?;
    let control = format!(
        "Package: {name}\nVersion: {number}.0-1\nArchitecture: all\nMaintainer: mirrorlog demo <demo@example.org>\n\
         Description: a package of the demonstration\n"
    );
    std::fs::write(tree.join("DEBIAN/control"), control).or_exit(IO)?;
    std::fs::write(
        tree.join("usr/share/doc").join(name).join("copyright"),
        "demo\n",
    )
    .or_exit(IO)?;
    let built = Command::new("dpkg-deb")
        .args(["--build", "--root-owner-group"])
        .arg(&tree)
        .arg(dir.join(format!("{name}_{number}.0-1_all.deb")))
        .stdout(Stdio::null())
        .status()
        .await
        .map_err(|error| {
            Failure::text(
                ABSENT,
                format!("dpkg-deb does not run ({error}): run deploy/setup"),
            )
        })?;
    if built.success() {
        Ok(())
    } else {
        Err(Failure::text(
            IO,
            format!("dpkg-deb could not build {name}"),
        ))
    }
}
