//! Audits: asks a mirror for files by its public URL, as a client would, and compares what comes.
//!
//! | module | what it does |
//! | --- | --- |
//! | `plan` | which files |
//! | `budget` | how many bytes of them |
//! | `http` | one mirror's URL and connections |
//! | `check` | one file |

mod budget;
mod check;
pub(crate) mod http;
mod plan;

pub(crate) use plan::random;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use mirrorlog_core::consistency::{Audit, AuditOutcome, Audited, Input, Reach, Scope};
use mirrorlog_core::id::{Digest, MirrorId};
use mirrorlog_core::path::EntryPath;
use tokio::sync::Semaphore;
use tracing::{Instrument as _, Span};

use crate::config::AuditSection;
use crate::desk::Desk;
use fetcher::manifests::Manifests;
use wire::causes;

use budget::Budget;
use check::Found;
use http::Http;
use plan::{Plan, Planner};

/// Audits that run at the same time, all mirrors together.
const AUDITS_AT_ONCE: usize = 64;
/// Audits of one mirror that run at the same time.
const AUDITS_PER_MIRROR: usize = 4;

/// Makes audits. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auditor(Arc<Inner>);

struct Inner {
    mirrors: BTreeMap<MirrorId, Target>,
    manifests: Manifests,
    planner: Planner,
    slots: Semaphore,
    concurrency: usize,
}

/// What is kept of one mirror.
struct Target {
    http: Http,
    budget: Budget,
    slots: Semaphore,
}

impl Auditor {
    /// `mirrors`: those with a public URL.
    pub(crate) fn new(
        mirrors: impl IntoIterator<Item = (MirrorId, String)>,
        config: &AuditSection,
        manifests: Manifests,
    ) -> anyhow::Result<Self> {
        let client = fetcher::web::client(config.timeout.0, config.concurrency)?;
        let watched = |(id, url)| {
            let watched = Target {
                http: Http::new(client.clone(), url, config.timeout.0),
                budget: Budget::new(config.budget_per_day.0),
                slots: Semaphore::new(AUDITS_PER_MIRROR),
            };
            (id, watched)
        };
        Ok(Self(Arc::new(Inner {
            mirrors: mirrors.into_iter().map(watched).collect(),
            planner: Planner::new(manifests.pages(), config.sample, config.new_files_max),
            manifests,
            slots: Semaphore::new(AUDITS_AT_ONCE),
            concurrency: config.concurrency,
        })))
    }

    /// Starts an audit; its result comes to the desk.
    pub(crate) fn start(&self, audit: Audit, desk: Desk) {
        let this = self.clone();
        let (mirror, channel, build) = (&audit.mirror, &audit.channel, audit.build);
        let span = tracing::info_span!("audit", %mirror, %channel, %build, scope = ?audit.scope);
        let inner = span.clone();
        let work = async move {
            let outcome = this.run(&audit).await;
            tracing::debug!(?outcome, "audit ended");
            let Audit {
                id,
                mirror,
                channel,
                build,
                scope,
                ..
            } = audit;
            let audited = Audited {
                id,
                mirror,
                channel,
                build,
                scope,
                outcome,
            };
            desk.input(Input::Audited(audited), &inner).await;
        };
        tokio::spawn(work.instrument(span));
    }

    /// Sees whether a mirror answers; the result comes to the desk.
    pub(crate) fn probe(&self, mirror: MirrorId, desk: Desk) {
        let this = self.clone();
        tokio::spawn(async move {
            let Some(watched) = this.0.mirrors.get(&mirror) else {
                return;
            };
            let nonce = format!("{:016x}", plan::random());
            let answers = watched
                .http
                .answers(&format!("/@/probe/{nonce}?bytes=16"))
                .await;
            let reach = if answers {
                Reach::Answered
            } else {
                Reach::Silent
            };
            desk.input(Input::Probed { mirror, reach }, &Span::none())
                .await;
        });
    }

    async fn run(&self, audit: &Audit) -> AuditOutcome {
        let Some(mirror) = self.0.mirrors.get(&audit.mirror) else {
            return AuditOutcome::Inconclusive;
        };
        // Closed never; a failure means that the service stops.
        let (Ok(_one), Ok(_all)) = (mirror.slots.acquire().await, self.0.slots.acquire().await)
        else {
            return AuditOutcome::Inconclusive;
        };
        let mut base = audit.base.map(|(_, root)| root);
        if let Some(root) = base
            && self
                .0
                .manifests
                .ensure(root, Some(&mirror.http))
                .await
                .is_err()
        {
            // Without its base a build is audited as a first one.
            base = None;
        }
        if let Err(error) = self
            .0
            .manifests
            .ensure(audit.root, Some(&mirror.http))
            .await
        {
            tracing::warn!(
                error = causes(&error),
                "manifest is not to be had, audit put off"
            );
            return AuditOutcome::Inconclusive;
        }
        let Some(plan) = self.plan(audit, base, &mirror.http).await else {
            return AuditOutcome::Inconclusive;
        };
        self.ask(audit, mirror, plan).await
    }

