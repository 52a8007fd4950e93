//! What the other end must not get away with.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fetcher::client::{FetchError, FetchOptions, fetch_all};
use fetcher::protocol::{MESSAGE_WANTS_MAX, OPEN_WANTS_MAX};
use fetcher::server::Limits;
use mirrorlog_core::id::{Digest, Lane};
use runtime::boot::NetworkLimits;
use support::{Server, assert_here, disk, fill, noise};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use wire::v1::fetcher_client::FetcherClient;
use wire::v1::fetcher_server::Fetcher;
use wire::v1::piece::Kind;
use wire::v1::{FetchBatch, FetchRequest, Piece, Want};

type Answer = dyn Fn(&Want) -> Vec<Piece> + Send + Sync;

/// Answers each want as the test says, whatever the credit.
#[derive(Clone)]
struct Scripted(Arc<Answer>);

#[tonic::async_trait]
impl Fetcher for Scripted {
    type FetchStream = ReceiverStream<Result<FetchBatch, Status>>;

    async fn fetch(
        &self,
        request: Request<Streaming<FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let (sender, answers) = tokio::sync::mpsc::channel(4);
        let mut requests = request.into_inner();
        let answer = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                for piece in request.wants.iter().flat_map(|want| answer(want)) {
                    let pieces = vec![piece];
                    if sender.send(Ok(FetchBatch { pieces })).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

fn piece(want: &Want, data: Vec<u8>, last: bool) -> Piece {
    Piece {
        id: want.id,
        kind: Some(Kind::Data(data.into())),
        last,
    }
}

fn scripted(answer: impl Fn(&Want) -> Vec<Piece> + Send + Sync + 'static) -> Server {
    Server::start_other(Scripted(Arc::new(answer)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_source_is_dropped_and_another_one_asked() {
    let lies: [fn(&Want) -> Vec<Piece>; 6] = [
        |want| vec![piece(want, noise(9, 1000), true)],
        |want| vec![piece(want, noise(9, 900), true)],
        |want| vec![piece(want, noise(9, 200_000), true)],
        |want| vec![piece(want, Vec::new(), false)],
        |want| {
            vec![Piece {
                id: want.id + 7,
                kind: Some(Kind::Data(Bytes::new())),
                last: true,
            }]
        },
        |want| {
            vec![Piece {
                id: want.id,
                kind: Some(Kind::Zstd(Bytes::from_static(b"no"))),
                last: true,
            }]
        },
    ];
    for lie in lies {
        let (from, to) = (disk(), disk());
        let wants = fill(&from.store, (0..5).map(|i| noise(i, 1000)));
        let (liar, honest) = (scripted(lie), Server::start(&from.store));
        let sources = [liar.source(), honest.source()];
        let fetched = fetch_all(&sources, wants.clone(), &to.store, &FetchOptions::default())
            .await
            .unwrap();
        assert!(fetched.is_whole(), "{:?}", fetched.failed);
        assert!(fetched.sources[0].dropped && fetched.sources[0].wrong >= 1);
        assert_here(&to.store, &wants);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_lie_costs_one_transfer() {
    let (from, to) = (disk(), disk());
    let size = 3 * 1024 * 1024;
    let wants = fill(&from.store, [noise(1, size)]);
    let liar = scripted(move |want| {
        let wrong = noise(9, size);
        wrong
            .chunks(100_000)
            .map(|part| piece(want, part.to_vec(), false))
            .chain([piece(want, Vec::new(), true)])
            .collect()
    });
    let honest = Server::start(&from.store);
    let options = FetchOptions::default();
    let fetched = fetch_all(
        &[liar.source(), honest.source()],
        wants.clone(),
        &to.store,
        &options,
    )
    .await
    .unwrap();
    assert!(fetched.is_whole(), "{:?}", fetched.failed);
    assert!(fetched.sources[0].dropped);
    assert!(!fetched.sources[1].dropped);
    assert_here(&to.store, &wants);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_source_is_kept_for_what_it_has_right() {
    let (from, to) = (disk(), disk());
    let wants = fill(&from.store, (0..50).map(|i| noise(i, 1000)));
    let rotten = from.store.path_of(&wants[20].digest);
    std::fs::remove_file(&rotten).unwrap();
    std::fs::write(&rotten, noise(9, 1000)).unwrap();
    let server = Server::start(&from.store);
    let fetched = fetch_all(
        &[server.source()],
        wants.clone(),
        &to.store,
        &FetchOptions::default(),
    )
    .await
    .unwrap();
    assert_eq!(fetched.failed.len(), 1);
    assert_eq!(fetched.failed[0].digest, wants[20].digest);
    assert!(fetched.absent.is_empty());
    assert_eq!(fetched.files, 49);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_cannot_read_is_failed_and_not_absent() {
    let (from, to) = (disk(), disk());
    let wants = fill(&from.store, (0..5).map(|i| noise(i, 1000)));
    let broken = from.store.path_of(&wants[2].digest);
    std::fs::remove_file(&broken).unwrap();
    std::fs::create_dir(&broken).unwrap();
    let server = Server::start(&from.store);
    let options = FetchOptions::default();
    let fetched = fetch_all(&[server.source()], wants.clone(), &to.store, &options)
        .await
        .unwrap();
    assert!(fetched.absent.is_empty());
    assert_eq!(fetched.failed.len(), 1);
    assert_eq!(fetched.failed[0].digest, wants[2].digest);
    assert!(!fetched.sources[0].dropped);
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_priority_never_waits_behind_bulk_at_the_server() {
    let (from, to) = (disk(), disk());
    let wants = fill(&from.store, (0..5).map(|i| noise(i, 1000)));
    let limits = Limits {
        streams_max: 1,
        readers: 1,
        ..Limits::default()
    };
    let server = Server::start_with(&from.store, limits);
    let mut client = FetcherClient::connect(format!("http://{}", server.address))
        .await
        .unwrap();
    let idle = || futures::stream::pending::<FetchRequest>();
    let _held = client.fetch(idle()).await.unwrap();
    let refused = client.fetch(idle()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let options = FetchOptions {
        lane: Lane::Priority,
        ..FetchOptions::default()
    };
    let fetched = fetch_all(&[server.source()], wants.clone(), &to.store, &options)
        .await
        .unwrap();
    assert!(fetched.is_whole());
    assert_here(&to.store, &wants);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_cut_off() {
    let from = disk();
    let limits = Limits {
        idle: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = Server::start_with(&from.store, limits);
    let status = refused(&server, Vec::new()).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_streams_of_one_network_leave_those_of_others() {
    let from = disk();
    let limits = Limits {
        networks: NetworkLimits {
            connections: 4,
            exempt: Vec::new(),
            ..NetworkLimits::default()
        },
        ..Limits::default()
    };
    let server = Server::start_with(&from.store, limits);
    let mut client = FetcherClient::connect(format!("http://{}", server.address))
        .await
        .unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        let (sender, requests) = tokio::sync::mpsc::channel::<FetchRequest>(1);
        let answers = client.fetch(ReceiverStream::new(requests)).await.unwrap();
        held.push((sender, answers));
    }
    let nothing = futures::stream::empty::<FetchRequest>;
    let refused = client.fetch(nothing()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("your network"), "{refused}");
    drop(held);
    let back = async { while client.fetch(nothing()).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(5), back)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_a_stream_without_credit_that_says_no_more_is_ended() {
    let from = disk();
    let wants = fill(&from.store, [noise(1, 1000)]);
    let server = Server::start(&from.store);
    let mut client = FetcherClient::connect(format!("http://{}", server.address))
        .await
        .unwrap();
    let want = Want {
        id: 1,
        digest: wants[0].digest.as_bytes().to_vec().into(),
        ..Want::default()
    };
    let request = FetchRequest {
        wants: vec![want],
        credit_bytes: 0,
    };
    let mut answers = client
        .fetch(futures::stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let ended = tokio::time::timeout(Duration::from_secs(5), answers.message());
    assert!(ended.await.unwrap().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_sources_lie_it_says_so() {
    let (from, to) = (disk(), disk());
    let wants = fill(&from.store, (0..50).map(|i| noise(i, 1000)));
    let liar = scripted(|want| vec![piece(want, noise(9, 1000), true)]);
    let error = fetch_all(&[liar.source()], wants, &to.store, &FetchOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::AllDropped { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_is_left_for_another() {
    let (from, to) = (disk(), disk());
    let wants = fill(&from.store, (0..5).map(|i| noise(i, 1000)));
    let silent = scripted(|_| Vec::new());
    let honest = Server::start(&from.store);
    let options = FetchOptions {
        stall: Duration::from_millis(300),
        ..FetchOptions::default()
    };
    let sources = [silent.source(), honest.source()];
    let fetched = fetch_all(&sources, wants.clone(), &to.store, &options);
    let fetched = tokio::time::timeout(Duration::from_secs(10), fetched)
        .await
        .unwrap()
        .unwrap();
    assert!(fetched.is_whole());
    assert!(fetched.sources[0].lost >= 1);
    assert_here(&to.store, &wants);
}

/// Sends `requests` and returns how the server ended the stream.
async fn refused(server: &Server, requests: Vec<FetchRequest>) -> Status {
    let mut client = FetcherClient::connect(format!("http://{}", server.address))
        .await
        .unwrap();
    let requests =
        futures::StreamExt::chain(futures::stream::iter(requests), futures::stream::pending());
    let mut answers = client.fetch(requests).await.unwrap().into_inner();
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a reason"),
            Err(status) => return status,
        }
    }
}

fn want(id: u32) -> Want {
    let digest = Digest::of(&id.to_le_bytes());
    Want {
        id,
        digest: Bytes::copy_from_slice(digest.as_bytes()),
        offset: 0,
        page: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_refuses_what_is_too_much_or_malformed() {
    let from = disk();
    let server = Server::start(&from.store);
    let short = Want {
        digest: Bytes::from_static(b"short"),
        ..want(0)
    };
    let status = refused(
        &server,
        vec![FetchRequest {
            wants: vec![short],
            credit_bytes: 1,
        }],
    )
    .await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let wants: Vec<_> = (0..=MESSAGE_WANTS_MAX as u32).map(want).collect();
    let status = refused(
        &server,
        vec![FetchRequest {
            wants,
            credit_bytes: 1,
        }],
    )
    .await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    // Without credit nothing is answered, so open wants pile up.
    let request = |_| FetchRequest {
        wants: (0..MESSAGE_WANTS_MAX as u32).map(want).collect(),
        credit_bytes: 0,
    };
    let status = refused(
        &server,
        (0..=OPEN_WANTS_MAX / MESSAGE_WANTS_MAX)
            .map(request)
            .collect(),
    )
    .await;
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_sends_no_more_than_it_was_granted() {
    let from = disk();
    let wants = fill(&from.store, (0..100).map(|i| noise(i, 10_000)));
    let server = Server::start(&from.store);
    let mut client = FetcherClient::connect(format!("http://{}", server.address))
        .await
        .unwrap();
    let ask = |(id, wanted): (usize, &fetcher::client::Wanted)| Want {
        id: id as u32,
        digest: Bytes::copy_from_slice(wanted.digest.as_bytes()),
        offset: 0,
        page: false,
    };
    let request = FetchRequest {
        wants: wants.iter().enumerate().map(ask).collect(),
        credit_bytes: 50_000,
    };
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    sender.send(request).await.unwrap();
    let mut answers = client
        .fetch(ReceiverStream::new(requests))
        .await
        .unwrap()
        .into_inner();
    let mut received = 0;
    // What was granted, and then silence.
    let silence = |received| match received < 40_000 {
        true => Duration::from_secs(20),
        false => Duration::from_millis(500),
    };
    while let Ok(answer) = tokio::time::timeout(silence(received), answers.message()).await {
        for piece in answer.unwrap().unwrap().pieces {
            if let Some(Kind::Data(data)) = piece.kind {
                received += data.len();
            }
        }
    }
    assert!(
        (40_000..50_000 + 64 * 1024).contains(&received),
        "{received}"
    );
    drop(sender);
}
