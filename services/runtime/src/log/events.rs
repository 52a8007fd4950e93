//! Events of the log: with acks through a durable consumer, or followed without.

use bytes::Bytes;
use mirrorlog_core::id::{ChannelId, Lane};
use mirrorlog_core::time::Timestamp;

use super::ack::AckHandle;
use super::durable::Durable;
use super::reader::{Read, Reader};
use super::{Position, StreamIdentity, trace};

/// Events of one consumer. Survives reconnects; recreates a lost consumer from its own floor.
pub struct Events {
    kind: Kind,
}

enum Kind {
    Durable(Box<Durable>),
    Follow(Box<Reader>),
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where it lies.
    pub position: Position,
    /// The lane of its subject.
    pub lane: Lane,
    /// The channel of its subject.
    pub channel: ChannelId,
    /// What was published.
    pub payload: Bytes,
    /// When the server stored it.
    pub published: Timestamp,
    /// W3C trace context of the publisher, to be set as parent.
    pub trace: opentelemetry::Context,
    /// To say what became of it.
    pub ack: AckHandle,
}

/// What a consumer says.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// The next event; may come twice and out of order.
    Event(Event),
    /// The stream was lost, made anew, or lost its end: cursors start over, and all that it has follows.
    StreamChanged(StreamIdentity),
}

impl Events {
    pub(super) fn follow(reader: Reader) -> Self {
        Self {
            kind: Kind::Follow(Box::new(reader)),
        }
    }

    pub(super) fn durable(durable: Durable) -> Self {
        Self {
            kind: Kind::Durable(Box::new(durable)),
        }
    }

    /// True once there was something to read from; stays so. A durable consumer does not tell.
    pub fn opened(&self) -> bool {
        match &self.kind {
            Kind::Durable(_) => true,
            Kind::Follow(reader) => reader.opened(),
        }
    }

    /// True once the newest event of a moment was read; stays so. A durable consumer does not tell.
    pub fn caught_up(&self) -> bool {
        match &self.kind {
            Kind::Durable(_) => false,
            Kind::Follow(reader) => reader.caught_up(),
        }
    }

    /// The next event; never ends. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Delivery {
        loop {
            let (raw, stream, ack) = match &mut self.kind {
                Kind::Durable(durable) => match durable.next().await {
                    Ok((raw, stream, ack)) => (raw, stream, ack),
                    Err(changed) => return Delivery::StreamChanged(changed),
                },
                Kind::Follow(reader) => match reader.next().await {
                    Read::Message(raw, stream) => (raw, stream, AckHandle::default()),
                    Read::Changed(changed) => return Delivery::StreamChanged(changed),
                },
            };
            let Some((lane, channel)) = parse_subject(&raw.message.subject) else {
                // Only ids pass our publishers: somebody else writes to the log.
                tracing::error!(subject = %raw.message.subject, sequence = raw.sequence, "no channel's subject; left out");
                if let Err(error) = ack.terminate().await {
                    tracing::warn!(%error, "cannot terminate");
                }
                continue;
            };
            return Delivery::Event(Event {
                position: Position {
                    stream,
                    sequence: raw.sequence,
                },
                lane,
                channel,
                published: raw.published,
                trace: trace::context(raw.message.headers.as_ref()),
                payload: raw.message.payload,
                ack,
            });
        }
    }
}

fn parse_subject(subject: &str) -> Option<(Lane, ChannelId)> {
    let (lane, channel) = subject.strip_prefix("mirrorlog.log.")?.split_once('.')?;
    let lane = Lane::ALL.into_iter().find(|known| known.as_str() == lane)?;
    Some((lane, ChannelId::new(channel).ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn subjects_give_lane_and_channel() {
        let (lane, channel) = parse_subject("mirrorlog.log.priority.noble-security").unwrap();
        assert_eq!((lane, channel.as_str()), (Lane::Priority, "noble-security"));
        for bad in [
            "mirrorlog.log.bulk.Noble",
            "mirrorlog.log.fast.noble",
            "mirrorlog.log.bulk",
            "other.log.bulk.noble",
        ] {
            assert!(parse_subject(bad).is_none(), "{bad}");
        }
    }
}
