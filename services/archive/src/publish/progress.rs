//! How far a publish is: counters that workers bump, shown at a bounded rate.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a publish is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Asking the archive what it has.
    Describe,
    /// Walking the tree, reading what is new.
    Scan,
    /// Checking the tree by its layout.
    Validate,
    /// Sending it to an archive on another machine.
    Send,
    /// Handing the build to the archive.
    Commit,
}

/// A moment of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What goes on.
    pub phase: Phase,
    /// Entries seen so far.
    pub entries: u64,
    /// Files read so far.
    pub files_read: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Bytes of content that were sent to an archive on another machine.
    pub bytes_sent: u64,
}

/// Who wants to know. Called some times a second from one task.
pub trait Progress: Send + Sync {
    /// Takes note of a moment.
    fn moment(&self, moment: &Moment);
    /// Takes note of something that people should read, such as a second scan.
    fn note(&self, text: &str);
}

/// Nobody wants to know.
impl Progress for () {
    fn moment(&self, _moment: &Moment) {}
    fn note(&self, _text: &str) {}
}

/// Counters shared with the workers.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    phase: AtomicU64,
    entries: AtomicU64,
    files_read: AtomicU64,
    bytes_read: AtomicU64,
    bytes_sent: AtomicU64,
}

impl Counters {
    pub(crate) fn enter(&self, phase: Phase) {
        let number = match phase {
            Phase::Describe => 0,
            Phase::Scan => 1,
            Phase::Validate => 2,
            Phase::Send => 3,
            Phase::Commit => 4,
        };
        self.phase.store(number, Ordering::Relaxed);
    }

    pub(crate) fn seen(&self, entries: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, bytes: u64) {
        self.files_read.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Ordering::Relaxed)
    }

    pub(crate) fn files_read(&self) -> u64 {
        self.files_read.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment {
            phase: match self.phase.load(Ordering::Relaxed) {
                0 => Phase::Describe,
                1 => Phase::Scan,
                2 => Phase::Validate,
                3 => Phase::Send,
                _last => Phase::Commit,
            },
            entries: self.entries.load(Ordering::Relaxed),
            files_read: self.files_read(),
            bytes_read: self.bytes_read(),
            bytes_sent: self.bytes_sent(),
        }
    }
}
