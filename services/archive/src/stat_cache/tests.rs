#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn stamp(n: u64) -> Stamp {
    Stamp {
        size_bytes: n,
        mtime_ns: -5,
        ctime_ns: i64::MAX,
        inode: n,
        device: 7,
    }
}

fn record(key: &[u8], n: u64) -> Record {
    let digest = Digest::of(key);
    Record {
        key: key.to_vec(),
        stamp: stamp(n),
        digest,
        read: n.is_multiple_of(2),
        racy: n.is_multiple_of(3),
        immutable: n.is_multiple_of(5),
    }
}

fn written(dir: &Path, records: &[Record]) -> std::path::PathBuf {
    let mut writer = Writer::create(dir, b"/tree").unwrap();
    records.iter().for_each(|r| writer.push(r).unwrap());
    let written = writer.finish().unwrap();
    let back: Vec<_> = written.records().unwrap().map(Result::unwrap).collect();
    assert_eq!(back, records);
    let path = dir.join("c.cache");
    written.put(&path).unwrap();
    path
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn merge_join_finds_what_a_map_finds(
        held in proptest::collection::btree_map("[ab/]{1,6}", 0u64..9, 0..60),
        asked in proptest::collection::btree_map("[ab/]{1,6}", 0u64..9, 0..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let records: Vec<_> = held.iter().map(|(k, n)| record(k.as_bytes(), *n)).collect();
        let path = written(dir.path(), &records);
        let held: BTreeMap<_, _> = held.into_iter().collect();
        let mut reader = Reader::open(&path, b"/tree").unwrap();
        for (key, n) in asked {
            let expected = held.get(&key) == Some(&n) && n % 3 != 0;
            let found = reader.find(key.as_bytes(), &stamp(n));
            prop_assert_eq!(found, expected.then(|| Digest::of(key.as_bytes())));
        }
    }
}

#[test]
fn many_blocks_and_a_broken_one() {
    let dir = tempfile::tempdir().unwrap();
    let keys: BTreeSet<String> = (0..5000).map(|n| format!("pool/{n}/x.deb")).collect();
    let records: Vec<_> = keys.iter().map(|k| record(k.as_bytes(), 1)).collect();
    let path = written(dir.path(), &records);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let mut reader = Reader::open(&path, b"/tree").unwrap();
    let found: Vec<bool> = keys
        .iter()
        .map(|k| reader.find(k.as_bytes(), &stamp(1)).is_some())
        .collect();
    assert!(found[0]);
    assert!(
        !found[found.len() - 1],
        "nothing after the broken block counts"
    );
    assert!(found.is_sorted_by(|a, b| a >= b));
}

#[test]
fn another_tree_or_no_cache_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), &[record(b"a", 1)]);
    assert_eq!(
        Reader::open(&path, b"/other")
            .unwrap()
            .find(b"a", &stamp(1)),
        None
    );
    assert_eq!(
        Reader::open(&dir.path().join("no"), b"/tree")
            .unwrap()
            .find(b"a", &stamp(1)),
        None
    );
    std::fs::write(&path, "rubbish").unwrap();
    assert_eq!(
        Reader::open(&path, b"/tree").unwrap().find(b"a", &stamp(1)),
        None
    );
    assert!(
        Reader::open(&path, b"/tree")
            .unwrap()
            .find(b"a", &stamp(1))
            .is_none()
    );
}
