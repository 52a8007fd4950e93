//! Which tree a path comes from: union, nesting, grace, symlinks, pinned builds.

use mirrorlog_core::layout::Layout;

use super::{Put, World, build, channel, ok};

#[tokio::test]
async fn the_lowest_precedence_wins_a_path() {
    let world = World::new();
    let main = world.files(&[("a", "main a"), ("b", "main b")]);
    let security = world.files(&[("b", "security b"), ("c", "security c")]);
    world.serve("main", "/d", &[(4, main)], Some(4));
    world.serve_as("security", "/d", &[(9, security)], Some(9), |served| {
        served.precedence = 1
    });
    assert_eq!(world.brief("/d/a").await, ok("main=4", "main a"));
    assert_eq!(world.brief("/d/b").await, ok("security=9", "security b"));
    assert_eq!(world.brief("/d/c").await, ok("security=9", "security c"));
    let (status, builds, text) = world.brief("/d/nothing").await;
    assert_eq!((status, builds.as_str()), (404, "security=9, main=4"));
    assert_eq!(text, "unknown-path: nothing is at /d/nothing\n");
    // Pinned, each is itself.
    assert_eq!(world.brief("/@/main/4/b").await, ok("main=4", "main b"));
    assert_eq!(world.get("/@/main/4/c").await.status, 404);
}

#[tokio::test]
async fn the_longest_mount_that_knows_a_path_wins_it() {
    let world = World::new();
    let outer = world.files(&[
        ("security/x", "outer x"),
        ("security/only", "outer only"),
        ("y", "y"),
    ]);
    let inner = world.files(&[("x", "inner x")]);
    world.serve("main", "/debian", &[(1, outer)], Some(1));
    world.serve("security", "/debian/security", &[(2, inner)], Some(2));
    assert_eq!(
        world.brief("/debian/security/x").await,
        ok("security=2", "inner x")
    );
    assert_eq!(
        world.brief("/debian/security/only").await,
        ok("main=1", "outer only")
    );
    assert_eq!(world.brief("/debian/y").await, ok("main=1", "y"));
    // A mount is no prefix of other names.
    assert_eq!(world.brief("/debian-x/y").await.0, 404);
    assert_eq!(
        world.brief("/debian/security/nothing").await.1,
        "security=2"
    );
}

#[tokio::test]
async fn invariant_no_half_snapshot_a_flip_moves_every_path_at_once() {
    let world = World::new();
    let one = world.files(&[("a", "1"), ("b", "1"), ("gone", "1")]);
    let two = world.files(&[("a", "2"), ("b", "2"), ("new", "2")]);
    world.serve("main", "/d", &[(1, one)], Some(1));
    // Staged: by number only.
    world.serve("main", "/d", &[(1, one), (2, two)], Some(1));
    assert_eq!(world.brief("/d/a").await, ok("main=1", "1"));
    assert_eq!(world.brief("/d/new").await.0, 404);
    assert_eq!(world.brief("/@/main/2/new").await, ok("main=2", "2"));
    world.serve("main", "/d", &[(1, one), (2, two)], Some(2));
    for path in ["/d/a", "/d/b", "/d/new"] {
        assert_eq!(world.brief(path).await, ok("main=2", "2"), "{path}");
    }
    assert_eq!(world.brief("/d/gone").await.0, 404);
    assert_eq!(world.brief("/@/main/1/gone").await, ok("main=1", "1"));
}

