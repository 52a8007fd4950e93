//! What a mirror remembers of a channel between two starts.

use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::mirror::{
    Backfill, Channel, Halt, HeadSeen, Held, LaneState, OpenEvent, Retracted, Sync, Target,
};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::view::View;
use prost::Message as _;

use crate::field;
use crate::v1;

const SCHEMA: u32 = 1;

/// Why stored bytes are no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not protobuf.
    #[error("stored state does not decode")]
    Protobuf(#[source] prost::DecodeError),
    /// Written by another version.
    #[error("stored state has schema {0}, this version reads {SCHEMA}")]
    Schema(u32),
    /// A field's value cannot be.
    #[error("stored state has a bad {0}")]
    Field(&'static str),
}

/// The view that a channel's builds are held in, as bytes.
pub fn encode_view(view: &View) -> Vec<u8> {
    field::view_to_proto(view).encode_to_vec()
}

/// Reads a view.
///
/// # Errors
/// [`StateError`].
pub fn decode_view(bytes: &[u8]) -> Result<View, StateError> {
    let view = v1::View::decode(bytes).map_err(StateError::Protobuf)?;
    field::view("view", Some(view)).map_err(|_| StateError::Field("view"))
}

/// A lane's cursor: how far events were taken, on which stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Creation time of the stream in nanoseconds since 1970; another stream has another one.
    pub stream_created_ns: i64,
    /// Sequence of the last event that was taken.
    pub delivered: u64,
}

impl Cursor {
    /// The cursor as bytes.
    pub fn encode(&self) -> Vec<u8> {
        v1::Cursor {
            stream_created_ns: self.stream_created_ns,
            delivered: self.delivered,
        }
        .encode_to_vec()
    }

    /// Reads a cursor.
    ///
    /// # Errors
    /// [`StateError::Protobuf`].
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let cursor = v1::Cursor::decode(bytes).map_err(StateError::Protobuf)?;
        let v1::Cursor {
            stream_created_ns,
            delivered,
        } = cursor;
        Ok(Self {
            stream_created_ns,
            delivered,
        })
    }
}

/// A channel's state as bytes.
pub fn encode_channel(channel: &Channel) -> Vec<u8> {
    let retracted = channel
        .retracted
        .iter()
        .map(|(number, r)| v1::RetractedBuilds {
            number: *number,
            first: r.first.get(),
            last: r.last.get(),
            reason: r.reason.clone(),
        });
    let fork = channel.halt.as_ref().map(
        |Halt::Fork {
             build,
             first,
             second,
         }| v1::Fork {
            build: build.get(),
            first: bytes_of(*first),
            second: bytes_of(*second),
        },
    );
    v1::MirrorState {
        schema: SCHEMA,
        channel: channel.id.to_string(),
        live: channel.live.map_or(0, Build::get),
        held: channel.held.values().map(held_to_proto).collect(),
        priority: Some(lane_to_proto(&channel.priority)),
        bulk: Some(lane_to_proto(&channel.bulk)),
        retracted: retracted.collect(),
        head: channel.head.as_ref().map(head_to_proto),
        fork,
        time_floor_ms: channel.time_floor.as_ms(),
        healing: channel.healing.iter().map(|build| build.get()).collect(),
        backfills: channel
            .backfills
            .values()
            .map(|asked| v1::Backfill {
                target: Some(target_to_proto(&asked.target)),
                keep_until_ms: asked.keep_until.as_ms(),
            })
            .collect(),
    }
    .encode_to_vec()
}

