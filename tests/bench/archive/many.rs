//! One archive and ten mirrors: a change, and the auditor's memory.

use crate::ours::Ours;
use crate::results::{Memory, Results, Row, Sample};
use crate::rsync::{Copied, Rsync};
use crate::{Args, Section};

pub(crate) const MIRRORS: u16 = 10;
const BY_SCAN: f64 = 12.0;
const CONSISTENCY_MB: f64 = 150.0;

/// A change found by a full scan and brought to ten mirrors, against ten rsync clients at once.
pub(crate) fn run(args: &Args, results: &mut Results) {
    let files = args.ten_files;
    let mut tree = args.tree(files, files as u64 * args.mean_bytes);
    let ours = Ours::start(&args.tools(), MIRRORS);
    let rsync = Rsync::start(&args.tools(), tree.path());
    let mut last = ours.publish(tree.path(), None);
    let mut publish_peak_mib = last.publish_peak_mib;
    eprintln!(
        "first publish and ten syncs {:.2} s ({})",
        last.seconds, last.phases
    );
    let copies: Vec<String> = (1..=MIRRORS)
        .map(|number| format!("copy{number}"))
        .collect();
    let copies: Vec<&str> = copies.iter().map(String::as_str).collect();
    let with_rsync = args.wants(Section::Ten) && args.with_peers();
    if with_rsync {
        let first = rsync.copy(&copies);
        eprintln!("rsync's ten first copies {:.2} s", first.used.seconds);
    }
    let what = format!("{} files changed, full scan, ten mirrors", args.changed);
    let mut row = Row::new(&what, files, "ten rsync clients", Some(BY_SCAN));
    let rounds = if with_rsync { args.rounds } else { 2 };
    for round in 0..rounds {
        let change = tree.change(args.changed);
        let theirs = || {
            if with_rsync {
                rsync.copy(&copies)
            } else {
                Copied::default()
            }
        };
        let theirs = if round % 2 == 0 {
            last = ours.publish(tree.path(), None);
            theirs()
        } else {
            let theirs = theirs();
            last = ours.publish(tree.path(), None);
            theirs
        };
        publish_peak_mib = publish_peak_mib.max(last.publish_peak_mib);
        // Each of them needs it.
        let payload_bytes = change.payload_bytes * u64::from(MIRRORS);
        let mut sample = Sample::of_ours(&last, payload_bytes);
        sample.payload_bytes = payload_bytes as f64;
        row.add(sample, Sample::of_rsync(&theirs), &last.phases);
    }
    eprintln!("comparing the trees");
    ours.compare(tree.path(), &last);
    if with_rsync {
        rsync.compare(&copies);
        results.rows.push(row);
    }
    let [archive, mirror, consistency] =
        ["archive", "nz1", "consistency"].map(|name| ours.peak_mib(name));
    let at = (files == 1_000_000).then_some(CONSISTENCY_MB);
    let what = format!("peak memory of consistency, {files} files, ten mirrors");
    results.limit(&what, consistency * 1.048_576, at, "MB");
    results.memory.push(Memory {
        files,
        mirrors: MIRRORS,
        archive,
        mirror,
        consistency,
        publish: publish_peak_mib,
        later: [archive, mirror, consistency],
        rsync: None,
    });
}
