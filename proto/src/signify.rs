//! Text files of OpenBSD's signify(1): keys, signatures, signed messages.
//!
//! Line 1 is `untrusted comment: …`, line 2 base64 of fixed-size binary; an embedded signature is
//! followed by the message. Strict: exact sizes, canonical base64, nothing behind a key or a
//! detached signature. Everything that is written here is read by signify, and the reverse, but
//! for secret keys with a passphrase.
//!
//! | binary | bytes |
//! | --- | --- |
//! | public key | `Ed`, key number (8), ed25519 public key (32) |
//! | signature | `Ed`, key number (8), ed25519 signature (64) |
//! | secret key | `Ed`, `BK`, KDF rounds (4, big-endian; 0 is unencrypted), salt (16), first bytes of SHA-512 of the key (8), key number (8), ed25519 seed (32) and public key (32) |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirrorlog_core::limits::REPORT_MAX_BYTES;
use mirrorlog_core::sign::{KeyNumber, PublicKey, SecretKey, Signature, SignatureError};
use sha2::{Digest as _, Sha512};

use crate::field::clean_text;

/// Size of a signature's binary form.
pub const SIGNATURE_BYTES: usize = 74;
/// Size of a public key's binary form.
pub const PUBLIC_BYTES: usize = 42;
/// Longest comment: signify's buffer of 1024 bytes, less the end of the string.
pub const COMMENT_MAX_BYTES: usize = 1023;

const HEADER: &str = "untrusted comment: ";
const DEFAULT_COMMENT: &str = "mirrorlog";
const ALGORITHM: &[u8; 2] = b"Ed";
const KDF: &[u8; 2] = b"BK";
const SECRET_BYTES: usize = 104;

/// Why bytes are no file of signify's. Park.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignifyError {
    /// More bytes than any file of ours has.
    #[error("file has {size_bytes} bytes, at most {max_bytes} are allowed")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// The first line.
    #[error("first line is not 'untrusted comment: ' and a text in UTF-8")]
    Comment,
    /// The first line is longer than signify reads.
    #[error("comment is longer than {COMMENT_MAX_BYTES} bytes")]
    CommentTooLong,
    /// The second line.
    #[error("second line is no base64 of {expected_bytes} bytes, ended by a newline")]
    Base64 {
        /// Bytes that it must decode to.
        expected_bytes: usize,
    },
    /// Binary of another size.
    #[error("{found} bytes, {expected} are needed")]
    Size {
        /// Bytes needed.
        expected: usize,
        /// Bytes there.
        found: usize,
    },
    /// Not `Ed`.
    #[error("algorithm {0:02x?} is not ed25519")]
    Algorithm([u8; 2]),
    /// Not `BK`.
    #[error("key derivation {0:02x?} is not known here")]
    Derivation([u8; 2]),
    /// A secret key with a passphrase.
    #[error(
        "secret key is encrypted with a passphrase, which a service cannot type: \
         make one without ('mirrorlog key generate' or 'signify -G -n')"
    )]
    Encrypted,
    /// The secret key's bytes are not those that were written.
    #[error("checksum of the secret key does not match: the file is damaged")]
    Checksum,
    /// The public half inside a secret key.
    #[error("the two halves of the secret key do not belong together")]
    Halves,
    /// The public key.
    #[error(transparent)]
    Key(#[from] SignatureError),
    /// Bytes after the second line.
    #[error("{0} bytes too many after the second line")]
    Trailing(usize),
}

/// Writes a public key's file.
pub fn print_public(key: &PublicKey, comment: &str) -> String {
    print(comment, &public_to_bytes(key))
}

/// A public key's binary form.
pub fn public_to_bytes(key: &PublicKey) -> [u8; PUBLIC_BYTES] {
    let mut binary = [0; PUBLIC_BYTES];
    binary[..2].copy_from_slice(ALGORITHM);
    binary[2..10].copy_from_slice(&key.number().0);
    binary[10..].copy_from_slice(key.as_bytes());
    binary
}