/// Reads a channel's state. What only a running sync knows (bytes left, pauses) starts afresh.
///
/// # Errors
/// [`StateError`] when the bytes are damaged or of another version.
pub fn decode_channel(bytes: &[u8]) -> Result<Channel, StateError> {
    let stored = v1::MirrorState::decode(bytes).map_err(StateError::Protobuf)?;
    if stored.schema != SCHEMA {
        return Err(StateError::Schema(stored.schema));
    }
    let id = ChannelId::new(&stored.channel).map_err(|_| StateError::Field("channel"))?;
    let mut channel = Channel::new(id);
    channel.live = Build::new(stored.live);
    for held in &stored.held {
        let held = held_from_proto(held)?;
        channel.held.insert(held.target.build, held);
    }
    channel.priority = lane_from_proto(stored.priority.as_ref())?;
    channel.bulk = lane_from_proto(stored.bulk.as_ref())?;
    for r in stored.retracted {
        let (first, last) = (build_of(r.first)?, build_of(r.last)?);
        channel.retracted.insert(
            r.number,
            Retracted {
                first,
                last,
                reason: r.reason,
            },
        );
    }
    channel.head = stored.head.as_ref().map(head_from_proto).transpose()?;
    channel.halt = stored.fork.as_ref().map(fork_from_proto).transpose()?;
    channel.time_floor = Timestamp::from_ms(stored.time_floor_ms);
    channel.healing = stored
        .healing
        .into_iter()
        .map(build_of)
        .collect::<Result<_, _>>()?;
    for asked in &stored.backfills {
        let target = target_from_proto(asked.target.as_ref())?;
        let keep_until = Timestamp::from_ms(asked.keep_until_ms);
        let asked = Backfill { target, keep_until };
        channel.backfills.insert(target.build, asked);
    }
    if channel
        .live
        .is_some_and(|live| !channel.held.contains_key(&live))
    {
        return Err(StateError::Field("live build"));
    }
    Ok(channel)
}

fn held_to_proto(held: &Held) -> v1::HeldBuild {
    v1::HeldBuild {
        target: Some(target_to_proto(&held.target)),
        since_ms: held.since.as_ms(),
        last_live_ms: held.last_live.map(Timestamp::as_ms),
        keep_until_ms: held.keep_until.map(Timestamp::as_ms),
        unconfirmed: !held.confirmed,
    }
}

fn held_from_proto(held: &v1::HeldBuild) -> Result<Held, StateError> {
    Ok(Held {
        target: target_from_proto(held.target.as_ref())?,
        since: Timestamp::from_ms(held.since_ms),
        last_live: held.last_live_ms.map(Timestamp::from_ms),
        keep_until: held.keep_until_ms.map(Timestamp::from_ms),
        confirmed: !held.unconfirmed,
    })
}

fn lane_to_proto(lane: &LaneState) -> v1::LaneProgress {
    v1::LaneProgress {
        sync: lane.sync.as_ref().map(|sync| v1::RunningSync {
            target: Some(target_to_proto(&sync.target)),
            started_ms: sync.started.as_ms(),
            retargets: u32::from(sync.retargets),
            failures: sync.failures,
        }),
        next: lane.next.as_ref().map(target_to_proto),
        open_sequence: lane.open.map_or(0, |open| open.sequence),
        open_build: lane.open.map_or(0, |open| open.build.get()),
    }
}

fn lane_from_proto(lane: Option<&v1::LaneProgress>) -> Result<LaneState, StateError> {
    let Some(lane) = lane else {
        return Ok(LaneState::default());
    };
    let sync = lane.sync.as_ref().map(|sync| {
        Ok(Sync {
            target: target_from_proto(sync.target.as_ref())?,
            started: Timestamp::from_ms(sync.started_ms),
            retargets: u8::try_from(sync.retargets).unwrap_or(u8::MAX),
            remaining_bytes: None,
            failures: sync.failures,
            retry_at: None,
        })
    });
    let open = (lane.open_sequence != 0).then(|| {
        Ok(OpenEvent {
            sequence: lane.open_sequence,
            build: build_of(lane.open_build)?,
        })
    });
    Ok(LaneState {
        sync: sync.transpose()?,
        next: lane
            .next
            .as_ref()
            .map(|next| target_from_proto(Some(next)))
            .transpose()?,
        open: open.transpose()?,
    })
}

fn target_to_proto(target: &Target) -> v1::TargetBuild {
    v1::TargetBuild {
        build: target.build.get(),
        base: target.base.map_or(0, Build::get),
        root: bytes_of(target.root),
        created_ms: target.created.as_ms(),
    }
}

fn target_from_proto(target: Option<&v1::TargetBuild>) -> Result<Target, StateError> {
    let target = target.ok_or(StateError::Field("target"))?;
    Ok(Target {
        build: build_of(target.build)?,
        base: Build::new(target.base),
        root: digest_of(&target.root)?,
        created: Timestamp::from_ms(target.created_ms),
    })
}

fn head_to_proto(head: &HeadSeen) -> v1::HeadSeen {
    v1::HeadSeen {
        build: head.build.get(),
        root: bytes_of(head.root),
        retractions: bytes_of(head.retractions),
        issued_ms: head.issued.as_ms(),
        expires_ms: head.expires.as_ms(),
    }
}

