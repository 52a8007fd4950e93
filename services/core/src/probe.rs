//! Bytes that no cache can have, for measuring: a mirror makes them from a nonce that the asker chose.
//!
//! They are SHA-256(nonce, 0, i) for i = 0, 1, …, each i as 8 bytes big-endian, one after the other.

use sha2::{Digest as _, Sha256};

/// Longest nonce, in bytes.
pub const NONCE_MAX_BYTES: usize = 64;
/// Bytes of one digest.
const BLOCK_BYTES: u64 = 32;

/// The bytes of one nonce.
#[derive(Clone, Debug)]
pub struct Probe(Sha256);

impl Probe {
    /// Takes 1 to 64 of `A-Z a-z 0-9 - . _ ~`; nothing else is a nonce.
    pub fn new(nonce: &[u8]) -> Option<Self> {
        let safe = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
        let fits = !nonce.is_empty() && nonce.len() <= NONCE_MAX_BYTES && nonce.iter().all(safe);
        fits.then(|| Self(Sha256::new_with_prefix(nonce).chain_update([0])))
    }

    /// Bytes `at..at + length`; `at` is a multiple of 32.
    pub fn part(&self, at: u64, length: u64) -> Vec<u8> {
        let blocks = at / BLOCK_BYTES..(at + length).div_ceil(BLOCK_BYTES);
        let digests = blocks.map(|i| self.0.clone().chain_update(i.to_be_bytes()).finalize());
        let mut bytes: Vec<u8> = digests.flatten().collect();
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        bytes
    }
}
