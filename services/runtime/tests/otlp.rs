//! Spans reach an OTLP collector, under the trace of whoever caused them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use runtime::boot::{GrpcLimits, Health, TelemetryConfig, serve_grpc, telemetry};
use runtime::trace::{context_of, trace_headers, with_parent};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).await.unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_the_collector_before_the_guard_is_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut received) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let collecting = tokio::spawn({
        let stop = stop.clone();
        let routes = Routes::new(TraceServiceServer::new(Collector(sender)));
        async move {
            serve_grpc(
                listener,
                routes,
                &Health::new(),
                &GrpcLimits::default(),
                None,
                stop,
            )
            .await
        }
    });

    let config = TelemetryConfig {
        otlp: Some(endpoint),
        log: None,
    };
    let guard = telemetry("mirror", &config, Some("info"));
    let span = tracing::info_span!("flip", channel = "noble", build = 36);
    with_parent(&span, &context_of([("traceparent", PARENT)]));
    let headers = span.in_scope(trace_headers);
    assert!(headers[0].1.starts_with(&PARENT[..35]), "{headers:?}");
    drop(span);
    drop(guard);

    let export = tokio::time::timeout(Duration::from_secs(10), received.recv())
        .await
        .unwrap()
        .unwrap();
    let spans = &export.resource_spans[0];
    let attributes = &spans.resource.as_ref().unwrap().attributes;
    assert!(format!("{attributes:?}").contains("mirrorlog-mirror"));
    let span = &spans.scope_spans[0].spans[0];
    assert_eq!(
        (span.name.as_str(), hex::encode(&span.trace_id).as_str()),
        ("flip", &PARENT[3..35])
    );
    assert_eq!(hex::encode(&span.parent_span_id), &PARENT[36..52]);
    stop.cancel();
    collecting.await.unwrap().unwrap();
}
