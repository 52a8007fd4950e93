//! A stub mirror, a stub archive, and a service between them on a real nats-server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fetcher::server;
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane, MirrorId, Mount};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode, Summary};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::sign::SecretKey;
use mirrorlog_core::statement::{
    DeltaSource, Head, Presence, Report, ReportedBuild, Retraction, Snapshot, Statement,
};
use mirrorlog_core::time::Mtime;
use mirrorlog_core::view::View;
use runtime::boot::HeldPort;
use runtime::boot::now;
use runtime::key::{generate, read_secret};
use runtime::log::supervise::NatsServer;
use runtime::log::{Log, NatsConfig};
use runtime::store::Store;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::v1::consistency_client::ConsistencyClient;
use wire::v1::journal_server::JournalServer;
use wire::{Event, EventBody, Signed, v1};

pub type Files = BTreeMap<String, Vec<u8>>;
pub type Client = ConsistencyClient<tonic::transport::Channel>;

pub fn channel() -> ChannelId {
    ChannelId::new("noble").unwrap()
}

pub fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

/// What a stub mirror serves.
#[derive(Default)]
pub struct Served {
    pub builds: BTreeMap<u64, Files>,
    pub live: Option<u64>,
    pub pages: BTreeMap<Digest, Vec<u8>>,
    /// Paths that answer with other bytes of the same length.
    pub corrupt: BTreeSet<String>,
    /// Paths that answer 404.
    pub missing: BTreeSet<String>,
    pub requests: usize,
}

/// A mirror's web server, as INTERFACE.md has it, and its key.
pub struct Mirror {
    pub id: MirrorId,
    pub url: String,
    pub served: Arc<Mutex<Served>>,
    key: SecretKey,
    port: HeldPort,
    server: Option<JoinHandle<()>>,
    boot: u64,
    sequence: u64,
}

impl Mirror {
    async fn start(dir: &Path, id: &str) -> Self {
        let key = generate(&dir.join(id), id).unwrap();
        let port = HeldPort::draw().unwrap();
        let mut mirror = Self {
            id: MirrorId::new(id).unwrap(),
            url: format!("http://{}", address(&port)),
            served: Arc::default(),
            key,
            port,
            server: None,
            boot: 1,
            sequence: 0,
        };
        mirror.up().await;
        mirror
    }

    pub async fn up(&mut self) {
        let listener = TcpListener::bind(address(&self.port)).await.unwrap();
        let router = Router::new()
            .fallback(answer)
            .with_state(self.served.clone());
        self.server = Some(tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap()
        }));
    }

    /// Stops answering: connections are closed, new ones refused.
    pub async fn down(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        server.await.unwrap_err();
    }

    pub fn lock(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap()
    }

    pub fn hold(&self, number: u64, files: &Files) {
        self.lock().builds.insert(number, files.clone());
    }

    /// Reports `builds` as whole (or one file short), the last live one as `live`.
    pub async fn report(
        &mut self,
        log: &Log,
        live: Option<u64>,
        builds: &[(u64, Summary, Presence)],
    ) {
        self.lock().live = live;
        self.sequence += 1;
        let reported = |(number, summary, presence): &(u64, Summary, Presence)| ReportedBuild {
            build: build(*number),
            root: summary.root,
            view: View::All,
            presence: presence.clone(),
            missing_files: u64::from(*presence != Presence::All),
            missing_bytes: 0,
        };
        let report = Report {
            mirror: self.id.clone(),
            channel: channel(),
            boot: self.boot,
            sequence: self.sequence,
            issued: now(),
            booted: mirrorlog_core::time::Timestamp::from_seconds(1),
            live: live.map(build),
            builds: builds.iter().map(reported).collect(),
            target: None,
            fetch_bytes_per_s: 0,
            disk_free_bytes: 1 << 40,
            halted: None,
            orders: Vec::new(),
        };
        let signed = Signed::sign(&self.key, &Statement::Report(report));
        log.publish_report(&self.id, &channel(), signed.encode().into())
            .await
            .unwrap();
    }
}

