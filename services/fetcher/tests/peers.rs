//! Mirrors of one pool feed each other, and nothing that a peer does stops a fetch.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use fetcher::client::{
    FetchError, FetchOptions, Fetched, Peer, Peers, Shunned, Source, Wanted, fetch_all,
};
use fetcher::limit::RateLimiter;
use futures::StreamExt as _;
use mirrorlog_core::id::{Digest, Lane, MirrorId};
use mirrorlog_core::mirror::peers::Place;
use runtime::boot::HeldPort;
use support::{Disk, Server, assert_here, disk, fill, noise};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::v1::fetcher_server::Fetcher;
use wire::v1::piece::Kind;
use wire::v1::{FetchBatch, FetchRequest, Piece};

fn root() -> Digest {
    Digest::of(b"the build")
}

fn id(number: usize) -> MirrorId {
    MirrorId::new(&format!("nz{number}")).unwrap()
}

fn peer(number: usize, source: Source, whole: bool) -> Peer {
    Peer {
        id: id(number),
        source,
        roots: BTreeMap::from([(root(), whole)]),
        received_bytes: 0,
    }
}

/// Options of a mirror that knows these peers; `own` when they can fetch from it.
fn with_peers(peers: Vec<Peer>, own: Option<usize>) -> FetchOptions {
    let (_, table) = watch::channel(Arc::new(peers));
    FetchOptions {
        peers: Some(Peers {
            root: root(),
            shares: true,
            own: own.map(|number| Place::of(&id(number))),
            table,
            rate: RateLimiter::new(None),
            shunned: Shunned::default(),
        }),
        ..FetchOptions::default()
    }
}

/// Small and large blobs, more large ones than may have a file open.
fn contents() -> Vec<Vec<u8>> {
    let small = (0..400).map(|seed| noise(seed, 20_000));
    let large = (1000..1040).map(|seed| noise(seed, 1_200_000));
    small.chain(large).collect()
}

fn bytes_of(wants: &[Wanted]) -> u64 {
    wants.iter().map(|wanted| wanted.size_bytes).sum()
}

async fn fetch_from(archive: &Source, wants: &[Wanted], at: &Disk, how: &FetchOptions) -> Fetched {
    let wants = wants.iter().copied();
    let fetched = fetch_all(std::slice::from_ref(archive), wants, &at.store, how).await;
    fetched.unwrap()
}

