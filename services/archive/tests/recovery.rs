//! What survives: crashes, a log that forgets, a journal from a backup, a second archive.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use mirrorlog_core::id::Lane;
use runtime::log::supervise::NatsServer;
use runtime::log::{Delivery, Log};
use support::{PATIENCE, Running, Site, channel, copy_dir, request};
use tonic::Code;
use wire::Event;
use wire::event::Opened;

async fn nats() -> (tempfile::TempDir, NatsServer) {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path(), None).await.unwrap();
    (dir, server)
}

/// Publishes a new tree; `number` makes it differ.
async fn publish(site: &Site, archive: &mut Running, number: u64) -> u64 {
    let tree = site.manifest(&[("a", &number.to_string()), ("b", "same")]);
    archive.publish_patiently(tree).await
}

/// Everything on the log until it is silent, as `b3` and `r1`, in order; at least so much.
async fn on_log(site: &Site, log: &Log, least: usize) -> Vec<String> {
    let mut events = log.follow(0).await.unwrap();
    let mut items = Vec::new();
    let silence = |came| match came < least {
        true => PATIENCE,
        false => Duration::from_secs(1),
    };
    while let Ok(delivery) = tokio::time::timeout(silence(items.len()), events.next()).await {
        let Delivery::Event(event) = delivery else {
            continue;
        };
        let (opened, _) = Event::decode(&event.payload)
            .unwrap()
            .open(&site.keys())
            .unwrap();
        items.push(match opened {
            Opened::Snapshot(snapshot) => format!("b{}", snapshot.build),
            Opened::Retraction(retraction) => format!("r{}", retraction.sequence),
        });
    }
    items
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A server on the same port with an empty store.
async fn wiped(dir: &tempfile::TempDir, server: NatsServer) -> NatsServer {
    let (_, port) = server.kill().await.unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    NatsServer::start(dir.path(), Some(port)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_everything_gets_it_back_in_order() {
    let (dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    for number in 1..=3 {
        assert_eq!(publish(&site, &mut archive, number).await, number);
    }
    archive.retract(3, 3, None).await.unwrap();
    site.until_on_log(Lane::Bulk, 3).await;
    let _server = wiped(&dir, server).await;
    assert_eq!(
        archive.snapshots(&site).await.len(),
        3,
        "the journal is served while the log is away"
    );
    site.until_on_log(Lane::Bulk, 3).await;
    until("the retraction is back", || async {
        site.last_event(Lane::Priority).await.is_some()
    })
    .await;
    assert_eq!(
        publish(&site, &mut archive, 4).await,
        4,
        "the counter was rebuilt"
    );
    site.until_on_log(Lane::Bulk, 4).await;
    let items = on_log(&site, &site.log().await, 5).await;
    let bulk: Vec<&String> = items.iter().filter(|item| item.starts_with('b')).collect();
    assert_eq!(bulk, ["b1", "b2", "b3", "b4"]);
    assert_eq!(items.iter().filter(|item| *item == "r1").count(), 1);
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_log_gets_back_what_the_server_takes_for_duplicates() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    publish(&site, &mut archive, 1).await;
    publish(&site, &mut archive, 2).await;
    site.until_on_log(Lane::Bulk, 2).await;
    let client = async_nats::connect(&server.url).await.unwrap();
    let stream = async_nats::jetstream::new(client)
        .get_stream("MIRRORLOG")
        .await
        .unwrap();
    stream.purge().await.unwrap();
    site.until_on_log(Lane::Bulk, 2).await;
    assert_eq!(on_log(&site, &site.log().await, 2).await, ["b1", "b2"]);
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_log_nothing_is_numbered_and_all_is_served() {
    let (dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    publish(&site, &mut archive, 1).await;
    let (_, port) = server.kill().await.unwrap();
    let tree = site.manifest(&[("a", "2")]);
    until("publishing is refused", || {
        let mut admin = archive.admin.clone();
        let request = request(1, &[(tree, 1, Lane::Bulk)]);
        async move {
            admin
                .commit(request)
                .await
                .is_err_and(|status| status.code() == Code::Unavailable)
        }
    })
    .await;
    assert_eq!(archive.head(&site).await.unwrap().build.get(), 1);
    archive.stop().await;

    // It also starts without the log.
    let mut archive = site.start().await;
    assert_eq!(archive.head(&site).await.unwrap().build.get(), 1);
    let status = archive.publish(tree).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("NATS"), "{status}");
    let _server = NatsServer::start(dir.path(), Some(port)).await.unwrap();
    let build = publish(&site, &mut archive, 3).await;
    assert!(build >= 2);
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_journal_merges_what_it_signed_from_the_log() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    publish(&site, &mut archive, 1).await;
    publish(&site, &mut archive, 2).await;
    site.until_on_log(Lane::Bulk, 2).await;
    archive.stop().await;
    let backup = tempfile::tempdir().unwrap();
    copy_dir(&site.state(), backup.path());

    let mut archive = site.start().await;
    for number in 3..=5 {
        publish(&site, &mut archive, number).await;
    }
    archive.retract(4, 4, None).await.unwrap();
    let said = (
        archive.snapshots(&site).await,
        archive.retractions(&site).await,
    );
    site.until_on_log(Lane::Bulk, 5).await;
    until("the retraction is out", || async {
        site.last_event(Lane::Priority).await.is_some()
    })
    .await;
    archive.stop().await;

    std::fs::remove_dir_all(site.state()).unwrap();
    copy_dir(backup.path(), &site.state());
    let mut archive = site.start().await;
    assert_eq!(publish(&site, &mut archive, 6).await, 6);
    let mut merged = (
        archive.snapshots(&site).await,
        archive.retractions(&site).await,
    );
    assert_eq!(merged.0.pop().unwrap().build.get(), 6);
    assert_eq!(merged, said);
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_journal_that_cannot_be_merged_refuses() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    publish(&site, &mut archive, 1).await;
    site.until_on_log(Lane::Bulk, 1).await;
    archive.stop().await;
    let backup = tempfile::tempdir().unwrap();
    copy_dir(&site.state(), backup.path());
    let mut archive = site.start().await;
    publish(&site, &mut archive, 2).await;
    site.until_on_log(Lane::Bulk, 2).await;
    archive.stop().await;

    // The events are gone, the counter is not.
    let client = async_nats::connect(&server.url).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    jetstream.delete_stream("MIRRORLOG").await.unwrap();
    std::fs::remove_dir_all(site.state()).unwrap();
    copy_dir(backup.path(), &site.state());
    let archive = site.start().await;
    let tree = site.manifest(&[("a", "other")]);
    until("refused", || {
        let mut admin = archive.admin.clone();
        let request = request(1, &[(tree, 1, Lane::Bulk)]);
        async move {
            let Err(status) = admin.commit(request).await else {
                panic!("build 2 got a second root")
            };
            status.code() == Code::DataLoss
                && status
                    .message()
                    .contains("knows build 2, but the journal ends at 1")
        }
    })
    .await;
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_archives_the_fence_lets_one_in() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut first = site.start().await;
    publish(&site, &mut first, 1).await;
    site.until_on_log(Lane::Bulk, 1).await;
    first.stop().await;
    let other = site.copy();
    let mut first = site.start().await;
    publish(&site, &mut first, 2).await;
    site.until_on_log(Lane::Bulk, 2).await;
    let mut second = other.start().await;
    // It merges what the first one published, and goes on from there.
    assert_eq!(publish(&other, &mut second, 3).await, 3);
    let tree = site.manifest(&[("a", "late")]);
    let refused = first.publish(tree).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(
        refused.message().contains("another archive has taken over"),
        "{refused}"
    );
    assert_eq!(publish(&other, &mut second, 4).await, 4);
    let roots: Vec<_> = second
        .snapshots(&other)
        .await
        .iter()
        .map(|snapshot| snapshot.build.get())
        .collect();
    assert_eq!(roots, [1, 2, 3, 4]);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_archives_race_and_no_number_is_given_twice() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut first = site.start().await;
    publish(&site, &mut first, 1).await;
    site.until_on_log(Lane::Bulk, 1).await;
    first.stop().await;
    let other = site.copy();
    let (mut first, mut second) = tokio::join!(site.start(), other.start());
    let end = tokio::time::Instant::now() + PATIENCE;
    for number in 2.. {
        let trees = [
            site.manifest(&[("a", &number.to_string())]),
            other.manifest(&[("a", &format!("{number}'"))]),
        ];
        // Either may win, both may lose; what counts is what the journals say.
        let (a, b) = tokio::join!(first.publish(trees[0]), second.publish(trees[1]));
        let statuses: Vec<_> = [a, b].into_iter().filter_map(Result::err).collect();
        for status in &statuses {
            assert_ne!(status.code(), Code::Internal, "{status}");
        }
        let newest = first
            .describe()
            .await
            .newest
            .max(second.describe().await.newest);
        assert!(
            tokio::time::Instant::now() < end,
            "nobody publishes: {statuses:?}"
        );
        if newest > 5 {
            break;
        }
    }
    let (a, b) = (first.snapshots(&site).await, second.snapshots(&other).await);
    for (mine, theirs) in a
        .iter()
        .flat_map(|mine| b.iter().map(move |theirs| (mine, theirs)))
    {
        assert!(
            mine.build != theirs.build || mine == theirs,
            "build {} has two roots",
            mine.build
        );
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_journal_halts_its_channel_alone() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    publish(&site, &mut archive, 1).await;
    publish(&site, &mut archive, 2).await;
    archive.stop().await;
    let file = site
        .state()
        .join("journal/noble/00000000000000000002.snapshot");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    std::fs::write(
        site.state()
            .join("journal/noble/.new-00000000000000000003.snapshot"),
        "half",
    )
    .unwrap();

    let mut archive = site.start().await;
    let status = archive
        .publish(site.manifest(&[("a", "3")]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    assert!(
        status
            .message()
            .contains("00000000000000000002.snapshot is not accepted"),
        "{status}"
    );
    let security = wire::v1::CommitRequest {
        channel: "noble-security".to_owned(),
        ..request(0, &[(site.manifest(&[("s", "1")]), 0, Lane::Priority)])
    };
    until("the other channel publishes", || {
        let (mut admin, request) = (archive.admin.clone(), security.clone());
        async move { admin.commit(request).await.is_ok() }
    })
    .await;
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_in_signify_s_format() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    publish(&site, &mut archive, 1).await;
    archive.stop().await;
    let file = site
        .state()
        .join("journal/noble/00000000000000000001.snapshot");
    let signed = wire::Signed::from_signify(&std::fs::read(file).unwrap()).unwrap();
    let snapshot = signed.open_snapshot(&site.keys()).unwrap();
    assert_eq!((snapshot.channel, snapshot.build.get()), (channel(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_state_has_one_archive() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let archive = site.start().await;
    let config = archive::Config::load(&site.config()).unwrap();
    let error = archive::serve(config, tokio_util::sync::CancellationToken::new())
        .await
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("another process has the state"),
        "{error:#}"
    );
    archive.stop().await;
}
