//! Pages, and manifests whose pages have their digests and lie about each other.

use mirrorlog_core::id::{Digest, Ordinal};
use mirrorlog_core::limits::{
    LINK_FOLDERS_MAX, PAGE_MAX_BYTES, PAGE_MAX_ITEMS, PATH_MAX_BYTES, SYMLINK_HOPS_MAX,
};
use mirrorlog_core::manifest::memory::MemoryPages;
use mirrorlog_core::manifest::{self, Entry, Page, PageWrite as _};
use mirrorlog_core::path::{EntryPath, Found, resolve, resolve_target};

use crate::cut;

pub(crate) fn page(data: &[u8]) {
    let Ok(page) = Page::decode(data) else {
        return;
    };
    assert_eq!(page.encode(), data, "one page, one encoding");
    assert!(data.len() <= PAGE_MAX_BYTES && page.children().count() <= PAGE_MAX_ITEMS);
    let pages = MemoryPages::new();
    let root = put(&pages, data.to_vec());
    read_whole(&pages, &root);
}

/// The input is parts, each behind its length in two bytes. The last is an inner page; the others are the pages below
/// it, whose digests are put into it.
pub(crate) fn manifest(data: &[u8]) {
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
        let (part, behind) = behind.split_at(length);
        parts.push(part);
        rest = behind;
    }
    let Some(top) = parts.pop() else {
        return;
    };
    let pages = MemoryPages::new();
    let below = parts.iter().map(|part| put(&pages, part.to_vec()));
    let below: Vec<Digest> = below.collect();
    let root = put(&pages, adopt(top.to_vec(), &below));
    read_whole(&pages, &root);
    let other = below.first().unwrap_or(&root);
    if let Ok(changes) = manifest::diff(&pages, Some(&root), Some(other))
        .take(4096)
        .collect::<Result<Vec<_>, _>>()
    {
        let ordered = changes.is_sorted_by(|a, b| a.path < b.path);
        assert!(ordered, "differences come in order");
    }
    let into = MemoryPages::new();
    if let Ok(unchanged) = manifest::apply(&pages, &into, Some(&root), &[]) {
        assert_eq!(unchanged.root, root);
    }
}

/// Writes digests over those of an inner page's items, in turn.
fn adopt(mut page: Vec<u8>, digests: &[Digest]) -> Vec<u8> {
    let mut at = 6;
    for digest in digests {
        let Some(length) = page.get(at..at + 2) else {
            return page;
        };
        let key = at + 2 + usize::from(u16::from_le_bytes([length[0], length[1]]));
        let Some(place) = page.get_mut(key..key + 32) else {
            return page;
        };
        place.copy_from_slice(digest.as_bytes());
        at = key + 32 + 16;
    }
    page
}

fn put(mut pages: &MemoryPages, bytes: Vec<u8>) -> Digest {
    let digest = Digest::of(&bytes);
    let Ok(()) = pages.put_page(digest, bytes);
    digest
}

/// Reads all there is, in every way. What is read to its end is in order, and each way finds the same.
fn read_whole(pages: &MemoryPages, root: &Digest) {
    let mut entries = Vec::new();
    let mut broken = false;
    for found in manifest::iter(pages, root, b"", None) {
        match found {
            Ok(found) => entries.push(found),
            Err(_) => broken = true,
        }
    }
    assert!(entries.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
    for (ordinal, path, entry) in entries.iter().take(8) {
        let (at, found) = manifest::get(pages, root, path).unwrap().unwrap();
        assert_eq!((at, &found), (*ordinal, entry));
        let found = manifest::at(pages, root, *ordinal).unwrap();
        assert_eq!(found, Some((path.clone(), entry.clone())));
        if let Entry::Symlink { target } = entry {
            resolve_target(path, target).expect("it was checked");
        }
    }
    let listed = manifest::list(pages, root, b"").take(entries.len() + 2);
    let listed: Result<Vec<_>, _> = listed.collect();
    if !broken {
        assert!(listed.unwrap().len() <= entries.len());
        let beyond = Ordinal(u32::try_from(entries.len()).unwrap());
        assert_eq!(manifest::at(pages, root, beyond).unwrap(), None);
    }
}

/// Lines: a path, then symlinks, each as `path NUL target`.
pub(crate) fn path(data: &[u8]) {
    let (asked, links) = cut(data, b'\n');
    let links = links.split(|&byte| byte == b'\n').filter_map(|line| {
        let (path, target) = cut(line, 0);
        Some((EntryPath::new(path).ok()?, target))
    });
    let links: Vec<(EntryPath, &[u8])> = links.collect();
    if let Ok(path) = EntryPath::new(asked) {
        assert_eq!(path.as_bytes(), asked);
        assert!(!path.name().is_empty() && asked.len() <= PATH_MAX_BYTES);
        for part in asked.split(|&byte| byte == b'/') {
            assert!(![&b""[..], b".", b".."].contains(&part));
        }
    }
    for (link, target) in &links {
        if let Ok(inside) = resolve_target(link, target) {
            let parts = inside.split(|&byte| byte == b'/');
            assert!(
                inside.is_empty()
                    || parts
                        .into_iter()
                        .all(|part| ![&b""[..], b".", b".."].contains(&part))
            );
        }
    }
    let mut asked_for = 0;
    let resolved = resolve(asked, |at| {
        asked_for += 1;
        let link = links.iter().find(|(path, _)| path == at);
        Ok::<Found<()>, ()>(match link {
            Some((_, b"")) => Found::File(()),
            Some((_, target)) => Found::Symlink((*target).into()),
            None => Found::Nothing,
        })
    });
    assert!(resolved.is_ok());
    let most = (SYMLINK_HOPS_MAX + 1) * (LINK_FOLDERS_MAX + 1);
    assert!(asked_for <= most, "{asked_for} look-ups");
}
