#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;
use crate::trace::TraceCalls;

#[tokio::test]
async fn grpc_answers_health_and_reflection_and_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (health, stop) = (Health::new(), CancellationToken::new());
    let serving = {
        let (health, stop) = (health.clone(), stop.clone());
        let routes = Routes::default();
        tokio::spawn(async move {
            serve_grpc(
                listener,
                routes,
                &health,
                &GrpcLimits::default(),
                None,
                stop,
            )
            .await
        })
    };
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = HealthClient::with_interceptor(channel.clone(), TraceCalls);
    let mut statuses = client
        .watch(HealthCheckRequest {
            service: String::new(),
        })
        .await
        .unwrap()
        .into_inner();
    let wait_for = |wanted: ServingStatus| {
        tonic_health::pb::health_check_response::ServingStatus::from(wanted) as i32
    };
    health.started();
    while statuses.message().await.unwrap().unwrap().status != wait_for(ServingStatus::Serving) {}
    health.degrade("log", "away");
    health.fail("disk", "full");
    while statuses.message().await.unwrap().unwrap().status != wait_for(ServingStatus::NotServing) {
    }

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(futures::stream::iter([ask]))
        .await
        .unwrap();
    let answer = answers
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert!(
        names.contains(&"mirrorlog.v1.Fetcher".to_owned()),
        "{names:?}"
    );

    // The watch above never ends; the server does.
    tokio::time::pause();
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn http_tells_health_and_metrics() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (health, stop) = (Health::new(), CancellationToken::new());
    let mut registry = crate::boot::metrics::registry("test");
    crate::boot::metrics::outbox_pending(&mut registry).set(2);
    let serving = tokio::spawn(serve_http(
        listener,
        health.router(Arc::new(registry)),
        stop.clone(),
    ));
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].to_owned(), body.to_owned())
    };
    let both = |code: &str, body: &str| (code.to_owned(), body.to_owned());
    assert_eq!(get("/healthz").await, both("200", "ok\n"));
    assert_eq!(
        get("/readyz").await,
        both("503", "{\"reasons\":[],\"status\":\"starting\"}\n")
    );
    health.started();
    assert_eq!(
        get("/readyz").await,
        both("200", "{\"reasons\":[],\"status\":\"ready\"}\n")
    );
    health.degrade("log", "no answer");
    let degraded =
        "{\"reasons\":[{\"cause\":\"log\",\"text\":\"no answer\"}],\"status\":\"degraded\"}\n";
    assert_eq!(get("/readyz").await, both("200", degraded));
    health.fail("disk", "full");
    assert_eq!(get("/readyz").await.0, "503");
    let (code, text) = get("/metrics").await;
    assert_eq!(code, "200");
    assert!(
        text.contains("mirrorlog_outbox_pending 2\n") && text.ends_with("# EOF\n"),
        "{text}"
    );
    stop.cancel();
    serving.await.unwrap().unwrap();
}
