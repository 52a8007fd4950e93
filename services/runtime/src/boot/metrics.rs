//! The metrics that alerts rely on (INTERFACE.md), each named once. A service registers those that
//! it can tell: an unset gauge would read as 0 and set alerts off, or keep them silent.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ChannelLabels {
    /// Its id.
    pub channel: String,
}

/// A channel on one mirror, as seen from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MirrorLabels {
    /// The mirror's id.
    pub mirror: String,
    /// The channel's id.
    pub channel: String,
}

/// A verdict on a channel of one mirror.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerdictLabels {
    /// The mirror's id.
    pub mirror: String,
    /// The channel's id.
    pub channel: String,
    /// `pending`, `verified`, `complete` or `revoked`.
    pub state: &'static str,
}

/// Where bytes came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FetchLabels {
    /// `bulk` or `priority`.
    pub lane: &'static str,
    /// `archive` or `peer`.
    pub source: &'static str,
}

/// An empty registry with the prefix `mirrorlog_` and `mirrorlog_build_info`.
pub fn registry(service: &'static str) -> Registry {
    let mut registry = Registry::with_prefix("mirrorlog");
    let labels = vec![("service", service), ("version", env!("CARGO_PKG_VERSION"))];
    registry.register("build", "What runs here", Info::new(labels));
    registry
}

/// `mirrorlog_outbox_pending`: records that are durable here and not yet on the log.
pub fn outbox_pending(registry: &mut Registry) -> Gauge {
    register(
        registry,
        "outbox_pending",
        "Records that are durable here and not yet on the log",
    )
}

/// `mirrorlog_disk_free_bytes`: free bytes on the store's disk.
pub fn disk_free_bytes(registry: &mut Registry) -> Gauge {
    register(
        registry,
        "disk_free_bytes",
        "Free bytes for unprivileged users on the store's disk",
    )
}

/// `mirrorlog_last_scrub_timestamp_seconds`: when the last whole scrub ended.
pub fn last_scrub_timestamp_seconds(registry: &mut Registry) -> Gauge {
    register(
        registry,
        "last_scrub_timestamp_seconds",
        "End of the last whole scrub, seconds since 1970",
    )
}

/// `mirrorlog_channel_lag_seconds`, of this mirror.
pub fn channel_lag_seconds(registry: &mut Registry) -> Family<ChannelLabels, Gauge> {
    register(registry, "channel_lag_seconds", LAG_HELP)
}

/// `mirrorlog_channel_lag_seconds`, of every mirror.
pub fn mirror_lag_seconds(registry: &mut Registry) -> Family<MirrorLabels, Gauge> {
    register(registry, "channel_lag_seconds", LAG_HELP)
}

/// `mirrorlog_head_expires_timestamp_seconds`: when the newest known head of a channel expires.
pub fn head_expires_timestamp_seconds(registry: &mut Registry) -> Family<ChannelLabels, Gauge> {
    register(
        registry,
        "head_expires_timestamp_seconds",
        "Expiry of the channel's newest known head, seconds since 1970",
    )
}

/// `mirrorlog_verdict`: 1 for the state that holds, 0 for the others.
pub fn verdict(registry: &mut Registry) -> Family<VerdictLabels, Gauge> {
    register(
        registry,
        "verdict",
        "1 for the verdict that holds on the mirror's live build",
    )
}

/// `mirrorlog_fetch_bytes_total`: bytes of content received.
pub fn fetch_bytes(registry: &mut Registry) -> Family<FetchLabels, Counter> {
    // The encoder appends `_total`.
    register(registry, "fetch_bytes", "Bytes of content received")
}

/// `mirrorlog_files_missing`: files of the newest build that are not here, of this mirror.
pub fn files_missing(registry: &mut Registry) -> Family<ChannelLabels, Gauge> {
    register(registry, "files_missing", MISSING_HELP)
}

/// `mirrorlog_files_missing`, of every mirror.
pub fn mirror_files_missing(registry: &mut Registry) -> Family<MirrorLabels, Gauge> {
    register(registry, "files_missing", MISSING_HELP)
}

const LAG_HELP: &str = "Age of the oldest build that is published and not live, in seconds";
const MISSING_HELP: &str = "Files of the newest published build that the mirror does not have";

fn register<M: prometheus_client::registry::Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> M {
    let metric = M::default();
    // The registry ends each help text with a full stop.
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_interface() {
        let mut registry = registry("mirror");
        outbox_pending(&mut registry).set(3);
        disk_free_bytes(&mut registry).set(1 << 40);
        last_scrub_timestamp_seconds(&mut registry).set(7);
        let channel = ChannelLabels {
            channel: "noble".to_owned(),
        };
        channel_lag_seconds(&mut registry)
            .get_or_create(&channel)
            .set(36);
        head_expires_timestamp_seconds(&mut registry)
            .get_or_create(&channel)
            .set(99);
        files_missing(&mut registry).get_or_create(&channel).set(0);
        let labels = FetchLabels {
            lane: "bulk",
            source: "archive",
        };
        fetch_bytes(&mut registry).get_or_create(&labels).inc_by(5);
        let labels = VerdictLabels {
            mirror: "nz1".to_owned(),
            channel: "noble".to_owned(),
            state: "complete",
        };
        verdict(&mut registry).get_or_create(&labels).set(1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let version = env!("CARGO_PKG_VERSION");
        let expected = [
            &format!("mirrorlog_build_info{{service=\"mirror\",version=\"{version}\"}} 1"),
            "mirrorlog_outbox_pending 3",
            "mirrorlog_disk_free_bytes 1099511627776",
            "mirrorlog_last_scrub_timestamp_seconds 7",
            "mirrorlog_channel_lag_seconds{channel=\"noble\"} 36",
            "mirrorlog_head_expires_timestamp_seconds{channel=\"noble\"} 99",
            "mirrorlog_files_missing{channel=\"noble\"} 0",
            "mirrorlog_fetch_bytes_total{lane=\"bulk\",source=\"archive\"} 5",
            "mirrorlog_verdict{mirror=\"nz1\",channel=\"noble\",state=\"complete\"} 1",
        ];
        assert_eq!(samples, expected);
    }
}
