//! The lists as static files, for any web server: the way out when no replica runs.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fetcher::client::{Source, SourceError};
use fetcher::manifests::Manifests;
use mirrorlog_core::directory::Directory;
use mirrorlog_core::time::Timestamp;
use runtime::beneath::{self, Folders, Place, Top, explained};
use runtime::boot::now;
use runtime::store::{Store, StoreError};
use runtime::tls::TlsError;
use rustix::io::Errno;
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

/// The folder may be a web server's, where others write too: no symlink in it is followed.
fn write_all(dir: &Path, files: &[statics::File]) -> Result<u64, ExportError> {
    let top = Top::make(dir).map_err(|error| (dir.to_owned(), error))?;
    let before = read(&top, WRITTEN)?;
    let names: BTreeSet<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let ours: BTreeSet<&str> = before.lines().collect();
    for name in names.iter().filter(|name| !ours.contains(**name)) {
        if is_there(&top, name)? {
            let path = dir.join(name);
            return Err(ExportError::Foreign { path });
        }
    }
    let lines = |names: &BTreeSet<&str>| -> String {
        names.iter().map(|name| format!("{name}\n")).collect()
    };
    // Said before it is done: an export that was cut off finds its own again.
    write(
        &top,
        WRITTEN,
        &lines(&ours.union(&names).copied().collect()),
    )?;
    for (name, text) in files {
        write(&top, name, text)?;
    }
    for gone in ours.difference(&names) {
        remove(&top, gone)?;
    }
    write(&top, WRITTEN, &lines(&names))?;
    Ok(names.len() as u64)
}

fn fault(top: &Top, name: &str) -> impl Fn(Errno) -> Fault {
    let path = top.shown(name.as_bytes());
    move |error| (path.clone(), explained(error))
}

/// The place of a name; none where its folder is not there.
fn place(top: &Top, name: &str) -> Result<Option<Place>, Errno> {
    match top.place(name.as_bytes(), Folders::There) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_there(top: &Top, name: &str) -> Result<bool, Fault> {
    let looked = place(top, name).and_then(|place| match place {
        Some(place) => Ok(place.look()?.is_some()),
        None => Ok(false),
    });
    looked.map_err(fault(top, name))
}

/// What a file says; empty when it is not there.
fn read(top: &Top, name: &str) -> Result<String, Fault> {
    let fault = fault(top, name);
    match top.file(name.as_bytes(), beneath::Links::Refused) {
        Ok((file, _)) => {
            io::read_to_string(file).map_err(|error| (top.shown(name.as_bytes()), error))
        }
        Err(Errno::NOENT) => Ok(String::new()),
        Err(error) => Err(fault(error)),
    }
}

/// Only what an export wrote is removed, and never by a name that leads out.
fn remove(top: &Top, name: &str) -> Result<(), Fault> {
    let removed = place(top, name).and_then(|place| match place {
        Some(place) => place.remove(),
        None => Ok(()),
    });
    match removed {
        // The record has been changed by hand: such a name was never written.
        Err(Errno::INVAL | Errno::XDEV) => Ok(()),
        removed => removed.map_err(fault(top, name)),
    }
}

fn write(top: &Top, name: &str, text: &str) -> Result<(), Fault> {
    let fault = fault(top, name);
    let place = top.place(name.as_bytes(), Folders::Made);
    let place = place.map_err(&fault)?;
    let new = place.beside(&[place.name(), b".new"].concat());
    let new = new.map_err(&fault)?;
    new.remove().map_err(&fault)?;
    let mut file = new.create_new().map_err(&fault)?;
    let written = file.write_all(text.as_bytes());
    written.map_err(|error| (top.shown(name.as_bytes()), error))?;
    new.rename(&place).map_err(&fault)
}

#[cfg(test)]
mod tests;
