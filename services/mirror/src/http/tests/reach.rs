//! What is answered from memory is what would be answered from the disk.

use std::sync::Arc;

use axum::http::{Request, request};
use axum::response::Response;
use mirrorlog_core::id::Digest;
use runtime::store::read_cached;

use super::super::refusal::Refusal;
use super::super::{Reach, answered, look};
use super::{Put, World};

/// Answers that need a file's bytes, by path and header.
const FILES: [(&str, &str, &str); 7] = [
    ("/d/ten", "", ""),
    ("/d/empty", "", ""),
    ("/d/big", "", ""),
    ("/@/main/7/ten", "", ""),
    ("/@/main/7/link", "", ""),
    ("/d/ten", "range", "bytes=2-4"),
    ("/d/big", "range", "bytes=100000-399999"),
];
/// Answers without any.
const NO_FILES: [(&str, &str, &str); 7] = [
    (
        "/d/ten",
        "if-modified-since",
        "Sat, 21 Nov 2026 23:50:30 GMT",
    ),
    ("/d/ten", "if-match", "\"other\""),
    ("/d/ten", "range", "bytes=10-"),
    ("/d/nothing", "", ""),
    ("/d/folder", "", ""),
    ("/@/main/8/ten", "", ""),
    ("/@/main/snapshot", "", ""),
];
/// What may take long.
const LONG: [&str; 5] = [
    "/",
    "/d/",
    "/d/folder/",
    "/@/main/7/",
    "/d/project/trace/m1.example.org",
];

fn world() -> World {
    let world = World::new();
    let big: Vec<u8> = (0..700_001_u32).map(|i| (i % 251) as u8).collect();
    let root = world.tree(&[
        (b"big", Put::File(&big)),
        (b"empty", Put::File(b"")),
        (b"folder/file", Put::File(b"in a folder")),
        (b"link", Put::Link("ten")),
        (b"ten", Put::File(b"0123456789")),
    ]);
    world.serve("main", "/d", &[(7, root)], Some(7));
    world
}

fn head((path, name, value): (&str, &str, &str)) -> request::Parts {
    let mut request = Request::builder().uri(path);
    if !name.is_empty() {
        request = request.header(name, value);
    }
    request.body(()).unwrap().into_parts().0
}

async fn told(response: Response) -> String {
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    format!("{} {:?} {}", head.status, head.headers, Digest::of(&body))
}

fn is_later(looked: &Result<Response, Refusal>) -> bool {
    matches!(looked, Err(Refusal::Later))
}

/// Not every file system says what it has in memory.
fn tells_what_is_cached(world: &World) -> bool {
    let file = world.store.open_cached(&Digest::of(b"0123456789"));
    file.is_some_and(|file| read_cached(&file, 0, 10).is_some())
}

#[tokio::test]
async fn memory_and_disk_say_the_same() {
    let world = world();
    assert!(
        is_later(&look(&world.face, Reach::Memory, &head(FILES[0]))),
        "no page was read yet"
    );
    for (asks, must) in [(&FILES, tells_what_is_cached(&world)), (&NO_FILES, true)] {
        for &ask in asks {
            let head = head(ask);
            let from_disk = told(answered(look(&world.face, Reach::Disk, &head))).await;
            let looked = look(&world.face, Reach::Memory, &head);
            if must || !is_later(&looked) {
                assert_eq!(told(answered(looked)).await, from_disk, "{ask:?}");
            }
        }
    }
    let deep = format!("/d{}", "/nothing".repeat(40));
    assert!(is_later(&look(
        &world.face,
        Reach::Memory,
        &head((&deep, "", ""))
    )));
    for path in LONG {
        let head = head((path, "", ""));
        assert_eq!(
            answered(look(&world.face, Reach::Disk, &head)).status(),
            200,
            "{path}"
        );
        assert!(is_later(&look(&world.face, Reach::Memory, &head)), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_needs_the_disk_waits_for_a_turn_and_not_for_ever() {
    let world = world();
    let turn = Arc::clone(&world.face.desks).acquire_owned().await.unwrap();
    let mut cold = std::pin::pin!(world.get("/d/folder/"));
    assert!(futures::poll!(&mut cold).is_pending());
    // Whoever needs no disk needs no turn.
    assert_eq!(world.get("/@/main/8/ten").await.status, 404);
    drop(turn);
    assert_eq!(cold.await.status, 200);
    let _turn = Arc::clone(&world.face.desks).acquire_owned().await.unwrap();
    let (status, _, said) = world.brief("/d/folder/").await;
    assert!(status == 503 && said.starts_with("busy"), "{status} {said}");
}

#[tokio::test]
async fn what_is_wrong_is_left_to_who_may_wait() {
    let mut world = world();
    let ten = Digest::of(b"0123456789");
    for content in [None, Some("012345678")] {
        world.store.remove(&ten).unwrap();
        if let Some(content) = content {
            std::fs::write(world.store.path_of(&ten), content).unwrap();
        }
        let head = head(FILES[0]);
        assert_eq!(
            answered(look(&world.face, Reach::Disk, &head)).status(),
            503
        );
        assert_eq!(world.suspected.try_recv().unwrap().digest, ten);
        assert!(is_later(&look(&world.face, Reach::Memory, &head)));
        assert!(world.suspected.try_recv().is_err(), "nobody is told twice");
    }
}
