//! Which suites and components a pinned build has, for apt, and where its releases are, for pkg_add.

use mirrorlog_core::client::sources::{Suite, is_release, is_word};
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

    /// The folder with the releases of OpenBSD: `X` where there is `X/7.8/packages`. None when there is none near the
    /// root.
    ///
    /// # Errors
    /// [`FindError`].
    pub async fn releases(&self, watch: &dyn Watch) -> Result<Option<String>, FindError> {
        let mut open = vec![Vec::new()];
        for _ in 0..=DEPTH_MAX {
            let mut deeper = Vec::new();
            for folder in open {
                let inside = self.folders(&folder, watch).await?;
                for child in &inside {
                    let name = child
                        .rsplit(|byte| *byte == b'/')
                        .next()
                        .unwrap_or_default();
                    let release = std::str::from_utf8(name).is_ok_and(is_release);
                    let packages = [child, &b"/packages"[..]].concat();
                    if release && matches!(self.find(&packages, watch).await, Ok(Found::Folder(_)))
                    {
                        let text = String::from_utf8(folder).ok();
                        return Ok(text.filter(|text| text.is_empty() || is_word(text)));
                    }
                }
                deeper.extend(inside);
            }
            open = deeper;
            open.truncate(FOLDERS_MAX);
        }
        Ok(None)
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
        let prefix = below(folder);
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

/// A folder, as what is in it begins.
fn below(folder: &[u8]) -> Vec<u8> {
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
