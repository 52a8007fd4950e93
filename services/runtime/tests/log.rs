//! The log against a real nats-server: each test has its own, on a free port. A missing server fails the tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use mirrorlog_core::id::{ChannelId, Lane, MirrorId};
use runtime::boot::HeldPort;
use runtime::log::supervise::NatsServer;
use runtime::log::{
    Delivery, Event, Events, Log, LogError, NatsConfig, Position, Replicas, StreamIdentity,
};

/// Longest wait for anything: far above what is normal, so that only a fault meets it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Net {
    dir: tempfile::TempDir,
    server: NatsServer,
    log: Log,
}

impl Net {
    async fn up() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = NatsServer::start(dir.path(), None).await.unwrap();
        let log = connect(&server.url).await;
        log.ensure().await.unwrap();
        Self { dir, server, log }
    }

    /// Kills the server as a crash would, does `between`, and starts it again at its address.
    async fn crash(self, between: impl FnOnce(&std::path::Path)) -> Self {
        let (folder, port) = self.server.kill().await.unwrap();
        between(&folder);
        let server = NatsServer::start(&folder, Some(port)).await.unwrap();
        Self {
            dir: self.dir,
            server,
            log: self.log,
        }
    }

    /// The client library itself, to look behind the log and to do what only operators do.
    async fn raw(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(&self.server.url).await.unwrap())
    }

    async fn publish(&self, lane: Lane, channel: &str, number: u64) -> Position {
        let channel = id(channel);
        let last = self
            .log
            .last_event(lane, &channel)
            .await
            .unwrap()
            .map_or(0, |(sequence, _)| sequence);
        let message_id = format!("{channel}/{lane}/{number}");
        let payload = Bytes::from(number.to_string());
        patiently(|| {
            self.log
                .publish_event(lane, &channel, &message_id, last, payload.clone())
        })
        .await
    }
}

async fn connect(url: &str) -> Log {
    Log::connect(&NatsConfig::new(url), "mirrorlog-test", false)
        .await
        .unwrap()
}

