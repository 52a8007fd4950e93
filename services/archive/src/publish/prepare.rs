//! The blocking part of a publish: tree in, checked manifests out.

use std::time::{Duration, Instant};

use mirrorlog_core::archive::{Split, split};
use mirrorlog_core::id::{Digest, Lane};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::manifest::{self, Summary};
use mirrorlog_core::path::EntryPath;
use runtime::store::Batch;

use super::client::Channel;
use super::delta::Listed;
use super::error::{PublishError, manifest_error, manifest_failure};
use super::fault::{Fault, Faults, Rule};
use super::progress::{Counters, Phase};
use super::workspace::{Purpose, View, Workspace};
use super::{PublishConfig, PublishRequest, retracted, shared};
use crate::closure::Part;
use crate::layout::{Extent, Rules, validate};
use crate::scan::{ScanInput, Tree, scan};

/// A build to be committed.
#[derive(Clone, Debug)]
pub(crate) struct PreparedStep {
    pub(crate) summary: Summary,
    /// 0: none.
    pub(crate) base: u64,
    pub(crate) lane: Lane,
}

impl Prepared {
    /// What goes out first.
    pub(crate) fn first(&self) -> &PreparedStep {
        &self.steps[0]
    }
}

/// Differences against the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) added: u64,
    pub(crate) changed: u64,
    pub(crate) removed: u64,
}

/// What a tree amounts to.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    /// One, or two for a priority publish over a head that is not yet wanted.
    pub(crate) steps: Vec<PreparedStep>,
    pub(crate) counts: Counts,
    pub(crate) empty_folders: u64,
    pub(crate) scan: Duration,
    pub(crate) ingest: Duration,
}

/// All that the blocking part needs.
pub(crate) struct Job<'a> {
    pub(crate) config: &'a PublishConfig,
    pub(crate) request: &'a PublishRequest,
    pub(crate) channel: &'a Channel,
    pub(crate) counters: &'a Counters,
}

/// A manifest and what it is a change of.
pub(super) struct Candidate {
    pub(super) summary: Summary,
    /// The root that its changes were applied to.
    pub(super) base_root: Option<Digest>,
    pub(super) base: u64,
    pub(super) lane: Lane,
}

/// Where the checks find the content of a candidate.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    /// In the store, or else in this tree.
    Tree(&'a Tree),
    /// In the store.
    Stored,
    /// Nowhere here: what takes no content is checked.
    Elsewhere,
}

/// Scans, reads, builds and checks.
///
/// # Errors
/// [`PublishError::Refused`] with every fault of the tree; faults of disk and store.
pub(crate) fn prepare(job: &Job<'_>) -> Result<Prepared, PublishError> {
    let error = match prepare_against_head(job) {
        Err(error) if error.lacks_page() && job.channel.head.is_some() => error,
        done => return done,
    };
    tracing::warn!(channel = %job.channel.id, error = crate::journal::with_causes(&error), "the newest build's manifest is not here: the whole tree is looked at, and compared with nothing");
    let channel = Channel {
        head_lost: true,
        ..job.channel.clone()
    };
    prepare_against_head(&Job {
        channel: &channel,
        ..*job
    })
}

fn prepare_against_head(job: &Job<'_>) -> Result<Prepared, PublishError> {
    let path = &job.request.tree;
    let tree = Tree::open(path).map_err(|source| PublishError::tree(path, source))?;
    prepare_in(job, &tree, &job.workspace()?)
}

/// The same in a workspace that outlives it.
pub(super) fn prepare_in(
    job: &Job<'_>,
    tree: &Tree,
    workspace: &Workspace,
) -> Result<Prepared, PublishError> {
    let begun = Instant::now();
    let Job {
        config,
        request,
        channel,
        counters,
    } = *job;
    let path = &request.tree;
    counters.enter(Phase::Scan);
    let mut faults = Faults::default();
    let part = Part::of(channel, tree, &mut faults)?;
    let cache = config
        .state_dir
        .join("scan")
        .join(format!("{}.cache", channel.id));
    let select = |path: &EntryPath| part.takes(path);
    let input = ScanInput {
        tree,
        workspace,
        select: &select,
        cache: &cache,
        published: channel.head_root(),
        counters,
    };
    // The changes of a part hang on its indexes, so a part is always scanned.
    // What the list does not name must be there: where it was let go, the whole tree is looked at.
    let lists = part.is_whole() && !channel.head_collected && !channel.head_lost;
    let listed = request.changed.as_ref().filter(|_| lists);
    let made = match listed {
        None => whole(&input, channel, request.lane, &mut faults)?,
        Some(paths) => changes(&input, channel, request.lane, paths, &mut faults)?,
    };
    if faults
        .list()
        .iter()
        .any(|fault| fault.what == Rule::Changed)
        || made.candidates.is_empty()
    {
        return Err(PublishError::Refused {
            tree: path.clone(),
            faults,
        });
    }
    let counts = job.check_all(Content::Tree(tree), workspace, &made, faults)?;
    Ok(made.prepared(counts, begun.elapsed()))
}

