//! Events: what travels on the log. Schema and trace context are in the message's headers.

use mirrorlog_core::limits::{EVENT_MAX_BYTES, INLINE_DELTA_MAX_BYTES};
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{DeltaSource, Head, Retraction, Snapshot};
use prost::Message as _;

use crate::delta;
use crate::error::{DecodeError, FieldError};
use crate::field;
use crate::signed::{OpenError, Signed};
use crate::v1;
use crate::v1::event::Kind;

/// What happened, as the archive signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventBody {
    /// A build.
    Snapshot(Signed),
    /// Builds taken back.
    Retraction(Signed),
}

/// One event of the log. Nothing in it may be believed before [`Event::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub body: EventBody,
    /// The channel's head after it; `None` when no unretracted build is left.
    pub head: Option<Signed>,
    /// Changes from the build's base to the build. Unsigned: a hint that the signed root proves or refutes.
    pub delta: DeltaSource,
}

/// What happened, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A build.
    Snapshot(Snapshot),
    /// Builds taken back.
    Retraction(Retraction),
}

impl EventBody {
    /// The signed statement.
    pub const fn signed(&self) -> &Signed {
        match self {
            Self::Snapshot(signed) | Self::Retraction(signed) => signed,
        }
    }

    /// Verifies and decodes the statement.
    ///
    /// # Errors
    /// As [`Signed::open`], and [`OpenError::Kind`] when it is not what the event says.
    pub fn open(&self, keys: &TrustedKeys) -> Result<Opened, OpenError> {
        match self {
            Self::Snapshot(signed) => signed.open_snapshot(keys).map(Opened::Snapshot),
            Self::Retraction(signed) => signed.open_retraction(keys).map(Opened::Retraction),
        }
    }
}

impl Event {
    /// Encodes the event, leaving out a delta of more than [`INLINE_DELTA_MAX_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        let kind = match &self.body {
            EventBody::Snapshot(signed) => Kind::Snapshot(signed.to_proto()),
            EventBody::Retraction(signed) => Kind::Retraction(signed.to_proto()),
        };
        let delta = match &self.delta {
            DeltaSource::Inline(delta) => Some(delta::to_proto(delta)),
            DeltaSource::Pages => None,
        };
        v1::Event {
            kind: Some(kind),
            head: self.head.as_ref().map(Signed::to_proto),
            delta: delta.filter(|delta| delta.encoded_len() <= INLINE_DELTA_MAX_BYTES),
        }
        .encode_to_vec()
    }

    /// Decodes an event. Verifies nothing.
    ///
    /// # Errors
    /// A [`DecodeError`] for more than [`EVENT_MAX_BYTES`], an event of no known kind, a delta that is
    /// too large, out of order or beside a retraction.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        DecodeError::check_size("event", bytes.len(), EVENT_MAX_BYTES)?;
        let decoded = v1::Event::decode(bytes);
        let proto = decoded.map_err(|source| DecodeError::Malformed {
            what: "event",
            source,
        })?;
        let body = match proto.kind {
            Some(Kind::Snapshot(signed)) => EventBody::Snapshot(Signed::from_proto(signed)?),
            Some(Kind::Retraction(signed)) => EventBody::Retraction(Signed::from_proto(signed)?),
            None => return Err(DecodeError::field("event.kind", FieldError::Missing)),
        };
        let head = proto.head.map(Signed::from_proto).transpose()?;
        let delta = match (&body, proto.delta) {
            (_, None) => DeltaSource::Pages,
            (EventBody::Retraction(_), Some(_)) => {
                return Err(DecodeError::field("event.delta", FieldError::Unexpected));
            }
            (EventBody::Snapshot(_), Some(delta)) => {
                field::check_length("event.delta", delta.encoded_len(), INLINE_DELTA_MAX_BYTES)?;
                DeltaSource::Inline(delta::from_proto(delta)?)
            }
        };
        Ok(Self { body, head, delta })
    }

    /// Verifies and decodes the statement and the head, which must speak of one channel.
    ///
    /// # Errors
    /// An [`OpenError`] of either.
    pub fn open(&self, keys: &TrustedKeys) -> Result<(Opened, Option<Head>), OpenError> {
        let opened = self.body.open(keys)?;
        let head = self
            .head
            .as_ref()
            .map(|head| head.open_head(keys))
            .transpose()?;
        let channel = match &opened {
            Opened::Snapshot(snapshot) => &snapshot.channel,
            Opened::Retraction(retraction) => &retraction.channel,
        };
        let same = head.as_ref().is_none_or(|head| &head.channel == channel);
        field::check_order("event.head", same, "the head is of another channel")?;
        Ok((opened, head))
    }
}

/// Name under which the log keeps an event once: `<channel>/<build>/<start of the statement's digest>`
/// for a snapshot, `<channel>/r<sequence>/…` for a retraction.
pub fn message_id(opened: &Opened, signed: &Signed) -> String {
    let mut digest = signed.digest().to_hex();
    digest.truncate(16);
    match opened {
        Opened::Snapshot(snapshot) => format!("{}/{}/{digest}", snapshot.channel, snapshot.build),
        Opened::Retraction(taken) => format!("{}/r{}/{digest}", taken.channel, taken.sequence),
    }
}
