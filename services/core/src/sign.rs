//! ed25519 signatures (RFC 8032) with signify's eight-byte key numbers.

use std::collections::BTreeMap;
use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

/// signify's key number: tells which key signed, proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyNumber(pub [u8; 8]);

impl fmt::Display for KeyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a signature was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No trusted key has this number.
    #[error("signed by key {0}, which is not trusted here")]
    UnknownKey(KeyNumber),
    /// The key is known, the signature is wrong.
    #[error("signature by key {0} does not match")]
    Mismatch(KeyNumber),
    /// The bytes are no point on the curve.
    #[error("public key {0} is not valid")]
    BadKey(KeyNumber),
}

/// A detached signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which key signed.
    pub key: KeyNumber,
    /// 64 bytes of ed25519.
    pub bytes: [u8; 64],
}

/// A key to verify with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey {
    number: KeyNumber,
    key: VerifyingKey,
}

impl PublicKey {
    /// Takes 32 bytes of ed25519 public key.
    ///
    /// # Errors
    /// [`SignatureError::BadKey`] when they are no point on the curve.
    pub fn new(number: KeyNumber, bytes: &[u8; 32]) -> Result<Self, SignatureError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| SignatureError::BadKey(number))?;
        Ok(Self { number, key })
    }

    /// The key's number.
    pub fn number(&self) -> KeyNumber {
        self.number
    }

    /// The 32 bytes of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Checks `signature` over `message`, strictly (no small-order keys, no malleable signatures).
    ///
    /// # Errors
    /// [`SignatureError::UnknownKey`] when another key signed, [`SignatureError::Mismatch`] when it is wrong.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        if signature.key != self.number {
            return Err(SignatureError::UnknownKey(signature.key));
        }
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        let verified = self.key.verify_strict(message, &bytes);
        verified.map_err(|_| SignatureError::Mismatch(self.number))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.number)
    }
}

/// A key to sign with.
#[derive(Clone)]
pub struct SecretKey {
    number: KeyNumber,
    key: SigningKey,
}

impl SecretKey {
    /// Makes a key from 32 random bytes and a random number.
    pub fn from_seed(number: KeyNumber, seed: &[u8; 32]) -> Self {
        Self {
            number,
            key: SigningKey::from_bytes(seed),
        }
    }

    /// The 32 secret bytes, to be stored.
    pub fn seed(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// The key's public half.
    pub fn public(&self) -> PublicKey {
        PublicKey {
            number: self.number,
            key: self.key.verifying_key(),
        }
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature {
            key: self.number,
            bytes: self.key.sign(message).to_bytes(),
        }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.number)
    }
}

/// The keys that are trusted for one role.
#[derive(Clone, Debug, Default)]
pub struct TrustedKeys(BTreeMap<KeyNumber, PublicKey>);

impl TrustedKeys {
    /// Trusts these keys.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self(keys.into_iter().map(|key| (key.number(), key)).collect())
    }

    /// Checks `signature` over `message` with the key that it names.
    ///
    /// # Errors
    /// [`SignatureError::UnknownKey`] or [`SignatureError::Mismatch`].
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let key = self.0.get(&signature.key);
        key.ok_or(SignatureError::UnknownKey(signature.key))?
            .verify(message, signature)
    }

    /// True when no key is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, by number.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.values()
    }
}
