//! The way to the engine: two queues, so that the priority lane never waits behind the bulk lane.

use mirrorlog_core::id::Lane;
use tokio::sync::mpsc;

use super::Message;

/// Messages that may wait in each queue. Bounded: a slow engine slows the log's readers down.
const QUEUED_MAX: usize = 256;

/// Sends to the engine. Messages of one lane arrive in the order in which they were sent.
#[derive(Clone)]
pub(crate) struct Mailbox {
    urgent: mpsc::Sender<Message>,
    usual: mpsc::Sender<Message>,
}

/// The engine's end.
pub(crate) struct Inbox {
    urgent: mpsc::Receiver<Message>,
    usual: mpsc::Receiver<Message>,
}

/// The engine is gone: the process ends.
#[derive(Debug)]
pub(crate) struct EngineGone;

impl Mailbox {
    /// A pair of queues.
    pub(crate) fn new() -> (Self, Inbox) {
        let (urgent, urgent_end) = mpsc::channel(QUEUED_MAX);
        let (usual, usual_end) = mpsc::channel(QUEUED_MAX);
        let inbox = Inbox {
            urgent: urgent_end,
            usual: usual_end,
        };
        (Self { urgent, usual }, inbox)
    }

    /// Waits for room.
    pub(crate) async fn send(&self, message: Message) -> Result<(), EngineGone> {
        let queue = match message.lane() {
            Some(Lane::Priority) => &self.urgent,
            Some(Lane::Bulk) | None => &self.usual,
        };
        queue.send(message).await.map_err(|_| EngineGone)
    }
}

impl Inbox {
    /// The next message, urgent ones first; `None` when all senders are gone.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        tokio::select! {
            biased;
            Some(message) = self.urgent.recv() => Some(message),
            message = self.usual.recv() => message,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mirrorlog_core::id::{Build, ChannelId};

    use super::*;

    fn planned(lane: Lane, missing_bytes: u64) -> Message {
        Message::Planned {
            channel: ChannelId::new("noble").unwrap(),
            lane,
            build: Build::FIRST,
            missing_bytes,
        }
    }

    #[tokio::test]
    async fn invariant_priority_does_not_wait_in_the_engines_queue() {
        let (mailbox, mut inbox) = Mailbox::new();
        for number in 0..QUEUED_MAX as u64 {
            mailbox.send(planned(Lane::Bulk, number)).await.unwrap();
        }
        mailbox.send(planned(Lane::Priority, 7)).await.unwrap();
        let first = inbox.next().await.unwrap();
        assert_eq!(first.lane(), Some(Lane::Priority));
        for number in 0..QUEUED_MAX as u64 {
            let message = inbox.next().await.unwrap();
            assert!(
                matches!(message, Message::Planned { missing_bytes, .. } if missing_bytes == number)
            );
        }
    }
}
