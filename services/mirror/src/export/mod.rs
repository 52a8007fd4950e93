//! The export tree: what is live, as folders and files for nginx, rsyncd and whoever reads a disk.
//!
//! ```text
//! DIR/ubuntu -> @trees/ubuntu/2         what readers follow; moves by rename
//! DIR/@trees/ubuntu/1/, 2/, 3/          trees of hard links into the store
//! DIR/@trees/ubuntu/1.json, …           which builds each of them is, whether it is being changed
//! DIR/@copies/                          content under a second mode or time
//! ```
//!
//! One task a mount: it takes a tree whose readers have had time to end, changes it by what differs, makes it durable,
//! and moves the symlink. The table that the web server answers from moves at the same moment.
//!
//! | module | what it does |
//! | --- | --- |
//! | `inodes` | the files that trees link to |
//! | `editor` | changes one tree on the disk |
//! | `record` | what is known of a tree |
//! | `trees` | the trees of one mount |

mod editor;
mod inodes;
mod record;
#[cfg(test)]
mod tests;
mod trees;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirrorlog_core::id::{ChannelId, Digest, Mount};
use runtime::store::{Pages, Store};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, ExportSection};
use crate::engine::{Mailbox, Message};
use crate::http::{Mounted, Site};
use crate::serving::{Serving, ServingWriter};

use inodes::Inodes;
use trees::{Goal, Spare, Trees};

/// Folder of all trees; no mount is called so.
const TREES: &str = "@trees";
/// Folder of content under a second mode or time.
const COPIES: &str = "@copies";
/// First pause after a failure; it doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Why a tree is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// The disk.
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Store and trees have to share a file system.
    #[error(
        "export folder {dir} is on another file system than the store {store}: hard links do not go there; \
         put both on one"
    )]
    OtherFileSystem { dir: PathBuf, store: PathBuf },
    /// Content is lost; it is fetched again.
    #[error("content {0} is not in the store")]
    Absent(Digest),
    /// A manifest cannot be read.
    #[error("manifest cannot be read")]
    Manifest(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A task ended unexpectedly.
    #[error("a task failed")]
    Task(#[from] tokio::task::JoinError),
    /// The process ends.
    #[error("stopped")]
    Stopped,
}

impl ExportError {
    fn io(what: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            source: error.into(),
        }
    }
}

/// The export trees of all mounts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Exports(Arc<Inner>);

struct Inner {
    section: ExportSection,
    inodes: Inodes,
    pages: Pages,
    site: Site,
    state: Mutex<State>,
    /// Counts the times that content was healed: every tree is then looked through.
    healed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// Trees as they were found at the start, until their mount's task takes them.
    found: BTreeMap<Mount, Trees>,
    /// Top pages that changes of trees have to read.
    roots: BTreeMap<Mount, BTreeSet<Digest>>,
    /// Why a mount's trees are behind.
    trouble: BTreeMap<Mount, String>,
}

/// What a mount's task does next.
enum Next {
    /// Nothing before the table changes.
    Rest,
    /// Looks again at once.
    Again,
    /// Looks again after a while.
    After(Duration),
    /// The same, and nothing is wrong meanwhile.
    Idle(Duration),
}

