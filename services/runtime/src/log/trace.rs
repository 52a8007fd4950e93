//! Headers of the log's messages: the schema's version and the trace that a message belongs to.

use async_nats::HeaderMap;
use opentelemetry::Context;

use crate::trace::{context_of, trace_headers};

const SCHEMA_HEADER: &str = "Mirrorlog-Schema";
/// Version of the payloads' schema.
const SCHEMA: &str = "1";

/// Headers of a new message: schema version and the current span's context.
pub(super) fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(SCHEMA_HEADER, SCHEMA);
    for (name, value) in trace_headers() {
        headers.insert(name, value);
    }
    headers
}

/// The sender's context; an empty one when there is none.
pub(super) fn context(headers: Option<&HeaderMap>) -> Context {
    let pairs = headers.into_iter().flat_map(HeaderMap::iter);
    context_of(pairs.filter_map(|(name, values)| Some((name.as_ref(), values.last()?.as_str()))))
}
