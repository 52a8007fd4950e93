//! A manifest as far as it was read: pages come when a look-up needs them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{Page, PageRead};

/// The page is not here yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page {0} is not here yet")]
pub(crate) struct Absent(pub(crate) Digest);

/// Pages that are here, decoded.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<BTreeMap<Digest, Arc<Page>>>);

impl Cache {
    /// Takes a page whose digest was checked; false when it is none.
    pub(crate) fn put(&self, digest: Digest, bytes: &[u8]) -> bool {
        let Ok(page) = Page::decode(bytes) else {
            return false;
        };
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.insert(digest, Arc::new(page));
        true
    }
}

impl PageRead for Cache {
    type Error = Absent;

    fn page(&self, digest: &Digest) -> Result<Arc<Page>, Absent> {
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.get(digest).cloned().ok_or(Absent(*digest))
    }
}
