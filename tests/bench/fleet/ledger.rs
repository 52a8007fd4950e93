//! What the log's verdicts say.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use e2e::Network;
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::VerdictState;
use runtime::log::{Log, NatsConfig};
use wire::Signed;

/// A mirror's first verdict "complete" on a build.
#[derive(Clone, Copy)]
pub(crate) struct Complete {
    pub(crate) at: Instant,
    pub(crate) audited_files: u64,
    pub(crate) new_files: u64,
}

type Seen = BTreeMap<u64, HashMap<MirrorId, Complete>>;

/// Verdicts so far.
#[derive(Default)]
pub(crate) struct Ledger {
    seen: Arc<Mutex<Seen>>,
}

impl Ledger {
    /// Reads verdicts in the background.
    pub(crate) async fn follow(network: &Network, nats: &NatsConfig) -> Self {
        let file = network
            .config("consistency")
            .with_file_name("consistency.pub");
        let keys = TrustedKeys::new([runtime::key::read_public(&file).unwrap()]);
        let log = Log::connect(nats, "bench-ledger", false).await.unwrap();
        let mut verdicts = log.verdicts().await.unwrap();
        let ledger = Self::default();
        let seen = Arc::clone(&ledger.seen);
        tokio::spawn(async move {
            loop {
                let message = verdicts.next().await;
                let at = Instant::now();
                let signed = Signed::decode(&message.payload).unwrap();
                let verdict = signed.open_verdict(&keys).unwrap();
                if verdict.state != VerdictState::Complete {
                    continue;
                }
                let complete = Complete {
                    at,
                    audited_files: verdict.audited_files,
                    new_files: verdict.new_files,
                };
                let mut seen = seen.lock().unwrap();
                let build = seen.entry(verdict.build.get()).or_default();
                build.entry(verdict.mirror).or_insert(complete);
            }
        });
        ledger
    }

    /// When the publishing of a build begins; nothing was said of it before.
    pub(crate) fn begin(&self, build: u64) -> Instant {
        assert!(
            self.complete(build).is_empty(),
            "build {build} is complete before it is published"
        );
        Instant::now()
    }

    /// The mirrors that are complete at a build.
    pub(crate) fn complete(&self, build: u64) -> Vec<Complete> {
        let seen = self.seen.lock().unwrap();
        seen.get(&build)
            .into_iter()
            .flatten()
            .map(|(_, one)| *one)
            .collect()
    }
}
