//! `Consistency.Status` and `Consistency.Watch`.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures::Stream;
use mirrorlog_core::consistency::{BuildStatus, MirrorChannel, MirrorStatus, Reason};
use mirrorlog_core::id::{Build, ChannelId, MirrorId};
use mirrorlog_core::statement::{RevokeReason, VerdictState};
use mirrorlog_core::view::View;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use wire::v1::{self, consistency_server};
use wire::{Signed, rpc};

use crate::desk::{Desk, Watched};

/// Replies that wait for a watcher that reads slowly.
const WATCH_WAITING_MAX: usize = 64;

/// The gRPC service.
pub(crate) struct Service {
    pub(crate) desk: Desk,
    pub(crate) urls: BTreeMap<MirrorId, String>,
    pub(crate) shutdown: CancellationToken,
}

type Replies = ReceiverStream<Result<v1::WatchReply, Status>>;

#[tonic::async_trait]
impl consistency_server::Consistency for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchReply, Status>> + Send>>;

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusReply>, Status> {
        let channel = rpc::optional_channel("channel", &request.get_ref().channel)?;
        let status = self
            .desk
            .status(channel.clone())
            .await
            .ok_or_else(stopping)?;
        if let Some(channel) = channel.filter(|_| status.channels.is_empty()) {
            return Err(Status::not_found(format!(
                "channel {channel} is not known here"
            )));
        }
        let channels = status
            .channels
            .into_iter()
            .map(|channel| v1::ChannelStatus {
                channel: channel.channel.to_string(),
                build: number(channel.build),
                wanted: channel
                    .wanted
                    .iter()
                    .map(|(pool, build)| (pool.to_string(), build.get()))
                    .collect(),
                head_expires_ms: channel.head_expires.map_or(0, |expires| expires.as_ms()),
            });
        let mirrors = status.mirrors.into_iter().map(|mirror| self.mirror(mirror));
        Ok(Response::new(v1::StatusReply {
            channels: channels.collect(),
            mirrors: mirrors.collect(),
        }))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let channel = rpc::channel("channel", &request.get_ref().channel)?;
        let build = rpc::build("build", request.get_ref().build)?;
        let first = self
            .desk
            .watch(channel.clone(), build)
            .await
            .ok_or_else(stopping)?;
        let (replies, stream) = mpsc::channel(WATCH_WAITING_MAX);
        let (desk, shutdown) = (self.desk.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = watch(desk, channel, build, first, &replies) => {}
                () = replies.closed() => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(Replies::new(stream))))
    }
}

impl Service {
    fn mirror(&self, mirror: MirrorStatus) -> v1::MirrorStatus {
        v1::MirrorStatus {
            url: self.urls.get(&mirror.mirror).cloned().unwrap_or_default(),
            id: mirror.mirror.to_string(),
            pool: mirror.pool.to_string(),
            channels: mirror.channels.into_iter().map(mirror_channel).collect(),
        }
    }
}

/// Sends who carries the channel, what stands and what follows, until the watcher is gone.
async fn watch(
    desk: Desk,
    channel: ChannelId,
    build: Build,
    first: Watched,
    replies: &mpsc::Sender<Result<v1::WatchReply, Status>>,
) {
    let mirrors = first.mirrors.iter().map(ToString::to_string).collect();
    if replies
        .send(Ok(v1::WatchReply {
            mirrors,
            verdict: None,
        }))
        .await
        .is_err()
    {
        return;
    }
    let mut watched = Some(first);
    while let Some(Watched {
        standing, mut next, ..
    }) = watched
    {
        for signed in &standing {
            if replies.send(Ok(verdict_reply(signed))).await.is_err() {
                return;
            }
        }
        loop {
            match next.recv().await {
                Ok(said) if said.channel == channel && said.build == build => {
                    if replies.send(Ok(verdict_reply(&said.signed))).await.is_err() {
                        return;
                    }
                }
                Ok(_other_build) => {}
                // Too slow for what was said in between: what stands now says it too.
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
        watched = desk.watch(channel.clone(), build).await;
    }
}

fn verdict_reply(signed: &Signed) -> v1::WatchReply {
    v1::WatchReply {
        mirrors: Vec::new(),
        verdict: Some(signed.to_proto()),
    }
}

fn mirror_channel(channel: MirrorChannel) -> v1::MirrorChannel {
    let dropped = Some(VerdictState::Revoked(RevokeReason::Dropped));
    let live = channel.live;
    let of_live = channel
        .builds
        .iter()
        .find(|build| Some(build.build) == live);
    let retained = channel
        .builds
        .iter()
        .filter(|build| build.verdict != dropped);
    v1::MirrorChannel {
        channel: channel.channel.to_string(),
        live: number(channel.live),
        staged: number(channel.staged),
        state: channel.state.as_str().to_owned(),
        missing: channel.missing,
        lag_builds: channel.lag_builds,
        lag_seconds: seconds(channel.lag_ms),
        reason: channel.reason.as_ref().map(reason_text).unwrap_or_default(),
        fetch_bytes_per_s: channel.fetch_bytes_per_s,
        retained: retained.map(|build| build.build.get()).collect(),
        orders: channel
            .orders
            .iter()
            .map(rpc::order_outcome_to_proto)
            .collect(),
        whole: channel
            .builds
            .iter()
            .filter(|build| {
                let good = [VerdictState::Verified, VerdictState::Complete];
                let verdict = build.verdict.as_ref();
                verdict.is_some_and(|verdict| good.contains(verdict))
            })
            .map(|build| build.build.get())
            .collect(),
        sampled_files: of_live.map_or(0, |build| build.sampled_files),
        bad_at_most: of_live.map_or(1.0, BuildStatus::bad_at_most),
        view: match channel.view {
            View::All => String::new(),
            part @ View::Part(_) => part.to_string(),
        },
    }
}

/// A word that programs match, and what people need beside it.
fn reason_text(reason: &Reason) -> String {
    match reason {
        Reason::Fork(build) => format!("fork: build {build} was signed with two roots"),
        Reason::NoReport => "no-report: the mirror has not reported this channel".to_owned(),
        Reason::Revoked(reason) => reason.to_string(),
        Reason::Drained(reason) => mirrorlog_core::drain::text(reason),
        Reason::Unreachable => RevokeReason::Unreachable.to_string(),
        Reason::Stale => "stale: the mirror has not reported lately".to_owned(),
        Reason::Halted(text) => format!("halted: {text}"),
        Reason::Private => "private: the mirror has no public URL".to_owned(),
        Reason::Expired => "expired: the channel's head has expired".to_owned(),
    }
}

fn number(build: Option<Build>) -> u64 {
    build.map_or(0, Build::get)
}

fn seconds(ms: i64) -> f64 {
    // Exact up to 2^53 ms.
    ms.max(0) as f64 / 1000.0
}

fn stopping() -> Status {
    Status::unavailable("the service is stopping")
}
