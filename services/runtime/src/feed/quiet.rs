//! Readers that say once when what was retained has been read.

use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::log::{Delivery, Events, KvChange, Message, Messages, Watch};

/// A reader that is silent for this long has said all that was retained.
const QUIET: Duration = Duration::from_millis(250);
/// Longest wait for that at start, once there is something to read from.
const CATCH_UP_MAX: Duration = Duration::from_secs(20);

/// Something that is read for ever; cancelling a read loses nothing.
pub trait Read {
    /// What is read.
    type Item;
    /// The next one.
    fn read(&mut self) -> impl Future<Output = Self::Item> + Send;
    /// True once there was something to read from: before, silence says nothing.
    fn opened(&self) -> bool;
    /// True once the end of a moment was reached.
    fn caught_up(&self) -> bool;
}

impl Read for Messages {
    type Item = Message;
    fn read(&mut self) -> impl Future<Output = Message> + Send {
        self.next()
    }
    fn opened(&self) -> bool {
        self.opened()
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
    fn opened(&self) -> bool {
        self.opened()
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
    fn opened(&self) -> bool {
        self.opened()
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
    /// From when on it no longer waits; none before there is something to read from.
    deadline: Option<Instant>,
}

impl<R: Read> UntilQuiet<R> {
    /// The reader, and what is told when it has been quiet.
    pub fn new(reader: R) -> (Self, oneshot::Receiver<()>) {
        let (quiet, heard) = oneshot::channel();
        (
            Self {
                reader,
                quiet: Some(quiet),
                deadline: None,
            },
            heard,
        )
    }

    /// The next item; cancelling it loses nothing.
    pub async fn next(&mut self) -> R::Item {
        while self.quiet.is_some() && !self.reader.caught_up() {
            let opened = self.reader.opened();
            let deadline = match self.deadline {
                None if opened => *self.deadline.insert(Instant::now() + CATCH_UP_MAX),
                None => Instant::now() + CATCH_UP_MAX,
                Some(deadline) => deadline,
            };
            if Instant::now() >= deadline {
                break;
            }
            match timeout(QUIET, self.reader.read()).await {
                Ok(item) => return item,
                Err(_) if opened => break,
                Err(_) => {}
            }
        }
        if let Some(quiet) = self.quiet.take() {
            // Nobody waits any more when the service stops.
            quiet.send(()).ok();
        }
        self.reader.read().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A reader that is silent.
    struct Silent {
        opened: Arc<AtomicBool>,
    }

    impl Read for Silent {
        type Item = ();
        fn read(&mut self) -> impl Future<Output = ()> + Send {
            std::future::pending()
        }
        fn opened(&self) -> bool {
            self.opened.load(Ordering::Relaxed)
        }
        fn caught_up(&self) -> bool {
            false
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_says_nothing_before_there_is_something_to_read_from() {
        let opened = Arc::new(AtomicBool::new(false));
        let reader = Silent {
            opened: Arc::clone(&opened),
        };
        let (mut reader, mut quiet) = UntilQuiet::new(reader);
        let waited = timeout(Duration::from_secs(3600), reader.next());
        waited.await.unwrap_err();
        quiet.try_recv().unwrap_err();
        opened.store(true, Ordering::Relaxed);
        let waited = timeout(QUIET * 3, reader.next());
        waited.await.unwrap_err();
        quiet.try_recv().unwrap();
    }
}
