//! What `get` does when mirrors are behind, ahead, lying, silent, gone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use client::{Event, GetError, Got, Job, PinError, Watch, get};
use support::{Manner, World, channel};

const FIVE: [(&str, &str); 5] = [
    ("nz1", "country"),
    ("nz2", "country"),
    ("nz3", "country"),
    ("ch1", "world"),
    ("ch2", "world"),
];

/// Writes down what people would see.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Watch for Lines {
    fn tell(&self, event: Event<'_>) {
        let line = match event {
            Event::ListKept { .. } => "list kept".to_owned(),
            Event::Pinned { build, .. } => format!("pinned {build}"),
            Event::Left {
                source,
                what,
                answer,
            } => format!("{source} {}: {what}", answer.describe()),
            Event::Waiting { left, whole, .. } if left == whole => "waiting".to_owned(),
            Event::Replanned { from, to, .. } => format!("replanned {from} to {to}"),
            Event::Notice { package, text } => format!("{package}: {text}"),
            Event::Begun { .. }
            | Event::Reached { .. }
            | Event::Verified { .. }
            | Event::Waiting { .. } => return,
        };
        self.0.lock().unwrap().push(line);
    }
}

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn job(build: Option<u64>, paths: &[&str], into: &Path) -> Job {
    Job {
        channel: channel(),
        build: build.map(|build| build.to_string().parse().unwrap()),
        paths: paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
        into: into.to_owned(),
        needs: client::Needs::Brought,
        retry_after: Duration::from_millis(100),
        give_up_after: Duration::from_secs(20),
    }
}

fn sources(got: &Got) -> Vec<(&str, usize)> {
    got.files
        .iter()
        .map(|file| {
            (
                file.fetched.source.as_deref().unwrap_or("here"),
                file.fetched.asked,
            )
        })
        .collect()
}

