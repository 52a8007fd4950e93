use std::ffi::OsStr;

use super::*;
use crate::disk::fault::{Error, Failing};
use crate::disk::tree::ROOT;

fn file(volume: &mut Volume, folder: Ino, name: &str, content: &str) -> Ino {
    let made = volume.make(folder, OsStr::new(name), Body::File(Arc::default()), 0o644);
    let ino = made.ok().unwrap();
    volume.write(ino, 0, content.as_bytes()).ok().unwrap();
    ino
}

fn folder(volume: &mut Volume, name: &str) -> Ino {
    let body = Body::Folder(std::collections::BTreeMap::new());
    volume
        .make(ROOT, OsStr::new(name), body, 0o755)
        .ok()
        .unwrap()
}

fn empty() -> Volume {
    Volume::new(Tree::empty(), Plan::default())
}

fn read(tree: &Tree, folder: Ino, name: &str) -> Option<String> {
    let bytes = tree.bytes(tree.find(folder, OsStr::new(name))?)?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

#[test]
fn what_was_not_synced_is_forgotten() {
    let mut volume = empty();
    let [named, lost] = ["named", "lost"].map(|name| file(&mut volume, ROOT, name, name));
    volume.sync(ROOT).ok().unwrap();
    volume.sync(named).ok().unwrap();
    volume.write(named, 0, b"N").ok().unwrap();
    file(&mut volume, ROOT, "new", "new");
    let tree = volume.lost(Loss::Strict, 0);
    assert_eq!(read(&tree, ROOT, "named").unwrap(), "named");
    // Its name is safe, its bytes are not.
    assert_eq!(read(&tree, ROOT, "lost").unwrap(), "");
    assert_eq!(read(&tree, ROOT, "new"), None);
    assert!(tree.get(lost).is_some_and(|inode| inode.links == 1));
}

#[test]
fn a_rename_is_never_half_done() {
    for (synced, expected) in [(true, [None, Some("x")]), (false, [Some("x"), None])] {
        let mut volume = empty();
        let [a, b] = ["a", "b"].map(|name| folder(&mut volume, name));
        let x = file(&mut volume, a, "x", "x");
        volume.sync_all().ok().unwrap();
        let names = [(a, OsStr::new("x")), (b, OsStr::new("x"))];
        volume
            .rename(names[0], names[1], Renaming::Replace)
            .ok()
            .unwrap();
        // Afterwards in the other folder: it is not needed by the rename.
        file(&mut volume, a, "later", "");
        if synced {
            volume.sync(b).ok().unwrap();
        }
        let tree = volume.lost(Loss::Strict, 0);
        assert_eq!(
            [a, b].map(|folder| read(&tree, folder, "x")),
            expected.map(|x| x.map(str::to_owned))
        );
        assert_eq!(tree.get(x).unwrap().links, 1);
        assert_eq!(read(&tree, a, "later"), None);
    }
}

#[test]
fn names_without_data_are_short_or_zeros() {
    let mut found = BTreeSet::new();
    for seed in 0..20 {
        let mut volume = empty();
        file(&mut volume, ROOT, "new", "abc");
        volume
            .rename(
                (ROOT, OsStr::new("new")),
                (ROOT, OsStr::new("x")),
                Renaming::NoReplace,
            )
            .ok()
            .unwrap();
        found.extend(read(&volume.lost(Loss::Reordered, seed), ROOT, "x"));
    }
    assert_eq!(found, BTreeSet::from([String::new(), "\0\0\0".to_owned()]));
}

/// Of two writes to one file the second is never there without the first, and the same seed gives the same.
#[test]
fn chance_keeps_the_order_of_each_file() {
    let mut found = BTreeSet::new();
    for seed in 0..200 {
        let image = || {
            let mut volume = empty();
            let ino = file(&mut volume, ROOT, "x", "1");
            volume.sync(ROOT).ok().unwrap();
            volume.write(ino, 1, b"2").ok().unwrap();
            volume.write(ino, 2, b"3").ok().unwrap();
            read(&volume.lost(Loss::Random, seed), ROOT, "x").unwrap()
        };
        assert_eq!(image(), image());
        found.insert(image());
    }
    let expected = ["", "1", "12", "123"].map(str::to_owned);
    assert_eq!(found, BTreeSet::from(expected));
}

#[test]
fn faults_hit_the_calls_that_they_name() {
    let failing = |error| Plan {
        power_loss: None,
        failing: Some(Failing { error, calls: 3..4 }),
    };
    let mut volume = Volume::new(Tree::empty(), failing(Error::Short));
    let x = file(&mut volume, ROOT, "x", "1");
    assert_eq!(volume.write(x, 0, b"12345").ok(), Some(3));
    let mut volume = Volume::new(Tree::empty(), failing(Error::Io));
    let x = file(&mut volume, ROOT, "x", "1");
    // What a failed sync has dropped never comes to the disk.
    assert!(volume.sync(x).is_err() && volume.sync(x).is_ok());
    volume.sync_all().ok().unwrap();
    assert_eq!(read(&volume.lost(Loss::Strict, 0), ROOT, "x").unwrap(), "");
    let plan = Plan {
        power_loss: Some(3),
        failing: None,
    };
    let mut volume = Volume::new(Tree::empty(), plan);
    let x = file(&mut volume, ROOT, "x", "1");
    assert!(volume.sync(x).is_err() && volume.is_dead() && volume.tree().is_err());
    assert_eq!(read(&volume.lost(Loss::Strict, 0), ROOT, "x"), None);
}
