#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use mirrorlog_core::consistency::Depth as AuditDepth;
use mirrorlog_core::id::{Build, Ordinal};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode, Summary};
use mirrorlog_core::statement::RevokeReason;
use mirrorlog_core::time::Mtime;
use mirrorlog_core::view::{Part, Selection, View};
use runtime::boot::Span as Time;
use runtime::store::{Pages, Store};

use super::plan::{Depth, File};
use super::*;

fn entry(content: &[u8]) -> FileEntry {
    FileEntry {
        size_bytes: content.len() as u64,
        digest: Digest::of(content),
        mode: Mode::Plain,
        mtime: Mtime::from_seconds(0),
    }
}

fn path(text: &str) -> EntryPath {
    EntryPath::new(text.as_bytes()).unwrap()
}

fn audit(scope: Scope, root: Digest) -> Audit {
    Audit {
        id: Default::default(),
        mirror: "nz1".parse().unwrap(),
        channel: "noble".parse().unwrap(),
        build: Build::new(1).unwrap(),
        root,
        mount: "/ubuntu".parse().unwrap(),
        base: None,
        scope,
        depth: AuditDepth::First,
        suspects: Vec::new(),
        lost: Vec::new(),
        selection: Selection::ALL,
        above: vec!["security".parse().unwrap()],
    }
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

/// Asks for `pool/a`, which should have `content`.
async fn ask(url: String, scope: Scope, content: &[u8]) -> Found {
    ask_within(Duration::from_secs(10), url, scope, content).await
}

async fn ask_within(timeout: Duration, url: String, scope: Scope, content: &[u8]) -> Found {
    let config = AuditSection {
        timeout: Time(timeout),
        ..AuditSection::default()
    };
    let http = Http::new(
        fetcher::web::client(config.timeout.0, config.concurrency).unwrap(),
        url.into(),
        config.timeout.0,
    );
    let file = file("pool/a", content);
    check::file(&http, &audit(scope, Digest::of(b"")), &file).await
}

fn file(at: &str, content: &[u8]) -> File {
    File {
        path: path(at),
        entry: entry(content),
        depth: Depth::Whole,
        sampled: true,
    }
}

const PINNED: &str = "/@/noble/1/pool/a";
const LIVE: &str = "/ubuntu/pool/a";

#[tokio::test]
async fn what_another_host_answers_is_not_the_mirrors() {
    let good = serve(Router::new().route(PINNED, get(|| async { "good" }))).await;
    assert_eq!(ask(good.clone(), Scope::Pinned, b"good").await, Found::Same);
    let away = format!("{good}{PINNED}");
    let away = move || async move { Redirect::temporary(&away) };
    let liar = serve(Router::new().route(PINNED, get(away))).await;
    let missing = RevokeReason::Missing {
        path: path("pool/a"),
    };
    let found = ask(liar, Scope::Pinned, b"good").await;
    assert_eq!(found, Found::Faulty(missing));
    let own = Router::new()
        .route(PINNED, get(|| async { Redirect::temporary("/blob") }))
        .route("/blob", get(|| async { "good" }));
    assert_eq!(
        ask(serve(own).await, Scope::Pinned, b"good").await,
        Found::Same
    );
}

#[tokio::test]
async fn a_body_that_drips_or_does_not_end_is_given_up() {
    let drip = || async {
        let bytes = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((Ok::<_, std::io::Error>("x"), ()))
        });
        Response::new(Body::from_stream(bytes))
    };
    let url = serve(Router::new().route(PINNED, get(drip))).await;
    let short = Duration::from_millis(200);
    let found = ask_within(short, url, Scope::Pinned, &[b'x'; 1000]).await;
    assert_eq!(found, Found::Silent);
    let endless = || async {
        let bytes = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 8192]));
        Response::new(Body::from_stream(bytes))
    };
    let url = serve(Router::new().route(PINNED, get(endless))).await;
    let mismatch = RevokeReason::DigestMismatch {
        path: path("pool/a"),
    };
    let found = ask(url, Scope::Pinned, &[b'x'; 1000]).await;
    assert_eq!(found, Found::Faulty(mismatch));
}

