//! Keeps one source busy for as long as a fetch lasts.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::board::{Board, Work};
use super::session::Session;
use super::writer::Writers;
use super::{FetchOptions, Source};
use crate::limit::RateLimiter;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A peer has others beside it.
const PEER_STALL: Duration = Duration::from_secs(3);

/// What a session works with.
pub(super) struct Context {
    pub(super) board: Arc<Board>,
    pub(super) writers: Writers,
    pub(super) source: Source,
    pub(super) index: usize,
    pub(super) options: FetchOptions,
    /// The rate that counts for this source.
    pub(super) rate: Arc<RateLimiter>,
    /// A source that sends nothing for this long, though it could, is lost.
    pub(super) stall: Duration,
    pub(super) is_peer: bool,
}

impl Context {
    pub(super) fn new(
        board: &Arc<Board>,
        writers: &Writers,
        (index, source): (usize, Source),
        options: &FetchOptions,
    ) -> Self {
        let peers = options.peers.as_ref().filter(|_| board.is_peer(index));
        Self {
            board: Arc::clone(board),
            writers: writers.clone(),
            source,
            index,
            rate: Arc::clone(peers.map_or(&options.rate, |peers| &peers.rate)),
            stall: peers.map_or(options.stall, |_| options.stall.min(PEER_STALL)),
            options: options.clone(),
            is_peer: peers.is_some(),
        }
    }
}

/// Serves one source's queue for as long as the fetch lasts.
pub(super) async fn serve(context: Context) {
    let mut changed = context.board.subscribe();
    let mut attempt = 0;
    loop {
        changed.mark_unchanged();
        match context.board.work(context.index) {
            Work::Dropped => return,
            Work::Nothing => {
                if changed.changed().await.is_err() {
                    return;
                }
            }
            Work::DownUntil(until) => {
                // Jobs may be taken away in the meantime, never are there better reasons to hurry.
                tokio::time::sleep_until(until).await;
            }
            Work::Ready => {
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
