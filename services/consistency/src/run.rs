//! Starts and stops the service.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fetcher::client::Source;
use mirrorlog_core::consistency::{Audience, Consistency, Member, Rules};
use mirrorlog_core::sign::{SecretKey, TrustedKeys};
use runtime::Reaction;
use runtime::boot::{GrpcLimits, Health, HttpLimits, Span, metrics, serve_grpc, serve_http_within};
use runtime::feed::{Feed, Park};
use runtime::key::{read_public, read_secret};
use runtime::log::Log;
use runtime::store::Store;
use runtime::tls::Tls;
use runtime::trust::Trust;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use wire::v1::consistency_server::ConsistencyServer;

use crate::audit::{Auditor, raise_open_files};
use crate::config::{AuditSection, Config, MirrorSection};
use crate::desk::{Desk, Orders};
use crate::gauges::Gauges;
use crate::grpc::Service;
use crate::inbox::{Inbox, Roster};
use crate::lease;
use crate::post::Post;
use crate::work::{Shelf, Work};
use fetcher::manifests::Manifests;

/// Memory for decoded manifest pages, in bytes.
const PAGE_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Pause before the log is asked again for streams that it has not.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is told anew why there is no log.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Failures in a row that make a mirror unreachable.
const UNREACHABLE_FAILURES: u32 = 3;

