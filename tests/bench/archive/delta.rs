//! What a change of a large archive costs one mirror: by list, by scan, and when nothing changed. Memory is read on the
//! way.

use std::process::Command;

use e2e::{ArchiveTree, tool};

use crate::measure::{Timer, sync};
use crate::ours::{Cost, Ours};
use crate::results::{Memory, Results, Row, Sample, median};
use crate::rsync::Rsync;
use crate::{Args, Section};

/// Files of a tree whose change has to be so many times as fast as rsync's, by list.
const BY_LIST: [(usize, f64); 2] = [(100_000, 15.0), (1_000_000, 60.0)];
const BY_SCAN: f64 = 3.0;
/// Bytes of metadata that a change may cost, and that a changed file may.
const METADATA_BYTES: f64 = 65_536.0;
const METADATA_FILE_BYTES: f64 = 1024.0;

/// Archive, mirror, copies: all at the first build.
struct Site<'a> {
    args: &'a Args,
    tree: ArchiveTree,
    ours: Ours,
    rsync: Rsync,
    last: Cost,
    publish_peak_mib: f64,
    client_peak_mib: f64,
}

/// Seconds of the mirror's CPU and bytes of metadata of a change by list, for comparing sizes.
pub(crate) struct Change {
    pub(crate) files: usize,
    mirror_cpu_s: f64,
    metadata_bytes: f64,
}

pub(crate) fn run(args: &Args, files: usize, results: &mut Results) -> Option<Change> {
    let mut site = Site::prepare(args, files);
    let first = site.peaks();
    site.ours.reset_peaks();
    let mut change = None;
    if args.wants(Section::Delta) {
        change = Some(site.by_list(results));
    }
    if args.wants(Section::Scan) {
        site.by_scan(results);
        site.unchanged(results);
    }
    if args.wants(Section::Memory) && !args.wants(Section::Delta) && !args.wants(Section::Scan) {
        site.change_once();
    }
    eprintln!("comparing the trees");
    site.ours.compare(site.tree.path(), &site.last);
    let mut copies = Vec::new();
    if args.with_peers() {
        copies.push("copy");
    }
    if args.with_ftpsync(files) {
        copies.push("ftpsync");
    }
    site.rsync.compare(&copies);
    let memory = site.memory(first);
    site.end(memory, results);
    change
}

impl<'a> Site<'a> {
    fn prepare(args: &'a Args, files: usize) -> Self {
        let tree = args.tree(files, files as u64 * args.mean_bytes);
        let ours = Ours::start(&args.tools(), 1);
        let rsync = Rsync::start(&args.tools(), tree.path());
        let last = ours.publish(tree.path(), None);
        eprintln!(
            "first publish and sync {:.2} s ({})",
            last.seconds, last.phases
        );
        let mut site = Self {
            args,
            tree,
            ours,
            rsync,
            publish_peak_mib: last.publish_peak_mib,
            last,
            client_peak_mib: 0.0,
        };
        if args.with_peers() {
            let first = site.copy();
            eprintln!("rsync's first copy {:.2} s", first.seconds);
        }
        if args.with_ftpsync(files) {
            let first = site.rsync.ftpsync("ftpsync");
            eprintln!("ftpsync's first copy {:.2} s", first.used.seconds);
        }
        site
    }

    /// Peaks of archive, mirror and consistency.
    fn peaks(&self) -> [f64; 3] {
        ["archive", "nz1", "consistency"].map(|name| self.ours.peak_mib(name))
    }

    /// From the peaks of the beginning and of the time since then.
    fn memory(&self, first: [f64; 3]) -> Memory {
        let later = self.peaks();
        Memory {
            files: self.tree.files(),
            mirrors: 1,
            archive: first[0].max(later[0]),
            mirror: first[1].max(later[1]),
            consistency: first[2].max(later[2]),
            publish: self.publish_peak_mib,
            later,
            rsync: None,
        }
    }

    fn copy(&mut self) -> Sample {
        let copied = self.rsync.copy(&["copy"]);
        self.client_peak_mib = self.client_peak_mib.max(copied.used.peak_mib);
        Sample::of_rsync(&copied)
    }

    fn publish(&mut self, list: Option<&std::path::Path>) -> Cost {
        let cost = self.ours.publish(self.tree.path(), list);
        self.publish_peak_mib = self.publish_peak_mib.max(cost.publish_peak_mib);
        self.last = cost.clone();
        cost
    }