/// Names in a folder, hidden ones too.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn each_of_the_31_subsets_of_five_mirrors_lacks_a_file() {
    let world = World::new(&FIVE).await;
    let files: Vec<(String, Vec<u8>)> = (1_u32..32)
        .map(|subset| {
            (
                format!("f{subset}"),
                format!("content {subset}").into_bytes(),
            )
        })
        .collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    world.publish(1, &files);
    for (place, (id, _)) in FIVE.iter().enumerate() {
        let lost = (1_u32..32)
            .filter(|subset| subset >> place & 1 == 1)
            .map(|subset| format!("f{subset}"));
        world.mirror(id).manner = Manner::Lost(lost.collect());
    }
    let client = world.client();
    for subset in 1_u32..32 {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("f{subset}");
        let got = get(&client, &job(None, &[&name], dir.path()), &client::Quiet).await;
        let first = (0..5).find(|place| subset >> place & 1 == 0);
        match first {
            Some(place) => {
                assert_eq!(
                    sources(&got.unwrap()),
                    [(FIVE[place].0, place + 1)],
                    "{subset:05b}"
                );
                assert_eq!(
                    std::fs::read(dir.path().join(&name)).unwrap(),
                    files[subset as usize - 1].1
                );
            }
            // There is no archive in this world.
            None => {
                let error = got.unwrap_err();
                assert!(matches!(error, GetError::Stop { .. }), "{error}");
                let text = runtime::chain(&error);
                assert!(
                    text.ends_with(
                        "f31 of build 1 of noble is not to be had: no source has it now"
                    ),
                    "{text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn older_everywhere_is_waited_for_and_then_taken_from_the_nearest() {
    let world = World::new(&FIVE).await;
    world.publish(36, &[("p", b"p36"), ("d", b"d36")]);
    world.publish_at(37, &[("p", b"p37"), ("d", b"d37")], &[]);
    world.directory.lock().unwrap().wanted = Some(37);
    let (client, lines, dir) = (
        world.client(),
        Lines::default(),
        tempfile::tempdir().unwrap(),
    );
    let job = job(None, &["p", "d"], dir.path());
    let fetch = get(&client, &job, &lines);
    let arrive = async {
        loop {
            let waits = lines.0.lock().unwrap().iter().any(|line| line == "waiting");
            if waits {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(names(dir.path()), [] as [&str; 0], "nothing half is there");
        for mirror in world.mirrors.values() {
            mirror.lock().unwrap().builds.insert(37);
        }
    };
    let both = tokio::time::timeout(Duration::from_secs(20), async {
        futures::join!(fetch, arrive)
    });
    let (got, ()) = both.await.expect("it waits, and then it comes");
    let got = got.unwrap();
    assert_eq!(sources(&got), [("nz1", 1), ("nz1", 1)]);
    assert_eq!(std::fs::read(dir.path().join("d")).unwrap(), b"d37");
    let told = lines.take();
    let older = told
        .iter()
        .filter(|line| line.contains("does not have the build yet"))
        .count();
    assert!(
        older >= 5 && told.last().unwrap() == "pinned 37",
        "{told:?}"
    );
}

#[tokio::test]
async fn a_mirror_that_is_behind_is_passed_over() {
    let world = World::new(&FIVE).await;
    world.publish(36, &[("d", b"d36")]);
    world.publish(37, &[("d", b"d37")]);
    world.mirror("nz1").builds.remove(&37);
    let (client, lines, dir) = (
        world.client(),
        Lines::default(),
        tempfile::tempdir().unwrap(),
    );
    let got = get(&client, &job(None, &["d"], dir.path()), &lines)
        .await
        .unwrap();
    assert_eq!((got.build.get(), sources(&got)), (37, vec![("nz2", 2)]));
    assert!(
        lines
            .take()
            .contains(&"nz1 does not have the build yet: d".to_owned())
    );
    // Its head is of 36: that must not make 37 a build that does not exist.
    assert_eq!(std::fs::read(dir.path().join("d")).unwrap(), b"d37");
}

#[tokio::test]
async fn newer_is_planned_anew_for_all_files_unless_a_person_named_the_build() {
    let world = World::new(&FIVE).await;
    world.publish(37, &[("d", b"d37"), ("p", b"p37")]);
    world.publish(38, &[("d", b"d38"), ("p", b"p38")]);
    // The directory has not noticed that all have moved on, but for one far away.
    world.directory.lock().unwrap().wanted = Some(37);
    for id in ["nz1", "nz2", "nz3", "ch1"] {
        world.mirror(id).builds.remove(&37);
    }
    let (client, lines, dir) = (
        world.client(),
        Lines::default(),
        tempfile::tempdir().unwrap(),
    );
    let got = get(&client, &job(None, &["p", "d"], dir.path()), &lines)
        .await
        .unwrap();
    assert_eq!(got.build.get(), 38);
    assert_eq!(std::fs::read(dir.path().join("p")).unwrap(), b"p38");
    assert_eq!(std::fs::read(dir.path().join("d")).unwrap(), b"d38");
    assert!(lines.take().contains(&"replanned 37 to 38".to_owned()));
    let named = get(&client, &job(Some(37), &["d"], dir.path()), &lines)
        .await
        .unwrap();
    assert_eq!((named.build.get(), sources(&named)), (37, vec![("ch2", 5)]));
    // And when nobody keeps it: that is said, not guessed around.
    world.mirror("ch2").builds.remove(&37);
    let error = get(&client, &job(Some(37), &["d"], dir.path()), &lines)
        .await
        .unwrap_err();
    assert!(
        runtime::chain(&error).ends_with("no source keeps the build any longer"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_build_that_was_taken_back_is_refused_or_replaced() {
    let world = World::new(&FIVE).await;
    world.publish(37, &[("d", b"bad")]);
    world.publish(38, &[("d", b"cure")]);
    world.directory.lock().unwrap().wanted = Some(37);
    for mirror in world.mirrors.values() {
        mirror.lock().unwrap().retracted.insert(37);
    }
    let (client, lines, dir) = (
        world.client(),
        Lines::default(),
        tempfile::tempdir().unwrap(),
    );
    let error = get(&client, &job(Some(37), &["d"], dir.path()), &lines)
        .await
        .unwrap_err();
    assert!(
        runtime::chain(&error).ends_with("taken back by the archive"),
        "{error:?}"
    );
    let got = get(&client, &job(None, &["d"], dir.path()), &lines)
        .await
        .unwrap();
    assert_eq!(
        (
            got.build.get(),
            std::fs::read(dir.path().join("d")).unwrap()
        ),
        (38, b"cure".to_vec())
    );
}

#[tokio::test]
async fn corrupt_content_never_arrives_and_is_reported() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("d", &[b'x'; 100_000])]);
    world.mirror("nz1").manner = Manner::Corrupt;
    world.mirror("nz2").manner = Manner::Corrupt;
    let mut options = world.options();
    options.feedback = true;
    let (client, dir) = (
        client::Client::new(options).unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let got = get(&client, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert_eq!(sources(&got), [("nz3", 3)]);
    assert_eq!(
        std::fs::read(dir.path().join("d")).unwrap(),
        [b'x'; 100_000]
    );
    client.tell_feedback().await;
    let told = world.directory.lock().unwrap().told.concat();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let outcomes: Vec<(&str, &str)> = told["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| {
            (
                sample["mirror"].as_str().unwrap(),
                sample["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        outcomes,
        [("nz1", "corrupt"), ("nz2", "corrupt"), ("nz3", "ok")]
    );
    let keys: BTreeSet<&String> = told["samples"][0].as_object().unwrap().keys().collect();
    assert_eq!(
        keys.into_iter().collect::<Vec<_>>(),
        ["build", "bytes", "mirror", "outcome", "time"],
        "no path"
    );
}

#[tokio::test]
async fn feedback_is_not_told_unasked_and_waits_for_a_directory_that_is_away() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("d", &[b'x'; 100_000])]);
    let dir = tempfile::tempdir().unwrap();
    let silent = world.client();
    get(&silent, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    silent.tell_feedback().await;
    assert!(world.directory.lock().unwrap().told.is_empty() && silent.queued_feedback().is_empty());
    let mut options = world.options();
    options.feedback = true;
    std::fs::remove_file(dir.path().join("d")).unwrap();
    let talking = client::Client::new(options.clone()).unwrap();
    get(&talking, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    world.directory.lock().unwrap().wanted = None;
    talking.tell_feedback().await;
    let next = client::Client::new(options).unwrap();
    assert_eq!(next.queued_feedback().len(), 1, "it waits for the next run");
    world.directory.lock().unwrap().wanted = Some(1);
    next.tell_feedback().await;
    assert_eq!(
        (
            next.queued_feedback().len(),
            world.directory.lock().unwrap().told.len()
        ),
        (0, 1)
    );
}

#[tokio::test]
async fn who_stalls_or_breaks_off_is_left_and_what_came_is_kept() {
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    for manner in [Manner::StallsAfter(150_000), Manner::BreaksAfter(150_000)] {
        let world = World::new(&FIVE).await;
        world.publish(1, &[("big", &content)]);
        world.mirror("nz1").manner = manner.clone();
        let (client, dir) = (world.hasty_client(), tempfile::tempdir().unwrap());
        let got = get(&client, &job(None, &["big"], dir.path()), &client::Quiet)
            .await
            .unwrap();
        assert_eq!(sources(&got), [("nz2", 2)], "{manner:?}");
        assert_eq!(world.mirror("nz2").ranges, ["bytes=150000-"], "{manner:?}");
        assert_eq!(std::fs::read(dir.path().join("big")).unwrap(), content);
        assert_eq!(names(dir.path()), ["big"]);
    }
}

/// Where a file lies while it comes: found by having one stall.
async fn part_of(world: &World, dir: &Path, name: &str) -> std::path::PathBuf {
    let before = world.mirror("nz1").manner.clone();
    for (id, _) in FIVE
        .iter()
        .filter(|(id, _)| world.mirrors.contains_key(*id))
    {
        world.mirror(id).manner = Manner::StallsAfter(1);
    }
    let client = world.hasty_client();
    get(&client, &job(None, &[name], dir), &client::Quiet)
        .await
        .unwrap_err();
    for (id, _) in FIVE
        .iter()
        .filter(|(id, _)| world.mirrors.contains_key(*id))
    {
        let mut mirror = world.mirror(id);
        mirror.manner = before.clone();
        mirror.asked.clear();
        mirror.ranges.clear();
    }
    let [part] = names(dir).try_into().unwrap();
    dir.join(part)
}

#[tokio::test]
async fn a_mirror_that_gave_wrong_bytes_before_it_was_left_is_found_out() {
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    let world = World::new(&FIVE).await;
    world.publish(1, &[("big", &content)]);
    let (client, dir) = (world.client(), tempfile::tempdir().unwrap());
    // An earlier run left bytes that are none of this file's.
    let pinned = client.pin(&channel(), None, &client::Quiet).await.unwrap();
    let file = pinned.file(b"big", &client::Quiet).await.unwrap();
    assert_eq!(file.entry.size_bytes, 200_000);
    let part = part_of(&world, dir.path(), "big").await;
    std::fs::write(&part, vec![b'?'; 70_000]).unwrap();
    let got = get(&client, &job(None, &["big"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert_eq!(
        sources(&got),
        [("nz1", 1)],
        "it is not blamed for what was here"
    );
    assert_eq!(got.files[0].fetched.had_bytes, 70_000);
    assert_eq!(world.file_requests("nz1"), 2);
    assert_eq!(std::fs::read(dir.path().join("big")).unwrap(), content);
}

#[tokio::test]
async fn a_run_goes_on_where_the_last_one_was_killed() {
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    let world = World::new(&[("nz1", "country")]).await;
    world.publish(1, &[("big", &content)]);
    world.mirror("nz1").manner = Manner::StallsAfter(120_000);
    let (client, dir) = (world.hasty_client(), tempfile::tempdir().unwrap());
    let job = job(None, &["big"], dir.path());
    let error = get(&client, &job, &client::Quiet).await.unwrap_err();
    assert!(
        runtime::chain(&error).ends_with("no source can be reached"),
        "{error:?}"
    );
    assert!(!dir.path().join("big").exists());
    world.mirror("nz1").manner = Manner::Good;
    let got = get(&client, &job, &client::Quiet).await.unwrap();
    assert_eq!(got.files[0].fetched.had_bytes, 120_000);
    assert_eq!(world.mirror("nz1").ranges, ["bytes=120000-"]);
    assert_eq!(std::fs::read(dir.path().join("big")).unwrap(), content);
}

#[tokio::test]
async fn the_last_list_serves_while_the_directory_is_away() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("d", b"one")]);
    let (client, lines, dir) = (
        world.client(),
        Lines::default(),
        tempfile::tempdir().unwrap(),
    );
    world.directory.lock().unwrap().wanted = None;
    let error = get(&client, &job(None, &["d"], dir.path()), &lines)
        .await
        .unwrap_err();
    assert!(
        matches!(error, GetError::Pin(PinError::Directory(_))),
        "{error}"
    );
    world.directory.lock().unwrap().wanted = Some(1);
    get(&client, &job(None, &["d"], dir.path()), &lines)
        .await
        .unwrap();
    world.directory.lock().unwrap().wanted = None;
    lines.take();
    get(&world.client(), &job(None, &["d"], dir.path()), &lines)
        .await
        .unwrap();
    assert_eq!(lines.take(), ["list kept", "pinned 1"]);
}

#[tokio::test]
async fn a_build_above_the_signed_head_is_refused_at_once() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("d", b"one")]);
    let (client, lines, dir) = (
        world.client(),
        Lines::default(),
        tempfile::tempdir().unwrap(),
    );
    let error = get(&client, &job(Some(9), &["d"], dir.path()), &lines)
        .await
        .unwrap_err();
    assert!(
        matches!(error, GetError::Pin(PinError::UnknownBuild { .. })),
        "{error}"
    );
    let told = lines.take();
    assert!(!told.iter().any(|line| line == "waiting"), "{told:?}");
}

#[tokio::test]
async fn statements_that_do_not_count_are_refused() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("d", b"one")]);
    let dir = tempfile::tempdir().unwrap();
    let mut options = world.options();
    let other = mirrorlog_core::sign::SecretKey::from_seed(
        mirrorlog_core::sign::KeyNumber([1; 8]),
        &[2; 32],
    );
    options.trust = client::Trust::keys([other.public()]);
    let stranger = client::Client::new(options).unwrap();
    let error = get(&stranger, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap_err();
    assert!(
        matches!(error, GetError::Pin(PinError::Key { .. })),
        "{error}"
    );
    world.archive.lock().unwrap().expires_in_s = -3600;
    let error = get(
        &world.client(),
        &job(None, &["d"], dir.path()),
        &client::Quiet,
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error, GetError::Pin(PinError::Expired { .. })),
        "{error}"
    );
    let mut options = world.options();
    options.expired = client::ExpiredHeads::Accept;
    let patient = client::Client::new(options).unwrap();
    get(&patient, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap();
}

#[tokio::test]
async fn folders_come_whole_and_notices_are_shown() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[]);
    let files: [(&str, &[u8]); 4] = [
        ("pool/h/hello_1.deb", b"1"),
        ("pool/h/sub/x", b"2"),
        ("pool/i/y", b"3"),
        ("z/hello_1.deb", b"4"),
    ];
    world.publish_at(
        2,
        &files,
        &[("hello", "needs a maintainer"), ("other", "is old")],
    );
    world.directory.lock().unwrap().wanted = Some(2);
    for mirror in world.mirrors.values() {
        mirror.lock().unwrap().builds.insert(2);
    }
    let (client, lines, dir) = (
        world.client(),
        Lines::default(),
        tempfile::tempdir().unwrap(),
    );
    let got = get(&client, &job(None, &["/pool/h/"], dir.path()), &lines)
        .await
        .unwrap();
    assert_eq!(got.files.len(), 2);
    assert_eq!(std::fs::read(dir.path().join("h/sub/x")).unwrap(), b"2");
    assert_eq!(lines.take(), ["pinned 2", "hello: needs a maintainer"]);
    let same = get(
        &client,
        &job(None, &["pool/h/hello_1.deb", "z/hello_1.deb"], dir.path()),
        &lines,
    )
    .await;
    assert!(matches!(same, Err(GetError::SameName { .. })));
    let absent = get(&client, &job(None, &["pool/j"], dir.path()), &lines).await;
    assert!(matches!(absent, Err(GetError::Find(_))));
}

#[tokio::test]
async fn speeds_come_from_real_downloads_and_not_from_caches() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("big", &vec![7; 300_000]), ("small", b"x")]);
    world.mirror("nz1").manner = Manner::Cached;
    let (client, dir) = (world.client(), tempfile::tempdir().unwrap());
    let known = |id: &str| {
        let speeds =
            std::fs::read_to_string(world.state.path().join("speeds.json")).unwrap_or_default();
        speeds.contains(world.url(id))
    };
    get(&client, &job(None, &["big"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert!(!known("nz1"), "a cache is no mirror");
    world.mirror("nz1").manner = Manner::Good;
    get(&client, &job(None, &["small"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert!(!known("nz1"), "one byte says nothing");
    std::fs::remove_file(dir.path().join("big")).unwrap();
    get(&client, &job(None, &["big"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert!(known("nz1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_mirror_is_helped_by_others_with_a_large_file() {
    let content: Vec<u8> = (0..40_u32 << 20).map(|at| (at % 251) as u8).collect();
    let world = World::new(&FIVE).await;
    world.publish(1, &[("big", &content)]);
    world.mirror("nz1").manner = Manner::Slow(5 << 20);
    let client = world.client();
    let dir = tempfile::tempdir().unwrap();
    let got = get(&client, &job(None, &["big"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert_eq!(sources(&got), [("nz1", 1)]);
    let (front, helper) = (
        world.file_requests("nz1"),
        world.mirror("nz2").ranges.clone(),
    );
    assert!(front >= 1 && helper.len() >= 5, "{front} {helper:?}");
    assert_eq!(
        helper[0],
        format!("bytes={}-{}", 36 << 20, (40 << 20) - 1),
        "from the back"
    );
    assert_eq!(std::fs::read(dir.path().join("big")).unwrap(), content);
    assert_eq!(names(dir.path()), ["big"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_that_lies_is_found_out() {
    let content: Vec<u8> = (0..32_u32 << 20).map(|at| (at % 251) as u8).collect();
    let world = World::new(&[("nz1", "country"), ("nz2", "country")]).await;
    world.publish(1, &[("big", &content)]);
    world.mirror("nz1").manner = Manner::Slow(6 << 20);
    world.mirror("nz2").manner = Manner::Corrupt;
    let mut options = world.options();
    options.feedback = true;
    let (client, dir) = (
        client::Client::new(options).unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let got = get(&client, &job(None, &["big"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert_eq!(sources(&got), [("nz1", 1)]);
    assert_eq!(std::fs::read(dir.path().join("big")).unwrap(), content);
    let told: Vec<(String, String)> = client
        .queued_feedback()
        .into_iter()
        .map(|sample| (sample.mirror, sample.outcome))
        .collect();
    assert_eq!(
        told,
        [
            ("nz2".into(), "corrupt".into()),
            ("nz1".into(), "ok".into())
        ]
    );
}

#[tokio::test]
async fn two_runs_for_one_file_do_not_write_into_each_other() {
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    let world = World::new(&[("nz1", "country")]).await;
    world.publish(1, &[("big", &content)]);
    world.mirror("nz1").manner = Manner::Slow(400_000);
    let (first, second, dir) = (world.client(), world.client(), tempfile::tempdir().unwrap());
    let job = job(None, &["big"], dir.path());
    let (first, second) = futures::join!(
        get(&first, &job, &client::Quiet),
        get(&second, &job, &client::Quiet)
    );
    let (good, refused) = if first.is_ok() {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(sources(&good.unwrap()), [("nz1", 1)]);
    let text = runtime::chain(&refused.unwrap_err());
    assert!(text.ends_with("another run is fetching it"), "{text}");
    assert_eq!(std::fs::read(dir.path().join("big")).unwrap(), content);
}

#[tokio::test]
async fn what_others_put_where_a_part_goes_is_not_written_through() {
    let content = [b'x'; 5000];
    let world = World::new(&[("nz1", "country")]).await;
    world.publish(1, &[("top", &content)]);
    let dir = tempfile::tempdir().unwrap();
    let part = part_of(&world, dir.path(), "top").await;
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    std::fs::remove_file(&part).unwrap();
    std::os::unix::fs::symlink(&victim, &part).unwrap();
    let client = world.client();
    get(&client, &job(None, &["top"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert!(!dir.path().join("top").is_symlink());
    assert_eq!(std::fs::read(dir.path().join("top")).unwrap(), content);
    // A second name of another file is nobody's part either.
    std::fs::hard_link(&victim, &part).unwrap();
    std::fs::remove_file(dir.path().join("top")).unwrap();
    get(&client, &job(None, &["top"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
}

#[tokio::test]
async fn a_question_for_an_older_build_leaves_the_last_list_alone() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("d", b"one")]);
    world.publish(2, &[("d", b"two")]);
    let (client, dir) = (world.client(), tempfile::tempdir().unwrap());
    let builds = async |named| {
        get(&client, &job(named, &["d"], dir.path()), &client::Quiet)
            .await
            .unwrap()
            .build
            .get()
    };
    assert_eq!((builds(None).await, builds(Some(1)).await), (2, 1));
    world.directory.lock().unwrap().wanted = None;
    assert_eq!((builds(None).await, builds(Some(1)).await), (2, 1));
}

#[tokio::test]
async fn a_directory_cannot_send_a_client_back() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("d", b"old")]);
    world.publish(2, &[("d", b"new")]);
    let (client, dir) = (world.client(), tempfile::tempdir().unwrap());
    get(&client, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    world.directory.lock().unwrap().wanted = Some(1);
    let got = get(&client, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert_eq!(
        (
            got.build.get(),
            std::fs::read(dir.path().join("d")).unwrap()
        ),
        (2, b"new".to_vec())
    );
}

#[tokio::test]
async fn one_mirrors_word_of_a_newer_build_or_of_a_retraction_stops_nobody() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("d", b"one")]);
    let (client, lines, dir) = (
        world.client(),
        Lines::default(),
        tempfile::tempdir().unwrap(),
    );
    {
        let mut liar = world.mirror("nz1");
        liar.builds.clear();
        liar.claims = Some(1_000_000_000_000_000);
    }
    let got = get(&client, &job(None, &["d"], dir.path()), &lines)
        .await
        .unwrap();
    assert_eq!(
        (got.build.get(), sources(&got)),
        (1, vec![("nz2", 2)]),
        "{:?}",
        lines.take()
    );
    std::fs::remove_file(dir.path().join("d")).unwrap();
    {
        let mut liar = world.mirror("nz1");
        liar.claims = None;
        liar.retracted.insert(1);
    }
    let got = get(&client, &job(None, &["d"], dir.path()), &lines)
        .await
        .unwrap();
    assert_eq!(sources(&got), [("nz2", 2)]);
    std::fs::remove_file(dir.path().join("d")).unwrap();
    // And where the others do not have the build yet, it is waited for.
    for (id, _) in &FIVE[1..] {
        world.mirror(id).builds.clear();
    }
    let error = get(
        &client,
        &Job {
            retry_after: Duration::ZERO,
            ..job(Some(1), &["d"], dir.path())
        },
        &lines,
    )
    .await;
    let text = runtime::chain(&error.unwrap_err());
    assert!(text.ends_with("has the build yet"), "{text}");
}

#[tokio::test]
async fn a_path_that_is_named_twice_comes_once_and_clashes_are_seen_before_anything_is_fetched() {
    let world = World::new(&FIVE).await;
    world.publish(
        1,
        &[
            ("d/f1", b"1"),
            ("d/f2", b"2"),
            ("a/x", b"file"),
            ("b/x/y", b"below"),
        ],
    );
    let (client, dir) = (world.client(), tempfile::tempdir().unwrap());
    let got = get(
        &client,
        &job(None, &["d/f1", "d/f2", "d/f1"], dir.path()),
        &client::Quiet,
    )
    .await
    .unwrap();
    assert_eq!(
        (got.files.len(), names(dir.path())),
        (2, vec!["f1".into(), "f2".into()])
    );
    let clash = get(
        &client,
        &job(None, &["a/x", "b/x"], dir.path()),
        &client::Quiet,
    )
    .await;
    assert!(matches!(clash, Err(GetError::SameName { .. })));
    std::fs::create_dir(dir.path().join("x")).unwrap();
    let folder = get(
        &client,
        &job(None, &["d/f1", "a/x"], dir.path()),
        &client::Quiet,
    )
    .await;
    assert!(matches!(folder, Err(GetError::Write { .. })));
    assert_eq!(names(dir.path()), ["f1", "f2", "x"]);
}

#[tokio::test]
async fn an_answer_that_is_no_part_of_the_file_costs_nothing_of_what_is_here() {
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    let world = World::new(&[("nz1", "country")]).await;
    world.publish(1, &[("big", &content)]);
    let (client, dir) = (world.client(), tempfile::tempdir().unwrap());
    let part = part_of(&world, dir.path(), "big").await;
    std::fs::write(&part, &content[..150_000]).unwrap();
    world.mirror("nz1").manner = Manner::Portal;
    let error = get(&client, &job(None, &["big"], dir.path()), &client::Quiet)
        .await
        .unwrap_err();
    assert!(matches!(error, GetError::Stop { .. }), "{error}");
    assert_eq!(std::fs::metadata(&part).unwrap().len(), 150_000);
    world.mirror("nz1").manner = Manner::Good;
    let got = get(&client, &job(None, &["big"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert_eq!(got.files[0].fetched.had_bytes, 150_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_that_drips_holds_nobody_up() {
    let content: Vec<u8> = (0..32_u32 << 20).map(|at| (at % 251) as u8).collect();
    let world = World::new(&[("nz1", "country"), ("nz2", "country")]).await;
    world.publish(1, &[("big", &content)]);
    world.mirror("nz1").manner = Manner::Slow(6 << 20);
    world.mirror("nz2").manner = Manner::Drips;
    let client = world.client();
    let dir = tempfile::tempdir().unwrap();
    let job = job(None, &["big"], dir.path());
    let fetch = get(&client, &job, &client::Quiet);
    let got = tokio::time::timeout(Duration::from_secs(20), fetch)
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!(sources(&got), [("nz1", 1)]);
    assert!(
        !world.mirror("nz2").ranges.is_empty(),
        "it was asked to help"
    );
    assert_eq!(std::fs::read(dir.path().join("big")).unwrap(), content);
}

#[tokio::test]
async fn whoever_has_no_network_accuses_nobody() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("d", b"one")]);
    let mut options = world.options();
    options.feedback = true;
    let (client, dir) = (
        client::Client::new(options).unwrap(),
        tempfile::tempdir().unwrap(),
    );
    for (id, _) in FIVE {
        world.silence(id);
    }
    get(&client, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap_err();
    assert_eq!(client.queued_feedback(), []);
}

#[tokio::test]
async fn what_is_here_already_is_not_fetched_again_and_what_else_is_there_is_replaced() {
    let world = World::new(&FIVE).await;
    world.publish(1, &[("d", b"one")]);
    let (client, dir) = (world.client(), tempfile::tempdir().unwrap());
    get(&client, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    let asked = world.file_requests("nz1");
    let again = get(&client, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert_eq!(
        (sources(&again), world.file_requests("nz1")),
        (vec![("here", 0)], asked)
    );
    let modified = std::fs::metadata(dir.path().join("d"))
        .unwrap()
        .modified()
        .unwrap();
    let seconds = modified
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert_eq!(seconds, 1_000_000, "it has the build's date");
    std::fs::write(dir.path().join("d"), "two").unwrap();
    get(&client, &job(None, &["d"], dir.path()), &client::Quiet)
        .await
        .unwrap();
    assert_eq!(std::fs::read(dir.path().join("d")).unwrap(), b"one");
}

#[tokio::test]
async fn waiting_ends_when_it_was_told_to() {
    let world = World::new(&FIVE).await;
    world.publish(36, &[("d", b"d36")]);
    world.publish_at(37, &[("d", b"d37")], &[]);
    world.directory.lock().unwrap().wanted = Some(37);
    let (client, lines, dir) = (
        world.client(),
        Lines::default(),
        tempfile::tempdir().unwrap(),
    );
    let job = Job {
        // A first look may take as long as that on a busy machine, and has to come before the end.
        give_up_after: Duration::from_secs(2),
        ..job(None, &["d"], dir.path())
    };
    let error = get(&client, &job, &lines).await.unwrap_err();
    assert!(matches!(error, GetError::TimedOut { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("nobody has build 37 of noble after"),
        "{error}"
    );
    assert!(
        lines.take().iter().any(|line| line == "waiting"),
        "it looked again before"
    );
    assert_eq!(names(dir.path()), [] as [&str; 0]);
}
