//! Small control state (outbox, cursors, targets, leases): one writer, atomic commits, durable before anything is acked.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FlockOperation;

use crate::Reaction;

/// Memory that sled may use for its cache, in bytes; the state is far smaller.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

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
    /// An earlier commit failed: what is in memory may not be what is on the disk.
    #[error("the state in {} failed before; restart to read what is on the disk", dir.display())]
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
            Self::Sled { .. } | Self::Panic { .. } | Self::Failed { .. } | Self::Io { .. } => {
                Reaction::Halt
            }
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
    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StateError>;

    /// Applies all of it or nothing, in order, and returns when it is durable.
    ///
    /// # Errors
    /// [`StateError::Sled`], [`StateError::Io`]: then it is not known to be durable, nothing may be acked,
    /// and every later call is [`StateError::Failed`]: after a failed sync the kernel forgets what it could not write.
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
    db: sled::Db,
    /// sled's log file, for a sync of our own: on Linux sled 0.34 only calls `sync_file_range`,
    /// which writes neither the file's length nor the disk's cache.
    log: File,
    failed: AtomicBool,
    _lock: File,
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
        match open_sled(dir) {
            Ok(db) => Ok((Self::ready(dir, db, lock)?, Opened::AsLeft)),
            Err(error) if is_broken(&error) => {
                let aside = move_aside(dir)?;
                tracing::error!(dir = %dir.display(), aside = %aside.display(), error = crate::chain(&error), "state does not open: moved aside, starting empty");
                let db = open_sled(dir)?;
                Ok((Self::ready(dir, db, lock)?, Opened::Rebuilt(aside)))
            }
            Err(error) => Err(error),
        }
    }

    fn ready(dir: &Path, db: sled::Db, lock: File) -> Result<Self, StateError> {
        let path = dir.join("db");
        let log = File::open(&path).map_err(|e| StateError::io("open", &path, e))?;
        for folder in [dir, parent_of(dir)] {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|e| StateError::io("sync", folder, e))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            db,
            log,
            failed: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Nobody may read what did not become durable.
    fn check_failed(&self) -> Result<(), StateError> {
        let failed = self.failed.load(Ordering::Acquire);
        if failed {
            Err(StateError::Failed {
                dir: self.dir.clone(),
            })
        } else {
            Ok(())
        }
    }

    fn commit_batch(&self, batch: sled::Batch) -> Result<(), StateError> {
        self.db
            .apply_batch(batch)
            .map_err(|e| self.fail("change", e))?;
        self.db.flush().map_err(|e| self.fail("flush", e))?;
        self.log
            .sync_data()
            .map_err(|e| StateError::io("sync", &self.dir.join("db"), e))
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
        self.check_failed()?;
        let value = self.db.get(key).map_err(|e| self.fail("read", e))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StateError> {
        self.check_failed()?;
        let pairs = self.db.scan_prefix(prefix).map(|pair| match pair {
            Ok((key, value)) => Ok((key.to_vec(), value.to_vec())),
            Err(e) => Err(self.fail("read", e)),
        });
        pairs.collect()
    }

    fn commit(&self, changes: &[Write]) -> Result<(), StateError> {
        self.check_failed()?;
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
        self.commit_batch(batch)
            .inspect_err(|_| self.failed.store(true, Ordering::Release))
    }
}

/// A lock beside the folder, so that it stays when the folder is moved aside.
fn take_lock(dir: &Path) -> Result<File, StateError> {
    let path = beside(dir, "lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|e| StateError::io("open", &path, e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::Busy {
            dir: dir.to_owned(),
        }),
        Err(e) => Err(StateError::io("lock", &path, e)),
    }
}

fn open_sled(dir: &Path) -> Result<sled::Db, StateError> {
    // Every commit flushes; a flusher thread would only wake up for nothing.
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    // sled 0.34 asserts its way through a log that it does not understand.
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(e))) if e.to_string().starts_with("could not acquire lock") => {
            Err(StateError::Busy {
                dir: dir.to_owned(),
            })
        }
        Ok(Err(source)) => Err(StateError::Sled {
            action: "open",
            dir: dir.to_owned(),
            source,
        }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let message = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(StateError::Panic {
                dir: dir.to_owned(),
                message: message.to_owned(),
            })
        }
    }
}

/// True when the bytes on disk are at fault, not the system around them.
fn is_broken(error: &StateError) -> bool {
    match error {
        StateError::Panic { .. } => true,
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
