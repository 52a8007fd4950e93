//! Takes a submission in: entries first, then what of their content is lacking.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mirrorlog_core::manifest::{Builder, Entry, Summary};
use mirrorlog_core::path::EntryPath;
use tonic::Status;
use wire::v1::submit_reply::Kind as Reply;
use wire::v1::submit_request::Kind as Request;
use wire::{delta, v1};

use super::content;
use super::content::Intake;
use super::failed::Failed;
use super::talk::Talk;
use crate::publish::{Fault, Faults, PublishError, Rule, Workspace, manifest_failure};

/// Most bytes that the entries of a list take in memory, about; a whole tree takes none.
const LISTED_MAX_BYTES: u64 = 32 << 20;
/// What an entry takes beside its path and target.
const ENTRY_BYTES: u64 = 128;
/// Folders that a path may be in: what looks at each of them is not to be kept busy for hours.
const DEPTH_MAX: usize = 128;

/// What came.
pub(super) enum Form {
    /// All entries of a tree, as a manifest.
    Whole(Summary),
    /// What is at some paths.
    Listed {
        paths: Vec<Vec<u8>>,
        present: BTreeMap<EntryPath, Entry>,
    },
}

/// Reads until the end. The content is durable then, and so are the pages of a whole tree's manifest.
///
/// # Errors
/// Among others [`PublishError::Refused`] as soon as something can be in no manifest.
pub(super) fn receive(
    talk: &mut Talk,
    workspace: &Workspace,
    mut intake: Intake,
    listed: bool,
) -> Result<Form, Failed> {
    if listed {
        let form = list(talk, &mut intake)?;
        intake.finish()?;
        return Ok(form);
    }
    let pages = workspace.page_store().batch();
    let mut builder = Builder::new(&pages);
    while let Some(entries) = next(talk)? {
        if !entries.listed.is_empty() {
            return Err(Status::invalid_argument("a whole tree has no list").into());
        }
        let found = found(entries.found)?;
        // They become pages.
        let _room = intake.spend(found.iter().map(bytes_of).sum())?;
        for (path, entry) in &found {
            if let Err(error) = builder.push(path, entry) {
                return Err(refused(manifest_failure(error)?));
            }
        }
        content::take(talk, &mut intake, &found)?;
    }
    let summary = builder
        .finish()
        .map_err(|error| match manifest_failure(error) {
            Ok(fault) => refused(fault),
            Err(error) => error.into(),
        })?;
    intake.finish()?;
    pages.commit()?;
    Ok(Form::Whole(summary))
}

/// The tree breaks a rule.
pub(super) fn refused(fault: Fault) -> Failed {
    let mut faults = Faults::default();
    faults.push(fault);
    let tree = PathBuf::new();
    PublishError::Refused { tree, faults }.into()
}

/// What an entry takes in memory, or in a page, about.
fn bytes_of((path, entry): &(EntryPath, Entry)) -> u64 {
    let target = match entry {
        Entry::Symlink { target } => target.len(),
        Entry::File(_) => 0,
    };
    (path.as_bytes().len() + target) as u64 + ENTRY_BYTES
}

fn list(talk: &mut Talk, intake: &mut Intake) -> Result<Form, Failed> {
    let (mut paths, mut present) = (Vec::new(), BTreeMap::new());
    let mut bytes = 0;
    while let Some(entries) = next(talk)? {
        let found = found(entries.found)?;
        let listed = entries.listed.iter();
        let listed = listed.map(|path| path.len() as u64 + ENTRY_BYTES);
        bytes += listed.chain(found.iter().map(bytes_of)).sum::<u64>();
        if bytes > LISTED_MAX_BYTES {
            return Err(Status::invalid_argument(
                "the list is too long: publish without --changed, which has no limit",
            )
            .into());
        }
        content::take(talk, intake, &found)?;
        paths.extend(entries.listed.into_iter().map(Vec::from));
        for (path, entry) in found {
            if present.insert(path, entry).is_some() {
                return Err(Status::invalid_argument("a path came twice").into());
            }
        }
    }
    Ok(Form::Listed { paths, present })
}

/// The next entries; none at the end.
fn next(talk: &mut Talk) -> Result<Option<v1::Entries>, Failed> {
    match talk.next()? {
        Request::Entries(entries) => Ok(Some(entries)),
        Request::End(_) => Ok(None),
        Request::Begin(_) => Err(Status::invalid_argument("a submission begins once").into()),
        Request::Content(_) => {
            Err(Status::invalid_argument("content came that was not asked for").into())
        }
    }
}

/// Entries in order; nothing is removed.
fn found(proto: Option<v1::Delta>) -> Result<Vec<(EntryPath, Entry)>, Failed> {
    let delta = delta::from_proto(proto.unwrap_or_default()).map_err(Status::from)?;
    let there = |change: mirrorlog_core::statement::Change| {
        let bytes = change.path.as_bytes();
        if bytes.iter().filter(|byte| **byte == b'/').count() > DEPTH_MAX {
            let expected = format!("a path in at most {DEPTH_MAX} folders");
            return Err(refused(Fault::new(bytes, Rule::Path, expected, "more")));
        }
        let removed = || Status::invalid_argument("what is gone is no entry");
        Ok((change.path, change.new.ok_or_else(removed)?))
    };
    delta.into_iter().map(there).collect()
}

/// Says what is lacking of the entries that came last.
pub(super) fn lacking(files: Vec<v1::LackingFile>, more: bool) -> Reply {
    Reply::Lacking(v1::Lacking { files, more })
}
