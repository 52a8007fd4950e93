//! What a store need not keep: a mark over the manifests of what it must.

use std::collections::{BTreeSet, HashSet};

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{self, ManifestError, PageRead as _};
use mirrorlog_core::view::Selection;

use super::{Filter, Pages, StoreError};

/// Entries that one pass over the manifests marks in 8 MiB. Of what no build names, one in 5,000 is then taken for
/// marked, and stays.
const MARKED_MAX: u64 = 1 << 21;

/// What a store must keep.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Builds that are whole here, by their roots, and what of them is needed.
    pub whole: Vec<(Digest, Selection)>,
    /// Builds on their way: what is here of them.
    pub coming: BTreeSet<Digest>,
    /// Builds of which only the manifest is kept, as far as it is here.
    pub manifests: BTreeSet<Digest>,
}

/// Why nothing can be marked.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A manifest that must be whole cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError<StoreError>),
}

impl Keep {
    /// Digests in the store that nothing here names; `None` when halted. Blocks. Passes over parts of the digest space
    /// bound the memory; a little that nothing names stays.
    ///
    /// # Errors
    /// [`MarkError`]: nothing may be removed.
    pub fn unused(
        &self,
        pages: &Pages,
        halted: &dyn Fn() -> bool,
    ) -> Result<Option<BTreeSet<Digest>>, MarkError> {
        let mut entries = 0;
        for (root, _) in &self.whole {
            entries += pages.page(root)?.entries();
        }
        for root in &self.coming {
            entries += pages.page(root).map_or(0, |page| page.entries());
        }
        let passes = u8::try_from(entries / MARKED_MAX + 1).unwrap_or(u8::MAX);
        let about = entries / u64::from(passes);
        let mut unused = BTreeSet::new();
        for pass in 0..passes {
            let mine = |digest: &Digest| digest.as_bytes()[31] % passes == pass;
            let Some(used) = self.used(pages, about, &mine, halted)? else {
                return Ok(None);
            };
            for digest in pages.store().digests()? {
                let digest = digest?;
                if mine(&digest) && !used.contains(&digest) {
                    unused.insert(digest);
                }
            }
        }
        Ok(Some(unused))
    }

    /// Marks what the builds name, about so many digests; a little more than that counts as marked.
    fn used(
        &self,
        pages: &Pages,
        about: u64,
        mine: &dyn Fn(&Digest) -> bool,
        halted: &dyn Fn() -> bool,
    ) -> Result<Option<Filter>, MarkError> {
        let mut used = Filter::new(about);
        let mut walked = HashSet::new();
        let mut before: Option<&(Digest, Selection)> = None;
        for one @ (root, selection) in &self.whole {
            let mut below = vec![*root];
            while let Some(digest) = below.pop() {
                if walked.insert(digest) {
                    below.extend(pages.page(&digest)?.children());
                }
            }
            // What another part names is another set.
            let known = before.filter(|(_, of)| of == selection);
            for difference in manifest::diff(pages, known.map(|(root, _)| root), Some(root)) {
                if halted() {
                    return Ok(None);
                }
                let difference = difference?;
                let new = difference.new.filter(|_| selection.has(&difference.path));
                let file = new.and_then(|(_, entry)| entry.file().copied());
                mark(&mut used, file.map(|file| file.digest), mine);
            }
            before = Some(one);
        }
        let here = |root: &Digest| self.coming.contains(root);
        let roots = self.coming.iter().chain(&self.manifests);
        for root in roots {
            let marked = mark_what_is_here(pages, *root, here(root), &mut walked, halted)?;
            let Some(files) = marked else {
                return Ok(None);
            };
            mark(&mut used, files, mine);
        }
        mark(&mut used, walked, mine);
        Ok(Some(used))
    }
}

/// Walks the pages of a build that are here, and gives the files that they name when those are wanted; `None` when
/// halted. What pages name that are not here is not known to be needed.
fn mark_what_is_here(
    pages: &Pages,
    root: Digest,
    files_too: bool,
    walked: &mut HashSet<Digest>,
    halted: &dyn Fn() -> bool,
) -> Result<Option<Vec<Digest>>, StoreError> {
    let (mut below, mut files) = (vec![root], Vec::new());
    while let Some(digest) = below.pop() {
        if halted() {
            return Ok(None);
        }
        let page = match pages.page(&digest) {
            Ok(page) => page,
            // Not here yet, or on its way again; what is damaged must not be taken for that where it is kept for ever.
            Err(error) if files_too || matches!(error, StoreError::Absent(_)) => continue,
            Err(error) => return Err(error),
        };
        if !walked.insert(digest) {
            continue;
        }
        below.extend(page.children());
        if page.level() == 0 && files_too {
            let named = manifest::iter(pages, &digest, b"", None)
                .filter_map(Result::ok)
                .filter_map(|(_, _, entry)| entry.file().map(|file| file.digest));
            files.extend(named);
        }
    }
    Ok(Some(files))
}

fn mark(
    used: &mut Filter,
    digests: impl IntoIterator<Item = Digest>,
    mine: &dyn Fn(&Digest) -> bool,
) {
    for digest in digests.into_iter().filter(mine) {
        used.insert(&digest);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::Store;

    /// A page of one file and a page above it, of which only some are in the store.
    #[test]
    fn invariant_what_has_come_of_a_build_on_its_way_is_used() {
        use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode};
        use mirrorlog_core::path::EntryPath;
        use mirrorlog_core::time::Mtime;

        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let batch = store.batch();
        let mut builder = Builder::new(&batch);
        let contents: Vec<Digest> = (0..5000_u32)
            .map(|n| Digest::of(&n.to_le_bytes()))
            .collect();
        for (number, digest) in contents.iter().enumerate() {
            let file = FileEntry {
                digest: *digest,
                size_bytes: 4,
                mode: Mode::Plain,
                mtime: Mtime::from_seconds(0),
            };
            let path = EntryPath::new(format!("{number:05}").as_bytes()).unwrap();
            builder.push(&path, &Entry::File(file)).unwrap();
        }
        let root = builder.finish().unwrap().root;
        batch.commit().unwrap();
        let pages = Pages::new(store.clone(), 1 << 20);
        let lost = pages.page(&root).unwrap().children().next().unwrap();
        store.remove(&lost).unwrap();
        let pages = Pages::new(store, 1 << 20);
        let keep = Keep {
            coming: BTreeSet::from([root]),
            ..Keep::default()
        };
        let found = keep
            .used(&pages, 5000, &|_| true, &|| false)
            .unwrap()
            .unwrap();
        assert!(found.contains(&root) && !found.contains(&contents[0]));
        assert!(found.contains(&contents[4999]));
        let halted = keep.used(&pages, 5000, &|_| true, &|| true);
        assert!(halted.unwrap().is_none());
        // Of a build whose manifest alone is kept, pages are needed and content is not.
        let keep = Keep {
            manifests: BTreeSet::from([root]),
            ..Keep::default()
        };
        let found = keep
            .used(&pages, 5000, &|_| true, &|| false)
            .unwrap()
            .unwrap();
        assert!(found.contains(&root) && !found.contains(&contents[4999]));
    }
}
