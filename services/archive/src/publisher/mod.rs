//! `Publisher`: publishing from another machine, with a token.
//!
//! Whoever sends a tree is believed nothing: the archive makes the manifest itself, checks content by digest and the whole
//! by the channel's layout, under its own keys, and numbers and signs it as what was published here.

mod content;
mod failed;
mod held;
mod receive;
mod talk;
mod tokens;
mod visitors;
mod work;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mirrorlog_core::id::{Build, ChannelId, Lane};
use runtime::store::StoreError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;
use wire::v1::consistency_client::ConsistencyClient;
use wire::v1::submit_reply::Kind as Reply;
use wire::v1::submit_request::Kind as Asking;
use wire::v1::{
    DescribeReply, DescribeRequest, RetractReply, SubmitReply, SubmitRequest, WatchReply,
    WatchRequest, WithdrawBuildsRequest,
};
use wire::{rpc, v1};

use crate::collect::PARTIALS_KEPT_MS;
use crate::commit::Withdraw;
use crate::config::Publishing;
use crate::daemon::{Channel, Daemon};
use crate::describe::no_channel;
use crate::fence::run_blocking;

use failed::failed;
use held::{Held, allow, no_token};
use talk::Talk;
use tokens::Verb;
pub(crate) use tokens::{Tokens, TokensError, Wanted};
pub(crate) use visitors::Visitors;
use work::{Submitted, Work, scratch};

/// Watches at a time: each holds a connection to the consistency service.
const WATCHES_MAX: usize = 64;
/// How long submissions whose content is here have to end when the archive stops.
const ENDING: Duration = Duration::from_secs(20);
/// Time for a submission's first message.
const BEGIN: Duration = Duration::from_secs(10);
/// Answers that may wait for a publisher.
const REPLIES: usize = 4;
/// Largest message; publishers send a quarter of it.
const MESSAGE_MAX_BYTES: usize = 1 << 20;

/// The gRPC service, on a listener of its own: publishers have tokens, no certificates.
pub(crate) struct PublisherService {
    daemon: Arc<Daemon>,
    section: Publishing,
    watches: Arc<Semaphore>,
    /// Submissions under way.
    tracker: TaskTracker,
    ending: CancellationToken,
}

/// Makes the service with its limits; and what ends when it is told to stop and everybody has gone.
pub(crate) fn service(
    daemon: Arc<Daemon>,
    section: Publishing,
    ending: CancellationToken,
) -> (
    v1::publisher_server::PublisherServer<PublisherService>,
    impl Future<Output = ()> + Send,
) {
    let tracker = TaskTracker::new();
    let (of, stop) = (tracker.clone(), ending.clone());
    let ended = async move {
        stop.cancelled().await;
        of.close();
        if tokio::time::timeout(ENDING, of.wait()).await.is_err() {
            tracing::warn!("submissions are left as they are");
        }
    };
    let service = PublisherService {
        daemon,
        section,
        watches: Arc::new(Semaphore::new(WATCHES_MAX)),
        tracker,
        ending,
    };
    let service = v1::publisher_server::PublisherServer::new(service)
        .max_decoding_message_size(MESSAGE_MAX_BYTES);
    (service, ended)
}

/// Lets go of what came in part and was not asked for again. Blocks.
pub(crate) fn sweep(daemon: &Daemon) -> Result<u64, StoreError> {
    let before = runtime::boot::now().plus_ms(-PARTIALS_KEPT_MS);
    // Of a process that was killed; nobody works there yet.
    let scratch = scratch(daemon);
    if let Err(error) = std::fs::remove_dir_all(&scratch)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %scratch.display(), "not removed");
    }
    daemon.pages.store().sweep_partials(before)
}

type Answers = Pin<Box<dyn Stream<Item = Result<SubmitReply, Status>> + Send>>;
type Watched = Pin<Box<dyn Stream<Item = Result<WatchReply, Status>> + Send>>;

impl PublisherService {
    /// The caller's token.
    async fn token<T>(&self, request: &Request<T>) -> Result<Held, Status> {
        let header = request.metadata().get("authorization");
        let secret = header
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.strip_prefix("Bearer "))
            .and_then(|text| hex::decode(text).ok());
        let held = Held::of(&self.daemon, secret.ok_or_else(no_token)?).await;
        if held
            .as_ref()
            .is_err_and(|status| status.code() == tonic::Code::Unauthenticated)
        {
            let from = request.remote_addr().map(|address| address.to_string());
            tracing::warn!(from, "a publisher was not let in: its token does not count");
        }
        held
    }

    fn channel(&self, name: &ChannelId) -> Result<Arc<Channel>, Status> {
        let channel = self.daemon.channel(name);
        channel.ok_or_else(|| no_channel(&self.daemon, name))
    }
}

