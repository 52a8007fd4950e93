//! The log on a cluster of three real nats-servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mirrorlog_core::id::{ChannelId, Lane, MirrorId};
use mirrorlog_core::time::Timestamp;
use runtime::boot::HeldPort;
use runtime::log::access::{Realm, User};
use runtime::log::supervise::find_server;
use runtime::log::{Delivery, Events, Log, LogError, NatsConfig, Replicas};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Longest wait for anything: a reader needs tens of seconds to see that its consumer is dead.
const PATIENCE: Duration = Duration::from_secs(120);
/// A server that its leader does not know of after this time is left out: it knows of others at once. Twice as long each time
/// that one was started again.
const LEFT_OUT: Duration = Duration::from_secs(2);
/// Servers that have no leader after this time find none: an election takes up to nine seconds.
const LEADERLESS: Duration = Duration::from_secs(12);
/// Longest wait for what a server says of itself.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// Enough that each server has consumers of some.
const MIRRORS: usize = 9;

struct Cluster {
    servers: Vec<Child>,
    clients: Vec<u16>,
    /// Where they say how they are.
    watched: Vec<u16>,
    _ports: Vec<HeldPort>,
    dir: tempfile::TempDir,
}

/// Where a test failed, what the servers said.
impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for number in 0..self.servers.len() {
                let log = self.dir.path().join(format!("n{number}.log"));
                let said = std::fs::read_to_string(log).unwrap_or_default();
                eprintln!("nats-server n{number}:\n{said}");
            }
        }
    }
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more configuration for each server.
    async fn start_with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let held: Vec<_> = (0..9).map(|_| HeldPort::draw().unwrap()).collect();
        let ports: Vec<u16> = held.iter().map(HeldPort::number).collect();
        let [clients, routes, watched] = [&ports[..3], &ports[3..6], &ports[6..]];
        let all: Vec<String> = routes
            .iter()
            .map(|port| format!("nats-route://127.0.0.1:{port}"))
            .collect();
        let servers = (0..3).map(|number| {
            let (client, route, watch) = (clients[number], routes[number], watched[number]);
            let name = format!("n{number}");
            let store = dir.path().join(&name);
            let text = format!(
                "server_name: {name}\nlisten: \"127.0.0.1:{client}\"\nhttp: \"127.0.0.1:{watch}\"\nlogfile: {:?}\n\
                 jetstream {{ store_dir: {:?} }}\n\
                 cluster {{ name: test, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n{more}",
                store.with_extension("log"),
                store,
                all.join(", ")
            );
            let file = store.with_extension("conf");
            std::fs::write(&file, text).unwrap();
            spawn(&file)
        });
        let mut cluster = Self {
            servers: servers.collect(),
            clients: clients.to_vec(),
            watched: watched.to_vec(),
            _ports: held,
            dir,
        };
        tokio::time::timeout(PATIENCE, cluster.gather())
            .await
            .expect("the cluster is whole");
        cluster
    }

    /// Returns when the leader knows of all servers. Of servers that first meet at the same moment nats-server may leave
    /// one out, or find no leader: they are started again, as deploy/README.md says.
    async fn gather(&mut self) {
        let (mut absent, mut since, mut tries) = (Vec::new(), Instant::now(), 0);
        loop {
            let members = self.members().await;
            let now = (0..self.servers.len()).filter(|number| !members.contains(number));
            let now: Vec<usize> = now.collect();
            let longest = match now[..] {
                [] => return,
                [_left_out] => LEFT_OUT * 2_u32.pow(tries.min(3)),
                _ => LEADERLESS,
            };
            if now != absent {
                (absent, since) = (now, Instant::now());
            } else if since.elapsed() >= longest {
                let again = absent[tries as usize % absent.len()];
                self.servers[again].kill().await.unwrap();
                self.servers[again] = spawn(&self.dir.path().join(format!("n{again}.conf")));
                (since, tries) = (Instant::now(), tries + 1);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The leader and those whom it knows and hears of, by number; none while there is none.
    async fn members(&self) -> BTreeSet<usize> {
        let number = |name: &Value| name.as_str()?.strip_prefix('n')?.parse().ok();
        for (leader, watch) in self.watched.iter().enumerate() {
            let told = tokio::time::timeout(TOLD_WITHIN, told(*watch)).await;
            let told = told.ok().and_then(Result::ok).unwrap_or_default();
            let meta = &told["meta_cluster"];
            if number(&meta["leader"]) == Some(leader) {
                let others = meta["replicas"].as_array().into_iter().flatten();
                let others = others.filter(|other| other["offline"] != true);
                let others = others.filter_map(|other| number(&other["name"]));
                return others.chain([leader]).collect();
            }
        }
        BTreeSet::new()
    }

    fn config(&self) -> NatsConfig {
        let urls: Vec<String> = self
            .clients
            .iter()
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .collect();
        NatsConfig {
            replicas: Replicas::Three,
            ..NatsConfig::new(urls.join(","))
        }
    }
}

/// What a server says of its JetStream; nothing while it starts.
async fn told(watch: u16) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", watch)).await?;
    stream.write_all(b"GET /jsz HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(serde_json::from_str(body)?)
}

fn spawn(file: &Path) -> Child {
    Command::new(find_server().unwrap())
        .arg("--config")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Repeats while the cluster has no leader, or not all its servers.
async fn patiently<T, F: Future<Output = Result<T, LogError>>>(mut act: impl FnMut() -> F) -> T {
    let all = async {
        loop {
            match act().await {
                Ok(done) => return done,
                Err(LogError::Down { .. } | LogError::FewServers { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                Err(error) => panic!("{}", wire::causes(&error)),
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap()
}

async fn publish(log: &Log, number: u64) {
    let channel = ChannelId::new("noble").unwrap();
    let name = number.to_string();
    patiently(|| async {
        let last = log.last_event(Lane::Bulk, &channel).await?;
        let last = last.map_or(0, |(sequence, _)| sequence);
        log.publish_event(Lane::Bulk, &channel, &name, last, name.clone().into())
            .await
    })
    .await;
}

/// Reads until event `number` came, acking all.
async fn read_to(events: &mut Events, number: u64) {
    let read = async {
        loop {
            if let Delivery::Event(event) = events.next().await {
                event.ack.ack().await.ok();
                if event.payload == number.to_string() {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the event comes");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_server_is_lost_all_mirrors_hear_of_the_next_build() {
    let mut cluster = Cluster::start().await;
    let log = Log::connect(&cluster.config(), "test", true).await.unwrap();
    patiently(|| log.ensure()).await;
    let mut mirrors = Vec::new();
    for number in 0..MIRRORS {
        let id = MirrorId::new(&format!("m{number}")).unwrap();
        mirrors.push(patiently(|| log.consume(&id, Lane::Bulk, &[], None)).await);
    }
    publish(&log, 1).await;
    for mirror in &mut mirrors {
        read_to(mirror, 1).await;
    }
    cluster.servers[0].kill().await.unwrap();
    publish(&log, 2).await;
    let reading = mirrors.iter_mut().map(|mirror| read_to(mirror, 2));
    futures::future::join_all(reading).await;
}

/// Where mirrors and services have users: consumers that a dead server held keep nobody from a new one.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_server_is_lost_new_readers_find_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut realm = Realm::open(dir.path()).unwrap();
    let now = Timestamp::from_ms(1_790_000_000_000);
    let admin = realm.admit_admin(now).unwrap();
    for user in User::central() {
        realm.admit(&user, now).unwrap();
    }
    let mut cluster = Cluster::start_with(&realm.server_config(now).unwrap()).await;
    let config = |user: &str| NatsConfig {
        credentials: Some(dir.path().join(format!("creds/{user}.creds"))),
        ..cluster.config()
    };
    let archive = Log::connect(&config("archive"), "archive", true)
        .await
        .unwrap();
    patiently(|| archive.ensure()).await;
    let making = Log::connect_for_questions(&config("archive"), "archive").await;
    let making = making.unwrap();
    let making = tokio::spawn(async move { making.make_others_consumers().await });
    publish(&archive, 1).await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        let directory = Log::connect(&config("directory"), "directory", true).await;
        let mut events = directory.unwrap().follow(0).await.unwrap();
        read_to(&mut events, 1).await;
        readers.push(events);
    }
    // The server that holds the first place.
    let options = async_nats::ConnectOptions::with_credentials_file(admin).await;
    let asked = "$JS.API.CONSUMER.INFO.MIRRORLOG.directory-1";
    let anywhere = format!("nats://127.0.0.1:{}", cluster.clients[0]);
    let client = options.unwrap().connect(anywhere).await.unwrap();
    let holder = async {
        loop {
            let answer = client.request(asked, "".into()).await;
            let answer = answer.map(|answer| serde_json::from_slice::<Value>(&answer.payload));
            // None while its servers elect one.
            if let Ok(Ok(answer)) = answer
                && let Some(holder) = answer["cluster"]["leader"].as_str()
            {
                return holder.strip_prefix('n').unwrap().parse::<usize>().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let holder = tokio::time::timeout(PATIENCE, holder).await.unwrap();
    let late = config("directory");
    cluster.servers[holder].kill().await.unwrap();

    let directory = Log::connect(&late, "directory", true).await.unwrap();
    let mut events = patiently(|| directory.follow(0)).await;
    read_to(&mut events, 1).await;
    publish(&archive, 2).await;
    readers.push(events);
    let reading = readers.iter_mut().map(|reader| read_to(reader, 2));
    futures::future::join_all(reading).await;
    making.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_given_more_servers_when_more_are_asked_for() {
    let cluster = Cluster::start().await;
    let one = NatsConfig::new(cluster.config().url);
    let log = Log::connect(&one, "test", true).await.unwrap();
    patiently(|| log.ensure()).await;
    let copies = async || {
        let client = async_nats::connect(format!("nats://127.0.0.1:{}", cluster.clients[0]))
            .await
            .unwrap();
        let jetstream = async_nats::jetstream::new(client);
        let stream = jetstream.get_stream("MIRRORLOG").await.unwrap();
        stream.cached_info().config.num_replicas
    };
    assert_eq!(copies().await, 1);
    let log = Log::connect(&cluster.config(), "test", true).await.unwrap();
    patiently(|| log.ensure()).await;
    // The server that answers may hear of it a moment later.
    let given = async {
        while copies().await != 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, given)
        .await
        .expect("no stream has more servers");
    // Who asks for one only leaves them as they are.
    let log = Log::connect(&one, "test", true).await.unwrap();
    patiently(|| log.ensure()).await;
    assert_eq!(copies().await, 3);
}
