//! Consumers of streams: what a reader wants, and what is made for it.
//!
//! Whoever makes a consumer chooses where its messages are sent, past what he may publish himself. In a network with
//! permissions the archive therefore makes those of all others (ADR 24): a user says which of its consumers it wants and
//! from where on, and what that consumer is like is decided here, for both. Without permissions everybody makes his own.
//!
//! A mirror's consumers have fixed names. Services of the centre may run more than once by the same user: each reader gets
//! a name that is free, out of a few.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use mirrorlog_core::channel::CHANNELS_MAX;
use mirrorlog_core::id::{ChannelId, Lane};
use serde::{Deserialize, Serialize};

use super::access::{self, Right, User};
use super::places::READER;
use super::{ACK_WAIT, declare, event_subject};

/// Most events that a mirror may hold unacked in a lane; one per channel stays unacked during a long sync.
const ACK_PENDING_MAX: i64 = 1024;
/// Most pulls that wait at a consumer.
const WAITING_MAX: i64 = 16;
/// The server forgets a mirror's consumer of a lane after this; its cursor makes a new one.
const LANE_INACTIVE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A plain reader's consumer is forgotten by the server this long after its reader.
const READER_INACTIVE: Duration = Duration::from_secs(60);
/// Where a plain reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Start {
    All,
    LastPerSubject,
    Sequence(u64),
}

/// What is sent to the archive, as JSON. No answer of the server or of the archive reads as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Any number, the same when it is asked again: what was made is not made twice.
    pub(super) id: u64,
    pub(super) ask: Ask,
}

/// Which consumer a user wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Ask {
    /// A mirror's durable consumer of a lane, after `floor`; of all channels where none is named.
    Lane {
        lane: String,
        channels: Vec<String>,
        floor: u64,
    },
    /// A plain reader of a stream.
    Read {
        stream: String,
        start: Start,
        /// Any number, the same as long as the reader lives: by it a service's reader has its place again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reader: Option<u64>,
    },
}

/// What the archive says to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Answer {
    Made,
    /// The same, under this name.
    MadeAs(String),
    /// It can be asked again.
    Later(String),
    /// It never will be.
    Refused(String),
}

/// Why a user gets no such consumer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    #[error("{0:?} is no lane")]
    Lane(String),
    #[error("{0:?} is no channel's name")]
    Channel(String),
    #[error("a consumer is of {CHANNELS_MAX} channels at most")]
    Channels,
    #[error("no part of stream {0:?} is this user's to read")]
    Stream(String),
    #[error("lanes are for mirrors")]
    Lanes,
    #[error("a reader has a number")]
    Reader,
    #[error("messages are counted from 1 on")]
    Start,
}

/// A consumer as it is to be made.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) stream: String,
    pub(super) config: pull::Config,
    /// The names of which it gets one that is free; none where it has its own.
    pub(super) places: Vec<String>,
}

impl Ask {
    pub(super) fn lane(lane: Lane, channels: &[ChannelId], floor: u64) -> Self {
        Self::Lane {
            lane: lane.as_str().to_owned(),
            channels: channels.iter().map(ToString::to_string).collect(),
            floor,
        }
    }

    /// What is made for that user: names and filters are its own, whatever it asks.
    pub(super) fn plan(&self, user: &User) -> Result<Plan, AskError> {
        match self {
            Self::Lane { .. } if user.right() != Right::Mirror => Err(AskError::Lanes),
            Self::Lane {
                lane,
                channels,
                floor,
            } => {
                let known = Lane::ALL.into_iter().find(|known| known.as_str() == lane);
                let lane = known.ok_or_else(|| AskError::Lane(lane.clone()))?;
                if channels.len() > CHANNELS_MAX {
                    return Err(AskError::Channels);
                }
                let channel = |text: &String| {
                    ChannelId::new(text).map_err(|_| AskError::Channel(text.clone()))
                };
                let channels: Vec<ChannelId> =
                    channels.iter().map(channel).collect::<Result<_, _>>()?;
                Ok(Plan {
                    stream: declare::LOG.to_owned(),
                    config: lane_consumer(user.name(), lane, &channels, *floor),
                    places: Vec::new(),
                })
            }
            Self::Read {
                stream,
                start,
                reader,
            } => {
                if *start == Start::Sequence(0) {
                    return Err(AskError::Start);
                }
                let parts = access::readable(user.right(), user.name());
                let part = parts.into_iter().find(|(name, _)| name == stream);
                let (_, filter) = part.ok_or_else(|| AskError::Stream(stream.clone()))?;
                let mut plan = Plan::reader(stream, filter, *start, Some(user));
                if !plan.places.is_empty() {
                    let reader = reader.ok_or(AskError::Reader)?;
                    let metadata = &mut plan.config.metadata;
                    metadata.insert(READER.to_owned(), reader.to_string());
                }
                Ok(plan)
            }
        }
    }
}

