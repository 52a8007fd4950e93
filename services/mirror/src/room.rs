//! How much may still be stored: free space above a floor, and what a budget leaves.

use mirrorlog_core::id::Digest;
use runtime::boot::ByteSize;
use runtime::store::{Store, StoreError};
use tokio::sync::watch;

/// What the operator allows, and how much of it is used. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    store: Store,
    floor: ByteSize,
    budget: Option<ByteSize>,
    /// Bytes in the store; none before they are counted, which only a budget needs.
    used: watch::Sender<Option<u64>>,
}

/// Too little of it.
#[derive(Debug, thiserror::Error)]
#[error("disk-full: {needed_bytes} bytes are needed, {room_bytes} are left by {by}")]
pub(crate) struct Full {
    needed_bytes: u64,
    room_bytes: u64,
    by: String,
}

impl Room {
    pub(crate) fn new(store: Store, floor: ByteSize, budget: Option<ByteSize>) -> Self {
        Self {
            store,
            floor,
            budget,
            used: watch::Sender::new(None),
        }
    }

    /// Counts what is in the store, where a budget asks for it: O(archive), off every hot path. Blocks.
    pub(crate) fn count(&self) -> Result<(), StoreError> {
        if self.budget.is_none() {
            return Ok(());
        }
        let mut used_bytes = 0;
        for digest in self.store.digests()? {
            let digest: Digest = digest?;
            used_bytes += self.store.size(&digest)?.unwrap_or(0);
        }
        self.used.send_replace(Some(used_bytes));
        Ok(())
    }

    /// More was stored since it was counted.
    pub(crate) fn stored(&self, bytes: u64) {
        self.used.send_modify(|used| {
            if let Some(used) = used {
                *used += bytes;
            }
        });
    }

    /// Whether so many bytes may come. Waits for the first count.
    pub(crate) async fn check(&self, needed_bytes: u64) -> Result<Result<(), Full>, StoreError> {
        let free_bytes = self.store.free_bytes()?.saturating_sub(self.floor.0);
        let free = (free_bytes, format!("the floor of {} free", self.floor));
        let left = match self.budget {
            None => None,
            Some(budget) => {
                let mut counted = self.used.subscribe();
                // The sender is this.
                let used = counted.wait_for(Option::is_some).await.map(|used| *used);
                let used_bytes = used.ok().flatten().unwrap_or(0);
                let left_bytes = budget.0.saturating_sub(used_bytes);
                Some((left_bytes, format!("the budget of {budget}")))
            }
        };
        let least = left
            .into_iter()
            .chain([free])
            .min_by_key(|(bytes, _)| *bytes);
        let (room_bytes, by) = least.unwrap_or_default();
        if room_bytes >= needed_bytes {
            return Ok(Ok(()));
        }
        Ok(Err(Full {
            needed_bytes,
            room_bytes,
            by,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_budget_is_what_is_stored_and_the_floor_what_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let batch = store.batch();
        batch.put(&Digest::of(b"four"), b"four").unwrap();
        batch.commit().unwrap();
        let none = ByteSize(0);
        let room = Room::new(store.clone(), none, Some(ByteSize(10)));
        room.count().unwrap();
        assert!(room.check(6).await.unwrap().is_ok());
        let full = room.check(7).await.unwrap().unwrap_err().to_string();
        assert_eq!(
            full,
            "disk-full: 7 bytes are needed, 6 are left by the budget of 10B"
        );
        room.stored(4);
        assert!(room.check(3).await.unwrap().is_err());
        room.count().unwrap();
        assert!(room.check(6).await.unwrap().is_ok());
        let room = Room::new(store, ByteSize(u64::MAX), None);
        let full = room.check(1).await.unwrap().unwrap_err().to_string();
        assert!(full.contains("are left by the floor of"), "{full}");
    }
}
