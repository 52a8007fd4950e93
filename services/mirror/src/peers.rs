//! The mirrors of this pool: who is there, what they have, and what they are told of this one.
//!
//! Notices go beside the log, and nothing keeps them. A wrong one costs seconds: what comes from a peer is checked like
//! everything else, and whoever brings nothing is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use fetcher::client::{Peer, Peers, Progress, Shunned, Source};
use fetcher::limit::RateLimiter;
use mirrorlog_core::id::{ChannelId, Digest, MirrorId, PoolId};
use mirrorlog_core::mirror::peers::Place;
use mirrorlog_core::view::View;
use runtime::log::{Log, LogError};
use runtime::tls::Tls;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::peer::{PeerBuild, PeerNotice};

use crate::config::Config;
use crate::inbox::chain;

/// Pause between two notices while nothing is brought here.
const TELL_IDLE: Duration = Duration::from_secs(10);
/// The same while something is: peers see by it that there is progress.
const TELL_BUSY: Duration = Duration::from_secs(1);
/// Shortest time between two notices: a burst of changes makes one.
const TELL_PAUSE: Duration = Duration::from_millis(20);
/// Shortest time between two answers to those who ask who is there.
const ANSWER_PAUSE: Duration = Duration::from_millis(100);
/// A peer that was not heard of for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(25);
/// Most peers that are remembered; others are left out.
const PEERS_MAX: usize = 256;
/// Longest wait for peers that carry a channel to say that they bring the same build.
const MEET: Duration = Duration::from_millis(500);
/// A mirror that has just begun to listen has not heard of anybody yet.
const LISTEN: Duration = Duration::from_millis(300);
/// What begins with the mirror waits so long for the log, by which peers are heard of.
const START: Duration = Duration::from_secs(2);
/// Pause before listening again after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The name under which mirrors of one view know what they bring: a build's root; of a part, a digest of both.
pub(crate) fn shared(root: &Digest, view: &View) -> Digest {
    match view {
        View::All => *root,
        View::Part(_) => Digest::of(format!("{root} {view}").as_bytes()),
    }
}

/// What a mirror knows of its pool. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    mirror: MirrorId,
    pool: PoolId,
    /// Where peers fetch from this mirror; `None` when they cannot.
    address: Option<String>,
    enabled: bool,
    /// Mirrors of a network with TLS are called with it.
    tls: Option<Tls>,
    started: Instant,
    rate: Arc<RateLimiter>,
    shunned: Shunned,
    table: watch::Sender<Arc<Vec<Peer>>>,
    state: Mutex<State>,
    /// This mirror's own standing has changed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// This mirror's builds.
    own: BTreeMap<ChannelId, Vec<PeerBuild>>,
    /// Bytes received by fetches that ended.
    received_bytes: u64,
    /// Fetches that run.
    running: Vec<Weak<Progress>>,
    heard: BTreeMap<MirrorId, Heard>,
    listening_since: Option<Instant>,
}

/// A peer's last notice.
struct Heard {
    at: Instant,
    channels: BTreeSet<ChannelId>,
    /// `None` when it cannot be fetched from.
    peer: Option<Peer>,
}

