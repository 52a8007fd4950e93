//! `Admin`: what local commands ask of the daemon, over its Unix socket.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirrorlog_core::archive::Step;
use mirrorlog_core::drain::Drains;
use mirrorlog_core::id::Build;
use runtime::log::LogError;
use runtime::trust::Taken;
use tokio::net::{UnixListener, UnixStream};
use tonic::{Code, Request, Response, Status};
use tracing::Instrument as _;
use wire::v1::{
    CollectReply, CollectRequest, CollectedChannel, CommitReply, CommitRequest, DescribeReply,
    DescribeRequest, OrderReply, OrderRequest, RepairLogReply, RepairLogRequest, RetractReply,
    RetractRequest,
};
use wire::v1::{
    InstallRootReply, InstallRootRequest, InviteReply, InviteRequest, WithdrawReply,
    WithdrawRequest,
};
use wire::v1::{
    IssueTokenReply, IssueTokenRequest, PublishToken, RevokeTokensReply, RevokeTokensRequest,
    TokensReply, TokensRequest,
};
use wire::{rpc, v1};

use crate::answer::{log_code, not_declared, sign_code, status};
use crate::collect::{CollectError, Wanted};
use crate::commit::{Asked, Publication, Withdraw};
use crate::daemon::{Channel, Daemon};
use crate::describe::no_channel;
use crate::enroll::{EnrollError, Guest, failed as enroll_failed};
use crate::fence::run_blocking;
use crate::journal::with_causes;
use crate::publisher::{TokensError, Wanted as TokenWanted};
use crate::reconcile::ReconcileError;
use crate::repair::Deed;

/// The gRPC service.
pub struct AdminService {
    daemon: Arc<Daemon>,
}

impl AdminService {
    /// Makes the service.
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
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
            .ok_or_else(|| no_channel(&self.daemon, &name))
    }
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
            (None, _) => return Err(no_channel(&self.daemon, &name)),
        };
        Ok(Response::new(self.daemon.described(&channel).await?))
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
        let retracted = self.daemon.retract(&channel, withdraw, replacement).await?;
        Ok(Response::new(retracted))
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
        if !request.again && self.daemon.roster().contains(&guest.mirror) {
            return Err(enroll_failed(&EnrollError::Known(guest.mirror)));
        }
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

    async fn issue_token(
        &self,
        request: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenReply>, Status> {
        let request = request.into_inner();
        let (Some(section), Some(tls)) = (&self.daemon.config.publish, &self.daemon.config.tls)
        else {
            return Err(no_token(&TokensError::Off));
        };
        for name in &request.channels {
            self.channel(name)?;
        }
        let channels = request.channels.iter();
        let channels = channels.map(|name| rpc::channel("channels", name));
        let wanted = TokenWanted {
            publisher: request.publisher,
            channels: channels.collect::<Result<_, _>>()?,
            verbs: request.verbs,
            lasts_ms: i64::try_from(request.lasts_ms).unwrap_or(i64::MAX),
        };
        let (tokens, ca) = (Arc::clone(&self.daemon.tokens), tls.ca.clone());
        let made = run_blocking(move || {
            let ca = std::fs::read_to_string(&ca)
                .map_err(|error| Status::internal(format!("{}: {error}", ca.display())))?;
            let secret = tokens.issue(wanted, runtime::boot::now());
            Ok::<_, Status>((secret.map_err(|error| no_token(&error))?, ca))
        });
        let (secret, ca) = made.await?;
        Ok(Response::new(IssueTokenReply {
            secret: secret.to_vec().into(),
            address: section.address.clone(),
            ca,
        }))
    }

    async fn tokens(
        &self,
        _request: Request<TokensRequest>,
    ) -> Result<Response<TokensReply>, Status> {
        let tokens = Arc::clone(&self.daemon.tokens);
        let all = run_blocking(move || tokens.list()).await;
        let all = all.map_err(|error| no_token(&error))?;
        let tokens = all.into_iter().map(|token| PublishToken {
            publisher: token.publisher,
            channels: token.channels.into_iter().collect(),
            verbs: token
                .verbs
                .iter()
                .map(|verb| verb.as_str().to_owned())
                .collect(),
            issued_ms: token.issued_ms,
            expires_ms: token.expires_ms,
        });
        Ok(Response::new(TokensReply {
            tokens: tokens.collect(),
        }))
    }

    async fn revoke_tokens(
        &self,
        request: Request<RevokeTokensRequest>,
    ) -> Result<Response<RevokeTokensReply>, Status> {
        let publisher = request.into_inner().publisher;
        let tokens = Arc::clone(&self.daemon.tokens);
        let gone = run_blocking(move || tokens.revoke(&publisher)).await;
        let gone = gone.map_err(|error| no_token(&error))?;
        Ok(Response::new(RevokeTokensReply {
            tokens: gone as u64,
        }))
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

fn no_token(error: &TokensError) -> Status {
    let text = with_causes(error);
    match error {
        TokensError::Off => Status::failed_precondition(text),
        TokensError::Publisher
        | TokensError::NoChannel
        | TokensError::Verb(_)
        | TokensError::NoVerb
        | TokensError::Lasts => Status::invalid_argument(text),
        TokensError::TooMany => Status::resource_exhausted(text),
        TokensError::Random(_) | TokensError::State(_) | TokensError::Codec(_) => {
            Status::internal(text)
        }
    }
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
