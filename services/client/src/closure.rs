//! What packages of OpenBSD need: their dependencies, out of the same build.
//!
//! A package says it itself, in its packing list; so the closure is known package by package, as they come.

use std::collections::{BTreeMap, BTreeSet};

use mirrorlog_core::manifest::{self, Listed};
use mirrorlog_core::openbsd::{Depend, PackageName, beside, package, resolve};
use mirrorlog_core::path::EntryPath;
use runtime::beneath::Place;
use runtime::package::{PackageError, read_packing_list};
use rustix::fs::OFlags;

use crate::pin::{FindError, Found, Pinned, shown};
use crate::watch::Watch;

/// Packages of one closure; stops dependencies without end.
pub(crate) const PACKAGES_MAX: usize = 20_000;

/// Why a dependency is not found.
#[derive(Debug, thiserror::Error)]
pub enum DependError {
    /// Nothing in the build meets it.
    #[error(
        "{package} needs {spec}, and build {build} has no such package: tell the archive's operators"
    )]
    Unmet {
        /// The package that needs it.
        package: String,
        /// What it needs.
        spec: String,
        /// In which build.
        build: mirrorlog_core::id::Build,
    },
    /// The package cannot be read.
    #[error("{package} is no package that can be read")]
    Package {
        /// Which.
        package: String,
        /// Why.
        #[source]
        source: PackageError,
    },
    /// More packages than anybody needs.
    #[error("the dependencies are more than {PACKAGES_MAX} packages")]
    TooMany,
}

/// The packages of a build, folder by folder, as far as they were looked at.
#[derive(Default)]
pub(crate) struct Shelf(BTreeMap<Vec<u8>, BTreeSet<PackageName>>);

/// What went wrong on the way.
pub(crate) enum Trouble {
    Depend(DependError),
    Find(FindError),
}

impl From<DependError> for Trouble {
    fn from(error: DependError) -> Self {
        Self::Depend(error)
    }
}

impl Shelf {
    /// Paths of what the package at `path`, whose content is at `place`, needs directly; none for what is no package.
    pub(crate) async fn needed(
        &mut self,
        pinned: &Pinned,
        path: &EntryPath,
        place: &Place,
        watch: &dyn Watch,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        let Some(folder) = package_folder(path) else {
            return Ok(Vec::new());
        };
        let name = shown(path.name());
        let read = |source| DependError::Package {
            package: name.clone(),
            source,
        };
        let opened = place.open(OFlags::RDONLY);
        let (opened, _) = opened.map_err(|error| read(PackageError::Read(error.into())))?;
        let list = read_packing_list(opened).map_err(read)?;
        let mut needed = Vec::new();
        for depend in &list.depends {
            needed.push(
                self.find(pinned, folder, depend, watch)
                    .await?
                    .ok_or_else(|| DependError::Unmet {
                        package: name.clone(),
                        spec: depend.spec.to_string(),
                        build: pinned.build(),
                    })?,
            );
        }
        Ok(needed)
    }

    async fn find(
        &mut self,
        pinned: &Pinned,
        folder: &[u8],
        depend: &Depend,
        watch: &dyn Watch,
    ) -> Result<Option<Vec<u8>>, Trouble> {
        for folder in [Some(folder.to_vec()), beside(folder)]
            .into_iter()
            .flatten()
        {
            let names = self.names(pinned, &folder, watch).await?;
            if let Some(name) = resolve(depend, names) {
                let mut path = folder;
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name.file_name().as_bytes());
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    async fn names(
        &mut self,
        pinned: &Pinned,
        folder: &[u8],
        watch: &dyn Watch,
    ) -> Result<&BTreeSet<PackageName>, Trouble> {
        if !self.0.contains_key(folder) {
            let names = pinned
                .packages_in(folder, watch)
                .await
                .map_err(Trouble::Find)?;
            self.0.insert(folder.to_vec(), names);
        }
        Ok(self.0.entry(folder.to_vec()).or_default())
    }
}

/// The folder of a package, by its name.
fn package_folder(path: &EntryPath) -> Option<&[u8]> {
    package(path.name())?;
    let all = path.as_bytes();
    let folder = &all[..all.len() - path.name().len()];
    Some(folder.strip_suffix(b"/").unwrap_or(folder))
}

impl Pinned {
    /// The packages of one folder, behind its symlinks.
    pub(crate) async fn packages_in(
        &self,
        folder: &[u8],
        watch: &dyn Watch,
    ) -> Result<BTreeSet<PackageName>, FindError> {
        let real = match folder {
            b"" => Vec::new(),
            folder => match self.find(folder, watch).await {
                Ok(Found::Folder(real)) => real,
                Ok(Found::File(_)) | Err(FindError::Absent { .. }) => return Ok(BTreeSet::new()),
                Err(error) => return Err(error),
            },
        };
        let folder = real.as_slice();
        self.read(watch, |pages, root| {
            let mut names = BTreeSet::new();
            for listed in manifest::list(pages, root, folder) {
                if let Listed::Entry(name, _) = listed? {
                    names.extend(package(&name));
                }
            }
            Ok(names)
        })
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_folders_and_patches_are_none() {
        let folder = |path: &str| {
            package_folder(&EntryPath::new(path.as_bytes()).unwrap()).map(<[u8]>::to_vec)
        };
        assert_eq!(
            folder("7.6/packages/amd64/quirks-7.14.tgz").unwrap(),
            b"7.6/packages/amd64"
        );
        assert_eq!(folder("quirks-7.14.tgz").unwrap(), b"");
        assert_eq!(
            (folder("a/SHA256"), folder("a/noversion.tgz")),
            (None, None)
        );
        // Nothing is needed by them, and they have no packing list that could be read.
        assert_eq!(folder("7.8/syspatch/syspatch78-001_expat.tgz"), None);
        assert_eq!(folder("7.8/amd64/site78-1.tgz"), None);
    }
}
