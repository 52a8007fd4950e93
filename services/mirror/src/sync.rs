//! Pages and blobs of one build, until every byte of it is durable here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fetcher::client::{
    FetchError, FetchOptions, Fetched, Kind, Present, Source, SourceError, Wanted,
};
use fetcher::limit::RateLimiter;
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane, Ordinal};
use mirrorlog_core::manifest::{self, FileEntry, PageRead};
use mirrorlog_core::statement::DeltaSource;
use mirrorlog_core::view::Selection;
use roaring::RoaringBitmap;
use runtime::store::{Batch, Draft, Pages, Recalled, Store, StoreError};
use runtime::tls::Tls;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::collect::Sweeps;
use crate::engine::{Mailbox, Message};
use crate::peers::Pool;
use crate::room::{Full, Room};
use runtime::store::Named;

/// Wants that may wait between the walk over the manifest and the fetcher.
const WANTS_QUEUED: usize = 4096;
/// Missing contents that are listed rather than walked to a second time: 1 MiB of them.
const WANTS_LISTED_MAX: usize = 16 * 1024;
/// Rounds of "look what is missing, fetch it" that may leave as much missing as before until a sync counts as failed.
const IDLE_ROUNDS_MAX: usize = 4;

/// Builds that lack less than this are fetched from the archive alone: waiting for peers would take longer.
const SHARED_MIN_BYTES: u64 = 1024 * 1024;

/// Why a build did not become whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// Stopped on purpose.
    #[error("stopped")]
    Stopped,
    /// The disk would run full.
    #[error(transparent)]
    DiskFull(#[from] Full),
    /// Sources lack content.
    #[error("no source has {count} of the wanted blobs, {example} among them")]
    Absent { count: usize, example: Digest },
    /// Sources could not deliver content now.
    #[error("{count} blobs could not be fetched, {example} among them: {reason}")]
    Failed {
        count: usize,
        example: Digest,
        reason: String,
    },
    /// Content keeps vanishing while it is fetched.
    #[error("still incomplete after {IDLE_ROUNDS_MAX} rounds that brought nothing")]
    Unstable,
    /// The fetch ended.
    #[error("content could not be fetched")]
    Fetch(#[source] FetchError),
    /// The manifest could not be read.
    #[error("manifest could not be read")]
    Manifest(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store failed.
    #[error("store failed")]
    Store(#[from] StoreError),
    /// A task was interrupted.
    #[error("a task of the sync was interrupted")]
    Task(#[from] tokio::task::JoinError),
}

/// A build that is whole here. While the pin lives, nothing is collected.
pub(crate) struct Whole {
    /// Bytes that came over the network for it.
    pub(crate) received_bytes: u64,
    pub(crate) pin: runtime::store::Pin,
}

/// What a build lacks here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Missing {
    /// Entries of the manifest.
    pub(crate) entries: u64,
    /// Ordinals of the entries that are not here.
    pub(crate) ordinals: RoaringBitmap,
    /// Their bytes, each content counted once; of a great many, a few are not counted.
    pub(crate) bytes: u64,
}

/// What a build lacks here, and what was found out on the way.
struct Lack {
    missing: Missing,
    /// Each missing content once, where they are few; else the manifest is walked again.
    wants: Option<Vec<Wanted>>,
    /// Pages that the store does not have yet.
    draft: Option<Draft>,
}

/// Counters that reports read while a sync runs.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    fetch: Arc<fetcher::client::Progress>,
    planned_bytes: AtomicU64,
}

impl Progress {
    /// Bytes received, for rates.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.fetch.received_bytes()
    }

    /// Those of them that came from peers.
    pub(crate) fn peers_bytes(&self) -> u64 {
        self.fetch.peers_bytes()
    }

    /// Bytes still to come; `None` before they are counted.
    pub(crate) fn remaining_bytes(&self) -> Option<u64> {
        let planned_bytes = self.planned_bytes.load(Ordering::Relaxed);
        let counted = planned_bytes > 0;
        counted.then(|| planned_bytes.saturating_sub(self.fetch.stored_bytes()))
    }
}

/// Tells the engine what a build lacks.
pub(crate) struct Lacks {
    pub(crate) engine: Mailbox,
    pub(crate) channel: ChannelId,
    pub(crate) build: Build,
}

impl Lacks {
    async fn tell(&self, missing: Missing) {
        let (channel, build) = (self.channel.clone(), self.build);
        // The engine is gone only when the process ends.
        self.engine
            .send(Message::Lacks {
                channel,
                build,
                missing,
            })
            .await
            .ok();
    }
}

/// Brings builds here.
#[derive(Clone)]
pub(crate) struct Syncer {
    pub(crate) pages: Pages,
    pub(crate) sources: Vec<Source>,
    pub(crate) pool: Pool,
    pub(crate) rate: Arc<RateLimiter>,
    pub(crate) room: Room,
    pub(crate) sweeps: Sweeps,
}

/// One build to bring here.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) lane: Lane,
    pub(crate) root: Digest,
    /// A root that is whole here: what it has is not looked at again.
    pub(crate) whole: Option<Digest>,
    /// What of it is carried here.
    pub(crate) selection: Selection,
    /// The event's delta and the root that it starts from, if that is here.
    pub(crate) delta: Option<(DeltaSource, Option<Digest>)>,
    /// Whether a page that is here stands for those below it; a repair looks at each.
    pub(crate) trusts_pages: bool,
    pub(crate) progress: Arc<Progress>,
    pub(crate) stop: CancellationToken,
}

