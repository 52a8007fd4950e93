//! Whether a tree on disk is one of OpenBSD's.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use mirrorlog_core::openbsd::package;
use runtime::package::read_packing_list;
use rustix::fs::{Mode, OFlags};

use super::Outline;

/// `pub/OpenBSD/7.8/packages/amd64` is five deep.
const MAX_DEPTH: usize = 5;
/// Folders that are looked into, and names in all of them; bound what other trees cost.
const FOLDERS_MAX: usize = 1000;
const NAMES_MAX: usize = 200_000;

/// True when a folder has lists as OpenBSD's have, and a package; or signed sets with an index.
///
/// Looks at the upper folders only. What cannot be read is for the scan to tell.
pub(crate) fn is_openbsd(tree: &Path) -> bool {
    let mut pending = VecDeque::from([(tree.to_owned(), 0)]);
    let (mut folders, mut names) = (0, 0);
    while let Some((folder, depth)) = pending.pop_front() {
        folders += 1;
        if folders > FOLDERS_MAX || names > NAMES_MAX {
            return false;
        }
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        let mut seen = Seen::default();
        for entry in entries.flatten().take(NAMES_MAX) {
            names += 1;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => {
                    pending.push_back((entry.path(), depth + 1));
                }
                Ok(kind) if kind.is_file() => seen.add(entry.path()),
                Ok(_) | Err(_) => {}
            }
        }
        if seen.is_openbsd() {
            return true;
        }
    }
    false
}

/// What a folder has.
#[derive(Default)]
struct Seen {
    outline: Outline,
    is_signed: bool,
    package: Option<PathBuf>,
}

impl Seen {
    fn add(&mut self, path: PathBuf) {
        let name = path.file_name().unwrap_or_default().as_bytes();
        self.outline.add(name, false);
        self.is_signed |= name == super::SHA256_SIG.as_bytes();
        if self.package.is_none() && package(name).is_some() {
            self.package = Some(path);
        }
    }

    fn is_openbsd(&self) -> bool {
        if self.is_signed && self.outline.has_index {
            return true;
        }
        // Other archives of that name are no packages.
        let is_package =
            |path: &PathBuf| open(path).is_ok_and(|file| read_packing_list(file).is_ok());
        self.outline.has_lists() && self.package.as_ref().is_some_and(is_package)
    }
}

/// Opens what was a file a moment ago. Should it be a symlink or a pipe by now, it is not followed and hangs nobody.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}
