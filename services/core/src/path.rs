//! Paths of a manifest: bytes, relative, without anything that could lead out of the tree.

use std::fmt;

use crate::limits::{
    LINK_FOLDERS_MAX, NAME_MAX_BYTES, PATH_MAX_BYTES, SYMLINK_HOPS_MAX, TARGET_MAX_BYTES,
};

/// Why a path was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No bytes at all.
    #[error("path is empty")]
    Empty,
    /// Longer than a file system takes.
    #[error("path has {0} bytes, at most {PATH_MAX_BYTES} are allowed")]
    TooLong(usize),
    /// A component longer than a file system takes.
    #[error("a component has {0} bytes, at most {NAME_MAX_BYTES} are allowed")]
    NameTooLong(usize),
    /// Absolute, doubled slash, or slash at the end.
    #[error("empty component (a slash at the start, at the end or doubled)")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("'.' or '..' as a component")]
    DotComponent,
    /// A byte that breaks lists of paths.
    #[error("NUL or newline in a path")]
    ControlByte,
    /// `@` at the top, mirrorlog's own name space.
    #[error("a top-level name that starts with '@' is reserved")]
    Reserved,
}

/// A path of a manifest: relative, slash-separated bytes. Ordered by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Box<[u8]>);

impl EntryPath {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// A [`PathError`] for whatever could lead out of the tree, cannot be stored, or is reserved.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        check(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// [`new`](Self::new), without a copy where the vector has no room to spare.
    ///
    /// # Errors
    /// As `new`, with the bytes.
    pub fn from_vec(bytes: Vec<u8>) -> Result<Self, (PathError, Vec<u8>)> {
        match check(&bytes) {
            Ok(()) => Ok(Self(bytes.into())),
            Err(error) => Err((error, bytes)),
        }
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|&b| b == b'/').next().unwrap_or(&self.0)
    }

    /// How many folders are above this path.
    fn depth(&self) -> usize {
        self.0.iter().filter(|b| **b == b'/').count()
    }

    /// The folders above this path, from the top down.
    fn folders(&self) -> impl Iterator<Item = Self> {
        let slashes = self.0.iter().enumerate().filter(|(_, b)| **b == b'/');
        // What is cut off before a slash is a path as well, and need not be checked again.
        slashes.map(|(at, _)| Self(self.0[..at].into()))
    }

    /// True when `dir` is a folder above this path.
    pub fn is_below(&self, dir: &[u8]) -> bool {
        self.0.len() > dir.len() && self.0.starts_with(dir) && self.0[dir.len()] == b'/'
    }
}

fn check(bytes: &[u8]) -> Result<(), PathError> {
    if bytes.is_empty() {
        return Err(PathError::Empty);
    }
    if bytes.len() > PATH_MAX_BYTES {
        return Err(PathError::TooLong(bytes.len()));
    }
    if bytes.iter().any(|&b| b == 0 || b == b'\n') {
        return Err(PathError::ControlByte);
    }
    if bytes[0] == b'@' {
        return Err(PathError::Reserved);
    }
    for component in bytes.split(|&b| b == b'/') {
        match component {
            b"" => return Err(PathError::EmptyComponent),
            b"." | b".." => return Err(PathError::DotComponent),
            long if long.len() > NAME_MAX_BYTES => {
                return Err(PathError::NameTooLong(long.len()));
            }
            _plain => {}
        }
    }
    Ok(())
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// Why a symlink target was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Empty, too long, or with a NUL or newline.
    #[error("symlink target is empty, too long, or has a NUL or newline")]
    Malformed,
    /// Leads out of the tree.
    #[error("symlink leads out of the tree")]
    Escapes,
    /// `..` after a name, as in `a/../b`.
    #[error(
        "'..' after a name in a symlink's target: where that leads depends on what the name is"
    )]
    ClimbsBack,
}

