#![allow(clippy::unwrap_used, clippy::expect_used)]

mod names;
mod pages;
mod partials;
mod sharing;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};

use tempfile::TempDir;

use super::*;
use crate::Reaction;

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

fn content(number: u32, size_bytes: usize) -> Vec<u8> {
    number
        .to_le_bytes()
        .into_iter()
        .cycle()
        .take(size_bytes)
        .collect()
}

fn put(store: &Store, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let batch = store.batch();
    batch.put(&digest, bytes).unwrap();
    batch.commit().unwrap();
    digest
}

/// All temporary files of all processes.
fn temporary(store: &Store) -> usize {
    let Ok(sessions) = fs::read_dir(store.dir().join("tmp")) else {
        return 0;
    };
    sessions
        .map(|session| fs::read_dir(session.unwrap().path()).unwrap().count())
        .sum()
}

fn all(store: &Store) -> Vec<Digest> {
    store.digests().unwrap().map(Result::unwrap).collect()
}

#[test]
fn content_is_found_by_its_digest() {
    let (_dir, store) = store();
    let digest = put(&store, b"hello");
    assert_eq!(store.size(&digest).unwrap(), Some(5));
    assert_eq!(store.read(&digest, 5).unwrap().unwrap(), b"hello");
    assert!(matches!(
        store.read(&digest, 4),
        Err(StoreError::TooLarge {
            size_bytes: 5,
            max_bytes: 4,
            ..
        })
    ));
    assert_eq!(store.check(&digest).unwrap(), Some(true));
    let hex = digest.to_hex();
    assert_eq!(
        store.path_of(&digest),
        store.dir().join(&hex[..2]).join(&hex[2..])
    );
    assert_eq!(fs::read(store.path_of(&digest)).unwrap(), b"hello");
    assert!(store.free_bytes().unwrap() > 0);
    assert_eq!(temporary(&store), 0);
}

#[test]
fn absent_is_no_error() {
    let (_dir, store) = store();
    let digest = Digest::of(b"nothing");
    assert_eq!(store.size(&digest).unwrap(), None);
    assert!(store.open_blob(&digest).unwrap().is_none());
    assert_eq!(store.read(&digest, 100).unwrap(), None);
    assert_eq!(store.check(&digest).unwrap(), None);
    store.quarantine(&digest).unwrap();
    store.remove(&digest).unwrap();
    assert!(all(&store).is_empty());
}

#[test]
fn a_fault_is_not_absent() {
    let (_dir, store) = store();
    let digest = Digest::of(b"x");
    fs::write(
        store.dir().join(&digest.to_hex()[..2]),
        "a file where a folder should be",
    )
    .unwrap();
    assert!(matches!(store.size(&digest), Err(StoreError::Io { .. })));
    assert!(matches!(store.read(&digest, 1), Err(StoreError::Io { .. })));
    let batch = store.batch();
    let error = batch.put(&digest, b"x").unwrap_err();
    assert_eq!(error.reaction(), Reaction::Halt);
}

#[test]
fn a_wrong_digest_never_gets_in() {
    let (_dir, store) = store();
    let batch = store.batch();
    assert!(matches!(
        batch.put(&Digest::of(b"a"), b"b"),
        Err(StoreError::Mismatch { .. })
    ));
    batch.commit().unwrap();
    assert!(all(&store).is_empty());
}

#[test]
fn invariant_nothing_is_visible_before_commit_and_a_dropped_batch_leaves_nothing() {
    let (_dir, store) = store();
    let kept = put(&store, b"kept");
    let batch = store.batch();
    for number in 0..50 {
        let bytes = content(number, 1000);
        batch.put(&Digest::of(&bytes), &bytes).unwrap();
    }
    assert_eq!((batch.len(), temporary(&store)), (50, 50));
    assert_eq!(all(&store), [kept]);
    drop(batch);
    assert_eq!(all(&store), [kept]);
    assert_eq!(temporary(&store), 0);
}

#[test]
fn what_is_there_is_not_written_again() {
    let (_dir, store) = store();
    let digest = put(&store, b"once");
    let batch = store.batch();
    batch.put(&digest, b"once").unwrap();
    batch.put(&Digest::of(b"twice"), b"twice").unwrap();
    batch.put(&Digest::of(b"twice"), b"twice").unwrap();
    assert_eq!((batch.len(), temporary(&store)), (1, 1));
    batch.commit().unwrap();
    assert_eq!(all(&store).len(), 2);
}

