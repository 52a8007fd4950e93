//! The network's processes: started, watched, stopped. None is started again here, so that faults can be played.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::failure::{DOWN, Failure, IO, OrExit as _};
use crate::output::Output;

/// How long a process may take to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a process may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(25);

/// One running service.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) pid: u32,
    child: Child,
    said_dead: bool,
}

impl Service {
    /// Starts `mirrorlog --config CONFIG SERVICE serve` with its log in `logs`.
    pub(super) fn start(
        name: &str,
        service: &str,
        config: &Path,
        logs: &Path,
    ) -> Result<Self, Failure> {
        let program = std::env::current_exe().or_exit(IO)?;
        std::fs::create_dir_all(logs).or_exit(IO)?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(logs.join(format!("{name}.log")));
        let log: File = log.or_exit(IO)?;
        let child = Command::new(program)
            .arg("--config")
            .arg(config)
            .args([service, "serve"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C reaches the whole foreground group, and a second signal would cut the clean stop short.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .or_exit(IO)?;
        let pid = child.id().unwrap_or(0);
        Ok(Self {
            name: name.to_owned(),
            pid,
            child,
            said_dead: false,
        })
    }

    /// Waits until the service says that it is ready, or has died.
    pub(super) async fn ready(&mut self, http: SocketAddr, logs: &Path) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
        let log = logs.join(format!("{}.log", self.name));
        loop {
            if is_ready(http).await {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().or_exit(IO)? {
                let text = format!(
                    "{} ended at once ({status}): {}",
                    self.name,
                    last_line(&log)
                );
                return Err(Failure::text(DOWN, text));
            }
            if tokio::time::Instant::now() > deadline {
                let text = format!(
                    "{} is not ready after {} s; see {}",
                    self.name,
                    READY_TIMEOUT.as_secs(),
                    log.display()
                );
                return Err(Failure::text(DOWN, text));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Says once when the process has died.
    pub(super) fn watch(&mut self, output: &Output) {
        if self.said_dead {
            return;
        }
        if let Ok(Some(status)) = self.child.try_wait() {
            self.said_dead = true;
            output.note(&format!(
                "{} (pid {}) has died: {status}",
                self.name, self.pid
            ));
        }
    }

    /// Kills the process, as a crash would.
    pub(super) async fn kill(&mut self) -> Result<(), Failure> {
        self.said_dead = true;
        self.child.kill().await.or_exit(IO)
    }

    /// Asks the process to end, and makes it end.
    pub(super) async fn stop(mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        signal(self.pid, Signal::TERM);
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await.ok();
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended a moment ago.
        kill_process(pid, signal).ok();
    }
}

/// Ends what an earlier `up` of this folder left behind when it was killed itself.
pub(super) async fn stop_left_behind(dir: &Path, output: &Output) {
    let Ok(dir) = std::path::absolute(dir) else {
        return;
    };
    for pid in left_behind(&dir) {
        output.note(&format!(
            "ending process {pid}, left behind by an earlier run"
        ));
        signal(pid, Signal::TERM);
        let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
        while Path::new(&format!("/proc/{pid}/exe")).exists() {
            if tokio::time::Instant::now() > deadline {
                signal(pid, Signal::KILL);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Services whose configuration lies in `dir`, by their command lines.
fn left_behind(dir: &Path) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
            let config = words
                .iter()
                .position(|word| *word == b"--config" || *word == b"-c");
            let Some(config) = config.and_then(|at| words.get(at + 1)) else {
                return false;
            };
            let config = PathBuf::from(String::from_utf8_lossy(config).into_owned());
            let ours = words.contains(&&b"serve"[..]) || words[0].ends_with(b"nats-server");
            ours && config.starts_with(dir)
        })
        .collect()
}

async fn is_ready(http: SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(http).await?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), asked).await, Ok(Ok(answer)) if answer.ends_with(b"200"))
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("it said nothing").to_owned()
}