impl Job {
    /// What peers call it.
    fn shared(&self) -> Digest {
        crate::peers::shared(&self.root, &self.selection.view())
    }
}

impl Syncer {
    /// Sources from an address each.
    pub(crate) fn sources(
        addresses: &[&str],
        tls: Option<&Tls>,
    ) -> Result<Vec<Source>, SourceError> {
        let sources = addresses.iter();
        sources.map(|address| Source::of(address, tls)).collect()
    }

    fn store(&self) -> &Store {
        self.pages.store()
    }

    /// Finds out what a build lacks: fetches its pages, compares it with what is whole.
    pub(crate) async fn plan(&self, job: &Job) -> Result<Missing, SyncError> {
        let lack = self.lack(job).await?;
        if let Some(draft) = lack.draft {
            self.settle(draft).await?;
        }
        Ok(lack.missing)
    }

    async fn lack(&self, job: &Job) -> Result<Lack, SyncError> {
        if !job.trusts_pages {
            self.fetch_pages(job, Present::Unknown).await?;
        } else if let Some(lack) = self.applied_delta(job).await {
            return Ok(lack);
        } else {
            self.fetch_pages(job, Present::Whole).await?;
        }
        match self.look(job).await {
            Err(SyncError::Manifest(_) | SyncError::Store(_)) => {
                // Pages above without pages below, or damaged: a crash or a loss. Look at every page.
                self.fetch_pages(job, Present::Unknown).await?;
                self.look(job).await
            }
            looked => looked,
        }
    }

    /// Makes a build whole; every entry is durable then.
    ///
    /// The engine hears what is missing before each round of fetching.
    pub(crate) async fn run(&self, job: &Job, lacks: &Lacks) -> Result<Whole, SyncError> {
        let store = self.store().clone();
        // Waits for a sweep under way, which gives up for it.
        let hurry = self.sweeps.hurry();
        let pin = tokio::task::spawn_blocking(move || store.pin()).await??;
        drop(hurry);
        let _followed = self.pool.follow(&job.progress.fetch);
        let (mut least_missing, mut idle_rounds) = (None, 0);
        while idle_rounds < IDLE_ROUNDS_MAX {
            let looked = match least_missing {
                None => None,
                // The pages are here: only what was fetched is looked at again.
                Some(_) => self.look(job).await.ok(),
            };
            let Lack {
                missing,
                wants,
                draft,
            } = match looked {
                Some(lack) => lack,
                None => self.lack(job).await?,
            };
            if missing.ordinals.is_empty() {
                if let Some(draft) = draft {
                    self.settle(draft).await?;
                }
                return Ok(Whole {
                    received_bytes: job.progress.received_bytes(),
                    pin,
                });
            }
            let count = missing.ordinals.len();
            if least_missing.is_some_and(|least| count >= least) {
                idle_rounds += 1;
            } else {
                least_missing = Some(count);
            }
            let (room, needed_bytes) = (self.room.clone(), missing.bytes);
            tokio::task::spawn_blocking(move || room.check(needed_bytes)).await???;
            let stored = job.progress.fetch.stored_bytes();
            job.progress
                .planned_bytes
                .store(stored + missing.bytes, Ordering::Relaxed);
            let shares = job.lane == Lane::Bulk && missing.bytes >= SHARED_MIN_BYTES;
            lacks.tell(missing).await;
            if shares {
                let shared = job.shared();
                let met = self.pool.meet(&lacks.channel, &shared);
                job.stop.run_until_cancelled(met).await;
            }
            let options = FetchOptions {
                peers: self.pool.peers(job.shared(), shares),
                ..self.options(job)
            };
            let fetched = self.fetch_blobs(job, wants, draft, &options).await;
            self.room
                .stored(job.progress.fetch.stored_bytes().saturating_sub(stored));
            fetched?;
        }
        Err(SyncError::Unstable)
    }

