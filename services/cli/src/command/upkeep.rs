//! `log-repair` and `gc`: what the archive does about its log and its store.

use std::path::Path;

use serde_json::{Map, Value, json};
use wire::v1;

use super::ask::Archive;
use crate::args::{GcArgs, LogRepairArgs};
use crate::failure::{AGAIN, DATA, Failure};
use crate::output::{BAD, BOLD, GOOD, Output, bytes, count, plain};

/// Builds and statements that are named one by one; of more, how many.
const NAMED_MAX: usize = 20;

pub(crate) async fn log_repair(
    config: &Path,
    args: &LogRepairArgs,
    output: &Output,
) -> Result<u8, Failure> {
    let archive = Archive::open(config).await?;
    let request = v1::RepairLogRequest {
        dry_run: args.dry_run,
    };
    let reply = archive.patient_admin().await?.repair_log(request).await?;
    let channels = reply.into_inner().channels;
    if output.json {
        let channels: Vec<Value> = channels.iter().map(document).collect();
        output.json(&json!({ "dry_run": args.dry_run, "channels": channels }));
    } else {
        for channel in &channels {
            tell(channel, args.dry_run, output);
        }
        if channels.is_empty() {
            output.line("the archive has no channel yet");
        }
    }
    let bad = channels.iter().find_map(trouble);
    if let Some(text) = bad {
        return Err(Failure::text(DATA, text));
    }
    let waiting: u64 = channels.iter().map(|channel| channel.waiting).sum();
    if waiting > 0 && !args.dry_run {
        let text = format!(
            "{} wait for the log; the archive sends them when it can",
            count(waiting, "statement")
        );
        return Err(Failure::text(AGAIN, text));
    }
    Ok(0)
}

fn document(channel: &v1::RepairedChannel) -> Value {
    let build = |build: u64| (build > 0).then_some(build);
    json!({
        "channel": channel.channel,
        "journaled": channel.journaled,
        "logged": channel.logged,
        "lacking": channel.lacking,
        "unknown": channel.unknown,
        "foreign": channel.foreign,
        "newest": build(channel.newest),
        "reported": build(channel.reported),
        "waiting": channel.waiting,
        "halted": (!channel.halted.is_empty()).then_some(&channel.halted),
    })
}

fn tell(channel: &v1::RepairedChannel, dry_run: bool, output: &Output) {
    let name = &channel.channel;
    let lacking = channel.lacking.len() as u64;
    if lacking == 0 {
        let all = count(channel.logged, "statement");
        output.line(&format!(
            "{BOLD}{name}{BOLD:#}: {GOOD}nothing is missing{GOOD:#}, {all} on the log"
        ));
        return;
    }
    let done = if dry_run {
        "is missing on the log"
    } else {
        "was missing on the log and is said again"
    };
    output.line(&format!(
        "{BOLD}{name}{BOLD:#}: {} of {} {done}: {}",
        lacking,
        count(channel.journaled, "statement"),
        some(&channel.lacking)
    ));
}

fn some(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{more}", shown.join(", "))
}

/// What a person has to see to.
fn trouble(channel: &v1::RepairedChannel) -> Option<String> {
    let name = &channel.channel;
    if !channel.halted.is_empty() {
        return Some(format!(
            "channel {name} is halted: {}",
            plain(&channel.halted)
        ));
    }
    if !channel.unknown.is_empty() {
        let unknown = some(&channel.unknown);
        return Some(format!(
            "channel {name}: the log has {unknown}, signed by this archive and not in its journal; restore a newer copy of the journal"
        ));
    }
    (channel.reported > channel.newest).then(|| {
        format!(
            "channel {name}: mirrors report build {}, and the journal ends at {}; restore a newer copy of the journal",
            channel.reported, channel.newest
        )
    })
}

pub(crate) async fn gc(config: &Path, args: &GcArgs, output: &Output) -> Result<u8, Failure> {
    let archive = Archive::open(config).await?;
    let request = v1::CollectRequest {
        dry_run: args.dry_run,
    };
    let reply = archive
        .patient_admin()
        .await?
        .collect(request)
        .await?
        .into_inner();
    if output.json {
        let channels = reply.channels.iter();
        let builds: Map<String, Value> = channels
            .clone()
            .map(|channel| (channel.channel.clone(), json!(channel.builds)))
            .collect();
        let kept: Map<String, Value> = channels
            .map(|channel| (channel.channel.clone(), json!(channel.kept)))
            .collect();
        output.json(&json!({
            "dry_run": args.dry_run, "files": reply.files, "bytes": reply.bytes,
            "builds": builds, "kept": kept,
            "stopped": (!reply.stopped.is_empty()).then_some(&reply.stopped),
        }));
    } else {
        let (would, goes) = match args.dry_run {
            true => ("would be removed", "would go"),
            false => ("removed", "is gone"),
        };
        for channel in reply
            .channels
            .iter()
            .filter(|channel| !channel.builds.is_empty())
        {
            let builds: Vec<String> = channel.builds.iter().map(u64::to_string).collect();
            output.line(&format!(
                "{BOLD}{}{BOLD:#}: content of builds {} {goes}; {} kept",
                channel.channel,
                some(&builds),
                count(channel.kept, "build"),
            ));
        }
        output.line(&format!(
            "{}, {} {would}",
            count(reply.files, "file"),
            bytes(reply.bytes)
        ));
    }
    if reply.stopped.is_empty() {
        return Ok(0);
    }
    let text = format!("{BAD}not finished{BAD:#}: {}; run it again", reply.stopped);
    Err(Failure::text(AGAIN, text))
}
