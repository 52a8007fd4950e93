//! Lets unused content go: two marks and a pause before a sweep, never while something is fetched.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::manifest::{self, PageRead as _};
use runtime::store::Pages;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::run::Parts;

/// Time between the two marks.
const PAUSE: Duration = Duration::from_secs(5);
/// Entries whose digests one pass over the manifests keeps in memory: 32 MiB.
const MARKED_MAX: u64 = 1 << 20;
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

/// Collects whenever a build is let go.
pub(crate) async fn run(parts: Arc<Parts>, stop: CancellationToken) {
    loop {
        if stop
            .run_until_cancelled(parts.collect.notified())
            .await
            .is_none()
        {
            return;
        }
        match collect(&parts, &stop).await {
            Ok(Some(swept)) => {
                if swept.files > 0 {
                    let Swept { files, bytes } = swept;
                    tracing::info!(files, bytes, "unused content is gone");
                }
            }
            // A sync holds the store: what it brings must not be taken for garbage. Again later.
            Ok(None) => {
                let wait = tokio::time::sleep(PAUSE);
                if stop.run_until_cancelled(wait).await.is_some() {
                    parts.collect.notify_one();
                }
            }
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "unused content stays for now")
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
    let Some(lock) = pages.store().try_sweep_lock()? else {
        return Ok(None);
    };
    let first = unused(parts, stop).await?;
    if first.is_empty() {
        return Ok(Some(Swept::default()));
    }
    drop(lock);
    if stop
        .run_until_cancelled(tokio::time::sleep(PAUSE))
        .await
        .is_none()
    {
        return Ok(Some(Swept::default()));
    }
    let Some(lock) = pages.store().try_sweep_lock()? else {
        return Ok(None);
    };
    let second = unused(parts, stop).await?;
    let swept = tokio::task::spawn_blocking(move || {
        let _lock = lock;
        let mut swept = Swept::default();
        for digest in first.intersection(&second) {
            swept.bytes += pages.store().size(digest)?.unwrap_or(0);
            pages.store().remove(digest)?;
            swept.files += 1;
        }
        anyhow::Ok(swept)
    });
    Ok(Some(swept.await??))
}

/// Digests in the store that no held build names. Passes over parts of the digest space bound the memory.
async fn unused(parts: &Arc<Parts>, stop: &CancellationToken) -> anyhow::Result<BTreeSet<Digest>> {
    let pages = parts.syncer.pages.clone();
    let table = parts.serving_reader.current();
    let stop = stop.clone();
    let roots: BTreeSet<Digest> = table
        .channels
        .values()
        .flat_map(|served| served.builds.values().map(|row| row.root))
        .collect();
    let unused = tokio::task::spawn_blocking(move || {
        let mut entries = 0;
        for root in &roots {
            entries += pages.page(root)?.entries();
        }
        let passes = u8::try_from(entries / MARKED_MAX + 1).unwrap_or(u8::MAX);
        let mut unused = BTreeSet::new();
        for pass in 0..passes {
            let mine = |digest: &Digest| digest.as_bytes()[31] % passes == pass;
            let used = used(&pages, &roots, mine)?;
            for digest in pages.store().digests()? {
                let digest = digest?;
                if mine(&digest) && !used.contains(&digest) {
                    unused.insert(digest);
                }
            }
            anyhow::ensure!(!stop.is_cancelled(), "stopped");
        }
        anyhow::Ok(unused)
    });
    unused.await?
}

fn used(
    pages: &Pages,
    roots: &BTreeSet<Digest>,
    mine: impl Fn(&Digest) -> bool,
) -> anyhow::Result<HashSet<Digest>> {
    let mut used = HashSet::new();
    let mut walked = HashSet::new();
    let mut before: Option<&Digest> = None;
    for root in roots {
        let mut below = vec![*root];
        while let Some(digest) = below.pop() {
            if walked.insert(digest) {
                below.extend(pages.page(&digest)?.children());
            }
        }
        for difference in manifest::diff(pages, before, Some(root)) {
            let entry = difference
                .map_err(anyhow::Error::new)?
                .new
                .map(|(_, entry)| entry);
            let digest = entry
                .as_ref()
                .and_then(|entry| entry.file())
                .map(|file| file.digest);
            used.extend(digest.filter(&mine));
        }
        before = Some(root);
    }
    used.extend(walked.into_iter().filter(mine));
    Ok(used)
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
