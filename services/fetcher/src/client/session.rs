//! One stream to one source.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mirrorlog_core::id::Lane;
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use runtime::trace::TraceCalls;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};
use wire::v1::fetcher_client::FetcherClient;
use wire::v1::{FetchBatch, FetchRequest, Piece, Want, piece};

use super::board::{self, Board, Job};
use super::writer::{Content, Work, Writers, WritersGone};
use super::{FetchOptions, Kind, Source};
use crate::limit::{Lease, Urgent};
use crate::protocol::{
    KEEPALIVE_SECONDS, LANE_METADATA, MESSAGE_DATA_MAX_BYTES, MESSAGE_MAX_BYTES, MESSAGE_WANTS_MAX,
    OVERDRAFT_MAX_BYTES, PIECE_COST_BYTES,
};

/// Wants under way on one stream; more are asked for when half are answered.
const OPEN_MAX: usize = MESSAGE_WANTS_MAX;
/// Requests on their way to the server.
const REQUESTS_MAX: usize = 16;
/// A stream without wants is kept this long.
const IDLE: Duration = Duration::from_millis(100);
const KEEPALIVE: Duration = Duration::from_secs(KEEPALIVE_SECONDS);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a session works with.
pub(super) struct Context {
    pub(super) board: Arc<Board>,
    pub(super) writers: Writers,
    pub(super) source: Source,
    pub(super) index: usize,
    pub(super) options: FetchOptions,
}

/// Why a stream ended before its wants were answered.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{} ({:?})", .0.message(), .0.code())]
    Status(#[from] Box<tonic::Status>),
    #[error("no answer within {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("the server ended the stream")]
    Ended,
    #[error("the source broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the fetch is over")]
    Over,
}

impl From<WritersGone> for Lost {
    fn from(_: WritersGone) -> Self {
        Self::Over
    }
}

/// Serves one source's queue for as long as the fetch lasts.
pub(super) async fn serve(context: Context) {
    let mut changed = context.board.subscribe();
    let mut attempt = 0;
    loop {
        changed.mark_unchanged();
        match context.board.work(context.index) {
            board::Work::Dropped => return,
            board::Work::Nothing => {
                if changed.changed().await.is_err() {
                    return;
                }
            }
            board::Work::DownUntil(until) => {
                // Jobs may be taken away in the meantime, never are there better reasons to hurry.
                tokio::time::sleep_until(until).await;
            }
            board::Work::Ready => {
                let mut session = Session::new(&context);
                let ended = session.run().await;
                if session.give_back().await.is_err() {
                    return;
                }
                attempt = if session.progressed { 0 } else { attempt };
                if let Err(lost) = ended {
                    let wait = backoff(attempt);
                    attempt += 1;
                    tracing::warn!(source = context.source.address(), lane = %context.options.lane, reason = %lost,
                        wait_ms = wait.as_millis() as u64, "lost a source");
                    context.source.reset(context.options.lane);
                    context.board.down(context.index, Instant::now() + wait);
                }
            }
        }
    }
}

/// Doubles from 100 ms to 5 s; half of it is chance, so that many clients do not come back at once.
fn backoff(attempt: u32) -> Duration {
    let most = BACKOFF_MIN
        .saturating_mul(1 << attempt.min(16))
        .min(BACKOFF_MAX);
    let chance = (RandomState::new().hash_one(attempt) % 1000) as f64 / 1000.0;
    most.mul_f64(0.5 + 0.5 * chance)
}

/// A want that is not answered in full.
struct Open {
    id: u32,
    job: Job,
    /// Bytes that came on this stream.
    received_bytes: u64,
    /// A small blob that comes in several pieces. Copied, so that a piece keeps no message in memory.
    part: BytesMut,
}

impl Open {
    /// What the rest of the answer will cost.
    fn cost(&self) -> u64 {
        let left = self
            .job
            .size_bytes
            .saturating_sub(self.job.offset + self.received_bytes);
        left + PIECE_COST_BYTES * (1 + left / MESSAGE_DATA_MAX_BYTES as u64)
    }
}

