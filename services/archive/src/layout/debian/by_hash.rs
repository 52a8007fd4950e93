//! Files in `by-hash` folders are named by their content.

use mirrorlog_core::manifest::Entry;
use mirrorlog_core::path::EntryPath;

use super::super::checksum::{Algorithm, Sum};
use super::Check;
use super::suite::{digest_fault, hash};
use crate::publish::{Faults, PublishError};

/// Checks all of them, or those that were touched.
pub(super) fn check(check: &Check<'_>, faults: &mut Faults) -> Result<(), PublishError> {
    match &check.since {
        None => {
            for found in check.view.below(b"dists/") {
                let (path, _entry) = found?;
                one(check, &path, faults)?;
            }
        }
        Some(since) => {
            for path in &since.touched {
                one(check, path, faults)?;
            }
        }
    }
    Ok(())
}

fn one(check: &Check<'_>, path: &EntryPath, faults: &mut Faults) -> Result<(), PublishError> {
    let Some(sum) = stated(path) else {
        return Ok(());
    };
    let (at, file) = match check.view.get(path)? {
        Some(Entry::File(file)) => (path.clone(), file),
        Some(Entry::Symlink { .. }) => match check.view.follow(path.as_bytes())? {
            Some(found) => found,
            None => return Ok(()), // a link to an index that went: by-hash keeps no promise for it
        },
        None => return Ok(()),
    };
    let found = match sum.algorithm {
        Algorithm::Sha256 => Some(file.digest.as_bytes().to_vec()),
        Algorithm::Md5 | Algorithm::Sha1 | Algorithm::Sha512 => {
            hash(check, &at, &file, sum.algorithm)?
        }
    };
    if found.as_ref() != Some(&sum.value) {
        faults.push(digest_fault(path.as_bytes(), &sum, found.as_deref()));
    }
    Ok(())
}

/// What `…/by-hash/SHA256/<hex>` says of its content.
fn stated(path: &EntryPath) -> Option<Sum> {
    let mut parts = path.as_bytes().rsplit(|&b| b == b'/');
    let name = std::str::from_utf8(parts.next()?).ok()?;
    let algorithm = parts.next()?;
    if parts.next()? != b"by-hash" {
        return None;
    }
    let of_name = |a: &Algorithm| a.release_field().as_bytes().eq_ignore_ascii_case(algorithm);
    Sum::parse(Algorithm::ALL.into_iter().find(of_name)?, name)
}
