//! Single fields, both ways. `field` is the name that an error gives.

use mirrorlog_core::id::{Build, ChannelId, Digest, Lane, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::limits::{
    ID_MAX_BYTES, MOUNT_MAX_BYTES, NAME_MAX_BYTES, NOTICES_MAX, PATH_MAX_BYTES, TEXT_MAX_BYTES,
};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::{Notice, OrderOutcome};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::view::{Part, View};

use crate::error::{DecodeError, FieldError};
use crate::v1;

/// The last millisecond of the year 9999, which every date format can still write.
const TIME_MAX_MS: i64 = 253_402_300_799_999;

/// Reads a channel's id.
///
/// # Errors
/// [`DecodeError::Field`] when it is none.
pub fn channel(field: &'static str, text: &str) -> Result<ChannelId, DecodeError> {
    check_length(field, text.len(), ID_MAX_BYTES)?;
    ChannelId::new(text).map_err(|source| DecodeError::field(field, source))
}

/// Reads a channel's id, the empty text standing for all channels.
///
/// # Errors
/// [`DecodeError::Field`] when it is neither.
pub fn optional_channel(field: &'static str, text: &str) -> Result<Option<ChannelId>, DecodeError> {
    if text.is_empty() {
        Ok(None)
    } else {
        channel(field, text).map(Some)
    }
}

/// Reads a mirror's id.
///
/// # Errors
/// [`DecodeError::Field`] when it is none.
pub fn mirror(field: &'static str, text: &str) -> Result<MirrorId, DecodeError> {
    check_length(field, text.len(), ID_MAX_BYTES)?;
    MirrorId::new(text).map_err(|source| DecodeError::field(field, source))
}

/// Reads a pool's id.
///
/// # Errors
/// [`DecodeError::Field`] when it is none.
pub fn pool(field: &'static str, text: &str) -> Result<PoolId, DecodeError> {
    check_length(field, text.len(), ID_MAX_BYTES)?;
    PoolId::new(text).map_err(|source| DecodeError::field(field, source))
}

/// Reads a mount.
///
/// # Errors
/// [`DecodeError::Field`] when it is none.
pub fn mount(field: &'static str, text: &str) -> Result<Mount, DecodeError> {
    check_length(field, text.len(), MOUNT_MAX_BYTES)?;
    Mount::new(text).map_err(|source| DecodeError::field(field, source))
}

/// Reads a build's number.
///
/// # Errors
/// [`DecodeError::Field`] for 0.
pub fn build(field: &'static str, number: u64) -> Result<Build, DecodeError> {
    Build::new(number).ok_or_else(|| DecodeError::field(field, FieldError::Zero))
}

/// Writes a build's number, 0 standing for none. [`Build::new`] reads it.
pub fn optional_build(build: Option<Build>) -> u64 {
    build.map_or(0, Build::get)
}

/// Reads a digest: 32 bytes.
///
/// # Errors
/// [`DecodeError::Field`] for any other length.
pub fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, DecodeError> {
    let exact = bytes.try_into().map(Digest::from_bytes);
    exact.map_err(|_| {
        DecodeError::field(
            field,
            FieldError::Size {
                expected: 32,
                found: bytes.len(),
            },
        )
    })
}

/// Reads a digest, no bytes standing for none.
///
/// # Errors
/// [`DecodeError::Field`] when it is neither.
pub fn optional_digest(field: &'static str, bytes: &[u8]) -> Result<Option<Digest>, DecodeError> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        digest(field, bytes).map(Some)
    }
}

/// Writes a digest.
pub fn digest_to_proto(digest: &Digest) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(digest.as_bytes())
}

/// Writes a digest, no bytes standing for none.
pub fn optional_digest_to_proto(digest: Option<&Digest>) -> bytes::Bytes {
    digest.map(digest_to_proto).unwrap_or_default()
}