    fn options(&self, job: &Job) -> FetchOptions {
        FetchOptions {
            lane: job.lane,
            rate: Arc::clone(&self.rate),
            cancel: job.stop.clone(),
            progress: Arc::clone(&job.progress.fetch),
            peers: self.pool.peers(job.shared(), false),
            ..FetchOptions::default()
        }
    }

    /// The fast path: the event's delta, applied to its base, must give the signed root.
    async fn applied_delta(&self, job: &Job) -> Option<Lack> {
        let (DeltaSource::Inline(delta), base) = job.delta.clone()? else {
            return None;
        };
        let (pages, root, known) = (self.pages.clone(), job.root, job.whole);
        let selection = job.selection.clone();
        let applied = tokio::task::spawn_blocking(move || {
            let applied = Draft::apply(&pages, base.as_ref(), &delta, &root);
            let applied = applied.map_err(|error| SyncError::Manifest(Box::new(error)))?;
            let Some(draft) = applied else {
                return Ok(None);
            };
            let about = (known.as_ref(), &root, &selection);
            let lack = look(&draft.over(&pages), pages.store(), about)?;
            Ok(Some(Lack {
                draft: Some(draft),
                ..lack
            }))
        });
        match applied.await {
            Ok(Ok(applied)) => applied,
            Ok(Err(error)) => {
                let error: SyncError = error;
                let error = crate::inbox::chain(&error);
                tracing::debug!(error, "delta does not apply here; fetching pages instead");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "applying a delta was interrupted");
                None
            }
        }
    }

    /// Makes the pages of a draft durable.
    async fn settle(&self, draft: Draft) -> Result<(), SyncError> {
        let pages = self.pages.clone();
        Ok(tokio::task::spawn_blocking(move || draft.settle(&pages)).await??)
    }

    async fn fetch_pages(&self, job: &Job, present: Present) -> Result<(), SyncError> {
        let options = self.options(job);
        let fetched = fetcher::client::fetch_manifest(
            &self.sources,
            job.root,
            self.store(),
            present,
            &options,
        )
        .await;
        whole(fetched?)
    }

    /// Fetches what a build lacks, and makes the pages of `draft` durable with it.
    async fn fetch_blobs(
        &self,
        job: &Job,
        wants: Option<Vec<Wanted>>,
        draft: Option<Draft>,
        options: &FetchOptions,
    ) -> Result<(), SyncError> {
        let (batch, recalled) = match draft {
            Some(draft) => draft.into_parts(),
            None => (self.store().batch(), Recalled::default()),
        };
        match wants {
            Some(wants) => {
                let listed = tokio_stream::iter(wants);
                let fetched =
                    fetcher::client::fetch_with(&self.sources, listed, batch, options).await;
                whole(fetched?)?;
            }
            None => self.fetch_walking(job, batch, options).await?,
        }
        self.pages.recall(recalled);
        Ok(())
    }

    /// Fetches while the manifest is walked: for lists that are too long to be held.
    async fn fetch_walking(
        &self,
        job: &Job,
        batch: Batch,
        options: &FetchOptions,
    ) -> Result<(), SyncError> {
        let (sender, receiver) = mpsc::channel(WANTS_QUEUED);
        let (pages, root, known) = (self.pages.clone(), job.root, job.whole);
        let selection = job.selection.clone();
        let walk = tokio::task::spawn_blocking(move || {
            let mut named = Named::new(WANTS_LISTED_MAX, pages.page(&root)?.entries());
            let about = (known.as_ref(), &root, &selection);
            lacking(&pages, pages.store(), about, |_, file| {
                // The fetcher is gone when it was cancelled: then nothing more is wanted.
                !named.insert(&file.digest) || sender.blocking_send(wanted(file)).is_ok()
            })
        });
        let wants = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let fetched = fetcher::client::fetch_with(&self.sources, wants, batch, options).await?;
        whole(fetched)?;
        walk.await?
    }

    async fn look(&self, job: &Job) -> Result<Lack, SyncError> {
        self.look_at(job.root, job.whole, job.selection.clone())
            .await
    }

    /// What a build lacks whose pages are here; `known` is whole and is not looked at.
    pub(crate) async fn missing(
        &self,
        root: Digest,
        known: Option<Digest>,
        selection: Selection,
    ) -> Result<Missing, SyncError> {
        Ok(self.look_at(root, known, selection).await?.missing)
    }

    async fn look_at(
        &self,
        root: Digest,
        known: Option<Digest>,
        selection: Selection,
    ) -> Result<Lack, SyncError> {
        let pages = self.pages.clone();
        let look = move || look(&pages, pages.store(), (known.as_ref(), &root, &selection));
        tokio::task::spawn_blocking(look).await?
    }
}

