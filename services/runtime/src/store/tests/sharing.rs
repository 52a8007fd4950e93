//! Several users of one store.

use mirrorlog_core::id::Digest;

use super::{all, content, store, temporary};
use crate::store::Store;

#[test]
fn a_sweep_waits_for_pins() {
    let (_dir, store) = store();
    let other = Store::open(store.dir()).unwrap();
    let (one, two) = (store.pin().unwrap(), other.pin().unwrap());
    assert!(store.try_sweep_lock().unwrap().is_none());
    drop(one);
    assert!(store.try_sweep_lock().unwrap().is_none());
    drop(two);
    // A process that another test starts shares our locks between its fork and its exec.
    let sweep = std::iter::repeat_with(|| other.try_sweep_lock().unwrap())
        .flatten()
        .next()
        .unwrap();
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
