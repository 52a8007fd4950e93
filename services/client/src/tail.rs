//! The end of a large file, which other mirrors bring in blocks, from the back, while the first one brings the front.
//!
//! Blocks lie in a file beside the part until the front reaches them. They are not kept from run to run, so that what
//! an interrupted run leaves is the front and nothing else. Memory does not grow with the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fetcher::web::TooSlow;
use mirrorlog_core::client::climb::{Answer, SourceIndex};
use mirrorlog_core::url::encode_path;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::part::Part;
use crate::pin::{Pinned, WantedFile};
use crate::session::{LocalFault, Trouble};
use crate::source::{Source, broken, named_digest};
use crate::transfer::given_range;

/// Files with less than this to come are brought by one mirror, in bytes.
pub(crate) const PARALLEL_ABOVE_BYTES: u64 = 16 << 20;
/// One block.
const BLOCK_BYTES: u64 = 4 << 20;
/// Mirrors that help at the same time.
const HELPERS_MAX: usize = 3;
/// Between two looks at how fast it comes.
const LOOK: Duration = Duration::from_secs(1);
/// Nobody else is asked for what comes within this time anyway.
const SOON_S: f64 = 3.0;
/// How long the front waits for a block that is on its way, before it fetches that itself.
const PATIENCE: Duration = Duration::from_secs(2);
/// A helper that raises the whole speed by less than this is the last one.
const HELPS: f64 = 1.1;

/// What is known of a place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Coming,
    Here(SourceIndex),
}

/// What the front finds where it has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// Nobody brings it: until there, it is the front's.
    Free {
        until: u64,
    },
    Coming,
    Here {
        until: u64,
        source: SourceIndex,
    },
}

/// The blocks of one file.
pub(crate) struct Tail {
    /// The folder.
    path: PathBuf,
    file: File,
    size_bytes: u64,
    /// Where the front is.
    front: AtomicU64,
    /// Bytes that are to come, and those that came from all together.
    awaited: u64,
    came: AtomicU64,
    blocks: Mutex<BTreeMap<u64, Block>>,
    changed: Notify,
    ended: Notify,
}

impl Tail {
    /// Makes the file for blocks beside `part`.
    pub(crate) fn new(part: &Part, size_bytes: u64) -> Result<Self, LocalFault> {
        let folder = part.place().path().parent();
        let path = folder.unwrap_or(Path::new(".")).to_owned();
        // Without a name: nothing stays behind, and nobody can be there first.
        let file = tempfile::tempfile_in(part.place().anchor());
        let file = file.map_err(|source| LocalFault {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            path,
            file,
            size_bytes,
            front: AtomicU64::new(part.at()),
            awaited: size_bytes - part.at(),
            came: AtomicU64::new(0),
            blocks: Mutex::default(),
            changed: Notify::new(),
            ended: Notify::new(),
        })
    }

    /// How far the front may go by itself.
    pub(crate) fn limit(&self, at: u64) -> u64 {
        self.front.store(at, Ordering::Relaxed);
        match self.slot(at) {
            Slot::Free { until } => until,
            Slot::Coming | Slot::Here { .. } => at,
        }
    }

    /// Takes what helpers have brought from where the front is on, waiting for what is on its way; ends where nobody
    /// brings anything, or at the end of the file.
    pub(crate) async fn drain(&self, part: &mut Part) -> Result<(), LocalFault> {
        loop {
            let changed = self.changed.notified();
            self.front.store(part.at(), Ordering::Relaxed);
            match self.slot(part.at()) {
                Slot::Free { .. } => return Ok(()),
                // Whoever brings it has been at it all the time that the front needed to come here.
                Slot::Coming => {
                    if tokio::time::timeout(PATIENCE, changed).await.is_err() {
                        self.blocks().remove(&part.at());
                    }
                }
                Slot::Here { until, source } => {
                    part.give(source);
                    self.copy(part, until)?;
                }
            }
        }
    }

