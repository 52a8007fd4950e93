//! Owns the fold, takes one input after the other, has done what follows, and gives each new view away.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::directory::{Directory, Effect, Input, Refusal, View};
use mirrorlog_core::id::Digest;
use runtime::boot::{Health, now};
use runtime::log::{Log, Refused};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use wire::causes;

use crate::config::MirrorSection;
use crate::desk::{Desk, Order, Orders};
use crate::gauges::Gauges;
use crate::probe::Prober;
use crate::saved;
use crate::trees::{RETRY, Trees, holders};

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
    pub(crate) refused: Refused,
    /// Told once what was retained on the log has been taken.
    pub(crate) caught_up: watch::Sender<bool>,
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
    saving: Option<JoinHandle<()>>,
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
            saving: None,
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
                _ = tick.tick() => self.tick(),
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
                self.caught_up.send_replace(true);
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

    fn tick(&mut self) {
        self.feed(Input::Tick);
        let time = Instant::now();
        let (revision, saved) = self.shelf.saved;
        let changed = self.fold.view().revision() != revision;
        let pause = if changed { SAVE_EVERY } else { SAVE_IDLE };
        if time.duration_since(saved) >= pause {
            // Latencies and times of probes are shown too.
            self.give_away(true);
            self.prepare();
            self.save();
            self.tell();
        }
        if time.duration_since(self.shelf.swept) >= SWEEP_EVERY {
            self.shelf.swept = time;
            self.sweep();
        }
    }

    fn tell(&self) {
        self.gauges.show(self.fold.view(), now());
        let away = match self.log.borrow().as_ref() {
            Some(log) => log.why_away(),
            None => Some(self.refused.why_away()),
        };
        if let Some(why) = away {
            let text = format!("{why}; answers are those of the last verdicts");
            self.health.degrade("log", text);
        } else if self.shelf.caught_up {
            self.health.recover("log");
        }
    }

    /// Saves in a task of its own, one at a time: disks are slow, and verdicts must not wait for them.
    fn save(&mut self) {
        let saving = self.shelf.saving.as_ref();
        if saving.is_some_and(|saving| !saving.is_finished()) {
            return;
        }
        let (dir, view) = (self.dir.clone(), self.fold.view().clone());
        let health = self.health.clone();
        self.shelf.saved = (view.revision(), Instant::now());
        self.shelf.saving = Some(tokio::task::spawn_blocking(move || {
            match saved::save(&dir, &view, now()) {
                Ok(()) => health.recover("state"),
                Err(error) => {
                    health.degrade("state", format!("the state cannot be saved: {error}"))
                }
            }
        }));
    }

    /// Gets the manifests of builds that somebody may ask for: each is tried until it is here, or is of no use.
    fn prepare(&mut self) {
        let roots: BTreeSet<Digest> = saved::roots(self.fold.view()).into_iter().collect();
        let new: Vec<Digest> = roots.difference(&self.shelf.prepared).copied().collect();
        self.shelf.prepared = roots;
        if new.is_empty() {
            return;
        }
        let (trees, views) = (self.trees.clone(), self.views.subscribe());
        let mirrors = self.mirrors.iter();
        let mirrors: Vec<String> = mirrors.map(|mirror| mirror.url.clone()).collect();
        let urls = move |root: &Digest| {
            let view = Arc::clone(&views.borrow());
            let holders = holders::of(&view, *root).into_iter();
            let urls = holders.filter_map(|mirror| mirrors.get(mirror.get()).cloned());
            saved::roots(&view).contains(root).then(|| urls.collect())
        };
        tokio::spawn(async move { trees.prepare(new, RETRY, urls).await });
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
