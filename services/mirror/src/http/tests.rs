//! The face over real stores in temporary folders, without a log.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod files;
mod folders;
mod hostile;
mod own;
mod pkg_add;
mod reach;
mod trees;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use mirrorlog_core::id::{Build, ChannelId, Digest, Mount};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::{Mtime, Timestamp};
use prometheus_client::registry::Registry;
use runtime::store::{Pages, Store};
use runtime::trust::Trust;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use super::trace::Site;
use super::{Face, routes};
use crate::metrics::HttpRequests;
use crate::serving::{Flip, ServedBuild, ServedChannel, ServingWriter};

/// 2026-11-21T23:50:30Z, a Saturday.
const NOW: i64 = 1_795_305_030;

/// One mirror's face.
struct World {
    _dir: TempDir,
    store: Store,
    serving: ServingWriter,
    leases: std::sync::Arc<crate::collect::Leases>,
    suspected: tokio::sync::mpsc::Receiver<crate::suspects::Suspect>,
    registry: Registry,
    face: Arc<Face>,
    router: Router,
}

/// What came back.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// What a test puts into a tree.
enum Put<'a> {
    File(&'a [u8]),
    Link(&'a str),
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().to_owned();
        Self::within(dir, &store)
    }

    /// With its store somewhere else.
    fn within(dir: TempDir, store: &std::path::Path) -> Self {
        let store = Store::open(store).unwrap();
        let (serving, reader) = ServingWriter::new();
        let leases = std::sync::Arc::default();
        let (suspects, suspected) = crate::suspects::Suspects::new();
        let mut registry = Registry::with_prefix("mirrorlog");
        let face = Arc::new(Face {
            serving: reader,
            pages: Pages::new(store.clone(), 1024 * 1024),
            leases: std::sync::Arc::clone(&leases),
            suspects,
            requests: HttpRequests::new(&mut registry),
            trust: Trust::fixed(Default::default(), Default::default(), Default::default()),
            site: Site {
                host: "m1.example.org".to_owned(),
                maintainer: Some("Mia <mia@example.org>".to_owned()),
                country: "NZ".to_owned(),
                upstream: "up.example.org".to_owned(),
            },
            desks: Arc::new(Semaphore::new(1)),
        });
        Self {
            _dir: dir,
            store,
            serving,
            leases,
            suspected,
            registry,
            router: routes(Arc::clone(&face)),
            face,
        }
    }

    /// Stores a tree; returns its root.
    fn tree(&self, entries: &[(&[u8], Put<'_>)]) -> Digest {
        let mut sorted: Vec<_> = entries.iter().collect();
        sorted.sort_by_key(|(path, _)| *path);
        let batch = self.store.batch();
        let mut builder = Builder::new(&batch);
        for (path, put) in sorted {
            let entry = match put {
                Put::File(bytes) => {
                    let digest = Digest::of(bytes);
                    batch.put(&digest, bytes).unwrap();
                    Entry::File(FileEntry {
                        size_bytes: bytes.len() as u64,
                        digest,
                        mode: Mode::Plain,
                        mtime: Mtime::from_seconds(NOW),
                    })
                }
                Put::Link(target) => Entry::Symlink {
                    target: target.as_bytes().into(),
                },
            };
            builder
                .push(&EntryPath::new(path).unwrap(), &entry)
                .unwrap();
        }
        let root = builder.finish().unwrap().root;
        batch.commit().unwrap();
        root
    }

    /// A tree of text files.
    fn files(&self, files: &[(&str, &str)]) -> Digest {
        let puts = files
            .iter()
            .map(|(path, text)| (path.as_bytes(), Put::File(text.as_bytes())));
        self.tree(&puts.collect::<Vec<_>>())
    }

    /// Serves a channel; `change` says what is unusual about it.
    fn serve(&self, name: &str, mount: &str, builds: &[(u64, Digest)], live: Option<u64>) {
        self.serve_as(name, mount, builds, live, |_| {});
    }

    fn serve_as(
        &self,
        name: &str,
        mount: &str,
        builds: &[(u64, Digest)],
        live: Option<u64>,
        change: impl FnOnce(&mut ServedChannel),
    ) {
        let rows = builds.iter().map(|(number, root)| {
            let row = ServedBuild {
                selection: mirrorlog_core::view::Selection::ALL,
                root: *root,
                created: Timestamp::from_seconds(NOW - 3600),
                snapshot: format!("snapshot {name} {number}").into_bytes().into(),
                urgent: false,
            };
            (build(*number), row)
        });
        let mut served = ServedChannel {
            selection: mirrorlog_core::view::Selection::ALL,
            mount: Mount::new(mount).unwrap(),
            layout: Layout::Debian,
            precedence: 10,
            live: live.map(build),
            builds: rows.collect::<BTreeMap<_, _>>(),
            retracted: Vec::new(),
            newest_known: builds.iter().map(|(number, _)| build(*number)).max(),
            head: Some(format!("head {name}").into_bytes().into()),
            head_expires: Some(Timestamp::from_seconds(NOW)),
            flip: Some(Flip {
                started: Timestamp::from_seconds(NOW - 20),
                finished: Timestamp::from_seconds(NOW),
                received_bytes: 5000,
            }),
        };
        change(&mut served);
        self.serving.set(channel(name), served);
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.into(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[]).await
    }

    /// Status, builds and body: what most tests ask about.
    async fn brief(&self, path: &str) -> (u16, String, String) {
        let answer = self.get(path).await;
        let builds = answer.header("mirrorlog-build").to_owned();
        (answer.status, builds, answer.text())
    }
}

impl Answer {
    /// Empty when there is none.
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

fn ok(builds: &str, text: &str) -> (u16, String, String) {
    (200, builds.to_owned(), text.to_owned())
}

fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

fn channel(name: &str) -> ChannelId {
    ChannelId::new(name).unwrap()
}
