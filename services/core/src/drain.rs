//! Which mirrors take no clients.
//!
//! An operator drains a mirror by an order that the archive signs. It is kept where the mirror cannot withhold it, so
//! that a mirror that is down, or does not do as it is told, is taken out as well. Of two orders the later counts.

use std::collections::BTreeMap;

use crate::id::MirrorId;
use crate::statement::{Order, OrderKind};
use crate::time::Timestamp;

/// The newest order to each mirror that says whether it takes clients.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub struct Drains(BTreeMap<MirrorId, Order>);

impl Drains {
    /// True when the order says whether a mirror takes clients.
    pub const fn concerns(kind: &OrderKind) -> bool {
        match kind {
            OrderKind::Drain { .. } | OrderKind::Resume => true,
            OrderKind::Replay { .. } | OrderKind::Verify { .. } | OrderKind::Backfill { .. } => {
                false
            }
        }
    }

    /// Takes an order in. True when it changed what is known; other orders and older ones change nothing.
    pub fn take(&mut self, order: Order) -> bool {
        let newer = |known: &Order| (known.issued, known.id) < (order.issued, order.id);
        let counts = self.0.get(&order.mirror).is_none_or(newer);
        if !Self::concerns(&order.kind) || !counts {
            return false;
        }
        self.0.insert(order.mirror.clone(), order);
        true
    }

    /// Why the mirror takes no clients, and since when; `None` when it takes them.
    pub fn of(&self, mirror: &MirrorId) -> Option<(&str, Timestamp)> {
        let order = self.0.get(mirror)?;
        match &order.kind {
            OrderKind::Drain { reason } => Some((reason, order.issued)),
            OrderKind::Resume
            | OrderKind::Replay { .. }
            | OrderKind::Verify { .. }
            | OrderKind::Backfill { .. } => None,
        }
    }

    /// All that is known, by mirror.
    pub fn orders(&self) -> impl Iterator<Item = &Order> {
        self.0.values()
    }
}

/// `drained`, and what people need beside it.
pub fn text(reason: &str) -> String {
    match reason {
        "" => "drained".to_owned(),
        reason => format!("drained: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn order(id: u64, issued_ms: i64, kind: OrderKind) -> Order {
        Order {
            id,
            mirror: MirrorId::new("nz1").unwrap(),
            issued: Timestamp::from_ms(issued_ms),
            kind,
        }
    }

    fn drain(reason: &str) -> OrderKind {
        OrderKind::Drain {
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn the_later_order_counts_in_whatever_order_they_come() {
        let nz1 = MirrorId::new("nz1").unwrap();
        let mut drains = Drains::default();
        assert!(drains.take(order(1, 10, drain("disk"))));
        assert_eq!(drains.of(&nz1).unwrap(), ("disk", Timestamp::from_ms(10)));
        assert!(drains.take(order(2, 20, OrderKind::Resume)));
        assert!(!drains.take(order(1, 10, drain("disk"))), "the first again");
        assert_eq!(drains.of(&nz1), None);
        assert!(!drains.take(order(3, 5, drain("old"))));
        assert_eq!(drains.of(&nz1), None);
    }

    #[test]
    fn other_orders_say_nothing_of_clients() {
        let mut drains = Drains::default();
        let verify = OrderKind::Verify {
            channel: None,
            build: None,
        };
        assert!(!drains.take(order(1, 10, verify)));
        assert_eq!(drains.orders().count(), 0);
    }
}
