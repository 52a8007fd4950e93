//! Deltas: changes between two builds, in byte order of path.

use mirrorlog_core::limits::{FILE_MAX_BYTES, INLINE_DELTA_MAX_BYTES};
use mirrorlog_core::manifest::{Entry, FileEntry, Mode};
use mirrorlog_core::path::{EntryPath, resolve_target};
use mirrorlog_core::statement::{Change, Delta};
use mirrorlog_core::time::Mtime;
use prost::Message as _;

use crate::error::{DecodeError, FieldError};
use crate::field;
use crate::v1;
use crate::v1::change::{New, Removed};

/// Encodes changes, which are in strict byte order of path.
pub fn encode(delta: &[Change]) -> Vec<u8> {
    to_proto(delta).encode_to_vec()
}

/// Decodes a delta that could ride inside an event.
///
/// # Errors
/// A [`DecodeError`] for more than [`INLINE_DELTA_MAX_BYTES`], paths out of order, or an entry that
/// no manifest has.
pub fn decode(bytes: &[u8]) -> Result<Delta, DecodeError> {
    DecodeError::check_size("delta", bytes.len(), INLINE_DELTA_MAX_BYTES)?;
    let decoded = v1::Delta::decode(bytes);
    from_proto(decoded.map_err(|source| DecodeError::Malformed {
        what: "delta",
        source,
    })?)
}

/// As a message.
pub fn to_proto(delta: &[Change]) -> v1::Delta {
    v1::Delta {
        changes: delta.iter().map(change_to_proto).collect(),
    }
}

/// From a message.
///
/// # Errors
/// As [`decode`], the size apart.
pub fn from_proto(proto: v1::Delta) -> Result<Delta, DecodeError> {
    let mut delta = Delta::with_capacity(proto.changes.len());
    for change in proto.changes {
        let change = change_from_proto(change)?;
        let after = delta
            .last()
            .is_none_or(|last: &Change| last.path < change.path);
        field::check_order(
            "delta.changes.path",
            after,
            "a path is not after the one before it",
        )?;
        delta.push(change);
    }
    Ok(delta)
}

fn change_to_proto(change: &Change) -> v1::Change {
    let new = match &change.new {
        Some(Entry::File(file)) => New::File(v1::File {
            size_bytes: file.size_bytes,
            digest: field::digest_to_proto(&file.digest),
            executable: match file.mode {
                Mode::Plain => false,
                Mode::Executable => true,
            },
            mtime_s: file.mtime.as_seconds(),
        }),
        Some(Entry::Symlink { target }) => New::Symlink(bytes::Bytes::copy_from_slice(target)),
        None => New::Removed(Removed {}),
    };
    v1::Change {
        path: bytes::Bytes::copy_from_slice(change.path.as_bytes()),
        new: Some(new),
    }
}

fn change_from_proto(proto: v1::Change) -> Result<Change, DecodeError> {
    let path = field::path("delta.changes.path", &proto.path)?;
    let new = match proto.new {
        Some(New::File(file)) => Some(Entry::File(file_from_proto(&file)?)),
        Some(New::Symlink(target)) => Some(symlink_from_proto(&path, &target)?),
        Some(New::Removed(Removed {})) => None,
        None => return Err(DecodeError::field("delta.changes.new", FieldError::Missing)),
    };
    Ok(Change { path, new })
}

fn file_from_proto(file: &v1::File) -> Result<FileEntry, DecodeError> {
    let (found, max) = (file.size_bytes, FILE_MAX_BYTES);
    if found > max {
        let source = FieldError::TooHigh { found, max };
        return Err(DecodeError::field("delta.changes.file.size_bytes", source));
    }
    Ok(FileEntry {
        size_bytes: file.size_bytes,
        digest: field::digest("delta.changes.file.digest", &file.digest)?,
        mode: if file.executable {
            Mode::Executable
        } else {
            Mode::Plain
        },
        mtime: Mtime::from_seconds(file.mtime_s),
    })
}

fn symlink_from_proto(path: &EntryPath, target: &[u8]) -> Result<Entry, DecodeError> {
    let inside = resolve_target(path, target);
    inside.map_err(|source| DecodeError::field("delta.changes.symlink", source))?;
    Ok(Entry::Symlink {
        target: target.into(),
    })
}
