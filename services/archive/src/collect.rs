//! Lets go of content: of builds beyond those that are kept, of retracted ones, and of publications that were not made.
//!
//! Two marks and a pause, then a sweep by short turns. Publishers pin the store while they look content up and until their
//! build is journaled: a turn that does not get the store at once, or finds that something was journaled since the
//! marks, ends the collection. Manifests stay, so that any build can still be looked into.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mirrorlog_core::archive::History;
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::view::Selection;
use runtime::state::{Control as _, StateError, Write};
use runtime::store::{Keep, MarkError, StoreError};

use crate::daemon::Daemon;
use crate::state::{CodecError, Key, decode_ranges, encode_ranges};

/// Time between the two marks.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest that a turn of the sweep keeps publishers waiting.
const TURN: Duration = Duration::from_millis(50);
/// Begun files that nobody has touched for this long go too, in milliseconds.
const PARTIALS_KEPT_MS: i64 = 3 * 24 * 3600 * 1000;

/// Why nothing more was removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// The marks failed.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The control state holds nonsense.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collected {
    /// Builds of each channel whose content goes, and how many are kept.
    pub(crate) channels: BTreeMap<ChannelId, (Vec<Build>, usize)>,
    /// Files that nothing needs.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Why it ended before all of them were removed.
    pub(crate) stopped: Option<&'static str>,
}

/// What is published, and which of it is kept.
struct Published {
    histories: Vec<(ChannelId, Arc<History>)>,
    keep: Keep,
    channels: BTreeMap<ChannelId, (Vec<Build>, usize)>,
}

impl Daemon {
    /// Says what a collection would remove. Blocks.
    ///
    /// # Errors
    /// [`CollectError`].
    pub(crate) fn would_collect(&self) -> Result<Collected, CollectError> {
        let published = self.published()?;
        let unused = self.unused(&published.keep)?;
        let mut collected = Collected {
            channels: published.channels,
            ..Collected::default()
        };
        for digest in &unused {
            collected.files += 1;
            collected.bytes += self.pages.store().size(digest)?.unwrap_or(0);
        }
        Ok(collected)
    }

    /// Removes what nothing needs. Blocks.
    ///
    /// # Errors
    /// [`CollectError`]: what is needed is still there.
    pub(crate) fn collect(&self) -> Result<Collected, CollectError> {
        let store = self.pages.store();
        let busy = "a publication is under way";
        if store.try_sweep_lock()?.is_none() {
            return Ok(Collected {
                stopped: Some(busy),
                ..Collected::default()
            });
        }
        let first = self.unused(&self.published()?.keep)?;
        if !first.is_empty() {
            std::thread::sleep(PAUSE);
        }
        let published = self.published()?;
        let second = self.unused(&published.keep)?;
        let mut rest = first.intersection(&second).peekable();
        // Before anything goes: what is let go must never be taken for whole.
        self.note_collected(&published)?;
        let mut collected = Collected {
            channels: published.channels.clone(),
            ..Collected::default()
        };
        while rest.peek().is_some() {
            let Some(_turn) = store.try_sweep_lock()? else {
                collected.stopped = Some(busy);
                break;
            };
            if !self.is_unchanged(&published) {
                collected.stopped = Some("a build was published meanwhile");
                break;
            }
            let until = Instant::now() + TURN;
            while let Some(digest) = rest.next_if(|_| Instant::now() < until) {
                collected.bytes += store.size(digest)?.unwrap_or(0);
                store.remove(digest)?;
                collected.files += 1;
            }
        }
        let old = runtime::boot::now().plus_ms(-PARTIALS_KEPT_MS);
        collected.bytes += store.sweep_partials(old)?;
        Ok(collected)
    }

    /// Builds of a channel whose content is no longer kept. Blocks.
    ///
    /// # Errors
    /// [`CollectError::State`], [`CollectError::Codec`].
    pub(crate) fn collected(
        &self,
        channel: &ChannelId,
    ) -> Result<Vec<(Build, Build)>, CollectError> {
        let stored = self.state.get(&Key::Collected(channel.clone()).encode())?;
        Ok(stored.map_or(Ok(Vec::new()), |bytes| decode_ranges(&bytes))?)
    }

