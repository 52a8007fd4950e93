//! Who leads: one replica, by a lease in the log's bucket `mirrorlog_lease`.
//!
//! The lease is a key whose value names the holder; renewing it is a compare-and-set on its
//! revision. Whoever sees the revision stand still for [`TAKEOVER`] by its own clock takes over; a
//! holder that could not renew for [`GIVE_UP`] stops before that. No wall clocks are compared.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use runtime::log::{Bucket, Log, LogError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;
use crate::post::Post;
use wire::causes;

const KEY: &str = "consistency";
/// The value of a lease that was given back.
const FREE: &[u8] = b"free";
/// Time between two renewals, and between two looks at somebody else's lease.
pub(crate) const RENEW: Duration = Duration::from_secs(2);
/// A lease that was not renewed for this long is anybody's.
pub(crate) const TAKEOVER: Duration = Duration::from_secs(6);
/// A holder that could not renew for this long no longer leads.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(4);

/// Reads the name under which this folder's service takes the lease, or makes one: a service that
/// was killed finds its own lease again and need not wait for it to run out.
pub(crate) fn holder(dir: &Path) -> anyhow::Result<String> {
    let file = dir.join("holder");
    match std::fs::read_to_string(&file) {
        Ok(name) if name.len() == 32 => return Ok(name),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&file, &name)?;
    Ok(name)
}

/// What was seen of the lease.
struct Seen {
    revision: u64,
    since: Instant,
}

/// Notices a log that does not know what it knew: revisions only rise, unless it was lost or an older copy is back.
#[derive(Debug, Default)]
struct Newest {
    revision: u64,
    went_back: bool,
}

impl Newest {
    fn see(&mut self, revision: u64) {
        self.went_back |= revision < self.revision;
        self.revision = revision;
    }

    fn take_went_back(&mut self) -> bool {
        std::mem::take(&mut self.went_back)
    }
}

/// Competes for the lease, and holds it, until `shutdown`; then gives it back.
pub(crate) async fn hold(
    log: Log,
    holder: String,
    desk: Desk,
    post: Post,
    shutdown: CancellationToken,
) {
    let bucket = loop {
        match log.bucket("lease").await {
            Ok(bucket) => break bucket,
            Err(error) => {
                tracing::warn!(error = causes(&error), "lease cannot be read, trying again")
            }
        }
        tokio::select! {
            () = sleep(RENEW) => {}
            () = shutdown.cancelled() => return,
        }
    };
    let mut seen: Option<Seen> = None;
    let mut newest = Newest::default();
    while !shutdown.is_cancelled() {
        match acquire(&bucket, &holder, &mut seen, &mut newest).await {
            Ok(Some(revision)) => {
                tracing::info!(revision, "leading");
                desk.lead(Some(revision)).await;
                if newest.take_went_back() {
                    tracing::warn!("the log forgot what was said: all of it is said again");
                    desk.forgotten().await;
                }
                renew(&bucket, &holder, &mut newest, &desk, &shutdown).await;
                // Frees the desk first, should it wait for a log that is down.
                post.next_term();
                desk.lead(None).await;
                seen = None;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(
                error = causes(&error),
                "lease cannot be taken, trying again"
            ),
        }
        tokio::select! {
            () = sleep(RENEW) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Takes the lease when it is free, ours, or has stood still for long enough.
async fn acquire(
    bucket: &Bucket,
    holder: &str,
    seen: &mut Option<Seen>,
    newest: &mut Newest,
) -> Result<Option<u64>, LogError> {
    let current = bucket.get(KEY).await?;
    let revision = match &current {
        None => 0,
        Some((revision, value)) => {
            let ours = value == FREE || value == holder.as_bytes();
            let known = seen.as_ref().filter(|seen| seen.revision == *revision);
            let since = known.map_or_else(Instant::now, |seen| seen.since);
            *seen = Some(Seen {
                revision: *revision,
                since,
            });
            if !ours && since.elapsed() < TAKEOVER {
                newest.see(*revision);
                return Ok(None);
            }
            *revision
        }
    };
    newest.see(revision);
    match bucket
        .set(KEY, Bytes::copy_from_slice(holder.as_bytes()), revision)
        .await
    {
        Ok(revision) => {
            newest.see(revision);
            Ok(Some(revision))
        }
        Err(LogError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Renews until somebody else has the lease, it cannot be renewed, or `shutdown`. When a verdict of a
/// newer leader was seen, renews at once: who still has the lease after that leads again.
async fn renew(
    bucket: &Bucket,
    holder: &str,
    newest: &mut Newest,
    desk: &Desk,
    shutdown: &CancellationToken,
) {
    let mut renewed = Instant::now();
    loop {
        let revision = newest.revision;
        let mut challenged = false;
        tokio::select! {
            () = sleep(RENEW) => {}
            () = desk.challenged() => challenged = true,
            () = shutdown.cancelled() => {
                let given = bucket.set(KEY, Bytes::from_static(FREE), revision);
                if !matches!(tokio::time::timeout(RENEW, given).await, Ok(Ok(_))) {
                    tracing::debug!("lease could not be given back, it runs out by itself");
                }
                return;
            }
        }
        let asked = Instant::now();
        let left = (renewed + GIVE_UP).saturating_duration_since(asked);
        let set = bucket.set(KEY, Bytes::copy_from_slice(holder.as_bytes()), revision);
        match tokio::time::timeout(left, set).await {
            Ok(Ok(next)) => {
                newest.see(next);
                renewed = asked;
                if challenged {
                    desk.lead(Some(next)).await;
                }
            }
            Ok(Err(LogError::Refused { .. })) => {
                // An answer that was lost leaves our own newer revision behind.
                match bucket.get(KEY).await {
                    Ok(Some((next, value))) if value == holder.as_bytes() && next > revision => {
                        newest.see(next);
                        renewed = asked;
                    }
                    // Or an older one, if the log went back: the lease is taken anew then.
                    Ok(_) | Err(_) => {
                        tracing::warn!("lease lost, following");
                        return;
                    }
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(error = causes(&error), "lease not renewed, trying again");
                if renewed.elapsed() >= GIVE_UP {
                    return;
                }
            }
            Err(_) => {
                tracing::warn!("lease not renewed in time, following");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_went_back_is_noticed_once() {
        let mut newest = Newest::default();
        for revision in [0, 1, 2, 7, 7, 9] {
            newest.see(revision);
            assert!(!newest.take_went_back(), "{revision}");
        }
        // An older copy, which goes on; then none at all.
        for revision in [8, 0] {
            newest.see(revision);
            newest.see(revision + 1);
            assert!(newest.take_went_back(), "{revision}");
            newest.see(revision + 2);
            assert!(!newest.take_went_back(), "{revision}");
            newest.see(20);
        }
    }
}
