//! A directory and mirrors that misbehave as they are told, over real HTTP on this machine.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses a part of it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use client::{Client, Options, Trust};
use futures::StreamExt as _;
use mirrorlog_core::client::speed::PROBE_BYTES;
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::probe::Probe;
use mirrorlog_core::sign::{KeyNumber, SecretKey};
use mirrorlog_core::statement::{Head, Notice, Snapshot, Statement};
use mirrorlog_core::time::{Mtime, Timestamp};
use serde_json::json;
use wire::Signed;

pub const CHANNEL: &str = "noble";
/// For those who wait for a stall: a busy machine may look like one, too.
pub const HASTY: Duration = Duration::from_millis(300);

/// How a mirror treats requests for files.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Manner {
    #[default]
    Good,
    /// Answers 503 to these paths, as a mirror does that lost them.
    Lost(BTreeSet<String>),
    /// Sends other bytes of the same length.
    Corrupt,
    /// Sends this much, then nothing for ever.
    StallsAfter(usize),
    /// Sends what it should, and goes on without end. Says no length.
    Endless,
    /// Closes the connection after this much.
    BreaksAfter(usize),
    /// Answers 200 with a page of its own, as a hotel's network does.
    Portal,
    /// Sends a byte now and then, less often than anybody would call it stalled.
    Drips,
    /// Sends so many bytes a second.
    Slow(usize),
    /// Says that a cache gave it.
    Cached,
    /// Answers 500.
    Broken,
    /// Has a cache in front that answers a probe with what it gave for the first nonce.
    StaleProbes,
}

/// What a mirror holds and does.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    pub builds: BTreeSet<u64>,
    /// Builds of which it says that they were taken back.
    pub retracted: BTreeSet<u64>,
    pub manner: Manner,
    /// The build that it says it has, whatever it has.
    pub claims: Option<u64>,
    /// Paths below `/@/` that were asked for, queries apart.
    pub asked: Vec<String>,
    /// Nonces of probes.
    pub nonces: Vec<String>,
    /// Bytes of `Range` headers, as they came.
    pub ranges: Vec<String>,
    /// Bytes sent beyond the signed ones.
    pub beyond_bytes: Arc<AtomicU64>,
}

/// One build.
#[derive(Clone)]
struct Published {
    snapshot: Vec<u8>,
    root: Digest,
    files: BTreeMap<String, Vec<u8>>,
}

/// What an archive would have published.
pub struct Archive {
    key: SecretKey,
    builds: BTreeMap<u64, Published>,
    pages: MemoryPages,
    pub expires_in_s: i64,
}

/// A running world: `mirrors` by id, `list` is what the directory says.
pub struct World {
    pub archive: Arc<Mutex<Archive>>,
    pub mirrors: BTreeMap<String, Arc<Mutex<Mirror>>>,
    urls: BTreeMap<String, String>,
    pub directory: Arc<Mutex<Directory>>,
    url: String,
    pub state: tempfile::TempDir,
}

/// What the directory says.
#[derive(Default)]
pub struct Directory {
    /// The wanted build; none: it answers 503 to everything.
    pub wanted: Option<u64>,
    /// Id and tier, from near to far.
    pub listed: Vec<(String, String)>,
    /// Mirrors that are not offered, and why not.
    pub excluded: Vec<(String, String)>,
    /// Bodies of feedback.
    pub told: Vec<String>,
    urls: BTreeMap<String, String>,
}

impl Archive {
    fn new() -> Self {
        Self {
            key: SecretKey::from_seed(KeyNumber([7; 8]), &[9; 32]),
            builds: BTreeMap::new(),
            pages: MemoryPages::new(),
            expires_in_s: 86_400,
        }
    }

    fn publish(&mut self, number: u64, files: &[(&str, &[u8])], notices: &[(&str, &str)]) {
        let files: BTreeMap<String, Vec<u8>> = files
            .iter()
            .map(|(path, content)| ((*path).to_owned(), content.to_vec()))
            .collect();
        let pages = &self.pages;
        let mut builder = Builder::new(pages);
        for (path, content) in &files {
            let entry = FileEntry {
                size_bytes: content.len() as u64,
                digest: Digest::of(content),
                mode: Mode::Plain,
                mtime: Mtime::from_seconds(1_000_000),
            };
            builder
                .push(
                    &EntryPath::new(path.as_bytes()).unwrap(),
                    &Entry::File(entry),
                )
                .unwrap();
        }
        let summary = builder.finish().unwrap();
        let snapshot = Snapshot {
            channel: CHANNEL.parse().unwrap(),
            build: Build::new(number).unwrap(),
            base: None,
            root: summary.root,
            previous: None,
            created: Timestamp::from_seconds(1_000_000),
            entries: summary.entries,
            bytes: summary.bytes,
            lane: Lane::Bulk,
            mount: "/noble".parse().unwrap(),
            layout: Layout::Plain,
            precedence: 0,
            notices: notices
                .iter()
                .map(|(package, text)| Notice {
                    package: (*package).to_owned(),
                    text: (*text).to_owned(),
                })
                .collect(),
        };
        let signed = Signed::sign(&self.key, &Statement::Snapshot(snapshot)).to_signify("test");
        let published = Published {
            snapshot: signed,
            root: summary.root,
            files,
        };
        self.builds.insert(number, published);
    }

