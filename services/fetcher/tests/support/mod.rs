//! Servers, stores and content for the tests.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fetcher::client::{Kind, Source, Wanted};
use fetcher::server::{Limits, builder, service};
use mirrorlog_core::id::Digest;
use runtime::store::Store;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use wire::v1::fetcher_server::{Fetcher, FetcherServer};

/// A store in a folder of its own.
pub(crate) struct Disk {
    pub(crate) store: Store,
    _dir: TempDir,
}

pub(crate) fn disk() -> Disk {
    let dir = tempfile::tempdir().unwrap();
    Disk {
        store: Store::open(dir.path()).unwrap(),
        _dir: dir,
    }
}

/// Bytes that do not compress, different for each seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Stores contents and returns what to want.
pub(crate) fn fill(store: &Store, contents: impl IntoIterator<Item = Vec<u8>>) -> Vec<Wanted> {
    let batch = store.batch();
    let put = |bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        batch.put(&digest, &bytes).unwrap();
        Wanted {
            digest,
            size_bytes: bytes.len() as u64,
            kind: Kind::Blob,
        }
    };
    let wants = contents.into_iter().map(put).collect();
    batch.commit().unwrap();
    wants
}

/// A server in a runtime of its own, so that dropping it cuts every connection as `kill -9` would.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    listener: std::net::TcpListener,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub(crate) fn start(store: &Store) -> Self {
        Self::start_with(store, Limits::default())
    }

    pub(crate) fn start_at(store: &Store, address: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        Self::serve(listener, service(store.clone(), Limits::default()))
    }

    pub(crate) fn start_with(store: &Store, limits: Limits) -> Self {
        Self::serve(anywhere(), service(store.clone(), limits))
    }

    pub(crate) fn start_other(fetcher: impl Fetcher) -> Self {
        Self::serve(anywhere(), FetcherServer::new(fetcher))
    }

    /// Cuts every connection; those that come meanwhile wait for the server that takes its place.
    pub(crate) fn killed(mut self, store: &Store) -> Self {
        self.kill();
        let listener = self.listener.try_clone().unwrap();
        Self::serve(listener, service(store.clone(), Limits::default()))
    }

    fn serve<F: Fetcher>(listener: std::net::TcpListener, service: FetcherServer<F>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let served = listener.try_clone().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(served).unwrap();
            builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            listener,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn source(&self) -> Source {
        Source::new(&self.address.to_string()).unwrap()
    }

    /// Returns when nothing of it runs any more.
    fn kill(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        let (begun, longest) = (Instant::now(), Duration::from_secs(10));
        // No thread of a runtime may wait for one.
        let end = std::thread::spawn(move || runtime.shutdown_timeout(longest));
        end.join().unwrap();
        assert!(
            begun.elapsed() < longest,
            "something of the server still runs"
        );
    }
}

fn anywhere() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for a condition, at most 20 s.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..4000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain: {what}");
}

pub(crate) fn assert_here(store: &Store, wants: &[Wanted]) {
    for wanted in wants {
        assert_eq!(
            store.check(&wanted.digest).unwrap(),
            Some(true),
            "{}",
            wanted.digest
        );
    }
}
