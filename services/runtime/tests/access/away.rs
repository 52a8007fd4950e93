//! What goes on, and what waits, while the archive or nats-server is away.

use std::time::Duration;

use mirrorlog_core::id::Lane;
use runtime::log::supervise::NatsServer;

use crate::net::{NOW, Net, bytes, event, id, noble, soon};

/// A mirror's open consumers need no archive, nor does one that stands where the mirror does; one that has to be made
/// waits for it.
#[tokio::test]
async fn a_mirror_goes_on_without_the_archive() {
    let net = Net::up(&["nz1"]).await;
    let archive = net.archive().await;
    let nz1 = id("nz1");
    let publish = async |number: &'static str| {
        // Somebody has to write what is read; mirrors' questions are not answered by this one.
        let log = net.log("archive").await;
        let last = log.last_event(Lane::Bulk, &noble()).await.unwrap();
        let last = last.map_or(0, |(sequence, _)| sequence);
        log.publish_event(Lane::Bulk, &noble(), number, last, bytes("event"))
            .await
            .unwrap()
    };
    let first = publish("1").await;
    let mirror = net.log("nz1").await;
    let mut events = mirror
        .consume(&nz1, Lane::Bulk, &[noble()], None)
        .await
        .unwrap();
    let done = event(&mut events, "the first event").await;
    done.ack.ack().await.unwrap();
    drop(archive);

    let second = publish("2").await;
    let open = event(&mut events, "an open consumer").await;
    assert_eq!(open.position, second);
    open.ack.ack().await.unwrap();
    // Acks are not answered.
    let acked = async {
        let admin = net.intruder("admin").await.client;
        loop {
            let info = admin
                .request("$JS.API.CONSUMER.INFO.MIRRORLOG.nz1-bulk", bytes(""))
                .await;
            let info: serde_json::Value = serde_json::from_slice(&info.unwrap().payload).unwrap();
            if info["ack_floor"]["stream_seq"] == second.sequence {
                return;
            }
        }
    };
    soon(acked, "the second event is acked").await;
    drop((events, mirror));

    // Killed and started again: the consumer stands where the mirror does.
    let mirror = net.log("nz1").await;
    let mut events = mirror
        .consume(&nz1, Lane::Bulk, &[noble()], Some(second))
        .await
        .unwrap();
    let third = publish("3").await;
    assert_eq!(
        event(&mut events, "a standing consumer").await.position,
        third
    );
    drop((events, mirror));

    // From elsewhere it has to be made anew.
    let mirror = net.log("nz1").await;
    let channels = [noble()];
    let mut waits = Box::pin(mirror.consume(&nz1, Lane::Bulk, &channels, Some(first)));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waits).await;
    assert!(early.is_err(), "made without the archive");
    let _archive = net.archive().await;
    let mut events = soon(waits, "a consumer made anew").await.unwrap();
    assert_eq!(
        event(&mut events, "the second event").await.position,
        second
    );
    assert_eq!(event(&mut events, "the third event").await.position, third);
}

/// A nats-server that was killed: all find it again, and mirrors' readers are made anew.
#[tokio::test]
async fn readers_come_back_with_the_server() {
    let mut net = Net::up(&["nz1"]).await;
    let archive = net.archive().await;
    let nz1 = id("nz1");
    let mirror = net.log("nz1").await;
    let mut events = mirror.consume(&nz1, Lane::Bulk, &[], None).await.unwrap();
    let mut heads = mirror.bucket("head").await.unwrap().watch().await.unwrap();
    let mut orders = mirror.orders(&nz1, None).await.unwrap();
    let first = archive
        .publish_event(Lane::Bulk, &noble(), "1", 0, bytes("one"))
        .await
        .unwrap();
    let came = event(&mut events, "the first event").await;
    assert_eq!(came.position, first);
    came.ack.ack().await.unwrap();

    let who = net.realm.server_config(NOW).unwrap();
    let (folder, port) = net.server.kill().await.unwrap();
    net.server = NatsServer::start_with(&folder, Some(port), &who)
        .await
        .unwrap();
    let written = async {
        // Until the archive is back, too.
        while archive
            .publish_event(Lane::Bulk, &noble(), "2", first.sequence, bytes("two"))
            .await
            .is_err()
        {}
    };
    soon(written, "the archive is not back").await;
    archive
        .publish_order(&nz1, "o1", bytes("order"))
        .await
        .unwrap();
    let bucket = archive.bucket("head").await.unwrap();
    bucket.put("noble", bytes("head")).await.unwrap();
    assert_eq!(soon(heads.next(), "a head").await.value.unwrap(), "head");
    assert_eq!(soon(orders.next(), "an order").await.payload, "order");
    let second = async {
        // The first may come again: its ack may not have been durable.
        while event(&mut events, "an event").await.payload != "two" {}
    };
    soon(second, "the second event").await;
    mirror
        .publish_report(&nz1, &noble(), bytes("report"))
        .await
        .unwrap();
}
