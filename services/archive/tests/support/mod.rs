//! A real archive daemon on a real nats-server, each test with its own.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, dead_code)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mirrorlog_core::id::{ChannelId, Digest, Lane};
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode, Summary};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{Head, Retraction, Snapshot};
use mirrorlog_core::time::Mtime;
use runtime::log::{Log, NatsConfig};
use runtime::store::Store;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use wire::event::Opened;
use wire::v1::admin_client::AdminClient;
use wire::v1::commit_request::Step;
use wire::v1::describe_request::Declare;
use wire::v1::journal_client::JournalClient;
use wire::v1::{
    CommitRequest, DescribeReply, DescribeRequest, HeadRequest, RetractRequest, RetractionsRequest,
    SnapshotsRequest,
};
use wire::{Event, Signed};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Folder of one archive, and how to reach it.
pub struct Site {
    pub dir: TempDir,
    pub grpc: String,
    nats: String,
}

/// A running archive.
pub struct Running {
    pub admin: AdminClient<Channel>,
    pub journal: JournalClient<Channel>,
    stop: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
}

pub fn channel() -> ChannelId {
    ChannelId::new("noble").unwrap()
}

/// An address that no other test has: loopback is large, and ports asked of the system are given out again.
fn own_address() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [.., high, middle, low] = std::process::id().to_be_bytes();
    let site = COUNT.fetch_add(1, Ordering::Relaxed);
    assert!(site < 250, "too many sites in one process");
    format!(
        "127.{}.{middle}.{low}:{}",
        1 + high % 250,
        20_000 + u16::from(site)
    )
}

impl Site {
    pub fn new(nats: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        runtime::key::generate(&dir.path().join("archive"), "test").unwrap();
        let site = Self {
            dir,
            grpc: own_address(),
            nats: nats.to_owned(),
        };
        site.configure();
        site
    }