    fn head(&self, number: u64) -> Vec<u8> {
        let now = runtime::boot::now();
        let head = Head {
            channel: CHANNEL.parse().unwrap(),
            build: Build::new(number).unwrap(),
            root: self.builds[&number].root,
            retractions: Digest::of(b""),
            issued: now.plus_ms(-7_200_000),
            expires: now.plus_ms(self.expires_in_s * 1000),
        };
        Signed::sign(&self.key, &Statement::Head(head)).to_signify("test")
    }
}

impl World {
    /// Mirrors by id and tier, from near to far.
    pub async fn new(mirrors: &[(&str, &str)]) -> Self {
        let archive = Arc::new(Mutex::new(Archive::new()));
        let (mut running, mut urls) = (BTreeMap::new(), BTreeMap::new());
        for (id, _) in mirrors {
            let mirror = Arc::new(Mutex::new(Mirror::default()));
            let state = (Arc::clone(&archive), Arc::clone(&mirror));
            let url = serve(Router::new().fallback(answer).with_state(state)).await;
            urls.insert((*id).to_owned(), url);
            running.insert((*id).to_owned(), mirror);
        }
        let listed = mirrors
            .iter()
            .map(|(id, tier)| ((*id).to_owned(), (*tier).to_owned()));
        let directory = Directory {
            listed: listed.collect(),
            urls: urls.clone(),
            ..Directory::default()
        };
        let directory = Arc::new(Mutex::new(directory));
        let url = serve(
            Router::new()
                .fallback(direct)
                .with_state(Arc::clone(&directory)),
        )
        .await;
        let state = tempfile::tempdir().unwrap();
        Self {
            archive,
            mirrors: running,
            urls,
            directory,
            url,
            state,
        }
    }

    /// Publishes a build, which all mirrors hold and the directory wants.
    pub fn publish(&self, number: u64, files: &[(&str, &[u8])]) {
        self.publish_at(number, files, &[]);
        for mirror in self.mirrors.values() {
            mirror.lock().unwrap().builds.insert(number);
        }
        self.directory.lock().unwrap().wanted = Some(number);
    }

    /// Publishes a build that no mirror has yet.
    pub fn publish_at(&self, number: u64, files: &[(&str, &[u8])], notices: &[(&str, &str)]) {
        self.archive.lock().unwrap().publish(number, files, notices);
    }

    pub fn mirror(&self, id: &str) -> std::sync::MutexGuard<'_, Mirror> {
        self.mirrors[id].lock().unwrap()
    }

    /// Another server in a mirror's place.
    pub fn replace(&self, id: &str, url: String) {
        self.directory
            .lock()
            .unwrap()
            .urls
            .insert(id.to_owned(), url);
    }

    /// A port where nobody listens any more.
    pub fn silence(&self, id: &str) {
        let mut directory = self.directory.lock().unwrap();
        directory
            .urls
            .insert(id.to_owned(), "http://127.0.0.1:1".to_owned());
    }

    pub fn url(&self, id: &str) -> &str {
        &self.urls[id]
    }

    pub fn options(&self) -> Options {
        let key = self.archive.lock().unwrap().key.public();
        let mut options = Options::new(&self.url, Trust::keys([key]));
        options.state = Some(self.state.path().to_owned());
        options
    }

    pub fn client(&self) -> Client {
        Client::new(self.options()).unwrap()
    }

    /// One that soon leaves those who stall.
    pub fn hasty_client(&self) -> Client {
        let mut options = self.options();
        options.stall = HASTY;
        Client::new(options).unwrap()
    }

    /// How often files of builds were asked for at a mirror.
    pub fn file_requests(&self, id: &str) -> usize {
        let mirror = self.mirror(id);
        mirror
            .asked
            .iter()
            .filter(|path| path.matches('/').count() > 3 && !path.ends_with("/snapshot"))
            .count()
    }
}

