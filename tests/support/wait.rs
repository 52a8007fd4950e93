//! Waiting for conditions.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
const USUAL_LIMIT: Duration = Duration::from_secs(30);

/// Waits until the condition holds; fails after 30 s, saying what was waited for.
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(USUAL_LIMIT, what, holds);
}

/// As [`until`], with another limit.
pub fn until_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "waited {} s in vain: {what}",
            limit.as_secs()
        );
        std::thread::sleep(POLL);
    }
}
