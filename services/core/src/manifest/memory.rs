//! Pages in memory, for tests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Page, PageError, PageRead, PageWrite};
use crate::id::Digest;

/// Pages in memory. A shared reference writes too, so one value can be source and sink at once.
#[derive(Debug, Default)]
pub struct MemoryPages(Mutex<BTreeMap<Digest, Vec<u8>>>);

/// Why a page in memory could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// It was never put there.
    #[error("page {0} is not there")]
    Absent(Digest),
    /// The bytes have another digest.
    #[error("page {0} has other bytes than its digest says")]
    Digest(Digest),
    /// The bytes are no page.
    #[error("page {0} cannot be decoded")]
    Page(Digest, #[source] PageError),
}

impl MemoryPages {
    /// Starts with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A page's canonical bytes.
    pub fn bytes(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.pages().get(digest).cloned()
    }

    /// Digests of all pages, in order.
    pub fn digests(&self) -> Vec<Digest> {
        self.pages().keys().copied().collect()
    }

    /// Forgets a page; true when it was there.
    pub fn remove(&self, digest: &Digest) -> bool {
        self.pages().remove(digest).is_some()
    }

    fn pages(&self) -> MutexGuard<'_, BTreeMap<Digest, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PageRead for MemoryPages {
    type Error = MemoryError;

    fn page(&self, digest: &Digest) -> Result<Arc<Page>, MemoryError> {
        let pages = self.pages();
        let bytes = pages.get(digest).ok_or(MemoryError::Absent(*digest))?;
        if Digest::of(bytes) != *digest {
            return Err(MemoryError::Digest(*digest));
        }
        let page = Page::decode(bytes).map_err(|source| MemoryError::Page(*digest, source))?;
        Ok(Arc::new(page))
    }
}

impl PageWrite for MemoryPages {
    type Error = Infallible;

    fn put_page(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<(), Infallible> {
        (&*self).put_page(digest, bytes)
    }
}

impl PageWrite for &MemoryPages {
    type Error = Infallible;

    fn put_page(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<(), Infallible> {
        self.pages().insert(digest, bytes);
        Ok(())
    }
}