#[test]
fn files_of_every_size_are_ingested() {
    let (dir, store) = store();
    let batch = store.batch();
    let sizes = [
        0,
        1,
        1000,
        BUFFER_BYTES - 1,
        BUFFER_BYTES,
        BUFFER_BYTES + 1,
        3 * BUFFER_BYTES + 7,
    ];
    let mut expected = BTreeSet::new();
    for (number, size_bytes) in sizes.into_iter().enumerate() {
        let bytes = content(number as u32, size_bytes);
        let path = dir.path().join(number.to_string());
        fs::write(&path, &bytes).unwrap();
        let mut file = File::open(&path).unwrap();
        // Where the file stands does not matter.
        file.seek(SeekFrom::Start(size_bytes as u64 / 2)).unwrap();
        let ingested = batch.ingest(&file).unwrap();
        assert_eq!(
            ingested,
            Ingested {
                digest: Digest::of(&bytes),
                size_bytes: size_bytes as u64
            }
        );
        expected.insert(ingested.digest);
    }
    batch.commit().unwrap();
    assert_eq!(all(&store), expected.iter().copied().collect::<Vec<_>>());
    for digest in expected {
        assert_eq!(store.check(&digest).unwrap(), Some(true));
    }
    // Again: all of it is there, nothing stays behind.
    let batch = store.batch();
    for number in 0..sizes.len() {
        batch
            .ingest(&File::open(dir.path().join(number.to_string())).unwrap())
            .unwrap();
    }
    assert!(batch.is_empty());
    assert_eq!(temporary(&store), 0);
}

#[test]
fn a_source_that_cannot_be_read_is_named() {
    let (dir, store) = store();
    let error = store
        .batch()
        .ingest(&File::open(dir.path()).unwrap())
        .unwrap_err();
    assert!(
        error.to_string().contains(dir.path().to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn corrupt_content_is_found_set_aside_and_replaced() {
    let (_dir, store) = store();
    let digest = put(&store, b"precious");
    fs::write(store.path_of(&digest), b"precioux").unwrap();
    assert_eq!(store.check(&digest).unwrap(), Some(false));
    assert!(matches!(
        store.read(&digest, 100),
        Err(StoreError::Mismatch { .. })
    ));
    store.quarantine(&digest).unwrap();
    assert_eq!(store.size(&digest).unwrap(), None);
    assert_eq!(
        fs::read(store.dir().join("lost").join(digest.to_hex())).unwrap(),
        b"precioux"
    );
    put(&store, b"precious");
    assert_eq!(store.check(&digest).unwrap(), Some(true));
    assert_eq!(all(&store), [digest]);
}

#[test]
fn digests_come_in_order_and_nothing_else() {
    let (_dir, store) = store();
    let batch = store.batch();
    let mut expected = BTreeSet::new();
    for number in 0..600 {
        let bytes = content(number, 4);
        expected.insert(Digest::of(&bytes));
        batch.put(&Digest::of(&bytes), &bytes).unwrap();
    }
    batch.commit().unwrap();
    fs::write(store.dir().join("ab").join("not-a-digest"), "").unwrap();
    assert_eq!(all(&store), expected.iter().copied().collect::<Vec<_>>());
    let gone = *expected.iter().next().unwrap();
    store.remove(&gone).unwrap();
    assert_eq!(all(&store).len(), 599);
}

#[test]
fn a_fresh_name_is_not_taken_for_durable() {
    let (_dir, store) = store();
    let digest = put(&store, b"fresh");
    let batch = store.batch();
    assert!(batch.has(&digest).unwrap());
    // Nothing to name, but the name that counted as present may be another process's, not yet synced.
    assert!(format!("{batch:?}").contains("unsettled: true"));
    batch.commit().unwrap();
}

/// The process that dies in the tests below; does nothing otherwise.

#[test]
fn a_failed_commit_loses_nothing_of_before() {
    let (_dir, store) = store();
    let before = put(&store, b"before");
    let batch = store.batch();
    let (good, bad) = (Digest::of(b"good"), Digest::of(b"bad"));
    batch.put(&good, b"good").unwrap();
    batch.put(&bad, b"bad").unwrap();
    // One of the two folders cannot be made.
    fs::write(store.dir().join(&bad.to_hex()[..2]), "").unwrap();
    assert!(matches!(batch.commit(), Err(StoreError::Io { .. })));
    assert_eq!(temporary(&store), 0);
    assert_eq!(store.check(&before).unwrap(), Some(true));
    fs::remove_file(store.dir().join(&bad.to_hex()[..2])).unwrap();
    put(&store, b"bad");
    put(&store, b"good");
    assert_eq!(all(&store).len(), 3);
}

#[test]
fn full_disks_are_told_apart() {
    // A device that is always full.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let source = (&full).write_all(b"x").unwrap_err();
    assert!(StoreError::io("write", Path::new("/dev/full"), source).is_full());
    let quota = io::Error::from(Errno::DQUOT);
    assert!(StoreError::io("write", Path::new("x"), quota).is_full());
    let other = io::Error::from(Errno::IO);
    assert!(!StoreError::io("write", Path::new("x"), other).is_full());
}
