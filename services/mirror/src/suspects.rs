//! Content that a request found lost or damaged: looked at and healed at once, not at the next scrub.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Digest};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::{Mailbox, Message};
use crate::run::Parts;

/// Suspects that may wait; more are passed over: the next request for them, or the scrub, finds them again.
const QUEUED_MAX: usize = 64;
/// One digest is looked at no more often than this.
const PAUSE: Duration = Duration::from_secs(10);
/// Digests whose last look is remembered.
const REMEMBERED_MAX: usize = 1024;

/// A blob or page that was not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    /// Which.
    pub(crate) digest: Digest,
    /// Builds that name it; empty when that is not known.
    pub(crate) builds: Vec<(ChannelId, Build)>,
}

/// Where requests tell of suspects.
#[derive(Clone, Debug)]
pub(crate) struct Suspects(mpsc::Sender<Suspect>);

impl Suspects {
    /// The requests' end and the other.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Suspect>) {
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        (Self(sender), receiver)
    }

    /// Tells of one; never waits.
    pub(crate) fn tell(&self, suspect: Suspect) {
        if self.0.try_send(suspect).is_err() {
            tracing::debug!("too many suspects; one is left to the scrub");
        }
    }
}

/// Looks at suspects until `stop`.
pub(crate) async fn run(
    parts: Arc<Parts>,
    mut suspects: mpsc::Receiver<Suspect>,
    engine: Mailbox,
    stop: CancellationToken,
) {
    let work = async {
        let mut looked: HashMap<Digest, Instant> = HashMap::new();
        while let Some(suspect) = suspects.recv().await {
            if looked.len() >= REMEMBERED_MAX {
                looked.retain(|_, at| at.elapsed() < PAUSE);
            }
            let recently = |at: &Instant| at.elapsed() < PAUSE;
            if looked.get(&suspect.digest).is_some_and(recently) || looked.len() >= REMEMBERED_MAX {
                continue;
            }
            looked.insert(suspect.digest, Instant::now());
            look(&parts, suspect, &engine).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

async fn look(parts: &Parts, suspect: Suspect, engine: &Mailbox) {
    let (store, digest) = (parts.syncer.pages.store().clone(), suspect.digest);
    let checked = tokio::task::spawn_blocking(move || {
        let checked = store.check(&digest)?;
        if checked == Some(false) {
            store.quarantine(&digest)?;
        }
        Ok::<_, runtime::store::StoreError>(checked)
    });
    match checked.await {
        Ok(Ok(Some(true))) => return,
        Ok(Ok(Some(false) | None)) => {}
        Ok(Err(error)) => {
            let error = crate::inbox::chain(&error);
            tracing::error!(error, %digest, "a suspect cannot be read");
            return;
        }
        Err(error) => {
            tracing::error!(%error, %digest, "looking at a suspect was interrupted");
            return;
        }
    }
    let table = parts.serving_reader.current();
    let named = !suspect.builds.is_empty();
    for (channel, served) in &table.channels {
        for (build, row) in &served.builds {
            let of_it = |(c, b): &(ChannelId, Build)| c == channel && b == build;
            if named && !suspect.builds.iter().any(of_it) {
                continue;
            }
            let selection = row.selection.clone();
            let looked = parts.syncer.missing(row.root, None, selection);
            let missing = match looked.await {
                Ok(missing) if missing.ordinals.is_empty() => continue,
                Ok(missing) => missing,
                // A page of it is gone.
                Err(_) => crate::sync::Missing::default(),
            };
            tracing::error!(%channel, %build, %digest, "served content is lost or damaged; fetching it again");
            let (channel, build) = (channel.clone(), *build);
            let faults = Message::Faults {
                channel,
                build,
                missing,
            };
            if engine.send(faults).await.is_err() {
                return;
            }
        }
    }
}
