//! Whether a mirror answers, and serves what it should.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mirrorlog_core::directory::health::Probed;
use mirrorlog_core::directory::member::MirrorIndex;
use mirrorlog_core::directory::{Input, Look};
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::limits::STATEMENT_MAX_BYTES;
use mirrorlog_core::probe::Probe;
use reqwest::Client;
use runtime::trust::Keys;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wire::Signed;

use crate::desk::Desk;

/// Bytes that a probe asks for.
const PROBE_BYTES: u64 = 1024;
/// Probes under way; the next ones wait.
const AT_ONCE: usize = 256;
/// Room for the signature in front of a snapshot, in bytes.
const SIGNATURE_ROOM: usize = 1024;

/// A build that was looked at, and whether it is served.
type Looked = (ChannelId, Build, bool);

/// Probes mirrors. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Prober {
    client: Client,
    keys: Keys,
    patience: Duration,
    running: Arc<Semaphore>,
}

impl Prober {
    /// `patience`: longest that a whole probe may take.
    pub(crate) fn new(keys: Keys, patience: Duration) -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: fetcher::web::client(patience, 1)?,
            keys,
            patience,
            running: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    /// Probes one mirror in a task of its own, and says how it ended.
    pub(crate) fn start(&self, mirror: MirrorIndex, url: String, looks: Vec<Look>, desk: Desk) {
        let this = self.clone();
        tokio::spawn(async move {
            // Fails only when the semaphore is closed, which it never is.
            let _running = this.running.acquire().await;
            let begun = Instant::now();
            let whole = timeout(this.patience, this.probe(&url, looks, begun)).await;
            // Whoever begins to answer and does not end is as good as silent.
            let (probed, looked) = whole.unwrap_or((Probed::Silent, Vec::new()));
            desk.input(Input::Probed {
                mirror,
                probed,
                looked,
            })
            .await;
        });
    }

    /// The nonce first, then the builds; what does not come to its end makes the whole silent.
    async fn probe(&self, url: &str, looks: Vec<Look>, begun: Instant) -> (Probed, Vec<Looked>) {
        match self.answers(url).await {
            Some(true) => {}
            Some(false) => return (Probed::Wrong, Vec::new()),
            None => return (Probed::Silent, Vec::new()),
        }
        let latency_ms = begun.elapsed().as_secs_f64() * 1000.0;
        let mut looked = Vec::new();
        for look in looks {
            let Some(served) = self.serves(url, &look).await else {
                return (Probed::Silent, Vec::new());
            };
            looked.push((look.channel, look.build, served));
        }
        (Probed::Answered { latency_ms }, looked)
    }

    /// True when it answers with the bytes of a fresh nonce; none when it does not answer.
    async fn answers(&self, url: &str) -> Option<bool> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).ok()?;
        let nonce: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = Probe::new(nonce.as_bytes())?.part(0, PROBE_BYTES);
        let path = format!("/@/probe/{nonce}?bytes={PROBE_BYTES}");
        let (status, body) = self.get(url, &path, expected.len()).await?;
        if status >= 500 {
            // Overloaded or behind a proxy whose mirror is gone: as good as silent.
            return None;
        }
        Some(body == expected)
    }

    /// True when the build's signed snapshot is served and names its root; none when nothing came.
    async fn serves(&self, url: &str, look: &Look) -> Option<bool> {
        let path = format!("/@/{}/{}/snapshot", look.channel, look.build);
        let max_bytes = STATEMENT_MAX_BYTES + SIGNATURE_ROOM;
        let (_status, body) = self.get(url, &path, max_bytes).await?;
        let snapshot = Signed::from_signify(&body).ok();
        let snapshot = snapshot.and_then(|signed| signed.open_snapshot(&self.keys.now()).ok());
        Some(snapshot.is_some_and(|snapshot| {
            snapshot.root == look.root
                && snapshot.channel == look.channel
                && snapshot.build == look.build
        }))
    }

    /// Status and body, cut off after `max_bytes`. A kept connection that turns out closed is made anew once.
    async fn get(&self, url: &str, path: &str, max_bytes: usize) -> Option<(u16, Vec<u8>)> {
        let ask = || self.client.get(format!("{url}{path}")).send();
        let mut answer = match ask().await {
            Err(error) if !error.is_timeout() => ask().await.ok()?,
            answer => answer.ok()?,
        };
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.ok()? {
            body.extend_from_slice(&chunk);
            if body.len() > max_bytes {
                break;
            }
        }
        Some((status, body))
    }
}
