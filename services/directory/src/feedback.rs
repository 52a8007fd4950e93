//! What clients saw: taken in without who they are, put on the log for every replica, and read from there.
//!
//! Of an address two things are made at once, and then it is forgotten: its network (the autonomous system, else a
//! /16 or /32 block) and its neighbourhood (/24 or /48). The neighbourhood stays in memory until the log has the
//! sample, for [`WAIT_MAX`] at most; on the log it is a number, made with a secret of the day. Secrets lie in a bucket
//! that replicas share and that forgets them after two days; from then on nobody can tell whose number it was.
//! Samples themselves are forgotten after seven days, by the log and by the fold.

mod rates;
mod secret;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirrorlog_core::directory::Input;
use mirrorlog_core::directory::place::{Asn, Network, Place, neighbourhood};
use mirrorlog_core::directory::speed::{Outcome, Sample};
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::time::Timestamp;
use runtime::boot::now;
use runtime::feed::{Park, Unusable, check_subject};
use runtime::log::{Log, LogError, Message, Messages};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use wire::causes;
use wire::directory::Feedback;

use crate::config::FeedbackSection;
use crate::desk::Desk;
use crate::site::Views;
use rates::Rates;
use secret::{SecretError, Secrets};

/// Samples that wait for the log; more are refused.
const WAITING_MAX: usize = 4096;
/// A sample that the log does not have by then is dropped.
const WAIT_MAX: Duration = Duration::from_secs(10 * 60);
/// Pause between two looks for neighbourhoods and secrets that need not be remembered any more.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Times are kept to the minute.
const MINUTE_MS: i64 = 60_000;
const RETRY: Duration = Duration::from_secs(2);

/// Why a sample was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Declined {
    /// The neighbourhood or its network has said enough for now.
    Limited,
    /// Nothing is known of the address.
    Nowhere,
    /// Too many wait for the log.
    Full,
}

/// Takes samples in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Intake {
    limits: FeedbackSection,
    rates: Arc<Mutex<Rates>>,
    waiting: mpsc::Sender<Waiting>,
}

/// A sample on its way to the log, with what becomes a number there.
pub(crate) struct Waiting {
    mirror: MirrorId,
    at: Timestamp,
    network: Network,
    neighbourhood: String,
    outcome: Outcome,
    /// When it is dropped.
    until: Instant,
}

/// Samples on their way.
pub(crate) type Letters = mpsc::Receiver<Waiting>;

impl Intake {
    pub(crate) fn new(limits: FeedbackSection) -> (Self, Letters) {
        let (waiting, letters) = mpsc::channel(WAITING_MAX);
        let intake = Self {
            limits,
            rates: Arc::new(Mutex::new(Rates::new(&limits))),
            waiting,
        };
        (intake, letters)
    }

    /// False: the operator does not want any.
    pub(crate) fn accepts(&self) -> bool {
        self.limits.accept
    }

    /// Takes one sample of the client at `place` in.
    ///
    /// # Errors
    /// [`Declined`].
    pub(crate) fn take(
        &self,
        place: &Place,
        mirror: MirrorId,
        outcome: Outcome,
    ) -> Result<(), Declined> {
        let (Some(address), Some(network)) = (place.address, Network::of(place)) else {
            return Err(Declined::Nowhere);
        };
        let time = Instant::now();
        if !self.rates().allow(address, network, time) {
            return Err(Declined::Limited);
        }
        let now_ms = now().as_ms();
        let waiting = Waiting {
            mirror,
            at: Timestamp::from_ms(now_ms - now_ms.rem_euclid(MINUTE_MS)),
            network,
            neighbourhood: neighbourhood(address).to_string(),
            outcome,
            until: time + WAIT_MAX,
        };
        self.waiting
            .try_send(waiting)
            .map_err(|_full| Declined::Full)
    }

