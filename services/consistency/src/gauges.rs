//! Metrics: lag, verdicts and missing files of every mirror, heads of every channel.

use mirrorlog_core::consistency::{MirrorChannel, State, Status};
use mirrorlog_core::id::MirrorId;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use runtime::boot::metrics::{self, ChannelLabels, MirrorLabels, VerdictLabels};

const STATES: [State; 4] = [
    State::Pending,
    State::Verified,
    State::Complete,
    State::Revoked,
];

/// All that is shown. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gauges {
    lag: Family<MirrorLabels, Gauge>,
    missing: Family<MirrorLabels, Gauge>,
    verdict: Family<VerdictLabels, Gauge>,
    expires: Family<ChannelLabels, Gauge>,
    leader: Gauge,
    parked: Gauge,
}

impl Gauges {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let (leader, parked) = (Gauge::default(), Gauge::default());
        registry.register(
            "consistency_leader",
            "1 while this replica audits and publishes",
            leader.clone(),
        );
        registry.register(
            "parked_messages",
            "Messages since the start that could not be used",
            parked.clone(),
        );
        Self {
            lag: metrics::mirror_lag_seconds(registry),
            missing: metrics::mirror_files_missing(registry),
            verdict: metrics::verdict(registry),
            expires: metrics::head_expires_timestamp_seconds(registry),
            leader,
            parked,
        }
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    pub(crate) fn show(&self, status: &Status, parked: u64) {
        self.parked.set(i64::try_from(parked).unwrap_or(i64::MAX));
        for channel in &status.channels {
            let labels = ChannelLabels {
                channel: channel.channel.to_string(),
            };
            if let Some(expires) = channel.head_expires {
                self.expires
                    .get_or_create(&labels)
                    .set(expires.as_seconds());
            }
        }
        for mirror in &status.mirrors {
            for channel in &mirror.channels {
                self.show_one(&mirror.mirror, channel);
            }
        }
    }

    fn show_one(&self, mirror: &MirrorId, channel: &MirrorChannel) {
        let labels = MirrorLabels {
            mirror: mirror.to_string(),
            channel: channel.channel.to_string(),
        };
        self.lag.get_or_create(&labels).set(channel.lag_ms / 1000);
        self.missing
            .get_or_create(&labels)
            .set(i64::try_from(channel.missing).unwrap_or(i64::MAX));
        for state in STATES {
            let MirrorLabels {
                mirror,
                channel: name,
            } = labels.clone();
            let labels = VerdictLabels {
                mirror,
                channel: name,
                state: state.as_str(),
            };
            self.verdict
                .get_or_create(&labels)
                .set(i64::from(channel.state == state));
        }
    }
}
