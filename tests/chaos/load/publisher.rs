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
}

impl Publisher {
    pub(super) fn new(seed: u64) -> Self {
        let mut publisher = Self {
            tree: Tree::new(),
            number: 0,
            written: [0; FILES],
            chance: Chance::of(seed, "publisher", 0),
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
            if self.chance.one_in(PRIORITY_EVERY) {
                self.publish_first(load, &changed);
            } else {
                self.publish(load);
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

    /// Takes one of the newest builds back, for another tree or for an older build.
    fn retract(&mut self, load: &Load<'_>) {
        let newest = load.ledger.lock().unwrap().last(2);
        let Some(build) = newest.get(usize::try_from(self.chance.below(2)).unwrap()) else {
            return;
        };
        load.ledger.lock().unwrap().doubted.insert(*build);
        let text = build.to_string();
        let mut command = load.network.command(["retract", CHANNEL, &text]);
        command.args(["--reason", "a fault is played"]);
        let replaced = self.chance.one_in(2);
        // Its small file may be what was bad: all of them are written anew, as a cure.
        self.written = [self.number + 1; FILES];
        for file in 0..FILES {
            self.tree
                .write(&format!("d/{file}"), (self.number + 1).to_string());
        }
        self.write();
        self.written = [self.number; FILES];
        if replaced {
            command.arg("--replace-with").arg(self.tree.path());
        } else {
            command.arg("--no-replacement");
        }
        load.done(&load.network.run_command(&mut command));
    }
}
