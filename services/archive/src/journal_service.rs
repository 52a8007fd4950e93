//! `Journal`: the archive's signed statements, for those who missed them on the log.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use mirrorlog_core::archive::Item;
use mirrorlog_core::id::Build;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wire::v1::{ChannelsReply, ChannelsRequest, HeadRequest, RetractionsRequest, SnapshotsRequest};
use wire::{rpc, v1};

use crate::daemon::{Channel, Daemon};
use crate::journal::with_causes;

/// Statements in one answer unless the caller asks for fewer.
const LIMIT: usize = 1024;
/// Statements read ahead of a slow caller.
const AHEAD: usize = 32;

/// The gRPC service.
pub struct JournalService {
    daemon: Arc<Daemon>,
}

type Statements = Pin<Box<dyn Stream<Item = Result<v1::Signed, Status>> + Send>>;

impl JournalService {
    /// Makes the service.
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }

    fn channel(&self, name: &str) -> Result<Arc<Channel>, Status> {
        let name = rpc::channel("channel", name)?;
        self.daemon
            .channel(&name)
            .ok_or_else(|| Status::not_found(format!("there is no channel {name}")))
    }
}

#[tonic::async_trait]
impl v1::journal_server::Journal for JournalService {
    type SnapshotsStream = Statements;
    type RetractionsStream = Statements;

    async fn channels(
        &self,
        _request: Request<ChannelsRequest>,
    ) -> Result<Response<ChannelsReply>, Status> {
        let channels = self.daemon.channels();
        let channels = channels
            .iter()
            .map(|channel| channel.declared.name.to_string())
            .collect();
        Ok(Response::new(ChannelsReply { channels }))
    }

    async fn head(&self, request: Request<HeadRequest>) -> Result<Response<v1::Signed>, Status> {
        let channel = self.channel(&request.get_ref().channel)?;
        let head = channel.head.signed();
        let none = || match channel.journal.halted() {
            Some(reason) => Status::data_loss(format!(
                "channel {} is halted: {reason}",
                channel.declared.name
            )),
            None => Status::not_found(format!(
                "channel {} has no build yet",
                channel.declared.name
            )),
        };
        Ok(Response::new(head.ok_or_else(none)?.to_proto()))
    }

    async fn snapshots(
        &self,
        request: Request<SnapshotsRequest>,
    ) -> Result<Response<Statements>, Status> {
        let request = request.into_inner();
        let channel = self.channel(&request.channel)?;
        let limit = usize::try_from(request.limit)
            .ok()
            .filter(|limit| (1..LIMIT).contains(limit))
            .unwrap_or(LIMIT);
        let from = Build::new(request.from).unwrap_or(Build::FIRST);
        let history = channel.journal.history();
        let items = history
            .from(from)
            .take(limit)
            .map(|published| Item::Snapshot(published.build))
            .collect();
        Ok(Response::new(statements(channel, items)))
    }

    async fn retractions(
        &self,
        request: Request<RetractionsRequest>,
    ) -> Result<Response<Statements>, Status> {
        let channel = self.channel(&request.get_ref().channel)?;
        let history = channel.journal.history();
        let items = history
            .retractions()
            .iter()
            .map(|taken| Item::Retraction(taken.sequence))
            .collect();
        Ok(Response::new(statements(channel, items)))
    }
}

/// Reads statements as the caller takes them.
fn statements(channel: Arc<Channel>, items: Vec<Item>) -> Statements {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        for item in items {
            let read = channel
                .journal
                .read(item)
                .map(|body| body.signed().to_proto());
            let read = read.map_err(|error| Status::internal(with_causes(&error)));
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                break;
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}
