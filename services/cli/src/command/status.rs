//! `status`: mirrors x channels.

use std::path::Path;

use comfy_table::{Cell, Color, Table, presets};
use mirrorlog_core::consistency::BuildStatus;
use mirrorlog_core::id::Build;
use serde_json::{Map, Value, json};
use wire::v1;

use super::ask::Archive;
use crate::args::StatusArgs;
use crate::failure::{ABSENT, Failure};
use crate::output::{BOLD, Output, bytes, count, plain};

pub(crate) async fn run(config: &Path, args: &StatusArgs, output: &Output) -> Result<u8, Failure> {
    let archive = Archive::open(config).await?;
    let channel = args
        .channel
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let request = v1::StatusRequest {
        channel: channel.clone(),
    };
    let status = archive
        .consistency()
        .await?
        .status(request)
        .await?
        .into_inner();
    if !channel.is_empty() && status.channels.is_empty() {
        return Err(Failure::text(
            ABSENT,
            format!("no build of channel {channel} is known; see: mirrorlog log"),
        ));
    }
    if output.json {
        output.json(&document(&status));
    } else {
        table(&status, output);
    }
    Ok(0)
}

fn document(status: &v1::StatusReply) -> Value {
    let channels = status.channels.iter().map(|channel| {
        let wanted: Map<String, Value> = channel
            .wanted
            .iter()
            .map(|(pool, build)| (pool.clone(), json!(build)))
            .collect();
        json!({ "channel": channel.channel, "build": channel.build, "wanted": wanted })
    });
    let mirrors = status.mirrors.iter().map(|mirror| {
        let channels = mirror.channels.iter().map(|c| {
            json!({
                "channel": c.channel, "live": number(c.live), "staged": number(c.staged), "state": c.state,
                "missing": c.missing, "lag_builds": c.lag_builds, "lag_seconds": c.lag_seconds,
                "reason": if c.reason.is_empty() { Value::Null } else { json!(c.reason) },
                "retained": c.retained, "fetch_bytes_per_s": c.fetch_bytes_per_s,
                "audit": {
                    "sampled_files": c.sampled_files, "confidence": BuildStatus::CONFIDENCE,
                    "bad_at_most": c.bad_at_most,
                },
                "view": if c.view.is_empty() { "everything" } else { &c.view },
            })
        });
        json!({
            "id": mirror.id, "pool": mirror.pool, "url": mirror.url,
            "channels": channels.collect::<Vec<_>>(),
        })
    });
    json!({ "channels": channels.collect::<Vec<_>>(), "mirrors": mirrors.collect::<Vec<_>>() })
}

/// Why it is not complete; else what it carries when that is a part.
fn remark(channel: &v1::MirrorChannel) -> String {
    match (channel.reason.as_str(), channel.view.as_str()) {
        ("", "") => String::new(),
        ("", view) => format!("carries {view}"),
        (reason, _) => reason.to_owned(),
    }
}

fn number(build: u64) -> Value {
    Build::new(build).map_or(Value::Null, |build| json!(build.get()))
}

fn table(status: &v1::StatusReply, output: &Output) {
    for channel in &status.channels {
        let mut wanted: Vec<String> = channel
            .wanted
            .iter()
            .map(|(pool, build)| format!("{pool} {build}"))
            .collect();
        wanted.sort();
        let wanted = if wanted.is_empty() {
            "none yet".to_owned()
        } else {
            wanted.join(", ")
        };
        output.line(&format!(
            "{BOLD}{}{BOLD:#} newest {}, wanted {wanted}",
            channel.channel, channel.build
        ));
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "MIRROR", "POOL", "CHANNEL", "LIVE", "STAGED", "STATE", "LAG", "MISSING", "RATE", "REASON",
    ]);
    for mirror in &status.mirrors {
        if mirror.channels.is_empty() {
            let unknown = Cell::new("unknown").fg(Color::Yellow);
            table.add_row(vec![
                Cell::new(&mirror.id),
                Cell::new(&mirror.pool),
                Cell::new("-"),
                Cell::new("-"),
                Cell::new("-"),
                unknown,
            ]);
        }
        for c in &mirror.channels {
            let color = match c.state.as_str() {
                "complete" => Color::Green,
                "revoked" => Color::Red,
                _pending => Color::Yellow,
            };
            let lag = if c.lag_builds == 0 {
                "-".to_owned()
            } else {
                format!("{}, {:.0} s", count(c.lag_builds, "build"), c.lag_seconds)
            };
            let rate = if c.fetch_bytes_per_s == 0 {
                "-".to_owned()
            } else {
                format!("{}/s", bytes(c.fetch_bytes_per_s))
            };
            let build =
                |number: u64| Build::new(number).map_or("-".to_owned(), |build| build.to_string());
            table.add_row(vec![
                Cell::new(&mirror.id),
                Cell::new(&mirror.pool),
                Cell::new(&c.channel),
                Cell::new(build(c.live)),
                Cell::new(build(c.staged)),
                Cell::new(&c.state).fg(color),
                Cell::new(lag),
                Cell::new(if c.missing == 0 {
                    "-".to_owned()
                } else {
                    c.missing.to_string()
                }),
                Cell::new(rate),
                Cell::new(plain(&remark(c))),
            ]);
        }
    }
    if status.mirrors.is_empty() {
        output.line("no mirror is known to the consistency service");
    } else {
        output.line(&table.trim_fmt());
    }
}
