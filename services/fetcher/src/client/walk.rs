//! Fetches the pages of a manifest that are missing here.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::PAGE_MAX_BYTES;
use mirrorlog_core::manifest::Page;
use runtime::store::{Store, StoreError};

use super::{FetchError, FetchOptions, Fetched, HELD_MAX_BYTES, Kind, Source, Wanted, engine};

/// What a page that is here already says about the pages below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    /// They are here too: the cost is that of the missing pages. True of stores that were only written by
    /// [`fetch_manifest`] and by whole builds.
    Whole,
    /// Nothing: every page of the manifest is looked at. For repair after a crash, a lost disk block or a broken sweep.
    Unknown,
}

/// Fetches what is missing of the manifest `root` into `store`.
///
/// Pages are asked for as soon as the page above them is here, and each is decoded and checked. Inner
/// pages are stored after all leaves, so an interrupted walk leaves no page without those below it.
///
/// # Errors
/// See [`FetchError`]. Absent and failed pages are no error: see [`Fetched`].
pub async fn fetch_manifest(
    sources: &[Source],
    root: Digest,
    store: &Store,
    present: Present,
    options: &FetchOptions,
) -> Result<Fetched, FetchError> {
    let walk = Walk {
        store: store.clone(),
        present,
        held_max_bytes: HELD_MAX_BYTES,
        state: Mutex::default(),
    };
    let (walk, wants) = tokio::task::spawn_blocking(move || {
        let has = |digest: &Digest| Ok(walk.store.size(digest)?.is_some());
        let wants = walk.missing(vec![root], has)?;
        Ok::<_, FetchError>((walk, wants))
    })
    .await??;
    if wants.is_empty() {
        return Ok(Fetched::default());
    }
    engine::run(
        sources,
        futures::stream::iter(wants),
        store.batch(),
        options,
        Some(walk),
    )
    .await
}

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk {
    store: Store,
    present: Present,
    held_max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Pages met so far: a shared one is looked at once.
    seen: HashSet<Digest>,
    /// Inner pages, each after the one above it. Few: one in a hundred.
    held: Vec<(Digest, Bytes)>,
    held_bytes: usize,
}

/// What a page turned out to be.
#[derive(Debug)]
pub(super) enum Found {
    Leaf,
    /// Kept back; these pages below it are to be fetched.
    Inner(Vec<Wanted>),
}

impl Walk {
    /// Checks a page that arrived. `has` says whether the store has a page.
    pub(super) fn page(
        &self,
        digest: &Digest,
        bytes: &Bytes,
        has: impl Fn(&Digest) -> Result<bool, StoreError>,
    ) -> Result<Found, FetchError> {
        let found = Digest::of(bytes);
        if found != *digest {
            return Err(StoreError::Mismatch {
                expected: *digest,
                found,
            }
            .into());
        }
        let children = children(digest, bytes)?;
        if children.is_empty() {
            return Ok(Found::Leaf);
        }
        {
            let mut state = self.lock();
            state.held_bytes += bytes.len();
            if state.held_bytes > self.held_max_bytes {
                return Err(FetchError::TooLarge { digest: *digest });
            }
            state.held.push((*digest, bytes.clone()));
        }
        Ok(Found::Inner(self.missing(children, has)?))
    }

    /// Inner pages in the order in which they are to be stored: lowest first.
    pub(super) fn take_held(&self) -> Vec<(Digest, Bytes)> {
        let mut held = std::mem::take(&mut self.lock().held);
        held.reverse();
        held
    }

    /// Which of these pages, and of those below them, are to be fetched.
    fn missing(
        &self,
        mut pages: Vec<Digest>,
        has: impl Fn(&Digest) -> Result<bool, StoreError>,
    ) -> Result<Vec<Wanted>, FetchError> {
        let mut missing = Vec::new();
        while let Some(digest) = pages.pop() {
            if !self.lock().seen.insert(digest) {
                continue;
            }
            if !has(&digest)? {
                missing.push(Wanted {
                    digest,
                    size_bytes: PAGE_MAX_BYTES as u64,
                    kind: Kind::Page,
                });
                continue;
            }
            match self.present {
                Present::Whole => {}
                Present::Unknown => match self.store.read(&digest, PAGE_MAX_BYTES) {
                    Ok(Some(bytes)) => pages.extend(children(&digest, &bytes)?),
                    Ok(None) => missing.push(Wanted {
                        digest,
                        size_bytes: PAGE_MAX_BYTES as u64,
                        kind: Kind::Page,
                    }),
                    Err(StoreError::Mismatch { .. }) => {
                        self.store.quarantine(&digest)?;
                        missing.push(Wanted {
                            digest,
                            size_bytes: PAGE_MAX_BYTES as u64,
                            kind: Kind::Page,
                        });
                    }
                    // Disk blocks that cannot be read are lost as well.
                    Err(error) => match self.store.check(&digest) {
                        Ok(Some(false)) => {
                            self.store.quarantine(&digest)?;
                            missing.push(Wanted {
                                digest,
                                size_bytes: PAGE_MAX_BYTES as u64,
                                kind: Kind::Page,
                            });
                        }
                        Ok(Some(true) | None) | Err(_) => return Err(error.into()),
                    },
                },
            }
        }
        Ok(missing)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn children(digest: &Digest, bytes: &[u8]) -> Result<Vec<Digest>, FetchError> {
    let page = Page::decode(bytes).map_err(|source| FetchError::Page {
        digest: *digest,
        source,
    })?;
    Ok(page.children().collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mirrorlog_core::manifest::memory::MemoryPages;
    use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode, PageRead as _};
    use mirrorlog_core::path::EntryPath;
    use mirrorlog_core::time::Mtime;

    use super::*;

    #[test]
    fn attack_inner_pages_without_end_are_not_held() {
        let pages = MemoryPages::new();
        let mut builder = Builder::new(&pages);
        for number in 0..2000 {
            let path = EntryPath::new(format!("{number:06}").as_bytes()).unwrap();
            let entry = FileEntry {
                size_bytes: 1,
                digest: Digest::of(b"x"),
                mode: Mode::Plain,
                mtime: Mtime::from_seconds(0),
            };
            builder.push(&path, &Entry::File(entry)).unwrap();
        }
        let root = builder.finish().unwrap().root;
        assert!(pages.page(&root).unwrap().children().next().is_some());
        let bytes: Bytes = pages.bytes(&root).unwrap().into();
        let dir = tempfile::tempdir().unwrap();
        let walk = |held_max_bytes| Walk {
            store: Store::open(dir.path()).unwrap(),
            present: Present::Whole,
            held_max_bytes,
            state: Mutex::default(),
        };
        let nothing = |_: &Digest| Ok(false);
        let enough = walk(bytes.len());
        assert!(matches!(
            enough.page(&root, &bytes, nothing),
            Ok(Found::Inner(_))
        ));
        // One more of the same size is too much.
        let more = enough.page(&root, &bytes, nothing).unwrap_err();
        assert!(matches!(more, FetchError::TooLarge { .. }), "{more}");
        assert_eq!(enough.take_held().len(), 1);
        let less = walk(bytes.len() - 1).page(&root, &bytes, nothing);
        assert!(matches!(less, Err(FetchError::TooLarge { .. })));
    }
}
