//! Publishing and mirroring beside rsync, ftpsync, cp and find, turn by turn in one run.
//!
//! Each repetition changes the archive, lets every side bring its copy up to date, and gives a ratio; who begins
//! changes. Before each turn dirty pages are written back, so that nobody pays for another one's. Our time is the whole
//! of `publish … --wait all`: scan or list, hashing, signing, log, fetch, digests, `syncfs`, flip, deletion, audit,
//! verdict. Afterwards copies and mirrors are compared with the tree.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

mod bulk;
mod delta;
mod machine;
mod many;
mod measure;
mod ours;
mod plot;
mod results;
mod rsync;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use e2e::{ArchiveTree, Shape};
use results::Results;

/// Measures changes, first syncs and memory beside rsync, ftpsync, cp and find.
#[derive(Debug, Parser)]
struct Args {
    /// What is measured; all but `memory-ten` when left out
    #[arg(long, value_delimiter = ',')]
    only: Vec<Section>,
    /// Sizes of the archive for delta, scan and memory
    #[arg(long, value_delimiter = ',', default_value = "100000")]
    files: Vec<usize>,
    /// Size of the archive with ten mirrors
    #[arg(long, default_value_t = 100_000)]
    ten_files: usize,
    /// Files that change in each repetition
    #[arg(long, default_value_t = 50)]
    changed: usize,
    /// Bytes of a file, on average
    #[arg(long, default_value_t = 1024)]
    mean_bytes: u64,
    /// Distinct contents of the archive: its files are hard links to so many; each its own when left out
    #[arg(long)]
    contents: Option<usize>,
    /// Files of the first sync
    #[arg(long, default_value_t = 20_000)]
    bulk_files: usize,
    /// Size of the first sync, in MiB
    #[arg(long, default_value_t = 1907)]
    bulk_mib: u64,
    /// Size of each of the eight large files, in MiB
    #[arg(long, default_value_t = 256)]
    large_mib: u64,
    /// Repetitions
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Repetitions of first syncs
    #[arg(long, default_value_t = 3)]
    bulk_rounds: usize,
    /// Seed of the archive
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only our side, for memory at sizes where copies do not fit
    #[arg(long)]
    no_peers: bool,
    /// Without ftpsync
    #[arg(long)]
    no_ftpsync: bool,
    /// The largest archive that ftpsync copies too: its own million files more cost many minutes
    #[arg(long, default_value_t = 100_000)]
    ftpsync_files: usize,
    /// Folder for `table.md` and `plot.svg`
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folder with usr/bin/time and usr/bin/ftpsync; target/tools/bench when left out
    #[arg(long)]
    tools: Option<PathBuf>,
    /// Another binary than the one beside this program
    #[arg(long)]
    binary: Option<PathBuf>,
    /// target/release/mirrorlog
    #[arg(long, conflicts_with = "binary")]
    release: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Section {
    /// A change by its list
    Delta,
    /// A change by full scan, and none
    Scan,
    /// A change by full scan to ten mirrors
    Ten,
    /// The first sync of many files
    Bulk,
    /// The first sync of large files
    Large,
    /// Peak memory with one mirror
    Memory,
    /// Peak memory with ten mirrors, without copies
    MemoryTen,
}

impl Args {
    fn wants(&self, section: Section) -> bool {
        if self.only.is_empty() {
            return section != Section::MemoryTen;
        }
        self.only.contains(&section)
    }

    fn with_peers(&self) -> bool {
        !self.no_peers
    }

    fn with_ftpsync(&self, files: usize) -> bool {
        let wanted = self.with_peers() && !self.no_ftpsync && files <= self.ftpsync_files;
        wanted && self.wants(Section::Delta)
    }

    fn tools(&self) -> PathBuf {
        let beside = || target().join("tools/bench");
        self.tools.clone().unwrap_or_else(beside)
    }

    fn tree(&self, files: usize, bytes: u64) -> ArchiveTree {
        let tree = ArchiveTree::new(&Shape {
            files,
            bytes,
            contents: self.contents,
            seed: self.seed,
        });
        eprintln!("an archive of {files} files, {} bytes", tree.bytes());
        tree
    }

    /// Writes what there is so far where it was asked for: a run takes long. Returns the tables.
    fn save(&self, results: &Results) -> String {
        let facts = machine::facts();
        let table = format!("{facts}\n\n{}", results.markdown());
        if let Some(out) = &self.out {
            std::fs::create_dir_all(out).unwrap();
            std::fs::write(out.join("table.md"), &table).unwrap();
            std::fs::write(out.join("plot.svg"), plot::svg(results, &facts)).unwrap();
        }
        table
    }
}

fn main() {
    let args = Args::parse();
    let release = || target().join("release/mirrorlog");
    if let Some(chosen) = args.binary.clone().or_else(|| args.release.then(release)) {
        assert!(
            chosen.is_file(),
            "{} is not there: build it first",
            chosen.display()
        );
        e2e::use_binary(chosen);
    }
    let mut results = Results::default();
    // First: a file system that has just lost millions of files makes new ones slowly for some minutes.
    if args.wants(Section::Bulk) {
        bulk::many_files(&args, &mut results);
        args.save(&results);
    }
    if args.wants(Section::Large) {
        bulk::large_files(&args, &mut results);
        args.save(&results);
    }
    let mut changes = Vec::new();
    if [Section::Delta, Section::Scan, Section::Memory]
        .iter()
        .any(|section| args.wants(*section))
    {
        for files in &args.files {
            changes.extend(delta::run(&args, *files, &mut results));
            args.save(&results);
        }
        delta::compare_sizes(&changes, &mut results);
    }
    if args.wants(Section::Ten) || args.wants(Section::MemoryTen) {
        many::run(&args, &mut results);
        args.save(&results);
    }
    println!("{}", args.save(&results));
}

/// The folder of what is built.
fn target() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(2).unwrap().to_owned()
}
