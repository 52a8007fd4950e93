//! Messages that came before the root document which names their key: they are read once more when other keys count.
//!
//! Only what was refused is read again, before anything that comes later, and not what was overtaken meanwhile: so whoever
//! follows is told nothing older than one who reads the log anew under these keys.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use mirrorlog_core::id::{Build, ChannelId, MirrorId};
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{Order, Statement, Verdict};
use tokio::sync::watch;
use wire::Signed;

use crate::trust::Keys;

/// Most messages that are kept for one reader, and their bytes. The oldest goes; it counts after the next start.
const MESSAGES_MAX: usize = 4096;
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a message says something about, and its place among all that is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    matter: Matter,
    /// Of two about the same the one with the higher number counts, and of those with the same number the later one: a
    /// lease's revision, or milliseconds since 1970.
    rank: i128,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Matter {
    /// What a mirror has of a build.
    Verdict(MirrorId, ChannelId, Build),
    /// An order: each is of its own.
    Order(u64),
    /// Whether a mirror takes clients.
    Clients(MirrorId),
}

impl About {
    /// What a verdict is about.
    pub fn verdict(verdict: &Verdict) -> Self {
        let mirror = verdict.mirror.clone();
        Self {
            matter: Matter::Verdict(mirror, verdict.channel.clone(), verdict.build),
            rank: verdict.lease_revision.into(),
        }
    }

    /// What an order is about, where only the newest to each mirror is kept.
    pub fn clients(order: &Order) -> Self {
        Self {
            matter: Matter::Clients(order.mirror.clone()),
            rank: order.issued.as_ms().into(),
        }
    }

    /// What an order is about, where all are kept.
    pub fn order(order: &Order) -> Self {
        Self {
            matter: Matter::Order(order.id),
            rank: 0,
        }
    }

    fn overtakes(&self, before: &Self) -> bool {
        self.matter == before.matter && self.rank >= before.rank
    }
}

#[derive(Debug)]
struct Refused<L> {
    about: About,
    label: L,
    payload: Bytes,
}

/// Messages of one reader that were refused. `L`: what else is to be known of a message.
#[derive(Debug)]
pub struct Early<L> {
    changed: watch::Receiver<Arc<TrustedKeys>>,
    keys: Arc<TrustedKeys>,
    /// In the order in which they came: to be read once more now, and at the next change of keys.
    due: VecDeque<Refused<L>>,
    kept: VecDeque<Refused<L>>,
    bytes: usize,
}