#[tonic::async_trait]
impl v1::publisher_server::Publisher for PublisherService {
    type SubmitStream = Answers;
    type WatchStream = Watched;

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeReply>, Status> {
        let token = self.token(&request).await?;
        let name = rpc::channel("channel", &request.get_ref().channel)?;
        let mount = self
            .daemon
            .channel(&name)
            .map(|channel| channel.declared.mount.clone());
        let shares = |other: &Arc<Channel>| {
            token.names(&other.declared.name) && Some(&other.declared.mount) == mount.as_ref()
        };
        if !token.names(&name) && !self.daemon.channels().iter().any(shares) {
            return Err(Status::permission_denied(format!(
                "the token of {} is not for channel {name}",
                token.publisher
            )));
        }
        let channel = self.channel(&name)?;
        Ok(Response::new(self.daemon.described(&channel).await?))
    }

    async fn submit(
        &self,
        request: Request<Streaming<SubmitRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let token = self.token(&request).await?;
        let mut requests = request.into_inner();
        let begin = tokio::time::timeout(BEGIN, requests.message()).await;
        let begin = begin.map_err(|_| Status::deadline_exceeded("nothing was submitted"))??;
        let Some(Asking::Begin(begin)) = begin.and_then(|message| message.kind) else {
            return Err(Status::invalid_argument(
                "a submission begins with what it is for",
            ));
        };
        let asked = Submitted::read(begin, &token)?;
        let channel = self.channel(&asked.request.channel)?;
        let urgent = asked.request.lane == Lane::Priority;
        let place = self.daemon.visitors.enter(&token.publisher, urgent)?;
        let (replies, answers) = mpsc::channel(REPLIES);
        let span = tracing::info_span!("submit", channel = %asked.request.channel, publisher = token.publisher);
        let work = Work {
            daemon: Arc::clone(&self.daemon),
            channel,
            asked: Arc::new(asked),
            token,
            max_size: self.section.max_size,
        };
        let ending = self.ending.clone();
        let work = async move {
            let _place = place;
            let talk = Talk::new(requests, replies.clone(), ending);
            let reply = match work.run(talk).await {
                Ok(reply) => Ok(reply),
                Err(failed) => failed.answer(),
            };
            match &reply {
                Ok(Reply::Submitted(done)) => {
                    tracing::info!(builds = ?done.builds, unchanged = done.unchanged, "published by token")
                }
                Ok(_) => tracing::warn!("a submission was refused"),
                Err(status) => tracing::warn!(%status, "a submission was not published"),
            }
            let reply = reply.map(|kind| SubmitReply { kind: Some(kind) });
            // Who has gone is not told.
            replies.send(reply).await.ok();
        };
        self.tracker.spawn(work.instrument(span));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn withdraw(
        &self,
        request: Request<WithdrawBuildsRequest>,
    ) -> Result<Response<RetractReply>, Status> {
        let token = self.token(&request).await?;
        let asked = request.into_inner();
        let name = rpc::channel("channel", &asked.channel)?;
        allow(&token, &name, Verb::Retract)?;
        let channel = self.channel(&name)?;
        let withdraw = Withdraw {
            first: rpc::build("first", asked.first)?,
            last: rpc::build("last", asked.last)?,
            reason: asked.reason,
        };
        let history = channel.journal.history();
        for build in [withdraw.first, withdraw.last] {
            if history.get(build).is_none() {
                let text = format!("channel {name} has no build {build}");
                return Err(Status::not_found(text));
            }
        }
        tracing::info!(channel = %name, publisher = token.publisher, first = asked.first, last = asked.last, "to be retracted by token");
        let store = self.daemon.pages.store().clone();
        // What replaces them is not let go meanwhile.
        let _pin = run_blocking(move || store.pin()).await;
        let _pin = _pin.map_err(|error| failed(&error.into()))?;
        let replacement = match Build::new(asked.replacement) {
            None => None,
            Some(build) => Some(self.daemon.older(&channel, build, &withdraw).await?),
        };
        let reply = self.daemon.retract(&channel, withdraw, replacement).await?;
        Ok(Response::new(reply))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Watched>, Status> {
        let token = self.token(&request).await?;
        let request = request.into_inner();
        let name = rpc::channel("channel", &request.channel)?;
        if !token.names(&name) {
            return Err(Status::permission_denied(format!(
                "the token of {} is not for channel {name}",
                token.publisher
            )));
        }
        let config = &self.daemon.config;
        let Some(address) = &config.consistency_grpc else {
            return Err(Status::failed_precondition(
                "the archive's configuration names no consistency service: set [consistency] grpc",
            ));
        };
        let down = |error: &(dyn std::error::Error + 'static)| {
            Status::unavailable(format!(
                "the consistency service does not answer: {}",
                runtime::chain(error)
            ))
        };
        let busy = |_| Status::unavailable("too many are waiting at the moment");
        let watch = Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(busy)?;
        let tls = config.tls.clone();
        let tls = run_blocking(move || runtime::tls::load(tls.as_ref())).await;
        let tls = tls.map_err(|error| down(&error))?;
        let endpoint =
            runtime::tls::endpoint(address, tls.as_ref()).map_err(|error| down(&error))?;
        let connected = endpoint.connect_timeout(BEGIN).connect().await;
        let mut client = ConsistencyClient::new(connected.map_err(|error| down(&error))?);
        let watched = client.watch(request).await?.into_inner();
        let watched = watched.map(move |reply| {
            let _held_as_long_as_this = &watch;
            reply
        });
        Ok(Response::new(Box::pin(watched)))
    }
}