struct Session<'a> {
    context: &'a Context,
    changed: watch::Receiver<()>,
    lease: Lease,
    /// Held while a priority transfer is under way.
    urgent: Option<Urgent>,
    /// In the order in which they were asked for, which is that of the answers.
    open: VecDeque<Open>,
    next_id: u32,
    /// Cost of what is open.
    open_cost: u64,
    /// Granted and not used; negative after an overdraft.
    credit: i64,
    /// Since when the server could have sent something and did not; or nothing was to be sent.
    quiet_since: Instant,
    said_at: Instant,
    progressed: bool,
}

impl<'a> Session<'a> {
    fn new(context: &'a Context) -> Self {
        let now = Instant::now();
        Self {
            context,
            changed: context.board.subscribe(),
            lease: context.options.rate.lease(context.options.lane),
            urgent: None,
            open: VecDeque::new(),
            next_id: 0,
            open_cost: 0,
            credit: 0,
            quiet_since: now,
            said_at: now,
            progressed: false,
        }
    }

    /// Runs the stream until it has been idle for a while, or is lost.
    async fn run(&mut self) -> Result<(), Lost> {
        let mut first = self.ask();
        let need = self.need();
        if need == 0 {
            return Ok(());
        }
        // The first message must grant some credit.
        first.credit_bytes = self.lease.take(need).await;
        self.granted(first.credit_bytes);
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        requests.send(first).await.map_err(|_| Lost::Ended)?;
        let mut answers = self.connect(outgoing).await?;
        self.context.board.up(self.context.index);
        self.quiet_since = Instant::now();
        self.transfer(&requests, &mut answers).await
    }

    async fn connect(
        &self,
        outgoing: mpsc::Receiver<FetchRequest>,
    ) -> Result<Streaming<FetchBatch>, Lost> {
        let options = &self.context.options;
        let mut request = Request::new(ReceiverStream::new(outgoing));
        let lane = tonic::metadata::MetadataValue::from_static(options.lane.as_str());
        request.metadata_mut().insert(LANE_METADATA, lane);
        let client =
            FetcherClient::with_interceptor(self.context.source.channel(options.lane), TraceCalls);
        let mut client = client.max_decoding_message_size(MESSAGE_MAX_BYTES);
        match tokio::time::timeout(options.stall, client.fetch(request)).await {
            Ok(response) => Ok(response.map_err(Box::new)?.into_inner()),
            Err(_) => Err(Lost::Stalled(options.stall)),
        }
    }

    async fn transfer(
        &mut self,
        requests: &mpsc::Sender<FetchRequest>,
        answers: &mut Streaming<FetchBatch>,
    ) -> Result<(), Lost> {
        loop {
            self.changed.mark_unchanged();
            if self.context.board.is_dropped(self.context.index) {
                return Ok(());
            }
            if self.open.len() <= OPEN_MAX / 2 {
                let request = self.ask();
                if !request.wants.is_empty() {
                    self.say(requests, request).await?;
                }
            }
            self.hold_bulk_up();
            let need = self.need();
            let deadline = self.deadline();
            tokio::select! {
                answer = answers.message() => {
                    let batch = answer.map_err(Box::new)?.ok_or(Lost::Ended)?;
                    self.receive(batch).await?;
                }
                amount = self.lease.take(need), if need > 0 => {
                    self.granted(amount);
                    self.say(requests, FetchRequest { wants: Vec::new(), credit_bytes: amount }).await?;
                }
                changed = self.changed.changed(), if self.open.len() <= OPEN_MAX / 2 => {
                    changed.map_err(|_| Lost::Over)?;
                }
                () = tokio::time::sleep_until(deadline) => {
                    let now = Instant::now();
                    if self.open.is_empty() && self.quiet_since + IDLE <= now {
                        return Ok(());
                    }
                    if self.is_waiting() && self.quiet_since + self.context.options.stall <= now {
                        return Err(Lost::Stalled(self.context.options.stall));
                    }
                    if self.said_at + KEEPALIVE <= now {
                        self.say(requests, FetchRequest::default()).await?;
                    }
                }
            }
        }
    }

