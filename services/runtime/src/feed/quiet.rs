//! Readers that say once when what was retained has been read.

use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::log::{Delivery, Events, KvChange, Message, Messages, Watch};

/// A reader that is silent for this long has said all that was retained.
const QUIET: Duration = Duration::from_millis(250);
/// Longest wait for that at start.
const CATCH_UP_MAX: Duration = Duration::from_secs(20);

/// Something that is read for ever; cancelling a read loses nothing.
pub trait Read {
    /// What is read.
    type Item;
    /// The next one.
    fn read(&mut self) -> impl Future<Output = Self::Item> + Send;
    /// True once the end of a moment was reached.
    fn caught_up(&self) -> bool;
}

impl Read for Messages {
    type Item = Message;
    fn read(&mut self) -> impl Future<Output = Message> + Send {
        self.next()
    }
    fn caught_up(&self) -> bool {
        self.caught_up()
    }
}

impl Read for Watch {
    type Item = KvChange;
    fn read(&mut self) -> impl Future<Output = KvChange> + Send {
        self.next()
    }
    fn caught_up(&self) -> bool {
        self.caught_up()
    }
}

impl Read for Events {
    type Item = Delivery;
    fn read(&mut self) -> impl Future<Output = Delivery> + Send {
        self.next()
    }
    fn caught_up(&self) -> bool {
        self.caught_up()
    }
}

/// A reader that says once when what was retained has been read: it came to the end, or has been quiet
/// for a moment. A busy log is never quiet, an empty one has no end to come to.
pub struct UntilQuiet<R> {
    reader: R,
    quiet: Option<oneshot::Sender<()>>,
    deadline: Instant,
}

impl<R: Read> UntilQuiet<R> {
    /// The reader, and what is told when it has been quiet.
    pub fn new(reader: R) -> (Self, oneshot::Receiver<()>) {
        let (quiet, heard) = oneshot::channel();
        (
            Self {
                reader,
                quiet: Some(quiet),
                deadline: Instant::now() + CATCH_UP_MAX,
            },
            heard,
        )
    }

    /// The next item; cancelling it loses nothing.
    pub async fn next(&mut self) -> R::Item {
        if self.quiet.is_some()
            && !self.reader.caught_up()
            && Instant::now() < self.deadline
            && let Ok(item) = timeout(QUIET, self.reader.read()).await
        {
            return item;
        }
        if let Some(quiet) = self.quiet.take() {
            // Nobody waits any more when the service stops.
            quiet.send(()).ok();
        }
        self.reader.read().await
    }
}
