//! W3C trace context in message headers, so that one trace follows a build through the log.

use async_nats::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Version of the payloads' schema.
const SCHEMA: &str = "1";
const SCHEMA_HEADER: &str = "Mirrorlog-Schema";

/// Headers of a new message: schema version and the current span's context.
pub(super) fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(SCHEMA_HEADER, SCHEMA);
    let context = tracing::Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut Carrier(&mut headers));
    headers
}

/// The sender's context; an empty one when there is none.
pub(super) fn context(headers: Option<&HeaderMap>) -> Context {
    headers.map_or_else(Context::new, |headers| {
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Carried(headers))
    })
}

struct Carrier<'a>(&'a mut HeaderMap);

impl Injector for Carrier<'_> {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key, value.as_str());
    }
}

struct Carried<'a>(&'a HeaderMap);

impl Extractor for Carried<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(async_nats::HeaderValue::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_ref()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::TraceContextExt as _;

    #[test]
    fn a_traceparent_is_read() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
        let context = context(Some(&headers));
        let span = context.span();
        assert_eq!(
            span.span_context().trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert!(span.span_context().is_remote());
    }

    #[test]
    fn no_header_gives_no_parent() {
        assert!(!context(None).span().span_context().is_valid());
        assert!(!context(Some(&headers())).span().span_context().is_valid());
    }
}
