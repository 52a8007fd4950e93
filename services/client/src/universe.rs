//! The archive itself, over gRPC: what no mirror has.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::session::{LocalFault, Trouble};
use crate::source::PROGRESS_BYTES;
use fetcher::client::{FetchError, FetchOptions, Kind, Source as Fetch, Wanted, fetch_all};
use futures::TryStreamExt as _;
use mirrorlog_core::client::climb::Answer;
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use runtime::store::{Store, StoreError};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use wire::v1::journal_client::JournalClient;
use wire::{Signed, v1};

/// Comment of statements in signify's format.
const COMMENT: &str = "mirrorlog";

/// The archive. Connects when it is first needed.
#[derive(Clone)]
pub(crate) struct Universe {
    fetch: Fetch,
    endpoint: Endpoint,
    /// Longest wait for something to come.
    stall: Duration,
}

impl fmt::Debug for Universe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Universe")
            .field(&self.fetch.address())
            .finish()
    }
}

impl Universe {
    /// None for what is no address.
    pub(crate) fn new(address: &str, connect: Duration, stall: Duration) -> Option<Self> {
        let fetch = Fetch::new(address).ok()?;
        let url = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let endpoint = Endpoint::from_shared(url).ok()?;
        let endpoint = endpoint.connect_timeout(connect).timeout(stall);
        Some(Self {
            fetch,
            endpoint,
            stall,
        })
    }

    fn journal(&self) -> JournalClient<tonic::transport::Channel> {
        JournalClient::new(self.endpoint.connect_lazy())
    }

    pub(crate) async fn head(&self, channel: &ChannelId) -> Result<Vec<u8>, Answer> {
        let request = v1::HeadRequest {
            channel: channel.to_string(),
        };
        let head = self
            .journal()
            .head(request)
            .await
            .map_err(|status| said(&status))?;
        signify(head.into_inner())
    }

    pub(crate) async fn snapshot(
        &self,
        channel: &ChannelId,
        build: Build,
    ) -> Result<Vec<u8>, Answer> {
        let request = v1::SnapshotsRequest {
            channel: channel.to_string(),
            from: build.get(),
            limit: 1,
        };
        let mut journal = self.journal();
        let snapshots = journal
            .snapshots(request)
            .await
            .map_err(|status| said(&status))?;
        let first = snapshots
            .into_inner()
            .try_next()
            .await
            .map_err(|status| said(&status))?;
        signify(first.ok_or(Answer::Older)?)
    }

    pub(crate) async fn page(&self, digest: &Digest) -> Result<Vec<u8>, Trouble> {
        let temporary = std::env::temp_dir();
        let dir = tempfile::tempdir().map_err(|source| LocalFault {
            path: temporary,
            source,
        })?;
        let store = Store::open(dir.path()).map_err(|error| local(dir.path(), error))?;
        let wanted = Wanted {
            digest: *digest,
            size_bytes: PAGE_MAX_BYTES as u64,
            kind: Kind::Page,
        };
        self.fetch(wanted, &store, self.stall, |_| {}).await?;
        let read = store.read(digest, PAGE_MAX_BYTES);
        let read = read.map_err(|error| local(dir.path(), error))?;
        Ok(read.ok_or(Answer::Refused)?)
    }

    /// Fetches a file's content into a store below `dir`, and gives the file there; its digest was checked.
    pub(crate) async fn blob(
        &self,
        digest: Digest,
        size_bytes: u64,
        dir: &Path,
        stall: Duration,
        reached: impl Fn(u64),
    ) -> Result<PathBuf, Trouble> {
        let store = Store::open(dir).map_err(|error| local(dir, error))?;
        let wanted = Wanted {
            digest,
            size_bytes,
            kind: Kind::Blob,
        };
        self.fetch(wanted, &store, stall, reached).await?;
        Ok(store.path_of(&digest))
    }

    async fn fetch(
        &self,
        wanted: Wanted,
        store: &Store,
        stall: Duration,
        reached: impl Fn(u64),
    ) -> Result<(), Trouble> {
        let cancel = CancellationToken::new();
        let _ended = cancel.clone().drop_guard();
        let options = FetchOptions {
            cancel,
            stall,
            ..FetchOptions::default()
        };
        let progress = options.progress.clone();
        let sources = [self.fetch.clone()];
        let fetch = fetch_all(&sources, [wanted], store, &options);
        let received = || progress.received_bytes();
        match moving(fetch, stall, received, reached).await {
            None if received() == 0 => Err(Answer::Unreachable.into()),
            None => Err(Answer::Stalled.into()),
            Some(Err(FetchError::Store(error))) => Err(local(store.dir(), error)),
            Some(Err(error)) => {
                tracing::debug!(error = runtime::chain(&error), "the archive gives nothing");
                Err(Answer::Refused.into())
            }
            Some(Ok(fetched)) if fetched.is_whole() => Ok(()),
            Some(Ok(_)) => Err(Answer::Missing.into()),
        }
    }
}

/// Waits while enough comes; none after `stall` with next to nothing.
async fn moving<T>(
    work: impl Future<Output = T>,
    stall: Duration,
    received: impl Fn() -> u64,
    reached: impl Fn(u64),
) -> Option<T> {
    const LOOK: Duration = Duration::from_millis(200);
    let mut work = std::pin::pin!(work);
    let mut last = (0, tokio::time::Instant::now());
    loop {
        match tokio::time::timeout(LOOK, &mut work).await {
            Ok(done) => return Some(done),
            Err(_) if received() >= last.0 + PROGRESS_BYTES => {
                last = (received(), tokio::time::Instant::now());
                reached(last.0);
            }
            Err(_) if last.1.elapsed() >= stall => return None,
            Err(_) => {}
        }
    }
}

/// The own disk's doing.
fn local(path: &Path, error: StoreError) -> Trouble {
    let (path, source) = (path.to_owned(), io::Error::other(error));
    LocalFault { path, source }.into()
}

fn said(status: &tonic::Status) -> Answer {
    match status.code() {
        tonic::Code::NotFound => Answer::Missing,
        // tonic's own time-out is Cancelled.
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Answer::Stalled,
        tonic::Code::Unavailable | tonic::Code::Unknown => Answer::Unreachable,
        tonic::Code::Ok
        | tonic::Code::InvalidArgument
        | tonic::Code::AlreadyExists
        | tonic::Code::PermissionDenied
        | tonic::Code::ResourceExhausted
        | tonic::Code::FailedPrecondition
        | tonic::Code::Aborted
        | tonic::Code::OutOfRange
        | tonic::Code::Unimplemented
        | tonic::Code::Internal
        | tonic::Code::DataLoss
        | tonic::Code::Unauthenticated => Answer::Refused,
    }
}

/// As mirrors give it, so that there is one way to read it.
fn signify(signed: v1::Signed) -> Result<Vec<u8>, Answer> {
    let signed = Signed::from_proto(signed).map_err(|_| Answer::Corrupt)?;
    Ok(signed.to_signify(COMMENT))
}
