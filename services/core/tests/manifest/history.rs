//! The root is a function of the entries.

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{Difference, Entry, PageRead, Summary, apply, diff, get};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::{Change, Delta};
use proptest::prelude::*;

use super::trees::{Draws, Names, Plan, Tree, build, changed, delta, draw, path, plans, tree};

fn differences(pages: &MemoryPages, old: &Tree, new: &Tree) -> Vec<Difference> {
    let (old, new) = (build(pages, old).root, build(pages, new).root);
    diff(pages, Some(&old), Some(&new))
        .map(Result::unwrap)
        .collect()
}

fn as_delta(differences: &[Difference]) -> Delta {
    let change = |d: &Difference| Change {
        path: d.path.clone(),
        new: d.new.as_ref().map(|(_, entry)| entry.clone()),
    };
    differences.iter().map(change).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn invariant_apply_equals_rebuild(
        plan in plans(),
        counts in prop::collection::vec(prop_oneof![1..4_usize, 1..60_usize, 1..400_usize], 1..3),
        seed: u64,
    ) {
        let pages = MemoryPages::new();
        let mut draws = Draws(seed);
        let mut tree = tree(plan);
        let mut summary = build(&pages, &tree);
        for count in counts {
            let delta = delta(&tree, plan.names, count, &mut draws);
            tree = changed(&tree, &delta);
            summary = apply(&pages, &pages, Some(&summary.root), &delta).unwrap();
            prop_assert_eq!(summary, build(&MemoryPages::new(), &tree));
        }
    }

    #[test]
    fn invariant_equal_content_gives_equal_root_whatever_the_history(
        plan in plans(),
        parts in 1..5_usize,
        seed: u64,
    ) {
        let pages = MemoryPages::new();
        let tree = tree(plan);
        let mut draws = Draws(seed);
        let mut deltas = vec![Delta::new(); parts];
        for (path, entry) in &tree {
            let change = Change { path: path.clone(), new: Some(entry.clone()) };
            deltas[draws.below(parts)].push(change);
        }
        // What is added on the way goes again at the end.
        let detour = delta(&tree, plan.names, 20, &mut draws);
        let back = as_delta(&differences(&pages, &changed(&tree, &detour), &tree));
        deltas.extend([detour, back]);
        let mut summary = None;
        for delta in &deltas {
            let base = summary.map(|done: Summary| done.root);
            summary = Some(apply(&pages, &pages, base.as_ref(), delta).unwrap());
        }
        prop_assert_eq!(summary.unwrap(), build(&pages, &tree));
    }

    #[test]
    fn invariant_diff_then_apply_reproduces(
        plan in plans(),
        count in prop_oneof![0..8_usize, 0..400_usize],
        seed: u64,
    ) {
        let pages = MemoryPages::new();
        let old = tree(plan);
        let new = changed(&old, &delta(&old, plan.names, count, &mut Draws(seed)));
        let found = differences(&pages, &old, &new);

        let paths = old.keys().chain(new.keys()).collect::<std::collections::BTreeSet<_>>();
        let expected: Vec<_> = paths
            .into_iter()
            .filter(|path| old.get(*path) != new.get(*path))
            .map(|path| (path.clone(), old.get(path).cloned(), new.get(path).cloned()))
            .collect();
        let told = |d: &Difference| {
            (d.path.clone(), d.old.clone(), d.new.as_ref().map(|(_, entry)| entry.clone()))
        };
        prop_assert_eq!(found.iter().map(told).collect::<Vec<_>>(), expected);

        let (from, to) = (build(&pages, &old), build(&pages, &new));
        let applied = apply(&pages, &pages, Some(&from.root), &as_delta(&found)).unwrap();
        prop_assert_eq!(applied, to);
        for d in &found {
            let looked_up = get(&pages, &to.root, &d.path).unwrap();
            prop_assert_eq!(looked_up, d.new.clone());
        }
    }
}

