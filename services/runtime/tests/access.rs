//! Who may speak on the log, tried against a real nats-server with accounts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use bytes::Bytes;
use mirrorlog_core::id::{ChannelId, Lane, MirrorId};
use mirrorlog_core::time::Timestamp;
use runtime::log::access::{Realm, User};
use runtime::log::supervise::NatsServer;
use runtime::log::{Delivery, Log, NatsConfig};

/// Longest wait for anything: far above what is normal.
const PATIENCE: Duration = Duration::from_secs(20);
const NOW: Timestamp = Timestamp::from_ms(1_790_000_000_000);

struct Net {
    dir: tempfile::TempDir,
    realm: Realm,
    server: NatsServer,
}

impl Net {
    async fn up(mirrors: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut realm = Realm::open(&dir.path().join("access")).unwrap();
        for user in User::central() {
            realm.admit(&user, NOW).unwrap();
        }
        realm.admit_admin(NOW).unwrap();
        for mirror in mirrors {
            realm
                .admit(&User::mirror(&id(mirror)).unwrap(), NOW)
                .unwrap();
        }
        let who = realm.server_config(NOW).unwrap();
        let server = NatsServer::start_with(&dir.path().join("nats"), None, &who).await;
        Self {
            server: server.unwrap(),
            realm,
            dir,
        }
    }

    fn creds(&self, user: &str) -> PathBuf {
        self.dir.path().join(format!("access/creds/{user}.creds"))
    }

    async fn log(&self, user: &str) -> Log {
        Log::connect(&self.config(user), user, false).await.unwrap()
    }

    fn config(&self, user: &str) -> NatsConfig {
        NatsConfig {
            credentials: Some(self.creds(user)),
            ..NatsConfig::new(&self.server.url)
        }
    }

    /// A stranger's client with a user's credentials, and what the server refuses it.
    async fn intruder(&self, user: &str) -> Intruder {
        let refused = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&refused);
        let client = ConnectOptions::with_credentials_file(self.creds(user))
            .await
            .unwrap()
            .custom_inbox_prefix(format!("_INBOX.{user}"))
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    heard.lock().unwrap().push(error.to_string());
                }
                std::future::ready(())
            })
            .connect(&self.server.url)
            .await
            .unwrap();
        Intruder { client, refused }
    }
}

struct Intruder {
    client: Client,
    refused: Arc<Mutex<Vec<String>>>,
}

impl Intruder {
    /// Publishes, and waits until the server has said no.
    async fn is_refused(&self, verb: &str, subject: &str) {
        if verb == "Publish" {
            let payload = Bytes::from_static(b"{}");
            self.client
                .publish(subject.to_owned(), payload)
                .await
                .unwrap();
        } else {
            drop(self.client.subscribe(subject.to_owned()).await.unwrap());
        }
        self.client.flush().await.unwrap();
        let expected = format!("{verb} to \"{subject}\"").to_lowercase();
        let expected = expected.replace("subscribe to", "subscription to");
        soon(
            async {
                loop {
                    let found = self
                        .refused
                        .lock()
                        .unwrap()
                        .iter()
                        .any(|text| text.to_lowercase().contains(&expected));
                    if found {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            },
            &format!("{verb} {subject} was not refused"),
        )
        .await;
    }
}

async fn soon<T>(future: impl Future<Output = T>, what: &str) -> T {
    let ended = tokio::time::timeout(PATIENCE, future).await;
    ended.unwrap_or_else(|_| panic!("{what}"))
}

fn id(mirror: &str) -> MirrorId {
    MirrorId::new(mirror).unwrap()
}

fn noble() -> ChannelId {
    ChannelId::new("noble").unwrap()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// What each role is for works with no more than it may do.
#[tokio::test]
async fn every_role_does_its_work() {
    let net = Net::up(&["nz1"]).await;
    let archive = net.log("archive").await;
    archive.ensure().await.unwrap();
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

    let consistency = net.log("consistency").await;
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

    // A mirror, and once more in the place of one that was killed.
    for life in ["first", "second"] {
        let mirror = net.log("nz1").await;
        let nz1 = id("nz1");
        let mut events = mirror
            .consume(&nz1, Lane::Bulk, &[noble()], None)
            .await
            .unwrap();
        let delivery = soon(events.next(), life).await;
        let Delivery::Event(event) = delivery else {
            panic!("{delivery:?}")
        };
        assert_eq!(event.payload, "event");
        let mut orders = mirror.orders(&nz1, None).await.unwrap();
        assert_eq!(soon(orders.next(), life).await.payload, "order");
        let mut words = mirror.verdicts_on(&nz1).await.unwrap();
        assert_eq!(soon(words.next(), life).await.payload, "verdict");
        let mut heads = mirror.bucket("head").await.unwrap().watch().await.unwrap();
        assert_eq!(soon(heads.next(), life).await.key, "noble");
        let mut drains = mirror.bucket("drain").await.unwrap().watch().await.unwrap();
        assert_eq!(soon(drains.next(), life).await.key, "nz1");
        mirror
            .publish_report(&nz1, &noble(), bytes(life))
            .await
            .unwrap();
        let pool = "nz".parse().unwrap();
        let mut notices = mirror.peers(&pool).await.unwrap();
        mirror.tell_peers(&pool, &nz1, bytes("here")).await.unwrap();
        assert_eq!(soon(notices.next(), life).await.unwrap().0, nz1);
    }

    let mut reports = consistency.reports().await.unwrap();
    assert_eq!(soon(reports.next(), "a report").await.payload, "second");

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
    for bucket in ["head", "wanted", "drain"] {
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

/// A mirror publishes its own reports and uses its own consumers, nothing else.
#[tokio::test]
async fn a_mirror_may_do_nothing_else() {
    let net = Net::up(&["nz1", "au1"]).await;
    let archive = net.log("archive").await;
    archive.ensure().await.unwrap();
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
        "$JS.API.CONSUMER.CREATE.MIRRORLOG",
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
    ] {
        mirror.is_refused("Subscribe", subject).await;
    }
    // What it may ask for it gets only for itself: the filter in the request is the server's to compare.
    let asked = serde_json::json!({ "stream_name": "MIRRORLOG_ORDER", "config": {
        "name": "nz1-read", "ack_policy": "none", "filter_subject": "mirrorlog.order.au1" } });
    let subject = "$JS.API.CONSUMER.CREATE.MIRRORLOG_ORDER.nz1-read.mirrorlog.order.nz1";
    let answer = mirror
        .client
        .request(subject, asked.to_string().into())
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(
        answer.contains("\"error\"") && answer.contains("filter"),
        "{answer}"
    );
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
            ],
        ),
        (
            "consistency",
            ["mirrorlog.feedback.nz1.as1", "mirrorlog.report.nz1.noble"],
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
        ];
        for subject in all.into_iter().chain(others) {
            intruder.is_refused("Publish", subject).await;
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

fn write_secret(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
