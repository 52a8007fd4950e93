//! The fence: one archive numbers builds, whoever else holds a copy of its key and journal.
//!
//! Bucket `mirrorlog_build` holds, all changed by compare-and-set:
//!
//! | key | value |
//! | --- | --- |
//! | `_epoch` | `<epoch> <instance>`: the archive process that started last |
//! | channel | `<epoch> <build>`: newest build number given out, by whom |
//! | `<channel>.retractions` | the same for retractions |
//!
//! An archive that starts raises the epoch and claims every counter. One that finds a higher epoch than its
//! own anywhere has been taken over and publishes no more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mirrorlog_core::archive::{Behind, Counted, Counter, Note, Series};
use mirrorlog_core::id::{Build, ChannelId};
use runtime::log::{Bucket, LogError};
use runtime::state::{Control, StateError, Write};
use wire::kv::Numbering;

use crate::state::{CodecError, Key, decode_note, decode_number, encode_note, encode_number};

const EPOCH_KEY: &str = "_epoch";
/// Attempts at a compare-and-set before giving up: each lost one means that somebody else wrote.
const ATTEMPTS: usize = 8;

/// Why no number was given.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// A newer archive process publishes.
    #[error(
        "another archive has taken over: {0}; stop one of them, then start the one that is to publish"
    )]
    TakenOver(String),
    /// The journal lacks something that was published.
    #[error(transparent)]
    Behind(#[from] Behind),
    /// The counters cannot be reached.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The counter changes all the time.
    #[error("the counter of channel {0} changes all the time, try again")]
    Busy(ChannelId),
    /// The control state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The control state holds nonsense.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// What is asked of the counter.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// The channel.
    pub channel: &'a ChannelId,
    /// What is counted.
    pub series: Series,
    /// The newest number in the journal, 0 for none.
    pub journaled: u64,
    /// How many numbers are wanted; 0 only checks.
    pub count: u64,
    /// The newest that mirrors report; asked for when the counter is lost.
    pub reported: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    revision: u64,
    counted: Option<Counted>,
}

/// This process' claim on the counters.
pub struct Fence {
    state: Arc<dyn Control>,
    instance: String,
    /// 0: not taken yet.
    epoch: AtomicU64,
    seen: Mutex<HashMap<String, Seen>>,
    lost: RwLock<Option<String>>,
}

impl Fence {
    /// Makes the claim of process `instance`, a random text.
    pub fn new(state: Arc<dyn Control>, instance: String) -> Self {
        Self {
            state,
            instance,
            epoch: AtomicU64::new(0),
            seen: Mutex::default(),
            lost: RwLock::default(),
        }
    }

