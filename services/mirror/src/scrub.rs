//! Re-hashes what is stored: all the time at a set rate, and at once when an operator orders it.

use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::{ChannelId, Digest};
use mirrorlog_core::manifest::{self, ManifestError, PageRead as _};
use mirrorlog_core::mirror::Target;
use mirrorlog_core::statement::OrderOutcome;
use mirrorlog_core::view::Selection;
use runtime::store::{Pages, StoreError};
use tokio_util::sync::CancellationToken;

use crate::engine::{Mailbox, Message};
use crate::run::Parts;
use crate::sync::Missing;

/// Faults that an outcome names; the rest is counted.
const FAULTS_NAMED: usize = 20;
/// Longest pause between the start and the first round.
const FIRST_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Decoded pages that a round keeps: few, so that each is read from the disk and checked.
const PAGES_CACHED_BYTES: usize = 1024 * 1024;
/// What a small file counts for: opening it costs as much as reading so much in a row.
const FILE_COST_BYTES: u64 = 16 * 1024;
/// A rate is kept over pieces of this length.
const RATE_SLICE: Duration = Duration::from_millis(100);

/// What a round over one build found.
#[derive(Debug, Default)]
struct Found {
    checked_files: u64,
    missing: Missing,
    faults: Vec<String>,
    fault_count: u64,
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum ScrubError {
    #[error("manifest could not be read")]
    Manifest(#[source] Box<ManifestError<StoreError>>),
    #[error("store failed")]
    Store(#[from] StoreError),
    #[error("the round was interrupted")]
    Task(#[from] tokio::task::JoinError),
}

/// Goes through all held builds again and again, `every` apart.
pub(crate) async fn run(parts: Arc<Parts>, engine: Mailbox, stop: CancellationToken) {
    let every = parts.config.scrub.every.0;
    // A mirror that is started anew every day comes to its scrub too.
    let mut pause = every.min(FIRST_PAUSE_MAX);
    let rate = Some(parts.config.scrub.rate.0.max(1));
    loop {
        if stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return;
        }
        pause = every;
        let table = parts.serving_reader.current();
        for (channel, served) in &table.channels {
            let mut known: Option<(Digest, Selection)> = None;
            for (build, row) in &served.builds {
                // What is another part was not examined with it.
                let same = known.take().filter(|(_, of)| *of == row.selection);
                let before = same.map(|(root, _)| root);
                let work = examine(
                    parts.syncer.pages.clone(),
                    (before, row.root, row.selection.clone()),
                    rate,
                    stop.clone(),
                );
                match work.await {
                    Ok(found) => {
                        known = Some((row.root, row.selection.clone()))
                            .filter(|_| found.fault_count == 0);
                        tell(&engine, channel, *build, found).await;
                    }
                    Err(error) => {
                        let error = crate::inbox::chain(&error);
                        tracing::error!(%channel, %build, error, "scrub cannot read the build");
                        let missing = Missing::default();
                        let (channel, build) = (channel.clone(), *build);
                        engine
                            .send(Message::Faults {
                                channel,
                                build,
                                missing,
                            })
                            .await
                            .ok();
                    }
                }
                if stop.is_cancelled() {
                    return;
                }
            }
        }
        if let Some(exports) = parts.exports.clone() {
            // It reads a few files; a panic there has been logged.
            tokio::task::spawn_blocking(move || exports.scrub())
                .await
                .ok();
        }
        parts.metrics.scrubbed(runtime::boot::now());
    }
}

/// Carries out an operator's order.
pub(crate) async fn verify(
    parts: &Parts,
    engine: &Mailbox,
    id: u64,
    builds: &[(ChannelId, Target, Selection)],
    stop: &CancellationToken,
) -> OrderOutcome {
    if builds.is_empty() {
        let text = "no such build is held here".to_owned();
        return OrderOutcome {
            id,
            ok: false,
            text,
        };
    }
    let (mut checked, mut faults, mut lines) = (0, 0, Vec::new());
    let mut known: Option<(Digest, &Selection)> = None;
    for (channel, target, selection) in builds {
        let pages = parts.syncer.pages.clone();
        let before = known
            .filter(|(_, of)| *of == selection)
            .map(|(root, _)| root);
        let about = (before, target.root, selection.clone());
        match examine(pages, about, None, stop.clone()).await {
            Ok(found) => {
                checked += found.checked_files;
                faults += found.fault_count;
                known = Some((target.root, selection)).filter(|_| found.fault_count == 0);
                let named = found
                    .faults
                    .iter()
                    .map(|f| format!("{channel}@{}: {f}", target.build));
                lines.extend(named);
                tell(engine, channel, target.build, found).await;
            }
            Err(error) => {
                faults += 1;
                lines.push(format!(
                    "{channel}@{}: {}",
                    target.build,
                    crate::inbox::chain(&error)
                ));
                let (channel, build) = (channel.clone(), target.build);
                let missing = Missing::default();
                engine
                    .send(Message::Faults {
                        channel,
                        build,
                        missing,
                    })
                    .await
                    .ok();
            }
        }
    }
    lines.truncate(FAULTS_NAMED);
    let mut text = format!(
        "{checked} files checked in {} builds, {faults} faults",
        builds.len()
    );
    for line in lines {
        if text.len() + line.len() + 2 > mirrorlog_core::limits::TEXT_MAX_BYTES {
            break;
        }
        text.push_str("; ");
        text.push_str(&line);
    }
    OrderOutcome {
        id,
        ok: faults == 0,
        text,
    }
}

async fn tell(
    engine: &Mailbox,
    channel: &ChannelId,
    build: mirrorlog_core::id::Build,
    found: Found,
) {
    if found.fault_count == 0 {
        return;
    }
    tracing::error!(%channel, %build, faults = found.fault_count, first = ?found.faults.first(),
        "stored content is lost or corrupt; fetching it again");
    let (channel, missing) = (channel.clone(), found.missing);
    engine
        .send(Message::Faults {
            channel,
            build,
            missing,
        })
        .await
        .ok();
}

/// Re-hashes the selected blobs of `root` that `known` (already examined) has not. Corrupt ones are moved aside.
async fn examine(
    pages: Pages,
    (known, root, selection): (Option<Digest>, Digest, Selection),
    rate: Option<u64>,
    stop: CancellationToken,
) -> Result<Found, ScrubError> {
    tokio::task::spawn_blocking(move || {
        // Not the pages that serve: what they have in memory may be lost on the disk.
        let pages = Pages::new(pages.store().clone(), PAGES_CACHED_BYTES);
        let top = pages.page(&root)?;
        let mut found = Found {
            missing: Missing {
                entries: top.entries(),
                ..Missing::default()
            },
            ..Found::default()
        };
        let mut pace = Pace::new(rate);
        for difference in manifest::diff(&pages, known.as_ref(), Some(&root)) {
            let difference = difference.map_err(|error| ScrubError::Manifest(Box::new(error)))?;
            let Some((ordinal, entry)) = difference.new else {
                continue;
            };
            let Some(file) = entry.file() else { continue };
            if !selection.has(&difference.path) {
                continue;
            }
            if stop.is_cancelled() {
                break;
            }
            pace.take(file.size_bytes.max(FILE_COST_BYTES), &stop);
            found.checked_files += 1;
            let what = match pages.store().check(&file.digest)? {
                Some(true) => continue,
                Some(false) => {
                    pages.store().quarantine(&file.digest)?;
                    "content differs from its digest"
                }
                None => "content is not there",
            };
            found.missing.ordinals.insert(ordinal.0);
            found.missing.bytes += file.size_bytes;
            found.fault_count += 1;
            if found.faults.len() < FAULTS_NAMED {
                found
                    .faults
                    .push(format!("{}: {what} ({})", difference.path, file.digest));
            }
        }
        Ok(found)
    })
    .await?
}

/// Keeps reading below a rate by resting on its blocking thread.
struct Pace {
    bytes_per_s: Option<u64>,
    owed: Duration,
}

impl Pace {
    fn new(bytes_per_s: Option<u64>) -> Self {
        Self {
            bytes_per_s,
            owed: Duration::ZERO,
        }
    }

    fn take(&mut self, bytes: u64, stop: &CancellationToken) {
        let Some(bytes_per_s) = self.bytes_per_s else {
            return;
        };
        // In nanoseconds: a small file takes less than any coarser unit.
        let ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
        let ns = u64::try_from(ns).unwrap_or(u64::MAX);
        self.owed += Duration::from_nanos(ns);
        while self.owed >= RATE_SLICE && !stop.is_cancelled() {
            std::thread::sleep(RATE_SLICE);
            self.owed -= RATE_SLICE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_paced_too() {
        let mut pace = Pace::new(Some(100_000_000));
        let stop = CancellationToken::new();
        for _ in 0..1000 {
            pace.take(600, &stop);
        }
        assert!(pace.owed > Duration::ZERO, "{:?}", pace.owed);
        // 100 GB at 100 MB/s; told to stop, it does not rest.
        stop.cancel();
        pace.take(100_000_000_000, &stop);
        assert!(pace.owed >= Duration::from_secs(1000), "{:?}", pace.owed);
    }
}
