//! Which blobs a store has, asked for many at once.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use mirrorlog_core::id::Digest;
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::batch::is_settled;
use super::{Batch, Store, StoreError};

/// Leading bytes of a digest that are kept of each name; with the folder's one, 128 bits: enough that
/// no two contents are ever taken for one.
const KEPT_BYTES: usize = 15;
const FOLDERS: usize = 256;
/// Folders are listed when the store has at most this many names for each one that will be asked for.
const NAMES_FOR_EACH: u64 = 8;
/// Names that may be in memory, 15 bytes each.
const NAMES_MAX: u64 = 4 << 20;
/// Questions from which on every folder is asked for, so that all are listed at once.
const LIST_ALL_FROM: u64 = 16 * FOLDERS as u64;
/// Names of one folder are found by their first byte: few have the same.
const DRAWERS: usize = 256;
/// Buffer for a folder's names, in bytes.
const LIST_BYTES: usize = 32 * 1024;

/// Answers [`Batch::has`] for many digests: reads the store's folders, which costs a tenth of looking
/// at each name. Where that would not pay, or take too much memory (more than 64 MiB), it looks.
///
/// For whoever holds a [`Pin`](super::Pin): what is there stays. What comes meanwhile is looked for.
#[derive(Debug)]
pub struct Names {
    store: Store,
    pays: bool,
    folders: Vec<Option<Folder>>,
}

#[derive(Debug)]
struct Folder {
    /// In order.
    names: Vec<[u8; KEPT_BYTES]>,
    /// Where the names of each first byte begin, and where the last ones end.
    drawers: Vec<u32>,
    /// All of them are so old that they are on the disk.
    settled: bool,
}

impl Names {
    /// For about `asked` questions.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn new(store: &Store, asked: u64) -> Result<Self, StoreError> {
        let mut folders: Vec<Option<Folder>> =
            std::iter::repeat_with(|| None).take(FOLDERS).collect();
        // Digests are even: one folder tells of all.
        let first = Folder::list(store, 0)?;
        let about = (first.names.len() as u64).saturating_mul(FOLDERS as u64);
        folders[0] = Some(first);
        let mut names = Self {
            store: store.clone(),
            pays: about <= NAMES_MAX.min(asked.saturating_mul(NAMES_FOR_EACH)),
            folders,
        };
        if names.pays && asked >= LIST_ALL_FROM {
            names.list_all()?;
        }
        Ok(names)
    }

    /// Lists what is not listed yet, on all cores.
    fn list_all(&mut self) -> Result<(), StoreError> {
        let store = &self.store;
        let listed: Vec<Result<(), StoreError>> = self
            .folders
            .par_iter_mut()
            .zip(0..=u8::MAX)
            .filter(|(slot, _)| slot.is_none())
            .map(|(slot, first)| {
                *slot = Some(Folder::list(store, first)?);
                Ok(())
            })
            .collect();
        listed.into_iter().collect()
    }

    /// True when the store or `batch` has it. As [`Batch::has`], it makes it durable with the next commit.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn have(&mut self, batch: &Batch, digest: &Digest) -> Result<bool, StoreError> {
        if !self.pays {
            return batch.has(digest);
        }
        let [first, rest @ ..] = digest.as_bytes();
        let slot = &mut self.folders[usize::from(*first)];
        let folder = match slot {
            Some(folder) => folder,
            None => slot.insert(Folder::list(&self.store, *first)?),
        };
        let kept = rest.first_chunk::<KEPT_BYTES>();
        if !kept.is_some_and(|kept| folder.has(kept)) {
            return batch.has(digest);
        }
        if !folder.settled {
            batch.unsettled();
        }
        Ok(true)
    }
}

impl Folder {
    fn list(store: &Store, first: u8) -> Result<Self, StoreError> {
        let name = hex::encode([first]);
        let failed = |e: Errno| StoreError::io("list", &store.dir().join(&name), e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match rustix::fs::openat(&store.0.folder, &name, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => {
                return Ok(Self::new(Vec::new(), true));
            }
            Err(e) => return Err(failed(e)),
        };
        let mut names = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); LIST_BYTES];
        let mut listed = RawDir::new(&folder, &mut buffer);
        while let Some(entry) = listed.next() {
            names.extend(kept(entry.map_err(failed)?.file_name()));
        }
        names.sort_unstable();
        names.shrink_to_fit();
        // Looked at after the names: one that came before this did not come later.
        let settled = is_settled(&rustix::fs::fstat(&folder).map_err(failed)?);
        Ok(Self::new(names, settled))
    }

    fn new(names: Vec<[u8; KEPT_BYTES]>, settled: bool) -> Self {
        let begin =
            |first: usize| names.partition_point(|name| usize::from(name[0]) < first) as u32;
        let drawers = (0..=DRAWERS).map(begin).collect();
        Self {
            names,
            drawers,
            settled,
        }
    }

    fn has(&self, name: &[u8; KEPT_BYTES]) -> bool {
        let first = usize::from(name[0]);
        let drawer = self.drawers[first] as usize..self.drawers[first + 1] as usize;
        self.names[drawer].contains(name)
    }
}

/// `None`: not named by a digest, so not ours.
fn kept(name: &CStr) -> Option<[u8; KEPT_BYTES]> {
    let name = name.to_bytes();
    let mut kept = [0; KEPT_BYTES];
    let whole = name.len() == 62 && name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (whole && hex::decode_to_slice(&name[..2 * KEPT_BYTES], &mut kept).is_ok()).then_some(kept)
}
