//! The answering end: sends what a store holds, in order of wants, while credit lasts.

mod inbox;
mod reader;

use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::Lane;
use runtime::boot::{NetworkLimits, Networks};
use runtime::store::Store;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;
use wire::v1::fetcher_server::{Fetcher, FetcherServer};
use wire::v1::{FetchBatch, FetchRequest};

use crate::protocol::{
    CONNECTION_WINDOW_BYTES, LANE_METADATA, MESSAGE_MAX_BYTES, STREAM_WINDOW_BYTES,
};
use inbox::Inbox;
use reader::Reader;

/// Messages read ahead of the network, per stream.
const READ_AHEAD_MESSAGES: usize = 2;

/// Streams of one network: each holds two messages and more for a client that does not read.
const STREAMS_PER_NETWORK: u32 = 64;

/// What one server lends to its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most streams of each lane; further ones are told `RESOURCE_EXHAUSTED`.
    pub streams_max: usize,
    /// Blocking threads that read for each lane. Each lane has its own, so that priority never waits for bulk.
    pub readers: usize,
    /// A client that says nothing for this long, or takes no message of those that it asked for, is cut off.
    pub idle: Duration,
    /// Streams at a time from one network, as connections; stops one that takes those of all. The machine itself is free.
    pub networks: NetworkLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_max: 1024,
            readers: 16,
            idle: Duration::from_secs(120),
            networks: NetworkLimits {
                connections: STREAMS_PER_NETWORK,
                ..NetworkLimits::default()
            },
        }
    }
}

/// Makes the gRPC service over `store`.
pub fn service(store: Store, limits: Limits) -> FetcherServer<Service> {
    let lane = || LanePool {
        streams: Arc::new(Semaphore::new(limits.streams_max)),
        readers: Arc::new(Semaphore::new(limits.readers)),
    };
    let service = Service {
        networks: Networks::new(limits.networks.clone()),
        store,
        priority: lane(),
        bulk: lane(),
        limits,
    };
    FetcherServer::new(service).max_decoding_message_size(MESSAGE_MAX_BYTES)
}

/// A tonic server with the windows, frame sizes and time limits that transfers want.
pub fn builder() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(64)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .tcp_nodelay(true)
        .trace_fn(runtime::trace::call_span)
}

/// `mirrorlog.v1.Fetcher` over a store. Made by [`service`].
#[derive(Debug)]
pub struct Service {
    store: Store,
    limits: Limits,
    networks: Networks,
    priority: LanePool,
    bulk: LanePool,
}

#[derive(Debug)]
struct LanePool {
    streams: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

#[tonic::async_trait]
impl Fetcher for Service {
    type FetchStream = ReceiverStream<Result<FetchBatch, Status>>;

    async fn fetch(
        &self,
        request: Request<Streaming<FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let lane = lane_of(&request)?;
        let pool = match lane {
            Lane::Priority => &self.priority,
            Lane::Bulk => &self.bulk,
        };
        let Ok(stream) = Arc::clone(&pool.streams).try_acquire_owned() else {
            return Err(Status::resource_exhausted(format!(
                "too many {lane} streams, try again later"
            )));
        };
        let place = match request.remote_addr() {
            Some(peer) => Some(self.networks.enter(peer.ip()).ok_or_else(|| {
                Status::resource_exhausted("your network has too many streams, try again later")
            })?),
            // A socket of this machine.
            None => None,
        };
        let inbox = Arc::new(Inbox::default());
        let (sender, answers) = mpsc::channel(READ_AHEAD_MESSAGES);
        let reader = Reader::new(
            self.store.clone(),
            Arc::clone(&inbox),
            Arc::clone(&pool.readers),
            self.limits.idle,
        );
        let receive = receive(request.into_inner(), Arc::clone(&inbox), self.limits.idle);
        let answer = async move {
            tokio::select! {
                status = receive => refuse(&sender, status).await,
                () = reader.run(&sender) => {}
                () = sender.closed() => {}
            }
            drop((stream, place));
        };
        tokio::spawn(answer.in_current_span());
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

fn lane_of<T>(request: &Request<T>) -> Result<Lane, Status> {
    let Some(value) = request.metadata().get(LANE_METADATA) else {
        return Ok(Lane::Bulk);
    };
    let named = Lane::ALL
        .into_iter()
        .find(|lane| value.as_bytes() == lane.as_str().as_bytes());
    named.ok_or_else(|| {
        Status::invalid_argument(format!("{LANE_METADATA} is neither priority nor bulk"))
    })
}

async fn refuse(sender: &mpsc::Sender<Result<FetchBatch, Status>>, status: Status) {
    tracing::debug!(code = ?status.code(), message = status.message(), "fetch stream refused");
    if sender
        .send_timeout(Err(status), Duration::from_secs(5))
        .await
        .is_err()
    {
        tracing::debug!("client went away before it heard why");
    }
}

/// Takes requests in until the client is done, which never returns, or breaks the rules, which does.
async fn receive(
    mut requests: Streaming<FetchRequest>,
    inbox: Arc<Inbox>,
    idle: Duration,
) -> Status {
    loop {
        match tokio::time::timeout(idle, requests.message()).await {
            Err(_) => {
                return Status::deadline_exceeded(format!(
                    "nothing heard for {} s",
                    idle.as_secs()
                ));
            }
            Ok(Err(status)) => return status,
            Ok(Ok(None)) => break,
            Ok(Ok(Some(request))) => {
                if let Err(status) = inbox.accept(request) {
                    return status;
                }
            }
        }
    }
    inbox.close();
    std::future::pending().await
}