async fn answer(State(served): State<Arc<Mutex<Served>>>, uri: Uri) -> Response {
    let mut served = served.lock().unwrap();
    served.requests += 1;
    let path = uri.path();
    if let Some(digest) = path.strip_prefix("/@/page/") {
        let page = digest
            .parse()
            .ok()
            .and_then(|digest: Digest| served.pages.get(&digest).cloned());
        return page.map_or_else(
            || StatusCode::NOT_FOUND.into_response(),
            IntoResponse::into_response,
        );
    }
    if path.starts_with("/@/probe/") {
        return "nonce".into_response();
    }
    if path == "/@/noble" {
        let live = served.live.unwrap_or(0);
        return format!("{{\"live\":{live}}}").into_response();
    }
    let (number, path) = match path.strip_prefix("/@/noble/") {
        Some(pinned) => {
            let (number, path) = pinned.split_once('/').unwrap();
            (number.parse().ok(), path)
        }
        None => (
            served.live,
            path.strip_prefix("/ubuntu/").unwrap_or_default(),
        ),
    };
    let path = path.replace("%2B", "+");
    let files = number.and_then(|number: u64| served.builds.get(&number));
    let content = files
        .and_then(|files| files.get(&path))
        .filter(|_| !served.missing.contains(&path));
    let Some(mut content) = content.cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let tag = format!("\"{}\"", Digest::of(&content));
    if served.corrupt.contains(&path) {
        content[0] ^= 1;
    }
    let build = format!("noble={}", number.unwrap_or(0));
    let headers = [
        (HeaderName::from_static("mirrorlog-build"), build),
        (axum::http::header::ETAG, tag),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_str(&value).unwrap()));
    (headers, content).into_response()
}

/// A whole network without its archive and mirror processes.
pub struct Network {
    pub dir: TempDir,
    pub log: Log,
    pub mirrors: Vec<Mirror>,
    pub nats: NatsServer,
    archive: SecretKey,
    store: Store,
    pages: MemoryPages,
    fetch: SocketAddr,
    journal: Journal,
    retractions: u64,
}

