//! Which mirrors take no clients: signed orders, kept in the control state and in bucket `mirrorlog_drain`.
//!
//! The bucket is where directories and the consistency service read them, so that a mirror need not be up to be taken
//! out. Whatever the bucket lost is put there again.

use std::sync::{Arc, Mutex, PoisonError};

use mirrorlog_core::drain::Drains;
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::statement::{Order, OrderKind, Statement};
use mirrorlog_core::time::Timestamp;
use runtime::state::{Control, SledState, Write};
use wire::Signed;

use crate::daemon::{Daemon, Link};
use crate::fence::run_blocking;
use crate::outbox::OutboxError;
use crate::signer::SignError;
use crate::state::{DRAIN_PREFIX, Key};

/// Why a mirror was not drained or resumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrainError {
    #[error("no random number")]
    Random(#[source] std::io::Error),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Keep(#[from] OutboxError),
}

/// The orders, and which of them the bucket has.
pub(crate) struct Drained {
    state: Arc<SledState>,
    slots: Mutex<Vec<Slot>>,
}

struct Slot {
    mirror: MirrorId,
    signed: Signed,
    /// False until the bucket has it.
    put: bool,
}

impl Drained {
    /// Reads what was ordered before. Blocks.
    pub(crate) fn open(state: Arc<SledState>) -> Result<Self, OutboxError> {
        let mut slots = Vec::new();
        for (key, value) in state.scan(DRAIN_PREFIX)? {
            let Key::Drain(mirror) = Key::decode(&key)? else {
                continue;
            };
            match Signed::decode(&value) {
                Ok(signed) => slots.push(Slot {
                    mirror,
                    signed,
                    put: false,
                }),
                Err(error) => {
                    tracing::error!(%mirror, error = wire::causes(&error), "a stored order cannot be read; give it again");
                }
            }
        }
        let slots = Mutex::new(slots);
        Ok(Self { state, slots })
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A time after that of the last order to a mirror.
    pub(crate) fn after(&self, mirror: &MirrorId) -> Timestamp {
        let slots = self.slots();
        let slot = slots.iter().find(|slot| slot.mirror == *mirror);
        let order = slot.and_then(|slot| wire::statement::decode(&slot.signed.statement).ok());
        match order {
            Some(Statement::Order(order)) => order.issued.plus_ms(1),
            Some(_) | None => Timestamp::EPOCH,
        }
    }

    fn replace(&self, mirror: MirrorId, signed: Signed) {
        let mut slots = self.slots();
        slots.retain(|slot| slot.mirror != mirror);
        slots.push(Slot {
            mirror,
            signed,
            put: false,
        });
    }
}

impl Daemon {
    /// Keeps an order and tells everybody who sends clients. Durable when this returns; told when the log is there.
    pub(crate) async fn keep_drain(
        self: &Arc<Self>,
        order: &Order,
        signed: &Signed,
        link: &Link,
    ) -> Result<(), OutboxError> {
        debug_assert!(Drains::concerns(&order.kind));
        let (daemon, mirror) = (Arc::clone(self), order.mirror.clone());
        let write = Write::Put(Key::Drain(mirror.clone()).encode(), signed.encode());
        run_blocking(move || {
            daemon
                .drained
                .state
                .commit(&[write])
                .map_err(OutboxError::from)
        })
        .await?;
        self.drained.replace(mirror, signed.clone());
        self.put_drains(link).await;
        Ok(())
    }

    /// An order with a number and a time of its own.
    ///
    /// # Errors
    /// When the system gives no random number.
    pub(crate) fn new_order(&self, mirror: &MirrorId, kind: OrderKind) -> std::io::Result<Order> {
        Ok(Order {
            id: getrandom::u64()?,
            mirror: mirror.clone(),
            // Of two the later counts, whatever the clock was when the first was given.
            issued: runtime::boot::now().max(self.drained.after(mirror)),
            kind,
        })
    }

    /// Has clients sent to a mirror no more, or again.
    ///
    /// # Errors
    /// [`DrainError`].
    pub(crate) async fn drain_or_resume(
        self: &Arc<Self>,
        mirror: &MirrorId,
        kind: OrderKind,
        link: &Link,
    ) -> Result<(), DrainError> {
        let order = self.new_order(mirror, kind).map_err(DrainError::Random)?;
        let signed = self.sign_order(&order).await?;
        Ok(self.keep_drain(&order, &signed, link).await?)
    }

    /// Looks what the bucket has, and puts into it what it lacks or has otherwise: a server that was set back says
    /// nothing of that.
    pub(crate) async fn compare_drains(&self, link: &Link) {
        let known: Vec<(MirrorId, Signed)> = {
            let slots = self.drained.slots();
            let known = slots.iter();
            known
                .map(|slot| (slot.mirror.clone(), slot.signed.clone()))
                .collect()
        };
        for (mirror, signed) in known {
            let found = link.drains.get(mirror.as_str()).await;
            let same = |found: Option<(u64, bytes::Bytes)>| {
                found.is_some_and(|(_, value)| value == signed.encode())
            };
            if !found.is_ok_and(same) {
                let mut slots = self.drained.slots();
                let slot = slots.iter_mut().find(|slot| slot.mirror == mirror);
                if let Some(slot) = slot {
                    slot.put = false;
                }
            }
        }
        self.put_drains(link).await;
    }

    /// Puts into the bucket what it lacks.
    pub(crate) async fn put_drains(&self, link: &Link) {
        let waiting: Vec<(MirrorId, Signed)> = {
            let slots = self.drained.slots();
            let waiting = slots.iter().filter(|slot| !slot.put);
            waiting
                .map(|slot| (slot.mirror.clone(), slot.signed.clone()))
                .collect()
        };
        for (mirror, signed) in waiting {
            let put = link.drains.put(mirror.as_str(), signed.encode().into());
            match put.await {
                Ok(_revision) => {
                    let mut slots = self.drained.slots();
                    let mut same = slots.iter_mut();
                    let same = same.find(|slot| slot.mirror == mirror && slot.signed == signed);
                    if let Some(slot) = same {
                        slot.put = true;
                    }
                }
                Err(error) => {
                    tracing::warn!(%mirror, error = wire::causes(&error), "an order is not told yet, tried again later");
                }
            }
        }
    }

    /// An order, signed.
    ///
    /// # Errors
    /// [`SignError`].
    pub(crate) async fn sign_order(&self, order: &Order) -> Result<Signed, SignError> {
        self.signer.sign(&Statement::Order(order.clone())).await
    }
}
