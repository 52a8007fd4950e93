//! Who may speak on the log, tried against a real nats-server with accounts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod away;
mod hostile;
mod net;

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use mirrorlog_core::id::Lane;
use mirrorlog_core::time::Timestamp;
use runtime::log::access::{Credentials, Issuer, KeyPair, Realm, User, user_token};
use runtime::log::supervise::NatsServer;
use runtime::log::{Delivery, Log};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use net::{NOW, Net, bytes, event, id, noble, soon, write_secret};

/// The archive writes whatever is its to write.
async fn archive_writes(archive: &Log) {
    archive
        .publish_event(Lane::Bulk, &noble(), "1", 0, bytes("event"))
        .await
        .unwrap();
    archive
        .publish_order(&id("nz1"), "o1", bytes("order"))
        .await
        .unwrap();
    archive
        .bucket("head")
        .await
        .unwrap()
        .put("noble", bytes("head"))
        .await
        .unwrap();
    let roots = archive.bucket("root").await.unwrap();
    roots.put("1", bytes("root")).await.unwrap();
    archive
        .bucket("drain")
        .await
        .unwrap()
        .put("nz1", bytes("drain"))
        .await
        .unwrap();
    archive
        .bucket("build")
        .await
        .unwrap()
        .set("noble", bytes("1"), 0)
        .await
        .unwrap();
    assert!(
        archive
            .last_event(Lane::Bulk, &noble())
            .await
            .unwrap()
            .is_some()
    );
}

/// The consistency service writes whatever is its to write.
async fn consistency_writes(consistency: &Log) {
    consistency.ensure().await.unwrap();
    consistency
        .publish_verdict(&noble(), &id("nz1"), bytes("verdict"))
        .await
        .unwrap();
    consistency
        .bucket("wanted")
        .await
        .unwrap()
        .put("noble.nz", bytes("1"))
        .await
        .unwrap();
    consistency
        .bucket("lease")
        .await
        .unwrap()
        .set("leader", bytes("me"), 0)
        .await
        .unwrap();
}

/// A mirror reads and writes what is its own.
async fn mirror_lives(net: &Net, life: &str) {
    let mirror = net.log("nz1").await;
    let nz1 = id("nz1");
    let mut events = mirror
        .consume(&nz1, Lane::Bulk, &[noble()], None)
        .await
        .unwrap();
    assert_eq!(event(&mut events, life).await.payload, "event");
    let mut orders = mirror.orders(&nz1, None).await.unwrap();
    assert_eq!(soon(orders.next(), life).await.payload, "order");
    let mut words = mirror.verdicts_on(&nz1).await.unwrap();
    assert_eq!(soon(words.next(), life).await.payload, "verdict");
    let mut heads = mirror.bucket("head").await.unwrap().watch().await.unwrap();
    assert_eq!(soon(heads.next(), life).await.key, "noble");
    let mut drains = mirror.bucket("drain").await.unwrap().watch().await.unwrap();
    assert_eq!(soon(drains.next(), life).await.key, "nz1");
    mirror
        .publish_report(
            &nz1,
            &noble(),
            bytes::Bytes::copy_from_slice(life.as_bytes()),
        )
        .await
        .unwrap();
    let pool = "nz".parse().unwrap();
    let mut notices = mirror.peers(&pool).await.unwrap();
    mirror.tell_peers(&pool, &nz1, bytes("here")).await.unwrap();
    assert_eq!(soon(notices.next(), life).await.unwrap().0, nz1);
}

/// The directory reads and writes whatever is its own.
async fn directory_lives(net: &Net) {
    let directory = net.log("directory").await;
    directory.ensure().await.unwrap();
    directory
        .publish_feedback(&id("nz1"), "as1", bytes("fast"))
        .await
        .unwrap();
    assert_eq!(
        soon(directory.feedback().await.unwrap().next(), "feedback")
            .await
            .payload,
        "fast"
    );
    assert_eq!(
        soon(directory.verdicts().await.unwrap().next(), "a verdict")
            .await
            .payload,
        "verdict"
    );
    directory
        .bucket("salt")
        .await
        .unwrap()
        .put("today", bytes("salt"))
        .await
        .unwrap();
    let salts = directory.bucket("salt").await.unwrap();
    assert_eq!(salts.get("today").await.unwrap().unwrap().1, "salt");
    let roots = directory.bucket("root").await.unwrap();
    assert_eq!(roots.get("1").await.unwrap().unwrap().1, "root");
    for bucket in ["head", "wanted", "drain", "root", "salt"] {
        let mut watch = directory
            .bucket(bucket)
            .await
            .unwrap()
            .watch()
            .await
            .unwrap();
        soon(watch.next(), bucket).await;
    }
    let mut events = directory.follow(0).await.unwrap();
    assert!(matches!(
        soon(events.next(), "an event").await,
        Delivery::Event(..)
    ));
}