#[tokio::test]
async fn immutable_paths_stay_for_the_grace_time() {
    let world = World::new();
    let hash = "dists/x/by-hash/SHA256/aa";
    let one = world.files(&[("pool/a_1.deb", "1"), (hash, "1"), ("dists/x/Release", "1")]);
    let two = world.files(&[
        ("pool/a_1.deb", "1"),
        ("pool/a_2.deb", "2"),
        ("dists/x/old", "2"),
    ]);
    let three = world.files(&[("pool/a_3.deb", "3")]);
    let four = world.files(&[("pool/bad.deb", "4")]);
    let held = [(1, one), (2, two), (3, three), (4, four)];
    world.serve_as("main", "/d", &held, Some(3), |served| {
        served.retracted = vec![(build(4), build(4))];
    });
    assert_eq!(world.brief("/d/pool/a_3.deb").await, ok("main=3", "3"));
    // The newest that has it, and honestly named.
    assert_eq!(world.brief("/d/pool/a_1.deb").await, ok("main=2", "1"));
    assert_eq!(world.brief("/d/pool/a_2.deb").await, ok("main=2", "2"));
    assert_eq!(world.brief(&format!("/d/{hash}")).await, ok("main=1", "1"));
    let keep = world.get("/d/pool/a_1.deb").await;
    assert_eq!(
        keep.header("cache-control"),
        "public, max-age=31536000, immutable"
    );
    // Names that can get other content never come from another build; nor does a retracted one's.
    for path in [
        "/d/dists/x/Release",
        "/d/dists/x/old",
        "/d/pool/bad.deb",
        "/d/pool/a_1.deb/",
    ] {
        let (status, builds, _) = world.brief(path).await;
        assert_eq!((status, builds.as_str()), (404, "main=3"), "{path}");
    }
    // Other layouts promise nothing.
    let plain = world.files(&[("pool/x", "x")]);
    let empty = world.files(&[]);
    world.serve_as(
        "plain",
        "/p",
        &[(1, plain), (2, empty)],
        Some(2),
        |served| {
            served.layout = Layout::Plain;
        },
    );
    assert_eq!(world.brief("/p/pool/x").await.0, 404);
}

#[tokio::test]
async fn symlinks_are_followed_inside_the_union_or_the_build() {
    let world = World::new();
    let hash = b"dists/bookworm/by-hash/SHA256/aa".as_slice();
    let old = world.tree(&[
        (b"dists/bookworm/Release", Put::File(b"old")),
        (hash, Put::File(b"hash")),
        (b"dists/stable", Put::Link("bookworm")),
    ]);
    let new = world.tree(&[
        (b"dists/trixie/Release", Put::File(b"new")),
        (b"dists/stable", Put::Link("trixie")),
        (b"dists/elsewhere", Put::Link("../other/dir")),
        (b"loop", Put::Link("loop")),
        (b"file", Put::Link("dists/stable/Release")),
        (b"nowhere", Put::Link("gone")),
    ]);
    let other = world.files(&[("other/dir/x", "x")]);
    world.serve("main", "/d", &[(1, old), (2, new)], Some(2));
    world.serve("other", "/d", &[(5, other)], Some(5));
    assert_eq!(
        world.brief("/d/dists/stable/Release").await,
        ok("main=2", "new")
    );
    assert_eq!(world.brief("/d/file").await, ok("main=2", "new"));
    assert_eq!(
        world.brief("/@/main/1/dists/stable/Release").await,
        ok("main=1", "old")
    );
    // A live link may lead into another channel of the mount, a pinned one may not.
    assert_eq!(
        world.brief("/d/dists/elsewhere/x").await,
        ok("other=5", "x")
    );
    assert_eq!(world.brief("/@/main/2/dists/elsewhere/x").await.0, 404);
    for path in ["/d/loop", "/d/nowhere", "/d/loop/x"] {
        assert_eq!(world.brief(path).await.0, 404, "{path}");
    }
    // Grace follows the links of the build that it looks into.
    let path = "/d/dists/stable/by-hash/SHA256/aa";
    assert_eq!(world.brief(path).await, ok("main=1", "hash"));
}

