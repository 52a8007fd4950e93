//! The outbox: what is journaled and not yet known to be on the log.
//!
//! Each lane of each channel has a queue of its own, so that priority never waits behind bulk. Entries are noted
//! in the control state before they are journaled and deleted after the log's ack. A send names the subject's
//! last sequence, so that nothing is appended twice or out of order; when that has moved, the lane is compared
//! with the log again (`reconcile`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirrorlog_core::archive::{History, Item};
use mirrorlog_core::id::Lane;
use mirrorlog_core::limits::INLINE_DELTA_MAX_BYTES;
use mirrorlog_core::manifest::{self, Difference};
use mirrorlog_core::statement::{Change, Delta, DeltaSource};
use runtime::log::LogError;
use runtime::state::{Control, SledState, StateError, Write};
use tracing::Instrument as _;
use wire::event::message_id;
use wire::{Event, Signed};

use crate::daemon::{Channel, Daemon, Link};
use crate::fence::run_blocking;
use crate::gauges::Gauges;
use crate::journal::{Entry, JournalError, Known};
use crate::sign::Reserved;
use crate::state::{CodecError, Key, OUTBOX_PREFIX, Outgoing};

/// How long a publisher's answer is held back for the log's ack; the statement is durable before that.
const ACK_WAIT: Duration = Duration::from_millis(500);

/// Why the outbox could not be read, or not be sent.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The control state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The control state holds nonsense.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The log failed, or has moved on.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A statement cannot be read back.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The lane was never compared with the log.
    #[error("the lane was not compared with the log yet")]
    NotCompared,
}

/// A statement that waits for the log.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) position: u64,
    pub(crate) item: Item,
    /// The head after it; the newest one when it is not known any more.
    pub(crate) head: Option<Signed>,
    /// What it was said in: its trace goes on in the log.
    pub(crate) span: tracing::Span,
    /// The log had it, and lost it: it must not be taken for the copy that the server remembers.
    pub(crate) again: bool,
}

/// One lane's queue. Locked for moments only.
#[derive(Default)]
pub(crate) struct LaneQueue {
    waiting: Mutex<VecDeque<Waiting>>,
    /// The subject's last sequence; `None` until it was compared. Held while sending.
    pub(crate) tail: tokio::sync::Mutex<Option<u64>>,
}

/// Positions and the durable part.
pub struct Outbox {
    state: Arc<SledState>,
    next: AtomicU64,
    left: Mutex<Vec<(u64, Outgoing)>>,
    gauges: Gauges,
}

impl Outbox {
    /// Reads what was left. Blocks.
    ///
    /// # Errors
    /// [`OutboxError::State`], [`OutboxError::Codec`].
    pub fn open(state: Arc<SledState>, gauges: Gauges) -> Result<Self, OutboxError> {
        let mut left = Vec::new();
        for (key, value) in state.scan(OUTBOX_PREFIX)? {
            if let Key::Outbox(position) = Key::decode(&key)? {
                left.push((position, Outgoing::decode(&value)?));
            }
        }
        let next = left.last().map_or(0, |(position, _)| position + 1);
        Ok(Self {
            state,
            next: AtomicU64::new(next),
            left: Mutex::new(left),
            gauges,
        })
    }