    /// Another machine with a copy of everything.
    pub fn copy(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), dir.path());
        let site = Self {
            dir,
            grpc: own_address(),
            nats: self.nats.clone(),
        };
        site.configure();
        site
    }

    fn configure(&self) {
        let text = format!(
            "[archive]\nstate = 'state'\nstore = 'store'\nkey = 'archive.sec'\nallow_undeclared = true\n\
             [[channels]]\nname = 'noble'\nmount = '/ubuntu'\nlayout = 'plain'\n\
             [[channels]]\nname = 'noble-security'\nmount = '/ubuntu'\nlayout = 'plain'\n\
             [nats]\nurl = '{}'\n[grpc]\nlisten = '{}'\n[http]\nlisten = '127.0.0.1:0'\n\
             [heads]\nrenew = '1s'\nexpire = '60s'\n[reconcile]\nevery = '200ms'\nhear = '1s'\n",
            self.nats, self.grpc
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("archive.toml")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn keys(&self) -> TrustedKeys {
        TrustedKeys::new([runtime::key::read_public(&self.dir.path().join("archive.pub")).unwrap()])
    }

    /// Starts the archive; a just stopped one may still be letting go of its state.
    pub async fn start(&self) -> Running {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let config = archive::Config::load(&self.config()).unwrap();
            let socket = config.admin_socket();
            let stop = CancellationToken::new();
            let mut serving = tokio::spawn(archive::serve(config, stop.clone()));
            let connected = tokio::select! {
                ended = &mut serving => Err(ended.unwrap().unwrap_err()),
                connected = connect(&socket, &self.grpc) => Ok(connected),
            };
            match connected {
                Ok((admin, journal)) => {
                    return Running {
                        admin,
                        journal,
                        stop,
                        serving,
                    };
                }
                Err(error) if tokio::time::Instant::now() > until => panic!("{error:?}"),
                Err(_busy) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Puts a manifest of these files into the store.
    pub fn manifest(&self, files: &[(&str, &str)]) -> Summary {
        let store = Store::open(&self.dir.path().join("store")).unwrap();
        let mut batch = store.batch();
        let mut sorted = files.to_vec();
        sorted.sort_unstable();
        for (_, content) in &sorted {
            batch
                .put(&Digest::of(content.as_bytes()), content.as_bytes())
                .unwrap();
        }
        let mut builder = Builder::new(&mut batch);
        for (path, content) in &sorted {
            let file = FileEntry {
                size_bytes: content.len() as u64,
                digest: Digest::of(content.as_bytes()),
                mode: Mode::Plain,
                mtime: Mtime::from_seconds(1),
            };
            builder
                .push(
                    &EntryPath::new(path.as_bytes()).unwrap(),
                    &Entry::File(file),
                )
                .unwrap();
        }
        let summary = builder.finish().unwrap();
        batch.commit().unwrap();
        summary
    }

    pub async fn log(&self) -> Log {
        Log::connect(&NatsConfig::new(&self.nats), "test", true)
            .await
            .unwrap()
    }

    /// The newest event of a lane, verified.
    pub async fn last_event(&self, lane: Lane) -> Option<(u64, Event, Opened, Option<Head>)> {
        let log = self.log().await;
        let (sequence, payload) = log.last_event(lane, &channel()).await.ok()??;
        let event = Event::decode(&payload).unwrap();
        let (opened, head) = event.open(&self.keys()).unwrap();
        Some((sequence, event, opened, head))
    }

    /// Waits until the newest event of a lane is this build.
    pub async fn until_on_log(&self, lane: Lane, build: u64) -> Head {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some((_, _, Opened::Snapshot(snapshot), head)) = self.last_event(lane).await
                && snapshot.build.get() == build
            {
                return head.unwrap();
            }
            assert!(
                tokio::time::Instant::now() < until,
                "build {build} is not on the log"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub async fn connect(socket: &Path, grpc: &str) -> (AdminClient<Channel>, JournalClient<Channel>) {
    let unix = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    let tcp = Endpoint::from_shared(format!("http://{grpc}")).unwrap();
    loop {
        if let (Ok(unix), Ok(tcp)) = (unix.connect().await, tcp.connect().await) {
            return (AdminClient::new(unix), JournalClient::new(tcp));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
    }

    pub async fn describe(&mut self) -> DescribeReply {
        let request = DescribeRequest {
            channel: channel().to_string(),
            declare: None,
        };
        self.admin.describe(request).await.unwrap().into_inner()
    }

    pub async fn declare(&mut self, name: &str) -> Result<DescribeReply, Status> {
        let declare = Some(Declare {
            layout: wire::v1::Layout::Plain.into(),
        });
        let request = DescribeRequest {
            channel: name.to_owned(),
            declare,
        };
        Ok(self.admin.describe(request).await?.into_inner())
    }

    /// Publishes one bulk build on top of the newest.
    pub async fn publish(&mut self, summary: Summary) -> Result<Vec<u64>, Status> {
        let newest = self.describe().await.newest;
        self.commit(request(newest, &[(summary, newest, Lane::Bulk)]))
            .await
    }

    /// Publishes as soon as the log is there.
    pub async fn publish_patiently(&mut self, summary: Summary) -> u64 {
        let until = tokio::time::Instant::now() + PATIENCE;
        // A merge may come between the look and the commit.
        let retried = [tonic::Code::Unavailable, tonic::Code::FailedPrecondition];
        loop {
            match self.publish(summary).await {
                Ok(builds) => return builds[0],
                Err(status)
                    if retried.contains(&status.code()) && tokio::time::Instant::now() < until =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(status) => panic!("{status:?}"),
            }
        }
    }

    pub async fn commit(&mut self, request: CommitRequest) -> Result<Vec<u64>, Status> {
        Ok(self.admin.commit(request).await?.into_inner().builds)
    }

    pub async fn retract(
        &mut self,
        first: u64,
        last: u64,
        replacement: Option<CommitRequest>,
    ) -> Result<(u64, u64), Status> {
        let (channel, reason) = (channel().to_string(), "broken".to_owned());
        let reply = self
            .admin
            .retract(RetractRequest {
                channel,
                first,
                last,
                reason,
                replacement,
            })
            .await?;
        let reply = reply.into_inner();
        Ok((reply.sequence, reply.replacement))
    }

    pub async fn head(&mut self, site: &Site) -> Result<Head, Status> {
        let head = self
            .journal
            .head(HeadRequest {
                channel: channel().to_string(),
            })
            .await?
            .into_inner();
        Ok(Signed::from_proto(head)
            .unwrap()
            .open_head(&site.keys())
            .unwrap())
    }

    pub async fn snapshots(&mut self, site: &Site) -> Vec<Snapshot> {
        let request = SnapshotsRequest {
            channel: channel().to_string(),
            from: 0,
            limit: 0,
        };
        let mut stream = self.journal.snapshots(request).await.unwrap().into_inner();
        let mut snapshots = Vec::new();
        while let Some(signed) = stream.message().await.unwrap() {
            snapshots.push(
                Signed::from_proto(signed)
                    .unwrap()
                    .open_snapshot(&site.keys())
                    .unwrap(),
            );
        }
        snapshots
    }

    pub async fn retractions(&mut self, site: &Site) -> Vec<Retraction> {
        let request = RetractionsRequest {
            channel: channel().to_string(),
        };
        let mut stream = self
            .journal
            .retractions(request)
            .await
            .unwrap()
            .into_inner();
        let mut retractions = Vec::new();
        while let Some(signed) = stream.message().await.unwrap() {
            retractions.push(
                Signed::from_proto(signed)
                    .unwrap()
                    .open_retraction(&site.keys())
                    .unwrap(),
            );
        }
        retractions
    }
}

pub fn request(newest: u64, steps: &[(Summary, u64, Lane)]) -> CommitRequest {
    let step = |(summary, base, lane): &(Summary, u64, Lane)| Step {
        root: summary.root.as_bytes().to_vec().into(),
        entries: summary.entries,
        bytes: summary.bytes,
        base: *base,
        lane: wire::rpc::lane_to_proto(*lane),
    };
    CommitRequest {
        channel: channel().to_string(),
        expected_newest: newest,
        steps: steps.iter().map(step).collect(),
        notices: Vec::new(),
        allow_retracted: false,
    }
}

/// Copies a folder, sockets apart.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_dir(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
