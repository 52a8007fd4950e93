//! Whole documents that were made in this second: whoever asks a thousand times costs one.

use axum::http::HeaderMap;
use bytes::Bytes;
use mirrorlog_core::directory::View;
use mirrorlog_core::time::Timestamp;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::origin::{Notation, Origin};
use crate::site::Site;

/// Memory for documents, in bytes.
const MEMO_BYTES: u64 = 16 * 1024 * 1024;

/// Name, the view's revision, and the second.
type Key = (&'static str, u64, i64);

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
        name: &'static str,
        view: &View,
        now: Timestamp,
        make: impl FnOnce() -> String,
    ) -> Bytes {
        let key = (name, view.revision(), now.as_seconds());
        if let Some(known) = self.0.get(&key) {
            return known;
        }
        let document = Bytes::from(make());
        self.0.insert(key, document.clone());
        document
    }

    /// The same of a document with absolute URLs: made once, whatever hosts requests name.
    pub(super) fn of_origin(
        &self,
        name: &'static str,
        (site, view, now): (&Site, &View, Timestamp),
        headers: &HeaderMap,
        notation: Notation,
        make: impl FnOnce(&Origin) -> String,
    ) -> Bytes {
        let origin = Origin::of(site, Some(headers));
        if site.url.is_some() {
            return self.of(name, view, now, || make(&origin));
        }
        let document = self.of(name, view, now, || make(&Origin::gap()));
        let document = String::from_utf8_lossy(&document);
        origin.fill(&document, notation).into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use axum::http::header::HOST;

    use super::super::sample::Sample;
    use super::*;

    #[test]
    fn however_many_hosts_are_named_a_document_is_made_once_a_second() {
        let sample = Sample::empty();
        let (site, memo, made) = (sample.site(), Memo::new(), Cell::new(0));
        let get = |host: &str, now| {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            let around = (&site, sample.view(), now);
            memo.of_origin("feed", around, &headers, Notation::Xml, |origin| {
                made.set(made.get() + 1);
                format!("<{}>", origin.url())
            })
        };
        for number in 0..100 {
            let host = format!("h{number}.example");
            let expected = format!("<http://{host}>");
            assert_eq!(get(&host, sample.now), expected);
        }
        assert_eq!(made.get(), 1);
        get("h1.example", sample.now.plus_ms(1000));
        assert_eq!(made.get(), 2);
    }
}
