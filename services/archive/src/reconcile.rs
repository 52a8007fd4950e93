//! Comparing the log with the journal: what the log lost is published again, what the journal lacks is merged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::archive::{History, Item};
use mirrorlog_core::id::Lane;
use runtime::log::{Delivery, LogError, StreamIdentity};
use wire::{Event, Signed};

use crate::daemon::{Channel, Daemon, Link};
use crate::fence::{FenceError, run_blocking};
use crate::journal::{Entry, JournalError, Known, with_causes};
use crate::outbox::OutboxError;

/// How long the log may be silent while it is read for a merge.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// How long mirrors' last reports are waited for, each.
const REPORT_SILENCE: Duration = Duration::from_millis(500);
/// Most reports that are looked at: mirrors times channels, twice what is meant to be.
const REPORTS_MAX: usize = 100_000;

/// Why a channel could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log was silent in the middle of a merge.
    #[error("the log says nothing for {} s", SILENCE_MAX.as_secs())]
    Silent,
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The newest event of a lane.
enum Last {
    /// Nothing is on the log.
    None,
    /// Something that this archive did not sign.
    Foreign { sequence: u64 },
    /// A statement of the archive.
    Own { sequence: u64, entry: Box<Entry> },
}

impl Last {
    fn sequence(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Foreign { sequence } | Self::Own { sequence, .. } => *sequence,
        }
    }
}

impl Daemon {
    /// True when both lanes were compared with the log, and nothing moved since.
    pub(crate) fn is_compared(&self, channel: &Channel) -> bool {
        // A lane that is being sent on was compared.
        let compared = |lane| {
            channel
                .lane(lane)
                .tail
                .try_lock()
                .map_or(true, |tail| tail.is_some())
        };
        Lane::ALL.into_iter().all(compared)
    }

    /// Compares a channel with the log. The caller holds the channel's turn.
    ///
    /// Newer statements of our own are merged into the journal; a fork halts the channel. What the log lacks of the
    /// newest statements is queued, in order.
    ///
    /// # Errors
    /// [`ReconcileError`]: try again.
    pub(crate) async fn compare(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        link: &Link,
    ) -> Result<(), ReconcileError> {
        // Bulk after priority, always in this order: both are held until the comparison is through.
        let mut priority = channel.priority.tail.lock().await;
        let mut bulk = channel.bulk.tail.lock().await;
        let mut lasts = [
            self.last(channel, Lane::Priority, link).await?,
            self.last(channel, Lane::Bulk, link).await?,
        ];
        if lasts
            .iter()
            .any(|last| is_ahead(&channel.journal.history(), last))
        {
            let to = lasts.iter().map(Last::sequence).max().unwrap_or(0);
            self.merge(channel, link, to).await?;
            lasts = [
                self.last(channel, Lane::Priority, link).await?,
                self.last(channel, Lane::Bulk, link).await?,
            ];
        }
        let history = channel.journal.history();
        for (lane, last) in Lane::ALL.into_iter().zip(&lasts) {
            if let Some(fork) = forks(&history, last) {
                channel.journal.halt(&format!(
                    "fork: the log has another {fork} signed by this archive's key"
                ));
                return Ok(());
            }
            let item = match last {
                Last::None | Last::Foreign { .. } => None,
                Last::Own { entry, .. } => Some(entry.known.item()),
            };
            let lacking = history.lacking(lane, item, self.config.reconcile_keep);
            if !lacking.is_empty() {
                tracing::info!(channel = %channel.declared.name, %lane, statements = lacking.len(), "the log lacks statements");
            }
            self.outbox.replace(channel, lane, &lacking);
        }
        *priority = Some(lasts[0].sequence());
        *bulk = Some(lasts[1].sequence());
        Ok(())
    }

    /// Compares all channels and sends what the log lacks.
    pub(crate) async fn reconcile(self: &Arc<Self>, link: &Link) {
        for channel in self.channels() {
            let turn = channel.turn.lock().await;
            let compared = self.compare(&channel, link).await;
            drop(turn);
            match compared {
                Ok(()) => self.flush(&channel, link).await,
                Err(error) => {
                    tracing::warn!(channel = %channel.declared.name, error = with_causes(&error), "not compared, tried again later");
                }
            }
        }
    }

    /// Sends what waits on both lanes, priority first, then the head. What fails stays, and is tried again.
    pub(crate) async fn flush(self: &Arc<Self>, channel: &Arc<Channel>, link: &Link) {
        for lane in Lane::ALL {
            if let Err(error) = self.send(channel, lane, link).await {
                self.wake.notify_one();
                if !matches!(error, OutboxError::NotCompared) {
                    let error = with_causes(&error);
                    tracing::warn!(channel = %channel.declared.name, %lane, error, "not sent, the outbox keeps it");
                }
            }
        }
        self.put_head(channel, link).await;
    }

