//! Mirrors that turn against the network: what they get the server and the archive to do for them.

use std::collections::BTreeMap;
use std::path::Path;

use async_nats::{Client, ConnectOptions, Subscriber};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::StreamExt as _;
use mirrorlog_core::id::Lane;
use runtime::log::Log;
use runtime::log::access::{Credentials, KeyPair};
use serde_json::{Value, json};

use crate::net::{Archive, Net, bytes, event, id, noble, soon, write_secret};

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

/// Somebody who hears all that is said in an account; no network has such a user.
async fn all_that_is_said(net: &Net, account: &str) -> Subscriber {
    let seed = |name: &str| {
        let file = net.dir.path().join("access/keys").join(name);
        KeyPair::from_seed(std::fs::read_to_string(file).unwrap().trim()).unwrap()
    };
    let (account, user) = (seed(account), KeyPair::new_user());
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
    let listener = connect(net, &file).await;
    let heard = listener.subscribe(">").await.unwrap();
    listener.flush().await.unwrap();
    heard
}

async fn connect(net: &Net, creds: &Path) -> Client {
    let options = ConnectOptions::with_credentials_file(creds).await.unwrap();
    options.connect(&net.server.url).await.unwrap()
}

/// What a user sends, and what for.
type Request = (&'static str, &'static str);

/// Has every request answered at every place, and messages of the log pulled there by `pull`; each answer is `heard` by a
/// user who hears everything in the account.
async fn has_everything_sent(
    turned: &Client,
    mut heard: Subscriber,
    requests: &[Request],
    pull: (&str, &str),
) {
    for place in PLACES {
        for (subject, payload) in requests {
            turned
                .publish_with_reply(*subject, place, bytes(payload))
                .await
                .unwrap();
            turned.flush().await.unwrap();
            let came = async { while heard.next().await.unwrap().subject.as_str() != place {} };
            soon(came, &format!("{subject} was not answered at {place}")).await;
        }
        // They come on their own subject, with a place for the ack.
        let (subject, consumer) = pull;
        turned
            .publish_with_reply(subject.to_owned(), place, bytes("1"))
            .await
            .unwrap();
        let came = async {
            let is_pulled = |message: &async_nats::Message| {
                let reply = message.reply.as_deref().unwrap_or_default();
                reply.starts_with(&format!("$JS.ACK.MIRRORLOG.{consumer}."))
            };
            while !is_pulled(&heard.next().await.unwrap()) {}
        };
        soon(came, &format!("no event was pulled to {place}")).await;
    }
}

/// Each is answered: the same client hears the answers, where it may listen.
async fn are_answered(turned: &Client, requests: &[Request]) {
    for (subject, payload) in requests {
        let answer = turned.request(*subject, bytes(payload));
        let answer = soon(answer, subject).await;
        assert!(answer.is_ok(), "{subject} {answer:?}");
    }
}

/// Stores one message in each stream; what is stored is stored in order, so these come after whatever came before. Gives
/// what there has to be, given what there was.
async fn store_one_each(
    net: &Net,
    archive: &Log,
    before: BTreeMap<&'static str, (u64, u64)>,
) -> BTreeMap<&'static str, (u64, u64)> {
    let nz1 = id("nz1");
    publish(archive, "last").await;
    let heads = archive.bucket("head").await.unwrap();
    heads.put("noble", bytes("head")).await.unwrap();
    archive
        .publish_order(&nz1, "o1", bytes("order"))
        .await
        .unwrap();
    let consistency = net.log("consistency").await;
    consistency
        .publish_verdict(&noble(), &nz1, bytes("verdict"))
        .await
        .unwrap();
    let leases = consistency.bucket("lease").await.unwrap();
    leases.set("leader", bytes("me"), 0).await.unwrap();
    let directory = net.log("directory").await;
    directory
        .publish_feedback(&nz1, "as1", bytes("fast"))
        .await
        .unwrap();
    assert_eq!(leases.get("leader").await.unwrap().unwrap().1, "me");
    let last = archive.last_event(Lane::Bulk, &noble()).await.unwrap();
    assert_eq!(last.unwrap().1, "last");
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
    expected
}

