//! Scans a tree into a manifest: an ordered walk, joined with the stat cache; what is new is read
//! once, in parallel, straight into the store; at the end folders and files that were read are looked
//! at again. Memory is bounded by a window of entries, not by the tree.

mod folder;
mod recheck;
mod take;
mod tree;
mod walk;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{Builder, Entry, Summary};
use mirrorlog_core::path::EntryPath;
use rayon::prelude::*;
use runtime::store::{Batch, Committer, Names};

pub(crate) use recheck::recheck_one;
pub(crate) use take::{Found, take};
pub(crate) use tree::{Kind, Stamp, Tree, means_changed, split};
pub(crate) use walk::{Item, Step, fault_or_error, links_in, walk};

use crate::publish::{Counters, Faults, PublishError, Workspace, manifest_failure};
use crate::stat_cache::{Reader, Record, Writer};

/// Entries in work at a time.
const WINDOW: usize = 4096;
/// Windows that the walk may be ahead.
const WINDOWS_AHEAD: usize = 4;
/// New blobs, or bytes of them, after which a batch is committed: one pair of `syncfs` for so many.
const BATCH_BLOBS: usize = 64 * 1024;
const BATCH_BYTES: u64 = 128 * 1024 * 1024;
/// Stamps this close to the scan, or later, do not prove that content stays the same.
const RACY_NS: i64 = 2_000_000_000;

/// What to scan, and with what.
pub(crate) struct ScanInput<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) workspace: &'a Workspace,
    /// Which paths belong to the channel.
    pub(crate) select: &'a (dyn Fn(&EntryPath) -> bool + Sync),
    /// The channel's stat cache.
    pub(crate) cache: &'a Path,
    /// The root of the channel's head.
    pub(crate) published: Option<Digest>,
    pub(crate) counters: &'a Counters,
}

/// A scanned tree.
pub(crate) struct Scanned {
    pub(crate) summary: Summary,
    /// Folders with nothing in them, which a manifest does not hold.
    pub(crate) empty_folders: u64,
    /// Part of the time that went into reading and storing content.
    pub(crate) ingest: Duration,
}

/// Scans a tree. What breaks a rule goes into `faults`; the manifest then lacks it.
///
/// # Errors
/// Faults of disk and store, never of the tree.
pub(crate) fn scan(input: &ScanInput<'_>, faults: &mut Faults) -> Result<Scanned, PublishError> {
    let identity = input.tree.path().as_os_str().as_encoded_bytes();
    let cache_error = |e| PublishError::io(input.cache, "used as stat cache", e);
    let top = input
        .tree
        .look_at_top()
        .map_err(|e| PublishError::io(input.tree.path(), "read", e))?;
    let cache_dir = input.cache.parent().unwrap_or(Path::new("."));
    let cache = Reader::open(input.cache, identity).map_err(cache_error)?;
    let store = input.workspace.store();
    // A rehearsal does not ask what is stored.
    let keeps = input.workspace.keeps_content();
    let mut run = Run {
        input,
        names: Names::new(store, if keeps { cache.about() } else { 0 })?,
        cache,
        records: Writer::create(cache_dir, identity).map_err(cache_error)?,
        again: Writer::create(cache_dir, identity).map_err(cache_error)?,
        batch: store.batch(),
        committed_bytes: input.counters.bytes_read(),
        committer: Committer::default(),
        racy_from_ns: racy_from_ns(),
        ingest: Duration::ZERO,
        key: Vec::new(),
    };
    let pages = input.workspace.page_store().batch();
    let mut builder = Builder::new(&pages);
    let mut empty = EmptyFolders::default();
    std::thread::scope(|scope| {
        let (sender, windows) = sync_channel(WINDOWS_AHEAD);
        scope.spawn(move || walk_ahead(input.tree, &sender));
        for window in windows {
            run.window(window?, &mut empty, &mut builder, faults)?;
        }
        Ok::<_, PublishError>(())
    })?;
    let summary = builder.finish().map_err(|e| match manifest_failure(e) {
        Ok(fault) => PublishError::Manifest(fault.to_string().into()),
        Err(error) => error,
    })?;
    let Run {
        records,
        again,
        batch,
        mut committer,
        ingest,
        ..
    } = run;
    let written = records.finish().map_err(cache_error)?;
    let again = again.finish().map_err(cache_error)?;
    let again = again.records().map_err(cache_error)?;
    let begun = Instant::now();
    let mut durable = Ok(ingest);
    let span = tracing::Span::current();
    let rechecked = std::thread::scope(|scope| {
        // The disk takes its time; looking again needs none of it.
        scope.spawn(|| {
            let _in_publish = span.enter();
            durable = committer
                .wait()
                .map_err(PublishError::from)
                .and_then(|()| make_durable(input, batch, pages, summary.root))
                .map(|()| ingest + begun.elapsed());
        });
        recheck::recheck(input.tree, &top, again, faults)
    });
    let ingest = durable?;
    rechecked?;
    if faults.is_empty() && input.workspace.keeps_stats() {
        written.put(input.cache).map_err(cache_error)?;
    }
    Ok(Scanned {
        summary,
        empty_folders: empty.count(),
        ingest,
    })
}

