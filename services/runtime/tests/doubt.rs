//! What the archive's journal makes of events that are signed by keys of before.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Digest, Lane, Mount};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::sign::{KeyNumber, SecretKey, TrustedKeys};
use mirrorlog_core::statement::{DeltaSource, Head, Retraction, Snapshot, Statement};
use mirrorlog_core::time::Timestamp;
use runtime::doubt::{Doubt, Doubts, Room};
use runtime::trust::Keys;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use wire::event::EventBody;
use wire::v1::journal_server::JournalServer;
use wire::{Event, Signed, v1};

/// Longest wait for anything: far above what is normal, so that only a fault meets it.
const PATIENCE: Duration = Duration::from_secs(60);
const BUILDS: u64 = 2500;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(KeyNumber([seed; 8]), &[seed; 32])
}

const OLD: u8 = 1;
const PRESENT: u8 = 2;

fn keys() -> TrustedKeys {
    TrustedKeys::new([key(PRESENT).public()])
}

fn channel() -> ChannelId {
    ChannelId::new("c").unwrap()
}

fn snapshot(build: u64) -> Statement {
    Statement::Snapshot(Snapshot {
        channel: channel(),
        build: Build::new(build).unwrap(),
        base: None,
        root: Digest::from_bytes([7; 32]),
        previous: None,
        created: Timestamp::from_ms(1_000),
        entries: 1,
        bytes: 1,
        lane: Lane::Bulk,
        mount: Mount::new("/c").unwrap(),
        layout: Layout::Plain,
        precedence: 0,
        notices: Vec::new(),
    })
}

fn retraction() -> Statement {
    let build = Build::new(3).unwrap();
    Statement::Retraction(Retraction {
        channel: channel(),
        sequence: 1,
        first: build,
        last: build,
        reason: "bad".into(),
        replacement: None,
        created: Timestamp::from_ms(1_000),
    })
}

fn head(by: u8) -> Signed {
    let head = Head {
        channel: channel(),
        build: Build::new(1).unwrap(),
        root: Digest::from_bytes([7; 32]),
        retractions: Digest::from_bytes([8; 32]),
        issued: Timestamp::from_ms(1_000),
        expires: Timestamp::from_ms(2_000),
    };
    Signed::sign(&key(by), &Statement::Head(head))
}

fn event(signed: Signed, head: Option<Signed>) -> Vec<u8> {
    let body = EventBody::Snapshot(signed);
    let delta = DeltaSource::Pages;
    Event { body, head, delta }.encode()
}

fn doubted(payload: &[u8], channel: &ChannelId) -> bool {
    Doubt::of("event-1".to_owned(), channel, payload, &keys()).is_some()
}

#[test]
fn only_what_an_unknown_key_signed_is_doubted() {
    let by = |seed| Signed::sign(&key(seed), &snapshot(1));
    assert!(doubted(&event(by(OLD), None), &channel()));
    assert!(doubted(&event(by(OLD), Some(head(OLD))), &channel()));
    // Sent again after the change.
    assert!(doubted(&event(by(OLD), Some(head(PRESENT))), &channel()));
    // Of these none can ever have been said.
    let mut broken = by(PRESENT);
    broken.signature.bytes[0] ^= 1;
    assert!(!doubted(&event(broken, None), &channel()));
    assert!(!doubted(&event(by(PRESENT), Some(head(OLD))), &channel()));
    let mut broken = head(PRESENT);
    broken.signature.bytes[0] ^= 1;
    assert!(!doubted(&event(by(OLD), Some(broken)), &channel()));
    assert!(!doubted(&event(by(OLD), Some(by(OLD))), &channel()));
    assert!(!doubted(&event(head(OLD), None), &channel()));
    assert!(!doubted(
        &event(by(OLD), None),
        &ChannelId::new("d").unwrap()
    ));
    assert!(!doubted(b"no event", &channel()));
}

/// A journal of many builds, as they are signed now.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<Signed>>>);

type Replies = tokio_stream::Iter<std::vec::IntoIter<Result<v1::Signed, tonic::Status>>>;

fn replies(all: &[Signed]) -> Result<tonic::Response<Replies>, tonic::Status> {
    let all: Vec<_> = all.iter().map(|signed| Ok(signed.to_proto())).collect();
    Ok(tonic::Response::new(tokio_stream::iter(all)))
}

