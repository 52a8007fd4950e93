//! What archive and consistency service say, for those who follow: log, heads, wanted builds, verdicts, and
//! the archive's journal for what the log lacks. Every word is verified before it is handed on.
//!
//! | part | what it does |
//! | --- | --- |
//! | `journal` | what the log lacks, from the archive |
//! | `park` | messages that cannot be used |
//! | `quiet` | a reader that says when what was retained has been read |

mod journal;
mod park;
mod quiet;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::drain::Drains;
use mirrorlog_core::id::{Build, ChannelId, PoolId};
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{DeltaSource, Head, Order, Retraction, Snapshot, Verdict};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tracing::Span;
use wire::event::Opened;
use wire::{Event, OpenError, Signed};

use crate::doubt::{Doubt, Doubts, Room as _};
use crate::early::{About, Early};
use crate::log::{Delivery, Events, Log, LogError, Messages, Watch};
use crate::trace::with_parent;
use crate::trust::{Keys, Trust};

pub use park::Park;
pub use quiet::UntilQuiet;

/// How long root documents are waited for before anything is read.
const TRUST_PATIENCE: Duration = Duration::from_secs(10);

/// Something that was said, and verified.
#[derive(Clone, Debug)]
pub enum Heard {
    /// By the archive, with the event's changes, which nobody signed: they must give the snapshot's root.
    Snapshot(Snapshot, DeltaSource),
    /// By the archive.
    Retraction(Retraction),
    /// By the archive.
    Head(Head),
    /// By the archive: whether a mirror takes clients.
    Order(Order),
    /// By the consistency service; unsigned, and only ever a pointer to a build that is.
    Wanted {
        /// The channel.
        channel: ChannelId,
        /// The pool.
        pool: PoolId,
        /// The build; `None` when there is none any more.
        build: Option<Build>,
    },
    /// By the consistency service, as read and as it was signed.
    Verdict(Verdict, Signed),
}

/// Who follows. Everything may come twice and out of order.
pub trait Listener: Clone + Send + Sync + 'static {
    /// Takes one thing in; may wait, then everybody who speaks waits too.
    fn hear(&self, heard: Heard, span: &Span) -> impl Future<Output = ()> + Send;
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It is no message of its kind.
    #[error(transparent)]
    Decode(#[from] wire::DecodeError),
    /// Its signature or its content is not accepted.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It speaks of something else than its subject.
    #[error("it says {said} and came as {subject}")]
    Subject {
        /// The subject of what it says.
        said: String,
        /// The subject that it came under.
        subject: String,
    },
}

/// A statement counts only under the subject of whom it speaks.
///
/// # Errors
/// [`Unusable::Subject`].
pub fn check_subject(said: String, subject: &str) -> Result<(), Unusable> {
    if said == subject {
        Ok(())
    } else {
        Err(Unusable::Subject {
            said,
            subject: subject.to_owned(),
        })
    }
}

/// What the readers share.
#[derive(Clone)]
pub struct Feed<L> {
    /// The log.
    pub log: Log,
    /// Who is told.
    pub listener: L,
    /// Where messages go that cannot be used.
    pub park: Park,
    /// Keys of the archive.
    pub archive: Keys,
    /// Keys of the consistency service.
    pub consistency: Keys,
    /// Takes events that are not accepted, once the archive can be asked about them.
    doubts: Option<Doubts>,
    /// Told when the log was lost or had something that cannot be read: the journal knows more.
    gap: Arc<Notify>,
}

impl<L: Listener> Feed<L> {
    /// Nothing is read yet.
    pub fn new(log: Log, listener: L, park: Park, archive: Keys, consistency: Keys) -> Self {
        Self {
            log,
            listener,
            park,
            archive,
            consistency,
            doubts: None,
            gap: Arc::default(),
        }
    }

    /// Follows the archive's journal in the background: now, after each gap, and now and then. Asks it about events that are
    /// not accepted.
    pub fn follow_journal(&mut self, archive: Endpoint, tasks: &mut JoinSet<()>) {
        let (doubts, doubtful) = Doubts::new();
        self.doubts = Some(doubts);
        tasks.spawn(doubtful.settle(archive.clone(), self.archive.clone(), self.park.clone()));
        tasks.spawn(journal::follow(
            archive,
            self.archive.clone(),
            self.listener.clone(),
            self.gap.clone(),
        ));
    }

