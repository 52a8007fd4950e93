//! The files that an index names.

use std::io;

use mirrorlog_core::manifest::Entry;
use mirrorlog_core::path::EntryPath;

use super::super::index::{Named, Paragraph, paragraphs, read_index};
use super::super::unpack::Unpacked;
use super::Check;
use super::suite::{Index, compare};
use crate::publish::{Fault, Faults, PublishError, Rule};

/// Reads an index and checks each file that it names.
pub(super) fn check(check: &Check<'_>, index: &Index) -> Result<Faults, PublishError> {
    let mut faults = Faults::default();
    let known = index.known;
    // An index that stays, over files that stay: checked when it was published.
    if known
        && check
            .since
            .as_ref()
            .is_some_and(|since| since.lost.is_empty())
    {
        return Ok(faults);
    }
    let mut failure = None;
    let read = unpack(check, index, |input| {
        read_index(index.kind, input, |named| {
            one(check, &named, known, &mut faults).map_err(|error| {
                failure = Some(error);
                io::Error::other("stopped")
            })
        })
    });
    if let Some(error) = failure {
        return Err(error);
    }
    let path = index.path.as_bytes();
    match read? {
        Unpacking::Whole { size_bytes, digest } => {
            if let Some(stated) = &index.unpacked
                && let Some(sha256) = stated.sha256()
                && (sha256 != digest || stated.size_bytes != size_bytes)
            {
                let expected = format!(
                    "to unpack to {} bytes of SHA256 {sha256}",
                    stated.size_bytes
                );
                faults.push(Fault::new(
                    path,
                    Rule::Digest,
                    expected,
                    format!("{size_bytes} bytes of {digest}"),
                ));
            }
        }
        Unpacking::Broken(text) => faults.push(Fault::new(path, Rule::Malformed, "an index", text)),
        Unpacking::Gone => faults.push(Fault::changed(path, "nothing")),
    }
    Ok(faults)
}

/// How reading an index ended.
enum Unpacking {
    Whole {
        size_bytes: u64,
        digest: mirrorlog_core::id::Digest,
    },
    Broken(String),
    Gone,
}

/// Unpacks an index and has it parsed.
fn unpack(
    check: &Check<'_>,
    index: &Index,
    parse: impl FnOnce(&mut Unpacked) -> io::Result<()>,
) -> Result<Unpacking, PublishError> {
    let Some(content) = check
        .view
        .workspace
        .content(check.tree, &index.path, &index.file)?
    else {
        return Ok(Unpacking::Gone);
    };
    let mut unpacked = match index.packing.unpack(content) {
        Ok(unpacked) => unpacked,
        Err(error) => return Ok(Unpacking::Broken(error.to_string())),
    };
    match parse(&mut unpacked) {
        Ok(()) => {
            let (size_bytes, digest) = unpacked.finish();
            Ok(Unpacking::Whole { size_bytes, digest })
        }
        Err(error) => Ok(Unpacking::Broken(error.to_string())),
    }
}

/// Reads the wanted fields of each paragraph. One that cannot be read to its end was a fault before.
pub(crate) fn read_paragraphs(
    check: &Check<'_>,
    index: &Index,
    wanted: &[&str],
    each: &mut dyn FnMut(&Paragraph),
) -> Result<(), PublishError> {
    let read = unpack(check, index, |input| {
        paragraphs(input, wanted, |_line, paragraph| {
            each(paragraph);
            Ok(())
        })
    })?;
    match read {
        Unpacking::Whole { .. } | Unpacking::Broken(_) | Unpacking::Gone => Ok(()),
    }
}

fn one(
    check: &Check<'_>,
    named: &Named,
    known: bool,
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let Ok(path) = EntryPath::new(&named.path) else {
        let found = "a path that leads out or is malformed";
        faults.push(Fault::new(
            &named.path,
            Rule::Path,
            "a path inside the archive",
            found,
        ));
        return Ok(());
    };
    // Symlinks did not move (or all is checked), so only paths that lost their content matter.
    if known
        && check
            .since
            .as_ref()
            .is_some_and(|since| !since.lost.contains(&path))
    {
        return Ok(());
    }
    let (at, file) = match check.view.get(&path)? {
        Some(Entry::File(file)) => (path, file),
        Some(Entry::Symlink { .. }) | None => match check.view.follow(path.as_bytes())? {
            Some(found) => found,
            None => {
                let expected = format!(
                    "a file of {} bytes, as an index says",
                    named.stated.size_bytes
                );
                faults.push(Fault::new(
                    path.as_bytes(),
                    Rule::Missing,
                    expected,
                    "nothing",
                ));
                return Ok(());
            }
        },
    };
    let stated = &named.stated;
    // The content of a large pool is proved by SHA-256; reading all of it again for a second digest proves no more.
    if let Some(sha256) = stated.sha256() {
        let good = stated.size_bytes == file.size_bytes && sha256 == file.digest;
        if good {
            return Ok(());
        }
    }
    compare(check, &named.path, &at, &file, stated, faults).map(|_good| ())
}
