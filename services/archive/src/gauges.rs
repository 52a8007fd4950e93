//! What alerts look at.

use mirrorlog_core::id::ChannelId;
use mirrorlog_core::time::Timestamp;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use runtime::boot::metrics::{self, ChannelLabels};

/// The archive's gauges. Cheap to clone.
#[derive(Clone)]
pub struct Gauges {
    outbox: Gauge,
    heads: Family<ChannelLabels, Gauge>,
    builds: Family<ChannelLabels, Gauge>,
    halted: Family<ChannelLabels, Gauge>,
    disk_free: Gauge,
}

impl Gauges {
    /// Registers them; the registry has the prefix `mirrorlog`.
    pub fn register(registry: &mut Registry) -> Self {
        let builds = Family::default();
        registry.register(
            "channel_build",
            "Newest good build of the channel",
            Family::clone(&builds),
        );
        let halted = Family::default();
        let help = "1 when nothing more is published on the channel";
        registry.register("channel_halted", help, Family::clone(&halted));
        Self {
            outbox: metrics::outbox_pending(registry),
            heads: metrics::head_expires_timestamp_seconds(registry),
            disk_free: metrics::disk_free_bytes(registry),
            builds,
            halted,
        }
    }

    pub(crate) fn outbox_changed(&self, by: i64) {
        self.outbox.inc_by(by);
    }

    pub(crate) fn head(&self, channel: &ChannelId, expires: Timestamp, build: u64) {
        self.heads
            .get_or_create(&labels(channel))
            .set(expires.as_seconds());
        self.builds
            .get_or_create(&labels(channel))
            .set(i64::try_from(build).unwrap_or(i64::MAX));
    }

    pub(crate) fn halted(&self, channel: &ChannelId, halted: bool) {
        self.halted
            .get_or_create(&labels(channel))
            .set(i64::from(halted));
    }

    pub(crate) fn disk_free(&self, bytes: u64) {
        self.disk_free.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Statements that wait for the log.
    pub fn pending(&self) -> i64 {
        self.outbox.get()
    }
}

fn labels(channel: &ChannelId) -> ChannelLabels {
    ChannelLabels {
        channel: channel.to_string(),
    }
}
