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
    /// When the newest head was issued that is being signed or was.
    issued: Timestamp,
    /// When `signed` was issued.
    said: Timestamp,
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

    /// A time of issue after all before it.
    fn issue(&self, newest: Timestamp) -> Timestamp {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = runtime::boot::now().max(newest);
        slot.issued = now.max(slot.issued.plus_ms(1));
        slot.issued
    }

    /// True when the newest head was not signed.
    fn is_owed(&self) -> bool {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.issued > slot.said
    }

    /// Keeps a signed head; false when a later one was signed meanwhile.
    fn keep(&self, signed: &Signed, issued: Timestamp) -> bool {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = slot.signed.is_none() || slot.said < issued;
        if newer {
            slot.signed = Some(signed.clone());
            (slot.said, slot.put) = (issued, false);
        }
        newer
    }
}

impl Daemon {
    /// Signs the head that `history` gives; `None` when it has no good build.
    ///
    /// Times of issue rise strictly: of two heads the later one counts.
    /// What signs may take its time; the head before stays until then, and when it fails.
    pub(crate) async fn sign_head(&self, channel: &Channel, history: &History) -> Option<Signed> {
        let newest = history.head()?;
        let issued = channel.head.issue(history.newest_time());
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
        let (expires, build) = (head.expires, head.build.get());
        match self.signer.sign(&Statement::Head(head)).await {
            Ok(signed) => {
                if channel.head.keep(&signed, issued) {
                    self.gauges.head(&channel.declared.name, expires, build);
                }
                Some(signed)
            }
            Err(error) => {
                let channel = &channel.declared.name;
                let error = runtime::chain(&error);
                tracing::error!(%channel, error, "the head is not signed, tried again later; it runs out when nobody sees to it");
                None
            }
        }
    }

    /// Signs the channel's head anew, as the journal stands.
    pub(crate) async fn renew_head(&self, channel: &Channel) {
        self.gauges
            .halted(&channel.declared.name, channel.journal.halted().is_some());
        // What a halted journal holds may not be all: its old head runs out, so that somebody looks.
        if channel.journal.halted().is_none() && self.fence.lost().is_none() {
            let history = channel.journal.history();
            self.sign_head(channel, &history).await;
        }
    }

    /// Signs all heads, before anybody asks for them.
    pub(crate) async fn sign_heads(&self) {
        for channel in self.channels() {
            self.renew_head(&channel).await;
        }
    }

    /// Signs the heads again that what signs did not sign when it was asked.
    pub(crate) async fn renew_owed_heads(self: &Arc<Self>) {
        for channel in self.channels() {
            if channel.head.is_owed() {
                self.renew_head(&channel).await;
                if let Some(link) = self.link() {
                    self.put_head(&channel, &link).await;
                }
            }
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
            (signed, slot.said)
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
                slot.put |= slot.said == issued;
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
            self.renew_head(&channel).await;
            if let Some(link) = self.link() {
                self.put_head(&channel, &link).await;
            }
        }
        tracing::debug!("heads renewed");
    }
}
