//! Many questions at once get the answers that each would get alone.

use mirrorlog_core::id::Digest;

use super::{content, put, store};
use crate::store::{Names, Store};

/// Looks as if nothing had come for an hour.
fn settle(store: &Store) {
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for number in 0..=u8::MAX {
        if let Ok(folder) = std::fs::File::open(store.dir().join(hex::encode([number]))) {
            folder.set_modified(old).unwrap();
        }
    }
}

#[test]
fn names_say_what_the_store_has() {
    let (_dir, store) = store();
    let here: Vec<Digest> = (0..600).map(|n| put(&store, &content(n, 4))).collect();
    std::fs::write(store.dir().join("00/not-a-digest"), "x").unwrap();
    // From lists that are made at once, from lists that are made when they are needed, and by looking, because nobody
    // will ask often enough.
    for asked in [5_000, 1_000, 0] {
        let batch = store.batch();
        let coming = Digest::of(b"coming");
        batch.put(&coming, b"coming").unwrap();
        let mut names = Names::new(&store, asked).unwrap();
        for digest in here.iter().chain([&coming]) {
            assert!(names.have(&batch, digest).unwrap(), "{digest}");
        }
        assert!(!names.have(&batch, &Digest::of(b"absent")).unwrap());
        // What comes after the lists were made is found as well.
        let late = put(&store, format!("late {asked}").as_bytes());
        assert!(names.have(&batch, &late).unwrap());
    }
}

#[test]
fn a_name_in_a_folder_that_changed_is_made_durable() {
    let (_dir, store) = store();
    let digest = put(&store, b"content");
    let ask = || {
        let batch = store.batch();
        let mut names = Names::new(&store, 1_000).unwrap();
        assert!(names.have(&batch, &digest).unwrap());
        format!("{batch:?}").contains("unsettled: true")
    };
    assert!(ask(), "it has just come");
    // A second opinion is the folder's time of change, which nobody can set: nothing is settled by a touch.
    settle(&store);
    assert!(
        ask(),
        "the folder was changed a moment ago, whatever its mtime says"
    );
}
