#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use fetcher::client::Source;
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{Builder, Entry, Mode};
use mirrorlog_core::time::Mtime;
use mirrorlog_core::tree::Tree;
use runtime::store::Store;
use tempfile::TempDir;

use super::*;

/// More entries than a page holds.
const FILES: usize = 2000;

fn path(number: usize) -> EntryPath {
    EntryPath::new(format!("pool/{number:05}.deb").as_bytes()).unwrap()
}

fn file(number: usize) -> FileEntry {
    FileEntry {
        digest: Digest::of(&number.to_be_bytes()),
        size_bytes: 7,
        mode: Mode::Plain,
        mtime: Mtime::from_seconds(0),
    }
}

/// A manifest of many pages.
fn manifest() -> (Arc<MemoryPages>, Digest) {
    let pages = MemoryPages::new();
    let mut builder = Builder::new(&pages);
    for number in 0..FILES {
        builder
            .push(&path(number), &Entry::File(file(number)))
            .unwrap();
    }
    let root = builder.finish().unwrap().root;
    (Arc::new(pages), root)
}

/// A mirror that answers so, and its URL.
async fn mirror<F>(answer: F) -> String
where
    F: Fn(Digest) -> Result<Vec<u8>, StatusCode> + Clone + Send + Sync + 'static,
{
    let page = move |Path(digest): Path<String>| {
        let answer = answer(digest.parse().unwrap());
        async move { answer }
    };
    let router = Router::new().route("/pub/@/page/{digest}", axum::routing::get(page));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/pub", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn good_mirror(pages: &Arc<MemoryPages>) -> String {
    let pages = Arc::clone(pages);
    mirror(move |digest| pages.bytes(&digest).ok_or(StatusCode::NOT_FOUND)).await
}

/// Nobody listens where the archive should be.
fn trees() -> (TempDir, Trees) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let archive = Source::new("127.0.0.1:1").unwrap();
    let trees = Trees::new(Manifests::new(store, 1 << 20, archive));
    (dir, trees.asking_mirrors().unwrap())
}

fn scope(root: Digest) -> Scope {
    Scope(vec![Tree {
        channel: ChannelId::new("noble").unwrap(),
        build: Build::FIRST,
        root,
        selection: mirrorlog_core::view::Selection::ALL,
    }])
}

#[tokio::test]
async fn mirrors_stand_in_for_the_archive() {
    let (pages, root) = manifest();
    assert!(pages.digests().len() > 2);
    let dead = "http://127.0.0.1:1".to_owned();
    let lies = mirror(|_| Ok(b"no page".to_vec())).await;
    let urls = vec![dead, lies, good_mirror(&pages).await];
    let (_dir, trees) = trees();
    let (scope, last) = (scope(root), path(FILES - 1));
    let find = |path: Vec<u8>| {
        let (trees, scope, urls) = (trees.clone(), scope.clone(), urls.clone());
        async move { trees.find(&scope, &path, |_| urls.clone()).await.unwrap() }
    };
    let expected = Found::File {
        tree: 0,
        path: last.clone(),
        file: file(FILES - 1),
    };
    assert_eq!(*find(last.as_bytes().to_vec()).await, expected);
    assert_eq!(*find(b"pool".to_vec()).await, Found::Folder(b"pool".into()));
    assert_eq!(*find(b"pool/x".to_vec()).await, Found::Nothing);
}

#[tokio::test]
async fn a_manifest_that_nobody_has_is_not_found_and_not_remembered() {
    let (pages, root) = manifest();
    let (_dir, trees) = trees();
    let nobody = |_: usize| Vec::new();
    let missed = trees.find(&scope(root), b"pool", nobody).await;
    assert!(matches!(missed, Err(TreesError::Manifest(_))), "{missed:?}");
    let url = good_mirror(&pages).await;
    let scope = scope(root);
    let found = trees.find(&scope, b"pool", |_| vec![url.clone()]).await;
    assert_eq!(*found.unwrap(), Found::Folder(b"pool".into()));
}

#[tokio::test]
async fn preparing_goes_on_until_the_manifest_is_here_or_of_no_use() {
    let (pages, root) = manifest();
    let (_dir, trees) = trees();
    let url = good_mirror(&pages).await;
    let gone = Digest::of(b"retracted meanwhile");
    let asked = AtomicUsize::new(0);
    let urls = |one: &Digest| {
        let times = asked.fetch_add(1, Ordering::Relaxed);
        if *one == gone {
            return (times < 2).then(Vec::new);
        }
        let holders = (times > 3).then(|| url.clone());
        Some(holders.into_iter().collect())
    };
    let roots = vec![gone, root];
    trees.prepare(roots, Duration::from_millis(1), urls).await;
    assert!(asked.load(Ordering::Relaxed) > 4);
    let nobody = |_: usize| Vec::new();
    let found = trees.find(&scope(root), b"pool", nobody).await.unwrap();
    assert_eq!(*found, Found::Folder(b"pool".into()));
}

#[tokio::test]
async fn paths_that_no_manifest_holds_are_not_looked_up() {
    let (_dir, trees) = trees();
    let anybody = |_: usize| unreachable!("nobody is asked");
    let long = vec![b'a'; PATH_MAX_BYTES + 1];
    let found = trees.find(&scope(Digest::of(b"")), &long, anybody).await;
    assert_eq!(*found.unwrap(), Found::Nothing);
}

#[test]
fn memory_is_bounded_and_made_up_names_push_out_no_file() {
    let known = Known::new();
    let root = Digest::of(b"root");
    let key = |name: Vec<u8>| -> Key { ([root].into(), name.into()) };
    let there = Arc::new(Found::File {
        tree: 0,
        path: path(1),
        file: file(1),
    });
    known.keep(key(b"there".to_vec()), &there);
    let (nothing, folder) = (Arc::new(Found::Nothing), |name: &[u8]| {
        Arc::new(Found::Folder(name.to_vec()))
    });
    for number in 0..20_000 {
        let mut name = format!("{number}/").into_bytes();
        name.resize(PATH_MAX_BYTES, b'x');
        known.keep(key(name), &nothing);
    }
    assert!(known.nothing.weight() <= NOTHING_BYTES);
    assert_eq!(known.get(&key(b"there".to_vec())), Some(there));
    for number in 0..20_000 {
        let mut name = format!("{number}/").into_bytes();
        name.resize(PATH_MAX_BYTES, b'x');
        let found = folder(&name);
        known.keep(key(name), &found);
    }
    assert!(known.found.weight() <= FOUND_BYTES);
}
