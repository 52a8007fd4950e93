//! The two sides of a submission: what the publisher sends, and what it is told.

use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use wire::v1::submit_reply::Kind as Reply;
use wire::v1::submit_request::Kind as Request;
use wire::v1::{SubmitReply, SubmitRequest};

/// Longest wait for a publisher's next message, and for it to read an answer.
const IDLE: Duration = Duration::from_secs(60);
/// The slowest publisher: this many bytes for each second in which it was waited for, beyond the first minute of them.
const LEAST_BYTES_PER_S: u64 = 4 * 1024;
/// Longest submission: as long as it lasts, the archive lets no content go.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How much a publisher has sent in the time in which it was waited for.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn note(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.bytes += bytes;
    }

    fn is_too_slow(&self) -> bool {
        let beyond = self.waited.saturating_sub(IDLE);
        self.bytes < beyond.as_secs().saturating_mul(LEAST_BYTES_PER_S)
    }
}

/// A call under way, for a thread that blocks.
pub(super) struct Talk {
    requests: Streaming<SubmitRequest>,
    replies: mpsc::Sender<Result<SubmitReply, Status>>,
    runtime: Handle,
    ending: CancellationToken,
    begun: Instant,
    pace: Pace,
}

impl Talk {
    pub(super) fn new(
        requests: Streaming<SubmitRequest>,
        replies: mpsc::Sender<Result<SubmitReply, Status>>,
        ending: CancellationToken,
    ) -> Self {
        Self {
            requests,
            replies,
            runtime: Handle::current(),
            ending,
            begun: Instant::now(),
            pace: Pace::default(),
        }
    }

    /// The publisher's next message. Blocks.
    pub(super) fn next(&mut self) -> Result<Request, Status> {
        let begun = Instant::now();
        let (requests, ending) = (&mut self.requests, &self.ending);
        let message = self.runtime.block_on(async {
            let message = tokio::time::timeout(IDLE, requests.message());
            ending.run_until_cancelled(message).await
        });
        let message = message.ok_or_else(stopping)?;
        let silent = |_| Status::deadline_exceeded("the publisher sent nothing for a minute");
        let ended = || Status::cancelled("the publisher ended before everything was sent");
        let message = message.map_err(silent)??.ok_or_else(ended)?;
        let bytes = message.encoded_len() as u64;
        self.pace.note(begun.elapsed(), bytes);
        if self.pace.is_too_slow() || self.begun.elapsed() > LONGEST {
            return Err(Status::deadline_exceeded(
                "the publisher is too slow: what came is kept for a while, so publish again",
            ));
        }
        let none = || Status::invalid_argument("a message of a submission says nothing");
        message.kind.ok_or_else(none)
    }

    /// Answers. Blocks.
    pub(super) fn say(&self, reply: Reply) -> Result<(), Status> {
        let reply = SubmitReply { kind: Some(reply) };
        let sent = self.runtime.block_on(async {
            let sent = tokio::time::timeout(IDLE, self.replies.send(Ok(reply)));
            self.ending.run_until_cancelled(sent).await
        });
        match sent.ok_or_else(stopping)? {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_gone)) => Err(Status::cancelled("the publisher has gone")),
            Err(_) => Err(Status::deadline_exceeded(
                "the publisher does not read answers",
            )),
        }
    }
}

fn stopping() -> Status {
    Status::unavailable("the archive is stopping: publish again when it is back")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_drips_is_too_slow_and_whoever_pauses_is_not() {
        let mut pace = Pace::default();
        pace.note(Duration::from_secs(59), 1);
        assert!(!pace.is_too_slow());
        pace.note(Duration::from_secs(10), 1);
        assert!(pace.is_too_slow());
        let mut pace = Pace::default();
        for _minute in 0..600 {
            pace.note(Duration::from_secs(60), 60 * LEAST_BYTES_PER_S);
            assert!(!pace.is_too_slow());
        }
    }
}
