//! Traces that clients sent with failures, such as a traceroute: for the operator's eyes.
//!
//! They name routers on the way, so they are shown on no page: the newest ones lie in a file of the state's folder
//! that its owner alone can read, without the client's address, and are forgotten after seven days. Requests only
//! put them into memory; one task writes the file.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirrorlog_core::directory::speed::Failure;
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::time::Timestamp;
use runtime::boot::now;
use serde_json::json;
use tokio::time::MissedTickBehavior;

const NAME: &str = "traces.jsonl";
/// Traces that are kept; of more, the newest.
const TRACES_MAX: usize = 256;
/// All lines together, in bytes; of more, the newest.
const LINES_MAX_BYTES: usize = 1024 * 1024;
/// One trace, in bytes; what is longer is cut. Escaped, its line may have six times as many.
const TRACE_MAX_BYTES: usize = 4 * 1024;
const FORGOTTEN_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Pause between two writings of the file.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// A trace as it stands in the file: one line, whatever the client wrote.
pub fn line(time: Timestamp, mirror: &MirrorId, kind: Failure, trace: &str) -> String {
    let cut = trace.floor_char_boundary(TRACE_MAX_BYTES);
    let line = json!({
        "time": time.as_seconds(),
        "mirror": mirror.as_str(),
        "outcome": kind.as_str(),
        "trace": &trace[..cut],
    });
    format!("{line}\n")
}

/// The newest traces. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Traces {
    dir: Arc<Path>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    /// Oldest first.
    lines: VecDeque<(Timestamp, String)>,
    /// Of all lines.
    bytes: usize,
    /// Whether the file has something else.
    changed: bool,
}

impl Traces {
    /// None yet; to be written to `traces.jsonl` in `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            kept: Arc::default(),
        }
    }

    /// Keeps a trace in memory.
    pub(crate) fn keep(&self, mirror: &MirrorId, kind: Failure, trace: &str) {
        self.keep_at(now(), mirror, kind, trace);
    }

    /// Writes the file whenever there is something else to write, for ever. Begins without the last process's.
    pub(crate) async fn write(self) {
        let dir = self.dir.clone();
        let mut failed = false;
        on_blocking_thread(&mut failed, move || remove(&dir)).await;
        let mut tick = tokio::time::interval(WRITE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let traces = self.clone();
            on_blocking_thread(&mut failed, move || traces.write_changed(now())).await;
        }
    }

    fn keep_at(&self, time: Timestamp, mirror: &MirrorId, kind: Failure, trace: &str) {
        self.kept().push(time, line(time, mirror, kind, trace));
    }

    /// Blocks. What could not be written is tried again with the next call.
    fn write_changed(&self, now: Timestamp) -> io::Result<()> {
        let text = {
            let mut kept = self.kept();
            kept.forget(now);
            if !std::mem::take(&mut kept.changed) {
                return Ok(());
            }
            kept.text()
        };
        let written = replace(&self.dir, &text);
        if written.is_err() {
            self.kept().changed = true;
        }
        written
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn push(&mut self, time: Timestamp, line: String) {
        self.bytes += line.len();
        self.lines.push_back((time, line));
        self.changed = true;
        while self.lines.len() > TRACES_MAX || self.bytes > LINES_MAX_BYTES {
            self.pop();
        }
    }

    fn forget(&mut self, now: Timestamp) {
        let old = |(at, _): &(Timestamp, String)| now.ms_since(*at) > FORGOTTEN_MS;
        while self.lines.front().is_some_and(old) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, line)) = self.lines.pop_front() {
            self.bytes -= line.len();
            self.changed = true;
        }
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes);
        for (_, line) in &self.lines {
            text.push_str(line);
        }
        text
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

fn new_file(dir: &Path) -> PathBuf {
    dir.join(format!("{NAME}.new"))
}

/// Puts a new file in the place of the old one: readable by its owner alone from its first byte on.
fn replace(dir: &Path, text: &str) -> io::Result<()> {
    let new = new_file(dir);
    // One that is there already has a mode that somebody else chose.
    remove_file(&new)?;
    let mut options = OpenOptions::new();
    let mut opened = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    opened.write_all(text.as_bytes())?;
    std::fs::rename(&new, file(dir))
}

