//! Starts what a fetch is made of, and stops it in the right order.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use runtime::store::Batch;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::board::Board;
use super::serve::{Context, serve};
use super::walk::Walk;
use super::writer::{Sink, Work, Writers, WritersGone};
use super::{FetchError, FetchOptions, Fetched, Kind, Peer, Peers, SOURCES_MAX, Source, Wanted};

/// How often a blob that another fetch is receiving is looked for.
const BUSY_RETRY: Duration = Duration::from_millis(200);
/// How often peers are looked at: whose time it is to be asked again, who is overdue.
const PEERS_LOOK: Duration = Duration::from_millis(100);

#[tracing::instrument(name = "fetch", level = "debug", skip_all, fields(lane = %options.lane, sources = sources.len()))]
pub(super) async fn run<W>(
    sources: &[Source],
    wants: W,
    batch: Batch,
    options: &FetchOptions,
    walk: Option<Walk>,
) -> Result<Fetched, FetchError>
where
    W: Stream<Item = Wanted> + Send,
{
    if sources.is_empty() || sources.len() > SOURCES_MAX {
        return Err(FetchError::Sources(sources.len()));
    }
    let board = Arc::new(Board::new(sources, options));
    let sink = Arc::new(Sink::new(
        batch,
        &board,
        &options.progress,
        options.lane,
        walk,
    ));
    let (writers, mut threads) = Writers::start(&sink);
    let mut sessions = JoinSet::new();
    let mut start = |index: usize, source: Source| {
        let context = Context::new(&board, &writers, (index, source), options);
        sessions.spawn(serve(context).in_current_span());
    };
    for (index, source) in sources.iter().enumerate() {
        start(index, source.clone());
    }
    let mut meet = |table: &[Peer]| {
        for (index, source) in board.take_peers(table) {
            start(index, source);
        }
    };
    if let Some(peers) = &options.peers {
        meet(&peers.table.borrow().clone());
    }
    let cancelled = tokio::select! {
        () = drive(&board, &writers, wants) => false,
        () = options.cancel.cancelled() => true,
        () = follow_peers(&board, options.peers.clone(), meet) => false,
    };
    drop(writers);
    // Sessions hold the writers' queues: once they are gone the writers end.
    sessions.shutdown().await;
    let mut broken = None;
    while let Some(ended) = threads.join_next().await {
        broken = ended.err().or(broken);
    }
    let fatal = board.take_fatal();
    let fetched = board.take_result();
    let whole = fatal.is_none() && broken.is_none() && !cancelled && fetched.is_whole();
    // Whatever happened: a commit that is under way is waited for where one may wait.
    let finished = tokio::task::spawn_blocking(move || sink.finish(whole)).await?;
    if let Some(error) = broken {
        return Err(error.into());
    }
    if let Some(error) = fatal {
        return Err(error);
    }
    finished?;
    for source in &fetched.sources {
        tracing::debug!(
            source = source.address,
            files = source.files,
            bytes = source.received_bytes,
            absent = source.absent,
            lost = source.lost,
            "a source's part"
        );
    }
    tracing::debug!(
        files = fetched.files,
        bytes = fetched.bytes,
        absent = fetched.absent.len(),
        failed = fetched.failed.len(),
        cancelled,
        "fetched"
    );
    if cancelled {
        Err(FetchError::Cancelled)
    } else {
        Ok(fetched)
    }
}

/// Takes over who comes and goes among the peers; never ends.
async fn follow_peers(board: &Board, peers: Option<Peers>, mut meet: impl FnMut(&[Peer])) {
    let Some(mut peers) = peers else {
        return std::future::pending().await;
    };
    let mut look = tokio::time::interval(PEERS_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = true;
    loop {
        tokio::select! {
            changed = peers.table.changed(), if told => match changed {
                Ok(()) => {
                    let table = peers.table.borrow_and_update().clone();
                    meet(&table);
                }
                Err(_) => told = false,
            },
            _ = look.tick() => board.look_at_peers(),
        }
    }
}

/// Feeds the caller's wants to the sessions until nothing is left to do.
async fn drive<W: Stream<Item = Wanted>>(board: &Board, writers: &Writers, wants: W) {
    let over = async {
        let mut changed = board.subscribe();
        while !board.is_over() && changed.changed().await.is_ok() {}
    };
    // Writers that are gone have said why on the board, which `over` sees.
    let feed = async {
        if feed(board, wants).await.is_ok() {
            board.fed();
        }
        std::future::pending().await
    };
    let large = async {
        if start_large(board, writers).await.is_err() {
            tracing::debug!("the writers stopped");
        }
        std::future::pending().await
    };
    let busy = async {
        if retry_busy(board, writers).await.is_err() {
            tracing::debug!("the writers stopped");
        }
        std::future::pending().await
    };
    tokio::select! {
        () = over => {}
        () = feed => {}
        () = large => {}
        () = busy => {}
    }
}

async fn retry_busy(board: &Board, writers: &Writers) -> Result<(), WritersGone> {
    loop {
        tokio::time::sleep(BUSY_RETRY).await;
        let busy = board.take_busy();
        if !busy.is_empty() {
            // Two fetches that each have what the other waits for must not wait for ever.
            writers.send(Work::Commit).await?;
        }
        for job in busy {
            writers.send(Work::Prepare(job)).await?;
        }
    }
}

/// Begins large blobs when others are done.
async fn start_large(board: &Board, writers: &Writers) -> Result<(), WritersGone> {
    let mut changed = board.subscribe();
    loop {
        changed.mark_unchanged();
        for job in board.take_unplaced() {
            writers.send(Work::Prepare(job)).await?;
        }
        match board.start_large() {
            Some(job) => writers.send(Work::Prepare(job)).await?,
            None => changed.changed().await.map_err(|_| WritersGone)?,
        }
    }
}

async fn feed<W: Stream<Item = Wanted>>(board: &Board, wants: W) -> Result<(), WritersGone> {
    let mut changed = board.subscribe();
    let mut wants = std::pin::pin!(wants);
    loop {
        changed.mark_unchanged();
        if !board.has_room() {
            changed.changed().await.map_err(|_| WritersGone)?;
            continue;
        }
        let Some(wanted) = wants.next().await else {
            return Ok(());
        };
        if let Some(job) = board.open(bounded(wanted)) {
            board.route(job);
        }
    }
}

/// A page is never larger than a page may be.
fn bounded(wanted: Wanted) -> Wanted {
    match wanted.kind {
        Kind::Page => Wanted {
            size_bytes: PAGE_MAX_BYTES as u64,
            ..wanted
        },
        Kind::Blob => wanted,
    }
}
