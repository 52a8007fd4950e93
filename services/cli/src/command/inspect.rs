//! `show` and `ls`: look into one build.

use std::path::Path;

use mirrorlog_core::id::Build;
use mirrorlog_core::manifest::{self, Entry};
use serde_json::json;

use super::ask::Archive;
use crate::args::{LsArgs, ShowArgs};
use crate::failure::{DATA, Failure, OrExit as _};
use crate::output::{BOLD, Output, bytes, count, date, plain};

pub(crate) async fn show(config: &Path, args: &ShowArgs, output: &Output) -> Result<u8, Failure> {
    let mut archive = Archive::open(config).await?;
    let (signed, snapshot) = archive.build_or_head(&args.channel, args.build).await?;
    let retractions = archive.retractions(&args.channel).await?;
    let retracted = retractions
        .iter()
        .find(|r| r.covers(snapshot.build))
        .map(|r| r.reason.clone());
    let s = &snapshot;
    if output.json {
        let notices = s
            .notices
            .iter()
            .map(|n| json!({ "package": n.package, "text": n.text }));
        output.json(&json!({
            "channel": s.channel.as_str(), "build": s.build.get(), "base": s.base.map(Build::get),
            "root": s.root.to_hex(), "previous": s.previous.map(|d| d.to_hex()),
            "snapshot": signed.digest().to_hex(), "key": signed.signature.key.to_string(),
            "created": date(s.created.as_ms()), "files": s.entries, "bytes": s.bytes,
            "lane": s.lane.as_str(), "mount": s.mount.as_str(), "layout": s.layout.as_str(),
            "precedence": s.precedence, "notices": notices.collect::<Vec<_>>(), "retracted": retracted,
        }));
        return Ok(0);
    }
    output.line(&format!("{BOLD}{}@{}{BOLD:#}", s.channel, s.build));
    if let Some(reason) = retracted {
        output.line(&format!("retracted  {}", plain(&reason)));
    }
    output.line(&format!("created    {}", date(s.created.as_ms())));
    output.line(&format!("lane       {}", s.lane));
    output.line(&format!("served     {} ({})", s.mount, s.layout));
    output.line(&format!(
        "content    {}, {}",
        count(s.entries, "entry"),
        bytes(s.bytes)
    ));
    output.line(&format!("root       {}", s.root));
    output.line(&format!(
        "base       {}",
        s.base.map_or("none".to_owned(), |base| base.to_string())
    ));
    output.line(&format!("snapshot   {}", signed.digest()));
    output.line(&format!("signed by  {}", signed.signature.key));
    for notice in &s.notices {
        output.line(&format!(
            "notice     {}: {}",
            notice.package,
            plain(&notice.text)
        ));
    }
    Ok(0)
}

pub(crate) async fn ls(config: &Path, args: &LsArgs, output: &Output) -> Result<u8, Failure> {
    let mut archive = Archive::open(config).await?;
    let (channel, build) = &args.at;
    let (_, snapshot) = archive.build_or_head(channel, *build).await?;
    let pages = archive.pages()?;
    let mut found = false;
    for entry in manifest::iter(&pages, &snapshot.root, args.prefix.as_bytes(), None) {
        let (_, path, entry) = entry.or_exit(DATA)?;
        found = true;
        let (channel, build) = (channel.as_str(), snapshot.build.get());
        match (output.json, entry) {
            (true, Entry::File(file)) => output.json(&json!({
                "channel": channel, "build": build, "path": path.to_string(), "size": file.size_bytes,
                "sha256": file.digest.to_hex(), "mode": format!("{:o}", file.mode.bits()),
                "mtime": file.mtime.as_seconds(),
            })),
            (true, Entry::Symlink { target }) => output.json(&json!({
                "channel": channel, "build": build, "path": path.to_string(),
                "target": String::from_utf8_lossy(&target),
            })),
            (false, Entry::File(file)) => {
                let time = date(file.mtime.as_seconds() * 1000);
                let mode = file.mode.bits();
                let path = plain(&path.to_string());
                output.line(&format!("{mode:o} {:>12} {time} {path}", file.size_bytes));
            }
            (false, Entry::Symlink { target }) => {
                let target = plain(&String::from_utf8_lossy(&target));
                let path = plain(&path.to_string());
                output.line(&format!("lnk {:>12} {:20} {path} -> {target}", "-", "-"));
            }
        }
    }
    if !found && !args.prefix.is_empty() {
        let text = format!(
            "build {} of {channel} has no path that starts with {:?}",
            snapshot.build, args.prefix
        );
        return Err(Failure::text(crate::failure::ABSENT, text));
    }
    Ok(0)
}
