//! What goes on while faults are played, and what must be true of it: builds are published without pause, mirrors are
//! read all the time, `status` is held to its word; once all is well again nothing is lost.

mod chance;
mod ledger;
mod publisher;
mod readers;
mod row;
mod server;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::{Ended, Network};
use serde_json::Value;

pub(crate) use chance::{Chance, seed_or_new};
use ledger::{FILES, Ledger};
use publisher::Publisher;
use readers::Reader;
pub(crate) use row::{Findings, Row, conclude};
pub(crate) use server::Server;

pub(crate) const CHANNEL: &str = "c";
/// Longest wait until all is well after the last fault.
pub(crate) const RECOVERS_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
/// How a command ends that was killed, as a shell says it.
const KILLED: i32 = 128 + 9;

/// A network under load.
pub(crate) struct Load<'a> {
    pub(crate) network: &'a Network,
    /// Mirrors and where they are read.
    urls: Vec<(String, String)>,
    pub(crate) seed: u64,
    pub(crate) findings: Findings,
    ledger: Mutex<Ledger>,
    publisher: Mutex<Publisher>,
    /// How often `status` said complete, and was held to it.
    completes: AtomicU64,
    stop: AtomicBool,
}

impl<'a> Load<'a> {
    /// Publishes a first build and waits until all mirrors have it.
    pub(crate) fn new(network: &'a Network, urls: Vec<(String, String)>, seed: u64) -> Self {
        let load = Self {
            network,
            urls,
            seed,
            findings: Findings::default(),
            ledger: Mutex::default(),
            publisher: Mutex::new(Publisher::new(seed)),
            completes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        load.recovers("at the start");
        load
    }

    /// The network's mirrors where they are by themselves.
    pub(crate) fn of(network: &'a Network, seed: u64) -> Self {
        let url = |mirror: &&str| ((*mirror).to_owned(), network.url(mirror).to_owned());
        Self::new(network, network.mirrors().iter().map(url).collect(), seed)
    }

    /// Publishes and reads while `play` plays faults.
    pub(crate) fn during(&self, play: impl FnOnce()) {
        self.stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let guarded = |work: &dyn Fn()| {
                let worked = catch_unwind(AssertUnwindSafe(work));
                self.findings
                    .check(worked.is_ok(), || "a part of the load panicked".to_owned());
            };
            scope.spawn(move || {
                guarded(&|| self.publisher.lock().unwrap().until_stopped(self));
            });
            for (mirror, url) in &self.urls {
                let read = move || Reader::new(self, mirror, url, "reader").until_stopped();
                scope.spawn(move || guarded(&read));
                let watch =
                    move || readers::watch_status(&mut Reader::new(self, mirror, url, "status"));
                scope.spawn(move || guarded(&watch));
            }
            let played = catch_unwind(AssertUnwindSafe(play));
            self.stop.store(true, Ordering::Relaxed);
            let text = || "playing the fault failed".to_owned();
            self.findings.check(played.is_ok(), text);
        });
    }

    /// Whether a command did what it was asked. It may also say that something is away, or be killed; nothing else.
    pub(crate) fn done(&self, ended: &Ended) -> bool {
        self.findings
            .check([0, 69, 74, 75, KILLED].contains(&ended.code), || {
                let Ended {
                    code,
                    stdout,
                    stderr,
                    ..
                } = ended;
                format!("exit code {code}: {stderr} {stdout}")
            });
        ended.code == 0
    }

    /// Waits until a condition holds; a failed check when it does not.
    pub(crate) fn holds_soon(&self, what: &str, mut holds: impl FnMut() -> bool) -> bool {
        let begun = Instant::now();
        let mut held = holds();
        while !held && begun.elapsed() < RECOVERS_WITHIN {
            std::thread::sleep(POLL);
            held = holds();
        }
        self.findings.check(held, || {
            let status = self.network.status(CHANNEL);
            format!(
                "waited {} s in vain: {what}; {status}",
                RECOVERS_WITHIN.as_secs()
            )
        })
    }

    /// A mirror becomes complete at what is published by now, or later; or what `status` says of it is good enough.
    pub(crate) fn goes_on(&self, mirror: &str, when: &str, mut or: impl FnMut(&Value) -> bool) {
        let newest = self.newest();
        self.holds_soon(
            &format!("{mirror} goes on beyond {newest:?}, {when}"),
            || {
                let standing = self.network.standing(mirror, CHANNEL);
                let complete =
                    standing["state"] == "complete" && standing["live"].as_u64() >= newest;
                complete || or(&standing)
            },
        );
    }

    /// Publishing works, and all mirrors become complete at the newest build.
    pub(crate) fn recovers(&self, when: &str) {
        let all: Vec<&str> = self
            .urls
            .iter()
            .map(|(mirror, _)| mirror.as_str())
            .collect();
        self.publishes_on(&all, when);
    }

    /// Publishing works, and these mirrors become complete at the newest build.
    pub(crate) fn publishes_on(&self, mirrors: &[&str], when: &str) {
        let begun = Instant::now();
        let mut publisher = self.publisher.lock().unwrap();
        let mut newest = None;
        self.holds_soon(&format!("publishing works {when}"), || {
            newest = publisher.publish_next(self);
            newest.is_some()
        });
        let Some(newest) = newest else { return };
        let number = publisher.number().to_string();
        let asked = self.urls.iter();
        for (mirror, url) in asked.filter(|(mirror, _)| mirrors.contains(&mirror.as_str())) {
            let what = format!("{mirror} is complete at build {newest} {when}");
            if !self.holds_soon(&what, || self.network.is_complete(mirror, CHANNEL, newest)) {
                continue;
            }
            let mut reader = Reader::new(self, mirror, url, "end");
            for _ in 0..FILES {
                reader.read_pinned(newest, readers::Must::Have);
            }
            let live = self.network.http().get(&format!("{url}/{CHANNEL}/z"));
            self.findings.check(live.text() == number, || {
                format!("{mirror} serves {} {when}, not {number}", live.text())
            });
        }
        eprintln!(
            "all complete at build {newest} {when}, {:.1} s later",
            begun.elapsed().as_secs_f64()
        );
    }

    /// What `publish` said is in the journal, each number once.
    pub(crate) fn nothing_is_lost(&self) {
        let ended = self.network.run(["log", CHANNEL]);
        if !self
            .findings
            .check(ended.code == 0, || ended.stderr.clone())
        {
            return;
        }
        let builds: Vec<u64> = ended
            .lines()
            .iter()
            .map(|line| line["build"].as_u64().unwrap())
            .collect();
        let sorted = builds.is_sorted_by(|a, b| a < b);
        self.findings.check(sorted, || {
            format!("numbers are not in order, or twice: {builds:?}")
        });
        for (build, root) in &self.ledger.lock().unwrap().said {
            let shown = self.network.run(["show", CHANNEL, &build.to_string()]);
            let kept = builds.contains(build) && shown.json["root"] == **root;
            self.findings.check(kept, || {
                format!("build {build} of root {root} was lost: {}", shown.stdout)
            });
        }
    }

    /// All checks once faults are over.
    pub(crate) fn ends_well(&self) {
        self.recovers("at the end");
        self.nothing_is_lost();
        let completes = self.completes.load(Ordering::Relaxed);
        eprintln!("status said complete {completes} times, and was held to it");
    }

    /// A directory that begins with nothing comes to offer all mirrors at the newest build, of which nobody speaks anew.
    pub(crate) fn directory_offers_all(&self, when: &str) {
        self.network.kill("directory");
        let state = self.network.dir().join("directory/state");
        std::fs::remove_dir_all(state).unwrap();
        self.network.restart("directory");
        let newest = self.newest();
        let asked = format!("/v1/mirrors?channel={CHANNEL}");
        let mut said = String::new();
        let offers = self.holds_soon(&format!("the directory offers all {when}"), || {
            let answer = self.network.ask_service("directory", &asked);
            said = answer.text();
            let json: Value = serde_json::from_str(&said).unwrap_or_default();
            let offered = json["mirrors"].as_array().map_or(0, Vec::len);
            json["build"].as_u64() >= newest && offered == self.urls.len()
        });
        if !offers {
            eprintln!("the directory says {said}");
        }
    }

    /// The newest build that `publish` said.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.ledger.lock().unwrap().newest()
    }

    pub(crate) fn builds(&self) -> u64 {
        self.ledger.lock().unwrap().said.len() as u64
    }
}