impl SyncError {
    /// True when there is no room for a build: others may have to go.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::DiskFull(_) => true,
            Self::Store(error) | Self::Fetch(FetchError::Store(error)) => error.is_full(),
            Self::Stopped
            | Self::Absent { .. }
            | Self::Failed { .. }
            | Self::Unstable
            | Self::Fetch(_)
            | Self::Manifest(_)
            | Self::Task(_) => false,
        }
    }
}

impl From<FetchError> for SyncError {
    fn from(error: FetchError) -> Self {
        if matches!(error, FetchError::Cancelled) {
            Self::Stopped
        } else {
            Self::Fetch(error)
        }
    }
}

fn whole(fetched: Fetched) -> Result<(), SyncError> {
    if let Some(example) = fetched.absent.first() {
        return Err(SyncError::Absent {
            count: fetched.absent.len(),
            example: *example,
        });
    }
    if let Some(failure) = fetched.failed.first() {
        let (count, example) = (fetched.failed.len(), failure.digest);
        return Err(SyncError::Failed {
            count,
            example,
            reason: failure.reason.clone(),
        });
    }
    Ok(())
}

fn wanted(file: &FileEntry) -> Wanted {
    Wanted {
        digest: file.digest,
        size_bytes: file.size_bytes,
        kind: Kind::Blob,
    }
}

/// Finds out what is selected of `root` that neither `known` nor the store has.
fn look<R: PageRead<Error = StoreError>>(
    pages: &R,
    store: &Store,
    about: (Option<&Digest>, &Digest, &Selection),
) -> Result<Lack, SyncError> {
    let (_, root, _) = about;
    let mut missing = Missing {
        entries: pages.page(root)?.entries(),
        ..Missing::default()
    };
    let (mut named, mut wants) = (Named::new(WANTS_LISTED_MAX, missing.entries), Vec::new());
    lacking(pages, store, about, |ordinal, file| {
        missing.ordinals.insert(ordinal.0);
        if named.insert(&file.digest) {
            missing.bytes += file.size_bytes;
            if wants.len() <= WANTS_LISTED_MAX {
                wants.push(wanted(file));
            }
        }
        true
    })?;
    Ok(Lack {
        missing,
        wants: (wants.len() <= WANTS_LISTED_MAX).then_some(wants),
        draft: None,
    })
}

/// Calls `each` for every selected file of `root` that `known` has not and the store lacks, until it says stop.
fn lacking<R: PageRead<Error = StoreError>>(
    pages: &R,
    store: &Store,
    (known, root, selection): (Option<&Digest>, &Digest, &Selection),
    mut each: impl FnMut(Ordinal, &FileEntry) -> bool,
) -> Result<(), SyncError> {
    for difference in manifest::diff(pages, known, Some(root)) {
        let difference = difference.map_err(|error| SyncError::Manifest(Box::new(error)))?;
        let Some((ordinal, entry)) = difference.new else {
            continue;
        };
        let Some(file) = entry.file() else { continue };
        let wanted = selection.has(&difference.path) && store.size(&file.digest)?.is_none();
        if wanted && !each(ordinal, file) {
            break;
        }
    }
    Ok(())
}
