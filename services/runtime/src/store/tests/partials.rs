//! Blobs that arrive in pieces.

use std::fs;

use bytes::Bytes;
use mirrorlog_core::id::Digest;
use mirrorlog_core::time::Timestamp;

use super::{content, put, store};
use crate::store::{Partial, Store, StoreError};

/// Opens a partial that nobody else has. A process that another test starts shares our locks for the
/// moment between its fork and its exec, so it may be busy all the same.
fn open(store: &Store, digest: &Digest, size_bytes: u64) -> Partial {
    let deadline = crate::boot::now().plus_ms(10_000);
    loop {
        match Partial::open(store, digest, size_bytes) {
            Err(StoreError::Busy(_)) if crate::boot::now() < deadline => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

#[test]
fn partials_resume_where_they_stopped() {
    let (_dir, store) = store();
    let bytes = content(7, 300_000);
    let digest = Digest::of(&bytes);
    let mut partial = open(&store, &digest, bytes.len() as u64);
    assert_eq!(partial.offset(), 0);
    partial
        .write(Bytes::copy_from_slice(&bytes[..1000]))
        .unwrap();
    assert!(matches!(
        Partial::open(&store, &digest, 300_000),
        Err(StoreError::Busy(_))
    ));
    drop(partial);

    let partial = open(&store, &digest, bytes.len() as u64);
    assert_eq!(partial.offset(), 1000);
    assert!(matches!(
        partial.finish(),
        Err(StoreError::Size {
            found_bytes: 1000,
            ..
        })
    ));

    let mut partial = open(&store, &digest, bytes.len() as u64);
    partial
        .write(Bytes::copy_from_slice(&bytes[1000..]))
        .unwrap();
    assert!(matches!(
        partial.write(Bytes::from_static(b"x")),
        Err(StoreError::Size { .. })
    ));
    let finished = partial.finish().unwrap();

    // Dropped without commit, it can be finished again.
    let batch = store.batch();
    batch.adopt(finished).unwrap();
    drop(batch);
    let partial = open(&store, &digest, bytes.len() as u64);
    assert_eq!(partial.offset(), 300_000);
    let batch = store.batch();
    batch.adopt(partial.finish().unwrap()).unwrap();
    assert_eq!(store.size(&digest).unwrap(), None);
    batch.commit().unwrap();
    assert_eq!(store.read(&digest, 300_000).unwrap().unwrap(), bytes);
    assert_eq!(
        fs::read_dir(store.dir().join("partial")).unwrap().count(),
        0
    );
}

#[test]
fn a_lying_partial_is_deleted() {
    let (_dir, store) = store();
    let digest = Digest::of(b"good");
    let mut partial = open(&store, &digest, 4);
    partial.write(Bytes::from_static(b"evil")).unwrap();
    assert!(matches!(partial.finish(), Err(StoreError::Mismatch { .. })));
    assert_eq!(open(&store, &digest, 4).offset(), 0);
    // One that is longer than the blob starts over too.
    fs::write(
        store.dir().join("partial").join(digest.to_hex()),
        b"too long",
    )
    .unwrap();
    let mut partial = open(&store, &digest, 4);
    assert_eq!(partial.offset(), 0);
    partial.write(Bytes::from_static(b"good")).unwrap();
    // Meanwhile somebody else brought it: the partial goes.
    put(&store, b"good");
    store.batch().adopt(partial.finish().unwrap()).unwrap();
    assert_eq!(
        fs::read_dir(store.dir().join("partial")).unwrap().count(),
        0
    );
}

#[test]
fn empty_blobs_arrive_too() {
    let (_dir, store) = store();
    let partial = open(&store, &Digest::of(b""), 0);
    let batch = store.batch();
    batch.adopt(partial.finish().unwrap()).unwrap();
    batch.commit().unwrap();
    assert_eq!(store.size(&Digest::of(b"")).unwrap(), Some(0));
}

#[test]
fn old_partials_are_swept_and_busy_ones_stay() {
    let (_dir, store) = store();
    assert_eq!(store.sweep_partials(Timestamp::EPOCH).unwrap(), 0);
    let (old, busy) = (Digest::of(b"old"), Digest::of(b"busy"));
    open(&store, &old, 10)
        .write(Bytes::from_static(b"12345"))
        .unwrap();
    let mut partial = open(&store, &busy, 10);
    partial.write(Bytes::from_static(b"12345")).unwrap();
    assert_eq!(store.sweep_partials(Timestamp::EPOCH).unwrap(), 0);
    let later = crate::boot::now().plus_ms(60_000);
    assert_eq!(store.sweep_partials(later).unwrap(), 5);
    drop(partial);
    assert_eq!(open(&store, &busy, 10).offset(), 5);
}

/// Large enough to be hashed beside the writing.
#[test]
fn a_large_blob_is_checked_as_a_small_one_is() {
    let (_dir, store) = store();
    let bytes = Bytes::from(content(7, 20 << 20));
    let digest = Digest::of(&bytes);
    let receive = |bytes: &Bytes| {
        let mut partial = open(&store, &digest, bytes.len() as u64);
        for start in (0..bytes.len()).step_by(1 << 20) {
            let end = bytes.len().min(start + (1 << 20));
            partial.write(bytes.slice(start..end)).unwrap();
        }
        partial.finish()
    };
    let mut wrong = bytes.to_vec();
    wrong[12 << 20] ^= 1;
    let refused = receive(&Bytes::from(wrong));
    assert!(matches!(refused, Err(StoreError::Mismatch { .. })));
    // Resumed, with so much to come that it is hashed beside the writing again.
    let mut begun = open(&store, &digest, bytes.len() as u64);
    begun.write(bytes.slice(..5 << 20)).unwrap();
    drop(begun);
    let mut resumed = open(&store, &digest, bytes.len() as u64);
    assert_eq!(resumed.offset(), 5 << 20);
    resumed.write(bytes.slice(5 << 20..)).unwrap();
    let batch = store.batch();
    batch.adopt(resumed.finish().unwrap()).unwrap();
    batch.commit().unwrap();
    assert_eq!(store.size(&digest).unwrap(), Some(20 << 20));
}
