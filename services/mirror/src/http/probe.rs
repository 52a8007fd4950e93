//! `/@/probe/<nonce>?bytes=N`: bytes that no cache can have, for measuring.
//!
//! The body is the first N bytes of SHA-256(nonce, 0, i) for i = 0, 1, …, each i as 8 bytes
//! big-endian: whoever chose the nonce can tell that the mirror made them.

use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, request};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::body::{chunked, set};
use super::refusal::Refusal;

/// Bytes when the request does not say.
const USUAL_BYTES: u64 = 64 * 1024;
/// Most bytes of one probe: stops a short request from costing much.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
const NONCE_MAX_BYTES: usize = 64;
const BLOCK_BYTES: u64 = 32;

/// Answers with as many bytes as were asked for, up to the limit.
///
/// # Errors
/// 400 for a nonce or a number that is none.
pub(super) fn answer(head: &request::Parts, nonce: &[u8]) -> Result<Response, Refusal> {
    let safe = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    if nonce.is_empty() || nonce.len() > NONCE_MAX_BYTES || !nonce.iter().all(safe) {
        return Err(Refusal::bad_request(
            "a nonce has 1 to 64 of A-Z, a-z, 0-9, '-', '.', '_', '~'",
        ));
    }
    let length = asked_bytes(head.uri.query().unwrap_or_default())?.min(MAX_BYTES);
    let mut headers = HeaderMap::new();
    set(&mut headers, CONTENT_TYPE, "application/octet-stream");
    set(&mut headers, CACHE_CONTROL, "no-store");
    set(&mut headers, CONTENT_LENGTH, length);
    let seed = Sha256::new_with_prefix(nonce).chain_update([0]);
    let body = chunked(length, move |at, length| Ok(part(&seed, at, length)));
    Ok((headers, body).into_response())
}

fn asked_bytes(query: &str) -> Result<u64, Refusal> {
    let mut fields = query.split('&').filter_map(|field| field.split_once('='));
    let Some((_, text)) = fields.find(|(name, _)| *name == "bytes") else {
        return Ok(USUAL_BYTES);
    };
    let bad = || Refusal::bad_request("bytes is a whole number");
    text.parse().map_err(|_| bad())
}

/// Bytes `at..at + length`; `at` is a multiple of the block's length.
fn part(seed: &Sha256, at: u64, length: u64) -> Bytes {
    let blocks = at / BLOCK_BYTES..(at + length).div_ceil(BLOCK_BYTES);
    let digests = blocks.map(|i| seed.clone().chain_update(i.to_be_bytes()).finalize());
    let mut bytes: Vec<u8> = digests.flatten().collect();
    bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    bytes.into()
}
