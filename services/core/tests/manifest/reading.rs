//! Readers agree with each other, and believe no page that its parent does not describe.

use std::collections::BTreeSet;
use std::sync::Arc;

use mirrorlog_core::id::{Digest, Ordinal};
use mirrorlog_core::manifest::memory::{MemoryError, MemoryPages};
use mirrorlog_core::manifest::{
    Listed, ManifestError, Page, PageRead, apply, at, diff, get, iter, list,
};
use mirrorlog_core::statement::Change;
use proptest::prelude::*;

use super::trees::{Draws, Names, Plan, Tree, build, file, path, plans, tree};

/// The listing, the slow way.
fn listing(tree: &Tree, folder: &[u8]) -> Vec<Listed> {
    let mut seen = BTreeSet::new();
    let mut lines = Vec::new();
    for (path, entry) in tree {
        let below = match folder {
            b"" => path.as_bytes(),
            _ if path.is_below(folder) => &path.as_bytes()[folder.len() + 1..],
            _ => continue,
        };
        match below.iter().position(|&b| b == b'/') {
            None => lines.push(Listed::Entry(below.into(), entry.clone())),
            Some(slash) if seen.insert(&below[..slash]) => {
                lines.push(Listed::Folder(below[..slash].into()));
            }
            Some(_) => {}
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn ordinals_are_consistent(plan in plans(), seed: u64) {
        let pages = MemoryPages::new();
        let tree = tree(plan);
        let root = build(&pages, &tree).root;
        let all: Vec<_> = iter(&pages, &root, b"", None).map(Result::unwrap).collect();
        prop_assert!(all.iter().map(|(_, path, entry)| (path, entry)).eq(tree.iter()));
        prop_assert!(all.iter().zip(0..).all(|((ordinal, _, _), n)| *ordinal == Ordinal(n)));
        let mut draws = Draws(seed);
        for _ in 0..all.len().min(20) {
            let (ordinal, path, entry) = &all[draws.below(all.len())];
            let found = get(&pages, &root, path).unwrap();
            prop_assert_eq!(found, Some((*ordinal, entry.clone())));
            let found = at(&pages, &root, *ordinal).unwrap();
            prop_assert_eq!(found, Some((path.clone(), entry.clone())));
        }
        prop_assert_eq!(at(&pages, &root, Ordinal(all.len() as u32)).unwrap(), None);
        prop_assert_eq!(at(&pages, &root, Ordinal(u32::MAX)).unwrap(), None);
        prop_assert_eq!(get(&pages, &root, &path("pool/absent")).unwrap(), None);
        prop_assert_eq!(get(&pages, &root, &path("~")).unwrap(), None);
    }

    #[test]
    fn ranges_and_listings_agree_with_the_entries(plan in plans(), seed: u64) {
        let pages = MemoryPages::new();
        let tree = tree(plan);
        let root = build(&pages, &tree).root;
        let mut draws = Draws(seed);
        let paths: Vec<_> = tree.keys().collect();
        for prefix in [&b""[..], b"pool/", b"pool/d1", b"d", b"dists/d2/by-hash/f", b"~", b"!"] {
            let drawn = paths.get(draws.below(paths.len())).copied();
            let before = path("d1/f");
            for after in [None, drawn, Some(&before)] {
                let found = iter(&pages, &root, prefix, after).map(|line| line.unwrap().1);
                let expected = paths.iter().copied().filter(|path| {
                    path.as_bytes().starts_with(prefix) && after.is_none_or(|after| *path > after)
                });
                prop_assert!(found.eq(expected.cloned()));
            }
        }
        for folder in [&b""[..], b"pool", b"pool/d1", b"d1", b"dists/d2", b"absent", b"pool/d1/"] {
            let found: Vec<_> = list(&pages, &root, folder).map(Result::unwrap).collect();
            prop_assert_eq!(found, listing(&tree, folder));
        }
    }
}

#[test]
fn a_listing_tells_a_folder_once_though_names_sort_around_it() {
    let pages = MemoryPages::new();
    let texts = ["a-x", "a/b", "a/c/d", "a0", "b/c", "c"];
    let tree: Tree = texts.iter().map(|text| (path(text), file(1))).collect();
    let root = build(&pages, &tree).root;
    let names: Vec<String> = list(&pages, &root, b"")
        .map(|line| match line.unwrap() {
            Listed::Folder(name) => format!("{}/", String::from_utf8_lossy(&name)),
            Listed::Entry(name, _) => String::from_utf8_lossy(&name).into_owned(),
        })
        .collect();
    assert_eq!(names, ["a-x", "a/", "a0", "b/", "c"]);
}

/// Answers for one digest with another page.
struct Swapped<'a>(&'a MemoryPages, Digest, Digest);

impl PageRead for Swapped<'_> {
    type Error = MemoryError;

    fn page(&self, digest: &Digest) -> Result<Arc<Page>, MemoryError> {
        self.0
            .page(if *digest == self.1 { &self.2 } else { digest })
    }
}

