//! Manifest pages behind a cache.

use std::sync::Arc;

use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use mirrorlog_core::manifest::{Page, PageRead};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::{Recalled, Store, StoreError};

/// Memory of a decoded page for each byte of its encoding: by its layout 1.5 with paths of 60 bytes, 2.1 with paths
/// of 5, because each path is an allocation.
const DECODED_FACTOR: u64 = 2;
/// Encoded size of a usual page, in bytes; only sizes the cache's tables.
const USUAL_PAGE_BYTES: usize = 16 * 1024;

/// Pages of a store behind a cache of bounded bytes. Cheap to clone.
///
/// The eviction is S3-FIFO's kin, not plain LRU: one walk over a whole manifest does not push out
/// the inner pages that every look-up needs.
#[derive(Clone, Debug)]
pub struct Pages {
    store: Store,
    cache: Arc<Cache<Digest, Cached, ByBytes>>,
}

#[derive(Clone, Debug)]
struct Cached {
    page: Arc<Page>,
    weight_bytes: u64,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Digest, Cached> for ByBytes {
    fn weight(&self, _digest: &Digest, cached: &Cached) -> u64 {
        cached.weight_bytes
    }
}

impl Pages {
    /// Reads pages of `store` and keeps about `cache_bytes` of decoded ones.
    pub fn new(store: Store, cache_bytes: usize) -> Self {
        let usual_bytes = USUAL_PAGE_BYTES * DECODED_FACTOR as usize;
        let items = (cache_bytes / usual_bytes).max(32);
        Self {
            store,
            cache: Arc::new(Cache::with_weighter(items, cache_bytes as u64, ByBytes)),
        }
    }

    /// The store behind it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Estimated bytes in the cache.
    pub fn cached_bytes(&self) -> u64 {
        self.cache.weight()
    }

    /// Keeps pages as if they had been read. For after their batch was committed: whoever serves the
    /// build looks at them next.
    pub fn recall(&self, pages: Recalled) {
        for (digest, (page, bytes)) in pages.0 {
            self.cache.insert(digest, Cached::new(page, bytes));
        }
    }

    /// The pages that are in the cache; the rest are told apart by an error. Never blocks.
    pub fn in_memory(&self) -> InMemory<'_> {
        InMemory(self)
    }

    fn load(&self, digest: &Digest) -> Result<Cached, StoreError> {
        let bytes = self
            .store
            .read(digest, PAGE_MAX_BYTES)?
            .ok_or(StoreError::Absent(*digest))?;
        let page = decode(digest, &bytes)?;
        Ok(Cached::new(Arc::new(page), bytes.len()))
    }
}

impl Cached {
    fn new(page: Arc<Page>, encoded_bytes: usize) -> Self {
        let weight_bytes = (encoded_bytes as u64 + 64) * DECODED_FACTOR;
        Self { page, weight_bytes }
    }
}

pub(super) fn decode(digest: &Digest, bytes: &[u8]) -> Result<Page, StoreError> {
    Page::decode(bytes).map_err(|source| StoreError::Page {
        digest: *digest,
        source,
    })
}

impl PageRead for Pages {
    type Error = StoreError;

    /// Reads a page; its digest is checked when it comes from the disk.
    fn page(&self, digest: &Digest) -> Result<Arc<Page>, StoreError> {
        let cached = self
            .cache
            .get_or_insert_with(digest, || self.load(digest))?;
        Ok(cached.page)
    }
}

/// Pages as far as they are in the cache.
#[derive(Clone, Copy, Debug)]
pub struct InMemory<'a>(&'a Pages);

/// The page would have to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page {0} is not in memory")]
pub struct NotInMemory(pub Digest);

impl PageRead for InMemory<'_> {
    type Error = NotInMemory;

    fn page(&self, digest: &Digest) -> Result<Arc<Page>, NotInMemory> {
        let cached = self.0.cache.get(digest).ok_or(NotInMemory(*digest))?;
        Ok(cached.page)
    }
}
