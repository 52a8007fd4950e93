//! The service under test, its disk, and its healthy neighbours.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use e2e::{Network, Setup, binary};
use reqwest::Method;

use super::mount::Mounted;

/// Longer than anything healthy takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(4);
/// How long a command may go on after the power went.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Lines of its log that a failure shows.
const LOG_LINES: usize = 40;

/// Waits until there is an answer.
///
/// # Errors
/// What was waited for, after the limit.
pub(super) fn wait<T>(
    limit: Duration,
    what: &str,
    mut answer: impl FnMut() -> Option<T>,
) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = answer() {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            return Err(format!("waited {} s in vain: {what}", limit.as_secs()));
        }
        std::thread::sleep(POLL);
    }
}

/// A network of which one service has its folders on a disk of ours.
pub(super) struct Bed {
    pub(super) network: Network,
    /// `archive` or `nz1`.
    pub(super) victim: &'static str,
    role: &'static str,
    /// Where the disk is mounted.
    pub(super) mount: PathBuf,
    ready: String,
    log: PathBuf,
}

impl Bed {
    /// Starts a network, stops the victim and those that are not needed, and moves the victim's folders.
    pub(super) fn new(
        setup: &Setup,
        victim: &'static str,
        role: &'static str,
        idle: &[&str],
    ) -> Self {
        let network = Network::start(setup);
        for name in idle.iter().chain([&victim]) {
            network.kill(name);
        }
        let config = network.config(victim);
        let mount = config.with_file_name("disk");
        let mut ready = String::new();
        network.configure(victim, |config| {
            let section = config[role].as_table_mut().unwrap();
            for folder in ["state", "store"] {
                section.insert(folder.to_owned(), format!("disk/{folder}").into());
            }
            if let Some(export) = config.get_mut("export") {
                let export = export.as_table_mut().unwrap();
                export.insert("dir".to_owned(), "disk/export".into());
            }
            ready = format!(
                "http://{}/readyz",
                config["http"]["listen"].as_str().unwrap()
            );
        });
        let log = network.scratch().join("victim.log");
        Self {
            network,
            victim,
            role,
            mount,
            ready,
            log,
        }
    }

    /// Starts the victim on its disk; what it says begins anew.
    pub(super) fn spawn(&self) -> Service {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let mut command = Command::new(binary());
        command
            .arg("--config")
            .arg(self.network.config(self.victim))
            .args([self.role, "serve"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Service(command.spawn().unwrap())
    }

    pub(super) fn is_ready(&self) -> bool {
        let answer = self.network.http().try_ask(Method::GET, &self.ready, &[]);
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until the victim is ready, or the power is gone.
    ///
    /// # Errors
    /// When it ends by itself, or is not ready in time.
    pub(super) fn await_ready(&self, service: &mut Service, disk: &Mounted) -> Result<(), String> {
        let waited = wait(PATIENCE, "the service is ready", || {
            let dead = disk.disk().volume().is_dead();
            match service.ended() {
                Some(_) if dead => Some(Ok(())),
                Some(how) => Some(Err(format!("it does not start: {how}"))),
                None => (dead || self.is_ready()).then_some(Ok(())),
            }
        });
        waited?
    }

    /// Starts it again if it ended.
    pub(super) fn tend(&self, service: &mut Service) {
        if service.ended().is_some() {
            *service = self.spawn();
        }
    }

    /// As [`Bed::await_ready`], but what ended is started again, as a supervisor does.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub(super) fn supervise(&self, service: &mut Service, disk: &Mounted) -> Result<(), String> {
        wait(PATIENCE, "the service is ready", || {
            let dead = disk.disk().volume().is_dead();
            if !dead {
                self.tend(service);
            }
            (dead || self.is_ready()).then_some(())
        })
    }

    pub(super) fn clear_log(&self) {
        File::create(&self.log).unwrap();
    }

    /// The last complaints of the victim.
    pub(super) fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Runs an operator's command to its end. When the power goes, the victim is killed, and the command a little later.
    pub(super) fn run(&self, command: &mut Command, service: &mut Service, disk: &Mounted) -> Ran {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut deadline = Instant::now() + PATIENCE;
        let mut dead = false;
        while child.try_wait().unwrap().is_none() {
            if !dead && disk.disk().volume().is_dead() {
                dead = true;
                service.kill();
                deadline = Instant::now() + LAST_WORDS;
            }
            if Instant::now() >= deadline {
                child.kill().ok();
            }
            std::thread::sleep(POLL);
        }
        Ran(child.wait_with_output().unwrap())
    }

    /// A fresh, empty log.
    pub(super) fn empty_nats(&self) {
        self.network.kill("nats");
        std::fs::remove_dir_all(self.network.dir().join("nats/jetstream")).unwrap();
        self.network.restart("nats");
    }
}

/// What a command did.
pub(super) struct Ran(Output);

impl Ran {
    /// None when it was killed.
    pub(super) fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    /// Whether a text is in what it complained of.
    pub(super) fn says(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.stderr).contains(text)
    }

    /// The JSON documents it printed.
    pub(super) fn lines(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8_lossy(&self.0.stdout);
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The one document it printed; null when it printed none.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.0.stdout).unwrap_or_default()
    }

    /// All it said, when it did not end with 0.
    ///
    /// # Errors
    /// With the text.
    pub(super) fn ok(self, what: &str) -> Result<Self, String> {
        if self.code() == Some(0) {
            return Ok(self);
        }
        let said = String::from_utf8_lossy(&self.0.stderr);
        let said = said.trim().replace('\n', "; ");
        Err(format!("{what} ends with {}: {said}", self.0.status))
    }
}

/// A running process; killed on drop.
pub(super) struct Service(Child);

impl Service {
    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Kills it as a power loss would; it is gone when this returns.
    pub(super) fn kill(&mut self) {
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes a list for `--changed`.
pub(super) fn list(file: &Path, paths: &[&str]) {
    std::fs::write(file, paths.join("\n")).unwrap();
}
