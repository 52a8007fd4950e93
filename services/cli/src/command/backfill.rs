//! `backfill`: older builds for one mirror.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use mirrorlog_core::id::Build;
use mirrorlog_core::limits::BACKFILL_BUILDS_MAX;
use mirrorlog_core::statement::OrderKind;
use serde_json::json;
use wire::v1;

use super::ask::Archive;
use super::order::{carry_out, known_mirror};
use crate::args::BackfillArgs;
use crate::failure::{ABSENT, AGAIN, Failure, USAGE};
use crate::output::{BOLD, GOOD, Output, count, plain};

const POLL: Duration = Duration::from_millis(200);

/// What becomes of the builds that were asked for.
#[derive(Debug, Default)]
struct Plan {
    /// Fetched.
    fetch: BTreeSet<u64>,
    /// There already.
    held: BTreeSet<u64>,
    /// Taken back.
    retracted: BTreeSet<u64>,
    /// The archive has let their content go.
    collected: BTreeSet<u64>,
    /// Newer than what is live: they come by themselves, or a newer one in their place.
    coming: BTreeSet<u64>,
}

pub(crate) async fn run(
    config: &Path,
    args: &BackfillArgs,
    output: &Output,
) -> Result<u8, Failure> {
    if args.from > args.to {
        let text = format!("--from {} is after --to {}", args.from, args.to);
        return Err(Failure::text(USAGE, text));
    }
    let begun = Instant::now();
    let mut archive = Archive::open(config).await?;
    archive.known(Some(&args.channel)).await?;
    known_mirror(&archive, &args.mirror).await?;
    let plan = plan(&mut archive, args).await?;
    if plan.fetch.len() > BACKFILL_BUILDS_MAX {
        let text = format!(
            "these are {} builds; at most {BACKFILL_BUILDS_MAX} at once",
            plan.fetch.len()
        );
        return Err(Failure::text(USAGE, text));
    }
    if args.dry_run || plan.fetch.is_empty() {
        tell(args, &plan, begun, output);
        let has_none = plan.held.is_empty() && plan.coming.is_empty() && plan.fetch.is_empty();
        return match has_none {
            true => Err(Failure::text(
                ABSENT,
                "none of these builds can be had: they are retracted, or the archive no longer keeps them",
            )),
            false => Ok(0),
        };
    }
    // What is left out is in no order: the archive has it no more, or it is bad.
    for (first, last) in runs(&plan.fetch) {
        let kind = OrderKind::Backfill {
            channel: args.channel.clone(),
            first,
            last,
        };
        let patience = Duration::from_secs(args.timeout);
        let outcome = carry_out(&archive, &args.mirror, &kind, patience, output).await?;
        let text = format!("{}: {}", args.mirror, plain(&outcome.text));
        if !outcome.ok {
            return Err(Failure::text(AGAIN, text));
        }
        output.note(&text);
    }
    await_builds(&archive, args, &plan).await?;
    tell(args, &plan, begun, output);
    Ok(0)
}

/// Numbers that follow each other, as first and last.
fn runs(builds: &BTreeSet<u64>) -> Vec<(Build, Build)> {
    let mut runs: Vec<(Build, Build)> = Vec::new();
    for build in builds.iter().filter_map(|build| Build::new(*build)) {
        match runs.last_mut() {
            Some((_, last)) if last.next() == build => *last = build,
            Some(_) | None => runs.push((build, build)),
        }
    }
    runs
}

