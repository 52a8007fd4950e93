//! What must stay as it is around a folder of hostile names, and whoever swaps files and folders for symlinks while
//! others work. Taken in beside `names`.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::names::PLAIN;

/// Times that a step is done while names are swapped.
pub(crate) const RACES: u32 = 10_000;

/// How often a step is done that takes milliseconds: `usual` times, and [`RACES`] times with `MIRRORLOG_RACES=all`.
pub(crate) fn races(usual: u32) -> u32 {
    match std::env::var("MIRRORLOG_RACES").is_ok_and(|how| how == "all") {
        true => RACES,
        false => usual,
    }
}

/// A folder with others around it, whose files have the names that the tree has too, and a secret.
pub(crate) struct Canary {
    home: tempfile::TempDir,
    before: Vec<Seen>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    mode: u32,
    links: u64,
    size: u64,
    changed: (i64, i64),
    content: Vec<u8>,
}

/// What no file of the tree has.
const SECRET: &[u8] = b"canary: nobody outside reads this";

impl Canary {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut folder = home.path().to_owned();
        for name in ["around", "deep", "er"] {
            folder.push(name);
            std::fs::create_dir(&folder).unwrap();
            for plain in PLAIN {
                match plain {
                    "pool" | "dists" => {
                        std::fs::create_dir(folder.join(plain)).unwrap();
                        for file in ["a", "secret"] {
                            std::fs::write(folder.join(plain).join(file), SECRET).unwrap();
                        }
                    }
                    file => std::fs::write(folder.join(file), SECRET).unwrap(),
                }
            }
        }
        std::fs::create_dir(folder.join("in")).unwrap();
        std::fs::create_dir(home.path().join("aside")).unwrap();
        let mut canary = Self {
            home,
            before: Vec::new(),
        };
        canary.before = canary.look();
        canary
    }

    /// The folder that nobody gets out of.
    pub(crate) fn inside(&self) -> PathBuf {
        self.around().join("in")
    }

    /// The folder around it.
    pub(crate) fn around(&self) -> PathBuf {
        self.home.path().join("around/deep/er")
    }

    /// For what swappers keep; it counts as inside.
    pub(crate) fn aside(&self) -> PathBuf {
        self.home.path().join("aside")
    }

    pub(crate) fn is_secret(bytes: &[u8]) -> bool {
        bytes.windows(SECRET.len()).any(|part| part == SECRET)
    }

    pub(crate) fn secret() -> &'static [u8] {
        SECRET
    }

    /// Everything around is as it was.
    #[track_caller]
    pub(crate) fn check(&self) {
        let now = self.look();
        let changed: Vec<&Seen> = now
            .iter()
            .filter(|one| !self.before.contains(one))
            .collect();
        assert!(
            now == self.before,
            "outside of the folder: {} things before, {} now; new or changed: {changed:#?}",
            self.before.len(),
            now.len()
        );
    }

    fn look(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut folders = vec![self.home.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                if path == self.inside() || path == self.aside() {
                    continue;
                }
                if meta.is_dir() {
                    folders.push(path.clone());
                }
                let content = meta.is_file().then(|| std::fs::read(&path).unwrap());
                seen.push(Seen {
                    mode: meta.mode(),
                    // Of folders it says how many are in them, with their size: `in` among them.
                    links: meta.nlink(),
                    size: meta.size(),
                    changed: (meta.ctime(), meta.ctime_nsec()),
                    content: content.unwrap_or_default(),
                    path,
                });
            }
        }
        seen.sort_by(|one, other| one.path.cmp(&other.path));
        seen
    }
}

/// Swaps names for symlinks to the outside and back, as fast as it can.
pub(crate) struct Swapper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Swapper {
    /// `pairs`: a name, and where it leads meanwhile. What is swapped waits in `aside`, of the same file system.
    pub(crate) fn start(aside: &Path, pairs: &[(PathBuf, PathBuf)]) -> Self {
        let spare = |number: usize| aside.join(format!("swapped-{number}"));
        let pairs: Vec<_> = pairs
            .iter()
            .enumerate()
            .map(|(number, (name, out))| (name.clone(), out.clone(), spare(number)))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut swaps = 0;
            while !stopped.load(Ordering::Relaxed) {
                for (name, out, spare) in &pairs {
                    swaps += u64::from(swap(name, out, spare));
                }
            }
            swaps
        });
        Self { stop, thread }
    }

    /// Ends it. Says how often names were swapped.
    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the swapper")
    }
}

/// One way and back. Whoever works there may have replaced what it finds.
fn swap(name: &Path, out: &Path, spare: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let exchange = || renameat_with(CWD, spare, CWD, name, RenameFlags::EXCHANGE).is_ok();
    symlink(out, spare).ok();
    let there = exchange();
    let back = there && exchange();
    if spare
        .symlink_metadata()
        .is_ok_and(|meta| !meta.is_symlink())
    {
        // Never through a symlink: it is none, and it is ours alone.
        std::fs::remove_dir_all(spare)
            .or_else(|_| std::fs::remove_file(spare))
            .ok();
    }
    there && back
}