/// Reads a path of a manifest.
///
/// # Errors
/// [`DecodeError::Field`] when it is none.
pub fn path(field: &'static str, bytes: &[u8]) -> Result<EntryPath, DecodeError> {
    check_length(field, bytes.len(), PATH_MAX_BYTES)?;
    EntryPath::new(bytes).map_err(|source| DecodeError::field(field, source))
}

/// Reads a time: milliseconds since 1970.
///
/// # Errors
/// [`DecodeError::Field`] before 1970 and after 9999.
pub fn time(field: &'static str, ms: i64) -> Result<Timestamp, DecodeError> {
    if (0..=TIME_MAX_MS).contains(&ms) {
        Ok(Timestamp::from_ms(ms))
    } else {
        Err(DecodeError::field(field, FieldError::Time(ms)))
    }
}

/// Reads a lane.
///
/// # Errors
/// [`DecodeError::Field`] when it is none.
pub fn lane(field: &'static str, value: i32) -> Result<Lane, DecodeError> {
    match v1::Lane::try_from(value) {
        Ok(v1::Lane::Bulk) => Ok(Lane::Bulk),
        Ok(v1::Lane::Priority) => Ok(Lane::Priority),
        Ok(v1::Lane::Unspecified) | Err(_) => {
            Err(DecodeError::field(field, FieldError::Unknown(value)))
        }
    }
}

/// Writes a lane.
pub fn lane_to_proto(lane: Lane) -> i32 {
    let lane = match lane {
        Lane::Bulk => v1::Lane::Bulk,
        Lane::Priority => v1::Lane::Priority,
    };
    lane.into()
}

/// Reads a layout.
///
/// # Errors
/// [`DecodeError::Field`] when it is none.
pub fn layout(field: &'static str, value: i32) -> Result<Layout, DecodeError> {
    match v1::Layout::try_from(value) {
        Ok(v1::Layout::Plain) => Ok(Layout::Plain),
        Ok(v1::Layout::Debian) => Ok(Layout::Debian),
        Ok(v1::Layout::Openbsd) => Ok(Layout::OpenBsd),
        Ok(v1::Layout::Unspecified) | Err(_) => {
            Err(DecodeError::field(field, FieldError::Unknown(value)))
        }
    }
}

/// Writes a layout.
pub fn layout_to_proto(layout: Layout) -> i32 {
    let layout = match layout {
        Layout::Plain => v1::Layout::Plain,
        Layout::Debian => v1::Layout::Debian,
        Layout::OpenBsd => v1::Layout::Openbsd,
    };
    layout.into()
}

/// Reads a view.
///
/// # Errors
/// [`DecodeError::Field`] for a view of a kind that is not known here.
pub fn view(field: &'static str, view: Option<v1::View>) -> Result<View, DecodeError> {
    match view.and_then(|view| view.kind) {
        Some(v1::view::Kind::All(v1::view::Everything {})) => Ok(View::All),
        Some(v1::view::Kind::Part(part)) => {
            let names = |names: Vec<String>| {
                let sorted = names.is_sorted_by(|a, b| a < b);
                check_order(field, sorted, "names are not sorted, or one comes twice")?;
                Ok(names.into_iter().collect())
            };
            let part = Part {
                architectures: names(part.architectures)?,
                components: names(part.components)?,
                include: names(part.include)?,
                exclude: names(part.exclude)?,
            };
            let view = View::new(part);
            let view = view.map_err(|source| DecodeError::field(field, source))?;
            // One view, one spelling.
            check_order(field, !view.is_all(), "a part without rules")?;
            Ok(view)
        }
        None => Err(DecodeError::field(field, FieldError::Missing)),
    }
}

