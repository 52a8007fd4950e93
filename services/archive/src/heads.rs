//! Signed heads: renewed on a timer and after each statement, kept in bucket `mirrorlog_head`.

use std::sync::{Arc, Mutex, PoisonError};

use mirrorlog_core::archive::History;
use mirrorlog_core::statement::{Head, Statement, retractions_digest};
use mirrorlog_core::time::Timestamp;
use wire::Signed;

use crate::daemon::{Channel, Daemon, Link};

/// A channel's newest head.
#[derive(Default)]
pub(crate) struct HeadSlot(Mutex<Slot>);

#[derive(Default)]
struct Slot {
    signed: Option<Signed>,
    issued: Timestamp,
    /// False until the bucket has it.
    put: bool,
}

impl HeadSlot {
    /// The newest signed head; none before the first build.
    pub(crate) fn signed(&self) -> Option<Signed> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .signed
            .clone()
    }
}

impl Daemon {
    /// Signs the head that `history` gives; `None` when it has no good build.
    ///
    /// Times of issue rise strictly: of two heads the later one counts.
    pub(crate) fn sign_head(&self, channel: &Channel, history: &History) -> Option<Signed> {
        let newest = history.head()?;
        let mut slot = channel
            .head
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let issued = runtime::boot::now()
            .max(history.newest_time())
            .max(slot.issued.plus_ms(1));
        let expire_ms = i64::try_from(self.config.heads_expire.as_millis()).unwrap_or(i64::MAX);
        let head = Head {
            channel: channel.declared.name.clone(),
            build: newest.build,
            root: newest.root,
            retractions: retractions_digest(
                history.retractions().iter().map(|taken| taken.statement),
            ),
            issued,
            expires: issued.plus_ms(expire_ms),
        };
        self.gauges
            .head(&head.channel, head.expires, head.build.get());
        let signed = Signed::sign(&self.key, &Statement::Head(head));
        *slot = Slot {
            signed: Some(signed.clone()),
            issued,
            put: false,
        };
        Some(signed)
    }

    /// Signs the channel's head anew, as the journal stands.
    pub(crate) fn renew_head(&self, channel: &Channel) {
        self.gauges
            .halted(&channel.declared.name, channel.journal.halted().is_some());
        // What a halted journal holds may not be all: its old head runs out, so that somebody looks.
        if channel.journal.halted().is_none() && self.fence.lost().is_none() {
            self.sign_head(channel, &channel.journal.history());
        }
    }

    /// Puts the newest head into the bucket, unless it is there.
    pub(crate) async fn put_head(&self, channel: &Channel, link: &Link) {
        let (signed, issued) = {
            let slot = channel
                .head
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let Some(signed) = slot.signed.clone().filter(|_| !slot.put) else {
                return;
            };
            (signed, slot.issued)
        };
        if self.fence.lost().is_some() || channel.journal.halted().is_some() {
            return;
        }
        let name = channel.declared.name.as_str();
        match link.heads.put(name, signed.encode().into()).await {
            Ok(_revision) => {
                let mut slot = channel
                    .head
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                slot.put |= slot.issued == issued;
            }
            Err(error) => {
                tracing::debug!(channel = name, error = %error, "head not put, tried again later")
            }
        }
    }

    /// Puts every head again, also those that the bucket had: it may have lost them.
    pub(crate) fn heads_lost(&self) {
        for channel in self.channels() {
            channel
                .head
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .put = false;
        }
    }

    /// Renews all heads and puts them into the bucket.
    pub(crate) async fn renew_heads(self: &Arc<Self>) {
        for channel in self.channels() {
            self.renew_head(&channel);
            if let Some(link) = self.link() {
                self.put_head(&channel, &link).await;
            }
        }
        tracing::debug!("heads renewed");
    }
}
