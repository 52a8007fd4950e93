//! Lets unused content go: two marks and a pause before a sweep, never while something is fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Digest};
use runtime::store::Keep;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::export::Exports;
use crate::room::Room;
use crate::run::Parts;
use crate::serving::ServedChannel;
use mirrorlog_core::view::Selection;

/// Time between the two marks.
const PAUSE: Duration = Duration::from_secs(5);
/// Pause after a collection that failed: a damaged manifest is healed meanwhile.
const FAILED_PAUSE: Duration = Duration::from_secs(600);
/// Pause before what could not be counted is counted again.
const COUNT_PAUSE: Duration = Duration::from_secs(30);
/// Begun files that no sync has touched for this long go too, in milliseconds.
const PARTIALS_KEPT_MS: i64 = 3 * 24 * 3600 * 1000;
/// How long a build stays after somebody read it by number.
const LEASE: Duration = Duration::from_secs(300);
/// Builds of one channel that readers can keep.
const LEASES_MAX: usize = 16;

/// Builds that somebody reads by number. Capped, and they expire.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<BTreeMap<ChannelId, BTreeMap<Build, Instant>>>);

impl Leases {
    /// Keeps `build` for a while.
    pub(crate) fn touch(&self, channel: &ChannelId, build: Build) {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !leases.contains_key(channel) {
            leases.insert(channel.clone(), BTreeMap::new());
        }
        if let Some(builds) = leases.get_mut(channel)
            && (builds.contains_key(&build) || builds.len() < LEASES_MAX)
        {
            builds.insert(build, Instant::now());
        }
    }

    /// The builds that are kept now.
    pub(crate) fn of(&self, channel: &ChannelId) -> BTreeSet<Build> {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(builds) = leases.get_mut(channel) else {
            return BTreeSet::new();
        };
        builds.retain(|_, touched| touched.elapsed() < LEASE);
        builds.keys().copied().collect()
    }
}

/// Roots of builds that are on their way: what has come of them stays, however often their sync fails.
#[derive(Debug, Default)]
pub(crate) struct Coming(Mutex<BTreeMap<ChannelId, BTreeSet<Digest>>>);

impl Coming {
    /// Replaces one channel's roots.
    pub(crate) fn set(&self, channel: &ChannelId, roots: BTreeSet<Digest>) {
        let mut coming = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if coming.get(channel) != Some(&roots) {
            coming.insert(channel.clone(), roots);
        }
    }

    fn all(&self) -> BTreeSet<Digest> {
        let coming = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        coming.values().flatten().copied().collect()
    }
}

/// Asks for collections, and knows whether one is still owed.
#[derive(Debug, Default)]
pub(crate) struct Collections {
    wake: Notify,
    asked: AtomicU64,
    done: AtomicU64,
    /// When one was asked for in case.
    in_case: Mutex<Option<Instant>>,
}

impl Collections {
    /// A build was let go.
    pub(crate) fn ask(&self) {
        self.asked.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Asks for one in case, not more often than every ten minutes.
    pub(crate) fn ask_at_times(&self) {
        let mut last = self.in_case.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= FAILED_PAUSE) {
            *last = Some(Instant::now());
            self.ask();
        }
    }

    /// True while what was let go may still take room.
    pub(crate) fn is_pending(&self) -> bool {
        self.done.load(Ordering::Acquire) < self.asked.load(Ordering::Acquire)
    }
}

/// Lets syncs tell a sweep that they wait for it: it gives up then, and comes back later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweeps(Arc<AtomicUsize>);

/// Somebody who waits for a sweep to end.
#[derive(Debug)]
pub(crate) struct Hurry(Sweeps);

impl Sweeps {
    /// Hurries sweeps until dropped.
    pub(crate) fn hurry(&self) -> Hurry {
        self.0.fetch_add(1, Ordering::AcqRel);
        Hurry(self.clone())
    }

