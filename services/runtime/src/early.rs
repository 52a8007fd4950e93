//! Messages that came before the root document which names their key: they are read once more when other keys count.
//!
//! Only what was refused is read again, and only what nothing newer was said about: so whoever follows is told no more, and
//! nothing older, than one who reads the log anew under these keys.

use std::collections::VecDeque;
use std::sync::Arc;

use mirrorlog_core::id::{Build, ChannelId, MirrorId};
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{Order, Statement, Verdict};
use tokio::sync::watch;
use wire::Signed;

use crate::trust::Keys;

/// Most messages that are kept for one reader, and their bytes. The oldest goes; it counts after the next start.
const MESSAGES_MAX: usize = 4096;
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a message is about: of two about the same the later one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
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
        Self::Verdict(
            verdict.mirror.clone(),
            verdict.channel.clone(),
            verdict.build,
        )
    }

    /// What an order is about, where only the newest to each mirror is kept.
    pub fn clients(order: &Order) -> Self {
        Self::Clients(order.mirror.clone())
    }

    /// What an order is about, where all are kept.
    pub fn order(order: &Order) -> Self {
        Self::Order(order.id)
    }
}

#[derive(Debug)]
struct Refused<M> {
    about: About,
    bytes: usize,
    message: M,
}

/// Messages of one reader that were refused. `M`: as the reader needs them.
#[derive(Debug)]
pub struct Early<M> {
    changed: watch::Receiver<Arc<TrustedKeys>>,
    /// In the order in which they came: to be read once more now, and at the next change of keys.
    due: VecDeque<Refused<M>>,
    kept: VecDeque<Refused<M>>,
    bytes: usize,
}

impl<M> Early<M> {
    /// For a reader of what is signed by `keys`.
    pub fn new(keys: &Keys) -> Self {
        Self {
            changed: keys.changes(),
            due: VecDeque::new(),
            kept: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Keeps a message that was refused, unless it is none under any key. `payload`: its signed statement; `about`: what an
    /// order of its reader is about.
    pub fn keep(&mut self, payload: &[u8], about: impl FnOnce(&Order) -> About, message: M) {
        let signed = Signed::decode(payload).ok();
        // Believed in nothing but what it may be about.
        let said = signed.and_then(|signed| wire::statement::decode(&signed.statement).ok());
        let about = match said {
            Some(Statement::Verdict(verdict)) => About::verdict(&verdict),
            Some(Statement::Order(order)) => about(&order),
            Some(_) | None => return,
        };
        let bytes = payload.len();
        self.bytes += bytes;
        self.kept.push_back(Refused {
            about,
            bytes,
            message,
        });
        while self.due.len() + self.kept.len() > MESSAGES_MAX || self.bytes > BYTES_MAX {
            if self.pop().is_none() {
                break;
            }
        }
    }

    /// Something newer was said, and believed.
    pub fn said(&mut self, about: &About) {
        for all in [&mut self.due, &mut self.kept] {
            all.retain(|refused| {
                let stays = refused.about != *about;
                self.bytes -= if stays { 0 } else { refused.bytes };
                stays
            });
        }
    }

    /// The next that is to be read once more: one that was refused under other keys than those of now. Cancelling it loses
    /// nothing.
    pub async fn next(&mut self) -> M {
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
            self.due.append(&mut self.kept);
        }
    }

    /// Takes the oldest.
    fn pop(&mut self) -> Option<M> {
        let refused = self.due.pop_front().or_else(|| self.kept.pop_front())?;
        self.bytes -= refused.bytes;
        Some(refused.message)
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
        let order = Order {
            id,
            mirror: MirrorId::new(mirror).unwrap(),
            issued: Timestamp::from_ms(1),
            kind: OrderKind::Resume,
        };
        let key = SecretKey::from_seed(KeyNumber([1; 8]), &[1; 32]);
        Signed::sign(&key, &Statement::Order(order)).encode()
    }

    fn clients(mirror: &str) -> About {
        About::Clients(MirrorId::new(mirror).unwrap())
    }

    fn changed(keys: &Keys) {
        keys.set(TrustedKeys::default());
    }

    fn all(early: &mut Early<u64>) -> Vec<u64> {
        std::iter::from_fn(|| early.next().now_or_never()).collect()
    }

    #[test]
    fn what_was_refused_comes_again_once_for_each_change_in_its_order() {
        let keys = Keys::default();
        let mut early = Early::new(&keys);
        early.keep(&order(1, "nz1"), About::order, 1);
        early.keep(&order(2, "nz1"), About::order, 2);
        assert!(all(&mut early).is_empty());
        changed(&keys);
        assert_eq!(early.next().now_or_never(), Some(1));
        // Refused again it waits for the change after.
        early.keep(&order(1, "nz1"), About::order, 1);
        assert_eq!(all(&mut early), [2]);
        changed(&keys);
        assert_eq!(all(&mut early), [1]);
        changed(&keys);
        assert!(all(&mut early).is_empty());
        assert_eq!(early.bytes, 0);
    }

    #[test]
    fn what_something_newer_was_said_about_comes_no_more() {
        let keys = Keys::default();
        let mut early = Early::new(&keys);
        for (message, mirror) in [(1, "nz1"), (2, "au1"), (3, "nz1")] {
            early.keep(&order(message, mirror), About::clients, message);
        }
        changed(&keys);
        assert_eq!(early.next().now_or_never(), Some(1));
        early.keep(&order(4, "nz1"), About::clients, 4);
        early.said(&clients("nz1"));
        assert_eq!(all(&mut early), [2]);
        changed(&keys);
        assert!(all(&mut early).is_empty());
        assert_eq!(early.bytes, 0);
    }

    #[test]
    fn what_is_no_statement_is_not_kept_and_no_more_than_there_is_room_for() {
        let keys = Keys::default();
        let mut early = Early::new(&keys);
        early.keep(b"nothing", About::order, 0);
        let many = MESSAGES_MAX as u64 + 10;
        for id in 1..=many {
            early.keep(&order(id, "nz1"), About::order, id);
        }
        changed(&keys);
        assert_eq!(all(&mut early), (11..=many).collect::<Vec<_>>());
        early.bytes = BYTES_MAX;
        early.keep(&order(1, "nz1"), About::order, 1);
        changed(&keys);
        assert!(all(&mut early).is_empty());
    }
}
