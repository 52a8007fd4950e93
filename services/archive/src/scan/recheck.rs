//! Looks again, at the end of a scan: a tree that changed while it was read is no build.

use rayon::prelude::*;

use super::tree::{Kind, Stamp, Tree, look_at, split};
use super::walk::fault_or_error;
use crate::publish::{Fault, Faults, PublishError};
use crate::stat_cache::{Record, Records};

const WINDOW: usize = 8192;
const CHUNK: usize = 256;

/// Compares what `records` hold, folders and the files that were read, with their stamps from the scan.
pub(super) fn recheck(
    tree: &Tree,
    top: &Stamp,
    records: Records,
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let now = tree
        .look_at_top()
        .map_err(|e| PublishError::io(tree.path(), "read", e))?;
    if now != *top {
        faults.push(Fault::changed(b".", "names that came or went"));
    }
    let mut window = Vec::with_capacity(WINDOW);
    for record in records {
        let record =
            record.map_err(|e| PublishError::io(tree.path(), "compared with its scan", e))?;
        window.push(record);
        if window.len() == WINDOW {
            check(tree, &window, faults)?;
            window.clear();
        }
    }
    check(tree, &window, faults)
}

/// Compares one path with its stamp.
pub(crate) fn recheck_one(
    tree: &Tree,
    path: &[u8],
    stamp: &Stamp,
    immutable: bool,
) -> Result<Option<Fault>, PublishError> {
    match tree.look(path) {
        Ok((now, kind)) => Ok(differs(path, stamp, &now, &kind, immutable)),
        Err(error) => fault_or_error(tree, path, error).map(Some),
    }
}

fn check(tree: &Tree, window: &[Record], faults: &mut Faults) -> Result<(), PublishError> {
    let found: Result<Vec<Vec<Fault>>, PublishError> = window
        .par_chunks(CHUNK)
        .map(|chunk| check_chunk(tree, chunk))
        .collect();
    found?
        .into_iter()
        .flatten()
        .for_each(|fault| faults.push(fault));
    Ok(())
}

/// Neighbours share their folder, which is opened once.
fn check_chunk(tree: &Tree, chunk: &[Record]) -> Result<Vec<Fault>, PublishError> {
    let mut faults = Vec::new();
    let mut open: Option<(&[u8], std::os::fd::OwnedFd)> = None;
    for record in chunk {
        let path = record.key.strip_suffix(b"/").unwrap_or(&record.key);
        let (folder, name) = split(path);
        let look = match &open {
            Some((at, fd)) if *at == folder => look_at(fd, name),
            Some(_) | None => tree.folder(folder).and_then(|fd| {
                let look = look_at(&fd, name);
                open = Some((folder, fd));
                look
            }),
        };
        match look {
            Ok((now, kind)) => {
                faults.extend(differs(path, &record.stamp, &now, &kind, record.immutable))
            }
            Err(error) => faults.push(fault_or_error(tree, path, error)?),
        }
    }
    Ok(faults)
}

fn differs(path: &[u8], then: &Stamp, now: &Stamp, kind: &Kind, immutable: bool) -> Option<Fault> {
    if now.is_same(then, immutable) {
        return None;
    }
    let found = match kind {
        Kind::Folder => "names that came or went".to_owned(),
        Kind::File(_) if then.size_bytes != now.size_bytes => {
            format!("{} bytes, then {}", then.size_bytes, now.size_bytes)
        }
        Kind::File(_) => "a file written to".to_owned(),
        Kind::Symlink(_) | Kind::Special(_) => "another kind of file".to_owned(),
    };
    Some(Fault::changed(path, found))
}