impl Plan {
    /// A plain reader's; `asker` is the user for whom somebody else makes it.
    pub(super) fn reader(stream: &str, filter: String, start: Start, asker: Option<&User>) -> Self {
        let is_mirror = |user: &&User| user.right() == Right::Mirror;
        let own = asker
            .filter(is_mirror)
            .map(|user| access::reader(user.name()));
        let several = asker.filter(|user| !is_mirror(user));
        Self {
            stream: stream.to_owned(),
            config: plain_consumer(own, filter, start),
            places: several.map_or_else(Vec::new, |user| access::readers(user.name())),
        }
    }
}

/// The durable consumer `<mirror>-<lane>`, after `floor`, of `channels` (empty: all).
pub(super) fn lane_consumer(
    mirror: &str,
    lane: Lane,
    channels: &[ChannelId],
    floor: u64,
) -> pull::Config {
    let mut subjects: Vec<String> = channels
        .iter()
        .map(|channel| event_subject(lane, Some(channel)))
        .collect();
    subjects.sort_unstable();
    subjects.dedup();
    if subjects.is_empty() {
        subjects.push(event_subject(lane, None));
    }
    let (filter_subject, filter_subjects) = match subjects.as_slice() {
        [one] => (one.clone(), Vec::new()),
        _many => (String::new(), subjects),
    };
    let deliver_policy = match floor {
        0 => DeliverPolicy::All,
        floor => DeliverPolicy::ByStartSequence {
            start_sequence: floor.saturating_add(1),
        },
    };
    pull::Config {
        durable_name: Some(access::lane_consumer(mirror, lane)),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        filter_subject,
        filter_subjects,
        replay_policy: ReplayPolicy::Instant,
        max_waiting: WAITING_MAX,
        max_ack_pending: ACK_PENDING_MAX,
        inactive_threshold: LANE_INACTIVE,
        num_replicas: 1,
        ..pull::Config::default()
    }
}

