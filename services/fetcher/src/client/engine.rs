//! Starts what a fetch is made of, and stops it in the right order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use runtime::store::Batch;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::board::{Board, Job};
use super::serve::{Context, serve};
use super::walk::Walk;
use super::writer::{Sink, Work, Writers, WritersGone};
use super::{FetchError, FetchOptions, Fetched, Kind, SOURCES_MAX, Source, Wanted};

/// How often a blob that another fetch is receiving is looked for.
const BUSY_RETRY: Duration = Duration::from_millis(200);

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
    let board = Arc::new(Board::new(sources));
    let sink = Arc::new(Sink::new(
        batch,
        &board,
        &options.progress,
        options.lane,
        walk,
    ));
    let (writers, mut threads) = Writers::start(&sink);
    let mut sessions = JoinSet::new();
    for (index, source) in sources.iter().enumerate() {
        let context = Context {
            board: Arc::clone(&board),
            writers: writers.clone(),
            source: source.clone(),
            index,
            options: options.clone(),
        };
        sessions.spawn(serve(context).in_current_span());
    }
    let cancelled = tokio::select! {
        () = drive(&board, writers, wants) => false,
        () = options.cancel.cancelled() => true,
    };
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

/// Feeds the caller's wants to the sessions until nothing is left to do.
async fn drive<W: Stream<Item = Wanted>>(board: &Board, writers: Writers, wants: W) {
    let over = async {
        let mut changed = board.subscribe();
        while !board.is_over() && changed.changed().await.is_ok() {}
    };
    // Writers that are gone have said why on the board, which `over` sees.
    let feed = async {
        if feed(board, &writers, wants).await.is_ok() {
            board.fed();
        }
        std::future::pending().await
    };
    let busy = async {
        if retry_busy(board, &writers).await.is_err() {
            tracing::debug!("the writers stopped");
        }
        std::future::pending().await
    };
    tokio::select! {
        () = over => {}
        () = feed => {}
        () = busy => {}
    }
}

async fn retry_busy(board: &Board, writers: &Writers) -> Result<(), WritersGone> {
    loop {
        tokio::time::sleep(BUSY_RETRY).await;
        for job in board.take_busy() {
            writers.send(Work::Prepare(job)).await?;
        }
    }
}

async fn feed<W: Stream<Item = Wanted>>(
    board: &Board,
    writers: &Writers,
    wants: W,
) -> Result<(), WritersGone> {
    let mut changed = board.subscribe();
    let mut wants = std::pin::pin!(wants);
    let mut ended = false;
    // Large blobs that wait for others to be done.
    let mut large: VecDeque<Job> = VecDeque::new();
    loop {
        changed.mark_unchanged();
        if board.has_room_for_large()
            && let Some(job) = large.pop_front()
        {
            board.start_large();
            writers.send(Work::Prepare(job)).await?;
            continue;
        }
        if !board.has_room() {
            changed.changed().await.map_err(|_| WritersGone)?;
            continue;
        }
        tokio::select! {
            wanted = wants.next(), if !ended => match wanted {
                None => ended = true,
                Some(wanted) => match board.open(bounded(wanted)) {
                    None => {}
                    Some(job) if job.is_large() => large.push_back(job),
                    Some(job) => {
                        board.route(job);
                    }
                },
            },
            result = changed.changed(), if !large.is_empty() => result.map_err(|_| WritersGone)?,
            else => return Ok(()),
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
