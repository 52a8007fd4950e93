//! One web server that answers for all mirrors, each by an address of its own.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request;
use axum::handler::HandlerWithoutStateExt as _;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::CHANNEL;
use crate::site::{Site, Version};

const BUILD_HEADER: HeaderName = HeaderName::from_static("mirrorlog-build");
const BACKLOG: u32 = 4096;
/// Addresses of a block: 127.64.0.1 to 127.64.0.250, then 127.64.1.1 and so on.
const BLOCK: usize = 250;

/// The address of a mirror.
pub(crate) fn address(mirror: usize) -> String {
    format!("127.64.{}.{}", mirror / BLOCK, mirror % BLOCK + 1)
}

fn mirror_at(host: &str) -> Option<usize> {
    let rest = host.strip_prefix("127.64.")?.split(':').next()?;
    let (block, place) = rest.split_once('.')?;
    let (block, place): (usize, usize) = (block.parse().ok()?, place.parse().ok()?);
    Some(block * BLOCK + place.checked_sub(1)?)
}

/// Serves in the background; returns the port, which is the same at all addresses.
pub(crate) async fn serve(site: Arc<Site>) -> u16 {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([0, 0, 0, 0], 0).into()).unwrap();
    let listener = socket.listen(BACKLOG).unwrap();
    let port = listener.local_addr().unwrap().port();
    let handler = move |request: Request| {
        let answer =
            answer(&site, &request).unwrap_or_else(|| StatusCode::NOT_FOUND.into_response());
        std::future::ready(answer)
    };
    tokio::spawn(async move {
        axum::serve(listener, handler.into_make_service())
            .await
            .unwrap()
    });
    port
}

fn answer(site: &Site, request: &Request) -> Option<Response> {
    let host = request.headers().get(header::HOST)?.to_str().ok()?;
    let mirror = mirror_at(host)?;
    let live = site.live(mirror)?;
    let path = request.uri().path();
    let mount = path.strip_prefix('/')?.strip_prefix(CHANNEL);
    if let Some(path) = mount.and_then(|path| path.strip_prefix('/')) {
        return Some(file(live, site.at_mount(mirror, live, path)?));
    }
    if path.starts_with("/@/probe/") {
        return Some(Bytes::from_static(&[0; 16]).into_response());
    }
    let rest = path.strip_prefix("/@/")?.strip_prefix(CHANNEL)?;
    if rest.is_empty() {
        let state = serde_json::json!({"channel": CHANNEL, "live": live});
        return Some(state.to_string().into_response());
    }
    let (build, path) = rest.strip_prefix('/')?.split_once('/')?;
    let build: u64 = build.parse().ok()?;
    Some(file(build, site.pinned(mirror, build, path)?))
}

fn file(build: u64, version: Version) -> Response {
    let text = |text: String| HeaderValue::from_str(&text).unwrap();
    let headers = [
        (BUILD_HEADER, text(format!("{CHANNEL}={build}"))),
        (header::ETAG, text(version.tag)),
    ];
    (headers, version.content).into_response()
}
