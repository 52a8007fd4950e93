//! The trees of one mount: one is shown, the others are on their way to the next build or rest until their last readers
//! are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::{ChannelId, Digest, Mount};
use mirrorlog_core::manifest::{self, Entry, PageRead as _};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::tree::{Scope, Tree};
use runtime::store::Pages;
use rustix::fs::CWD;

use super::editor::Editor;
use super::inodes::Inodes;
use super::record::{Record, make_folder, sync_folder};
use super::{ExportError, TREES};
use crate::http::{Mounted, Site, Trace};
use crate::serving::Serving;

/// Builds that an interrupted tree may be of, at most.
const MIXED_MAX: usize = 8;

/// The trees of one mount.
pub(super) struct Trees {
    /// `DIR/@trees/<mount>`.
    dir: PathBuf,
    /// The symlink that readers follow.
    shown_at: PathBuf,
    /// What the symlink says, before the tree's number.
    target: PathBuf,
    pub(super) records: BTreeMap<u32, Record>,
    pub(super) shown: Option<u32>,
}

/// What a tree is to become.
pub(super) struct Goal {
    /// The table of which this is a part.
    pub(super) table: Arc<Serving>,
    pub(super) mount: Mount,
    pub(super) scope: Scope,
}

/// What a change is made with.
pub(super) struct Means<'a> {
    pub(super) inodes: &'a Inodes,
    pub(super) pages: &'a Pages,
    pub(super) site: &'a Site,
    /// How often content was found damaged so far.
    pub(super) generation: u64,
    /// Asked all the time: whether to leave it half-way.
    pub(super) halted: &'a dyn Fn() -> bool,
}

/// Which tree can be changed now.
pub(super) enum Spare {
    /// This one.
    Tree(u32),
    /// None before so long has passed.
    After(Duration),
}

/// The name of a mount's folder: mounts have no `@`.
fn folder_of(mount: &Mount) -> String {
    mount.as_str()[1..].replace('/', "@")
}

impl Trees {
    /// Reads what is there. A tree without a record that can be read is removed: nobody knows what is in it.
    pub(super) fn open(dir: &Path, mount: &Mount) -> Result<Self, ExportError> {
        let below = folder_of(mount);
        let home = dir.join(TREES).join(&below);
        make_folder(&home).map_err(|e| ExportError::io("make", &home, e))?;
        let name = &mount.as_str()[1..];
        let shown_at = dir.join(name);
        // From the folder that the symlink is in.
        let up: PathBuf = name.split('/').skip(1).map(|_| "..").collect();
        let target = up.join(TREES).join(&below);
        let link = std::fs::read_link(&shown_at).ok();
        let mut records = BTreeMap::new();
        let listed = std::fs::read_dir(&home).map_err(|e| ExportError::io("list", &home, e))?;
        for item in listed {
            let path = item.map_err(|e| ExportError::io("list", &home, e))?.path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let Some(number) = number else { continue };
            match Record::read(&path.with_extension("json")) {
                Some(record) => drop(records.insert(number, record)),
                None => remove_tree(&path)?,
            }
        }
        let shown = link.and_then(|link| {
            let number = link.file_name()?.to_str()?.parse().ok()?;
            (link.parent()? == target && records.contains_key(&number)).then_some(number)
        });
        Ok(Self {
            dir: home,
            shown_at,
            target,
            records,
            shown,
        })
    }

    /// Mounts that have trees here.
    pub(super) fn mounts(dir: &Path) -> BTreeSet<Mount> {
        let listed = std::fs::read_dir(dir.join(TREES)).into_iter().flatten();
        let names = listed.filter_map(|item| item.ok()?.file_name().into_string().ok());
        let mounts =
            names.filter_map(|name| Mount::new(&format!("/{}", name.replace('@', "/"))).ok());
        mounts.collect()
    }

    /// What readers see.
    pub(super) fn shown_scope(&self) -> Option<&Scope> {
        self.records.get(&self.shown?)?.whole()
    }

    pub(super) fn roots(&self) -> BTreeSet<Digest> {
        Record::all_roots(self.records.values())
    }

    fn tree(&self, number: u32) -> PathBuf {
        self.dir.join(number.to_string())
    }

