//! Manifests without content, from events and from an archive.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use fetcher::client::Source;
use fetcher::manifests::{Manifests, Nobody};
use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::Change;
use mirrorlog_core::time::Mtime;
use runtime::store::Store;
use support::{Server, disk};

fn entry(seed: u32) -> Entry {
    Entry::File(FileEntry {
        size_bytes: 4,
        digest: Digest::of(&seed.to_le_bytes()),
        mode: Mode::Plain,
        mtime: Mtime::from_seconds(1_700_000_000),
    })
}

fn path(number: u32) -> EntryPath {
    EntryPath::new(format!("pool/{number:06}").as_bytes()).unwrap()
}

/// Some thousand files, of which one differs.
fn manifest(store: &Store, seed: u32) -> Digest {
    let batch = store.batch();
    let mut builder = Builder::new(&batch);
    for number in 0..5000 {
        let of = if number == 2500 { seed } else { number };
        builder.push(&path(number), &entry(of)).unwrap();
    }
    let root = builder.finish().unwrap().root;
    batch.commit().unwrap();
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_s_changes_make_its_manifest_without_the_archive() {
    let (archive, own) = (disk(), disk());
    let (old, new) = (manifest(&archive.store, 1), manifest(&archive.store, 2));
    let change = |seed| {
        let new = Some(entry(seed));
        vec![Change {
            path: path(2500),
            new,
        }]
    };
    let server = Server::start(&archive.store);
    let manifests = Manifests::new(own.store.clone(), 1 << 20, server.source());
    // Nothing is made of a base that may not be here.
    assert!(!manifests.apply(Some(old), change(2), new).await);
    manifests.ensure::<Nobody>(old, None).await.unwrap();
    // What gives another root than the signed one is not believed.
    assert!(!manifests.apply(Some(old), change(3), new).await);
    assert!(own.store.size(&new).unwrap().is_none());
    // The archive is asked for nothing.
    archive.store.remove(&new).unwrap();
    assert!(manifests.apply(Some(old), change(2), new).await);
    manifests.ensure::<Nobody>(new, None).await.unwrap();
    // All of it is on the disk: somebody else reads the same.
    let source = Source::new("127.0.0.1:1").unwrap();
    let again = Manifests::new(own.store.clone(), 1 << 20, source);
    let found = mirrorlog_core::manifest::get(&again.pages(), &new, &path(2500));
    assert_eq!(found.unwrap().unwrap().1, entry(2));
}