    /// Queues what was left for a channel, as far as it was journaled.
    pub(crate) fn restore(&self, channel: &Channel) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, others) = left
            .drain(..)
            .partition(|(_, outgoing)| outgoing.channel == channel.declared.name);
        *left = others;
        let own: Vec<(u64, Outgoing)> = own;
        for (position, outgoing) in own {
            if let Some(lane) = lane_of(channel, outgoing.item) {
                self.push(channel, lane, self.waiting(position, outgoing.item));
            } else {
                self.forget(position);
            }
        }
    }

    /// Takes a position; the write that makes it durable goes into the caller's commit.
    pub(crate) fn stage(&self, outgoing: &Outgoing) -> (u64, Write) {
        let position = self.next.fetch_add(1, Ordering::Relaxed);
        (
            position,
            Write::Put(Key::Outbox(position).encode(), outgoing.encode()),
        )
    }

    /// A statement that the log lacks, though it was sent once.
    pub(crate) fn again(&self, item: Item) -> Waiting {
        let position = self.next.fetch_add(1, Ordering::Relaxed);
        Waiting {
            again: true,
            ..self.waiting(position, item)
        }
    }

    fn waiting(&self, position: u64, item: Item) -> Waiting {
        Waiting {
            position,
            item,
            head: None,
            span: tracing::Span::none(),
            again: false,
        }
    }

    pub(crate) fn push(&self, channel: &Channel, lane: Lane, waiting: Waiting) {
        self.gauges.outbox_changed(1);
        channel
            .lane(lane)
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(waiting);
    }

    /// Makes the queue what the log lacks, in that order; what was known of an entry is kept.
    pub(crate) fn replace(&self, channel: &Channel, lane: Lane, lacking: &[Item]) {
        let mut waiting = channel
            .lane(lane)
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut old: Vec<Waiting> = waiting.drain(..).collect();
        self.gauges
            .outbox_changed(lacking.len() as i64 - old.len() as i64);
        for item in lacking {
            let known = old.iter().position(|entry| entry.item == *item);
            waiting
                .push_back(known.map_or_else(|| self.again(*item), |index| old.swap_remove(index)));
        }
        drop(waiting);
        old.iter().for_each(|sent| self.forget(sent.position));
    }

    /// Statements of a channel that are still to be sent.
    pub(crate) fn waits(&self, channel: &Channel) -> u64 {
        let of = |lane| {
            let waiting = channel.lane(lane).waiting.lock();
            waiting.unwrap_or_else(PoisonError::into_inner).len() as u64
        };
        Lane::ALL.into_iter().map(of).sum()
    }

    fn front(&self, queue: &LaneQueue) -> Option<Waiting> {
        queue
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .front()
            .cloned()
    }

    fn done(&self, queue: &LaneQueue, position: u64) {
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = waiting.len();
        waiting.retain(|entry| entry.position != position);
        self.gauges
            .outbox_changed(waiting.len() as i64 - before as i64);
        drop(waiting);
        self.forget(position);
    }

    /// Deletes the durable note. One that stays costs a comparison with the log at the next start.
    fn forget(&self, position: u64) {
        let state = Arc::clone(&self.state);
        let delete = move || {
            if let Err(error) = state.commit(&[Write::Delete(Key::Outbox(position).encode())]) {
                tracing::warn!(error = %error, "outbox entry not deleted");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(delete)),
            Err(_no_runtime) => delete(),
        }
    }
}

/// The lane on which a statement of the journal belongs; `None` when it was never journaled.
pub(crate) fn lane_of(channel: &Channel, item: Item) -> Option<Lane> {
    let history = channel.journal.history();
    match item {
        Item::Snapshot(build) => history.get(build).map(|published| published.lane),
        Item::Retraction(sequence) => {
            (sequence > 0 && sequence < history.next_retraction()).then_some(Lane::Priority)
        }
    }
}

