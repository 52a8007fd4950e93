//! Which suites and components a pinned build has, for apt, and where its releases are, for pkg_add.

use mirrorlog_core::client::sources::{
    Below, PACKAGE_FOLDERS, Place, Suite, above_release, is_release, is_word,
};
use mirrorlog_core::id::Mount;
use mirrorlog_core::manifest;
use mirrorlog_core::path::EntryPath;

use crate::pin::{FindError, Found, Pinned, WantedFile};
use crate::session::Stop;
use crate::watch::Watch;

/// Folders of one folder that are looked at: stops a tree without end.
const FOLDERS_MAX: usize = 200;
/// Suites that are taken.
const SUITES_MAX: usize = 100;
/// How deep suites are looked for below `dists`: `bookworm/updates` is at 2.
const DEPTH_MAX: usize = 2;
/// Largest Release that is read, in bytes; Debian's has 0.3 million.
const RELEASE_MAX_BYTES: u64 = 8 << 20;

/// Why the suites are not known.
#[derive(Debug, thiserror::Error)]
pub enum SuitesError {
    /// The build's manifest.
    #[error(transparent)]
    Find(#[from] FindError),
    /// A Release does not come.
    #[error("{path} is not to be had")]
    Release {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: Stop,
    },
    /// There is no folder for what is fetched.
    #[error("no temporary folder")]
    Scratch(#[source] std::io::Error),
}

impl Pinned {
    /// The suites of the build, by name: folders below `dists` with a Release that names components. Those that are
    /// only another name, by a symlink, are left out.
    ///
    /// # Errors
    /// [`SuitesError`].
    pub async fn suites(&self, watch: &dyn Watch) -> Result<Vec<Suite>, SuitesError> {
        let scratch = tempfile::tempdir().map_err(SuitesError::Scratch)?;
        let mut suites = Vec::new();
        let mut open = self.folders(b"dists", watch).await?;
        for depth in 1..=DEPTH_MAX {
            let mut deeper = Vec::new();
            for folder in open {
                let Some(release) = self.release(&folder, watch).await? else {
                    if depth < DEPTH_MAX {
                        deeper.extend(self.folders(&folder, watch).await?);
                    }
                    continue;
                };
                if suites.len() < SUITES_MAX {
                    let to = scratch.path().join("release");
                    let fetched = self.fetch(&release, &to, watch).await;
                    let path = release.path.to_string();
                    fetched.map_err(|source| SuitesError::Release { path, source })?;
                    let text = std::fs::read(&to).map_err(SuitesError::Scratch)?;
                    suites.extend(name_of(&folder).and_then(|name| Suite::read(name, &text)));
                }
            }
            open = deeper;
        }
        suites.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(suites)
    }

    /// Where the packages of OpenBSD are in the build, which is served at `mount`. None when they are nowhere near
    /// the top.
    ///
    /// # Errors
    /// [`FindError`]; what could not be looked up is never taken for absent.
    pub async fn packages_place(
        &self,
        mount: &Mount,
        watch: &dyn Watch,
    ) -> Result<Option<Place>, FindError> {
        let at_top = !self.packages_in(b"", watch).await?.is_empty();
        if let Some((above, below)) = above_release(mount) {
            let is_so = match below {
                Below::Release => self.has_packages_folder(b"", watch).await?,
                Below::Packages => self.has_package_below(watch).await?,
                Below::Architecture => at_top,
            };
            if is_so {
                return Ok(Some(Place::Releases(above)));
            }
        }
        if let Some(base) = self.releases(watch).await? {
            let base = below(format!("{mount}").as_bytes(), &base);
            return Ok(String::from_utf8(base).ok().map(Place::Releases));
        }
        Ok(at_top.then_some(Place::Top))
    }

    /// The folder with the releases: `X` where there is `X/7.8/packages`. None when there is none near the top.
    async fn releases(&self, watch: &dyn Watch) -> Result<Option<Vec<u8>>, FindError> {
        let mut open = vec![Vec::new()];
        for _ in 0..=DEPTH_MAX {
            let mut deeper = Vec::new();
            for folder in open {
                let inside = self.folders(&folder, watch).await?;
                for child in &inside {
                    let name = child.rsplit(|byte| *byte == b'/').next();
                    let name = std::str::from_utf8(name.unwrap_or_default());
                    if name.is_ok_and(is_release) && self.has_packages_folder(child, watch).await? {
                        let text = std::str::from_utf8(&folder).ok();
                        let text = text.filter(|text| text.is_empty() || is_word(text));
                        return Ok(text.map(|text| text.as_bytes().to_vec()));
                    }
                }
                deeper.extend(inside);
            }
            open = deeper;
            open.truncate(FOLDERS_MAX);
        }
        Ok(None)
    }

    /// True when a release's folder has one of the folders of packages.
    async fn has_packages_folder(
        &self,
        release: &[u8],
        watch: &dyn Watch,
    ) -> Result<bool, FindError> {
        for name in PACKAGE_FOLDERS {
            let path = below(release, name.as_bytes());
            if is_folder(self.find(&path, watch).await)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// True when a folder of the top has packages.
    async fn has_package_below(&self, watch: &dyn Watch) -> Result<bool, FindError> {
        for folder in self.folders(b"", watch).await? {
            if !self.packages_in(&folder, watch).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A folder's Release, or InRelease.
    async fn release(
        &self,
        folder: &[u8],
        watch: &dyn Watch,
    ) -> Result<Option<WantedFile>, FindError> {
        for name in [&b"/Release"[..], b"/InRelease"] {
            match self.find(&[folder, name].concat(), watch).await {
                Ok(Found::File(file)) if file.entry.size_bytes <= RELEASE_MAX_BYTES => {
                    return Ok(Some(file));
                }
                Ok(Found::File(_) | Found::Folder(_)) | Err(FindError::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The folders in a folder, without reading what is in them.
    async fn folders(&self, folder: &[u8], watch: &dyn Watch) -> Result<Vec<Vec<u8>>, FindError> {
        let prefix = within(folder);
        let mut folders: Vec<Vec<u8>> = Vec::new();
        let mut after: Option<EntryPath> = None;
        while folders.len() < FOLDERS_MAX {
            // The next folder, past the files before it.
            let next = self.read(watch, |pages, root| {
                for entry in manifest::iter(pages, root, &prefix, after.as_ref()) {
                    let (_, path, _) = entry?;
                    let below = &path.as_bytes()[prefix.len()..];
                    if let Some(length) = below.iter().position(|byte| *byte == b'/') {
                        return Ok(Some(path.as_bytes()[..prefix.len() + length].to_vec()));
                    }
                }
                Ok(None)
            });
            let Some(next) = next.await? else { break };
            // Names are text: nothing that belongs to a suite comes after this in its folder.
            after = EntryPath::new(&[&next, &b"/\xff"[..]].concat()).ok();
            if after.is_none() || folders.contains(&next) {
                break;
            }
            folders.push(next);
        }
        Ok(folders)
    }
}

/// Whether there is such a folder. What could not be looked up is no answer.
fn is_folder(found: Result<Found, FindError>) -> Result<bool, FindError> {
    match found {
        Ok(Found::Folder(_)) => Ok(true),
        Ok(Found::File(_)) | Err(FindError::Absent { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The path of a name in a folder; of the folder itself for an empty name.
fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if name.is_empty() {
        folder.to_vec()
    } else {
        [&within(folder), name].concat()
    }
}

/// A folder, as what is in it begins.
fn within(folder: &[u8]) -> Vec<u8> {
    if folder.is_empty() {
        Vec::new()
    } else {
        [folder, b"/"].concat()
    }
}

/// The suite's name: its folder below `dists`.
fn name_of(folder: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(folder.strip_prefix(b"dists/")?).ok()?;
    is_word(name).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_looked_up_is_not_absent() {
        let absent = FindError::Absent {
            path: "7.8/packages".to_owned(),
            channel: "bsd".parse().unwrap(),
            build: mirrorlog_core::id::Build::FIRST,
        };
        assert!(!is_folder(Err(absent)).unwrap());
        assert!(is_folder(Ok(Found::Folder(Vec::new()))).unwrap());
        let damaged = FindError::Manifest {
            channel: "bsd".parse().unwrap(),
            build: mirrorlog_core::id::Build::FIRST,
        };
        assert!(matches!(
            is_folder(Err(damaged)),
            Err(FindError::Manifest { .. })
        ));
    }

    #[test]
    fn paths_are_put_together() {
        assert_eq!(below(b"", b"packages"), b"packages");
        assert_eq!(below(b"7.8", b"packages"), b"7.8/packages");
        assert_eq!(below(b"/pub", b""), b"/pub");
    }
}
