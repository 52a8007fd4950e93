//! Hostile names at the gates that everything goes through: paths, targets, pages of manifests, URLs.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/support/hostile/names.rs"]
mod names;

use std::collections::BTreeSet;

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{Builder, Entry, FileEntry, Mode, Page};
use mirrorlog_core::path::{EntryPath, resolve_target};
use mirrorlog_core::time::Mtime;
use mirrorlog_core::url::{Asked, encode_path};

use names::{Hostile, NAMES, is_below};

/// A page with one entry, encoded by hand: lengths are two bytes.
fn page(path: &[u8], target: Option<&[u8]>) -> Vec<u8> {
    let text = |text: &[u8]| [&(text.len() as u16).to_le_bytes(), text].concat();
    let value = match target {
        None => [vec![0], vec![0; 8], vec![7; 32], vec![0; 8]].concat(),
        Some(target) => [vec![2], text(target)].concat(),
    };
    [vec![1, 0, 1, 0, 0, 0], text(path), value].concat()
}

#[test]
fn invariant_no_path_that_is_accepted_leads_out() {
    let mut hostile = Hostile(11);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..NAMES {
        let path = hostile.path();
        let parsed = EntryPath::new(&path);
        assert_eq!(parsed.is_ok(), is_below(&path), "{path:?}");
        assert_eq!(Page::decode(&page(&path, None)).is_ok(), is_below(&path));
        match parsed {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(
        accepted > 20_000 && refused > 20_000,
        "{accepted} {refused}"
    );
}

/// How far a target climbs and what follows, told without what is tested.
fn stays(link: &[u8], target: &[u8]) -> bool {
    let depth = link.iter().filter(|byte| **byte == b'/').count();
    let parts: Vec<&[u8]> = target.split(|byte| *byte == b'/').collect();
    let parts = parts
        .iter()
        .filter(|part| !part.is_empty() && part != &b".");
    let ups = parts.clone().take_while(|part| **part == b"..").count();
    let climbs_again = parts.skip(ups).any(|part| *part == b"..");
    ups <= depth && !climbs_again && target.first() != Some(&b'/')
}

#[test]
fn invariant_no_target_that_is_accepted_leads_out_however_it_is_followed() {
    let mut hostile = Hostile(12);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..NAMES {
        let (path, target) = (hostile.path(), hostile.target());
        let Ok(link) = EntryPath::new(&path) else {
            continue;
        };
        let resolved = resolve_target(&link, &target);
        let decoded = Page::decode(&page(&path, Some(&target)));
        assert_eq!(decoded.is_ok(), resolved.is_ok(), "{path:?} {target:?}");
        match resolved {
            Ok(_) => {
                accepted += 1;
                assert!(stays(&path, &target), "{path:?} -> {target:?}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 5000 && refused > 5000, "{accepted} {refused}");
}

#[test]
fn invariant_no_url_leads_to_what_no_manifest_can_have() {
    let mut hostile = Hostile(13);
    let (mut parsed, mut refused) = (0, 0);
    for _ in 0..NAMES {
        let url = hostile.url(&["/", "/debian/", "/@/c/1/", "", "//"]);
        let Ok(asked) = Asked::parse(&url) else {
            refused += 1;
            continue;
        };
        parsed += 1;
        let path = &asked.path;
        let whole = path.is_empty() || is_below(path) || path[0] == b'@' || path.len() > 4096;
        let long = path
            .split(|byte| *byte == b'/')
            .any(|part| part.len() > 255);
        assert!(whole || long, "{url:?} is {path:?}");
        assert!(!path.split(|byte| *byte == b'/').any(|part| part == b".."));
        assert!(!path.iter().any(|byte| b"\0\n".contains(byte)), "{url:?}");
        // There is one way to read it, and it is read once: what it is encoded to means the same.
        let again = Asked::parse(&format!("/{}", encode_path(path))).unwrap();
        assert_eq!(&again.path, path, "{url:?}");
    }
    assert!(parsed > 5000 && refused > 5000, "{parsed} {refused}");
}

#[test]
fn invariant_no_name_of_a_manifest_is_another_ones_folder() {
    let file = Entry::File(FileEntry {
        size_bytes: 1,
        digest: Digest::of(b"x"),
        mode: Mode::Plain,
        mtime: Mtime::from_seconds(1),
    });
    let mut hostile = Hostile(14);
    let (mut conflicts, mut whole) = (0, 0);
    for _ in 0..NAMES / 8 {
        let paths = (0..8).filter_map(|_| EntryPath::new(&hostile.path()).ok());
        let paths: BTreeSet<EntryPath> = paths.collect();
        let is_folder = |path: &EntryPath| paths.iter().any(|one| one.is_below(path.as_bytes()));
        let conflict = paths.iter().any(is_folder);
        let pages = MemoryPages::new();
        let mut builder = Builder::new(&pages);
        let pushed = paths.iter().try_for_each(|path| builder.push(path, &file));
        assert_eq!(pushed.is_err(), conflict, "{paths:?}");
        if conflict { conflicts += 1 } else { whole += 1 }
    }
    assert!(conflicts > 500 && whole > 500, "{conflicts} {whole}");
}
