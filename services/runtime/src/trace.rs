//! One trace over processes: W3C trace context (<https://www.w3.org/TR/trace-context/>) in NATS
//! headers and gRPC metadata.
//!
//! Without OTLP there is no trace: nothing is sent, and what comes is passed over.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt as _;
use tonic::codegen::http;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The current span's context as headers: `traceparent`, and `tracestate` when there is one.
pub fn trace_headers() -> Vec<(String, String)> {
    let mut headers = Headers(Vec::new());
    let context = Span::current().context();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut headers)
    });
    headers.0.retain(|(_, value)| !value.is_empty());
    headers.0
}

/// The context that headers carry; an empty one when they carry none. Names in any case.
pub fn context_of<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Context {
    let owned = headers
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    extract(&Headers(owned.collect()))
}

/// The context that gRPC metadata carry.
pub fn context_of_metadata(metadata: &MetadataMap) -> Context {
    extract(&Metadata(metadata))
}

/// Makes `span` a child of the sender's. Does nothing for an empty context; call it before the span is entered.
pub fn with_parent(span: &Span, context: &Context) {
    if !context.span().span_context().is_valid() {
        return;
    }
    if let Err(error) = span.set_parent(context.clone()) {
        tracing::trace!(%error, "span has no parent");
    }
}

/// Puts the current span's context into every call of a gRPC client.
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceCalls;

impl Interceptor for TraceCalls {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in trace_headers() {
            let name = MetadataKey::<Ascii>::from_bytes(name.as_bytes());
            let value = value.parse::<MetadataValue<Ascii>>();
            if let (Ok(name), Ok(value)) = (name, value) {
                request.metadata_mut().insert(name, value);
            }
        }
        Ok(request)
    }
}

/// The span of one call that a gRPC server answers, a child of the caller's; for `tonic`'s `trace_fn`.
pub fn call_span(request: &http::Request<()>) -> Span {
    let span = tracing::debug_span!("grpc", method = request.uri().path());
    let names = ["traceparent", "tracestate"];
    let headers = names
        .iter()
        .filter_map(|name| Some((*name, request.headers().get(*name)?.to_str().ok()?)));
    with_parent(&span, &context_of(headers));
    span
}

fn extract(carrier: &dyn Extractor) -> Context {
    // From nothing: the receiver's own current context is no part of the sender's.
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), carrier)
    })
}

struct Headers(Vec<(String, String)>);

impl Injector for Headers {
    fn set(&mut self, key: &str, value: String) {
        self.0.push((key.to_owned(), value));
    }
}

impl Extractor for Headers {
    fn get(&self, key: &str) -> Option<&str> {
        let header = self
            .0
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(key));
        header.map(|(_, value)| value.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

struct Metadata<'a>(&'a MetadataMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn traced(work: impl FnOnce()) {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    }

    #[test]
    fn a_trace_goes_on_in_the_receiver() {
        traced(|| {
            let context = context_of([("Traceparent", PARENT)]);
            let span = tracing::info_span!("receive");
            with_parent(&span, &context);
            let sent = span.in_scope(trace_headers);
            let (name, value) = &sent[0];
            assert_eq!(name, "traceparent");
            assert!(
                value.starts_with("00-0af7651916cd43dd8448eb211c80319c-"),
                "{value}"
            );
            assert_ne!(value, PARENT);
        });
    }

    #[test]
    fn a_trace_goes_through_a_call() {
        traced(|| {
            let span = tracing::info_span!("call");
            let request = span.in_scope(|| TraceCalls.call(Request::new(())).unwrap());
            let received = context_of_metadata(request.metadata());
            let trace_id = span.context().span().span_context().trace_id();
            assert_eq!(received.span().span_context().trace_id(), trace_id);

            let header = request
                .metadata()
                .get("traceparent")
                .unwrap()
                .to_str()
                .unwrap();
            let request = http::Request::builder()
                .uri("/mirrorlog.v1.Fetcher/Pages")
                .header("traceparent", header);
            let answered = call_span(&request.body(()).unwrap());
            assert_eq!(
                answered.context().span().span_context().trace_id(),
                trace_id
            );
        });
    }

    #[test]
    fn bad_or_no_context_is_passed_over() {
        traced(|| {
            for value in [
                "",
                "00-0",
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            ] {
                assert!(
                    !context_of([("traceparent", value)])
                        .span()
                        .span_context()
                        .is_valid(),
                    "{value}"
                );
            }
            let span = tracing::info_span!("root");
            with_parent(&span, &Context::new());
            assert!(span.context().span().span_context().is_valid());
        });
        assert!(trace_headers().is_empty());
    }
}
