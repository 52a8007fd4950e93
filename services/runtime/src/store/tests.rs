#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::process::Command;

use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode as FileMode, PageRead as _};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::{Mtime, Timestamp};
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

#[test]
fn partials_resume_where_they_stopped() {
    let (_dir, store) = store();
    let bytes = content(7, 300_000);
    let digest = Digest::of(&bytes);
    let mut partial = Partial::open(&store, &digest, bytes.len() as u64).unwrap();
    assert_eq!(partial.offset(), 0);
    partial.write(&bytes[..1000]).unwrap();
    assert!(matches!(
        Partial::open(&store, &digest, 300_000),
        Err(StoreError::Busy(_))
    ));
    drop(partial);

    let partial = Partial::open(&store, &digest, bytes.len() as u64).unwrap();
    assert_eq!(partial.offset(), 1000);
    assert!(matches!(
        partial.finish(),
        Err(StoreError::Size {
            found_bytes: 1000,
            ..
        })
    ));

    let mut partial = Partial::open(&store, &digest, bytes.len() as u64).unwrap();
    partial.write(&bytes[1000..]).unwrap();
    assert!(matches!(partial.write(b"x"), Err(StoreError::Size { .. })));
    let finished = partial.finish().unwrap();

    // Dropped without commit, it can be finished again.
    let batch = store.batch();
    batch.adopt(finished).unwrap();
    drop(batch);
    let partial = Partial::open(&store, &digest, bytes.len() as u64).unwrap();
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
    let mut partial = Partial::open(&store, &digest, 4).unwrap();
    partial.write(b"evil").unwrap();
    assert!(matches!(partial.finish(), Err(StoreError::Mismatch { .. })));
    assert_eq!(Partial::open(&store, &digest, 4).unwrap().offset(), 0);
    // One that is longer than the blob starts over too.
    fs::write(
        store.dir().join("partial").join(digest.to_hex()),
        b"too long",
    )
    .unwrap();
    let mut partial = Partial::open(&store, &digest, 4).unwrap();
    assert_eq!(partial.offset(), 0);
    partial.write(b"good").unwrap();
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
    let partial = Partial::open(&store, &Digest::of(b""), 0).unwrap();
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
    Partial::open(&store, &old, 10)
        .unwrap()
        .write(b"12345")
        .unwrap();
    let mut partial = Partial::open(&store, &busy, 10).unwrap();
    partial.write(b"12345").unwrap();
    assert_eq!(store.sweep_partials(Timestamp::EPOCH).unwrap(), 0);
    let later = crate::boot::now().plus_ms(60_000);
    assert_eq!(store.sweep_partials(later).unwrap(), 5);
    drop(partial);
    assert_eq!(Partial::open(&store, &busy, 10).unwrap().offset(), 5);
}

#[test]
fn a_sweep_waits_for_pins() {
    let (_dir, store) = store();
    let other = Store::open(store.dir()).unwrap();
    let (one, two) = (store.pin().unwrap(), other.pin().unwrap());
    assert!(store.try_sweep_lock().unwrap().is_none());
    drop(one);
    assert!(store.try_sweep_lock().unwrap().is_none());
    drop(two);
    let sweep = other.try_sweep_lock().unwrap().unwrap();
    assert!(store.try_sweep_lock().unwrap().is_none());
    let waiting = std::thread::spawn(move || store.pin().map(drop));
    drop(sweep);
    waiting.join().unwrap().unwrap();
}

#[test]
fn threads_and_stores_share_one_folder() {
    let (_dir, store) = store();
    let blobs: Vec<Vec<u8>> = (0..60).map(|number| content(number, 5000)).collect();
    std::thread::scope(|scope| {
        for turn in 0..4 {
            // Two handles as two processes have them, each with two threads in one batch.
            let (store, blobs) = (Store::open(store.dir()).unwrap(), &blobs);
            scope.spawn(move || {
                let batch = store.batch();
                std::thread::scope(|scope| {
                    for half in 0..2 {
                        let batch = &batch;
                        scope.spawn(move || {
                            // Overlapping, so that all of them bring the same content at once.
                            for bytes in blobs.iter().skip(turn * 10).skip(half * 5).take(30) {
                                batch.put(&Digest::of(bytes), bytes).unwrap();
                            }
                        });
                    }
                });
                batch.commit().unwrap();
            });
        }
    });
    assert_eq!(all(&store).len(), 60);
    for digest in all(&store) {
        assert_eq!(store.check(&digest).unwrap(), Some(true));
    }
    assert_eq!(temporary(&store), 0);
}

const CHILD: &str = "MIRRORLOG_TEST_STORE";

/// The process that dies in the tests below; does nothing otherwise.
#[test]
fn child_that_dies_in_the_middle() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let store = Store::open(Path::new(&dir)).unwrap();
    for round in 0_u32.. {
        let batch = store.batch();
        for number in 0..20 {
            let bytes = content(round * 20 + number, 3000);
            batch.put(&Digest::of(&bytes), &bytes).unwrap();
        }
        batch.commit().unwrap();
        fs::write(store.dir().with_extension("acked"), round.to_string()).unwrap();
    }
}

#[test]
fn invariant_a_killed_process_leaves_whole_blobs_and_loses_none() {
    let (_dir, store) = store();
    let acked = store.dir().with_extension("acked");
    for wanted in [1, 2, 4] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "store::tests::child_that_dies_in_the_middle"])
            .env(CHILD, store.dir());
        let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
        let read = || fs::read_to_string(&acked).ok()?.parse::<u32>().ok();
        while read().unwrap_or(0) < wanted {
            assert!(child.try_wait().unwrap().is_none(), "the child ended");
            // Another process uses the store meanwhile.
            put(&store, b"ours");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let last = read().unwrap_or(wanted);
        for number in 0..=last * 20 + 19 {
            assert_eq!(
                store.check(&Digest::of(&content(number, 3000))).unwrap(),
                Some(true)
            );
        }
        for digest in all(&store) {
            assert_eq!(store.check(&digest).unwrap(), Some(true));
        }
        fs::remove_file(&acked).unwrap();
    }
    // What the dead left is cleared by the next process; what lives stays.
    let batch = store.batch();
    batch.put(&Digest::of(b"under way"), b"under way").unwrap();
    put(&Store::open(store.dir()).unwrap(), b"next");
    assert_eq!(temporary(&store), 1);
    batch.commit().unwrap();
    assert_eq!(store.size(&Digest::of(b"under way")).unwrap(), Some(9));
}

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
        let path = EntryPath::new(format!("pool/main/p{number:06}.deb").into_bytes()).unwrap();
        let digest = Digest::of(&number.to_le_bytes());
        let file = FileEntry {
            size_bytes: 4,
            digest,
            mode: FileMode::Plain,
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
