//! What lasts from run to run, as small files: the directory's last lists, the newest head of each channel, how fast
//! mirrors are, feedback that was not sent yet. Nothing is lost that cannot be learnt again; what cannot be read or
//! written is as if it were not there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirrorlog_core::client::speed::Known;
use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Largest file that is read back, in bytes.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// Mirrors whose speed is remembered.
const SPEEDS_MAX: usize = 1000;

/// The folder. Cheap to clone.
#[derive(Clone)]
pub(crate) struct State(Arc<Inner>);

struct Inner {
    dir: Option<PathBuf>,
    speeds: Mutex<Option<BTreeMap<String, Speed>>>,
}

/// A speed as it is written.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Speed {
    bytes_per_s: f64,
    probe_bytes_per_s: Option<f64>,
    at_ms: i64,
}

/// A document with the time at which it came.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Kept<T> {
    pub(crate) at_ms: i64,
    pub(crate) document: T,
}

impl State {
    pub(crate) fn open(dir: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner {
            dir,
            speeds: Mutex::default(),
        }))
    }

    /// Keeps a document of a directory under a name of its own.
    pub(crate) fn keep<T: Serialize>(
        &self,
        directory: &str,
        name: &str,
        document: &T,
        now: Timestamp,
    ) {
        let kept = Kept {
            at_ms: now.as_ms(),
            document,
        };
        if let Ok(bytes) = serde_json::to_vec(&kept) {
            self.write(&list_name(directory, name), &bytes);
        }
    }

    /// The document that was kept last.
    pub(crate) fn kept<T: for<'de> Deserialize<'de>>(
        &self,
        directory: &str,
        name: &str,
    ) -> Option<Kept<T>> {
        let bytes = self.read(&list_name(directory, name))?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The newest head of a channel, as it was signed.
    pub(crate) fn head(&self, directory: &str, channel: &ChannelId) -> Option<Vec<u8>> {
        self.read(&head_name(directory, channel))
    }

    /// Keeps a verified head.
    pub(crate) fn keep_head(&self, directory: &str, channel: &ChannelId, signed: &[u8]) {
        self.write(&head_name(directory, channel), signed);
    }

    /// The newest build of a channel that was ever pinned because it was wanted.
    pub(crate) fn newest_build(&self, directory: &str, channel: &ChannelId) -> Option<Build> {
        let bytes = self.read(&build_name(directory, channel))?;
        std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
    }

    /// Keeps the build that was pinned last.
    pub(crate) fn keep_newest_build(&self, directory: &str, channel: &ChannelId, build: Build) {
        if self.newest_build(directory, channel) != Some(build) {
            self.write(
                &build_name(directory, channel),
                format!("{build}\n").as_bytes(),
            );
        }
    }

    /// What is known of a mirror's speed.
    pub(crate) fn speed(&self, url: &str) -> Option<Known> {
        let speed = *self.speeds().as_ref()?.get(url)?;
        Some(Known {
            bytes_per_s: speed.bytes_per_s,
            probe_bytes_per_s: speed.probe_bytes_per_s,
            at: Timestamp::from_ms(speed.at_ms),
        })
    }

    /// Keeps what is known of a mirror's speed, for this run and the next.
    pub(crate) fn keep_speed(&self, url: &str, known: Known) {
        let mut guard = self.speeds();
        let Some(speeds) = guard.as_mut() else {
            return;
        };
        let speed = Speed {
            bytes_per_s: known.bytes_per_s,
            probe_bytes_per_s: known.probe_bytes_per_s,
            at_ms: known.at.as_ms(),
        };
        speeds.insert(url.to_owned(), speed);
        while speeds.len() > SPEEDS_MAX
            && let Some(oldest) = speeds.iter().min_by_key(|(_, speed)| speed.at_ms)
        {
            let oldest = oldest.0.clone();
            speeds.remove(&oldest);
        }
        if let Ok(bytes) = serde_json::to_vec(speeds) {
            self.write("speeds.json", &bytes);
        }
    }

    /// Read when first asked for.
    fn speeds(&self) -> MutexGuard<'_, Option<BTreeMap<String, Speed>>> {
        let mut guard = self.0.speeds.lock().unwrap_or_else(PoisonError::into_inner);
        guard.get_or_insert_with(|| {
            let bytes = self.read("speeds.json");
            bytes
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default()
        });
        guard
    }

    pub(crate) fn read(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.0.dir.as_ref()?.join(name);
        let short = std::fs::metadata(&path).ok()?.len() <= FILE_MAX_BYTES;
        short.then(|| std::fs::read(&path).ok())?
    }

    /// Replaces a file whole.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let Some(dir) = &self.0.dir else {
            return;
        };
        if let Err(error) = write_whole(dir, name, bytes) {
            tracing::debug!(%error, dir = %dir.display(), name, "client's state cannot be kept");
        }
    }
}

fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    io::Write::write_all(&mut file, bytes)?;
    file.persist(dir.join(name)).map_err(|error| error.error)?;
    Ok(())
}

/// A file name for what a directory said: URLs hold what file names may not.
fn list_name(directory: &str, name: &str) -> String {
    format!("{name}-{}.json", short(directory))
}

fn head_name(directory: &str, channel: &ChannelId) -> String {
    format!("head-{channel}-{}", short(directory))
}

fn build_name(directory: &str, channel: &ChannelId) -> String {
    format!("build-{channel}-{}", short(directory))
}

fn short(text: &str) -> String {
    let mut hex = Digest::of(text.as_bytes()).to_hex();
    hex.truncate(16);
    hex
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_by_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("deep/er");
        let channel: ChannelId = "noble".parse().unwrap();
        let known = Known {
            bytes_per_s: 5.0,
            probe_bytes_per_s: None,
            at: Timestamp::from_seconds(7),
        };
        let first = State::open(Some(folder.clone()));
        first.keep("http://d", "mirrors", &vec![1, 2], Timestamp::from_ms(5));
        first.keep_head("http://d", &channel, b"head");
        first.keep_speed("http://m", known);
        let next = State::open(Some(folder));
        let kept: Kept<Vec<u32>> = next.kept("http://d", "mirrors").unwrap();
        assert_eq!((kept.at_ms, kept.document), (5, vec![1, 2]));
        assert!(next.kept::<Vec<u32>>("http://other", "mirrors").is_none());
        assert_eq!(next.head("http://d", &channel).unwrap(), b"head");
        assert_eq!(next.speed("http://m"), Some(known));
        assert_eq!(next.speed("http://n"), None);
    }

    #[test]
    fn no_folder_and_damaged_files_are_as_if_nothing_were_there() {
        let none = State::open(None);
        none.keep("http://d", "mirrors", &1, Timestamp::from_ms(5));
        assert!(none.kept::<u32>("http://d", "mirrors").is_none());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("speeds.json"), "{").unwrap();
        let state = State::open(Some(dir.path().to_owned()));
        assert_eq!(state.speed("http://m"), None);
        let known = Known {
            bytes_per_s: 5.0,
            probe_bytes_per_s: None,
            at: Timestamp::from_seconds(7),
        };
        state.keep_speed("http://m", known);
        assert_eq!(state.speed("http://m"), Some(known));
    }
}
