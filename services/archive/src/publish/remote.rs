//! Publishing to an archive on another machine, with a token, over TLS.
//!
//! The tree is scanned and checked here, as for an archive of this machine; then its entries are sent, and of its content
//! what the archive lacks. Nothing is kept here but what the tree's files were, so that they need not be read again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mirrorlog_core::id::{Build, ChannelId};
use runtime::trace::TraceCalls;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel as Transport, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use wire::v1::publisher_client::PublisherClient;
use wire::v1::submit_request::Kind as Asking;
use wire::v1::{
    DescribeReply, DescribeRequest, RetractReply, Submission, SubmitRequest, WatchReply,
    WatchRequest, WithdrawBuildsRequest,
};
use wire::{rpc, v1};

use super::client::{Channel, channel_of};
use super::error::PublishError;
use super::lock::PublishLock;
use super::progress::{Counters, Progress};
use super::send::{Line, Sent, send};
use super::{
    ATTEMPTS, Outcome, PublishConfig, PublishRequest, blocking, check_layout, while_working,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest call but for the submission itself and the watch.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Silence after which the archive is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long an archive is waited for that cannot publish yet.
const RETRY_FOR: Duration = Duration::from_secs(15);
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Messages that may wait for the network.
const AHEAD: usize = 4;

/// An archive on another machine, and who comes.
#[derive(Clone)]
pub struct Remote {
    /// `host:port`.
    pub address: String,
    /// The authority (PEM) by which it is known.
    pub ca: String,
    /// The token's secret, in hex.
    pub secret: String,
    /// Folder for what is remembered of trees.
    pub cache: PathBuf,
}

/// Builds that are taken back in the same step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenBack {
    /// First build.
    pub first: Build,
    /// Last build.
    pub last: Build,
    /// For people.
    pub reason: String,
}

type Client = PublisherClient<InterceptedService<Transport, Bearer>>;

/// Puts the token's secret into every call.
#[derive(Clone)]
struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut request = TraceCalls.call(request)?;
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A connection to an archive on another machine.
#[derive(Clone)]
pub struct RemoteArchive {
    remote: Remote,
    client: Client,
}