#[test]
fn readers_refuse_a_page_that_is_not_what_its_parent_says() {
    let pages = MemoryPages::new();
    let mut tree = tree(Plan {
        names: Names::Usual,
        count: 3000,
        seed: 8,
    });
    let root = build(&pages, &tree).root;
    let children: Vec<Digest> = pages.page(&root).unwrap().children().collect();
    let (last, _) = tree.iter().next_back().unwrap();
    let last = last.clone();
    *tree.get_mut(&last).unwrap() = file(u64::MAX);
    let other = build(&pages, &tree).root;
    let other: Vec<Digest> = pages.page(&other).unwrap().children().collect();
    let tail = *children.last().unwrap();
    // A neighbour, the page above, and one that differs only in the bytes of a file.
    for wrong in [children[0], root, *other.last().unwrap()] {
        let lying = Swapped(&pages, tail, wrong);
        let is_refused = |error: ManifestError<MemoryError>| {
            assert!(
                matches!(error, ManifestError::Mismatch(digest) if digest == tail),
                "{error}"
            );
        };
        is_refused(get(&lying, &root, &last).unwrap_err());
        is_refused(at(&lying, &root, Ordinal(2999)).unwrap_err());
        let mut lines = iter(&lying, &root, b"", None).skip_while(Result::is_ok);
        is_refused(lines.next().unwrap().unwrap_err());
        assert!(lines.next().is_none());
        let mut lines = diff(&lying, None, Some(&root)).skip_while(Result::is_ok);
        is_refused(lines.next().unwrap().unwrap_err());
        assert!(lines.next().is_none());
        let delta = [Change {
            path: last.clone(),
            new: None,
        }];
        let refused = apply(&lying, &pages, Some(&root), &delta).unwrap_err();
        assert!(matches!(refused, ManifestError::Mismatch(_)));
    }
}

/// Same level, last path, counts and sums; only the first path belongs in front of the page.
#[test]
fn readers_refuse_a_page_that_reaches_back() {
    let pages = MemoryPages::new();
    let tree = tree(Plan {
        names: Names::Usual,
        count: 3000,
        seed: 8,
    });
    let root = build(&pages, &tree).root;
    let tail = pages.page(&root).unwrap().children().last().unwrap();
    let skipped = tree.len() - pages.page(&tail).unwrap().entries() as usize;
    let mut below: Tree = tree
        .iter()
        .skip(skipped)
        .map(|(p, e)| (p.clone(), e.clone()))
        .collect();
    let (_, entry) = below.pop_first().unwrap();
    below.insert(path("!"), entry);
    let wrong = build(&pages, &below).root;
    let (last, _) = tree.iter().next_back().unwrap();
    let refused = get(&Swapped(&pages, tail, wrong), &root, last).unwrap_err();
    assert!(
        matches!(refused, ManifestError::Mismatch(digest) if digest == tail),
        "{refused}"
    );
}

#[test]
fn an_absent_page_is_an_error_and_never_an_absent_path() {
    let pages = MemoryPages::new();
    let tree = tree(Plan {
        names: Names::Usual,
        count: 3000,
        seed: 9,
    });
    let root = build(&pages, &tree).root;
    let tail = pages.page(&root).unwrap().children().last().unwrap();
    assert!(pages.remove(&tail));
    let (last, _) = tree.iter().next_back().unwrap();
    assert!(matches!(
        get(&pages, &root, last),
        Err(ManifestError::Read(MemoryError::Absent(_)))
    ));
    assert!(iter(&pages, &root, b"", None).any(|line| line.is_err()));
    assert!(list(&pages, &root, b"pool/d6").any(|line| line.is_err()));
}
