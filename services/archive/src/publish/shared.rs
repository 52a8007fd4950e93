//! Channels of one mount may share a path only with equal content.

use mirrorlog_core::id::Digest;
use mirrorlog_core::manifest;

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
    let heads: Vec<(View<'_>, &Sibling)> = siblings
        .iter()
        .filter_map(|s| {
            s.root.as_ref().map(|root| {
                (
                    View {
                        workspace: view.workspace,
                        root,
                    },
                    s,
                )
            })
        })
        .collect();
    if heads.is_empty() {
        return Ok(());
    }
    for difference in manifest::diff(view.workspace, base, Some(view.root)) {
        let difference = difference.map_err(manifest_error)?;
        let Some((_ordinal, ours)) = difference.new else {
            continue;
        };
        for (head, sibling) in &heads {
            if head
                .get(&difference.path)?
                .is_some_and(|theirs| !same_content(&ours, &theirs))
            {
                let expected = format!("the content that channel {} has there", sibling.id);
                let path = difference.path.as_bytes();
                faults.push(Fault::new(path, Rule::Shared, expected, "other content"));
            }
        }
    }
    Ok(())
}
