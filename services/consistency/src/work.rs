//! Owns the fold, takes one order after the other, and has done what follows.
//!
//! Nothing here waits for a mirror or for the archive: audits and fetches are tasks of their own that
//! come back as orders. It waits for the log only when thousands of verdicts wait for it already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::consistency::{Consistency, Effect, Input, Leadership, Refusal};
use mirrorlog_core::id::{Build, ChannelId, Digest, MirrorId};
use mirrorlog_core::sign::SecretKey;
use mirrorlog_core::statement::{DeltaSource, Snapshot, Statement, Verdict};
use runtime::boot::{Health, now};
use runtime::feed::Park;
use runtime::log::Log;
use tokio::sync::broadcast;
use tokio::time::MissedTickBehavior;
use tracing::Instrument as _;
use wire::Signed;

use crate::audit::Auditor;
use crate::desk::{Desk, Order, Orders, Said, Watched};
use crate::gauges::Gauges;
use crate::post::{Letter, Post};
use fetcher::manifests::Manifests;
use wire::causes;

/// Verdicts that a slow watcher may lag behind before it starts over.
const SAID_MAX: usize = 4096;
/// Builds of a channel whose verdicts are kept for watchers, the newest ones.
const BOARD_BUILDS_MAX: usize = 16;
/// Unknown mirrors that are warned about.
const STRANGERS_MAX: usize = 256;
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two repetitions of the wanted builds.
const WANTED_TICKS: u64 = 600;
/// Ticks between two sweeps of manifest pages, and before the first.
const SWEEP_TICKS: u64 = 6 * 3600;
const FIRST_SWEEP_TICKS: u64 = 600;

/// What the desk works with.
pub(crate) struct Work {
    pub(crate) fold: Consistency,
    pub(crate) desk: Desk,
    pub(crate) key: SecretKey,
    pub(crate) auditor: Auditor,
    pub(crate) manifests: Manifests,
    pub(crate) post: Post,
    pub(crate) gauges: Gauges,
    pub(crate) park: Park,
    pub(crate) health: Health,
    pub(crate) log: Log,
    pub(crate) shelf: Shelf,
}

/// What the desk remembers beside the fold.
pub(crate) struct Shelf {
    board: BTreeMap<ChannelId, BTreeMap<Build, BTreeMap<MirrorId, Signed>>>,
    said: broadcast::Sender<Arc<Said>>,
    newest: BTreeMap<ChannelId, (Build, Digest)>,
    strangers: BTreeSet<String>,
    caught_up: bool,
    leads: bool,
    ticks: u64,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self {
            board: BTreeMap::new(),
            said: broadcast::Sender::new(SAID_MAX),
            newest: BTreeMap::new(),
            strangers: BTreeSet::new(),
            caught_up: false,
            leads: false,
            ticks: 0,
        }
    }
}

