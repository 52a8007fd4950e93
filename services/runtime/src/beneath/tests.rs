#![allow(clippy::unwrap_used)]
use std::io::Write as _;
use std::os::unix::fs::symlink;

use super::*;

/// A folder `in`, with a symlink that leads out to `out` and one that does not.
fn world() -> (tempfile::TempDir, Top) {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["in/deep/er", "out/folder"] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    std::fs::write(dir.path().join("in/deep/file"), "inside").unwrap();
    std::fs::write(dir.path().join("out/secret"), "outside").unwrap();
    symlink("../out", dir.path().join("in/away")).unwrap();
    symlink("deep", dir.path().join("in/same")).unwrap();
    symlink("../out/secret", dir.path().join("in/secret")).unwrap();
    let top = Top::open(&dir.path().join("in")).unwrap();
    (dir, top)
}

const OUT: [&[u8]; 8] = [
    b"away/secret",
    b"secret",
    b"../out/secret",
    b"/etc/passwd",
    b"deep/../../out/secret",
    b"same/../../out/secret",
    b"a\0b",
    b"",
];

#[test]
fn nothing_outside_is_opened() {
    let (_dir, top) = world();
    for links in [Links::Refused, Links::Inside] {
        assert!(top.file(b"deep/file", links).is_ok());
        for path in OUT {
            assert!(top.file(path, links).is_err(), "{path:?}");
        }
        assert!(top.folder(b"away", links).is_err());
    }
    assert!(top.file(b"same/file", Links::Inside).is_ok());
    assert!(top.file(b"same/file", Links::Refused).is_err());
    let flags = OFlags::RDONLY;
    assert!(top.open_by_component(b"deep/file", flags).is_ok());
    assert!(top.open_by_component(b".", flags).is_ok());
    for path in OUT {
        assert!(top.open_by_component(path, flags).is_err(), "{path:?}");
    }
}

#[test]
fn nothing_outside_is_made_or_removed() {
    let (dir, top) = world();
    for path in [
        &b"away/new"[..],
        b"../new",
        b"/new",
        b"deep/../../new",
        b"a/.",
        b"",
    ] {
        assert!(top.make_folder(path, Content::Theirs).is_err() || path.is_empty());
        assert!(top.place(path, Folders::Made).is_err(), "{path:?}");
        assert!(top.place(path, Folders::There).is_err(), "{path:?}");
    }
    for name in [&b".."[..], b".", b"", b"../out", b"/"] {
        assert_eq!(remove_all(top.root(), name), Err(Errno::INVAL));
    }
    // A symlink goes, not what it leads to.
    remove_all(top.root(), b"away").unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(names.len(), 2);
    names.extend(std::fs::read_dir(dir.path().join("out")).unwrap());
    assert_eq!(names.len(), 4);
}

#[test]
fn what_is_in_the_way_goes_only_where_the_content_is_ours() {
    let (dir, top) = world();
    for path in [&b"away/new"[..], b"secret/new", b"deep/file/new"] {
        let refused = top.make_folder(path, Content::Theirs).unwrap_err();
        assert!(explained(refused).to_string().contains("symlink"));
        assert!(top.make_folder(path, Content::Ours).is_ok(), "{path:?}");
        assert!(top.folder(path, Links::Refused).is_ok());
    }
    assert!(!dir.path().join("out/new").exists());
    assert_eq!(
        std::fs::read(dir.path().join("out/secret")).unwrap(),
        b"outside"
    );
}

#[test]
fn a_place_is_written_under_one_name_and_gets_another() {
    let (dir, top) = world();
    let place = top.place(b"new/folder/name", Folders::Made).unwrap();
    let part = place.beside(b"part").unwrap();
    part.create_new().unwrap().write_all(b"text").unwrap();
    assert_eq!(part.create_new().unwrap_err(), Errno::EXIST);
    part.rename(&place).unwrap();
    assert!(part.look().unwrap().is_none());
    let (file, _) = place.open(OFlags::RDONLY).unwrap();
    assert_eq!(io::read_to_string(file).unwrap(), "text");
    let secret = top.place(b"secret", Folders::There).unwrap();
    assert_eq!(secret.open(OFlags::RDWR).unwrap_err(), Errno::LOOP);
    assert_eq!(place.beside(b"..").unwrap_err(), Errno::INVAL);
    // Through a symlink that stands there, nobody's folder is taken for our own.
    let own = top.place(b"away", Folders::There).unwrap();
    std::fs::write(anchor(&own.own_folder().unwrap()).join("x"), "").unwrap();
    assert!(dir.path().join("in/away/x").exists());
    assert!(!dir.path().join("out/x").exists());
    own.remove_all().unwrap();
    assert!(!dir.path().join("in/away").exists());
}