#[test]
fn a_manifest_grows_from_nothing_and_shrinks_to_nothing() {
    let pages = MemoryPages::new();
    let empty = build(&pages, &Tree::new());
    assert_eq!(apply(&pages, &pages, None, &[]).unwrap(), empty);
    assert_eq!(
        apply(&pages, &pages, Some(&empty.root), &[]).unwrap(),
        empty
    );

    let plan = Plan {
        names: Names::Usual,
        count: 3000,
        seed: 1,
    };
    let full = tree(plan);
    let set = |(path, entry): (&_, &Entry)| Change {
        path: Clone::clone(path),
        new: Some(entry.clone()),
    };
    let all: Delta = full.iter().map(set).collect();
    let built = build(&pages, &full);
    assert_eq!(
        apply(&pages, &pages, Some(&empty.root), &all).unwrap(),
        built
    );

    // All but one: the tree loses its upper levels.
    let gone = |keep: usize| -> Delta {
        let paths = full.keys().enumerate().filter(|(at, _)| *at != keep);
        paths
            .map(|(_, path)| Change {
                path: path.clone(),
                new: None,
            })
            .collect()
    };
    for keep in [0, 1500, 2999] {
        let one: Tree = full
            .iter()
            .skip(keep)
            .take(1)
            .map(|(p, e)| (p.clone(), e.clone()))
            .collect();
        let left = apply(&pages, &pages, Some(&built.root), &gone(keep)).unwrap();
        assert_eq!(left, build(&pages, &one));
    }
    assert_eq!(
        apply(&pages, &pages, Some(&built.root), &gone(usize::MAX)).unwrap(),
        empty
    );
    let absent = [Change {
        path: path("zz/absent"),
        new: None,
    }];
    assert_eq!(
        apply(&pages, &pages, Some(&built.root), &absent).unwrap(),
        built
    );
}

#[test]
fn diff_from_and_to_nothing_names_every_entry() {
    let pages = MemoryPages::new();
    let plan = Plan {
        names: Names::Usual,
        count: 700,
        seed: 2,
    };
    let full = tree(plan);
    let root = build(&pages, &full).root;
    let came: Vec<_> = diff(&pages, None, Some(&root))
        .map(Result::unwrap)
        .collect();
    assert_eq!(as_delta(&came).len(), 700);
    assert!(
        came.iter()
            .enumerate()
            .all(|(at, d)| d.new.as_ref().unwrap().0.0 as usize == at)
    );
    let went: Vec<_> = diff(&pages, Some(&root), None)
        .map(Result::unwrap)
        .collect();
    assert!(
        went.iter()
            .all(|d| d.new.is_none() && full.get(&d.path) == d.old.as_ref())
    );
    assert_eq!(went.len(), 700);
    assert_eq!(diff(&pages, None, None).count(), 0);
    assert_eq!(diff(&pages, Some(&root), Some(&root)).count(), 0);
}

#[test]
fn a_manifest_may_shrink_to_one_page_that_it_had() {
    let pages = MemoryPages::new();
    let full = tree(Plan {
        names: Names::Usual,
        count: 3000,
        seed: 3,
    });
    let root = build(&pages, &full).root;
    let leaves: Vec<Digest> = pages.page(&root).unwrap().children().collect();
    let sizes = leaves
        .iter()
        .map(|leaf| pages.page(leaf).unwrap().entries() as usize);
    let mut start = 0;
    for (leaf, size) in leaves.iter().zip(sizes) {
        let stays = start..start + size;
        start = stays.end;
        let paths = full
            .keys()
            .enumerate()
            .filter(|(at, _)| !stays.contains(at));
        let delta: Delta = paths
            .map(|(_, path)| Change {
                path: path.clone(),
                new: None,
            })
            .collect();
        assert_eq!(
            apply(&pages, &pages, Some(&root), &delta).unwrap().root,
            *leaf
        );
    }
}

/// One change at every few places of trees that are cut in every way.
#[test]
fn one_change_anywhere_equals_rebuild() {
    let plans = [
        (Names::NeverNatural, 1100, 29),
        (Names::Long, 90, 3),
        (Names::Usual, 400, 17),
    ];
    for (names, count, stride) in plans {
        let pages = MemoryPages::new();
        let tree = tree(Plan {
            names,
            count,
            seed: 11,
        });
        let root = build(&pages, &tree).root;
        let mut draws = Draws(12);
        for (path, entry) in tree.iter().step_by(stride) {
            // The lowest draw of a few names right behind the path.
            let beside = |n: u64| {
                EntryPath::new(&[path.as_bytes(), format!(".{n}").as_bytes()].concat()).ok()
            };
            let names = (0..40).filter_map(|_| beside(draws.next()));
            let lowest = names.min_by_key(|name| draw(0, name.as_bytes()));
            let link = Entry::Symlink {
                target: vec![b't'; 4000].into(),
            };
            for (path, new) in [
                (lowest, Some(entry.clone())),
                (Some(path.clone()), None),
                (Some(path.clone()), Some(link)),
            ] {
                let Some(path) = path else { continue };
                let delta = [Change { path, new }];
                let applied = apply(&pages, &pages, Some(&root), &delta).unwrap();
                assert_eq!(
                    applied,
                    build(&pages, &changed(&tree, &delta)),
                    "{:?}",
                    delta[0].path
                );
            }
        }
    }
}
