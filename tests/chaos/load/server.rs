//! A nats-server that is killed, wiped and set back.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::until_within;
use runtime::boot::HeldPort;
use runtime::log::supervise::find_server;
use rustix::process::{Pid, Signal, kill_process};

const UP_WITHIN: Duration = Duration::from_secs(30);

/// One server with a folder of its own.
pub(crate) struct Server {
    program: PathBuf,
    dir: PathBuf,
    port: HeldPort,
    child: Option<Child>,
}

impl Server {
    /// Starts one; `more` are further lines of its configuration.
    pub(crate) fn start(dir: PathBuf, port: HeldPort, more: &str) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let store = dir.join("store");
        // As `local up`'s own: an acked message is durable.
        let text = format!(
            "listen: \"127.0.0.1:{}\"\nmax_payload: 1MB\n{more}\n\
             jetstream {{ store_dir: {store:?}, sync_interval: always, max_memory_store: 64MB, max_file_store: 16GB }}\n",
            port.number()
        );
        std::fs::write(dir.join("nats.conf"), text).unwrap();
        let mut server = Self {
            program: find_server().unwrap(),
            dir,
            port,
            child: None,
        };
        server.again();
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Starts it again.
    pub(crate) fn again(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"));
        let child = Command::new(&self.program)
            .arg("--config")
            .arg(self.dir.join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn();
        self.child = Some(child.unwrap());
        until_within(UP_WITHIN, "nats-server answers", || {
            TcpStream::connect(("127.0.0.1", self.port())).is_ok()
        });
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Lets it end by itself.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = i32::try_from(child.id()).unwrap();
            kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
            child.wait().unwrap();
        }
    }

    /// Removes all that one that does not run has stored.
    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(self.store()).unwrap();
    }

    /// Copies what one that does not run has stored.
    pub(crate) fn save(&self) {
        std::fs::remove_dir_all(self.saved()).ok();
        copy(&self.store(), &self.saved());
    }

    /// Puts the copy back.
    pub(crate) fn set_back(&self) {
        self.wipe();
        copy(&self.saved(), &self.store());
    }

    fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    fn saved(&self) -> PathBuf {
        self.dir.join("saved")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success(), "cannot copy {}", from.display());
}
