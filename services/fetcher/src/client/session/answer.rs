//! What comes back on a stream.

use bytes::Bytes;
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use tokio::time::Instant;
use wire::v1::{FetchBatch, Piece, piece};

use super::{Lost, Open, Session};
use crate::client::Kind;
use crate::client::board::Job;
use crate::client::writer::{Content, Work};
use crate::protocol::{OVERDRAFT_MAX_BYTES, PIECE_COST_BYTES};

impl Session<'_> {
    pub(super) async fn receive(&mut self, batch: FetchBatch) -> Result<(), Lost> {
        let (mut cost, mut content_bytes) = (0, 0);
        let answers = !batch.pieces.is_empty();
        let mut items = Vec::new();
        let mut fault = None;
        for piece in batch.pieces {
            cost += cost_of(&piece);
            content_bytes += cost_of(&piece) - PIECE_COST_BYTES;
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
        let is_peer = self.context.is_peer;
        self.context.options.progress.received(cost, is_peer);
        let board = &self.context.board;
        board.received(self.context.index, cost, content_bytes);
        self.counted_bytes += content_bytes;
        self.lease.settle(cost);
        self.credit = self.credit.saturating_sub_unsigned(cost);
        if answers {
            self.quiet_since = Instant::now();
        }
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
    pub(super) async fn again(&self, job: Job) -> Result<(), Lost> {
        if job.is_partial() {
            self.context.writers.send(Work::Prepare(job)).await?;
        } else {
            self.context.board.route(job);
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
