//! The service between stub mirrors and a real nats-server.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod support;

use std::time::Duration;

use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{Presence, VerdictState};
use support::{Network, channel, files, until};
use tokio::time::Instant;
use wire::{Signed, v1};

fn short() -> Presence {
    Presence::Some((0..5).collect())
}

/// The verdicts of a watch, as they come, until one is `last`; gives the time from `since` to it.
async fn watch_until(
    stream: &mut tonic::Streaming<v1::WatchReply>,
    keys: &TrustedKeys,
    last: &VerdictState,
    since: Instant,
) -> Duration {
    let wait = async {
        loop {
            let reply = stream.message().await.unwrap().unwrap();
            let Some(signed) = reply.verdict else {
                continue;
            };
            let verdict = Signed::from_proto(signed)
                .unwrap()
                .open_verdict(keys)
                .unwrap();
            if verdict.state == *last {
                return since.elapsed();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_complete_soon_after_it_is_reported() {
    let mut network = Network::start(&["nz1"]).await;
    let service = network.serve("state", None).await;
    let keys = TrustedKeys::new([network.key("consistency").public()]);
    let (old, new) = (files(2000, 0, ""), files(2000, 50, "new"));
    let (first, second) = (network.manifest(&old), network.manifest(&new));
    network.mirrors[0].hold(1, &old);
    network.mirrors[0].hold(2, &new);
    let log = network.log.clone();
    network.publish(1, first).await;
    network.mirrors[0]
        .report(&log, Some(1), &[(1, first, Presence::All)])
        .await;
    service.wait_state("nz1", "complete", "").await;
    service.wait_wanted("nz", Some(1)).await;

    network.publish(2, second).await;
    let request = v1::WatchRequest {
        channel: "noble".into(),
        build: 2,
    };
    let mut stream = service
        .client
        .clone()
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().mirrors, ["nz1"]);
    until("the service knows build 2", || async {
        let status = service.status().await;
        let channel = status.channels.into_iter().next()?;
        (channel.build == 2).then_some(())
    })
    .await;
    let both = [(1, first, Presence::All), (2, second, Presence::All)];
    let reported = Instant::now();
    network.mirrors[0].report(&log, Some(2), &both).await;
    let took = watch_until(&mut stream, &keys, &VerdictState::Complete, reported).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    service.wait_wanted("nz", Some(2)).await;
    let key = wire::kv::wanted_key(&channel(), &"nz".parse().unwrap());
    let bucket = log.bucket("wanted").await.unwrap();
    let (_, wanted) = until("wanted is in its bucket", || async {
        bucket.get(&key).await.unwrap()
    })
    .await;
    assert!([&b"1"[..], b"2"].contains(&&wanted[..]));

    network.retract(2, (1, first)).await;
    service.wait_wanted("nz", Some(1)).await;
    service.wait_state("nz1", "revoked", "retracted").await;
    network.mirrors[0].report(&log, Some(1), &both[..1]).await;
    service.wait_state("nz1", "complete", "").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_serves_counts_and_not_what_it_says() {
    let mut network = Network::start(&["nz1", "nz2", "au1"]).await;
    let service = network.serve("state", None).await;
    let content = files(6, 0, "");
    let summary = network.manifest(&content);
    let log = network.log.clone();
    network.publish(1, summary).await;
    network.mirrors[0]
        .lock()
        .corrupt
        .insert("pool/p+00003.deb".into());
    network.mirrors[1]
        .lock()
        .missing
        .insert("pool/p+00004.deb".into());
    for mirror in &mut network.mirrors {
        mirror.hold(1, &content);
        mirror
            .report(&log, Some(1), &[(1, summary, Presence::All)])
            .await;
    }
    service
        .wait_state("nz1", "revoked", "digest-mismatch: pool/p+00003.deb")
        .await;
    service
        .wait_state("nz2", "revoked", "missing: pool/p+00004.deb")
        .await;
    service.wait_state("au1", "complete", "").await;
    // Healed: what was bad is looked at again, and the verdict comes back.
    network.mirrors[0].lock().corrupt.clear();
    service.wait_state("nz1", "complete", "").await;
    // A loss that the mirror reports itself, and its healing.
    network.mirrors[2]
        .report(&log, Some(1), &[(1, summary, short())])
        .await;
    service.wait_state("au1", "revoked", "reported-loss").await;
    network.mirrors[2]
        .report(&log, Some(1), &[(1, summary, Presence::All)])
        .await;
    service.wait_state("au1", "complete", "").await;
    // Rot that nobody reports is found by a round.
    network.mirrors[2]
        .lock()
        .corrupt
        .extend(content.keys().cloned());
    service
        .wait_state("au1", "revoked", "digest-mismatch")
        .await;
    // One mirror of three that falls silent is revoked.
    network.mirrors[0].down().await;
    service.wait_state("nz1", "revoked", "unreachable").await;
    network.mirrors[0].up().await;
    service.wait_state("nz1", "complete", "").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_rebuilt_when_the_folder_is_gone_and_the_archive_too() {
    let mut network = Network::start(&["nz1"]).await;
    let service = network.serve("first", None).await;
    let content = files(300, 0, "");
    let summary = network.manifest(&content);
    let log = network.log.clone();
    network.mirrors[0].hold(1, &content);
    network.mirrors[0].lock().pages = network.page_bytes();
    network.append_garbage().await;
    network.publish(1, summary).await;
    network.mirrors[0]
        .report(&log, Some(1), &[(1, summary, Presence::All)])
        .await;
    service.wait_state("nz1", "complete", "").await;
    service.kill().await;
    // Another folder, and an archive that does not answer: pages come from the mirror.
    let service = network.serve("second", Some("127.0.0.1:1")).await;
    service.wait_state("nz1", "complete", "").await;
    service.wait_wanted("nz", Some(1)).await;
    let request = v1::WatchRequest {
        channel: "noble".into(),
        build: 1,
    };
    let mut stream = service
        .client
        .clone()
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().mirrors, ["nz1"]);
    assert!(stream.message().await.unwrap().unwrap().verdict.is_some());
    drop(stream);
    let next = files(300, 3, "next");
    let second = network.manifest(&next);
    network.mirrors[0].hold(2, &next);
    network.mirrors[0].lock().pages = network.page_bytes();
    network.publish(2, second).await;
    network.mirrors[0]
        .report(&log, Some(2), &[(2, second, Presence::All)])
        .await;
    let found = until("build 2 is complete", || async {
        let found = service.wait_state("nz1", "complete", "").await;
        (found.live == 2).then_some(found)
    });
    assert_eq!(found.await.retained, [2]);
    let parked = std::fs::read_dir(network.dir.path().join("second/parked"))
        .unwrap()
        .count();
    assert_eq!(parked, 1);
    let metrics = reqwest::get(format!("http://{}/metrics", service.http))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        metrics.contains("mirrorlog_verdict{mirror=\"nz1\",channel=\"noble\",state=\"complete\"}"),
        "{metrics}"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_takes_over_and_the_journal_knows_what_the_log_lost() {
    let mut network = Network::start(&["nz1"]).await;
    let first = network.serve("first", None).await;
    let content = files(20, 0, "");
    let summary = network.manifest(&content);
    let log = network.log.clone();
    network.mirrors[0].hold(1, &content);
    network.publish(1, summary).await;
    network.mirrors[0]
        .report(&log, Some(1), &[(1, summary, Presence::All)])
        .await;
    first.wait_state("nz1", "complete", "").await;

    let second = network.serve("second", None).await;
    second.wait_state("nz1", "complete", "").await;
    first.kill().await;
    // The lease runs out, the second one leads, and finds what has come to be wrong since.
    network.mirrors[0]
        .lock()
        .corrupt
        .extend(content.keys().cloned());
    second.wait_state("nz1", "revoked", "digest-mismatch").await;
    network.mirrors[0].lock().corrupt.clear();
    second.wait_state("nz1", "complete", "").await;

    let next = files(20, 2, "next");
    let newer = network.manifest(&next);
    network.journal(1, summary);
    network.journal(2, newer);
    network.append_garbage().await;
    network.mirrors[0].hold(2, &next);
    network.mirrors[0]
        .report(&log, Some(2), &[(2, newer, Presence::All)])
        .await;
    until("build 2 is complete", || async {
        let found = second.wait_state("nz1", "complete", "").await;
        (found.live == 2).then_some(())
    })
    .await;
    second.stop().await;
}
