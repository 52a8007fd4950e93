//! `retract`.

use std::path::{Path, PathBuf};

use archive::publish::{PublishRequest, Remote, RemoteArchive, TakenBack};
use mirrorlog_core::id::Build;
use mirrorlog_core::layout::Layout;
use serde_json::json;
use wire::v1;

use super::ask::Archive;
use super::progress::Bar;
use super::publish::refused;
use super::remote;
use crate::args::RetractArgs;
use crate::failure::{ABSENT, CONFIG, DATA, Failure, IO, OrExit as _, USAGE};
use crate::output::{BOLD, Output};

pub(crate) async fn run(
    config: Option<PathBuf>,
    args: RetractArgs,
    output: &Output,
) -> Result<u8, Failure> {
    let reply = match remote::archive(&args.remote)? {
        Some(remote) => there(&remote, &args, output).await?,
        None => here(&remote::or_config(config)?, &args, output).await?,
    };
    told(&args, &reply, output);
    Ok(0)
}

/// An archive on another machine looks at all of it itself.
async fn there(
    remote: &Remote,
    args: &RetractArgs,
    output: &Output,
) -> Result<v1::RetractReply, Failure> {
    let (first, last) = args.builds;
    let taken_back = TakenBack {
        first,
        last,
        reason: args.reason.clone(),
    };
    let archive = RemoteArchive::connect(remote).await;
    let archive = archive.map_err(remote::failed)?;
    let described = archive.describe(&args.channel).await;
    let described = described.map_err(remote::failed)?;
    let layout = wire::rpc::layout("layout", described.layout).or_exit(DATA)?;
    let tree = match args.replacement() {
        Replacement::None => {
            needs_replacement(layout, args)?;
            let retracted = archive.withdraw(&args.channel, &taken_back, None).await;
            return retracted.map_err(remote::failed);
        }
        Replacement::Build(build) if (first..=last).contains(&build) => {
            return Err(Failure::text(USAGE, "a build cannot replace itself"));
        }
        Replacement::Build(build) => {
            let retracted = archive
                .withdraw(&args.channel, &taken_back, Some(build))
                .await;
            return retracted.map_err(remote::failed);
        }
        Replacement::Tree(tree) => tree,
    };
    let request = PublishRequest {
        lane: mirrorlog_core::id::Lane::Priority,
        ..PublishRequest::new(args.channel.clone(), tree)
    };
    let bar = Bar::new(output, None);
    let published = archive.publish(request, Some(taken_back), &bar).await;
    bar.end();
    let outcome = published.map_err(|error| refused(error, output))?;
    Ok(v1::RetractReply {
        sequence: outcome.retraction.unwrap_or(0),
        replacement: outcome.build,
    })
}

fn needs_replacement(layout: Layout, args: &RetractArgs) -> Result<(), Failure> {
    if layout != Layout::Debian || args.no_replacement {
        return Ok(());
    }
    let text = "apt ignores indexes that are older than those it has: \
         give --replace-with TREE|BUILD, or --no-replacement if clients may stay where they are";
    Err(Failure::text(USAGE, text))
}

/// What is to take the place of retracted builds.
enum Replacement {
    None,
    Build(Build),
    Tree(PathBuf),
}

impl RetractArgs {
    /// A number is a build, unless a folder has that name.
    fn replacement(&self) -> Replacement {
        let Some(text) = &self.replace_with else {
            return Replacement::None;
        };
        match text.parse::<Build>() {
            Ok(build) if !Path::new(text).exists() => Replacement::Build(build),
            Ok(_) | Err(_) => Replacement::Tree(PathBuf::from(text)),
        }
    }
}

async fn here(
    config: &Path,
    args: &RetractArgs,
    output: &Output,
) -> Result<v1::RetractReply, Failure> {
    let mut archive = Archive::open(config).await?;
    let (first, last) = args.builds;
    // Named builds must exist: a typo must not reserve a retraction for the future.
    archive.snapshot(&args.channel, first).await?;
    let (_, bad) = archive.snapshot(&args.channel, last).await?;
    if args.replace_with.is_none() {
        needs_replacement(bad.layout, args)?;
    }
    let (mut guard, mut pin) = (None, None);
    let replacement = match args.replacement() {
        Replacement::None => None,
        Replacement::Build(build) if (first..=last).contains(&build) => {
            return Err(Failure::text(USAGE, "a build cannot replace itself"));
        }
        Replacement::Build(build) => {
            let store = archive.config.store.clone();
            let pinned =
                tokio::task::spawn_blocking(move || runtime::store::Store::open(&store)?.pin());
            // From here on a collection lets nothing go that is still there.
            pin = Some(pinned.await.or_exit(IO)?.or_exit(IO)?);
            Some(older(&mut archive, args, build).await?)
        }
        Replacement::Tree(tree) => {
            let settings = archive.config.publishing(&args.channel).or_exit(CONFIG)?;
            let request = PublishRequest {
                lane: mirrorlog_core::id::Lane::Priority,
                ..PublishRequest::new(args.channel.clone(), tree)
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
    Ok(reply)
}

fn told(args: &RetractArgs, reply: &v1::RetractReply, output: &Output) {
    let (first, last) = args.builds;
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