fn whole(fetched: &Fetched, wants: &[Wanted], at: &Disk) {
    assert!(fetched.is_whole(), "{fetched:?}");
    assert_here(&at.store, wants);
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_a_byte_crosses_a_pools_border_once() {
    let origin = disk();
    let wants = fill(&origin.store, contents());
    let archive = Server::start(&origin.store);
    let mirrors: Vec<(Disk, Server)> = (0..5)
        .map(|_| {
            let disk = disk();
            let server = Server::start(&disk.store);
            (disk, server)
        })
        .collect();
    let fetches = mirrors.iter().enumerate().map(|(number, (at, _))| {
        let others = mirrors.iter().enumerate();
        let others = others.filter(|(other, _)| *other != number);
        let peers = others.map(|(other, (_, server))| peer(other, server.source(), false));
        let how = with_peers(peers.collect(), Some(number));
        let (archive, wants) = (archive.source(), &wants);
        async move { fetch_from(&archive, wants, at, &how).await }
    });
    let fetched = futures::future::join_all(fetches).await;
    for ((at, _), fetched) in mirrors.iter().zip(&fetched) {
        whole(fetched, &wants, at);
    }
    let sent: u64 = fetched
        .iter()
        .map(|one| one.sources[0].received_bytes)
        .sum();
    let copies = sent as f64 / bytes_of(&wants) as f64;
    assert!(
        (1.0..1.2).contains(&copies),
        "the archive sent {copies} copies"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_be_reached_fetches_all_from_peers_that_have_it() {
    let (origin, neighbour, here) = (disk(), disk(), disk());
    let wants = fill(&origin.store, contents());
    fill(&neighbour.store, contents());
    let (archive, serves) = (
        Server::start(&origin.store),
        Server::start(&neighbour.store),
    );
    let how = with_peers(vec![peer(1, serves.source(), true)], None);
    let fetched = fetch_from(&archive.source(), &wants, &here, &how).await;
    whole(&fetched, &wants, &here);
    assert_eq!(fetched.sources[0].received_bytes, 0);
    assert_eq!(fetched.sources[1].files, wants.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_priority_never_waits_for_a_peer() {
    let (origin, empty, here) = (disk(), disk(), disk());
    let wants = fill(&origin.store, contents());
    let (archive, serves) = (Server::start(&origin.store), Server::start(&empty.store));
    let how = FetchOptions {
        lane: Lane::Priority,
        ..with_peers(vec![peer(1, serves.source(), false)], None)
    };
    let fetched = fetch_from(&archive.source(), &wants, &here, &how).await;
    whole(&fetched, &wants, &here);
    assert_eq!(
        (fetched.sources[0].files, fetched.sources[1].absent),
        (wants.len() as u64, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_stand_in_for_an_archive_that_is_down() {
    let (neighbour, here) = (disk(), disk());
    let wants = fill(&neighbour.store, contents());
    let serves = Server::start(&neighbour.store);
    let gone = Source::new("127.0.0.1:9").unwrap();
    for lane in Lane::ALL {
        let how = FetchOptions {
            lane,
            ..with_peers(vec![peer(1, serves.source(), true)], Some(2))
        };
        let at = disk();
        let fetched = fetch_from(&gone, &wants, &at, &how).await;
        whole(&fetched, &wants, &at);
    }
    // One that is not known to have anything, too.
    let how = with_peers(vec![peer(1, serves.source(), false)], Some(2));
    let fetched = fetch_from(&gone, &wants, &here, &how).await;
    whole(&fetched, &wants, &here);
}

/// Never brings anything; what it says depends on the test.
#[derive(Clone)]
enum Bad {
    Stalls,
    Lies,
    Lacks,
    /// Sends empty messages, for ever.
    Hums,
    /// Sends a byte a second.
    Drips,
    /// Sends half of each blob, which is garbage, and breaks the connection.
    Breaks,
}

#[tonic::async_trait]
impl Fetcher for Bad {
    type FetchStream = ReceiverStream<Result<FetchBatch, Status>>;

    async fn fetch(
        &self,
        request: Request<Streaming<FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let (sender, answers) = tokio::sync::mpsc::channel(4);
        let (mut requests, how) = (request.into_inner(), self.clone());
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                for want in request.wants {
                    let mut last = true;
                    let kind = match how {
                        Self::Stalls => continue,
                        Self::Hums | Self::Drips => {
                            let sender = sender.clone();
                            let drips = matches!(how, Self::Drips);
                            tokio::spawn(drip(sender, drips.then_some(want.id)));
                            continue;
                        }
                        Self::Breaks => {
                            last = false;
                            Kind::Data(noise(80_000, 10_000).into())
                        }
                        Self::Lies => Kind::Data(noise(70_000, 20_000).into()),
                        Self::Lacks => Kind::Absent(wire::v1::piece::Absent {}),
                    };
                    let piece = Piece {
                        id: want.id,
                        kind: Some(kind),
                        last,
                    };
                    let pieces = vec![piece];
                    if sender.send(Ok(FetchBatch { pieces })).await.is_err() || !last {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// A message a second: empty ones, or one more byte of a want.
async fn drip(sender: tokio::sync::mpsc::Sender<Result<FetchBatch, Status>>, want: Option<u32>) {
    loop {
        let piece = want.map(|id| Piece {
            id,
            kind: Some(Kind::Data(vec![0].into())),
            last: false,
        });
        let pieces = piece.into_iter().collect();
        if sender.send(Ok(FetchBatch { pieces })).await.is_err() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_a_peer_that_stalls_lies_lacks_drips_or_vanishes_stops_nothing() {
    let origin = disk();
    let wants = fill(&origin.store, contents());
    let archive = Server::start(&origin.store);
    let all = [
        Bad::Stalls,
        Bad::Lies,
        Bad::Lacks,
        Bad::Hums,
        Bad::Drips,
        Bad::Breaks,
    ];
    let all = all.into_iter().map(Some).chain([None]);
    let all = all.flat_map(|bad| [(bad.clone(), true), (bad, false)]);
    let stories = all.map(|(bad, whole_it_says)| beside(&archive, &wants, bad, whole_it_says));
    // Few at once: a good peer must not look slow for want of a processor.
    let told = futures::stream::iter(stories).buffer_unordered(3);
    told.collect::<Vec<()>>().await;
}

/// A fetch with a good peer and a bad one (none: one that is not there).
async fn beside(archive: &Server, wants: &[Wanted], bad: Option<Bad>, whole_it_says: bool) {
    let (here, neighbour) = (disk(), disk());
    fill(&neighbour.store, contents());
    let good = Server::start(&neighbour.store);
    let lacks = matches!(bad, Some(Bad::Lacks));
    let serves = bad.map(Server::start_other);
    let gone = || Source::new("127.0.0.1:9").unwrap();
    let source = serves.as_ref().map_or_else(gone, Server::source);
    let good = peer(2, good.source(), false);
    let how = with_peers(vec![peer(1, source, whole_it_says), good], Some(3));
    let fetched = fetch_from(&archive.source(), wants, &here, &how).await;
    whole(&fetched, wants, &here);
    assert_eq!(fetched.sources[1].files, 0);
    assert!(
        fetched.sources[2].files > 0,
        "the other peer has a share still"
    );
    let shunned = how.peers.unwrap().shunned;
    // Who says that it has all, and lacks each, is not waited for, and so not shunned.
    assert_eq!(shunned.contains(&id(1)), !(lacks && whole_it_says));
    assert!(!shunned.contains(&id(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_neither_archive_nor_peers_have_is_absent() {
    let (origin, empty, here) = (disk(), disk(), disk());
    let wants = fill(&disk().store, [noise(1, 5000), noise(2, 1_500_000)]);
    let (archive, serves) = (Server::start(&origin.store), Server::start(&empty.store));
    for own in [None, Some(1)] {
        let how = with_peers(vec![peer(2, serves.source(), false)], own);
        let fetched = fetch_from(&archive.source(), &wants, &here, &how).await;
        assert_eq!(
            (fetched.absent.len(), fetched.failed.len()),
            (2, 0),
            "{fetched:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_becomes_whole_while_others_wait_gives_all() {
    let (origin, neighbour, here) = (disk(), disk(), disk());
    let wants = fill(&origin.store, contents());
    fill(&neighbour.store, contents());
    let serves = Server::start(&neighbour.store);
    let gone = Source::new("127.0.0.1:9").unwrap();
    let (teller, table) = watch::channel(Arc::new(Vec::new()));
    let mut how = with_peers(Vec::new(), Some(1));
    how.peers.as_mut().unwrap().table = table;
    let fetch = fetch_all(
        std::slice::from_ref(&gone),
        wants.clone(),
        &here.store,
        &how,
    );
    let tell = async {
        teller.send_replace(Arc::new(vec![peer(2, serves.source(), false)]));
        tokio::task::yield_now().await;
        teller.send_replace(Arc::new(vec![peer(2, serves.source(), true)]));
        std::future::pending::<Result<Fetched, FetchError>>().await
    };
    let fetched = tokio::select! { fetched = fetch => fetched, never = tell => never };
    whole(&fetched.unwrap(), &wants, &here);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stood_in_for_an_archive_is_its_own_again_when_it_is_back() {
    for lane in Lane::ALL {
        let (origin, empty, here) = (disk(), disk(), disk());
        let wants = fill(&origin.store, contents());
        let serves = Server::start(&empty.store);
        // A place that nobody listens at yet.
        let port = HeldPort::draw().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port.number()));
        let source = Source::new(&address.to_string()).unwrap();
        let how = FetchOptions {
            lane,
            ..with_peers(vec![peer(1, serves.source(), false)], Some(2))
        };
        let progress = Arc::clone(&how.progress);
        let fetch = fetch_from(&source, &wants, &here, &how);
        let back = async {
            support::until("the peer was asked", || progress.received_bytes() > 0).await;
            let _archive = Server::start_at(&origin.store, address);
            std::future::pending().await
        };
        let fetched = tokio::select! { fetched = fetch => fetched, () = back => unreachable!() };
        whole(&fetched, &wants, &here);
        assert_eq!(fetched.sources[0].files, wants.len() as u64);
    }
}
