//! Events whose signature is not accepted: after a change of keys, those that are signed by a key of before.
//!
//! The archive's journal has what it ever said as it is signed now. An event that it has is nothing to worry about; one
//! that it has not was written to the log by somebody else.

use std::future::Future;
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::statement::Statement;
use tokio::sync::mpsc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use wire::v1::journal_client::JournalClient;
use wire::{Signed, v1};

use crate::trace::TraceCalls;
use crate::trust::Keys;

/// Most events that wait for the archive, some hundred bytes each; more stay parked.
const WAITING_MAX: usize = 4096;
const RETRY: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where events lie that cannot be used.
pub trait Room: Send + Sync + 'static {
    /// This one is as good as used.
    fn take_back(&self, name: &str) -> impl Future<Output = ()> + Send;
}

/// What an event says, as far as nobody has vouched for it.
#[derive(Debug)]
pub struct Doubt {
    /// Its name in its room.
    name: String,
    digest: Digest,
    channel: ChannelId,
    /// Of a snapshot; none for a retraction.
    build: Option<Build>,
}

/// Takes events that are to be asked about. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Doubts(mpsc::Sender<Doubt>);

/// What waits to be asked about.
#[derive(Debug)]
pub struct Doubtful(mpsc::Receiver<Doubt>);

impl Doubts {
    /// Nothing is asked before [`Doubtful::settle`].
    pub fn new() -> (Self, Doubtful) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), Doubtful(receiver))
    }

    /// Has the archive asked, unless too many wait already.
    pub fn ask(&self, doubt: Doubt) {
        if let Err(error) = self.0.try_send(doubt) {
            tracing::warn!(%error, "too many events are not accepted to ask about this one");
        }
    }
}

impl Doubt {
    /// What an event of the log says that lies in its room by `name`; none for what nobody can have said.
    pub fn of(name: String, payload: &[u8]) -> Option<Self> {
        let event = wire::Event::decode(payload).ok()?;
        let signed = event.body.signed();
        let (channel, build) = match wire::statement::decode(&signed.statement).ok()? {
            Statement::Snapshot(snapshot) => (snapshot.channel, Some(snapshot.build)),
            Statement::Retraction(retraction) => (retraction.channel, None),
            Statement::Head(_)
            | Statement::Report(_)
            | Statement::Verdict(_)
            | Statement::Order(_)
            | Statement::Root(_) => return None,
        };
        Some(Self {
            name,
            digest: signed.digest(),
            channel,
            build,
        })
    }
}

impl Doubtful {
    /// Asks the archive's journal about one after the other, for as long as it takes.
    pub async fn settle(mut self, archive: Endpoint, keys: Keys, room: impl Room) {
        let channel = archive.timeout(TIMEOUT).connect_lazy();
        let mut journal = Journal {
            client: JournalClient::with_interceptor(channel, TraceCalls),
            keys,
        };
        while let Some(doubt) = self.0.recv().await {
            let Doubt { name, channel, .. } = &doubt;
            match journal.patiently_has(&doubt).await {
                true => {
                    tracing::debug!(%channel, name, "an event of earlier keys is in the journal");
                    room.take_back(name).await;
                }
                false => tracing::error!(
                    %channel, name,
                    "the archive's journal has no such event: somebody else writes to the log"
                ),
            }
        }
    }
}

/// Why the journal gave no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the archive does not answer")]
    Call(#[from] Box<tonic::Status>),
    #[error("a statement of the journal is not accepted")]
    Decode(#[from] wire::DecodeError),
    #[error("a statement of the journal is not accepted")]
    Open(#[from] wire::OpenError),
}

impl From<tonic::Status> for AskError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}

struct Journal {
    client: JournalClient<InterceptedService<Channel, TraceCalls>>,
    keys: Keys,
}

impl Journal {
    async fn patiently_has(&mut self, doubt: &Doubt) -> bool {
        loop {
            match self.has(doubt).await {
                Ok(has) => return has,
                Err(error) => {
                    let error = crate::chain(&error);
                    tracing::debug!(error, name = doubt.name, "event cannot be asked about yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Whether the archive says the same, signed by a key that counts.
    async fn has(&mut self, doubt: &Doubt) -> Result<bool, AskError> {
        let channel = doubt.channel.to_string();
        let asked = match doubt.build {
            Some(build) => {
                let from = build.get();
                let request = v1::SnapshotsRequest {
                    channel,
                    from,
                    limit: 1,
                };
                self.client.snapshots(request).await
            }
            None => {
                let request = v1::RetractionsRequest { channel };
                self.client.retractions(request).await
            }
        };
        let mut statements = match asked {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(false),
            Err(status) => return Err(status.into()),
        };
        while let Some(signed) = statements.message().await? {
            let signed = Signed::from_proto(signed)?;
            if signed.digest() == doubt.digest {
                // The archive may be about to sign again: what it has by an earlier key is no answer yet.
                signed.open(&self.keys.now())?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}