pub fn channel() -> ChannelId {
    CHANNEL.parse().unwrap()
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn direct(State(directory): State<Arc<Mutex<Directory>>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if path == "/v1/feedback" {
        let body = axum::body::to_bytes(request.into_body(), 1 << 20)
            .await
            .unwrap();
        let mut directory = directory.lock().unwrap();
        if directory.wanted.is_none() {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        directory
            .told
            .push(String::from_utf8(body.to_vec()).unwrap());
        return "{}".into_response();
    }
    let directory = directory.lock().unwrap();
    let Some(wanted) = directory.wanted else {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting: not yet\n").into_response();
    };
    if path == "/v1/channels" {
        let channel =
            json!({ "channel": CHANNEL, "mount": "/noble", "layout": "debian", "build": wanted });
        return json!({ "channels": [channel] }).to_string().into_response();
    }
    let query = request.uri().query().unwrap_or_default();
    let asked = query
        .split('&')
        .find_map(|one| one.strip_prefix("build=")?.parse::<u64>().ok());
    if asked > Some(wanted) {
        return (StatusCode::NOT_FOUND, "unknown-build: not known here\n").into_response();
    }
    let mirrors = directory.listed.iter().map(|(id, tier)| {
        let (pool, url) = (&id[..2], &directory.urls[id]);
        json!({ "id": id, "url": url, "tier": tier, "pool": pool, "country": pool.to_uppercase() })
    });
    let excluded = directory
        .excluded
        .iter()
        .map(|(id, reason)| json!({ "id": id, "reason": reason }));
    let answer = json!({
        "build": asked.unwrap_or(wanted),
        "mirrors": mirrors.collect::<Vec<_>>(),
        "excluded": excluded.collect::<Vec<_>>(),
    });
    answer.to_string().into_response()
}

type Held = (Arc<Mutex<Archive>>, Arc<Mutex<Mirror>>);

async fn answer(State((archive, mirror)): State<Held>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let (archive, mut mirror) = (archive.lock().unwrap(), mirror.lock().unwrap());
    mirror.asked.push(path.clone());
    let range = request
        .headers()
        .get("range")
        .map(|range| range.to_str().unwrap().to_owned());
    mirror.ranges.extend(range.clone());
    let words: Vec<&str> = path.trim_start_matches("/@/").splitn(3, '/').collect();
    let newest = mirror.builds.last().copied();
    let refused = |status, word: &str| (status, format!("{word}: no\n")).into_response();
    match words.as_slice() {
        ["probe", nonce] => {
            mirror.nonces.push((*nonce).to_owned());
            probe(&mirror, nonce)
        }
        ["page", digest] => {
            let bytes = archive.pages.bytes(&digest.parse().unwrap());
            bytes.map_or_else(
                || refused(StatusCode::NOT_FOUND, "unknown-page"),
                IntoResponse::into_response,
            )
        }
        [_] if mirror.claims.is_some() => json!({ "staged": mirror.claims })
            .to_string()
            .into_response(),
        [_] => json!({ "live": newest, "staged": newest })
            .to_string()
            .into_response(),
        [_, "head"] => match newest {
            Some(newest) => archive.head(newest).into_response(),
            None => refused(StatusCode::NOT_FOUND, "unknown-head"),
        },
        [_, build, path] => {
            let build: u64 = build.parse().unwrap();
            if mirror.retracted.contains(&build) {
                return refused(StatusCode::GONE, "retracted");
            }
            if !mirror.builds.contains(&build) {
                return match newest
                    .max(mirror.claims)
                    .is_some_and(|newest| newest > build)
                {
                    true => refused(StatusCode::GONE, "collected"),
                    false => refused(StatusCode::NOT_FOUND, "unknown-build"),
                };
            }
            let published = &archive.builds[&build];
            if *path == "snapshot" {
                return published.snapshot.clone().into_response();
            }
            if mirror.manner == Manner::Endless {
                let content = published.files.get(*path).cloned().unwrap_or_default();
                return endless(content, Arc::clone(&mirror.beyond_bytes));
            }
            file(&mirror.manner, published, path, range.as_deref())
        }
        _other => refused(StatusCode::NOT_FOUND, "unknown-path"),
    }
}

/// As many bytes as clients ask for.
fn probe(mirror: &Mirror, nonce: &str) -> Response {
    let stale = mirror.manner == Manner::StaleProbes;
    let nonce = if stale { &mirror.nonces[0] } else { nonce };
    let mut bytes = Probe::new(nonce.as_bytes()).unwrap().part(0, PROBE_BYTES);
    match mirror.manner {
        Manner::Cached => ([("age", "30")], bytes).into_response(),
        Manner::Broken => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Manner::BreaksAfter(after) => {
            bytes.truncate(after);
            bytes.into_response()
        }
        Manner::StallsAfter(after) => {
            bytes.truncate(after);
            let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(bytes))]);
            Body::from_stream(first.chain(futures::stream::pending())).into_response()
        }
        Manner::Slow(bytes_per_s) => slowly(&bytes, bytes_per_s).into_response(),
        Manner::Good
        | Manner::Lost(_)
        | Manner::Corrupt
        | Manner::Portal
        | Manner::Drips
        | Manner::Endless
        | Manner::StaleProbes => bytes.into_response(),
    }
}