/// A reader's consumer, without acks; the server names it where `name` is none.
pub(super) fn plain_consumer(name: Option<String>, filter: String, start: Start) -> pull::Config {
    let deliver_policy = match start {
        Start::All => DeliverPolicy::All,
        Start::LastPerSubject => DeliverPolicy::LastPerSubject,
        Start::Sequence(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
    };
    pull::Config {
        name,
        deliver_policy,
        ack_policy: AckPolicy::None,
        max_deliver: -1,
        replay_policy: ReplayPolicy::Instant,
        filter_subject: filter,
        max_waiting: WAITING_MAX,
        inactive_threshold: READER_INACTIVE,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(stream: &str) -> Ask {
        Ask::Read {
            stream: stream.to_owned(),
            start: Start::All,
            reader: None,
        }
    }

    fn user(name: &str) -> User {
        User::named(name).unwrap()
    }

    #[test]
    fn a_mirror_gets_its_own_consumers_and_no_others() {
        let channels = ["noble", "noble-security"].map(|name| ChannelId::new(name).unwrap());
        let plan = Ask::lane(Lane::Bulk, &channels, 7)
            .plan(&user("nz1"))
            .unwrap();
        assert_eq!(plan.stream, declare::LOG);
        assert_eq!(plan.config.durable_name.as_deref(), Some("nz1-bulk"));
        let subjects = [
            "mirrorlog.log.bulk.noble",
            "mirrorlog.log.bulk.noble-security",
        ];
        assert_eq!(plan.config.filter_subjects, subjects);

        let plan = read(declare::ORDER).plan(&user("nz1")).unwrap();
        assert_eq!(plan.config.name.as_deref(), Some("nz1-read"));
        assert_eq!(plan.config.filter_subject, "mirrorlog.order.nz1");
        let nowhere = Ask::Read {
            stream: declare::ORDER.to_owned(),
            start: Start::Sequence(0),
            reader: None,
        };
        assert_eq!(nowhere.plan(&user("nz1")).unwrap_err(), AskError::Start);
        for stream in [
            declare::LOG,
            declare::REPORT,
            declare::FEEDBACK,
            "KV_mirrorlog_salt",
            "",
        ] {
            let error = read(stream).plan(&user("nz1")).unwrap_err();
            assert_eq!(error, AskError::Stream(stream.to_owned()));
        }
    }

    #[test]
    fn a_service_of_the_centre_gets_readers_of_what_is_its_own() {
        let ask = |stream: &str, reader| Ask::Read {
            stream: stream.to_owned(),
            start: Start::LastPerSubject,
            reader,
        };
        let plan = ask(declare::REPORT, Some(7)).plan(&user("consistency"));
        let plan = plan.unwrap();
        assert_eq!(plan.config.filter_subject, declare::REPORTS);
        assert_eq!(plan.config.name, None);
        assert_eq!(plan.places[0], "consistency-1");
        assert_eq!(plan.config.metadata[READER], "7");
        let plan = ask(declare::FEEDBACK, Some(7)).plan(&user("directory"));
        assert_eq!(plan.unwrap().places[1], "directory-2");
        let nobody = ask(declare::REPORT, None).plan(&user("consistency"));
        assert_eq!(nobody.unwrap_err(), AskError::Reader);
        for (name, stream) in [
            ("consistency", declare::FEEDBACK),
            ("consistency", declare::ORDER),
            ("directory", declare::REPORT),
            ("directory", "KV_mirrorlog_lease"),
            ("archive", declare::LOG),
        ] {
            let error = ask(stream, Some(1)).plan(&user(name)).unwrap_err();
            assert_eq!(error, AskError::Stream(stream.to_owned()));
            let lane = Ask::lane(Lane::Bulk, &[], 0).plan(&user(name));
            assert_eq!(lane.unwrap_err(), AskError::Lanes);
        }
    }

    #[test]
    fn what_is_no_lane_or_channel_is_refused() {
        let ask = |lane: &str, channels: Vec<String>| Ask::Lane {
            lane: lane.to_owned(),
            channels,
            floor: u64::MAX,
        };
        ask("bulk", Vec::new()).plan(&user("nz1")).unwrap();
        let lane = ask("fast", Vec::new()).plan(&user("nz1")).unwrap_err();
        assert_eq!(lane, AskError::Lane("fast".into()));
        for channel in ["", "*", ">", "a.b", "noble.>", "Noble", "a b"] {
            let error = ask("bulk", vec![channel.into()])
                .plan(&user("nz1"))
                .unwrap_err();
            assert_eq!(error, AskError::Channel(channel.into()));
        }
        let many = vec!["noble".to_owned(); CHANNELS_MAX + 1];
        let error = ask("bulk", many).plan(&user("nz1")).unwrap_err();
        assert_eq!(error, AskError::Channels);
    }

    #[test]
    fn asks_are_read_back_and_answers_are_none() {
        let channels = [ChannelId::new("noble").unwrap()];
        for ask in [
            Ask::lane(Lane::Priority, &channels, 0),
            read(declare::ORDER),
            Ask::Read {
                stream: declare::LOG.to_owned(),
                start: Start::Sequence(9),
                reader: Some(u64::MAX),
            },
        ] {
            let question = Question { id: u64::MAX, ask };
            let bytes = serde_json::to_vec(&question).unwrap();
            let back: Question = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(back, question);
        }
        for answer in [
            Answer::Made,
            Answer::MadeAs("x".into()),
            Answer::Later("x".into()),
            Answer::Refused("x".into()),
        ] {
            let bytes = serde_json::to_vec(&answer).unwrap();
            assert!(serde_json::from_slice::<Question>(&bytes).is_err());
        }
    }
}