    /// Why this archive publishes no more, if so.
    pub fn lost(&self) -> Option<String> {
        self.lost
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The epoch under which this process publishes; 0 before it was taken.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Raises the epoch, once for each process.
    ///
    /// # Errors
    /// [`FenceError::Log`], [`FenceError::State`].
    pub async fn take(&self, bucket: &Bucket) -> Result<(), FenceError> {
        for _attempt in 0..ATTEMPTS {
            let held = bucket.get(EPOCH_KEY).await?;
            let revision = held.as_ref().map_or(0, |(revision, _)| *revision);
            let counted = held.map_or(0, |(_, value)| parse_epoch(&value).0);
            let epoch = counted.max(self.noted_epoch()?).max(self.epoch()) + 1;
            self.state
                .commit(&[Write::Put(Key::Epoch.encode(), encode_number(epoch))])?;
            match bucket
                .set(
                    EPOCH_KEY,
                    format!("{epoch} {}", self.instance).into(),
                    revision,
                )
                .await
            {
                Ok(_revision) => {
                    self.epoch.store(epoch, Ordering::Release);
                    tracing::info!(epoch, "epoch taken");
                    return Ok(());
                }
                Err(LogError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(self.lose("its epoch changes all the time".to_owned()))
    }

    /// Looks whether another archive has taken over. A lost or older epoch is put back.
    ///
    /// # Errors
    /// [`FenceError::TakenOver`], now and from now on; [`FenceError::Log`].
    pub async fn check(&self, bucket: &Bucket) -> Result<(), FenceError> {
        if let Some(reason) = self.lost() {
            return Err(FenceError::TakenOver(reason));
        }
        let held = bucket.get(EPOCH_KEY).await?;
        let revision = held.as_ref().map_or(0, |(revision, _)| *revision);
        let (epoch, instance) = held.map_or((0, String::new()), |(_, value)| parse_epoch(&value));
        let own = self.epoch();
        if epoch > own || (epoch == own && instance != self.instance) {
            return Err(self.lose(format!("epoch {epoch} began, this one is {own}")));
        }
        if epoch < own {
            // The server lost what it had acked. Whoever writes first goes on, the other finds out.
            let value = format!("{own} {}", self.instance).into();
            match bucket.set(EPOCH_KEY, value, revision).await {
                Ok(_revision) => {}
                Err(LogError::Refused { .. }) => {
                    tracing::debug!("epoch changed meanwhile, looked at again later")
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Puts this epoch on a channel's counters, so that an older archive cannot change them.
    ///
    /// # Errors
    /// [`FenceError::TakenOver`], [`FenceError::Log`], [`FenceError::State`].
    pub async fn claim(&self, bucket: &Bucket, channel: &ChannelId) -> Result<(), FenceError> {
        for series in [Series::Builds, Series::Retractions] {
            let key = counter_key(channel, series);
            for _attempt in 0..ATTEMPTS {
                self.forget(&key);
                let seen = self.seen(bucket, &key).await?;
                let Some(counted) = seen.counted.filter(|counted| counted.epoch != self.epoch())
                else {
                    break;
                };
                let note = self.note(series, channel)?.claiming(&counted, self.epoch());
                self.keep(series, channel, &note, Vec::new()).await?;
                let claimed = Counted {
                    epoch: self.epoch(),
                    ..counted
                };
                if self.set(bucket, &key, claimed, seen.revision).await? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// True when the channel's counter of builds is lost, or was never made.
    ///
    /// # Errors
    /// As [`Fence::claim`].
    pub async fn is_unknown(
        &self,
        bucket: &Bucket,
        channel: &ChannelId,
    ) -> Result<bool, FenceError> {
        let seen = self
            .seen(bucket, &counter_key(channel, Series::Builds))
            .await?;
        Ok(seen.counted.is_none())
    }

    /// Reserves `wish.count` numbers and returns the first. What `note` returns for it becomes durable before that.
    ///
    /// # Errors
    /// [`FenceError`]; after [`FenceError::Log`] the numbers may be reserved: they stay unused.
    pub async fn reserve(
        &self,
        bucket: &Bucket,
        wish: &Wish<'_>,
        note: impl Fn(u64) -> Vec<Write>,
    ) -> Result<u64, FenceError> {
        let key = counter_key(wish.channel, wish.series);
        let Wish {
            channel,
            series,
            journaled,
            reported,
            ..
        } = *wish;
        // What a lost compare-and-set noted counts no more: its numbers were not taken.
        let before = self.note(series, channel)?;
        for _attempt in 0..ATTEMPTS {
            if let Some(reason) = self.lost() {
                return Err(FenceError::TakenOver(reason));
            }
            let seen = self.seen(bucket, &key).await?;
            let counter = Counter {
                series,
                journaled,
                note: before,
                counted: seen.counted,
                reported,
            };
            let first = counter.next().inspect_err(|_behind| self.forget(&key))?;
            if wish.count == 0 {
                return Ok(first);
            }
            let last = first.saturating_add(wish.count - 1);
            let noted = before.reserving(seen.counted.as_ref(), self.epoch(), last);
            self.keep(series, channel, &noted, note(first)).await?;
            let reserved = Counted {
                epoch: self.epoch(),
                number: last,
            };
            if self.set(bucket, &key, reserved, seen.revision).await? {
                return Ok(first);
            }
        }
        Err(FenceError::Busy(channel.clone()))
    }

    fn note(&self, series: Series, channel: &ChannelId) -> Result<Note, FenceError> {
        let value = self
            .state
            .get(&Key::Note(series, channel.clone()).encode())?;
        Ok(value.map_or(Ok(Note::default()), |value| decode_note(&value))?)
    }

    /// Makes a note durable, with other writes of the same moment.
    async fn keep(
        &self,
        series: Series,
        channel: &ChannelId,
        note: &Note,
        mut writes: Vec<Write>,
    ) -> Result<(), FenceError> {
        writes.push(Write::Put(
            Key::Note(series, channel.clone()).encode(),
            encode_note(note),
        ));
        let state = Arc::clone(&self.state);
        Ok(run_blocking(move || state.commit(&writes)).await?)
    }

    /// Forgets what the server was seen to hold: after it was lost or made anew.
    pub fn forget_all(&self) {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    async fn set(
        &self,
        bucket: &Bucket,
        key: &str,
        counted: Counted,
        revision: u64,
    ) -> Result<bool, FenceError> {
        let numbering = Numbering {
            epoch: counted.epoch,
            newest: Build::new(counted.number),
        };
        match bucket.set(key, numbering.encode().into(), revision).await {
            Ok(revision) => {
                self.remember(
                    key,
                    Seen {
                        revision,
                        counted: Some(counted),
                    },
                );
                Ok(true)
            }
            Err(LogError::Refused { .. }) => {
                self.forget(key);
                // Refused may also mean that the first sending arrived and its answer did not:
                // nobody else writes this epoch.
                Ok(self.seen(bucket, key).await?.counted == Some(counted))
            }
            Err(error) => {
                self.forget(key);
                Err(error.into())
            }
        }
    }

    async fn seen(&self, bucket: &Bucket, key: &str) -> Result<Seen, FenceError> {
        let known = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .copied();
        if let Some(seen) = known {
            return Ok(seen);
        }
        let seen = match bucket.get(key).await? {
            None => Seen {
                revision: 0,
                counted: None,
            },
            Some((revision, value)) => {
                // What nobody of us wrote is as good as lost: mirrors and the log are asked, and it is written anew.
                let counted = match Numbering::decode(&value) {
                    Ok(Numbering { epoch, newest }) => Some(Counted {
                        epoch,
                        number: newest.map_or(0, Build::get),
                    }),
                    Err(error) => {
                        tracing::error!(
                            key,
                            error = wire::causes(&error),
                            "the count of builds is not readable"
                        );
                        None
                    }
                };
                Seen { revision, counted }
            }
        };
        let own = self.epoch();
        if let Some(held) = seen.counted.filter(|held| held.epoch > own) {
            return Err(self.lose(format!(
                "{key} was numbered in epoch {}, this one is {own}",
                held.epoch
            )));
        }
        self.remember(key, seen);
        Ok(seen)
    }

    fn remember(&self, key: &str, seen: Seen) {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.to_owned(), seen);
    }

    fn forget(&self, key: &str) {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }

    fn noted_epoch(&self) -> Result<u64, FenceError> {
        Ok(self
            .state
            .get(&Key::Epoch.encode())?
            .map_or(Ok(0), |value| decode_number(&value))?)
    }

    fn lose(&self, reason: String) -> FenceError {
        let mut lost = self.lost.write().unwrap_or_else(PoisonError::into_inner);
        if lost.is_none() {
            tracing::error!(
                reason,
                "another archive has taken over, publishing stops here"
            );
            *lost = Some(reason.clone());
        }
        FenceError::TakenOver(reason)
    }
}

fn counter_key(channel: &ChannelId, series: Series) -> String {
    match series {
        Series::Builds => channel.to_string(),
        Series::Retractions => format!("{channel}.retractions"),
    }
}

/// Reads `<epoch> <instance>`; what cannot be read counts as no epoch.
fn parse_epoch(value: &[u8]) -> (u64, String) {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let (epoch, instance) = text.split_once(' ').unwrap_or_default();
    (epoch.parse().unwrap_or(0), instance.to_owned())
}

/// Runs what blocks on a thread of its own kind; a panic there goes on here.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(match error.try_into_panic() {
            Ok(panic) => panic,
            Err(cancelled) => Box::new(cancelled),
        }),
    }
}
