//! `Publisher`: publishing from another machine, with a token.
//!
//! Whoever sends a tree is believed nothing: the archive makes the manifest itself, checks content by digest and the whole
//! by the channel's layout, under its own keys, and numbers and signs it as what was published here.

mod content;
mod receive;
mod talk;
mod tokens;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::Stream;
use mirrorlog_core::archive::Step;
use mirrorlog_core::id::{Build, ChannelId, Lane};
use mirrorlog_core::path::EntryPath;
use runtime::store::{Pin as StorePin, StoreError};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;
use wire::v1::consistency_client::ConsistencyClient;
use wire::v1::submit_reply::Kind as Reply;
use wire::v1::submit_request::Kind as Asking;
use wire::v1::{
    DescribeReply, DescribeRequest, RetractReply, Submission, SubmitReply, SubmitRequest,
    WatchReply, WatchRequest, WithdrawBuildsRequest,
};
use wire::{rpc, v1};

use crate::answer::status;
use crate::commit::{Asked, Publication, Withdraw};
use crate::config::{ConfigError, Publishing};
use crate::daemon::{Channel, Daemon};
use crate::describe::no_channel;
use crate::fence::run_blocking;
use crate::journal::with_causes;
use crate::publish::{
    Counters, Faults, Job, Outcome, Prepared, PublishConfig, PublishError, PublishLock,
    PublishRequest, Purpose, Sent, Workspace, channel_of, outcome, prepare_sent,
};

use content::Intake;
use receive::{Form, receive};
use talk::Talk;
pub(crate) use tokens::{Token, Tokens, TokensError, Verb, Wanted};

/// Submissions at a time; each may hold as much memory as `receive` and `content` say, about 100 MiB together.
const SUBMISSIONS_MAX: usize = 8;
/// Of one publisher.
const OF_ONE_MAX: usize = 2;
/// Time for a submission's first message.
const BEGIN: Duration = Duration::from_secs(10);
/// How long another publisher of the channel is waited for.
const LOCK_FOR: Duration = Duration::from_secs(30);
const LOCK_EVERY: Duration = Duration::from_millis(100);
/// Answers that may wait for a publisher.
const REPLIES: usize = 4;
/// Largest message; publishers send a quarter of it.
const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// Text of faults in one answer.
const FAULTS_MAX_BYTES: usize = 256 * 1024;
/// What a file has that came in part is kept for so long.
const PARTIALS_KEPT_MS: i64 = 7 * 24 * 3600 * 1000;

/// Why nothing was published.
enum Failed {
    /// What the publisher is told as it is.
    Status(Status),
    /// As on this machine.
    Publish(PublishError),
    /// A file's content is not what its entry says.
    Content { path: String, source: StoreError },
}

impl Failed {
    fn content(path: &EntryPath, source: StoreError) -> Self {
        let path = path.to_string();
        Self::Content { path, source }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<PublishError> for Failed {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Publish(error.into())
    }
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self::Publish(PublishError::Config(with_causes(&error)))
    }
}

impl Failed {
    /// The last answer, or the status with which the call ends.
    fn answer(self) -> Result<Reply, Status> {
        let error = match self {
            Self::Status(status) => return Err(status),
            Self::Content { path, source } => {
                let lies = matches!(
                    source,
                    StoreError::Mismatch { .. } | StoreError::Size { .. }
                );
                let text = format!("{path}: {}", with_causes(&source));
                return Err(if lies {
                    Status::data_loss(format!(
                        "{text}: it changed while it was sent, publish again"
                    ))
                } else {
                    failed(&PublishError::Store(source))
                });
            }
            Self::Publish(error) => error,
        };
        match error {
            PublishError::Refused { faults, .. } => Ok(refused(&faults, 0)),
            PublishError::NotSeparable { wanted, faults } => Ok(refused(&faults, wanted)),
            error => Err(failed(&error)),
        }
    }
}

fn refused(faults: &Faults, wanted: u64) -> Reply {
    let mut bytes = 0;
    let told = faults.iter().map_while(|fault| {
        let fault = v1::Fault {
            path: fault.path.clone(),
            rule: fault.what.as_str().to_owned(),
            expected: fault.expected.clone(),
            found: fault.found.clone(),
        };
        bytes += prost::Message::encoded_len(&fault);
        (bytes <= FAULTS_MAX_BYTES).then_some(fault)
    });
    Reply::Refused(v1::Refused {
        faults: told.collect(),
        count: faults.count(),
        wanted,
    })
}