    /// Uploads, each published by its list, each copied by rsync and by ftpsync; who is first changes.
    fn by_list(&mut self, results: &mut Results) -> Change {
        let files = self.tree.files();
        let what = format!("{} files changed, by list", self.args.changed);
        let target = BY_LIST.iter().find(|(size, _)| *size == files);
        let mut row = Row::new(&what, files, "rsync", target.map(|(_, target)| *target));
        let mut ftpsync_row = Row::new(&what, files, "ftpsync", None);
        let list = self.ours.network.scratch().join("changed");
        for round in 0..self.args.rounds {
            let change = self.tree.change(self.args.changed);
            change.write_list(&list);
            let mut sides = [None; 3];
            let mut note = String::new();
            for turn in 0..3 {
                let who = (turn + round) % 3;
                sides[who] = match who {
                    0 => {
                        let cost = self.publish(Some(&list));
                        note.clone_from(&cost.phases);
                        Some(Sample::of_ours(&cost, change.payload_bytes))
                    }
                    1 => self.args.with_peers().then(|| self.copy()),
                    _two => {
                        let with = self.args.with_ftpsync(files);
                        with.then(|| Sample::of_rsync(&self.rsync.ftpsync("ftpsync")))
                    }
                };
            }
            let [Some(ours), rsync, ftpsync] = sides else {
                unreachable!("ours always has its turn");
            };
            row.add(ours, rsync.unwrap_or_default(), &note);
            if let Some(ftpsync) = ftpsync {
                ftpsync_row.add(ours, ftpsync, "");
            }
        }
        let of = |of: fn(&Sample) -> f64| median(row.ours.iter().map(of));
        let change = Change {
            files,
            mirror_cpu_s: of(|one| one.part_cpu_s),
            metadata_bytes: of(|one| one.metadata_bytes),
        };
        let most = METADATA_BYTES + METADATA_FILE_BYTES * self.args.changed as f64;
        let what = format!("metadata of {what}, {files} files there");
        results.limit(
            &what,
            change.metadata_bytes / 1024.0,
            Some(most / 1024.0),
            "KiB",
        );
        results.rows.push(row);
        if !ftpsync_row.ours.is_empty() {
            results.rows.push(ftpsync_row);
        }
        change
    }

    fn by_scan(&mut self, results: &mut Results) {
        let what = format!("{} files changed, full scan", self.args.changed);
        let mut row = Row::new(&what, self.tree.files(), "rsync", Some(BY_SCAN));
        for round in 0..self.args.rounds {
            let change = self.tree.change(self.args.changed);
            let (cost, theirs) = if round % 2 == 0 {
                let cost = self.publish(None);
                (cost, self.copy())
            } else {
                let theirs = self.copy();
                (self.publish(None), theirs)
            };
            let ours = Sample::of_ours(&cost, change.payload_bytes);
            row.add(ours, theirs, &cost.phases);
        }
        results.rows.push(row);
        if self.args.with_ftpsync(self.tree.files()) {
            self.rsync.ftpsync("ftpsync");
        }
    }

    /// A publish of what is published already, against a program that only looks at every file.
    fn unchanged(&mut self, results: &mut Results) {
        let mut row = Row::new(
            "nothing changed, full scan",
            self.tree.files(),
            "find -printf",
            Some(1.0),
        );
        let timer = Timer::new(&self.args.tools(), self.ours.network.scratch());
        let path = self.tree.path().to_owned();
        for round in 0..self.args.rounds {
            let mut find: Command = tool("find");
            find.arg(&path).args(["-printf", "%p %s %T@ %C@ %i\n"]);
            let look = || {
                sync(&path);
                Sample::of(&timer.run(&find).1)
            };
            let (cost, theirs) = if round % 2 == 0 {
                let cost = self.publish(None);
                (cost, look())
            } else {
                let theirs = look();
                (self.publish(None), theirs)
            };
            row.add(Sample::of_ours(&cost, 0), theirs, &cost.phases);
        }
        results.rows.push(row);
    }

    /// One change of each kind, where only memory is asked for.
    fn change_once(&mut self) {
        let list = self.ours.network.scratch().join("changed");
        self.tree.change(self.args.changed).write_list(&list);
        self.publish(Some(&list));
        self.tree.change(self.args.changed);
        self.publish(None);
        if self.args.with_peers() {
            self.copy();
        }
    }

    fn end(self, mut memory: Memory, results: &mut Results) {
        if !self.args.wants(Section::Memory) {
            return;
        }
        let daemon_peak_mib = self.rsync.end();
        memory.rsync =
            (self.client_peak_mib > 0.0).then_some([self.client_peak_mib, daemon_peak_mib]);
        let at = |limit: f64| (memory.files == 1_000_000).then_some(limit);
        for (who, measured, limit) in [
            ("mirror", memory.mirror, 100.0),
            ("archive", memory.archive, 100.0),
            ("publish", memory.publish, 200.0),
        ] {
            let what = format!("peak memory of {who}, {} files", memory.files);
            // The limits are in MB.
            results.limit(&what, measured * 1.048_576, at(limit), "MB");
        }
        results.memory.push(memory);
    }
}

/// Sizes against the smallest: what a change costs must not grow with what is there.
pub(crate) fn compare_sizes(changes: &[Change], results: &mut Results) {
    let Some((smallest, larger)) = changes.split_first() else {
        return;
    };
    for change in larger {
        let sizes = format!("{} files against {}", change.files, smallest.files);
        let cpu = change.mirror_cpu_s / smallest.mirror_cpu_s;
        results.limit(
            &format!("mirror's CPU for the change, {sizes}"),
            cpu,
            Some(1.5),
            "times",
        );
        let metadata = change.metadata_bytes / smallest.metadata_bytes;
        results.limit(
            &format!("metadata of the change, {sizes}"),
            metadata,
            Some(1.5),
            "times",
        );
    }
}