    fn record_file(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number}.json"))
    }

    fn save(&self, number: u32) -> Result<(), ExportError> {
        let Some(record) = self.records.get(&number) else {
            return Ok(());
        };
        let file = self.record_file(number);
        record
            .write(&file)
            .map_err(|e| ExportError::io("write", &file, e))
    }

    /// A tree that may be changed: its last readers have had `settle` to end. One more is begun while there are fewer
    /// than `most`.
    pub(super) fn spare(&self, most: usize, settle: Duration, now: Timestamp) -> Spare {
        let rests: Vec<(u32, &Record, Duration)> = self.others(settle, now).collect();
        // One that is whole has less to change than one that was interrupted in it.
        let ready = rests.iter().filter(|(_, _, rest)| rest.is_zero());
        if let Some((number, ..)) = ready.min_by_key(|(number, record, _)| (record.dirty, *number))
        {
            return Spare::Tree(*number);
        }
        if self.records.len() < most {
            return Spare::Tree(self.next());
        }
        let rest = rests.iter().map(|(_, _, rest)| *rest).min();
        Spare::After(rest.unwrap_or_default())
    }

    /// A tree that is not what is shown, though it could be: one that is behind, or one more while there are fewer than
    /// `most`. None when all are.
    pub(super) fn behind(&self, most: usize, settle: Duration, now: Timestamp) -> Option<Spare> {
        if self.records.len() < most {
            return Some(Spare::Tree(self.next()));
        }
        let shown = self.shown_scope();
        let others = self.others(settle, now);
        let behind = others.filter(|(_, record, _)| record.whole() != shown);
        let (number, _, rest) = behind.min_by_key(|(number, _, rest)| (*rest, *number))?;
        Some(match rest.is_zero() {
            true => Spare::Tree(number),
            false => Spare::After(rest),
        })
    }

    fn next(&self) -> u32 {
        self.records.keys().next_back().map_or(1, |last| last + 1)
    }

    /// Trees that are not shown, and how long each still has to rest.
    fn others(
        &self,
        settle: Duration,
        now: Timestamp,
    ) -> impl Iterator<Item = (u32, &Record, Duration)> {
        let settle_ms = i64::try_from(settle.as_millis()).unwrap_or(i64::MAX);
        let rest_ms = move |record: &Record| match record.retired {
            // A clock that was set back must not make it wait longer than that.
            Some(retired) => settle_ms - now.ms_since(retired).clamp(0, settle_ms),
            None => 0,
        };
        let rest = move |record| Duration::from_millis(u64::try_from(rest_ms(record)).unwrap_or(0));
        let others = self
            .records
            .iter()
            .filter(|(number, _)| Some(**number) != self.shown);
        others.map(move |(number, record)| (*number, record, rest(record)))
    }

    /// A tree that is not shown and is just that, all of it linked to what the store has now.
    pub(super) fn exact(&self, scope: &Scope, generation: u64) -> Option<u32> {
        let mut others = self
            .records
            .iter()
            .filter(|(number, _)| Some(**number) != self.shown);
        let found =
            others.find(|(_, record)| record.whole() == Some(scope) && record.linked >= generation);
        found.map(|(number, _)| *number)
    }

    /// Makes a tree what it is to become; all of it is durable then. Blocks.
    pub(super) fn change(
        &mut self,
        number: u32,
        goal: &Goal,
        means: &Means<'_>,
    ) -> Result<(), ExportError> {
        let changed = self.try_change(number, goal, means);
        let known = self
            .records
            .get(&number)
            .is_some_and(|record| record.scopes.len() > 1);
        match changed {
            // A page of what it was is lost, perhaps of a build that nobody heals any more.
            Err(ExportError::Manifest(error)) if known => {
                let error = error.to_string();
                tracing::warn!(
                    tree = number,
                    error,
                    "a tree's differences cannot be told; it is made anew"
                );
                self.remove(number)?;
                self.try_change(number, goal, means)
            }
            changed => changed,
        }
    }

    fn try_change(
        &mut self,
        number: u32,
        goal: &Goal,
        means: &Means<'_>,
    ) -> Result<(), ExportError> {
        let dir = self.tree(number);
        if self.cannot_be_told_apart(number, means.pages) {
            tracing::warn!(tree = %dir.display(), "a tree's differences cannot be told; it is made anew");
            self.remove(number)?;
        }
        let fresh = || Record {
            linked: means.generation,
            ..Record::new()
        };
        let record = self.records.entry(number).or_insert_with(fresh);
        let (before, linked) = (record.scopes.clone(), record.linked);
        record.mix(&goal.scope);
        self.save(number)?;
        let mut editor = Editor::open(&dir, means.inodes)?;
        for scope in &before {
            apply(&mut editor, scope, goal, means)?;
        }
        if linked < means.generation {
            put_all(&mut editor, &goal.scope, means.pages, means.halted)?;
        }
        trace(&mut editor, goal, means)?;
        editor.sync()?;
        if let Some(record) = self.records.get_mut(&number) {
            record.scopes = vec![goal.scope.clone()];
            record.linked = means.generation;
            record.dirty = false;
        }
        self.save(number)
    }

    /// True for a tree whose differences cannot be found: pages of what is in it are gone, or it was interrupted on the
    /// way to so many builds that finding them costs more than a new one.
    fn cannot_be_told_apart(&self, number: u32, pages: &Pages) -> bool {
        let Some(record) = self.records.get(&number) else {
            return false;
        };
        record.scopes.len() > MIXED_MAX || record.roots().any(|root| pages.page(&root).is_err())
    }

    fn remove(&mut self, number: u32) -> Result<(), ExportError> {
        // The record first: a tree without one is removed at the next start.
        let file = self.record_file(number);
        remove_file(&file).map_err(|e| ExportError::io("remove", &file, e))?;
        remove_tree(&self.tree(number))?;
        self.records.remove(&number);
        Ok(())
    }

    /// Removes what is not shown and has rested. Gives the time until more of it has.
    pub(super) fn remove_settled(
        &mut self,
        settle: Duration,
        now: Timestamp,
    ) -> Result<Option<Duration>, ExportError> {
        let others = self.others(settle, now);
        let others: Vec<(u32, Duration)> = others.map(|(number, _, rest)| (number, rest)).collect();
        for (number, _) in others.iter().filter(|(_, rest)| rest.is_zero()) {
            self.remove(*number)?;
        }
        let rests = others.into_iter().map(|(_, rest)| rest);
        Ok(rests.filter(|rest| !rest.is_zero()).min())
    }

    /// Leads readers to a tree, at one moment for every path. After an error they may be there all the same:
    /// [`shown`](Self::shown) says so.
    pub(super) fn show(&mut self, number: u32, now: Timestamp) -> Result<(), ExportError> {
        let shown_at = self.shown_at.clone();
        let fail = |e: std::io::Error| ExportError::io("show", &shown_at, e);
        if let Some(folder) = self.shown_at.parent() {
            make_folder(folder).map_err(fail)?;
        }
        let new = self.dir.join("shown.new");
        remove_file(&new).map_err(fail)?;
        std::os::unix::fs::symlink(self.target.join(number.to_string()), &new).map_err(fail)?;
        self.note_leaving(now)?;
        rustix::fs::renameat(CWD, &new, CWD, &self.shown_at).map_err(|e| fail(e.into()))?;
        self.shown = Some(number);
        if let Some(record) = self.records.get_mut(&number) {
            record.retired = None;
        }
        sync_folder(&self.shown_at).map_err(fail)
    }

    /// Shows nothing at the mount.
    pub(super) fn hide(&mut self, now: Timestamp) -> Result<(), ExportError> {
        self.note_leaving(now)?;
        remove_file(&self.shown_at).map_err(|e| ExportError::io("remove", &self.shown_at, e))?;
        self.shown = None;
        Ok(())
    }

    /// Before readers are led away: should the process end in between, nobody takes the tree for one that was never
    /// shown. Of a tree that is shown this means nothing.
    fn note_leaving(&mut self, now: Timestamp) -> Result<(), ExportError> {
        let Some(last) = self.shown else {
            return Ok(());
        };
        if let Some(record) = self.records.get_mut(&last) {
            record.retired = Some(now);
        }
        self.save(last)
    }

    /// Looks at every file of the trees that were linked before content was last found damaged, and links again what is
    /// not the file that the store has. Half-changed ones are removed: nobody reads them. Blocks.
    ///
    /// # Errors
    /// The first; the other trees are looked at all the same.
    pub(super) fn link_again(
        &mut self,
        generation: u64,
        inodes: &Inodes,
        pages: &Pages,
        halted: &dyn Fn() -> bool,
    ) -> Result<(), ExportError> {
        let old = self
            .records
            .iter()
            .filter(|(_, record)| record.linked < generation);
        let old: Vec<u32> = old.map(|(number, _)| *number).collect();
        let mut all = Ok(());
        for number in old {
            let linked = match self.records.get(&number).and_then(Record::whole).cloned() {
                Some(scope) => self.link_tree(number, &scope, inodes, pages, halted),
                None => self.remove(number),
            };
            if linked.is_ok()
                && let Some(record) = self.records.get_mut(&number)
            {
                record.linked = generation;
            }
            all = all.and(linked.and_then(|()| self.save(number)));
        }
        all
    }

    fn link_tree(
        &self,
        number: u32,
        scope: &Scope,
        inodes: &Inodes,
        pages: &Pages,
        halted: &dyn Fn() -> bool,
    ) -> Result<(), ExportError> {
        let mut editor = Editor::open(&self.tree(number), inodes)?;
        put_all(&mut editor, scope, pages, halted)?;
        editor.sync()
    }
}

