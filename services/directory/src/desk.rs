//! The desk: where inputs are handed in. `Work` takes them one after the other.

use mirrorlog_core::directory::Input;
use runtime::feed::{Heard, Listener};
use tokio::sync::mpsc;
use tracing::Span;

/// Inputs that wait; who brings more waits too.
const INPUTS_MAX: usize = 4096;

/// What is handed in.
pub(crate) enum Order {
    Input(Box<Input>),
    /// What was retained on the log has been handed in.
    CaughtUp,
}

/// Where inputs are handed in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk(mpsc::Sender<Order>);

/// Orders on their way.
pub(crate) type Orders = mpsc::Receiver<Order>;

impl Desk {
    pub(crate) fn new() -> (Self, Orders) {
        let (orders, waiting) = mpsc::channel(INPUTS_MAX);
        (Self(orders), waiting)
    }

    pub(crate) async fn input(&self, input: Input) {
        // Fails only when the service stops.
        self.0.send(Order::Input(Box::new(input))).await.ok();
    }

    pub(crate) async fn caught_up(&self) {
        self.0.send(Order::CaughtUp).await.ok();
    }
}

impl Listener for Desk {
    async fn hear(&self, heard: Heard, _span: &Span) {
        self.input(match heard {
            Heard::Snapshot(snapshot, _delta) => Input::Snapshot(snapshot),
            Heard::Retraction(retraction) => Input::Retraction(retraction),
            Heard::Head(head) => Input::Head(head),
            Heard::Order(order) => Input::Order(order),
            Heard::Verdict(verdict, _signed) => Input::Verdict(verdict),
            Heard::Wanted {
                channel,
                pool,
                build,
            } => Input::Wanted {
                channel,
                pool,
                build,
            },
        })
        .await;
    }
}