impl Work {
    /// Takes orders until all desks are gone.
    pub(crate) async fn run(mut self, mut orders: Orders) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.take(order).await,
                    None => return,
                },
                _ = tick.tick() => self.tick().await,
            }
        }
    }

    async fn take(&mut self, order: Order) {
        match order {
            Order::Input { input, span } => self.feed(*input).instrument(span).await,
            Order::Snapshot {
                snapshot,
                delta,
                span,
            } => {
                span.in_scope(|| self.prepare(&snapshot, delta));
                self.feed(Input::Snapshot(*snapshot)).instrument(span).await;
            }
            Order::Verdict { verdict, signed } => self.heard(*verdict, signed).await,
            Order::Stranger(mirror) => {
                if self.shelf.strangers.len() < STRANGERS_MAX
                    && self.shelf.strangers.insert(mirror.clone())
                {
                    tracing::warn!(
                        mirror,
                        "a mirror reports that is not in the configuration, ignored"
                    );
                }
            }
            Order::CaughtUp => {
                self.shelf.caught_up = true;
                for (_, root) in self.shelf.newest.values() {
                    self.auditor.prepare(None, *root, DeltaSource::Pages);
                }
            }
            Order::Lead(revision) => self.lead(revision).await,
            Order::Forgotten => self.say_everything().await,
            Order::Status { channel, reply } => {
                // The asker may have gone.
                reply.send(self.fold.status(channel.as_ref(), now())).ok();
            }
            Order::Watch {
                channel,
                build,
                reply,
            } => {
                let standing = self
                    .shelf
                    .board
                    .get(&channel)
                    .and_then(|builds| builds.get(&build));
                let watched = Watched {
                    mirrors: self.fold.carriers(&channel),
                    standing: standing
                        .into_iter()
                        .flat_map(|said| said.values().cloned())
                        .collect(),
                    next: self.shelf.said.subscribe(),
                };
                reply.send(watched).ok();
            }
        }
    }

    async fn feed(&mut self, input: Input) {
        let effects = self.fold.step(input, now());
        for effect in effects {
            self.perform(effect).await;
        }
    }

    async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::StartAudit(audit) => self.auditor.start(audit, self.desk.clone()),
            Effect::Probe(mirror) => self.auditor.probe(mirror, self.desk.clone()),
            Effect::PublishVerdict(verdict) => self.publish(verdict).await,
            Effect::SetWanted {
                channel,
                pool,
                build,
            } => {
                let number = build.map_or(0, Build::get);
                tracing::info!(%channel, %pool, build = number, "wanted build changed");
                self.post
                    .send(Letter::Wanted {
                        channel,
                        pool,
                        build,
                    })
                    .await;
            }
            Effect::Fork { channel, build } => {
                tracing::error!(%channel, %build, "fork: the build was signed with two roots, channel halted");
                self.health.degrade(
                    "fork",
                    format!("build {build} of {channel} was signed with two roots"),
                );
            }
            Effect::Refused(refusal) => match refusal {
                Refusal::Stale(..) => tracing::debug!(%refusal, "ignored"),
                Refusal::UnknownMirror(_)
                | Refusal::NotCarried(..)
                | Refusal::Future(..)
                | Refusal::TooLarge(..)
                | Refusal::TooManyChannels(_)
                | Refusal::Fenced { .. } => tracing::warn!(%refusal, "ignored"),
            },
        }
    }

    async fn publish(&mut self, verdict: Verdict) {
        let Verdict {
            mirror,
            channel,
            build,
            state,
            ..
        } = &verdict;
        tracing::info!(%mirror, %channel, %build, ?state, "verdict");
        let (mirror, channel, build) = (mirror.clone(), channel.clone(), *build);
        let signed = Signed::sign(&self.key, &Statement::Verdict(verdict));
        let payload = signed.encode().into();
        self.show(channel.clone(), build, mirror.clone(), signed);
        self.post
            .send(Letter::Verdict {
                channel,
                build,
                mirror,
                signed: payload,
            })
            .await;
    }

    /// Puts a verdict on the board and tells watchers.
    fn show(&mut self, channel: ChannelId, build: Build, mirror: MirrorId, signed: Signed) {
        let builds = self.shelf.board.entry(channel.clone()).or_default();
        builds
            .entry(build)
            .or_default()
            .insert(mirror, signed.clone());
        while builds.len() > BOARD_BUILDS_MAX {
            builds.pop_first();
        }
        // Fails when nobody watches.
        self.shelf
            .said
            .send(Arc::new(Said {
                channel,
                build,
                signed,
            }))
            .ok();
    }

    async fn heard(&mut self, verdict: Verdict, signed: Signed) {
        let own = self.fold.leadership()
            == Leadership::Leader {
                revision: verdict.lease_revision,
            };
        let (channel, build, mirror) = (
            verdict.channel.clone(),
            verdict.build,
            verdict.mirror.clone(),
        );
        let fence = self.fold.fence();
        let older = verdict.lease_revision < fence;
        self.feed(Input::Verdict(verdict)).await;
        if !own && !older {
            self.show(channel, build, mirror, signed);
        }
        if self.shelf.leads && self.fold.leadership() == Leadership::Follower {
            self.shelf.leads = false;
            self.post.next_term();
            self.desk.challenge();
        }
    }

    async fn lead(&mut self, revision: Option<u64>) {
        self.post.next_term();
        self.shelf.leads = revision.is_some();
        let leadership = match revision {
            // A bucket that was made anew counts from 1; verdicts must go on above those that were said.
            Some(revision) => Leadership::Leader {
                revision: revision.max(self.fold.fence() + 1),
            },
            None => Leadership::Follower,
        };
        self.gauges.leads(revision.is_some());
        self.feed(Input::Lease(leadership)).await;
        if revision.is_some() {
            self.repeat_wanted().await;
        }
    }

    /// Writes all wanted builds again: their bucket may have lost them, and writing them twice is harmless.
    async fn repeat_wanted(&mut self) {
        for status in self.fold.status(None, now()).channels {
            for (pool, build) in status.wanted {
                let (channel, build) = (status.channel.clone(), Some(build));
                self.post
                    .send(Letter::Wanted {
                        channel,
                        pool,
                        build,
                    })
                    .await;
            }
        }
    }

    /// Says again what could not be published.
    async fn say_again(&mut self) {
        for (mirror, channel, build) in self.post.take_returned() {
            self.feed(Input::Unsaid {
                mirror,
                channel,
                build,
            })
            .await;
        }
    }

    /// Says every verdict again: a log that was lost, or went back, has forgotten them, and who reads it from now on
    /// would wait for their renewal.
    async fn say_everything(&mut self) {
        for mirror in self.fold.status(None, now()).mirrors {
            for of_channel in mirror.channels {
                let said = of_channel.builds.into_iter();
                for one in said.filter(|one| one.verdict.is_some()) {
                    self.feed(Input::Unsaid {
                        mirror: mirror.mirror.clone(),
                        channel: of_channel.channel.clone(),
                        build: one.build,
                    })
                    .await;
                }
            }
        }
    }

    /// Gets a new build's manifest before the first mirror reports it.
    fn prepare(&mut self, snapshot: &Snapshot, delta: DeltaSource) {
        let new = (snapshot.build, snapshot.root);
        let before = self.shelf.newest.get(&snapshot.channel).copied();
        if before.is_some_and(|before| before.0 >= new.0) {
            return;
        }
        self.shelf.newest.insert(snapshot.channel.clone(), new);
        if self.shelf.caught_up {
            // Changes are told from one build on.
            let fits = before.map(|(build, _)| build) == snapshot.base;
            let delta = if fits { delta } else { DeltaSource::Pages };
            self.auditor
                .prepare(before.map(|(_, root)| root), new.1, delta);
        }
    }

    async fn tick(&mut self) {
        if !self.shelf.caught_up {
            return;
        }
        if self.shelf.leads {
            self.say_again().await;
        }
        let random = crate::audit::random();
        self.feed(Input::Tick { random }).await;
        self.gauges
            .show(&self.fold.status(None, now()), self.park.count());
        match self.log.why_away() {
            None => self.health.recover("log"),
            Some(why) => self.health.degrade("log", why),
        }
        match self.fold.is_cut_off() {
            false => self.health.recover("cut-off"),
            true => self.health.degrade(
                "cut-off",
                "most mirrors do not answer at once: it may be this service that reaches nobody; silence revokes nobody meanwhile",
            ),
        }
        self.shelf.ticks += 1;
        if self.shelf.leads && self.shelf.ticks.is_multiple_of(WANTED_TICKS) {
            self.repeat_wanted().await;
        }
        let first = self.shelf.ticks == FIRST_SWEEP_TICKS;
        if first || self.shelf.ticks.is_multiple_of(SWEEP_TICKS) {
            let newest = self.shelf.newest.values().map(|(_, root)| *root);
            let keep = self.fold.roots().into_iter().chain(newest).collect();
            let manifests = self.manifests.clone();
            tokio::spawn(async move {
                match manifests.sweep(keep).await {
                    Ok(pages) => tracing::info!(pages, "manifest pages swept"),
                    Err(error) => {
                        tracing::warn!(error = causes(&error), "manifest pages cannot be swept")
                    }
                }
            });
        }
    }
}
