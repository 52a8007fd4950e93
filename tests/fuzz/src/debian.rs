//! Release files and indexes of Debian's trees.

use std::io::{Cursor, Read};

use archive::layout::{
    IndexKind, Named, Packing, Release, Stated, Sum, compare_versions, read_index,
    relation as relation_of,
};

use crate::cut;

/// What a packed index may unpack to here: more would only cost time.
const UNPACKED_BYTES: u64 = 1 << 20;

pub(crate) fn release(data: &[u8]) {
    if let Ok(release) = Release::parse(data) {
        check(&release);
        let written = written(&release);
        assert_eq!(
            Release::parse(written.as_bytes()).unwrap().listed,
            release.listed,
            "{written}"
        );
    }
}

pub(crate) fn inrelease(data: &[u8]) {
    if let Ok(release) = Release::parse_signed(data) {
        check(&release);
    }
}

fn check(release: &Release) {
    for field in ["date", "valid-until"] {
        let told = release.date(field);
        assert!(release.fields.contains_key(field) || told == Ok(None));
    }
    for (name, stated) in &release.listed {
        assert!(!name.is_empty() && !name.contains(char::is_whitespace));
        assert!(!stated.sums.is_empty());
        stated.to_be_read().for_each(drop);
        Packing::of(name);
    }
}

fn written(release: &Release) -> String {
    let mut text = String::new();
    for algorithm in archive::layout::Algorithm::ALL {
        text += &format!("{}:\n", algorithm.release_field());
        for (name, stated) in &release.listed {
            let sums = stated.sums.iter().filter(|sum| sum.algorithm == algorithm);
            sums.for_each(|sum| text += &format!(" {} {} {name}\n", hex(sum), stated.size_bytes));
        }
    }
    text
}

fn hex(sum: &Sum) -> String {
    sum.value.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn packages(data: &[u8]) {
    index(IndexKind::Packages, &mut &*data);
}

pub(crate) fn sources(data: &[u8]) {
    index(IndexKind::Sources, &mut &*data);
}

/// Packed; the first byte says how.
pub(crate) fn packed_index(data: &[u8]) {
    let Some((how, packed)) = data.split_first() else {
        return;
    };
    let all = [
        Packing::Gzip,
        Packing::Zstd,
        Packing::Xz,
        Packing::Lzma,
        Packing::Bzip2,
        Packing::Plain,
    ];
    let packing = all[usize::from(*how) % all.len()];
    let Ok(mut unpacked) = packing.unpack(Cursor::new(packed.to_vec())) else {
        return;
    };
    index(
        IndexKind::Packages,
        &mut unpacked.by_ref().take(UNPACKED_BYTES),
    );
    let (size_bytes, _digest) = unpacked.finish();
    assert!(size_bytes <= UNPACKED_BYTES);
}

fn index(kind: IndexKind, input: &mut dyn Read) {
    // How it ends is all the same: what was handed over before is as it must be.
    let _ended = read_index(kind, input, |Named { path, stated }| {
        let parts = path.split(|&byte| byte == b'/');
        let parts: Vec<&[u8]> = parts.collect();
        let plain = parts.iter().all(|part| !part.is_empty() && *part != b".");
        assert!(path.is_empty() || plain, "{path:?}");
        let Stated { sums, .. } = stated;
        assert!(!sums.is_empty());
        Ok(())
    });
}

/// A relation, a newline, and two versions with a newline between.
pub(crate) fn relation(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let relation = relation_of(text);
    assert!(text.contains(relation.name));
    if let Some((operator, version)) = relation.bound {
        assert!(operator.len() + version.len() < text.len());
    }
    let (_, versions) = cut(data, b'\n');
    let (a, b) = cut(versions, b'\n');
    let [a, b] = [a, b].map(|version| String::from_utf8_lossy(version));
    assert_eq!(
        compare_versions(&a, &b),
        compare_versions(&b, &a).reverse(),
        "{a:?} {b:?}"
    );
    assert!(compare_versions(&a, &a).is_eq());
}
