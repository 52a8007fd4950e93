//! Lets go of content: of builds beyond those that are kept, of retracted ones, and of publications that were not made.
//!
//! Two marks and a pause, then a sweep by short turns. Publishers pin the store while they look content up and until their
//! build is journaled: a turn that does not get the store at once, or finds that something was journaled since the
//! marks, ends the collection. Manifests stay, so that any build can still be looked into.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mirrorlog_core::archive::History;
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::view::Selection;
use runtime::store::{Keep, MarkError, StoreError};

use crate::daemon::Daemon;
use crate::state::{CodecError, decode_ranges, encode_ranges};

/// Time between the two marks.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest that a turn of the sweep keeps publishers waiting.
const TURN: Duration = Duration::from_millis(50);
/// Pause between two turns.
const BETWEEN: Duration = Duration::from_millis(5);
/// Begun files that nobody has touched for this long go too, in milliseconds.
pub(crate) const PARTIALS_KEPT_MS: i64 = 3 * 24 * 3600 * 1000;

/// Why nothing more was removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// The marks failed.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was let go before is not readable.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A file of the state could not be handled.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not known whether the journals are whole.
    #[error("nothing is collected: {0}")]
    NotKnown(String),
}

/// Builds that pools want, read from the log a moment ago.
pub(crate) type Wanted = BTreeMap<ChannelId, BTreeSet<Build>>;

/// How long those who publish from other machines are waited for.
const VISITORS_FOR: Duration = Duration::from_secs(600);

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
    pub(crate) fn would_collect(&self, wanted: &Wanted) -> Result<Collected, CollectError> {
        self.check_known()?;
        let published = self.published(wanted)?;
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
    pub(crate) fn collect(&self, wanted: &Wanted) -> Result<Collected, CollectError> {
        self.check_known()?;
        let store = self.pages.store();
        let busy = "a publication is under way";
        // Others may publish one after the other without end: those that are not urgent wait for this.
        let _door = self.visitors.close();
        let until = Instant::now() + VISITORS_FOR;
        while self.visitors.any() && Instant::now() < until && !self.ending.load(Ordering::Acquire)
        {
            std::thread::sleep(BETWEEN);
        }
        if store.try_sweep_lock()?.is_none() {
            return Ok(Collected {
                stopped: Some(busy),
                ..Collected::default()
            });
        }
        let first = self.unused(&self.published(wanted)?.keep)?;
        if !first.is_empty() {
            std::thread::sleep(PAUSE);
        }
        self.check_known()?;
        let published = self.published(wanted)?;
        let second = self.unused(&published.keep)?;
        let mut rest = first.intersection(&second).peekable();
        // Before anything goes: what is let go must never be taken for whole.
        self.note_collected(&published)?;
        let mut collected = Collected {
            channels: published.channels.clone(),
            ..Collected::default()
        };
        while rest.peek().is_some() {
            let Some(turn) = store.try_sweep_lock()? else {
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
            drop(turn);
            if self.ending.load(Ordering::Acquire) {
                collected.stopped = Some("the archive is ending");
                break;
            }
            // A publisher that waits gets its turn: locks are not given in order.
            std::thread::sleep(BETWEEN);
        }
        let old = runtime::boot::now().plus_ms(-PARTIALS_KEPT_MS);
        collected.bytes += store.sweep_partials(old)?;
        Ok(collected)
    }

    /// Builds of a channel whose content is no longer kept. Blocks.
    ///
    /// # Errors
    /// [`CollectError::Io`], [`CollectError::Codec`].
    pub(crate) fn collected(
        &self,
        channel: &ChannelId,
    ) -> Result<Vec<(Build, Build)>, CollectError> {
        let path = self.collected_file(channel);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(decode_ranges(&bytes)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(io("read", &path, error)),
        }
    }

    fn collected_file(&self, channel: &ChannelId) -> PathBuf {
        self.config.state.join("collected").join(channel.as_str())
    }

    /// What a journal lacks, nobody may take for garbage: all of them have to be whole and compared with the log.
    fn check_known(&self) -> Result<(), CollectError> {
        let unknown = |text: String| Err(CollectError::NotKnown(text));
        if let Some(reason) = self.fence.lost() {
            return unknown(format!("another archive has taken over: {reason}"));
        }
        if !self.link().is_some_and(|link| link.log.is_connected()) {
            return unknown("the log is away, and may know more than the journal".to_owned());
        }
        for channel in self.channels() {
            let name = &channel.declared.name;
            if let Some(reason) = channel.journal.halted() {
                return unknown(format!("channel {name} is halted: {reason}"));
            }
            if !self.is_compared(&channel) {
                return unknown(format!("channel {name} was not compared with the log yet"));
            }
        }
        let root = self.config.state.join("journal");
        let listed = std::fs::read_dir(&root).map_err(|error| io("list", &root, error))?;
        for entry in listed {
            let entry = entry.map_err(|error| io("list", &root, error))?;
            let name = entry.file_name();
            let declared = name.to_str().and_then(|name| ChannelId::new(name).ok());
            let declared = declared.and_then(|name| self.channel(&name));
            if declared.is_none() {
                let path = entry.path();
                return unknown(format!(
                    "{} is the journal of a channel that is not declared; declare it again, or move its journal away to let its content go",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    fn unused(&self, keep: &Keep) -> Result<BTreeSet<Digest>, CollectError> {
        let halted = || self.ending.load(Ordering::Acquire);
        Ok(keep.unused(&self.pages, &halted)?.unwrap_or_default())
    }

    fn published(&self, wanted: &Wanted) -> Result<Published, CollectError> {
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
            let mut wanted = wanted.get(&name).cloned().unwrap_or_default();
            wanted.extend(channel.wanted_builds());
            let gone = self.collected(&name)?;
            let was_collected = |build: Build| {
                let mut gone = gone.iter();
                gone.any(|(first, last)| *first <= build && build <= *last)
            };
            let (mut goes, mut kept, mut good) = (Vec::new(), 0, 0);
            let all: Vec<_> = history.from(Build::FIRST).copied().collect();
            for one in all.iter().rev() {
                let retracted = history.is_retracted(one.build);
                good += usize::from(!retracted);
                let lately = good <= self.config.gc_keep_builds || one.created >= since;
                let needed = (lately && !retracted) || wanted.contains(&one.build);
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
        for (channel, (goes, _)) in &published.channels {
            if goes.is_empty() {
                continue;
            }
            let mut ranges = self.collected(channel)?;
            ranges.extend(goes.iter().map(|build| (*build, *build)));
            write(
                &self.collected_file(channel),
                &encode_ranges(&joined(ranges)),
            )?;
        }
        Ok(())
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> CollectError {
    CollectError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Replaces a file, durably.
fn write(path: &Path, bytes: &[u8]) -> Result<(), CollectError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| io("make", folder, error))?;
    let new = path.with_extension("new");
    let written = std::fs::File::create(&new).and_then(|mut file| {
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    });
    written.map_err(|error| io("write", &new, error))?;
    std::fs::rename(&new, path).map_err(|error| io("rename", &new, error))?;
    for folder in [folder, folder.parent().unwrap_or(folder)] {
        let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| io("sync", folder, error))?;
    }
    Ok(())
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
