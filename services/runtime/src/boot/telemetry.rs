//! tracing to stderr, and to OpenTelemetry when configured.

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Longest that one export, or the last flush, may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_LEVEL: &str = "info";
const EXPORT_LEVEL: &str = "info";
/// Crates whose debug output is about themselves; a bare level does not turn it on.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=warn,reqwest=warn,rustls=warn,sled=warn,opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry_otlp=warn";

/// `[telemetry]` of every service.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// OTLP over gRPC, for example `http://127.0.0.1:4317`; nothing is exported without it.
    pub otlp: Option<String>,
    /// Level or filter, for example `debug` or `mirror=debug,info`.
    pub log: Option<String>,
}

/// Keeps telemetry going; dropped, it sends what is left.
#[derive(Debug)]
#[must_use = "telemetry ends when this is dropped"]
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
}

/// Sends tracing to stderr (people's text on a terminal, JSON otherwise) and spans to `config.otlp`.
///
/// `level`, from the command line, goes before `config.log`, that before `RUST_LOG`, else it is `info`.
/// Telemetry never stops a service: what does not work is said on stderr. With `otlp` it has to be
/// called inside a multi-threaded Tokio runtime, and the guard dropped inside it. A second call in one process changes nothing.
pub fn telemetry(service: &str, config: &TelemetryConfig, level: Option<&str>) -> TelemetryGuard {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let variable = std::env::var("RUST_LOG").ok();
    let wanted = level
        .or(config.log.as_deref())
        .or(variable.as_deref())
        .unwrap_or(DEFAULT_LEVEL);
    let (filter, bad_filter) = match filter_of(wanted) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT_LEVEL), Some(error)),
    };
    let (provider, bad_export) = match config
        .otlp
        .as_deref()
        .map(|endpoint| provider_for(service, endpoint))
    {
        Some(Ok(provider)) => (Some(provider), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let spans = provider.as_ref().map(|provider| {
        let tracer = provider.tracer("mirrorlog");
        tracing_opentelemetry::layer().with_tracer(tracer)
    });
    // A quiet command still has its place in the trace.
    let exported = filter_of(EXPORT_LEVEL).unwrap_or_else(|_| EnvFilter::new(EXPORT_LEVEL));
    let installed = tracing_subscriber::registry().with(stderr_layer().with_filter(filter));
    let installed = installed.with(spans.with_filter(exported)).try_init();
    if let Err(error) = installed {
        tracing::debug!(%error, "telemetry runs already");
    }
    if let Some(error) = bad_filter {
        tracing::warn!(
            error = crate::chain(&error),
            filter = wanted,
            "log filter is not valid, using {DEFAULT_LEVEL}"
        );
    }
    if let Some(error) = bad_export {
        tracing::warn!(
            error = crate::chain(&error),
            endpoint = config.otlp,
            "traces are not exported"
        );
    }
    TelemetryGuard { provider }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        let Some(provider) = self.provider.take() else {
            return;
        };
        if let Err(error) = provider.shutdown_with_timeout(EXPORT_TIMEOUT) {
            tracing::debug!(%error, "last traces were not exported");
        }
    }
}

fn filter_of(wanted: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let bare = wanted
        .parse::<tracing::level_filters::LevelFilter>()
        .is_ok();
    if bare {
        EnvFilter::try_new(format!("{wanted},{QUIET}"))
    } else {
        EnvFilter::try_new(wanted)
    }
}

fn stderr_layer() -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        layer.with_ansi(colours).with_target(false).boxed()
    } else {
        layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .boxed()
    }
}

fn provider_for(service: &str, endpoint: &str) -> Result<SdkTracerProvider, ExportError> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(ExportError::NoRuntime);
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic();
    let exporter = exporter
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder()
        .with_service_name(format!("mirrorlog-{service}"))
        .with_attribute(version);
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build())
}

#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("there is no Tokio runtime yet")]
    NoRuntime,
    #[error(transparent)]
    Build(#[from] ExporterBuildError),
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        assert!(filter_of("debug").unwrap().to_string().contains("h2=warn"));
        assert_eq!(
            filter_of("mirror=debug,info").unwrap().to_string(),
            "mirror=debug,info"
        );
        assert!(filter_of("mirror=loud").is_err());
    }

    #[test]
    fn what_cannot_be_exported_is_an_error_and_no_panic() {
        assert!(matches!(
            provider_for("test", "http://127.0.0.1:1"),
            Err(ExportError::NoRuntime)
        ));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        assert!(matches!(
            provider_for("test", "not a url"),
            Err(ExportError::Build(_))
        ));
    }
}
