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
//! | `turn` | one look at the table, and what follows from it |
//! | `task` | turns, and the pauses between them |

mod editor;
mod inodes;
mod record;
mod task;
#[cfg(test)]
mod tests;
mod trees;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mirrorlog_core::id::{Digest, Mount};
use runtime::store::{Pages, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::collect::Collections;
use crate::config::{Config, ExportSection};
use crate::engine::Mailbox;
use crate::http::Site;
use crate::serving::ServingWriter;

use inodes::Inodes;
use task::One;
use trees::Trees;

/// Folder of all trees; no mount is called so.
const TREES: &str = "@trees";
/// Folder of content under a second mode or time.
const COPIES: &str = "@copies";
/// Where it stands how often content was found damaged.
const DAMAGED: &str = "@damaged";

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
    /// How often content was found damaged, as on the disk: a tree that was linked before the last time may have files
    /// that are not the store's any more. Told again when something was healed.
    damaged: watch::Sender<u64>,
    /// To be asked when trees let builds go.
    collections: Arc<Collections>,
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

impl Exports {
    /// Opens the trees of the configured folder; `None` where none is configured. Tells `serving` what they show.
    ///
    /// # Errors
    /// [`ExportError`] when the folder cannot be used.
    pub(crate) fn open(
        config: &Config,
        pages: &Pages,
        serving: &ServingWriter,
        collections: &Arc<Collections>,
    ) -> Result<Option<Self>, ExportError> {
        let Some(section) = config.export.clone() else {
            return Ok(None);
        };
        let dir = &section.dir;
        record::make_folder(dir).map_err(|e| ExportError::io("make", dir, e))?;
        let store: &Store = pages.store();
        if device(dir)? != device(store.dir())? {
            return Err(ExportError::OtherFileSystem {
                dir: dir.clone(),
                store: store.dir().to_owned(),
            });
        }
        let inodes = Inodes::new(store.clone(), dir.join(COPIES))?;
        let damaged = std::fs::read_to_string(dir.join(DAMAGED)).unwrap_or_default();
        let damaged = damaged.trim().parse().unwrap_or(0);
        let mut state = State::default();
        for mount in Trees::mounts(dir) {
            let trees = Trees::open(dir, &mount)?;
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
            damaged: watch::Sender::new(damaged),
            collections: Arc::clone(collections),
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

    fn set_trouble(&self, mount: &Mount, text: Option<String>) {
        let mut state = self.state();
        match text {
            Some(text) => drop(state.trouble.insert(mount.clone(), text)),
            None => drop(state.trouble.remove(mount)),
        }
    }

    fn troubled(&self, mount: &Mount, error: &ExportError) {
        let text = format!("export of {mount}: {}", wire::causes(error));
        if self.trouble(mount).as_ref() != Some(&text) {
            tracing::error!("{text}");
        }
        self.set_trouble(mount, Some(text));
    }

    /// Roots that are let go make room: what only they have is collected.
    fn set_roots(&self, mount: &Mount, roots: BTreeSet<Digest>) {
        let before = self.state().roots.insert(mount.clone(), roots.clone());
        if before.is_some_and(|before| !before.is_subset(&roots)) {
            self.0.collections.ask();
        }
    }

    fn generation(&self) -> u64 {
        *self.0.damaged.borrow()
    }

    /// Content was found damaged, and will come back in files of its own: every tree is to be looked through, also by
    /// the next process if this one ends. Blocks.
    ///
    /// # Errors
    /// [`ExportError::Io`]: the note could not be written; this process knows all the same.
    pub(crate) fn damaged(&self) -> Result<(), ExportError> {
        let mut generation = 0;
        self.0.damaged.send_modify(|times| {
            *times += 1;
            generation = *times;
        });
        let file = self.0.section.dir.join(DAMAGED);
        let written = record::write_durably(&file, generation.to_string().as_bytes());
        written.map_err(|e| ExportError::io("write", &file, e))
    }

    /// What was damaged is whole again: whoever waited for it goes on.
    pub(crate) fn healed(&self) {
        self.0.damaged.send_modify(|_| {});
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
                if let Err(error) = self.damaged() {
                    tracing::error!(error = wire::causes(&error), "the fault cannot be noted");
                }
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
                        // It is served as if there were no trees.
                        serving.ungate(&mount);
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
