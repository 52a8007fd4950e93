//! One file: headers, conditions, ranges, loss.

use mirrorlog_core::id::Digest;

use super::{NOW, Put, World};

const DATE: &str = "Sat, 21 Nov 2026 23:50:30 GMT";

/// `/d/ten` has ten bytes, `/d/big` has so many that it goes out in chunks.
fn world() -> (World, Vec<u8>) {
    let world = World::new();
    let big: Vec<u8> = (0..700_001_u32).map(|i| (i % 251) as u8).collect();
    let root = world.tree(&[
        (b"big", Put::File(&big)),
        (b"empty", Put::File(b"")),
        (b"ten", Put::File(b"0123456789")),
        (b"pool/a.deb", Put::File(b"deb")),
        (b"dists/x/by-hash/SHA256/aa", Put::File(b"index")),
        (b"dists/x/InRelease", Put::File(b"release")),
        (b"dists/x/Packages.xz", Put::File(b"xz")),
    ]);
    world.serve("main", "/d", &[(7, root)], Some(7));
    (world, big)
}

fn tag(bytes: &[u8]) -> String {
    format!("\"{}\"", Digest::of(bytes))
}

#[tokio::test]
async fn headers_tell_the_version() {
    let (world, _) = world();
    let answer = world.get("/d/ten").await;
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, b"0123456789".as_slice())
    );
    for (name, value) in [
        ("content-length", "10"),
        ("etag", &tag(b"0123456789")),
        ("last-modified", DATE),
        ("accept-ranges", "bytes"),
        ("mirrorlog-build", "main=7"),
        ("cache-control", "public, no-cache"),
        ("content-type", "application/octet-stream"),
        ("content-encoding", ""),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let answer = world.send("HEAD", "/d/ten", &[]).await;
    assert_eq!(
        (answer.status, answer.header("content-length")),
        (200, "10")
    );
    assert!(answer.body.is_empty());
}

#[tokio::test]
async fn types_and_caching_follow_the_name() {
    let (world, _) = world();
    let forever = "public, max-age=31536000, immutable";
    let checked = "public, no-cache";
    for (path, kind, keep) in [
        (
            "/d/pool/a.deb",
            "application/vnd.debian.binary-package",
            forever,
        ),
        (
            "/d/dists/x/by-hash/SHA256/aa",
            "application/octet-stream",
            forever,
        ),
        ("/d/dists/x/InRelease", "text/plain; charset=utf-8", checked),
        ("/d/dists/x/Packages.xz", "application/x-xz", checked),
        (
            "/@/main/7/dists/x/InRelease",
            "text/plain; charset=utf-8",
            forever,
        ),
        ("/@/main/7/dists/x/Packages.xz", "application/x-xz", forever),
    ] {
        let answer = world.get(path).await;
        let found = (
            answer.status,
            answer.header("content-type"),
            answer.header("cache-control"),
        );
        assert_eq!(found, (200, kind, keep), "{path}");
        assert_eq!(answer.header("content-encoding"), "", "{path}");
    }
}

#[tokio::test]
async fn ranges() {
    let (world, _) = world();
    for (range, status, content_range, body) in [
        ("bytes=0-0", 206, "bytes 0-0/10", "0"),
        ("bytes=3-5", 206, "bytes 3-5/10", "345"),
        ("Bytes=3-5", 206, "bytes 3-5/10", "345"),
        ("bytes=7-", 206, "bytes 7-9/10", "789"),
        ("bytes=-3", 206, "bytes 7-9/10", "789"),
        ("bytes=-30", 206, "bytes 0-9/10", "0123456789"),
        ("bytes=8-100", 206, "bytes 8-9/10", "89"),
        (
            "bytes=0-18446744073709551615",
            206,
            "bytes 0-9/10",
            "0123456789",
        ),
        // Nothing of it is there.
        ("bytes=10-", 416, "bytes */10", ""),
        ("bytes=10-11", 416, "bytes */10", ""),
        ("bytes=-0", 416, "bytes */10", ""),
        // Several, another unit, no range at all: the whole.
        ("bytes=0-1,4-5", 200, "", "0123456789"),
        ("lines=0-1", 200, "", "0123456789"),
        ("bytes=5-3", 200, "", "0123456789"),
        ("bytes=a-b", 200, "", "0123456789"),
        ("bytes=0-99999999999999999999", 200, "", "0123456789"),
    ] {
        let answer = world.send("GET", "/d/ten", &[("range", range)]).await;
        assert_eq!(
            (answer.status, answer.header("content-range")),
            (status, content_range),
            "{range}"
        );
        if status != 416 {
            assert_eq!(answer.text(), body, "{range}");
            assert_eq!(
                answer.header("content-length"),
                body.len().to_string(),
                "{range}"
            );
        }
        assert_eq!(answer.header("mirrorlog-build"), "main=7", "{range}");
    }
    let answer = world
        .send("GET", "/d/empty", &[("range", "bytes=0-")])
        .await;
    assert_eq!(
        (answer.status, answer.header("content-range")),
        (416, "bytes */0")
    );
    assert!(answer.text().starts_with("unsatisfiable-range: "));
    let answer = world
        .send("HEAD", "/d/ten", &[("range", "bytes=0-0")])
        .await;
    assert_eq!(
        (answer.status, answer.header("content-length")),
        (200, "10")
    );
}

