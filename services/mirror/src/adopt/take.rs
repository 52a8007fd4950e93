//! What a tree has of some builds, hashed and put into the store. What is there already is not read again, so a run
//! that was interrupted goes on where its last commit was.
//!
//! Symlinks are followed as far as they stay in the tree. A file that is reached through others belongs to somebody
//! else: a second name for it in the store would be one that its owner can write through.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{self, FileEntry};
use rayon::prelude::*;
use runtime::beneath::{Links, Top};
use runtime::store::{Batch, Pages, Pin, Store, StoreError};

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::{AdoptError, Wanted};

/// Decoded pages kept while manifests are walked, in bytes.
const PAGES_CACHED_BYTES: usize = 8 * 1024 * 1024;
/// Files that are looked at together.
const LOOKED_AT_ONCE: usize = 4096;
/// Files and bytes after which what was taken is made durable.
const COMMIT_FILES: usize = 16_384;
const COMMIT_BYTES: u64 = 4 << 30;
/// Contents whose place in the tree is searched when they are not at their own path; further ones are fetched.
const MOVED_MAX: usize = 1 << 20;

/// Files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// How far it has come. Read while it runs.
#[derive(Debug, Default)]
pub struct Taking {
    read_bytes: AtomicU64,
}

impl Taking {
    /// Bytes of the tree that were hashed.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }
}

/// What came of it. Each content counts once, however many paths it has.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// In the store now, or found in the tree by a dry run.
    pub have: Amount,
    /// Of that, what the tree gave in this run.
    pub taken: Amount,
    /// Left to be fetched.
    pub missing: Amount,
    /// Bytes of the tree that were hashed.
    pub hashed_bytes: u64,
    /// Bytes that could not be shared with the tree, and take room of their own (or share extents only).
    pub copied_bytes: u64,
    /// Files and folders of the tree that could not be read, or lie behind a symlink that leads out of it, and were
    /// passed over.
    pub unread: u64,
    /// The first of them.
    pub first_unread: Option<PathBuf>,
}

/// A tree and the builds that it is compared with.
pub struct Take {
    store: Store,
    _pin: Pin,
    wanted: Vec<Wanted>,
    from: PathBuf,
}

/// A content that a build has.
#[derive(Clone)]
struct Content {
    /// Below the tree.
    path: Vec<u8>,
    file: FileEntry,
}

impl Take {
    pub(super) fn new(store: Store, pin: Pin, wanted: Vec<Wanted>, from: &Path) -> Self {
        Self {
            store,
            _pin: pin,
            wanted,
            from: from.to_owned(),
        }
    }

    /// The builds that it is compared with.
    pub fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }

    /// Hashes what may be of use, and puts it into the store. A dry run stores nothing; it takes files of the right
    /// size and date at their own path for what they should be, and hashes only the others. Blocks.
    ///
    /// # Errors
    /// [`AdoptError`] of the tree, the store or the manifests. What was made durable stays.
    pub fn run(&self, dry: bool, taking: &Taking) -> Result<Taken, AdoptError> {
        let pages = Pages::new(self.store.clone(), PAGES_CACHED_BYTES);
        let top = Top::open(&self.from).map_err(|source| AdoptError::Tree {
            path: self.from.clone(),
            source,
        })?;
        let mut run = Run {
            take: self,
            top,
            dry,
            taking,
            batch: self.store.batch(),
            batched_bytes: 0,
            taken: Taken::default(),
            seen: HashSet::new(),
            moved: BTreeMap::new(),
            unread: Mutex::default(),
            unread_count: AtomicU64::new(0),
            copied_bytes: AtomicU64::new(0),
        };
        let walked = self.walk(&pages, &mut run);
        // Whatever ended it: what was hashed so far is not lost.
        let taken = run.end();
        walked.and(taken)
    }

    fn walk(&self, pages: &Pages, run: &mut Run<'_>) -> Result<(), AdoptError> {
        let mut some = Vec::new();
        for wanted in &self.wanted {
            for item in manifest::iter(pages, &wanted.root, b"", None) {
                let (_, path, entry) = item.map_err(|e| AdoptError::Read(Box::new(e)))?;
                let Some(file) = entry.file() else { continue };
                if !wanted.selection.has(&path) {
                    continue;
                }
                some.push(Content {
                    path: path.as_bytes().to_vec(),
                    file: *file,
                });
                if some.len() >= LOOKED_AT_ONCE {
                    run.at_their_paths(std::mem::take(&mut some))?;
                }
            }
        }
        run.at_their_paths(some)?;
        run.elsewhere()
    }
}

