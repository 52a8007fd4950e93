//! A nats-server of our own: found, started, waited for, stopped.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command as Blocking, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::declare;
use crate::boot::HeldPort;

/// Names the nats-server to use, before any other.
pub const SERVER_VARIABLE: &str = "MIRRORLOG_NATS_SERVER";
/// Longest wait for a server to answer: it reads its whole store first.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const CONFIG_FILE: &str = "nats.conf";
/// The server's process id and `.ports` follow.
const PORTS_PREFIX: &str = "nats-server_";
const POLL: Duration = Duration::from_millis(20);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// Neither the variable, nor the tools folder, nor PATH has one that is new enough.
    #[error(
        "no nats-server 2.10.23 or newer: run deploy/setup, or name one in MIRRORLOG_NATS_SERVER{}",
        passed_over(passed)
    )]
    NotFound {
        /// Those that were looked at, with the reason against each.
        passed: Vec<(PathBuf, String)>,
    },
    /// A file of the server could not be written or read.
    #[error("cannot prepare {path}")]
    Prepare {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no port for it.
    #[error("cannot draw a port for nats-server")]
    Port {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended, or did not answer in time.
    #[error("nats-server did not come up ({reason}); its log is {log}")]
    Silent {
        /// What was seen.
        reason: String,
        /// The server's log file.
        log: PathBuf,
    },
    /// A signal could not be sent or the end not be seen.
    #[error("cannot stop nats-server {pid}")]
    Stop {
        /// Its process id.
        pid: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn passed_over(passed: &[(PathBuf, String)]) -> String {
    passed
        .iter()
        .map(|(path, reason)| format!("; {}: {reason}", path.display()))
        .collect()
}

/// Finds a nats-server: the first new enough of `MIRRORLOG_NATS_SERVER`, `tools/nats-server` beside the folder
/// of this program, and PATH. Older ones are named in the log and passed over.
///
/// # Errors
/// [`SuperviseError::NotFound`] with all that were looked at.
pub fn find_server() -> Result<PathBuf, SuperviseError> {
    let named = std::env::var_os(SERVER_VARIABLE).map(PathBuf::from);
    let program = std::env::current_exe().ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_among(candidates(named, program.as_deref(), &path))
}

/// Where a server may be, in order. Tests and examples are built one folder deeper (`target/debug/deps`).
fn candidates(named: Option<PathBuf>, program: Option<&Path>, path: &OsStr) -> Vec<PathBuf> {
    let beside = program
        .into_iter()
        .flat_map(|program| program.ancestors().skip(2).take(2));
    let tools = beside.map(|folder| folder.join("tools/nats-server"));
    let on_path = std::env::split_paths(path).map(|folder| folder.join("nats-server"));
    named.into_iter().chain(tools).chain(on_path).collect()
}

fn find_among(candidates: Vec<PathBuf>) -> Result<PathBuf, SuperviseError> {
    let mut passed = Vec::new();
    for program in candidates {
        if !program.is_file() {
            continue;
        }
        match version(&program) {
            Ok(version) if declare::check_version(&version).is_ok() => return Ok(program),
            Ok(version) => passed.push((program, format!("version {version} is too old"))),
            Err(reason) => passed.push((program, reason)),
        }
        if let Some((program, reason)) = passed.last() {
            tracing::warn!(program = %program.display(), reason, "nats-server passed over");
        }
    }
    Err(SuperviseError::NotFound { passed })
}

/// What `nats-server --version` says: `nats-server: v2.10.27`.
fn version(program: &Path) -> Result<String, String> {
    let output = Blocking::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| format!("does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix('v'));
    version
        .map(str::to_owned)
        .ok_or_else(|| "says no version".into())
}

/// A running nats-server with its store in one folder. Dropping it kills the server; [`NatsServer::stop`] is kinder.
#[derive(Debug)]
pub struct NatsServer {
    /// `nats://127.0.0.1:<port>`.
    pub url: String,
    /// The server's process id.
    pub pid: u32,
    dir: PathBuf,
    port: HeldPort,
    child: Child,
}

impl NatsServer {
    /// Starts a server on 127.0.0.1 with configuration, log and store in `dir`, and waits until it answers.
    /// Without a `port` a free one is drawn.
    ///
    /// # Errors
    /// [`SuperviseError`]; a server that was started and does not answer is killed.
    pub async fn start(dir: &Path, port: Option<HeldPort>) -> Result<Self, SuperviseError> {
        Self::start_with(dir, port, "").await
    }

    /// As [`NatsServer::start`], with `more` lines of configuration: accounts, TLS.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn start_with(
        dir: &Path,
        port: Option<HeldPort>,
        more: &str,
    ) -> Result<Self, SuperviseError> {
        let program = tokio::task::spawn_blocking(find_server).await;
        let program = program.map_err(|error| SuperviseError::Start {
            program: "nats-server".into(),
            source: std::io::Error::other(error),
        })??;
        Self::start_program(&program, dir, port, more).await
    }

    /// As [`NatsServer::start_with`], with a given program.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn start_program(
        program: &Path,
        dir: &Path,
        port: Option<HeldPort>,
        more: &str,
    ) -> Result<Self, SuperviseError> {
        let prepare = |path: &Path, source| SuperviseError::Prepare {
            path: path.into(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(|source| prepare(dir, source))?;
        let dir = dir.canonicalize().map_err(|source| prepare(dir, source))?;
        remove_ports_files(&dir).map_err(|source| prepare(&dir, source))?;
        let port = port.map_or_else(HeldPort::draw, Ok);
        let port = port.map_err(|source| SuperviseError::Port { source })?;
        let config = dir.join(CONFIG_FILE);
        std::fs::write(&config, configuration(&dir, port.number(), more))
            .map_err(|source| prepare(&config, source))?;
        let log = dir.join("nats.log");
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log);
        let output = output.map_err(|source| prepare(&log, source))?;
        let errors = output.try_clone().map_err(|source| prepare(&log, source))?;
        let mut child = Command::new(program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C reaches the whole foreground group: the log has to outlive the services that use it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SuperviseError::Start {
                program: program.into(),
                source,
            })?;
        let pid = child.id().unwrap_or_default();
        wait_until_up(&mut child, &dir, pid)
            .await
            .map_err(|reason| SuperviseError::Silent { reason, log })?;
        let url = format!("nats://127.0.0.1:{}", port.number());
        tracing::info!(pid, url, program = %program.display(), "nats-server is up");
        Ok(Self {
            url,
            pid,
            dir,
            port,
            child,
        })
    }

    /// Waits for its end, however it comes: for those who watch over it.
    ///
    /// # Errors
    /// [`SuperviseError::Stop`] when the system does not tell.
    pub async fn wait(&mut self) -> Result<std::process::ExitStatus, SuperviseError> {
        let pid = self.pid;
        self.child
            .wait()
            .await
            .map_err(|source| SuperviseError::Stop { pid, source })
    }

    /// Asks it to stop, and kills it after 5 s.
    ///
    /// # Errors
    /// [`SuperviseError::Stop`].
    pub async fn stop(mut self) -> Result<(), SuperviseError> {
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(STOP_TIMEOUT, self.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => {
                self.signal(Signal::KILL)?;
                self.wait().await.map(drop)
            }
        }
    }

    /// Kills it as a crash would, and gives what is needed to start it again where it was: its folder and its port.
    ///
    /// # Errors
    /// [`SuperviseError::Stop`].
    pub async fn kill(mut self) -> Result<(PathBuf, HeldPort), SuperviseError> {
        self.signal(Signal::KILL)?;
        self.wait().await?;
        Ok((self.dir, self.port))
    }

    fn signal(&self, signal: Signal) -> Result<(), SuperviseError> {
        // None once its end was seen: the number may be another process's.
        let Some(pid) = self.child.id() else {
            return Ok(());
        };
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let sent = raw.map_or(Ok(()), |pid| kill_process(pid, signal));
        match sent {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(SuperviseError::Stop {
                pid,
                source: error.into(),
            }),
        }
    }
}

/// Waits until the server greets a client.
async fn wait_until_up(child: &mut Child, dir: &Path, pid: u32) -> Result<(), String> {
    let deadline = Instant::now() + START_TIMEOUT;
    // Its own word, for another server may answer at the port that was asked for.
    let ports_file = dir.join(format!("{PORTS_PREFIX}{pid}.ports"));
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended: {status}"));
        }
        if let Some(port) = read_port(&ports_file)
            && greets(port).await
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("no answer within {} s", START_TIMEOUT.as_secs()));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Those of servers that were killed: process ids come again.
fn remove_ports_files(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(PORTS_PREFIX)
        {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The port that the server took, from the file that it writes: `{"nats":["nats://127.0.0.1:41277"],…}`.
fn read_port(file: &Path) -> Option<u16> {
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

/// True when a NATS server with JetStream says hello there.
async fn greets(port: u16) -> bool {
    let hello = async {
        let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .ok()?;
        let mut text = vec![0; 4096];
        let length = connection.read(&mut text).await.ok()?;
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        Some(text.starts_with("INFO ") && text.contains("\"jetstream\":true"))
    };
    tokio::time::timeout(Duration::from_secs(1), hello)
        .await
        .ok()
        .flatten()
        .unwrap_or(false)
}

/// The server's configuration. `sync_interval: always` makes an acked message durable.
fn configuration(dir: &Path, port: u16, more: &str) -> String {
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    let (store, dir) = (quoted(&dir.join("jetstream")), quoted(dir));
    format!(
        "# Written by mirrorlog at each start.\n\
         listen: \"127.0.0.1:{port}\"\n\
         ports_file_dir: {dir}\n\
         max_payload: 1MB\n\
         jetstream {{\n  store_dir: {store}\n  sync_interval: always\n  max_memory_store: 64MB\n  max_file_store: 16GB\n}}\n{more}"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn fake(dir: &Path, name: &str, says: &str) -> PathBuf {
        let program = dir.join(name);
        std::fs::write(&program, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn the_variable_comes_first_then_tools_then_path() {
        let found = candidates(
            Some("/x/nats".into()),
            Some(Path::new("/t/release/mirrorlog")),
            OsStr::new("/usr/bin:/bin"),
        );
        let expected = [
            "/x/nats",
            "/t/tools/nats-server",
            "/tools/nats-server",
            "/usr/bin/nats-server",
            "/bin/nats-server",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        let deep = candidates(None, Some(Path::new("/t/debug/deps/log-1")), OsStr::new(""));
        assert!(deep.contains(&PathBuf::from("/t/tools/nats-server")));
    }

    #[test]
    fn too_old_ones_are_named_and_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let old = fake(dir.path(), "old", "nats-server: v2.9.10");
        let new = fake(dir.path(), "new", "nats-server: v2.10.27");
        assert_eq!(
            find_among(vec![dir.path().join("none"), old.clone(), new.clone()]).unwrap(),
            new
        );
        let text = find_among(vec![old]).unwrap_err().to_string();
        assert!(text.contains("old: version 2.9.10 is too old"), "{text}");
    }

    #[test]
    fn paths_are_quoted() {
        let text = configuration(Path::new("/a b/\"c"), 4222, "");
        assert!(
            text.contains(r#"store_dir: "/a b/\"c/jetstream""#),
            "{text}"
        );
        assert!(text.contains("127.0.0.1:4222"));
    }
}
