//! Where pkg_add looks.

use crate::id::Mount;

/// Folders of a release in which there is a folder of packages for each architecture.
pub const PACKAGE_FOLDERS: [&str; 2] = ["packages", "packages-stable"];

/// How the end of a mount goes on in its tree, where the mount itself names a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// `…/7.8`: the tree has `packages/ARCH`.
    Release,
    /// `…/7.8/packages`: the tree has `ARCH`.
    Packages,
    /// `…/7.8/packages/ARCH`: the tree's top has the packages.
    Architecture,
}

/// What precedes the release in a mount that names one, and what its tree is then.
pub fn above_release(mount: &Mount) -> Option<(String, Below)> {
    let parts: Vec<&str> = mount.as_str().trim_start_matches('/').split('/').collect();
    let packages = |word: &str| PACKAGE_FOLDERS.contains(&word);
    let (above, below) = match parts.as_slice() {
        [above @ .., release, folder, _arch] if is_release(release) && packages(folder) => {
            (above, Below::Architecture)
        }
        [above @ .., release, folder] if is_release(release) && packages(folder) => {
            (above, Below::Packages)
        }
        [above @ .., release] if is_release(release) => (above, Below::Release),
        _other => return None,
    };
    let above = above.iter().map(|part| format!("/{part}")).collect();
    Some((above, below))
}

/// Where the packages of a tree are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In `RELEASE/packages/ARCH` below this path of the mirror, which is empty or begins with a slash.
    Releases(String),
    /// At the tree's top.
    Top,
}

/// Where pkg_add looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PkgAdd {
    /// A line for `/etc/installurl`: pkg_add adds `/%c/packages/%a` itself.
    InstallUrl(String),
    /// A value for `PKG_PATH`, where the tree has another shape.
    PkgPath(String),
}

impl PkgAdd {
    /// For a mirror's URL and a mount whose packages are at `place`.
    pub fn at(url: &str, mount: &Mount, place: &Place) -> Self {
        match place {
            Place::Releases(path) => Self::InstallUrl(format!("{url}{path}")),
            Place::Top => Self::PkgPath(format!("{url}{mount}/")),
        }
    }

    /// The line that is written or pasted; a shell takes the value as it is.
    pub fn line(&self) -> String {
        match self {
            Self::InstallUrl(url) => format!("{url}\n"),
            Self::PkgPath(path) => format!("export PKG_PATH='{}'\n", path.replace('\'', r"'\''")),
        }
    }
}

/// An installurl(5) with another URL: remarks stay, and of several URLs the last one is replaced, which is the one
/// that counts.
pub fn installurl(old: &str, url: &str) -> String {
    let said = |line: &str| line.split('#').next().unwrap_or_default().trim().len();
    let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
    match lines.iter_mut().rev().find(|line| said(line) > 0) {
        Some(line) => {
            let remark = line.find('#').map_or("", |at| &line[at..]);
            *line = format!("{url} {remark}").trim_end().to_owned();
        }
        None => lines.push(url.to_owned()),
    }
    lines.push(String::new());
    lines.join("\n")
}

/// `snapshots`, or a number such as `7.6`.
pub fn is_release(word: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    word == "snapshots"
        || word
            .split_once('.')
            .is_some_and(|(major, minor)| number(major) && number(minor))
}
