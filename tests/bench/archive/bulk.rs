//! First syncs: many files, and large ones.

use std::fs;
use std::path::Path;

use e2e::{Tree, noise, tool};

use crate::Args;
use crate::measure::sync;
use crate::ours::{Cost, Ours};
use crate::results::{Results, Row, Sample};
use crate::rsync::Rsync;

/// Of the large files' section.
const LARGE_FILES: usize = 8;

pub(crate) fn many_files(args: &Args, results: &mut Results) {
    let tree = args.tree(args.bulk_files, args.bulk_mib << 20);
    let what = format!("first sync, {} MiB", args.bulk_mib);
    let targets = Targets {
        rsync: 1.5,
        cp: Some(1.0 / 1.5),
    };
    run(args, tree.path(), tree.files(), &what, &targets, results);
}

pub(crate) fn large_files(args: &Args, results: &mut Results) {
    let tree = Tree::new();
    for number in 0..LARGE_FILES {
        let content = noise(number as u64, (args.large_mib as usize) << 20);
        // Tree::write would hash it only to find a date.
        let folder = tree.path().join("pool");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("image{number}.iso")), content).unwrap();
    }
    let what = format!("first sync, files of {} MiB", args.large_mib);
    let targets = Targets {
        rsync: 1.0,
        cp: None,
    };
    run(args, tree.path(), LARGE_FILES, &what, &targets, results);
}

struct Targets {
    rsync: f64,
    cp: Option<f64>,
}

/// Each repetition: a network that has nothing publishes and syncs; its mirror loses all and syncs again; rsync and cp
/// copy to where nothing is.
fn run(
    args: &Args,
    tree: &Path,
    files: usize,
    what: &str,
    targets: &Targets,
    results: &mut Results,
) {
    let rsync = Rsync::start(&args.tools(), tree);
    let durable = format!("{what}, both durable");
    let published = format!("publish and {what}");
    let mut rows = [
        Row::new(what, files, "rsync", Some(targets.rsync)),
        Row::new(what, files, "cp -a", targets.cp),
        Row::new(&durable, files, "rsync and sync -f", None),
        Row::new(&durable, files, "cp -a and sync -f", None),
        Row::new(&published, files, "rsync", None),
    ];
    let theirs = || {
        let by_rsync = copy(&rsync, tree, || Sample::of_rsync(&rsync.copy(&["copy"])));
        let by_cp = copy(&rsync, tree, || cp(&rsync, tree));
        [by_rsync, by_cp]
    };
    for round in 0..args.bulk_rounds {
        let is_last = round + 1 == args.bulk_rounds;
        let ([published, synced], theirs) = if round % 2 == 0 {
            let ours = ours(args, tree, is_last);
            (ours, theirs())
        } else {
            let theirs = theirs();
            (ours(args, tree, is_last), theirs)
        };
        let [[by_rsync, rsync_durable], [by_cp, cp_durable]] = theirs;
        let pairs = [
            (synced, by_rsync),
            (synced, by_cp),
            (synced, rsync_durable),
            (synced, cp_durable),
            (published, by_rsync),
        ];
        for (row, (ours, theirs)) in rows.iter_mut().zip(pairs) {
            row.add(ours, theirs, "");
        }
    }
    results.rows.extend(rows);
}

/// A publish with the first sync behind it, and the first sync alone.
fn ours(args: &Args, tree: &Path, is_compared: bool) -> [Sample; 2] {
    let ours = Ours::start(&args.tools(), 1);
    let published = ours.publish(tree, None);
    let Cost {
        seconds, phases, ..
    } = &published;
    eprintln!("published {seconds:.2} s ({phases})");
    let synced = ours.first_sync("nz1", published.build);
    if is_compared {
        eprintln!("comparing the trees");
        ours.compare(tree, &published);
    }
    [&published, &synced].map(|cost| Sample::of_ours(cost, bytes(tree)))
}

/// One copy to where nothing is: as the program left it, and once it is durable.
fn copy(rsync: &Rsync, tree: &Path, by: impl FnOnce() -> Sample) -> [Sample; 2] {
    let target = rsync.target("copy");
    if target.exists() {
        fs::remove_dir_all(&target).unwrap();
    }
    sync(tree);
    let sample = by();
    let begun = std::time::Instant::now();
    sync(&target);
    let durable = Sample {
        seconds: sample.seconds + begun.elapsed().as_secs_f64(),
        ..sample
    };
    rsync.compare(&["copy"]);
    [sample, durable]
}

fn cp(rsync: &Rsync, tree: &Path) -> Sample {
    let mut command = tool("cp");
    command.arg("-a").arg(tree).arg(rsync.target("copy"));
    Sample::of(&rsync.timer().run(&command).1)
}

fn bytes(tree: &Path) -> u64 {
    let entries = fs::read_dir(tree).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            if entry.file_type().unwrap().is_dir() {
                bytes(&entry.path())
            } else {
                entry.metadata().unwrap().len()
            }
        })
        .sum()
}