/// Reads a public key's binary form.
///
/// # Errors
/// [`SignifyError::Size`], [`SignifyError::Algorithm`] or [`SignifyError::Key`].
pub fn public_from_bytes(bytes: &[u8]) -> Result<PublicKey, SignifyError> {
    let size = |_| SignifyError::Size {
        expected: PUBLIC_BYTES,
        found: bytes.len(),
    };
    let binary: [u8; PUBLIC_BYTES] = bytes.try_into().map_err(size)?;
    check_algorithm(&binary)?;
    Ok(PublicKey::new(
        KeyNumber(slice(&binary, 2)),
        &slice(&binary, 10),
    )?)
}

/// Reads a public key's file.
///
/// # Errors
/// [`SignifyError`] for any byte that is not as it must be.
pub fn parse_public(file: &[u8]) -> Result<PublicKey, SignifyError> {
    public_from_bytes(&parse_alone::<PUBLIC_BYTES>(file)?)
}

/// Writes a secret key's file, unencrypted: the caller sees to its mode.
pub fn print_secret(key: &SecretKey, comment: &str) -> String {
    let mut pair = [0; 64];
    pair[..32].copy_from_slice(key.seed());
    pair[32..].copy_from_slice(key.public().as_bytes());
    let mut binary = [0; SECRET_BYTES];
    binary[..2].copy_from_slice(ALGORITHM);
    binary[2..4].copy_from_slice(KDF);
    binary[24..32].copy_from_slice(&checksum(&pair));
    binary[32..40].copy_from_slice(&key.public().number().0);
    binary[40..].copy_from_slice(&pair);
    print(comment, &binary)
}

/// Reads a secret key's file.
///
/// # Errors
/// [`SignifyError::Encrypted`] for a key with a passphrase, other [`SignifyError`]s for any byte
/// that is not as it must be.
pub fn parse_secret(file: &[u8]) -> Result<SecretKey, SignifyError> {
    let binary: [u8; SECRET_BYTES] = parse_alone(file)?;
    check_algorithm(&binary)?;
    let derivation = slice(&binary, 2);
    if &derivation != KDF {
        return Err(SignifyError::Derivation(derivation));
    }
    if u32::from_be_bytes(slice(&binary, 4)) != 0 {
        return Err(SignifyError::Encrypted);
    }
    let pair: [u8; 64] = slice(&binary, 40);
    if slice(&binary, 24) != checksum(&pair) {
        return Err(SignifyError::Checksum);
    }
    let key = SecretKey::from_seed(KeyNumber(slice(&binary, 32)), &slice(&pair, 0));
    if key.public().as_bytes() != &slice::<32>(&pair, 32) {
        return Err(SignifyError::Halves);
    }
    Ok(key)
}

/// A signature's binary form.
pub fn signature_to_bytes(signature: &Signature) -> [u8; SIGNATURE_BYTES] {
    let mut binary = [0; SIGNATURE_BYTES];
    binary[..2].copy_from_slice(ALGORITHM);
    binary[2..10].copy_from_slice(&signature.key.0);
    binary[10..].copy_from_slice(&signature.bytes);
    binary
}

/// Reads a signature's binary form.
///
/// # Errors
/// [`SignifyError::Size`] or [`SignifyError::Algorithm`].
pub fn signature_from_bytes(bytes: &[u8]) -> Result<Signature, SignifyError> {
    let size = |_| SignifyError::Size {
        expected: SIGNATURE_BYTES,
        found: bytes.len(),
    };
    let binary: [u8; SIGNATURE_BYTES] = bytes.try_into().map_err(size)?;
    check_algorithm(&binary)?;
    Ok(Signature {
        key: KeyNumber(slice(&binary, 2)),
        bytes: slice(&binary, 10),
    })
}

/// Writes a detached signature's file.
pub fn print_signature(signature: &Signature, comment: &str) -> String {
    print(comment, &signature_to_bytes(signature))
}