    fn are_hurried(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts what is stored, for the budget, until that succeeds.
pub(crate) async fn count(room: Room, stop: CancellationToken) {
    loop {
        let counting = room.clone();
        match tokio::task::spawn_blocking(move || counting.count()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                let error = crate::inbox::chain(&error);
                tracing::warn!(
                    error,
                    "what is stored cannot be counted for the budget; trying again"
                );
            }
            Err(error) => tracing::error!(%error, "counting what is stored ended badly"),
        }
        let wait = tokio::time::sleep(COUNT_PAUSE);
        if stop.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

/// Collects whenever a build is let go.
pub(crate) async fn run(parts: Arc<Parts>, stop: CancellationToken) {
    loop {
        if stop
            .run_until_cancelled(parts.collections.wake.notified())
            .await
            .is_none()
        {
            return;
        }
        let collections = &parts.collections;
        // What is let go from here on is not in it.
        let asked = collections.asked.load(Ordering::Acquire);
        let done = || collections.done.store(asked, Ordering::Release);
        match collect(&parts, &stop).await {
            Ok(Some(swept)) => {
                if swept.files > 0 {
                    count(parts.syncer.room.clone(), stop.clone()).await;
                }
                done();
                if swept.files > 0 {
                    let Swept { files, bytes } = swept;
                    tracing::info!(files, bytes, "unused content is gone");
                }
            }
            // A sync holds the store: what it brings must not be taken for garbage. Again later.
            Ok(None) => {
                let wait = tokio::time::sleep(PAUSE);
                if stop.run_until_cancelled(wait).await.is_some() {
                    collections.wake.notify_one();
                }
            }
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "unused content stays for now");
                let wait = tokio::time::sleep(FAILED_PAUSE);
                if stop.run_until_cancelled(wait).await.is_some() {
                    collections.wake.notify_one();
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Swept {
    files: u64,
    bytes: u64,
}

/// One collection; `None` when content is on its way in.
async fn collect(parts: &Arc<Parts>, stop: &CancellationToken) -> anyhow::Result<Option<Swept>> {
    let pages = parts.syncer.pages.clone();
    let sweeps = parts.syncer.sweeps.clone();
    // The first mark goes over the whole archive and keeps nobody out; it is not begun in vain.
    if pages.store().try_sweep_lock()?.is_none() {
        return Ok(None);
    }
    let stopped = stop.clone();
    let Some(first) = unused(parts, move || stopped.is_cancelled()).await? else {
        return Ok(Some(Swept::default()));
    };
    let pause = tokio::time::sleep(PAUSE);
    if first.is_empty() || stop.run_until_cancelled(pause).await.is_none() {
        return Ok(Some(Swept::default()));
    }
    let Some(lock) = pages.store().try_sweep_lock()? else {
        return Ok(None);
    };
    let (stopped, hurried) = (stop.clone(), sweeps.clone());
    let halted = move || stopped.is_cancelled() || hurried.are_hurried();
    let Some(second) = unused(parts, halted).await? else {
        return Ok(None);
    };
    let swept = tokio::task::spawn_blocking(move || {
        let _lock = lock;
        let mut swept = Swept::default();
        for digest in first.intersection(&second) {
            if sweeps.are_hurried() {
                return Ok(None);
            }
            swept.bytes += pages.store().size(digest)?.unwrap_or(0);
            pages.store().remove(digest)?;
            swept.files += 1;
        }
        let old = runtime::boot::now().plus_ms(-PARTIALS_KEPT_MS);
        swept.bytes += pages.store().sweep_partials(old)?;
        anyhow::Ok(Some(swept))
    });
    swept.await?
}

/// Digests in the store that no build names which is held or on its way; `None` when halted.
async fn unused(
    parts: &Arc<Parts>,
    halted: impl Fn() -> bool + Send + 'static,
) -> anyhow::Result<Option<BTreeSet<Digest>>> {
    let pages = parts.syncer.pages.clone();
    let table = parts.serving_reader.current();
    let of_channel = |served: &Arc<ServedChannel>| -> Vec<(Digest, Selection)> {
        let rows = served.builds.values();
        rows.map(|row| (row.root, row.selection.clone())).collect()
    };
    let whole: Vec<(Digest, Selection)> = table.channels.values().flat_map(of_channel).collect();
    let mut coming = parts.coming.all();
    coming.extend(parts.exports.iter().flat_map(Exports::roots));
    // Of what is held, only what is selected is needed.
    coming.retain(|root| !whole.iter().any(|(held, _)| held == root));
    let keep = Keep {
        whole,
        coming,
        manifests: BTreeSet::new(),
    };
    let unused = tokio::task::spawn_blocking(move || keep.unused(&pages, &halted));
    Ok(unused.await??)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn leases_are_capped() {
        let leases = Leases::default();
        let channel = ChannelId::new("noble").unwrap();
        for number in 1..100 {
            leases.touch(&channel, Build::new(number).unwrap());
        }
        assert_eq!(leases.of(&channel).len(), LEASES_MAX);
    }
}
