//! Our side: a network of real processes, and what a publish costs in all of them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Network, Setup, sha256, until_within};
use serde_json::Value;

use crate::measure::{Connections, Cpu, Timer, Used, peak_mib, reset_peak, sync};

pub(crate) const CHANNEL: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(3600);
/// Files that are fetched as clients do and compared byte by byte.
const FETCHED: usize = 500;

/// A network whose costs are measured.
pub(crate) struct Ours {
    pub(crate) network: Network,
    timer: Timer,
}

/// What one publish took, until all mirrors were complete; or one first sync.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Of all services and of the command.
    pub(crate) cpu_s: f64,
    pub(crate) mirrors_cpu_s: f64,
    /// What mirrors had from archive, log and each other, both ways.
    pub(crate) wire_bytes: u64,
    /// Between the auditor and the mirrors' web servers.
    pub(crate) audit_bytes: u64,
    pub(crate) publish_peak_mib: f64,
    /// scan, ingest, publish, wait.
    pub(crate) phases: String,
    pub(crate) root: String,
    pub(crate) build: u64,
}

/// The counters before.
struct Before {
    cpu: Vec<(String, Cpu)>,
    connections: Connections,
}

impl Ours {
    /// Scrubbing is as in the samples of `deploy`, once a day: `local up` plays a day every ten seconds.
    pub(crate) fn start(tools: &Path, mirrors: u16) -> Self {
        let network = Network::start(&Setup::mirrors(mirrors));
        for mirror in network.mirrors() {
            network.kill(mirror);
            network.configure(mirror, |config| {
                config["scrub"]["every"] = "24h".into();
            });
            network.restart(mirror);
        }
        let timer = Timer::new(tools, network.scratch());
        Self { network, timer }
    }

    /// `publish CHANNEL TREE [--changed LIST] --wait all`, everything counted.
    pub(crate) fn publish(&self, tree: &Path, list: Option<&Path>) -> Cost {
        let mut command = self.network.command(["publish", CHANNEL]);
        command
            .arg(tree)
            .args(["--layout", "plain", "--wait", "all", "--timeout", "3600"]);
        if let Some(list) = list {
            command.arg("--changed").arg(list);
        }
        sync(self.network.scratch());
        let before = self.before();
        let (output, used) = self.timer.run(&command);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let seconds = json["seconds"].as_object().unwrap().iter();
        let phases: Vec<String> = seconds
            .map(|(name, s)| format!("{name} {:.3}", s.as_f64().unwrap()))
            .collect();
        Cost {
            phases: phases.join(", "),
            root: json["root"].as_str().unwrap().to_owned(),
            build: json["build"].as_u64().unwrap(),
            ..self.cost(&before, used)
        }
    }

    /// A mirror that has nothing becomes one that has everything: from its start until the build is live there, which
    /// it is only once it is verified and durable.
    pub(crate) fn first_sync(&self, mirror: &str, build: u64) -> Cost {
        self.network.kill(mirror);
        self.network.wipe(mirror);
        sync(self.network.scratch());
        let before = self.before();
        let begun = Instant::now();
        self.network.spawn(mirror);
        until_within(PATIENCE, "the fresh mirror is live", || {
            self.network.live(mirror, CHANNEL) == Some(build)
        });
        let used = Used {
            seconds: begun.elapsed().as_secs_f64(),
            ..Used::default()
        };
        let cost = self.cost(&before, used);
        until_within(PATIENCE, "the fresh mirror is complete", || {
            self.network.is_complete(mirror, CHANNEL, build)
        });
        cost
    }

    fn before(&self) -> Before {
        let services = ["archive", "consistency", "nats"].into_iter();
        let all = services.chain(self.network.mirrors());
        Before {
            // One that is yet to start has used nothing.
            cpu: all
                .filter(|name| Path::new(&format!("/proc/{}", self.network.pid(name))).exists())
                .map(|name| (name.to_owned(), Cpu::of(self.network.pid(name))))
                .collect(),
            connections: Connections::now(),
        }
    }

    fn cost(&self, before: &Before, used: Used) -> Cost {
        let connections = Connections::now();
        let cpu = |name: &str| {
            let found = before.cpu.iter().find(|(other, _)| other == name);
            let before = found.map(|(_, cpu)| cpu.clone()).unwrap_or_default();
            Cpu::of(self.network.pid(name)).since(&before)
        };
        let mut cost = Cost {
            seconds: used.seconds,
            publish_peak_mib: used.peak_mib,
            ..Cost::default()
        };
        let auditor = self.network.pid("consistency");
        let mut peers = self.network.fetch_addresses();
        peers.push(self.network.nats().trim_start_matches("nats://"));
        for mirror in self.network.mirrors() {
            let pid = self.network.pid(mirror);
            cost.mirrors_cpu_s += cpu(mirror);
            for peer in &peers {
                cost.wire_bytes += connections.since(&before.connections, pid, peer);
            }
            let http = self.network.url(mirror).trim_start_matches("http://");
            cost.audit_bytes += connections.since(&before.connections, auditor, http);
        }
        let services: f64 = ["archive", "consistency", "nats"].map(cpu).iter().sum();
        cost.cpu_s = used.cpu_s + services + cost.mirrors_cpu_s;
        cost
    }

    pub(crate) fn peak_mib(&self, name: &str) -> f64 {
        peak_mib(self.network.pid(name))
    }

    pub(crate) fn reset_peaks(&self) {
        for name in ["archive", "consistency", "nats", "nz1"] {
            reset_peak(self.network.pid(name));
        }
    }

    /// What the mirrors serve has to be the tree: else the times mean nothing.
    ///
    /// The list of the build has the tree's digests; every mirror has the build's root and finds all of its content
    /// good; some files are fetched as clients do.
    pub(crate) fn compare(&self, tree: &Path, cost: &Cost) {
        let mut on_disk = digests(tree);
        let all: Vec<String> = on_disk.keys().cloned().collect();
        let listed = self
            .network
            .run(["ls", &format!("{CHANNEL}@{}", cost.build)]);
        for line in listed.ok().lines() {
            let path = line["path"].as_str().unwrap();
            let digest = on_disk.remove(path);
            assert_eq!(digest.as_deref(), line["sha256"].as_str(), "{path}");
        }
        assert!(on_disk.is_empty(), "not in the build: {on_disk:?}");
        for mirror in self.network.mirrors() {
            assert_eq!(
                self.network.channel(mirror, CHANNEL)["root"],
                cost.root.as_str(),
                "{mirror}"
            );
            self.network.run(["verify", "--mirror", mirror]).ok();
        }
        for path in all.iter().step_by(all.len().div_ceil(FETCHED)) {
            let answer = self.network.get("nz1", &format!("/{CHANNEL}/{path}"));
            let content = fs::read(tree.join(path)).unwrap();
            assert!(answer.status == 200 && answer.body == content, "{path}");
        }
    }
}

/// The SHA-256 of every file below a folder.
fn digests(tree: &Path) -> std::collections::BTreeMap<String, String> {
    let mut found = std::collections::BTreeMap::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(tree).unwrap().to_str().unwrap();
            found.insert(name.to_owned(), sha256(&fs::read(&path).unwrap()));
        }
    }
    found
}
