//! Simulated mirrors: each follows the log by its own consumers and reports, and holds nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::Network;
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane, MirrorId};
use mirrorlog_core::sign::{SecretKey, TrustedKeys};
use mirrorlog_core::statement::{
    DeltaSource, Presence, Report, ReportedBuild, Snapshot, Statement,
};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::view::View;
use roaring::RoaringBitmap;
use runtime::log::{Delivery, Event, Events, Log, Messages, NatsConfig, Watch};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wire::Signed;
use wire::event::Opened;

use crate::CHANNEL;
use crate::network::id;
use crate::site::Site;

/// Mirrors that join at the same time.
const JOINING: usize = 32;
/// Pause between two reports when nothing happens, as mirrors have it by default.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// All mirrors.
pub(crate) struct Fleet {
    site: Arc<Site>,
    /// Milliseconds from the log to a mirror, by build.
    lags: Mutex<BTreeMap<u64, Vec<f64>>>,
    /// Reports that NATS did not take in time.
    unsent: AtomicU64,
}

impl Fleet {
    pub(crate) fn new(site: Arc<Site>) -> Self {
        Self {
            site,
            lags: Mutex::default(),
            unsent: AtomicU64::new(0),
        }
    }

    /// Connects all mirrors; they run in the background.
    pub(crate) async fn muster(
        self: Arc<Self>,
        network: &Network,
        nats: &NatsConfig,
        keys: Vec<SecretKey>,
    ) {
        let archive = TrustedKeys::new([runtime::key::read_public(&network.key()).unwrap()]);
        let archive = Arc::new(archive);
        let joining = Arc::new(Semaphore::new(JOINING));
        let mut joined = JoinSet::new();
        for (number, key) in keys.into_iter().enumerate() {
            let (config, fleet) = (nats.clone(), Arc::clone(&self));
            let (archive, joining) = (Arc::clone(&archive), Arc::clone(&joining));
            joined.spawn(async move {
                let _turn = joining.acquire().await.unwrap();
                let mirror = Mirror::join(number, key, &config, fleet, archive).await;
                tokio::spawn(mirror.run());
            });
        }
        while let Some(joined) = joined.join_next().await {
            joined.unwrap();
        }
    }

    /// Reports that NATS did not take in time.
    pub(crate) fn unsent(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }

    /// How many mirrors have heard of a build.
    pub(crate) fn heard(&self, build: u64) -> usize {
        self.lags.lock().unwrap().get(&build).map_or(0, Vec::len)
    }

    /// How late each mirror heard of a build.
    pub(crate) fn take_lags(&self, build: u64) -> Vec<f64> {
        self.lags.lock().unwrap().remove(&build).unwrap_or_default()
    }
}

struct Mirror {
    number: usize,
    id: MirrorId,
    key: SecretKey,
    archive: Arc<TrustedKeys>,
    fleet: Arc<Fleet>,
    log: Log,
    lanes: [Events; 2],
    heads: Watch,
    orders: Messages,
    booted: Timestamp,
    sequence: u64,
    held: BTreeMap<Build, Digest>,
}

