//! Programs: found, run, asked to end, made to end.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Another binary than the one beside the tests.
const BINARY_VARIABLE: &str = "MIRRORLOG_E2E_BINARY";

static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Takes this binary from now on, for programs that are told which.
pub fn use_binary(binary: PathBuf) {
    CHOSEN.set(binary).unwrap();
}

/// The binary under test: beside the test's own folder.
pub fn binary() -> PathBuf {
    if let Some(chosen) = CHOSEN.get() {
        return chosen.clone();
    }
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        return named.into();
    }
    let program = std::env::current_exe().unwrap();
    let mut folders = program.ancestors().skip(1).take(2);
    let found = folders.find_map(|folder| {
        let file = folder.join("mirrorlog");
        file.is_file().then_some(file)
    });
    found.unwrap_or_else(|| {
        panic!(
            "there is no mirrorlog beside {}: run `cargo build -p mirrorlog`",
            program.display()
        )
    })
}

/// A program of the system that a story needs.
pub fn tool(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    assert!(found, "{name} is not installed: run deploy/setup");
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    command
}

/// Runs a program to its end; a failure fails the test with what it said.
pub fn run(command: &mut Command) -> Vec<u8> {
    let ran = command.output();
    let ran = ran.unwrap_or_else(|error| panic!("{command:?} does not run: {error}"));
    assert!(ran.status.success(), "{command:?} failed: {}", said(&ran));
    ran.stdout
}

/// All that a program said.
pub(crate) fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{}\n{err}{out}", output.status)
}

/// Arguments from anything that looks like text.
pub fn command(program: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// Sends a signal to a process that may have ended a moment ago.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process(pid, signal).ok();
    }
}

/// Whether the process runs: an ended one that nobody has waited for does not. One whose first
/// thread has ended still does while another thread lives, and holds its files and their locks.
pub(crate) fn runs(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The name, in parentheses, may have anything in it; the state follows.
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next());
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    match state {
        Some('Z') => threads > 1,
        Some('X') | None => false,
        Some(_) => true,
    }
}

/// A child that ends with its owner.
#[derive(Debug)]
pub struct Kept(pub Child);

impl Kept {
    /// Asks it to end; after the limit it is killed and the answer is `None`.
    pub(crate) fn end(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        if let Ok(Some(status)) = self.0.try_wait() {
            return Some(status);
        }
        signal(self.0.id(), Signal::TERM);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.0.kill().ok();
        self.0.wait().ok();
        None
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end(Duration::from_secs(5));
    }
}