impl Pool {
    /// The pool of a mirror's configuration; `rate` is that of all its fetches.
    pub(crate) fn new(config: &Config, tls: Option<Tls>, rate: &Arc<RateLimiter>) -> Self {
        let own_rate = config.peers.rate.map(|rate| RateLimiter::new(Some(rate)));
        Self(Arc::new(Inner {
            mirror: config.mirror.id.clone(),
            pool: config.mirror.pool.clone(),
            address: config
                .peers
                .address
                .clone()
                .filter(|_| config.peers.enabled),
            enabled: config.peers.enabled,
            tls,
            started: Instant::now(),
            rate: own_rate.unwrap_or_else(|| Arc::clone(rate)),
            shunned: Shunned::default(),
            table: watch::Sender::default(),
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// The peers for bringing a build here, those too that come later; each brings a share if it
    /// `shares`. `None` when peers are not to be asked.
    pub(crate) fn peers(&self, root: Digest, shares: bool) -> Option<Peers> {
        let inner = &self.0;
        inner.enabled.then(|| Peers {
            root,
            shares,
            own: inner.address.as_ref().map(|_| Place::of(&inner.mirror)),
            table: inner.table.subscribe(),
            rate: Arc::clone(&inner.rate),
            shunned: inner.shunned.clone(),
        })
    }

    /// Notes what this mirror has of a channel; peers are told when it is something else than before.
    pub(crate) fn stand(&self, channel: &ChannelId, builds: Vec<PeerBuild>) {
        let mut state = self.lock();
        if state.own.get(channel) != Some(&builds) {
            state.own.insert(channel.clone(), builds);
            drop(state);
            self.0.changed.notify_one();
        }
    }

    /// Counts what a fetch receives as progress of this mirror.
    pub(crate) fn follow(&self, progress: &Arc<Progress>) -> Followed {
        self.lock().running.push(Arc::downgrade(progress));
        Followed {
            pool: self.clone(),
            progress: Arc::clone(progress),
        }
    }

    /// Waits a moment for the peers that carry a channel to begin with the same build, so that each brings a share.
    pub(crate) async fn meet(&self, channel: &ChannelId, root: &Digest) {
        if !self.0.enabled {
            return;
        }
        let deadline = Instant::now() + MEET;
        let mut table = self.0.table.subscribe();
        while let Some(until) = self.missing_until(channel, root, deadline) {
            tokio::select! {
                changed = table.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(until) => {}
            }
        }
        let with_it = |peer: &&Peer| peer.roots.contains_key(root);
        let peers = table.borrow().iter().filter(with_it).count();
        tracing::debug!(%channel, peers, known = table.borrow().len(), "peers bring the same build");
    }

    /// Until when somebody may still turn up; `None` when nobody is to be waited for.
    fn missing_until(
        &self,
        channel: &ChannelId,
        root: &Digest,
        deadline: Instant,
    ) -> Option<Instant> {
        let now = Instant::now();
        let state = self.lock();
        let listened = match state.listening_since {
            Some(since) => since + LISTEN,
            // The log is reached in a moment, or is away.
            None => return Some(self.0.started + START).filter(|until| now < *until),
        };
        // Of a channel's first build nobody has said yet who carries the channel.
        let own = state.own.get(channel);
        let is_first = own.is_none_or(|builds| !builds.iter().any(|build| build.whole));
        let carries = |heard: &&Heard| is_first || heard.channels.contains(channel);
        let carriers = state.heard.values().filter(carries);
        let mut peers = carriers.filter_map(|heard| heard.peer.as_ref());
        let has = |peer: &Peer| peer.roots.get(root).copied();
        if peers.clone().any(|peer| has(peer) == Some(true)) {
            return None;
        }
        let all_here = peers.all(|peer| has(peer).is_some());
        let until = if all_here {
            listened
        } else {
            deadline.max(listened)
        };
        (now < until).then_some(until)
    }

    /// Tells the pool of this mirror and listens to the others, until `stop`.
    pub(crate) async fn run(self, log: watch::Receiver<Option<Log>>, stop: CancellationToken) {
        if self.0.enabled {
            stop.run_until_cancelled(self.talk(log)).await;
        }
    }

    async fn talk(&self, mut log: watch::Receiver<Option<Log>>) {
        let Ok(Some(log)) = log.wait_for(Option::is_some).await.map(|log| log.clone()) else {
            return;
        };
        loop {
            let Err(error) = self.talk_through(&log).await;
            tracing::debug!(
                error = chain(&error),
                "peers cannot be heard now; trying again"
            );
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn talk_through(&self, log: &Log) -> Result<std::convert::Infallible, LogError> {
        let (pool, mirror) = (&self.0.pool, &self.0.mirror);
        let mut notices = log.peers(pool).await?;
        self.lock().listening_since = Some(Instant::now());
        // Who waits for that looks again.
        self.0.table.send_modify(|_| {});
        let mut asks = true;
        loop {
            let (notice, is_busy) = self.notice(asks);
            tracing::debug!(builds = notice.builds.len(), is_busy, "telling peers");
            log.tell_peers(pool, mirror, notice.encode().into()).await?;
            asks = false;
            let told_at = Instant::now();
            tokio::time::sleep(TELL_PAUSE).await;
            let next = Instant::now() + if is_busy { TELL_BUSY } else { TELL_IDLE };
            loop {
                tokio::select! {
                    heard = notices.next() => {
                        let (from, payload) = heard?;
                        // Whoever asks without end is answered by what is said anyhow.
                        if self.hear(&from, &payload) && told_at.elapsed() >= ANSWER_PAUSE {
                            break;
                        }
                    }
                    () = self.0.changed.notified() => break,
                    () = tokio::time::sleep_until(next) => break,
                }
            }
            self.forget_gone();
        }
    }

    /// What peers are told, and whether something is being brought here.
    fn notice(&self, asks: bool) -> (PeerNotice, bool) {
        let state = self.lock();
        let running = state.running.iter().filter_map(Weak::upgrade);
        let running: u64 = running.map(|progress| progress.received_bytes()).sum();
        let builds: Vec<PeerBuild> = state.own.values().flatten().cloned().collect();
        let is_busy = builds.iter().any(|build| !build.whole);
        let notice = PeerNotice {
            mirror: self.0.mirror.clone(),
            fetch_address: self.0.address.clone(),
            asks,
            received_bytes: state.received_bytes + running,
            builds,
        };
        (notice, is_busy)
    }

    /// Takes a notice over; true when whoever sent it wants an answer.
    fn hear(&self, from: &MirrorId, payload: &Bytes) -> bool {
        let notice = match PeerNotice::decode(payload) {
            Ok(notice) if notice.mirror == *from => notice,
            Ok(notice) => {
                tracing::debug!(%from, mirror = %notice.mirror, "a notice on another mirror's subject");
                return false;
            }
            Err(error) => {
                tracing::debug!(%from, error = chain(&error), "a notice that cannot be read");
                return false;
            }
        };
        if *from == self.0.mirror {
            return false;
        }
        let mut state = self.lock();
        if !state.heard.contains_key(from) && state.heard.len() >= PEERS_MAX {
            return false;
        }
        let before = state.heard.remove(from).and_then(|heard| heard.peer);
        let source = notice.fetch_address.as_deref().and_then(|address| {
            let same = before.filter(|before| before.source.address() == address);
            match same.map_or_else(
                || Source::of(address, self.0.tls.as_ref()),
                |same| Ok(same.source),
            ) {
                Ok(source) => Some(source),
                Err(error) => {
                    tracing::debug!(%from, error = chain(&error), "a peer without an address");
                    None
                }
            }
        });
        let peer = source.map(|source| Peer {
            id: from.clone(),
            source,
            roots: roots(&notice.builds),
            received_bytes: notice.received_bytes,
        });
        let channels = notice.builds.into_iter().map(|build| build.channel);
        let heard = Heard {
            at: Instant::now(),
            channels: channels.collect(),
            peer,
        };
        state.heard.insert(from.clone(), heard);
        self.show(&state);
        notice.asks
    }

    fn forget_gone(&self) {
        let mut state = self.lock();
        let before = state.heard.len();
        state
            .heard
            .retain(|_, heard| heard.at.elapsed() < GONE_AFTER);
        if state.heard.len() != before {
            self.show(&state);
        }
    }

    /// Hands the table to all fetches.
    fn show(&self, state: &State) {
        let peers = state.heard.values().filter_map(|heard| heard.peer.clone());
        self.0.table.send_replace(Arc::new(peers.collect()));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of two words on one build, the better.
fn roots(builds: &[PeerBuild]) -> BTreeMap<Digest, bool> {
    let mut roots = BTreeMap::new();
    for build in builds {
        *roots.entry(build.root).or_default() |= build.whole;
    }
    roots
}

/// A fetch whose progress counts; dropped, it has ended.
pub(crate) struct Followed {
    pool: Pool,
    progress: Arc<Progress>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        let ours = Arc::as_ptr(&self.progress);
        state
            .running
            .retain(|one| !std::ptr::eq(one.as_ptr(), ours));
        state.received_bytes += self.progress.received_bytes();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CONFIG: &str = "[mirror]\nid = \"nz1\"\npool = \"nz\"\nstate = \"s\"\nstore = \"b\"\nkey = \"k\"\n\
        [archive]\nfetch = \"a:1\"\nkeys = []\n[nats]\nurl = \"nats://n\"\n\
        [http]\nlisten = \"127.0.0.1:1\"\n[grpc]\nlisten = \"127.0.0.1:2\"\n";

    fn pool(more: &str) -> Pool {
        let config: Config = toml::from_str(&format!("{CONFIG}{more}")).unwrap();
        let pool = Pool::new(&config, None, &RateLimiter::new(None));
        pool.lock().listening_since = Some(Instant::now());
        pool
    }

    fn channel() -> ChannelId {
        ChannelId::new("noble").unwrap()
    }

    fn id(name: &str) -> MirrorId {
        MirrorId::new(name).unwrap()
    }

    fn build(number: u8, whole: bool) -> PeerBuild {
        PeerBuild {
            channel: channel(),
            root: Digest::of(&[number]),
            whole,
        }
    }

    fn notice(name: &str, address: Option<&str>, builds: Vec<PeerBuild>) -> Bytes {
        let notice = PeerNotice {
            mirror: id(name),
            fetch_address: address.map(str::to_owned),
            asks: false,
            received_bytes: 0,
            builds,
        };
        notice.encode().into()
    }

    fn known(pool: &Pool) -> Vec<String> {
        let table = pool.0.table.borrow();
        table.iter().map(|peer| peer.id.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn peers_are_those_that_can_be_reached_until_they_fall_silent() {
        let pool = pool("");
        pool.hear(&id("nz2"), &notice("nz2", Some("b:1"), vec![]));
        // Behind NAT; on somebody else's subject; this mirror itself; no notice.
        pool.hear(&id("nz3"), &notice("nz3", None, vec![]));
        pool.hear(&id("nz4"), &notice("nz5", Some("b:1"), vec![]));
        pool.hear(&id("nz1"), &notice("nz1", Some("b:1"), vec![]));
        pool.hear(&id("nz6"), &Bytes::from_static(b"\xff"));
        assert_eq!(known(&pool), ["nz2"]);
        tokio::time::advance(GONE_AFTER / 2).await;
        pool.hear(&id("nz7"), &notice("nz7", Some("c:1"), vec![]));
        tokio::time::advance(GONE_AFTER / 2).await;
        pool.forget_gone();
        assert_eq!(known(&pool), ["nz7"]);
        pool.hear(&id("nz7"), &notice("nz7", None, vec![]));
        assert!(known(&pool).is_empty(), "it moved behind NAT");
    }

    #[tokio::test(start_paused = true)]
    async fn no_number_of_names_fills_the_memory() {
        let pool = pool("");
        for number in 0..PEERS_MAX + 50 {
            let name = format!("nz{}", number + 2);
            pool.hear(&id(&name), &notice(&name, Some("b:1"), vec![]));
        }
        assert_eq!(known(&pool).len(), PEERS_MAX);
    }

    /// How long a mirror waits that has the channel's build 1 and brings 2.
    async fn wait_of(pool: &Pool, root: u8) -> Duration {
        let begun = Instant::now();
        pool.meet(&channel(), &Digest::of(&[root])).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn only_those_who_carry_the_channel_are_waited_for() {
        let pool = pool("");
        tokio::time::advance(LISTEN).await;
        pool.stand(&channel(), vec![build(1, true), build(2, false)]);
        assert_eq!(wait_of(&pool, 2).await, Duration::ZERO, "nobody is there");
        pool.hear(&id("nz2"), &notice("nz2", Some("b:1"), vec![]));
        assert_eq!(
            wait_of(&pool, 2).await,
            Duration::ZERO,
            "it has other channels"
        );
        pool.hear(
            &id("nz2"),
            &notice("nz2", Some("b:1"), vec![build(1, true)]),
        );
        assert_eq!(wait_of(&pool, 2).await, MEET, "it may bring the build too");
        pool.hear(
            &id("nz2"),
            &notice("nz2", Some("b:1"), vec![build(2, false)]),
        );
        assert_eq!(wait_of(&pool, 2).await, Duration::ZERO);
        pool.stand(&channel(), vec![build(9, false)]);
        pool.hear(&id("nz3"), &notice("nz3", Some("c:1"), vec![]));
        assert_eq!(
            wait_of(&pool, 9).await,
            MEET,
            "anybody may carry a new channel"
        );
        pool.hear(
            &id("nz3"),
            &notice("nz3", Some("c:1"), vec![build(9, true)]),
        );
        assert_eq!(wait_of(&pool, 9).await, Duration::ZERO, "one has all of it");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_begun_to_listen_listens_a_moment() {
        let pool = pool("");
        assert_eq!(wait_of(&pool, 2).await, LISTEN);
        pool.lock().listening_since = None;
        assert_eq!(
            wait_of(&pool, 2).await,
            START - LISTEN,
            "the log may be reached yet"
        );
        assert_eq!(
            wait_of(&pool, 2).await,
            Duration::ZERO,
            "without the log nobody can be heard"
        );
    }

    #[test]
    fn configuration_says_whether_and_where() {
        let root = Digest::of(b"root");
        assert!(
            pool("[peers]\nenabled = false\n")
                .peers(root, true)
                .is_none()
        );
        assert!(pool("").peers(root, true).unwrap().own.is_none());
        let reached = pool("[peers]\naddress = \"nz1.example.org:7080\"\n");
        assert_eq!(
            reached.peers(root, true).unwrap().own,
            Some(Place::of(&id("nz1")))
        );
        let wrong = format!("{CONFIG}[peers]\naddress = \"http://nz1/\"\n");
        let wrong = toml::from_str::<Config>(&wrong).unwrap_err().to_string();
        assert!(wrong.contains("not of the form host:port"), "{wrong}");
    }
}