    /// Forgets neighbourhoods whose limit needs them no more, for ever.
    pub(crate) async fn forget(self) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        loop {
            tick.tick().await;
            self.rates().sweep(Instant::now());
        }
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts samples on the log, for ever. They come in the order of their `until`: none waits longer than that.
pub(crate) async fn post(mut letters: Letters, mut log: watch::Receiver<Option<Log>>) {
    let mut secrets = Secrets::default();
    loop {
        let waiting = match timeout(SWEEP_EVERY, letters.recv()).await {
            Ok(Some(waiting)) => waiting,
            Ok(None) => return,
            Err(_silence) => {
                secrets.forget(now());
                continue;
            }
        };
        let sent = send(&mut log, &mut secrets, &waiting);
        if Instant::now() >= waiting.until || timeout_at(waiting.until, sent).await.is_err() {
            tracing::debug!(mirror = %waiting.mirror, "a client's word waited too long, dropped");
        }
    }
}

/// Why a sample is not on the log.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Tries until the log has it, or there is no secret for it.
async fn send(log: &mut watch::Receiver<Option<Log>>, secrets: &mut Secrets, waiting: &Waiting) {
    let mut told = false;
    loop {
        // Ends with the service only.
        let Ok(connected) = log.wait_for(Option::is_some).await.map(|log| log.clone()) else {
            return;
        };
        let Some(connected) = connected else { continue };
        match try_send(&connected, secrets, waiting).await {
            Ok(()) => return,
            Err(SendError::Secret(error)) => {
                if !std::mem::replace(&mut secrets.told, true) {
                    let error = causes(&error);
                    tracing::error!(error, "no secret of the day: clients' words are dropped");
                }
                return;
            }
            Err(SendError::Log(error)) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = causes(&error), "a client's word cannot be kept now");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn try_send(log: &Log, secrets: &mut Secrets, waiting: &Waiting) -> Result<(), SendError> {
    let secret = secrets.of_today(log).await?;
    let feedback = Feedback {
        mirror: waiting.mirror.clone(),
        at: waiting.at,
        network: waiting.network,
        source: secret.number(&waiting.neighbourhood),
        outcome: waiting.outcome,
    };
    let (network, payload) = (network_token(waiting.network), feedback.encode().into());
    log.publish_feedback(&waiting.mirror, &network, payload)
        .await?;
    Ok(())
}

/// A network as it stands in subjects: `as64496`, `v4-49152`, `v6-536939960`.
fn network_token(network: Network) -> String {
    match network {
        Network::As(Asn(asn)) => format!("as{asn}"),
        Network::V4Block(block) => format!("v4-{block}"),
        Network::V6Block(block) => format!("v6-{block}"),
    }
}

/// Hands what clients of all replicas saw to the fold, for ever.
pub(crate) async fn read(mut messages: Messages, views: Views, desk: Desk, park: Park) {
    loop {
        let message: Message = messages.next().await;
        match feedback_of(&message.subject, &message.payload) {
            Ok(feedback) => {
                // A mirror of another configuration, or of an earlier one.
                let Some(mirror) = views.current().find(&feedback.mirror) else {
                    continue;
                };
                desk.input(Input::Sample(Sample {
                    mirror,
                    network: feedback.network,
                    source: feedback.source,
                    at: feedback.at,
                    outcome: feedback.outcome,
                }))
                .await;
            }
            Err(error) => {
                park.park("feedback", message.sequence, &error, message.payload)
                    .await;
            }
        }
    }
}

/// A sample counts only under the subject of its mirror and network, whose bound it came under.
fn feedback_of(subject: &str, payload: &[u8]) -> Result<Feedback, Unusable> {
    let feedback = Feedback::decode(payload)?;
    let network = network_token(feedback.network);
    check_subject(
        format!("mirrorlog.feedback.{}.{network}", feedback.mirror),
        subject,
    )?;
    Ok(feedback)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use runtime::log::NatsConfig;
    use runtime::log::supervise::NatsServer;

    use super::secret::day_of;
    use super::*;

    fn limits(per_source: u32, per_network: u32) -> FeedbackSection {
        FeedbackSection {
            accept: true,
            per_source,
            per_network,
        }
    }

    fn place() -> Place {
        Place {
            address: Some("192.0.2.77".parse().unwrap()),
            ..Place::default()
        }
    }

    fn nz1() -> MirrorId {
        MirrorId::new("nz1").unwrap()
    }

    #[tokio::test]
    async fn only_what_is_needed_of_an_address_is_kept() {
        let (intake, mut letters) = Intake::new(limits(30, 600));
        intake.take(&place(), nz1(), Outcome::Fine).unwrap();
        let waiting = letters.recv().await.unwrap();
        assert_eq!(waiting.neighbourhood, "192.0.2.0/24");
        assert_eq!(waiting.at.as_ms() % MINUTE_MS, 0);
        assert!(waiting.until <= Instant::now() + WAIT_MAX);
        let nowhere = intake.take(&Place::default(), nz1(), Outcome::Fine);
        assert_eq!(nowhere, Err(Declined::Nowhere));
    }

    #[tokio::test]
    async fn limits_are_asked() {
        let (intake, _letters) = Intake::new(limits(1, 600));
        let take = || intake.take(&place(), nz1(), Outcome::Fine);
        assert_eq!([take(), take()], [Ok(()), Err(Declined::Limited)]);
    }

    /// Each has its own end: those behind one that cannot be sent do not wait for theirs anew.
    #[tokio::test]
    async fn what_waits_too_long_for_the_log_is_dropped() {
        let (waiting, letters) = mpsc::channel(WAITING_MAX);
        let begun = Instant::now();
        for count in 0..1000 {
            let sample = Waiting {
                mirror: nz1(),
                at: now(),
                network: Network::V4Block(1),
                neighbourhood: "192.0.2.0/24".to_owned(),
                outcome: Outcome::Fine,
                until: begun + Duration::from_millis(count / 10),
            };
            waiting.try_send(sample).ok().unwrap();
        }
        drop(waiting);
        let (_unreached, log) = watch::channel(None);
        let all_dropped = tokio::time::timeout(Duration::from_secs(20), post(letters, log));
        all_dropped.await.unwrap();
    }

    /// A server of its own, and a connection.
    async fn net() -> (tempfile::TempDir, NatsServer, Log) {
        let dir = tempfile::tempdir().unwrap();
        let server = NatsServer::start(dir.path(), None).await.unwrap();
        let url = server.url.clone();
        let log = Log::connect(&NatsConfig::new(url), "test", false).await;
        (dir, server, log.unwrap())
    }

    #[tokio::test]
    async fn replicas_share_the_secret_of_the_day() {
        let (_dir, _server, log) = net().await;
        let (mut first, mut second) = (Secrets::default(), Secrets::default());
        let drawn = first.of_today(&log).await.unwrap();
        let found = second.of_today(&log).await.unwrap();
        let number = |secret: secret::Secret| secret.number("192.0.2.0/24");
        assert_eq!(number(found), number(drawn));
    }

    #[tokio::test]
    async fn without_a_secret_nothing_is_sent() {
        let (_dir, _server, log) = net().await;
        let bucket = log.bucket("salt").await.unwrap();
        let today = day_of(now());
        for day in [today, today + 1] {
            let key = format!("day-{day}");
            bucket.put(&key, Bytes::new()).await.unwrap();
        }
        let (intake, letters) = Intake::new(limits(30, 600));
        intake.take(&place(), nz1(), Outcome::Fine).unwrap();
        drop(intake);
        let (_connected, connection) = watch::channel(Some(log.clone()));
        post(letters, connection).await;
        let payload = Bytes::from_static(b"marker");
        log.publish_feedback(&nz1(), "as1", payload).await.unwrap();
        let mut words = log.feedback().await.unwrap();
        assert_eq!(words.next().await.payload, "marker", "nothing before it");
    }

    #[tokio::test]
    async fn a_flood_pushes_out_its_own_networks_words_only() {
        let (_dir, _server, log) = net().await;
        let sample = |address: String| {
            let (intake, mut letters) = Intake::new(limits(30, 600));
            let place = Place {
                address: Some(address.parse().unwrap()),
                ..Place::default()
            };
            intake.take(&place, nz1(), Outcome::Fine).unwrap();
            letters.try_recv().unwrap()
        };
        let mut secrets = Secrets::default();
        let flood = (0..100).map(|count| format!("198.51.{count}.1"));
        for address in ["192.0.2.77".to_owned()].into_iter().chain(flood) {
            try_send(&log, &mut secrets, &sample(address))
                .await
                .unwrap();
        }
        let mut words = log.feedback().await.unwrap();
        let (mut honest, mut flooded) = (0, 0);
        while honest + flooded == 0 || !words.caught_up() {
            let word = words.next().await;
            let feedback = feedback_of(&word.subject, &word.payload).unwrap();
            if feedback.network == Network::V4Block(0xC000) {
                honest += 1;
            } else {
                flooded += 1;
            }
        }
        assert_eq!((honest, flooded), (1, 64));
    }

    #[test]
    fn networks_are_single_tokens_of_a_subject() {
        for (address, asn, token) in [
            ("192.0.2.77", Some(64496), "as64496"),
            ("192.0.2.77", None, "v4-49152"),
            ("2001:db8::1", None, "v6-536939960"),
        ] {
            let network = Network::of(&Place {
                address: Some(address.parse().unwrap()),
                asn: asn.map(Asn),
                ..Place::default()
            });
            assert_eq!(network_token(network.unwrap()), token);
        }
    }

    #[test]
    fn a_word_counts_only_under_its_subject() {
        let feedback = Feedback {
            mirror: nz1(),
            at: Timestamp::from_ms(60_000),
            network: Network::As(Asn(64496)),
            source: 7,
            outcome: Outcome::Fine,
        };
        let payload = feedback.encode();
        let taken = feedback_of("mirrorlog.feedback.nz1.as64496", &payload);
        assert_eq!(taken.unwrap(), feedback);
        for other in [
            "mirrorlog.feedback.nz2.as64496",
            "mirrorlog.feedback.nz1.as64497",
            "mirrorlog.feedback.nz1",
        ] {
            let error = feedback_of(other, &payload).unwrap_err();
            assert!(matches!(error, Unusable::Subject { .. }), "{error}");
        }
        let error = feedback_of("mirrorlog.feedback.nz1.as64496", b"\xff").unwrap_err();
        assert!(matches!(error, Unusable::Decode(_)), "{error}");
    }
}
