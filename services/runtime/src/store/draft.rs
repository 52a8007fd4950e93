//! Pages of a manifest that is being made: readable before their batch is committed.

use std::collections::HashMap;
use std::sync::Arc;

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{self, ManifestError, Page, PageRead, PageWrite};
use mirrorlog_core::statement::Delta;

use super::{Batch, Pages, Store, StoreError};

/// New pages kept decoded, at most: some 8 MiB. More are read back from where the batch has them.
const KEPT_MAX: usize = 128;

/// The new pages of a manifest, in a batch that is not committed yet.
///
/// What a change needs is then durable with what its files need: one commit, not two.
#[derive(Debug)]
pub struct Draft {
    batch: Batch,
    kept: Recalled,
}

/// Decoded pages that a store is about to have, for [`Pages::recall`].
#[derive(Debug, Default)]
pub struct Recalled(pub(super) HashMap<Digest, (Arc<Page>, usize)>);

impl Draft {
    /// An empty one.
    pub fn new(store: &Store) -> Self {
        Self {
            batch: store.batch(),
            kept: Recalled::default(),
        }
    }

    /// The new pages of `root`, which `delta` makes of `base` (`None`: of nothing). `None` when it gives another root:
    /// whoever said so is not believed.
    ///
    /// # Errors
    /// Those of [`manifest::apply`]: pages of the base that are not here or are damaged, changes out of order.
    pub fn apply(
        pages: &Pages,
        base: Option<&Digest>,
        delta: &Delta,
        root: &Digest,
    ) -> Result<Option<Self>, ManifestError<StoreError, StoreError>> {
        let mut draft = Self::new(pages.store());
        let summary = manifest::apply(pages, &mut draft, base, delta)?;
        if summary.root != *root {
            tracing::warn!(expected = %root, found = %summary.root, "delta gives another root");
            return Ok(None);
        }
        Ok(Some(draft))
    }

    /// Makes its pages durable, and keeps them in memory for whoever reads them next.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Io`].
    pub fn settle(self, pages: &Pages) -> Result<(), StoreError> {
        self.batch.commit()?;
        pages.recall(self.kept);
        Ok(())
    }

    /// Reads these pages, and those that are not new from `pages`.
    pub const fn over<'a>(&'a self, pages: &'a Pages) -> Drafted<'a> {
        Drafted { draft: self, pages }
    }

    /// The batch, to be committed, and what may be remembered once it is.
    pub fn into_parts(self) -> (Batch, Recalled) {
        (self.batch, self.kept)
    }
}

impl PageWrite for &mut Draft {
    type Error = StoreError;

    fn put_page(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<(), StoreError> {
        // A page that was here already is read from the disk, where it may have rotted.
        let written = self.batch.put_hashed(&digest, &bytes)?;
        if written && self.kept.0.len() < KEPT_MAX {
            let page = Page::decode(&bytes);
            let page = page.map_err(|source| StoreError::Page { digest, source })?;
            self.kept.0.insert(digest, (Arc::new(page), bytes.len()));
        }
        Ok(())
    }
}

/// A draft over the pages of a store.
#[derive(Clone, Copy, Debug)]
pub struct Drafted<'a> {
    draft: &'a Draft,
    pages: &'a Pages,
}

impl PageRead for Drafted<'_> {
    type Error = StoreError;

    fn page(&self, digest: &Digest) -> Result<Arc<Page>, StoreError> {
        if let Some((page, _)) = self.draft.kept.0.get(digest) {
            return Ok(Arc::clone(page));
        }
        match self.draft.batch.read_back(digest)? {
            Some(bytes) => super::pages::decode(digest, &bytes).map(Arc::new),
            None => self.pages.page(digest),
        }
    }
}
