//! One trace follows a build: published, committed, fetched by each mirror, found complete.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use e2e::{Network, Setup, Tree, until};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Names of spans with their services, by trace.
type Traces = BTreeMap<Vec<u8>, BTreeSet<(String, String)>>;

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Traces>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut traces = self.0.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let named = attributes
                .into_iter()
                .find(|attribute| attribute.key == "service.name");
            let service = format!(
                "{:?}",
                named.and_then(|one| one.value).and_then(|one| one.value)
            );
            for span in resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
            {
                let service = service
                    .trim_start_matches("Some(StringValue(\"")
                    .trim_end_matches("\"))");
                traces
                    .entry(span.trace_id)
                    .or_default()
                    .insert((service.to_owned(), span.name));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn one_trace_follows_a_build() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let collector = Collector::default();
    let port = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        port
    });
    let setup = Setup::mirrors(2)
        .env(
            "MIRRORLOG_TELEMETRY_OTLP",
            &format!("http://127.0.0.1:{port}"),
        )
        .env("OTEL_BSP_SCHEDULE_DELAY", "200");
    let network = Network::start(&setup);
    let tree = Tree::new();
    tree.write("a", "a");
    network.publish_everywhere("c", tree.path());
    let expected = [
        ("mirrorlog-archive", "commit"),
        ("mirrorlog-mirror", "sync"),
        ("mirrorlog-mirror", "flip"),
        ("mirrorlog-consistency", "audit"),
    ];
    let whole = || {
        let traces = collector.0.lock().unwrap();
        let has = |spans: &BTreeSet<(String, String)>, service: &str, name: &str| {
            spans.iter().any(|(of, span)| of == service && span == name)
        };
        traces.values().any(|spans| {
            expected
                .iter()
                .all(|(service, name)| has(spans, service, name))
        })
    };
    let told = std::panic::catch_unwind(AssertUnwindSafe(|| until("one trace has it all", whole)));
    let traces = collector.0.lock().unwrap().clone();
    let told = told.is_ok();
    let many = traces.into_values().filter(|spans| spans.len() > 1);
    assert!(
        told,
        "no trace has {expected:?}: {:?}",
        many.collect::<Vec<_>>()
    );
}