/// Writes a view.
pub fn view_to_proto(view: &View) -> v1::View {
    let names = |names: &std::collections::BTreeSet<String>| names.iter().cloned().collect();
    let kind = match view {
        View::All => v1::view::Kind::All(v1::view::Everything {}),
        View::Part(part) => v1::view::Kind::Part(v1::view::Part {
            architectures: names(&part.architectures),
            components: names(&part.components),
            include: names(&part.include),
            exclude: names(&part.exclude),
        }),
    };
    v1::View { kind: Some(kind) }
}

/// Reads notices: few, short, each on one line.
///
/// # Errors
/// [`DecodeError::Field`] when they are not.
pub fn notices(field: &'static str, notices: Vec<v1::Notice>) -> Result<Vec<Notice>, DecodeError> {
    check_count(field, notices.len(), NOTICES_MAX)?;
    let read = |notice: v1::Notice| {
        if notice.package.is_empty() {
            return Err(DecodeError::field(field, FieldError::Missing));
        }
        let package = text(field, notice.package, NAME_MAX_BYTES)?;
        let text = text(field, notice.text, TEXT_MAX_BYTES)?;
        Ok(Notice { package, text })
    };
    notices.into_iter().map(read).collect()
}

/// Writes notices, cleaned as [`clean_text`] does.
pub fn notices_to_proto(notices: &[Notice]) -> Vec<v1::Notice> {
    let write = |notice: &Notice| v1::Notice {
        package: clean_text(&notice.package, NAME_MAX_BYTES),
        text: clean_text(&notice.text, TEXT_MAX_BYTES),
    };
    notices.iter().map(write).collect()
}

/// Reads how an order ended.
///
/// # Errors
/// [`DecodeError::Field`] when its text is too long or has control characters.
pub fn order_outcome(
    field: &'static str,
    outcome: v1::OrderOutcome,
) -> Result<OrderOutcome, DecodeError> {
    let text = text(field, outcome.text, TEXT_MAX_BYTES)?;
    Ok(OrderOutcome {
        id: outcome.id,
        ok: outcome.ok,
        text,
    })
}

/// Writes how an order ended, its text cleaned as [`clean_text`] does.
pub fn order_outcome_to_proto(outcome: &OrderOutcome) -> v1::OrderOutcome {
    v1::OrderOutcome {
        id: outcome.id,
        ok: outcome.ok,
        text: clean_text(&outcome.text, TEXT_MAX_BYTES),
    }
}

/// Makes a text fit to be written: control characters become spaces, what is longer than `max_bytes` is cut.
///
/// Every text for people is written so; a reader refuses it otherwise.
pub fn clean_text(text: &str, max_bytes: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(max_bytes));
    for character in text.chars() {
        let character = if character.is_control() {
            ' '
        } else {
            character
        };
        if clean.len() + character.len_utf8() > max_bytes {
            break;
        }
        clean.push(character);
    }
    clean
}

pub(crate) fn text(
    field: &'static str,
    text: String,
    max_bytes: usize,
) -> Result<String, DecodeError> {
    check_length(field, text.len(), max_bytes)?;
    if text.chars().any(char::is_control) {
        return Err(DecodeError::field(field, FieldError::Control));
    }
    Ok(text)
}

pub(crate) fn check_length(
    field: &'static str,
    size_bytes: usize,
    max_bytes: usize,
) -> Result<(), DecodeError> {
    if size_bytes > max_bytes {
        return Err(DecodeError::field(
            field,
            FieldError::TooLong {
                size_bytes,
                max_bytes,
            },
        ));
    }
    Ok(())
}

pub(crate) fn check_count(
    field: &'static str,
    found: usize,
    max: usize,
) -> Result<(), DecodeError> {
    if found > max {
        return Err(DecodeError::field(
            field,
            FieldError::TooMany { found, max },
        ));
    }
    Ok(())
}

pub(crate) fn check_order(
    field: &'static str,
    holds: bool,
    rule: &'static str,
) -> Result<(), DecodeError> {
    if holds {
        Ok(())
    } else {
        Err(DecodeError::field(field, FieldError::Order(rule)))
    }
}
