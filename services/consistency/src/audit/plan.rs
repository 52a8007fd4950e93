//! Which files an audit asks for: everything new as far as it goes, what was bad before, and a sample.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use mirrorlog_core::consistency::{Audit, Depth as AuditDepth, Scope};
use mirrorlog_core::id::{Digest, Ordinal};
use mirrorlog_core::manifest::{self, Entry, FileEntry, ManifestError, PageRead as _};
use mirrorlog_core::path::{EntryPath, Found, Resolved, resolve};
use mirrorlog_core::view::{Selection, View};
use runtime::store::{Pages, StoreError};

/// New files looked at again under the live URL: they were checked under the pinned one.
const LIVE_NEW_MAX: usize = 64;
/// Entries of a folder that are looked at for a file to ask for through a symlink.
const LINKED_MAX: usize = 64;
/// Entries that are drawn at most for one that is selected and was not drawn before.
const DRAWS_FOR_ONE: usize = 64;
/// Files of a small part that are remembered.
const PART_MAX: usize = 4096;
/// Differences remembered: mirrors of one archive go from build to build together.
const DIFFS_MAX: usize = 16;

/// How closely a file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// All its bytes.
    Whole,
    /// Length and tag.
    Glance,
}

/// A file to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: EntryPath,
    pub(super) entry: FileEntry,
    pub(super) depth: Depth,
    /// Drawn at random from all of the build: it says something of those that are not asked for.
    pub(super) sampled: bool,
}

/// What an audit asks for.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) files: Vec<File>,
    /// Files that the base has not.
    pub(super) new_files: u64,
}

/// Files of a build that its base has not: how many, and those of them that are asked for.
#[derive(Debug)]
struct New {
    count: u64,
    files: Vec<(EntryPath, FileEntry)>,
}

/// What of which build.
#[derive(Clone, Copy)]
struct Of<'a> {
    root: &'a Digest,
    selection: &'a Selection,
}

impl New {
    /// At most so many of them, at random.
    fn some(&self, most: usize) -> Self {
        Self {
            count: self.count,
            files: pick(&self.files, most).into_iter().cloned().collect(),
        }
    }
}

type DiffKey = (Option<Digest>, Digest, View);
type Diffs = VecDeque<(DiffKey, Arc<New>)>;
type PlanError = ManifestError<StoreError>;

/// Chooses files. Cheap to clone.
#[derive(Clone)]
pub(super) struct Planner {
    pages: Pages,
    sample: usize,
    new_files_max: usize,
    diffs: Arc<Mutex<Diffs>>,
}

impl Planner {
    pub(super) fn new(pages: Pages, sample: usize, new_files_max: usize) -> Self {
        Self {
            pages,
            sample,
            new_files_max,
            diffs: Arc::default(),
        }
    }

    /// Chooses files of `audit`, whose manifest and whose `base`'s must be here. Blocks.
    pub(super) fn plan(&self, audit: &Audit, base: Option<Digest>) -> Result<Plan, PlanError> {
        let of = Of {
            root: &audit.root,
            selection: &audit.selection,
        };
        let mut chosen: BTreeMap<EntryPath, FileEntry> = BTreeMap::new();
        for path in &audit.suspects {
            chosen.extend(self.served(of, path)?);
        }
        for ordinal in &audit.lost {
            chosen.extend(self.file_at(of, *ordinal)?);
        }
        let known = chosen.clone().into_iter();
        let mut must: Vec<(EntryPath, FileEntry, bool)> =
            known.map(|(path, file)| (path, file, false)).collect();
        let mut new_files = 0;
        if audit.depth == AuditDepth::First {
            let new = self.new_files(base, of)?;
            new_files = new.count;
            let most = if audit.scope == Scope::Live {
                LIVE_NEW_MAX
            } else {
                new.files.len()
            };
            for (path, file) in pick(&new.files, most) {
                if chosen.insert(path.clone(), *file).is_none() {
                    // Without a base all is new: what is chosen of it is drawn from everything.
                    must.push((path.clone(), *file, base.is_none()));
                }
            }
        }
        for (path, file) in self.sampled(of, self.sample)?.files {
            if chosen.insert(path.clone(), file).is_none() {
                must.push((path, file, true));
            }
        }
        let whole = |(path, entry, sampled)| File {
            path,
            entry,
            depth: Depth::Whole,
            sampled,
        };
        Ok(Plan {
            files: must.into_iter().map(whole).collect(),
            new_files,
        })
    }

    /// Finds out what is new in `root` before it is asked for. Blocks.
    pub(super) fn prepare(&self, base: Option<Digest>, root: Digest) -> Result<(), PlanError> {
        if base.is_some() {
            let selection = &Selection::ALL;
            let of = Of {
                root: &root,
                selection,
            };
            self.new_files(base, of)?;
        }
        Ok(())
    }

