//! Where packages are in a tree.

use super::name::PackageName;

/// The package that a file of this name holds. Patches of the base system and an operator's own sets, such as
/// `syspatch78-001_expat.tgz` and `site78-1.tgz`, are called alike and are none.
pub fn package(file_name: &[u8]) -> Option<PackageName> {
    let is_set = |stem: &str| {
        let release = stem.strip_prefix("syspatch").or(stem.strip_prefix("site"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        release.is_some_and(is_number)
    };
    PackageName::of_file(file_name).filter(|name| !is_set(name.stem()))
}

/// The folder whose packages count too, as pkg_add looks into both: `7.8/packages/amd64` for
/// `7.8/packages-stable/amd64`. Not the other way round: pkg_add may be told of the release alone.
pub fn beside(folder: &[u8]) -> Option<Vec<u8>> {
    let (above, architecture) = split(folder)?;
    let release = match split(above) {
        None if above == STABLE => &b""[..],
        Some((release, STABLE)) => &above[..=release.len()],
        None | Some(_) => return None,
    };
    Some([release, b"packages/", architecture].concat())
}

const STABLE: &[u8] = b"packages-stable";

/// A path's folder and its name; none at the top.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().rposition(|&b| b == b'/')?;
    Some((&path[..at], &path[at + 1..]))
}
