//! What `select` learns of mirrors: near and far, offered and not, fast, behind a cache, dead.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use client::{Candidate, Candidates, Client, Excluded, Job, Measured, Outcome, Quiet, get};
use mirrorlog_core::client::climb::Level;
use mirrorlog_core::client::sources::Place;
use mirrorlog_core::id::Build;
use support::{Manner, World, channel};

const FOUR: [(&str, &str); 4] = [
    ("nz1", "country"),
    ("nz2", "country"),
    ("au1", "continent"),
    ("ch1", "world"),
];

async fn candidates(client: &Client) -> Candidates {
    client.candidates(&channel(), &Quiet).await.unwrap()
}

async fn measure(client: &Client, candidate: &Candidate) -> Measured {
    client.measure(candidate, &channel(), Build::FIRST).await
}

fn reason(measured: Measured) -> String {
    match measured.outcome {
        Outcome::Failed(reason) => reason,
        Outcome::Cache(why) => format!("cache: {why}"),
        fine @ (Outcome::Measured(_) | Outcome::Known(_)) => panic!("{fine:?}"),
    }
}

fn ids(candidates: &Candidates) -> Vec<&str> {
    candidates
        .offered
        .iter()
        .map(|one| one.id.as_str())
        .collect()
}

#[tokio::test]
async fn mirrors_come_from_near_to_far_with_the_reasons_of_the_others() {
    let world = World::new(&FOUR).await;
    world.publish(1, &[("a", b"a")]);
    world.directory.lock().unwrap().excluded =
        vec![("us1".to_owned(), "stale: of build 0".to_owned())];
    let client = world.client();
    let carried = client.carried(&Quiet).await.unwrap();
    assert_eq!((carried.len(), carried[0].id.as_str()), (1, "noble"));
    assert_eq!(carried[0].newest, Some(Build::FIRST));
    let found = candidates(&client).await;
    assert_eq!(ids(&found), ["nz1", "nz2", "au1", "ch1"]);
    let last = &found.offered[3];
    assert_eq!(
        (last.level, last.tier.as_str(), last.pool.as_str()),
        (Level::World, "world", "ch")
    );
    assert_eq!(last.country.unwrap().to_string(), "CH");
    assert_eq!(
        last.live(&carried[0].mount),
        format!("{}/noble/", world.url("ch1"))
    );
    assert_eq!((found.build, last.known), (Some(Build::FIRST), None));
    let us1 = Excluded {
        id: "us1".to_owned(),
        reason: "stale: of build 0".to_owned(),
    };
    assert_eq!(found.excluded, [us1]);
    // The directory is away: its last list stands in.
    world.directory.lock().unwrap().wanted = None;
    assert_eq!(candidates(&client).await, found);
    assert!(client.apt_list(&channel()).await.is_err());
}

#[tokio::test]
async fn what_is_measured_is_remembered_and_not_measured_again() {
    let world = World::new(&FOUR).await;
    world.publish(1, &[("a", b"a")]);
    let mut options = world.options();
    options.feedback = true;
    let client = Client::new(options).unwrap();
    let found = candidates(&client).await;
    let first = measure(&client, &found.offered[1]).await;
    let Outcome::Measured(speed) = first.outcome else {
        panic!("{first:?}");
    };
    assert!(speed > 1.0 && first.connect_ms.is_some_and(|ms| ms > 0.0 && ms < 1000.0));
    let queued = client.queued_feedback();
    assert_eq!(
        (
            queued[0].mirror.as_str(),
            queued[0].outcome.as_str(),
            queued[0].bytes
        ),
        ("nz2", "ok", 128 * 1024)
    );
    // The next run knows it, puts it where its level begins, and asks for no probe.
    let next = world.client();
    let again = candidates(&next).await;
    let remembered = again.offered[1].known.unwrap();
    assert!(
        (remembered / speed - 1.0).abs() < 1e-9,
        "{remembered} for {speed}"
    );
    let known = measure(&next, &again.offered[1]).await;
    assert_eq!(known.outcome, Outcome::Known(remembered));
    assert_eq!(world.mirror("nz2").nonces.len(), 1);
    assert_eq!(world.mirror("nz1").nonces.len(), 0);
    world.mirror("ch1").manner = Manner::Slow(400_000);
    let slow = measure(&next, &again.offered[3]).await;
    assert!(
        matches!(slow.outcome, Outcome::Measured(speed) if speed > 100_000.0 && speed < 450_000.0),
        "{slow:?}"
    );
    // Two runs, two nonces.
    std::fs::remove_file(world.state.path().join("speeds.json")).unwrap();
    let third = world.client();
    measure(&third, &candidates(&third).await.offered[1]).await;
    let nonces = &world.mirror("nz2").nonces;
    assert!(nonces.len() == 2 && nonces[0] != nonces[1]);
}

#[tokio::test]
async fn a_real_download_is_not_measured_again() {
    let world = World::new(&FOUR[..1]).await;
    let big = vec![7; 200_000];
    world.publish(1, &[("big", &big)]);
    let client = world.client();
    let dir = tempfile::tempdir().unwrap();
    let job = Job {
        channel: channel(),
        build: None,
        paths: vec![b"big".to_vec()],
        into: dir.path().to_owned(),
        needs: client::Needs::Left,
        retry_after: std::time::Duration::ZERO,
        give_up_after: std::time::Duration::ZERO,
    };
    get(&client, &job, &Quiet).await.unwrap();
    let found = candidates(&client).await;
    let measured = measure(&client, &found.offered[0]).await;
    assert!(
        matches!(measured.outcome, Outcome::Known(speed) if speed > 0.0),
        "{measured:?}"
    );
    assert_eq!(world.mirror("nz1").nonces.len(), 0);
}