    fn new_files(&self, base: Option<Digest>, of: Of<'_>) -> Result<Arc<New>, PlanError> {
        let key = (base, *of.root, of.selection.view());
        let lock = || self.diffs.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a base the key is that of a part's files.
        let known = |(known, _): &&(DiffKey, Arc<New>)| base.is_some() && *known == key;
        if let Some((_, new)) = lock().iter().find(known) {
            return Ok(new.clone());
        }
        let new = Arc::new(match base {
            Some(base) => self.changed(base, of)?,
            None => self.first(of)?,
        });
        // A first build's choice is a sample: each mirror gets another one.
        if base.is_some() {
            self.remember(key, &new);
        }
        Ok(new)
    }

    fn changed(&self, base: Digest, of: Of<'_>) -> Result<New, PlanError> {
        let (mut count, mut files) = (0_u64, Vec::new());
        for difference in manifest::diff(&self.pages, Some(&base), Some(of.root)) {
            let difference = difference?;
            if !of.selection.has(&difference.path) {
                continue;
            }
            let file = match difference.new {
                Some((_, Entry::File(file))) => Some((difference.path, file)),
                Some((_, Entry::Symlink { .. })) => self.served(of, &difference.path)?,
                None => None,
            };
            let Some((path, file)) = file else { continue };
            let before = difference.old.as_ref().and_then(Entry::file);
            if before.is_some_and(|before| before.digest == file.digest) {
                continue;
            }
            count += 1;
            // Of more than the most: each has the same chance to be among those kept (reservoir sampling).
            if files.len() < self.new_files_max {
                files.push((path, file));
            } else if let Some(slot) = below(count).and_then(|slot| files.get_mut(slot)) {
                *slot = (path, file);
            }
        }
        Ok(New { count, files })
    }

    fn first(&self, of: Of<'_>) -> Result<New, PlanError> {
        if self.entries(of.root)? > self.new_files_max as u64 {
            return self.sampled(of, self.new_files_max);
        }
        let mut files = Vec::new();
        for item in manifest::iter(&self.pages, of.root, b"", None) {
            let (_, path, entry) = item?;
            if !of.selection.has(&path) {
                continue;
            }
            files.extend(match entry {
                Entry::File(file) => Some((path, file)),
                Entry::Symlink { .. } => self.served(of, &path)?,
            });
        }
        Ok(New {
            count: files.len() as u64,
            files,
        })
    }

    /// So many files of what is selected, none of them twice, and about how many that is in all. Fewer where there are no
    /// more, where links that lead nowhere are drawn, and of a part that draws miss at most [`PART_MAX`].
    fn sampled(&self, of: Of<'_>, count: usize) -> Result<New, PlanError> {
        if let Some(part) = self.known_part(of)
            && part.files.len() as u64 == part.count
        {
            return Ok(part.some(count));
        }
        let entries = self.entries(of.root)?;
        let (mut files, mut drawn, mut hits) = (Vec::new(), 0_u64, 0_u64);
        // What is not selected may be drawn again, so that no more is remembered than is asked for.
        let mut seen = BTreeSet::new();
        for _ in 0..count.saturating_mul(DRAWS_FOR_ONE) {
            let ordinal = below(entries).and_then(|ordinal| u32::try_from(ordinal).ok());
            let Some(ordinal) = ordinal.filter(|_| seen.len() < count) else {
                break;
            };
            drawn += 1;
            if seen.contains(&ordinal) {
                hits += 1;
            } else if let Some((path, entry)) = self.selected_at(of, Ordinal(ordinal))? {
                hits += 1;
                seen.insert(ordinal);
                files.extend(self.file_of(of, path, entry)?);
            }
        }
        if seen.len() < count && !of.selection.is_all() {
            // A part so small that draws miss it is looked through, once for each build.
            let part = self.part(of)?;
            if part.files.len() >= files.len() {
                return Ok(part.some(count));
            }
        }
        let share = (entries * hits).checked_div(drawn).unwrap_or(0);
        Ok(New {
            count: share,
            files,
        })
    }

    /// Files of a part: how many, and at most [`PART_MAX`] of them, each with the same chance.
    fn part(&self, of: Of<'_>) -> Result<Arc<New>, PlanError> {
        if let Some(part) = self.known_part(of) {
            return Ok(part);
        }
        let (mut count, mut files) = (0_u64, Vec::new());
        for item in manifest::iter(&self.pages, of.root, b"", None) {
            let (_, path, entry) = item?;
            if !of.selection.has(&path) {
                continue;
            }
            let Some(file) = self.file_of(of, path, entry)? else {
                continue;
            };
            count += 1;
            if files.len() < PART_MAX {
                files.push(file);
            } else if let Some(slot) = below(count).and_then(|slot| files.get_mut(slot)) {
                *slot = file;
            }
        }
        let part = Arc::new(New { count, files });
        self.remember(part_key(of), &part);
        Ok(part)
    }

