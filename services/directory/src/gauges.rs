//! Metrics: what is offered, what was asked, what clients said.

use mirrorlog_core::directory::View;
use mirrorlog_core::directory::offer::Question;
use mirrorlog_core::directory::place::Place;
use mirrorlog_core::time::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use runtime::boot::metrics::{self, ChannelLabels};

/// What was asked for, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AnswerLabels {
    /// `redirect`, `list`, `json`, `metalink`, `page`, `feed`, `dns`.
    pub(crate) output: &'static str,
    /// `ok`, `absent`, `nobody`, `refused`.
    pub(crate) outcome: &'static str,
}

/// What became of a client's word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FeedbackLabels {
    /// `taken`, `limited`, `unusable`.
    pub(crate) outcome: &'static str,
}

/// All that is shown. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Gauges {
    offered: Family<ChannelLabels, Gauge>,
    wanted: Family<ChannelLabels, Gauge>,
    expires: Family<ChannelLabels, Gauge>,
    up: Gauge,
    revision: Gauge,
    pub(crate) answers: Family<AnswerLabels, Counter>,
    pub(crate) feedback: Family<FeedbackLabels, Counter>,
}

impl Gauges {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let gauges = Self {
            expires: metrics::head_expires_timestamp_seconds(registry),
            ..Self::default()
        };
        registry.register(
            "directory_offered",
            "Mirrors offered to clients of no known place",
            gauges.offered.clone(),
        );
        registry.register(
            "directory_wanted_build",
            "The build that clients of no known place are sent to",
            gauges.wanted.clone(),
        );
        registry.register(
            "directory_mirrors_up",
            "Mirrors that answer probes",
            gauges.up.clone(),
        );
        registry.register(
            "directory_revision",
            "Changes of what is offered since the start",
            gauges.revision.clone(),
        );
        registry.register("directory_answers", "Answers given", gauges.answers.clone());
        registry.register(
            "directory_feedback",
            "Samples that clients sent",
            gauges.feedback.clone(),
        );
        gauges
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, output: &'static str, outcome: &'static str) {
        let labels = AnswerLabels { output, outcome };
        self.answers.get_or_create(&labels).inc();
    }

    pub(crate) fn show(&self, view: &View, now: Timestamp) {
        for (channel, carried) in view.channels() {
            let labels = ChannelLabels {
                channel: channel.to_string(),
            };
            let place = Place::default();
            let question = Question {
                needs: Default::default(),
                channel,
                build: None,
                place: &place,
                now,
            };
            if let Ok(offer) = view.offer(&question) {
                let count = i64::try_from(offer.ranked.len()).unwrap_or(i64::MAX);
                let build = offer.build.map_or(0, |build| build.get());
                self.offered.get_or_create(&labels).set(count);
                let build = i64::try_from(build).unwrap_or(i64::MAX);
                self.wanted.get_or_create(&labels).set(build);
            }
            if let Some(head) = &carried.channel.head {
                self.expires
                    .get_or_create(&labels)
                    .set(head.expires.as_seconds());
            }
        }
        let up = view
            .mirrors()
            .filter(|(mirror, _)| view.health(*mirror).is_up());
        self.up.set(i64::try_from(up.count()).unwrap_or(i64::MAX));
        let revision = i64::try_from(view.revision()).unwrap_or(i64::MAX);
        self.revision.set(revision);
    }
}
