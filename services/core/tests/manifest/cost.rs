//! Cost follows the change.

use mirrorlog_core::id::Ordinal;
use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{apply, at, diff, get, list};
use mirrorlog_core::statement::{Change, Delta};

use super::trees::{Counted, Draws, Names, Plan, Tree, build, file, path, tree};

const ENTRIES: usize = 20_000;

fn changes(tree: &Tree, count: usize) -> Delta {
    let paths: Vec<_> = tree.keys().collect();
    let mut draws = Draws(7);
    let mut delta: Delta = (0..count)
        .map(|n| {
            let path_here = paths[draws.below(paths.len())].clone();
            let content = draws.next();
            match n % 3 {
                0 => Change {
                    path: path_here,
                    new: Some(file(content)),
                },
                1 => Change {
                    path: path_here,
                    new: None,
                },
                _ => Change {
                    path: path(&format!("pool/d1/d1/g{content}.deb")),
                    new: Some(file(content)),
                },
            }
        })
        .collect();
    delta.sort_by(|a, b| a.path.cmp(&b.path));
    delta
}

#[test]
fn apply_touches_pages_in_proportion_to_the_change() {
    let pages = MemoryPages::new();
    for names in [Names::Usual, Names::NeverNatural] {
        let tree = tree(Plan {
            names,
            count: ENTRIES,
            seed: 5,
        });
        let root = build(&pages, &tree).root;
        let delta = changes(&tree, 10);
        let counted = Counted::new(&pages);
        let applied = apply(&counted, &counted, Some(&root), &delta).unwrap();
        let (reads, writes) = (counted.reads.get(), counted.writes.get());
        // A leaf each and the root; where no border is natural, windows reach over several leaves.
        let (most_reads, most_writes) = match names {
            Names::NeverNatural => (10 * 6, 10 * 2 + 2),
            Names::Usual | Names::Long | Names::AlwaysNatural => (10 * 2 + 2, 10 * 2 + 2),
        };
        assert!(reads <= most_reads, "{names:?}: {reads} pages read");
        assert!(writes <= most_writes, "{names:?}: {writes} pages written");

        let counted = Counted::new(&pages);
        assert_eq!(
            diff(&counted, Some(&root), Some(&applied.root)).count(),
            delta.len()
        );
        let reads = counted.reads.get();
        assert!(
            reads <= 2 * most_reads,
            "{names:?}: {reads} pages read to diff"
        );
    }
}

#[test]
fn a_look_up_reads_one_page_a_level_and_a_listing_a_few_for_each_line() {
    let pages = MemoryPages::new();
    let tree = tree(Plan {
        names: Names::Usual,
        count: ENTRIES,
        seed: 6,
    });
    let root = build(&pages, &tree).root;
    let counted = Counted::new(&pages);
    get(&counted, &root, &path("pool/d1/d1/f1.deb")).unwrap();
    assert!(counted.reads.get() <= 3);
    counted.reads.set(0);
    at(&counted, &root, Ordinal(777)).unwrap().unwrap();
    assert!(counted.reads.get() <= 3);
    counted.reads.set(0);
    let lines = list(&counted, &root, b"pool/d1").count();
    assert!(counted.reads.get() <= 3 + 2 * lines);
}