impl Daemon {
    /// Queues what was journaled, with the head after each statement, and waits a moment for the log's ack.
    pub(crate) async fn announce(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        mut after: History,
        entries: &[Entry],
        reserved: &Reserved,
        link: &Link,
    ) {
        for entry in entries {
            let item = entry.known.item();
            let admitted = entry.known.admit(&mut after);
            let head = match admitted {
                Ok(_admitted) => self.sign_head(channel, &after).await,
                Err(_refused) => None,
            };
            let position = reserved
                .positions
                .iter()
                .rev()
                .find(|(of, _)| *of == item)
                .map(|(_, position)| *position);
            let Some(position) = position else { continue };
            let span = tracing::Span::current();
            let lane = match entry.known {
                Known::Snapshot(published) => published.lane,
                Known::Retraction(_) => Lane::Priority,
            };
            tracing::info!(channel = %channel.declared.name, item = %item, %lane, "journaled");
            self.outbox.push(
                channel,
                lane,
                Waiting {
                    position,
                    item,
                    head,
                    span,
                    again: false,
                },
            );
        }
        let (daemon, of, link) = (Arc::clone(self), Arc::clone(channel), link.clone());
        let sending = tokio::spawn(async move { daemon.flush(&of, &link).await }.in_current_span());
        match tokio::time::timeout(ACK_WAIT, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %error, "sending failed"),
            Err(_still_sending) => tracing::debug!("the log takes its time, the outbox goes on"),
        }
    }

    /// Sends what waits on a lane, in order, until it is empty or the log fails.
    ///
    /// # Errors
    /// [`OutboxError`]: the rest stays. `LogError::Refused` inside means that the lane has to be compared again.
    pub(crate) async fn send(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        lane: Lane,
        link: &Link,
    ) -> Result<(), OutboxError> {
        let queue = channel.lane(lane);
        let mut tail = queue.tail.lock().await;
        while let Some(waiting) = self.outbox.front(queue) {
            let last = tail.ok_or(OutboxError::NotCompared)?;
            let span = tracing::info_span!(parent: &waiting.span, "send", channel = %channel.declared.name, item = %waiting.item, %lane);
            let sent = self
                .send_one(channel, lane, link, &waiting, last)
                .instrument(span)
                .await;
            match sent {
                Ok(sequence) => {
                    *tail = Some(sequence);
                    self.outbox.done(queue, waiting.position);
                }
                Err(error) => {
                    if matches!(&error, OutboxError::Log(LogError::Refused { .. })) {
                        *tail = None;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn send_one(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        lane: Lane,
        link: &Link,
        waiting: &Waiting,
        last: u64,
    ) -> Result<u64, OutboxError> {
        let (daemon, of, item) = (Arc::clone(self), Arc::clone(channel), waiting.item);
        let made = run_blocking(move || daemon.event(&of, item));
        let (entry, delta) = made.await?;
        let head = waiting.head.clone().or_else(|| channel.head.signed());
        let name = &channel.declared.name;
        let mut message_id = message_id(&entry.opened, entry.body.signed());
        if waiting.again {
            message_id.push_str(&format!("/{}", runtime::boot::now().as_ms()));
        }
        let event = Event {
            body: entry.body,
            head,
            delta,
        };
        let position = link
            .log
            .publish_event(lane, name, &message_id, last, event.encode().into())
            .await?;
        tracing::info!(channel = %name, item = %item, %lane, sequence = position.sequence, again = waiting.again, "on the log");
        Ok(position.sequence)
    }

    /// Reads a statement back and finds its delta. Blocks.
    fn event(&self, channel: &Channel, item: Item) -> Result<(Entry, DeltaSource), OutboxError> {
        let body = channel.journal.read(item)?;
        let entry = Entry::open(body, &channel.declared.name, &self.keys)?;
        let delta = match item {
            Item::Snapshot(build) => {
                let history = channel.journal.history();
                let root = history.get(build).map(|published| published.root);
                let base = history
                    .get(build)
                    .and_then(|published| published.base)
                    .and_then(|base| history.get(base));
                let delta = inline_delta(&self.pages, base.map(|base| &base.root), root.as_ref());
                delta.unwrap_or_else(|error| {
                    tracing::warn!(channel = %channel.declared.name, %build, error, "no delta in the event");
                    DeltaSource::Pages
                })
            }
            Item::Retraction(_) => DeltaSource::Pages,
        };
        Ok((entry, delta))
    }
}

/// The changes from base to root, if they are few enough to ride in the event.
fn inline_delta(
    pages: &runtime::store::Pages,
    base: Option<&mirrorlog_core::id::Digest>,
    root: Option<&mirrorlog_core::id::Digest>,
) -> Result<DeltaSource, String> {
    let mut delta: Delta = Vec::new();
    let mut least_bytes = 0;
    for difference in manifest::diff(pages, base, root) {
        let Difference { path, new, .. } =
            difference.map_err(|error| crate::journal::with_causes(&error))?;
        least_bytes += path.as_bytes().len();
        if least_bytes > INLINE_DELTA_MAX_BYTES {
            return Ok(DeltaSource::Pages);
        }
        delta.push(Change {
            path,
            new: new.map(|(_, entry)| entry),
        });
    }
    Ok(DeltaSource::Inline(delta))
}
