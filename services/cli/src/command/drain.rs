//! `mirror drain` and `mirror resume`.

use std::path::Path;
use std::time::Duration;

use mirrorlog_core::id::MirrorId;
use mirrorlog_core::statement::OrderKind;
use serde_json::{Value, json};
use tokio::time::Instant;
use wire::v1;

use super::ask::Archive;
use super::order::known_mirror;
use crate::args::{DrainArgs, ResumeArgs};
use crate::failure::{AGAIN, DOWN, Failure};
use crate::output::{BOLD, Output};

/// How long those who send clients are waited for.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn drain(config: &Path, args: DrainArgs, output: &Output) -> Result<u8, Failure> {
    let kind = OrderKind::Drain {
        reason: args.reason,
    };
    order(config, &args.mirror, &kind, args.dry_run, output).await
}

pub(crate) async fn resume(
    config: &Path,
    args: &ResumeArgs,
    output: &Output,
) -> Result<u8, Failure> {
    order(
        config,
        &args.mirror,
        &OrderKind::Resume,
        args.dry_run,
        output,
    )
    .await
}

/// Gives the order, and waits until those who send clients go by it. The mirror itself need not answer.
async fn order(
    config: &Path,
    mirror: &MirrorId,
    kind: &OrderKind,
    dry_run: bool,
    output: &Output,
) -> Result<u8, Failure> {
    let archive = Archive::open(config).await?;
    match known_mirror(&archive, mirror).await {
        // An emergency does not wait for the service that may be part of it.
        Err(failure) if failure.code == DOWN => {
            output.note(&format!("{failure}; the mirror's name is not checked"));
        }
        known => known?,
    }
    let drained = matches!(kind, OrderKind::Drain { .. });
    let document = json!({ "mirror": mirror.as_str(), "drained": drained, "dry_run": dry_run });
    let (now, then) = match drained {
        true => (
            "takes no clients; it may go on following and serving",
            "would take no clients",
        ),
        false => (
            "takes clients again, as far as it is complete",
            "would take clients again",
        ),
    };
    if dry_run {
        return tell(&document, &format!("{BOLD}{mirror}{BOLD:#} {then}"), output);
    }
    let request = wire::rpc::order_request(mirror, kind);
    archive.admin().await?.order(request).await?;
    let deadline = Instant::now() + PATIENCE;
    while !is_known(&archive, mirror, drained).await? {
        if Instant::now() >= deadline {
            let text = format!(
                "the order is given, and {} s later not everybody goes by it; see: mirrorlog why {mirror} CHANNEL",
                PATIENCE.as_secs()
            );
            return Err(Failure::text(AGAIN, text));
        }
        tokio::time::sleep(POLL).await;
    }
    tell(&document, &format!("{BOLD}{mirror}{BOLD:#} {now}"), output)
}

fn tell(document: &Value, text: &str, output: &Output) -> Result<u8, Failure> {
    if output.json {
        output.json(document);
    } else {
        output.line(text);
    }
    Ok(0)
}

/// True when the consistency service and the directory, if one is named, go by the order.
async fn is_known(archive: &Archive, mirror: &MirrorId, drained: bool) -> Result<bool, Failure> {
    let request = v1::StatusRequest {
        channel: String::new(),
    };
    let Ok(mut consistency) = archive.consistency().await else {
        return Ok(true);
    };
    let status = consistency.status(request).await?.into_inner();
    let channels = status
        .mirrors
        .iter()
        .filter(|one| one.id == mirror.as_str())
        .flat_map(|one| &one.channels);
    let known = channels
        .into_iter()
        .all(|channel| is_drained(&channel.reason) == drained);
    let Some(url) = archive.config.directory_http.as_deref().filter(|_| known) else {
        return Ok(known);
    };
    let channels = status
        .channels
        .iter()
        .map(|channel| channel.channel.as_str());
    for channel in channels {
        if !directory_knows(url, channel, mirror, drained).await {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_drained(reason: &str) -> bool {
    reason == "drained" || reason.starts_with("drained:")
}

/// A directory that does not answer sends nobody anywhere.
async fn directory_knows(url: &str, channel: &str, mirror: &MirrorId, drained: bool) -> bool {
    let Ok(client) = fetcher::web::client(ASK_TIMEOUT, 1) else {
        return true;
    };
    let url = format!("{}/v1/mirrors", url.trim_end_matches('/'));
    let request = client
        .get(url)
        .query(&[("channel", channel), ("limit", "1000")]);
    let Ok(answer) = request.send().await else {
        return true;
    };
    let text = answer.text().await.unwrap_or_default();
    let Ok(document) = serde_json::from_str::<Value>(&text) else {
        return true;
    };
    let of = |list: &str| {
        let found = document[list].as_array().cloned().unwrap_or_default();
        found.into_iter().find(|one| one["id"] == mirror.as_str())
    };
    let reason = of("excluded").map(|one| one["reason"].as_str().unwrap_or_default().to_owned());
    match drained {
        true => of("mirrors").is_none(),
        false => reason.is_none_or(|reason| !is_drained(&reason)),
    }
}