    /// Takes jobs and makes wants of them.
    fn ask(&mut self) -> FetchRequest {
        let jobs = self
            .context
            .board
            .take(self.context.index, OPEN_MAX - self.open.len());
        if self.open.is_empty() {
            self.quiet_since = Instant::now();
        }
        let mut wants = Vec::with_capacity(jobs.len());
        for job in jobs {
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let digest = Bytes::copy_from_slice(job.digest.as_bytes());
            wants.push(Want {
                id,
                digest,
                offset: job.offset,
                page: job.kind == Kind::Page,
            });
            let open = Open {
                id,
                job,
                received_bytes: 0,
                part: BytesMut::new(),
            };
            self.open_cost += open.cost();
            self.open.push_back(open);
        }
        FetchRequest {
            wants,
            credit_bytes: 0,
        }
    }

    /// Credit worth asking for now; 0 while there is enough of it.
    fn need(&self) -> u64 {
        let target = self.open_cost.min(self.context.options.window_bytes);
        let credit = u64::try_from(self.credit).unwrap_or(0);
        let need = target.saturating_sub(credit);
        if need >= target / 4 { need } else { 0 }
    }

    fn granted(&mut self, amount: u64) {
        if self.credit <= 0 {
            self.quiet_since = Instant::now();
        }
        self.credit = self.credit.saturating_add_unsigned(amount);
    }

    /// Whether the server has everything that it needs to send something.
    fn is_waiting(&self) -> bool {
        !self.open.is_empty() && self.credit > 0
    }

    fn hold_bulk_up(&mut self) {
        let urgent = self.context.options.lane == Lane::Priority && !self.open.is_empty();
        if !urgent {
            self.urgent = None;
        } else if self.urgent.is_none() {
            self.urgent = Some(self.context.options.rate.urgent());
        }
    }

    fn deadline(&self) -> Instant {
        let keepalive = self.said_at + KEEPALIVE;
        if self.open.is_empty() {
            keepalive.min(self.quiet_since + IDLE)
        } else if self.is_waiting() {
            keepalive.min(self.quiet_since + self.context.options.stall)
        } else {
            keepalive
        }
    }

    async fn say(
        &mut self,
        requests: &mpsc::Sender<FetchRequest>,
        request: FetchRequest,
    ) -> Result<(), Lost> {
        self.said_at = Instant::now();
        requests.send(request).await.map_err(|_| Lost::Ended)
    }

    async fn receive(&mut self, batch: FetchBatch) -> Result<(), Lost> {
        let mut cost = 0;
        let mut items = Vec::new();
        let mut fault = None;
        for piece in batch.pieces {
            cost += cost_of(&piece);
            if let Err(lost) = self.piece(piece, &mut items).await {
                fault = Some(lost);
                break;
            }
        }
        self.progressed |= !items.is_empty();
        if !items.is_empty() {
            self.context
                .writers
                .send(Work::Whole {
                    source: self.context.index,
                    items,
                })
                .await?;
        }
        self.context.options.progress.received(cost);
        self.context.board.received(self.context.index, cost);
        self.lease.settle(cost);
        self.credit = self.credit.saturating_sub_unsigned(cost);
        self.quiet_since = Instant::now();
        if self.credit < -((OVERDRAFT_MAX_BYTES + PIECE_COST_BYTES) as i64) {
            fault.get_or_insert(Lost::Protocol("it sent more than it was granted"));
        }
        fault.map_or(Ok(()), Err)
    }