fn endless(content: Vec<u8>, beyond_bytes: Arc<AtomicU64>) -> Response {
    const MORE_BYTES: usize = 8 * 1024;
    let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(content))]);
    let more = futures::stream::repeat_with(move || {
        beyond_bytes.fetch_add(MORE_BYTES as u64, Ordering::Relaxed);
        Ok(Bytes::from(vec![b'a'; MORE_BYTES]))
    });
    Body::from_stream(first.chain(more)).into_response()
}

/// A twentieth of a second's worth at a time.
fn slowly(content: &[u8], bytes_per_s: usize) -> Body {
    let parts: Vec<Bytes> = content
        .chunks(bytes_per_s / 20)
        .map(Bytes::copy_from_slice)
        .collect();
    let parts = futures::stream::iter(parts).then(|part| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok::<_, std::io::Error>(part)
    });
    Body::from_stream(parts)
}

fn file(manner: &Manner, published: &Published, path: &str, range: Option<&str>) -> Response {
    let Some(content) = published.files.get(path) else {
        return (StatusCode::NOT_FOUND, "unknown-path: no\n").into_response();
    };
    let (mut content, whole) = (content.clone(), content.len());
    if *manner == Manner::Corrupt {
        content.iter_mut().for_each(|byte| *byte ^= 0x20);
    }
    let mut response = Response::builder().header(
        "etag",
        format!("\"{}\"", Digest::of(&published.files[path])),
    );
    let bounds = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    if let Some((from, to)) = bounds {
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(whole, |last: usize| last + 1).min(whole);
        content = content[from..to].to_vec();
        let named = format!("bytes {from}-{}/{whole}", to - 1);
        response = response.status(206).header("content-range", named);
    }
    let sized =
        |response: axum::http::response::Builder| response.header("content-length", content.len());
    match manner {
        Manner::Lost(paths) if paths.contains(path) => {
            (StatusCode::SERVICE_UNAVAILABLE, "lost: no\n").into_response()
        }
        Manner::Portal => "<html>please log in</html>".into_response(),
        Manner::Drips => {
            let bytes: Vec<Bytes> = content.chunks(1).map(Bytes::copy_from_slice).collect();
            let bytes = futures::stream::iter(bytes).then(|byte| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok::<_, std::io::Error>(byte)
            });
            sized(response).body(Body::from_stream(bytes)).unwrap()
        }
        Manner::Broken => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Manner::StallsAfter(after) => {
            let first = Bytes::copy_from_slice(&content[..content.len().min(*after)]);
            let first = futures::stream::iter([Ok::<_, std::io::Error>(first)]);
            let body = Body::from_stream(first.chain(futures::stream::pending()));
            sized(response).body(body).unwrap()
        }
        Manner::BreaksAfter(after) => {
            let first = Bytes::copy_from_slice(&content[..content.len().min(*after)]);
            let broken = Err(std::io::Error::other("cut"));
            // The first part must be on its way before the end comes.
            let parts = futures::stream::iter([Ok(first), broken]).then(|part| async {
                if part.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                part
            });
            sized(response).body(Body::from_stream(parts)).unwrap()
        }
        Manner::Slow(bytes_per_s) => {
            let body = slowly(&content, *bytes_per_s);
            sized(response).body(body).unwrap()
        }
        Manner::Cached => response
            .header("age", "30")
            .body(Body::from(content))
            .unwrap(),
        Manner::Good
        | Manner::Corrupt
        | Manner::Endless
        | Manner::Lost(_)
        | Manner::StaleProbes => response.body(Body::from(content)).unwrap(),
    }
}
