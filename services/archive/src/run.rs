//! `archive serve`: starts everything, keeps it going, stops it cleanly.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use mirrorlog_core::sign::TrustedKeys;
use runtime::Reaction;
use runtime::boot::{
    GrpcLimits, Health, HttpLimits, metrics, serve_grpc, serve_grpc_unix, serve_http_within,
};
use runtime::log::{Log, NatsConfig, StreamIdentity};
use runtime::state::{Opened, SledState};
use runtime::store::{Pages, Store};
use runtime::tls::{Clients, TlsConfig};
use runtime::trust::Trust;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use wire::v1::admin_server::AdminServer;
use wire::v1::enroll_server::EnrollServer;
use wire::v1::journal_server::JournalServer;

use crate::admin::{AdminService, bind};
use crate::config::Config;
use crate::daemon::{Daemon, Link, Standing};
use crate::enroll::{EnrollService, Enroller};
use crate::fence::{FenceError, run_blocking};
use crate::gauges::Gauges;
use crate::journal::with_causes;
use crate::journal_service::JournalService;
use crate::signer::Signer;

/// Decoded manifest pages kept in memory.
const PAGES_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// How soon what could not be sent or opened is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// So long before its end a root document is spoken of.
const TRUST_WARNING: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often its end is looked at.
const TRUST_LOOK: Duration = Duration::from_secs(60);
/// How often heads are tried again that what signs did not sign.
const OWED_EVERY: Duration = Duration::from_secs(60);

/// Runs the archive until `shutdown`.
///
/// # Errors
/// When it cannot start: keys, state, store, addresses. A log that is away is no reason.
pub async fn serve(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut registry = metrics::registry("archive");
    let gauges = Gauges::register(&mut registry);
    let health = Health::new();
    health.degrade("log", format!("not connected to {} yet", config.nats.url));
    let opened = config.clone();
    let daemon = Arc::new(run_blocking(move || open(opened, gauges)).await?);

    match &daemon.signer {
        Signer::Key(_) => daemon.sign_heads().await,
        // It may take its time, and the archive serves meanwhile.
        Signer::Command(_) => {}
    }
    let tls = runtime::tls::load(config.tls.as_ref())?;
    let store = daemon.pages.store().clone();
    let public = Routes::new(fetcher::server::service(
        store,
        fetcher::server::Limits::default(),
    ))
    .add_service(JournalServer::new(JournalService::new(Arc::clone(&daemon))));
    let local = Routes::new(AdminServer::new(AdminService::new(Arc::clone(&daemon))))
        .add_service(JournalServer::new(JournalService::new(Arc::clone(&daemon))));
    let grpc = runtime::boot::listen(config.grpc_listen)
        .await
        .context("grpc.listen")?;
    let http = runtime::boot::listen(config.http_listen)
        .await
        .context("http.listen")?;
    let socket = bind(&config.admin_socket()).await?;

    let limits = GrpcLimits {
        networks: config.grpc_limits.clone(),
        ..GrpcLimits::default()
    };
    let guests = limits.clone();
    let http_limits = HttpLimits {
        networks: config.http_limits.clone(),
        ..HttpLimits::default()
    };
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let (health_of, stop, limits_of) = (health.clone(), shutdown.clone(), limits.clone());
    tasks.spawn(async move {
        Ok(serve_grpc(grpc, public, &health_of, &limits_of, tls.as_ref(), stop).await?)
    });
    let (health_of, stop) = (health.clone(), shutdown.clone());
    tasks
        .spawn(async move { Ok(serve_grpc_unix(socket, local, &health_of, &limits, stop).await?) });
    if let (Some(section), Some(enroller)) = (&config.enroll, &daemon.enroller) {
        let listener = runtime::boot::listen(section.listen)
            .await
            .context("enroll.listen")?;
        let service = EnrollService::new(Arc::clone(&daemon), Arc::clone(enroller));
        let routes = Routes::new(EnrollServer::new(service));
        // Who joins has no certificate yet.
        let tls = open_tls(&config)?;
        let (health_of, stop, limits) = (health.clone(), shutdown.clone(), guests.clone());
        tasks.spawn(async move {
            Ok(serve_grpc(listener, routes, &health_of, &limits, tls.as_ref(), stop).await?)
        });
    }
    if let Some(section) = &config.publish {
        let listener = runtime::boot::listen(section.listen)
            .await
            .context("publish.listen")?;
        let of = Arc::clone(&daemon);
        let swept = run_blocking(move || crate::publisher::sweep(&of)).await;
        if let Err(error) = swept {
            tracing::warn!(
                error = with_causes(&error),
                "what came in part is not swept"
            );
        }
        let of = Arc::clone(&daemon);
        let (service, ended) = crate::publisher::service(of, section.clone(), shutdown.clone());
        tasks.spawn(async move {
            ended.await;
            Ok(())
        });
        let routes = Routes::new(service);
        // Publishers have tokens, no certificates.
        let tls = open_tls(&config)?;
        let (health_of, stop, limits) = (health.clone(), shutdown.clone(), guests.clone());
        tasks.spawn(async move {
            Ok(serve_grpc(listener, routes, &health_of, &limits, tls.as_ref(), stop).await?)
        });
    }
    let (router, stop) = (health.router(Arc::new(registry)), shutdown.clone());
    tasks.spawn(async move { Ok(serve_http_within(http, router, http_limits, stop).await?) });
    tasks.spawn(keep_trust(
        Arc::clone(&daemon),
        health.clone(),
        shutdown.clone(),
    ));
    tasks.spawn(follow_log(
        Arc::clone(&daemon),
        health.clone(),
        shutdown.clone(),
    ));
    tasks.spawn(renew_heads(Arc::clone(&daemon), shutdown.clone()));
    health.started();
    tracing::info!(
        grpc = %config.grpc_listen, http = %config.http_listen, channels = daemon.channels().len(), "archive is up"
    );

    let ended = finish(&mut tasks, &shutdown).await;
    // The next daemon finds out by itself when this does not work.
    if let Err(error) = std::fs::remove_file(config.admin_socket()) {
        tracing::debug!(error = %error, "socket not removed");
    }
    // A collection does not hold the process up.
    daemon
        .ending
        .store(true, std::sync::atomic::Ordering::Release);
    tracing::info!("archive is down");
    ended
}

