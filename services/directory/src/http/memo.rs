//! Whole documents that were made in this second: whoever asks a thousand times costs one.

use bytes::Bytes;
use mirrorlog_core::directory::View;
use mirrorlog_core::time::Timestamp;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Memory for documents, in bytes.
const MEMO_BYTES: u64 = 16 * 1024 * 1024;

/// Name, the view's revision, and the second.
type Key = (String, u64, i64);

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Bytes> for ByBytes {
    fn weight(&self, _key: &Key, document: &Bytes) -> u64 {
        256 + document.len() as u64
    }
}

pub(super) struct Memo(Cache<Key, Bytes, ByBytes>);

impl Memo {
    pub(super) fn new() -> Self {
        Self(Cache::with_weighter(256, MEMO_BYTES, ByBytes))
    }

    /// The document of that name, made anew for each second and each change of what is offered.
    pub(super) fn of(
        &self,
        name: impl Into<String>,
        view: &View,
        now: Timestamp,
        make: impl FnOnce() -> String,
    ) -> Bytes {
        let key = (name.into(), view.revision(), now.as_seconds());
        if let Some(known) = self.0.get(&key) {
            return known;
        }
        let document = Bytes::from(make());
        self.0.insert(key, document.clone());
        document
    }
}
