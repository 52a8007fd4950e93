//! Verdicts and wanted builds on their way out.
//!
//! What is said about one mirror and channel leaves in the order in which it was said; different ones
//! do not wait for each other. A log that is down is retried for as long as this replica leads.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mirrorlog_core::id::{Build, ChannelId, MirrorId, PoolId};
use runtime::Reaction;
use runtime::log::{Bucket, Log, LogError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{Instrument as _, Span};

use wire::causes;

/// Letters that leave at the same time.
const WORKERS: usize = 8;
/// Most letters that wait in one worker.
const WAITING_MAX: usize = 4096;
const RETRY: Duration = Duration::from_millis(200);

/// Something to be written to the log.
#[derive(Clone, Debug)]
pub(crate) enum Letter {
    Verdict {
        channel: ChannelId,
        build: Build,
        mirror: MirrorId,
        signed: Bytes,
    },
    Wanted {
        channel: ChannelId,
        pool: PoolId,
        build: Option<Build>,
    },
}

struct Job {
    letter: Letter,
    /// Number of the leadership under which it was written.
    term: u64,
    span: Span,
}

/// A verdict that did not leave.
pub(crate) type Returned = (MirrorId, ChannelId, Build);

/// Where letters are handed in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Post {
    workers: Vec<mpsc::Sender<Job>>,
    term: watch::Sender<u64>,
    /// At most as many as may wait, and as the fold knows builds.
    returned: Arc<Mutex<BTreeSet<Returned>>>,
}

impl Post {
    pub(crate) async fn start(log: &Log, tasks: &mut JoinSet<()>) -> Result<Self, LogError> {
        let wanted = log.bucket("wanted").await?;
        let term = watch::Sender::new(0);
        let returned = Arc::new(Mutex::default());
        let workers = (0..WORKERS).map(|_| {
            let (sender, jobs) = mpsc::channel(WAITING_MAX);
            let worker = Worker {
                log: log.clone(),
                wanted: wanted.clone(),
                term: term.subscribe(),
                returned: Arc::clone(&returned),
            };
            tasks.spawn(worker.run(jobs));
            sender
        });
        Ok(Self {
            workers: workers.collect(),
            term,
            returned,
        })
    }

    /// Leadership changed: what waits is no longer ours to say.
    pub(crate) fn next_term(&self) {
        self.term.send_modify(|term| *term += 1);
    }

    /// Verdicts that did not leave since this was last asked.
    pub(crate) fn take_returned(&self) -> BTreeSet<Returned> {
        std::mem::take(&mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands a letter in; waits when very many wait already.
    pub(crate) async fn send(&self, letter: Letter) {
        let mut hasher = DefaultHasher::new();
        match &letter {
            Letter::Verdict {
                channel, mirror, ..
            } => (channel, mirror).hash(&mut hasher),
            Letter::Wanted { channel, pool, .. } => (channel, pool).hash(&mut hasher),
        }
        let worker = usize::try_from(hasher.finish() % WORKERS as u64).unwrap_or(0);
        let job = Job {
            letter,
            term: *self.term.borrow(),
            span: Span::current(),
        };
        // Fails only when the service stops.
        self.workers[worker].send(job).await.ok();
    }
}

struct Worker {
    log: Log,
    wanted: Bucket,
    term: watch::Receiver<u64>,
    returned: Arc<Mutex<BTreeSet<Returned>>>,
}

impl Worker {
    async fn run(self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            if !self.deliver(&job).await
                && let Letter::Verdict {
                    channel,
                    build,
                    mirror,
                    ..
                } = job.letter
            {
                let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
                returned.insert((mirror, channel, build));
            }
        }
    }

    /// False when it did not leave: the log refuses it, or this replica no longer leads.
    async fn deliver(&self, job: &Job) -> bool {
        while *self.term.borrow() == job.term {
            let Err(error) = self.write(&job.letter).instrument(job.span.clone()).await else {
                return true;
            };
            tracing::warn!(error = causes(&error), "verdict cannot be published");
            if error.reaction() != Reaction::Retry {
                return false;
            }
            tokio::time::sleep(RETRY).await;
        }
        false
    }

    async fn write(&self, letter: &Letter) -> Result<(), LogError> {
        match letter {
            Letter::Verdict {
                channel,
                mirror,
                signed,
                ..
            } => {
                self.log
                    .publish_verdict(channel, mirror, signed.clone())
                    .await
            }
            Letter::Wanted {
                channel,
                pool,
                build,
            } => {
                let key = wire::kv::wanted_key(channel, pool);
                match build {
                    Some(build) => self
                        .wanted
                        .put(&key, wire::kv::encode_wanted(*build).into())
                        .await
                        .map(drop),
                    None => self.wanted.delete(&key).await,
                }
            }
        }
    }
}