/// A network with a head, and an event for each place; its archive, and people's client.
async fn with_events() -> (Net, Archive, Client) {
    let net = Net::up(&["nz1", "au1"]).await;
    let archive = net.archive().await;
    let admin = connect(&net, &net.creds("admin")).await;
    let heads = archive.bucket("head").await.unwrap();
    heads.put("noble", bytes("head")).await.unwrap();
    // An event for each place.
    for _ in PLACES {
        publish(&archive, "event").await;
    }
    (net, archive, admin)
}

/// What a mirror names as the place of an answer gets the answer in the mirrors' account, and nowhere else.
#[tokio::test]
async fn attack_answers_to_a_mirror_reach_no_stream() {
    let (net, archive, admin) = with_events().await;
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
    let heard = all_that_is_said(&net, "account-mirrors.nk").await;
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
    are_answered(&turned, &requests).await;
    let before = counts(&admin).await;
    assert_eq!(before["MIRRORLOG_REPORT"], (1, 1));
    let pull = (
        "mirrorlog.jetstream.CONSUMER.MSG.NEXT.MIRRORLOG.nz1-bulk",
        "nz1-bulk",
    );
    has_everything_sent(&turned, heard, &requests, pull).await;
    let mut expected = store_one_each(&net, &archive, before).await;
    // Its own reports are its own, and two of a subject are kept.
    expected.insert("MIRRORLOG_REPORT", (2, 1));
    assert_eq!(counts(&admin).await, expected);
}

/// The same of a stolen user of the consistency service, or of the directory, which is the one that strangers talk to.
#[tokio::test]
async fn attack_answers_to_services_of_the_centre_reach_no_stream() {
    let info = ("mirrorlog.jetstream.STREAM.INFO.MIRRORLOG", "");
    let no_wait = "{\"batch\":1,\"no_wait\":true}";
    let first = "{\"seq\":1}";
    let consistency = [
        info,
        (
            "mirrorlog.jetstream.CONSUMER.INFO.MIRRORLOG.consistency-1",
            "",
        ),
        (
            "mirrorlog.jetstream.CONSUMER.MSG.NEXT.KV_mirrorlog_lease.consistency-1",
            no_wait,
        ),
        (
            "mirrorlog.jetstream.STREAM.MSG.GET.KV_mirrorlog_root",
            first,
        ),
        ("mirrorlog.consumer.consistency", OTHERS),
        ("mirrorlog.verdict.noble.nz1", "verdict"),
        ("$KV.mirrorlog_wanted.noble.nz", "1"),
    ];
    let directory = [
        info,
        (
            "mirrorlog.jetstream.CONSUMER.INFO.MIRRORLOG.directory-1",
            "",
        ),
        (
            "mirrorlog.jetstream.CONSUMER.MSG.NEXT.KV_mirrorlog_wanted.directory-1",
            no_wait,
        ),
        (
            "mirrorlog.jetstream.STREAM.MSG.GET.KV_mirrorlog_salt",
            first,
        ),
        ("mirrorlog.consumer.directory", OTHERS),
        ("mirrorlog.feedback.nz1.as1", "fast"),
        ("$KV.mirrorlog_salt.today", "salt"),
    ];
    for (user, requests, read) in [
        (
            "consistency",
            consistency,
            ["MIRRORLOG", "KV_mirrorlog_lease"],
        ),
        ("directory", directory, ["MIRRORLOG", "KV_mirrorlog_wanted"]),
    ] {
        let (net, archive, admin) = with_events().await;
        let turned = net.intruder(user).await.client;
        let heard = all_that_is_said(&net, &format!("account-{user}.nk")).await;
        for stream in read {
            let ask = json!({ "read": { "stream": stream, "start": "all", "reader": 1 } });
            let question = json!({ "id": 1, "ask": ask }).to_string();
            let asked = turned.request(format!("mirrorlog.consumer.{user}"), question.into());
            let made = soon(asked, stream).await.unwrap().payload;
            assert_eq!(made, format!("{{\"made_as\":\"{user}-1\"}}"));
        }
        are_answered(&turned, &requests).await;
        let before = counts(&admin).await;
        let (pull, consumer) = (
            format!("mirrorlog.jetstream.CONSUMER.MSG.NEXT.MIRRORLOG.{user}-1"),
            format!("{user}-1"),
        );
        has_everything_sent(&turned, heard, &requests, (&pull, &consumer)).await;
        let own = match user {
            "consistency" => "MIRRORLOG_VERDICT",
            _directory => "MIRRORLOG_FEEDBACK",
        };
        let mut expected = store_one_each(&net, &archive, before.clone()).await;
        // Its own words are its own: it said one at first, one for each place, and the last is the service's.
        let said = PLACES.len() as u64 + 1;
        let (messages, subjects) = before[own];
        assert_eq!((messages, subjects), (1, 1), "{user}");
        expected.insert(own, (messages + said, subjects));
        assert_eq!(counts(&admin).await, expected, "{user}");
    }
}

