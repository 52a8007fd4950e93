//! Entries to test with, drawn from a seed.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::PAGE_MEAN_ITEMS;
use mirrorlog_core::manifest::memory::{MemoryError, MemoryPages};
use mirrorlog_core::manifest::{
    Builder, Entry, FileEntry, Mode, Page, PageRead, PageWrite, Summary,
};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::{Change, Delta};
use mirrorlog_core::time::Mtime;
use proptest::prelude::*;

pub(crate) type Tree = BTreeMap<EntryPath, Entry>;

/// What the paths are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// As in an archive.
    Usual,
    /// As long as paths get, some of them symlinks with long targets: few items fit a page.
    Long,
    /// Chosen so that no leaf ends by a natural border.
    NeverNatural,
    /// Chosen so that every leaf item could end a page.
    AlwaysNatural,
}

/// How much to draw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) names: Names,
    pub(crate) count: usize,
    pub(crate) seed: u64,
}

pub(crate) fn plans() -> impl Strategy<Value = Plan> {
    let sized = prop_oneof![
        4 => (Just(Names::Usual), 0..1500_usize),
        2 => (Just(Names::Long), 0..300_usize),
        2 => (Just(Names::NeverNatural), 0..1500_usize),
        1 => (Just(Names::AlwaysNatural), 0..300_usize),
    ];
    (sized, any::<u64>()).prop_map(|((names, count), seed)| Plan { names, count, seed })
}

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

pub(crate) fn path(text: &str) -> EntryPath {
    EntryPath::new(text.as_bytes()).unwrap()
}

pub(crate) fn file(content: u64) -> Entry {
    Entry::File(FileEntry {
        size_bytes: content % 100_000,
        digest: Digest::of(&content.to_le_bytes()),
        mode: if content.is_multiple_of(5) {
            Mode::Executable
        } else {
            Mode::Plain
        },
        mtime: Mtime::from_seconds(content as i64 >> 20),
    })
}

/// An item's draw, written down a second time.
pub(crate) fn draw(level: u8, key: &[u8]) -> u64 {
    let hash = Digest::of(&[&[level], key].concat());
    u64::from_be_bytes(hash.as_bytes()[..8].try_into().unwrap())
}

pub(crate) fn is_natural(level: u8, key: &[u8]) -> bool {
    u128::from(draw(level, key)) < (1 << 64) / u128::from(PAGE_MEAN_ITEMS)
}

/// A path; folders never have the name of a file.
fn any_path(names: Names, draws: &mut Draws) -> EntryPath {
    loop {
        let n = draws.below(1 << 40);
        let text = match names {
            Names::Usual => match n % 4 {
                0 => format!("pool/d{}/d{}/f{n}.deb", n % 7, n % 61),
                1 => format!("pool/d{}-f{n}", n % 7),
                2 => format!("dists/d{}/by-hash/f{n:x}", n % 5),
                _ => format!("f{n}"),
            },
            Names::Long => {
                let part = |at: usize| format!("d{:x}{}", (n >> at) % 3, "x".repeat(240));
                let folder: Vec<String> = (0..16).map(part).collect();
                format!(
                    "{}/f{n:x}{}",
                    folder.join("/"),
                    "y".repeat(draws.below(180))
                )
            }
            Names::NeverNatural | Names::AlwaysNatural => format!("d{}/f{n}", n % 3),
        };
        let fits = match names {
            Names::Usual | Names::Long => true,
            Names::NeverNatural => !is_natural(0, text.as_bytes()),
            Names::AlwaysNatural => is_natural(0, text.as_bytes()),
        };
        if fits {
            return path(&text);
        }
    }
}

fn any_entry(names: Names, draws: &mut Draws) -> Entry {
    let content = draws.next();
    match (names, content % 6) {
        (Names::Long, 0) => Entry::Symlink {
            target: vec![b't'; draws.below(4095) + 1].into(),
        },
        (Names::Usual | Names::Long | Names::NeverNatural | Names::AlwaysNatural, _) => {
            file(content)
        }
    }
}

