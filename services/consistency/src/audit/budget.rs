//! How many bytes are taken from one mirror in a day.

use std::sync::{Mutex, PoisonError};

use runtime::boot::now;

use super::plan::{Depth, File};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Files that are checked even when the day's bytes are used up, if they are small: a mirror must
/// never be sure that it is not looked at.
const FREE_FILES: usize = 4;
const FREE_FILE_BYTES: u64 = 64 * 1024;

/// One mirror's budget; full again at the start of each day (UTC).
pub(super) struct Budget {
    per_day_bytes: u64,
    used: Mutex<(i64, u64)>,
}

impl Budget {
    pub(super) fn new(per_day_bytes: u64) -> Self {
        Self {
            per_day_bytes,
            used: Mutex::new((0, 0)),
        }
    }

    /// Takes the files in order as far as the bytes go. What is too large is only glanced at:
    /// its length and tag are compared, its content is not.
    pub(super) fn choose(&self, files: Vec<File>) -> Vec<File> {
        let day = now().as_ms().div_euclid(DAY_MS);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.0 != day {
            *used = (day, 0);
        }
        let mut free = FREE_FILES;
        let mut chosen = files;
        for file in &mut chosen {
            let fits = used.1.saturating_add(file.entry.size_bytes) <= self.per_day_bytes;
            if fits {
                used.1 += file.entry.size_bytes;
            } else if free > 0 && file.entry.size_bytes <= FREE_FILE_BYTES {
                free -= 1;
            } else {
                file.depth = Depth::Glance;
            }
        }
        chosen
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use mirrorlog_core::id::Digest;
    use mirrorlog_core::manifest::{FileEntry, Mode};
    use mirrorlog_core::path::EntryPath;
    use mirrorlog_core::time::Mtime;

    use super::*;

    fn file(size_bytes: u64) -> File {
        let path = EntryPath::new(b"a").unwrap();
        let entry = FileEntry {
            size_bytes,
            digest: Digest::of(b""),
            mode: Mode::Plain,
            mtime: Mtime::from_seconds(0),
        };
        File {
            path,
            entry,
            depth: Depth::Whole,
            sampled: true,
        }
    }

    #[test]
    fn the_budget_ends_and_small_files_are_still_looked_at() {
        let budget = Budget::new(1000);
        let chosen = budget.choose(vec![file(600), file(900_000), file(400), file(1)]);
        let depths: Vec<Depth> = chosen.iter().map(|file| file.depth).collect();
        assert_eq!(
            depths,
            [Depth::Whole, Depth::Glance, Depth::Whole, Depth::Whole]
        );
        let chosen = budget.choose((0..6).map(|_| file(10)).collect());
        assert_eq!(
            chosen
                .iter()
                .filter(|file| file.depth == Depth::Whole)
                .count(),
            FREE_FILES
        );
    }
}