    async fn piece(&mut self, piece: Piece, items: &mut Vec<(Job, Content)>) -> Result<(), Lost> {
        let Some(mut open) = self.open.pop_front() else {
            return Err(Lost::Protocol("an answer without a want"));
        };
        self.open_cost -= open.cost();
        if open.id != piece.id {
            return self.wrong(open.job, "an answer out of order").await;
        }
        match piece.kind {
            Some(piece::Kind::Data(data)) => self.data(open, data, piece.last, items).await,
            Some(piece::Kind::Zstd(packed)) => {
                let fits = open.job.kind == Kind::Page && piece.last && open.received_bytes == 0;
                if !fits || packed.len() > PAGE_MAX_BYTES {
                    return self
                        .wrong(open.job, "compressed bytes that are no page")
                        .await;
                }
                items.push((open.job, Content::Zstd(packed)));
                Ok(())
            }
            Some(piece::Kind::Absent(_)) => {
                self.progressed = true;
                self.context.board.absent(&mut open.job, self.context.index);
                self.again(open.job).await
            }
            Some(piece::Kind::Failed(failed)) => {
                tracing::warn!(source = self.context.source.address(), digest = %open.job.digest,
                    reason = failed.reason, "source could not read a blob");
                open.job.fail(
                    self.context.index,
                    format!("{}: {}", self.context.source.address(), failed.reason),
                );
                self.again(open.job).await
            }
            None => self.wrong(open.job, "an empty piece").await,
        }
    }

    async fn data(
        &mut self,
        mut open: Open,
        data: Bytes,
        last: bool,
        items: &mut Vec<(Job, Content)>,
    ) -> Result<(), Lost> {
        open.received_bytes += data.len() as u64;
        let here = open.job.offset + open.received_bytes;
        let exact = open.job.kind == Kind::Blob;
        if here > open.job.size_bytes || (last && exact && here < open.job.size_bytes) {
            return self
                .wrong(open.job, "more or fewer bytes than the blob has")
                .await;
        }
        let empty = data.is_empty();
        if empty && !last {
            return self.wrong(open.job, "a piece without bytes").await;
        }
        let partial = open.job.is_partial();
        if partial && !empty {
            self.progressed = true;
            open.job.from.insert(self.context.index);
            let (digest, size_bytes) = (open.job.digest, open.job.size_bytes);
            self.context
                .writers
                .send(Work::Chunk {
                    digest,
                    size_bytes,
                    data,
                })
                .await?;
        } else if !partial && last && open.part.is_empty() {
            items.push((open.job, Content::Plain(data)));
            return Ok(());
        } else if !partial {
            open.part.extend_from_slice(&data);
        }
        if !last {
            self.open_cost += open.cost();
            self.open.push_front(open);
        } else if partial {
            self.context
                .writers
                .send(Work::Finish {
                    source: self.context.index,
                    job: open.job,
                })
                .await?;
        } else {
            items.push((open.job, Content::Plain(open.part.freeze())));
        }
        Ok(())
    }

    /// Blames the source. What follows on this stream cannot be told apart any more.
    async fn wrong(&mut self, mut job: Job, reason: &'static str) -> Result<(), Lost> {
        self.context
            .board
            .wrong(&mut job, self.context.index, reason);
        self.again(job).await?;
        Err(Lost::Protocol(reason))
    }

    /// Routes a job anew.
    async fn again(&self, job: Job) -> Result<(), Lost> {
        if job.is_partial() {
            self.context.writers.send(Work::Prepare(job)).await?;
        } else {
            self.context.board.route(job);
        }
        Ok(())
    }

    /// Routes anew what is not answered.
    async fn give_back(&mut self) -> Result<(), Lost> {
        self.urgent = None;
        while let Some(open) = self.open.pop_front() {
            self.again(open.job).await?;
        }
        Ok(())
    }
}

fn cost_of(piece: &Piece) -> u64 {
    let data = match &piece.kind {
        Some(piece::Kind::Data(data) | piece::Kind::Zstd(data)) => data.len() as u64,
        Some(piece::Kind::Absent(_) | piece::Kind::Failed(_)) | None => 0,
    };
    data + PIECE_COST_BYTES
}
