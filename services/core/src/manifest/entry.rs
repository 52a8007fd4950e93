//! Entries: what a manifest holds at a path.

use crate::id::Digest;
use crate::time::Mtime;

/// A file's permission bits: the two that a public archive needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// `rw-r--r--`
    Plain,
    /// `rwxr-xr-x`
    Executable,
}

impl Mode {
    /// The bits: 0o644 or 0o755.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Plain => 0o644,
            Self::Executable => 0o755,
        }
    }

    /// The mode for a file whose owner may, or may not, execute it.
    pub const fn from_bits(bits: u32) -> Self {
        if bits & 0o100 == 0 {
            Self::Plain
        } else {
            Self::Executable
        }
    }
}

/// A regular file of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileEntry {
    /// Its length in bytes.
    pub size_bytes: u64,
    /// SHA-256 of its content: the blob's name.
    pub digest: Digest,
    /// Its permission bits.
    pub mode: Mode,
    /// Its modification time.
    pub mtime: Mtime,
}

/// What a manifest holds at one path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A regular file.
    File(FileEntry),
    /// A symbolic link.
    Symlink {
        /// Where it leads, relative to its folder.
        target: Box<[u8]>,
    },
}

impl Entry {
    /// The file, if it is one.
    pub fn file(&self) -> Option<&FileEntry> {
        match self {
            Self::File(file) => Some(file),
            Self::Symlink { .. } => None,
        }
    }

    /// Bytes of content: 0 for a symlink.
    pub fn size_bytes(&self) -> u64 {
        self.file().map_or(0, |file| file.size_bytes)
    }
}
