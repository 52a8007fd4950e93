//! OpenBSD's names and lists.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use mirrorlog_core::openbsd::{
    self, DEPENDS_MAX, Depend, PACKAGE_NAME_MAX_BYTES, PackageName, PackingList, Spec, Version,
    beside, package,
};

use crate::cut;

pub(crate) fn checksums(data: &[u8]) {
    if let Ok(all) = openbsd::checksums(data) {
        let write = |one: &openbsd::Checksum| {
            [
                b"SHA256 (",
                &*one.name,
                b") = ",
                one.digest.to_hex().as_bytes(),
                b"\n",
            ]
            .concat()
        };
        let written: Vec<u8> = all.iter().flat_map(write).collect();
        assert_eq!(openbsd::checksums(&written).unwrap(), all);
        assert!(
            all.iter()
                .all(|one| !one.name.is_empty() && !one.name.contains(&b'\n'))
        );
    }
}

pub(crate) fn listed_names(data: &[u8]) {
    for name in openbsd::listed_names(data) {
        assert!(!name.is_empty() && !name.contains(&b'\n'));
    }
    beside(data);
}

pub(crate) fn packing_list(data: &[u8]) {
    let Ok(list) = PackingList::parse(data) else {
        return;
    };
    assert!(list.depends.len() <= DEPENDS_MAX);
    let depends = list
        .depends
        .iter()
        .map(|depend| format!("@depend {depend}\n"));
    let written = format!("@name {}\n{}", list.name, depends.collect::<String>());
    assert_eq!(PackingList::parse(written.as_bytes()).unwrap(), list);
}

pub(crate) fn package_name(data: &[u8]) {
    let (first, second) = cut(data, b'\n');
    let read = |text| PackageName::new(std::str::from_utf8(text).ok()?).ok();
    let (Some(first), second) = (read(first), read(second)) else {
        return;
    };
    let text = first.as_str();
    assert!(
        text.len() <= PACKAGE_NAME_MAX_BYTES && !text.contains('/') && !first.stem().is_empty()
    );
    assert_eq!(
        PackageName::of_file(first.file_name().as_bytes()),
        Some(first.clone())
    );
    let found = package(first.file_name().as_bytes());
    assert!(found.is_none_or(|found| found == first));
    assert_eq!(first.version().compare(first.version()), Ordering::Equal);
    if let Some(second) = second {
        let (a, b): (&Version, &Version) = (first.version(), second.version());
        assert_eq!(a.compare(b), b.compare(a).reverse());
    }
}

/// A dependency, then names of packages, on lines.
pub(crate) fn spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    let names: BTreeSet<PackageName> = lines.filter_map(|line| line.parse().ok()).collect();
    if let Ok(spec) = Spec::new(first) {
        assert_eq!(Spec::new(&spec.to_string()).unwrap(), spec);
    }
    if let Ok(depend) = first.parse::<Depend>() {
        assert_eq!(depend.to_string().parse::<Depend>().unwrap(), depend);
        let fitting: BTreeSet<&PackageName> = names
            .iter()
            .filter(|name| depend.spec.matches(name))
            .collect();
        let resolved = openbsd::resolve(&depend, &names);
        assert_eq!(resolved.is_some(), !fitting.is_empty());
        assert!(resolved.is_none_or(|name| fitting.contains(name)));
    }
}

/// A package, of which only the packing list is read.
pub(crate) fn package_file(data: &[u8]) {
    if let Ok(list) = runtime::package::read_packing_list(data) {
        assert!(list.depends.len() <= DEPENDS_MAX);
    }
}
