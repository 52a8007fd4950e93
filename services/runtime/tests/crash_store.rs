//! A process that is killed while it commits content. Alone in this binary: a process that another
//! test starts would share our locks between its fork and its exec.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use mirrorlog_core::id::Digest;
use runtime::store::Store;

fn content(number: u32, size_bytes: usize) -> Vec<u8> {
    number
        .to_le_bytes()
        .into_iter()
        .cycle()
        .take(size_bytes)
        .collect()
}

fn put(store: &Store, bytes: &[u8]) {
    let batch = store.batch();
    batch.put(&Digest::of(bytes), bytes).unwrap();
    batch.commit().unwrap();
}

/// All temporary files of all processes.
fn temporary(store: &Store) -> usize {
    let sessions = fs::read_dir(store.dir().join("tmp")).unwrap();
    sessions
        .map(|session| fs::read_dir(session.unwrap().path()).unwrap().count())
        .sum()
}

const CHILD: &str = "MIRRORLOG_TEST_STORE";

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
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let acked = store.dir().with_extension("acked");
    for wanted in [1, 2, 4] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "child_that_dies_in_the_middle"])
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
        for digest in store.digests().unwrap().map(Result::unwrap) {
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