impl Exports {
    /// Opens the trees of the configured folder; `None` where none is configured. Tells `serving` what they show.
    ///
    /// # Errors
    /// [`ExportError`] when the folder cannot be used.
    pub(crate) fn open(
        config: &Config,
        pages: &Pages,
        serving: &ServingWriter,
    ) -> Result<Option<Self>, ExportError> {
        let Some(section) = config.export.clone() else {
            return Ok(None);
        };
        let dir = &section.dir;
        std::fs::create_dir_all(dir).map_err(|e| ExportError::io("make", dir, e))?;
        let store: &Store = pages.store();
        if device(dir)? != device(store.dir())? {
            return Err(ExportError::OtherFileSystem {
                dir: dir.clone(),
                store: store.dir().to_owned(),
            });
        }
        let inodes = Inodes::new(store.clone(), dir.join(COPIES))?;
        let mut state = State::default();
        for mount in Trees::mounts(dir) {
            let mut trees = Trees::open(dir, &mount)?;
            trees.retire_unnoted(runtime::boot::now());
            state.roots.insert(mount.clone(), trees.roots());
            serving.exported(&mount, trees.shown_scope().cloned());
            state.found.insert(mount, trees);
        }
        serving.gate();
        Ok(Some(Self(Arc::new(Inner {
            site: Site::of(config),
            section,
            inodes,
            pages: pages.clone(),
            state: Mutex::new(state),
            healed: watch::Sender::new(0),
        }))))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Top pages of builds that trees are, or are on their way from: they stay, whatever the engine lets go.
    pub(crate) fn roots(&self) -> BTreeSet<Digest> {
        self.state().roots.values().flatten().copied().collect()
    }

    /// Why the trees of a mount are behind; for reports.
    pub(crate) fn trouble(&self, mount: &Mount) -> Option<String> {
        self.state().trouble.get(mount).cloned()
    }

    /// Lost content is here again, in files of their own: trees may link to the old ones.
    pub(crate) fn healed(&self) {
        self.0.healed.send_modify(|times| *times += 1);
    }

    /// Checks content that only trees have. Blocks.
    pub(crate) fn scrub(&self) {
        match self.0.inodes.check_copies() {
            Ok(0) => {}
            Ok(wrong) => {
                tracing::error!(
                    wrong,
                    "copies for export trees were corrupt; making them again"
                );
                self.healed();
            }
            Err(error) => {
                tracing::warn!(
                    error = wire::causes(&error),
                    "copies for export trees cannot be checked"
                );
            }
        }
    }

    /// Keeps the trees of every mount up to date until `stop`.
    pub(crate) async fn run(
        self,
        serving: ServingWriter,
        engine: Mailbox,
        stop: CancellationToken,
    ) {
        let mut table = serving.wanted();
        let tasks = TaskTracker::new();
        let mut mounts = BTreeSet::new();
        loop {
            let known: Vec<Mount> = self.state().found.keys().cloned().collect();
            let wanted: Vec<Mount> = {
                let table = table.borrow_and_update();
                table
                    .channels
                    .values()
                    .map(|served| served.mount.clone())
                    .collect()
            };
            for mount in known.into_iter().chain(wanted) {
                if mounts.contains(&mount) {
                    continue;
                }
                if let Some(outer) = mounts.iter().find(|other| are_nested(other, &mount)) {
                    let text =
                        format!("mount {mount} is not exported: it and {outer} lie in each other");
                    if self
                        .state()
                        .trouble
                        .insert(mount.clone(), text.clone())
                        .is_none()
                    {
                        tracing::error!("{text}");
                    }
                    continue;
                }
                mounts.insert(mount.clone());
                let one = One {
                    exports: self.clone(),
                    mount,
                    serving: serving.clone(),
                    engine: engine.clone(),
                    stop: stop.clone(),
                };
                tasks.spawn(one.run());
            }
            let changed = stop.run_until_cancelled(table.changed()).await;
            if !matches!(changed, Some(Ok(()))) {
                break;
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// True when one mount is a folder of the other.
fn are_nested(one: &Mount, other: &Mount) -> bool {
    let inside = |inner: &Mount, outer: &Mount| {
        let rest = inner.as_str().strip_prefix(outer.as_str());
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    inside(one, other) || inside(other, one)
}

fn device(dir: &Path) -> Result<u64, ExportError> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(dir).map_err(|e| ExportError::io("look at", dir, e))?;
    Ok(metadata.dev())
}

/// The task of one mount.
struct One {
    exports: Exports,
    mount: Mount,
    serving: ServingWriter,
    engine: Mailbox,
    stop: CancellationToken,
}

impl One {
    async fn run(self) {
        let inner = &self.exports.0;
        let found = self.exports.state().found.remove(&self.mount);
        let mut trees = match found.map_or_else(|| Trees::open(&inner.section.dir, &self.mount), Ok)
        {
            Ok(trees) => trees,
            Err(error) => return self.troubled(&error),
        };
        let mut table = self.serving.wanted();
        let mut healed = inner.healed.subscribe();
        let mut retry = RETRY_FIRST;
        loop {
            let wanted = Arc::clone(&table.borrow_and_update());
            let healing = healed.has_changed().unwrap_or(false);
            healed.mark_unchanged();
            let turned = self.turn(trees, wanted, healing).await;
            let next;
            (trees, next) = match turned {
                Ok(turned) => turned,
                // Without its trees there is nothing to go on with; the next start reads them anew.
                Err(error) => return self.troubled(&error),
            };
            let pause = match next {
                Ok(Next::Again) => continue,
                Ok(next) => {
                    retry = RETRY_FIRST;
                    match next {
                        Next::After(pause) | Next::Idle(pause) => Some(pause),
                        Next::Rest | Next::Again => None,
                    }
                }
                Err(ExportError::Stopped) => return,
                Err(error) => {
                    if healing {
                        healed.mark_changed();
                    }
                    self.troubled(&error);
                    let pause = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    Some(pause)
                }
            };
            let until = pause.map(|pause| Instant::now() + pause);
            let failed = until.is_some() && retry > RETRY_FIRST;
            let rested = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = rested => {}
                // What failed is not tried again for every change of the table.
                changed = table.changed(), if !failed => if changed.is_err() { return },
                changed = healed.changed(), if !failed => match changed {
                    Ok(()) => healed.mark_changed(),
                    Err(_) => return,
                },
            }
        }
    }

    fn troubled(&self, error: &ExportError) {
        let text = format!("export of {}: {}", self.mount, wire::causes(error));
        let before = self
            .exports
            .state()
            .trouble
            .insert(self.mount.clone(), text.clone());
        if before.as_ref() != Some(&text) {
            tracing::error!("{text}");
        }
    }

    /// One look at the table, and what follows from it. The trees come back whatever happens.
    async fn turn(
        &self,
        trees: Trees,
        table: Arc<Serving>,
        healing: bool,
    ) -> Result<(Trees, Result<Next, ExportError>), ExportError> {
        let (exports, mount, serving) = (
            self.exports.clone(),
            self.mount.clone(),
            self.serving.clone(),
        );
        let stop = self.stop.clone();
        let turning = tokio::task::spawn_blocking(move || {
            let mut trees = trees;
            let mut turn = Turn {
                exports: &exports,
                mount: &mount,
                serving: &serving,
                stop: &stop,
            };
            let (next, moved) = turn.take(&mut trees, table, healing);
            (trees, next, moved)
        });
        let (trees, next, moved) = turning.await?;
        if !moved.is_empty() {
            // The engine is gone only when the process ends.
            self.engine
                .send(Message::Shown { channels: moved })
                .await
                .ok();
        }
        Ok((trees, next))
    }
}

/// One look at the table. Blocks.
struct Turn<'a> {
    exports: &'a Exports,
    mount: &'a Mount,
    serving: &'a ServingWriter,
    stop: &'a CancellationToken,
}

impl Turn<'_> {
    fn take(
        &mut self,
        trees: &mut Trees,
        table: Arc<Serving>,
        healing: bool,
    ) -> (Result<Next, ExportError>, Vec<ChannelId>) {
        let scope = Mounted::at(&table, self.mount).live();
        let goal = Goal {
            table,
            mount: self.mount.clone(),
            scope,
        };
        let mut moved = Vec::new();
        let next = self.step(trees, &goal, healing, &mut moved);
        let roots = trees.roots();
        let mut state = self.exports.state();
        state.roots.insert(self.mount.clone(), roots);
        if let Ok(Next::Rest | Next::Idle(_)) = next {
            state.trouble.remove(self.mount);
        }
        drop(state);
        (next, moved)
    }

    fn step(
        &self,
        trees: &mut Trees,
        goal: &Goal,
        healing: bool,
        moved: &mut Vec<ChannelId>,
    ) -> Result<Next, ExportError> {
        let inner = &self.exports.0;
        if healing {
            trees.link_again(&inner.inodes, &inner.pages, &|| self.stop.is_cancelled())?;
        }
        let most = inner.section.trees.max(2);
        if goal.scope.0.is_empty() {
            if trees.shown.is_some() {
                trees.hide(runtime::boot::now())?;
                moved.extend(self.serving.exported(self.mount, None));
                tracing::info!(mount = %self.mount, "nothing is exported any more");
            }
            return Ok(Next::Rest);
        }
        if trees.shown_scope() == Some(&goal.scope) {
            // The next build then finds a tree that lacks little, and what only older builds have is let go.
            let (settle, now) = (inner.section.settle.0, runtime::boot::now());
            let number = match trees.behind(most, settle, now) {
                Some(Spare::Tree(number)) => number,
                Some(Spare::After(pause)) => return Ok(Next::Idle(pause)),
                None => return Ok(Next::Rest),
            };
            let table = std::cell::RefCell::new(self.serving.wanted());
            let halted = || {
                let mut table = table.borrow_mut();
                let moved = |table: &Serving| Mounted::at(table, self.mount).live() != goal.scope;
                self.stop.is_cancelled()
                    || (table.has_changed().unwrap_or(true) && moved(&table.borrow_and_update()))
            };
            return match self.change(trees, number, goal, &halted) {
                // It waits: what is to be shown goes first.
                Err(ExportError::Stopped) if !self.stop.is_cancelled() => Ok(Next::Again),
                changed => changed.map(|()| Next::Again),
            };
        }
        let number = match trees.spare(most, inner.section.settle.0, runtime::boot::now()) {
            Spare::Tree(number) => number,
            Spare::After(pause) => {
                let text = format!(
                    "export of {}: every tree may still be read; the next is free in {} s",
                    self.mount,
                    pause.as_secs() + 1
                );
                self.exports
                    .state()
                    .trouble
                    .insert(self.mount.clone(), text);
                return Ok(Next::After(pause));
            }
        };
        self.change(trees, number, goal, &|| self.stop.is_cancelled())?;
        let now = self.serving.wanted().borrow().clone();
        if goal.scope.0.iter().any(|tree| is_retracted(&now, tree)) {
            return Ok(Next::Again);
        }
        trees.show(number, runtime::boot::now())?;
        moved.extend(self.serving.exported(self.mount, Some(goal.scope.clone())));
        for (channel, build) in goal.scope.builds() {
            tracing::info!(mount = %self.mount, %channel, %build, tree = number, "export tree shows");
        }
        Ok(Next::Again)
    }

    fn change(
        &self,
        trees: &mut Trees,
        number: u32,
        goal: &Goal,
        halted: &dyn Fn() -> bool,
    ) -> Result<(), ExportError> {
        let inner = &self.exports.0;
        // Before anything is read of it: what a tree is changed to stays until it is changed again.
        let mut roots = trees.roots();
        roots.extend(goal.scope.0.iter().map(|tree| tree.root));
        self.exports.state().roots.insert(self.mount.clone(), roots);
        let (inodes, pages, site) = (&inner.inodes, &inner.pages, &inner.site);
        trees.change(number, goal, inodes, pages, site, halted)
    }
}

fn is_retracted(table: &Serving, tree: &mirrorlog_core::tree::Tree) -> bool {
    let served = table.channels.get(&tree.channel);
    served.is_some_and(|served| served.is_retracted(tree.build))
}
