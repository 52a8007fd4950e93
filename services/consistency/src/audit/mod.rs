//! Audits: asks a mirror for files by its public URL, as a client would, and compares what comes.
//!
//! | module | what it does |
//! | --- | --- |
//! | `plan` | which files |
//! | `budget` | how many bytes of them |
//! | `connections` | how many connections, all mirrors together |
//! | `http` | one mirror's URL, and a client for it |
//! | `check` | one file |

mod budget;
mod check;
mod connections;
pub(crate) mod http;
mod plan;

pub(crate) use connections::raise_open_files;
pub(crate) use plan::random;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use mirrorlog_core::consistency::{Audit, AuditOutcome, Audited, Input, Scope};
use mirrorlog_core::id::{Digest, MirrorId};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::statement::DeltaSource;
use tokio::sync::Semaphore;
use tracing::{Instrument as _, Span};

use crate::config::AuditSection;
use crate::desk::Desk;
use fetcher::manifests::Manifests;
use wire::causes;

use budget::Budget;
use check::Found;
use connections::Connections;
use http::Http;
use plan::{File, Plan, Planner};

/// Audits of one mirror that run at the same time.
const AUDITS_PER_MIRROR: usize = 4;

/// Makes audits. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auditor(Arc<Inner>);

struct Inner {
    mirrors: BTreeMap<MirrorId, Target>,
    manifests: Manifests,
    planner: Planner,
    connections: Connections,
    timeout: Duration,
    slots: Semaphore,
    concurrency: usize,
}

/// What is kept of one mirror.
struct Target {
    url: Arc<str>,
    budget: Budget,
    slots: Semaphore,
}

impl Auditor {
    /// `mirrors`: those with a public URL. `open_files_max`: files that this process may have open.
    pub(crate) fn new(
        mirrors: impl IntoIterator<Item = (MirrorId, String)>,
        config: &AuditSection,
        manifests: Manifests,
        open_files_max: u64,
    ) -> Self {
        let watched = |(id, url): (MirrorId, String)| {
            let watched = Target {
                url: url.into(),
                budget: Budget::new(config.budget_per_day.0),
                slots: Semaphore::new(AUDITS_PER_MIRROR),
            };
            (id, watched)
        };
        let audits = connections::audits_at_once(open_files_max, config.concurrency);
        tracing::debug!(audits, open_files_max, "audits at a time");
        Self(Arc::new(Inner {
            mirrors: mirrors.into_iter().map(watched).collect(),
            planner: Planner::new(manifests.pages(), config.sample, config.new_files_max),
            manifests,
            connections: Connections::new(config.timeout.0, config.concurrency),
            timeout: config.timeout.0,
            slots: Semaphore::new(audits),
            concurrency: config.concurrency,
        }))
    }

    /// None when TLS cannot be set up.
    fn http(&self, mirror: &MirrorId, target: &Target) -> Option<Http> {
        match self.0.connections.to(mirror) {
            Ok(client) => Some(Http::new(client, target.url.clone(), self.0.timeout)),
            Err(error) => {
                tracing::error!(error = causes(&error), "no connection can be made");
                None
            }
        }
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
            let target = this.0.mirrors.get(&mirror);
            let Some(http) = target.and_then(|target| this.http(&mirror, target)) else {
                return;
            };
            let nonce = format!("{:016x}", plan::random());
            // What cannot be asked is asked in the next round.
            let Some(reach) = http.reach(&format!("/@/probe/{nonce}?bytes=16")).await else {
                return;
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
        let Some(http) = self.http(&audit.mirror, mirror) else {
            return AuditOutcome::Inconclusive;
        };
        let mut base = audit.base.map(|(_, root)| root);
        if let Some(root) = base
            && self.0.manifests.ensure(root, Some(&http)).await.is_err()
        {
            // Without its base a build is audited as a first one.
            base = None;
        }
        if let Err(error) = self.0.manifests.ensure(audit.root, Some(&http)).await {
            tracing::warn!(
                error = causes(&error),
                "manifest is not to be had, audit put off"
            );
            return AuditOutcome::Inconclusive;
        }
        let Some(plan) = self.plan(audit, base, &http).await else {
            return AuditOutcome::Inconclusive;
        };
        self.ask(audit, &http, &mirror.budget, plan).await
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
    /// Made of its base and the event's changes where they give it; else its pages come from the archive.
    pub(crate) fn prepare(&self, base: Option<Digest>, root: Digest, delta: DeltaSource) {
        let this = self.clone();
        let work = async move {
            let manifests = &this.0.manifests;
            let ensure = async |root| {
                let here = manifests.ensure::<Http>(root, None).await;
                if let Err(error) = &here {
                    tracing::debug!(error = causes(error), "manifest is not here yet");
                }
                here.is_ok()
            };
            if let Some(base) = base
                && !ensure(base).await
            {
                return;
            }
            let made = match delta {
                DeltaSource::Inline(delta) => manifests.apply(base, delta, root).await,
                DeltaSource::Pages => false,
            };
            if !made && !ensure(root).await {
                return;
            }
            let planner = this.0.planner.clone();
            let prepared = tokio::task::spawn_blocking(move || planner.prepare(base, root)).await;
            if let Ok(Err(error)) = prepared {
                tracing::debug!(error = causes(&error), "manifest cannot be read");
            }
        };
        tokio::spawn(work.in_current_span());
    }

    async fn ask(&self, audit: &Audit, http: &Http, budget: &Budget, plan: Plan) -> AuditOutcome {
        let new_files = plan.new_files;
        let chosen = budget.choose(plan.files);
        if chosen.is_empty() {
            // Nothing but symlinks, or no files at all: that it answers for the build is all there is to see.
            return check::alone(http, audit).await;
        }
        let checks = stream::iter(chosen).map(|file| async {
            let found = check::file(http, audit, &file).await;
            (file, found)
        });
        let mut checks = checks.buffer_unordered(self.0.concurrency);
        let (mut tally, mut again) = (Tally::default(), Vec::new());
        while let Some((file, found)) = checks.next().await {
            // What is wrong with another file must not be lost for want of something here.
            if matches!(found, Found::Silent | Found::Unasked) {
                again.push(file);
            } else if let Some(outcome) = tally.count(file, found) {
                return outcome;
            }
        }
        // One at a time: a server may refuse so many connections of one address.
        for file in again {
            let found = check::file(http, audit, &file).await;
            let silent = found == Found::Silent;
            if let Some(outcome) = tally.count(file, found) {
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
    sampled: u64,
    glanced: u64,
    shadowed: u64,
    silent: Option<EntryPath>,
}

impl Tally {
    /// Counts a file; a wrong answer ends the audit.
    fn count(&mut self, file: File, found: Found) -> Option<AuditOutcome> {
        match found {
            Found::Same => {
                self.same += 1;
                self.sampled += u64::from(file.sampled);
            }
            Found::Glanced => self.glanced += 1,
            Found::Shadowed => self.shadowed += 1,
            Found::Silent => self.silent = Some(file.path),
            Found::Moved => return Some(AuditOutcome::Moved),
            Found::Unasked => return Some(AuditOutcome::Inconclusive),
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
                sampled_files: self.sampled,
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
