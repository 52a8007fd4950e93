//! Manifest pages behind their cache.

use std::fs;

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode, PageRead as _};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Mtime;

use super::{content, put, store};
use crate::store::{Draft, Pages, StoreError};

#[test]
fn pages_are_checked_and_absent_ones_named() {
    let (_dir, store) = store();
    let pages = Pages::new(store.clone(), 1 << 20);
    let absent = Digest::of(b"absent");
    assert!(matches!(pages.page(&absent), Err(StoreError::Absent(digest)) if digest == absent));
    let junk = put(&store, b"no page at all");
    assert!(matches!(pages.page(&junk), Err(StoreError::Page { .. })));
    let large = put(
        &store,
        &content(1, mirrorlog_core::limits::PAGE_MAX_BYTES + 1),
    );
    assert!(matches!(
        pages.page(&large),
        Err(StoreError::TooLarge { .. })
    ));
    fs::write(store.path_of(&junk), "changed").unwrap();
    assert!(matches!(
        pages.page(&junk),
        Err(StoreError::Mismatch { .. })
    ));
    assert_eq!(pages.cached_bytes(), 0);
}

#[test]
fn manifests_live_in_the_store_and_the_cache_keeps_to_its_bytes() {
    let (_dir, store) = store();
    let batch = store.batch();
    let mut builder = Builder::new(&batch);
    for number in 0..5000_u32 {
        let path = EntryPath::new(format!("pool/main/p{number:06}.deb").as_bytes()).unwrap();
        let digest = Digest::of(&number.to_le_bytes());
        let file = FileEntry {
            size_bytes: 4,
            digest,
            mode: Mode::Plain,
            mtime: Mtime::from_seconds(0),
        };
        builder.push(&path, &Entry::File(file)).unwrap();
    }
    let summary = builder.finish().unwrap();
    batch.commit().unwrap();

    let cache_bytes = 200_000;
    let pages = Pages::new(store.clone(), cache_bytes);
    let mut found = 0;
    for item in mirrorlog_core::manifest::iter(&pages, &summary.root, b"pool/", None) {
        item.unwrap();
        found += 1;
        assert!(pages.cached_bytes() <= cache_bytes as u64);
    }
    assert_eq!(found, 5000);
    assert!(pages.cached_bytes() > 0);
    // The root is in the cache: it is found even though the disk has lost it.
    pages.page(&summary.root).unwrap();
    store.remove(&summary.root).unwrap();
    pages.page(&summary.root).unwrap();
    assert!(matches!(
        Pages::new(store, 0).page(&summary.root),
        Err(StoreError::Absent(_))
    ));
}

#[test]
fn a_draft_is_read_before_it_is_committed_and_remembered_after() {
    let (_dir, store) = store();
    let pages = Pages::new(store.clone(), 1 << 20);
    // More pages than a draft keeps decoded, so that some are read back from the batch.
    let mut draft = Draft::new(&store);
    let mut builder = Builder::new(&mut draft);
    for number in 0..60_000_u32 {
        let path = EntryPath::new(format!("pool/main/p{number:06}.deb").as_bytes()).unwrap();
        let file = FileEntry {
            size_bytes: 4,
            digest: Digest::of(&number.to_le_bytes()),
            mode: Mode::Plain,
            mtime: Mtime::from_seconds(0),
        };
        builder.push(&path, &Entry::File(file)).unwrap();
    }
    let root = builder.finish().unwrap().root;
    let read = |pages: &Pages| mirrorlog_core::manifest::iter(pages, &root, b"", None).count();
    let drafted = draft.over(&pages);
    let found = mirrorlog_core::manifest::iter(&drafted, &root, b"", None);
    assert_eq!(found.map(Result::unwrap).count(), 60_000);
    assert!(matches!(pages.page(&root), Err(StoreError::Absent(_))));

    let (batch, recalled) = draft.into_parts();
    assert!(batch.len() > 200, "{}", batch.len());
    batch.commit().unwrap();
    pages.recall(recalled);
    assert!(pages.cached_bytes() > 0);
    assert_eq!(read(&Pages::new(store, 0)), 60_000);
}

#[test]
fn a_draft_does_not_hide_a_page_that_rotted() {
    let (_dir, store) = store();
    let pages = Pages::new(store.clone(), 1 << 20);
    let path = EntryPath::new(b"pool/a.deb").unwrap();
    let file = FileEntry {
        size_bytes: 1,
        digest: Digest::of(b"a"),
        mode: Mode::Plain,
        mtime: Mtime::from_seconds(0),
    };
    let batch = store.batch();
    let mut builder = Builder::new(&batch);
    builder.push(&path, &Entry::File(file)).unwrap();
    let root = builder.finish().unwrap().root;
    batch.commit().unwrap();
    fs::write(store.path_of(&root), "rot").unwrap();

    let mut draft = Draft::new(&store);
    let mut builder = Builder::new(&mut draft);
    builder.push(&path, &Entry::File(file)).unwrap();
    assert_eq!(builder.finish().unwrap().root, root);
    let read = draft.over(&pages).page(&root);
    assert!(matches!(read, Err(StoreError::Mismatch { .. })));
}
