//! ed25519 signatures (RFC 8032) with signify's eight-byte key numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use crate::limits::{SIGNATURES_MAX, THRESHOLD_MAX};

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
    /// The signature is right, and one is not enough.
    #[error("one signature is not enough, {0} keys must sign")]
    Alone(Threshold),
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

/// How many keys of a role must have signed: 1 at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Threshold(u32);

impl Threshold {
    /// Any one key.
    pub const ONE: Self = Self(1);

    /// Takes a number of keys; `None` for 0, under which anything would pass, and above [`THRESHOLD_MAX`].
    pub const fn new(keys: u32) -> Option<Self> {
        match keys {
            1..=THRESHOLD_MAX => Some(Self(keys)),
            _none_or_too_many => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// True when `keys` keys are enough.
    pub fn is_met_by(self, keys: usize) -> bool {
        u32::try_from(keys).unwrap_or(u32::MAX) >= self.0
    }
}

impl Default for Threshold {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why signatures under one statement were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// More than anything honest has.
    #[error(
        "{found} signatures, at most {SIGNATURES_MAX} are looked at: take away those by keys that do not count"
    )]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// Too few keys have signed.
    #[error("{0}")]
    TooFew(Tally),
}

/// Who has signed a statement, of those who may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How many keys must have signed.
    pub needed: Threshold,
    /// The keys that have, each key once whatever its numbers and however often it signed.
    pub signed: BTreeSet<KeyNumber>,
    /// Other keys that may.
    pub open: BTreeSet<KeyNumber>,
    /// Signatures that do not count.
    pub refused: Vec<SignatureError>,
}

impl Tally {
    /// How many more keys must sign.
    pub fn missing(&self) -> u32 {
        let signed = u32::try_from(self.signed.len()).unwrap_or(u32::MAX);
        self.needed.get().saturating_sub(signed)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (needed, missing) = (self.needed, self.missing());
        write!(f, "{needed} of its keys must sign, {}", self.signed.len())?;
        if !self.signed.is_empty() {
            write!(f, " ({})", key_list(&self.signed))?;
        }
        f.write_str(" did")?;
        if missing > 0 {
            write!(f, ": get {missing} more of {}", key_list(&self.open))?;
        }
        if !self.refused.is_empty() {
            let refused: Vec<String> = self.refused.iter().map(ToString::to_string).collect();
            write!(f, " (not counted: {})", refused.join("; "))?;
        }
        Ok(())
    }
}

/// Key numbers for messages, in order.
pub fn key_list<'a>(keys: impl IntoIterator<Item = &'a KeyNumber>) -> String {
    let keys: Vec<String> = keys.into_iter().map(ToString::to_string).collect();
    if keys.is_empty() {
        "no key".to_owned()
    } else {
        keys.join(", ")
    }
}

/// The keys that are trusted for one role, and how many of them must have signed.
#[derive(Clone, Debug, Default)]
pub struct TrustedKeys {
    keys: BTreeMap<KeyNumber, PublicKey>,
    threshold: Threshold,
}

impl TrustedKeys {
    /// Trusts any one of these keys.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self::with_threshold(keys, Threshold::ONE)
    }

    /// Trusts `threshold` of these keys together.
    pub fn with_threshold(keys: impl IntoIterator<Item = PublicKey>, threshold: Threshold) -> Self {
        let keys = keys.into_iter().map(|key| (key.number(), key)).collect();
        Self { keys, threshold }
    }

    /// Checks `signature` over `message` with the key that it names.
    ///
    /// # Errors
    /// [`SignatureError::UnknownKey`] or [`SignatureError::Mismatch`]; [`SignatureError::Alone`] where several keys
    /// must sign.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let mut tally = self.count(message, std::slice::from_ref(signature));
        match tally.refused.pop() {
            Some(refused) => Err(refused),
            None if tally.missing() > 0 => Err(SignatureError::Alone(self.threshold)),
            None => Ok(()),
        }
    }

    /// Checks that enough keys have signed `message`.
    ///
    /// # Errors
    /// [`ThresholdError`]: who has signed, and how many more must.
    pub fn verify_all(
        &self,
        message: &[u8],
        signatures: &[Signature],
    ) -> Result<(), ThresholdError> {
        let tally = self.tally(message, signatures)?;
        if tally.missing() > 0 {
            return Err(ThresholdError::TooFew(tally));
        }
        Ok(())
    }

    /// Tells who has signed `message`.
    ///
    /// # Errors
    /// [`ThresholdError::TooMany`] before any signature is looked at.
    pub fn tally(&self, message: &[u8], signatures: &[Signature]) -> Result<Tally, ThresholdError> {
        if signatures.len() > SIGNATURES_MAX {
            let found = signatures.len();
            return Err(ThresholdError::TooMany { found });
        }
        Ok(self.count(message, signatures))
    }

    /// The one place where signatures are counted. What counts are keys: neither signatures (a key may sign twice) nor
    /// numbers (a key may be listed under two of them).
    fn count(&self, message: &[u8], signatures: &[Signature]) -> Tally {
        let mut signed = BTreeMap::new();
        let mut refused = Vec::new();
        for signature in signatures {
            let key = self.keys.get(&signature.key);
            let key = key.ok_or(SignatureError::UnknownKey(signature.key));
            match key.and_then(|key| key.verify(message, signature).map(|()| key)) {
                Ok(key) => {
                    signed.entry(key.as_bytes()).or_insert(key.number());
                }
                Err(error) => refused.push(error),
            }
        }
        let open = self.keys.values();
        let open = open.filter(|key| !signed.contains_key(key.as_bytes()));
        let open = open.map(PublicKey::number).collect();
        Tally {
            needed: self.threshold,
            signed: signed.into_values().collect(),
            open,
            refused,
        }
    }

    /// How many keys must have signed.
    pub fn threshold(&self) -> Threshold {
        self.threshold
    }

    /// True when no key is trusted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys, by number.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys.values()
    }
}

#[cfg(test)]
mod tests;