    /// Follows root documents in the background; after each the journal is read again: what was not believed may be now.
    pub async fn follow_trust(&self, trust: &Trust, tasks: &mut JoinSet<()>) {
        let caught_up = trust.clone();
        let park = self.park.clone();
        let (trust, log, gap) = (trust.clone(), self.log.clone(), self.gap.clone());
        tasks.spawn(async move {
            let mut changes = trust.changes();
            let told = async {
                while changes.changed().await.is_ok() {
                    // The journal has it, as it is signed now.
                    park.excuse();
                    gap.notify_one();
                }
                std::future::pending::<()>().await;
            };
            tokio::join!(trust.follow(log), told);
        });
        // Without it what was said by keys that were taken away would be believed at each start.
        tokio::time::timeout(TRUST_PATIENCE, caught_up.caught_up())
            .await
            .ok();
    }

    /// Reads what is retained, then goes on in the background. Returns when what was retained has been read.
    ///
    /// # Errors
    /// [`LogError`] when a stream cannot be read at all.
    pub async fn start(self, tasks: &mut JoinSet<()>) -> Result<(), LogError> {
        let watch = async |name: &str| self.log.bucket(name).await?.watch().await;
        // Each may have to wait for the archive.
        let (verdicts, heads, wanted, drains, events) = tokio::try_join!(
            self.log.verdicts(),
            watch("head"),
            watch("wanted"),
            watch("drain"),
            self.log.follow(0),
        )?;
        let (reader, verdicts) = UntilQuiet::new(verdicts);
        tasks.spawn(self.clone().verdicts(reader));
        let (reader, heads) = UntilQuiet::new(heads);
        tasks.spawn(self.clone().heads(reader));
        let (reader, wanted) = UntilQuiet::new(wanted);
        tasks.spawn(self.clone().wanted(reader));
        let (reader, drains) = UntilQuiet::new(drains);
        tasks.spawn(self.clone().drains(reader));
        let (reader, events) = UntilQuiet::new(events);
        tasks.spawn(self.clone().events(reader));
        for quiet in [verdicts, heads, wanted, drains, events] {
            quiet.await.ok();
        }
        Ok(())
    }

    async fn events(self, mut events: UntilQuiet<Events>) {
        loop {
            let event = match events.next().await {
                Delivery::Event(event) => event,
                Delivery::StreamChanged(_) => {
                    tracing::warn!("the log was made anew, asking the archive");
                    self.gap.notify_one();
                    continue;
                }
            };
            let span = tracing::info_span!("event", channel = %event.channel, sequence = event.position.sequence);
            with_parent(&span, &event.trace);
            let decoded = Event::decode(&event.payload).map_err(Unusable::from);
            let keys = self.archive.now();
            let opened = decoded.and_then(|decoded| Ok((decoded.open(&keys)?, decoded.delta)));
            match opened {
                Ok(((opened, head), delta)) => {
                    self.listener.hear(opened_heard(opened, delta), &span).await;
                    if let Some(head) = head {
                        self.listener.hear(Heard::Head(head), &span).await;
                    }
                }
                Err(error) => {
                    let sequence = event.position.sequence;
                    let name = park::name("event", sequence);
                    let doubt = Doubt::of(name, &event.channel, &event.payload, &keys);
                    match self.doubts.as_ref().zip(doubt) {
                        Some((doubts, doubt)) => {
                            self.park.doubt(sequence, &error, event.payload).await;
                            doubts.ask(doubt);
                        }
                        None => {
                            self.park
                                .park("event", sequence, &error, event.payload)
                                .await;
                        }
                    }
                    self.gap.notify_one();
                }
            }
        }
    }