/// The consistency service reads whatever is its to read.
async fn consistency_reads(consistency: &Log) {
    let mut reports = consistency.reports().await.unwrap();
    assert_eq!(soon(reports.next(), "a report").await.payload, "second");
    let mut verdicts = consistency.verdicts().await.unwrap();
    assert_eq!(soon(verdicts.next(), "a verdict").await.payload, "verdict");
    let mut events = consistency.follow(0).await.unwrap();
    assert_eq!(event(&mut events, "consistency").await.payload, "event");
    for name in ["head", "wanted", "lease", "drain", "root"] {
        let bucket = consistency.bucket(name).await.unwrap();
        let mut watch = bucket.watch().await.unwrap();
        soon(watch.next(), name).await;
    }
    for (name, key) in [("root", "1"), ("lease", "leader"), ("wanted", "noble.nz")] {
        let bucket = consistency.bucket(name).await.unwrap();
        assert!(bucket.get(key).await.unwrap().is_some(), "{name}");
    }
}

/// What each role is for works with no more than it may do.
#[tokio::test]
async fn every_role_does_its_work() {
    let net = Net::up(&["nz1"]).await;
    let archive = net.archive().await;
    Box::pin(archive_writes(&archive)).await;
    let consistency = net.log("consistency").await;
    Box::pin(consistency_writes(&consistency)).await;
    // A mirror, and once more in the place of one that was killed.
    for life in ["first", "second"] {
        Box::pin(mirror_lives(&net, life)).await;
    }
    Box::pin(consistency_reads(&consistency)).await;
    Box::pin(directory_lives(&net)).await;
}

/// Replicas of a service share a user, and each of their readers has a place of its own.
#[tokio::test]
async fn replicas_of_a_service_read_side_by_side() {
    const PLACES: usize = 16;
    let net = Net::up(&[]).await;
    let archive = net.archive().await;
    archive
        .publish_event(Lane::Bulk, &noble(), "1", 0, bytes("event"))
        .await
        .unwrap();
    let mut readers = Vec::new();
    for number in 0..PLACES {
        let directory = net.log("directory").await;
        let mut events = directory.follow(0).await.unwrap();
        let first = event(&mut events, &format!("reader {number}")).await;
        assert_eq!(first.payload, "event");
        readers.push(events);
    }
    let admin = net.intruder("admin").await.client;
    let names = async || {
        let subject = "$JS.API.CONSUMER.NAMES.MIRRORLOG";
        let answer = admin.request(subject, bytes("")).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        let names = answer["consumers"].as_array().unwrap().clone();
        let names: BTreeSet<String> = names
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        names
    };
    let all: BTreeSet<String> = (1..=PLACES).map(|n| format!("directory-{n}")).collect();
    assert_eq!(names().await, all);

    // There is no other: one more waits until a place is free, which nobody told it of.
    let late = net.log("directory").await;
    let mut waits = late.follow(0).await.unwrap();
    assert_eq!(names().await, all);
    let subject = "$JS.API.CONSUMER.DELETE.MIRRORLOG.directory-3";
    drop(readers.remove(2));
    admin.request(subject, bytes("")).await.unwrap();
    assert_eq!(event(&mut waits, "a late reader").await.payload, "event");
    readers.push(waits);

    // All go on, each with all there is.
    archive
        .publish_event(Lane::Bulk, &noble(), "2", 1, bytes("another"))
        .await
        .unwrap();
    for events in &mut readers {
        assert_eq!(event(events, "each reader").await.payload, "another");
    }
    assert_eq!(names().await, all);
}

