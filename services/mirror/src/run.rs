//! Wires a mirror and runs it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use fetcher::limit::RateLimiter;
use mirrorlog_core::id::Lane;
use runtime::boot::{GrpcLimits, Health, HttpLimits};
use runtime::log::{Log, Position};
use runtime::state::{Control, Opened, SledState};
use runtime::store::{Pages, Store};
use runtime::tls::Tls;
use runtime::trust::{Keys, Trust, TrustError};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::state::Cursor;

use crate::collect::{self, Leases};
use crate::config::{Config, FlipSetting};
use crate::engine::{Engine, Mailbox};
use crate::export::Exports;
use crate::inbox::{Inbox, Replay};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::parked::Parked;
use crate::peers::Pool;
use crate::report::Reports;
use crate::room::Room;
use crate::serving::{ServingReader, ServingWriter};
use crate::suspects::{self, Suspects};
use crate::sync::Syncer;
use crate::views::Views;
use crate::{http, scrub};

/// Decoded manifest pages kept in memory, in bytes.
const PAGES_CACHED_BYTES: usize = 12 * 1024 * 1024;

/// Pause before a reader of the log that ended is started again.
const READER_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// What the engine and its tasks share.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) journal: Journal,
    pub(crate) syncer: Syncer,
    pub(crate) serving: ServingWriter,
    pub(crate) serving_reader: ServingReader,
    pub(crate) exports: Option<Exports>,
    pub(crate) views: Views,
    pub(crate) reports: Arc<Reports>,
    pub(crate) collections: Arc<collect::Collections>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) coming: collect::Coming,
    pub(crate) suspects: Suspects,
    pub(crate) metrics: Metrics,
    /// Whom this mirror believes.
    pub(crate) trust: Trust,
    pub(crate) parked: Parked,
    pub(crate) health: Health,
    pub(crate) stored_cursors: Mutex<BTreeMap<Lane, Cursor>>,
    lanes: BTreeMap<Lane, mpsc::Sender<Begin>>,
}

/// Where a lane's consumer is to begin.
#[derive(Clone)]
struct Begin {
    floor: Option<Position>,
    replay: Option<Replay>,
}

impl Parts {
    /// Lets a lane go through the log again.
    pub(crate) async fn replay(&self, lane: Lane, replay: Replay, floor: Option<Position>) {
        let from_ack = replay.from == mirrorlog_core::statement::ReplayFrom::LastAck;
        let begin = Begin {
            floor: floor.filter(|_| from_ack),
            replay: Some(replay),
        };
        if let Some(sender) = self.lanes.get(&lane) {
            // The lane is gone only when the process ends.
            sender.send(begin).await.ok();
        }
    }
}