    /// Chooses files. A page that is missing after all is fetched, once.
    async fn plan(&self, audit: &Audit, base: Option<Digest>, mirror: &Http) -> Option<Plan> {
        for attempt in 0..2 {
            let (planner, asked) = (self.0.planner.clone(), audit.clone());
            let planned = tokio::task::spawn_blocking(move || planner.plan(&asked, base)).await;
            let error = match planned {
                Ok(Ok(plan)) => return Some(plan),
                Ok(Err(error)) => causes(&error),
                Err(error) => causes(&error),
            };
            tracing::warn!(error, attempt, "manifest cannot be read");
            for root in base.into_iter().chain([audit.root]) {
                self.0.manifests.repair(root, Some(mirror)).await.ok()?;
            }
        }
        None
    }

    /// Gets a new build's manifest, and what is new in it, before the first mirror reports it.
    pub(crate) fn prepare(&self, base: Option<Digest>, root: Digest) {
        let this = self.clone();
        let work = async move {
            for root in base.into_iter().chain([root]) {
                if let Err(error) = this.0.manifests.ensure::<Http>(root, None).await {
                    tracing::debug!(error = causes(&error), "manifest is not here yet");
                    return;
                }
            }
            let planner = this.0.planner.clone();
            let prepared = tokio::task::spawn_blocking(move || planner.prepare(base, root)).await;
            if let Ok(Err(error)) = prepared {
                tracing::debug!(error = causes(&error), "manifest cannot be read");
            }
        };
        tokio::spawn(work.in_current_span());
    }

    async fn ask(&self, audit: &Audit, mirror: &Target, plan: Plan) -> AuditOutcome {
        let new_files = plan.new_files;
        let chosen = mirror.budget.choose(plan.files);
        if chosen.is_empty() {
            // Nothing but symlinks, or no files at all: that it answers for the build is all there is to see.
            return check::alone(&mirror.http, audit).await;
        }
        let checks = stream::iter(chosen).map(|file| async {
            let found = check::file(&mirror.http, audit, &file).await;
            (file, found)
        });
        let mut checks = checks.buffer_unordered(self.0.concurrency);
        let (mut tally, mut again) = (Tally::default(), Vec::new());
        while let Some((file, found)) = checks.next().await {
            if found == Found::Silent {
                again.push(file);
            } else if let Some(outcome) = tally.count(file.path, found) {
                return outcome;
            }
        }
        // One at a time: a server may refuse so many connections of one address.
        for file in again {
            let found = check::file(&mirror.http, audit, &file).await;
            let silent = found == Found::Silent;
            if let Some(outcome) = tally.count(file.path, found) {
                return outcome;
            }
            if silent {
                break;
            }
        }
        tally.outcome(new_files)
    }
}

/// What the files of one audit add up to.
#[derive(Default)]
struct Tally {
    same: u64,
    glanced: u64,
    shadowed: u64,
    silent: Option<EntryPath>,
}

impl Tally {
    /// Counts a file; a wrong answer ends the audit.
    fn count(&mut self, path: EntryPath, found: Found) -> Option<AuditOutcome> {
        match found {
            Found::Same => self.same += 1,
            Found::Glanced => self.glanced += 1,
            Found::Shadowed => self.shadowed += 1,
            Found::Silent => self.silent = Some(path),
            Found::Moved => return Some(AuditOutcome::Moved),
            Found::Faulty(reason) => return Some(AuditOutcome::Faulty(reason)),
        }
        None
    }

    fn outcome(self, new_files: u64) -> AuditOutcome {
        match self.silent {
            // A mirror that answers for others answers for this one, if it has it.
            Some(path) if self.same + self.glanced + self.shadowed > 0 => {
                AuditOutcome::Withheld { path }
            }
            Some(_) => AuditOutcome::Unreachable,
            // That another channel won the path is what the mirror says: it must not be all it has to say.
            None if self.shadowed > self.same => AuditOutcome::Inconclusive,
            None => AuditOutcome::Passed {
                audited_files: self.same,
                new_files,
            },
        }
    }
}

#[cfg(test)]
mod tests;

/// Where a file of an audit is asked for.
fn url_path(audit: &Audit, path: &[u8]) -> String {
    let encoded = mirrorlog_core::url::encode_path(path);
    match audit.scope {
        Scope::Pinned => format!("/@/{}/{}/{encoded}", audit.channel, audit.build),
        Scope::Live => format!("{}/{encoded}", audit.mount),
    }
}