impl From<Candidate> for PreparedStep {
    fn from(candidate: Candidate) -> Self {
        Self {
            summary: candidate.summary,
            base: candidate.base,
            lane: candidate.lane,
        }
    }
}

/// What is to be checked, then published.
pub(super) struct Made {
    pub(super) candidates: Vec<Candidate>,
    /// Made of changes to builds that were checked before.
    pub(super) incremental: bool,
    pub(super) empty_folders: u64,
    pub(super) ingest: Duration,
}

impl Made {
    /// It was checked; all in all it took so long.
    pub(super) fn prepared(self, counts: Counts, took: Duration) -> Prepared {
        let steps = self.candidates.into_iter().map(PreparedStep::from);
        Prepared {
            steps: steps.collect(),
            counts,
            empty_folders: self.empty_folders,
            scan: took.saturating_sub(self.ingest),
            ingest: self.ingest,
        }
    }
}

fn whole(
    input: &ScanInput<'_>,
    channel: &Channel,
    lane: Lane,
    faults: &mut Faults,
) -> Result<Made, PublishError> {
    let scanned = scan(input, faults)?;
    let base_root = channel.head_root();
    let candidate = Candidate {
        summary: scanned.summary,
        base_root,
        base: channel.newest,
        lane,
    };
    let empty_folders = scanned.empty_folders;
    Ok(Made {
        candidates: vec![candidate],
        incremental: false,
        empty_folders,
        ingest: scanned.ingest,
    })
}

fn changes(
    input: &ScanInput<'_>,
    channel: &Channel,
    lane: Lane,
    paths: &[Vec<u8>],
    faults: &mut Faults,
) -> Result<Made, PublishError> {
    let begun = Instant::now();
    let batch = input.workspace.store().batch();
    let scratch = input.workspace.page_store().batch();
    let listed = Listed::look(input, &batch, paths, faults)?;
    let pages = if input.workspace.keeps_content() {
        &batch
    } else {
        &scratch
    };
    let candidates = applied(&listed, input.workspace, pages, channel, lane, faults)?;
    batch.commit()?;
    scratch.commit()?;
    let ingest = begun.elapsed();
    listed.recheck(input, faults)?;
    Ok(Made {
        candidates,
        incremental: true,
        empty_folders: 0,
        ingest,
    })
}

/// The listed changes, on whatever they are applied to.
pub(super) fn applied(
    listed: &Listed,
    workspace: &Workspace,
    pages: &Batch,
    channel: &Channel,
    lane: Lane,
    faults: &mut Faults,
) -> Result<Vec<Candidate>, PublishError> {
    let mut candidates = Vec::new();
    for (base_root, base, lane) in bases(channel, lane) {
        let delta = listed.against(workspace, base_root.as_ref())?;
        match manifest::apply(workspace, pages, base_root.as_ref(), &delta) {
            Ok(summary) => candidates.push(Candidate {
                summary,
                base_root,
                base,
                lane,
            }),
            Err(error) => faults.push(manifest_failure(error)?),
        }
    }
    Ok(candidates)
}

/// What the changes are applied to. Inside one channel a priority change does not wait for bulk that is
/// not wanted anywhere yet: it goes on top of the wanted build first, then on top of the head.
fn bases(channel: &Channel, lane: Lane) -> Vec<(Option<Digest>, u64, Lane)> {
    let head = channel.head.map(|(_, root)| root);
    let newest_good = channel.head.map(|(build, _)| build);
    let wanted = channel.wanted.map(|(build, _)| build);
    match (split(lane, true, newest_good, wanted), channel.wanted) {
        (Split::Two(wanted), Some((_, root))) => vec![
            (Some(root), wanted.get(), Lane::Priority),
            (head, channel.newest + 1, Lane::Bulk),
        ],
        (Split::Two(_) | Split::One, _) => vec![(head, channel.newest, lane)],
    }
}

