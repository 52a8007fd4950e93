//! What clients saw: taken in without who they are, put on the log for every replica, and read from there.
//!
//! Of an address three things are made at once, and then it is forgotten: its network (the autonomous system, else
//! a /16 or /32 block), and a number of its neighbourhood (/24 or /48) under a secret of the day. Secrets lie in a
//! bucket that replicas share and are deleted after two days; from then on nobody can tell whose number it was.
//! Samples themselves are forgotten after seven days, by the log and by the fold.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mirrorlog_core::directory::Input;
use mirrorlog_core::directory::place::{Network, Place, neighbourhood};
use mirrorlog_core::directory::speed::{Outcome, Sample};
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::time::Timestamp;
use runtime::boot::now;
use runtime::feed::Park;
use runtime::log::{Bucket, Log, LogError, Message, Messages};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use wire::causes;
use wire::directory::Feedback;

use crate::config::FeedbackSection;
use crate::desk::Desk;
use crate::site::Views;

/// Samples that wait for the log; more are refused.
const WAITING_MAX: usize = 4096;
/// Rates that are kept, of neighbourhoods and of networks; of more, the fullest buckets are forgotten.
const RATES_MAX: usize = 65_536;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
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
}

/// Samples on their way.
pub(crate) type Letters = mpsc::Receiver<Waiting>;