/// Puts everything in its place that is not there.
fn put_all(
    editor: &mut Editor<'_>,
    scope: &Scope,
    pages: &Pages,
    halted: &dyn Fn() -> bool,
) -> Result<(), ExportError> {
    let nothing = Scope(Vec::new());
    put_changed(editor, &nothing, scope, pages, halted, |_| true)
}

/// In the order in which half of it hurts least, should somebody still read here: packages, then indexes, then
/// what goes.
fn apply(
    editor: &mut Editor<'_>,
    before: &Scope,
    goal: &Goal,
    means: &Means<'_>,
) -> Result<(), ExportError> {
    let (to, pages, halted) = (&goal.scope, means.pages, means.halted);
    if before.0.is_empty() {
        return put_all(editor, to, pages, halted);
    }
    let mounted = Mounted::at(&goal.table, &goal.mount);
    let is_content = |path: &EntryPath| {
        let mut layouts = mounted.channels.iter().map(|(_, served)| served.layout);
        layouts.any(|layout| layout.is_immutable(path))
    };
    put_changed(editor, before, to, pages, halted, is_content)?;
    put_changed(editor, before, to, pages, halted, |path| !is_content(path))?;
    each_change(before, to, pages, halted, |path, entry| match entry {
        Some(_) => Ok(()),
        None => editor.remove(path.as_bytes()),
    })
}

