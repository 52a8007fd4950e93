//! `Admin`: what local commands ask of the daemon, over its Unix socket.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirrorlog_core::archive::{History, Refusal, Step};
use mirrorlog_core::drain::Drains;
use mirrorlog_core::id::{Build, ChannelId, Digest};
use runtime::Reaction;
use runtime::log::LogError;
use runtime::trust::Taken;
use tokio::net::{UnixListener, UnixStream};
use tonic::{Code, Request, Response, Status};
use tracing::Instrument as _;
use wire::v1::describe_reply::RetractedStep;
use wire::v1::{
    BuildRange, CollectReply, CollectRequest, CollectedChannel, CommitReply, CommitRequest,
    DescribeReply, DescribeRequest, OrderReply, OrderRequest, RepairLogReply, RepairLogRequest,
    RetractReply, RetractRequest,
};
use wire::v1::{
    InstallRootReply, InstallRootRequest, InviteReply, InviteRequest, WithdrawReply,
    WithdrawRequest,
};
use wire::{rpc, v1};

use crate::collect::{CollectError, Wanted};
use crate::commit::{Asked, CommitError, Publication, Withdraw};
use crate::daemon::{Channel, Daemon, DaemonError};
use crate::enroll::{EnrollError, Guest, failed as enroll_failed};
use crate::fence::{FenceError, run_blocking};
use crate::journal::{JournalError, with_causes};
use crate::reconcile::ReconcileError;
use crate::repair::Deed;
use crate::signer::SignError;

/// Most retracted builds that a publisher is told of: the newest ones.
const RETRACTED_MAX: usize = 1024;

/// The gRPC service.
pub struct AdminService {
    daemon: Arc<Daemon>,
}

impl AdminService {
    /// Makes the service.
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }

    /// What is left when builds are taken back must have its content.
    async fn check_head_without(
        &self,
        channel: &Arc<Channel>,
        first: Build,
        last: Build,
    ) -> Result<(), Status> {
        let history = channel.journal.history();
        let Some(head) = history.head_without(first, last).map(|head| head.build) else {
            return Ok(());
        };
        let (daemon, name) = (Arc::clone(&self.daemon), channel.declared.name.clone());
        let gone = run_blocking(move || daemon.collected(&name)).await;
        let gone = gone.map_err(|error| Status::internal(with_causes(&error)))?;
        let is_gone = gone.iter().any(|(from, to)| *from <= head && head <= *to);
        if !is_gone {
            return Ok(());
        }
        Err(Status::invalid_argument(format!(
            "build {head} would be the newest, and its content is no longer kept: give --replace-with TREE"
        )))
    }

    /// A journal that was restored from an older copy knows less than others do: what it lacks is no garbage.
    async fn check_nobody_knows_more(&self) -> Result<(), Status> {
        let away = || {
            Status::aborted(
                "nothing is collected: the log is away, and may know more than the journal",
            )
        };
        let link = self.daemon.link().filter(|link| link.log.is_connected());
        let link = link.ok_or_else(away)?;
        for channel in self.daemon.channels() {
            let _turn = channel.turn.lock().await;
            let history = channel.journal.history();
            let checked = self
                .daemon
                .reserve(&channel, &link, &history, None, false)
                .await;
            if let Err(error) = checked {
                let name = &channel.declared.name;
                let text = format!(
                    "nothing is collected: channel {name}: {}",
                    with_causes(&error)
                );
                return Err(Status::aborted(text));
            }
        }
        Ok(())
    }

    /// The builds that pools want, as the log has them now.
    async fn wanted(&self) -> Result<Wanted, Status> {
        let Some(link) = self.daemon.link() else {
            return Ok(Wanted::new());
        };
        let failed = |error: LogError| Status::new(log_code(&error), with_causes(&error));
        let mut wanted = Wanted::new();
        for key in link.wanted.keys().await.map_err(failed)? {
            let value = link.wanted.get(&key).await.map_err(failed)?;
            let parsed = wire::kv::parse_wanted_key(&key).ok().zip(value);
            if let Some(((channel, _pool), (_, value))) = parsed
                && let Ok(build) = wire::kv::decode_wanted(&value)
            {
                wanted.entry(channel).or_default().insert(build);
            }
        }
        Ok(wanted)
    }

    fn channel(&self, name: &str) -> Result<Arc<Channel>, Status> {
        let name = rpc::channel("channel", name)?;
        self.daemon
            .channel(&name)
            .ok_or_else(|| unknown(&self.daemon, &name))
    }
}

