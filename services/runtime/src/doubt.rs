//! Events that are signed by a key which is not known: after a change of keys, those of before.
//!
//! The archive's journal has what it ever said as it is signed now. An event that it has is nothing to worry about; one
//! that it has not was written to the log by somebody else. Whatever else is wrong with an event is a fault, and not asked
//! about.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::limits::RETRACTIONS_MAX;
use mirrorlog_core::sign::{SignatureError, TrustedKeys};
use mirrorlog_core::statement::Statement;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use wire::v1::journal_client::JournalClient;
use wire::{OpenError, Signed, v1};

use crate::trace::TraceCalls;
use crate::trust::Keys;

/// Most events that wait for the archive, some 200 bytes each; more stay parked until the next start.
const WAITING_MAX: usize = 65_536;
/// Statements asked for at a time.
const BATCH: u32 = 1024;
const RETRY: Duration = Duration::from_secs(5);
/// For a batch.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that are none, such as by a key that is not known either, after which it is asked at the next change of keys only:
/// minutes, in which an archive that was given a new key has long signed again.
const TRIES_MAX: u32 = 60;

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
    tries: u32,
}

impl Doubt {
    /// What an event of the log says that lies in its room by `name`; none for one that is refused for anything else than
    /// an unknown key.
    pub fn of(
        name: String,
        channel: &ChannelId,
        payload: &[u8],
        keys: &TrustedKeys,
    ) -> Option<Self> {
        let event = wire::Event::decode(payload).ok()?;
        let unknown = |signed: &Signed| {
            let opened = signed.open(keys);
            matches!(
                opened,
                Err(OpenError::Signature(SignatureError::UnknownKey(_)))
            )
        };
        // What was sent again has a later head, perhaps by a later key.
        let good_head = event.head.as_ref().is_none_or(|head| {
            let said = wire::statement::decode(&head.statement);
            let is_of = matches!(said, Ok(Statement::Head(head)) if head.channel == *channel);
            is_of && (unknown(head) || head.open(keys).is_ok())
        });
        if !good_head || !unknown(event.body.signed()) {
            return None;
        }
        Self::again(name, payload).filter(|doubt| doubt.channel == *channel)
    }

    /// What an event says that was doubted before and lies in its room still.
    pub fn again(name: String, payload: &[u8]) -> Option<Self> {
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
            tries: 0,
        })
    }

    /// The archive answered, and this is no answer to it yet. Gives it up for now after many.
    fn tired(&mut self, why: &dyn std::error::Error) {
        self.tries += 1;
        if self.tries == TRIES_MAX {
            tracing::error!(
                channel = %self.channel, name = self.name, error = crate::chain(why),
                "the archive's journal does not vouch for this event"
            );
        }
    }
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
            tracing::warn!(%error, "too many events are by unknown keys to ask about this one");
        }
    }
}

impl Doubtful {
    /// Asks the archive's journal about all that come, for as long as it takes.
    pub async fn settle(mut self, archive: Endpoint, keys: Keys, room: impl Room) {
        let channel = archive.timeout(TIMEOUT).connect_lazy();
        let mut journal = Journal {
            client: JournalClient::with_interceptor(channel, TraceCalls),
            keys,
        };
        let mut changes = journal.keys.changes();
        let (mut waiting, mut resting) = (Vec::new(), Vec::new());
        loop {
            let idle = waiting.is_empty();
            tokio::select! {
                doubt = self.0.recv(), if idle => match doubt {
                    Some(doubt) => waiting.push(doubt),
                    None => return,
                },
                () = tokio::time::sleep(RETRY), if !idle => {}
                Ok(()) = changes.changed() => {
                    let rested = resting.drain(..).map(|doubt| Doubt { tries: 0, ..doubt });
                    waiting.extend(rested);
                }
            }
            while waiting.len() + resting.len() < WAITING_MAX
                && let Ok(doubt) = self.0.try_recv()
            {
                waiting.push(doubt);
            }
            let left = journal.settle(waiting, &room).await;
            let (tired, again) = left.into_iter().partition(|doubt| doubt.tries >= TRIES_MAX);
            waiting = again;
            resting.extend::<Vec<Doubt>>(tired);
        }
    }
}

