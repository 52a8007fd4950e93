//! Starts and stops the service.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fetcher::client::Source;
use fetcher::manifests::Manifests;
use mirrorlog_core::directory::Directory;
use mirrorlog_core::directory::member::{MirrorIndex, Profile};
use runtime::boot::{Health, HttpLimits, metrics, now, serve_http_within};
use runtime::feed::{Feed, Park};
use runtime::log::Log;
use runtime::store::Store;
use runtime::trust::Trust;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::causes;

use crate::config::{Config, MirrorSection};
use crate::desk::Desk;
use crate::feedback::Intake;
use crate::gauges::Gauges;
use crate::geo::Geo;
use crate::pieces::Library;
use crate::probe::Prober;
use crate::resolve::Addresses;
use crate::site::{Site, Views};
use crate::traces::Traces;
use crate::trees::Trees;
use crate::work::{Shelf, Work};
use crate::{dns, feedback, http, saved};

/// Memory for decoded manifest pages, in bytes.
const PAGE_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// How long the log is waited for when there is a last state to answer from.
const LOG_PATIENCE: Duration = Duration::from_secs(5);
/// Pause before the log is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Runs the service until `shutdown`.
///
/// # Errors
/// What keeps it from starting or from going on, with its causes.
pub async fn serve(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let state = &config.directory.state;
    std::fs::create_dir_all(state).with_context(|| format!("cannot make {}", state.display()))?;
    let _lock = lock(state)?;
    let trust = Trust::of_config(
        config.trust.as_ref(),
        state,
        &config.archive.keys,
        &config.consistency.keys,
    )?;
    let geo = Geo::open(&config.geo)?;
    let http = runtime::boot::listen(config.http.listen)
        .await
        .context("http.listen")?;
    let dns = match &config.dns {
        Some(section) => Some((section, dns::bind(section).await?)),
        None => None,
    };

    let health = Health::new();
    let mut registry = metrics::registry("directory");
    let gauges = Gauges::new(&mut registry);
    let mut tasks = JoinSet::new();
    let (desk, orders) = Desk::new();
    let tls = runtime::tls::load(config.tls.as_ref())?;
    let source = Source::of(&config.archive.fetch, tls.as_ref())?;
    let store = Store::open(&state.join("pages"))?;
    let trees = Trees::new(Manifests::new(store, PAGE_CACHE_BYTES, source)).asking_mirrors()?;

    let (fold, resumed) = start_fold(&config, &geo);
    let numbered = numbered(&config, &fold);
    let (views, seen) = watch::channel(Arc::new(fold.view().clone()));
    let (log_sender, log) = watch::channel(None);
    let (caught_up, mut read) = watch::channel(false);
    let addresses = Addresses::declared(&numbered);
    tasks.spawn(addresses.clone().follow(numbered.clone()));
    tasks.spawn(geo.clone().follow());
    let patience = u64::try_from(config.probe_rules().timeout_ms()).unwrap_or(1000);
    let work = Work {
        fold,
        desk: desk.clone(),
        mirrors: numbered.into_iter().map(|(_, section)| section).collect(),
        prober: Prober::new(trust.archive().clone(), Duration::from_millis(patience))?,
        trees: trees.clone(),
        views,
        gauges: gauges.clone(),
        health: health.clone(),
        log: log.clone(),
        refused: config.nats.refused.clone(),
        caught_up,
        dir: state.clone(),
        shelf: Shelf::new(),
    };
    tasks.spawn(work.run(orders));
    health.degrade("log", "the log was not reached yet");

    let (intake, letters) = Intake::new(config.feedback);
    tasks.spawn(feedback::post(letters, log.clone()));
    tasks.spawn(intake.clone().forget());
    let views_read = Views(seen);
    let follower = Follower {
        config: config.clone(),
        trust,
        desk,
        views: views_read.clone(),
        health: health.clone(),
        told: log_sender,
    };
    tasks.spawn(follower.run());
    let site = Arc::new(Site::new(&config, views_read, geo, addresses, trees));
    let (library, traces) = (Library::new(config.metalink)?, Traces::new(state));
    tasks.spawn(traces.clone().write());
    if resumed {
        // Since the last process builds may have been taken back: the log has a moment to say so. What was true
        // then is better than nothing, and says that it is degraded.
        tokio::select! {
            _ = tokio::time::timeout(LOG_PATIENCE, read.wait_for(|read| *read)) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        health.started();
    }
    let mut servers = JoinSet::new();
    if let Some((section, bound)) = dns {
        let (section, site, gauges) = (section.clone(), site.clone(), gauges.clone());
        let stop = shutdown.clone();
        servers.spawn(async move { dns::serve(bound, &section, site, gauges, stop).await });
    }
    let router = http::router(site, gauges, library, intake, traces, health.clone());
    let router = router.merge(health.router(Arc::new(registry)));
    let stop = shutdown.clone();
    let limits = HttpLimits {
        networks: config.http.limits.clone(),
        trusted_proxies: config.http.trusted_proxies.clone(),
        ..HttpLimits::default()
    };
    servers.spawn(async move { Ok(serve_http_within(http, router, limits, stop).await?) });
    tracing::info!(http = %config.http.listen, mirrors = config.mirrors.len(), "serving");
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = servers.join_next() => ended.map_err(anyhow::Error::from).and_then(|ended| ended),
        Some(ended) = tasks.join_next() => {
            Err(ended.err().map_or_else(|| anyhow::anyhow!("a part of the service ended"), anyhow::Error::from))
        }
    };
    shutdown.cancel();
    while let Some(stopped) = servers.join_next().await {
        stopped??;
    }
    ended
}

