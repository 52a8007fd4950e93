//! Verdicts and wanted builds on their way out.
//!
//! What is said about one mirror and channel leaves in the order in which it was said; different ones
//! do not wait for each other. A log that is down is retried for as long as this replica leads.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use mirrorlog_core::id::{Build, ChannelId, MirrorId, PoolId};
use runtime::Reaction;
use runtime::log::{Bucket, Log, LogError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{Instrument as _, Span};

use crate::park::causes;

/// Letters that leave at the same time.
const WORKERS: usize = 8;
/// Most letters that wait in one worker.
const WAITING_MAX: usize = 4096;
const RETRY: Duration = Duration::from_millis(200);

/// Something to be written to the log.
#[derive(Clone, Debug)]
pub(crate) enum Letter {
    Verdict { channel: ChannelId, mirror: MirrorId, signed: Bytes },
    Wanted { channel: ChannelId, pool: PoolId, build: Option<Build> },
}

struct Job {
    letter: Letter,
    /// Number of the leadership under which it was written.
    term: u64,
    span: Span,
}

/// Where letters are handed in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Post {
    workers: Vec<mpsc::Sender<Job>>,
    term: watch::Sender<u64>,
}

impl Post {
    pub(crate) async fn start(log: &Log, tasks: &mut JoinSet<()>) -> Result<Self, LogError> {
        let wanted = log.bucket("wanted").await?;
        let term = watch::Sender::new(0);
        let workers = (0..WORKERS).map(|_| {
            let (sender, jobs) = mpsc::channel(WAITING_MAX);
            tasks.spawn(work(log.clone(), wanted.clone(), jobs, term.subscribe()));
            sender
        });
        Ok(Self { workers: workers.collect(), term })
    }

    /// Leadership changed: what waits is no longer ours to say.
    pub(crate) fn next_term(&self) {
        self.term.send_modify(|term| *term += 1);
    }

    /// Hands a letter in; waits when very many wait already.
    pub(crate) async fn send(&self, letter: Letter) {
        let mut hasher = DefaultHasher::new();
        match &letter {
            Letter::Verdict { channel, mirror, .. } => (channel, mirror).hash(&mut hasher),
            Letter::Wanted { channel, pool, .. } => (channel, pool).hash(&mut hasher),
        }
        let worker = usize::try_from(hasher.finish() % WORKERS as u64).unwrap_or(0);
        let job = Job { letter, term: *self.term.borrow(), span: Span::current() };
        // Fails only when the service stops.
        self.workers[worker].send(job).await.ok();
    }
}

async fn work(log: Log, wanted: Bucket, mut jobs: mpsc::Receiver<Job>, term: watch::Receiver<u64>) {
    while let Some(job) = jobs.recv().await {
        while *term.borrow() == job.term {
            let Err(error) = deliver(&log, &wanted, &job.letter).instrument(job.span.clone()).await else { break };
            tracing::warn!(error = causes(&error), "verdict cannot be published");
            if error.reaction() != Reaction::Retry {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn deliver(log: &Log, wanted: &Bucket, letter: &Letter) -> Result<(), LogError> {
    match letter {
        Letter::Verdict { channel, mirror, signed } => log.publish_verdict(channel, mirror, signed.clone()).await,
        Letter::Wanted { channel, pool, build } => {
            let key = wire::kv::wanted_key(channel, pool);
            match build {
                Some(build) => wanted.put(&key, wire::kv::encode_wanted(*build).into()).await.map(drop),
                None => wanted.delete(&key).await,
            }
        }
    }
}
