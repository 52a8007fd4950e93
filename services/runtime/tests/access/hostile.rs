//! Mirrors that turn against the network: what they get the server and the archive to do for them.

use std::collections::BTreeMap;
use std::path::Path;

use async_nats::{Client, ConnectOptions};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::StreamExt as _;
use mirrorlog_core::id::Lane;
use runtime::log::Log;
use runtime::log::access::{Credentials, KeyPair};
use serde_json::{Value, json};

use crate::net::{Net, bytes, event, id, noble, soon, write_secret};

/// Streams into which a mirror would like to get something.
const STREAMS: [&str; 7] = [
    "MIRRORLOG",
    "MIRRORLOG_VERDICT",
    "MIRRORLOG_ORDER",
    "MIRRORLOG_REPORT",
    "MIRRORLOG_FEEDBACK",
    "KV_mirrorlog_head",
    "KV_mirrorlog_lease",
];

/// Where it has answers sent.
const PLACES: [&str; 13] = [
    "$KV.mirrorlog_head.junk",
    "$KV.mirrorlog_lease.leader",
    "mirrorlog.verdict.noble.nz1",
    "mirrorlog.log.bulk.noble",
    "mirrorlog.order.au1",
    "mirrorlog.feedback.nz1.as1",
    // What the mirrors' account hands on to the centre's.
    "mirrorlog.report.au1.noble",
    "mirrorlog.consumer.au1",
    "mirrorlog.jetstream.CONSUMER.MSG.NEXT.MIRRORLOG.au1-bulk",
    "mirrorlog.jetstream.CONSUMER.INFO.MIRRORLOG.au1-bulk",
    "mirrorlog.jetstream.STREAM.INFO.MIRRORLOG",
    // In one account the ack of a report, which has a number, was taken for an order to purge up to it.
    "$JS.API.STREAM.PURGE.MIRRORLOG",
    "$JS.API.STREAM.DELETE.MIRRORLOG_ORDER",
];

/// Publishes an event after the last.
async fn publish(archive: &Log, payload: &'static str) {
    let last = archive.last_event(Lane::Bulk, &noble()).await.unwrap();
    let last = last.map_or(0, |(sequence, _)| sequence);
    let message_id = format!("{payload}-{last}");
    archive
        .publish_event(Lane::Bulk, &noble(), &message_id, last, bytes(payload))
        .await
        .unwrap();
}

/// Messages and subjects of each stream, as the administrator sees them.
async fn counts(admin: &Client) -> BTreeMap<&'static str, (u64, u64)> {
    let mut counts = BTreeMap::new();
    for stream in STREAMS {
        let info = ask(admin, &format!("$JS.API.STREAM.INFO.{stream}"), "").await;
        let state = &info["state"];
        let count = |name: &str| state[name].as_u64().unwrap_or_default();
        counts.insert(stream, (count("messages"), count("num_subjects")));
    }
    counts
}

async fn ask(client: &Client, subject: &str, payload: &'static str) -> Value {
    let answer = soon(client.request(subject.to_owned(), bytes(payload)), subject).await;
    serde_json::from_slice(&answer.unwrap().payload).unwrap()
}