/// A mirror publishes its own reports and uses its own consumers, nothing else.
#[tokio::test]
async fn a_mirror_may_do_nothing_else() {
    let net = Net::up(&["nz1", "au1"]).await;
    let _archive = net.archive().await;
    let au1 = net.log("au1").await;
    let _theirs = au1
        .consume(&id("au1"), Lane::Bulk, &[], None)
        .await
        .unwrap();
    let mirror = net.intruder("nz1").await;
    for subject in [
        "mirrorlog.log.bulk.noble",
        "mirrorlog.log.priority.noble",
        "mirrorlog.report.au1.noble",
        "mirrorlog.verdict.noble.nz1",
        "mirrorlog.order.nz1",
        "mirrorlog.feedback.nz1.as1",
        "mirrorlog.peer.nz.au1",
        "$KV.mirrorlog_head.noble",
        "$KV.mirrorlog_build.noble",
        "$KV.mirrorlog_wanted.noble.nz",
        "$KV.mirrorlog_lease.leader",
        "$KV.mirrorlog_drain.au1",
        "$KV.mirrorlog_salt.today",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.UPDATE.MIRRORLOG",
        "$JS.API.STREAM.DELETE.MIRRORLOG",
        "$JS.API.STREAM.PURGE.MIRRORLOG",
        "$JS.API.STREAM.SNAPSHOT.MIRRORLOG",
        "$JS.API.STREAM.RESTORE.MIRRORLOG",
        "$JS.API.STREAM.MSG.GET.MIRRORLOG_ORDER",
        "$JS.API.STREAM.MSG.DELETE.MIRRORLOG",
        "$JS.API.STREAM.INFO.MIRRORLOG_FEEDBACK",
        "$JS.API.DIRECT.GET.MIRRORLOG_ORDER.mirrorlog.order.au1",
        "mirrorlog.consumer.au1",
        "$JS.API.CONSUMER.CREATE.MIRRORLOG",
        "$JS.API.CONSUMER.CREATE.MIRRORLOG.nz1-bulk",
        "$JS.API.CONSUMER.CREATE.MIRRORLOG.nz1-bulk.mirrorlog.log.bulk.noble",
        "$JS.API.CONSUMER.DURABLE.CREATE.MIRRORLOG.nz1-bulk",
        "$JS.API.CONSUMER.CREATE.MIRRORLOG_ORDER.nz1-read.mirrorlog.order.nz1",
        "$JS.API.CONSUMER.DELETE.MIRRORLOG.nz1-bulk",
        "$JS.API.CONSUMER.CREATE.MIRRORLOG.au1-bulk",
        "$JS.API.CONSUMER.CREATE.MIRRORLOG.other.mirrorlog.log.bulk.noble",
        "$JS.API.CONSUMER.DURABLE.CREATE.MIRRORLOG.au1-bulk",
        "$JS.API.CONSUMER.CREATE.MIRRORLOG_ORDER.nz1-read.mirrorlog.order.au1",
        "$JS.API.CONSUMER.CREATE.MIRRORLOG_ORDER.nz1-read",
        "$JS.API.CONSUMER.CREATE.MIRRORLOG_REPORT.nz1-read.mirrorlog.report.au1.noble",
        "$JS.API.CONSUMER.DELETE.MIRRORLOG.au1-bulk",
        "$JS.API.CONSUMER.INFO.MIRRORLOG.au1-bulk",
        "$JS.API.CONSUMER.MSG.NEXT.MIRRORLOG.au1-bulk",
        "$JS.API.CONSUMER.LIST.MIRRORLOG",
        "$JS.API.CONSUMER.NAMES.MIRRORLOG",
        "$JS.API.STREAM.LIST",
        "$JS.ACK.MIRRORLOG.au1-bulk.1.1.1.1.0",
        "mirrorlog.jetstream.CONSUMER.CREATE.MIRRORLOG.nz1-bulk",
        "mirrorlog.jetstream.CONSUMER.DELETE.MIRRORLOG.nz1-bulk",
        "mirrorlog.jetstream.CONSUMER.INFO.MIRRORLOG.au1-bulk",
        "mirrorlog.jetstream.CONSUMER.MSG.NEXT.MIRRORLOG.au1-bulk",
        "mirrorlog.jetstream.CONSUMER.LIST.MIRRORLOG",
        "mirrorlog.jetstream.STREAM.INFO.MIRRORLOG_FEEDBACK",
        "mirrorlog.jetstream.STREAM.MSG.GET.MIRRORLOG_ORDER",
        "_INBOX.archive.answer",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.CLAIMS.UPDATE",
    ] {
        mirror.is_refused("Publish", subject).await;
    }
    for subject in [
        ">",
        "mirrorlog.>",
        "mirrorlog.order.*",
        "mirrorlog.report.*.*",
        "_INBOX.>",
        "_INBOX.archive.>",
        "_INBOX.au1.>",
        "$JS.API.>",
        "$SYS.>",
        "$KV.mirrorlog_salt.>",
        "mirrorlog.consumer.*",
        "mirrorlog.consumer.nz1",
    ] {
        mirror.is_refused("Subscribe", subject).await;
    }
}

