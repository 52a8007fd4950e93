//! Trees of hostile names, and trees whose names are swapped while they are read.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use runtime::beneath::{Folders, Top};

use super::*;

use crate::hostile::around::{Canary, Swapper, races};
use crate::hostile::names::{Hostile, is_below, names_on_disk};

fn has_secret(bench: &Bench) -> bool {
    let secret = Digest::of(Canary::secret());
    bench.workspace.store().size(&secret).unwrap().is_some()
}

/// Puts all on the disk that a disk can have: says how many files and symlinks.
fn grow(tree: &Path, hostile: &mut Hostile) -> (usize, usize) {
    let top = Top::open(tree).unwrap();
    let (mut files, mut links) = (0, 0);
    for _ in 0..names_on_disk() {
        let path = hostile.path();
        let Ok(place) = top.place(&path, Folders::Made) else {
            continue;
        };
        if hostile.below(6) == 0 {
            let target = hostile.target();
            let at = place.anchor().join(OsStr::from_bytes(place.name()));
            links += usize::from(symlink(OsStr::from_bytes(&target), at).is_ok());
        } else if let Ok(mut file) = place.create_new() {
            write!(file, "content {}", hostile.below(16)).unwrap();
            files += 1;
        }
    }
    (files, links)
}

#[test]
fn invariant_no_name_of_a_tree_leads_the_scan_out_of_it() {
    let canary = Canary::new();
    let bench = Bench::within(tempfile::tempdir().unwrap(), canary.inside());
    let mut hostile = Hostile(31);
    let (files, links) = grow(&bench.path(""), &mut hostile);
    assert!(files > 1000 && links > 100, "{files} {links}");
    let (scanned, faults, _) = bench.scan();
    let root = scanned.summary.root;
    let mut entries = 0;
    for found in manifest::iter(&bench.workspace, &root, b"", None) {
        let (_, path, entry) = found.unwrap();
        entries += 1;
        assert!(is_below(path.as_bytes()), "{path:?}");
        if let Entry::Symlink { target } = entry {
            let climbs = target.split(|byte| *byte == b'/');
            let climbs = climbs
                .skip_while(|part| part == b"..")
                .any(|part| part == b"..");
            assert!(!climbs && !target.starts_with(b"/"), "{path:?} {target:?}");
        }
    }
    assert!(entries > 600, "{entries}");
    let by = |rule: Rule| {
        faults
            .list()
            .iter()
            .filter(|fault| fault.what == rule)
            .count()
    };
    assert!(by(Rule::Path) > 0 && by(Rule::Symlink) > 0);
    assert!(!has_secret(&bench));
    canary.check();
}

#[test]
fn races_bring_nothing_from_outside_into_a_build() {
    let canary = Canary::new();
    let bench = Bench::within(tempfile::tempdir().unwrap(), canary.inside());
    // The names that the folders outside have, too.
    for path in [
        "pool/a",
        "pool/secret",
        "deep/er/a",
        "deep/er/secret",
        "file",
    ] {
        bench.write(path, "inside");
    }
    let out = |name: &str| canary.around().join(name);
    let swapped = [
        (bench.path("pool"), out("pool")),
        (bench.path("deep/er"), out("dists")),
        (bench.path("file"), out("secret")),
    ];
    let swapper = Swapper::start(&canary.aside(), &swapped);
    let (mut whole, mut refused) = (0, 0);
    let races = races(1000);
    for _ in 0..races {
        let (_, faults, _) = bench.scan();
        if faults.is_empty() {
            whole += 1
        } else {
            refused += 1
        }
    }
    let swaps = swapper.end();
    assert!(
        swaps > u64::from(races) && refused > races / 100,
        "{swaps} {whole} {refused}"
    );
    assert!(!has_secret(&bench));
    canary.check();
}