fn failed(error: &PublishError) -> Status {
    let text = with_causes(error);
    match error {
        PublishError::Busy { .. } | PublishError::Store(StoreError::Busy(_)) => {
            Status::aborted(text)
        }
        PublishError::HeadMoved { .. } => Status::failed_precondition(text),
        PublishError::LayoutDiffers { .. }
        | PublishError::Answer(_)
        | PublishError::Manifest(_) => Status::invalid_argument(text),
        PublishError::NoChannel { .. } => Status::not_found(text),
        PublishError::Store(source) if source.is_full() => Status::resource_exhausted(text),
        PublishError::Archive { code, message } => Status::new(*code, message),
        PublishError::Refused { .. }
        | PublishError::NotSeparable { .. }
        | PublishError::Tree { .. }
        | PublishError::Down { .. }
        | PublishError::Away { .. }
        | PublishError::NoAnswer(_)
        | PublishError::Io { .. }
        | PublishError::Store(_)
        | PublishError::Config(_)
        | PublishError::Worker(_) => Status::internal(text),
    }
}

/// The gRPC service, on a listener of its own: publishers have tokens, no certificates.
pub(crate) struct PublisherService {
    daemon: Arc<Daemon>,
    section: Publishing,
    /// Submissions under way, by publisher.
    under_way: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// Makes the service with its limits.
pub(crate) fn service(
    daemon: Arc<Daemon>,
    section: Publishing,
) -> v1::publisher_server::PublisherServer<PublisherService> {
    let service = PublisherService {
        daemon,
        section,
        under_way: Arc::default(),
    };
    v1::publisher_server::PublisherServer::new(service).max_decoding_message_size(MESSAGE_MAX_BYTES)
}

/// Lets go of what came in part and was not asked for again. Blocks.
pub(crate) fn sweep(daemon: &Daemon) -> Result<u64, StoreError> {
    let before = runtime::boot::now().plus_ms(-PARTIALS_KEPT_MS);
    // Of a process that was killed; nobody works there yet.
    let scratch = scratch(daemon);
    if let Err(error) = std::fs::remove_dir_all(&scratch)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %scratch.display(), "not removed");
    }
    daemon.pages.store().sweep_partials(before)
}

fn scratch(daemon: &Daemon) -> PathBuf {
    // No channel is called that.
    daemon.config.state.join("scratch").join("@submitted")
}

/// A folder for the pages of a dry run.
fn scratch_of(daemon: &Daemon) -> Result<TempDir, PublishError> {
    let dir = scratch(daemon);
    let made = std::fs::create_dir_all(&dir).and_then(|()| TempDir::new_in(&dir));
    made.map_err(|source| PublishError::Io {
        path: dir,
        action: "made",
        source,
    })
}

type Answers = Pin<Box<dyn Stream<Item = Result<SubmitReply, Status>> + Send>>;
type Watched = Pin<Box<dyn Stream<Item = Result<WatchReply, Status>> + Send>>;

impl PublisherService {
    /// The caller's token.
    async fn token<T>(&self, request: &Request<T>) -> Result<Token, Status> {
        let none = || {
            Status::unauthenticated(
                "the token is not known, was revoked or has expired: ask the archive's operators for a new one \
                 (mirrorlog token issue)",
            )
        };
        let header = request.metadata().get("authorization");
        let secret = header
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.strip_prefix("Bearer "))
            .and_then(|text| hex::decode(text).ok());
        let secret = secret.ok_or_else(none)?;
        let tokens = Arc::clone(&self.daemon.tokens);
        let found = run_blocking(move || tokens.of(&secret, runtime::boot::now())).await;
        let found = found.map_err(|error| Status::internal(with_causes(&error)))?;
        found.ok_or_else(|| {
            let from = request.remote_addr().map(|address| address.to_string());
            tracing::warn!(from, "a publisher was not let in: its token does not count");
            none()
        })
    }

    fn channel(&self, name: &ChannelId) -> Result<Arc<Channel>, Status> {
        let channel = self.daemon.channel(name);
        channel.ok_or_else(|| no_channel(&self.daemon, name))
    }

    /// A place for a submission; it is free again when this is dropped.
    fn enter(&self, publisher: &str) -> Result<Place, Status> {
        let mut under_way = lock(&self.under_way);
        let all: usize = under_way.values().sum();
        let own = under_way.entry(publisher.to_owned()).or_default();
        if all >= SUBMISSIONS_MAX || *own >= OF_ONE_MAX {
            return Err(Status::aborted(
                "too many are publishing at the moment: try again when they are done",
            ));
        }
        *own += 1;
        Ok(Place {
            publisher: publisher.to_owned(),
            under_way: Arc::clone(&self.under_way),
        })
    }
}

