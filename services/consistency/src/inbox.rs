//! Log, heads, reports and verdicts: checked and turned into inputs of the fold.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::consistency::Input;
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{Report, Verdict};
use runtime::log::{Delivery, Events, KvChange, Log, LogError, Message, Messages, Watch};
use runtime::trace::with_parent;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tracing::Span;
use wire::event::Opened;
use wire::{Event, OpenError, Signed};

use crate::desk::Desk;
use crate::limits::Limits;
use crate::park::Park;

/// A reader that is silent for this long has said all that was retained.
const QUIET: Duration = Duration::from_millis(250);
/// Longest wait for that at start.
const CATCH_UP_MAX: Duration = Duration::from_secs(20);
/// How often waiting reports are looked at.
const RELEASE_EVERY: Duration = Duration::from_millis(100);

/// What the readers share.
#[derive(Clone)]
pub(crate) struct Inbox {
    pub(crate) log: Log,
    pub(crate) desk: Desk,
    pub(crate) park: Park,
    pub(crate) archive: TrustedKeys,
    pub(crate) own: TrustedKeys,
    pub(crate) mirrors: Arc<BTreeMap<MirrorId, TrustedKeys>>,
    /// Told when the log was lost or had something that cannot be read: the journal knows more.
    pub(crate) gap: Arc<Notify>,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Decode(#[from] wire::DecodeError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("mirror {0} is not in the configuration")]
    Unknown(String),
    #[error("it says {said} and came as {subject}")]
    Subject { said: String, subject: String },
}

/// Something that is read for ever; cancelling a read loses nothing.
trait Read {
    type Item;
    fn read(&mut self) -> impl Future<Output = Self::Item> + Send;
    fn caught_up(&self) -> bool;
}

impl Read for Messages {
    type Item = Message;
    fn read(&mut self) -> impl Future<Output = Message> + Send {
        self.next()
    }
    fn caught_up(&self) -> bool {
        self.caught_up()
    }
}

impl Read for Watch {
    type Item = KvChange;
    fn read(&mut self) -> impl Future<Output = KvChange> + Send {
        self.next()
    }
    fn caught_up(&self) -> bool {
        self.caught_up()
    }
}

impl Read for Events {
    type Item = Delivery;
    fn read(&mut self) -> impl Future<Output = Delivery> + Send {
        self.next()
    }
    fn caught_up(&self) -> bool {
        self.caught_up()
    }
}

/// A reader that says once when what was retained has been read: it came to the end, or has been quiet
/// for a moment. A busy log is never quiet, an empty one has no end to come to.
struct UntilQuiet<R> {
    reader: R,
    quiet: Option<oneshot::Sender<()>>,
    deadline: Instant,
}

impl<R: Read> UntilQuiet<R> {
    fn new(reader: R) -> (Self, oneshot::Receiver<()>) {
        let (quiet, heard) = oneshot::channel();
        (
            Self {
                reader,
                quiet: Some(quiet),
                deadline: Instant::now() + CATCH_UP_MAX,
            },
            heard,
        )
    }