/// The services of the centre, too, do their own work only.
#[tokio::test]
async fn a_directory_and_a_consistency_service_publish_nothing_of_the_archives() {
    let net = Net::up(&[]).await;
    net.log("archive").await.ensure().await.unwrap();
    for (user, others) in [
        (
            "directory",
            [
                "mirrorlog.verdict.noble.nz1",
                "$KV.mirrorlog_wanted.noble.nz",
                "$KV.mirrorlog_lease.leader",
                "mirrorlog.consumer.consistency",
                "mirrorlog.jetstream.CONSUMER.MSG.NEXT.MIRRORLOG.consistency-1",
                "mirrorlog.jetstream.CONSUMER.MSG.NEXT.MIRRORLOG_REPORT.directory-1",
            ],
        ),
        (
            "consistency",
            [
                "mirrorlog.feedback.nz1.as1",
                "mirrorlog.report.nz1.noble",
                "$KV.mirrorlog_salt.today",
                "mirrorlog.consumer.directory",
                "mirrorlog.jetstream.CONSUMER.MSG.NEXT.MIRRORLOG.directory-1",
                "mirrorlog.jetstream.STREAM.MSG.GET.KV_mirrorlog_salt",
            ],
        ),
    ] {
        let intruder = net.intruder(user).await;
        let all = [
            "mirrorlog.log.priority.noble",
            "mirrorlog.order.nz1",
            "$KV.mirrorlog_head.noble",
            "$KV.mirrorlog_build.noble",
            "$JS.API.STREAM.CREATE.MINE",
            "$JS.API.STREAM.DELETE.MIRRORLOG",
            "$JS.API.STREAM.PURGE.MIRRORLOG",
            "$JS.API.CONSUMER.CREATE.MIRRORLOG",
            "$KV.mirrorlog_root.1",
            "$KV.mirrorlog_drain.nz1",
            "$JS.ACK.MIRRORLOG.nz1-bulk.1.1.1.1.0",
            "mirrorlog.consumer.nz1",
            "mirrorlog.jetstream.CONSUMER.CREATE.MIRRORLOG",
            "mirrorlog.jetstream.CONSUMER.CREATE.MIRRORLOG.mine.mirrorlog.log.>",
            "mirrorlog.jetstream.CONSUMER.DELETE.MIRRORLOG.nz1-bulk",
            "mirrorlog.jetstream.CONSUMER.INFO.MIRRORLOG.nz1-bulk",
            "mirrorlog.jetstream.CONSUMER.MSG.NEXT.MIRRORLOG.nz1-bulk",
            "mirrorlog.jetstream.CONSUMER.MSG.NEXT.MIRRORLOG_ORDER.nz1-read",
            "mirrorlog.jetstream.STREAM.MSG.GET.MIRRORLOG",
            "mirrorlog.jetstream.STREAM.PURGE.MIRRORLOG",
            "mirrorlog.jetstream.STREAM.UPDATE.MIRRORLOG",
        ];
        for subject in all.into_iter().chain(others) {
            intruder.is_refused("Publish", subject).await;
        }
        for subject in [
            ">",
            "mirrorlog.>",
            "mirrorlog.consumer.*",
            "mirrorlog.peer.*.*",
            "_INBOX.>",
            "_INBOX.archive.>",
            "$JS.API.>",
            "mirrorlog.jetstream.>",
            "$KV.>",
            "$SYS.>",
        ] {
            intruder.is_refused("Subscribe", subject).await;
        }
    }
}

