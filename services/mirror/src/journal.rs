//! What the log did not bring, asked of the archive.

use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::limits::{BACKFILL_BUILDS_MAX, RETRACTIONS_MAX};
use mirrorlog_core::statement::{Head, Retraction, Snapshot};
use runtime::tls::Tls;
use runtime::trace::TraceCalls;
use runtime::trust::Keys;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use wire::v1::journal_client::JournalClient;
use wire::{DecodeError, OpenError, Signed, v1};

/// How far below the head snapshots are asked for.
const SNAPSHOTS_MAX: u32 = 64;
/// Silence after which the archive is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The archive's journal.
#[derive(Clone)]
pub(crate) struct Journal {
    client: JournalClient<InterceptedService<Channel, TraceCalls>>,
    keys: Keys,
}

/// Why the journal gave no answer that counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The address is none.
    #[error("archive address {0:?} is not valid")]
    Address(String, #[source] tonic::transport::Error),
    /// No answer, or a refusal.
    #[error("the archive's journal does not answer")]
    Call(#[source] Box<tonic::Status>),
    /// An answer that is no statement.
    #[error("the archive's journal sent a malformed statement")]
    Decode(#[from] DecodeError),
    /// An answer about another channel, or a longer one than was asked for.
    #[error("the archive's journal answers something else than was asked")]
    Other,
    /// An answer that nobody trusted signed.
    #[error("the archive's journal sent a statement that does not verify")]
    Open(#[from] OpenError),
}

impl From<tonic::Status> for JournalError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// What the journal says of a channel.
pub(crate) struct Answer {
    pub(crate) head: Option<(Signed, Head)>,
    pub(crate) retractions: Vec<(Signed, Retraction)>,
    pub(crate) snapshots: Vec<(Signed, Snapshot)>,
}

impl Journal {
    /// Connects when first asked.
    pub(crate) fn new(address: &str, tls: Option<&Tls>, keys: Keys) -> Result<Self, JournalError> {
        let endpoint = runtime::tls::endpoint(address, tls)
            .map_err(|error| JournalError::Address(address.to_owned(), error))?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .timeout(TIMEOUT);
        Ok(Self {
            client: JournalClient::with_interceptor(endpoint.connect_lazy(), TraceCalls),
            keys,
        })
    }

    /// The channels that the archive publishes.
    pub(crate) async fn channels(&self) -> Result<Vec<ChannelId>, JournalError> {
        let request = v1::ChannelsRequest {};
        let reply = self.client.clone().channels(request).await?.into_inner();
        let channels = reply.channels.iter().map(|name| name.parse());
        let channels: Result<_, _> = channels.collect();
        channels.map_err(|_| JournalError::Other)
    }

    /// The snapshots of a range that was asked for, oldest first; not more than a mirror may be asked for at once.
    pub(crate) async fn between(
        &self,
        channel: &ChannelId,
        first: Build,
        last: Build,
    ) -> Result<Vec<(Signed, Snapshot)>, JournalError> {
        let request = v1::SnapshotsRequest {
            channel: channel.to_string(),
            from: first.get(),
            limit: u32::try_from(BACKFILL_BUILDS_MAX).unwrap_or(u32::MAX),
        };
        let mut stream = self.client.clone().snapshots(request).await?.into_inner();
        let mut snapshots = Vec::new();
        while let Some(proto) = stream.message().await? {
            let signed = Signed::from_proto(proto)?;
            let snapshot = signed.open_snapshot(&self.keys.now())?;
            if snapshot.channel != *channel || snapshots.len() >= BACKFILL_BUILDS_MAX {
                return Err(JournalError::Other);
            }
            if (first..=last).contains(&snapshot.build) {
                snapshots.push((signed, snapshot));
            }
        }
        Ok(snapshots)
    }

    /// Head, retractions, and snapshots from `from` on.
    pub(crate) async fn ask(
        &self,
        channel: &ChannelId,
        from: Build,
    ) -> Result<Answer, JournalError> {
        let mut client = self.client.clone();
        let name = channel.to_string();
        let head = match client
            .head(v1::HeadRequest {
                channel: name.clone(),
            })
            .await
        {
            Ok(reply) => {
                let signed = Signed::from_proto(reply.into_inner())?;
                let head = signed.open_head(&self.keys.now())?;
                if head.channel != *channel || crate::inbox::check_time(head.issued).is_err() {
                    return Err(JournalError::Other);
                }
                Some((signed, head))
            }
            // Every build is retracted: then the retractions are what matters.
            Err(status) if status.code() == tonic::Code::NotFound => None,
            Err(status) => return Err(status.into()),
        };

        let request = v1::RetractionsRequest {
            channel: name.clone(),
        };
        let mut stream = client.retractions(request).await?.into_inner();
        let mut retractions = Vec::new();
        while let Some(proto) = stream.message().await? {
            let signed = Signed::from_proto(proto)?;
            let retraction = signed.open_retraction(&self.keys.now())?;
            if retraction.channel != *channel || retractions.len() >= RETRACTIONS_MAX {
                return Err(JournalError::Other);
            }
            retractions.push((signed, retraction));
        }

        // Only the newest can become targets.
        let newest = head.as_ref().map_or(1, |(_, head)| head.build.get());
        let from = from
            .get()
            .max(newest.saturating_sub(u64::from(SNAPSHOTS_MAX) - 1));
        let request = v1::SnapshotsRequest {
            channel: name,
            from,
            limit: 2 * SNAPSHOTS_MAX,
        };
        let mut stream = client.snapshots(request).await?.into_inner();
        let mut snapshots = Vec::new();
        while let Some(proto) = stream.message().await? {
            let signed = Signed::from_proto(proto)?;
            let snapshot = signed.open_snapshot(&self.keys.now())?;
            if snapshot.channel != *channel || snapshots.len() >= 2 * SNAPSHOTS_MAX as usize {
                return Err(JournalError::Other);
            }
            snapshots.push((signed, snapshot));
        }
        Ok(Answer {
            head,
            retractions,
            snapshots,
        })
    }
}