/// Runs a mirror until `shutdown`.
///
/// It serves from its own state first; the log, the archive and the consistency service may come later.
///
/// # Errors
/// Keys, state, store or addresses that cannot be used, each with what to do.
pub async fn serve(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let http = runtime::boot::listen(config.http.listen).await?;
    let grpc = runtime::boot::listen(config.grpc.listen).await?;
    let mirror = config.mirror.clone();
    let key = runtime::key::read_secret(&mirror.key)?;
    let trust = trust(&config)?;
    let keys = trust.archive().clone();
    let words = words(&config, &trust)?;
    let tls = runtime::tls::load(config.tls.as_ref())?;
    let store = Store::open(&mirror.store)?;
    let (control, opened) = SledState::open(&mirror.state.join("control"))?;
    if let Opened::Rebuilt(aside) = opened {
        let aside = aside.display();
        tracing::error!(%aside, "control state did not open; it was moved aside and starts anew");
    }
    let mut registry = runtime::boot::metrics::registry("mirror");
    let metrics = Metrics::new(&mut registry);
    let health = Health::new();
    let (serving, serving_reader) = ServingWriter::new();
    let pages = Pages::new(store.clone(), PAGES_CACHED_BYTES);
    let collections = Arc::new(collect::Collections::default());
    let exports = Exports::open(&config, &pages, &serving, &collections)?;
    let (suspects, suspected) = Suspects::new();
    let (lanes, begins): (BTreeMap<_, _>, Vec<_>) = Lane::ALL
        .map(|lane| {
            let (sender, receiver) = mpsc::channel(4);
            ((lane, sender), (lane, receiver))
        })
        .into_iter()
        .unzip();
    let rate = RateLimiter::new(config.fetch.rate_now());
    let parked = Parked::open(mirror.state.join("parked"));
    let (parked, doubtful) = parked.context("cannot use the state folder")?;
    let archive = runtime::tls::endpoint(&config.archive.fetch, tls.as_ref())?;
    let parts = Arc::new(Parts {
        control: Arc::new(control),
        journal: Journal::new(&config.archive.fetch, tls.as_ref(), keys.clone())?,
        syncer: Syncer {
            pages,
            sources: Syncer::sources(&[&config.archive.fetch], tls.as_ref())?,
            pool: Pool::new(&config, tls.as_ref().map(Tls::for_peers), &rate),
            rate,
            room: Room::new(store.clone(), mirror.free_floor, mirror.budget),
            sweeps: collect::Sweeps::default(),
        },
        serving,
        serving_reader,
        exports,
        views: Views::of_config(&config)?,
        reports: Arc::new(Reports::new(store.clone())),
        collections,
        leases: Arc::default(),
        coming: collect::Coming::default(),
        suspects,
        metrics,
        trust: trust.clone(),
        parked: parked.clone(),
        health: health.clone(),
        stored_cursors: Mutex::default(),
        lanes,
        config: config.clone(),
    });

    let tasks = TaskTracker::new();
    let (stop, settling) = (
        shutdown.clone(),
        doubtful.settle(archive, keys.clone(), parked),
    );
    tasks.spawn(async move {
        stop.run_until_cancelled(settling).await;
    });
    let room = parts.syncer.room.clone();
    tasks.spawn(collect::count(room, shutdown.clone()));
    let (sender, inbox) = Mailbox::new();
    let mut engine = Engine::load(Arc::clone(&parts), sender.clone(), shutdown.clone())?;
    engine.resume().await;
    parts.serving.resumed();
    health.started();
    let floors = Lane::ALL.map(|lane| engine.floor(lane));

    let router = http::router(Arc::clone(&parts)).merge(health.router(Arc::new(registry)));
    let limits = GrpcLimits {
        networks: config.grpc.limits.clone(),
        ..GrpcLimits::default()
    };
    let http_limits = HttpLimits {
        networks: config.http.limits.clone(),
        ..HttpLimits::default()
    };
    let fetcher = fetcher::server::service(store.clone(), fetcher::server::Limits::default());
    let routes = tonic::service::Routes::new(fetcher);
    let (log_sender, log_receiver) = watch::channel(None);
    // Without its engine a mirror never moves again: it ends then, and is started anew by whoever watches it.
    let guard = shutdown.clone().drop_guard();
    let engine = tasks.spawn(async move {
        let _guard = guard;
        engine.run(inbox).await;
    });
    for ((lane, begins), floor) in begins.into_iter().zip(floors) {
        let follow = Follow {
            parts: Arc::clone(&parts),
            keys: keys.clone(),
            engine: sender.clone(),
            log: log_receiver.clone(),
        };
        tasks.spawn(follow.lane(lane, floor, begins, shutdown.clone()));
    }
    let follow = Follow {
        parts: Arc::clone(&parts),
        keys,
        engine: sender.clone(),
        log: log_receiver.clone(),
    };
    tasks.spawn(follow.heads_and_orders(words, shutdown.clone()));
    let reports = Arc::clone(&parts.reports);
    let (id, every) = (mirror.id.clone(), config.report.every.0);
    let pool = parts.syncer.pool.clone();
    tasks.spawn(pool.run(log_receiver.clone(), shutdown.clone()));
    tasks.spawn(crate::roots::follow(
        trust,
        log_receiver.clone(),
        sender.clone(),
        health.clone(),
        shutdown.clone(),
    ));
    let control = Arc::clone(&parts.control);
    tasks.spawn(reports.publish(id, key, control, log_receiver, every, shutdown.clone()));
    let suspecting = suspects::run(
        Arc::clone(&parts),
        suspected,
        sender.clone(),
        shutdown.clone(),
    );
    tasks.spawn(suspecting);
    let export_sender = sender.clone();
    tasks.spawn(scrub::run(Arc::clone(&parts), sender, shutdown.clone()));
    if let Some(exports) = parts.exports.clone() {
        let serving = parts.serving.clone();
        tasks.spawn(exports.run(serving, export_sender, shutdown.clone()));
    }
    tasks.spawn(collect::run(Arc::clone(&parts), shutdown.clone()));
    tasks.spawn(crate::metrics::watch(
        Arc::clone(&parts),
        health.clone(),
        log_sender.subscribe(),
        shutdown.clone(),
    ));
    let limiter = Arc::clone(&parts.syncer.rate);
    tasks.spawn(crate::hours::run(
        config.fetch.clone(),
        limiter,
        shutdown.clone(),
    ));
    tasks.spawn(connect(config, log_sender, shutdown.clone()));
    tracing::info!(mirror = %mirror.id, http = %http.local_addr()?, "mirror serves");
    let served = tokio::try_join!(
        runtime::boot::serve_http_within(http, router, http_limits, shutdown.clone()),
        runtime::boot::serve_grpc(
            grpc,
            routes,
            &health,
            &limits,
            tls.as_ref(),
            shutdown.clone()
        ),
    );
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    engine.await.context("the mirror's engine ended badly")?;
    served?;
    Ok(())
}

