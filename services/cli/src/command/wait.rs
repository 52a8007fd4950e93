//! Waiting until mirrors are complete.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use archive::publish::RemoteArchive;
use mirrorlog_core::id::{Build, ChannelId, MirrorId};
use mirrorlog_core::statement::VerdictState;
use tonic::Streaming;
use wire::v1;

use super::ask::Archive;
use super::progress::Waiting;
use super::remote::failed;
use crate::args::Wait;
use crate::failure::{DATA, Failure, OrExit as _};
use crate::output::GOOD;

/// Whose verdicts are watched.
pub(super) enum Watched<'a> {
    /// The consistency service's of this machine's archive.
    Here(&'a Archive),
    /// The same of an archive on another machine, which passes them on.
    There(&'a RemoteArchive),
}

impl Watched<'_> {
    async fn watch(
        &self,
        channel: &ChannelId,
        build: Build,
    ) -> Result<Streaming<v1::WatchReply>, Failure> {
        match self {
            Self::Here(archive) => {
                let request = v1::WatchRequest {
                    channel: channel.to_string(),
                    build: build.get(),
                };
                let watched = archive.consistency().await?.watch(request).await?;
                Ok(watched.into_inner())
            }
            Self::There(archive) => archive.watch(channel, build).await.map_err(failed),
        }
    }
}

/// How waiting ended.
pub(super) struct Waited {
    pub(super) complete: Vec<(MirrorId, f64)>,
    pub(super) missing: Vec<MirrorId>,
    pub(super) enough: bool,
}

/// Follows the consistency service's verdicts until enough mirrors are complete.
pub(super) async fn await_complete(
    archive: &Watched<'_>,
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
    archive: &Watched<'_>,
    channel: &ChannelId,
    build: Build,
    wait: Wait,
    begun: Instant,
    mirrors: &mut BTreeSet<MirrorId>,
    complete: &mut BTreeMap<MirrorId, f64>,
    waiting: &Waiting,
) -> Result<(), Failure> {
    let mut stream = archive.watch(channel, build).await?;
    while let Some(reply) = stream.message().await? {
        for id in &reply.mirrors {
            mirrors.insert(MirrorId::new(id).or_exit(DATA)?);
        }
        if let Some(signed) = reply.verdict {
            // Asked of the operator's own consistency service, or of the archive over TLS: its word is taken as it is.
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
