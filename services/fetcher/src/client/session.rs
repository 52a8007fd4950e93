//! One stream to one source: wants and credit out, answers in.

mod answer;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mirrorlog_core::id::Lane;
use runtime::trace::TraceCalls;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};
use wire::v1::fetcher_client::FetcherClient;
use wire::v1::{FetchBatch, FetchRequest, Want};

use super::Kind;
use super::board::Job;
use super::serve::Context;
use super::writer::WritersGone;
use crate::limit::{Lease, Urgent};
use crate::protocol::{
    KEEPALIVE_SECONDS, LANE_METADATA, MESSAGE_DATA_MAX_BYTES, MESSAGE_MAX_BYTES, MESSAGE_WANTS_MAX,
    PIECE_COST_BYTES,
};

/// Wants under way on one stream; more are asked for when half are answered.
const OPEN_MAX: usize = MESSAGE_WANTS_MAX;
/// Requests on their way to the server.
const REQUESTS_MAX: usize = 16;
/// A stream without wants is kept this long.
const IDLE: Duration = Duration::from_millis(100);
/// A peer that sends less than this in a second, though it could, is left to others.
const PEER_RATE_MIN: u64 = 16 * 1024;
/// Over so long.
const PEER_RATE_OVER: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(KEEPALIVE_SECONDS);

/// Why a stream ended before its wants were answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{} ({:?})", .0.message(), .0.code())]
    Status(#[from] Box<tonic::Status>),
    #[error("no answer within {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("less than {} bytes/s came for {} s", PEER_RATE_MIN, PEER_RATE_OVER.as_secs())]
    Slow,
    #[error("it is not waited for any more")]
    GivenUp,
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

pub(super) struct Session<'a> {
    context: &'a Context,
    changed: watch::Receiver<()>,
    lease: Lease,
    /// Held while a priority transfer is under way: bulk waits, from whatever source.
    urgent: Vec<Urgent>,
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
    /// Since when content is counted that came while the server could send, and how much it is.
    counted_since: Instant,
    counted_bytes: u64,
    /// Whether the source sent anything of use.
    pub(super) progressed: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        let now = Instant::now();
        Self {
            context,
            changed: context.board.subscribe(),
            lease: context.rate.lease(context.options.lane),
            urgent: Vec::new(),
            open: VecDeque::new(),
            next_id: 0,
            open_cost: 0,
            credit: 0,
            quiet_since: now,
            said_at: now,
            counted_since: now,
            counted_bytes: 0,
            progressed: false,
        }
    }

    /// Runs the stream until it has been idle for a while, or is lost.
    pub(super) async fn run(&mut self) -> Result<(), Lost> {
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
        let stall = self.context.stall;
        match tokio::time::timeout(stall, client.fetch(request)).await {
            Ok(response) => Ok(response.map_err(Box::new)?.into_inner()),
            Err(_) => Err(Lost::Stalled(stall)),
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
            self.check_rate()?;
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
                    if self.is_waiting() && self.quiet_since + self.context.stall <= now {
                        return Err(Lost::Stalled(self.context.stall));
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

    /// A peer that drips is no better than one that stalls.
    fn check_rate(&mut self) -> Result<(), Lost> {
        if !self.context.is_peer {
            return Ok(());
        }
        if !self.open.is_empty() && self.context.board.is_given_up(self.context.index) {
            return Err(Lost::GivenUp);
        }
        let now = Instant::now();
        let enough = PEER_RATE_MIN * PEER_RATE_OVER.as_secs();
        if !self.is_waiting() || self.counted_bytes >= enough {
            (self.counted_since, self.counted_bytes) = (now, 0);
        } else if self.counted_since + PEER_RATE_OVER <= now {
            return Err(Lost::Slow);
        }
        Ok(())
    }

    fn hold_bulk_up(&mut self) {
        let urgent = self.context.options.lane == Lane::Priority && !self.open.is_empty();
        if !urgent {
            self.urgent.clear();
        } else if self.urgent.is_empty() {
            let options = &self.context.options;
            let peers = options.peers.as_ref().map(|peers| &peers.rate);
            let limiters = std::iter::once(&options.rate).chain(peers);
            self.urgent = limiters.map(|limiter| limiter.urgent()).collect();
        }
    }

    fn deadline(&self) -> Instant {
        let keepalive = self.said_at + KEEPALIVE;
        if self.open.is_empty() {
            keepalive.min(self.quiet_since + IDLE)
        } else if self.is_waiting() && self.context.is_peer {
            let slow = self.counted_since + PEER_RATE_OVER;
            keepalive
                .min(self.quiet_since + self.context.stall)
                .min(slow)
        } else if self.is_waiting() {
            keepalive.min(self.quiet_since + self.context.stall)
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

    /// Routes anew what is not answered.
    pub(super) async fn give_back(&mut self) -> Result<(), Lost> {
        self.urgent.clear();
        while let Some(open) = self.open.pop_front() {
            self.again(open.job).await?;
        }
        Ok(())
    }
}
