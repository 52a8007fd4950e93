//! One rate for all fetches of a process; the priority lane goes first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirrorlog_core::id::Lane;
use runtime::boot::ByteRate;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Fewest bytes that may be under way in a lane, whatever the rate.
pub const WINDOW_MIN_BYTES: u64 = 64 * 1024;
/// Bytes under way in a lane never last longer than this on a link of the set rate.
pub const WINDOW_TIME: Duration = Duration::from_millis(250);

/// A token bucket shared by all fetches, with two classes.
///
/// Credit is taken before it is granted to a server and settled when the bytes are here. While a
/// priority transfer is under way the bulk lane gets nothing, so that the whole link is free for it
/// once what was granted before has arrived: after [`WINDOW_TIME`] at the latest (DESIGN.md, invariant 7).
#[derive(Debug)]
pub struct RateLimiter {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    rate: Option<ByteRate>,
    /// May be negative: a debt to be waited for.
    tokens: f64,
    refilled: Instant,
    /// Priority transfers under way.
    urgent: usize,
    /// Taken and not settled.
    under_way: UnderWay,
}

#[derive(Debug, Default)]
struct UnderWay {
    priority: u64,
    bulk: u64,
}

impl UnderWay {
    fn of(&mut self, lane: Lane) -> &mut u64 {
        match lane {
            Lane::Priority => &mut self.priority,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

/// Why nothing can be taken now.
enum Refused {
    /// Until something is settled, the rate changes or a priority transfer ends.
    UntilChange,
    /// Until the bucket holds something.
    For(Duration),
}

impl RateLimiter {
    /// Makes a limiter; `None` is no limit (preemption works all the same).
    pub fn new(rate: Option<ByteRate>) -> Arc<Self> {
        let state = State {
            rate,
            tokens: 0.0,
            refilled: Instant::now(),
            urgent: 0,
            under_way: UnderWay::default(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    /// Changes the rate for what is taken from now on.
    pub fn set_rate(&self, rate: Option<ByteRate>) {
        {
            let mut state = self.lock();
            state.refill();
            state.rate = rate;
            state.tokens = state.tokens.min(0.0);
        }
        self.changed.notify_waiters();
    }

    /// The rate in force.
    pub fn rate(&self) -> Option<ByteRate> {
        self.lock().rate
    }

    /// Whether a priority transfer holds the bulk lane up.
    pub fn is_preempted(&self) -> bool {
        self.lock().urgent > 0
    }

    pub(crate) fn lease(self: &Arc<Self>, lane: Lane) -> Lease {
        Lease {
            limiter: Arc::clone(self),
            lane,
            under_way: 0,
        }
    }

    /// Holds the bulk lane up until dropped.
    pub(crate) fn urgent(self: &Arc<Self>) -> Urgent {
        self.lock().urgent += 1;
        Urgent(Arc::clone(self))
    }

    fn try_take(&self, lane: Lane, want: u64) -> Result<u64, Refused> {
        let mut state = self.lock();
        if lane == Lane::Bulk && state.urgent > 0 {
            return Err(Refused::UntilChange);
        }
        let Some(rate) = state.rate else {
            *state.under_way.of(lane) += want;
            return Ok(want);
        };
        state.refill();
        let window = window_bytes(rate);
        let amount = want.min(window / 4);
        let under_way = *state.under_way.of(lane);
        if under_way > 0 && under_way + amount > window {
            return Err(Refused::UntilChange);
        }
        if state.tokens <= 0.0 {
            let wait = (1.0 - state.tokens) / rate.0.max(1) as f64;
            return Err(Refused::For(Duration::from_secs_f64(
                wait.clamp(0.001, 60.0),
            )));
        }
        state.tokens -= amount as f64;
        *state.under_way.of(lane) += amount;
        Ok(amount)
    }

    async fn take(&self, lane: Lane, want: u64) -> u64 {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.try_take(lane, want) {
                Ok(amount) => return amount,
                Err(Refused::UntilChange) => changed.await,
                Err(Refused::For(wait)) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    fn settle(&self, lane: Lane, amount: u64) {
        {
            let mut state = self.lock();
            let under_way = state.under_way.of(lane);
            *under_way = under_way.saturating_sub(amount);
        }
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Most bytes under way in a lane at `rate`.
fn window_bytes(rate: ByteRate) -> u64 {
    let bytes = rate.0 as f64 * WINDOW_TIME.as_secs_f64();
    (bytes as u64).max(WINDOW_MIN_BYTES)
}

impl State {
    fn refill(&mut self) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        if let Some(rate) = self.rate {
            let most = (window_bytes(rate) / 4) as f64;
            self.tokens = (self.tokens + passed * rate.0 as f64).min(most);
        }
    }
}

/// What one stream took and has not settled; dropping it settles the rest.
#[derive(Debug)]
pub(crate) struct Lease {
    limiter: Arc<RateLimiter>,
    lane: Lane,
    under_way: u64,
}

impl Lease {
    /// Waits for up to `want` bytes (at least one). Safe to cancel: what is not returned is not taken.
    pub(crate) async fn take(&mut self, want: u64) -> u64 {
        let amount = self.limiter.take(self.lane, want).await;
        self.under_way += amount;
        amount
    }

    /// `bytes` arrived, which may be more than was taken by an overdraft.
    pub(crate) fn settle(&mut self, bytes: u64) {
        let amount = bytes.min(self.under_way);
        self.under_way -= amount;
        self.limiter.settle(self.lane, amount);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.limiter.settle(self.lane, self.under_way);
    }
}

/// A priority transfer under way.
#[derive(Debug)]
pub(crate) struct Urgent(Arc<RateLimiter>);

impl Drop for Urgent {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.lock();
            state.urgent = state.urgent.saturating_sub(1);
            state.urgent
        };
        if left == 0 {
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn takes_no_more_than_the_rate_allows() {
        let limiter = RateLimiter::new(Some(ByteRate(1_000_000)));
        let mut lease = limiter.lease(Lane::Bulk);
        let start = Instant::now();
        let mut taken = 0;
        while taken < 2_000_000 {
            let amount = lease.take(1 << 20).await;
            lease.settle(amount);
            taken += amount;
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!((1.8..2.2).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn unsettled_bytes_stay_within_250_ms_of_link() {
        let limiter = RateLimiter::new(Some(ByteRate(1_000_000)));
        let mut lease = limiter.lease(Lane::Bulk);
        let mut taken = 0;
        while let Ok(amount) =
            tokio::time::timeout(Duration::from_secs(5), lease.take(1 << 20)).await
        {
            taken += amount;
        }
        assert!((187_500..=250_000).contains(&taken), "{taken}");
        drop(lease);
        assert!(limiter.try_take(Lane::Bulk, 1000).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn invariant_bulk_gets_nothing_while_priority_is_under_way() {
        for rate in [None, Some(ByteRate(1_000_000))] {
            let limiter = RateLimiter::new(rate);
            let mut bulk = limiter.lease(Lane::Bulk);
            let mut priority = limiter.lease(Lane::Priority);
            let urgent = limiter.urgent();
            let blocked = tokio::time::timeout(Duration::from_secs(60), bulk.take(1000)).await;
            assert!(blocked.is_err());
            assert_eq!(priority.take(1000).await, 1000);
            drop(urgent);
            assert_eq!(bulk.take(1000).await, 1000);
        }
    }
}