/// TLS for those who have no certificate.
fn open_tls(config: &Config) -> anyhow::Result<Option<runtime::tls::Tls>> {
    let tls = config.tls.clone().map(|tls| TlsConfig {
        clients: Clients::Any,
        ..tls
    });
    Ok(runtime::tls::load(tls.as_ref())?)
}

/// Waits for the end of all tasks; the first that fails ends the others.
async fn finish(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.context("a task of the archive died").flatten();
        shutdown.cancel();
        if outcome.is_ok() {
            outcome = ended;
        }
    }
    outcome
}

fn open(config: Config, gauges: Gauges) -> anyhow::Result<Daemon> {
    let signer = config.signing.signer();
    let signer = signer.context("cannot read archive.key or archive.public_key")?;
    let mut trusted = vec![signer.public()];
    for file in &config.previous_keys {
        trusted.push(runtime::key::read_public(file).context("cannot read archive.previous_keys")?);
    }
    std::fs::create_dir_all(&config.state)
        .with_context(|| format!("cannot make {}", config.state.display()))?;
    let (state, opened) = SledState::open(&config.state.join("control"))?;
    match opened {
        Opened::AsLeft => {}
        Opened::Rebuilt(aside) => {
            tracing::warn!(aside = %aside.display(), "control state did not open and was made anew; the journal is whole");
        }
    }
    let store = Store::open(&config.store)
        .with_context(|| format!("cannot open the store {}", config.store.display()))?;
    let pages = Pages::new(store, PAGES_CACHE_BYTES);
    let instance = format!("{:016x}", getrandom::u64().context("no random number")?);
    let keys = TrustedKeys::new(trusted);
    let trust = match &config.trust {
        Some(root) => Trust::open(root, Some(&config.state))?,
        None => Trust::fixed(keys.clone(), TrustedKeys::default(), BTreeMap::new()),
    };
    let state = Arc::new(state);
    let enroller = config.enroll.as_ref().map(|enroll| {
        let opened = Enroller::open(&enroll.access, Arc::<SledState>::clone(&state));
        opened.context("cannot use enroll.access").map(Arc::new)
    });
    let enroller = enroller.transpose()?;
    let standing = Standing {
        signer,
        keys,
        trust,
        enroller,
    };
    Ok(Daemon::open(
        config, standing, state, pages, gauges, instance,
    )?)
}

