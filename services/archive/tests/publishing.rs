//! A build is numbered, signed, journaled and announced; and what is refused is refused with a reason.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use mirrorlog_core::id::Lane;
use mirrorlog_core::statement::DeltaSource;
use runtime::log::supervise::NatsServer;
use support::{Site, request};
use tonic::Code;
use wire::event::Opened;

async fn nats() -> (tempfile::TempDir, NatsServer) {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path(), None).await.unwrap();
    (dir, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_published_and_survives_a_restart() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    let first = site.manifest(&[("a", "1"), ("b", "2")]);
    assert_eq!(archive.publish_patiently(first).await, 1);
    let second = site.manifest(&[("a", "1"), ("b", "3")]);
    assert_eq!(archive.publish(second).await.unwrap(), [2]);
    assert_eq!(
        archive.publish(second).await.unwrap(),
        [2],
        "the same root again publishes nothing"
    );

    let head = site.until_on_log(Lane::Bulk, 2).await;
    assert_eq!((head.build.get(), head.root), (2, second.root));
    let (_, event, opened, _) = site.last_event(Lane::Bulk).await.unwrap();
    let Opened::Snapshot(snapshot) = opened else {
        panic!("{opened:?}")
    };
    assert_eq!(snapshot.base.map(|base| base.get()), Some(1));
    assert!(matches!(&event.delta, DeltaSource::Inline(delta) if delta.len() == 1));

    let snapshots = archive.snapshots(&site).await;
    assert_eq!(
        snapshots.iter().map(|s| s.build.get()).collect::<Vec<_>>(),
        [1, 2]
    );
    let newer = archive.head(&site).await.unwrap();
    assert!(newer.issued >= head.issued && newer.build == head.build);
    archive.stop().await;

    let mut archive = site.start().await;
    assert_eq!(archive.snapshots(&site).await, snapshots);
    let third = site.manifest(&[("a", "1")]);
    assert_eq!(archive.publish_patiently(third).await, 3);
    let heads = site.log().await.bucket("head").await.unwrap();
    let (_, value) = heads.get("noble").await.unwrap().unwrap();
    let kept = wire::Signed::decode(&value)
        .unwrap()
        .open_head(&site.keys())
        .unwrap();
    assert_eq!(kept.build.get(), 3);
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishers_one_wins() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    archive
        .publish_patiently(site.manifest(&[("a", "0")]))
        .await;
    let commits = (1..=4).map(|number| {
        let summary = site.manifest(&[("a", &number.to_string())]);
        let mut admin = archive.admin.clone();
        tokio::spawn(async move { admin.commit(request(1, &[(summary, 1, Lane::Bulk)])).await })
    });
    let mut won = 0;
    for commit in commits.collect::<Vec<_>>() {
        match commit.await.unwrap() {
            Ok(reply) => {
                assert_eq!(reply.into_inner().builds, [2]);
                won += 1;
            }
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status}"),
        }
    }
    assert_eq!(won, 1);
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_split_makes_two_builds() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    archive
        .publish_patiently(site.manifest(&[("a", "0"), ("bulk", "0")]))
        .await;
    archive
        .publish(site.manifest(&[("a", "0"), ("bulk", "1")]))
        .await
        .unwrap();
    let fixed = site.manifest(&[("a", "fixed"), ("bulk", "0")]);
    let whole = site.manifest(&[("a", "fixed"), ("bulk", "1")]);
    let steps = [(fixed, 1, Lane::Priority), (whole, 0, Lane::Bulk)];
    assert_eq!(archive.commit(request(2, &steps)).await.unwrap(), [3, 4]);
    let first = site.until_on_log(Lane::Priority, 3).await;
    let second = site.until_on_log(Lane::Bulk, 4).await;
    assert_eq!((first.build.get(), second.build.get()), (3, 4));
    let bases: Vec<_> = archive
        .snapshots(&site)
        .await
        .iter()
        .map(|s| s.base.map_or(0, |base| base.get()))
        .collect();
    assert_eq!(bases, [0, 1, 1, 3]);
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retraction_comes_with_its_replacement() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    let good = site.manifest(&[("a", "good")]);
    let bad = site.manifest(&[("a", "bad")]);
    archive.publish_patiently(good).await;
    let status = archive.retract(1, 1, None).await.unwrap_err();
    assert!(status.message().contains("name a replacement"), "{status}");
    archive.publish(bad).await.unwrap();
    let same = request(2, &[(bad, 2, Lane::Priority)]);
    assert_eq!(
        archive.retract(2, 2, Some(same)).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let cure = request(2, &[(good, 2, Lane::Priority)]);
    assert_eq!(archive.retract(2, 2, Some(cure)).await.unwrap(), (1, 3));

    let head = archive.head(&site).await.unwrap();
    assert_eq!((head.build.get(), head.root), (3, good.root));
    let described = archive.describe().await;
    assert_eq!(described.retracted_roots, [bad.root.as_bytes().to_vec()]);
    assert_eq!(
        described.retracted_steps[0].before,
        good.root.as_bytes().to_vec()
    );
    assert_eq!(
        archive.publish(bad).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let mut allowed = request(3, &[(bad, 3, Lane::Bulk)]);
    allowed.allow_retracted = true;
    assert_eq!(archive.commit(allowed).await.unwrap(), [4]);

    // Without a replacement the newest good build is the head again.
    assert_eq!(archive.retract(4, 4, None).await.unwrap(), (2, 0));
    assert_eq!(archive.head(&site).await.unwrap().build.get(), 3);
    assert_eq!(
        archive.retract(4, 4, None).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(archive.retractions(&site).await.len(), 2);
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_reasons() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    let good = site.manifest(&[("a", "1")]);
    archive.publish_patiently(good).await;
    let mut lies = site.manifest(&[("a", "2")]);
    lies.entries += 1;
    let status = archive.publish(lies).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("it has 1 entries"), "{status}");
    let absent = mirrorlog_core::manifest::Summary {
        root: mirrorlog_core::id::Digest::of(b"?"),
        ..good
    };
    assert_eq!(
        archive.publish(absent).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let other = request(1, &[(site.manifest(&[("a", "3")]), 0, Lane::Bulk)]);
    let status = archive.commit(other).await.unwrap_err();
    assert!(status.message().contains("base 0"), "{status}");
    let unknown = wire::v1::CommitRequest {
        channel: "unheard-of".to_owned(),
        ..request(0, &[])
    };
    let status = archive.commit(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(
        status
            .message()
            .contains("there are: noble, noble-security"),
        "{status}"
    );
    assert_eq!(archive.describe().await.newest, 1);
    archive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_made_on_the_fly_stays() {
    let (_dir, server) = nats().await;
    let site = Site::new(&server.url);
    let mut archive = site.start().await;
    assert_eq!(archive.declare("demo").await.unwrap().mount, "/demo");
    archive.stop().await;
    let mut archive = site.start().await;
    let request = wire::v1::DescribeRequest {
        channel: "demo".to_owned(),
        declare: None,
    };
    let described = archive.admin.describe(request).await.unwrap().into_inner();
    assert_eq!(
        (described.mount.as_str(), described.layout()),
        ("/demo", wire::v1::Layout::Plain)
    );
    assert_eq!(
        archive.describe().await.sibling_channels,
        ["noble-security"]
    );
    archive.stop().await;
}
