//! `log` and `diff`: what changed between builds.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::manifest::{self, Difference};
use mirrorlog_core::statement::Snapshot;
use runtime::store::Pages;
use serde_json::{Value, json};

use super::ask::Archive;
use crate::args::{DiffArgs, LogArgs};
use crate::failure::{CONFIG, DATA, Failure, OrExit as _};
use crate::output::{BOLD, Output, date, parse_time, plain};

/// Names shown for each kind of change; the rest is counted.
const NAMES_SHOWN: usize = 6;
/// Pause between two looks of `--follow`.
const FOLLOW_PAUSE: Duration = Duration::from_millis(500);

pub(crate) async fn diff(config: &Path, args: &DiffArgs, output: &Output) -> Result<u8, Failure> {
    let mut archive = Archive::open(config).await?;
    let (_, old) = archive.snapshot(&args.channel, args.old).await?;
    let (_, new) = archive.snapshot(&args.channel, args.new).await?;
    let pages = archive.pages()?;
    for difference in manifest::diff(&pages, Some(&old.root), Some(&new.root)) {
        let difference = difference.or_exit(DATA)?;
        let (sign, change) = kind(&difference);
        if output.json {
            let size = difference.new.as_ref().map(|(_, entry)| entry.size_bytes());
            output.json(
                &json!({ "path": difference.path.to_string(), "change": change, "size": size }),
            );
        } else {
            output.line(&format!("{sign} {}", plain(&difference.path.to_string())));
        }
    }
    Ok(0)
}

fn kind(difference: &Difference) -> (char, &'static str) {
    match (&difference.old, &difference.new) {
        (None, _) => ('+', "added"),
        (Some(_), Some(_)) => ('~', "changed"),
        (Some(_), None) => ('-', "removed"),
    }
}

pub(crate) async fn log(config: &Path, args: &LogArgs, output: &Output) -> Result<u8, Failure> {
    let mut archive = Archive::open(config).await?;
    let pages = archive.pages()?;
    let since = args.since.as_deref().map(parse_since).transpose()?;
    archive.known(args.channel.as_ref()).await?;
    let mut shown: BTreeMap<ChannelId, Build> = BTreeMap::new();
    loop {
        let channels = match &args.channel {
            Some(channel) => vec![channel.clone()],
            None => archive.channels().await?,
        };
        let mut fresh = Vec::new();
        for channel in channels {
            fresh.extend(
                lines(
                    &mut archive,
                    &pages,
                    &channel,
                    shown.get(&channel).copied(),
                    since,
                )
                .await?,
            );
        }
        fresh.sort_by_key(|line| {
            (
                line.snapshot.created,
                line.snapshot.channel.clone(),
                line.snapshot.build,
            )
        });
        for line in fresh {
            shown.insert(line.snapshot.channel.clone(), line.snapshot.build);
            line.print(output);
        }
        if !args.follow {
            return Ok(0);
        }
        tokio::time::sleep(FOLLOW_PAUSE).await;
    }
}

#[derive(Clone, Copy)]
enum Since {
    Build(Build),
    TimeMs(i64),
}

fn parse_since(text: &str) -> Result<Since, Failure> {
    if let Ok(build) = text.parse::<Build>() {
        return Ok(Since::Build(build));
    }
    parse_time(text).map(Since::TimeMs).ok_or_else(|| {
        Failure::text(
            CONFIG,
            format!(
                "{text:?} is no build, no day such as 2026-11-23 and no time such as 2026-11-23T10:00:00Z"
            ),
        )
    })
}

struct Line {
    snapshot: Snapshot,
    retracted: Option<String>,
    packages: Packages,
    files: [u64; 3],
}

async fn lines(
    archive: &mut Archive,
    pages: &Pages,
    channel: &ChannelId,
    shown: Option<Build>,
    since: Option<Since>,
) -> Result<Vec<Line>, Failure> {
    let first = shown.map_or(Build::FIRST, Build::next);
    let snapshots = archive.snapshots(channel, Build::FIRST).await?;
    if snapshots.last().is_none_or(|(_, last)| last.build < first) {
        return Ok(Vec::new());
    }
    let roots: BTreeMap<Build, Digest> = snapshots.iter().map(|(_, s)| (s.build, s.root)).collect();
    let retractions = archive.retractions(channel).await?;
    let wanted = |s: &Snapshot| {
        s.build >= first
            && match since {
                None => true,
                Some(Since::Build(build)) => s.build >= build,
                Some(Since::TimeMs(ms)) => s.created.as_ms() >= ms,
            }
    };
    let mut lines = Vec::new();
    for (_, snapshot) in snapshots.into_iter().filter(|(_, s)| wanted(s)) {
        let base = snapshot.base.and_then(|base| roots.get(&base));
        let (packages, files) = changes(pages, base, &snapshot.root)?;
        let retracted = retractions
            .iter()
            .find(|r| r.covers(snapshot.build))
            .map(|r| r.reason.clone());
        lines.push(Line {
            snapshot,
            retracted,
            packages,
            files,
        });
    }
    Ok(lines)
}