fn head_from_proto(head: &v1::HeadSeen) -> Result<HeadSeen, StateError> {
    Ok(HeadSeen {
        build: build_of(head.build)?,
        root: digest_of(&head.root)?,
        retractions: digest_of(&head.retractions)?,
        issued: Timestamp::from_ms(head.issued_ms),
        expires: Timestamp::from_ms(head.expires_ms),
    })
}

fn fork_from_proto(fork: &v1::Fork) -> Result<Halt, StateError> {
    Ok(Halt::Fork {
        build: build_of(fork.build)?,
        first: digest_of(&fork.first)?,
        second: digest_of(&fork.second)?,
    })
}

fn build_of(number: u64) -> Result<Build, StateError> {
    Build::new(number).ok_or(StateError::Field("build"))
}

fn digest_of(bytes: &[u8]) -> Result<Digest, StateError> {
    let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| StateError::Field("digest"))?;
    Ok(Digest::from_bytes(bytes))
}

fn bytes_of(digest: Digest) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(digest.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn full() -> Channel {
        let build = |n| Build::new(n).unwrap();
        let target = |n| Target {
            build: build(n),
            base: Build::new(n - 1),
            root: Digest::of(&[u8::try_from(n).unwrap()]),
            created: Timestamp::from_ms(1_000 + i64::try_from(n).unwrap()),
        };
        let mut channel = Channel::new(ChannelId::new("noble").unwrap());
        channel.live = Some(build(1));
        let held = Held {
            target: target(1),
            since: Timestamp::from_ms(5),
            last_live: Some(Timestamp::from_ms(6)),
            keep_until: None,
            confirmed: true,
        };
        channel.held.insert(build(1), held);
        channel.bulk.sync = Some(Sync {
            target: target(2),
            started: Timestamp::from_ms(7),
            retargets: 2,
            remaining_bytes: None,
            failures: 1,
            retry_at: None,
        });
        channel.bulk.next = Some(target(4));
        channel.bulk.open = Some(OpenEvent {
            sequence: 9,
            build: build(4),
        });
        let reason = "bad".to_owned();
        channel.retracted.insert(
            1,
            Retracted {
                first: build(3),
                last: build(3),
                reason,
            },
        );
        channel.head = Some(HeadSeen {
            build: build(4),
            root: target(4).root,
            retractions: Digest::of(b""),
            issued: Timestamp::from_ms(8),
            expires: Timestamp::from_ms(9),
        });
        let (first, second) = (Digest::of(b"a"), Digest::of(b"b"));
        channel.halt = Some(Halt::Fork {
            build: build(2),
            first,
            second,
        });
        channel.time_floor = Timestamp::from_ms(8);
        channel.healing.insert(build(1));
        channel
    }

    #[test]
    fn state_survives_a_round_trip() {
        let mut channel = full();
        assert_eq!(decode_channel(&encode_channel(&channel)).unwrap(), channel);
        let held = channel.held.values_mut().next().unwrap();
        (held.keep_until, held.confirmed) = (Some(Timestamp::from_ms(11)), false);
        let asked = Backfill {
            target: channel.bulk.next.unwrap(),
            keep_until: Timestamp::from_ms(12),
        };
        channel.backfills.insert(asked.target.build, asked);
        assert_eq!(decode_channel(&encode_channel(&channel)).unwrap(), channel);
        let cursor = Cursor {
            stream_created_ns: 1_795_305_030_000_000_007,
            delivered: 12,
        };
        assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
    }

    /// Bytes on mirrors' disks must decode for ever.
    #[test]
    fn golden_state_decodes() {
        let golden = include_str!("../tests/golden/mirror_state.hex").trim();
        let bytes = hex::decode(golden).unwrap();
        assert_eq!(decode_channel(&bytes).unwrap(), full());
        assert_eq!(
            hex::encode(encode_channel(&full())),
            golden,
            "raise the schema instead"
        );
    }

    #[test]
    fn damaged_state_is_refused() {
        let bytes = encode_channel(&full());
        for length in 0..bytes.len() {
            let decoded = decode_channel(&bytes[..length]);
            assert!(decoded.is_err() || decoded.unwrap() != full());
        }
        assert!(matches!(decode_channel(&[]), Err(StateError::Schema(0))));
    }
}
