//! `publish`, and waiting until mirrors are complete.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use archive::publish::{Outcome, PublishConfig, PublishError, PublishRequest};
use mirrorlog_core::id::{Build, ChannelId, Lane, MirrorId};
use mirrorlog_core::statement::{Notice, VerdictState};
use serde_json::json;
use wire::v1;

use super::ask::Archive;
use super::progress::{Bar, Waiting};
use crate::args::{PublishArgs, Wait};
use crate::failure::{AGAIN, DATA, Failure, IO, OrExit as _};
use crate::output::{BAD, BOLD, GOOD, Output, bytes, count, plain};

/// Faults that a terminal shows; `--json` has all.
const FAULTS_SHOWN: usize = 50;
/// Listed paths shown that are nowhere.
const GONE_SHOWN: usize = 3;

pub(crate) async fn run(config: &Path, args: PublishArgs, output: &Output) -> Result<u8, Failure> {
    let begun = Instant::now();
    let settings = archive::config::Config::load(config).or_exit(crate::failure::CONFIG)?;
    let publish = publish_config(&settings, &args.channel)?;
    let request = request(&args)?;
    let gone = gone(&request);
    let bar = Bar::new(output, expected(config, &args, output).await);
    let published = archive::publish::publish(&publish, request, &bar).await;
    bar.end();
    let outcome = match published {
        Ok(outcome) => outcome,
        Err(error) => return Err(refused(error, output)),
    };
    let mut document = serde_json::to_value(&outcome).or_exit(IO)?;
    let people = describe(&outcome);
    if gone.len() as u64 > outcome.removed {
        output.note(&in_neither(&gone, outcome.removed, &args.tree));
    }
    let mut late = None;
    if let (Some(wait), false, Some(build)) = (args.wait, args.dry_run, Build::new(outcome.build)) {
        output.note(&people);
        let waiting = Instant::now();
        let archive = Archive::open(config).await?;
        let timeout = Duration::from_secs(args.timeout);
        let watched = Waiting::show(&archive, &args.channel, output).await;
        let waited = await_complete(
            &archive,
            &args.channel,
            build,
            wait,
            timeout,
            begun,
            &watched,
        )
        .await;
        watched.end();
        let waited = waited?;
        document["seconds"]["wait"] = json!(waiting.elapsed().as_secs_f64());
        document["complete"] = waited
            .complete
            .iter()
            .map(|(mirror, seconds)| json!({ "mirror": mirror.as_str(), "seconds": seconds }))
            .collect();
        if !waited.enough {
            late = Some(waited.missing);
        }
    } else {
        document["seconds"]["wait"] = json!(0.0);
        document["complete"] = json!([]);
        if !output.json {
            output.line(&people);
        }
    }
    if output.json {
        output.json(&document);
    }
    match late {
        None => Ok(0),
        Some(missing) => {
            let Outcome { build, channel, .. } = &outcome;
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
    }
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

/// What a publisher takes from the archive's configuration.
pub(crate) fn publish_config(
    settings: &archive::config::Config,
    channel: &ChannelId,
) -> Result<PublishConfig, Failure> {
    let declared = settings.channel(channel).or_exit(crate::failure::CONFIG)?;
    let keys = declared.map(|declared| (declared.openpgp_keyring, declared.signify_keys));
    let (openpgp_keyring, signify_keys) = keys.unwrap_or_default();
    Ok(PublishConfig {
        socket: settings.admin_socket(),
        store_dir: settings.store.clone(),
        state_dir: settings.state.clone(),
        immutable: settings.immutable.clone(),
        openpgp_keyring,
        signify_keys,
    })
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

struct Waited {
    complete: Vec<(MirrorId, f64)>,
    missing: Vec<MirrorId>,
    enough: bool,
}

/// Follows the consistency service's verdicts until enough mirrors are complete.
async fn await_complete(
    archive: &Archive,
    channel: &ChannelId,
    build: Build,
    wait: Wait,
    timeout: Duration,
    begun: Instant,
    waiting: &Waiting,
) -> Result<Waited, Failure> {
    let deadline = Instant::now() + timeout;
    let mut said_down = false;
    let mut mirrors: BTreeSet<MirrorId> = BTreeSet::new();
    let mut complete: BTreeMap<MirrorId, f64> = BTreeMap::new();
    loop {
        let watched = watch(
            archive,
            channel,
            build,
            wait,
            begun,
            &mut mirrors,
            &mut complete,
            waiting,
        );
        match tokio::time::timeout_at(deadline.into(), watched).await {
            Ok(Ok(())) => break,
            Err(_elapsed) => break,
            // The build is published: a service that does not answer may be on its way up, or restarting.
            Ok(Err(failure)) if failure.code == crate::failure::DOWN => {
                if Instant::now() >= deadline {
                    break;
                }
                if !said_down {
                    said_down = true;
                    waiting.note(&format!("{failure}; asking again until --timeout"));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(Err(failure)) => return Err(failure),
        }
    }
    let enough = is_enough(wait, mirrors.len(), complete.len());
    let missing = if enough {
        Vec::new()
    } else {
        mirrors
            .iter()
            .filter(|id| !complete.contains_key(*id))
            .cloned()
            .collect()
    };
    Ok(Waited {
        complete: complete.into_iter().collect(),
        missing,
        enough,
    })
}

#[allow(
    clippy::too_many_arguments,
    reason = "one place calls it, with what a retry keeps"
)]
async fn watch(
    archive: &Archive,
    channel: &ChannelId,
    build: Build,
    wait: Wait,
    begun: Instant,
    mirrors: &mut BTreeSet<MirrorId>,
    complete: &mut BTreeMap<MirrorId, f64>,
    waiting: &Waiting,
) -> Result<(), Failure> {
    let request = v1::WatchRequest {
        channel: channel.to_string(),
        build: build.get(),
    };
    let mut stream = archive
        .consistency()
        .await?
        .watch(request)
        .await?
        .into_inner();
    while let Some(reply) = stream.message().await? {
        for id in &reply.mirrors {
            mirrors.insert(MirrorId::new(id).or_exit(DATA)?);
        }
        if let Some(signed) = reply.verdict {
            // Asked of the operator's own consistency service: its word is taken as it is.
            let signed = wire::Signed::from_proto(signed).or_exit(DATA)?;
            let statement = wire::statement::decode(&signed.statement).or_exit(DATA)?;
            if let mirrorlog_core::statement::Statement::Verdict(verdict) = statement
                && verdict.build == build
                && verdict.channel == *channel
                // One that takes no clients is not waited for, and does not stand for another.
                && mirrors.contains(&verdict.mirror)
            {
                if verdict.state == VerdictState::Complete {
                    let seconds = begun.elapsed().as_secs_f64();
                    if complete.insert(verdict.mirror.clone(), seconds).is_none() {
                        waiting.note(&format!(
                            "{GOOD}complete{GOOD:#} on {} after {seconds:.2} s",
                            verdict.mirror
                        ));
                    }
                } else {
                    complete.remove(&verdict.mirror);
                }
            }
        }
        if is_enough(wait, mirrors.len(), complete.len()) {
            return Ok(());
        }
    }
    Err(Failure::text(
        crate::failure::DOWN,
        "the consistency service ended the watch",
    ))
}

fn is_enough(wait: Wait, mirrors: usize, complete: usize) -> bool {
    match wait {
        Wait::All => mirrors > 0 && complete >= mirrors,
        Wait::Quorum => mirrors > 0 && complete > mirrors / 2,
        Wait::Count(count) => complete >= count,
    }
}
