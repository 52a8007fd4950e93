//! What the log lacks, from the archive's journal: at start, after a gap, and now and then.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use mirrorlog_core::statement::DeltaSource;
use tokio::sync::Notify;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tracing::Span;
use wire::v1::journal_client::JournalClient;
use wire::{Signed, causes, v1};

use super::{Heard, Listener};
use crate::trace::TraceCalls;
use crate::trust::Keys;

/// Time between two readings when nothing calls for one.
const EVERY: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);
/// Snapshots asked for at a time.
const BATCH: u32 = 1024;

/// Why the journal was not read to its end.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the archive does not answer")]
    Call(#[from] tonic::Status),
    #[error("a statement of the journal is not accepted")]
    Decode(#[from] wire::DecodeError),
    #[error("a statement of the journal is not accepted")]
    Open(#[from] wire::OpenError),
}

type Client = JournalClient<InterceptedService<Channel, TraceCalls>>;

/// Hands the journal to the listener whenever `gap` calls for it, and every ten minutes.
pub(super) async fn follow<L: Listener>(
    endpoint: Endpoint,
    keys: Keys,
    listener: L,
    gap: Arc<Notify>,
) {
    let channel = endpoint.timeout(TIMEOUT).connect_lazy();
    let mut client = JournalClient::with_interceptor(channel, TraceCalls);
    let mut heard = true;
    loop {
        let wait = match read(&mut client, &keys.now(), &listener).await {
            Ok(()) => {
                heard = true;
                EVERY
            }
            Err(error) => {
                if std::mem::replace(&mut heard, false) {
                    tracing::warn!(
                        error = causes(&error),
                        "archive's journal cannot be read, trying again"
                    );
                }
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = gap.notified() => {}
        }
    }
}

async fn read<L: Listener>(
    client: &mut Client,
    keys: &mirrorlog_core::sign::TrustedKeys,
    listener: &L,
) -> Result<(), ReadError> {
    let channels = client
        .channels(v1::ChannelsRequest {})
        .await?
        .into_inner()
        .channels;
    for channel in channels {
        // Retractions first, so that nothing taken back is looked at.
        let request = v1::RetractionsRequest {
            channel: channel.clone(),
        };
        let mut retractions = client.retractions(request).await?.into_inner();
        while let Some(signed) = retractions.try_next().await? {
            let retraction = Signed::from_proto(signed)?.open_retraction(keys)?;
            listener
                .hear(Heard::Retraction(retraction), &Span::none())
                .await;
        }
        snapshots(client, keys, listener, &channel).await?;
        match client
            .head(v1::HeadRequest {
                channel: channel.clone(),
            })
            .await
        {
            Ok(head) => {
                let head = Signed::from_proto(head.into_inner())?.open_head(keys)?;
                listener.hear(Heard::Head(head), &Span::none()).await;
            }
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => tracing::debug!(error = causes(&status), channel, "head cannot be read"),
        }
    }
    Ok(())
}

async fn snapshots<L: Listener>(
    client: &mut Client,
    keys: &mirrorlog_core::sign::TrustedKeys,
    listener: &L,
    channel: &str,
) -> Result<(), ReadError> {
    let mut from = 1;
    loop {
        let request = v1::SnapshotsRequest {
            channel: channel.to_owned(),
            from,
            limit: BATCH,
        };
        let mut snapshots = client.snapshots(request).await?.into_inner();
        let start = from;
        while let Some(signed) = snapshots.try_next().await? {
            let snapshot = Signed::from_proto(signed)?.open_snapshot(keys)?;
            from = from.max(snapshot.build.next().get());
            listener
                .hear(Heard::Snapshot(snapshot, DeltaSource::Pages), &Span::none())
                .await;
        }
        if from == start {
            return Ok(());
        }
    }
}
