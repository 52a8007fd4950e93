//! Channels of one mount may share a path only with equal content.

use mirrorlog_core::id::{ChannelId, Digest};
use mirrorlog_core::manifest;
use mirrorlog_core::path::EntryPath;

use super::client::Sibling;
use super::error::{PublishError, manifest_error};
use super::fault::{Fault, Faults, Rule};
use super::retracted::same_content;
use super::workspace::View;

/// Compares what differs from `base` (all, without one) with the siblings' heads.
pub(crate) fn check(
    view: View<'_>,
    base: Option<&Digest>,
    siblings: &[Sibling],
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let workspace = view.workspace;
    let head = |sibling: &Sibling| Some((sibling.root?, sibling.id.clone()));
    let heads: Vec<(Digest, ChannelId)> = siblings.iter().filter_map(head).collect();
    if heads.is_empty() {
        return Ok(());
    }
    let mut folder = Vec::new();
    for difference in manifest::diff(workspace, base, Some(view.root)) {
        let difference = difference.map_err(manifest_error)?;
        let Some((_ordinal, ours)) = difference.new else {
            continue;
        };
        let path = &difference.path;
        let parent = parent(path);
        for (root, id) in &heads {
            let theirs = View { workspace, root };
            let other = theirs
                .get(path)?
                .is_some_and(|theirs| !same_content(&ours, &theirs));
            let (expected, found) = if other {
                let expected = format!("the content that channel {id} has there");
                (expected, "other content")
            } else if theirs.has_below(path)? || (folder != parent && theirs.is_above(path)?) {
                let expected = format!("a folder where channel {id} has one");
                (expected, "a file or symlink of that name in one of the two")
            } else {
                continue;
            };
            faults.push(Fault::new(path.as_bytes(), Rule::Shared, expected, found));
        }
        if folder != parent {
            folder = parent.to_vec();
        }
    }
    Ok(())
}

fn parent(path: &EntryPath) -> &[u8] {
    let bytes = path.as_bytes();
    let name = path.name().len();
    &bytes[..bytes.len() - name]
}

impl View<'_> {
    /// True when the path is a folder.
    fn has_below(&self, path: &EntryPath) -> Result<bool, PublishError> {
        let below = [path.as_bytes(), b"/"].concat();
        let mut found = manifest::iter(self.workspace, self.root, &below, None);
        Ok(found.next().transpose().map_err(manifest_error)?.is_some())
    }

    /// True when one of the path's folders is a file or symlink.
    fn is_above(&self, path: &EntryPath) -> Result<bool, PublishError> {
        let bytes = path.as_bytes();
        let slashes = bytes.iter().enumerate().filter(|(_, b)| **b == b'/');
        for folder in slashes.filter_map(|(at, _)| EntryPath::new(&bytes[..at]).ok()) {
            if self.get(&folder)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
