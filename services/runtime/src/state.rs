//! Small control state (outbox, cursors, targets, leases): one writer, atomic commits, durable before anything is acked.

use std::any::Any;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::Reaction;

/// Memory that sled may use for its cache, in bytes; the state is far smaller.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// The file that is there once state was made to the end.
const MADE: &str = "made";
/// How often, and after what pause, a lock is tried again: half a second in all.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why the state could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it open.
    #[error("another process has the state in {} open; stop it first", dir.display())]
    Busy {
        /// The state's folder.
        dir: PathBuf,
    },
    /// sled could not read or write.
    #[error("cannot {action} the state in {}", dir.display())]
    Sled {
        /// What was tried, a verb.
        action: &'static str,
        /// The state's folder.
        dir: PathBuf,
        /// What sled says.
        #[source]
        source: sled::Error,
    },
    /// sled gave up in the middle of opening.
    #[error("the state in {} makes sled panic: {message}", dir.display())]
    Panic {
        /// The state's folder.
        dir: PathBuf,
        /// What it said.
        message: String,
    },
    /// sled opened it as if it were new, and it is not: that is what it makes of a log that it cannot follow.
    #[error("the state in {} has lost what was in it", dir.display())]
    Lost {
        /// The state's folder.
        dir: PathBuf,
    },
    /// An earlier commit failed, and what is on the disk cannot be read again yet.
    #[error("the state in {} failed before and does not open again yet", dir.display())]
    Failed {
        /// The state's folder.
        dir: PathBuf,
    },
    /// A file or folder of the state could not be handled.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl StateError {
    /// What the caller best does. State that cannot be written stops everything that needs it.
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Busy { .. } => Reaction::Retry,
            Self::Sled { .. }
            | Self::Panic { .. }
            | Self::Lost { .. }
            | Self::Failed { .. }
            | Self::Io { .. } => Reaction::Halt,
        }
    }

    fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// What services need of a database. Values are small; keys are laid out by each service in one enum.
pub trait Control: Send + Sync {
    /// Reads one value.
    ///
    /// # Errors
    /// [`StateError::Sled`]: a fault is never "absent".
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// All pairs whose key starts with `prefix`, in order of key.
    ///
    /// # Errors
    /// [`StateError::Sled`].
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError>;

    /// Applies all of it or nothing, in order, and returns when it is durable.
    ///
    /// # Errors
    /// [`StateError::Sled`], [`StateError::Io`]: then it is not known to be durable, and nothing may be acked.
    /// The next call reads what is on the disk again; until that works, every call is [`StateError::Failed`].
    fn commit(&self, changes: &[Write]) -> Result<(), StateError>;
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key to a value.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key; absent is fine.
    Delete(Vec<u8>),
}

/// Whether the state is what was left, or had to be made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is what was left (or new).
    AsLeft,
    /// It did not open: moved aside to this name, and an empty one made.
    Rebuilt(PathBuf),
}

/// sled behind [`Control`].
#[derive(Debug)]
pub struct SledState {
    dir: PathBuf,
    /// None while it does not open again after a failed commit.
    files: RwLock<Option<Files>>,
    failed: AtomicBool,
    _lock: File,
}

/// An open database.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
    db: sled::Db,
    /// sled's log file, for a sync of our own: on Linux sled 0.34 only calls `sync_file_range`,
    /// which writes neither the file's length nor the disk's cache.
    log: File,
}

impl SledState {
    /// Opens the state in `dir`, or makes it. What does not open is moved aside to
    /// `<dir>.broken-<time>` and an empty state made, which the service fills again from elsewhere.
    ///
    /// # Errors
    /// [`StateError::Busy`] when another process has it open; [`StateError::Sled`] and [`StateError::Io`]
    /// for faults that are not the state's own (no space, no permission): those move nothing.
    pub fn open(dir: &Path) -> Result<(Self, Opened), StateError> {
        std::fs::create_dir_all(dir).map_err(|e| StateError::io("make", dir, e))?;
        let lock = take_lock(dir)?;
        // Of a copy that was not finished.
        clear(&beside(dir, "new"))?;
        clear_unfinished(dir)?;
        match Self::open_locked(dir, &lock) {
            Ok(state) => Ok((state, Opened::AsLeft)),
            Err(error) if is_broken(&error) => {
                let aside = move_aside(dir)?;
                tracing::error!(dir = %dir.display(), aside = %aside.display(), error = crate::chain(&error), "state does not open: moved aside, starting empty");
                Ok((Self::open_locked(dir, &lock)?, Opened::Rebuilt(aside)))
            }
            Err(error) => Err(error),
        }
    }

