//! `publish`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use archive::publish::{Outcome, PublishError, PublishRequest, Remote, RemoteArchive};
use mirrorlog_core::id::{Build, Lane};
use mirrorlog_core::statement::Notice;
use serde_json::json;

use super::ask::Archive;
use super::progress::{Bar, Waiting};
use super::remote;
use super::wait::{Waited, Watched, await_complete};
use crate::args::PublishArgs;
use crate::failure::{AGAIN, DATA, Failure, IO, OrExit as _};
use crate::output::{BAD, BOLD, Output, bytes, count, plain};

/// Faults that a terminal shows; `--json` has all.
const FAULTS_SHOWN: usize = 50;
/// Listed paths shown that are nowhere.
const GONE_SHOWN: usize = 3;

/// Publishes to the archive of this machine's configuration, or with a token to another machine's.
pub(crate) async fn run(
    config: Option<PathBuf>,
    args: PublishArgs,
    output: &Output,
) -> Result<u8, Failure> {
    match remote::archive(&args.remote)? {
        Some(remote) => there(&remote, args, output).await,
        None => here(&remote::or_config(config)?, args, output).await,
    }
}

async fn here(config: &Path, args: PublishArgs, output: &Output) -> Result<u8, Failure> {
    let begun = Instant::now();
    let settings = archive::config::Config::load(config).or_exit(crate::failure::CONFIG)?;
    let publish = settings
        .publishing(&args.channel)
        .or_exit(crate::failure::CONFIG)?;
    let request = request(&args)?;
    let gone = gone(&request);
    let bar = Bar::new(output, expected(config, &args, output).await);
    let published = archive::publish::publish(&publish, request, &bar).await;
    bar.end();
    let outcome = published.map_err(|error| refused(error, output))?;
    if !args.waits(&outcome) {
        return told(&outcome, None, &gone, &args, output);
    }
    output.note(&describe(&outcome));
    let archive = Archive::open(config).await?;
    let watched = Waiting::show(Some(&archive), &args.channel, output).await;
    let waited = wait(Watched::Here(&archive), &outcome, &args, begun, watched).await?;
    told(&outcome, Some(waited), &gone, &args, output)
}

async fn there(remote: &Remote, args: PublishArgs, output: &Output) -> Result<u8, Failure> {
    let begun = Instant::now();
    let request = request(&args)?;
    let gone = gone(&request);
    let archive = RemoteArchive::connect(remote).await;
    let archive = archive.map_err(remote::failed)?;
    let bar = Bar::new(output, None);
    let published = archive.publish(request, None, &bar).await;
    bar.end();
    let outcome = published.map_err(|error| refused(error, output))?;
    if !args.waits(&outcome) {
        return told(&outcome, None, &gone, &args, output);
    }
    output.note(&describe(&outcome));
    let watched = Waiting::show(None, &args.channel, output).await;
    let waited = wait(Watched::There(&archive), &outcome, &args, begun, watched).await?;
    told(&outcome, Some(waited), &gone, &args, output)
}

impl PublishArgs {
    /// True when there is something to wait for.
    fn waits(&self, outcome: &Outcome) -> bool {
        self.wait.is_some() && !self.dry_run && outcome.build > 0
    }
}

/// Waits for mirrors; says how long that took, too.
async fn wait(
    archive: Watched<'_>,
    outcome: &Outcome,
    args: &PublishArgs,
    begun: Instant,
    watched: Waiting,
) -> Result<(Waited, f64), Failure> {
    let waiting = Instant::now();
    let timeout = Duration::from_secs(args.timeout);
    let (Some(wait), Some(build)) = (args.wait, Build::new(outcome.build)) else {
        return Err(Failure::text(DATA, "there is no build to wait for"));
    };
    let channel = &args.channel;
    let waited = await_complete(&archive, channel, build, wait, timeout, begun, &watched).await;
    watched.end();
    Ok((waited?, waiting.elapsed().as_secs_f64()))
}

/// Says how it ended.
fn told(
    outcome: &Outcome,
    waited: Option<(Waited, f64)>,
    gone: &[String],
    args: &PublishArgs,
    output: &Output,
) -> Result<u8, Failure> {
    let mut document = serde_json::to_value(outcome).or_exit(IO)?;
    if gone.len() as u64 > outcome.removed {
        output.note(&in_neither(gone, outcome.removed, &args.tree));
    }
    let mut late = None;
    match waited {
        Some((waited, seconds)) => {
            document["seconds"]["wait"] = json!(seconds);
            document["complete"] = waited
                .complete
                .iter()
                .map(|(mirror, seconds)| json!({ "mirror": mirror.as_str(), "seconds": seconds }))
                .collect();
            if !waited.enough {
                late = Some(waited.missing);
            }
        }
        None => {
            document["seconds"]["wait"] = json!(0.0);
            document["complete"] = json!([]);
            if !output.json {
                output.line(&describe(outcome));
            }
        }
    }
    if output.json {
        output.json(&document);
    }
    let Some(missing) = late else {
        return Ok(0);
    };
    let Outcome { build, channel, .. } = outcome;
    let text = if missing.is_empty() {
        format!(
            "build {build} of {channel} is published, but {} s did not show that enough mirrors have it: \
             the consistency service does not answer, or knows fewer mirrors than --wait asks for",
            args.timeout
        )
    } else {
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        format!(
            "build {build} of {channel} is published, but after {} s not complete on {}; see: mirrorlog status {channel}",
            args.timeout,
            names.join(", ")
        )
    };
    Err(Failure::text(AGAIN, text))
}

