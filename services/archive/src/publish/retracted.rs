//! What was retracted does not come back by accident.

use mirrorlog_core::manifest::{self, Entry};

use super::client::Channel;
use super::error::{PublishError, manifest_error};
use super::fault::{Fault, Faults, Rule};
use super::workspace::View;

const EXPECTED: &str = "no retracted content (or --allow-retracted)";

/// Refuses the root of a retracted build, and content that one added or changed.
pub(crate) fn check(
    view: View<'_>,
    channel: &Channel,
    faults: &mut Faults,
) -> Result<(), PublishError> {
    if channel.retracted_roots.contains(view.root) {
        faults.push(Fault::new(
            b".",
            Rule::Retracted,
            EXPECTED,
            "the tree of a retracted build",
        ));
        return Ok(());
    }
    for (before, root) in &channel.retracted_steps {
        for difference in manifest::diff(view.workspace, before.as_ref(), Some(root)) {
            let difference = difference.map_err(manifest_error)?;
            let Some((_ordinal, bad)) = difference.new else {
                continue;
            };
            if difference
                .old
                .as_ref()
                .is_some_and(|old| same_content(old, &bad))
            {
                continue; // only its time or mode changed
            }
            let here = view.get(&difference.path)?;
            if here.is_some_and(|here| same_content(&here, &bad)) {
                let path = difference.path.as_bytes();
                faults.push(Fault::new(
                    path,
                    Rule::Retracted,
                    EXPECTED,
                    "content of a retracted build",
                ));
            }
        }
    }
    Ok(())
}

/// True when both say the same, whatever their time and mode.
pub(crate) fn same_content(a: &Entry, b: &Entry) -> bool {
    match (a, b) {
        (Entry::File(a), Entry::File(b)) => a.digest == b.digest,
        (Entry::Symlink { target: a }, Entry::Symlink { target: b }) => a == b,
        (Entry::File(_), Entry::Symlink { .. }) | (Entry::Symlink { .. }, Entry::File(_)) => false,
    }
}
