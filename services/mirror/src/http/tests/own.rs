//! `/@/…` beside the trees: status, signed statements, pages, probes.

use expect_test::expect;
use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::Page;
use sha2::{Digest as _, Sha256};

use super::{World, build};

#[tokio::test]
async fn a_channel_tells_what_it_serves() {
    let world = World::new();
    let root = world.files(&[("a", "a")]);
    world.serve_as(
        "main",
        "/d",
        &[(1, root), (2, root), (3, root)],
        Some(2),
        |served| {
            served.retracted = vec![(build(1), build(1))];
        },
    );
    world.serve_as("coming", "/c", &[], None, |served| {
        served.head = None;
        served.head_expires = None;
    });
    let answer = world.get("/@/main").await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("mirrorlog-build"), "main=2");
    let status = format!(
        "{{\"channel\":\"main\",\"expires\":\"2026-11-21T23:50:30Z\",\"live\":2,\"mount\":\"/d\",\
         \"retained\":[2,3],\"root\":\"{root}\",\"staged\":3,\"view\":\"everything\"}}\n"
    );
    assert_eq!(answer.text(), status);
    expect![[r#"
        {"channel":"coming","expires":null,"live":null,"mount":"/c","retained":[],"root":null,"staged":null,"view":"everything"}
    "#]].assert_eq(&world.get("/@/coming").await.text());
    let all: serde_json::Value = serde_json::from_slice(&world.get("/@/").await.body).unwrap();
    assert_eq!(all["channels"].as_array().unwrap().len(), 2);
    assert_eq!(world.get("/@").await.header("location"), "%40/");

    let head = world.get("/@/main/head").await;
    assert_eq!((head.status, head.text().as_str()), (200, "head main"));
    assert_eq!(head.header("cache-control"), "public, no-cache");
    let (status, _, text) = world.brief("/@/coming/head").await;
    assert_eq!(status, 404);
    assert!(text.starts_with("unknown-head: "), "{text}");
}

#[tokio::test]
async fn pages_come_by_digest_and_other_blobs_do_not() {
    let world = World::new();
    let root = world.files(&[("a", "content of a")]);
    let answer = world.get(&format!("/@/page/{root}")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(Digest::of(&answer.body), root);
    Page::decode(&answer.body).unwrap();
    assert_eq!(
        answer.header("cache-control"),
        "public, max-age=31536000, immutable"
    );
    assert_eq!(answer.header("etag"), format!("\"{root}\""));
    let blob = Digest::of(b"content of a");
    let absent = Digest::of(b"absent");
    for name in [
        blob.to_hex(),
        absent.to_hex(),
        "abc".to_owned(),
        "%ff".to_owned(),
    ] {
        let (status, _, text) = world.brief(&format!("/@/page/{name}")).await;
        assert_eq!(status, 404, "{name}");
        assert!(text.starts_with("unknown-page: "), "{text}");
    }
    let large = world.files(&[("large", &"x".repeat(100_000))]);
    assert_eq!(world.get(&format!("/@/page/{large}")).await.status, 200);
    let blob = Digest::of("x".repeat(100_000).as_bytes());
    assert_eq!(world.get(&format!("/@/page/{blob}")).await.status, 404);
    std::fs::write(world.store.path_of(&root), b"rot").unwrap();
    assert_eq!(world.get(&format!("/@/page/{root}")).await.status, 503);
}

#[tokio::test]
async fn names_of_ours_leave_channels_of_that_name_their_builds() {
    let world = World::new();
    let root = world.files(&[("a", "a")]);
    world.serve("page", "/p", &[(1, root)], Some(1));
    assert_eq!(world.brief("/@/page/1/a").await.0, 200);
    assert_eq!(world.get("/@/page").await.status, 200);
    assert_eq!(world.get("/@/page/1/").await.status, 200);
}

#[tokio::test]
async fn a_probe_is_made_from_its_nonce() {
    let world = World::new();
    let expected = |nonce: &str, length: usize| {
        let blocks = (0..length.div_ceil(32) as u64)
            .flat_map(|i| Sha256::digest([nonce.as_bytes(), &[0], &i.to_be_bytes()].concat()));
        blocks.take(length).collect::<Vec<u8>>()
    };
    for length in [0, 1, 32, 33, 131_072, 300_001] {
        let answer = world.get(&format!("/@/probe/n0-_.~?bytes={length}")).await;
        assert_eq!(
            (answer.status, answer.header("cache-control")),
            (200, "no-store")
        );
        assert_eq!(answer.header("content-length"), length.to_string());
        assert!(answer.body == expected("n0-_.~", length), "{length}");
    }
    assert_eq!(world.get("/@/probe/a").await.body, expected("a", 65_536));
    assert!(world.get("/@/probe/b").await.body != world.get("/@/probe/a").await.body);
    let head = world
        .send("HEAD", "/@/probe/a?x=1&bytes=99999999999", &[])
        .await;
    assert_eq!(
        head.header("content-length"),
        (16 * 1024 * 1024).to_string()
    );
    let long = "n".repeat(65);
    for path in ["a?bytes=x", "a?bytes=-1", "a?bytes=", "a%20b", &long] {
        let (status, _, text) = world.brief(&format!("/@/probe/{path}")).await;
        assert_eq!(status, 400, "{path}");
        assert!(text.starts_with("bad-request: "), "{text}");
    }
}