/// Somebody who hears all that is said in the mirrors' account; no network has such a user.
async fn listener(net: &Net) -> Client {
    let seed = |name: &str| {
        let file = net.dir.path().join("access/keys").join(name);
        KeyPair::from_seed(std::fs::read_to_string(file).unwrap().trim()).unwrap()
    };
    let (account, user) = (seed("account-mirrors.nk"), KeyPair::new_user());
    let claims = json!({
        "jti": "listener", "iat": 1_790_000_000, "iss": account.public_key(), "name": "listener",
        "sub": user.public_key(),
        "nats": { "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 },
    });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(account.sign(signed.as_bytes()).unwrap());
    let file = net.dir.path().join("listener.creds");
    let text = Credentials::print(&format!("{signed}.{signature}"), &user).unwrap();
    write_secret(&file, text.as_bytes());
    connect(net, &file).await
}

async fn connect(net: &Net, creds: &Path) -> Client {
    let options = ConnectOptions::with_credentials_file(creds).await.unwrap();
    options.connect(&net.server.url).await.unwrap()
}

/// What a mirror names as the place of an answer gets the answer in the mirrors' account, and nowhere else.
#[tokio::test]
async fn attack_answers_to_a_mirror_reach_no_stream() {
    let net = Net::up(&["nz1", "au1"]).await;
    let archive = net.archive().await;
    let admin = connect(&net, &net.creds("admin")).await;
    let heads = archive.bucket("head").await.unwrap();
    heads.put("noble", bytes("head")).await.unwrap();
    // An event for each place.
    for _ in PLACES {
        publish(&archive, "event").await;
    }
    let mirror = net.log("nz1").await;
    drop(
        mirror
            .consume(&id("nz1"), Lane::Priority, &[], None)
            .await
            .unwrap(),
    );
    let mut watch = mirror.bucket("head").await.unwrap().watch().await.unwrap();
    soon(watch.next(), "a head").await;
    drop((watch, mirror));

    let turned = net.intruder("nz1").await.client;
    let listener = listener(&net).await;
    let mut heard = listener.subscribe(">").await.unwrap();
    listener.flush().await.unwrap();
    let requests = [
        ("mirrorlog.jetstream.STREAM.INFO.MIRRORLOG", ""),
        (
            "mirrorlog.jetstream.CONSUMER.INFO.MIRRORLOG.nz1-priority",
            "",
        ),
        (
            "mirrorlog.jetstream.CONSUMER.MSG.NEXT.KV_mirrorlog_head.nz1-read",
            "{\"batch\":1,\"no_wait\":true}",
        ),
        (
            "mirrorlog.jetstream.STREAM.MSG.GET.KV_mirrorlog_root",
            "{\"seq\":1}",
        ),
        (
            "mirrorlog.consumer.nz1",
            "{\"id\":1,\"ask\":{\"read\":{\"stream\":\"OTHER\",\"start\":\"all\"}}}",
        ),
        ("mirrorlog.report.nz1.noble", "report"),
    ];
    let bulk = "{\"id\":2,\"ask\":{\"lane\":{\"lane\":\"bulk\",\"channels\":[],\"floor\":0}}}";
    let made = soon(
        turned.request("mirrorlog.consumer.nz1", bytes(bulk)),
        "a consumer",
    )
    .await;
    assert_eq!(made.unwrap().payload, "\"made\"");
    // Each is answered: the same client hears the answers, where it may listen.
    for (subject, payload) in requests {
        let answer = turned.request(subject, bytes(payload));
        soon(answer, subject).await.unwrap();
    }
    let before = counts(&admin).await;
    assert_eq!(before["MIRRORLOG_REPORT"], (1, 1));
    for place in PLACES {
        for (subject, payload) in requests {
            turned
                .publish_with_reply(subject, place, bytes(payload))
                .await
                .unwrap();
            turned.flush().await.unwrap();
            // And the answer went there: a user who hears everything in the mirrors' account heard it.
            let came = async { while heard.next().await.unwrap().subject.as_str() != place {} };
            soon(came, &format!("{subject} was not answered at {place}")).await;
        }
        // Events too, by a consumer of its own; they come on their own subject, with a place for the ack.
        let pull = "mirrorlog.jetstream.CONSUMER.MSG.NEXT.MIRRORLOG.nz1-bulk";
        turned
            .publish_with_reply(pull, place, bytes("1"))
            .await
            .unwrap();
        let came = async {
            let is_pulled = |message: &async_nats::Message| {
                let reply = message.reply.as_deref().unwrap_or_default();
                reply.starts_with("$JS.ACK.MIRRORLOG.nz1-bulk.")
            };
            while !is_pulled(&heard.next().await.unwrap()) {}
        };
        soon(came, &format!("no event was pulled to {place}")).await;
    }
    // What was stored is stored in order: these come after whatever came before.
    publish(&archive, "last").await;
    heads.put("noble", bytes("head")).await.unwrap();
    archive
        .publish_order(&id("nz1"), "o1", bytes("order"))
        .await
        .unwrap();
    let consistency = net.log("consistency").await;
    consistency
        .publish_verdict(&noble(), &id("nz1"), bytes("verdict"))
        .await
        .unwrap();
    let leases = consistency.bucket("lease").await.unwrap();
    leases.set("leader", bytes("me"), 0).await.unwrap();
    let directory = net.log("directory").await;
    directory
        .publish_feedback(&id("nz1"), "as1", bytes("fast"))
        .await
        .unwrap();
    let mut expected = before;
    for (stream, subjects) in [
        ("MIRRORLOG", 0),
        ("MIRRORLOG_VERDICT", 1),
        ("MIRRORLOG_ORDER", 1),
        ("MIRRORLOG_FEEDBACK", 1),
        ("KV_mirrorlog_head", 0),
        ("KV_mirrorlog_lease", 1),
    ] {
        let (messages, named) = expected[stream];
        expected.insert(stream, (messages + 1, named + subjects));
    }
    // Its own reports are its own, and two of a subject are kept.
    expected.insert("MIRRORLOG_REPORT", (2, 1));
    assert_eq!(counts(&admin).await, expected);
    assert_eq!(leases.get("leader").await.unwrap().unwrap().1, "me");
    let (_, event) = archive
        .last_event(Lane::Bulk, &noble())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event, "last");
}

