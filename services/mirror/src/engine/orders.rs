//! Operators' orders.

use std::sync::Arc;

use mirrorlog_core::drain;
use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::mirror::Target;
use mirrorlog_core::statement::{Order, OrderKind, OrderOutcome, Statement};
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
        tracing::info!(order = order.id, kind = ?order.kind, "carrying out an order");
        // A backfill counts as carried out when its builds are remembered.
        let later = matches!(&order.kind, OrderKind::Backfill { .. });
        if !later {
            self.note_order(order.id).await;
        }
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
            OrderKind::Backfill {
                channel,
                first,
                last,
            } => match self.why_no_backfill(&channel) {
                Some(text) => {
                    let (id, ok) = (order.id, false);
                    self.note_order(id).await;
                    self.on_order_done(Some(channel), OrderOutcome { id, ok, text })
                        .await;
                }
                None => self.ask_backfill(order.id, channel, first, last),
            },
            OrderKind::Drain { .. } | OrderKind::Resume => self.on_drain(order).await,
        }
    }

    /// Remembers that an order was carried out.
    pub(super) async fn note_order(&mut self, id: u64) {
        let key = Key::Order(id).encode();
        self.commit(vec![Write::Put(key, Vec::new())]).await;
    }

    fn why_no_backfill(&self, channel: &ChannelId) -> Option<String> {
        let slot = self.slots.get(channel);
        match slot.map(|slot| &slot.channel) {
            None => Some(format!("channel {channel} is not carried here")),
            Some(known) if known.halt.is_some() => Some(format!("channel {channel} is halted")),
            Some(known) if known.live.is_none() => {
                Some(format!("nothing of channel {channel} is live here yet"))
            }
            Some(_) => None,
        }
    }

    /// Takes no more clients, or takes them again. Those who send clients know it from the archive; this is for a
    /// balancer in front of this mirror, which asks `/readyz`.
    async fn on_drain(&mut self, order: Order) {
        let before = self.stored_drain();
        if before.is_some_and(|before| before.issued > order.issued) {
            return;
        }
        let ok = true;
        let text = match &order.kind {
            OrderKind::Drain { .. } => "drained: it takes no clients, and follows as before",
            OrderKind::Resume
            | OrderKind::Replay { .. }
            | OrderKind::Verify { .. }
            | OrderKind::Backfill { .. } => "it takes clients again",
        };
        let id = order.id;
        let bytes = wire::statement::encode(&Statement::Order(order.clone()));
        self.commit(vec![Write::Put(Key::Drain.encode(), bytes)])
            .await;
        self.show_drained(&order);
        let text = text.to_owned();
        self.on_order_done(None, OrderOutcome { id, ok, text })
            .await;
    }

    fn stored_drain(&self) -> Option<Order> {
        let stored = self.parts.control.get(&Key::Drain.encode());
        match stored.ok()?.map(|bytes| wire::statement::decode(&bytes))? {
            Ok(Statement::Order(order)) => Some(order),
            Ok(_) => None,
            Err(error) => {
                tracing::error!(error = %chain(&error), "whether it takes clients cannot be read; it does");
                None
            }
        }
    }

    /// Says again what was ordered before the start.
    pub(super) fn resume_drained(&self) {
        if let Some(order) = self.stored_drain() {
            self.show_drained(&order);
        }
    }

    fn show_drained(&self, order: &Order) {
        let health = &self.parts.health;
        match &order.kind {
            OrderKind::Drain { reason } => health.fail("drained", drain::text(reason)),
            OrderKind::Resume
            | OrderKind::Replay { .. }
            | OrderKind::Verify { .. }
            | OrderKind::Backfill { .. } => health.recover("drained"),
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
