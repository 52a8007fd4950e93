//! Which start of this mirror a report is of. The consistency service takes reports of the latest one only, by the
//! time that the mirror gives: it must rise from start to start, whatever became of the clock in between.

use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::limits::CLOCK_SKEW_MS;
use mirrorlog_core::time::Timestamp;
use runtime::state::{Control, Write};
use tokio::time::Instant;

use crate::state::Key;

/// One start.
pub(crate) struct Boot {
    /// A number that no other start of any mirror has.
    pub(crate) id: u64,
    /// Later than that of the start before, unless a clock was further off than is tolerated.
    pub(crate) booted: Timestamp,
    /// What the clock said.
    read: Timestamp,
    begun: Instant,
}

impl Boot {
    /// Begins, and remembers it for the next one.
    pub(crate) async fn begin(control: &Arc<dyn Control>) -> Self {
        let read = runtime::boot::now();
        let control = Arc::clone(control);
        let booted = tokio::task::spawn_blocking(move || remember(&*control, read)).await;
        Self {
            id: random(),
            booted: booted.unwrap_or(read),
            read,
            begun: Instant::now(),
        }
    }

    /// True when the clock was set since by more than is tolerated. What was signed so far may be of a time that
    /// nobody accepts any more, or of one before the last that was accepted: a new start begins.
    pub(crate) fn clock_was_set(&self) -> bool {
        was_set(self.read, self.begun.elapsed(), runtime::boot::now())
    }
}

fn was_set(read: Timestamp, passed: Duration, now: Timestamp) -> bool {
    let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
    let off_ms = now.ms_since(read.plus_ms(passed_ms));
    off_ms.saturating_abs() > CLOCK_SKEW_MS
}

/// The time to give for a start at `now`. Without the last one it is only the clock's.
fn remember(control: &dyn Control, now: Timestamp) -> Timestamp {
    let key = Key::Booted.encode();
    let last = match control.get(&key) {
        Ok(bytes) => bytes.and_then(|bytes| read_ms(&bytes)),
        Err(error) => {
            tracing::warn!(%error, "when the mirror was started before is not known");
            None
        }
    };
    let booted = after(last, now);
    let value = booted.as_ms().to_string().into_bytes();
    if let Err(error) = control.commit(&[Write::Put(key, value)]) {
        tracing::warn!(%error, "the start cannot be remembered");
    }
    booted
}

/// A time after the last start's. One that is further ahead than clocks may differ was given by a wrong clock, and
/// nobody has accepted it.
fn after(last: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let possible = last.filter(|last| last.ms_since(now) <= CLOCK_SKEW_MS);
    possible.map_or(now, |last| now.max(last.plus_ms(1)))
}

fn read_ms(bytes: &[u8]) -> Option<Timestamp> {
    let ms = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    Some(Timestamp::from_ms(ms))
}

fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| u64::try_from(runtime::boot::now().as_ms()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use runtime::state::SledState;

    use super::*;

    const MINUTE_MS: i64 = 60_000;

    #[test]
    fn a_start_is_later_than_the_one_before_whatever_the_clock_does_within_its_tolerance() {
        let dir = tempfile::tempdir().unwrap();
        let (control, _) = SledState::open(&dir.path().join("control")).unwrap();
        let right = Timestamp::from_seconds(1_800_000_000);
        let ahead = right.plus_ms(9 * MINUTE_MS);
        assert_eq!(remember(&control, ahead), ahead);
        // The clock is right again, or behind by now.
        assert_eq!(remember(&control, right), ahead.plus_ms(1));
        let behind = right.plus_ms(-MINUTE_MS / 2);
        assert_eq!(remember(&control, behind), ahead.plus_ms(2));
        let later = ahead.plus_ms(MINUTE_MS);
        assert_eq!(remember(&control, later), later);
    }

    #[test]
    fn a_clock_that_was_a_day_ahead_leaves_nothing_behind() {
        let right = Timestamp::from_seconds(1_800_000_000);
        let ahead = right.plus_ms(24 * 60 * MINUTE_MS);
        assert_eq!(after(Some(ahead), right), right);
        assert_eq!(after(None, right), right);
    }

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let read = Timestamp::from_seconds(1_800_000_000);
        let hour = Duration::from_secs(3600);
        let now = read.plus_ms(60 * MINUTE_MS);
        assert!(!was_set(read, hour, now));
        assert!(!was_set(read, hour, now.plus_ms(9 * MINUTE_MS)));
        for minutes in [-24 * 60, -11, 11, 24 * 60] {
            assert!(was_set(read, hour, now.plus_ms(minutes * MINUTE_MS)));
        }
    }
}