fn lock(
    under_way: &Mutex<BTreeMap<String, usize>>,
) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Place {
    publisher: String,
    under_way: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        if let Some(own) = under_way.get_mut(&self.publisher) {
            *own -= 1;
            if *own == 0 {
                under_way.remove(&self.publisher);
            }
        }
    }
}

/// Refuses what a token is not for.
fn allow(token: &Token, channel: &ChannelId, verb: Verb) -> Result<(), Status> {
    if token.allows(channel, verb) {
        return Ok(());
    }
    let publisher = &token.publisher;
    tracing::warn!(%channel, publisher, verb = verb.as_str(), "refused: its token is not for that");
    Err(Status::permission_denied(format!(
        "the token of {publisher} is not for {} on channel {channel}",
        verb.as_str()
    )))
}

#[tonic::async_trait]
impl v1::publisher_server::Publisher for PublisherService {
    type SubmitStream = Answers;
    type WatchStream = Watched;

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeReply>, Status> {
        let token = self.token(&request).await?;
        let name = rpc::channel("channel", &request.get_ref().channel)?;
        let mount = self
            .daemon
            .channel(&name)
            .map(|channel| channel.declared.mount.clone());
        let shares = |other: &Arc<Channel>| {
            token.names(&other.declared.name) && Some(&other.declared.mount) == mount.as_ref()
        };
        if !token.names(&name) && !self.daemon.channels().iter().any(shares) {
            return Err(Status::permission_denied(format!(
                "the token of {} is not for channel {name}",
                token.publisher
            )));
        }
        let channel = self.channel(&name)?;
        Ok(Response::new(self.daemon.described(&channel).await?))
    }

