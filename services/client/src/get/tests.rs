//! Where files are put: hostile names, and folders that are swapped meanwhile.
#![allow(clippy::unwrap_used)]

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest::{FileEntry, Mode};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Mtime;

use super::*;
use crate::part::Part;

use crate::hostile::around::{Canary, RACES, Swapper};
use crate::hostile::names::{Hostile, names_on_disk};

const CONTENT: &[u8] = b"fetched";

fn wanted() -> WantedFile {
    WantedFile {
        path: EntryPath::new(b"any").unwrap(),
        entry: FileEntry {
            size_bytes: CONTENT.len() as u64,
            digest: Digest::of(CONTENT),
            mode: Mode::Plain,
            mtime: Mtime::from_seconds(1),
        },
    }
}

/// What [`fetch_task`] and [`put`] do of a file that came.
fn bring(into: &Top, name: &Path, wanted: &WantedFile) -> Result<(), GetError> {
    let file = place(into, name, Folders::Made)?;
    let came = if is_here(&file, wanted) {
        Came::Here
    } else {
        let part = part_name(file.name(), wanted);
        let beside = file.beside(part.as_bytes());
        let beside = beside.map_err(|error| write(file.path(), error))?;
        let opened = Part::open(&beside, wanted.entry.size_bytes);
        opened
            .and_then(|mut part| part.restart().and_then(|()| part.write(CONTENT)))
            .map_err(|fault| GetError::Write {
                path: fault.path,
                source: fault.source,
            })?;
        Came::Part(part)
    };
    put(into, name, &came, wanted)
}

#[test]
fn invariant_no_name_leads_out_of_the_folder_of_a_get() {
    let canary = Canary::new();
    let into = Top::make(&canary.inside().join("made/here")).unwrap();
    for (name, out) in [("poo", "pool"), ("pool.", "secret"), ("b", "dists")] {
        std::os::unix::fs::symlink(canary.around().join(out), into.path().join(name)).unwrap();
    }
    let (mut hostile, wanted) = (Hostile(41), wanted());
    let (mut put, mut refused) = (0, 0);
    let names = names_on_disk();
    for step in 0..names {
        let path = hostile.path();
        match bring(&into, Path::new(OsStr::from_bytes(&path)), &wanted) {
            Ok(()) => put += 1,
            Err(_) => refused += 1,
        }
        if step % (names / 8) == 0 {
            canary.check();
        }
    }
    assert!(put > names / 10 && refused > names / 10, "{put} {refused}");
    canary.check();
}

#[test]
fn a_symlink_in_the_folder_is_named_to_the_user() {
    let canary = Canary::new();
    let into = Top::make(&canary.inside()).unwrap();
    std::os::unix::fs::symlink(canary.around(), into.path().join("noble")).unwrap();
    let refused = bring(&into, Path::new("noble/x"), &wanted()).unwrap_err();
    let text = runtime::chain(&refused);
    assert!(
        text.contains("in/noble/x") && text.contains("symlink"),
        "{text}"
    );
    canary.check();
}

#[test]
fn races_put_nothing_outside_of_the_folder_of_a_get() {
    let canary = Canary::new();
    let into = Top::make(&canary.inside()).unwrap();
    let wanted = wanted();
    let part = |name: &str| part_name(name.as_bytes(), &wanted);
    for folder in ["pool", "deep/er"] {
        std::fs::create_dir_all(into.path().join(folder)).unwrap();
    }
    let out = |name: &str| canary.around().join(name);
    let swapper = Swapper::start(
        &canary.aside(),
        &[
            (into.path().join("pool"), out("pool")),
            (into.path().join("deep/er"), out("dists")),
            (into.path().join("file"), out("secret")),
            (into.path().join(part("file")), out("secret")),
        ],
    );
    let (mut put, mut refused) = (0, 0);
    for step in 0..RACES as usize {
        let name = Path::new(["pool/new", "deep/er/new", "file"][step % 3]);
        match bring(&into, name, &wanted) {
            Ok(()) => put += 1,
            Err(_) => refused += 1,
        }
        // Not there, so that it is brought again.
        if let Ok(place) = place(&into, name, Folders::There) {
            place.remove().ok();
        }
    }
    let swaps = swapper.end();
    assert!(swaps > u64::from(RACES) / 10, "{swaps}");
    assert!(put > 100 && refused > 100, "{put} {refused}");
    canary.check();
}