struct Run<'a> {
    take: &'a Take,
    top: Top,
    dry: bool,
    taking: &'a Taking,
    batch: Batch,
    batched_bytes: u64,
    taken: Taken,
    /// Contents that are counted. Digests are random already: the first eight bytes tell them apart well enough to
    /// count, and never decide what is stored.
    seen: HashSet<u64>,
    /// Contents that are not at their own path, by size.
    moved: BTreeMap<u64, BTreeSet<Digest>>,
    unread: Mutex<Vec<PathBuf>>,
    unread_count: AtomicU64,
    copied_bytes: AtomicU64,
}

/// What a look at one content says.
enum Look {
    Stored,
    Taken,
    Elsewhere,
}

fn short(digest: &Digest) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

impl Run<'_> {
    fn at_their_paths(&mut self, mut some: Vec<Content>) -> Result<(), AdoptError> {
        some.retain(|content| self.seen.insert(short(&content.file.digest)));
        let looks: Result<Vec<Look>, AdoptError> =
            some.par_iter().map(|content| self.look(content)).collect();
        for (content, look) in some.iter().zip(looks?) {
            let size_bytes = content.file.size_bytes;
            match look {
                Look::Stored => self.taken.have.add(size_bytes),
                Look::Taken => self.count_taken(size_bytes),
                Look::Elsewhere => {
                    self.taken.missing.add(size_bytes);
                    if self.moved.len() < MOVED_MAX {
                        let same_size = self.moved.entry(size_bytes).or_default();
                        same_size.insert(content.file.digest);
                    }
                }
            }
        }
        self.commit_when_large()
    }

    fn count_taken(&mut self, size_bytes: u64) {
        self.taken.have.add(size_bytes);
        self.taken.taken.add(size_bytes);
        self.batched_bytes += size_bytes;
    }

    fn look(&self, content: &Content) -> Result<Look, AdoptError> {
        let Content { path, file } = content;
        if self.take.store.size(&file.digest)?.is_some() {
            return Ok(Look::Stored);
        }
        let Some((open, mtime)) = self.open(path, file.size_bytes) else {
            return Ok(Look::Elsewhere);
        };
        if self.dry && mtime == file.mtime.as_seconds() {
            return Ok(Look::Taken);
        }
        // The file that is no longer what it was when the build was made is what a mirror of it lacks.
        let found = self.hash(path, &open, file.size_bytes, Some(&file.digest))?;
        Ok(match found == Some(file.digest) {
            true => Look::Taken,
            false => Look::Elsewhere,
        })
    }

    /// Hashes a file; it is stored when it is what was expected, or one of what is missing when nothing special is.
    /// None when it cannot be read.
    fn hash(
        &self,
        path: &[u8],
        open: &File,
        size_bytes: u64,
        expected: Option<&Digest>,
    ) -> Result<Option<Digest>, AdoptError> {
        self.taking
            .read_bytes
            .fetch_add(size_bytes, Ordering::Relaxed);
        let Ok(found) = runtime::store::hash(open) else {
            self.cannot_read(path);
            return Ok(None);
        };
        let wanted = match expected {
            Some(expected) => found == *expected,
            None => self
                .moved
                .get(&size_bytes)
                .is_some_and(|some| some.contains(&found)),
        };
        if wanted && !self.dry {
            match self.batch.link_hashed(open, &found) {
                // It changed while it was copied: then it is not what is wanted.
                Err(StoreError::Mismatch { .. }) => return Ok(None),
                linked => {
                    if linked? {
                        self.copied_bytes.fetch_add(size_bytes, Ordering::Relaxed);
                    }
                }
            }
        }
        Ok(Some(found))
    }

    /// Goes on without: it is fetched.
    fn cannot_read(&self, path: &[u8]) {
        self.unread_count.fetch_add(1, Ordering::Relaxed);
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        if unread.is_empty() {
            unread.push(self.top.shown(path));
        }
    }

    /// Looks for what is missing under other names: files that were renamed, or that have two.
    fn elsewhere(&mut self) -> Result<(), AdoptError> {
        if self.moved.is_empty() {
            return Ok(());
        }
        let mut folders: Vec<Vec<u8>> = vec![Vec::new()];
        let mut some = Vec::new();
        while let Some(folder) = folders.pop() {
            if self.list(&folder, &mut folders, &mut some).is_err() {
                self.cannot_read(&folder);
            }
            if some.len() >= LOOKED_AT_ONCE {
                self.under_other_names(std::mem::take(&mut some))?;
            }
        }
        self.under_other_names(some)
    }

    /// Adds a folder's folders, and its files that are of a size that is missing.
    fn list(
        &self,
        folder: &[u8],
        folders: &mut Vec<Vec<u8>>,
        some: &mut Vec<(Vec<u8>, u64)>,
    ) -> Result<(), Errno> {
        let open = self.top.folder(folder, Links::Refused)?;
        for item in Dir::read_from(&open)? {
            let item = item?;
            let name = item.file_name().to_bytes();
            if [&b"."[..], b".."].contains(&name) {
                continue;
            }
            // Gone by now, if it has no kind or size.
            let Ok(stat) = rustix::fs::statat(&open, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let slash: &[u8] = if folder.is_empty() { b"" } else { b"/" };
            let path = [folder, slash, name].concat();
            let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && self.moved.contains_key(&size_bytes) {
                some.push((path, size_bytes));
            }
        }
        Ok(())
    }

    fn under_other_names(&mut self, some: Vec<(Vec<u8>, u64)>) -> Result<(), AdoptError> {
        let found: Result<Vec<Option<Digest>>, AdoptError> = some
            .par_iter()
            .map(|(path, size_bytes)| {
                let open = self.open(path, *size_bytes);
                let found = open.map(|(open, _)| self.hash(path, &open, *size_bytes, None));
                Ok(found.transpose()?.flatten())
            })
            .collect();
        for ((_, size_bytes), digest) in some.iter().zip(found?) {
            let Some(same_size) = self.moved.get_mut(size_bytes) else {
                continue;
            };
            if digest.is_some_and(|digest| same_size.remove(&digest)) {
                self.count_taken(*size_bytes);
                let missing = &mut self.taken.missing;
                missing.files = missing.files.saturating_sub(1);
                missing.bytes = missing.bytes.saturating_sub(*size_bytes);
            }
        }
        self.commit_when_large()
    }

    fn commit_when_large(&mut self) -> Result<(), AdoptError> {
        if self.batch.len() >= COMMIT_FILES || self.batched_bytes >= COMMIT_BYTES {
            let full = std::mem::replace(&mut self.batch, self.take.store.batch());
            full.commit()?;
            self.batched_bytes = 0;
        }
        Ok(())
    }

    fn end(mut self) -> Result<Taken, AdoptError> {
        self.batch.commit()?;
        self.taken.hashed_bytes = self.taking.read_bytes();
        self.taken.copied_bytes = self.copied_bytes.into_inner();
        self.taken.unread = self.unread_count.into_inner();
        let unread = self
            .unread
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        self.taken.first_unread = unread.into_iter().next();
        Ok(self.taken)
    }

    /// A file of that size and when it was changed, in seconds; none when there is no such thing, or it is gone by now.
    fn open(&self, path: &[u8], size_bytes: u64) -> Option<(File, i64)> {
        match self.top.file(path, Links::Inside) {
            Ok((file, stat)) => {
                (u64::try_from(stat.st_size) == Ok(size_bytes)).then_some((file, stat.st_mtime))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => None,
            Err(_unreadable) => {
                self.cannot_read(path);
                None
            }
        }
    }
}