fn unknown(daemon: &Daemon, name: &ChannelId) -> Status {
    let known: Vec<String> = daemon
        .channels()
        .iter()
        .map(|channel| channel.declared.name.to_string())
        .collect();
    let known = if known.is_empty() {
        "there are none".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    Status::not_found(format!(
        "channel {name} is not declared; {known}; declare it as [[channels]] in the archive's configuration"
    ))
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeReply>, Status> {
        let request = request.into_inner();
        let name = rpc::channel("channel", &request.channel)?;
        let channel = match (self.daemon.channel(&name), &request.declare) {
            (Some(channel), _) => channel,
            (None, Some(declare)) if self.daemon.config.allow_undeclared => {
                let layout = rpc::layout("declare.layout", declare.layout)?;
                self.daemon
                    .declare(&name, layout)
                    .await
                    .map_err(|error| not_declared(&error))?
            }
            (None, _) => return Err(unknown(&self.daemon, &name)),
        };
        let (daemon, name) = (Arc::clone(&self.daemon), name.clone());
        let collected = run_blocking(move || daemon.collected(&name)).await;
        let collected = collected.map_err(|error| Status::internal(with_causes(&error)))?;
        let collected = collected.into_iter().map(|(first, last)| BuildRange {
            first: first.get(),
            last: last.get(),
        });
        Ok(Response::new(DescribeReply {
            collected: collected.collect(),
            ..describe(&self.daemon, &channel)
        }))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitReply>, Status> {
        let request = request.into_inner();
        let channel = self.channel(&request.channel)?;
        let publication = publication(request)?;
        let span = tracing::info_span!("commit", channel = %channel.declared.name, build = tracing::field::Empty);
        let said = async {
            let said = self.daemon.say(&channel, Some(publication), None).await;
            if let Some(build) = said.as_ref().ok().and_then(|said| said.builds.first()) {
                tracing::Span::current().record("build", build.get());
            }
            said.map_err(status)
        };
        let said = said.instrument(span).await?;
        Ok(Response::new(CommitReply {
            builds: said.builds.into_iter().map(Build::get).collect(),
        }))
    }

    async fn retract(
        &self,
        request: Request<RetractRequest>,
    ) -> Result<Response<RetractReply>, Status> {
        let request = request.into_inner();
        let channel = self.channel(&request.channel)?;
        let withdraw = Withdraw {
            first: rpc::build("first", request.first)?,
            last: rpc::build("last", request.last)?,
            reason: request.reason,
        };
        let replacement = request.replacement.map(publication).transpose()?;
        let (first, last) = (withdraw.first, withdraw.last);
        if replacement.is_none() {
            self.check_head_without(&channel, first, last).await?;
        }
        let span = tracing::info_span!("retract", channel = %channel.declared.name, %first, %last);
        let said = self
            .daemon
            .say(&channel, replacement, Some(withdraw))
            .instrument(span)
            .await
            .map_err(status)?;
        let replacement = said.builds.first().map_or(0, |build| build.get());
        Ok(Response::new(RetractReply {
            sequence: said.retraction.unwrap_or(0),
            replacement,
        }))
    }

    async fn order(&self, request: Request<OrderRequest>) -> Result<Response<OrderReply>, Status> {
        let (mirror, kind) = rpc::requested_order(request.into_inner())?;
        let link = self.daemon.link().filter(|link| link.log.is_connected());
        let link = link
            .ok_or_else(|| Status::unavailable("NATS is not connected: the order was not sent"))?;
        let order = self.daemon.new_order(&mirror, kind);
        let order =
            order.map_err(|error| Status::internal(format!("no random number: {error}")))?;
        let id = order.id;
        let drains = Drains::concerns(&order.kind);
        let signed = self.daemon.sign_order(&order).await;
        let signed = signed.map_err(|error| {
            Status::new(
                sign_code(&error),
                format!("the order was not sent: {}", with_causes(&error)),
            )
        })?;
        if drains {
            // First of all where those look who send clients: the mirror itself may be the one that does not listen.
            let kept = self.daemon.keep_drain(&order, &signed, &link).await;
            kept.map_err(|error| Status::internal(with_causes(&error)))?;
        }
        let sent = link
            .log
            .publish_order(
                &mirror,
                &format!("{mirror}/{id:016x}"),
                signed.encode().into(),
            )
            .await;
        if let Err(error) = sent {
            if !drains {
                return Err(Status::new(log_code(&error), with_causes(&error)));
            }
            // Those who send clients have it, and the mirror reads it there as well.
            tracing::warn!(%mirror, error = with_causes(&error), "the mirror itself is not told yet");
        }
        tracing::info!(mirror = %mirror, order = id, "order sent");
        Ok(Response::new(OrderReply { id }))
    }

    async fn repair_log(
        &self,
        request: Request<RepairLogRequest>,
    ) -> Result<Response<RepairLogReply>, Status> {
        let deed = match request.into_inner().dry_run {
            true => Deed::Look,
            false => Deed::Repair,
        };
        let link = self.daemon.link().filter(|link| link.log.is_connected());
        let link = link.ok_or_else(|| {
            Status::unavailable("NATS is not connected: there is no log to compare with")
        })?;
        let repaired = self.daemon.repair(&link, deed).await;
        let channels = repaired.map_err(|error| {
            let code = match &error {
                ReconcileError::Log(error) => log_code(error),
                ReconcileError::Silent => Code::Unavailable,
                ReconcileError::Journal(_) => Code::Internal,
            };
            Status::new(code, with_causes(&error))
        })?;
        Ok(Response::new(RepairLogReply { channels }))
    }

    async fn invite(
        &self,
        request: Request<InviteRequest>,
    ) -> Result<Response<InviteReply>, Status> {
        let request = request.into_inner();
        let guest = Guest {
            mirror: rpc::mirror("mirror", &request.mirror)?,
            pool: rpc::pool("pool", &request.pool)?,
            hosts: request.hosts,
            lasts_ms: i64::try_from(request.lasts_ms).unwrap_or(i64::MAX),
        };
        let (Some(enroller), Some(section)) = (&self.daemon.enroller, &self.daemon.config.enroll)
        else {
            return Err(enroll_failed(&EnrollError::Off));
        };
        let of = Arc::clone(enroller);
        let made = run_blocking(move || of.invite(&guest, runtime::boot::now())).await;
        let secret = made.map_err(|error| enroll_failed(&error))?;
        Ok(Response::new(InviteReply {
            secret: secret.to_vec().into(),
            address: section.address.clone(),
            ca: enroller.ca().to_owned(),
        }))
    }

    async fn withdraw(
        &self,
        request: Request<WithdrawRequest>,
    ) -> Result<Response<WithdrawReply>, Status> {
        let mirror = rpc::mirror("mirror", &request.into_inner().mirror)?;
        let Some(enroller) = &self.daemon.enroller else {
            return Err(enroll_failed(&EnrollError::Off));
        };
        let of = Arc::clone(enroller);
        let gone = run_blocking(move || of.withdraw(&mirror)).await;
        let invitations = gone.map_err(|error| enroll_failed(&error))? as u64;
        Ok(Response::new(WithdrawReply { invitations }))
    }

    async fn install_root(
        &self,
        request: Request<InstallRootRequest>,
    ) -> Result<Response<InstallRootReply>, Status> {
        let document = request.into_inner().document.to_vec();
        let installed = self.daemon.install_root(document).await;
        let installed =
            installed.map_err(|error| Status::new(error.code(), with_causes(&error)))?;
        let (version, known) = match installed.taken {
            Taken::New(version) => (version, false),
            Taken::Known(version) => (version, true),
        };
        Ok(Response::new(InstallRootReply {
            version: version.get(),
            known,
            resigned: installed.resigned as u64,
        }))
    }

    async fn collect(
        &self,
        request: Request<CollectRequest>,
    ) -> Result<Response<CollectReply>, Status> {
        let dry_run = request.into_inner().dry_run;
        let one = Arc::clone(&self.daemon.collecting).try_lock_owned();
        let one = one.map_err(|_| Status::aborted("another collection is under way"))?;
        self.check_nobody_knows_more().await?;
        let wanted = self.wanted().await?;
        let daemon = Arc::clone(&self.daemon);
        let work = move || {
            // As long as it works, whoever asked for it may have gone.
            let _one = one;
            match dry_run {
                true => daemon.would_collect(&wanted),
                false => daemon.collect(&wanted),
            }
        };
        let collected = run_blocking(work).await.map_err(|error| {
            let code = match &error {
                CollectError::NotKnown(_) => Code::Aborted,
                CollectError::Mark(_)
                | CollectError::Store(_)
                | CollectError::Codec(_)
                | CollectError::Io { .. } => Code::Internal,
            };
            Status::new(code, with_causes(&error))
        })?;
        tracing::info!(
            dry_run,
            files = collected.files,
            bytes = collected.bytes,
            stopped = collected.stopped,
            "collected"
        );
        let channels = collected.channels.into_iter();
        let channels = channels.map(|(channel, (builds, kept))| CollectedChannel {
            channel: channel.to_string(),
            builds: builds.into_iter().map(Build::get).collect(),
            kept: kept as u64,
        });
        Ok(Response::new(CollectReply {
            channels: channels.collect(),
            files: collected.files,
            bytes: collected.bytes,
            stopped: collected.stopped.unwrap_or_default().to_owned(),
        }))
    }
}

fn describe(daemon: &Daemon, channel: &Channel) -> DescribeReply {
    let declared = &channel.declared;
    let history = channel.journal.history();
    let bytes = |digest: Option<Digest>| rpc::optional_digest_to_proto(digest.as_ref());
    let wanted = channel.wanted().and_then(|wanted| history.get(wanted));
    let mut siblings: Vec<(u32, String)> = daemon
        .channels()
        .iter()
        .filter(|other| {
            other.declared.mount == declared.mount && other.declared.name != declared.name
        })
        .map(|other| (other.declared.precedence, other.declared.name.to_string()))
        .collect();
    siblings.sort_unstable();
    DescribeReply {
        mount: declared.mount.to_string(),
        layout: rpc::layout_to_proto(declared.layout),
        precedence: declared.precedence,
        head: history.head().map_or(0, |head| head.build.get()),
        head_root: bytes(history.head().map(|head| head.root)),
        newest: history.newest().map_or(0, |newest| newest.build.get()),
        wanted: wanted.map_or(0, |wanted| wanted.build.get()),
        wanted_root: bytes(wanted.map(|wanted| wanted.root)),
        retracted_roots: newest_retracted(&history)
            .map(|bad| bytes(Some(bad.root)))
            .collect(),
        collected: Vec::new(),
        suites: declared.suites.clone(),
        catch_all: declared.catch_all,
        sibling_channels: siblings.into_iter().map(|(_, name)| name).collect(),
        retracted_steps: newest_retracted(&history)
            .map(|bad| RetractedStep {
                before: bytes(history.before(bad.build).map(|before| before.root)),
                root: bytes(Some(bad.root)),
            })
            .collect(),
    }
}

fn newest_retracted(
    history: &History,
) -> impl Iterator<Item = &mirrorlog_core::archive::Published> {
    let count = history.retracted().count();
    history
        .retracted()
        .skip(count.saturating_sub(RETRACTED_MAX))
}

fn publication(request: CommitRequest) -> Result<Publication, Status> {
    let asked = |step: v1::commit_request::Step| -> Result<Asked, Status> {
        let lane = rpc::lane("step.lane", step.lane)?;
        let root = rpc::digest("step.root", &step.root)?;
        let step_of = Step {
            root,
            base: Build::new(step.base),
            lane,
        };
        Ok(Asked {
            step: step_of,
            entries: step.entries,
            bytes: step.bytes,
        })
    };
    Ok(Publication {
        expected_newest: Build::new(request.expected_newest),
        steps: request
            .steps
            .into_iter()
            .map(asked)
            .collect::<Result<_, _>>()?,
        notices: rpc::notices("notices", request.notices)?,
        allow_retracted: request.allow_retracted,
    })
}

/// Codes that publishers do not try again by themselves: a device that locks itself after some wrong tries, or a person,
/// is asked once for each command that somebody gives.
fn sign_code(error: &SignError) -> Code {
    match error.reaction() {
        Reaction::Retry => Code::ResourceExhausted,
        Reaction::Park | Reaction::Halt => Code::Internal,
    }
}

/// What a caller is told: `FAILED_PRECONDITION` only when another build came in between.
fn status(error: CommitError) -> Status {
    let code = match &error {
        CommitError::Refused(Refusal::NewestMoved { .. }) => Code::FailedPrecondition,
        CommitError::Unnamed { .. } => Code::PermissionDenied,
        CommitError::Refused(
            Refusal::Retracted { .. }
            | Refusal::Shape
            | Refusal::Base { .. }
            | Refusal::Range { .. }
            | Refusal::AlreadyRetracted { .. }
            | Refusal::NothingLeft
            | Refusal::Text { .. }
            | Refusal::TooManyRetractions,
        )
        | CommitError::Manifest { .. }
        | CommitError::Journal(JournalError::Open(_)) => Code::InvalidArgument,
        CommitError::NotConnected { .. } => Code::Unavailable,
        CommitError::Sign { source, .. } => sign_code(source),
        CommitError::Halted { .. } => Code::DataLoss,
        CommitError::Fence { source, .. } => match source {
            FenceError::TakenOver(_) => Code::PermissionDenied,
            FenceError::Behind(_) | FenceError::Codec(_) => Code::DataLoss,
            FenceError::Busy(_) => Code::Aborted,
            FenceError::Log(error) => log_code(error),
            FenceError::State(_) => Code::Internal,
        },
        CommitError::Compare { source, .. } => match source {
            ReconcileError::Log(error) => log_code(error),
            ReconcileError::Silent => Code::Unavailable,
            ReconcileError::Journal(_) => Code::Internal,
        },
        CommitError::Journal(_) => Code::Internal,
    };
    let text = with_causes(&error);
    tracing::warn!(code = ?code, error = text, "refused");
    Status::new(code, text)
}

fn log_code(error: &LogError) -> Code {
    match error.reaction() {
        Reaction::Retry => Code::Unavailable,
        Reaction::Park | Reaction::Halt => Code::Internal,
    }
}

fn not_declared(error: &DaemonError) -> Status {
    let code = match error {
        DaemonError::Config(_) => Code::InvalidArgument,
        DaemonError::Journal(_)
        | DaemonError::Outbox(_)
        | DaemonError::Write { .. }
        | DaemonError::Declaration { .. } => Code::Internal,
    };
    Status::new(code, with_causes(error))
}

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon listens.
    #[error("another archive listens on {}; stop it first", .0.display())]
    Busy(PathBuf),
    /// The socket could not be made.
    #[error("cannot {action} the socket {}", path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Binds the socket for its owner alone; one that a dead daemon left is removed.
///
/// # Errors
/// [`SocketError`].
pub async fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |action| {
        move |source| SocketError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    match UnixStream::connect(path).await {
        Ok(_somebody) => return Err(SocketError::Busy(path.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(_nobody_listens) => std::fs::remove_file(path).map_err(failed("remove"))?,
    }
    let listener = UnixListener::bind(path).map_err(failed("bind"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(failed("protect"))?;
    Ok(listener)
}
