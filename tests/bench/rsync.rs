//! rsync from a daemon on loopback, as mirrors do it today.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Child;
use std::time::Instant;

use e2e::{run, tool, until};
use tempfile::TempDir;

/// A daemon that serves one tree, and a copy of it.
pub(crate) struct Rsync {
    daemon: Child,
    port: u16,
    dir: TempDir,
    tree: std::path::PathBuf,
}

impl Rsync {
    pub(crate) fn start(tree: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = dir.path().join("rsyncd.conf");
        let text = format!(
            "use chroot = no\n[tree]\npath = {}\nread only = yes\n",
            tree.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut daemon = tool("rsync");
        daemon.args(["--daemon", "--no-detach", "--address=127.0.0.1"]);
        daemon
            .arg(format!("--port={port}"))
            .arg(format!("--config={}", config.display()));
        let daemon = daemon.spawn().unwrap();
        until("rsync answers", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        Self {
            daemon,
            port,
            dir,
            tree: tree.to_owned(),
        }
    }

    /// Brings the copy up to date; gives the seconds.
    pub(crate) fn copy(&self) -> f64 {
        let begun = Instant::now();
        let from = format!("rsync://127.0.0.1:{}/tree/", self.port);
        run(tool("rsync")
            .args(["-a", "--delete", &from])
            .arg(self.dir.path().join("copy")));
        begun.elapsed().as_secs_f64()
    }

    /// The copy has to be the tree: else the times mean nothing.
    pub(crate) fn compare(&self) {
        run(tool("diff")
            .args(["-r", "-q"])
            .arg(&self.tree)
            .arg(self.dir.path().join("copy")));
    }
}

impl Drop for Rsync {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}
