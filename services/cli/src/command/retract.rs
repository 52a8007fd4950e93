//! `retract`.

use std::path::{Path, PathBuf};

use archive::publish::PublishRequest;
use mirrorlog_core::id::Build;
use mirrorlog_core::layout::Layout;
use serde_json::json;
use wire::v1;

use super::ask::Archive;
use super::progress::Bar;
use super::publish::{publish_config, refused};
use crate::args::RetractArgs;
use crate::failure::{ABSENT, Failure, IO, OrExit as _, USAGE};
use crate::output::{BOLD, Output};

pub(crate) async fn run(config: &Path, args: RetractArgs, output: &Output) -> Result<u8, Failure> {
    let mut archive = Archive::open(config).await?;
    let (first, last) = args.builds;
    // Named builds must exist: a typo must not reserve a retraction for the future.
    archive.snapshot(&args.channel, first).await?;
    let (_, bad) = archive.snapshot(&args.channel, last).await?;
    if bad.layout == Layout::Debian && args.replace_with.is_none() && !args.no_replacement {
        let text = "apt ignores indexes that are older than those it has: \
             give --replace-with TREE|BUILD, or --no-replacement if clients may stay where they are";
        return Err(Failure::text(USAGE, text));
    }
    let itself = args
        .replace_with
        .as_ref()
        .filter(|text| !Path::new(text.as_str()).exists())
        .and_then(|text| text.parse::<Build>().ok());
    if itself.is_some_and(|build| (first..=last).contains(&build)) {
        return Err(Failure::text(USAGE, "a build cannot replace itself"));
    }
    let (mut guard, mut pin) = (None, None);
    let replacement = match &args.replace_with {
        None => None,
        Some(text) if text.parse::<Build>().is_ok() && !Path::new(text).exists() => {
            let build = text
                .parse::<Build>()
                .map_err(|error| Failure::new(64, error.into()))?;
            let store = archive.config.store.clone();
            let pinned =
                tokio::task::spawn_blocking(move || runtime::store::Store::open(&store)?.pin());
            // From here on a collection lets nothing go that is still there.
            pin = Some(pinned.await.or_exit(IO)?.or_exit(IO)?);
            Some(older(&mut archive, &args, build).await?)
        }
        Some(tree) => {
            let settings = publish_config(&archive.config, &args.channel)?;
            let request = PublishRequest {
                lane: mirrorlog_core::id::Lane::Priority,
                ..PublishRequest::new(args.channel.clone(), PathBuf::from(tree))
            };
            let bar = Bar::new(output, None);
            let staged = archive::publish::stage(&settings, request, &bar).await;
            bar.end();
            let (commit, held) = staged.map_err(|error| refused(error, output))?;
            guard = Some(held);
            Some(commit)
        }
    };
    let request = v1::RetractRequest {
        channel: args.channel.to_string(),
        first: first.get(),
        last: last.get(),
        reason: args.reason.clone(),
        replacement,
    };
    let reply = archive.admin().await?.retract(request).await?.into_inner();
    drop((guard, pin));
    if output.json {
        let replacement = Build::new(reply.replacement).map(Build::get);
        output.json(&json!({
            "channel": args.channel.as_str(), "first": first.get(), "last": last.get(),
            "sequence": reply.sequence, "replacement": replacement,
        }));
    } else {
        let what = if first == last {
            format!("build {first}")
        } else {
            format!("builds {first} to {last}")
        };
        let then = match Build::new(reply.replacement) {
            Some(build) => format!("build {BOLD}{build}{BOLD:#} replaces it"),
            None => "mirrors go back to the newest good build that they hold".to_owned(),
        };
        output.line(&format!(
            "{BOLD}{}{BOLD:#}: {what} retracted; {then}",
            args.channel
        ));
    }
    Ok(0)
}

/// An older build's content, as a new build.
async fn older(
    archive: &mut Archive,
    args: &RetractArgs,
    build: Build,
) -> Result<v1::CommitRequest, Failure> {
    let (_, snapshot) = archive.snapshot(&args.channel, build).await?;
    let gone = archive.collected(&args.channel).await?;
    if gone
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&build.get()))
    {
        let text = format!(
            "the archive no longer keeps the content of build {build}: give --replace-with TREE, or a newer build"
        );
        return Err(Failure::text(ABSENT, text));
    }
    let newest = archive.snapshots(&args.channel, args.builds.1).await?;
    let newest = newest
        .last()
        .map_or(args.builds.1, |(_, snapshot)| snapshot.build);
    let step = v1::commit_request::Step {
        root: snapshot.root.as_bytes().to_vec().into(),
        entries: snapshot.entries,
        bytes: snapshot.bytes,
        base: newest.get(),
        lane: v1::Lane::Priority.into(),
    };
    Ok(v1::CommitRequest {
        channel: args.channel.to_string(),
        expected_newest: newest.get(),
        steps: vec![step],
        notices: wire::rpc::notices_to_proto(&snapshot.notices),
        allow_retracted: false,
    })
}