#[tokio::test]
async fn a_path_that_another_channel_wins_is_not_held_against_this_one() {
    for (winner, found) in [
        ("security=4", Found::Shadowed),
        ("noble=2", Found::Moved),
        (
            "universe=4",
            Found::Faulty(RevokeReason::DigestMismatch {
                path: path("pool/a"),
            }),
        ),
    ] {
        let other = move || async move { ([("mirrorlog-build", winner)], "older").into_response() };
        let url = serve(Router::new().route(LIVE, get(other))).await;
        assert_eq!(ask(url, Scope::Live, b"newer").await, found, "{winner}");
    }
    let outcome = |shadowed, same| {
        let tally = Tally {
            shadowed,
            same,
            ..Tally::default()
        };
        tally.outcome(0)
    };
    assert_eq!(outcome(2, 1), AuditOutcome::Inconclusive);
    assert!(matches!(outcome(1, 1), AuditOutcome::Passed { .. }));
}

#[test]
fn one_file_without_an_answer_is_withheld() {
    let mut tally = Tally::default();
    assert_eq!(tally.count(file("a", b""), Found::Silent), None);
    let alone = Tally {
        silent: Some(path("a")),
        ..Tally::default()
    };
    assert_eq!(alone.outcome(1), AuditOutcome::Unreachable);
    assert_eq!(tally.count(file("b", b""), Found::Same), None);
    let withheld = AuditOutcome::Withheld { path: path("a") };
    assert_eq!(tally.outcome(2), withheld);
}

fn manifest(store: &Store, entries: &[(&str, Entry)]) -> Summary {
    let batch = store.batch();
    let mut builder = Builder::new(&batch);
    for (at, entry) in entries {
        builder.push(&path(at), entry).unwrap();
    }
    let summary = builder.finish().unwrap();
    batch.commit().unwrap();
    summary
}

#[test]
fn symlinks_are_seen_through_what_they_lead_to() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let file = |text: &str| Entry::File(entry(text.as_bytes()));
    let link = |target: &str| Entry::Symlink {
        target: target.as_bytes().into(),
    };
    let files = [
        ("dists/new/Release", file("new")),
        ("dists/old/Release", file("old")),
        ("dists/stable", link("old")),
        ("nowhere", link("gone")),
        ("readme", link("dists/old/Release")),
    ];
    let mut moved = files.clone();
    moved[2].1 = link("new");
    moved[4].1 = link("dists/stable/Release");
    let (base, root) = (manifest(&store, &files).root, manifest(&store, &moved).root);
    let planner = Planner::new(Pages::new(store, 1 << 20), 0, 100);
    let audit = audit(Scope::Pinned, root);
    let asked = |base: Option<Digest>| -> Vec<(String, Digest)> {
        let plan = planner.plan(&audit, base).unwrap();
        let file = |file: File| (file.path.to_string(), file.entry.digest);
        plan.files.into_iter().map(file).collect()
    };
    let new = Digest::of(b"new");
    let expected = [("dists/stable/Release", new), ("readme", new)];
    assert_eq!(asked(Some(base)), expected.map(|(p, d)| (p.to_owned(), d)));
    assert_eq!(
        asked(None).len(),
        4,
        "a link that leads nowhere shows nothing"
    );
}

/// A first build with more files than are asked for: as many as are to be asked for, and each may be.
#[test]
fn a_sample_has_no_file_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let names: Vec<String> = (0..25).map(|number| format!("pool/p{number:02}")).collect();
    let batch = store.batch();
    let mut builder = Builder::new(&batch);
    for name in &names {
        let entry = Entry::File(entry(name.as_bytes()));
        builder.push(&path(name), &entry).unwrap();
    }
    let root = builder.finish().unwrap().root;
    batch.commit().unwrap();
    let part = View::new(Part {
        include: ["pool/p0*".to_owned(), "pool/p1*".to_owned()].into(),
        ..Part::default()
    });
    let selections = [
        (25, Selection::ALL),
        (20, Selection::new(&part.unwrap(), Layout::Debian)),
    ];
    for (all, selection) in selections {
        let audit = Audit {
            selection,
            ..audit(Scope::Pinned, root)
        };
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            // Looked at anew each time, as for each mirror.
            let planner = super::plan::Planner::new(Pages::new(store.clone(), 1 << 20), 0, 15);
            let plan = planner.plan(&audit, None).unwrap();
            let paths: BTreeSet<_> = plan.files.into_iter().map(|file| file.path).collect();
            assert_eq!(paths.len(), 15);
            seen.extend(paths);
        }
        assert_eq!(seen.len(), all);
    }
}