fn remove(dir: &Path) -> io::Result<()> {
    remove_file(&new_file(dir))?;
    remove_file(&file(dir))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Does it, and warns of the first of a row of failures.
async fn on_blocking_thread<F>(failed: &mut bool, act: F)
where
    F: FnOnce() -> io::Result<()> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(act).await;
    let done = done.map_err(io::Error::other).flatten();
    if let Err(error) = &done
        && !*failed
    {
        tracing::warn!(%error, "clients' traces cannot be written");
    }
    *failed = done.is_err();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_795_305_030);

    fn keep(traces: &Traces, time: Timestamp, trace: &str) {
        let nz1 = MirrorId::new("nz1").unwrap();
        traces.keep_at(time, &nz1, Failure::Timeout, trace);
    }

    fn written(dir: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(file(dir)).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn mode(dir: &Path) -> u32 {
        std::fs::metadata(file(dir)).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn its_owner_alone_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        // What an earlier process or somebody else left, readable by all.
        for left in [file(dir.path()), new_file(dir.path())] {
            std::fs::write(&left, "old\n").unwrap();
            let all = std::fs::Permissions::from_mode(0o666);
            std::fs::set_permissions(&left, all).unwrap();
        }
        let traces = Traces::new(dir.path());
        keep(&traces, NOW, "1 \"gw\"\n2 *");
        traces.write_changed(NOW).unwrap();
        assert_eq!(mode(dir.path()), 0o600);
        let line = json!({
            "time": 1_795_305_030, "mirror": "nz1", "outcome": "timeout", "trace": "1 \"gw\"\n2 *",
        });
        assert_eq!(written(dir.path()), [line]);
        assert!(!new_file(dir.path()).exists());
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let dir = tempfile::tempdir().unwrap();
        let traces = Traces::new(dir.path());
        traces.write_changed(NOW).unwrap();
        assert!(!file(dir.path()).exists());
        keep(&traces, NOW, "one");
        traces.write_changed(NOW).unwrap();
        std::fs::remove_file(file(dir.path())).unwrap();
        traces.write_changed(NOW).unwrap();
        assert!(!file(dir.path()).exists());
    }

    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let traces = Traces::new(&state);
        keep(&traces, NOW, "one");
        traces.write_changed(NOW).unwrap_err();
        std::fs::create_dir(&state).unwrap();
        traces.write_changed(NOW).unwrap();
        assert_eq!(written(&state).len(), 1);
    }

    #[test]
    fn old_ones_go_when_nothing_new_comes() {
        let dir = tempfile::tempdir().unwrap();
        let traces = Traces::new(dir.path());
        keep(&traces, NOW, "old");
        keep(&traces, NOW.plus_ms(60_000), "newer");
        traces.write_changed(NOW.plus_ms(FORGOTTEN_MS)).unwrap();
        assert_eq!(written(dir.path()).len(), 2);
        traces.write_changed(NOW.plus_ms(FORGOTTEN_MS + 1)).unwrap();
        assert_eq!(written(dir.path())[0]["trace"], "newer");
        let late = NOW.plus_ms(2 * FORGOTTEN_MS);
        traces.write_changed(late).unwrap();
        assert_eq!(written(dir.path()).len(), 0);
        assert_eq!(traces.kept().bytes, 0);
    }

    #[test]
    fn bounds_hold_in_lines_and_in_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let traces = Traces::new(dir.path());
        for number in 0..1000 {
            keep(&traces, NOW, &number.to_string());
        }
        traces.write_changed(NOW).unwrap();
        let lines = written(dir.path());
        assert_eq!(lines.len(), TRACES_MAX);
        assert_eq!(lines[0]["trace"], "744");
        // Each byte of it takes six when it is escaped.
        for _ in 0..TRACES_MAX {
            keep(&traces, NOW, &"\u{1}".repeat(64 * 1024));
        }
        traces.write_changed(NOW).unwrap();
        let bytes = std::fs::metadata(file(dir.path())).unwrap().len();
        let bounds = LINES_MAX_BYTES as u64 - 7 * TRACE_MAX_BYTES as u64..=LINES_MAX_BYTES as u64;
        assert!(bounds.contains(&bytes), "{bytes}");
        assert_eq!(traces.kept().bytes as u64, bytes);
    }

    #[test]
    fn long_ones_are_cut_between_characters() {
        let dir = tempfile::tempdir().unwrap();
        let traces = Traces::new(dir.path());
        keep(&traces, NOW, &format!("a{}", "ü".repeat(4096)));
        traces.write_changed(NOW).unwrap();
        let line = &written(dir.path())[0];
        assert_eq!(line["trace"].as_str().unwrap().len(), TRACE_MAX_BYTES - 1);
    }

    #[tokio::test]
    async fn the_file_of_an_earlier_process_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(file(dir.path()), "{\"trace\":\"old\"}\n").unwrap();
        let traces = Traces::new(dir.path());
        keep(&traces, now(), "new");
        let writing = tokio::spawn(traces.write());
        let new_only = || {
            let text = std::fs::read_to_string(file(dir.path())).unwrap_or_default();
            text.contains("new") && !text.contains("old")
        };
        let begun = std::time::Instant::now();
        while !new_only() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        writing.abort();
    }
}