impl Job<'_> {
    fn workspace(&self) -> Result<Workspace, PublishError> {
        let purpose = if self.request.dry_run {
            Purpose::DryRun
        } else {
            Purpose::Publish
        };
        // The channel's lock is held: what is there is what a killed publisher left.
        let scratch = self.config.state_dir.join("scratch");
        let scratch = scratch.join(self.channel.id.as_str());
        let workspace = Workspace::open(&self.config.store_dir, &scratch, purpose)?;
        workspace.with_immutable(&self.config.immutable)
    }

    /// Checks every candidate, and counts what the last one changes; `faults` are those of the scan.
    pub(super) fn check_all(
        &self,
        content: Content<'_>,
        workspace: &Workspace,
        made: &Made,
        mut faults: Faults,
    ) -> Result<Counts, PublishError> {
        self.counters.enter(Phase::Validate);
        let [first @ .., last] = &made.candidates[..] else {
            let tree = self.request.tree.clone();
            return Err(PublishError::Refused { tree, faults });
        };
        // The last one is the whole tree: when that is broken, nothing else is worth saying.
        faults.append(self.check(content, workspace, last, made.incremental)?);
        if !faults.is_empty() {
            let tree = self.request.tree.clone();
            return Err(PublishError::Refused { tree, faults });
        }
        for candidate in first {
            let faults = self.check(content, workspace, candidate, made.incremental)?;
            if !faults.is_empty() {
                let wanted = candidate.base;
                return Err(PublishError::NotSeparable { wanted, faults });
            }
        }
        count(workspace, self.channel.head_root(), last.summary.root)
    }

    fn check(
        &self,
        content: Content<'_>,
        workspace: &Workspace,
        candidate: &Candidate,
        incremental: bool,
    ) -> Result<Faults, PublishError> {
        let Job {
            config,
            request,
            channel,
            ..
        } = *self;
        let mut faults = Faults::default();
        let root = &candidate.summary.root;
        if candidate.summary.entries == 0 {
            faults.push(Fault::new(
                b".",
                Rule::Missing,
                "at least one file",
                "an empty tree",
            ));
            return Ok(faults);
        }
        let rules = Rules {
            layout: channel.layout,
            needs_suites: !channel.catch_all,
            allow_expired: request.allow_expired,
            deps: request.deps,
            openpgp_keyring: config.openpgp_keyring.clone(),
            signify_keys: config.signify_keys.clone(),
            now: runtime::boot::now(),
            before: candidate.base_root,
        };
        let extent = match &candidate.base_root {
            Some(base) if incremental => Extent::Since(base),
            Some(_) | None => Extent::Whole,
        };
        let view = View { workspace, root };
        match content {
            Content::Tree(tree) => validate(&rules, Some(tree), view, extent, &mut faults)?,
            Content::Stored => validate(&rules, None, view, extent, &mut faults)?,
            Content::Elsewhere => {}
        }
        shared::check(
            view,
            candidate.base_root.as_ref(),
            &channel.siblings,
            &mut faults,
        )?;
        // What the head has already was admitted when it was published.
        let at_head = channel.head.is_some_and(|(_, head)| head == *view.root);
        if !request.allow_retracted && !at_head {
            retracted::check(view, channel, &mut faults)?;
        }
        Ok(faults)
    }
}

fn count(
    workspace: &Workspace,
    head: Option<Digest>,
    root: Digest,
) -> Result<Counts, PublishError> {
    let mut counts = Counts::default();
    for difference in manifest::diff(workspace, head.as_ref(), Some(&root)) {
        let difference = difference.map_err(manifest_error)?;
        match (difference.old, difference.new) {
            (None, _added) => counts.added += 1,
            (Some(_), Some(_)) => counts.changed += 1,
            (Some(_), None) => counts.removed += 1,
        }
    }
    Ok(counts)
}

/// The layout to declare a channel with, if the archive does not know it.
pub(crate) fn layout_to_declare(request: &PublishRequest) -> Result<Layout, PublishError> {
    let path = &request.tree;
    match request.layout {
        Some(layout) => Ok(layout),
        None => crate::layout::detect(path).map_err(|source| PublishError::tree(path, source)),
    }
}