    async fn heads(self, mut heads: UntilQuiet<Watch>) {
        loop {
            let change = heads.next().await;
            let Some(value) = change.value else { continue };
            let head = Signed::decode(&value).map_err(Unusable::from);
            match head.and_then(|head| Ok(head.open_head(&self.archive.now())?)) {
                Ok(head) => self.listener.hear(Heard::Head(head), &Span::none()).await,
                Err(error) => self.park.park("head", change.revision, &error, value).await,
            }
        }
    }

    async fn drains(self, mut drains: UntilQuiet<Watch>) {
        let mut early = Early::new(&self.archive);
        loop {
            let ((key, revision), value, again) = tokio::select! {
                biased;
                (label, value) = early.next() => (label, value, true),
                change = drains.next() => {
                    let Some(value) = change.value else { continue };
                    ((change.key, change.revision), value, false)
                }
            };
            match drain(&key, &value, early.keys()) {
                Ok(order) => {
                    if again {
                        self.park.take_back(&park::name("drain", revision)).await;
                    } else {
                        early.said(&About::clients(&order));
                    }
                    let heard = Heard::Order(order);
                    self.listener.hear(heard, &Span::none()).await;
                }
                Err(error) => {
                    early.keep((key, revision), &value, About::clients);
                    if !again {
                        self.park.park("drain", revision, &error, value).await;
                    }
                }
            }
        }
    }

    async fn wanted(self, mut wanted: UntilQuiet<Watch>) {
        loop {
            let change = wanted.next().await;
            let build = change
                .value
                .as_ref()
                .map(|value| wire::kv::decode_wanted(value))
                .transpose();
            match (wire::kv::parse_wanted_key(&change.key), build) {
                (Ok((channel, pool)), Ok(build)) => {
                    self.listener
                        .hear(
                            Heard::Wanted {
                                channel,
                                pool,
                                build,
                            },
                            &Span::none(),
                        )
                        .await;
                }
                (Err(error), _) | (_, Err(error)) => {
                    let value = change.value.unwrap_or_default();
                    self.park
                        .park("wanted", change.revision, &error, value)
                        .await;
                }
            }
        }
    }

    async fn verdicts(self, mut verdicts: UntilQuiet<Messages>) {
        let mut early = Early::new(&self.consistency);
        loop {
            let ((subject, sequence), payload, again) = tokio::select! {
                biased;
                (label, payload) = early.next() => (label, payload, true),
                message = verdicts.next() => ((message.subject, message.sequence), message.payload, false),
            };
            match verdict(&subject, &payload, early.keys()) {
                Ok((verdict, signed)) => {
                    if again {
                        self.park.take_back(&park::name("verdict", sequence)).await;
                    } else {
                        early.said(&About::verdict(&verdict));
                    }
                    let heard = Heard::Verdict(verdict, signed);
                    self.listener.hear(heard, &Span::none()).await;
                }
                Err(error) => {
                    early.keep((subject, sequence), &payload, About::order);
                    if !again {
                        self.park.park("verdict", sequence, &error, payload).await;
                    }
                }
            }
        }
    }
}

fn drain(key: &str, value: &[u8], keys: &TrustedKeys) -> Result<Order, Unusable> {
    let order = Signed::decode(value)?.open_order(keys)?;
    check_subject(order.mirror.to_string(), key)?;
    if Drains::concerns(&order.kind) {
        return Ok(order);
    }
    Err(Unusable::Subject {
        said: "to do something".to_owned(),
        subject: format!("whether {key} takes clients"),
    })
}

fn verdict(
    subject: &str,
    payload: &[u8],
    keys: &TrustedKeys,
) -> Result<(Verdict, Signed), Unusable> {
    let signed = Signed::decode(payload)?;
    let verdict = signed.open_verdict(keys)?;
    let said = format!("mirrorlog.verdict.{}.{}", verdict.channel, verdict.mirror);
    check_subject(said, subject)?;
    Ok((verdict, signed))
}

fn opened_heard(opened: Opened, delta: DeltaSource) -> Heard {
    match opened {
        Opened::Snapshot(snapshot) => Heard::Snapshot(snapshot, delta),
        Opened::Retraction(retraction) => Heard::Retraction(retraction),
    }
}