/// Repeats while the server is down.
async fn patiently<T, F: Future<Output = Result<T, LogError>>>(mut act: impl FnMut() -> F) -> T {
    soon(async {
        loop {
            match act().await {
                Ok(value) => break value,
                Err(LogError::Down { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes too long")
}

fn id(channel: &str) -> ChannelId {
    ChannelId::new(channel).unwrap()
}

fn mirror() -> MirrorId {
    MirrorId::new("nz1").unwrap()
}

async fn event(events: &mut Events) -> Event {
    match soon(events.next()).await {
        Delivery::Event(event) => event,
        Delivery::StreamChanged(identity) => panic!("the stream changed to {identity:?}"),
    }
}

/// What comes next, as text, acked.
async fn payload(events: &mut Events) -> String {
    let event = event(events).await;
    event.ack.ack().await.unwrap();
    String::from_utf8(event.payload.to_vec()).unwrap()
}

async fn changed(events: &mut Events) -> StreamIdentity {
    match soon(events.next()).await {
        Delivery::StreamChanged(identity) => identity,
        Delivery::Event(event) => panic!("expected a changed stream, got {event:?}"),
    }
}

/// Nothing comes although it had time to: a later event of another subject proves that delivery works.
async fn is_silent(events: &mut Events) {
    let more = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn what_is_declared_is_made_once_and_found_again() {
    let net = Net::up().await;
    net.log.ensure().await.unwrap();
    let before = net.log.identity().await.unwrap();
    let other = connect(&net.server.url).await;
    other.ensure().await.unwrap();
    assert_eq!(other.identity().await.unwrap(), before);
    let names: Vec<String> = {
        use futures::TryStreamExt as _;
        let mut names: Vec<_> = net.raw().await.stream_names().try_collect().await.unwrap();
        names.sort();
        names
    };
    let expected = [
        "KV_mirrorlog_build",
        "KV_mirrorlog_drain",
        "KV_mirrorlog_head",
        "KV_mirrorlog_lease",
        "KV_mirrorlog_root",
        "KV_mirrorlog_salt",
        "KV_mirrorlog_wanted",
        "MIRRORLOG",
        "MIRRORLOG_FEEDBACK",
        "MIRRORLOG_ORDER",
        "MIRRORLOG_REPORT",
        "MIRRORLOG_VERDICT",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_stream_that_differs_is_refused() {
    let net = Net::up().await;
    let raw = net.raw().await;
    let mut config = raw
        .get_stream("MIRRORLOG")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.max_bytes = 1024;
    raw.update_stream(&config).await.unwrap();
    let error = net.log.ensure().await.unwrap_err();
    let text = error.to_string();
    assert_eq!(
        text,
        "stream MIRRORLOG is not as declared: max_bytes should be 1073741824, the server has 1024"
    );
    assert_eq!(error.reaction(), runtime::Reaction::Halt);
    assert!(matches!(
        net.log.consume(&mirror(), Lane::Bulk, &[], None).await,
        Err(LogError::Differs { .. })
    ));
}

#[tokio::test]
async fn a_stream_that_more_servers_are_to_hold_is_not_made_on_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path(), None).await.unwrap();
    let config = NatsConfig {
        replicas: Replicas::Three,
        ..NatsConfig::new(&server.url)
    };
    let log = Log::connect(&config, "test", false).await.unwrap();
    let error = soon(log.ensure()).await.unwrap_err();
    assert!(matches!(error, LogError::FewServers { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "too few nats-servers can hold it (creating stream MIRRORLOG): as many as nats.replicas says have to run as one \
         cluster, with room for it"
    );
    assert_eq!(error.reaction(), runtime::Reaction::Retry);
}

#[tokio::test]
async fn an_impatient_connection_says_that_nobody_is_there() {
    let config = NatsConfig::new("nats://127.0.0.1:1");
    let error = soon(Log::connect(&config, "test", false))
        .await
        .unwrap_err();
    assert!(matches!(error, LogError::Down { .. }), "{error}");
    let error = Log::connect(&NatsConfig::new("not an url"), "test", true)
        .await
        .unwrap_err();
    assert!(matches!(error, LogError::Address { .. }), "{error}");
}

#[tokio::test]
async fn a_patient_connection_waits_for_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path(), None).await.unwrap();
    let url = server.url.clone();
    let (folder, port) = server.kill().await.unwrap();
    let patient = tokio::spawn(async move {
        Log::connect(&NatsConfig::new(url), "test", true)
            .await
            .unwrap()
    });
    let _server = NatsServer::start(&folder, Some(port)).await.unwrap();
    let log = soon(patient).await.unwrap();
    assert!(log.is_connected());
    log.ensure().await.unwrap();
}

#[tokio::test]
async fn the_same_message_id_makes_one_event() {
    let net = Net::up().await;
    let noble = id("noble");
    let publish = || {
        net.log.publish_event(
            Lane::Bulk,
            &noble,
            "noble/1/00",
            0,
            Bytes::from_static(b"1"),
        )
    };
    let first = publish().await.unwrap();
    assert_eq!(publish().await.unwrap(), first);
    assert_eq!(
        net.log.last_event(Lane::Bulk, &noble).await.unwrap(),
        Some((first.sequence, Bytes::from_static(b"1")))
    );
    assert_eq!(
        net.log.last_event(Lane::Priority, &noble).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn a_writer_that_is_behind_is_refused() {
    let net = Net::up().await;
    let noble = id("noble");
    let publish = |message_id: &'static str, last| {
        net.log.publish_event(
            Lane::Bulk,
            &noble,
            message_id,
            last,
            Bytes::from_static(b"x"),
        )
    };
    let first = publish("a", 0).await.unwrap();
    let error = publish("b", 0).await.unwrap_err();
    assert!(
        matches!(&error, LogError::Refused { subject, expected: 0, found: Some(found) }
            if subject == "mirrorlog.log.bulk.noble" && *found == first.sequence),
        "{error}"
    );
    // Other subjects do not count.
    net.publish(Lane::Bulk, "jammy", 1).await;
    publish("c", first.sequence).await.unwrap();
}

#[tokio::test]
async fn lanes_and_channels_are_kept_apart() {
    let net = Net::up().await;
    for (lane, channel, number) in [
        (Lane::Bulk, "noble", 1),
        (Lane::Priority, "noble", 2),
        (Lane::Bulk, "jammy", 3),
        (Lane::Bulk, "focal", 4),
        (Lane::Priority, "jammy", 5),
    ] {
        net.publish(lane, channel, number).await;
    }
    let some = [id("noble"), id("focal")];
    let mut bulk = net
        .log
        .consume(&mirror(), Lane::Bulk, &some, None)
        .await
        .unwrap();
    let mut priority = net
        .log
        .consume(&mirror(), Lane::Priority, &[], None)
        .await
        .unwrap();
    assert_eq!(
        [payload(&mut bulk).await, payload(&mut bulk).await],
        ["1", "4"]
    );
    assert_eq!(
        [payload(&mut priority).await, payload(&mut priority).await],
        ["2", "5"]
    );
    is_silent(&mut bulk).await;
    let mut all = net.log.follow(0).await.unwrap();
    for number in 1..=5 {
        let event = event(&mut all).await;
        assert_eq!(event.payload, number.to_string());
        assert_eq!(event.position.sequence, number);
        event.ack.ack().await.unwrap();
    }
    assert_eq!(
        event(&mut net.log.follow(4).await.unwrap()).await.payload,
        "4"
    );
}

#[tokio::test]
async fn a_lane_of_one_channel_and_another_set_of_channels_make_a_new_consumer() {
    let net = Net::up().await;
    let first = net.publish(Lane::Bulk, "noble", 1).await;
    net.publish(Lane::Bulk, "jammy", 2).await;
    let mut noble = net
        .log
        .consume(&mirror(), Lane::Bulk, &[id("noble")], None)
        .await
        .unwrap();
    assert_eq!(payload(&mut noble).await, "1");
    drop(noble);
    let both = [id("noble"), id("jammy")];
    let mut both = net
        .log
        .consume(&mirror(), Lane::Bulk, &both, Some(first))
        .await
        .unwrap();
    assert_eq!(payload(&mut both).await, "2");
}

#[tokio::test]
async fn the_cursor_wins_over_the_consumer_after_a_crash() {
    let net = Net::up().await;
    let mut positions = Vec::new();
    for number in 1..=5 {
        positions.push(net.publish(Lane::Bulk, "noble", number).await);
    }
    let mut events = net
        .log
        .consume(&mirror(), Lane::Bulk, &[], None)
        .await
        .unwrap();
    for number in 1..=5 {
        assert_eq!(payload(&mut events).await, number.to_string());
    }
    drop(events);
    let net = net.crash(|_| {}).await;
    // The mirror's own record says 3, whatever the server remembers.
    let mirror = mirror();
    let mut events = patiently(|| {
        net.log
            .consume(&mirror, Lane::Bulk, &[], Some(positions[2]))
    })
    .await;
    assert_eq!(
        [payload(&mut events).await, payload(&mut events).await],
        ["4", "5"]
    );
    is_silent(&mut events).await;
}

#[tokio::test]
async fn a_reader_lives_through_a_crash_of_the_server() {
    let net = Net::up().await;
    let mut events = net
        .log
        .consume(&mirror(), Lane::Bulk, &[], None)
        .await
        .unwrap();
    let mut follower = net.log.follow(0).await.unwrap();
    for number in 1..=3 {
        net.publish(Lane::Bulk, "noble", number).await;
    }
    let held = event(&mut events).await;
    assert_eq!(payload(&mut events).await, "2");
    for number in 1..=3 {
        assert_eq!(payload(&mut follower).await, number.to_string());
    }
    let net = net.crash(|_| {}).await;
    net.publish(Lane::Bulk, "noble", 4).await;
    // Not acked: comes again. Acked above it: does not.
    let again = event(&mut events).await;
    assert_eq!(
        (again.position, &again.payload),
        (held.position, &held.payload)
    );
    assert_eq!(
        [payload(&mut events).await, payload(&mut events).await],
        ["3", "4"]
    );
    assert_eq!(payload(&mut follower).await, "4");
    // The old handle acks the new delivery.
    held.ack.progress().await.unwrap();
    held.ack.ack().await.unwrap();
    soon(async {
        let raw = net.raw().await;
        let stream = raw.get_stream("MIRRORLOG").await.unwrap();
        while stream
            .consumer_info("nz1-bulk")
            .await
            .unwrap()
            .num_ack_pending
            > 0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_deleted_consumer_is_made_again() {
    let net = Net::up().await;
    let mut events = net
        .log
        .consume(&mirror(), Lane::Bulk, &[], None)
        .await
        .unwrap();
    net.publish(Lane::Bulk, "noble", 1).await;
    assert_eq!(payload(&mut events).await, "1");
    net.raw()
        .await
        .delete_consumer_from_stream("nz1-bulk", "MIRRORLOG")
        .await
        .unwrap();
    net.publish(Lane::Bulk, "noble", 2).await;
    assert_eq!(payload(&mut events).await, "2");
}

#[tokio::test]
async fn a_wiped_server_is_noticed_and_furnished_again() {
    let net = Net::up().await;
    let before = net.log.identity().await.unwrap();
    let mut events = net
        .log
        .consume(&mirror(), Lane::Bulk, &[], None)
        .await
        .unwrap();
    let mut follower = net.log.follow(0).await.unwrap();
    let mut reports = net.log.reports().await.unwrap();
    let floor = net.publish(Lane::Bulk, "noble", 1).await;
    net.publish(Lane::Bulk, "noble", 2).await;
    assert_eq!(
        [payload(&mut events).await, payload(&mut events).await],
        ["1", "2"]
    );
    assert_eq!(payload(&mut follower).await, "1");
    let net = net
        .crash(|folder| std::fs::remove_dir_all(folder.join("jetstream")).unwrap())
        .await;
    let after = changed(&mut events).await;
    assert_ne!(after, before);
    assert_eq!(changed(&mut follower).await, after);
    assert_eq!(net.log.identity().await.unwrap(), after);
    net.publish(Lane::Bulk, "noble", 7).await;
    assert_eq!(payload(&mut events).await, "7");
    assert_eq!(payload(&mut follower).await, "7");
    let (nz1, noble) = (mirror(), id("noble"));
    patiently(|| {
        net.log
            .publish_report(&nz1, &noble, Bytes::from_static(b"new"))
    })
    .await;
    assert_eq!(soon(reports.next()).await.payload, "new");
    // A cursor of the old stream starts over.
    let mut late = net
        .log
        .consume(&mirror(), Lane::Bulk, &[], Some(floor))
        .await
        .unwrap();
    assert_eq!(changed(&mut late).await, after);
    assert_eq!(payload(&mut late).await, "7");
}

#[tokio::test]
async fn a_stream_that_lost_its_end_is_noticed() {
    let net = Net::up().await;
    let floor = net.publish(Lane::Bulk, "noble", 1).await;
    let beyond = Position {
        sequence: floor.sequence + 10,
        ..floor
    };
    let mut events = net
        .log
        .consume(&mirror(), Lane::Bulk, &[], Some(beyond))
        .await
        .unwrap();
    assert_eq!(changed(&mut events).await, floor.stream);
    assert_eq!(payload(&mut events).await, "1");
}

#[tokio::test]
async fn a_parked_event_does_not_come_again() {
    let net = Net::up().await;
    let first = net.publish(Lane::Bulk, "noble", 1).await;
    net.publish(Lane::Bulk, "noble", 2).await;
    let mut events = net
        .log
        .consume(&mirror(), Lane::Bulk, &[], None)
        .await
        .unwrap();
    let bad = event(&mut events).await;
    bad.ack.terminate().await.unwrap();
    assert_eq!(payload(&mut events).await, "2");
    drop(events);
    let raw = net.raw().await;
    let stream = raw.get_stream("MIRRORLOG").await.unwrap();
    soon(async {
        while stream
            .consumer_info("nz1-bulk")
            .await
            .unwrap()
            .ack_floor
            .stream_sequence
            < first.sequence + 1
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_strangers_subject_is_passed_over() {
    let net = Net::up().await;
    net.raw()
        .await
        .publish("mirrorlog.log.bulk.NOT_A_CHANNEL", "x".into())
        .await
        .unwrap()
        .await
        .unwrap();
    net.publish(Lane::Bulk, "noble", 1).await;
    let mut events = net
        .log
        .consume(&mirror(), Lane::Bulk, &[], None)
        .await
        .unwrap();
    assert_eq!(payload(&mut events).await, "1");
}

#[tokio::test]
async fn reports_verdicts_and_orders_come_back() {
    let net = Net::up().await;
    let (nz1, us1, noble) = (mirror(), MirrorId::new("us1").unwrap(), id("noble"));
    for text in ["old", "older", "newest"] {
        net.log
            .publish_report(&nz1, &noble, Bytes::from_static(text.as_bytes()))
            .await
            .unwrap();
        net.log
            .publish_verdict(&noble, &nz1, Bytes::from_static(text.as_bytes()))
            .await
            .unwrap();
        net.log
            .publish_order(&nz1, text, Bytes::from_static(text.as_bytes()))
            .await
            .unwrap();
        net.log
            .publish_order(&us1, text, Bytes::from_static(b"another's"))
            .await
            .unwrap();
    }
    let mut reports = net.log.reports().await.unwrap();
    let report = soon(reports.next()).await;
    assert_eq!(
        (report.subject.as_str(), &report.payload[..]),
        ("mirrorlog.report.nz1.noble", &b"newest"[..])
    );
    net.log
        .publish_report(&us1, &noble, Bytes::from_static(b"live"))
        .await
        .unwrap();
    assert_eq!(soon(reports.next()).await.payload, "live");

    let mut verdicts = net.log.verdicts().await.unwrap();
    for text in ["old", "older", "newest"] {
        let verdict = soon(verdicts.next()).await;
        assert_eq!(
            (verdict.subject.as_str(), &verdict.payload[..]),
            ("mirrorlog.verdict.noble.nz1", text.as_bytes())
        );
    }
    let mut orders = net.log.orders(&nz1, None).await.unwrap();
    let first = soon(orders.next()).await;
    assert_eq!(first.payload, "old");
    let mut later = net.log.orders(&nz1, Some(first.sequence)).await.unwrap();
    assert_eq!(
        [
            soon(later.next()).await.payload,
            soon(later.next()).await.payload
        ],
        ["older", "newest"]
    );
}

#[tokio::test]
async fn what_is_too_large_is_no_outage() {
    let net = Net::up().await;
    let bucket = net.log.bucket("head").await.unwrap();
    let error = bucket
        .put("noble", vec![0; 200_000].into())
        .await
        .unwrap_err();
    assert!(matches!(error, LogError::Server { .. }), "{error}");
    let error = bucket
        .put("noble", vec![0; 2_000_000].into())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            LogError::TooLarge {
                bytes: 2_000_000,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn of_two_writers_of_a_key_one_wins() {
    let net = Net::up().await;
    let other = connect(&net.server.url).await;
    let (ours, theirs) = (
        net.log.bucket("build").await.unwrap(),
        other.bucket("build").await.unwrap(),
    );
    assert_eq!(ours.get("noble").await.unwrap(), None);
    let both = tokio::join!(
        ours.set("noble", Bytes::from_static(b"1 1"), 0),
        theirs.set("noble", Bytes::from_static(b"2 1"), 0)
    );
    let (won, lost) = match both {
        (Ok(revision), Err(error)) | (Err(error), Ok(revision)) => (revision, error),
        other => panic!("{other:?}"),
    };
    assert!(
        matches!(&lost, LogError::Refused { expected: 0, .. }),
        "{lost}"
    );
    let (revision, _) = theirs.get("noble").await.unwrap().unwrap();
    assert_eq!(revision, won);
    let next = ours
        .set("noble", Bytes::from_static(b"1 2"), won)
        .await
        .unwrap();
    assert!(matches!(
        theirs.set("noble", Bytes::new(), won).await,
        Err(LogError::Refused { .. })
    ));
    assert_eq!(
        theirs
            .put("noble.nz", Bytes::from_static(b"7"))
            .await
            .unwrap(),
        next + 1
    );
    assert_eq!(ours.keys().await.unwrap(), ["noble", "noble.nz"]);
    assert!(matches!(
        ours.put("no*ble", Bytes::new()).await,
        Err(LogError::Key { .. })
    ));
}

#[tokio::test]
async fn a_key_that_an_operator_deleted_can_be_made_again() {
    let net = Net::up().await;
    let bucket = net.log.bucket("head").await.unwrap();
    bucket
        .set("noble", Bytes::from_static(b"1"), 0)
        .await
        .unwrap();
    net.raw()
        .await
        .get_key_value("mirrorlog_head")
        .await
        .unwrap()
        .delete("noble")
        .await
        .unwrap();
    assert_eq!(bucket.get("noble").await.unwrap(), None);
    assert_eq!(bucket.keys().await.unwrap(), Vec::<String>::new());
    bucket
        .set("noble", Bytes::from_static(b"2"), 0)
        .await
        .unwrap();
    assert_eq!(bucket.get("noble").await.unwrap().unwrap().1, "2");
}

#[tokio::test]
async fn a_watch_gives_what_is_there_then_what_changes_through_a_crash() {
    let net = Net::up().await;
    let bucket = net.log.bucket("head").await.unwrap();
    for (key, value) in [("noble", "1"), ("jammy", "1"), ("noble", "2")] {
        bucket
            .put(key, Bytes::from_static(value.as_bytes()))
            .await
            .unwrap();
    }
    let mut watch = bucket.watch().await.unwrap();
    let mut seen = async || {
        let change = soon(watch.next()).await;
        (
            change.key,
            change
                .value
                .map(|value| String::from_utf8(value.to_vec()).unwrap()),
        )
    };
    assert_eq!(seen().await, ("jammy".into(), Some("1".into())));
    assert_eq!(seen().await, ("noble".into(), Some("2".into())));
    let net = net.crash(|_| {}).await;
    patiently(|| bucket.put("noble", Bytes::from_static(b"3"))).await;
    assert_eq!(seen().await, ("noble".into(), Some("3".into())));
    net.raw()
        .await
        .get_key_value("mirrorlog_head")
        .await
        .unwrap()
        .delete("jammy")
        .await
        .unwrap();
    assert_eq!(seen().await, ("jammy".into(), None));
}

#[tokio::test]
async fn a_server_stops_when_asked_and_is_found_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path(), None).await.unwrap();
    let (url, pid) = (server.url.clone(), server.pid);
    server.stop().await.unwrap();
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
    let number = url.rsplit(':').next().unwrap().parse().unwrap();
    let held = || HeldPort::at(SocketAddrV4::new(Ipv4Addr::LOCALHOST, number)).unwrap();
    let (first, second) = (held(), held());
    let again = NatsServer::start(dir.path(), Some(first)).await.unwrap();
    assert_eq!(again.url, url);
    // The port is taken: the second says so and where to look.
    let other = tempfile::tempdir().unwrap();
    let error = NatsServer::start(other.path(), Some(second))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("nats.log"), "{error}");
}

#[tokio::test]
async fn the_publishers_trace_comes_with_the_event() {
    use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
    use tracing::Instrument as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    opentelemetry::global::set_text_map_propagator(
        opentelemetry_sdk::propagation::TraceContextPropagator::new(),
    );
    let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let net = Net::up().await;
    let span = tracing::info_span!("publish");
    let sent = span.context().span().span_context().trace_id();
    net.publish(Lane::Bulk, "noble", 1).instrument(span).await;
    let event = event(&mut net.log.follow(0).await.unwrap()).await;
    let received = event.trace.span().span_context().clone();
    assert_eq!(received.trace_id(), sent);
    assert!(received.is_valid() && received.is_remote());
}

#[tokio::test]
async fn readers_live_in_tasks() {
    let net = Net::up().await;
    let mut events = net
        .log
        .consume(&mirror(), Lane::Bulk, &[], None)
        .await
        .unwrap();
    let mut reports = net.log.reports().await.unwrap();
    let mut watch = net.log.bucket("head").await.unwrap().watch().await.unwrap();
    let log = net.log.clone();
    let tasks = (
        tokio::spawn(async move { events.next().await }),
        tokio::spawn(async move { reports.next().await }),
        tokio::spawn(async move { watch.next().await }),
        tokio::spawn(async move {
            log.publish_report(&mirror(), &id("noble"), Bytes::from_static(b"r"))
                .await
                .unwrap();
            log.bucket("head")
                .await
                .unwrap()
                .put("noble", Bytes::from_static(b"h"))
                .await
                .unwrap();
            log.publish_event(Lane::Bulk, &id("noble"), "m", 0, Bytes::from_static(b"e"))
                .await
                .unwrap()
        }),
    );
    let (event, report, change, position) =
        soon(async { tokio::join!(tasks.0, tasks.1, tasks.2, tasks.3) }).await;
    assert!(
        matches!(event.unwrap(), Delivery::Event(event) if event.position == position.unwrap())
    );
    assert_eq!(
        (&report.unwrap().payload[..], change.unwrap().value.unwrap()),
        (&b"r"[..], Bytes::from_static(b"h"))
    );
}