impl<L> Early<L> {
    /// For a reader of what is signed by `keys`.
    pub fn new(keys: &Keys) -> Self {
        let mut changed = keys.changes();
        let keys = Arc::clone(&changed.borrow_and_update());
        Self {
            changed,
            keys,
            due: VecDeque::new(),
            kept: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The keys to open messages with: those of the last [`Early::next`], so that nothing is believed by other keys before
    /// what was kept has been read by them.
    pub fn keys(&self) -> &TrustedKeys {
        &self.keys
    }

    /// Keeps a copy of a message that was refused, unless it is none under any key. `payload`: its signed statement;
    /// `about`: what an order of its reader is about.
    pub fn keep(&mut self, label: L, payload: &[u8], about: impl FnOnce(&Order) -> About) {
        let signed = Signed::decode(payload).ok();
        // Believed in nothing but what it may be about.
        let said = signed.and_then(|signed| wire::statement::decode(&signed.statement).ok());
        let about = match said {
            Some(Statement::Verdict(verdict)) => About::verdict(&verdict),
            Some(Statement::Order(order)) => about(&order),
            Some(_) | None => return,
        };
        self.bytes += payload.len();
        // What comes from a connection is a part of its buffer, and would keep all of it.
        let payload = Bytes::copy_from_slice(payload);
        self.kept.push_back(Refused {
            about,
            label,
            payload,
        });
        while self.due.len() + self.kept.len() > MESSAGES_MAX || self.bytes > BYTES_MAX {
            if self.pop().is_none() {
                break;
            }
        }
    }

    /// Something was said just now, and believed.
    pub fn said(&mut self, about: &About) {
        for all in [&mut self.due, &mut self.kept] {
            all.retain(|refused| {
                let stays = !about.overtakes(&refused.about);
                self.bytes -= if stays { 0 } else { refused.payload.len() };
                stays
            });
        }
    }

    /// The next that is to be read once more: one that was refused under other keys than those of now. To be asked before
    /// what comes later. Cancelling it loses nothing.
    pub async fn next(&mut self) -> (L, Bytes) {
        loop {
            if !self.due.is_empty()
                && let Some(message) = self.pop()
            {
                return message;
            }
            if self.changed.changed().await.is_err() {
                // Nobody changes them any more.
                return std::future::pending().await;
            }
            self.keys = Arc::clone(&self.changed.borrow_and_update());
            self.due.append(&mut self.kept);
        }
    }

    /// Takes the oldest.
    fn pop(&mut self) -> Option<(L, Bytes)> {
        let refused = self.due.pop_front().or_else(|| self.kept.pop_front())?;
        self.bytes -= refused.payload.len();
        Some((refused.label, refused.payload))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use futures::FutureExt as _;
    use mirrorlog_core::sign::{KeyNumber, SecretKey};
    use mirrorlog_core::statement::OrderKind;
    use mirrorlog_core::time::Timestamp;

    use super::*;

    fn order(id: u64, mirror: &str) -> Vec<u8> {
        order_at(id, mirror).1
    }

    /// The `at`th order, of that millisecond.
    fn order_at(at: u64, mirror: &str) -> (Order, Vec<u8>) {
        let order = Order {
            id: at,
            mirror: MirrorId::new(mirror).unwrap(),
            issued: Timestamp::from_ms(at.try_into().unwrap()),
            kind: OrderKind::Resume,
        };
        let key = SecretKey::from_seed(KeyNumber([1; 8]), &[1; 32]);
        let signed = Signed::sign(&key, &Statement::Order(order.clone()));
        (order, signed.encode())
    }

    fn changed(keys: &Keys) {
        keys.set(TrustedKeys::default());
    }

    fn all(early: &mut Early<u64>) -> Vec<u64> {
        std::iter::from_fn(|| next(early)).collect()
    }

    fn next(early: &mut Early<u64>) -> Option<u64> {
        early.next().now_or_never().map(|(label, _)| label)
    }

    #[test]
    fn what_was_refused_comes_again_once_for_each_change_in_its_order() {
        let keys = Keys::default();
        let mut early = Early::new(&keys);
        early.keep(1, &order(1, "nz1"), About::order);
        early.keep(2, &order(2, "nz1"), About::order);
        assert!(all(&mut early).is_empty());
        changed(&keys);
        assert_eq!(next(&mut early), Some(1));
        // Refused again it waits for the change after.
        early.keep(1, &order(1, "nz1"), About::order);
        assert_eq!(all(&mut early), [2]);
        changed(&keys);
        assert_eq!(all(&mut early), [1]);
        changed(&keys);
        assert!(all(&mut early).is_empty());
        assert_eq!(early.bytes, 0);
    }

    #[test]
    fn what_was_overtaken_comes_no_more() {
        let keys = Keys::default();
        let mut early = Early::new(&keys);
        let at = |ms, mirror| order_at(ms, mirror).1;
        for (ms, mirror) in [(1, "nz1"), (2, "au1"), (3, "nz1")] {
            early.keep(ms, &at(ms, mirror), About::clients);
        }
        changed(&keys);
        assert_eq!(next(&mut early), Some(1));
        early.keep(4, &at(4, "nz1"), About::clients);
        early.keep(6, &at(6, "nz1"), About::clients);
        // Older than one that waits, whenever it comes.
        early.said(&About::clients(&order_at(5, "nz1").0));
        assert_eq!(all(&mut early), [2]);
        changed(&keys);
        assert_eq!(all(&mut early), [6]);
        assert_eq!(early.bytes, 0);
    }

    #[test]
    fn keys_are_those_by_which_what_was_kept_has_been_read() {
        let keys = Keys::default();
        let mut early = Early::new(&keys);
        early.keep(1, &order(1, "nz1"), About::order);
        let key = SecretKey::from_seed(KeyNumber([1; 8]), &[1; 32]).public();
        keys.set(TrustedKeys::new([key]));
        let read = |early: &Early<u64>| {
            let signed = Signed::decode(&order(2, "nz1")).unwrap();
            signed.open_order(early.keys()).is_ok()
        };
        assert!(!read(&early));
        assert_eq!(next(&mut early), Some(1));
        assert!(read(&early));
    }

    #[test]
    fn what_is_no_statement_is_not_kept_and_no_more_than_there_is_room_for() {
        let keys = Keys::default();
        let mut early = Early::new(&keys);
        early.keep(0, b"nothing", About::order);
        let many = MESSAGES_MAX as u64 + 10;
        for id in 1..=many {
            early.keep(id, &order(id, "nz1"), About::order);
        }
        changed(&keys);
        assert_eq!(all(&mut early), (11..=many).collect::<Vec<_>>());
        early.bytes = BYTES_MAX;
        early.keep(1, &order(1, "nz1"), About::order);
        changed(&keys);
        assert!(all(&mut early).is_empty());
    }
}
