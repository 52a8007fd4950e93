//! Owns the fold, takes one input after the other, has done what follows, and gives each new view away.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::directory::{Directory, Effect, Input, Refusal, View};
use mirrorlog_core::id::Digest;
use runtime::boot::{Health, now};
use runtime::log::Log;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use wire::causes;

use crate::config::MirrorSection;
use crate::desk::{Desk, Order, Orders};
use crate::gauges::Gauges;
use crate::probe::Prober;
use crate::saved;
use crate::trees::Trees;

const TICK: Duration = Duration::from_millis(100);
/// Inputs that are taken before a view is given away, however many wait.
const BURST: usize = 256;
/// Pause between two savings of the state.
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// Pause between two when nothing changed, so that its age tells whether the service lives.
const SAVE_IDLE: Duration = Duration::from_secs(30);
/// Pause between two sweeps of manifest pages.
const SWEEP_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Strangers that are warned about.
const STRANGERS_MAX: usize = 256;

/// What the desk works with.
pub(crate) struct Work {
    pub(crate) fold: Directory,
    pub(crate) desk: Desk,
    pub(crate) mirrors: Vec<MirrorSection>,
    pub(crate) prober: Prober,
    pub(crate) trees: Trees,
    pub(crate) views: watch::Sender<Arc<View>>,
    pub(crate) gauges: Gauges,
    pub(crate) health: Health,
    pub(crate) log: watch::Receiver<Option<Log>>,
    pub(crate) dir: PathBuf,
    pub(crate) shelf: Shelf,
}

/// What the desk remembers beside the fold.
pub(crate) struct Shelf {
    given: u64,
    caught_up: bool,
    strangers: BTreeSet<String>,
    prepared: BTreeSet<Digest>,
    saved: (u64, Instant),
    swept: Instant,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            given: u64::MAX,
            caught_up: false,
            strangers: BTreeSet::new(),
            prepared: BTreeSet::new(),
            saved: (u64::MAX, now),
            swept: now,
        }
    }
}

impl Work {
    /// Takes orders until all desks are gone.
    pub(crate) async fn run(mut self, mut orders: Orders) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = Vec::with_capacity(BURST);
        loop {
            tokio::select! {
                count = orders.recv_many(&mut waiting, BURST) => {
                    if count == 0 {
                        return;
                    }
                    for order in waiting.drain(..) {
                        self.take(order);
                    }
                }
                _ = tick.tick() => self.tick().await,
            }
            self.give_away(false);
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Input(input) => self.feed(*input),
            Order::CaughtUp => {
                self.shelf.caught_up = true;
                self.health.recover("log");
                // Who is told that it is ready must find what was retained.
                self.give_away(true);
                self.health.started();
            }
        }
    }

    fn feed(&mut self, input: Input) {
        for effect in self.fold.step(input, now()) {
            match effect {
                Effect::Probe { mirror, looks } => {
                    let url = self.mirrors[mirror.get()].url.clone();
                    self.prober.start(mirror, url, looks, self.desk.clone());
                }
                Effect::Fork { channel, build } => {
                    tracing::error!(%channel, %build, "fork: the build was signed with two roots, channel not offered");
                    self.health.degrade(
                        "fork",
                        format!("build {build} of {channel} was signed with two roots"),
                    );
                }
                Effect::Refused(Refusal::UnknownMirror(mirror)) => {
                    let strangers = &mut self.shelf.strangers;
                    if strangers.len() < STRANGERS_MAX && strangers.insert(mirror.to_string()) {
                        tracing::warn!(%mirror, "a verdict names a mirror that is not in the configuration, ignored");
                    }
                }
                Effect::Refused(refusal) => tracing::warn!(%refusal, "ignored"),
            }
        }
    }

    /// Shows the newest view to everybody who answers; unless `always`, only when answers may differ.
    fn give_away(&mut self, always: bool) {
        let view = self.fold.view();
        if always || view.revision() != self.shelf.given {
            self.shelf.given = view.revision();
            self.views.send_replace(Arc::new(view.clone()));
        }
    }

    async fn tick(&mut self) {
        self.feed(Input::Tick);
        let time = Instant::now();
        let (revision, saved) = self.shelf.saved;
        let changed = self.fold.view().revision() != revision;
        let pause = if changed { SAVE_EVERY } else { SAVE_IDLE };
        if time.duration_since(saved) >= pause {
            // Latencies and times of probes are shown too.
            self.give_away(true);
            self.prepare();
            self.save().await;
            self.tell();
        }
        if time.duration_since(self.shelf.swept) >= SWEEP_EVERY {
            self.shelf.swept = time;
            self.sweep();
        }
    }

    fn tell(&self) {
        self.gauges.show(self.fold.view(), now());
        let connected = self.log.borrow().as_ref().is_some_and(Log::is_connected);
        if !connected {
            let text = "the log cannot be reached: answers are those of the last verdicts";
            self.health.degrade("log", text);
        } else if self.shelf.caught_up {
            self.health.recover("log");
        }
    }

    async fn save(&mut self) {
        let (dir, view) = (self.dir.clone(), self.fold.view().clone());
        self.shelf.saved = (view.revision(), Instant::now());
        let saved = tokio::task::spawn_blocking(move || saved::save(&dir, &view, now())).await;
        match saved {
            Ok(Ok(())) => self.health.recover("state"),
            Ok(Err(error)) => self
                .health
                .degrade("state", format!("the state cannot be saved: {error}")),
            Err(error) => tracing::error!(%error, "the state could not be saved"),
        }
    }

    /// Gets the manifests of builds that somebody may ask for.
    fn prepare(&mut self) {
        let roots: BTreeSet<Digest> = saved::roots(self.fold.view()).into_iter().collect();
        self.shelf.prepared.retain(|root| roots.contains(root));
        let new: Vec<Digest> = roots.difference(&self.shelf.prepared).copied().collect();
        self.shelf.prepared = roots;
        if new.is_empty() {
            return;
        }
        let trees = self.trees.clone();
        tokio::spawn(async move {
            for root in new {
                if let Err(error) = trees.prepare(root).await {
                    // Whoever asks for a path tries again.
                    tracing::warn!(%root, error = causes(&error), "a build's manifest is not to be had now");
                }
            }
        });
    }

    fn sweep(&self) {
        let (trees, keep) = (self.trees.clone(), saved::roots(self.fold.view()));
        tokio::spawn(async move {
            match trees.sweep(keep).await {
                Ok(pages) => tracing::info!(pages, "manifest pages swept"),
                Err(error) => {
                    tracing::warn!(error = causes(&error), "manifest pages cannot be swept");
                }
            }
        });
    }
}
