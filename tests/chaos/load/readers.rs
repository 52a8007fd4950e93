//! Reads what is live and what is pinned, all the time, and holds `status` to its word.

use std::sync::atomic::Ordering;

use e2e::{Http, Response};
use reqwest::Method;

use super::ledger::FILES;
use super::{CHANNEL, Chance, Load};

/// Builds of which one is read again.
const RECENT: usize = 12;

/// A reader of one mirror.
pub(super) struct Reader<'a> {
    load: &'a Load<'a>,
    mirror: &'a str,
    url: &'a str,
    http: Http,
    chance: Chance,
    /// The newest build that was live here.
    newest: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(load: &'a Load<'a>, mirror: &'a str, url: &'a str, kind: &str) -> Self {
        Self {
            load,
            mirror,
            url,
            http: Http::new(),
            chance: Chance::of(load.seed, &format!("{kind} of {mirror}"), 0),
            newest: 0,
        }
    }

    pub(super) fn until_stopped(&mut self) {
        while !self.load.stop.load(Ordering::Relaxed) {
            self.read_live();
            let recent = self.load.ledger.lock().unwrap().last(RECENT);
            if !recent.is_empty() {
                let chosen = self.chance.below(recent.len() as u64);
                self.read_pinned(recent[usize::try_from(chosen).unwrap()], Must::MayLack);
            }
            // Readers come at random moments.
            self.chance.pause(5, 40);
        }
    }

    fn get(&self, path: &str) -> Option<Response> {
        let url = format!("{}{path}", self.url);
        self.http.try_ask(Method::GET, &url, &[]).ok()
    }

    /// What is live is one build, and its other half by its own URL is the same build.
    fn read_live(&mut self) {
        let findings = &self.load.findings;
        let Some(live) = self.get(&format!("/{CHANNEL}/a")) else {
            return;
        };
        let mirror = self.mirror;
        if !findings.check(live.status == 200, || {
            format!("live of {mirror} answers {}: {}", live.status, live.text())
        }) {
            return;
        }
        let named = live.header("mirrorlog-build").split_once('=');
        let Some(build) = named.and_then(|(_, build)| build.parse().ok()) else {
            findings.check(false, || {
                format!("live of {mirror} does not name its build")
            });
            return;
        };
        let back = build < self.newest;
        let doubted = || {
            self.load
                .ledger
                .lock()
                .unwrap()
                .doubted
                .contains(&self.newest)
        };
        let forward = !back || doubted();
        findings.check(forward, || {
            format!("{mirror} went from build {} to {build}", self.newest)
        });
        self.newest = build;
        self.number(build, &live);
        self.read_pinned(build, Must::MayLack);
    }

    /// Both halves and one small file of a build; all of them when it has to have them.
    pub(super) fn read_pinned(&mut self, build: u64, must: Must) {
        let known = self.load.ledger.lock().unwrap().known(build);
        let file = self.chance.below(FILES as u64);
        let paths = ["a".to_owned(), "z".to_owned(), format!("d/{file}")];
        for path in paths {
            let Some(answer) = self.get(&format!("/@/{CHANNEL}/{build}/{path}")) else {
                return;
            };
            let lacks = match must {
                Must::MayLack => [404, 410].contains(&answer.status),
                // Collected or retracted since.
                Must::Have => answer.status == 410,
            };
            if lacks {
                return;
            }
            let mirror = self.mirror;
            let text = || {
                format!(
                    "{mirror} answers {} for {path} of build {build}, which it {must:?}: {}",
                    answer.status,
                    answer.text()
                )
            };
            if !self.load.findings.check(answer.status == 200, text) {
                return;
            }
            let Some(small) = path.strip_prefix("d/") else {
                self.number(build, &answer);
                continue;
            };
            let small: usize = small.parse().unwrap();
            let whole = known.as_ref().and_then(|known| known.whole.as_ref());
            if let Some(written) = whole {
                let right = answer.text() == written[small].to_string();
                self.load.findings.check(right, || {
                    format!(
                        "{mirror}: {path} of build {build} is {}, not {}",
                        answer.text(),
                        written[small]
                    )
                });
            }
        }
    }

    /// `a` or `z` of a build.
    fn number(&self, build: u64, answer: &Response) {
        let number = answer.text().parse().unwrap_or(0);
        let read = self.load.ledger.lock().unwrap().read(build, number);
        let mirror = self.mirror;
        self.load
            .findings
            .check(read.is_ok(), || format!("{mirror}: {}", read.unwrap_err()));
    }
}

/// Whether a mirror may lack a build that it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Must {
    MayLack,
    /// `status` says that it is complete.
    Have,
}

/// Whenever `status` says that the mirror is complete at a build, it has that build and no other.
pub(super) fn watch_status(reader: &mut Reader<'_>) {
    let load = reader.load;
    while !load.stop.load(Ordering::Relaxed) {
        let standing = load.network.standing(reader.mirror, CHANNEL);
        let complete = standing["state"] == "complete";
        if let Some(build) = standing["live"].as_u64().filter(|_| complete) {
            reader.read_pinned(build, Must::Have);
            load.completes.fetch_add(1, Ordering::Relaxed);
        }
        // Looked at at random moments.
        reader.chance.pause(40, 240);
    }
}
