//! Both ends over real gRPC on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fetcher::client::{
    FetchError, FetchOptions, Kind, Present, Progress, Source, Wanted, fetch_all, fetch_manifest,
};
use fetcher::limit::RateLimiter;
use mirrorlog_core::id::{Digest, Lane};
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode, Page};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Mtime;
use runtime::boot::ByteRate;
use runtime::store::Store;
use support::{Server, assert_here, disk, fill, noise, until};

const MIB: usize = 1024 * 1024;

fn many() -> impl Iterator<Item = Vec<u8>> {
    (0..3000).map(|i| noise(i, (i as usize * 37) % 9000))
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_small_files_and_a_large_one() {
    let (from, to) = (disk(), disk());
    let mut wants = fill(&from.store, many());
    wants.extend(fill(
        &from.store,
        [noise(77, 64 * MIB), noise(78, 700_000), noise(79, MIB + 1)],
    ));
    let server = Server::start(&from.store);
    let options = FetchOptions::default();
    let fetched = fetch_all(&[server.source()], wants.clone(), &to.store, &options)
        .await
        .unwrap();
    assert!(
        fetched.is_whole(),
        "{:?} {:?}",
        fetched.absent,
        fetched.failed
    );
    // Contents of 0 bytes come more than once in `many`, and are wanted once.
    let mut distinct: Vec<_> = wants.iter().map(|wanted| wanted.digest).collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(fetched.files >= distinct.len() as u64);
    assert_here(&to.store, &wants);
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_blobs_are_listed_and_the_next_source_is_asked() {
    let (first, second, to) = (disk(), disk(), disk());
    let a = fill(&first.store, (0..10).map(|i| noise(i, 1000)));
    let b = fill(&second.store, (10..20).map(|i| noise(i, 2 * MIB)));
    let nowhere = Wanted {
        digest: Digest::of(b"nowhere"),
        size_bytes: 7,
        kind: Kind::Blob,
    };
    let large_nowhere = Wanted {
        digest: Digest::of(b"large"),
        size_bytes: 1 << 30,
        kind: Kind::Blob,
    };
    let (one, two) = (Server::start(&first.store), Server::start(&second.store));
    let wants: Vec<_> = a
        .iter()
        .chain(&b)
        .copied()
        .chain([nowhere, large_nowhere])
        .collect();
    let sources = [one.source(), two.source()];
    let fetched = fetch_all(&sources, wants, &to.store, &FetchOptions::default())
        .await
        .unwrap();
    let mut absent = fetched.absent.clone();
    absent.sort_unstable();
    let mut expected = vec![nowhere.digest, large_nowhere.digest];
    expected.sort_unstable();
    assert_eq!(absent, expected);
    assert!(fetched.failed.is_empty());
    assert_eq!(fetched.files, 20);
    assert_eq!(fetched.sources[0].absent, 12);
    assert_here(&to.store, &a);
    assert_here(&to.store, &b);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_down_is_stood_in_for() {
    let (from, to) = (disk(), disk());
    let wants = fill(&from.store, (0..10).map(|i| noise(i, 1000)));
    let server = Server::start(&from.store);
    let gone = Server::start(&from.store).source();
    let fetched = fetch_all(
        &[gone, server.source()],
        wants.clone(),
        &to.store,
        &FetchOptions::default(),
    )
    .await
    .unwrap();
    assert!(fetched.is_whole());
    assert!(fetched.sources[0].lost >= 1);
    assert_here(&to.store, &wants);
}

fn limited(rate: u64) -> FetchOptions {
    FetchOptions {
        rate: RateLimiter::new(Some(ByteRate(rate))),
        ..FetchOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_costs_at_most_a_mebibyte() {
    let (from, to) = (disk(), disk());
    let size = 48 * MIB as u64;
    let wants = fill(&from.store, [noise(1, size as usize)]);
    let mut server = Server::start(&from.store);
    let options = limited(30_000_000);
    let progress = Arc::clone(&options.progress);
    let (sources, store) = ([server.source()], to.store.clone());
    let asked = wants.clone();
    let fetch = tokio::spawn(async move { fetch_all(&sources, asked, &store, &options).await });
    for step in 1..=3 {
        let mark = step * 10 * MIB as u64;
        until("the next part", || progress.received_bytes() > mark).await;
        server = server.killed(&from.store);
    }
    let fetched = fetch.await.unwrap().unwrap();
    assert!(fetched.is_whole());
    assert_eq!(fetched.sources[0].lost, 3);
    assert_here(&to.store, &wants);
    // Framing is 64 bytes for each piece, most of 16 KiB or more: below 1 in 200.
    let most = size + size / 200 + 3 * MIB as u64;
    let received = progress.received_bytes();
    assert!(received < most, "{received} bytes for {size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_fetch_is_gone_on_with() {
    let (from, to) = (disk(), disk());
    let size = 24 * MIB as u64;
    let wants = fill(
        &from.store,
        [noise(2, size as usize), noise(3, 100), noise(4, 5000)],
    );
    let server = Server::start(&from.store);
    let sources = [server.source()];
    let first = limited(20_000_000);
    let (progress, cancel) = (Arc::clone(&first.progress), first.cancel.clone());
    let half = async {
        until("half", || progress.received_bytes() > size / 2).await;
        cancel.cancel();
    };
    let (cancelled, ()) = tokio::join!(fetch_all(&sources, wants.clone(), &to.store, &first), half);
    assert!(matches!(cancelled, Err(FetchError::Cancelled)));
    let second = FetchOptions::default();
    let rest: Vec<_> = wants
        .iter()
        .copied()
        .filter(|w| to.store.size(&w.digest).unwrap().is_none())
        .collect();
    assert!(!rest.is_empty());
    fetch_all(&sources, rest, &to.store, &second).await.unwrap();
    assert_here(&to.store, &wants);
    let both = progress.received_bytes() + second.progress.received_bytes();
    assert!(
        both < size + size / 100 + MIB as u64,
        "{both} bytes for {size}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_is_kept() {
    let (from, to) = (disk(), disk());
    let wants = fill(
        &from.store,
        (0..200)
            .map(|i| noise(i, 20_000))
            .chain([noise(1000, 2 * MIB)]),
    );
    let bytes: u64 = wants.iter().map(|wanted| wanted.size_bytes).sum();
    let server = Server::start(&from.store);
    let options = limited(4_000_000);
    let start = Instant::now();
    let fetched = fetch_all(&[server.source()], wants, &to.store, &options)
        .await
        .unwrap();
    let seconds = start.elapsed().as_secs_f64();
    assert!(fetched.is_whole());
    let rate = bytes as f64 / seconds;
    assert!((2_500_000.0..4_800_000.0).contains(&rate), "{rate} bytes/s");
}

/// Fetches all, and says how long it took until everything had come: the disk has its own time.
async fn over_the_link(
    sources: &[Source],
    wants: &[Wanted],
    store: &Store,
    options: FetchOptions,
) -> Duration {
    let (begun, progress) = (Instant::now(), Arc::clone(&options.progress));
    let bytes: u64 = wants.iter().map(|wanted| wanted.size_bytes).sum();
    let come = async {
        until("all has come", || progress.received_bytes() >= bytes).await;
        begun.elapsed()
    };
    let (fetched, took) = tokio::join!(fetch_all(sources, wants.to_vec(), store, &options), come);
    assert!(fetched.unwrap().is_whole());
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_priority_never_waits_behind_bulk_on_the_link() {
    let (from, bulk_to, to) = (disk(), disk(), disk());
    let bulk_wants = fill(&from.store, (0..8).map(|i| noise(i, 8 * MIB)));
    let [alone, wants] =
        [100, 200].map(|first| fill(&from.store, (first..first + 40).map(|i| noise(i, 100_000))));
    let server = Server::start(&from.store);
    let sources = [server.source()];
    let bulk = limited(4_000_000);
    let urgent = || FetchOptions {
        lane: Lane::Priority,
        rate: Arc::clone(&bulk.rate),
        ..FetchOptions::default()
    };
    // 4 MB at 4 MB/s take 1 s, on a machine that does nothing else.
    let undisturbed = over_the_link(&sources, &alone, &to.store, urgent()).await;
    let undisturbed = undisturbed.as_secs_f64().max(1.0);
    let urgent = urgent();
    let (bulk_progress, cancel, limiter) = (
        Arc::clone(&bulk.progress),
        bulk.cancel.clone(),
        Arc::clone(&bulk.rate),
    );
    let (bulk_sources, bulk_store) = (sources.clone(), bulk_to.store.clone());
    let fetch =
        tokio::spawn(async move { fetch_all(&bulk_sources, bulk_wants, &bulk_store, &bulk).await });
    until("bulk under way", || {
        bulk_progress.received_bytes() > 2_000_000
    })
    .await;
    let before = bulk_progress.received_bytes();
    let fetch_urgent = over_the_link(&sources, &wants, &to.store, urgent);
    let seconds = fetch_urgent.await.as_secs_f64();
    let meanwhile = bulk_progress.received_bytes() - before;
    // Bulk may bring in what was granted: 250 ms of link, or 1 MB.
    assert!(
        seconds < 1.5 * undisturbed,
        "{seconds} s, and {undisturbed} s alone"
    );
    assert!(meanwhile < 1_600_000, "{meanwhile} bytes of bulk");
    assert_here(&to.store, &wants);
    assert!(!limiter.is_preempted());
    let after = bulk_progress.received_bytes();
    until("bulk goes on", || {
        bulk_progress.received_bytes() > after + 500_000
    })
    .await;
    cancel.cancel();
    assert!(matches!(fetch.await.unwrap(), Err(FetchError::Cancelled)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_bulk_is_receiving_comes_by_priority_too() {
    let (from, to) = (disk(), disk());
    let wants = fill(&from.store, [noise(5, 6 * MIB)]);
    let server = Server::start(&from.store);
    let sources = [server.source()];
    let bulk = limited(3_000_000);
    let urgent = FetchOptions {
        lane: Lane::Priority,
        rate: Arc::clone(&bulk.rate),
        ..FetchOptions::default()
    };
    let progress = Arc::clone(&bulk.progress);
    let (bulk_sources, store, asked) = (sources.clone(), to.store.clone(), wants.clone());
    let fetch = tokio::spawn(async move { fetch_all(&bulk_sources, asked, &store, &bulk).await });
    until("bulk under way", || progress.received_bytes() > MIB as u64).await;
    let fetched = fetch_all(&sources, wants.clone(), &to.store, &urgent)
        .await
        .unwrap();
    assert!(fetched.is_whole());
    assert_here(&to.store, &wants);
    assert!(fetch.await.unwrap().unwrap().is_whole());
}

/// Most of such a page is digits, which compress to half: sixty-four of them are more than a message may be.
#[tokio::test(flavor = "multi_thread")]
async fn pages_that_compress_well_come_in_messages_that_fit() {
    let (from, to) = (disk(), disk());
    let batch = from.store.batch();
    let mut builder = Builder::new(&batch);
    let name_of = |first: Digest| {
        let next = |digest: &Digest| Some(Digest::of(digest.as_bytes()));
        let digests = std::iter::successors(Some(first), next).take(3);
        digests.map(|digest| digest.to_hex()).collect::<String>()
    };
    let named: std::collections::BTreeMap<String, Digest> = (0..40_000_u32)
        .map(|i| Digest::of(&i.to_le_bytes()))
        .map(|d| (name_of(d), d))
        .collect();
    for (name, digest) in named {
        let file = FileEntry {
            size_bytes: 1,
            digest,
            mode: Mode::Plain,
            mtime: Mtime::from_seconds(1_700_000_000),
        };
        entries(&mut builder, EntryPath::new(name.as_bytes()).unwrap(), file);
    }
    let root = builder.finish().unwrap().root;
    batch.commit().unwrap();
    let server = Server::start(&from.store);
    let (sources, options) = ([server.source()], FetchOptions::default());
    let fetched = fetch_manifest(&sources, root, &to.store, Present::Whole, &options);
    assert!(fetched.await.unwrap().is_whole());
    assert_eq!(
        pages_below(&to.store, &root),
        pages_below(&from.store, &root)
    );
}

/// A manifest of `count` files whose contents depend on `generation` in one place.
fn manifest(store: &Store, count: u32, generation: u64) -> Digest {
    let batch = store.batch();
    let mut builder = Builder::new(&batch);
    for i in 0..count {
        let path = EntryPath::new(format!("pool/{:03}/file-{i:06}", i / 500).as_bytes());
        let seed = if i == count / 2 { generation } else { 0 };
        let digest = Digest::of(format!("{i} {seed}").as_bytes());
        let file = FileEntry {
            size_bytes: u64::from(i),
            digest,
            mode: Mode::Plain,
            mtime: Mtime::from_seconds(1_700_000_000),
        };
        entries(&mut builder, path.unwrap(), file);
    }
    let root = builder.finish().unwrap().root;
    batch.commit().unwrap();
    root
}

fn entries<W: mirrorlog_core::manifest::PageWrite>(
    builder: &mut Builder<W>,
    path: EntryPath,
    file: FileEntry,
) where
    W::Error: std::fmt::Debug,
{
    builder.push(&path, &Entry::File(file)).unwrap();
}

fn pages_below(store: &Store, root: &Digest) -> u64 {
    let page = Page::decode(&store.read(root, 1 << 16).unwrap().unwrap()).unwrap();
    1 + page
        .children()
        .map(|child| pages_below(store, &child))
        .sum::<u64>()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_costs_its_missing_pages() {
    let (from, to) = (disk(), disk());
    let old = manifest(&from.store, 20_000, 1);
    let server = Server::start(&from.store);
    let sources = [server.source()];
    let options = FetchOptions::default();
    let first = fetch_manifest(&sources, old, &to.store, Present::Whole, &options)
        .await
        .unwrap();
    assert!(first.is_whole());
    assert_eq!(first.files, pages_below(&to.store, &old));
    let new = manifest(&from.store, 20_000, 2);
    let second = fetch_manifest(&sources, new, &to.store, Present::Whole, &options)
        .await
        .unwrap();
    assert_eq!(pages_below(&to.store, &new), pages_below(&from.store, &new));
    assert!((1..=6).contains(&second.files), "{}", second.files);
    assert_eq!(
        fetch_manifest(&sources, new, &to.store, Present::Whole, &options)
            .await
            .unwrap()
            .files,
        0
    );
    // A hole deep below is found when nothing is taken for granted.
    let root = Page::decode(&to.store.read(&new, 1 << 16).unwrap().unwrap()).unwrap();
    let child = root.children().next().unwrap();
    to.store.remove(&child).unwrap();
    let repaired = fetch_manifest(&sources, new, &to.store, Present::Unknown, &options)
        .await
        .unwrap();
    assert_eq!(repaired.files, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_source_is_an_error() {
    let to = disk();
    let none: [Source; 0] = [];
    let error = fetch_all(&none, [], &to.store, &FetchOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Sources(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_wanted_needs_no_connection() {
    let to = disk();
    let source = Source::new("127.0.0.1:1").unwrap();
    let options = FetchOptions {
        progress: Arc::new(Progress::default()),
        ..FetchOptions::default()
    };
    let fetched = tokio::time::timeout(
        Duration::from_secs(2),
        fetch_all(&[source], [], &to.store, &options),
    )
    .await;
    assert_eq!(fetched.unwrap().unwrap().sources[0].lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fetches_that_have_what_the_other_lacks_both_end() {
    let (origin, here) = (disk(), disk());
    // Less than a batch: nothing would be committed before the end.
    let wants = fill(&origin.store, (0..12).map(|seed| noise(seed, 1_500_000)));
    let server = Server::start(&origin.store);
    let source = server.source();
    let reversed: Vec<_> = wants.iter().rev().copied().collect();
    let options = FetchOptions::default();
    let sources = std::slice::from_ref(&source);
    let (first, second) = tokio::join!(
        fetch_all(sources, wants.iter().copied(), &here.store, &options),
        fetch_all(sources, reversed, &here.store, &options),
    );
    assert!(first.unwrap().is_whole() && second.unwrap().is_whole());
    assert_here(&here.store, &wants);
}