/// Names of packages, with versions where the file's name tells them.
#[derive(Default)]
struct Packages {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

fn changes(
    pages: &Pages,
    base: Option<&Digest>,
    root: &Digest,
) -> Result<(Packages, [u64; 3]), Failure> {
    let mut files = [0; 3];
    let (mut gone, mut come): (BTreeMap<String, String>, BTreeMap<String, String>) =
        Default::default();
    let mut packages = Packages::default();
    for difference in manifest::diff(pages, base, Some(root)) {
        let difference = difference.or_exit(DATA)?;
        let name = String::from_utf8_lossy(difference.path.name()).into_owned();
        let package = package(&name);
        match (&difference.old, &difference.new) {
            (None, _) => {
                files[0] += 1;
                come.extend(package);
            }
            (Some(_), Some(_)) => {
                files[1] += 1;
                packages
                    .changed
                    .extend(package.map(|(name, version)| format!("{name} {version}")));
            }
            (Some(_), None) => {
                files[2] += 1;
                gone.extend(package);
            }
        }
    }
    for (name, version) in come {
        match gone.remove(&name) {
            Some(before) if before != version => packages
                .changed
                .push(format!("{name} {before} -> {version}")),
            Some(_) => {}
            None => packages.added.push(format!("{name} {version}")),
        }
    }
    packages.removed.extend(
        gone.into_iter()
            .map(|(name, version)| format!("{name} {version}")),
    );
    Ok((packages, files))
}

/// Name and version from a package's file name: Debian's `name_version_arch.deb`, OpenBSD's `name-version.tgz`.
fn package(file: &str) -> Option<(String, String)> {
    if let Some(stem) = file.strip_suffix(".deb") {
        let mut parts = stem.splitn(3, '_');
        return Some((parts.next()?.to_owned(), parts.next()?.replace("%3a", ":")));
    }
    let stem = file.strip_suffix(".tgz")?;
    let version = stem
        .match_indices('-')
        .find(|(at, _)| stem[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    let (at, _) = version?;
    Some((stem[..at].to_owned(), stem[at + 1..].to_owned()))
}

impl Line {
    fn print(&self, output: &Output) {
        let s = &self.snapshot;
        let [added, changed, removed] = self.files;
        if output.json {
            output.json(&json!({
                "channel": s.channel.as_str(), "build": s.build.get(), "created": date(s.created.as_ms()),
                "lane": s.lane.as_str(), "files": { "added": added, "changed": changed, "removed": removed },
                "added": self.packages.added, "changed": self.packages.changed, "removed": self.packages.removed,
                "retracted": self.retracted.as_ref().map_or(Value::Null, |reason| json!(reason)),
            }));
            return;
        }
        let time = date(s.created.as_ms());
        let retracted = self.retracted.as_ref().map_or_else(String::new, |reason| {
            format!("  RETRACTED: {}", plain(reason))
        });
        output.line(&format!(
            "{time}  {BOLD}{}@{}{BOLD:#}  {}  +{added} ~{changed} -{removed} files{retracted}",
            s.channel, s.build, s.lane
        ));
        for (sign, names) in [
            ('+', &self.packages.added),
            ('~', &self.packages.changed),
            ('-', &self.packages.removed),
        ] {
            for name in names.iter().take(NAMES_SHOWN) {
                output.line(&format!("  {sign} {}", plain(name)));
            }
            if names.len() > NAMES_SHOWN {
                output.line(&format!(
                    "  {sign} … and {} more",
                    names.len() - NAMES_SHOWN
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn file_names_tell_packages() {
        let pair = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        assert_eq!(package("libc6_2.36-9_amd64.deb"), pair("libc6", "2.36-9"));
        assert_eq!(package("git_1%3a2.39.5_amd64.deb"), pair("git", "1:2.39.5"));
        assert_eq!(package("py3-foo-1.2p0.tgz"), pair("py3-foo", "1.2p0"));
        assert_eq!(package("Packages.xz"), None);
    }
}
