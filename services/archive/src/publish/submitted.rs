//! What somebody sent who publishes from another machine, checked as a tree that was scanned here.

use std::collections::BTreeMap;
use std::time::Duration;

use mirrorlog_core::manifest::{Entry, Summary};
use mirrorlog_core::path::EntryPath;

use super::client::Channel;
use super::delta::Listed;
use super::error::PublishError;
use super::fault::Faults;
use super::prepare::{Candidate, Content, Job, Made, Prepared, applied};
use super::workspace::Workspace;

/// What was sent.
pub(crate) enum Sent {
    /// A whole tree's manifest, whose pages are in the workspace.
    Whole(Summary),
    /// What is at these paths now.
    Listed {
        paths: Vec<Vec<u8>>,
        present: BTreeMap<EntryPath, Entry>,
    },
}

/// Makes manifests of what was sent and checks them. The content is in the store, unless it is a dry run.
///
/// # Errors
/// As a publish on this machine: [`PublishError::Refused`] with every fault.
pub(crate) fn prepare_sent(
    job: &Job<'_>,
    workspace: &Workspace,
    sent: &Sent,
) -> Result<Prepared, PublishError> {
    let error = match prepared(job, workspace, sent) {
        Err(error) if error.lacks_page() && job.channel.head.is_some() => error,
        done => return done,
    };
    // Changes to what is not here cannot be made.
    let Sent::Whole(_) = sent else {
        return Err(error);
    };
    let channel = Channel {
        head_lost: true,
        ..job.channel.clone()
    };
    let job = Job {
        channel: &channel,
        ..*job
    };
    prepared(&job, workspace, sent)
}

fn prepared(job: &Job<'_>, workspace: &Workspace, sent: &Sent) -> Result<Prepared, PublishError> {
    let mut faults = Faults::default();
    let (channel, lane) = (job.channel, job.request.lane);
    let (candidates, incremental) = match sent {
        Sent::Whole(summary) => {
            let candidate = Candidate {
                summary: *summary,
                base_root: channel.head_root(),
                base: channel.newest,
                lane,
            };
            (vec![candidate], false)
        }
        Sent::Listed { paths, present } => {
            let listed = Listed::told(paths, present.clone(), &mut faults);
            let pages = workspace.page_store().batch();
            let made = applied(&listed, workspace, &pages, channel, lane, &mut faults)?;
            pages.commit()?;
            (made, true)
        }
    };
    let made = Made {
        candidates,
        incremental,
        empty_folders: 0,
        ingest: Duration::ZERO,
    };
    let content = if job.request.dry_run {
        Content::Elsewhere
    } else {
        Content::Stored
    };
    let counts = job.check_all(content, workspace, &made, faults)?;
    // Who scanned it knows how long that took.
    Ok(made.prepared(counts, Duration::ZERO))
}
