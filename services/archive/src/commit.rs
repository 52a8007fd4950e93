//! Publishing and retracting: number, sign, journal, announce.
//!
//! 1. Everything that can be refused is refused before a number is taken.
//! 2. The number that will be asked for, and the outbox entry, become durable.
//! 3. The number is reserved by compare-and-set, under this process' epoch.
//! 4. The statements are signed and journaled: from here on they are published, whatever crashes.
//! 5. They go on the log, now or when it is back.

use std::sync::Arc;

use mirrorlog_core::archive::{self, History, Planned, Refusal, Step};
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::limits::{NOTICES_MAX, TEXT_MAX_BYTES};
use mirrorlog_core::manifest::PageRead as _;
use mirrorlog_core::sign::KeyNumber;
use mirrorlog_core::statement::Notice;
use tracing::Instrument as _;
use wire::OpenError;

use crate::daemon::{Channel, Daemon, Link};
use crate::fence::{FenceError, run_blocking};
use crate::journal::{JournalError, Known, with_causes};
use crate::reconcile::ReconcileError;
use crate::signer::SignError;

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
    /// What signs did not sign.
    #[error("channel {channel}: nothing was signed, so nothing was published")]
    Sign {
        /// The channel.
        channel: ChannelId,
        /// Why.
        #[source]
        source: SignError,
    },
    /// Nobody would believe it.
    #[error(
        "key {key}, with which this archive signs, is not one of the root document's, or that has expired: nothing was \
         published; install one that names it (mirrorlog key install), or give the archive a key that is named"
    )]
    Unnamed {
        /// The archive's key.
        key: KeyNumber,
        /// How it was refused.
        #[source]
        source: OpenError,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The process ends.
    #[error("the archive is ending")]
    Ending(#[source] tokio::task::JoinError),
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

impl Daemon {
    /// Publishes, retracts, or retracts with a replacement, in one step. Once begun it goes on, also when the caller
    /// has gone: a statement that is journaled and not announced would be told late.
    ///
    /// # Errors
    /// [`CommitError`]: nothing was published.
    pub async fn say(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        publication: Option<Publication>,
        withdraw: Option<Withdraw>,
    ) -> Result<Said, CommitError> {
        let (daemon, channel) = (Arc::clone(self), Arc::clone(channel));
        let saying = async move { daemon.say_now(&channel, publication, withdraw).await };
        match tokio::spawn(saying.in_current_span()).await {
            Ok(said) => said,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(CommitError::Ending(error)),
            },
        }
    }

    async fn say_now(
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
        );
        let entries = entries.await?;
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
        let link = self.link().filter(|link| link.log.is_connected());
        // What is found then has to be compared with the log at once.
        let recovered = link.is_some() && {
            let of = Arc::clone(channel);
            run_blocking(move || of.journal.recover()).await?
        };
        if let Some(reason) = channel.journal.halted() {
            return Err(halted(reason));
        }
        let link = link.ok_or_else(|| CommitError::NotConnected {
            url: self.config.nats.url.clone(),
        })?;
        if recovered || !self.is_compared(channel) {
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

pub(crate) fn plan(
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
