//! rsync from a daemon on loopback, as mirrors do it today, bare and by Debian's ftpsync.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

use e2e::{run, tool, until};
use runtime::boot::HeldPort;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::measure::{Cpu, Timer, Used, children, read_report, sync};

/// A daemon that serves one tree, and copies of it.
pub(crate) struct Rsync {
    /// time(1), whose child the daemon is.
    timed: Child,
    report: PathBuf,
    daemon: u32,
    port: HeldPort,
    timer: Timer,
    tools: PathBuf,
    tree: PathBuf,
    dir: TempDir,
}

/// What bringing copies up to date took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Copied {
    /// The client's peak, CPU of both sides.
    pub(crate) used: Used,
    /// CPU of the daemon alone: the archive's side.
    pub(crate) daemon_cpu_s: f64,
    pub(crate) payload_bytes: u64,
    pub(crate) metadata_bytes: u64,
}

impl Copied {
    /// With what rsync said that it sent and received.
    fn with_bytes(mut self, said: &str) -> Self {
        let stat = |name: &str| statistic(said, name);
        let payload = stat("Literal data: ");
        self.payload_bytes += payload;
        self.metadata_bytes +=
            stat("Total bytes sent: ") + stat("Total bytes received: ") - payload;
        self
    }
}

impl Rsync {
    pub(crate) fn start(tools: &Path, tree: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let held = HeldPort::draw().unwrap();
        let port = held.number();
        let config = dir.path().join("rsyncd.conf");
        let text = format!(
            "use chroot = no\nlog file = {}\n[tree]\npath = {}\nread only = yes\n",
            dir.path().join("rsyncd.log").display(),
            tree.display()
        );
        fs::write(&config, text).unwrap();
        let timer = Timer::new(tools, dir.path());
        let mut daemon = tool("rsync");
        daemon
            .args(["--daemon", "--no-detach", "--address=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--config={}", config.display()));
        let (mut timed, report) = timer.wrap("daemon", &daemon);
        let timed = timed.spawn().unwrap();
        until("rsync answers", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        Self {
            daemon: children(timed.id())[0],
            timed,
            report,
            port: held,
            timer,
            tools: tools.to_owned(),
            tree: tree.to_owned(),
            dir,
        }
    }

    pub(crate) fn target(&self, copy: &str) -> PathBuf {
        self.dir.path().join(copy)
    }

    pub(crate) fn timer(&self) -> &Timer {
        &self.timer
    }

    fn client(&self, copy: &str) -> Command {
        let mut client = tool("rsync");
        client
            .args(["-a", "--delete", "--stats", "--no-human-readable"])
            .arg(format!("rsync://127.0.0.1:{}/tree/", self.port.number()))
            .arg(self.target(copy));
        client
    }

    /// Brings copies up to date, all at once.
    pub(crate) fn copy(&self, copies: &[&str]) -> Copied {
        sync(self.dir.path());
        let daemon = self.daemon_cpu();
        let begun = Instant::now();
        let running = copies.iter().map(|copy| {
            let (mut timed, report) = self.timer.wrap(copy, &self.client(copy));
            timed.stdout(std::process::Stdio::piped());
            (timed.spawn().unwrap(), report)
        });
        let running: Vec<(Child, PathBuf)> = running.collect();
        let mut copied = Copied::default();
        let mut reports = Vec::new();
        for (child, report) in running {
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "rsync ended with {}",
                output.status
            );
            reports.push((String::from_utf8(output.stdout).unwrap(), report));
        }
        copied.used.seconds = begun.elapsed().as_secs_f64();
        for (said, report) in reports {
            let used = read_report(&report, 0.0);
            copied.used.cpu_s += used.cpu_s;
            copied.used.peak_mib = copied.used.peak_mib.max(used.peak_mib);
            copied = copied.with_bytes(&said);
        }
        copied.daemon_cpu_s = self.daemon_cpu().since(&daemon);
        copied.used.cpu_s += copied.daemon_cpu_s;
        copied
    }

    /// Both stages of ftpsync, as a mirror of Debian runs it.
    pub(crate) fn ftpsync(&self, copy: &str) -> Copied {
        let home = self.dir.path().join("home");
        let config = home.join(".config/ftpsync");
        fs::create_dir_all(&config).unwrap();
        let target = self.target(copy);
        fs::create_dir_all(&target).unwrap();
        let text = format!(
            "MIRRORNAME=copy.test\nTRACEHOST=copy.test\nTO={}\nMAILTO=nobody\nERRORSONLY=true\nBASEDIR={}\n\
             RSYNC_SOURCE=rsync://127.0.0.1:{}/tree/\nRSYNC_HOST=archive.test\n",
            target.display(),
            home.display(),
            self.port.number()
        );
        fs::write(config.join("ftpsync.conf"), text).unwrap();
        let mut command = Command::new(self.tools.join("usr/bin/ftpsync"));
        command
            .arg("sync:all")
            .env("HOME", &home)
            .env("LOGNAME", "nobody");
        sync(self.dir.path());
        let daemon = self.daemon_cpu();
        let (_, mut used) = self.timer.run(&command);
        let daemon_cpu_s = self.daemon_cpu().since(&daemon);
        used.cpu_s += daemon_cpu_s;
        let log = home.join(".local/log/ftpsync/rsync-ftpsync.log.0");
        let said = fs::read_to_string(log).unwrap();
        Copied {
            used,
            daemon_cpu_s,
            ..Copied::default().with_bytes(&said)
        }
    }

    /// The daemon's CPU, its children's too, once it has waited for them.
    fn daemon_cpu(&self) -> Cpu {
        until("rsync's daemon has no children", || {
            children(self.daemon).is_empty()
        });
        Cpu::of(self.daemon)
    }

    /// The copies have to be the tree: else the times mean nothing. Traces of its own are ftpsync's right.
    pub(crate) fn compare(&self, copies: &[&str]) {
        for copy in copies {
            let own = ["copy.test", "_hierarchy", "_hierarchy.mirror", "_traces"];
            let own = own.map(|name| format!("--exclude={name}"));
            run(tool("diff")
                .args(["-r", "-q"])
                .args(own)
                .arg(&self.tree)
                .arg(self.target(copy)));
        }
    }

    /// Ends the daemon and says the most that one of its processes had resident.
    pub(crate) fn end(mut self) -> f64 {
        self.stop();
        read_report(&self.report, 0.0).peak_mib
    }

    fn stop(&mut self) {
        if let Ok(None) = self.timed.try_wait() {
            let pid = i32::try_from(self.daemon).ok().and_then(Pid::from_raw);
            kill_process(pid.unwrap(), Signal::TERM).ok();
            self.timed.wait().ok();
        }
    }
}

impl Drop for Rsync {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A figure of `--stats`, on standard output or in a log; of all runs that are there.
fn statistic(said: &str, name: &str) -> u64 {
    let values = said
        .lines()
        .filter_map(|line| Some(line.split_once(name)?.1));
    let values: Vec<u64> = values
        .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(!values.is_empty(), "rsync does not say {name:?}: {said}");
    values.iter().sum()
}
