//! Mirrors that mean harm: each is left in time wherever there is another one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use client::{Got, Job, Quiet, get};
use support::{Manner, World, channel};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const TWO: [(&str, &str); 2] = [("nz1", "country"), ("nz2", "country")];
/// Between two bytes of those that drip.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest silence, where a busy machine must not look like a slow mirror.
const STALL: Duration = Duration::from_secs(2);

/// What a server does with a connection, whatever is asked.
#[derive(Clone, Copy, Debug)]
enum Harm {
    SaysNothing,
    DripsHeaders,
    EndlessHeaders,
    DripsARefusal,
    DripsAStatement,
}

async fn hostile(harm: Harm) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Ends when the client goes away.
            tokio::spawn(async move { harm.to(stream).await.ok() });
        }
    });
    url
}

impl Harm {
    async fn to(self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut question = [0; 4096];
        if stream.read(&mut question).await? == 0 {
            return Ok(());
        }
        let (said, pause): (&[u8], _) = match self {
            Self::SaysNothing => (b"", None),
            Self::DripsHeaders => (b"HTTP/1.1 200 OK\r\nA: ", Some(PAUSE)),
            Self::EndlessHeaders => (b"HTTP/1.1 200 OK\r\nA: ", Some(Duration::ZERO)),
            Self::DripsARefusal => (
                b"HTTP/1.1 410 Gone\r\nContent-Length: 60000\r\n\r\n",
                Some(PAUSE),
            ),
            Self::DripsAStatement => (
                b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n",
                Some(PAUSE),
            ),
        };
        stream.write_all(said).await?;
        let Some(pause) = pause else {
            return std::future::pending().await;
        };
        loop {
            let some: &[u8] = if pause.is_zero() { &[b'a'; 4096] } else { b"a" };
            stream.write_all(some).await?;
            tokio::time::sleep(pause).await;
        }
    }
}

fn job(into: &Path) -> Job {
    Job {
        channel: channel(),
        build: None,
        paths: vec![b"big".to_vec()],
        into: into.to_owned(),
        needs: client::Needs::Left,
        retry_after: Duration::from_millis(100),
        give_up_after: Duration::from_secs(20),
    }
}

fn content(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

fn sources(got: &Got) -> Vec<&str> {
    let fetched = got.files.iter().map(|file| &file.fetched.source);
    fetched.map(|source| source.as_deref().unwrap()).collect()
}

/// Gets the file, and says from whom and how long it took. Its bytes are right.
async fn got(world: &World, stall: Duration, bytes: &[u8]) -> (String, Duration) {
    let mut options = world.options();
    options.stall = stall;
    let (client, dir) = (
        client::Client::new(options).unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let begun = Instant::now();
    let got = get(&client, &job(dir.path()), &Quiet).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("big")).unwrap(), bytes);
    (sources(&got).concat(), begun.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_whoever_does_not_come_to_the_point_is_left_within_one_stall() {
    let content = content(100_000);
    for harm in [
        Harm::SaysNothing,
        Harm::DripsHeaders,
        Harm::EndlessHeaders,
        Harm::DripsARefusal,
        Harm::DripsAStatement,
    ] {
        let world = World::new(&TWO).await;
        world.publish(1, &[("big", &content)]);
        world.replace("nz1", hostile(harm).await);
        let (from, took) = got(&world, STALL, &content).await;
        assert_eq!(from, "nz2", "{harm:?}");
        // Head and snapshot are asked for at the same time, and who failed is asked last from then on.
        assert!(took < STALL * 2, "{harm:?} {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_a_file_without_end_is_left_at_its_signed_size() {
    let content = content(100_000);
    let world = World::new(&TWO).await;
    world.publish(1, &[("big", &content)]);
    world.mirror("nz1").manner = Manner::Endless;
    let (from, took) = got(&world, STALL, &content).await;
    assert_eq!(from, "nz2");
    assert!(took < STALL, "{took:?}");
    // What sockets hold and nobody reads; loopback's hold some MiB.
    let beyond = world.mirror("nz1").beyond_bytes.load(Ordering::Relaxed);
    assert!(beyond > 0 && beyond < 16 << 20, "{beyond}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_a_byte_now_and_then_is_no_progress() {
    let content = content(100_000);
    let world = World::new(&TWO).await;
    world.publish(1, &[("big", &content)]);
    world.mirror("nz1").manner = Manner::Drips;
    let (from, took) = got(&world, STALL, &content).await;
    assert_eq!(from, "nz2");
    assert!(took < STALL * 2, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_a_source_just_above_the_least_gives_way_and_what_it_gave_is_kept() {
    let content = content(400_000);
    let world = World::new(&TWO).await;
    world.publish(1, &[("big", &content)]);
    // Alone it would take 20 s.
    world.mirror("nz1").manner = Manner::Slow(20_000);
    let (from, took) = got(&world, STALL, &content).await;
    assert_eq!(from, "nz2");
    assert!(took < STALL * 3, "{took:?}");
    let ranges = world.mirror("nz2").ranges.clone();
    let went_on = ranges[0].strip_prefix("bytes=").unwrap();
    let from: u64 = went_on.trim_end_matches('-').parse().unwrap();
    assert!(from >= 8000, "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_slow_link_where_all_are_alike_a_file_comes_whole() {
    let content = content(200_000);
    let world = World::new(&[("nz1", "country"), ("nz2", "country"), ("ch1", "world")]).await;
    world.publish(1, &[("big", &content)]);
    for id in ["nz1", "nz2", "ch1"] {
        world.mirror(id).manner = Manner::Slow(24_000);
    }
    let (_, took) = got(&world, STALL, &content).await;
    // At 24 kB/s it takes 8 s. Each was tried, and none twice as often as another.
    assert!(took < Duration::from_secs(16), "{took:?}");
    let asked = ["nz1", "nz2", "ch1"].map(|id| world.file_requests(id));
    assert!(
        asked.iter().all(|times| (1..=2).contains(times)),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_a_front_that_stalls_costs_nothing_of_what_helpers_brought() {
    let content = content(32 << 20);
    let world = World::new(&[("nz1", "country"), ("nz2", "country"), ("nz3", "country")]).await;
    world.publish(1, &[("big", &content)]);
    world.mirror("nz1").manner = Manner::StallsAfter(1000);
    let stall = STALL * 3;
    let (from, took) = got(&world, stall, &content).await;
    assert_ne!(from, "nz1");
    assert!(took < stall * 3, "{took:?}");
    // The back was brought by helpers while the front stalled, and was not asked for again.
    let ranges = [
        world.mirror("nz2").ranges.clone(),
        world.mirror("nz3").ranges.clone(),
    ]
    .concat();
    let last_block = format!("bytes={}-{}", 28 << 20, (32 << 20) - 1);
    assert_eq!(
        ranges.iter().filter(|range| **range == last_block).count(),
        1,
        "{ranges:?}"
    );
}