/// How long root documents are waited for before the log is read.
const TRUST_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Whom this mirror believes.
///
/// # Errors
/// [`TrustError`].
pub(crate) fn trust(config: &Config) -> Result<Trust, TrustError> {
    Trust::of_config(
        config.trust.as_ref(),
        &config.mirror.state,
        &config.archive.keys,
        &config.consistency.keys,
    )
}

/// Whose verdicts are waited for; `None` where builds go live without one.
fn words(config: &Config, trust: &Trust) -> anyhow::Result<Option<Keys>> {
    if config.mirror.flip == FlipSetting::Local {
        return Ok(None);
    }
    let keys = trust.consistency();
    anyhow::ensure!(
        !keys.now().is_empty(),
        "mirror.flip is confirmed: name the keys of the service that confirms, as consistency.keys or in trust.root"
    );
    Ok(Some(keys.clone()))
}

/// Connects to the log as long as it takes; everything else runs meanwhile.
async fn connect(config: Config, connected: watch::Sender<Option<Log>>, stop: CancellationToken) {
    let name = format!("mirrorlog-mirror {}", config.mirror.id);
    let connecting = async {
        loop {
            match Log::connect(&config.nats, &name, true).await {
                Ok(log) => {
                    connected.send_replace(Some(log));
                    return;
                }
                Err(error) => {
                    let error = crate::inbox::chain(&error);
                    tracing::error!(error, "the log cannot be used; trying again");
                    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                }
            }
        }
    };
    stop.run_until_cancelled(connecting).await;
    // The sender stays alive: readers wait for a connection, they do not fail without one.
    stop.cancelled().await;
}

/// Readers of the log, started again whenever they are told to begin elsewhere.
struct Follow {
    parts: Arc<Parts>,
    keys: Keys,
    engine: Mailbox,
    log: watch::Receiver<Option<Log>>,
}

impl Follow {
    async fn inbox(&mut self) -> Option<Inbox> {
        let log = self.log.wait_for(Option::is_some).await.ok()?.clone()?;
        // What was said by keys that were taken away since is not to be believed at a start.
        let caught_up = self.parts.trust.caught_up();
        tokio::time::timeout(TRUST_PATIENCE, caught_up).await.ok();
        let mirror = &self.parts.config.mirror;
        Some(Inbox {
            log,
            mirror: mirror.id.clone(),
            channels: mirror.channels.clone(),
            keys: self.keys.clone(),
            parked: self.parts.parked.clone(),
            engine: self.engine.clone(),
        })
    }

    async fn lane(
        mut self,
        lane: Lane,
        floor: Option<Position>,
        mut begins: mpsc::Receiver<Begin>,
        stop: CancellationToken,
    ) {
        let Some(Some(inbox)) = stop.run_until_cancelled(self.inbox()).await else {
            return;
        };
        let mut begin = Begin {
            floor,
            replay: None,
        };
        loop {
            let reading = stop.child_token();
            let Begin { floor, replay } = begin.clone();
            let work = inbox
                .clone()
                .follow_lane(lane, floor, replay, reading.clone());
            let mut reader = tokio::spawn(work);
            let next = tokio::select! {
                () = stop.cancelled() => None,
                next = begins.recv() => next,
                ended = &mut reader => {
                    // From the same place once more: what comes twice does nothing twice.
                    tracing::error!(?ended, %lane, "reader of the log ended; beginning again");
                    stop.run_until_cancelled(tokio::time::sleep(READER_PAUSE)).await;
                    continue;
                }
            };
            reading.cancel();
            if let Err(error) = reader.await {
                tracing::error!(%error, %lane, "reader of the log ended badly");
            }
            match next {
                Some(again) => begin = again,
                None => return,
            }
        }
    }

    async fn heads_and_orders(mut self, words: Option<Keys>, stop: CancellationToken) {
        let Some(Some(inbox)) = stop.run_until_cancelled(self.inbox()).await else {
            return;
        };
        let confirm = async {
            if let Some(keys) = words {
                inbox.clone().follow_words(keys, stop.clone()).await;
            }
        };
        tokio::join!(
            inbox.clone().follow_heads(stop.clone()),
            inbox.clone().follow_orders(stop.clone()),
            inbox.clone().follow_drains(stop.clone()),
            confirm,
        );
    }
}
