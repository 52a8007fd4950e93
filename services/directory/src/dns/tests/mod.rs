//! A real server on a free port, asked with messages of our own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fetcher::client::Source;
use fetcher::manifests::Manifests;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use mirrorlog_core::directory::health::Probed;
use mirrorlog_core::directory::{Directory, Input, View};
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::statement::{Head, Snapshot, Verdict, VerdictState};
use mirrorlog_core::time::Timestamp;
use runtime::boot::now;
use runtime::store::Store;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{bind, serve};
use crate::config::{Config, DnsSection};
use crate::gauges::{AnswerLabels, Gauges};
use crate::geo::Geo;
use crate::resolve::Addresses;
use crate::site::{Site, Views};
use crate::trees::Trees;

mod answers;
mod names;
mod transport;

const CONFIG: &str = r#"
directory.state = "state"
archive = { fetch = "127.0.0.1:1", keys = ["a.pub"] }
consistency.keys = ["c.pub"]
nats.url = "nats://127.0.0.1:1"
http.listen = "127.0.0.1:0"

[dns]
listen = "127.0.0.1:0"
zone = "mirrors.test"
contact = "host.master@example.org"
"#;
/// Id, pool, addresses, more.
const MIRRORS: [(&str, &str, &str, &str); 6] = [
    ("au1", "au", r#""10.2.0.1""#, ""),
    ("nz1", "nz", r#""10.1.0.1", "2001:db8:1::1""#, ""),
    ("nz2", "nz", r#""10.1.0.2""#, "weight = 300"),
    (
        "nz3",
        "nz",
        r#""10.1.0.3""#,
        "private = true\nnetblocks = ['127.0.0.0/8']",
    ),
    ("nz4", "nz", r#""10.1.0.4""#, "url = 'https://nz4.test'"),
    ("us1", "us-west", r#""10.3.0.1", "10.3.0.2""#, ""),
];
/// It is configured, and never complete.
const LATE: (&str, &str, &str, &str) = ("fr1", "fr", r#""10.4.0.1""#, "");
const PATIENCE: Duration = Duration::from_secs(5);

fn config(mirrors: &[(&str, &str, &str, &str)], dns: &str) -> Config {
    let mut text = format!("{CONFIG}{dns}\n");
    for (id, pool, addresses, more) in mirrors {
        let url = if more.contains("url") {
            String::new()
        } else {
            format!("url = 'http://{id}.test'")
        };
        text += &format!(
            "[[mirrors]]\nid = '{id}'\npool = '{pool}'\naddresses = [{addresses}]\n{url}\n{more}\n"
        );
    }
    toml::from_str(&text).unwrap()
}

fn channel(name: &str) -> ChannelId {
    ChannelId::new(name).unwrap()
}

fn build(number: u64) -> Build {
    Build::new(number).unwrap()
}

fn root(number: u64) -> Digest {
    Digest::of(&number.to_be_bytes())
}

/// What the server knows, and how it changes.
struct World {
    fold: Directory,
    views: watch::Sender<Arc<View>>,
}

impl World {
    fn feed(&mut self, input: Input) {
        self.fold.step(input, now());
        let view = self.fold.view().clone();
        self.views.send_replace(Arc::new(view));
    }

    /// A build is published, these are complete at it, and it is wanted in their pools.
    fn complete(&mut self, name: &str, number: u64, mirrors: &[&str]) {
        self.feed(Input::Snapshot(Snapshot {
            channel: channel(name),
            build: build(number),
            base: None,
            root: root(number),
            previous: None,
            created: now(),
            entries: 1,
            bytes: 1,
            lane: Lane::Bulk,
            mount: Mount::new("/ubuntu").unwrap(),
            layout: Layout::Debian,
            precedence: 0,
            notices: Vec::new(),
        }));
        self.feed(Input::Head(Head {
            channel: channel(name),
            build: build(number),
            root: root(number),
            retractions: root(0),
            issued: Timestamp::EPOCH,
            expires: now().plus_ms(3_600_000),
        }));
        for mirror in mirrors {
            let mirror = MirrorId::new(mirror).unwrap();
            let index = self.fold.view().find(&mirror).unwrap();
            let pool: PoolId = self.fold.view().profile(index).pool.clone();
            self.feed(Input::Verdict(Verdict {
                mirror,
                pool: pool.clone(),
                channel: channel(name),
                build: build(number),
                root: root(number),
                view: mirrorlog_core::view::View::All,
                state: VerdictState::Complete,
                issued: now(),
                lease_revision: 1,
                audited_files: 0,
                new_files: 0,
            }));
            self.feed(Input::Wanted {
                channel: channel(name),
                pool,
                build: Some(build(number)),
            });
        }
    }

    fn probed(&mut self, mirror: &str, probed: Probed) {
        let mirror = self
            .fold
            .view()
            .find(&MirrorId::new(mirror).unwrap())
            .unwrap();
        self.feed(Input::Probed {
            mirror,
            probed,
            looked: Vec::new(),
        });
    }
}

/// A server with its world.
struct Net {
    world: World,
    site: Arc<Site>,
    address: SocketAddr,
    gauges: Gauges,
    shutdown: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
    _pages: tempfile::TempDir,
}

impl Net {
    /// All mirrors answer, and are complete at build 37 of noble; but one is not.
    async fn start() -> Self {
        Self::with("").await
    }

    async fn with(dns: &str) -> Self {
        let mirrors = [&MIRRORS[..], &[LATE]].concat();
        let mut net = Self::of(&config(&mirrors, dns)).await;
        let ids: Vec<&str> = MIRRORS.iter().map(|(id, ..)| *id).collect();
        net.world.complete("noble", 37, &ids);
        for id in ids {
            net.world.probed(id, Probed::Answered { latency_ms: 1.0 });
        }
        net
    }

    async fn of(config: &Config) -> Self {
        let profiles = config.mirrors.iter().map(|mirror| mirror.profile());
        let fold = Directory::new(config.probe_rules(), profiles.collect());
        let numbered = config.mirrors.iter().map(|section| {
            let mirror = fold.view().find(&section.id).unwrap();
            (mirror, section.clone())
        });
        let addresses = Addresses::declared(&numbered.collect::<Vec<_>>());
        let pages = tempfile::tempdir().unwrap();
        let store = Store::open(pages.path()).unwrap();
        let source = Source::new("127.0.0.1:1").unwrap();
        let trees = Trees::new(Manifests::new(store, 1 << 20, source));
        let (views, seen) = watch::channel(Arc::new(fold.view().clone()));
        let site = Arc::new(Site::new(
            config,
            Views(seen),
            Geo::default(),
            addresses,
            trees,
        ));

        let section: DnsSection = config.dns.clone().unwrap();
        let bound = bind(&section).await.unwrap();
        let address = bound.address().unwrap();
        let (gauges, shutdown) = (Gauges::default(), CancellationToken::new());
        let (theirs, counted, stop) = (Arc::clone(&site), gauges.clone(), shutdown.clone());
        let served =
            tokio::spawn(async move { serve(bound, &section, theirs, counted, stop).await });
        Self {
            world: World { fold, views },
            site,
            address,
            gauges,
            shutdown,
            served,
            _pages: pages,
        }
    }

    async fn ask(&self, name: &str, of: RecordType) -> Message {
        self.udp(&question(name, of)).await
    }

    async fn udp(&self, question: &Message) -> Message {
        let answer = self.udp_bytes(&question.to_vec().unwrap()).await;
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.id, question.metadata.id);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert!(!answer.metadata.recursion_available);
        answer
    }

    async fn udp_bytes(&self, question: &[u8]) -> Vec<u8> {
        self.first(&[question]).await
    }

    /// The first answer to any of these.
    async fn first(&self, questions: &[&[u8]]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        for question in questions {
            socket.send(question).await.unwrap();
        }
        let mut answer = vec![0; 65_535];
        let received = timeout(PATIENCE, socket.recv(&mut answer)).await;
        answer.truncate(received.unwrap().unwrap());
        answer
    }

    async fn tcp(&self, question: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        exchange(&mut stream, question).await
    }

    fn answered(&self, outcome: &'static str) -> u64 {
        let output = "dns";
        let labels = AnswerLabels { output, outcome };
        self.gauges.answers.get_or_create(&labels).get()
    }

    /// Which mirrors are in any of some answers.
    async fn seen(&self, name: &str, of: RecordType) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            seen.extend(addresses(&self.ask(name, of).await));
        }
        seen
    }
}

async fn exchange(stream: &mut TcpStream, question: &Message) -> Message {
    let question = question.to_vec().unwrap();
    let length = u16::try_from(question.len()).unwrap().to_be_bytes();
    let framed = [&length[..], &question].concat();
    stream.write_all(&framed).await.unwrap();
    let answer = timeout(PATIENCE, async {
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    });
    Message::from_vec(&answer.await.unwrap()).unwrap()
}

fn question(name: &str, of: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, of));
    message
}

fn addresses(answer: &Message) -> Vec<String> {
    let address = |record: &Record| {
        if let RData::A(address) = &record.data {
            return address.0.to_string();
        }
        let RData::AAAA(address) = &record.data else {
            panic!("no address: {record:?}");
        };
        address.0.to_string()
    };
    answer.answers.iter().map(address).collect()
}

fn texts(answer: &Message) -> Vec<String> {
    let [record] = &answer.answers[..] else {
        panic!("{:?}", answer.answers);
    };
    let RData::TXT(txt) = &record.data else {
        panic!("{record:?}");
    };
    let text = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap();
    txt.txt_data.iter().map(|one| text(one)).collect()
}

fn soa(records: &[Record]) -> (&Record, &SOA) {
    let [record] = records else {
        panic!("{records:?}");
    };
    let RData::SOA(soa) = &record.data else {
        panic!("{record:?}");
    };
    (record, soa)
}

/// The name exists, and has nothing of the type.
fn assert_no_data(answer: &Message) {
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_nothing(answer);
}

/// There is no such name.
fn assert_no_name(answer: &Message) {
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_nothing(answer);
}

fn assert_nothing(answer: &Message) {
    assert!(answer.metadata.authoritative);
    assert!(answer.answers.is_empty(), "{answer}");
    let (record, soa) = soa(&answer.authorities);
    assert_eq!((record.ttl, soa.minimum), (60, 60));
    assert_eq!(record.name.to_ascii(), "mirrors.test.");
}

fn assert_refused(answer: &Message, code: ResponseCode) {
    assert_eq!(answer.metadata.response_code, code);
    assert!(!answer.metadata.authoritative);
    assert!(answer.answers.is_empty() && answer.authorities.is_empty());
}
