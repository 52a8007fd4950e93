//! `/@/probe/<nonce>?bytes=N`: the first N bytes of [`Probe`]. Whoever chose the nonce can tell that the mirror
//! made them.

use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, request};
use axum::response::{IntoResponse as _, Response};
use mirrorlog_core::probe::Probe;

use super::body::{chunked, set};
use super::refusal::Refusal;

/// Bytes when the request does not say.
const USUAL_BYTES: u64 = 64 * 1024;
/// Most bytes of one probe: stops a short request from costing much.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Answers with as many bytes as were asked for, up to the limit.
///
/// # Errors
/// 400 for a nonce or a number that is none.
pub(super) fn answer(head: &request::Parts, nonce: &[u8]) -> Result<Response, Refusal> {
    let Some(probe) = Probe::new(nonce) else {
        return Err(Refusal::bad_request(
            "a nonce has 1 to 64 of A-Z, a-z, 0-9, '-', '.', '_', '~'",
        ));
    };
    let length = asked_bytes(head.uri.query().unwrap_or_default())?.min(MAX_BYTES);
    let mut headers = HeaderMap::new();
    set(&mut headers, CONTENT_TYPE, "application/octet-stream");
    set(&mut headers, CACHE_CONTROL, "no-store");
    set(&mut headers, CONTENT_LENGTH, length);
    let body = chunked(length, move |at, length| Ok(probe.part(at, length).into()));
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