    async fn next(&mut self) -> R::Item {
        if self.quiet.is_some()
            && !self.reader.caught_up()
            && Instant::now() < self.deadline
            && let Ok(item) = timeout(QUIET, self.reader.read()).await
        {
            return item;
        }
        if let Some(quiet) = self.quiet.take() {
            // Nobody waits any more when the service stops.
            quiet.send(()).ok();
        }
        self.reader.read().await
    }
}

impl Inbox {
    /// Reads retained verdicts, events and reports, in this order, then goes on with all of them in
    /// the background. Returns when what was retained has been read.
    ///
    /// # Errors
    /// [`LogError`] when a stream cannot be read at all.
    pub(crate) async fn start(self, tasks: &mut JoinSet<()>) -> Result<(), LogError> {
        let (reader, verdicts) = UntilQuiet::new(self.log.verdicts().await?);
        tasks.spawn(self.clone().verdicts(reader));
        let (reader, heads) = UntilQuiet::new(self.log.bucket("head").await?.watch().await?);
        tasks.spawn(self.clone().heads(reader));
        let (reader, wanted) = UntilQuiet::new(self.log.bucket("wanted").await?.watch().await?);
        tasks.spawn(self.clone().wanted(reader));
        let (reader, events) = UntilQuiet::new(self.log.follow(0).await?);
        tasks.spawn(self.clone().events(reader));
        for quiet in [verdicts, heads, wanted, events] {
            quiet.await.ok();
        }
        let (reader, reports) = UntilQuiet::new(self.log.reports().await?);
        tasks.spawn(self.clone().reports(reader));
        reports.await.ok();
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
            match decoded.and_then(|decoded| Ok(decoded.open(&self.archive)?)) {
                Ok((opened, head)) => {
                    self.desk.input(opened_input(opened), &span).await;
                    if let Some(head) = head {
                        self.desk.input(Input::Head(head), &span).await;
                    }
                }
                Err(error) => {
                    self.park
                        .park("event", event.position.sequence, &error, event.payload)
                        .await;
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
            match head.and_then(|head| Ok(head.open_head(&self.archive)?)) {
                Ok(head) => self.desk.input(Input::Head(head), &Span::none()).await,
                Err(error) => self.park.park("head", change.revision, &error, value).await,
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
                    self.desk
                        .input(
                            Input::Wanted {
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
        loop {
            let message = verdicts.next().await;
            match self.verdict(&message) {
                Ok((verdict, signed)) => self.desk.verdict(verdict, signed).await,
                Err(error) => {
                    self.park
                        .park("verdict", message.sequence, &error, message.payload)
                        .await
                }
            }
        }
    }

    fn verdict(&self, message: &Message) -> Result<(Verdict, Signed), Unusable> {
        let signed = Signed::decode(&message.payload)?;
        let verdict = signed.open_verdict(&self.own)?;
        check_subject(
            format!("mirrorlog.verdict.{}.{}", verdict.channel, verdict.mirror),
            &message.subject,
        )?;
        Ok((verdict, signed))
    }

    async fn reports(self, mut reports: UntilQuiet<Messages>) {
        let mut limits = Limits::default();
        let mut release = tokio::time::interval(RELEASE_EVERY);
        release.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = reports.next() => {
                    let mirror = mirror_of(&message.subject);
                    let known = MirrorId::new(mirror).is_ok_and(|id| self.mirrors.contains_key(&id));
                    if !known {
                        self.desk.stranger(mirror.to_owned()).await;
                    } else if let Some(message) = limits.admit(message, Instant::now()) {
                        self.take_report(message).await;
                    }
                }
                _ = release.tick(), if limits.holds() => {
                    for message in limits.release(Instant::now()) {
                        self.take_report(message).await;
                    }
                }
            }
        }
    }

    async fn take_report(&self, message: Message) {
        match self.report(&message) {
            Ok(report) => {
                let span = tracing::info_span!("report", mirror = %report.mirror, channel = %report.channel);
                with_parent(&span, &message.trace);
                self.desk.input(Input::Report(report), &span).await;
            }
            Err(Unusable::Unknown(mirror)) => self.desk.stranger(mirror).await,
            Err(error) => {
                self.park
                    .park("report", message.sequence, &error, message.payload)
                    .await
            }
        }
    }

    fn report(&self, message: &Message) -> Result<Report, Unusable> {
        let name = mirror_of(&message.subject);
        let unknown = || Unusable::Unknown(name.to_owned());
        let mirror = MirrorId::new(name).map_err(|_| unknown())?;
        let keys = self.mirrors.get(&mirror).ok_or_else(unknown)?;
        let report = Signed::decode(&message.payload)?.open_report(keys)?;
        check_subject(
            format!("mirrorlog.report.{}.{}", report.mirror, report.channel),
            &message.subject,
        )?;
        Ok(report)
    }
}

pub(crate) fn opened_input(opened: Opened) -> Input {
    match opened {
        Opened::Snapshot(snapshot) => Input::Snapshot(snapshot),
        Opened::Retraction(retraction) => Input::Retraction(retraction),
    }
}

pub(crate) fn mirror_of(subject: &str) -> &str {
    subject.split('.').nth(2).unwrap_or_default()
}

/// A statement counts only under the subject of whom it speaks.
fn check_subject(said: String, subject: &str) -> Result<(), Unusable> {
    if said == subject {
        Ok(())
    } else {
        Err(Unusable::Subject {
            said,
            subject: subject.to_owned(),
        })
    }
}
