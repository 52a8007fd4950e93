//! The desk: where orders are handed in. `Work` takes them one after the other.

use std::sync::Arc;

use mirrorlog_core::consistency::{Input, Status};
use mirrorlog_core::id::{Build, ChannelId, MirrorId};
use mirrorlog_core::statement::{DeltaSource, Snapshot, Verdict};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tracing::Span;
use wire::Signed;

/// Orders that wait; who brings more waits too.
const ORDERS_MAX: usize = 4096;

/// A verdict as it was said.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) channel: ChannelId,
    pub(crate) build: Build,
    pub(crate) signed: Signed,
}

/// The start of a watch: who is meant to carry the channel, what stands, and what follows.
pub(crate) struct Watched {
    pub(crate) mirrors: Vec<MirrorId>,
    pub(crate) standing: Vec<Signed>,
    pub(crate) next: broadcast::Receiver<Arc<Said>>,
}

/// What is handed in.
pub(crate) enum Order {
    Input {
        input: Box<Input>,
        span: Span,
    },
    Snapshot {
        snapshot: Box<Snapshot>,
        delta: DeltaSource,
        span: Span,
    },
    Verdict {
        verdict: Box<Verdict>,
        signed: Signed,
    },
    Stranger(String),
    CaughtUp,
    Lead(Option<u64>),
    Forgotten,
    Status {
        channel: Option<ChannelId>,
        reply: oneshot::Sender<Status>,
    },
    Watch {
        channel: ChannelId,
        build: Build,
        reply: oneshot::Sender<Watched>,
    },
}

/// Where orders are handed in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk {
    orders: mpsc::Sender<Order>,
    challenge: Arc<Notify>,
}

/// Orders on their way.
pub(crate) type Orders = mpsc::Receiver<Order>;

impl Desk {
    pub(crate) fn new() -> (Self, Orders) {
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        (
            Self {
                orders,
                challenge: Arc::default(),
            },
            waiting,
        )
    }

    pub(crate) async fn input(&self, input: Input, span: &Span) {
        self.order(Order::Input {
            input: Box::new(input),
            span: span.clone(),
        })
        .await;
    }

    /// A build was announced.
    pub(crate) async fn snapshot(&self, snapshot: Snapshot, delta: DeltaSource, span: &Span) {
        self.order(Order::Snapshot {
            snapshot: Box::new(snapshot),
            delta,
            span: span.clone(),
        })
        .await;
    }

    /// A verdict came by the log.
    pub(crate) async fn verdict(&self, verdict: Verdict, signed: Signed) {
        self.order(Order::Verdict {
            verdict: Box::new(verdict),
            signed,
        })
        .await;
    }

    /// A report of a mirror that the configuration does not name.
    pub(crate) async fn stranger(&self, mirror: String) {
        self.order(Order::Stranger(mirror)).await;
    }

    /// What was retained on the log has been handed in.
    pub(crate) async fn caught_up(&self) {
        self.order(Order::CaughtUp).await;
    }

    /// The lease was won with this revision, or lost.
    pub(crate) async fn lead(&self, revision: Option<u64>) {
        self.order(Order::Lead(revision)).await;
    }

    /// The log has lost verdicts that were said.
    pub(crate) async fn forgotten(&self) {
        self.order(Order::Forgotten).await;
    }

    /// Returns when a verdict of a newer leader was seen.
    pub(crate) async fn challenged(&self) {
        self.challenge.notified().await;
    }

    /// A verdict of a newer leader was seen.
    pub(crate) fn challenge(&self) {
        self.challenge.notify_one();
    }

    /// None when the service stops.
    pub(crate) async fn status(&self, channel: Option<ChannelId>) -> Option<Status> {
        let (reply, status) = oneshot::channel();
        self.order(Order::Status { channel, reply }).await;
        status.await.ok()
    }

    /// None when the service stops.
    pub(crate) async fn watch(&self, channel: ChannelId, build: Build) -> Option<Watched> {
        let (reply, watched) = oneshot::channel();
        self.order(Order::Watch {
            channel,
            build,
            reply,
        })
        .await;
        watched.await.ok()
    }

    async fn order(&self, order: Order) {
        // Fails only when the service stops.
        self.orders.send(order).await.ok();
    }
}