/// Consumers that deliver somewhere: nobody makes one for a mirror, whatever it writes into its question.
#[tokio::test]
async fn attack_no_mirror_gets_a_consumer_that_delivers_elsewhere() {
    let net = Net::up(&["nz1", "au1"]).await;
    let archive = net.archive().await;
    archive
        .publish_event(Lane::Bulk, &noble(), "1", 0, bytes("event"))
        .await
        .unwrap();
    let admin = connect(&net, &net.creds("admin")).await;
    let turned = net.intruder("nz1").await;
    let create = "$JS.API.CONSUMER.CREATE.MIRRORLOG.nz1-bulk";
    turned.is_refused("Publish", create).await;
    let question = |ask: Value| {
        let payload = Bytes::from(json!({ "id": 1, "ask": ask }).to_string());
        let answer = turned.client.request("mirrorlog.consumer.nz1", payload);
        async { soon(answer, "an answer").await.unwrap().payload }
    };
    // What it may have.
    let own = json!({ "read": { "stream": "MIRRORLOG_ORDER", "start": "all" } });
    assert_eq!(question(own).await, "\"made\"");
    let made = ask(&admin, "$JS.API.CONSUMER.INFO.MIRRORLOG_ORDER.nz1-read", "").await;
    assert_eq!(made["config"]["filter_subject"], "mirrorlog.order.nz1");
    assert!(made["config"]["deliver_subject"].is_null(), "{made}");
    // What is another's, or nobody's.
    for stream in [
        "MIRRORLOG_REPORT",
        "MIRRORLOG_FEEDBACK",
        "KV_mirrorlog_salt",
        "MIRRORLOG",
        "x.y",
    ] {
        let other = json!({ "read": { "stream": stream, "start": "all" } });
        let answer = question(other).await;
        assert!(answer.starts_with(b"{\"refused\":"), "{answer:?}");
    }
    let all = json!({ "lane": { "lane": "bulk", "channels": [">"], "floor": 0 } });
    assert!(question(all).await.starts_with(b"{\"refused\":"));
    // More than a question is none: it is not answered, so that what is asked after it is answered first.
    let more = json!({ "id": 2, "ask": { "lane": { "lane": "bulk", "channels": [], "floor": 0,
        "deliver_subject": "$KV.mirrorlog_head.junk" } } });
    let inbox = "_INBOX.nz1.more";
    let mut answers = turned.client.subscribe(inbox).await.unwrap();
    let payload = Bytes::from(more.to_string());
    let asked = turned
        .client
        .publish_with_reply("mirrorlog.consumer.nz1", inbox, payload);
    asked.await.unwrap();
    let own = Bytes::from_static(
        b"{\"id\":3,\"ask\":{\"lane\":{\"lane\":\"priority\",\"channels\":[],\"floor\":0}}}",
    );
    let asked = turned
        .client
        .publish_with_reply("mirrorlog.consumer.nz1", inbox, own);
    asked.await.unwrap();
    assert_eq!(
        soon(answers.next(), "an answer").await.unwrap().payload,
        "\"made\""
    );
    let names = ask(&admin, "$JS.API.CONSUMER.NAMES.MIRRORLOG", "").await;
    assert_eq!(names["consumers"], json!(["nz1-priority"]));
    let heads = ask(&admin, "$JS.API.STREAM.INFO.KV_mirrorlog_head", "").await;
    assert_eq!(heads["state"]["messages"], 0);
}

/// Acks in another's name: a server that lets one through loses that mirror nothing, its own cursor counts.
#[tokio::test]
async fn attack_acks_in_anothers_name_lose_nothing() {
    let net = Net::up(&["nz1", "au1"]).await;
    let archive = net.archive().await;
    archive
        .publish_event(Lane::Bulk, &noble(), "1", 0, bytes("event"))
        .await
        .unwrap();
    let au1 = net.log("au1").await;
    let mut events = au1
        .consume(&id("au1"), Lane::Bulk, &[noble()], None)
        .await
        .unwrap();
    let held = event(&mut events, "an event").await;

    let turned = net.intruder("nz1").await;
    turned
        .is_refused("Publish", "$JS.ACK.MIRRORLOG.au1-bulk.1.1.1.1.0")
        .await;
    drop(
        net.log("nz1")
            .await
            .bucket("head")
            .await
            .unwrap()
            .watch()
            .await
            .unwrap(),
    );
    // The answer that there is nothing has no bytes, as an ack has none.
    let nothing = "mirrorlog.jetstream.CONSUMER.MSG.NEXT.KV_mirrorlog_head.nz1-read";
    let asked = turned.client.publish_with_reply(
        nothing,
        "$JS.ACK.MIRRORLOG.au1-bulk.1.1.1.1.0",
        bytes("{\"batch\":1,\"no_wait\":true}"),
    );
    asked.await.unwrap();
    turned.client.flush().await.unwrap();
    soon(
        turned
            .client
            .request(nothing, bytes("{\"batch\":1,\"no_wait\":true}")),
        "an answer",
    )
    .await
    .unwrap();
    // Neither was taken: the event is still au1's to ack.
    let admin = connect(&net, &net.creds("admin")).await;
    let standing = ask(&admin, "$JS.API.CONSUMER.INFO.MIRRORLOG.au1-bulk", "").await;
    assert_eq!(standing["ack_floor"]["stream_seq"], 0, "{standing}");
    assert_eq!(standing["num_ack_pending"], 1, "{standing}");
    // au1 is killed before it has done anything with the event.
    drop((held, events, au1));
    let au1 = net.log("au1").await;
    let mut events = au1
        .consume(&id("au1"), Lane::Bulk, &[noble()], None)
        .await
        .unwrap();
    assert_eq!(event(&mut events, "the event again").await.payload, "event");
}