/// Does what the root document in force asks for, and says when it ends.
async fn keep_trust(
    daemon: Arc<Daemon>,
    health: Health,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let work = async {
        let one = daemon.installing.lock().await;
        if let Err(error) = daemon.announce_roots().await {
            let text = format!(
                "earlier statements are not all signed again: {}",
                with_causes(&error)
            );
            tracing::error!("{text}");
            health.degrade("signatures", text);
        }
        drop(one);
        loop {
            let own = daemon.signer.public();
            let named =
                daemon.trust.version().is_none() || daemon.log_keys().iter().any(|key| *key == own);
            if named {
                health.recover("key");
            } else {
                let text = format!(
                    "key {} of this archive is not in the root document: nothing can be published before one is installed that names it",
                    own.number()
                );
                health.degrade("key", text);
            }
            match daemon.trust.ends_within(TRUST_WARNING) {
                Some(text) => health.degrade("trust", text),
                None => health.recover("trust"),
            }
            tokio::time::sleep(TRUST_LOOK).await;
            daemon.trust.look();
        }
    };
    shutdown.run_until_cancelled(work).await;
    Ok(())
}

/// Keeps the link to the log: opens it, compares, sends what waits, follows wanted builds.
async fn follow_log(
    daemon: Arc<Daemon>,
    health: Health,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Some(link) = shutdown
        .run_until_cancelled(connect(&daemon, &health))
        .await
    else {
        return Ok(());
    };
    let mut following = JoinSet::new();
    following.spawn(follow_wanted(Arc::clone(&daemon), link.clone()));
    following.spawn(make_others_consumers(daemon.config.nats.clone()));
    let mut identity: Option<StreamIdentity> = None;
    loop {
        let round = shutdown
            .run_until_cancelled(daemon.round(&link, identity))
            .await;
        let Some(round) = round else { return Ok(()) };
        identity = report(&daemon, &health, round, identity);
        measure(&daemon).await;
        let until = tokio::time::Instant::now() + daemon.config.reconcile_every;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = flush_until(&daemon, &link, until) => {}
        }
    }
}

/// Says why there is no log, for as long as there is none.
async fn tell_why(daemon: &Daemon, health: &Health) -> Infallible {
    let nats = &daemon.config.nats;
    loop {
        tokio::time::sleep(RETRY).await;
        let why = nats.refused.why_away();
        health.degrade("log", format!("{why} at {}", nats.url));
    }
}