#[tokio::test]
async fn a_build_by_number_is_that_build_or_says_why_not() {
    let world = World::new();
    let root = world.files(&[
        ("a", "a"),
        ("snapshot", "a file of this name"),
        ("d/snapshot", "s"),
    ]);
    let held = [(3, root), (4, root), (6, root)];
    world.serve_as("main", "/d", &held, Some(4), |served| {
        served.retracted = vec![(build(2), build(3)), (build(9), build(9))];
        served.newest_known = Some(build(8));
    });
    let gone = |text: &str| (410, "main=4".to_owned(), text.to_owned());
    let unknown = |text: &str| (404, "main=4".to_owned(), text.to_owned());
    for (number, expected) in [
        (
            "1",
            gone("collected: build 1 of main is older than what is kept here\n"),
        ),
        (
            "2",
            gone("retracted: build 2 of main was taken back by the archive\n"),
        ),
        (
            "3",
            gone("retracted: build 3 of main was taken back by the archive\n"),
        ),
        ("4", ok("main=4", "a")),
        (
            "5",
            gone("collected: build 5 of main is older than what is kept here\n"),
        ),
        ("6", ok("main=6", "a")),
        (
            "7",
            unknown("unknown-build: build 7 of main is not whole here yet\n"),
        ),
        (
            "8",
            unknown("unknown-build: build 8 of main is not whole here yet\n"),
        ),
        (
            "9",
            gone("retracted: build 9 of main was taken back by the archive\n"),
        ),
        (
            "10",
            unknown("unknown-build: build 10 of main is not known here\n"),
        ),
        (
            "04",
            unknown("unknown-build: build 04 of main is not known here\n"),
        ),
        (
            "+4",
            unknown("unknown-build: build +4 of main is not known here\n"),
        ),
        (
            "0",
            unknown("unknown-build: build 0 of main is not known here\n"),
        ),
        (
            "x",
            unknown("unknown-build: build x of main is not known here\n"),
        ),
    ] {
        assert_eq!(
            world.brief(&format!("/@/main/{number}/a")).await,
            expected,
            "{number}"
        );
    }
    let (status, builds, text) = world.brief("/@/main/6/b").await;
    assert_eq!((status, builds.as_str()), (404, "main=6"));
    assert_eq!(text, "unknown-path: /b is not in build 6 of main\n");
    let (status, _, text) = world.brief("/@/nope/6/b").await;
    assert_eq!(
        (status, text.as_str()),
        (404, "unknown-channel: nope is not carried here\n")
    );
    // The signed snapshot wins its name at the top only.
    assert_eq!(
        world.brief("/@/main/6/snapshot").await,
        ok("main=6", "snapshot main 6")
    );
    assert_eq!(world.brief("/@/main/6/d/snapshot").await, ok("main=6", "s"));
    assert_eq!(world.brief("/@/main/3/snapshot").await.0, 410);
    // What is read by number is kept.
    assert_eq!(
        world
            .leases
            .of(&channel("main"))
            .into_iter()
            .collect::<Vec<_>>(),
        [build(4), build(6)]
    );
}

#[tokio::test]
async fn a_retracted_build_is_gone_even_when_live() {
    let world = World::new();
    let root = world.files(&[("pool/a", "a")]);
    world.serve_as("main", "/d", &[(1, root)], Some(1), |served| {
        served.retracted = vec![(build(1), build(1))];
    });
    assert_eq!(world.brief("/d/pool/a").await.0, 404);
    assert_eq!(world.brief("/@/main/1/pool/a").await.0, 410);
}

#[tokio::test]
async fn paths_are_read_one_way_only() {
    let world = World::new();
    let root = world.tree(&[
        (b"a/b", Put::File(b"b")),
        (b"odd \xff+%&/x", Put::File(b"odd")),
    ]);
    world.serve("main", "/d", &[(1, root)], Some(1));
    for (path, status, word) in [
        ("/d/a/b", 200, ""),
        ("/%64/%61/b", 200, ""),
        ("/d/odd%20%ff+%25%26/x", 200, ""),
        ("/d/odd%20%FF%2B%25%26/x", 200, ""),
        ("/d/a%2fb", 400, "bad-path"),
        ("/d/a%2Fb", 400, "bad-path"),
        ("/d/../d/a/b", 400, "bad-path"),
        ("/d/%2e%2e/d/a/b", 400, "bad-path"),
        ("/d/./a/b", 400, "bad-path"),
        ("/d/a%00/b", 400, "bad-path"),
        ("/d/a%0a/b", 400, "bad-path"),
        ("/d/a%/b", 400, "bad-path"),
        ("/d/a%4/b", 400, "bad-path"),
        ("/d/a%+4/b", 400, "bad-path"),
        ("/d/a%zz/b", 400, "bad-path"),
        ("/d//a/b", 404, "unknown-path"),
        ("//d/a/b", 404, "unknown-path"),
        ("/d/a//", 404, "unknown-path"),
        ("/d/a/b/", 404, "unknown-path"),
        ("/d/a/b/c", 404, "unknown-path"),
        ("/d/@/x", 404, "unknown-path"),
        ("/%40/main/1/a/b", 200, ""),
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        let text = answer.text();
        assert!(
            status == 200 || text.starts_with(&format!("{word}: ")),
            "{path}: {text}"
        );
    }
    let long = format!("/d/{}", "x/".repeat(3000));
    assert_eq!(world.get(&long).await.status, 404);
}

#[tokio::test]
async fn only_get_and_head() {
    let world = World::new();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = world.send(method, "/d/x", &[]).await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, "GET, HEAD"),
            "{method}"
        );
    }
}
