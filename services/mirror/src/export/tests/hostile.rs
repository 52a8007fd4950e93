//! Export trees of hostile names, and while somebody swaps their folders.

use mirrorlog_core::manifest::{Entry, FileEntry, Mode};
use mirrorlog_core::path::{EntryPath, resolve_target};
use mirrorlog_core::time::Mtime;

use super::super::editor::Editor;
use super::super::*;

use crate::hostile::around::{Canary, RACES, Swapper};
use crate::hostile::names::{Hostile, names_on_disk};

/// A tree in the folder, and files for it.
fn bed(canary: &Canary) -> (Inodes, Vec<Entry>, PathBuf) {
    let store = Store::open(&canary.inside().join("store")).unwrap();
    let batch = store.batch();
    let entries = (0..4).map(|number| {
        let content = format!("content {number}");
        let digest = Digest::of(content.as_bytes());
        batch.put(&digest, content.as_bytes()).unwrap();
        Entry::File(FileEntry {
            size_bytes: content.len() as u64,
            digest,
            mode: Mode::Plain,
            mtime: Mtime::from_seconds(1_000_000),
        })
    });
    let entries = entries.collect();
    batch.commit().unwrap();
    let inodes = Inodes::new(store, canary.inside().join("copies")).unwrap();
    (inodes, entries, canary.inside().join("tree"))
}

#[test]
fn invariant_no_name_leads_out_of_an_export_tree() {
    let canary = Canary::new();
    let (inodes, files, tree) = bed(&canary);
    let mut editor = Editor::open(&tree, &inodes).unwrap();
    let mut hostile = Hostile(21);
    let (mut put, mut refused) = (0, 0);
    let names = names_on_disk();
    for step in 0..names {
        let path = hostile.path();
        let done = match hostile.below(8) {
            // Names come from manifests, which have no such; the editor does not count on it.
            0 => editor.remove(&path),
            1 => editor.put_text(&path, "text"),
            2 | 3 => {
                let target = hostile.target();
                let inside =
                    EntryPath::new(&path).is_ok_and(|link| resolve_target(&link, &target).is_ok());
                let target = target.into();
                match inside {
                    true => editor.put(&path, &Entry::Symlink { target }),
                    false => continue,
                }
            }
            _often => editor.put(&path, &files[hostile.below(files.len())]),
        };
        match done {
            Ok(()) => put += 1,
            Err(_) => refused += 1,
        }
        if step % (names / 8) == 0 {
            canary.check();
        }
    }
    assert!(put > names / 5 && refused > names / 10, "{put} {refused}");
    canary.check();
    assert!(follow_all(&tree) > 20);
}

/// Where readers come who follow every symlink, as web servers do; says how many lead somewhere.
fn follow_all(tree: &Path) -> usize {
    let top = tree.canonicalize().unwrap();
    let (mut followed, mut folders) = (0, vec![top.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_symlink()
                && let Ok(there) = path.canonicalize()
            {
                followed += 1;
                assert!(there.starts_with(&top), "{path:?} leads to {there:?}");
            }
        }
    }
    followed
}

/// Each of two links stays inside by itself; followed one through the other they would not.
#[test]
fn links_through_links_stay_inside() {
    let canary = Canary::new();
    let (inodes, files, tree) = bed(&canary);
    let mut editor = Editor::open(&tree, &inodes).unwrap();
    editor.put(b"z/file", &files[0]).unwrap();
    for (path, target) in [
        (&b"a/b/c/up"[..], &b"../../../z"[..]),
        (b"a/b/c/out", b"up/../../../secret"),
    ] {
        let link = EntryPath::new(path).unwrap();
        if resolve_target(&link, target).is_ok() {
            let target = target.into();
            editor.put(path, &Entry::Symlink { target }).unwrap();
        }
    }
    assert_eq!(follow_all(&tree), 1);
    let stolen = std::fs::read(tree.join("a/b/c/out")).unwrap_or_default();
    assert!(!Canary::is_secret(&stolen));
}

#[test]
fn races_lead_nothing_out_of_an_export_tree() {
    let canary = Canary::new();
    let (inodes, files, tree) = bed(&canary);
    for folder in ["pool", "dists/a"] {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    let out = |name: &str| canary.around().join(name);
    let swapper = Swapper::start(
        &canary.aside(),
        &[
            (tree.join("pool"), out("pool")),
            (tree.join("dists"), out("dists")),
            (tree.join("file"), out("secret")),
        ],
    );
    let mut done = 0;
    for step in 0..RACES {
        // Each looks everything up anew, as after a start.
        let Ok(mut editor) = Editor::open(&tree, &inodes) else {
            continue;
        };
        let file = &files[step as usize % files.len()];
        let target = b"a".as_slice().into();
        let one = match step % 9 {
            0 => editor.put(b"pool/new", file),
            1 => editor.put(b"pool/a", &Entry::Symlink { target }),
            2 => editor.put(b"dists/a/new", file),
            3 => editor.put(b"file", file),
            4 => editor.put_text(b"dists/text", "text"),
            5 => editor.remove(b"pool/new"),
            6 => editor.remove(b"pool/secret"),
            7 => editor.remove(b"dists/a/new"),
            // Removes the folder with it, if it is the last.
            _eighth => editor.remove(b"pool/a"),
        };
        done += u32::from(one.is_ok());
    }
    let swaps = swapper.end();
    assert!(
        swaps > u64::from(RACES) / 10 && done > RACES / 4,
        "{swaps} {done}"
    );
    canary.check();
}
