//! The lists as static files, for any web server: the way out when no replica runs.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fetcher::client::{Source, SourceError};
use fetcher::manifests::Manifests;
use mirrorlog_core::directory::Directory;
use mirrorlog_core::time::Timestamp;
use runtime::boot::now;
use runtime::store::{Store, StoreError};
use runtime::tls::TlsError;
use tokio::sync::watch;

use crate::config::Config;
use crate::geo::{Geo, GeoError};
use crate::http::statics;
use crate::resolve::Addresses;
use crate::run::{numbered, profiles};
use crate::saved::{self, SavedError};
use crate::site::{Links, Site, Views};
use crate::trees::Trees;

/// Names what was written, so that the next export removes what it no longer writes.
const WRITTEN: &str = ".mirrorlog-export";

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No directory ran here yet.
    #[error("there is no state in {}: run `mirrorlog directory serve` there first", dir.display())]
    NoState {
        /// The folder that was looked into.
        dir: PathBuf,
    },
    /// The state cannot be used.
    #[error("the last state cannot be used")]
    State(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Somebody else's file is where one of ours would be.
    #[error("{} is there, and no export wrote it: move it away, or choose another folder", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Files.
    pub files: u64,
    /// When the state was saved that they were made from.
    pub saved: Timestamp,
}

impl From<SavedError> for ExportError {
    fn from(error: SavedError) -> Self {
        Self::State(Box::new(error))
    }
}

impl From<GeoError> for ExportError {
    fn from(error: GeoError) -> Self {
        Self::State(Box::new(error))
    }
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        Self::State(Box::new(error))
    }
}

impl From<TlsError> for ExportError {
    fn from(error: TlsError) -> Self {
        Self::State(Box::new(error))
    }
}

impl From<SourceError> for ExportError {
    fn from(error: SourceError) -> Self {
        Self::State(Box::new(error))
    }
}

/// Writes all lists, feeds and pages to `dir`, from the last state; each file appears by rename.
///
/// # Errors
/// [`ExportError`].
pub fn export(config: &Config, dir: &Path) -> Result<Exported, ExportError> {
    let state_dir = &config.directory.state;
    let Some(state) = saved::load(state_dir)? else {
        let dir = state_dir.clone();
        return Err(ExportError::NoState { dir });
    };
    let (geo, time, saved) = (Geo::open(&config.geo)?, now(), state.saved);
    let mut fold = Directory::new(config.probe_rules(), profiles(config, &geo));
    saved::resume(&mut fold, state, time);
    let addresses = Addresses::declared(&numbered(config, &fold));
    let (_views, seen) = watch::channel(Arc::new(fold.view().clone()));
    let store = Store::open(&state_dir.join("pages"))?;
    let tls = runtime::tls::load(config.tls.as_ref())?;
    let source = Source::of(&config.archive.fetch, tls.as_ref())?;
    let trees = Trees::new(Manifests::new(store, 0, source));
    let mut site = Site::new(config, Views(seen), geo, addresses, trees);
    site.links = Links::Files;
    let files = statics::files(&site, fold.view(), time);
    let written = write_all(dir, &files)?;
    Ok(Exported {
        files: written,
        saved,
    })
}

type Fault = (PathBuf, io::Error);

impl From<Fault> for ExportError {
    fn from((path, source): Fault) -> Self {
        Self::Write { path, source }
    }
}

fn write_all(dir: &Path, files: &[statics::File]) -> Result<u64, ExportError> {
    let record = dir.join(WRITTEN);
    let before = std::fs::read_to_string(&record).unwrap_or_default();
    let names: BTreeSet<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let ours: BTreeSet<&str> = before.lines().collect();
    let foreign = |name: &&str| !ours.contains(*name) && dir.join(name).exists();
    if let Some(name) = names.iter().copied().find(|name| foreign(name)) {
        let path = dir.join(name);
        return Err(ExportError::Foreign { path });
    }
    let lines = |names: &BTreeSet<&str>| -> String {
        names.iter().map(|name| format!("{name}\n")).collect()
    };
    // Said before it is done: an export that was cut off finds its own again.
    write(&record, &lines(&ours.union(&names).copied().collect()))?;
    for (name, text) in files {
        write(&dir.join(name), text)?;
    }
    // Only what an export wrote is removed, and never a name that leads out.
    let plain = |name: &&str| !name.starts_with('/') && !name.split('/').any(|part| part == "..");
    for gone in before
        .lines()
        .filter(plain)
        .filter(|name| !names.contains(name))
    {
        let path = dir.join(gone);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err((path, error).into());
            }
            Ok(()) | Err(_) => {}
        }
    }
    write(&record, &lines(&names))?;
    Ok(names.len() as u64)
}

fn write(path: &Path, text: &str) -> Result<(), Fault> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fault(folder))?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, text).map_err(fault(path))?;
    std::fs::rename(&new, path).map_err(fault(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_longer_written_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| (name.to_owned(), name.to_owned());
        std::fs::write(dir.path().join("robots.txt"), "mine").unwrap();
        assert_eq!(write_all(dir.path(), &[file("a/x"), file("b")]).unwrap(), 2);
        assert_eq!(write_all(dir.path(), &[file("b")]).unwrap(), 1);
        assert!(!dir.path().join("a/x").exists());
        assert_eq!(std::fs::read_to_string(dir.path().join("b")).unwrap(), "b");
        assert!(dir.path().join("robots.txt").exists());
        let foreign = write_all(dir.path(), &[file("b"), file("robots.txt")]);
        assert!(matches!(foreign, Err(ExportError::Foreign { .. })));
        let kept = std::fs::read_to_string(dir.path().join("robots.txt"));
        assert_eq!(kept.unwrap(), "mine");
    }

    #[test]
    fn an_export_that_was_cut_off_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| (name.to_owned(), name.to_owned());
        std::fs::create_dir(dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join(WRITTEN), "b\n").unwrap();
        let cut = write_all(dir.path(), &[file("a"), file("b")]);
        assert!(matches!(cut, Err(ExportError::Write { .. })));
        assert!(dir.path().join("a").exists());
        std::fs::remove_dir(dir.path().join("b")).unwrap();
        assert_eq!(write_all(dir.path(), &[file("a"), file("b")]).unwrap(), 2);
    }
}