/// Walks the tree while others work on what was found, a window at a time.
fn walk_ahead(tree: &Tree, windows: &SyncSender<Result<Vec<Step>, PublishError>>) {
    let mut window = Vec::with_capacity(WINDOW);
    // Nobody takes them only when the scan has failed already.
    let walked = walk(tree, b"", &mut |steps| {
        window.extend(steps);
        if window.len() < WINDOW {
            return ControlFlow::Continue(());
        }
        let full = std::mem::replace(&mut window, Vec::with_capacity(WINDOW));
        match windows.send(Ok(full)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    windows.send(walked.map(|()| window)).ok();
}

/// Stamps from here on are not trusted.
pub(crate) fn racy_from_ns() -> i64 {
    runtime::boot::now().as_ms().saturating_mul(1_000_000) - RACY_NS
}

struct Run<'a> {
    input: &'a ScanInput<'a>,
    cache: Reader,
    names: Names,
    records: Writer,
    /// What is looked at again at the end: folders, and files that were read.
    again: Writer,
    batch: Batch,
    /// Bytes that were read before this batch.
    committed_bytes: u64,
    committer: Committer,
    racy_from_ns: i64,
    ingest: Duration,
    /// Room for one record's key.
    key: Vec<u8>,
}

impl Run<'_> {
    /// Turns a window of what the walk found into entries, reading what is new.
    fn window(
        &mut self,
        window: Vec<Step>,
        empty: &mut EmptyFolders,
        builder: &mut Builder<&Batch>,
        faults: &mut Faults,
    ) -> Result<(), PublishError> {
        let mut items = Vec::with_capacity(window.len());
        for step in window {
            match step {
                Step::Fault(fault) => faults.push(fault),
                Step::Item(item) => {
                    empty.saw(&item);
                    if item.kind == Kind::Folder || (self.input.select)(&item.path) {
                        items.push(item);
                    }
                }
            }
        }
        let known: Result<Vec<Option<Found>>, PublishError> =
            items.iter().map(|item| self.known(item)).collect();
        let mut known = known?;
        let unknown: Vec<(&Item, &mut Option<Found>)> = items
            .iter()
            .zip(&mut known)
            .filter(|(_, known)| known.is_none())
            .collect();
        if !unknown.is_empty() {
            let begun = Instant::now();
            unknown
                .into_par_iter()
                .with_max_len(16)
                .try_for_each(|(item, found)| {
                    *found = Some(take(self.input, &self.batch, item)?);
                    Ok::<_, PublishError>(())
                })?;
            self.ingest += begun.elapsed();
        }
        for (item, found) in items.into_iter().zip(known) {
            let Some(found) = found else { continue };
            self.record(&item, &found)?;
            self.input.counters.seen(1);
            let entry = match found {
                Found::Folder => continue,
                Found::Fault(fault) => {
                    faults.push(fault);
                    continue;
                }
                Found::Entry { entry, .. } => entry,
            };
            if let Err(error) = builder.push(&item.path, &entry) {
                faults.push(manifest_failure(error)?);
            }
        }
        let read = self.input.counters.bytes_read();
        if self.batch.len() >= BATCH_BLOBS || read - self.committed_bytes >= BATCH_BYTES {
            let begun = Instant::now();
            let full = std::mem::replace(&mut self.batch, self.input.workspace.store().batch());
            self.committer.commit(full)?;
            self.committed_bytes = read;
            self.ingest += begun.elapsed();
        }
        Ok(())
    }

    /// What is known without reading; `None`: a file to be taken in.
    fn known(&mut self, item: &Item) -> Result<Option<Found>, PublishError> {
        let Kind::File(mode) = item.kind else {
            return take(self.input, &self.batch, item).map(Some);
        };
        let Some(digest) = self.cache.find(item.path.as_bytes(), &item.stamp) else {
            return Ok(None);
        };
        let kept =
            !self.input.workspace.keeps_content() || self.names.have(&self.batch, &digest)?;
        Ok(kept.then(|| Found::Entry {
            entry: take::file(item, digest, mode),
            read: false,
        }))
    }

    fn record(&mut self, item: &Item, found: &Found) -> Result<(), PublishError> {
        let (digest, read) = match found {
            Found::Folder => (Digest::from_bytes([0; 32]), false),
            Found::Entry {
                entry: Entry::File(file),
                read,
            } => (file.digest, *read),
            Found::Entry {
                entry: Entry::Symlink { .. },
                ..
            }
            | Found::Fault(_) => return Ok(()),
        };
        let Stamp {
            mtime_ns, ctime_ns, ..
        } = item.stamp;
        let racy = mtime_ns.max(ctime_ns) >= self.racy_from_ns;
        let mut key = std::mem::take(&mut self.key);
        item.write_key(&mut key);
        let record = Record {
            key,
            stamp: item.stamp,
            digest,
            read,
            racy,
            immutable: self.input.workspace.is_immutable(&item.path),
        };
        let failed = |e| PublishError::io(self.input.cache, "written", e);
        if read || item.kind == Kind::Folder {
            self.again.push(&record).map_err(failed)?;
        }
        self.records.push(&record).map_err(failed)?;
        self.key = record.key;
        Ok(())
    }
}

/// Commits the new content and pages together. A manifest that was published is durable with all that it
/// names: then there is nothing to do, unless something of it was lost and read again.
fn make_durable(
    input: &ScanInput<'_>,
    batch: Batch,
    pages: Batch,
    root: Digest,
) -> Result<(), PublishError> {
    if !input.workspace.keeps_content() {
        pages.commit()?;
        return Ok(batch.commit()?);
    }
    batch.absorb(pages);
    if input.published != Some(root) || !batch.is_empty() {
        batch.commit()?;
    }
    Ok(())
}

/// Counts folders that have no entry below them, at any depth.
#[derive(Default)]
struct EmptyFolders {
    open: Vec<Vec<u8>>,
    count: u64,
}

impl EmptyFolders {
    fn saw(&mut self, item: &Item) {
        let path = &item.path;
        while self
            .open
            .last()
            .is_some_and(|folder| !path.is_below(folder))
        {
            self.open.pop();
            self.count += 1;
        }
        if item.kind == Kind::Folder {
            self.open.push(path.as_bytes().to_vec());
        } else {
            self.open.clear();
        }
    }

    fn count(self) -> u64 {
        self.count + self.open.len() as u64
    }
}

#[cfg(test)]
mod tests;
