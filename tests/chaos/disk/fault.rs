//! What goes wrong, and at which of the changing calls.

use std::ops::Range;

use fuser::Errno;

/// What a call changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The bytes of a file.
    Write,
    /// Names and inodes that take room: create, mkdir, link, symlink, rename.
    Name,
    /// Unlink and rmdir.
    Remove,
    /// Mode, times, a smaller size.
    Attributes,
    /// `fsync` of a file or folder, `syncfs`.
    Sync,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Error {
    /// `ENOSPC`, for what takes room.
    NoSpace,
    /// `EIO`; what a failed sync was to bring to the disk never comes there, as Linux does it.
    Io,
    /// Half of the bytes are taken.
    Short,
}

/// Calls that fail.
#[derive(Clone, Debug)]
pub(super) struct Failing {
    pub(super) error: Error,
    /// Numbers of calls, from 1.
    pub(super) calls: Range<u64>,
}

/// What goes wrong on a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// The power goes before this call.
    pub(super) power_loss: Option<u64>,
    pub(super) failing: Option<Failing>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    Half,
    Refused(Error),
    /// There is no power.
    Dead,
}

impl Plan {
    pub(super) fn fate(&self, call: u64, kind: Kind) -> Fate {
        if self.power_loss.is_some_and(|at| call >= at) {
            return Fate::Dead;
        }
        let Some(failing) = &self.failing else {
            return Fate::Done;
        };
        let hit = failing.calls.contains(&call);
        match (failing.error, kind) {
            (Error::Io, _) | (Error::NoSpace, Kind::Write | Kind::Name) if hit => {
                Fate::Refused(failing.error)
            }
            (Error::Short, Kind::Write) if hit => Fate::Half,
            (Error::Io | Error::NoSpace | Error::Short, _) => Fate::Done,
        }
    }
}

impl Error {
    pub(super) fn errno(self) -> Errno {
        match self {
            Self::NoSpace => Errno::ENOSPC,
            Self::Io | Self::Short => Errno::EIO,
        }
    }
}
