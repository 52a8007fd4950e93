//! Publishing and retracting: number, sign, journal, announce.
//!
//! 1. Everything that can be refused is refused before a number is taken.
//! 2. The number that will be asked for, and the outbox entry, become durable.
//! 3. The number is reserved by compare-and-set, under this process' epoch.
//! 4. The statements are signed and journaled: from here on they are published, whatever crashes.
//! 5. They go on the log, now or when it is back.

use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::archive::{self, History, Item, Planned, Refusal, Series, Step};
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane};
use mirrorlog_core::limits::{NOTICES_MAX, TEXT_MAX_BYTES};
use mirrorlog_core::manifest::PageRead as _;
use mirrorlog_core::statement::{Notice, Retraction, Snapshot, Statement};
use mirrorlog_core::time::Timestamp;
use tracing::Instrument as _;
use wire::{EventBody, Signed};

use crate::daemon::{Channel, Daemon, Link};
use crate::fence::{FenceError, Wish, run_blocking};
use crate::journal::{Entry, JournalError, Known, with_causes};
use crate::outbox::Waiting;
use crate::reconcile::ReconcileError;
use crate::state::Outgoing;

/// How long an answer is held back for the log's ack; the statement is durable before that.
const ACK_WAIT: Duration = Duration::from_millis(500);

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The rules refuse it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The manifest is not in the store, or not as stated.
    #[error("root {root} is refused: {reason}")]
    Manifest {
        /// The manifest's root.
        root: Digest,
        /// What is wrong.
        reason: String,
    },
    /// The log is away: no number can be reserved.
    #[error(
        "NATS at {url} is not connected: no build number can be reserved, nothing was published; start it and publish again"
    )]
    NotConnected {
        /// Where it is looked for.
        url: String,
    },
    /// The channel refuses to go on.
    #[error("channel {channel} is halted: {reason}")]
    Halted {
        /// The channel.
        channel: ChannelId,
        /// Why.
        reason: String,
    },
    /// No number was given.
    #[error("no number for channel {channel}")]
    Fence {
        /// The channel.
        channel: ChannelId,
        /// Why.
        #[source]
        source: FenceError,
    },
    /// The journal and the log could not be compared.
    #[error("channel {channel} could not be compared with the log")]
    Compare {
        /// The channel.
        channel: ChannelId,
        /// Why.
        #[source]
        source: ReconcileError,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// One build that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Root, base and lane.
    pub step: Step,
    /// Entries of the manifest.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A publication that is asked for.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The newest build when the publisher looked.
    pub expected_newest: Option<Build>,
    /// One build, or two for a priority publication over a head that is not wanted yet.
    pub steps: Vec<Asked>,
    /// What clients show.
    pub notices: Vec<Notice>,
    /// Also what was retracted before.
    pub allow_retracted: bool,
}

/// A retraction that is asked for.
#[derive(Clone, Debug)]
pub struct Withdraw {
    /// First build.
    pub first: Build,
    /// Last build.
    pub last: Build,
    /// For people.
    pub reason: String,
}

/// What was published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// One build for each step.
    pub builds: Vec<Build>,
    /// The retraction's sequence.
    pub retraction: Option<u64>,
}

/// Numbers that were reserved, with the outbox positions of what will bear them.
struct Reserved {
    first: Option<Build>,
    retraction: Option<u64>,
    positions: Vec<(Item, u64)>,
}

impl Daemon {
    /// Publishes, retracts, or retracts with a replacement, in one step.
    ///
    /// # Errors
    /// [`CommitError`]: nothing was published.
    pub async fn say(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        publication: Option<Publication>,
        withdraw: Option<Withdraw>,
    ) -> Result<Said, CommitError> {
        let _turn = channel.turn.lock().await;
        let link = self.may_publish(channel).await?;
        let history = channel.journal.history();
        if let (Some(publication), None) = (&publication, &withdraw)
            && let Some(build) = unchanged(&history, publication)
        {
            return Ok(Said {
                builds: vec![build],
                retraction: None,
            });
        }
        check(&history, publication.as_ref(), withdraw.as_ref())?;
        if let Some(publication) = &publication {
            self.check_manifests(publication).await?;
        }
        let reserved = self
            .reserve(
                channel,
                &link,
                &history,
                publication.as_ref(),
                withdraw.is_some(),
            )
            .await;
        let reserved = reserved.map_err(|source| CommitError::Fence {
            channel: channel.declared.name.clone(),
            source,
        })?;
        let entries = self.sign(
            channel,
            &history,
            &reserved,
            publication.as_ref(),
            withdraw.as_ref(),
        )?;
        let (journal_of, written) = (Arc::clone(channel), entries.clone());
        run_blocking(move || journal_of.journal.append(&written)).await?;
        self.announce(
            channel,
            History::clone(&history),
            &entries,
            &reserved,
            &link,
        )
        .await;
        let builds = entries.iter().filter_map(|entry| match entry.known {
            Known::Snapshot(published) => Some(published.build),
            Known::Retraction(_) => None,
        });
        Ok(Said {
            builds: builds.collect(),
            retraction: reserved.retraction,
        })
    }