/// A fold with what the last process knew, and whether that was anything.
fn start_fold(config: &Config, geo: &Geo) -> (Directory, bool) {
    let mut directory = Directory::new(config.probe_rules(), profiles(config, geo));
    let resumed = match saved::load(&config.directory.state) {
        Ok(Some(state)) => {
            saved::resume(&mut directory, state, now());
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::warn!(error = causes(&error), "the last state is not used");
            false
        }
    };
    (directory, resumed)
}

/// The configuration's mirrors, as core knows them.
pub(crate) fn profiles(config: &Config, geo: &Geo) -> Vec<Profile> {
    let profile = |section: &MirrorSection| {
        let profile = section.profile();
        // The system of a mirror that does not say is that of its address, where the URL or the operator has one.
        let literal = || {
            let url = reqwest::Url::parse(&section.url).ok()?;
            url.host_str()?.trim_matches(['[', ']']).parse().ok()
        };
        let address = section.addresses.first().copied().or_else(literal);
        let asn = profile.asn.or_else(|| geo.place(address?).asn);
        Profile { asn, ..profile }
    };
    config.mirrors.iter().map(profile).collect()
}

/// The configuration's mirrors, in core's order.
pub(crate) fn numbered(config: &Config, fold: &Directory) -> Vec<(MirrorIndex, MirrorSection)> {
    let number = |section: &MirrorSection| Some((fold.view().find(&section.id)?, section.clone()));
    let mut numbered: Vec<_> = config.mirrors.iter().filter_map(number).collect();
    numbered.sort_by_key(|(mirror, _)| *mirror);
    numbered
}

/// Follows the log.
struct Follower {
    config: Config,
    trust: Trust,
    desk: Desk,
    views: Views,
    health: Health,
    told: watch::Sender<Option<Log>>,
}

impl Follower {
    /// Follows the log from when it is first reached. Until then the last state is what is answered from. Returns
    /// only when a reader has ended, which none does by itself: a service that no longer hears must not go on.
    async fn run(self) {
        let mut tasks = loop {
            let mut tasks = JoinSet::new();
            let Err(error) = self.start(&mut tasks).await else {
                break tasks;
            };
            let text = format!("the log cannot be followed: {error:#}");
            tracing::warn!("{text}");
            self.health.degrade("log", text);
            tokio::time::sleep(RETRY).await;
        };
        self.desk.caught_up().await;
        if let Some(Err(error)) = tasks.join_next().await {
            tracing::error!(%error, "a reader of the log ended");
        }
    }

    async fn start(&self, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
        let log = Log::connect(&self.config.nats, "mirrorlog-directory", true).await?;
        log.ensure().await?;
        self.told.send_replace(Some(log.clone()));
        let dir = self.config.directory.state.join("parked");
        let park = Park::open(&dir, self.health.clone())
            .context("cannot make the folder of parked messages")?;
        let mut feed = Feed::new(
            log.clone(),
            self.desk.clone(),
            park.clone(),
            self.trust.archive().clone(),
            self.trust.consistency().clone(),
        );
        feed.follow_trust(&self.trust, tasks).await;
        let tls = runtime::tls::load(self.config.tls.as_ref())?;
        let archive = runtime::tls::endpoint(&self.config.archive.fetch, tls.as_ref())?;
        feed.follow_journal(archive, tasks);
        feed.start(tasks).await?;
        let messages = log.feedback().await?;
        let (views, desk) = (self.views.clone(), self.desk.clone());
        tasks.spawn(feedback::read(messages, views, desk, park));
        Ok(())
    }
}

/// Two services in one folder would write one state.
fn lock(state: &Path) -> anyhow::Result<std::fs::File> {
    let path = state.join("lock");
    let file =
        std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let locked = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    locked.with_context(|| format!("{} is in use by another directory", state.display()))?;
    Ok(file)
}