/// What an audit asks for of a tree of `names`, of each of which `mirror` has a part.
#[test]
fn of_a_part_nothing_else_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let manifest = |version: u32| {
        let batch = store.batch();
        let mut builder = Builder::new(&batch);
        for number in 0..3000_u32 {
            // One in a hundred is of the part.
            let arch = if number % 100 == 0 {
                "riscv64"
            } else {
                "amd64"
            };
            let changed = if number % 10 == 0 { version } else { 0 };
            let path = path(&format!("pool/main/p{number:04}_1_{arch}.deb"));
            let entry = entry(format!("{number} {changed}").as_bytes());
            builder.push(&path, &Entry::File(entry)).unwrap();
        }
        let root = builder.finish().unwrap().root;
        batch.commit().unwrap();
        root
    };
    let (first, second) = (manifest(1), manifest(2));
    let part = Part {
        architectures: ["riscv64".to_owned()].into(),
        ..Part::default()
    };
    let view = View::new(part).unwrap();
    let pages = Pages::new(store.clone(), 1 << 20);
    for (most, base, new) in [
        (10_000, None, 30),
        (10_000, Some(first), 30),
        (5, Some(first), 30),
    ] {
        let planner = super::plan::Planner::new(pages.clone(), 10, most);
        let audit = Audit {
            selection: Selection::new(&view, Layout::Debian),
            suspects: vec![
                path("pool/main/p0001_1_amd64.deb"),
                path("pool/main/p0100_1_riscv64.deb"),
            ],
            lost: vec![Ordinal(2), Ordinal(300)],
            ..audit(Scope::Pinned, second)
        };
        let plan = planner.plan(&audit, base).unwrap();
        let foreign = plan
            .files
            .iter()
            .find(|file| !file.path.as_bytes().ends_with(b"_riscv64.deb"));
        assert_eq!(foreign, None);
        assert_eq!(plan.new_files, new);
        // What is new says nothing of what is not.
        let drawn = plan.files.iter().filter(|file| file.sampled).count();
        let all = base.is_none();
        assert!(drawn <= if all { 30 } else { 10 }, "{drawn}");
        let most = usize::try_from(new).unwrap().min(most);
        assert!(plan.files.len() >= most, "{} of {most}", plan.files.len());
        let whole = planner
            .plan(
                &Audit {
                    selection: Selection::ALL,
                    ..audit
                },
                base,
            )
            .unwrap();
        assert!(
            whole.new_files > new,
            "what is new for one part is not that for all"
        );
    }
    // A first build with more files than are asked for: a sample of the part, and about how many it has.
    let planner = super::plan::Planner::new(pages, 0, 20);
    let audit = Audit {
        selection: Selection::new(&view, Layout::Debian),
        ..audit(Scope::Pinned, second)
    };
    let plan = planner.plan(&audit, None).unwrap();
    assert_eq!(plan.files.len(), 20);
    assert!(plan.files.iter().all(|file| file.sampled));
    assert!((10..100).contains(&plan.new_files), "{}", plan.new_files);
    // One file of three thousand is found all the same: nothing is complete unseen.
    let only = Part {
        include: ["pool/main/p1234_1_amd64.deb".to_owned()].into(),
        ..Part::default()
    };
    let audit = Audit {
        selection: Selection::new(&View::new(only).unwrap(), Layout::Debian),
        ..audit
    };
    let plan = planner.plan(&audit, None).unwrap();
    assert_eq!((plan.files.len(), plan.new_files), (1, 1));
}
