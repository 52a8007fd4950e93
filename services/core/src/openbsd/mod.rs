//! OpenBSD's packages, as pkg_add reads them: names, versions, dependencies, and the lists beside them.
//!
//! No resolver: each dependency is looked at by itself. Rules are those of packages-specs(7) and package(5).
//!
//! | file | idea |
//! | --- | --- |
//! | `name` | [`PackageName`]: `stem-version[-flavor…]` |
//! | `version` | [`Version`], and which of two is newer |
//! | `spec` | [`Spec`]: `python->=3.10,<3.11`, `vim-*-!gtk3`, `a-*\|b-*` |
//! | `packing_list` | [`PackingList`]: what `+CONTENTS` says; [`Depend`]: one `@depend` of it |
//! | `place` | [`package`]: which files are packages; [`beside`]: which folder counts too |
//! | `checksums` | [`checksums`]: the lines of `SHA256` |
//! | `index` | [`listed_names`]: the names in `index.txt` |

mod checksums;
mod index;
mod name;
mod packing_list;
mod place;
mod spec;
mod version;

use std::collections::{BTreeMap, BTreeSet};

pub use checksums::{CHECKSUMS_MAX, Checksum, ChecksumsError, checksums};
pub use index::listed_names;
pub use name::{PACKAGE_NAME_MAX_BYTES, PackageName, PackageNameError};
pub use packing_list::{
    DEPENDS_MAX, Depend, DependError, PackingLines, PackingList, PackingListError,
};
pub use place::{beside, package};
pub use spec::{SPEC_MAX_BYTES, Spec, SpecError};
pub use version::{Version, VersionError};

/// The package of a folder that meets a dependency, as pkg_add chooses: of all that fit, the newest of each stem and
/// flavors is left; of these the default is taken, else the first by name.
///
/// pkg_add also compares the ports that packages were built from, which would have to be read out of each one: of two
/// ports with the same stem and flavors it keeps both. Of two that are equally new the last by name stays.
pub fn resolve<'n>(depend: &Depend, names: &'n BTreeSet<PackageName>) -> Option<&'n PackageName> {
    let fitting: BTreeSet<&PackageName> = depend
        .spec
        .alternatives()
        .flat_map(|pattern| pattern.among(names))
        .collect();
    let mut newest: BTreeMap<(&str, BTreeSet<&str>), &PackageName> = BTreeMap::new();
    for name in fitting {
        let kind = (name.stem(), name.flavors().collect());
        let best = newest.entry(kind).or_insert(name);
        if best.version().compare(name.version()).is_le() {
            *best = name;
        }
    }
    let left: BTreeSet<&PackageName> = newest.into_values().collect();
    left.get(&depend.default).or_else(|| left.first()).copied()
}

#[cfg(test)]
mod tests;