    fn open_locked(dir: &Path, lock: &File) -> Result<Self, StateError> {
        let files = Files::open(dir)?;
        let lock = lock
            .try_clone()
            .map_err(|e| StateError::io("keep the lock on", dir, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            files: RwLock::new(Some(files)),
            failed: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Does something with the database. Nobody may read what did not become durable: after a failed commit it is first
    /// opened again, as a restart would. A disk that was full for a while stops nobody for longer.
    fn with<T>(&self, act: impl FnOnce(&Files) -> Result<T, StateError>) -> Result<T, StateError> {
        if self.failed.load(Ordering::Acquire) {
            self.open_again()?;
        }
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        match &*files {
            Some(files) => act(files),
            None => Err(self.has_failed()),
        }
    }

    fn open_again(&self) -> Result<(), StateError> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        // sled panics in its end when it cannot sync.
        let closed = catch_unwind(AssertUnwindSafe(|| drop(files.take())));
        if closed.is_err() {
            tracing::warn!(dir = %self.dir.display(), "the state did not close cleanly");
        }
        let anew = catch_unwind(AssertUnwindSafe(|| Files::anew(&self.dir)));
        let anew = anew.unwrap_or_else(|panic| {
            Err(StateError::Panic {
                dir: self.dir.clone(),
                message: message_of(&*panic),
            })
        });
        match anew {
            Ok(opened) => {
                *files = Some(opened);
                self.failed.store(false, Ordering::Release);
                tracing::info!(dir = %self.dir.display(), "the state is read again after a fault");
                Ok(())
            }
            Err(error) => {
                let error = crate::chain(&error);
                tracing::warn!(dir = %self.dir.display(), error, "the state does not open again yet");
                Err(self.has_failed())
            }
        }
    }

    fn has_failed(&self) -> StateError {
        StateError::Failed {
            dir: self.dir.clone(),
        }
    }
}

impl Files {
    /// Opens the database after a failed sync: all of it is written anew, to another folder that then takes the place.
    ///
    /// What a failed sync did not write, the system keeps in memory as if it had been written: a sync of the same file
    /// says that all is well, and a power loss leaves a hole in sled's log.
    fn anew(dir: &Path) -> Result<Self, StateError> {
        let new = beside(dir, "new");
        clear(&new)?;
        let old = Self::open(dir)?;
        let pairs: Result<Vec<_>, _> = old.db.iter().collect();
        let pairs = pairs.map_err(|e| old.fail("read", e))?;
        std::fs::create_dir_all(&new).map_err(|e| StateError::io("make", &new, e))?;
        let copy = Self::open(&new)?;
        let mut batch = sled::Batch::default();
        for (key, value) in pairs {
            batch.insert(key, value);
        }
        copy.commit_batch(batch)?;
        // sled knows its files by their names: both are closed before these change.
        drop((old, copy));
        let exchanged = rustix::fs::renameat_with(
            rustix::fs::CWD,
            &new,
            rustix::fs::CWD,
            dir,
            rustix::fs::RenameFlags::EXCHANGE,
        );
        match exchanged {
            Ok(()) => {}
            // A file system that cannot: what is there is taken as it is.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                tracing::warn!(dir = %dir.display(), "this file system cannot exchange folders: the state is read again as it is");
            }
            Err(error) => return Err(StateError::io("exchange", &new, error)),
        }
        let parent = parent_of(dir);
        let synced = File::open(parent).and_then(|folder| folder.sync_all());
        synced.map_err(|e| StateError::io("sync", parent, e))?;
        clear(&new)?;
        Self::open(dir)
    }

    fn open(dir: &Path) -> Result<Self, StateError> {
        let db = patiently(|| open_sled(dir))?;
        let path = dir.join("db");
        let log = File::open(&path).map_err(|e| StateError::io("open", &path, e))?;
        let files = Self {
            dir: dir.to_owned(),
            db,
            log,
        };
        files.check_lost()?;
        Ok(files)
    }

    /// sled takes a log that it cannot follow for an empty one, or for the part before the fault. A file
    /// beside the log and a key in it, both made at the beginning, tell the first from new state. (The
    /// second is an older state, which every service has to cope with: others hold the truth.)
    fn check_lost(&self) -> Result<(), StateError> {
        let file = self.dir.join(MADE);
        let fail = |e| self.fail("open", e);
        let tree = self.db.open_tree("mirrorlog").map_err(fail)?;
        let keyed = tree.contains_key("made").map_err(fail)?;
        let filed = file
            .try_exists()
            .map_err(|e| StateError::io("look at", &file, e))?;
        if filed && !keyed {
            return Err(StateError::Lost {
                dir: self.dir.clone(),
            });
        }
        if !keyed {
            tree.insert("made", b"").map_err(fail)?;
            self.sync()?;
        }
        if !filed {
            File::create(&file).map_err(|e| StateError::io("make", &file, e))?;
        }
        for folder in [&self.dir, parent_of(&self.dir)] {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|e| StateError::io("sync", folder, e))?;
        }
        Ok(())
    }

    fn commit_batch(&self, batch: sled::Batch) -> Result<(), StateError> {
        self.db
            .apply_batch(batch)
            .map_err(|e| self.fail("change", e))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), StateError> {
        self.db.flush().map_err(|e| self.fail("flush", e))?;
        let synced = self.log.sync_data();
        synced.map_err(|e| StateError::io("sync", &self.dir.join("db"), e))
    }