fn put_changed(
    editor: &mut Editor<'_>,
    before: &Scope,
    to: &Scope,
    pages: &Pages,
    halted: &dyn Fn() -> bool,
    which: impl Fn(&EntryPath) -> bool,
) -> Result<(), ExportError> {
    each_change(before, to, pages, halted, |path, entry| match entry {
        Some(entry) if which(path) => editor.put(path.as_bytes(), &entry),
        Some(_) | None => Ok(()),
    })
}

/// Every path that may differ, and what is to be there: several channels are one tree, and the first that has a path
/// wins it.
fn each_change(
    before: &Scope,
    to: &Scope,
    pages: &Pages,
    halted: &dyn Fn() -> bool,
    mut each: impl FnMut(&EntryPath, Option<Entry>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let tree_in = |scope: &Scope, channel: &ChannelId| {
        let mut trees = scope.0.iter();
        trees.find(|tree| tree.channel == *channel).cloned()
    };
    let channels = before
        .0
        .iter()
        .chain(&to.0)
        .map(|tree| tree.channel.clone());
    let channels: BTreeSet<_> = channels.collect();
    for channel in channels {
        let (old, new) = (tree_in(before, &channel), tree_in(to, &channel));
        let root = |tree: &Option<Tree>| tree.as_ref().map(|tree| tree.root);
        let (old_root, new_root) = (root(&old), root(&new));
        // Of another part every path may be there or not.
        let parts = old.zip(new.as_ref());
        let another_part = parts.is_some_and(|(old, new)| old.selection != new.selection);
        let all = another_part.then(|| manifest::diff(pages, None, new_root.as_ref()));
        let differences = manifest::diff(pages, old_root.as_ref(), new_root.as_ref());
        for difference in all.into_iter().flatten().chain(differences) {
            if halted() {
                return Err(ExportError::Stopped);
            }
            let difference = difference.map_err(|e| ExportError::Manifest(Box::new(e)))?;
            let wanted = match to.0.len() {
                1 if new.is_some() && to.0[0].selection.is_all() => {
                    difference.new.map(|(_, entry)| entry)
                }
                _ => to
                    .entry(pages, &difference.path)
                    .map_err(|e| ExportError::Manifest(Box::new(e)))?,
            };
            each(&difference.path, wanted)?;
        }
    }
    Ok(())
}

fn trace(editor: &mut Editor<'_>, goal: &Goal, means: &Means<'_>) -> Result<(), ExportError> {
    let mounted = Mounted::at(&goal.table, &goal.mount);
    let Some(trace) = Trace::of(means.site, &mounted) else {
        return Ok(());
    };
    let text = trace
        .text(means.pages)
        .map_err(|e| ExportError::Manifest(e.into()))?;
    editor.put_text(&trace.path(), &text)
}

fn remove_tree(dir: &Path) -> Result<(), ExportError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(ExportError::io("remove", dir, e))
        }
        _ => Ok(()),
    }
}

fn remove_file(file: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
