//! Gives a tree's name to the export tree of its mount, in one step, and takes it back in one.

use std::fs::File;
use std::path::{Path, PathBuf};

use mirrorlog_core::id::Mount;
use rustix::fs::{CWD, RenameFlags};

use super::AdoptError;
use crate::config::Config;

/// What the old tree is called after a switch.
const ASIDE: &str = ".before-mirrorlog";

/// Names after a switch, or after its undoing.
#[derive(Clone, Debug)]
pub struct Switched {
    /// The name that readers know.
    pub name: PathBuf,
    /// Where the old tree is.
    pub tree: PathBuf,
    /// What the name leads to after a switch.
    pub export: PathBuf,
    /// False when all was so already.
    pub changed: bool,
}

/// `from` becomes a symlink to the export tree of `mount`; the tree that had the name is set aside. Both at one moment.
///
/// # Errors
/// [`AdoptError::NoExport`], [`AdoptError::NotYet`], [`AdoptError::InTheWay`]; [`AdoptError::Name`].
pub fn switch(config: &Config, mount: &Mount, from: &Path) -> Result<Switched, AdoptError> {
    let mut names = names(config, mount, from)?;
    if leads_to(&names.name, &names.export) {
        names.changed = false;
        return Ok(names);
    }
    if !names.export.is_dir() {
        return Err(AdoptError::NotYet(names.export));
    }
    if std::fs::symlink_metadata(&names.tree).is_ok() {
        return Err(AdoptError::InTheWay(format!(
            "{} is in the way, perhaps the tree of an earlier switch: give it another name first",
            names.tree.display()
        )));
    }
    let fail = |source| AdoptError::Name {
        what: "make",
        path: names.tree.clone(),
        source,
    };
    std::os::unix::fs::symlink(&names.export, &names.tree).map_err(fail)?;
    if let Err(error) = exchange(&names) {
        // The name is as it was.
        std::fs::remove_file(&names.tree).ok();
        return Err(error);
    }
    Ok(names)
}

/// The old tree has its name again, at one moment.
///
/// # Errors
/// [`AdoptError::NothingToUndo`], [`AdoptError::NoExport`]; [`AdoptError::Name`].
pub fn undo(config: &Config, mount: &Mount, from: &Path) -> Result<Switched, AdoptError> {
    let names = names(config, mount, from)?;
    if !leads_to(&names.name, &names.export) {
        return Err(AdoptError::NothingToUndo(format!(
            "{} was not switched: it does not lead to {}",
            names.name.display(),
            names.export.display()
        )));
    }
    if std::fs::metadata(&names.tree).is_err() {
        return Err(AdoptError::NothingToUndo(format!(
            "the old tree is not at {}: nothing is left to go back to",
            names.tree.display()
        )));
    }
    exchange(&names)?;
    std::fs::remove_file(&names.tree).map_err(|source| AdoptError::Name {
        what: "remove",
        path: names.tree.clone(),
        source,
    })?;
    Ok(Switched {
        tree: names.name.clone(),
        ..names
    })
}

fn names(config: &Config, mount: &Mount, from: &Path) -> Result<Switched, AdoptError> {
    let Some(export) = &config.export else {
        return Err(AdoptError::NoExport);
    };
    let unreadable = |path: &Path, source| AdoptError::Tree {
        path: path.to_owned(),
        source,
    };
    // Without a slash at the end, which would lead through a symlink; folders on the way by their own names.
    let absolute = |path: &Path| {
        let absolute = std::path::absolute(path).map_err(|error| unreadable(path, error))?;
        let absolute: PathBuf = absolute.components().collect();
        let (Some(folder), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Ok::<_, AdoptError>(absolute);
        };
        let folder = folder
            .canonicalize()
            .map_err(|error| unreadable(folder, error))?;
        Ok(folder.join(name))
    };
    let (name, top) = (absolute(from)?, absolute(&export.dir)?);
    if name.starts_with(&top) || top.starts_with(&name) {
        return Err(AdoptError::InTheWay(format!(
            "{} and the export folder {} lie in each other",
            name.display(),
            top.display()
        )));
    }
    let Some(file_name) = name.file_name() else {
        let text = format!("{} has no name that could be given", name.display());
        return Err(AdoptError::InTheWay(text));
    };
    let mut aside = file_name.to_owned();
    aside.push(ASIDE);
    Ok(Switched {
        tree: name.with_file_name(aside),
        export: top.join(&mount.as_str()[1..]),
        name,
        changed: true,
    })
}

fn leads_to(name: &Path, export: &Path) -> bool {
    std::fs::read_link(name).is_ok_and(|target| target == export)
}

fn exchange(names: &Switched) -> Result<(), AdoptError> {
    let fail = |source: std::io::Error| AdoptError::Name {
        what: "give another tree the name",
        path: names.name.clone(),
        source,
    };
    rustix::fs::renameat_with(CWD, &names.tree, CWD, &names.name, RenameFlags::EXCHANGE)
        .map_err(|error| fail(error.into()))?;
    let folder = names.name.parent().unwrap_or(Path::new("/"));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(fail)
}