/// Runs the service until `shutdown`.
///
/// # Errors
/// What keeps it from starting or from going on, with its causes.
pub async fn serve(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let state = &config.consistency.state;
    std::fs::create_dir_all(state).with_context(|| format!("cannot make {}", state.display()))?;
    let _lock = lock(state)?;
    let keys = Keys::read(&config)?;
    let tls = runtime::tls::load(config.tls.as_ref())?;
    let grpc = runtime::boot::listen(config.grpc.listen)
        .await
        .context("grpc.listen")?;
    let http = runtime::boot::listen(config.http.listen)
        .await
        .context("http.listen")?;

    let health = Health::new();
    let mut registry = metrics::registry("consistency");
    let gauges = Gauges::new(&mut registry);
    let mut servers = JoinSet::new();
    let http_limits = HttpLimits {
        networks: config.http.limits.clone(),
        ..HttpLimits::default()
    };
    servers.spawn(serve_http_within(
        http,
        health.router(Arc::new(registry)),
        http_limits,
        shutdown.clone(),
    ));
    let waiting = async {
        loop {
            health.degrade("log", config.nats.refused.why_away());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let log = tokio::select! {
        log = Log::connect(&config.nats, "mirrorlog-consistency", true) => log?,
        () = waiting => return Ok(()),
        () = shutdown.cancelled() => return Ok(()),
    };
    tokio::select! {
        ready = streams(&log, &health) => ready?,
        () = shutdown.cancelled() => return Ok(()),
    }

    let mut tasks = JoinSet::new();
    let (desk, orders) = Desk::new();
    let parts = Parts {
        config: &config,
        tls: tls.as_ref(),
        keys: &keys,
        log: &log,
        desk: &desk,
        health: &health,
    };
    let park = Park::open(&state.join("parked"), health.clone())
        .context("cannot make the folder of parked messages")?;
    let post = Post::start(&log, &mut tasks).await?;
    parts.start_desk(orders, gauges, park.clone(), post.clone(), &mut tasks)?;
    let urls = config
        .mirrors
        .iter()
        .filter_map(|mirror| Some((mirror.id.clone(), mirror.url.clone()?)));
    let service = Service {
        desk: desk.clone(),
        urls: urls.collect(),
        shutdown: shutdown.clone(),
    };
    let routes = Routes::new(ConsistencyServer::new(service));
    let limits = GrpcLimits {
        networks: config.grpc.limits.clone(),
        ..GrpcLimits::default()
    };
    let (serving, stop) = (health.clone(), shutdown.clone());
    let shown = tls.clone();
    servers.spawn(async move {
        serve_grpc(grpc, routes, &serving, &limits, shown.as_ref(), stop).await
    });

    let caught_up = parts.start_readers(park, &mut tasks);
    tokio::select! {
        caught_up = caught_up => caught_up?,
        () = shutdown.cancelled() => return Ok(()),
    }
    desk.caught_up().await;
    health.started();
    let holder = lease::holder(state).context("cannot read or write the lease holder's name")?;
    let mut leading = JoinSet::new();
    leading.spawn(lease::hold(log, holder, desk, post, shutdown.clone()));
    tracing::info!(grpc = %config.grpc.listen, http = %config.http.listen, mirrors = config.mirrors.len(), "serving");
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = servers.join_next() => ended.map_err(anyhow::Error::from).and_then(|ended| Ok(ended?)),
        Some(ended) = tasks.join_next() => {
            Err(ended.err().map_or_else(|| anyhow::anyhow!("a part of the service ended"), anyhow::Error::from))
        }
    };
    shutdown.cancel();
    // The lease is given back, so that the next one need not wait for it to run out.
    while let Some(stopped) = leading.join_next().await {
        stopped?;
    }
    while let Some(stopped) = servers.join_next().await {
        stopped??;
    }
    ended
}

/// Waits until the log has all its streams. Where it knows roles, only the archive may make them.
async fn streams(log: &Log, health: &Health) -> anyhow::Result<()> {
    loop {
        match log.ensure().await {
            Ok(()) => return Ok(()),
            Err(error) if error.reaction() == Reaction::Retry => {
                let text = format!("the log has not all streams yet: {}", wire::causes(&error));
                tracing::warn!("{text}");
                health.degrade("log", text);
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Two services in one folder would take the lease under one name.
fn lock(state: &Path) -> anyhow::Result<std::fs::File> {
    let path = state.join("lock");
    let file =
        std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let locked = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    locked.with_context(|| {
        format!(
            "{} is in use by another consistency service",
            state.display()
        )
    })?;
    Ok(file)
}

struct Keys {
    own: SecretKey,
    trust: Trust,
    mirrors: Roster,
}

impl Keys {
    fn read(config: &Config) -> anyhow::Result<Self> {
        let own = read_secret(&config.consistency.key)?;
        let trust = Trust::of_config(
            config.trust.as_ref(),
            &config.consistency.state,
            &config.archive.keys,
            &[],
        )?;
        let by_root = trust.version().is_some();
        if by_root
            && !trust
                .consistency()
                .now()
                .iter()
                .any(|key| *key == own.public())
        {
            let key = own.public().number();
            tracing::error!(%key, "the root document does not name this service's key: nobody believes its verdicts");
        }
        let key = |mirror: &MirrorSection| {
            let key = match (&mirror.key, by_root) {
                (Some(file), false) => Some(TrustedKeys::new([read_public(file)?])),
                (None, true) => None,
                (Some(_), true) => anyhow::bail!(
                    "mirror {} has a key, and trust.root is given: its keys are the root document's, leave key out",
                    mirror.id
                ),
                (None, false) => anyhow::bail!(
                    "mirror {} has no key, and there is no trust.root",
                    mirror.id
                ),
            };
            Ok((mirror.id.clone(), key))
        };
        let mirrors = config.mirrors.iter().map(key);
        let mirrors = Roster {
            mirrors: Arc::new(mirrors.collect::<anyhow::Result<_>>()?),
            trust: trust.clone(),
        };
        Ok(Self {
            own,
            trust,
            mirrors,
        })
    }

    /// Whose verdicts count.
    fn verdicts(&self) -> runtime::trust::Keys {
        match self.trust.version() {
            Some(_) => self.trust.consistency().clone(),
            None => TrustedKeys::new([self.own.public()]).into(),
        }
    }
}

/// What starting the parts needs.
struct Parts<'a> {
    config: &'a Config,
    tls: Option<&'a Tls>,
    keys: &'a Keys,
    log: &'a Log,
    desk: &'a Desk,
    health: &'a Health,
}

impl Parts<'_> {
    fn start_desk(
        &self,
        orders: Orders,
        gauges: Gauges,
        park: Park,
        post: Post,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let config = self.config;
        let source = Source::of(&config.archive.fetch, self.tls)?;
        let store = Store::open(&config.consistency.state.join("pages"))?;
        let manifests = Manifests::new(store, PAGE_CACHE_BYTES, source);
        let public = config
            .mirrors
            .iter()
            .filter_map(|mirror| Some((mirror.id.clone(), mirror.url.clone()?)));
        let work = Work {
            fold: Consistency::new(rules(&config.audit), config.mirrors.iter().map(member)),
            desk: self.desk.clone(),
            key: self.keys.own.clone(),
            auditor: Auditor::new(public, &config.audit, manifests.clone(), raise_open_files()),
            manifests,
            post,
            gauges,
            park,
            health: self.health.clone(),
            log: self.log.clone(),
            shelf: Shelf::new(),
        };
        tasks.spawn(work.run(orders));
        Ok(())
    }

    async fn start_readers(&self, park: Park, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
        let inbox = Inbox {
            desk: self.desk.clone(),
            park: park.clone(),
            mirrors: self.keys.mirrors.clone(),
        };
        let mut feed = Feed::new(
            self.log.clone(),
            self.desk.clone(),
            park,
            self.keys.trust.archive().clone(),
            self.keys.verdicts(),
        );
        feed.follow_trust(&self.keys.trust, tasks).await;
        let archive = runtime::tls::endpoint(&self.config.archive.fetch, self.tls)?;
        feed.follow_journal(archive, tasks);
        Ok(inbox.start(feed, tasks).await?)
    }
}

fn member(mirror: &MirrorSection) -> Member {
    Member {
        mirror: mirror.id.clone(),
        pool: mirror.pool.clone(),
        audience: if mirror.url.is_some() {
            Audience::Public
        } else {
            Audience::Private
        },
        channels: mirror.channels.clone(),
    }
}

fn rules(audit: &AuditSection) -> Rules {
    let ms = |span: Span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX / 4);
    Rules {
        round_ms: ms(audit.every),
        retry_ms: ms(audit.retry),
        stale_after_ms: ms(audit.report_stale),
        unreachable_failures: UNREACHABLE_FAILURES,
        laggard_after_ms: ms(audit.laggard_after),
    }
}
