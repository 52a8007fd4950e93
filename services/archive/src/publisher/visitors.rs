//! Who publishes from another machine at the moment, and how much room is promised to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime::store::Store;
use tonic::Status;

use super::failed::Failed;

/// Submissions at a time that are not urgent.
const BULK_MAX: usize = 8;
/// Urgent ones beside them: on the priority lane, or in the place of retracted builds.
const URGENT_MAX: usize = 4;
/// Of one publisher.
const OF_ONE_MAX: usize = 2;
/// Disk that publishers leave free.
const RESERVE_BYTES: u64 = 256 << 20;

/// Shared with the collection of garbage, which waits for them.
#[derive(Clone, Default)]
pub(crate) struct Visitors(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By publisher.
    under_way: BTreeMap<String, usize>,
    bulk: usize,
    urgent: usize,
    /// Collections that wait: nobody is let in who is not urgent.
    closed: usize,
    /// Bytes that are on their way into the store.
    promised_bytes: u64,
}

impl Visitors {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while anybody is there.
    pub(crate) fn any(&self) -> bool {
        !self.state().under_way.is_empty()
    }

    /// Lets nobody in who is not urgent, until this is dropped.
    pub(crate) fn close(&self) -> Door {
        self.state().closed += 1;
        Door(self.clone())
    }

    /// A place for a submission; it is free again when this is dropped.
    pub(super) fn enter(&self, publisher: &str, urgent: bool) -> Result<Place, Status> {
        let mut state = self.state();
        let later = |why: &str| Status::aborted(format!("{why}: try again later"));
        if !urgent && state.closed > 0 {
            return Err(later("content of old builds is being let go"));
        }
        let (all, most) = match urgent {
            true => (state.urgent, URGENT_MAX),
            false => (state.bulk, BULK_MAX),
        };
        let own = state.under_way.get(publisher).copied().unwrap_or(0);
        if own >= OF_ONE_MAX {
            return Err(later("this publisher is publishing already"));
        }
        if all >= most {
            return Err(later("too many are publishing at the moment"));
        }
        state.under_way.insert(publisher.to_owned(), own + 1);
        match urgent {
            true => state.urgent += 1,
            false => state.bulk += 1,
        }
        drop(state);
        Ok(Place {
            publisher: publisher.to_owned(),
            urgent,
            visitors: self.clone(),
        })
    }

    /// Room for bytes that are about to be written; they count until this is dropped, by when they are on the disk.
    pub(super) fn room(&self, store: &Store, bytes: u64) -> Result<Room, Failed> {
        let free_bytes = store.free_bytes()?;
        let mut state = self.state();
        let taken = state.promised_bytes.saturating_add(RESERVE_BYTES);
        if free_bytes < taken.saturating_add(bytes) {
            let text = format!("the archive's disk has no room for {bytes} bytes more");
            return Err(Status::aborted(text).into());
        }
        state.promised_bytes += bytes;
        drop(state);
        Ok(Room {
            bytes,
            visitors: self.clone(),
        })
    }
}

/// See [`Visitors::close`].
pub(crate) struct Door(Visitors);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.state().closed -= 1;
    }
}

/// See [`Visitors::enter`].
pub(super) struct Place {
    publisher: String,
    urgent: bool,
    visitors: Visitors,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.visitors.state();
        match self.urgent {
            true => state.urgent -= 1,
            false => state.bulk -= 1,
        }
        if let Some(own) = state.under_way.get_mut(&self.publisher) {
            *own -= 1;
            if *own == 0 {
                state.under_way.remove(&self.publisher);
            }
        }
    }
}

/// See [`Visitors::room`].
pub(super) struct Room {
    bytes: u64,
    visitors: Visitors,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.visitors.state().promised_bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn attack_many_bulk_uploads_leave_places_for_urgent_ones() {
        let visitors = Visitors::default();
        let names = |number| format!("build-host-{number}");
        let bulk: Vec<Place> = (0..BULK_MAX)
            .map(|number| visitors.enter(&names(number), false).unwrap())
            .collect();
        assert!(visitors.enter("another", false).is_err());
        let urgent = visitors.enter("security", true).unwrap();
        let second = visitors.enter("security", true).unwrap();
        assert!(visitors.enter("security", true).is_err());
        drop((bulk, urgent, second));
        assert!(!visitors.any());
        visitors.enter("another", false).unwrap();
    }

    #[test]
    fn a_collection_that_waits_keeps_out_what_is_not_urgent() {
        let visitors = Visitors::default();
        let place = visitors.enter("nightly", false).unwrap();
        let door = visitors.close();
        assert!(visitors.enter("other", false).is_err());
        drop(visitors.enter("security", true).unwrap());
        assert!(visitors.any());
        drop(place);
        assert!(!visitors.any());
        drop(door);
        visitors.enter("other", false).unwrap();
    }

    #[test]
    fn attack_room_is_promised_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let visitors = Visitors::default();
        let most = store.free_bytes().unwrap() - 2 * RESERVE_BYTES;
        let room = visitors.room(&store, most).unwrap();
        assert!(visitors.room(&store, most).is_err());
        drop(room);
        visitors.room(&store, most).unwrap();
    }
}