#[tokio::test]
async fn large_bodies_come_whole_and_in_parts() {
    let (world, big) = world();
    let answer = world.get("/d/big").await;
    assert_eq!(
        (answer.status, answer.header("content-length")),
        (200, "700001")
    );
    assert!(answer.body == big);
    for (first, last) in [(0, 699_999), (1, 131_072), (131_071, 400_000), (5, 699_998)] {
        let range = format!("bytes={first}-{last}");
        let answer = world.send("GET", "/d/big", &[("range", &range)]).await;
        assert_eq!(answer.status, 206, "{range}");
        assert!(answer.body == big[first..=last], "{range}");
    }
}

#[tokio::test]
async fn conditions() {
    let (world, _) = world();
    let (mine, other) = (tag(b"0123456789"), tag(b"other"));
    let (weak, many) = (format!("W/{mine}"), format!("{other}, {mine}"));
    let (earlier, later) = (
        "Sat, 21 Nov 2026 23:50:29 GMT",
        "Sat, 21 Nov 2026 23:50:31 GMT",
    );
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[("if-none-match", &mine)], 304),
        (&[("if-none-match", &weak)], 304),
        (&[("if-none-match", &many)], 304),
        (&[("if-none-match", "*")], 304),
        (&[("if-none-match", &other)], 200),
        (&[("if-modified-since", DATE)], 304),
        // Only the very date: a later one may be another build's.
        (&[("if-modified-since", later)], 200),
        (&[("if-modified-since", earlier)], 200),
        (&[("if-modified-since", "yesterday")], 200),
        // The tag decides where both are given.
        (
            &[("if-none-match", &other), ("if-modified-since", DATE)],
            200,
        ),
        (&[("if-match", &mine)], 200),
        (&[("if-match", &weak)], 412),
        (&[("if-match", &other)], 412),
        (&[("if-unmodified-since", DATE)], 200),
        (&[("if-unmodified-since", earlier)], 412),
        (&[("range", "bytes=1-2"), ("if-none-match", &mine)], 304),
        (&[("range", "bytes=1-2"), ("if-range", &mine)], 206),
        (&[("range", "bytes=1-2"), ("if-range", DATE)], 206),
        (&[("range", "bytes=1-2"), ("if-range", &other)], 200),
        (&[("range", "bytes=1-2"), ("if-range", &weak)], 200),
        (&[("range", "bytes=1-2"), ("if-range", later)], 200),
        // apt with a whole partial file of another version gets the whole, of this one 416.
        (&[("range", "bytes=10-"), ("if-range", later)], 200),
        (&[("range", "bytes=10-"), ("if-range", DATE)], 416),
    ];
    for (headers, status) in cases {
        for method in ["GET", "HEAD"] {
            let answer = world.send(method, "/d/ten", headers).await;
            // Ranges are for GET only.
            let expected = match (method, *status) {
                ("HEAD", 206 | 416) => 200,
                (_, status) => status,
            };
            assert_eq!(answer.status, expected, "{method} {headers:?}");
            assert_eq!(answer.header("mirrorlog-build"), "main=7");
            if answer.status == 304 {
                assert_eq!(answer.header("etag"), mine);
                assert_eq!(answer.header("last-modified"), DATE);
                assert!(answer.body.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn a_date_that_http_cannot_write_is_left_out() {
    assert_eq!(
        super::super::conditions::http_date(NOW).as_deref(),
        Some(DATE)
    );
    for seconds in [-1, i64::MIN, 253_402_300_800, i64::MAX] {
        assert_eq!(super::super::conditions::http_date(seconds), None);
    }
}

#[tokio::test]
async fn invariant_lost_or_damaged_content_is_an_error_and_never_wrong_bytes() {
    let (mut world, big) = world();
    let small = Digest::of(b"0123456789");
    world.store.remove(&small).unwrap();
    for path in ["/d/ten", "/@/main/7/ten"] {
        let answer = world.get(path).await;
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, "60"),
            "{path}"
        );
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("mirrorlog-build"), "main=7");
        assert!(answer.text().starts_with("lost: "), "{}", answer.text());
        assert_eq!(answer.text().lines().count(), 1);
        // And somebody is told, so that it is healed now.
        let suspect = world.suspected.try_recv().unwrap();
        let builds: Vec<u64> = suspect
            .builds
            .iter()
            .map(|(_, build)| build.get())
            .collect();
        assert_eq!((suspect.digest, builds), (small, vec![7]));
    }
    std::fs::write(world.store.path_of(&small), b"012345678").unwrap();
    let answer = world.get("/d/ten").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().starts_with("damaged: "));
    std::fs::write(world.store.path_of(&Digest::of(&big)), &big[1..]).unwrap();
    let answer = world.send("HEAD", "/d/big", &[]).await;
    assert_eq!(answer.status, 503);
}

#[tokio::test]
async fn answers_are_counted_by_class() {
    let (world, _) = world();
    world.get("/d/ten").await;
    world.get("/d/nothing").await;
    world.get("/d/none").await;
    world.send("POST", "/d/ten", &[]).await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &world.registry).unwrap();
    assert!(
        text.contains("mirrorlog_http_requests_total{class=\"2xx\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("mirrorlog_http_requests_total{class=\"4xx\"} 3\n"),
        "{text}"
    );
}