impl Intake {
    pub(crate) fn new(limits: FeedbackSection) -> (Self, Letters) {
        let (waiting, letters) = mpsc::channel(WAITING_MAX);
        let intake = Self {
            limits,
            rates: Arc::default(),
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
        {
            let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
            if !rates.allow(address, network, &self.limits, Instant::now()) {
                return Err(Declined::Limited);
            }
        }
        let now_ms = now().as_ms();
        let waiting = Waiting {
            mirror,
            at: Timestamp::from_ms(now_ms - now_ms.rem_euclid(MINUTE_MS)),
            network,
            neighbourhood: neighbourhood(address).to_string(),
            outcome,
        };
        self.waiting
            .try_send(waiting)
            .map_err(|_full| Declined::Full)
    }
}

/// How much each may say: buckets that fill with time.
#[derive(Default)]
struct Rates {
    sources: BTreeMap<u64, (f64, Option<Instant>)>,
    networks: BTreeMap<Network, (f64, Option<Instant>)>,
}

impl Rates {
    fn allow(
        &mut self,
        address: IpAddr,
        network: Network,
        limits: &FeedbackSection,
        now: Instant,
    ) -> bool {
        let mut hasher = DefaultHasher::new();
        neighbourhood(address).hash(&mut hasher);
        let source = take_one(&mut self.sources, hasher.finish(), limits.per_source, now);
        source && take_one(&mut self.networks, network, limits.per_network, now)
    }
}

fn take_one<K: Ord + Copy>(
    buckets: &mut BTreeMap<K, (f64, Option<Instant>)>,
    key: K,
    per_minute: u32,
    now: Instant,
) -> bool {
    let most = f64::from(per_minute);
    let filled = |(left, since): &(f64, Option<Instant>)| {
        let grown = since.map_or(most, |since| {
            now.duration_since(since).as_secs_f64() * most / 60.0
        });
        (left + grown).min(most)
    };
    if buckets.len() >= RATES_MAX && !buckets.contains_key(&key) {
        // Who has said little lately starts afresh when it speaks again, which is the same.
        buckets.retain(|_, bucket| filled(bucket) < most);
        if buckets.len() >= RATES_MAX {
            return false;
        }
    }
    let bucket = buckets.entry(key).or_insert((most, None));
    let left = filled(bucket);
    let allowed = left >= 1.0;
    *bucket = (if allowed { left - 1.0 } else { left }, Some(now));
    allowed
}

/// Puts samples on the log, for ever.
pub(crate) async fn post(mut letters: Letters, mut log: watch::Receiver<Option<Log>>) {
    let mut secrets = Secrets::default();
    while let Some(waiting) = letters.recv().await {
        // Ends with the service only.
        let Ok(connected) = log.wait_for(Option::is_some).await.map(|log| log.clone()) else {
            return;
        };
        let Some(connected) = connected else { continue };
        while let Err(error) = send(&connected, &mut secrets, &waiting).await {
            tracing::warn!(error = causes(&error), "a client's word cannot be kept now");
            if now().ms_since(waiting.at) > 10 * MINUTE_MS {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn send(log: &Log, secrets: &mut Secrets, waiting: &Waiting) -> Result<(), LogError> {
    let secret = secrets.of_today(log).await?;
    let mut hasher = sha2::Sha256::default();
    sha2::Digest::update(&mut hasher, &secret);
    sha2::Digest::update(&mut hasher, waiting.neighbourhood.as_bytes());
    let number: [u8; 32] = sha2::Digest::finalize(hasher).into();
    let [a, b, c, d, e, f, g, h, ..] = number;
    let feedback = Feedback {
        mirror: waiting.mirror.clone(),
        at: waiting.at,
        network: waiting.network,
        source: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        outcome: waiting.outcome,
    };
    log.publish_feedback(&waiting.mirror, feedback.encode().into())
        .await
}

/// The secret of the day, which replicas share.
#[derive(Default)]
struct Secrets {
    bucket: Option<Bucket>,
    today: Option<(i64, Bytes)>,
}

impl Secrets {
    async fn of_today(&mut self, log: &Log) -> Result<Bytes, LogError> {
        let day = now().as_ms().div_euclid(DAY_MS);
        if let Some((known, secret)) = &self.today
            && *known == day
        {
            return Ok(secret.clone());
        }
        let bucket = match &self.bucket {
            Some(bucket) => bucket.clone(),
            None => self.bucket.insert(log.bucket("salt").await?).clone(),
        };
        let key = format!("day-{day}");
        let mut fresh = [0; 32];
        // Without randomness a day's numbers can be guessed; they are still no addresses.
        getrandom::fill(&mut fresh).ok();
        let secret = match bucket.set(&key, Bytes::copy_from_slice(&fresh), 0).await {
            Ok(_revision) => Bytes::copy_from_slice(&fresh),
            // Another replica was first.
            Err(LogError::Refused { .. }) => {
                let found = bucket.get(&key).await?;
                found.map_or_else(Bytes::new, |(_, secret)| secret)
            }
            Err(error) => return Err(error),
        };
        for old in bucket.keys().await? {
            let number = old
                .strip_prefix("day-")
                .and_then(|day| day.parse::<i64>().ok());
            if number.is_none_or(|number| number < day - 1) {
                bucket.delete(&old).await?;
            }
        }
        self.today = Some((day, secret.clone()));
        Ok(secret)
    }
}

/// Hands what clients of all replicas saw to the fold, for ever.
pub(crate) async fn read(mut messages: Messages, views: Views, desk: Desk, park: Park) {
    loop {
        let message: Message = messages.next().await;
        match Feedback::decode(&message.payload) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn limits(per_source: u32, per_network: u32) -> FeedbackSection {
        FeedbackSection {
            accept: true,
            per_source,
            per_network,
        }
    }

    #[tokio::test]
    async fn a_flood_is_cut_off_by_source_and_by_network() {
        let mut rates = Rates::default();
        let limits = limits(30, 600);
        let begun = Instant::now();
        let network = Network::V4Block(1);
        let mut from =
            |address: String, at| rates.allow(address.parse().unwrap(), network, &limits, at);
        let lies = (0..10_000).filter(|lie| from(format!("10.0.0.{}", lie % 256), begun));
        assert_eq!(lies.count(), 30, "one neighbourhood");
        let lies = (0..10_000).filter(|lie| from(format!("10.0.{}.1", lie % 250 + 1), begun));
        assert_eq!(lies.count(), 570, "one network, the thirty before counted");
        let later = begun + Duration::from_secs(60);
        assert!(
            from("10.0.0.1".to_owned(), later),
            "a minute later it may speak again"
        );
    }

    #[tokio::test]
    async fn only_what_is_needed_of_an_address_is_kept() {
        let (intake, mut letters) = Intake::new(limits(30, 600));
        let place = Place {
            address: Some("192.0.2.77".parse().unwrap()),
            ..Place::default()
        };
        let mirror = MirrorId::new("nz1").unwrap();
        intake.take(&place, mirror.clone(), Outcome::Fine).unwrap();
        let waiting = letters.recv().await.unwrap();
        assert_eq!(waiting.neighbourhood, "192.0.2.0/24");
        assert_eq!(waiting.at.as_ms() % MINUTE_MS, 0);
        let nowhere = intake.take(&Place::default(), mirror, Outcome::Fine);
        assert_eq!(nowhere, Err(Declined::Nowhere));
    }
}
