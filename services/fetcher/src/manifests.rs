//! Whole manifests for those who carry no content: pages from the archive, or else from somebody else.
//!
//! A page is named by its digest, so it does not matter who gave it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use mirrorlog_core::id::{Digest, Lane};
use mirrorlog_core::manifest::{Page, PageRead as _};
use mirrorlog_core::statement::Delta;
use runtime::store::{Draft, Pages, Store, StoreError};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::client::{FetchOptions, HELD_MAX_BYTES, Present, Source, fetch_manifest};

/// Longest wait for the archive's next pages before the mirror is asked.
const ARCHIVE_STALL: Duration = Duration::from_secs(3);
/// Fewest bytes of them in this time, where there is a mirror to ask; stops a network that lets one byte through now and
/// then. Where there is none, any byte is progress.
const ARCHIVE_LEAST_BYTES: u64 = 8 * 1024;
/// The archive is not asked again for this long after it did not answer.
const ARCHIVE_PAUSE: Duration = Duration::from_secs(30);
/// Most manifests whose presence is remembered.
const PRESENT_MAX: usize = 4096;
/// Pages asked of a mirror at a time.
const PAGES_AT_ONCE: usize = 16;
/// Leaves held in memory before they are stored.
const PAGES_HELD: usize = 256;
/// Longest that one mirror is asked: others wait for the same manifest, and what came is kept.
const MIRROR_LIMIT: Duration = Duration::from_secs(120);
/// Most pages of one manifest that are asked of a mirror: stops a root that grows without end.
const PAGES_MAX: usize = 262_144;

/// Whoever stands in for the archive, such as a mirror over HTTP.
pub trait PageSource: Sync {
    /// A page's bytes, unchecked; none when it is not to be had there now.
    fn page(&self, digest: &Digest) -> impl Future<Output = Option<Vec<u8>>> + Send;
}

/// Nobody stands in.
#[derive(Clone, Copy, Debug)]
pub enum Nobody {}

impl PageSource for Nobody {
    async fn page(&self, _digest: &Digest) -> Option<Vec<u8>> {
        match *self {}
    }
}

