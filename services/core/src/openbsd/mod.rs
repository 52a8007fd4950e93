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

use std::cmp::Reverse;
use std::collections::BTreeSet;

pub use checksums::{CHECKSUMS_MAX, Checksum, ChecksumsError, checksums};
pub use index::listed_names;
pub use name::{PACKAGE_NAME_MAX_BYTES, PackageName, PackageNameError};
pub use packing_list::{
    DEPENDS_MAX, Depend, DependError, PackingLines, PackingList, PackingListError,
};
pub use place::{beside, package};
pub use spec::{SPEC_MAX_BYTES, Spec, SpecError};
pub use version::{Version, VersionError};

/// The package of a folder that meets a dependency: its default when that is there and fits, else the
/// newest that fits. Where the spec has alternatives, the first that any package fits decides.
///
/// Of two that are equally new, the one with fewer flavors comes first, as its name does.
pub fn resolve<'n>(depend: &Depend, names: &'n BTreeSet<PackageName>) -> Option<&'n PackageName> {
    if let Some(default) = names.get(&depend.default)
        && depend.spec.matches(default)
    {
        return Some(default);
    }
    depend.spec.alternatives().find_map(|pattern| {
        pattern
            .among(names)
            .max_by_key(|name| (name.version(), Reverse(*name)))
    })
}

#[cfg(test)]
mod tests;