async fn connect(daemon: &Arc<Daemon>, health: &Health) -> Link {
    loop {
        let opened = async {
            let log = tokio::select! {
                log = Log::connect(&daemon.config.nats, "mirrorlog-archive", true) => log?,
                never = tell_why(daemon, health) => match never {},
            };
            let link = Link::open(log).await?;
            daemon.fence.take(&link.builds).await?;
            Ok::<Link, FenceError>(link)
        };
        match opened.await {
            Ok(link) => {
                daemon.set_link(link.clone());
                return link;
            }
            Err(error) => {
                unhealthy(health, &error);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn report(
    daemon: &Daemon,
    health: &Health,
    round: Result<StreamIdentity, FenceError>,
    before: Option<StreamIdentity>,
) -> Option<StreamIdentity> {
    let mut halted = Vec::new();
    for channel in daemon.channels() {
        let name = &channel.declared.name;
        let reason = channel.journal.halted();
        daemon.gauges.halted(name, reason.is_some());
        halted.extend(reason.map(|reason| format!("channel {name} is halted: {reason}")));
    }
    if halted.is_empty() {
        health.recover("journal");
    } else {
        health.degrade("journal", halted.join("; "));
    }
    match round {
        Ok(identity) => {
            health.recover("log");
            Some(identity)
        }
        Err(error) => {
            unhealthy(health, &error);
            before
        }
    }
}

/// Serving goes on without the log; only a takeover makes this archive useless for publishers.
fn unhealthy(health: &Health, error: &FenceError) {
    let text = with_causes(error);
    match error {
        FenceError::TakenOver(_) => health.fail("fence", text),
        FenceError::Log(log) => match log.reaction() {
            Reaction::Retry => health.degrade("log", text),
            Reaction::Park | Reaction::Halt => health.fail("log", text),
        },
        FenceError::Behind(_)
        | FenceError::Busy(_)
        | FenceError::State(_)
        | FenceError::Codec(_) => health.fail("fence", text),
    }
}

/// Sends what could not be sent at once, until it is time for the next round.
async fn flush_until(daemon: &Arc<Daemon>, link: &Link, until: tokio::time::Instant) {
    loop {
        let woken = tokio::time::timeout_at(until, daemon.wake.notified()).await;
        if woken.is_err() {
            return;
        }
        tokio::time::sleep_until((tokio::time::Instant::now() + RETRY).min(until)).await;
        if !link.log.is_connected() {
            daemon.wake.notify_one();
            continue;
        }
        // What could not be sent was refused, or the server was away: look at the log before sending again.
        daemon.reconcile(link).await;
    }
}

/// Makes the consumers by which others read the log, where they may not.
async fn make_others_consumers(nats: NatsConfig) {
    // Where everybody makes his own there is nobody to listen to.
    if nats.credentials.is_none() {
        return;
    }
    let make = async || {
        // What others send is nothing that publishing waits behind.
        let log = Log::connect_for_questions(&nats, "mirrorlog-archive consumers").await?;
        log.make_others_consumers().await
    };
    while let Err(error) = make().await {
        tracing::warn!(
            error = with_causes(&error),
            "others' consumers are not made"
        );
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows the bucket of wanted builds.
async fn follow_wanted(daemon: Arc<Daemon>, link: Link) {
    let mut watch = loop {
        match link.wanted.watch().await {
            Ok(watch) => break watch,
            Err(error) => {
                tracing::debug!(error = %error, "wanted builds not watched yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    loop {
        let change = watch.next().await;
        let Ok((channel, pool)) = wire::kv::parse_wanted_key(&change.key) else {
            tracing::warn!(key = change.key, "no key of a wanted build");
            continue;
        };
        let Some(channel) = daemon.channel(&channel) else {
            continue;
        };
        let build = change.value.map(|value| wire::kv::decode_wanted(&value));
        let mut wanted = channel
            .wanted
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match build {
            Some(Ok(build)) => drop(wanted.insert(pool, build)),
            Some(Err(error)) => tracing::warn!(key = change.key, error = %error, "no wanted build"),
            None => drop(wanted.remove(&pool)),
        }
    }
}

async fn renew_heads(daemon: Arc<Daemon>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut timer = tokio::time::interval(daemon.config.heads_renew);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick comes at once, and heads were signed at the start, unless a program signs.
    timer.tick().await;
    match &daemon.signer {
        Signer::Key(_) => {}
        Signer::Command(_) => daemon.renew_heads().await,
    }
    let mut owed = tokio::time::interval(OWED_EVERY);
    owed.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _now = timer.tick() => daemon.renew_heads().await,
            _now = owed.tick() => daemon.renew_owed_heads().await,
        }
    }
}

async fn measure(daemon: &Arc<Daemon>) {
    let of = Arc::clone(daemon);
    match run_blocking(move || of.pages.store().free_bytes()).await {
        Ok(bytes) => daemon.gauges.disk_free(bytes),
        Err(error) => tracing::warn!(error = with_causes(&error), "free space not known"),
    }
}
