//! Pages stay within their limits, and levels shrink, whatever the names.

use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::{PAGE_MAX_BYTES, PAGE_MAX_ITEMS, PAGE_MIN_ITEMS, TARGET_MAX_BYTES};
use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{Entry, PageRead};
use mirrorlog_core::path::EntryPath;
use proptest::prelude::*;

use super::trees::{Draws, Names, Plan, Tree, build, draw, file, is_natural, path, plans, tree};

/// One page: its items and encoded bytes.
struct Shape {
    items: usize,
    bytes: usize,
}

/// How many entries each leaf is to have: the border rule, written down a second time.
fn expected_leaves(tree: &Tree) -> Vec<usize> {
    let items: Vec<(&[u8], usize)> = tree
        .iter()
        .map(|(path, entry)| {
            let value_bytes = match entry {
                Entry::File(_) => 8 + 32 + 8,
                Entry::Symlink { target } => 2 + target.len(),
            };
            (path.as_bytes(), 2 + path.as_bytes().len() + 1 + value_bytes)
        })
        .collect();
    let mut leaves = Vec::new();
    let mut rest = &items[..];
    while !rest.is_empty() {
        let fits = |count: &usize| {
            *count <= PAGE_MAX_ITEMS
                && 6 + rest[..*count].iter().map(|item| item.1).sum::<usize>() <= PAGE_MAX_BYTES
        };
        let window = (1..=rest.len()).take_while(fits).last().unwrap();
        let natural = (PAGE_MIN_ITEMS..=window).find(|count| is_natural(0, rest[count - 1].0));
        let first = PAGE_MIN_ITEMS.min(window.div_ceil(2));
        let forced = (first..=window)
            .min_by_key(|count| draw(0, rest[count - 1].0))
            .unwrap();
        let whole = (window == rest.len()).then_some(window);
        let count = natural.or(whole).unwrap_or(forced);
        leaves.push(count);
        rest = &rest[count..];
    }
    leaves
}

/// The pages of each level, leaves last.
fn shapes(pages: &MemoryPages, root: &Digest) -> Vec<Vec<Shape>> {
    let mut levels = Vec::new();
    let mut digests = vec![*root];
    while !digests.is_empty() {
        let mut below = Vec::new();
        let mut level = Vec::new();
        for digest in &digests {
            let page = pages.page(digest).unwrap();
            let children: Vec<Digest> = page.children().collect();
            let items = if page.level() == 0 {
                page.entries() as usize
            } else {
                children.len()
            };
            level.push(Shape {
                items,
                bytes: page.encode().len(),
            });
            below.extend(children);
        }
        levels.push(level);
        digests = below;
    }
    levels
}

fn check(tree: &Tree, widest_item_bytes: usize) -> Result<(), TestCaseError> {
    let pages = MemoryPages::new();
    let levels = shapes(&pages, &build(&pages, tree).root);
    // Half a window of the widest items, if fewer than the minimum.
    let fewest = PAGE_MIN_ITEMS.min(PAGE_MAX_BYTES / widest_item_bytes / 2);
    for level in &levels {
        for (at, page) in level.iter().enumerate() {
            prop_assert!(page.items <= PAGE_MAX_ITEMS && page.bytes <= PAGE_MAX_BYTES);
            let is_last = at + 1 == level.len();
            prop_assert!(is_last || page.items >= fewest, "{} items", page.items);
        }
    }
    for pair in levels.windows(2) {
        prop_assert!(pair[0].len() <= pair[1].len() / fewest + 1);
    }
    prop_assert_eq!(levels[0].len(), 1);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn leaves_end_where_the_border_rule_says(plan in plans()) {
        let tree = tree(plan);
        let pages = MemoryPages::new();
        let levels = shapes(&pages, &build(&pages, &tree).root);
        let leaves: Vec<usize> = levels.last().unwrap().iter().map(|leaf| leaf.items).collect();
        let expected = if tree.is_empty() { vec![0] } else { expected_leaves(&tree) };
        prop_assert_eq!(leaves, expected);
    }

    #[test]
    fn pages_stay_bounded_whatever_the_keys(plan in plans()) {
        check(&tree(plan), if plan.names == Names::Long { 8200 } else { 150 })?;
    }
}

#[test]
fn pages_of_the_longest_symlinks_are_bounded() {
    let folder = ["x".repeat(255).as_str(); 15].join("/");
    let link = Entry::Symlink {
        target: vec![b't'; TARGET_MAX_BYTES].into(),
    };
    let longest = |n: u64| path(&format!("{folder}/{n:0255}"));
    let tree: Tree = (0..200).map(|n| (longest(n), link.clone())).collect();
    check(&tree, 8200).unwrap();
}

/// Names whose draws rise along the order of paths: every forced cut falls on the minimum.
#[test]
fn pages_stay_bounded_when_draws_rise() {
    let mut draws = Draws(3);
    let mut names: Vec<EntryPath> = (0..400)
        .map(|_| path(&format!("{:016x}", draws.next())))
        .collect();
    let draw = |name: &EntryPath| draw(0, name.as_bytes());
    names.sort();
    let mut rising: Vec<EntryPath> = Vec::new();
    for name in names {
        if rising.last().is_none_or(|last| draw(last) < draw(&name)) {
            rising.push(name);
        }
    }
    let tree: Tree = rising
        .into_iter()
        .zip(0..)
        .map(|(name, n)| (name, file(n)))
        .collect();
    check(&tree, 150).unwrap();
}

#[test]
fn ground_names_fill_no_page_beyond_its_limit_and_cost_no_more_than_a_local_change() {
    let plan = Plan {
        names: Names::NeverNatural,
        count: 4000,
        seed: 4,
    };
    let tree = tree(plan);
    let pages = MemoryPages::new();
    let before = build(&pages, &tree).root;
    let count = pages.digests().len();
    let mut other = tree.clone();
    other.insert(path("d0/f"), file(1));
    let after = build(&pages, &other).root;
    assert_ne!(before, after);
    // The new pages: pages meet again behind the inserted name.
    let new = pages.digests().len() - count;
    assert!(new <= 8, "{new} of {count} pages are new");
}