impl RemoteArchive {
    /// Connects.
    ///
    /// # Errors
    /// [`PublishError::Away`], [`PublishError::Config`] for a token that cannot be right.
    pub async fn connect(remote: &Remote) -> Result<Self, PublishError> {
        let away = |source: Box<dyn std::error::Error + Send + Sync>| PublishError::Away {
            address: remote.address.clone(),
            source,
        };
        let wrong = |what: &str| PublishError::Config(format!("the token's {what} is none"));
        let mut bearer = MetadataValue::try_from(format!("Bearer {}", remote.secret))
            .map_err(|_| wrong("secret"))?;
        bearer.set_sensitive(true);
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&remote.ca));
        let endpoint = Endpoint::from_shared(format!("https://{}", remote.address))
            .map_err(|_| wrong("address"))?
            .tls_config(tls)
            .map_err(|_| wrong("certificate"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .tcp_nodelay(true);
        // A connection that is taken and not answered has no end of its own.
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await;
        let transport = match connected {
            Ok(connected) => connected.map_err(|error| away(error.into()))?,
            Err(elapsed) => return Err(away(elapsed.into())),
        };
        Ok(Self {
            remote: remote.clone(),
            client: PublisherClient::with_interceptor(transport, Bearer(bearer)),
        })
    }

    /// Publishes the next build of a channel, or with `taken_back` retracts builds and replaces them. Returns when it is
    /// in the archive's journal. Doing it again with the same tree publishes nothing.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was published then, unless the connection was lost at the very end: then publish again.
    /// A retraction that was made already is refused.
    pub async fn publish(
        &self,
        request: PublishRequest,
        taken_back: Option<TakenBack>,
        progress: &dyn Progress,
    ) -> Result<Outcome, PublishError> {
        let (request, taken_back) = (Arc::new(request), taken_back.map(Arc::new));
        let config = Arc::new(self.config());
        let _lock = PublishLock::take(&config.state_dir, &request.channel)?;
        std::fs::metadata(&request.tree).map_err(|e| PublishError::tree(&request.tree, e))?;
        let until = Instant::now() + RETRY_FOR;
        let mut attempt = 0;
        while attempt < ATTEMPTS {
            let channel = self.channel(&request.channel).await?;
            check_layout(&request, &channel)?;
            let sent = self
                .submit(&config, &request, &channel, taken_back.as_deref(), progress)
                .await;
            match sent {
                Err(PublishError::Archive {
                    code: Code::FailedPrecondition,
                    ..
                }) => {
                    attempt += 1;
                    progress.note("another build came in between: scanning again");
                }
                // It has just been started, or the log has. What was sent is there.
                Err(PublishError::Archive {
                    code: Code::Unavailable,
                    ..
                }) if Instant::now() < until => tokio::time::sleep(RETRY_EVERY).await,
                Err(error) => return Err(error),
                Ok(sent) => return outcome(&request, sent),
            }
        }
        Err(PublishError::HeadMoved {
            channel: request.channel.to_string(),
            attempts: ATTEMPTS,
        })
    }

    /// Takes builds back, for an older one's content or for nothing.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn withdraw(
        &self,
        channel: &ChannelId,
        taken_back: &TakenBack,
        replacement: Option<Build>,
    ) -> Result<RetractReply, PublishError> {
        let request = WithdrawBuildsRequest {
            channel: channel.to_string(),
            first: taken_back.first.get(),
            last: taken_back.last.get(),
            reason: taken_back.reason.clone(),
            replacement: replacement.map_or(0, Build::get),
        };
        let mut client = self.client.clone();
        let reply = self.within(client.withdraw(request)).await;
        reply.map_err(|status| self.failed(status))
    }

    /// What the archive says of a channel.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn describe(&self, channel: &ChannelId) -> Result<DescribeReply, PublishError> {
        let request = DescribeRequest {
            channel: channel.to_string(),
            declare: None,
        };
        let mut client = self.client.clone();
        let reply = self.within(client.describe(request)).await;
        reply.map_err(|status| {
            if status.code() != Code::NotFound {
                return self.failed(status);
            }
            PublishError::NoChannel {
                channel: channel.to_string(),
                reason: status.message().to_owned(),
            }
        })
    }

    /// Verdicts about a build, as the consistency service says them.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn watch(
        &self,
        channel: &ChannelId,
        build: Build,
    ) -> Result<Streaming<WatchReply>, PublishError> {
        let request = WatchRequest {
            channel: channel.to_string(),
            build: build.get(),
        };
        let mut client = self.client.clone();
        let watched = self.within(client.watch(request)).await;
        watched.map_err(|status| {
            // To wait longer is of no use.
            if status.code() == Code::FailedPrecondition {
                return PublishError::Config(status.message().to_owned());
            }
            self.failed(status)
        })
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Status> {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(reply) => Ok(reply?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded(
                "the archive takes too long to answer",
            )),
        }
    }

    /// Where things are remembered, of this archive.
    fn config(&self) -> PublishConfig {
        let plain = |c: char| {
            let is_plain = c.is_ascii_alphanumeric() || c == '.' || c == '-';
            if is_plain { c } else { '_' }
        };
        let name: String = self.remote.address.chars().map(plain).collect();
        let dir = self.remote.cache.join(name);
        PublishConfig {
            socket: PathBuf::new(),
            store_dir: dir.join("store"),
            state_dir: dir,
            immutable: Vec::new(),
            openpgp_keyring: None,
            signify_keys: Vec::new(),
        }
    }

    /// The channel, as far as it matters here: what was published and retracted the archive compares with itself.
    async fn channel(&self, id: &ChannelId) -> Result<Channel, PublishError> {
        let reply = self.describe(id).await?;
        let mut siblings = Vec::new();
        for name in &reply.sibling_channels {
            let id = rpc::channel("sibling_channels", name)?;
            let sibling = DescribeReply {
                head_root: bytes::Bytes::new(),
                ..self.describe(&id).await?
            };
            siblings.push((id, sibling));
        }
        let described = channel_of(id, reply, siblings)?;
        Ok(Channel {
            head_lost: true,
            retracted_roots: Vec::new(),
            retracted_steps: Vec::new(),
            ..described
        })
    }

    async fn submit(
        &self,
        config: &Arc<PublishConfig>,
        request: &Arc<PublishRequest>,
        channel: &Channel,
        taken_back: Option<&TakenBack>,
        progress: &dyn Progress,
    ) -> Result<Sent, PublishError> {
        let counters = Arc::new(Counters::default());
        let listed = request.changed.is_some() && channel.is_whole() && !channel.head_collected;
        let begin = submission(request, channel, taken_back, listed);
        let (config, request, channel) = (Arc::clone(config), Arc::clone(request), channel.clone());
        let (this, shared) = (self.clone(), Arc::clone(&counters));
        let runtime = tokio::runtime::Handle::current();
        let work = blocking(move || {
            // The call begins when the tree was scanned: nobody waits for that.
            let open = || {
                runtime.block_on(async {
                    let (to, requests) = mpsc::channel(AHEAD);
                    let first = SubmitRequest {
                        kind: Some(Asking::Begin(begin.clone())),
                    };
                    to.send(first).await.ok();
                    let mut client = this.client.clone();
                    let answered = client.submit(ReceiverStream::new(requests));
                    let answers = this.within(answered).await;
                    let answers = answers.map_err(|status| this.failed(status))?;
                    Ok::<_, PublishError>(Line::new(to, answers, runtime.clone()))
                })
            };
            let failed = |status| this.failed(status);
            send(&config, &request, &channel, listed, &shared, open, failed)
        });
        while_working(work, &counters, progress).await
    }

    fn failed(&self, status: Status) -> PublishError {
        use std::error::Error as _;
        let lost = [Code::Unavailable, Code::Unknown, Code::Cancelled];
        // The connection failed: a status that the archive sent itself has no cause here.
        if lost.contains(&status.code()) && status.source().is_some() {
            return PublishError::Away {
                address: self.remote.address.clone(),
                source: status.message().into(),
            };
        }
        PublishError::Archive {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

fn submission(
    request: &PublishRequest,
    channel: &Channel,
    taken_back: Option<&TakenBack>,
    listed: bool,
) -> Submission {
    let retracted = taken_back.map(|bad| v1::submission::Retracted {
        first: bad.first.get(),
        last: bad.last.get(),
        reason: bad.reason.clone(),
    });
    Submission {
        channel: request.channel.to_string(),
        expected_newest: channel.newest,
        lane: rpc::lane_to_proto(request.lane),
        listed,
        dry_run: request.dry_run,
        deps: request.deps,
        allow_expired: request.allow_expired,
        allow_retracted: request.allow_retracted,
        notices: rpc::notices_to_proto(&request.notices),
        retracted,
        layout: rpc::layout_to_proto(channel.layout),
    }
}

fn outcome(request: &PublishRequest, sent: Sent) -> Result<Outcome, PublishError> {
    let Sent {
        submitted,
        seconds,
        files_read,
        empty_folders,
        bytes,
    } = sent;
    Ok(Outcome {
        channel: request.channel.to_string(),
        build: submitted.builds.first().copied().unwrap_or(0),
        root: rpc::digest("root", &submitted.root)?.to_hex(),
        lane: rpc::lane("lane", submitted.lane)?.as_str(),
        files: submitted.entries,
        bytes: submitted.bytes,
        added: submitted.added,
        changed: submitted.changed,
        removed: submitted.removed,
        seconds,
        also: submitted.builds.get(1).copied(),
        unchanged: submitted.unchanged,
        dry_run: request.dry_run,
        files_read,
        empty_folders,
        retraction: Some(submitted.retraction).filter(|sequence| *sequence > 0),
        sent: Some(bytes),
    })
}

/// How long something took.
pub(super) fn since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64()
}
