//! Canonical bytes: golden, and strict.

use expect_test::expect;
use mirrorlog_core::id::Digest;
use mirrorlog_core::limits::{FILE_MAX_BYTES, PAGE_MAX_BYTES};
use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{
    Builder, Entry, FileEntry, ManifestError, Mode, Page, PageError, PageRead,
};
use mirrorlog_core::path::{PathError, TargetError};
use mirrorlog_core::time::Mtime;
use proptest::prelude::*;

use super::trees::{Names, Plan, Tree, build, path, plans, tree};

fn file(content: &[u8], mode: Mode, seconds: i64) -> Entry {
    Entry::File(FileEntry {
        size_bytes: content.len() as u64,
        digest: Digest::of(content),
        mode,
        mtime: Mtime::from_seconds(seconds),
    })
}

fn small() -> Tree {
    let link = Entry::Symlink {
        target: b"bookworm".to_vec().into(),
    };
    let entries = [
        (
            "dists/bookworm/Release",
            file(b"release\n", Mode::Plain, 1_763_856_000),
        ),
        ("dists/stable", link),
        ("tools/run", file(b"#!/bin/sh\n", Mode::Executable, -1)),
    ];
    entries
        .into_iter()
        .map(|(text, entry)| (path(text), entry))
        .collect()
}

fn small_bytes() -> Vec<u8> {
    let pages = MemoryPages::new();
    let root = build(&pages, &small()).root;
    pages.bytes(&root).unwrap()
}