    fn unused(&self, keep: &Keep) -> Result<BTreeSet<Digest>, CollectError> {
        Ok(keep.unused(&self.pages, &|| false)?.unwrap_or_default())
    }

    fn published(&self) -> Result<Published, CollectError> {
        let mut published = Published {
            histories: Vec::new(),
            keep: Keep::default(),
            channels: BTreeMap::new(),
        };
        let keep_ms = i64::try_from(self.config.gc_keep.as_millis()).unwrap_or(i64::MAX / 4);
        let since = runtime::boot::now().plus_ms(-keep_ms);
        for channel in self.channels() {
            let name = channel.declared.name.clone();
            let history = channel.journal.history();
            let wanted = channel.wanted_builds();
            let gone = self.collected(&name)?;
            let was_collected = |build: Build| {
                let mut gone = gone.iter();
                gone.any(|(first, last)| *first <= build && build <= *last)
            };
            let (mut goes, mut kept, mut good) = (Vec::new(), 0, 0);
            let all: Vec<_> = history.from(Build::FIRST).copied().collect();
            // A halted channel may lack what came after: nothing of it goes.
            let halted = channel.journal.halted().is_some();
            for one in all.iter().rev() {
                let retracted = history.is_retracted(one.build);
                good += usize::from(!retracted);
                let lately = good <= self.config.gc_keep_builds || one.created >= since;
                let needed = (lately && !retracted) || wanted.contains(&one.build) || halted;
                if was_collected(one.build) {
                    published.keep.manifests.insert(one.root);
                } else if needed {
                    kept += 1;
                    published.keep.whole.push((one.root, Selection::ALL));
                } else {
                    goes.push(one.build);
                    published.keep.manifests.insert(one.root);
                }
            }
            goes.sort_unstable();
            published.channels.insert(name.clone(), (goes, kept));
            published.histories.push((name, history));
        }
        Ok(published)
    }

    fn is_unchanged(&self, published: &Published) -> bool {
        let channels = self.channels();
        let same = |(name, history): &(ChannelId, Arc<History>)| {
            let mut now = channels.iter();
            let now = now.find(|channel| channel.declared.name == *name);
            now.is_some_and(|channel| Arc::ptr_eq(&channel.journal.history(), history))
        };
        channels.len() == published.histories.len() && published.histories.iter().all(same)
    }

    fn note_collected(&self, published: &Published) -> Result<(), CollectError> {
        let mut writes = Vec::new();
        for (channel, (goes, _)) in &published.channels {
            if goes.is_empty() {
                continue;
            }
            let mut ranges = self.collected(channel)?;
            ranges.extend(goes.iter().map(|build| (*build, *build)));
            let key = Key::Collected(channel.clone()).encode();
            writes.push(Write::Put(key, encode_ranges(&joined(ranges))));
        }
        if !writes.is_empty() {
            self.state.commit(&writes)?;
        }
        Ok(())
    }
}

/// The same builds in as few ranges as there can be.
fn joined(mut ranges: Vec<(Build, Build)>) -> Vec<(Build, Build)> {
    ranges.sort_unstable();
    let mut all: Vec<(Build, Build)> = Vec::new();
    for (first, last) in ranges {
        match all.last_mut() {
            Some(before) if first <= before.1.next() => before.1 = before.1.max(last),
            Some(_) | None => all.push((first, last)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_join_where_they_touch() {
        let range = |(first, last)| (Build::new(first).unwrap(), Build::new(last).unwrap());
        let ranges = [(7, 7), (1, 2), (3, 3), (2, 2), (9, 12), (10, 10)].map(range);
        let expected = [(1, 3), (7, 7), (9, 12)].map(range);
        assert_eq!(joined(ranges.to_vec()), expected);
        assert_eq!(joined(Vec::new()), []);
    }
}
