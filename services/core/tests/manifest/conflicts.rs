//! No path is an entry and a folder.

use std::collections::BTreeMap;

use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{Builder, ManifestError, apply};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::{Change, Delta};
use proptest::prelude::*;

use super::trees::{Tree, build, changed, file, path};

fn push_all(texts: &[&str]) -> Result<(), String> {
    let pages = MemoryPages::new();
    let mut builder = Builder::new(&pages);
    for text in texts {
        match builder.push(&path(text), &file(1)) {
            Ok(()) => {}
            Err(ManifestError::PrefixConflict(at)) => return Err(format!("conflict {at}")),
            Err(ManifestError::Order(at)) => return Err(format!("order {at}")),
            Err(error) => panic!("{error}"),
        }
    }
    builder.finish().unwrap();
    Ok(())
}

#[test]
fn the_builder_refuses_an_entry_that_is_a_folder_too() {
    assert_eq!(push_all(&["a", "a/b"]), Err("conflict a".into()));
    assert_eq!(push_all(&["a", "a-x", "a/b"]), Err("conflict a".into()));
    assert_eq!(
        push_all(&["a", "a-x", "a-x-y", "a.b/c", "a/b"]),
        Err("conflict a".into())
    );
    assert_eq!(
        push_all(&["a/b", "a/b-c/d", "a/b/c"]),
        Err("conflict a/b".into())
    );
    assert_eq!(
        push_all(&["a", "a-x", "a-x/b", "a/b"]),
        Err("conflict a-x".into())
    );
    assert_eq!(push_all(&["a", "aa", "aaa", "b/a"]), Ok(()));
    assert_eq!(push_all(&["a-x", "a/b", "a0"]), Ok(()));
}

#[test]
fn the_builder_refuses_paths_that_do_not_rise() {
    assert_eq!(push_all(&["b", "a"]), Err("order a".into()));
    assert_eq!(push_all(&["b", "b"]), Err("order b".into()));
    assert_eq!(push_all(&["ab", "a"]), Err("order a".into()));
    assert_eq!(push_all(&["a/b", "a"]), Err("order a".into()));
}

fn has_conflict(tree: &Tree) -> bool {
    tree.keys()
        .any(|path| tree.keys().any(|other| other.is_below(path.as_bytes())))
}

/// Few names, so that files and folders often meet.
fn small_path() -> impl Strategy<Value = EntryPath> {
    let name = prop::sample::select(vec!["a", "a-", "aa", "b"]);
    prop::collection::vec(name, 1..4).prop_map(|names| path(&names.join("/")))
}

/// Entries between the others, so that conflicts reach over page borders.
fn padded(tree: &mut Tree, count: u64) {
    for n in 0..count {
        tree.insert(path(&format!("a!{n}")), file(n));
        tree.insert(path(&format!("a/a!{n}/x")), file(n));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn apply_refuses_exactly_what_leaves_a_conflict(
        wanted in prop::collection::btree_map(small_path(), 0..4_u64, 0..8),
        changes in prop::collection::btree_map(small_path(), prop::option::of(0..4_u64), 0..8),
        padding in prop_oneof![3 => Just(0_u64), 1 => Just(300)],
    ) {
        let pages = MemoryPages::new();
        let mut tree = Tree::new();
        padded(&mut tree, padding);
        for (path, content) in wanted {
            let mut with: BTreeMap<_, _> = tree.clone();
            with.insert(path, file(content));
            if !has_conflict_near(&with) {
                tree = with;
            }
        }
        let delta: Delta = changes
            .into_iter()
            .map(|(path, content)| Change { path, new: content.map(file) })
            .collect();
        let root = build(&pages, &tree).root;
        let after = changed(&tree, &delta);
        match apply(&pages, &pages, Some(&root), &delta) {
            Ok(summary) => {
                prop_assert!(!has_conflict_near(&after));
                prop_assert_eq!(summary, build(&pages, &after));
            }
            Err(ManifestError::PrefixConflict(at)) => {
                prop_assert!(after.contains_key(&at));
                prop_assert!(after.keys().any(|path| path.is_below(at.as_bytes())));
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

/// As `has_conflict`, by looking folders up.
fn has_conflict_near(tree: &Tree) -> bool {
    tree.keys().any(|path| {
        let bytes = path.as_bytes();
        let slashes = bytes.iter().enumerate().filter(|(_, b)| **b == b'/');
        slashes
            .into_iter()
            .any(|(at, _)| tree.contains_key(&EntryPath::new(&bytes[..at]).unwrap()))
    })
}

#[test]
fn both_ways_to_find_a_conflict_agree() {
    for (texts, conflict) in [
        (vec!["a", "a-x", "a/b"], true),
        (vec!["a-x", "a/b", "aa"], false),
    ] {
        let tree: Tree = texts.iter().map(|text| (path(text), file(1))).collect();
        assert_eq!(
            (has_conflict(&tree), has_conflict_near(&tree)),
            (conflict, conflict)
        );
    }
}

#[test]
fn apply_refuses_changes_out_of_order() {
    let pages = MemoryPages::new();
    let change = |text: &str| Change {
        path: path(text),
        new: None,
    };
    for delta in [[change("b"), change("a")], [change("a"), change("a")]] {
        let refused = apply(&pages, &pages, None, &delta);
        assert!(matches!(refused, Err(ManifestError::Order(at)) if at == path("a")));
    }
}

#[test]
fn a_folder_may_become_a_file_and_a_file_a_folder() {
    let pages = MemoryPages::new();
    let tree: Tree = ["a/x", "a/y", "b"]
        .iter()
        .map(|text| (path(text), file(1)))
        .collect();
    let root = build(&pages, &tree).root;
    let set = |text: &str, new| Change {
        path: path(text),
        new,
    };
    let delta = [
        set("a", Some(file(2))),
        set("a/x", None),
        set("a/y", None),
        set("b", None),
        set("b/z", Some(file(3))),
    ];
    let after = apply(&pages, &pages, Some(&root), &delta).unwrap();
    assert_eq!(after, build(&pages, &changed(&tree, &delta)));
    // What is left below, or changed there, still needs the folder.
    let partly = delta[..2].to_vec();
    let rewritten = vec![
        partly[0].clone(),
        set("a/x", Some(file(9))),
        set("a/y", None),
    ];
    let rewritten_after = vec![
        partly[0].clone(),
        set("a/x", None),
        set("a/y", Some(file(9))),
    ];
    for delta in [partly, rewritten, rewritten_after] {
        let refused = apply(&pages, &pages, Some(&root), &delta);
        assert!(matches!(refused, Err(ManifestError::PrefixConflict(at)) if at == path("a")));
    }
}