/// Without a user nobody is let in, and a mirror that was shut out is let in no more.
#[tokio::test]
async fn strangers_and_those_shut_out_stay_out() {
    let mut net = Net::up(&["nz1", "au1"]).await;
    let stranger = async_nats::connect(&net.server.url).await;
    assert!(stranger.is_err());
    net.log("archive").await.ensure().await.unwrap();
    let (nz1, au1) = (net.intruder("nz1").await, net.intruder("au1").await);
    let kept = std::fs::read(net.creds("nz1")).unwrap();

    net.realm
        .revoke("nz1", Timestamp::from_ms(NOW.as_ms() + 1000))
        .unwrap();
    assert!(!net.creds("nz1").exists());
    assert!(net.realm.users().all(|user| user != "nz1"));
    let who = net.realm.server_config(NOW).unwrap();
    // The server reads accounts when it starts.
    let (folder, port) = net.server.kill().await.unwrap();
    net.server = NatsServer::start_with(&folder, Some(port), &who)
        .await
        .unwrap();

    use async_nats::connection::State;
    let is = async |client: &Client, state| {
        while client.connection_state() != state {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let is_cut = async {
        while nz1.client.connection_state() == State::Connected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(is_cut, "nz1 does not see the server go").await;
    soon(is(&au1.client, State::Connected), "au1 is not back").await;
    assert_ne!(nz1.client.connection_state(), State::Connected);
    write_secret(&net.creds("nz1"), &kept);
    let again = ConnectOptions::with_credentials_file(net.creds("nz1"))
        .await
        .unwrap();
    assert!(again.connect(&net.server.url).await.is_err());

    // Admitted again it is somebody new.
    std::fs::remove_file(net.creds("nz1")).unwrap();
    let later = Timestamp::from_ms(NOW.as_ms() + 2000);
    net.realm
        .admit(&User::mirror(&id("nz1")).unwrap(), later)
        .unwrap();
    net.intruder("nz1").await;
}

/// The server knows who is shut out of an account before anybody can come: it has read all accounts when it listens.
#[tokio::test]
async fn accounts_are_read_before_anybody_comes() {
    let dir = tempfile::tempdir().unwrap();
    let realm = Realm::open(&dir.path().join("access")).unwrap();
    let who = realm.server_config(NOW).unwrap();
    let folder = dir.path().join("nats");
    let watched = format!("{who}http: \"127.0.0.1:-1\"\n");
    let server = NatsServer::start_with(&folder, None, &watched)
        .await
        .unwrap();
    let ports = folder.join(format!("nats-server_{}.ports", server.pid));
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(ports).unwrap()).unwrap();
    let watch = ports["monitoring"][0].as_str().unwrap();

    let read = get(watch, "/accountz").await;
    let read = read["accounts"].as_array().unwrap();
    let configured = who.lines().filter_map(|line| {
        let (account, _token) = line.strip_prefix("  ")?.split_once(": ")?;
        Some(account)
    });
    let configured: Vec<&str> = configured.collect();
    assert_eq!(configured.len(), 5, "the system's and one for each role");
    for account in configured {
        assert!(read.iter().any(|one| one == account), "{account}: {read:?}");
        let told = get(watch, &format!("/accountz?acc={account}")).await;
        assert_eq!(told["account_detail"]["complete"], true, "{told}");
    }
    // The last to come was whoever looked whether it is up.
    let alone = async {
        while get(watch, "/connz").await["total"] != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(alone, "somebody is connected").await;
}

/// What nats-server says of itself.
async fn get(of: &str, path: &str) -> serde_json::Value {
    let address = of.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// A folder from before a role had an account: its users get a token of it, and keep their keys.
#[tokio::test]
async fn users_of_an_older_folder_are_moved() {
    let net = Net::up(&["nz1"]).await;
    let archive = net.archive().await;
    for user in [User::mirror(&id("nz1")).unwrap()]
        .into_iter()
        .chain(User::central())
    {
        // The archive's users stay where they are.
        if user.name() != "archive" {
            is_moved(&net, &user).await;
        }
    }
    archive
        .publish_event(Lane::Bulk, &noble(), "1", 0, bytes("event"))
        .await
        .unwrap();
    let mirror = net.log("nz1").await;
    let events = mirror.consume(&id("nz1"), Lane::Bulk, &[], None).await;
    assert_eq!(event(&mut events.unwrap(), "nz1").await.payload, "event");
    for service in ["consistency", "directory"] {
        let mut events = net.log(service).await.follow(0).await.unwrap();
        assert_eq!(event(&mut events, service).await.payload, "event");
    }
}

async fn is_moved(net: &Net, of: &User) {
    let folder = net.dir.path().join("access");
    let file = net.creds(of.name());
    let present = std::fs::read_to_string(&file).unwrap();
    let seed = present.lines().find(|line| line.starts_with("SU")).unwrap();
    let user = KeyPair::from_seed(seed).unwrap();
    let key = |name: &str| {
        let seed = std::fs::read_to_string(folder.join("keys").join(name)).unwrap();
        KeyPair::from_seed(seed.trim()).unwrap()
    };
    let issuer = Issuer {
        account: &key("account.nk").public_key(),
        key: &key(&format!("{}.nk", of.right())),
    };
    let old = user_token(&issuer, of, &user.public_key(), NOW).unwrap();
    write_secret(&file, Credentials::print(&old, &user).unwrap().as_bytes());
    let refused = ConnectOptions::with_credentials_file(file.clone())
        .await
        .unwrap();
    assert!(refused.connect(&net.server.url).await.is_err());

    Realm::open(&folder).unwrap();
    let moved = std::fs::read_to_string(&file).unwrap();
    assert!(moved.contains(seed) && !moved.contains(&old), "{moved}");
    net.intruder(of.name()).await;
    // Opened again it stays as it is.
    Realm::open(&folder).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), moved);
}
