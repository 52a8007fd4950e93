//! An operator's order.

use mirrorlog_core::id::Build;
use mirrorlog_core::limits::TEXT_MAX_BYTES;
use mirrorlog_core::statement::{Order, OrderKind, ReplayFrom};

use crate::error::{DecodeError, FieldError};
use crate::field;
use crate::v1;
use crate::v1::order::replay::{From, LastAck};
use crate::v1::order::{Backfill, Drain, Kind, Replay, Resume, Verify};

pub(super) fn to_proto(order: &Order) -> v1::Order {
    v1::Order {
        id: order.id,
        mirror: order.mirror.to_string(),
        issued_ms: order.issued.as_ms(),
        kind: Some(kind_to_proto(&order.kind)),
    }
}

pub(super) fn from_proto(proto: v1::Order) -> Result<Order, DecodeError> {
    Ok(Order {
        id: proto.id,
        mirror: field::mirror("order.mirror", &proto.mirror)?,
        issued: field::time("order.issued_ms", proto.issued_ms)?,
        kind: kind_from_proto(proto.kind)?,
    })
}

pub(crate) fn kind_to_proto(kind: &OrderKind) -> Kind {
    match kind {
        OrderKind::Replay {
            channel,
            lane,
            from,
        } => Kind::Replay(Replay {
            channel: channel
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            lane: lane.map_or(v1::Lane::Unspecified.into(), field::lane_to_proto),
            from: Some(match from {
                ReplayFrom::Build(build) => From::Build(build.get()),
                ReplayFrom::Time(time) => From::TimeMs(time.as_ms()),
                ReplayFrom::LastAck => From::LastAck(LastAck {}),
            }),
        }),
        OrderKind::Verify { channel, build } => Kind::Verify(Verify {
            channel: channel
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            build: field::optional_build(*build),
        }),
        OrderKind::Backfill {
            channel,
            first,
            last,
        } => Kind::Backfill(Backfill {
            channel: channel.to_string(),
            first: first.get(),
            last: last.get(),
        }),
        OrderKind::Drain { reason } => Kind::Drain(Drain {
            reason: field::clean_text(reason, TEXT_MAX_BYTES),
        }),
        OrderKind::Resume => Kind::Resume(Resume {}),
    }
}

pub(crate) fn kind_from_proto(kind: Option<Kind>) -> Result<OrderKind, DecodeError> {
    match kind {
        Some(Kind::Replay(replay)) => replay_from_proto(replay),
        Some(Kind::Verify(verify)) => Ok(OrderKind::Verify {
            channel: field::optional_channel("order.verify.channel", &verify.channel)?,
            build: Build::new(verify.build),
        }),
        Some(Kind::Backfill(backfill)) => backfill_from_proto(&backfill),
        Some(Kind::Drain(drain)) => Ok(OrderKind::Drain {
            reason: field::text("order.drain.reason", drain.reason, TEXT_MAX_BYTES)?,
        }),
        Some(Kind::Resume(Resume {})) => Ok(OrderKind::Resume),
        None => Err(DecodeError::field("order.kind", FieldError::Missing)),
    }
}

fn backfill_from_proto(backfill: &Backfill) -> Result<OrderKind, DecodeError> {
    let first = field::build("order.backfill.first", backfill.first)?;
    let last = field::build("order.backfill.last", backfill.last)?;
    field::check_order(
        "order.backfill.last",
        first <= last,
        "the last build is before the first",
    )?;
    Ok(OrderKind::Backfill {
        channel: field::channel("order.backfill.channel", &backfill.channel)?,
        first,
        last,
    })
}

fn replay_from_proto(replay: Replay) -> Result<OrderKind, DecodeError> {
    let both = replay.lane == i32::from(v1::Lane::Unspecified);
    let lane = (!both)
        .then(|| field::lane("order.replay.lane", replay.lane))
        .transpose()?;
    let from = match replay.from {
        Some(From::Build(build)) => ReplayFrom::Build(field::build("order.replay.build", build)?),
        Some(From::TimeMs(ms)) => ReplayFrom::Time(field::time("order.replay.time_ms", ms)?),
        Some(From::LastAck(LastAck {})) => ReplayFrom::LastAck,
        None => return Err(DecodeError::field("order.replay.from", FieldError::Missing)),
    };
    let channel = field::optional_channel("order.replay.channel", &replay.channel)?;
    Ok(OrderKind::Replay {
        channel,
        lane,
        from,
    })
}
