//! Checks what arrives and writes it, on blocking threads.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use mirrorlog_core::id::{Digest, Lane};
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use runtime::store::{Batch, Committer, Partial, Store, StoreError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::board::{Board, EARLIER, Job, Routed, Set};
use super::walk::{Found, Walk};
use super::{FetchError, Progress};

/// Threads that hash and write for one fetch.
const WRITERS: usize = 3;
/// Work queued for one writer: usually 2 MiB at most; blobs that are kept whole in memory may be larger.
const QUEUE_MAX: usize = 4;
/// A batch is committed, with its two `syncfs`, when it holds this much.
const BATCH_MAX_BYTES: u64 = 64 * 1024 * 1024;
const BATCH_MAX_FILES: u64 = 20_000;
/// A large blob that another fetch is receiving is kept in memory up to this size when it is urgent.
const URGENT_IN_MEMORY_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// A whole page or small blob as it came.
#[derive(Debug)]
pub(super) enum Content {
    Plain(Bytes),
    Zstd(Bytes),
}

/// Something to write.
#[derive(Debug)]
pub(super) enum Work {
    /// Whole pages and small blobs from one source.
    Whole {
        source: usize,
        items: Vec<(Job, Content)>,
    },
    /// A large blob is to be asked for, or asked for again: from where on?
    Prepare(Job),
    /// The next bytes of a large blob.
    Chunk {
        digest: Digest,
        size_bytes: u64,
        data: Bytes,
    },
    /// A large blob is whole.
    Finish { source: usize, job: Job },
    /// Others may wait for what this fetch has and has not committed.
    Commit,
}

/// The queues of all writers.
#[derive(Clone, Debug)]
pub(super) struct Writers {
    queues: Vec<mpsc::Sender<Work>>,
}

/// The fetch is over: its writers are gone.
#[derive(Debug)]
pub(super) struct WritersGone;

impl Writers {
    /// Starts the threads; they end, with everything committed, when all clones of the queues are dropped.
    pub(super) fn start(sink: &Arc<Sink>) -> (Self, JoinSet<()>) {
        let mut queues = Vec::new();
        let mut threads = JoinSet::new();
        for _ in 0..WRITERS {
            let (queue, work) = mpsc::channel(QUEUE_MAX);
            queues.push(queue);
            let writer = Writer {
                sink: Arc::clone(sink),
                partials: HashMap::new(),
            };
            threads.spawn_blocking(move || writer.run(work));
        }
        (Self { queues }, threads)
    }

    pub(super) async fn send(&self, work: Work) -> Result<(), WritersGone> {
        // Pieces of one large blob go through one queue, in order.
        let queue = match &work {
            Work::Whole { .. } | Work::Commit => {
                self.queues.iter().max_by_key(|queue| queue.capacity())
            }
            Work::Prepare(job) | Work::Finish { job, .. } => self.queue_of(&job.digest),
            Work::Chunk { digest, .. } => self.queue_of(digest),
        };
        let Some(queue) = queue else {
            return Err(WritersGone);
        };
        queue.send(work).await.map_err(|_| WritersGone)
    }

    fn queue_of(&self, digest: &Digest) -> Option<&mpsc::Sender<Work>> {
        let index = usize::from(digest.as_bytes()[0]) % self.queues.len().max(1);
        self.queues.get(index)
    }
}

/// Where all writers of one fetch put things.
pub(super) struct Sink {
    store: Store,
    board: Arc<Board>,
    progress: Arc<Progress>,
    lane: Lane,
    walk: Option<Walk>,
    /// Read-locked while something is put in, write-locked to exchange it.
    batch: RwLock<Batch>,
    batch_bytes: AtomicU64,
    batch_files: AtomicU64,
    committer: Mutex<Committer>,
}

impl Sink {
    pub(super) fn new(
        batch: Batch,
        board: &Arc<Board>,
        progress: &Arc<Progress>,
        lane: Lane,
        walk: Option<Walk>,
    ) -> Self {
        Self {
            store: batch.store().clone(),
            board: Arc::clone(board),
            progress: Arc::clone(progress),
            lane,
            walk,
            batch: RwLock::new(batch),
            batch_bytes: AtomicU64::new(0),
            batch_files: AtomicU64::new(0),
            committer: Mutex::default(),
        }
    }

    fn is_full(&self) -> bool {
        self.batch_bytes.load(Ordering::Relaxed) >= BATCH_MAX_BYTES
            || self.batch_files.load(Ordering::Relaxed) >= BATCH_MAX_FILES
    }

    /// Commits a full batch, while the next one is filled. Blocks while the one before is under way.
    fn commit_full(&self) -> Result<(), StoreError> {
        let mut committer = self.committer();
        // Whoever waited here may find that somebody else has done it.
        if self.is_full() {
            committer.commit(self.take_batch())
        } else {
            Ok(())
        }
    }

    /// Commits what there is, full or not.
    fn commit_now(&self) -> Result<(), StoreError> {
        let mut committer = self.committer();
        if self.batch_files.load(Ordering::Relaxed) > 0 {
            committer.commit(self.take_batch())?;
        }
        Ok(())
    }

    /// Makes everything durable that was put in. Blocks.
    fn settle(&self) -> Result<(), StoreError> {
        self.committer().wait()?;
        self.take_batch().commit()
    }

    fn take_batch(&self) -> Batch {
        self.batch_bytes.store(0, Ordering::Relaxed);
        self.batch_files.store(0, Ordering::Relaxed);
        let mut batch = self.batch.write().unwrap_or_else(PoisonError::into_inner);
        mem::replace(&mut *batch, self.store.batch())
    }

    fn committer(&self) -> MutexGuard<'_, Committer> {
        self.committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The last commit: leaves of a manifest first, then the pages above them. Blocks.
    /// The latter only if the walk is `whole`: a page that is here stands for all pages below it.
    pub(super) fn finish(&self, whole: bool) -> Result<(), StoreError> {
        self.settle()?;
        let Some(walk) = self.walk.as_ref().filter(|_| whole) else {
            return Ok(());
        };
        let held = walk.take_held();
        for (digest, bytes) in &held {
            self.with_batch(|batch| batch.put(digest, bytes))?;
        }
        if held.is_empty() {
            Ok(())
        } else {
            self.settle()
        }
    }

    pub(super) fn with_batch<T>(&self, put: impl FnOnce(&Batch) -> T) -> T {
        put(&self.batch.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn stored(&self, job: &Job, source: Option<usize>, bytes: u64) -> Result<(), StoreError> {
        self.progress.stored(bytes);
        self.board.stored(job, source, bytes);
        self.batch_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.batch_files.fetch_add(1, Ordering::Relaxed);
        if self.is_full() {
            self.commit_full()
        } else {
            Ok(())
        }
    }
}

/// One thread.
struct Writer {
    sink: Arc<Sink>,
    partials: HashMap<Digest, Partial>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Work>) {
        while let Some(work) = queue.blocking_recv() {
            if let Err(error) = self.work(work) {
                self.sink.board.fail(error);
                break;
            }
        }
    }

    fn work(&mut self, work: Work) -> Result<(), FetchError> {
        match work {
            Work::Whole { source, items } => {
                for (job, content) in items {
                    self.whole(source, job, content)?;
                }
            }
            Work::Prepare(job) => self.prepare(job)?,
            Work::Chunk {
                digest,
                size_bytes,
                data,
            } => self.partial(&digest, size_bytes)?.write(data)?,
            Work::Finish { source, job } => self.finish(Some(source), job)?,
            Work::Commit => self.sink.commit_now()?,
        }
        Ok(())
    }

    fn whole(&self, source: usize, mut job: Job, content: Content) -> Result<(), FetchError> {
        let bytes = match content {
            Content::Plain(bytes) => bytes,
            Content::Zstd(packed) => match zstd::bulk::decompress(&packed, PAGE_MAX_BYTES) {
                Ok(bytes) => bytes.into(),
                Err(error) => {
                    self.sink
                        .board
                        .wrong(&mut job, source, &format!("bad zstd: {error}"));
                    self.sink.board.route(job);
                    return Ok(());
                }
            },
        };
        match self.put(&job, &bytes) {
            Ok(()) => Ok(self.sink.stored(&job, Some(source), bytes.len() as u64)?),
            Err(FetchError::Store(error @ StoreError::Mismatch { .. })) => {
                self.sink.board.wrong(&mut job, source, &error.to_string());
                self.sink.board.route(job);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn put(&self, job: &Job, bytes: &Bytes) -> Result<(), FetchError> {
        if let Some(walk) = &self.sink.walk {
            let has = |digest: &Digest| self.sink.with_batch(|batch| batch.has(digest));
            match walk.page(&job.digest, bytes, has)? {
                Found::Leaf => {}
                Found::Inner(missing) => {
                    for wanted in missing {
                        if let Some(job) = self.sink.board.open(wanted) {
                            self.sink.board.route(job);
                        }
                    }
                    return Ok(());
                }
            }
        }
        Ok(self
            .sink
            .with_batch(|batch| batch.put(&job.digest, bytes))?)
    }

    /// Finds out what is here of a large blob and routes it.
    fn prepare(&mut self, mut job: Job) -> Result<(), FetchError> {
        if self.sink.with_batch(|batch| batch.has(&job.digest))? {
            return Ok(self.sink.stored(&job, None, job.size_bytes)?);
        }
        let offset = match self.partial(&job.digest, job.size_bytes) {
            Ok(partial) => partial.offset(),
            Err(StoreError::Busy(_)) => {
                let urgent = self.sink.lane == Lane::Priority
                    && job.size_bytes <= URGENT_IN_MEMORY_MAX_BYTES;
                if urgent {
                    job.in_memory = true;
                    self.sink.board.route(job);
                } else {
                    self.sink.board.busy(job);
                }
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if offset > 0 && job.from == Set::default() {
            job.from.insert(EARLIER);
        }
        job.offset = offset;
        if offset == job.size_bytes {
            return self.finish(None, job);
        }
        let digest = job.digest;
        if self.sink.board.route(job) != Routed::Queued {
            self.partials.remove(&digest);
        }
        Ok(())
    }

    fn finish(&mut self, source: Option<usize>, mut job: Job) -> Result<(), FetchError> {
        self.partial(&job.digest, job.size_bytes)?;
        let Some(partial) = self.partials.remove(&job.digest) else {
            return Ok(());
        };
        match partial.finish() {
            Ok(finished) => {
                self.sink.with_batch(|batch| batch.adopt(finished))?;
                Ok(self.sink.stored(&job, source, job.size_bytes)?)
            }
            Err(error @ StoreError::Mismatch { .. }) => {
                let from = mem::take(&mut job.from);
                job.offset = 0;
                match source {
                    Some(source) if from.is_only(source) => {
                        self.sink.board.wrong(&mut job, source, &error.to_string());
                    }
                    // Nobody can be blamed for a blob that several contributed to: once more from the start.
                    Some(_) | None => self.sink.board.doubt(&mut job, from),
                }
                self.prepare(job)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn partial(&mut self, digest: &Digest, size_bytes: u64) -> Result<&mut Partial, StoreError> {
        use std::collections::hash_map::Entry;
        match self.partials.entry(*digest) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                Ok(entry.insert(Partial::open(&self.sink.store, digest, size_bytes)?))
            }
        }
    }
}
