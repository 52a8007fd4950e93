//! What a client asked for and has not been sent.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mirrorlog_core::id::Digest;
use tokio::sync::Notify;
use tonic::Status;
use wire::v1::FetchRequest;

use crate::protocol::{MESSAGE_WANTS_MAX, OPEN_WANTS_MAX};

/// Most credit that a client can pile up, in bytes.
const CREDIT_MAX_BYTES: i64 = 1 << 40;

/// A checked want.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) id: u32,
    pub(super) digest: Digest,
    pub(super) offset: u64,
    pub(super) page: bool,
}

/// Open wants and credit of one stream.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    wants: VecDeque<Want>,
    /// Negative after an overdraft.
    credit: i64,
    closed: bool,
}

/// What the sender may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There is credit and something to send.
    Send,
    /// The client is done, and has everything or no credit for it.
    End,
}

impl Inbox {
    /// Adds wants and credit.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a malformed want, `RESOURCE_EXHAUSTED` above the limits of [`crate::protocol`].
    pub(super) fn accept(&self, request: FetchRequest) -> Result<(), Status> {
        if request.wants.len() > MESSAGE_WANTS_MAX {
            return Err(Status::resource_exhausted(format!(
                "more than {MESSAGE_WANTS_MAX} wants in one message"
            )));
        }
        {
            let mut state = self.lock();
            if state.wants.len() + request.wants.len() > OPEN_WANTS_MAX {
                return Err(Status::resource_exhausted(format!(
                    "more than {OPEN_WANTS_MAX} open wants"
                )));
            }
            for want in request.wants {
                let digest: [u8; 32] = want.digest.as_ref().try_into().map_err(|_| {
                    Status::invalid_argument(format!(
                        "want {}: a digest has 32 bytes, not {}",
                        want.id,
                        want.digest.len()
                    ))
                })?;
                let digest = Digest::from_bytes(digest);
                state.wants.push_back(Want {
                    id: want.id,
                    digest,
                    offset: want.offset,
                    page: want.page,
                });
            }
            let credit = i64::try_from(request.credit_bytes).unwrap_or(CREDIT_MAX_BYTES);
            state.credit = state.credit.saturating_add(credit).min(CREDIT_MAX_BYTES);
        }
        self.changed.notify_one();
        Ok(())
    }

    /// No more wants will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits until there is something to do; `busy` when a blob is half sent.
    pub(super) async fn ready(&self, busy: bool) -> Next {
        loop {
            {
                let state = self.lock();
                let work = busy || !state.wants.is_empty();
                if work && state.credit > 0 {
                    return Next::Send;
                }
                // No credit will come any more: what is open stays open.
                if state.closed {
                    return Next::End;
                }
            }
            self.changed.notified().await;
        }
    }

    /// The next want, if there is credit left for its answer.
    pub(super) fn pop(&self) -> Option<Want> {
        let mut state = self.lock();
        if state.credit > 0 {
            state.wants.pop_front()
        } else {
            None
        }
    }

    /// Credit left; 0 when there is none.
    pub(super) fn credit(&self) -> u64 {
        u64::try_from(self.lock().credit).unwrap_or(0)
    }

    /// Pays for a piece.
    pub(super) fn spend(&self, cost: u64) {
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        let mut state = self.lock();
        state.credit = state.credit.saturating_sub(cost);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