pub(crate) fn tree(plan: Plan) -> Tree {
    let mut draws = Draws(plan.seed);
    let mut tree = Tree::new();
    while tree.len() < plan.count {
        tree.insert(
            any_path(plan.names, &mut draws),
            any_entry(plan.names, &mut draws),
        );
    }
    tree
}

/// A path for a change. Where no border is natural it has a low draw, so that it moves forced cuts.
fn new_path(names: Names, draws: &mut Draws) -> EntryPath {
    let tries = match names {
        Names::NeverNatural => 24,
        Names::Usual | Names::Long | Names::AlwaysNatural => 1,
    };
    let drawn = std::iter::repeat_with(|| any_path(names, draws)).take(tries);
    drawn.min_by_key(|path| draw(0, path.as_bytes())).unwrap()
}

/// Changes of every kind: scattered, in a run, at the ends, and ones that change nothing.
pub(crate) fn delta(tree: &Tree, names: Names, count: usize, draws: &mut Draws) -> Delta {
    let paths: Vec<&EntryPath> = tree.keys().collect();
    let mut changes = BTreeMap::new();
    while changes.len() < count {
        let known = |at: usize| paths.get(at).copied();
        match draws.below(8) {
            0..3 => {
                changes.insert(new_path(names, draws), Some(any_entry(names, draws)));
            }
            3 => {
                changes.insert(any_path(names, draws), None);
            }
            4 => {
                if let Some(path) = known(draws.below(paths.len())) {
                    changes.insert(path.clone(), Some(any_entry(names, draws)));
                }
            }
            5 => {
                if let Some(path) = known(draws.below(paths.len())) {
                    changes.insert(path.clone(), Some(tree[path].clone()));
                }
            }
            6 => {
                let at = [0, draws.below(paths.len()), paths.len().wrapping_sub(1)];
                if let Some(path) = known(at[draws.below(3)]) {
                    changes.insert(path.clone(), None);
                }
            }
            _ => {
                let from = draws.below(paths.len());
                for at in from..from + draws.below(count.min(400)) {
                    known(at).map(|path| changes.insert(path.clone(), None));
                }
            }
        }
    }
    changes
        .into_iter()
        .map(|(path, new)| Change { path, new })
        .collect()
}

pub(crate) fn changed(tree: &Tree, delta: &[Change]) -> Tree {
    let mut tree = tree.clone();
    for change in delta {
        match &change.new {
            Some(entry) => tree.insert(change.path.clone(), entry.clone()),
            None => tree.remove(&change.path),
        };
    }
    tree
}

pub(crate) fn build(pages: &MemoryPages, tree: &Tree) -> Summary {
    let mut builder = Builder::new(pages);
    for (path, entry) in tree {
        builder.push(path, entry).unwrap();
    }
    builder.finish().unwrap()
}

/// Counts what passes.
pub(crate) struct Counted<'a> {
    pub(crate) pages: &'a MemoryPages,
    pub(crate) reads: Cell<usize>,
    pub(crate) writes: Cell<usize>,
}

impl<'a> Counted<'a> {
    pub(crate) fn new(pages: &'a MemoryPages) -> Self {
        Self {
            pages,
            reads: Cell::new(0),
            writes: Cell::new(0),
        }
    }
}

impl PageRead for Counted<'_> {
    type Error = MemoryError;

    fn page(&self, digest: &Digest) -> Result<Arc<Page>, MemoryError> {
        self.reads.set(self.reads.get() + 1);
        self.pages.page(digest)
    }
}

impl PageWrite for &Counted<'_> {
    type Error = Infallible;

    fn put_page(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<(), Infallible> {
        self.writes.set(self.writes.get() + 1);
        let mut pages = self.pages;
        pages.put_page(digest, bytes)
    }
}
