//! Operators' orders.

use std::sync::Arc;

use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::mirror::Target;
use mirrorlog_core::statement::{Order, OrderKind, OrderOutcome};
use mirrorlog_core::view::Selection;
use runtime::state::Write;

use super::{Engine, Message};
use crate::inbox::{Replay, chain};
use crate::state::Key;

impl Engine {
    pub(super) async fn on_order(&mut self, order: Order) {
        let key = Key::Order(order.id).encode();
        match self.parts.control.get(&key) {
            Ok(None) => {}
            Ok(Some(_)) => return,
            Err(error) => {
                tracing::error!(error = %chain(&error), "order cannot be looked up");
                return;
            }
        }
        self.commit(vec![Write::Put(key, Vec::new())]).await;
        tracing::info!(order = order.id, kind = ?order.kind, "carrying out an order");
        match order.kind {
            OrderKind::Replay {
                channel,
                lane,
                from,
            } => {
                let replay = Replay { channel, from };
                for of in Lane::ALL {
                    if lane.is_none_or(|lane| lane == of) {
                        self.parts.replay(of, replay.clone(), self.floor(of)).await;
                    }
                }
                let text = "replaying the log; nothing that is here is fetched again".to_owned();
                let outcome = OrderOutcome {
                    id: order.id,
                    ok: true,
                    text,
                };
                self.on_order_done(replay.channel, outcome).await;
            }
            OrderKind::Verify { channel, build } => self.verify(order.id, channel, build),
        }
    }

    fn verify(&self, id: u64, channel: Option<ChannelId>, build: Option<Build>) {
        let builds: Vec<(ChannelId, Target, Selection)> = self
            .slots
            .values()
            .filter(|slot| {
                channel
                    .as_ref()
                    .is_none_or(|channel| *channel == slot.channel.id)
            })
            .flat_map(|slot| {
                let held = slot.channel.held.values().map(|held| held.target);
                held.filter(|target| build.is_none_or(|build| build == target.build))
                    .map(|target| {
                        (
                            slot.channel.id.clone(),
                            target,
                            slot.selection(target.build),
                        )
                    })
            })
            .collect();
        let (parts, sender) = (Arc::clone(&self.parts), self.sender.clone());
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let outcome = crate::scrub::verify(&parts, &sender, id, &builds, &stop).await;
            sender
                .send(Message::OrderDone { channel, outcome })
                .await
                .ok();
        });
    }

    /// Tells the outcome of an order in the next report of its channel, or of all.
    pub(super) async fn on_order_done(
        &mut self,
        channel: Option<ChannelId>,
        outcome: OrderOutcome,
    ) {
        let ids: Vec<ChannelId> = self.slots.keys().cloned().collect();
        // An order about a channel that is not carried here is answered on all of them.
        let channel = channel.filter(|channel| self.slots.contains_key(channel));
        for id in ids {
            if channel.as_ref().is_none_or(|channel| *channel == id) {
                self.outcomes.push(outcome.clone());
                self.report(&id);
                self.outcomes.clear();
            }
        }
    }
}
