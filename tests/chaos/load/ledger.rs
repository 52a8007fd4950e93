//! What must be true of each build: its root, and what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Small files beside `a` and `z`; each publication changes one.
pub(crate) const FILES: usize = 40;

/// What stood in the tree when a number was written to `a` and `z`: the number of each small file's last change.
pub(crate) type Written = Arc<[u64; FILES]>;

/// What is known of a build.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// What `a` and `z` say.
    pub(crate) number: u64,
    /// All small files, where the build is of the whole tree.
    pub(crate) whole: Option<Written>,
}

/// What `publish` and `retract` said, and what was seen of builds of which they did not say.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Builds whose `publish` returned 0, with their roots.
    pub(crate) said: BTreeMap<u64, String>,
    known: BTreeMap<u64, Known>,
    /// Builds that somebody tried to retract, whatever came of it.
    pub(crate) doubted: BTreeSet<u64>,
}

impl Ledger {
    /// A `publish` returned 0. Says why that cannot be.
    pub(crate) fn say(&mut self, build: u64, root: &str, known: Known) -> Result<(), String> {
        if let Some(before) = self.said.insert(build, root.to_owned())
            && before != root
        {
            return Err(format!("build {build} has two roots: {before} and {root}"));
        }
        let before = self.known.insert(build, known.clone());
        match before.filter(|before| before.number != known.number) {
            Some(before) => Err(format!(
                "build {build} was published as number {} and read as number {} before",
                known.number, before.number
            )),
            None => Ok(()),
        }
    }

    /// What a build says must be what it said before.
    pub(crate) fn read(&mut self, build: u64, number: u64) -> Result<(), String> {
        let fresh = || Known {
            number,
            whole: None,
        };
        let known = self.known.entry(build).or_insert_with(fresh);
        if known.number == number {
            return Ok(());
        }
        Err(format!(
            "build {build} is of number {}, and {number} was read",
            known.number
        ))
    }

    pub(crate) fn known(&self, build: u64) -> Option<Known> {
        self.known.get(&build).cloned()
    }

    pub(crate) fn newest(&self) -> Option<u64> {
        self.said.keys().next_back().copied()
    }

    /// Some newest builds that `publish` said, newest first.
    pub(crate) fn last(&self, count: usize) -> Vec<u64> {
        self.said.keys().rev().take(count).copied().collect()
    }
}
