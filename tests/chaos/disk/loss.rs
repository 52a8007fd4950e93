//! What a power loss leaves of changes that were not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::tree::{Ino, Op, Tree};

/// Disks write sectors whole.
const SECTOR_BYTES: u64 = 512;

/// A change that no sync has covered yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) op: Op,
    pub(super) at: SystemTime,
}

/// What a disk has after the power came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Loss {
    /// Only what was synced: data by its file, names by their folder, or everything by `syncfs`
    Strict,
    /// All names, but no data that was not synced: files are short or full of zeros
    Reordered,
    /// Of each file's and folder's changes that were not synced, as many as chance says, in order
    Random,
}

impl Loss {
    /// What is on a disk whose power was lost: what was durable, and what this kind of loss leaves of the rest.
    pub(super) fn image(self, durable: Tree, pending: &[Pending], seed: u64) -> Tree {
        let (mut tree, mut chance) = (durable, Chance(seed));
        match self {
            Self::Strict => {}
            Self::Reordered => reorder(&mut tree, pending, &mut chance),
            Self::Random => choose(&mut tree, pending, &mut chance),
        }
        tree.sweep();
        tree
    }
}

/// All names are there; of each file's bytes that were not synced, none: it is as long as before, or has zeros.
fn reorder(tree: &mut Tree, pending: &[Pending], chance: &mut Chance) {
    let mut zeros: BTreeMap<Ino, bool> = BTreeMap::new();
    for Pending { op, at } in pending {
        let end = match op {
            Op::Write { offset, bytes, .. } => offset + bytes.len() as u64,
            Op::Resize { size, .. } => *size,
            Op::Attributes { .. } | Op::Name { .. } | Op::Unname { .. } | Op::Rename { .. } => {
                tree.apply(op, *at);
                continue;
            }
        };
        let ino = op.objects()[0];
        let there = tree.bytes(ino).map_or(0, |bytes| bytes.len() as u64);
        let filled = *zeros.entry(ino).or_insert_with(|| chance.below(2) == 0);
        let cut = matches!(op, Op::Resize { .. }) && end < there;
        if cut || (filled && end > there) {
            tree.apply(&Op::Resize { ino, size: end }, *at);
        }
    }
}

/// Some changes are there, for each file and folder those before the first that is not; its first sectors may be.
fn choose(tree: &mut Tree, pending: &[Pending], chance: &mut Chance) {
    let unlikely = [2, 5, 20][chance.below(3) as usize];
    let mut stopped: BTreeSet<Ino> = BTreeSet::new();
    for Pending { op, at } in pending {
        let objects = op.objects();
        if !objects.iter().any(|object| stopped.contains(object)) && chance.below(unlikely) > 0 {
            tree.apply(op, *at);
            continue;
        }
        let first = !stopped.contains(&objects[0]);
        stopped.extend(objects);
        if let (true, Op::Write { ino, offset, bytes }) = (first, op) {
            let sectors = bytes.len() as u64 / SECTOR_BYTES;
            let torn = (chance.below(sectors + 1) * SECTOR_BYTES) as usize;
            let bytes = Arc::new(bytes[..torn].to_vec());
            let (ino, offset) = (*ino, *offset);
            if torn > 0 {
                tree.apply(&Op::Write { ino, offset, bytes }, *at);
            }
        }
    }
}

/// Small numbers that a seed repeats (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    /// Below the limit, which is not 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