#[tokio::test]
async fn a_cache_in_the_way_gives_no_sample() {
    let world = World::new(&FOUR).await;
    world.publish(1, &[("a", b"a")]);
    let client = world.client();
    let found = candidates(&client).await;
    // The first nonce is answered well; then comes an older nonce's answer.
    world.mirror("nz1").manner = Manner::StaleProbes;
    world.mirror("nz1").nonces.push("an-older-one".to_owned());
    let other = reason(measure(&client, &found.offered[0]).await);
    assert!(
        other.starts_with("cache: ") && other.contains("other bytes"),
        "{other}"
    );
    world.mirror("nz2").manner = Manner::Cached;
    let aged = reason(measure(&client, &found.offered[1]).await);
    assert_eq!(aged, "cache: a cache in the way says that it answered");
    let next = world.client();
    assert!(
        candidates(&next)
            .await
            .offered
            .iter()
            .all(|one| one.known.is_none()),
        "no sample is kept"
    );
}

#[tokio::test]
async fn a_mirror_that_fails_says_how() {
    let world = World::new(&FOUR).await;
    world.publish(1, &[("a", b"a")]);
    world.silence("nz1");
    world.mirror("nz2").manner = Manner::Broken;
    world.mirror("au1").manner = Manner::StallsAfter(1000);
    world.mirror("ch1").manner = Manner::BreaksAfter(1000);
    let mut options = world.options();
    (options.feedback, options.stall) = (true, support::HASTY);
    let client = Client::new(options).unwrap();
    let found = candidates(&client).await;
    let mut reasons = Vec::new();
    for candidate in &found.offered {
        reasons.push(reason(measure(&client, candidate).await));
    }
    let expected = [
        "cannot be reached",
        "says 500 to a probe",
        "stalled",
        "cache: something in the way sends other bytes than the mirror would",
    ];
    assert_eq!(reasons, expected);
    let told = client.queued_feedback();
    let told: Vec<(&str, &str)> = told
        .iter()
        .map(|one| (one.mirror.as_str(), one.outcome.as_str()))
        .collect();
    assert_eq!(
        told,
        [("nz1", "connection"), ("nz2", "status"), ("au1", "timeout")]
    );
}

#[tokio::test]
async fn suites_are_found_by_looking_into_the_build() {
    let world = World::new(&FOUR[..1]).await;
    let release =
        |components: &str| format!("Suite: x\nComponents: {components}\nSHA256:\n").into_bytes();
    let (two, nested, one) = (
        release("main contrib"),
        release("updates/main"),
        release("main"),
    );
    let mut files: Vec<(&str, &[u8])> = vec![
        ("dists/README", b"hello"),
        ("dists/bookworm-updates/InRelease", &two),
        ("dists/bookworm/Release", &two),
        ("dists/buster/updates/Release", &nested),
        ("dists/empty/some/where/Release", b"Components: main\n"),
        ("dists/odd/Release", b"Suite: nothing\n"),
        ("dists/sid/Release", &one),
        ("pool/main/a", b"a"),
    ];
    // Many files in a suite are not read through.
    let indexes: Vec<String> = (0..5000)
        .map(|n| format!("dists/bookworm/main/by-hash/{n}"))
        .collect();
    files.extend(indexes.iter().map(|path| (path.as_str(), &b"x"[..])));
    files.sort();
    world.publish(1, &files);
    let pinned = world.client().pin(&channel(), None, &Quiet).await.unwrap();
    let suites = pinned.suites(&Quiet).await.unwrap();
    let names: Vec<String> = suites
        .iter()
        .map(|suite| format!("{}: {}", suite.name, suite.components.join(" ")))
        .collect();
    let expected = [
        "bookworm: main contrib",
        "bookworm-updates: main contrib",
        "buster/updates: main",
        "sid: main",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn packages_are_found_by_the_shape_of_mount_and_tree() {
    let releases = |path: &str| Some(Place::Releases(path.to_owned()));
    let world = World::new(&FOUR[..1]).await;
    let trees: [(&[&str], &str, Option<Place>); 9] = [
        (&["7.8/packages/amd64/a-1.tgz"], "/bsd", releases("/bsd")),
        (
            &["pub/OpenBSD/7.8/packages-stable/amd64/a-1.tgz"],
            "/bsd",
            releases("/bsd/pub/OpenBSD"),
        ),
        (&["packages/amd64/a-1.tgz"], "/pub/7.8", releases("/pub")),
        (&["amd64/a-1.tgz"], "/pub/7.8/packages", releases("/pub")),
        (
            &["a-1.tgz"],
            "/pub/7.8/packages-stable/amd64",
            releases("/pub"),
        ),
        (&["a-1.tgz"], "/bsd", Some(Place::Top)),
        // A patch is no package, and neither is one somewhere below.
        (&["syspatch78-001_x.tgz"], "/bsd", None),
        (&["x/y/a-1.tgz"], "/bsd", None),
        // The mount alone does not say that there are packages.
        (&["README"], "/7.8/packages/amd64", None),
    ];
    for (build, (paths, mount, expected)) in (1..).zip(trees) {
        let files: Vec<(&str, &[u8])> = paths.iter().map(|path| (*path, &b"x"[..])).collect();
        world.publish(build, &files);
        let pinned = world.client().pin(&channel(), None, &Quiet).await.unwrap();
        let mount = mount.parse().unwrap();
        let found = pinned.packages_place(&mount, &Quiet).await.unwrap();
        assert_eq!(found, expected, "{paths:?} at {mount}");
    }
}