    /// Checks that this archive may publish on the channel now. The caller holds the channel's turn.
    async fn may_publish(self: &Arc<Self>, channel: &Arc<Channel>) -> Result<Link, CommitError> {
        let name = &channel.declared.name;
        let halted = |reason| CommitError::Halted {
            channel: name.clone(),
            reason,
        };
        if let Some(reason) = self.fence.lost() {
            let source = FenceError::TakenOver(reason);
            return Err(CommitError::Fence {
                channel: name.clone(),
                source,
            });
        }
        if let Some(reason) = channel.journal.halted() {
            return Err(halted(reason));
        }
        let link = self.link().filter(|link| link.log.is_connected());
        let link = link.ok_or_else(|| CommitError::NotConnected {
            url: self.config.nats.url.clone(),
        })?;
        if !self.is_compared(channel) {
            let compared = self.compare(channel, &link).await;
            compared.map_err(|source| CommitError::Compare {
                channel: name.clone(),
                source,
            })?;
        }
        channel
            .journal
            .halted()
            .map_or(Ok(link), |reason| Err(halted(reason)))
    }

    /// Looks each manifest's top page up: it must be in the store, with the counts that will be signed.
    async fn check_manifests(
        self: &Arc<Self>,
        publication: &Publication,
    ) -> Result<(), CommitError> {
        let (daemon, asked) = (Arc::clone(self), publication.steps.clone());
        run_blocking(move || {
            for Asked {
                step,
                entries,
                bytes,
            } in asked
            {
                let refused = |reason| CommitError::Manifest {
                    root: step.root,
                    reason,
                };
                let page = daemon
                    .pages
                    .page(&step.root)
                    .map_err(|error| refused(with_causes(&error)))?;
                if (page.entries(), page.bytes()) != (entries, bytes) {
                    let (has, sum) = (page.entries(), page.bytes());
                    let text =
                        format!("it has {has} entries and {sum} bytes, not {entries} and {bytes}");
                    return Err(refused(text));
                }
            }
            Ok(())
        })
        .await
    }

    async fn reserve(
        &self,
        channel: &Arc<Channel>,
        link: &Link,
        history: &History,
        publication: Option<&Publication>,
        retracts: bool,
    ) -> Result<Reserved, FenceError> {
        let name = &channel.declared.name;
        let steps = publication.map_or(0, |publication| publication.steps.len() as u64);
        let wish = |series, journaled, count| Wish {
            channel: name,
            series,
            journaled,
            count,
            reported: 0,
        };
        let mut builds = wish(
            Series::Builds,
            history.newest().map_or(0, |newest| newest.build.get()),
            steps,
        );
        let retractions = wish(
            Series::Retractions,
            history.next_retraction() - 1,
            u64::from(retracts),
        );
        if builds.journaled > 0 && self.fence.is_unknown(&link.builds, name).await? {
            builds.reported = self.newest_reported(channel, link).await?;
        }
        // A journal that lacks a retraction is as much behind as one that lacks a build: both are looked at.
        self.fence
            .reserve(
                &link.builds,
                &Wish {
                    count: 0,
                    ..builds.clone()
                },
                |_| Vec::new(),
            )
            .await?;
        self.fence
            .reserve(
                &link.builds,
                &Wish {
                    count: 0,
                    ..retractions.clone()
                },
                |_| Vec::new(),
            )
            .await?;

        let positions = std::sync::Mutex::new(Vec::new());
        let note = |items: Vec<Item>| {
            let staged = items.into_iter().map(|item| {
                let (position, write) = self.outbox.stage(&Outgoing {
                    channel: name.clone(),
                    item,
                });
                positions
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push((item, position));
                write
            });
            staged.collect::<Vec<_>>()
        };
        let mut reserved = Reserved {
            first: None,
            retraction: None,
            positions: Vec::new(),
        };
        if steps > 0 {
            let items = |first: u64| {
                (first..first + steps)
                    .filter_map(Build::new)
                    .map(Item::Snapshot)
                    .collect()
            };
            let first = self
                .fence
                .reserve(&link.builds, &builds, |first| note(items(first)))
                .await?;
            reserved.first = Build::new(first);
        }
        if retracts {
            let sequence = self
                .fence
                .reserve(&link.builds, &retractions, |first| {
                    note(vec![Item::Retraction(first)])
                })
                .await?;
            reserved.retraction = Some(sequence);
        }
        reserved.positions = positions
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(reserved)
    }