impl Network {
    pub async fn start(mirrors: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let nats = NatsServer::start(&dir.path().join("nats"), None)
            .await
            .unwrap();
        let log = Log::connect(&NatsConfig::new(&nats.url), "test", false)
            .await
            .unwrap();
        log.ensure().await.unwrap();
        let archive = generate(&dir.path().join("archive"), "archive").unwrap();
        generate(&dir.path().join("consistency"), "consistency").unwrap();
        let mut started = Vec::new();
        for id in mirrors {
            started.push(Mirror::start(dir.path(), id).await);
        }
        let store = Store::open(&dir.path().join("store")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fetch = listener.local_addr().unwrap();
        let service = server::service(store.clone(), server::Limits::default());
        let journal = Journal::default();
        let routes = server::builder()
            .add_service(service)
            .add_service(JournalServer::new(journal.clone()));
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(routes.serve_with_incoming(incoming));
        let pages = MemoryPages::new();
        Self {
            dir,
            log,
            mirrors: started,
            nats,
            archive,
            store,
            pages,
            fetch,
            journal,
            retractions: 0,
        }
    }

    /// Makes a manifest of `files`, for the archive to serve.
    pub fn manifest(&self, files: &Files) -> Summary {
        let mut builder = Builder::new(&self.pages);
        for (path, content) in files {
            let entry = FileEntry {
                size_bytes: content.len() as u64,
                digest: Digest::of(content),
                mode: Mode::Plain,
                mtime: Mtime::from_seconds(0),
            };
            builder
                .push(
                    &EntryPath::new(path.as_bytes()).unwrap(),
                    &Entry::File(entry),
                )
                .unwrap();
        }
        let summary = builder.finish().unwrap();
        let batch = self.store.batch();
        for digest in self.pages.digests() {
            batch
                .put(&digest, &self.pages.bytes(&digest).unwrap())
                .unwrap();
        }
        batch.commit().unwrap();
        summary
    }

    pub fn page_bytes(&self) -> BTreeMap<Digest, Vec<u8>> {
        let digests = self.pages.digests().into_iter();
        digests
            .map(|digest| (digest, self.pages.bytes(&digest).unwrap()))
            .collect()
    }

    pub async fn publish(&self, number: u64, summary: Summary) {
        let signed = self.sign(number, summary);
        self.append(EventBody::Snapshot(signed), number, summary.root)
            .await;
    }

    /// Publishes in the journal alone, as if the log had lost the event.
    pub fn journal(&self, number: u64, summary: Summary) {
        let signed = self.sign(number, summary);
        self.journal.0.lock().unwrap().push(signed);
    }

    fn sign(&self, number: u64, summary: Summary) -> Signed {
        let snapshot = Snapshot {
            channel: channel(),
            build: build(number),
            base: Build::new(number - 1),
            root: summary.root,
            previous: (number > 1).then(|| Digest::of(b"before")),
            created: now(),
            entries: summary.entries,
            bytes: summary.bytes,
            lane: Lane::Bulk,
            mount: Mount::new("/ubuntu").unwrap(),
            layout: Layout::Debian,
            precedence: 0,
            notices: Vec::new(),
        };
        Signed::sign(&self.archive, &Statement::Snapshot(snapshot))
    }

    pub async fn retract(&mut self, number: u64, head: (u64, Summary)) {
        self.retractions += 1;
        let retraction = Retraction {
            channel: channel(),
            sequence: self.retractions,
            first: build(number),
            last: build(number),
            reason: "bad".into(),
            replacement: None,
            created: now(),
        };
        let signed = Signed::sign(&self.archive, &Statement::Retraction(retraction));
        self.append(EventBody::Retraction(signed), head.0, head.1.root)
            .await;
    }

    async fn append(&self, body: EventBody, head: u64, root: Digest) {
        let head = Head {
            channel: channel(),
            build: build(head),
            root,
            retractions: Digest::of(b""),
            issued: now(),
            expires: now().plus_ms(1_000_000),
        };
        let head = Signed::sign(&self.archive, &Statement::Head(head));
        let id = body.signed().digest().to_hex();
        let event = Event {
            body,
            head: Some(head),
            delta: DeltaSource::Pages,
        };
        let last = self
            .log
            .last_event(Lane::Bulk, &channel())
            .await
            .unwrap()
            .map_or(0, |(sequence, _)| sequence);
        let payload = Bytes::from(event.encode());
        self.log
            .publish_event(Lane::Bulk, &channel(), &id, last, payload)
            .await
            .unwrap();
    }

    /// Puts bytes on the log that are no event.
    pub async fn append_garbage(&self) {
        let last = self
            .log
            .last_event(Lane::Bulk, &channel())
            .await
            .unwrap()
            .map_or(0, |(sequence, _)| sequence);
        let payload = Bytes::from_static(b"not an event");
        self.log
            .publish_event(Lane::Bulk, &channel(), "garbage", last, payload)
            .await
            .unwrap();
    }

    pub async fn serve(&self, state: &str, archive: Option<&str>) -> Service {
        let ports = [HeldPort::draw().unwrap(), HeldPort::draw().unwrap()];
        let [grpc, http] = [address(&ports[0]), address(&ports[1])];
        let fetch = archive.map_or_else(|| self.fetch.to_string(), str::to_owned);
        let mut text = format!(
            "[consistency]\nstate = \"{state}\"\nkey = \"consistency.sec\"\n\
             [archive]\nfetch = \"{fetch}\"\nkeys = [\"archive.pub\"]\n\
             [nats]\nurl = \"{}\"\n[grpc]\nlisten = \"{grpc}\"\n[http]\nlisten = \"{http}\"\n\
             [audit]\nevery = \"1s\"\nretry = \"500ms\"\nsample = 8\n",
            self.nats.url
        );
        for mirror in &self.mirrors {
            let pool = &mirror.id.as_str()[..2];
            text += &format!(
                "[[mirrors]]\nid = \"{0}\"\npool = \"{pool}\"\nurl = \"{1}\"\nkey = \"{0}.pub\"\n",
                mirror.id, mirror.url
            );
        }
        let file = self.dir.path().join(format!("{state}.toml"));
        std::fs::write(&file, text).unwrap();
        Service::start(&file, ports).await
    }

    pub fn key(&self, name: &str) -> SecretKey {
        read_secret(&self.dir.path().join(format!("{name}.sec"))).unwrap()
    }
}

/// The archive's journal: snapshots only.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<Signed>>>);

type Replies = tokio_stream::Iter<std::vec::IntoIter<Result<v1::Signed, tonic::Status>>>;

#[tonic::async_trait]
impl v1::journal_server::Journal for Journal {
    type SnapshotsStream = Replies;
    type RetractionsStream = Replies;