/// Resolves a symlink's target against the folder of the link, lexically.
///
/// Returns the path it names inside the tree (empty for the tree's top). File systems resolve otherwise: where `a` is a
/// symlink, their `a/..` is the folder above its target, and a chain of such links leads out of a tree in which each of
/// them stays inside. Only a target that climbs first and then goes down means the same to both; others are refused, as
/// rsync's `--safe-links` does since CVE-2024-12088.
///
/// # Errors
/// [`TargetError::Escapes`] for absolute targets and for those that climb above the top;
/// [`TargetError::ClimbsBack`] for those that climb after a name; [`TargetError::Malformed`] for what no file system
/// takes.
pub fn resolve_target(link: &EntryPath, target: &[u8]) -> Result<Vec<u8>, TargetError> {
    let breaks = |&b: &u8| b == 0 || b == b'\n';
    if target.is_empty() || target.len() > TARGET_MAX_BYTES || target.iter().any(breaks) {
        return Err(TargetError::Malformed);
    }
    if target[0] == b'/' {
        return Err(TargetError::Escapes);
    }
    let mut parts: Vec<&[u8]> = link.as_bytes().split(|&b| b == b'/').collect();
    parts.pop();
    let mut goes_down = false;
    for component in target.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if goes_down => return Err(TargetError::ClimbsBack),
            b".." => {
                parts.pop().ok_or(TargetError::Escapes)?;
            }
            name => {
                goes_down = true;
                parts.push(name);
            }
        }
    }
    Ok(parts.join(&b'/'))
}

/// What a lookup finds at one exact path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// A file.
    File(T),
    /// A symlink with this target.
    Symlink(Box<[u8]>),
    /// Nothing at this exact path.
    Nothing,
}

/// How a path ended after its symlinks were followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved<T> {
    /// A file, and where it was found.
    File(T),
    /// Not a file: the caller may list this path (without symlinks) as a folder.
    Folder(Vec<u8>),
    /// The symlinks loop, lead out, or are too many; or so are the folders above what is no entry.
    Refused,
}

/// Follows symlinks in every component of `path`, with a bound on their number.
///
/// `lookup` is asked for exact paths only. A path that is no file after all links were
/// followed is returned as [`Resolved::Folder`]; whether that folder exists is the caller's to see.
///
/// # Errors
/// Whatever `lookup` fails with.
pub fn resolve<T, E>(
    path: &[u8],
    mut lookup: impl FnMut(&EntryPath) -> Result<Found<T>, E>,
) -> Result<Resolved<T>, E> {
    let mut current = path.to_vec();
    for _hop in 0..=SYMLINK_HOPS_MAX {
        if current.is_empty() {
            return Ok(Resolved::Folder(current));
        }
        let Ok(whole) = EntryPath::new(&current) else {
            return Ok(Resolved::Refused);
        };
        let target = match lookup(&whole)? {
            Found::File(file) => return Ok(Resolved::File(file)),
            Found::Symlink(target) => Some((whole.clone(), target, Vec::new())),
            Found::Nothing if whole.depth() > LINK_FOLDERS_MAX => {
                return Ok(Resolved::Refused);
            }
            Found::Nothing => first_link(&whole, &mut lookup)?,
        };
        let Some((link, target, rest)) = target else {
            return Ok(Resolved::Folder(current));
        };
        let Ok(mut next) = resolve_target(&link, &target) else {
            return Ok(Resolved::Refused);
        };
        if !rest.is_empty() && !next.is_empty() {
            next.push(b'/');
        }
        next.extend_from_slice(&rest);
        current = next;
    }
    Ok(Resolved::Refused)
}

type Link = Option<(EntryPath, Box<[u8]>, Vec<u8>)>;

