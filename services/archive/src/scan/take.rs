//! Makes entries of what a walk found; files are read into the store.

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{Entry, FileEntry, Mode};
use mirrorlog_core::path::{EntryPath, resolve_target};
use mirrorlog_core::time::Mtime;
use runtime::store::Batch;

use super::ScanInput;
use super::tree::Kind;
use super::walk::{Item, fault_or_error};
use crate::publish::{Fault, PublishError, Rule};

/// What became of an item.
pub(crate) enum Found {
    Folder,
    Entry { entry: Entry, read: bool },
    Fault(Fault),
}

/// Makes the entry of one item; a file is read.
pub(crate) fn take(
    input: &ScanInput<'_>,
    batch: &Batch,
    item: &Item,
) -> Result<Found, PublishError> {
    match &item.kind {
        Kind::Folder => Ok(Found::Folder),
        Kind::Special(what) => {
            let fault = Fault::new(
                item.path.as_bytes(),
                Rule::SpecialFile,
                "a file, folder or symlink",
                *what,
            );
            Ok(Found::Fault(fault))
        }
        Kind::Symlink(target) => Ok(symlink(&item.path, target)),
        Kind::File(mode) => read(input, batch, item, *mode),
    }
}

fn symlink(path: &EntryPath, target: &[u8]) -> Found {
    match resolve_target(path, target) {
        Ok(_inside) => Found::Entry {
            entry: Entry::Symlink {
                target: target.into(),
            },
            read: false,
        },
        Err(error) => {
            let found = format!("{error}: {}", String::from_utf8_lossy(target));
            Found::Fault(Fault::new(
                path.as_bytes(),
                Rule::Symlink,
                "a relative target inside the tree",
                found,
            ))
        }
    }
}

fn read(
    input: &ScanInput<'_>,
    batch: &Batch,
    item: &Item,
    mode: Mode,
) -> Result<Found, PublishError> {
    let path = item.path.as_bytes();
    let (source, stamp) = match input.tree.file(path) {
        Ok(opened) => opened,
        Err(error) => return fault_or_error(input.tree, path, error).map(Found::Fault),
    };
    if stamp != item.stamp {
        return Ok(Found::Fault(Fault::changed(
            path,
            "a file with another size or time",
        )));
    }
    let (digest, size_bytes) = input.workspace.take_in(batch, &item.path, &source)?;
    if size_bytes != stamp.size_bytes {
        return Ok(Found::Fault(Fault::changed(
            path,
            format!("{size_bytes} bytes"),
        )));
    }
    input.counters.read(size_bytes);
    Ok(Found::Entry {
        entry: file(item, digest, mode),
        read: true,
    })
}

pub(super) fn file(item: &Item, digest: Digest, mode: Mode) -> Entry {
    let mtime = Mtime::from_seconds(item.stamp.mtime_ns.div_euclid(1_000_000_000));
    Entry::File(FileEntry {
        size_bytes: item.stamp.size_bytes,
        digest,
        mode,
        mtime,
    })
}