/// A question about what is nobody's.
const OTHERS: &str = "{\"id\":1,\"ask\":{\"read\":{\"stream\":\"OTHER\",\"start\":\"all\"}}}";

/// A stolen user of the centre gets no consumer of others, and none that delivers somewhere.
#[tokio::test]
async fn attack_services_of_the_centre_get_readers_of_their_own_only() {
    let net = Net::up(&["nz1"]).await;
    let archive = net.archive().await;
    publish(&archive, "event").await;
    let nz1 = net.log("nz1").await;
    let _held = nz1
        .consume(&id("nz1"), Lane::Bulk, &[], None)
        .await
        .unwrap();
    let admin = connect(&net, &net.creds("admin")).await;
    for (user, not_its_own) in [
        ("consistency", ["MIRRORLOG_FEEDBACK", "KV_mirrorlog_salt"]),
        ("directory", ["MIRRORLOG_REPORT", "KV_mirrorlog_lease"]),
    ] {
        let turned = net.intruder(user).await;
        let question = |ask: Value| {
            let payload = Bytes::from(json!({ "id": 1, "ask": ask }).to_string());
            let subject = format!("mirrorlog.consumer.{user}");
            let answer = turned.client.request(subject, payload);
            async { soon(answer, "an answer").await.unwrap().payload }
        };
        let read =
            |stream: &str| json!({ "read": { "stream": stream, "start": "all", "reader": 7 } });
        for stream in not_its_own.into_iter().chain(["MIRRORLOG_ORDER", "x.y"]) {
            let answer = question(read(stream)).await;
            assert!(answer.starts_with(b"{\"refused\":"), "{stream} {answer:?}");
        }
        let lane = json!({ "lane": { "lane": "bulk", "channels": [], "floor": 0 } });
        assert!(question(lane).await.starts_with(b"{\"refused\":"));
        let made = question(read("MIRRORLOG")).await;
        assert_eq!(made, format!("{{\"made_as\":\"{user}-1\"}}"));
        let made = format!("$JS.API.CONSUMER.INFO.MIRRORLOG.{user}-1");
        let made = ask(&admin, &made, "").await;
        assert_eq!(made["config"]["filter_subject"], "mirrorlog.log.>");
        assert!(made["config"]["deliver_subject"].is_null(), "{made}");
    }
    let names = ask(&admin, "$JS.API.CONSUMER.NAMES.MIRRORLOG", "").await;
    let names = names["consumers"].as_array().unwrap().clone();
    let mut names: Vec<_> = names.iter().map(|name| name.as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["consistency-1", "directory-1", "nz1-bulk"]);
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
