//! OpenBSD's packages: `+CONTENTS`, the first file of a gzipped tar, read from as few bytes as it takes.
//!
//! pkg_create ends a gzip member behind the packing list, and `signify -z` puts a signature and the digest of
//! every 64 KiB block into the comment of the first member's header.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use mirrorlog_core::openbsd::{PackingLines, PackingList, PackingListError};

use crate::Reaction;

/// Most bytes of a packing list; that of all of TeX has some 20 MB.
const LIST_MAX_BYTES: u64 = 64 << 20;
/// Longest line of one; stops one line from filling memory.
const LINE_MAX_BYTES: u64 = 64 << 10;
/// Most bytes of a gzip header; a signed package of 15 GiB has as many.
const HEADER_MAX_BYTES: u64 = 16 << 20;
const BUFFER_BYTES: usize = 32 << 10;
const CONTENTS: &[u8] = b"+CONTENTS";
/// A gzip header (RFC 1952, 2.3) with no optional field, of an unknown system.
const PLAIN_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Why a packing list could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The package could not be read, whatever is in it.
    #[error("package could not be read")]
    Read(#[source] io::Error),
    /// It does not begin as gzip does, or with a header of no end.
    #[error("package is not compressed with gzip")]
    NoGzip,
    /// It ends too early, or is damaged, or is no tar.
    #[error("package cannot be unpacked")]
    Damaged(#[source] io::Error),
    /// Its first file is another one.
    #[error("package begins with {found:?} in place of +CONTENTS")]
    NoContents {
        /// Name of the first file; empty when there is none.
        found: String,
    },
    /// The packing list is larger than any.
    #[error("+CONTENTS has {size_bytes} bytes, at most {LIST_MAX_BYTES} are allowed")]
    TooLarge {
        /// Its size, as the tar says.
        size_bytes: u64,
    },
    /// A line of it is longer than any.
    #[error("+CONTENTS has a line of more than {LINE_MAX_BYTES} bytes")]
    LineTooLong,
    /// It is there and makes no sense.
    #[error("+CONTENTS makes no sense")]
    List(#[from] PackingListError),
}

impl PackageError {
    /// [`Reaction::Retry`] when reading failed, [`Reaction::Park`] for what is wrong with the package itself.
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Read(_) => Reaction::Retry,
            Self::NoGzip
            | Self::Damaged(_)
            | Self::NoContents { .. }
            | Self::TooLarge { .. }
            | Self::LineTooLong
            | Self::List(_) => Reaction::Park,
        }
    }
}

/// Reads the packing list of a `.tgz`, and no further than that takes.
///
/// # Errors
/// [`PackageError::Read`] when `input` fails; the others say what is wrong with the package.
pub fn read_packing_list(input: impl Read) -> Result<PackingList, PackageError> {
    let mut source = Source {
        inner: input,
        failed: None,
    };
    let read = unpack(&mut source);
    match source.failed {
        Some(error) => Err(PackageError::Read(error)),
        None => read,
    }
}

fn unpack(source: impl Read) -> Result<PackingList, PackageError> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, source);
    pass_header(&mut input)?;
    let gzip = MultiGzDecoder::new(PLAIN_HEADER.chain(input));
    let mut tar = tar::Archive::new(gzip);
    let mut entries = tar.entries().map_err(PackageError::Damaged)?.raw(true);
    let none = || PackageError::NoContents {
        found: String::new(),
    };
    let first = entries.next().ok_or_else(none)?;
    let first = first.map_err(PackageError::Damaged)?;
    let name = first.path_bytes();
    if name.strip_prefix(b"./").unwrap_or(&name) != CONTENTS
        || !first.header().entry_type().is_file()
    {
        return Err(PackageError::NoContents {
            found: String::from_utf8_lossy(&name).into_owned(),
        });
    }
    if first.size() > LIST_MAX_BYTES {
        return Err(PackageError::TooLarge {
            size_bytes: first.size(),
        });
    }
    let size_bytes = first.size();
    read_lines(first, size_bytes)
}

fn read_lines(list: impl Read, size_bytes: u64) -> Result<PackingList, PackageError> {
    let mut list = BufReader::with_capacity(BUFFER_BYTES, list);
    let mut lines = PackingLines::default();
    let mut line = Vec::new();
    let mut read_bytes = 0;
    loop {
        line.clear();
        let mut bounded = list.by_ref().take(LINE_MAX_BYTES + 1);
        let taken = bounded.read_until(b'\n', &mut line);
        let taken = taken.map_err(PackageError::Damaged)? as u64;
        read_bytes += taken;
        if taken == 0 {
            break;
        }
        if taken > LINE_MAX_BYTES {
            return Err(PackageError::LineTooLong);
        }
        lines.add(line.strip_suffix(b"\n").unwrap_or(&line))?;
    }
    // A tar that is cut off just ends.
    if read_bytes != size_bytes {
        return Err(PackageError::Damaged(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(lines.finish()?)
}

/// Passes over the header of the first member. flate2 would do so, but takes no field of more than 64 KiB,
/// and a signed package of more than 60 MB has a longer comment.
fn pass_header(input: &mut impl BufRead) -> Result<(), PackageError> {
    const CHECKED: u8 = 1 << 1;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    let mut input = input.take(HEADER_MAX_BYTES);
    let mut fixed = [0; PLAIN_HEADER.len()];
    input.read_exact(&mut fixed).map_err(no_gzip)?;
    let flags = fixed[3];
    if fixed[..3] != PLAIN_HEADER[..3] || flags >= 1 << 5 {
        return Err(PackageError::NoGzip);
    }
    let mut length = [0; 2];
    if flags & EXTRA != 0 {
        input.read_exact(&mut length).map_err(no_gzip)?;
        let mut extra = vec![0; usize::from(u16::from_le_bytes(length))];
        input.read_exact(&mut extra).map_err(no_gzip)?;
    }
    for field in [NAME, COMMENT] {
        if flags & field != 0 {
            pass_text(&mut input)?;
        }
    }
    if flags & CHECKED != 0 {
        input.read_exact(&mut length).map_err(no_gzip)?;
    }
    Ok(())
}

/// Passes over a text that ends with a NUL, without keeping it.
fn pass_text(input: &mut impl BufRead) -> Result<(), PackageError> {
    loop {
        let buffer = input.fill_buf().map_err(no_gzip)?;
        if buffer.is_empty() {
            return Err(PackageError::NoGzip);
        }
        let end = buffer.iter().position(|&b| b == 0);
        let taken = end.map_or(buffer.len(), |end| end + 1);
        input.consume(taken);
        if end.is_some() {
            return Ok(());
        }
    }
}

/// A header that ends early. Where the input itself failed, [`Source`] knows.
fn no_gzip(_error: io::Error) -> PackageError {
    PackageError::NoGzip
}

/// Remembers when the input failed: decoders mix that up with faults of what they decode.
struct Source<R> {
    inner: R,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let told = io::Error::from(error.kind());
                self.failed = Some(error);
                Err(told)
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
