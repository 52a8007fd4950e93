//! Reports: checked and turned into inputs of the fold. What archive and this service itself said comes by
//! [`runtime::feed`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::consistency::Input;
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::Report;
use runtime::feed::{Feed, Heard, Listener, Park, UntilQuiet, Unusable, check_subject};
use runtime::log::{LogError, Message, Messages};
use runtime::trace::with_parent;
use runtime::trust::Trust;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::Span;
use wire::Signed;

use crate::desk::Desk;
use crate::limits::Limits;

/// How often waiting reports are looked at.
const RELEASE_EVERY: Duration = Duration::from_millis(100);

impl Listener for Desk {
    async fn hear(&self, heard: Heard, span: &Span) {
        let input = match heard {
            Heard::Snapshot(snapshot, delta) => return self.snapshot(snapshot, delta, span).await,
            Heard::Retraction(retraction) => Input::Retraction(retraction),
            Heard::Head(head) => Input::Head(head),
            Heard::Order(order) => Input::Order(order),
            Heard::Wanted {
                channel,
                pool,
                build,
            } => Input::Wanted {
                channel,
                pool,
                build,
            },
            Heard::Verdict(verdict, signed) => return self.verdict(verdict, signed).await,
        };
        self.input(input, span).await;
    }
}

/// What reading reports needs.
#[derive(Clone)]
pub(crate) struct Inbox {
    pub(crate) desk: Desk,
    pub(crate) park: Park,
    pub(crate) mirrors: Roster,
}

/// Whose reports count: those of the configuration's mirrors, by its keys or by the root document's.
#[derive(Clone)]
pub(crate) struct Roster {
    /// `None`: the root document says.
    pub(crate) mirrors: Arc<BTreeMap<MirrorId, Option<TrustedKeys>>>,
    pub(crate) trust: Trust,
}

impl Roster {
    /// `None` for a stranger.
    fn keys(&self, mirror: &str) -> Option<TrustedKeys> {
        let mirror = MirrorId::new(mirror).ok()?;
        match self.mirrors.get(&mirror)? {
            Some(keys) => Some(keys.clone()),
            None => self.trust.mirror(&mirror),
        }
    }
}

impl Inbox {
    /// Reads what others said, then the retained reports, and goes on with all of it in the background.
    /// Returns when what was retained has been read.
    ///
    /// # Errors
    /// [`LogError`] when a stream cannot be read at all.
    pub(crate) async fn start(
        self,
        feed: Feed<Desk>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), LogError> {
        let log = feed.log.clone();
        feed.start(tasks).await?;
        let (reader, reports) = UntilQuiet::new(log.reports().await?);
        tasks.spawn(self.reports(reader));
        reports.await.ok();
        Ok(())
    }

    async fn reports(self, mut reports: UntilQuiet<Messages>) {
        let mut limits = Limits::default();
        let mut release = tokio::time::interval(RELEASE_EVERY);
        release.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = reports.next() => {
                    let mirror = mirror_of(&message.subject);
                    if self.mirrors.keys(mirror).is_none() {
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
        let name = mirror_of(&message.subject);
        let Some(keys) = self.mirrors.keys(name) else {
            return self.desk.stranger(name.to_owned()).await;
        };
        match self.report(&message, &keys) {
            Ok(report) => {
                let span = tracing::info_span!("report", mirror = %report.mirror, channel = %report.channel);
                with_parent(&span, &message.trace);
                self.desk.input(Input::Report(report), &span).await;
            }
            Err(error) => {
                self.park
                    .park("report", message.sequence, &error, message.payload)
                    .await
            }
        }
    }

    fn report(&self, message: &Message, keys: &TrustedKeys) -> Result<Report, Unusable> {
        let report = Signed::decode(&message.payload)?.open_report(keys)?;
        check_subject(
            format!("mirrorlog.report.{}.{}", report.mirror, report.channel),
            &message.subject,
        )?;
        Ok(report)
    }
}

pub(crate) fn mirror_of(subject: &str) -> &str {
    subject.split('.').nth(2).unwrap_or_default()
}