/// Reads a detached signature's file.
///
/// # Errors
/// [`SignifyError`] for any byte that is not as it must be.
pub fn parse_signature(file: &[u8]) -> Result<Signature, SignifyError> {
    signature_from_bytes(&parse_alone::<SIGNATURE_BYTES>(file)?)
}

/// Writes a message behind its signature, as `signify -S -e` does.
pub fn print_embedded(signature: &Signature, message: &[u8], comment: &str) -> Vec<u8> {
    let mut file = print_signature(signature, comment).into_bytes();
    file.extend_from_slice(message);
    file
}

/// Reads a message behind its signature. Verifies nothing.
///
/// # Errors
/// [`SignifyError`] for any byte before the message that is not as it must be, and for a message
/// that is larger than any statement.
pub fn parse_embedded(file: &[u8]) -> Result<(Signature, &[u8]), SignifyError> {
    parse_embedded_within(file, REPORT_MAX_BYTES)
}

/// The same for what others sign, such as lists of packages, with another bound on the message.
///
/// # Errors
/// As [`parse_embedded`].
pub fn parse_embedded_within(
    file: &[u8],
    max_bytes: usize,
) -> Result<(Signature, &[u8]), SignifyError> {
    let (binary, message) = parse::<SIGNATURE_BYTES>(file)?;
    let size_bytes = message.len();
    if size_bytes > max_bytes {
        return Err(SignifyError::TooLarge {
            size_bytes,
            max_bytes,
        });
    }
    Ok((signature_from_bytes(&binary)?, message))
}

/// Two lines. A comment that signify would refuse is mended: one line, cut to its limit, not empty.
fn print(comment: &str, binary: &[u8]) -> String {
    let clean = clean_text(comment, COMMENT_MAX_BYTES);
    let comment = if clean.is_empty() {
        DEFAULT_COMMENT
    } else {
        &clean
    };
    format!("{HEADER}{comment}\n{}\n", STANDARD.encode(binary))
}

/// Splits a file into the binary of its second line and what follows.
fn parse<const N: usize>(file: &[u8]) -> Result<([u8; N], &[u8]), SignifyError> {
    let body = file
        .strip_prefix(HEADER.as_bytes())
        .ok_or(SignifyError::Comment)?;
    let end = body
        .iter()
        .take(COMMENT_MAX_BYTES + 1)
        .position(|&b| b == b'\n');
    let end = end.ok_or(match body.len() {
        ..=COMMENT_MAX_BYTES => SignifyError::Comment,
        _longer => SignifyError::CommentTooLong,
    })?;
    if end == 0 || std::str::from_utf8(&body[..end]).is_err() {
        return Err(SignifyError::Comment);
    }
    let rest = &body[end + 1..];
    let refused = SignifyError::Base64 { expected_bytes: N };
    let encoded_bytes = N.div_ceil(3) * 4;
    let Some((line, after)) = rest.split_at_checked(encoded_bytes) else {
        return Err(refused);
    };
    let Some(after) = after.strip_prefix(b"\n") else {
        return Err(refused);
    };
    let decoded = STANDARD
        .decode(line)
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    Ok((decoded.ok_or(refused)?, after))
}

fn parse_alone<const N: usize>(file: &[u8]) -> Result<[u8; N], SignifyError> {
    match parse(file)? {
        (binary, []) => Ok(binary),
        (_, rest) => Err(SignifyError::Trailing(rest.len())),
    }
}

fn check_algorithm<const N: usize>(binary: &[u8; N]) -> Result<(), SignifyError> {
    let algorithm = slice(binary, 0);
    if &algorithm == ALGORITHM {
        Ok(())
    } else {
        Err(SignifyError::Algorithm(algorithm))
    }
}

fn checksum(pair: &[u8; 64]) -> [u8; 8] {
    let digest: [u8; 64] = Sha512::digest(pair).into();
    slice(&digest, 0)
}

/// The `M` bytes from `at` on; the callers' offsets are constants inside their arrays.
fn slice<const M: usize>(bytes: &[u8], at: usize) -> [u8; M] {
    let mut out = [0; M];
    out.copy_from_slice(&bytes[at..at + M]);
    out
}