/// How many entries the head has: about as many will be scanned. Only asked for a terminal's bar.
async fn expected(config: &Path, args: &PublishArgs, output: &Output) -> Option<u64> {
    if !output.bars() || args.changed.is_some() {
        return None;
    }
    let mut archive = Archive::open(config).await.ok()?;
    let (_, head) = archive.build_or_head(&args.channel, None).await.ok()?;
    Some(head.entries)
}

fn request(args: &PublishArgs) -> Result<PublishRequest, Failure> {
    let notices = args.notice.iter();
    let notices = notices.map(|(package, text)| Notice {
        package: package.clone(),
        text: text.clone(),
    });
    Ok(PublishRequest {
        layout: args.layout,
        lane: if args.priority {
            Lane::Priority
        } else {
            Lane::Bulk
        },
        changed: args
            .changed
            .as_ref()
            .map(|file| changed(file, args.null))
            .transpose()?,
        dry_run: args.dry_run,
        deps: args.deps,
        allow_expired: args.allow_expired,
        allow_retracted: args.allow_retracted,
        notices: notices.collect(),
        ..PublishRequest::new(args.channel.clone(), args.tree.clone())
    })
}

fn changed(file: &PathBuf, null: bool) -> Result<Vec<Vec<u8>>, Failure> {
    let mut list = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut list).or_exit(IO)?;
    } else {
        list = std::fs::read(file).map_err(|error| {
            Failure::text(
                crate::failure::ABSENT,
                format!("cannot read the list {}: {error}", file.display()),
            )
        })?;
    }
    let separator = if null { 0 } else { b'\n' };
    let paths = list
        .split(|b| *b == separator)
        .filter(|path| !path.is_empty());
    Ok(paths.map(<[u8]>::to_vec).collect())
}

/// Listed paths that the tree does not have: removed ones, or mistakes.
fn gone(request: &PublishRequest) -> Vec<String> {
    use std::os::unix::ffi::OsStrExt as _;
    let listed = request.changed.iter().flatten();
    let gone = listed.filter(|path| {
        let path = request.tree.join(std::ffi::OsStr::from_bytes(path));
        matches!(std::fs::symlink_metadata(path), Err(error) if error.kind() == std::io::ErrorKind::NotFound)
    });
    gone.map(|path| plain(&String::from_utf8_lossy(path)))
        .collect()
}

fn in_neither(gone: &[String], removed: u64, tree: &Path) -> String {
    let shown: Vec<&str> = gone.iter().take(GONE_SHOWN).map(String::as_str).collect();
    let more = if gone.len() > shown.len() {
        ", …"
    } else {
        ""
    };
    format!(
        "not in {}: {} of --changed ({}{more}), and only {removed} of them removed anything; \
         are the paths relative to the tree, one a line?",
        tree.display(),
        count(gone.len() as u64, "path"),
        shown.join(", "),
    )
}

/// Lists every fault; the last line is the failure's own.
pub(crate) fn refused(error: PublishError, output: &Output) -> Failure {
    if let Some(faults) = error.faults() {
        if output.json {
            let list = serde_json::to_value(faults).unwrap_or_default();
            output.json(&json!({ "refused": true, "faults": list }));
        }
        for fault in faults.iter().take(FAULTS_SHOWN) {
            output.note(&format!("{BAD}fault:{BAD:#} {}", plain(&fault.to_string())));
        }
        let more = usize::try_from(faults.count())
            .unwrap_or(usize::MAX)
            .saturating_sub(FAULTS_SHOWN);
        if more > 0 {
            output.note(&format!("… and {more} more; --json lists them"));
        }
    }
    let code = error.exit_code();
    Failure::new(code, error.into())
}

fn describe(outcome: &Outcome) -> String {
    let Outcome {
        channel,
        build,
        lane,
        files,
        added,
        changed,
        removed,
        ..
    } = outcome;
    let (files, size) = (count(*files, "entry"), bytes(outcome.bytes));
    if outcome.unchanged {
        return format!(
            "{BOLD}{channel}{BOLD:#} is unchanged: build {build} has this content already"
        );
    }
    let verb = if outcome.dry_run {
        "would become"
    } else {
        "is"
    };
    let also = outcome.also.map_or_else(String::new, |also| {
        format!(", and build {also} with the bulk behind it")
    });
    format!(
        "{BOLD}{channel}{BOLD:#} {verb} build {BOLD}{build}{BOLD:#} ({lane}): {files}, {size}; \
         {added} added, {changed} changed, {removed} removed{also}"
    )
}
