//! Publishes without pause: all of the tree, now and then a few paths first, now and then a retraction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use e2e::{Ended, Tree};

use super::ledger::{FILES, Known};
use super::{CHANNEL, Chance, Load};

/// One in so many publications goes before the bulk.
const PRIORITY_EVERY: u64 = 12;
/// One in so many is taken back.
const RETRACT_EVERY: u64 = 25;

/// A tree whose files `a` and `z` always have the same number.
pub(super) struct Publisher {
    tree: Tree,
    number: u64,
    written: [u64; FILES],
    chance: Chance,
    /// The newest build that `publish` said may have content that was taken back: a few paths on top would not do.
    cure_due: bool,
}

impl Publisher {
    pub(super) fn new(seed: u64) -> Self {
        let mut publisher = Self {
            tree: Tree::new(),
            number: 0,
            written: [0; FILES],
            chance: Chance::of(seed, "publisher", 0),
            cure_due: false,
        };
        for file in 0..FILES {
            publisher.tree.write(&format!("d/{file}"), "0");
        }
        publisher.write();
        publisher
    }

    /// The next number, and one small file. Gives the paths that changed.
    fn write(&mut self) -> Vec<String> {
        self.number += 1;
        let file = usize::try_from(self.chance.below(FILES as u64)).unwrap();
        self.written[file] = self.number;
        let paths = vec!["a".to_owned(), "z".to_owned(), format!("d/{file}")];
        for path in &paths {
            self.tree.write(path, self.number.to_string());
        }
        paths
    }

    pub(super) fn until_stopped(&mut self, load: &Load<'_>) {
        while !load.stop.load(Ordering::Relaxed) {
            let changed = self.write();
            if self.chance.one_in(PRIORITY_EVERY) && !self.cure_due {
                self.publish_first(load, &changed);
            } else if self.publish(load) {
                self.cure_due = false;
            }
            if self.chance.one_in(RETRACT_EVERY) {
                self.retract(load);
            }
            // Two cores are not for the publisher alone; the moment is random.
            self.chance.pause(0, 60);
        }
    }

    /// Publishes the whole tree as it is. True when that was done.
    pub(super) fn publish(&mut self, load: &Load<'_>) -> bool {
        let ended = load.network.publish(CHANNEL, self.tree.path(), &[]);
        let known = Known {
            number: self.number,
            whole: Some(Arc::new(self.written)),
        };
        self.said(load, &ended, |_| known.clone())
    }

    /// Publishes what comes after all that was tried.
    pub(super) fn publish_next(&mut self, load: &Load<'_>) -> Option<u64> {
        self.write();
        let done = self.publish(load);
        done.then(|| load.ledger.lock().unwrap().newest())?
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn publish_first(&mut self, load: &Load<'_>, changed: &[String]) {
        let list = load.network.scratch().join("changed");
        std::fs::write(&list, changed.join("\n")).unwrap();
        let more = ["--priority", "--changed", list.to_str().unwrap()];
        let ended = load.network.publish(CHANNEL, self.tree.path(), &more);
        // A documented refusal: what is wanted may hold content that was taken back in a build after it.
        if ended.code == 65
            && ended
                .stderr
                .contains("publish this as a channel of its own")
        {
            return;
        }
        let number = self.number;
        // What its base had of the small files is not known here.
        self.said(load, &ended, |_| Known {
            number,
            whole: None,
        });
    }

    fn said(&self, load: &Load<'_>, ended: &Ended, known: impl Fn(u64) -> Known) -> bool {
        if !load.done(ended) {
            return false;
        }
        let build = ended.build();
        let root = ended.json["root"].as_str().unwrap();
        let mut ledger = load.ledger.lock().unwrap();
        let said = ledger.say(build, root, known(build));
        // Where a publication makes two builds, the other one's root is not said.
        let also = ended.json["also"].as_u64();
        let also = also.map_or(Ok(()), |also| ledger.read(also, self.number));
        drop(ledger);
        for said in [said, also] {
            load.findings.check(said.is_ok(), || said.unwrap_err());
        }
        true
    }

    /// Takes the newest build back, for another tree or for the build before it.
    fn retract(&mut self, load: &Load<'_>) {
        let mut ledger = load.ledger.lock().unwrap();
        let Some(build) = ledger.newest() else { return };
        ledger.doubted.insert(build);
        drop(ledger);
        let text = build.to_string();
        let mut command = load.network.command(["retract", CHANNEL, &text]);
        command.args(["--reason", "a fault is played"]);
        self.write_all();
        if self.chance.one_in(2) {
            command.arg("--replace-with").arg(self.tree.path());
        } else {
            command.arg("--no-replacement");
        }
        let ended = load.network.run_command(&mut command);
        // The one before was journaled, and its answer was lost.
        if ended.code != 65 || !ended.stderr.contains("is retracted already") {
            load.done(&ended);
        }
        self.cure_due = true;
    }

    /// All files anew: none has content that was taken back.
    fn write_all(&mut self) {
        self.number += 1;
        self.written = [self.number; FILES];
        let small = (0..FILES).map(|file| format!("d/{file}"));
        for path in small.chain(["a".to_owned(), "z".to_owned()]) {
            self.tree.write(&path, self.number.to_string());
        }
    }
}
