//! Who else knows how far a channel was published: asked when the count of builds is lost.
//!
//! With the log and its buckets gone, a journal that was restored from an older copy looks like one that is whole. Only
//! mirrors know better: by their reports on the log, and by what the consistency service remembers of them. Before a
//! number is given, each mirror is heard, or waited for as long as the configuration says.

use std::time::Duration;

use runtime::log::LogError;
use tokio::time::Instant;
use wire::v1;
use wire::v1::consistency_client::ConsistencyClient;

use crate::daemon::{Channel, Daemon, Link};

/// Pause between two questions.
const POLL: Duration = Duration::from_millis(500);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// What the consistency service says of a mirror that it has not heard since its start.
const UNHEARD: &str = "no-report";

/// What the consistency service knows of a channel.
struct Known {
    /// The newest build on any mirror; 0: none.
    newest: u64,
    /// Whether every mirror that is meant to carry the channel was heard.
    all_heard: bool,
}

impl Daemon {
    /// The newest build of the channel that any mirror holds; 0 for none.
    pub(crate) async fn newest_witnessed(
        &self,
        channel: &Channel,
        link: &Link,
    ) -> Result<u64, LogError> {
        let name = &channel.declared.name;
        // From when this process first saw the log as it is now, so that one more attempt does not wait anew.
        let until = self.log_seen() + self.config.reconcile_hear;
        tracing::warn!(channel = %name, "the count of builds is lost: mirrors are asked before one is given");
        let mut newest = 0;
        loop {
            let known = self.ask_consistency(channel).await;
            newest = newest.max(known.as_ref().map_or(0, |known| known.newest));
            if known.is_some_and(|known| known.all_heard) {
                break;
            }
            if Instant::now() >= until {
                tracing::warn!(channel = %name, newest, "not every mirror was heard; going by those that were");
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(newest.max(self.newest_reported(channel, link).await?))
    }

    /// The newest build of the channel that the consistency service knows of; 0 for none.
    pub(crate) async fn newest_remembered(&self, channel: &Channel) -> u64 {
        let known = self.ask_consistency(channel).await;
        known.map_or(0, |known| known.newest)
    }

    /// `None` when there is no such service, or it does not answer.
    async fn ask_consistency(&self, channel: &Channel) -> Option<Known> {
        let address = self.config.consistency_grpc.as_ref()?;
        let tls = runtime::tls::load(self.config.tls.as_ref()).ok()?;
        let endpoint = runtime::tls::endpoint(address, tls.as_ref()).ok()?;
        let endpoint = endpoint.connect_timeout(ANSWER).timeout(ANSWER);
        let mut client = ConsistencyClient::new(endpoint.connect().await.ok()?);
        let request = v1::StatusRequest {
            channel: channel.declared.name.to_string(),
        };
        let status = client.status(request).await.ok()?.into_inner();
        // One that knows no mirror of the channel knows nothing.
        let heard = |one: &v1::MirrorChannel| {
            let silent = one.retained.is_empty() && one.live == 0;
            !one.reason.starts_with(UNHEARD) && !silent
        };
        let carried = || status.mirrors.iter().flat_map(|mirror| &mirror.channels);
        Some(Known {
            newest: carried()
                .flat_map(|one| one.retained.iter().chain([&one.live, &one.staged]))
                .max()
                .copied()
                .unwrap_or(0),
            all_heard: carried().count() > 0 && carried().all(heard),
        })
    }
}
