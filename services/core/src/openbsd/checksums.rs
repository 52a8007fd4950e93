//! `SHA256` files: `SHA256 (name) = digest` a line, as sha256(1) prints it.

use crate::id::Digest;

/// Most lines that are taken; stops one file from filling memory.
pub const CHECKSUMS_MAX: usize = 1 << 20;
const DIGEST_BYTES: usize = 32;

/// Why a text is no `SHA256` file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumsError {
    /// A line of another form.
    #[error("line {line} is not 'SHA256 (name) = ' and a digest in hex or base64")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// More than any folder has.
    #[error("more than {CHECKSUMS_MAX} lines")]
    TooMany,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The file, relative to the list's folder.
    pub name: Box<[u8]>,
    /// Its content.
    pub digest: Digest,
}

/// Reads the lines of a `SHA256` file. Digests are hex, as those of the sets, or base64, as `pkg_sign -C`
/// has those of packages.
///
/// # Errors
/// [`ChecksumsError`] for the first line that is of another form.
pub fn checksums(text: &[u8]) -> Result<Vec<Checksum>, ChecksumsError> {
    let mut all = Vec::new();
    for (at, line) in text.split(|&b| b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        if all.len() == CHECKSUMS_MAX {
            return Err(ChecksumsError::TooMany);
        }
        all.push(parse(line).ok_or(ChecksumsError::Line { line: at + 1 })?);
    }
    Ok(all)
}

fn parse(line: &[u8]) -> Option<Checksum> {
    const BETWEEN: &[u8] = b") = ";
    let rest = line.strip_prefix(b"SHA256 (")?;
    let end = rest.windows(BETWEEN.len()).rposition(|at| at == BETWEEN)?;
    let (name, digest) = (&rest[..end], &rest[end + BETWEEN.len()..]);
    let digest = match digest.len() {
        64 => hex::decode(digest).ok()?.try_into().ok()?,
        44 => base64(digest)?,
        _other => return None,
    };
    (!name.is_empty()).then(|| Checksum {
        name: name.into(),
        digest: Digest::from_bytes(digest),
    })
}

/// 32 bytes from base64 (RFC 4648, section 4): 43 characters and the padding. Bits that say nothing must be 0.
fn base64(text: &[u8]) -> Option<[u8; DIGEST_BYTES]> {
    let text = text.strip_suffix(b"=")?;
    let mut bytes = [0; DIGEST_BYTES];
    let (mut bits, mut count, mut filled) = (0_u32, 0, 0);
    for &character in text {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _other => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            *bytes.get_mut(filled)? = (bits >> count) as u8;
            filled += 1;
            bits &= (1 << count) - 1;
        }
    }
    (filled == DIGEST_BYTES && bits == 0).then_some(bytes)
}