impl Mirror {
    async fn join(
        number: usize,
        key: SecretKey,
        config: &NatsConfig,
        fleet: Arc<Fleet>,
        archive: Arc<TrustedKeys>,
    ) -> Self {
        let id = MirrorId::new(&id(number)).unwrap();
        let log = Log::connect(config, &format!("mirrorlog-mirror {id}"), true)
            .await
            .unwrap();
        let [bulk, priority] = Lane::ALL.map(|lane| log.consume(&id, lane, &[], None));
        Self {
            lanes: [bulk.await.unwrap(), priority.await.unwrap()],
            heads: log.bucket("head").await.unwrap().watch().await.unwrap(),
            orders: log.orders(&id, None).await.unwrap(),
            number,
            id,
            key,
            archive,
            fleet,
            log,
            booted: runtime::boot::now(),
            sequence: 0,
            held: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        // Mirrors were started at different times: their reports come evenly.
        let first =
            REPORT_EVERY.mul_f64(f64::from(getrandom::u32().unwrap()) / f64::from(u32::MAX));
        let mut due = tokio::time::interval_at(tokio::time::Instant::now() + first, REPORT_EVERY);
        loop {
            let [bulk, priority] = &mut self.lanes;
            let delivery = tokio::select! {
                delivery = bulk.next() => delivery,
                delivery = priority.next() => delivery,
                change = self.heads.next() => {
                    let head = Signed::decode(&change.value.unwrap()).unwrap();
                    head.open_head(&self.archive).unwrap();
                    continue;
                }
                _ = self.orders.next() => continue,
                _ = due.tick() => {
                    self.report(None).await;
                    continue;
                }
            };
            match delivery {
                Delivery::Event(event) => self.take(event).await,
                Delivery::StreamChanged(_) => {}
            }
        }
    }

    /// A build came: says that it is fetched, then that it is live.
    async fn take(&mut self, event: Event) {
        let received = runtime::boot::now();
        let decoded = wire::Event::decode(&event.payload).unwrap();
        let (opened, _) = decoded.open(&self.archive).unwrap();
        let Opened::Snapshot(snapshot) = opened else {
            return;
        };
        let build = snapshot.build;
        let lag_ms = received.ms_since(event.published) as f64;
        self.fleet
            .lags
            .lock()
            .unwrap()
            .entry(build.get())
            .or_default()
            .push(lag_ms);
        self.report(Some(fetching(&snapshot, &decoded.delta))).await;
        self.held.insert(build, snapshot.root);
        self.fleet.site.go_live(self.number, build.get());
        self.report(None).await;
        event.ack.ack().await.unwrap();
    }

    async fn report(&mut self, fetching: Option<ReportedBuild>) {
        self.sequence += 1;
        let whole = |(build, root): (&Build, &Digest)| ReportedBuild {
            build: *build,
            root: *root,
            view: View::All,
            presence: Presence::All,
            missing_files: 0,
            missing_bytes: 0,
        };
        let channel = ChannelId::new(CHANNEL).unwrap();
        let report = Report {
            mirror: self.id.clone(),
            channel: channel.clone(),
            boot: self.number as u64 + 1,
            sequence: self.sequence,
            issued: runtime::boot::now(),
            booted: self.booted,
            live: self.held.last_key_value().map(|(build, _)| *build),
            target: fetching.as_ref().map(|fetching| fetching.build),
            builds: self.held.iter().map(whole).chain(fetching).collect(),
            fetch_bytes_per_s: 0,
            disk_free_bytes: 1 << 40,
            halted: None,
            orders: Vec::new(),
        };
        let signed = Signed::sign(&self.key, &Statement::Report(report)).encode();
        // What is not sent now is in the next report.
        let sent = self.log.publish_report(&self.id, &channel, signed.into());
        if sent.await.is_err() {
            self.fleet.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The build as it is reported while its new files are fetched.
fn fetching(snapshot: &Snapshot, delta: &DeltaSource) -> ReportedBuild {
    let entries = u32::try_from(snapshot.entries).unwrap();
    let missing = match delta {
        DeltaSource::Inline(delta) => u32::try_from(delta.len()).unwrap().min(entries),
        DeltaSource::Pages => entries,
    };
    let mut here = RoaringBitmap::new();
    here.insert_range(0..entries);
    let step = (entries / missing.max(1)).max(1);
    for ordinal in (0..entries).step_by(step as usize).take(missing as usize) {
        here.remove(ordinal);
    }
    here.optimize();
    ReportedBuild {
        build: snapshot.build,
        root: snapshot.root,
        view: View::All,
        presence: Presence::Some(here),
        missing_files: u64::from(missing),
        missing_bytes: u64::from(missing) * 600,
    }
}