/// Why the journal gave no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the archive does not answer")]
    Call(#[from] Box<tonic::Status>),
    #[error("the archive has not answered in time")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("a statement of the journal is not accepted")]
    Decode(#[from] wire::DecodeError),
}

impl AskError {
    /// Whether asking about something else has no better chance: the archive says of nothing what it is.
    fn is_away(&self) -> bool {
        use tonic::Code::{DataLoss, Internal, InvalidArgument};
        match self {
            Self::Call(status) => !matches!(status.code(), DataLoss | Internal | InvalidArgument),
            Self::Late(_) => true,
            Self::Decode(_) => false,
        }
    }
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
    /// Asks about all once. Gives back those that are to be asked about again.
    async fn settle(&mut self, waiting: Vec<Doubt>, room: &impl Room) -> Vec<Doubt> {
        let mut channels: BTreeMap<(ChannelId, bool), VecDeque<Doubt>> = BTreeMap::new();
        for doubt in waiting {
            let key = (doubt.channel.clone(), doubt.build.is_some());
            channels.entry(key).or_default().push_back(doubt);
        }
        let mut again = Vec::new();
        for ((channel, _), mut doubts) in channels {
            let asked: BTreeSet<Digest> = doubts.iter().map(|doubt| doubt.digest).collect();
            doubts.make_contiguous().sort_by_key(|doubt| doubt.build);
            while let Some(first) = doubts.front() {
                let reading = self.read(&channel, first.build, &asked);
                match timeout(TIMEOUT, reading)
                    .await
                    .unwrap_or_else(|late| Err(late.into()))
                {
                    Ok(batch) => {
                        let later = batch.next.map_or(doubts.len(), |next| {
                            doubts.partition_point(|doubt| doubt.build < Some(next))
                        });
                        // At least one: a batch has an answer for the build that it begins with.
                        let now: Vec<Doubt> = doubts.drain(..later.max(1)).collect();
                        let left = self.judge(now, &batch.said, room).await;
                        again.extend(left);
                    }
                    Err(error) if error.is_away() => {
                        let error = crate::chain(&error);
                        tracing::debug!(%channel, error, "journal cannot be asked about events by unknown keys, trying again");
                        again.extend(doubts.drain(..));
                    }
                    Err(error) => {
                        again.extend(doubts.pop_front().map(|mut first| {
                            first.tired(&error);
                            first
                        }));
                    }
                }
            }
        }
        again
    }

    /// Sorts those that the archive has said, those that it has not, and those of which it may still sign.
    async fn judge(
        &self,
        doubts: Vec<Doubt>,
        said: &BTreeMap<Digest, Signed>,
        room: &impl Room,
    ) -> Vec<Doubt> {
        let keys = self.keys.now();
        let mut again = Vec::new();
        for mut doubt in doubts {
            let Doubt { name, channel, .. } = &doubt;
            match said.get(&doubt.digest).map(|signed| signed.open(&keys)) {
                Some(Ok(_)) => room.take_back(name).await,
                // It may be about to sign again.
                Some(Err(error)) => {
                    doubt.tired(&error);
                    again.push(doubt);
                }
                None => tracing::error!(
                    %channel, name,
                    "the archive's journal has no such event: somebody else writes to the log"
                ),
            }
        }
        again
    }

    /// What a channel's statements say of those that are `asked` about: snapshots from `from` on, or all retractions.
    async fn read(
        &mut self,
        channel: &ChannelId,
        from: Option<Build>,
        asked: &BTreeSet<Digest>,
    ) -> Result<Batch, AskError> {
        let channel = channel.to_string();
        let answer = match from {
            Some(from) => {
                let request = v1::SnapshotsRequest {
                    channel,
                    from: from.get(),
                    limit: BATCH,
                };
                self.client.snapshots(request).await
            }
            None => {
                let request = v1::RetractionsRequest { channel };
                self.client.retractions(request).await
            }
        };
        let mut batch = Batch::default();
        let mut answers = match answer {
            Ok(answers) => answers.into_inner(),
            // Nobody ever published such a channel.
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(batch),
            Err(status) => return Err(status.into()),
        };
        for _ in 0..BATCH.max(u32::try_from(RETRACTIONS_MAX).unwrap_or(BATCH)) {
            let signed = match answers.message().await {
                Ok(Some(signed)) => Signed::from_proto(signed)?,
                Ok(None) => break,
                // What came before it counts.
                Err(_) if batch.next.is_some() => break,
                Err(status) => return Err(status.into()),
            };
            if let (Some(_), Ok(Statement::Snapshot(snapshot))) =
                (from, wire::statement::decode(&signed.statement))
            {
                batch.next = batch.next.max(Some(snapshot.build.next()));
            }
            let digest = signed.digest();
            if asked.contains(&digest) {
                batch.said.insert(digest, signed);
            }
        }
        Ok(batch)
    }
}

/// What the archive has said.
#[derive(Default)]
struct Batch {
    said: BTreeMap<Digest, Signed>,
    /// Where the next begins; none when this is all.
    next: Option<Build>,
}