/// Hex, 32 bytes a line.
fn dump(bytes: &[u8]) -> String {
    let line = |part: &[u8]| part.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

#[test]
fn golden_leaf_page() {
    expect![[r#"
        010003000000160064697374732f626f6f6b776f726d2f52656c656173650008
        000000000000003933e3274b63dc01fd286d6d939a626867c83a4603fc4347e0
        f8b8856f1b98fd804e2269000000000c0064697374732f737461626c65020800
        626f6f6b776f726d0900746f6f6c732f72756e010a00000000000000a8076d3d
        28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abfffffffff
        ffffffff
    "#]]
    .assert_eq(&dump(&small_bytes()));
    expect!["50f92efa11b2d24bb16b268938ee908a0e7e37643e6468e4568bc42ddda48409"]
        .assert_eq(&Digest::of(&small_bytes()).to_hex());
}

#[test]
fn golden_empty_manifest() {
    let pages = MemoryPages::new();
    let summary = build(&pages, &Tree::new());
    assert_eq!((summary.entries, summary.bytes), (0, 0));
    expect![[r#"
        010000000000
    "#]]
    .assert_eq(&dump(&pages.bytes(&summary.root).unwrap()));
    expect!["36c159d76b52e03e496363607c5940227f62f4e048df344b050159bc97bba3d7"]
        .assert_eq(&summary.root.to_hex());
}

/// Fixes the border rule: another rule gives another root.
#[test]
fn golden_roots() {
    let root = |names, count| {
        let pages = MemoryPages::new();
        let summary = build(
            &pages,
            &tree(Plan {
                names,
                count,
                seed: 42,
            }),
        );
        let level = pages.page(&summary.root).unwrap().level();
        let pages = pages.digests().len();
        format!("{names:?}: {} level {level}, {pages} pages\n", summary.root)
    };
    let roots = [
        root(Names::Usual, 2000),
        root(Names::NeverNatural, 2000),
        root(Names::AlwaysNatural, 200),
        root(Names::Long, 200),
    ];
    expect![[r#"
        Usual: 8a052b3aa12f634fdc2aa29b2825cc5e3b9dd248faaf56e442a1bda9a8a146ba level 1, 12 pages
        NeverNatural: 1779172c25dd0976ca75bf44b928b7ab5332c4561c5e39b99d09c8581a4f0f4a level 1, 7 pages
        AlwaysNatural: 064db2860bd49b98761f52a7d7ff196374406ad9f8a273ad3ba865210dd724f2 level 1, 8 pages
        Long: b28ebb035968bed303ea7bba50d99d62de38254ddfa3aa03987a377078935e32 level 2, 21 pages
    "#]].assert_eq(&roots.concat());
}

#[test]
fn golden_inner_page() {
    let pages = MemoryPages::new();
    let root = build(
        &pages,
        &tree(Plan {
            names: Names::Usual,
            count: 300,
            seed: 42,
        }),
    )
    .root;
    expect![[r#"
        0101030000001d00706f6f6c2f64332f6432392f663432363138373130313238
        302e646562e2cf6e04a2efbfccfd3b842b939413afd904a185baf379d0e5ab4d
        94d6f0bcd8e700000000000000f226af00000000001600706f6f6c2f64362d66
        3130333438373832313133343501ba8537b654cd72fdb1bbcb3cce3babad71b7
        f50b50909e33e563577c7a98f12d0000000000000048d82300000000001d0070
        6f6f6c2f64362f6434352f663530393636333935363234382e646562811c15f9
        c64aa9847619965f36bb691081346e55a4ac7120ad8fb417913678d518000000
        00000000e152110000000000
    "#]]
    .assert_eq(&dump(&pages.bytes(&root).unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_page_decodes_and_encodes_to_itself(plan in plans()) {
        let pages = MemoryPages::new();
        build(&pages, &tree(plan));
        for digest in pages.digests() {
            let bytes = pages.bytes(&digest).unwrap();
            prop_assert_eq!(Page::decode(&bytes).unwrap().encode(), bytes);
        }
    }

    #[test]
    fn what_decodes_encodes_to_itself(at: prop::sample::Index, byte: u8) {
        let mut bytes = small_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(page) = Page::decode(&bytes) {
            prop_assert_eq!(page.encode(), bytes);
        }
    }
}

#[test]
fn every_truncation_and_every_trailing_byte_is_refused() {
    let pages = MemoryPages::new();
    build(
        &pages,
        &tree(Plan {
            names: Names::Usual,
            count: 300,
            seed: 42,
        }),
    );
    for digest in pages.digests() {
        let bytes = pages.bytes(&digest).unwrap();
        for length in 0..bytes.len() {
            assert_eq!(Page::decode(&bytes[..length]), Err(PageError::Truncated));
        }
        let longer = [&bytes[..], b"\0"].concat();
        assert_eq!(Page::decode(&longer), Err(PageError::Trailing(1)));
    }
}

/// A page of items that were encoded by hand.
fn page(level: u8, count: u32, items: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![1, level];
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend(items.concat());
    bytes
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u16).to_le_bytes(), text].concat()
}

fn file_item(name: &[u8], size_bytes: u64) -> Vec<u8> {
    [
        text(name),
        vec![0],
        size_bytes.to_le_bytes().to_vec(),
        vec![7; 32],
        vec![0; 8],
    ]
    .concat()
}

fn link_item(name: &[u8], target: &[u8]) -> Vec<u8> {
    [text(name), vec![2], text(target)].concat()
}

fn child_item(last: &[u8], entries: u64, bytes: u64) -> Vec<u8> {
    let sums = [entries.to_le_bytes(), bytes.to_le_bytes()].concat();
    [text(last), vec![7; 32], sums].concat()
}

#[test]
fn the_decoder_refuses_what_the_encoder_would_not_write() {
    let (a, b) = (file_item(b"a", 1), file_item(b"b", 1));
    let cases: Vec<(Vec<u8>, PageError)> = vec![
        (vec![2, 0, 0, 0, 0, 0], PageError::Version(2)),
        (vec![1, 24, 0, 0, 0, 0], PageError::Level(24)),
        (page(1, 0, &[]), PageError::Items(0)),
        (page(0, 513, &[]), PageError::Items(513)),
        (page(0, u32::MAX, &[]), PageError::Items(u32::MAX)),
        (
            page(0, 1, &[a.clone(), b.clone()]),
            PageError::Trailing(b.len()),
        ),
        (page(0, 3, &[a.clone(), b.clone()]), PageError::Truncated),
        (page(0, 2, &[b, a.clone()]), PageError::Order(path("a"))),
        (page(0, 2, &[a.clone(), a]), PageError::Order(path("a"))),
        (
            page(0, 1, &[file_item(b"", 1)]),
            PageError::Path(PathError::Empty),
        ),
        (
            page(0, 1, &[file_item(b"../a", 1)]),
            PageError::Path(PathError::DotComponent),
        ),
        (
            page(0, 1, &[file_item(b"@/a", 1)]),
            PageError::Path(PathError::Reserved),
        ),
        (
            page(0, 1, &[file_item(b"a", FILE_MAX_BYTES + 1)]),
            PageError::FileSize(path("a")),
        ),
        (
            page(0, 1, &[[text(b"a"), vec![3]].concat()]),
            PageError::Kind(3),
        ),
        (
            page(0, 1, &[link_item(b"a/b", b"../../c")]),
            PageError::Target(path("a/b"), TargetError::Escapes),
        ),
        (
            page(0, 1, &[link_item(b"a", b"")]),
            PageError::Target(path("a"), TargetError::Malformed),
        ),
        (
            page(
                0,
                3,
                &[b"a", b"b", b"c"].map(|name| file_item(name, FILE_MAX_BYTES)),
            ),
            PageError::Bytes,
        ),
        (
            page(1, 1, &[child_item(b"a", 0, 0)]),
            PageError::EmptyChild(path("a")),
        ),
        (
            page(1, 2, &[child_item(b"b", 1, 0), child_item(b"b", 1, 0)]),
            PageError::Order(path("b")),
        ),
        (
            page(1, 1, &[child_item(b"a", 1 << 32, 0)]),
            PageError::Entries,
        ),
        (
            page(
                1,
                2,
                &[child_item(b"a", 1, 0), child_item(b"b", u64::MAX, 0)],
            ),
            PageError::Entries,
        ),
        (
            page(
                9,
                2,
                &[child_item(b"a", 1, 1), child_item(b"b", 1, u64::MAX)],
            ),
            PageError::Bytes,
        ),
        (
            vec![1; PAGE_MAX_BYTES + 1],
            PageError::TooLarge(PAGE_MAX_BYTES + 1),
        ),
    ];
    for (bytes, error) in cases {
        assert_eq!(Page::decode(&bytes), Err(error));
    }
}

#[test]
fn the_builder_refuses_entries_that_no_page_can_hold() {
    let pages = MemoryPages::new();
    let out = Entry::Symlink {
        target: b"../../x".to_vec().into(),
    };
    let refused = Builder::new(&pages).push(&path("a/b"), &out).unwrap_err();
    let escapes = PageError::Target(path("a/b"), TargetError::Escapes);
    assert!(matches!(refused, ManifestError::Page(error) if error == escapes));

    let large = |size_bytes| {
        let digest = Digest::of(b"");
        let mtime = Mtime::from_seconds(0);
        Entry::File(FileEntry {
            size_bytes,
            digest,
            mode: Mode::Plain,
            mtime,
        })
    };
    let refused = Builder::new(&pages)
        .push(&path("a"), &large(1 << 63))
        .unwrap_err();
    assert!(matches!(
        refused,
        ManifestError::Page(PageError::FileSize(_))
    ));
    let mut builder = Builder::new(&pages);
    builder.push(&path("a"), &large(FILE_MAX_BYTES)).unwrap();
    builder.push(&path("b"), &large(FILE_MAX_BYTES)).unwrap();
    let refused = builder
        .push(&path("c"), &large(FILE_MAX_BYTES))
        .unwrap_err();
    assert!(matches!(refused, ManifestError::Page(PageError::Bytes)));
}