    /// Signs the snapshots, then the retraction, which names the last of them as its replacement.
    fn sign(
        &self,
        channel: &Channel,
        history: &History,
        reserved: &Reserved,
        publication: Option<&Publication>,
        withdraw: Option<&Withdraw>,
    ) -> Result<Vec<Entry>, CommitError> {
        let mut created = runtime::boot::now().max(history.newest_time().plus_ms(1));
        let mut previous = history.newest().map(|newest| newest.statement);
        let mut entries = Vec::new();
        if let (Some(publication), Some(first)) = (publication, reserved.first) {
            let planned = plan(history, publication, first, withdraw)?;
            for (planned, asked) in planned.iter().zip(&publication.steps) {
                let snapshot = snapshot(
                    channel,
                    planned,
                    asked,
                    previous,
                    created,
                    &publication.notices,
                );
                let entry =
                    self.signed(channel, &Statement::Snapshot(snapshot), EventBody::Snapshot)?;
                previous = Some(entry.known.statement());
                created = created.plus_ms(1);
                entries.push(entry);
            }
        }
        if let (Some(withdraw), Some(sequence)) = (withdraw, reserved.retraction) {
            let replacement = publication.and(reserved.first);
            let retraction = Retraction {
                channel: channel.declared.name.clone(),
                sequence,
                first: withdraw.first,
                last: withdraw.last,
                reason: withdraw.reason.clone(),
                replacement,
                created,
            };
            entries.push(self.signed(
                channel,
                &Statement::Retraction(retraction),
                EventBody::Retraction,
            )?);
        }
        Ok(entries)
    }

    fn signed(
        &self,
        channel: &Channel,
        statement: &Statement,
        body: fn(Signed) -> EventBody,
    ) -> Result<Entry, CommitError> {
        let signed = Signed::sign(&self.key, statement);
        Ok(Entry::open(
            body(signed),
            &channel.declared.name,
            &self.keys,
        )?)
    }

    /// Queues what was journaled, with the head after each statement, and waits a moment for the log's ack.
    async fn announce(
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
            let head = admitted
                .ok()
                .and_then(|_admitted| self.sign_head(channel, &after));
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
}

/// The head, when the publication would change nothing.
fn unchanged(history: &History, publication: &Publication) -> Option<Build> {
    let [only] = publication.steps.as_slice() else {
        return None;
    };
    history
        .head()
        .filter(|head| head.root == only.step.root)
        .map(|head| head.build)
}

fn plan(
    history: &History,
    publication: &Publication,
    first: Build,
    withdraw: Option<&Withdraw>,
) -> Result<Vec<Planned>, Refusal> {
    let steps: Vec<Step> = publication.steps.iter().map(|asked| asked.step).collect();
    let replaced = withdraw.map(|withdraw| (withdraw.first, withdraw.last));
    archive::plan(
        history,
        publication.expected_newest,
        &steps,
        first,
        publication.allow_retracted,
        replaced,
    )
}

/// Everything that the rules can refuse before a number is taken.
fn check(
    history: &History,
    publication: Option<&Publication>,
    withdraw: Option<&Withdraw>,
) -> Result<(), Refusal> {
    if let Some(withdraw) = withdraw {
        let Withdraw {
            first,
            last,
            reason,
        } = withdraw;
        archive::check_retraction(history, *first, *last, reason, publication.is_some())?;
    }
    let Some(publication) = publication else {
        return Ok(());
    };
    if withdraw.is_some() && publication.steps.len() != 1 {
        return Err(Refusal::Shape);
    }
    let fits = |text: &str| {
        !text.trim().is_empty() && text.len() <= TEXT_MAX_BYTES && !text.contains(char::is_control)
    };
    let notices = &publication.notices;
    if notices.len() > NOTICES_MAX
        || !notices
            .iter()
            .all(|notice| fits(&notice.package) && fits(&notice.text))
    {
        return Err(Refusal::Text {
            what: "a notice's package and text",
        });
    }
    plan(history, publication, Build::FIRST, withdraw).map(|_planned| ())
}

fn snapshot(
    channel: &Channel,
    planned: &Planned,
    asked: &Asked,
    previous: Option<Digest>,
    created: Timestamp,
    notices: &[Notice],
) -> Snapshot {
    let declared = &channel.declared;
    Snapshot {
        channel: declared.name.clone(),
        build: planned.build,
        base: planned.base,
        root: planned.root,
        previous,
        created,
        entries: asked.entries,
        bytes: asked.bytes,
        lane: planned.lane,
        mount: declared.mount.clone(),
        layout: declared.layout,
        precedence: declared.precedence,
        notices: notices.to_vec(),
    }
}