    /// True when nobody brings anything now.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.blocks().values().any(|block| *block == Block::Coming)
    }

    /// Some bytes came.
    pub(crate) fn came(&self, bytes: u64) {
        self.came.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The front is whole: helpers stop.
    pub(crate) fn end(&self) {
        self.ended.notify_waiters();
        self.ended.notify_one();
    }

    /// Adds helpers while that helps, until the front is whole.
    pub(crate) async fn help(&self, pinned: &Pinned, file: &WantedFile, helpers: Vec<SourceIndex>) {
        let work = async {
            let mut running = futures::stream::FuturesUnordered::new();
            let mut waiting = helpers.into_iter().take(HELPERS_MAX);
            let mut next = waiting.next();
            let (mut last, mut since, mut before) = (0, Instant::now(), 0.0_f64);
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(since + LOOK) => {}
                    Some(()) = futures::StreamExt::next(&mut running), if !running.is_empty() => continue,
                }
                let (now, came) = (Instant::now(), self.came.load(Ordering::Relaxed));
                let speed = (came - last) as f64 / (now - since).as_secs_f64().max(0.001);
                (last, since) = (came, now);
                let left = self.awaited.saturating_sub(came) as f64;
                let helped = before == 0.0 || speed > before * HELPS;
                let worth_it = left / speed.max(1.0) > SOON_S;
                if let Some(helper) = next.filter(|_| helped && worth_it) {
                    running.push(self.bring(pinned, file, helper));
                    (next, before) = (waiting.next(), speed);
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = self.ended.notified() => {}
        }
    }

    /// Brings block after block from one mirror, until there is none left or it fails.
    async fn bring(&self, pinned: &Pinned, file: &WantedFile, helper: SourceIndex) {
        while let Some((from, to)) = self.take() {
            let brought = self.block(pinned, file, helper, from, to).await;
            let ended = {
                let mut blocks = self.blocks();
                // The front may have taken it over.
                let mine = blocks.get(&from) == Some(&Block::Coming);
                match (&brought, mine) {
                    (Ok(()), true) => {
                        blocks.insert(from, Block::Here(helper));
                        false
                    }
                    // Too slow to be of use.
                    (Ok(()), false) => true,
                    // The front fills the gap.
                    (Err(_), _) => {
                        if mine {
                            blocks.remove(&from);
                        }
                        true
                    }
                }
            };
            self.changed.notify_waiters();
            match brought {
                Err(Trouble::Answer(answer)) => {
                    pinned.session.blame(helper, pinned.build(), answer)
                }
                // Not the mirror's doing.
                Err(Trouble::Local(fault)) => {
                    tracing::debug!(error = runtime::chain(&fault), "a block cannot be kept");
                }
                Ok(()) => {}
            }
            if ended {
                return;
            }
        }
    }

    async fn block(
        &self,
        pinned: &Pinned,
        file: &WantedFile,
        helper: SourceIndex,
        from: u64,
        to: u64,
    ) -> Result<(), Trouble> {
        let Source::Mirror(mirror) = pinned.session.source(helper) else {
            return Err(Answer::Missing.into());
        };
        let web = &pinned.session.inner.web;
        let path = encode_path(file.path.as_bytes());
        let what = (pinned.channel(), pinned.build(), path.as_str());
        let mut pace = web.pace();
        let mut answer = mirror.open(web, what, Some((from, Some(to)))).await?;
        let other = named_digest(&answer).is_some_and(|digest| digest != file.entry.digest);
        if other || given_range(&answer, self.size_bytes) != Some((from, to)) {
            return Err(Answer::Corrupt.into());
        }
        let mut at = from;
        while at < to {
            let chunk = match pace.wait(answer.chunk()).await {
                Err(TooSlow(_)) => return Err(Answer::Stalled.into()),
                Ok(Err(error)) => return Err(broken(&error).into()),
                Ok(Ok(None)) => return Err(Answer::Unreachable.into()),
                Ok(Ok(Some(chunk))) => chunk,
            };
            if at + chunk.len() as u64 > to {
                return Err(Answer::Corrupt.into());
            }
            let written = self.file.write_all_at(&chunk, at);
            written.map_err(|source| self.fault(source))?;
            at += chunk.len() as u64;
            self.came(chunk.len() as u64);
            pace.came(chunk.len());
        }
        Ok(())
    }

    /// The block that is farthest behind; none when the front is near.
    fn take(&self) -> Option<(u64, u64)> {
        let mut blocks = self.blocks();
        let to = blocks.keys().next().copied().unwrap_or(self.size_bytes);
        let from = to.checked_sub(BLOCK_BYTES)?;
        let front = self.front.load(Ordering::Relaxed);
        if from < front + BLOCK_BYTES {
            return None;
        }
        blocks.insert(from, Block::Coming);
        Some((from, to))
    }

    fn slot(&self, at: u64) -> Slot {
        let blocks = self.blocks();
        match blocks.get(&at) {
            Some(Block::Coming) => Slot::Coming,
            Some(Block::Here(source)) => Slot::Here {
                until: (at + BLOCK_BYTES).min(self.size_bytes),
                source: *source,
            },
            None => {
                let next = blocks.range(at..).next().map(|(from, _)| *from);
                Slot::Free {
                    until: next.unwrap_or(self.size_bytes),
                }
            }
        }
    }

    fn copy(&self, part: &mut Part, until: u64) -> Result<(), LocalFault> {
        let mut buffer = vec![0; 256 * 1024];
        while part.at() < until {
            let length = usize::try_from(until - part.at())
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let read = self.file.read_exact_at(&mut buffer[..length], part.at());
            read.map_err(|source| self.fault(source))?;
            part.write(&buffer[..length])?;
        }
        Ok(())
    }

    fn fault(&self, source: io::Error) -> LocalFault {
        LocalFault {
            path: self.path.clone(),
            source,
        }
    }

    fn blocks(&self) -> MutexGuard<'_, BTreeMap<u64, Block>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use runtime::beneath::Place;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn helpers_work_from_the_back_and_the_front_takes_what_they_brought() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(&dir.path().join("part")).unwrap();
        let mut part = Part::open(&place, 20 * MIB).unwrap();
        let tail = Tail::new(&part, 20 * MIB).unwrap();
        assert_eq!(tail.take(), Some((16 * MIB, 20 * MIB)));
        assert_eq!(tail.take(), Some((12 * MIB, 16 * MIB)));
        assert_eq!(
            tail.limit(0),
            12 * MIB,
            "the front goes up to what others bring"
        );
        let zeros = vec![0; 12 << 20];
        part.write(&zeros).unwrap();
        assert_eq!(
            (tail.limit(12 * MIB), tail.take()),
            (12 * MIB, None),
            "the front is near"
        );
        tail.file.write_all_at(&[7; 4 << 20], 12 * MIB).unwrap();
        tail.blocks().insert(12 * MIB, Block::Here(SourceIndex(3)));
        // The other block failed: the front has to fill it.
        tail.blocks().remove(&(16 * MIB));
        tail.drain(&mut part).await.unwrap();
        assert_eq!((part.at(), tail.limit(16 * MIB)), (16 * MIB, 20 * MIB));
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing but the part has a name"
        );
    }
}