/// Why a manifest is not here.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// Neither archive nor mirror has a page now: try again.
    #[error("page {0} of the manifest is nowhere to be had")]
    Nowhere(Digest),
    /// The manifest has more pages than any.
    #[error("manifest {0} is too large")]
    TooLarge(Digest),
    /// The own folder is at fault.
    #[error("manifest page cannot be stored")]
    Store(#[from] StoreError),
    /// A task ended unexpectedly.
    #[error("a task failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Manifests that are here, and how others come. Cheap to clone.
#[derive(Clone)]
pub struct Manifests(Arc<Inner>);

struct Inner {
    store: Store,
    pages: Pages,
    archive: Source,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    present: BTreeSet<Digest>,
    order: VecDeque<Digest>,
    /// Manifests under way: whoever wants one too waits for the first.
    coming: BTreeMap<Digest, Arc<OnceCell<()>>>,
    archive_down_until: Option<tokio::time::Instant>,
}

impl Manifests {
    /// Keeps pages in `store`, and about `cache_bytes` of decoded ones in memory.
    pub fn new(store: Store, cache_bytes: usize, archive: Source) -> Self {
        let pages = Pages::new(store.clone(), cache_bytes);
        Self(Arc::new(Inner {
            store,
            pages,
            archive,
            state: Mutex::default(),
        }))
    }

    /// The pages, for readers on blocking threads.
    pub fn pages(&self) -> Pages {
        self.0.pages.clone()
    }

    /// Looks at every page of `root` again, after one turned out to be missing.
    ///
    /// # Errors
    /// [`ManifestsError`].
    pub async fn repair<P: PageSource>(
        &self,
        root: Digest,
        other: Option<&P>,
    ) -> Result<(), ManifestsError> {
        self.state().present.remove(&root);
        self.state().order.retain(|known| *known != root);
        self.fetch(root, Present::Unknown, other).await
    }

    /// Returns when every page of `root` is here. `other` is asked for what the archive does not give.
    ///
    /// # Errors
    /// [`ManifestsError`].
    pub async fn ensure<P: PageSource>(
        &self,
        root: Digest,
        other: Option<&P>,
    ) -> Result<(), ManifestsError> {
        let cell = {
            let mut state = self.state();
            if state.present.contains(&root) {
                return Ok(());
            }
            state.coming.entry(root).or_default().clone()
        };
        let fetched = cell
            .get_or_try_init(|| self.fetch(root, Present::Whole, other))
            .await;
        self.came(root, fetched.copied())
    }

    /// Makes the manifest `root` of `base`, if that is known to be whole here, and the changes that came with an
    /// event. False when they do not give it, or cannot be applied: then [`ensure`](Self::ensure) it. Whoever ensures
    /// it meanwhile waits.
    pub async fn apply(&self, base: Option<Digest>, delta: Delta, root: Digest) -> bool {
        let cell = {
            let mut state = self.state();
            if state.present.contains(&root) {
                return true;
            }
            if base.is_some_and(|base| !state.present.contains(&base)) {
                return false;
            }
            state.coming.entry(root).or_default().clone()
        };
        let pages = self.0.pages.clone();
        let applying = move || match Draft::apply(&pages, base.as_ref(), &delta, &root) {
            Ok(Some(draft)) => draft.settle(&pages).map_err(ManifestsError::from),
            Ok(None) => Err(ManifestsError::Nowhere(root)),
            Err(error) => {
                let error = wire::causes(&error);
                tracing::debug!(%root, error, "changes cannot be applied here");
                Err(ManifestsError::Nowhere(root))
            }
        };
        let begin = async || tokio::task::spawn_blocking(applying).await?;
        let applied = cell.get_or_try_init(begin).await;
        let applied = applied.copied();
        if let Err(error) = &applied {
            tracing::debug!(%root, error = wire::causes(error), "fetching the manifest instead");
        }
        self.came(root, applied).is_ok()
    }

    /// Notes that a manifest is here, if it is.
    fn came(
        &self,
        root: Digest,
        outcome: Result<(), ManifestsError>,
    ) -> Result<(), ManifestsError> {
        let mut state = self.state();
        state.coming.remove(&root);
        outcome?;
        if state.present.insert(root) {
            state.order.push_back(root);
        }
        if state.order.len() > PRESENT_MAX
            && let Some(oldest) = state.order.pop_front()
        {
            state.present.remove(&oldest);
        }
        Ok(())
    }

    async fn fetch<P: PageSource>(
        &self,
        root: Digest,
        present: Present,
        other: Option<&P>,
    ) -> Result<(), ManifestsError> {
        let now = tokio::time::Instant::now();
        let down = self
            .state()
            .archive_down_until
            .is_some_and(|until| until > now);
        if !down {
            let least_bytes = other.map_or(1, |_| ARCHIVE_LEAST_BYTES);
            match self.ask_archive(root, present, least_bytes).await? {
                true => return Ok(()),
                false => self.state().archive_down_until = Some(now + ARCHIVE_PAUSE),
            }
        }
        match other {
            Some(other) => self.ask_other(root, other).await,
            None => Err(ManifestsError::Nowhere(root)),
        }
    }

    /// False when the archive cannot give all of it, or next to nothing comes for a while.
    async fn ask_archive(
        &self,
        root: Digest,
        present: Present,
        least_bytes: u64,
    ) -> Result<bool, ManifestsError> {
        let cancel = CancellationToken::new();
        let options = FetchOptions {
            lane: Lane::Priority,
            cancel: cancel.clone(),
            ..FetchOptions::default()
        };
        let _ended = cancel.drop_guard();
        let sources = [self.0.archive.clone()];
        let progress = options.progress.clone();
        let mut fetch = std::pin::pin!(fetch_manifest(
            &sources,
            root,
            &self.0.store,
            present,
            &options
        ));
        let mut received = 0;
        loop {
            match tokio::time::timeout(ARCHIVE_STALL, &mut fetch).await {
                Ok(Ok(fetched)) => return Ok(fetched.is_whole()),
                Ok(Err(error)) => {
                    let error = wire::causes(&error);
                    tracing::warn!(%root, error, "manifest does not come from the archive");
                    return Ok(false);
                }
                Err(_) if progress.received_bytes() >= received + least_bytes => {
                    received = progress.received_bytes()
                }
                Err(_) => {
                    tracing::warn!(%root, "archive does not give the manifest");
                    return Ok(false);
                }
            }
        }
    }

    /// Level by level, each page checked against its digest. Inner pages are stored after all leaves,
    /// so that an interrupted walk leaves no page without those below it.
    async fn ask_other<P: PageSource>(
        &self,
        root: Digest,
        other: &P,
    ) -> Result<(), ManifestsError> {
        let asked = tokio::time::timeout(MIRROR_LIMIT, self.walk(root, other));
        asked.await.unwrap_or(Err(ManifestsError::Nowhere(root)))
    }

    async fn walk<P: PageSource>(&self, root: Digest, other: &P) -> Result<(), ManifestsError> {
        let mut level = vec![root];
        let mut seen = BTreeSet::new();
        let (mut inner, mut held_bytes) = (Vec::new(), 0);
        while !level.is_empty() {
            seen.extend(level.iter().copied());
            if seen.len() > PAGES_MAX {
                return Err(ManifestsError::TooLarge(root));
            }
            let mut below = BTreeSet::new();
            for some in level.chunks(PAGES_HELD) {
                let pages = stream::iter(some.to_vec()).map(|digest| self.page_from(digest, other));
                let pages: Vec<_> = pages.buffer_unordered(PAGES_AT_ONCE).collect().await;
                let mut leaves = Vec::new();
                for page in pages {
                    let (digest, bytes, page) = page?;
                    below.extend(page.children().filter(|child| !seen.contains(child)));
                    let is_leaf = page.children().next().is_none();
                    if !is_leaf {
                        held_bytes += bytes.as_ref().map_or(0, Vec::len);
                    }
                    if held_bytes > HELD_MAX_BYTES {
                        return Err(ManifestsError::TooLarge(root));
                    }
                    let stored = if is_leaf { &mut leaves } else { &mut inner };
                    stored.extend(bytes.map(|bytes| (digest, bytes)));
                }
                self.keep(leaves).await?;
            }
            level = below.into_iter().collect();
        }
        self.keep(inner).await
    }

    async fn keep(&self, pages: Vec<(Digest, Vec<u8>)>) -> Result<(), ManifestsError> {
        let store = self.0.store.clone();
        tokio::task::spawn_blocking(move || {
            let incoming = store.batch();
            for (digest, bytes) in pages {
                incoming.put(&digest, &bytes)?;
            }
            incoming.commit()
        })
        .await??;
        Ok(())
    }

    /// A page, and its bytes if they are not stored yet.
    async fn page_from<P: PageSource>(
        &self,
        digest: Digest,
        other: &P,
    ) -> Result<(Digest, Option<Vec<u8>>, Arc<Page>), ManifestsError> {
        let pages = self.0.pages.clone();
        let here = tokio::task::spawn_blocking(move || pages.page(&digest)).await?;
        if let Ok(page) = here {
            return Ok((digest, None, page));
        }
        let nowhere = || ManifestsError::Nowhere(digest);
        let bytes = other.page(&digest).await.ok_or_else(nowhere)?;
        if Digest::of(&bytes) != digest {
            return Err(nowhere());
        }
        let page = Page::decode(&bytes).map_err(|_| nowhere())?;
        Ok((digest, Some(bytes), Arc::new(page)))
    }

    /// Removes pages that no root of `keep` reaches; says how many.
    ///
    /// # Errors
    /// [`ManifestsError`] of the store.
    pub async fn sweep(&self, keep: Vec<Digest>) -> Result<u64, ManifestsError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.sweep_blocking(keep)).await?
    }

    fn sweep_blocking(&self, keep: Vec<Digest>) -> Result<u64, ManifestsError> {
        let Some(_lock) = self.0.store.try_sweep_lock()? else {
            return Ok(0);
        };
        // Whatever comes while pages are marked and removed is fetched again when it is asked for.
        let kept: BTreeSet<Digest> = keep.iter().copied().collect();
        self.state().present.retain(|root| kept.contains(root));
        self.state().order.retain(|root| kept.contains(root));
        let mut reached = BTreeSet::new();
        let mut open = keep;
        while let Some(digest) = open.pop() {
            if reached.insert(digest)
                && let Ok(page) = self.0.pages.page(&digest)
            {
                open.extend(page.children());
            }
        }
        let mut removed = 0;
        for digest in self.0.store.digests()? {
            let digest = digest?;
            if !reached.contains(&digest) {
                self.0.store.remove(&digest)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