fn first_link<T, E>(
    path: &EntryPath,
    lookup: &mut impl FnMut(&EntryPath) -> Result<Found<T>, E>,
) -> Result<Link, E> {
    for folder in path.folders() {
        match lookup(&folder)? {
            Found::Symlink(target) => {
                let rest = path.0[folder.0.len() + 1..].to_vec();
                return Ok(Some((folder, target, rest)));
            }
            Found::File(_) => return Ok(None),
            Found::Nothing => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).expect("valid")
    }

    #[test]
    fn paths_that_could_lead_out_are_refused() {
        for (text, error) in [
            (&b""[..], PathError::Empty),
            (b"/etc/passwd", PathError::EmptyComponent),
            (b"a//b", PathError::EmptyComponent),
            (b"a/", PathError::EmptyComponent),
            (b"../x", PathError::DotComponent),
            (b"a/./b", PathError::DotComponent),
            (b"a\0b", PathError::ControlByte),
            (b"a\nb", PathError::ControlByte),
            (b"@/x", PathError::Reserved),
        ] {
            assert_eq!(EntryPath::new(text), Err(error));
        }
        assert_eq!(
            EntryPath::new(&[b'a'; 256]),
            Err(PathError::NameTooLong(256))
        );
        assert!(EntryPath::new(b"pool/a@b/\xff.deb").is_ok());
    }

    #[test]
    fn targets_stay_inside() {
        let link = path("dists/stable");
        assert_eq!(
            resolve_target(&link, b"bookworm"),
            Ok(b"dists/bookworm".to_vec())
        );
        assert_eq!(
            resolve_target(&link, b"../pool/./x"),
            Ok(b"pool/x".to_vec())
        );
        assert_eq!(resolve_target(&link, b".."), Ok(Vec::new()));
        assert_eq!(resolve_target(&link, b"../.."), Err(TargetError::Escapes));
        assert_eq!(
            resolve_target(&link, b"../pool/../x"),
            Err(TargetError::ClimbsBack)
        );
        assert_eq!(resolve_target(&link, b"/etc"), Err(TargetError::Escapes));
    }

    fn tree(at: &EntryPath) -> Result<Found<&'static str>, ()> {
        Ok(match at.as_bytes() {
            b"dists/stable" => Found::Symlink((*b"bookworm").into()),
            b"dists/bookworm/Release" => Found::File("release"),
            b"loop" => Found::Symlink((*b"loop").into()),
            b"out" => Found::Symlink((*b"../x").into()),
            b"here" => Found::Symlink((*b"dists/stable/Release").into()),
            _other => Found::Nothing,
        })
    }

    #[test]
    fn a_path_of_many_folders_costs_few_look_ups() {
        let deep = |folders: usize| format!("{}x", "a/".repeat(folders));
        let asked = |path: &str| {
            let mut asked = 0;
            let found = resolve(path.as_bytes(), |_at| {
                asked += 1;
                Ok::<Found<()>, ()>(Found::Nothing)
            });
            (asked, found)
        };
        let most = deep(LINK_FOLDERS_MAX);
        let folder = Resolved::Folder(most.clone().into_bytes());
        assert_eq!(asked(&most), (LINK_FOLDERS_MAX + 1, Ok(folder)));
        assert_eq!(asked(&deep(2047)), (1, Ok(Resolved::Refused)));
        let there = resolve(deep(2047).as_bytes(), |_at| Ok::<_, ()>(Found::File(())));
        assert_eq!(there, Ok(Resolved::File(())));
    }

    #[test]
    fn links_are_followed_in_every_component() {
        assert_eq!(
            resolve(b"dists/stable/Release", tree),
            Ok(Resolved::File("release"))
        );
        assert_eq!(resolve(b"here", tree), Ok(Resolved::File("release")));
        assert_eq!(
            resolve(b"dists/stable", tree),
            Ok(Resolved::Folder(b"dists/bookworm".to_vec()))
        );
        assert_eq!(resolve(b"loop", tree), Ok(Resolved::Refused));
        assert_eq!(resolve(b"out", tree), Ok(Resolved::Refused));
        assert_eq!(
            resolve(b"nowhere/x", tree),
            Ok(Resolved::Folder(b"nowhere/x".to_vec()))
        );
    }
}