    async fn submit(
        &self,
        request: Request<Streaming<SubmitRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let token = self.token(&request).await?;
        let mut requests = request.into_inner();
        let begin = tokio::time::timeout(BEGIN, requests.message()).await;
        let begin = begin.map_err(|_| Status::deadline_exceeded("nothing was submitted"))??;
        let Some(Asking::Begin(begin)) = begin.and_then(|message| message.kind) else {
            return Err(Status::invalid_argument(
                "a submission begins with what it is for",
            ));
        };
        let asked = Submitted::read(begin, &token)?;
        let channel = self.channel(&asked.request.channel)?;
        let place = self.enter(&token.publisher)?;
        let (replies, answers) = mpsc::channel(REPLIES);
        let span = tracing::info_span!("submit", channel = %asked.request.channel, publisher = token.publisher);
        let work = Work {
            daemon: Arc::clone(&self.daemon),
            channel,
            asked: Arc::new(asked),
            max_size: self.section.max_size,
        };
        let work = async move {
            let _place = place;
            let talk = Talk::new(requests, replies.clone());
            let reply = match work.run(talk).await {
                Ok(reply) => Ok(reply),
                Err(failed) => failed.answer(),
            };
            match &reply {
                Ok(Reply::Submitted(done)) => {
                    tracing::info!(builds = ?done.builds, unchanged = done.unchanged, "published by token")
                }
                Ok(_) => tracing::warn!("a submission was refused"),
                Err(status) => tracing::warn!(%status, "a submission was not published"),
            }
            let reply = reply.map(|kind| SubmitReply { kind: Some(kind) });
            // Who has gone is not told.
            replies.send(reply).await.ok();
        };
        tokio::spawn(work.instrument(span));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn withdraw(
        &self,
        request: Request<WithdrawBuildsRequest>,
    ) -> Result<Response<RetractReply>, Status> {
        let token = self.token(&request).await?;
        let asked = request.into_inner();
        let name = rpc::channel("channel", &asked.channel)?;
        allow(&token, &name, Verb::Retract)?;
        let channel = self.channel(&name)?;
        let withdraw = Withdraw {
            first: rpc::build("first", asked.first)?,
            last: rpc::build("last", asked.last)?,
            reason: asked.reason,
        };
        tracing::info!(channel = %name, publisher = token.publisher, first = asked.first, last = asked.last, "to be retracted by token");
        let store = self.daemon.pages.store().clone();
        // What replaces them is not let go meanwhile.
        let _pin = run_blocking(move || store.pin()).await;
        let _pin = _pin.map_err(|error| failed(&error.into()))?;
        let replacement = match Build::new(asked.replacement) {
            None => None,
            Some(build) => Some(self.daemon.older(&channel, build, &withdraw).await?),
        };
        let reply = self.daemon.retract(&channel, withdraw, replacement).await?;
        Ok(Response::new(reply))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Watched>, Status> {
        let token = self.token(&request).await?;
        let request = request.into_inner();
        let name = rpc::channel("channel", &request.channel)?;
        if !token.names(&name) {
            return Err(Status::permission_denied(format!(
                "the token of {} is not for channel {name}",
                token.publisher
            )));
        }
        let config = &self.daemon.config;
        let Some(address) = &config.consistency_grpc else {
            return Err(Status::failed_precondition(
                "the archive's configuration names no consistency service: set [consistency] grpc",
            ));
        };
        let down = |error: &(dyn std::error::Error + 'static)| {
            Status::unavailable(format!(
                "the consistency service does not answer: {}",
                runtime::chain(error)
            ))
        };
        let tls = runtime::tls::load(config.tls.as_ref()).map_err(|error| down(&error))?;
        let endpoint =
            runtime::tls::endpoint(address, tls.as_ref()).map_err(|error| down(&error))?;
        let connected = endpoint.connect_timeout(BEGIN).connect().await;
        let mut client = ConsistencyClient::new(connected.map_err(|error| down(&error))?);
        let watched = client.watch(request).await?.into_inner();
        Ok(Response::new(Box::pin(watched)))
    }
}

/// What is asked for, after its rights were looked at.
struct Submitted {
    request: PublishRequest,
    listed: bool,
    expected_newest: u64,
    withdraw: Option<Withdraw>,
}

impl Submitted {
    fn read(begin: Submission, token: &Token) -> Result<Self, Status> {
        let channel = rpc::channel("channel", &begin.channel)?;
        let lane = rpc::lane("lane", begin.lane)?;
        let withdraw = begin.retracted.map(|bad| {
            Ok::<_, Status>(Withdraw {
                first: rpc::build("retracted.first", bad.first)?,
                last: rpc::build("retracted.last", bad.last)?,
                reason: bad.reason,
            })
        });
        let withdraw = withdraw.transpose()?;
        let verb = match lane {
            _ if withdraw.is_some() => Verb::Retract,
            Lane::Bulk => Verb::Publish,
            Lane::Priority => Verb::Priority,
        };
        allow(token, &channel, verb)?;
        if begin.allow_retracted {
            allow(token, &channel, Verb::Retract)?;
        }
        Ok(Self {
            request: PublishRequest {
                layout: Some(rpc::layout("layout", begin.layout)?),
                lane,
                dry_run: begin.dry_run,
                deps: begin.deps,
                allow_expired: begin.allow_expired,
                allow_retracted: begin.allow_retracted,
                notices: rpc::notices("notices", begin.notices)?,
                ..PublishRequest::new(channel, PathBuf::new())
            },
            listed: begin.listed,
            expected_newest: begin.expected_newest,
            withdraw,
        })
    }
}

/// One submission.
struct Work {
    daemon: Arc<Daemon>,
    channel: Arc<Channel>,
    asked: Arc<Submitted>,
    max_size: runtime::boot::ByteSize,
}

/// What a submission brought; as long as it is held, its content stays.
struct Taken {
    workspace: Workspace,
    sent: Sent,
    faults: Faults,
    _scratch: Option<TempDir>,
    _pin: StorePin,
}

impl Work {
    async fn run(self, talk: Talk) -> Result<Reply, Failed> {
        let config = self.daemon.config.publish_config(&self.channel.declared);
        let taken = self.take(&config, talk).await?;
        // Others may publish while content comes; from here on they wait.
        let _lock = self.lock(&config).await?;
        let described = self.describe().await?;
        let newest = described.newest;
        if newest != self.asked.expected_newest {
            return Err(
                Status::failed_precondition(format!("build {newest} came in between")).into(),
            );
        }
        if self.asked.listed && (described.head_collected || !described.is_whole()) {
            return Err(Status::invalid_argument(
                "a list of changes is of no use on this channel now: publish the whole tree",
            )
            .into());
        }
        let (asked, channel) = (Arc::clone(&self.asked), described.clone());
        let (taken, prepared) = run_blocking(move || {
            let counters = Counters::default();
            let job = Job {
                config: &config,
                request: &asked.request,
                channel: &channel,
                counters: &counters,
            };
            let faults = taken.faults.clone();
            let prepared = prepare_sent(&job, &taken.workspace, &taken.sent, faults);
            (taken, prepared)
        })
        .await;
        let prepared = prepared?;
        let outcome = outcome(
            &self.asked.request,
            &described,
            &prepared,
            &Counters::default(),
        );
        let reply = self.publish(outcome, &prepared).await;
        drop(taken);
        reply
    }

    /// Takes everything in, as slowly as it comes.
    async fn take(&self, config: &PublishConfig, mut talk: Talk) -> Result<Taken, Failed> {
        let (daemon, asked) = (Arc::clone(&self.daemon), Arc::clone(&self.asked));
        let (config, max_size) = (config.clone(), self.max_size);
        run_blocking(move || {
            let store = daemon.pages.store();
            let pin = store.pin()?;
            let dry_run = asked.request.dry_run;
            let scratch = dry_run.then(|| scratch_of(&daemon)).transpose()?;
            let workspace = match &scratch {
                Some(dir) => Workspace::open(&config.store_dir, dir.path(), Purpose::DryRun)?,
                None => Workspace::open(&config.store_dir, Path::new(""), Purpose::Publish)?,
            };
            let intake = Intake::new(store, max_size, !dry_run);
            let (form, faults) = receive(&mut talk, &workspace, intake, asked.listed)?;
            let sent = match form {
                Form::Whole(summary) => Sent::Whole(summary),
                Form::Listed { paths, present } => Sent::Listed { paths, present },
            };
            Ok(Taken {
                workspace,
                sent,
                faults,
                _scratch: scratch,
                _pin: pin,
            })
        })
        .await
    }

    async fn lock(&self, config: &PublishConfig) -> Result<PublishLock, Failed> {
        let until = tokio::time::Instant::now() + LOCK_FOR;
        loop {
            match PublishLock::take(&config.state_dir, &self.asked.request.channel) {
                Err(PublishError::Busy { .. }) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(LOCK_EVERY).await;
                }
                taken => return Ok(taken?),
            }
        }
    }

    /// The channel and its siblings, as the checks want to know them.
    async fn describe(&self) -> Result<crate::publish::Channel, Failed> {
        let reply = self.daemon.described(&self.channel).await?;
        let mut siblings = Vec::new();
        for name in &reply.sibling_channels {
            let id = rpc::channel("sibling_channels", name).map_err(Status::from)?;
            if let Some(channel) = self.daemon.channel(&id) {
                siblings.push((id, self.daemon.described(&channel).await?));
            }
        }
        let described = channel_of(&self.asked.request.channel, reply, siblings);
        Ok(described.map_err(Status::from)?)
    }

    async fn publish(&self, outcome: Outcome, prepared: &Prepared) -> Result<Reply, Failed> {
        let asked = &self.asked;
        let mut done = v1::Submitted {
            builds: [Some(outcome.build), outcome.also]
                .into_iter()
                .flatten()
                .filter(|build| *build > 0)
                .collect(),
            root: rpc::digest_to_proto(&prepared.first().summary.root),
            lane: rpc::lane_to_proto(prepared.first().lane),
            entries: outcome.files,
            bytes: outcome.bytes,
            added: outcome.added,
            changed: outcome.changed,
            removed: outcome.removed,
            unchanged: outcome.unchanged && asked.withdraw.is_none(),
            retraction: 0,
        };
        if done.unchanged || asked.request.dry_run {
            return Ok(Reply::Submitted(done));
        }
        let steps = prepared.steps.iter().map(|step| Asked {
            step: Step {
                root: step.summary.root,
                base: Build::new(step.base),
                lane: step.lane,
            },
            entries: step.summary.entries,
            bytes: step.summary.bytes,
        });
        let publication = Publication {
            expected_newest: Build::new(asked.expected_newest),
            steps: steps.collect(),
            notices: asked.request.notices.clone(),
            allow_retracted: asked.request.allow_retracted,
        };
        let said = self
            .daemon
            .say(&self.channel, Some(publication), asked.withdraw.clone())
            .await;
        let said = said.map_err(status)?;
        done.builds = said.builds.into_iter().map(Build::get).collect();
        done.retraction = said.retraction.unwrap_or(0);
        Ok(Reply::Submitted(done))
    }
}