#[tonic::async_trait]
impl v1::journal_server::Journal for Journal {
    type SnapshotsStream = Replies;
    type RetractionsStream = Replies;

    async fn channels(
        &self,
        _: tonic::Request<v1::ChannelsRequest>,
    ) -> Result<tonic::Response<v1::ChannelsReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("nobody asks"))
    }

    async fn head(
        &self,
        _: tonic::Request<v1::HeadRequest>,
    ) -> Result<tonic::Response<v1::Signed>, tonic::Status> {
        Err(tonic::Status::unimplemented("nobody asks"))
    }

    async fn snapshots(
        &self,
        request: tonic::Request<v1::SnapshotsRequest>,
    ) -> Result<tonic::Response<Replies>, tonic::Status> {
        let request = request.into_inner();
        if request.channel != "c" {
            return Err(tonic::Status::invalid_argument("no such channel"));
        }
        let all = self.0.lock().unwrap();
        let from = all.len().min(usize::try_from(request.from).unwrap() - 1);
        let to = all.len().min(from + request.limit as usize);
        replies(&all[from..to])
    }

    async fn retractions(
        &self,
        _: tonic::Request<v1::RetractionsRequest>,
    ) -> Result<tonic::Response<Replies>, tonic::Status> {
        replies(&[Signed::sign(&key(PRESENT), &retraction())])
    }
}

#[derive(Clone, Default)]
struct Taken(Arc<Mutex<BTreeSet<String>>>);

impl Room for Taken {
    async fn take_back(&self, name: &str) {
        self.0.lock().unwrap().insert(name.to_owned());
    }
}

async fn serve(journal: &Journal) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(JournalServer::new(journal.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Endpoint::from_shared(format!("http://{address}")).unwrap()
}

#[tokio::test]
async fn what_the_journal_has_is_taken_back_and_nothing_else() {
    let journal = Journal::default();
    for build in 1..=BUILDS {
        // One of which the archive has not signed again yet.
        let by = if build == 2 { OLD } else { PRESENT };
        let signed = Signed::sign(&key(by), &snapshot(build));
        journal.0.lock().unwrap().push(signed);
    }
    let (doubts, doubtful) = Doubts::new();
    let ask = |name: String, payload: &[u8], channel: &ChannelId| {
        doubts.ask(Doubt::of(name, channel, payload, &keys()).unwrap());
    };
    // A channel about which the archive gives no answer, and a build that it never made.
    let other = ChannelId::new("a").unwrap();
    let Statement::Snapshot(theirs) = snapshot(1) else {
        unreachable!()
    };
    let theirs = Statement::Snapshot(Snapshot {
        channel: other.clone(),
        ..theirs
    });
    let by_old = |statement: &Statement| event(Signed::sign(&key(OLD), statement), None);
    ask("theirs".to_owned(), &by_old(&theirs), &other);
    ask(
        "more".to_owned(),
        &by_old(&snapshot(BUILDS + 1)),
        &channel(),
    );
    for build in 1..=BUILDS {
        ask(build.to_string(), &by_old(&snapshot(build)), &channel());
    }
    let body = EventBody::Retraction(Signed::sign(&key(OLD), &retraction()));
    let (head, delta) = (None, DeltaSource::Pages);
    let retracted = Event { body, head, delta }.encode();
    ask("retraction".to_owned(), &retracted, &channel());

    let room = Taken::default();
    let settling = doubtful.settle(serve(&journal).await, Keys::from(keys()), room.clone());
    let settling = tokio::spawn(settling);
    let taken = async |count: usize| {
        let all = async {
            while room.0.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let taken = tokio::time::timeout(PATIENCE, all).await;
        taken.unwrap_or_else(|_| panic!("{} of {count}", room.0.lock().unwrap().len()));
    };
    // All but the one that the archive is about to sign.
    taken(usize::try_from(BUILDS).unwrap()).await;
    assert!(!room.0.lock().unwrap().contains("2"));
    journal.0.lock().unwrap()[1] = Signed::sign(&key(PRESENT), &snapshot(2));
    taken(usize::try_from(BUILDS).unwrap() + 1).await;
    for name in ["theirs", "more"] {
        assert!(!room.0.lock().unwrap().contains(name), "{name}");
    }
    settling.abort();
}