    fn known_part(&self, of: Of<'_>) -> Option<Arc<New>> {
        let key = part_key(of);
        let diffs = self.diffs.lock().unwrap_or_else(PoisonError::into_inner);
        let found = diffs.iter().find(|(known, _)| *known == key);
        found.map(|(_, part)| Arc::clone(part))
    }

    fn remember(&self, key: DiffKey, new: &Arc<New>) {
        let mut diffs = self.diffs.lock().unwrap_or_else(PoisonError::into_inner);
        diffs.push_back((key, Arc::clone(new)));
        if diffs.len() > DIFFS_MAX {
            diffs.pop_front();
        }
    }

    fn file_at(
        &self,
        of: Of<'_>,
        ordinal: Ordinal,
    ) -> Result<Option<(EntryPath, FileEntry)>, PlanError> {
        match self.selected_at(of, ordinal)? {
            Some((path, entry)) => self.file_of(of, path, entry),
            None => Ok(None),
        }
    }

    fn selected_at(
        &self,
        of: Of<'_>,
        ordinal: Ordinal,
    ) -> Result<Option<(EntryPath, Entry)>, PlanError> {
        let found = manifest::at(&self.pages, of.root, ordinal)?;
        Ok(found.filter(|(path, _)| of.selection.has(path)))
    }

    fn file_of(
        &self,
        of: Of<'_>,
        path: EntryPath,
        entry: Entry,
    ) -> Result<Option<(EntryPath, FileEntry)>, PlanError> {
        match entry {
            Entry::File(file) => Ok(Some((path, file))),
            Entry::Symlink { .. } => self.served(of, &path),
        }
    }

    /// What is served at a path: a symlink is seen through the file that it leads to, or one in the
    /// folder that it leads to. None when it leads nowhere.
    fn served(
        &self,
        of: Of<'_>,
        path: &EntryPath,
    ) -> Result<Option<(EntryPath, FileEntry)>, PlanError> {
        let resolved = resolve(path.as_bytes(), |at| {
            if !of.selection.has(at) {
                return Ok::<_, PlanError>(Found::Nothing);
            }
            Ok(match manifest::get(&self.pages, of.root, at)? {
                Some((_, Entry::File(file))) => Found::File(file),
                Some((_, Entry::Symlink { target })) => Found::Symlink(target),
                None => Found::Nothing,
            })
        })?;
        let folder = match resolved {
            Resolved::File(file) => return Ok(Some((path.clone(), file))),
            Resolved::Folder(folder) if folder.is_empty() => folder,
            Resolved::Folder(folder) => [&folder[..], b"/"].concat(),
            Resolved::Refused => return Ok(None),
        };
        for item in manifest::iter(&self.pages, of.root, &folder, None).take(LINKED_MAX) {
            let (_, below, entry) = item?;
            let through = [path.as_bytes(), b"/", &below.as_bytes()[folder.len()..]].concat();
            let selected = of.selection.has(&below);
            if let (Entry::File(file), Ok(through), true) =
                (entry, EntryPath::new(&through), selected)
            {
                return Ok(Some((through, file)));
            }
        }
        Ok(None)
    }

    fn entries(&self, root: &Digest) -> Result<u64, PlanError> {
        Ok(self
            .pages
            .page(root)
            .map_err(ManifestError::Read)?
            .entries())
    }
}

/// Under what a part's files are remembered: as if they were new since nothing.
fn part_key(of: Of<'_>) -> DiffKey {
    (None, *of.root, of.selection.view())
}

/// At most `most` of `items`, at random when there are more.
fn pick<T>(items: &[T], most: usize) -> Vec<&T> {
    let mut picked: Vec<&T> = items.iter().collect();
    let mut at = 0;
    while at < most && picked.len() > most {
        let left = picked.len() - at;
        let other = at + below(left as u64).unwrap_or(0);
        picked.swap(at, other);
        at += 1;
    }
    picked.truncate(most);
    picked
}

/// A random number below `bound`; none below 0. The bias is below 2^-32 for every bound in use.
fn below(bound: u64) -> Option<usize> {
    let number = random().checked_rem(bound)?;
    usize::try_from(number).ok()
}

/// A random number that no mirror can guess.
pub(crate) fn random() -> u64 {
    // Fails on systems without a random source, on which no TLS connection would work either.
    getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()))
}
