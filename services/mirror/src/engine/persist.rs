//! One atomic, durable write for each step.

use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::ChannelId;
use runtime::state::Write;

use super::Engine;
use crate::state::Key;

/// Pause before a failed write of control state is tried again.
const PERSIST_RETRY: Duration = Duration::from_secs(1);

impl Engine {
    /// One atomic, durable write of a channel's state, of `writes` and of the cursors that moved.
    pub(super) async fn persist(&mut self, id: &ChannelId, mut writes: Vec<Write>) {
        let parts = Arc::clone(&self.parts);
        let slot = self.slot(id);
        parts
            .coming
            .set(id, slot.targets().map(|target| target.root).collect());
        // Where export trees are behind, so are those who read them.
        let exported = parts.serving.exported_build(id);
        let live = slot.channel.live;
        parts.metrics.told(id, slot, live.and(exported).or(live));
        let bytes = wire::state::encode_channel(&slot.channel);
        if slot.stored != bytes {
            writes.push(Write::Put(Key::Channel(id.clone()).encode(), bytes.clone()));
            slot.stored = bytes;
        }
        self.commit(writes).await;
    }

    /// The same for all channels at once: what an end of the log means for them goes with its cursor.
    pub(super) async fn persist_cursors(&mut self) {
        let mut writes = Vec::new();
        for (id, slot) in &mut self.slots {
            let bytes = wire::state::encode_channel(&slot.channel);
            if slot.stored != bytes {
                writes.push(Write::Put(Key::Channel(id.clone()).encode(), bytes.clone()));
                slot.stored = bytes;
            }
        }
        self.commit(writes).await;
    }

    pub(super) async fn commit(&mut self, mut writes: Vec<Write>) {
        for (lane, cursor) in &self.cursors {
            if self.parts.stored_cursors.lock().await.get(lane) != Some(cursor) {
                writes.push(Write::Put(Key::Cursor(*lane).encode(), cursor.encode()));
            }
        }
        if writes.is_empty() {
            return;
        }
        loop {
            let control = Arc::clone(&self.parts.control);
            let batch = writes.clone();
            let done = tokio::task::spawn_blocking(move || control.commit(&batch)).await;
            match done {
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    let error = crate::inbox::chain(&error);
                    tracing::error!(
                        error,
                        "control state cannot be written; nothing moves until it can"
                    );
                }
                Err(error) => tracing::error!(%error, "writing control state was interrupted"),
            }
            if self.stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(PERSIST_RETRY).await;
        }
        *self.parts.stored_cursors.lock().await = self.cursors.clone();
    }
}
