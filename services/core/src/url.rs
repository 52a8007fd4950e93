//! Paths in URLs: percent-decoded to bytes one way only, and encoded again.

use std::fmt::Write as _;

/// Why a request's path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlPathError {
    /// It is no path, or could be read in two ways.
    #[error("{0}")]
    Malformed(&'static str),
    /// Nothing has such a name.
    #[error("a doubled slash")]
    DoubledSlash,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Plain components with a slash between them; empty for the top.
    pub path: Vec<u8>,
    /// True when a slash ends it.
    pub slash: bool,
}

impl Asked {
    /// Decodes a path as it stands in a request.
    ///
    /// # Errors
    /// [`UrlPathError::Malformed`] for what is no path or could be read in two ways: a bad escape, an
    /// escaped slash, `.`, `..`, NUL, newline. [`UrlPathError::DoubledSlash`]: nothing has such a name.
    pub fn parse(raw: &str) -> Result<Self, UrlPathError> {
        let bad = |why| Err(UrlPathError::Malformed(why));
        let Some(raw) = raw.strip_prefix('/') else {
            return bad("the path does not begin with a slash");
        };
        let mut path = Vec::with_capacity(raw.len());
        let (inner, slash) = match raw.strip_suffix('/') {
            Some(inner) => (inner, true),
            None => (raw, raw.is_empty()),
        };
        if raw.is_empty() {
            return Ok(Self { path, slash });
        }
        for component in inner.split('/') {
            if component.is_empty() {
                return Err(UrlPathError::DoubledSlash);
            }
            let Some(decoded) = decode(component) else {
                return bad("a percent sign needs two hex digits");
            };
            match decoded.as_slice() {
                b"." | b".." => return bad("'.' or '..' as a component"),
                name if name.contains(&b'/') => return bad("an escaped slash"),
                name if name.iter().any(|&b| b == 0 || b == b'\n') => return bad("NUL or newline"),
                name => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name);
                }
            }
        }
        Ok(Self { path, slash })
    }

    /// Components below `/@`, mirrorlog's own name space; `None` outside of it.
    pub fn own(&self) -> Option<Vec<&[u8]>> {
        let mut components = self.path.split(|&b| b == b'/');
        (components.next() == Some(b"@")).then(|| components.collect())
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?,
            plain => plain,
        });
    }
    Some(decoded)
}

/// Percent-encodes one component: what RFC 3986 calls unreserved, and `+`, stay.
pub fn encode(name: &[u8]) -> String {
    encode_except(name, b"-._~+")
}

/// Percent-encodes a path, slashes apart; unlike [`encode`] also `+`, which some proxies take for a space.
pub fn encode_path(path: &[u8]) -> String {
    encode_except(path, b"-._~/")
}

fn encode_except(bytes: &[u8], plain: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(text, "%{byte:02X}").ok();
        }
    }
    text
}