    fn fail(&self, action: &'static str, source: sled::Error) -> StateError {
        StateError::Sled {
            action,
            dir: self.dir.clone(),
            source,
        }
    }
}

impl Control for SledState {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.with(|files| {
            let value = files.db.get(key).map_err(|e| files.fail("read", e))?;
            Ok(value.map(|value| value.to_vec()))
        })
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError> {
        self.with(|files| {
            let pairs = files.db.scan_prefix(prefix).map(|pair| match pair {
                Ok((key, value)) => Ok((key.to_vec(), value.to_vec())),
                Err(e) => Err(files.fail("read", e)),
            });
            pairs.collect()
        })
    }

    fn commit(&self, changes: &[Write]) -> Result<(), StateError> {
        self.with(|files| {
            if changes.is_empty() {
                return Ok(());
            }
            let mut batch = sled::Batch::default();
            for change in changes {
                match change {
                    Write::Put(key, value) => batch.insert(key.as_slice(), value.as_slice()),
                    Write::Delete(key) => batch.remove(key.as_slice()),
                }
            }
            files
                .commit_batch(batch)
                .inspect_err(|_| self.failed.store(true, Ordering::Release))
        })
    }
}

/// Removes what an opening left that did not come to its end. Nothing was ever kept in it, and after a failed sync sled
/// may open it now, and find it damaged when there is something to lose.
fn clear_unfinished(dir: &Path) -> Result<(), StateError> {
    let there = |name: &str| {
        let path = dir.join(name);
        path.try_exists()
            .map_err(|e| StateError::io("look at", &path, e))
    };
    if there(MADE)? || !there("db")? {
        return Ok(());
    }
    match patiently(|| open_sled(dir)) {
        Ok(db) if db.is_empty() => {}
        // What is in it counts; what does not open is seen to by the opening.
        Ok(_) | Err(_) => return Ok(()),
    }
    tracing::info!(dir = %dir.display(), "state that was not made to the end is made anew");
    clear(dir)?;
    std::fs::create_dir_all(dir).map_err(|e| StateError::io("make", dir, e))
}

/// Removes a folder with all in it; absent is fine.
fn clear(dir: &Path) -> Result<(), StateError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StateError::io("remove", dir, e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A lock beside the folder, so that it stays when the folder is moved aside.
fn take_lock(dir: &Path) -> Result<File, StateError> {
    let path = beside(dir, "lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|e| StateError::io("open", &path, e))?;
    patiently(
        || match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(StateError::Busy {
                dir: dir.to_owned(),
            }),
            Err(e) => Err(StateError::io("lock", &path, e)),
        },
    )?;
    Ok(file)
}

/// Tries again for half a second what is busy. A lock may outlive its holder for a moment: sled's threads
/// still finish their work on the file, and a process that was just forked has our files until its exec.
fn patiently<T>(attempt: impl Fn() -> Result<T, StateError>) -> Result<T, StateError> {
    for _ in 0..LOCK_ATTEMPTS {
        match attempt() {
            Err(StateError::Busy { .. }) => std::thread::sleep(LOCK_PAUSE),
            done => return done,
        }
    }
    attempt()
}

fn open_sled(dir: &Path) -> Result<sled::Db, StateError> {
    // Every commit flushes; a flusher thread would only wake up for nothing.
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    // sled 0.34 asserts its way through a log that it does not understand.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    let opened = opened.map_err(|panic| StateError::Panic {
        dir: dir.to_owned(),
        message: message_of(&*panic),
    })?;
    opened.map_err(|source| {
        if is_locked(&source) {
            StateError::Busy {
                dir: dir.to_owned(),
            }
        } else {
            StateError::Sled {
                action: "open",
                dir: dir.to_owned(),
                source,
            }
        }
    })
}

/// sled tells this only by its text.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().starts_with("could not acquire lock"))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").to_owned()
}

/// True when the bytes on disk are at fault, not the system around them.
fn is_broken(error: &StateError) -> bool {
    match error {
        StateError::Panic { .. } | StateError::Lost { .. } => true,
        StateError::Busy { .. } | StateError::Failed { .. } | StateError::Io { .. } => false,
        StateError::Sled { source, .. } => match source {
            sled::Error::Io(e) => matches!(
                e.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ),
            sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Corruption { .. } => true,
        },
    }
}

fn move_aside(dir: &Path) -> Result<PathBuf, StateError> {
    let seconds = crate::boot::now().as_seconds();
    let mut aside = beside(dir, &format!("broken-{seconds}"));
    let mut number = 1;
    while aside.exists() {
        aside = beside(dir, &format!("broken-{seconds}-{number}"));
        number += 1;
    }
    std::fs::rename(dir, &aside).map_err(|e| StateError::io("move aside", dir, e))?;
    std::fs::create_dir(dir).map_err(|e| StateError::io("make", dir, e))?;
    Ok(aside)
}

/// `<dir>.<suffix>`.
fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or(dir.as_os_str()).to_owned();
    name.push(".");
    name.push(suffix);
    dir.with_file_name(name)
}

fn parent_of(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
