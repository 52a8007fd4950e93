//! What Prometheus sees of a mirror, and what readiness says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::time::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use runtime::boot::Health;

use runtime::boot::metrics::{self, ChannelLabels, FetchLabels};
use runtime::log::Log;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::Slot;
use crate::run::Parts;
use crate::sync::Progress;

/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(2);

/// The families of a mirror.
pub(crate) struct Metrics {
    disk_free_bytes: Gauge,
    last_scrub: Gauge,
    head_expires: Family<ChannelLabels, Gauge>,
    live_build: Family<ChannelLabels, Gauge>,
    parked: Gauge,
    fetched: Family<FetchLabels, Counter>,
    files_missing: Family<ChannelLabels, Gauge>,
    lag_seconds: Family<ChannelLabels, Gauge>,
    /// Since when each channel is behind: the oldest build that is newer than live was signed then.
    behind_since: Mutex<BTreeMap<ChannelId, Option<Timestamp>>>,
    /// Answers of the public face.
    pub(crate) http_requests: HttpRequests,
}

/// Answered HTTP requests by class of status: `mirrorlog_http_requests_total`.
#[derive(Clone, Debug)]
pub(crate) struct HttpRequests(Family<ClassLabels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    /// `2xx` to `5xx`.
    class: &'static str,
}

impl HttpRequests {
    /// Registers the family.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let family = Family::default();
        let help = "Answered HTTP requests, by class of status";
        registry.register("http_requests", help, family.clone());
        Self(family)
    }

    /// Counts one answer.
    pub(crate) fn count(&self, status: StatusCode) {
        let class = match status.as_u16() {
            0..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.0.get_or_create(&ClassLabels { class }).inc();
    }
}

impl Metrics {
    /// Registers all families.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let live_build = Family::default();
        registry.register(
            "live_build",
            "Build served at the mount",
            live_build.clone(),
        );
        let parked = Gauge::default();
        registry.register(
            "parked_events",
            "Messages that could not be verified",
            parked.clone(),
        );
        let fetched = metrics::fetch_bytes(registry);
        for lane in Lane::ALL {
            drop(fetched.get_or_create(&from(lane, ARCHIVE)));
            drop(fetched.get_or_create(&from(lane, PEER)));
        }
        Self {
            fetched,
            files_missing: metrics::files_missing(registry),
            lag_seconds: metrics::channel_lag_seconds(registry),
            behind_since: Mutex::default(),
            disk_free_bytes: metrics::disk_free_bytes(registry),
            last_scrub: metrics::last_scrub_timestamp_seconds(registry),
            head_expires: metrics::head_expires_timestamp_seconds(registry),
            live_build,
            parked,
            http_requests: HttpRequests::new(registry),
        }
    }

    /// A scrub went through everything.
    pub(crate) fn scrubbed(&self, now: Timestamp) {
        self.last_scrub.set(now.as_seconds());
    }

    /// Counts what a sync or a healing has fetched.
    pub(crate) fn fetched(&self, lane: Lane) -> Fetched {
        Fetched {
            from_archive: self.fetched.get_or_create_owned(&from(lane, ARCHIVE)),
            from_peers: self.fetched.get_or_create_owned(&from(lane, PEER)),
        }
    }

    /// Takes over what the engine knows of a channel.
    pub(crate) fn told(&self, channel: &ChannelId, slot: &Slot, live: Option<Build>) {
        let mut behind = self
            .behind_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let since = slot.behind_since(live);
        if behind.get(channel) != Some(&since) {
            behind.insert(channel.clone(), since);
        }
        drop(behind);
        if let Some(missing) = slot.files_missing() {
            let missing = i64::try_from(missing).unwrap_or(i64::MAX);
            let channel = channel.to_string();
            self.files_missing
                .get_or_create(&ChannelLabels { channel })
                .set(missing);
        }
    }

    fn look(&self, parts: &Parts) {
        let now = runtime::boot::now();
        let behind = self
            .behind_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (channel, since) in behind.iter() {
            let lag_ms = since.map_or(0, |since| now.ms_since(since).max(0));
            let channel = channel.to_string();
            self.lag_seconds
                .get_or_create(&ChannelLabels { channel })
                .set(lag_ms / 1000);
        }
        drop(behind);
        if let Ok(free) = parts.syncer.pages.store().free_bytes() {
            self.disk_free_bytes
                .set(i64::try_from(free).unwrap_or(i64::MAX));
        }
        self.parked
            .set(i64::try_from(parts.parked.count()).unwrap_or(i64::MAX));
        for (channel, served) in &parts.serving_reader.current().channels {
            let labels = ChannelLabels {
                channel: channel.to_string(),
            };
            if let Some(expires) = served.head_expires {
                self.head_expires
                    .get_or_create(&labels)
                    .set(expires.as_seconds());
            }
            let live = served.live.map_or(0, Build::get);
            self.live_build
                .get_or_create(&labels)
                .set(i64::try_from(live).unwrap_or(i64::MAX));
        }
    }
}

const ARCHIVE: &str = "archive";
const PEER: &str = "peer";

fn from(lane: Lane, source: &'static str) -> FetchLabels {
    FetchLabels {
        lane: lane.as_str(),
        source,
    }
}

/// Bytes of one lane, by where they came from.
pub(crate) struct Fetched {
    from_archive: Counter,
    from_peers: Counter,
}

impl Fetched {
    /// Counts what a sync or a healing has received.
    pub(crate) fn count(&self, progress: &Progress) {
        let from_peers = progress.peers_bytes();
        self.from_peers.inc_by(from_peers);
        let all = progress.received_bytes();
        self.from_archive.inc_by(all.saturating_sub(from_peers));
    }
}

/// Keeps gauges and readiness up to date.
pub(crate) async fn watch(
    parts: Arc<Parts>,
    health: Health,
    log: watch::Receiver<Option<Log>>,
    stop: CancellationToken,
) {
    loop {
        parts.metrics.look(&parts);
        let away = match log.borrow().as_ref() {
            Some(log) => log.why_away(),
            None => Some(parts.config.nats.refused.why_away()),
        };
        match away {
            None => health.recover("log"),
            Some(why) => health.degrade("log", format!("{why}; serving what is here")),
        }
        let now = runtime::boot::now();
        let table = parts.serving_reader.current();
        let expired = table
            .channels
            .iter()
            .find(|(_, served)| served.head_expires.is_some_and(|expires| expires < now));
        match expired {
            Some((channel, _)) => {
                health.degrade("expired", format!("the head of {channel} has expired"))
            }
            None => health.recover("expired"),
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(EVERY))
            .await
            .is_none()
        {
            return;
        }
    }
}