async fn plan(archive: &mut Archive, args: &BackfillArgs) -> Result<Plan, Failure> {
    let asked = |build: &Build| (args.from..=args.to).contains(build);
    let snapshots = archive.snapshots(&args.channel, args.from).await?;
    let builds: Vec<Build> = snapshots
        .iter()
        .map(|(_, snapshot)| snapshot.build)
        .filter(asked)
        .collect();
    if builds.is_empty() {
        let text = format!(
            "channel {} has no build from {} to {}; see: mirrorlog log {}",
            args.channel, args.from, args.to, args.channel
        );
        return Err(Failure::text(ABSENT, text));
    }
    let retractions = archive.retractions(&args.channel).await?;
    let collected = archive.collected(&args.channel).await?;
    let Some((live, retained)) = on_mirror(archive, args).await? else {
        let text = format!("{} does not carry channel {}", args.mirror, args.channel);
        return Err(Failure::text(ABSENT, text));
    };
    let Some(live) = live else {
        let text = format!(
            "nothing of channel {} is live on {} yet: it begins with the newest build",
            args.channel, args.mirror
        );
        return Err(Failure::text(AGAIN, text));
    };
    let mut plan = Plan::default();
    for build in builds {
        let number = build.get();
        let list = if retractions.iter().any(|taken| taken.covers(build)) {
            &mut plan.retracted
        } else if retained.contains(&number) {
            &mut plan.held
        } else if number > live {
            &mut plan.coming
        } else if collected
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&number))
        {
            &mut plan.collected
        } else {
            &mut plan.fetch
        };
        list.insert(number);
    }
    Ok(plan)
}

/// What is live on the mirror, and what it holds by the consistency service's word; `None` when it is not meant to carry
/// the channel.
async fn on_mirror(
    archive: &Archive,
    args: &BackfillArgs,
) -> Result<Option<(Option<u64>, BTreeSet<u64>)>, Failure> {
    let request = v1::StatusRequest {
        channel: args.channel.to_string(),
    };
    let status = archive.consistency().await?.status(request).await?;
    let status = status.into_inner();
    let mirrors = status.mirrors.iter();
    let mut of_mirror = mirrors.filter(|one| one.id == args.mirror.as_str());
    let channels = of_mirror.next().map(|one| one.channels.as_slice());
    let channel = channels
        .unwrap_or_default()
        .iter()
        .find(|one| one.channel == args.channel.as_str());
    Ok(channel.map(|channel| {
        let live = (channel.live > 0).then_some(channel.live);
        (live, channel.whole.iter().copied().collect())
    }))
}

/// Waits until the consistency service has seen all of them from outside.
async fn await_builds(archive: &Archive, args: &BackfillArgs, plan: &Plan) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(args.timeout);
    loop {
        let (_, held) = on_mirror(archive, args).await?.unwrap_or_default();
        let missing: Vec<String> = plan.fetch.difference(&held).map(u64::to_string).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let text = format!(
                "builds {} are not there yet; the mirror goes on",
                missing.join(", ")
            );
            return Err(Failure::text(AGAIN, text));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn tell(args: &BackfillArgs, plan: &Plan, begun: Instant, output: &Output) {
    if output.json {
        output.json(&json!({
            "mirror": args.mirror.as_str(), "channel": args.channel.as_str(), "dry_run": args.dry_run,
            "builds": plan.fetch, "held": plan.held, "retracted": plan.retracted,
            "collected": plan.collected, "coming": plan.coming,
            "seconds": begun.elapsed().as_secs_f64(),
        }));
        return;
    }
    let verb = match (args.dry_run, plan.fetch.is_empty()) {
        (true, _) => "would be fetched",
        (false, true) => "to fetch",
        (false, false) => "fetched and audited",
    };
    let fetched = count(plan.fetch.len() as u64, "build");
    output.line(&format!(
        "{BOLD}{}{BOLD:#}: {GOOD}{fetched}{GOOD:#} {verb}",
        args.mirror
    ));
    let rest = [
        ("there already", &plan.held),
        ("retracted", &plan.retracted),
        ("no longer kept by the archive", &plan.collected),
        ("newer than what is live there", &plan.coming),
    ];
    for (why, builds) in rest.into_iter().filter(|(_, builds)| !builds.is_empty()) {
        let builds: Vec<String> = builds.iter().map(u64::to_string).collect();
        output.line(&format!("left out, {why}: {}", builds.join(", ")));
    }
}
