//! What is known of a tree: beside it, written before it is changed and again when all of it is on the disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use mirrorlog_core::id::{Build, Digest};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::tree::{Scope, Tree};
use mirrorlog_core::view::{Part, Selection, View};
use serde::{Deserialize, Serialize};

/// The only format so far.
const FORMAT: u32 = 1;

/// A tree's builds.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// What is in it: one composition when it is whole, several when a change was interrupted; then each path is as
    /// one of them has it.
    pub(super) scopes: Vec<Scope>,
    /// Whether a change is under way, or was interrupted.
    pub(super) dirty: bool,
    /// How often content had been found damaged when all of it was last linked to the store.
    pub(super) linked: u64,
    /// When readers were led away from it, or were about to be; none for one that was not shown since it was changed.
    pub(super) retired: Option<Timestamp>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    dirty: bool,
    scopes: Vec<Vec<Row>>,
    linked: u64,
    retired_ms: Option<i64>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Row {
    channel: String,
    build: u64,
    root: String,
    /// The part of it that is there; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<WrittenPart>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenPart {
    layout: String,
    architectures: BTreeSet<String>,
    components: BTreeSet<String>,
    include: BTreeSet<String>,
    exclude: BTreeSet<String>,
}

impl WrittenPart {
    fn of(selection: &Selection) -> Option<Self> {
        let layout = selection.layout()?.to_string();
        match selection.view() {
            View::All => None,
            View::Part(part) => Some(Self {
                layout,
                architectures: part.architectures,
                components: part.components,
                include: part.include,
                exclude: part.exclude,
            }),
        }
    }

    fn selection(self) -> Option<Selection> {
        let layout = self.layout.parse().ok()?;
        let part = Part {
            architectures: self.architectures,
            components: self.components,
            include: self.include,
            exclude: self.exclude,
        };
        Some(Selection::new(&View::new(part).ok()?, layout))
    }
}

impl Record {
    /// A tree that is begun: nothing is in it.
    pub(super) fn new() -> Self {
        Self {
            scopes: vec![Scope(Vec::new())],
            dirty: true,
            linked: 0,
            retired: None,
        }
    }

    /// The composition of a tree that is whole.
    pub(super) fn whole(&self) -> Option<&Scope> {
        match &self.scopes[..] {
            [only] if !self.dirty => Some(only),
            _ => None,
        }
    }

    /// Top pages that a change of it has to read.
    pub(super) fn roots(&self) -> impl Iterator<Item = Digest> + '_ {
        let trees = self.scopes.iter().flat_map(|scope| &scope.0);
        trees.map(|tree| tree.root)
    }

    /// None when there is no such file, or nobody can read it.
    pub(super) fn read(file: &Path) -> Option<Self> {
        let written: Written = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        if written.format != FORMAT {
            return None;
        }
        let scope = |rows: Vec<Row>| {
            let trees = rows.into_iter().map(|row| {
                Some(Tree {
                    channel: row.channel.parse().ok()?,
                    build: Build::new(row.build)?,
                    root: row.root.parse().ok()?,
                    selection: match row.part {
                        None => Selection::ALL,
                        Some(part) => part.selection()?,
                    },
                })
            });
            trees.collect::<Option<Vec<_>>>().map(Scope)
        };
        Some(Self {
            scopes: written
                .scopes
                .into_iter()
                .map(scope)
                .collect::<Option<_>>()?,
            dirty: written.dirty,
            linked: written.linked,
            retired: written.retired_ms.map(Timestamp::from_ms),
        })
    }

    /// Durable when this returns.
    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        let rows = |scope: &Scope| {
            let rows = scope.0.iter().map(|tree| Row {
                channel: tree.channel.to_string(),
                build: tree.build.get(),
                root: tree.root.to_string(),
                part: WrittenPart::of(&tree.selection),
            });
            rows.collect()
        };
        let written = Written {
            format: FORMAT,
            dirty: self.dirty,
            scopes: self.scopes.iter().map(rows).collect(),
            linked: self.linked,
            retired_ms: self.retired.map(Timestamp::as_ms),
        };
        write_durably(file, serde_json::to_string_pretty(&written)?.as_bytes())
    }

    /// Adds a composition that the tree is changed to.
    pub(super) fn mix(&mut self, scope: &Scope) {
        if !self.scopes.contains(scope) {
            self.scopes.push(scope.clone());
        }
        self.dirty = true;
        self.retired = None;
    }

    /// Compositions without doubles, for the record of what is kept.
    pub(super) fn all_roots<'a>(records: impl Iterator<Item = &'a Self>) -> BTreeSet<Digest> {
        records.flat_map(Self::roots).collect()
    }
}

/// All of it or nothing is there, whatever happens; durable when this returns.
pub(super) fn write_durably(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut open = File::create(&new)?;
    open.write_all(bytes)?;
    open.sync_all()?;
    std::fs::rename(&new, file)?;
    sync_folder(file)
}

/// Makes a folder and those above it, durably: a name in a folder that is itself not on the disk is lost with it.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let missing = folder.ancestors().take_while(|above| !above.exists());
    let missing: Vec<&Path> = missing.collect();
    std::fs::create_dir_all(folder)?;
    for made in missing.iter().rev() {
        sync_folder(made)?;
    }
    Ok(())
}

/// Makes a name in a folder durable.
pub(super) fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
