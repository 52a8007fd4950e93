//! How much may still be stored: free space above a floor, and what a budget leaves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirrorlog_core::id::Digest;
use runtime::boot::ByteSize;
use runtime::store::{Store, StoreError};

/// What the operator allows, and how much of it is used. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    store: Store,
    floor: ByteSize,
    budget: Option<ByteSize>,
    /// Bytes in the store; none before they are counted, which only a budget needs.
    used: Arc<Mutex<Option<u64>>>,
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
            used: Arc::default(),
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
        *self.used() = Some(used_bytes);
        Ok(())
    }

    /// More was stored since it was counted.
    pub(crate) fn stored(&self, bytes: u64) {
        if let Some(used) = &mut *self.used() {
            *used += bytes;
        }
    }

    fn used(&self) -> MutexGuard<'_, Option<u64>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the budget leaves; none without a budget, and before the first count: at a start a build may come on top
    /// of it rather than wait for a walk over all that is stored.
    fn left_bytes(&self) -> Option<u64> {
        let (budget, used_bytes) = (self.budget?, (*self.used())?);
        Some(budget.0.saturating_sub(used_bytes))
    }

    /// Whether so many bytes may come. Before a budget says no, what is stored is counted again: what came and went since
    /// is known about only. Blocks.
    pub(crate) fn check(&self, needed_bytes: u64) -> Result<Result<(), Full>, StoreError> {
        let full = |room_bytes, by| {
            Ok(Err(Full {
                needed_bytes,
                room_bytes,
                by,
            }))
        };
        let free_bytes = self.store.free_bytes()?.saturating_sub(self.floor.0);
        if free_bytes < needed_bytes {
            return full(free_bytes, format!("the floor of {} free", self.floor));
        }
        let lacks = |left: Option<u64>| left.filter(|left| *left < needed_bytes);
        if lacks(self.left_bytes()).is_some() {
            self.count()?;
        }
        match (self.budget, lacks(self.left_bytes())) {
            (Some(budget), Some(left_bytes)) => full(left_bytes, format!("the budget of {budget}")),
            (_, None) | (None, Some(_)) => Ok(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_budget_is_what_is_stored_and_the_floor_what_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let batch = store.batch();
        batch.put(&Digest::of(b"four"), b"four").unwrap();
        batch.commit().unwrap();
        let none = ByteSize(0);
        let room = Room::new(store.clone(), none, Some(ByteSize(10)));
        assert!(room.check(11).unwrap().is_ok(), "nothing is counted yet");
        room.count().unwrap();
        assert!(room.check(6).unwrap().is_ok());
        let full = room.check(7).unwrap().unwrap_err().to_string();
        assert_eq!(
            full,
            "disk-full: 7 bytes are needed, 6 are left by the budget of 10B"
        );
        // A guess that is wrong is found out before it does harm.
        room.stored(4);
        assert!(room.check(6).unwrap().is_ok());
        assert!(room.check(7).unwrap().is_err());
        let room = Room::new(store, ByteSize(u64::MAX), None);
        let full = room.check(1).unwrap().unwrap_err().to_string();
        assert!(full.contains("are left by the floor of"), "{full}");
    }
}