    async fn channels(
        &self,
        _: tonic::Request<v1::ChannelsRequest>,
    ) -> Result<tonic::Response<v1::ChannelsReply>, tonic::Status> {
        let channels = vec![channel().to_string()];
        Ok(tonic::Response::new(v1::ChannelsReply { channels }))
    }

    async fn head(
        &self,
        _: tonic::Request<v1::HeadRequest>,
    ) -> Result<tonic::Response<v1::Signed>, tonic::Status> {
        Err(tonic::Status::not_found("no head"))
    }

    async fn snapshots(
        &self,
        request: tonic::Request<v1::SnapshotsRequest>,
    ) -> Result<tonic::Response<Replies>, tonic::Status> {
        let from = usize::try_from(request.get_ref().from).unwrap() - 1;
        let snapshots = self.0.lock().unwrap().clone();
        let snapshots: Vec<_> = snapshots
            .iter()
            .skip(from)
            .map(|signed| Ok(signed.to_proto()))
            .collect();
        Ok(tonic::Response::new(tokio_stream::iter(snapshots)))
    }

    async fn retractions(
        &self,
        _: tonic::Request<v1::RetractionsRequest>,
    ) -> Result<tonic::Response<Replies>, tonic::Status> {
        Ok(tonic::Response::new(tokio_stream::iter(Vec::new())))
    }
}

fn address(port: &HeldPort) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port.number()))
}

/// A consistency service in this process.
pub struct Service {
    pub client: Client,
    pub http: SocketAddr,
    _ports: [HeldPort; 2],
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    /// `ports`: gRPC and HTTP.
    async fn start(file: &Path, ports: [HeldPort; 2]) -> Self {
        let [grpc, http] = [address(&ports[0]), address(&ports[1])];
        let config = consistency::Config::load(file).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(consistency::serve(config, stop.clone()));
        let client = until("the service answers", || async {
            ConsistencyClient::connect(format!("http://{grpc}"))
                .await
                .ok()
        });
        let client = client.await;
        Self {
            client,
            http,
            _ports: ports,
            stop,
            task,
        }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As kill -9: nothing is given back.
    pub async fn kill(self) {
        self.task.abort();
        self.task.await.unwrap_err();
    }

    pub async fn status(&self) -> v1::StatusReply {
        let request = v1::StatusRequest {
            channel: String::new(),
        };
        self.client
            .clone()
            .status(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// Waits until `mirror` has this state and reason (its beginning) for its live build.
    pub async fn wait_state(&self, mirror: &str, state: &str, reason: &str) -> v1::MirrorChannel {
        let what = format!("{mirror} is {state} {reason}");
        until(&what, || async {
            let status = self.status().await;
            let found = status
                .mirrors
                .into_iter()
                .find(|found| found.id == mirror)?;
            let found = found.channels.into_iter().next()?;
            (found.state == state && found.reason.starts_with(reason)).then_some(found)
        })
        .await
    }

    pub async fn wait_wanted(&self, pool: &str, build: Option<u64>) {
        until(&format!("wanted of {pool} is {build:?}"), || async {
            let status = self.status().await;
            let channel = status.channels.into_iter().next()?;
            (channel.wanted.get(pool).copied() == build).then_some(())
        })
        .await;
    }
}

/// Asks until there is an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let started = tokio::time::Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// `count` small files; `salt` changes the first `changed` of them.
pub fn files(count: usize, changed: usize, salt: &str) -> Files {
    let content = |number: usize| {
        let salt = if number < changed { salt } else { "" };
        format!("content {number} {salt}").into_bytes()
    };
    (0..count)
        .map(|number| (format!("pool/p+{number:05}.deb"), content(number)))
        .collect()
}