    /// One round: what was lost on the server is made anew, then everything is compared.
    ///
    /// Returns the stream's identity.
    ///
    /// # Errors
    /// [`FenceError`]: the log is away, or another archive has taken over.
    pub(crate) async fn round(
        self: &Arc<Self>,
        link: &Link,
        known: Option<StreamIdentity>,
    ) -> Result<StreamIdentity, FenceError> {
        link.log.ensure().await?;
        let identity = link.log.identity().await?;
        let same = known == Some(identity);
        if !same {
            self.see_log();
            if known.is_some() {
                tracing::warn!("the log's stream was made anew");
            }
            self.fence.forget_all();
            self.heads_lost();
        }
        self.fence.check(&link.builds).await?;
        if !same {
            self.claim_all(link).await?;
        }
        self.compare_drains(link).await;
        self.put_roots(link).await;
        self.reconcile(link).await;
        Ok(identity)
    }

    async fn last(
        &self,
        channel: &Channel,
        lane: Lane,
        link: &Link,
    ) -> Result<Last, ReconcileError> {
        let Some((sequence, payload)) = link.log.last_event(lane, &channel.declared.name).await?
        else {
            return Ok(Last::None);
        };
        let event = Event::decode(&payload).map_err(|error| with_causes(&error));
        let entry = event.and_then(|event| {
            Entry::open(event.body, &channel.declared.name, &self.log_keys())
                .map_err(|error| with_causes(&error))
        });
        match entry {
            Ok(entry) => Ok(Last::Own {
                sequence,
                entry: Box::new(entry),
            }),
            Err(reason) => {
                tracing::error!(channel = %channel.declared.name, %lane, sequence, reason, "somebody else writes to the log");
                Ok(Last::Foreign { sequence })
            }
        }
    }

    /// Reads the log up to sequence `to` and adds what the journal lacks of it.
    async fn merge(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        link: &Link,
        to: u64,
    ) -> Result<(), ReconcileError> {
        let name = &channel.declared.name;
        tracing::warn!(channel = %name, "the log is ahead of the journal: merging what this archive signed");
        let history = channel.journal.history();
        let mut found: BTreeMap<Item, Entry> = BTreeMap::new();
        let keys = self.log_keys();
        let mut events = link.log.follow(0).await?;
        loop {
            let next = tokio::time::timeout(SILENCE_MAX, events.next()).await;
            let event = match next.map_err(|_silent| ReconcileError::Silent)? {
                Delivery::Event(event) => event,
                Delivery::StreamChanged(_) => continue,
            };
            if &event.channel == name {
                let decoded = Event::decode(&event.payload).ok();
                let entry = decoded.and_then(|event| Entry::open(event.body, name, &keys).ok());
                if let Some(entry) = entry.filter(|entry| is_new(&history, &entry.known)) {
                    found.insert(entry.known.item(), entry);
                }
            }
            if event.position.sequence >= to {
                break;
            }
        }
        // Snapshots sort before retractions, each by number.
        let entries: Vec<Entry> = found.into_values().collect();
        let count = entries.len();
        let of = Arc::clone(channel);
        match run_blocking(move || of.journal.append(&entries)).await {
            Ok(()) => tracing::info!(channel = %name, statements = count, "journal merged with the log"),
            Err(JournalError::History(error)) => channel.journal.halt(&format!(
                "{error}: the journal lacks what was published; restore a newer copy of it and start again"
            )),
            Err(error) => return Err(error.into()),
        }
        self.renew_head(channel).await;
        Ok(())
    }

    /// The newest build of the channel in any mirror's last report.
    pub(crate) async fn newest_reported(
        &self,
        channel: &Channel,
        link: &Link,
    ) -> Result<u64, LogError> {
        let mut reports = link.log.reports().await?;
        let mut newest = 0;
        for _report in 0..REPORTS_MAX {
            let Ok(message) = tokio::time::timeout(REPORT_SILENCE, reports.next()).await else {
                break;
            };
            // Mirrors' keys are not known here: a report counts only while the counter is lost, and can then
            // only make the archive ask for a person.
            let signed = Signed::decode(&message.payload).ok();
            let statement =
                signed.and_then(|signed| wire::statement::decode(&signed.statement).ok());
            let Some(mirrorlog_core::statement::Statement::Report(report)) = statement else {
                continue;
            };
            if report.channel == channel.declared.name {
                let builds = report.builds.iter().map(|build| build.build.get());
                newest = builds.chain([newest]).max().unwrap_or(newest);
            }
        }
        Ok(newest)
    }
}

fn is_new(history: &History, known: &Known) -> bool {
    match known {
        Known::Snapshot(published) => history.get(published.build).is_none(),
        Known::Retraction(withdrawal) => withdrawal.sequence >= history.next_retraction(),
    }
}

fn is_ahead(history: &History, last: &Last) -> bool {
    match last {
        Last::None | Last::Foreign { .. } => false,
        Last::Own { entry, .. } => is_new(history, &entry.known),
    }
}

/// The statement of the log that contradicts the journal, if its newest does.
fn forks(history: &History, last: &Last) -> Option<Item> {
    let Last::Own { entry, .. } = last else {
        return None;
    };
    let held = match entry.known {
        Known::Snapshot(published) => history.get(published.build).map(|held| held.statement),
        Known::Retraction(withdrawal) => history
            .retractions()
            .iter()
            .find(|held| held.sequence == withdrawal.sequence)
            .map(|held| held.statement),
    };
    held.filter(|held| *held != entry.known.statement())
        .map(|_fork| entry.known.item())
}
