//! The archive daemon, as a publisher sees it: over its Unix socket, patient when it restarts.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mirrorlog_core::id::{Build, ChannelId, Digest};
use mirrorlog_core::layout::Layout;
use runtime::trace::TraceCalls;
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel as Transport, Endpoint};
use tonic::{Code, Status};
use wire::v1::admin_client::AdminClient;
use wire::v1::describe_request::Declare;
use wire::v1::{CommitRequest, DescribeReply, DescribeRequest};
use wire::{DecodeError, rpc};

use super::error::PublishError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest a single call may take: a commit writes and syncs a few files and asks NATS twice.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Silence after which the daemon is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long a daemon that went away is waited for.
const RETRY_FOR: Duration = Duration::from_secs(15);
/// The same before anything was done: somebody forgot to start it.
const FIRST_RETRY_FOR: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_millis(200);

type Client = AdminClient<InterceptedService<Transport, TraceCalls>>;

/// Connects to the archive daemon's Unix socket.
///
/// # Errors
/// [`PublishError::Down`] when nobody listens there.
pub async fn connect(socket: &Path) -> Result<Transport, PublishError> {
    connect_within(socket, Some(CALL_TIMEOUT)).await
}

/// The same for calls that take as long as the archive is large: the daemon is asked now and then whether it lives.
///
/// # Errors
/// As [`connect`].
pub async fn connect_for_long(socket: &Path) -> Result<Transport, PublishError> {
    connect_within(socket, None).await
}

async fn connect_within(socket: &Path, call: Option<Duration>) -> Result<Transport, PublishError> {
    let down = |source| PublishError::Down {
        socket: socket.to_owned(),
        source,
    };
    let url = format!("unix://{}", socket.display());
    let endpoint = Endpoint::from_shared(url).map_err(|e| down(e.into()))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    let endpoint = match call {
        Some(limit) => endpoint.timeout(limit),
        None => endpoint,
    };
    endpoint.connect().await.map_err(|e| down(e.into()))
}

/// What a publisher must know of a channel.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) id: ChannelId,
    pub(crate) layout: Layout,
    /// Newest unretracted build and its root.
    pub(crate) head: Option<(Build, Digest)>,
    /// The archive no longer keeps the content of that build.
    pub(crate) head_collected: bool,
    /// That build's manifest is not in the store: it came from the log, after a loss.
    pub(crate) head_lost: bool,
    /// Newest build, retracted ones included; 0: none.
    pub(crate) newest: u64,
    /// Newest build wanted in any pool, and its root.
    pub(crate) wanted: Option<(Build, Digest)>,
    pub(crate) retracted_roots: Vec<Digest>,
    /// Root before and root of each retracted build.
    pub(crate) retracted_steps: Vec<(Option<Digest>, Digest)>,
    pub(crate) suites: Vec<String>,
    pub(crate) catch_all: bool,
    pub(crate) siblings: Vec<Sibling>,
}

impl Channel {
    /// True when it takes the whole tree.
    pub(crate) fn is_whole(&self) -> bool {
        self.suites.is_empty() && !self.catch_all
    }

    /// The root of the newest unretracted build, as far as it can be compared with.
    pub(crate) fn head_root(&self) -> Option<Digest> {
        let head = self.head.filter(|_| !self.head_lost);
        head.map(|(_, root)| root)
    }
}

/// Another channel of the same mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sibling {
    pub(crate) id: ChannelId,
    pub(crate) root: Option<Digest>,
    pub(crate) suites: Vec<String>,
}

/// How a commit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    /// These builds were made, one for each step.
    Builds(Vec<u64>),
    /// Another build came in between.
    HeadMoved,
}

/// A connection that is made anew when it breaks.
pub(crate) struct Daemon {
    socket: PathBuf,
    client: Option<Client>,
}

impl Daemon {
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            client: None,
        }
    }

    /// True when another channel of the mount was published since: it was compared with what it had.
    pub(crate) async fn have_siblings_moved(
        &mut self,
        channel: &Channel,
    ) -> Result<bool, PublishError> {
        if channel.siblings.is_empty() {
            return Ok(false);
        }
        let now = self.describe(&channel.id, None, false).await?;
        Ok(now.siblings != channel.siblings)
    }

    /// Asks about a channel and its siblings. `declare`: makes a channel that is not declared, where the archive allows that.
    pub(crate) async fn describe(
        &mut self,
        id: &ChannelId,
        declare: Option<Layout>,
        first: bool,
    ) -> Result<Channel, PublishError> {
        let until = Instant::now() + if first { FIRST_RETRY_FOR } else { RETRY_FOR };
        let reply = self.ask(id, declare, until).await?;
        let mut siblings = Vec::new();
        for name in &reply.sibling_channels {
            let id = rpc::channel("sibling_channels", name)?;
            let sibling = self.ask(&id, None, Instant::now() + RETRY_FOR).await?;
            siblings.push((id, sibling));
        }
        Ok(channel_of(id, reply, siblings)?)
    }

    /// Commits, again and again while the daemon is away. A commit whose answer was lost is recognised
    /// by the head that it left, so it is never made twice.
    pub(crate) async fn commit(
        &mut self,
        request: CommitRequest,
    ) -> Result<Committed, PublishError> {
        let until = Instant::now() + RETRY_FOR;
        let id = rpc::channel("channel", &request.channel)?;
        let mut lost_answer = false;
        loop {
            match self.try_commit(&request).await {
                Ok(builds) => return Ok(Committed::Builds(builds)),
                Err(PublishError::Archive {
                    code: Code::FailedPrecondition,
                    ..
                }) => {
                    if lost_answer && let Some(builds) = self.made(&id, &request, until).await? {
                        return Ok(Committed::Builds(builds));
                    }
                    return Ok(Committed::HeadMoved);
                }
                Err(error) if !is_away(&error) || Instant::now() >= until => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "archive is away during a commit, trying again");
                }
            }
            lost_answer = true;
            tokio::time::sleep(RETRY_EVERY).await;
            if let Some(builds) = self.made(&id, &request, until).await? {
                return Ok(Committed::Builds(builds));
            }
        }
    }

    /// The builds of `request`, if the channel's head is what it asked for.
    async fn made(
        &mut self,
        id: &ChannelId,
        request: &CommitRequest,
        until: Instant,
    ) -> Result<Option<Vec<u64>>, PublishError> {
        let reply = self.ask(id, None, until).await?;
        let newest = request.expected_newest + request.steps.len() as u64;
        let ours = request
            .steps
            .last()
            .is_some_and(|last| last.root == reply.head_root);
        let done = ours && reply.newest == newest && reply.head == newest;
        Ok(done.then(|| (request.expected_newest + 1..=newest).collect()))
    }

    async fn ask(
        &mut self,
        id: &ChannelId,
        declare: Option<Layout>,
        until: Instant,
    ) -> Result<DescribeReply, PublishError> {
        let declare = declare.map(|layout| Declare {
            layout: rpc::layout_to_proto(layout),
        });
        let request = DescribeRequest {
            channel: id.to_string(),
            declare,
        };
        loop {
            let error = match self.client().await {
                Ok(client) => match client.describe(request.clone()).await {
                    Ok(reply) => return Ok(reply.into_inner()),
                    Err(status) => self.failed(id, status),
                },
                Err(error) => error,
            };
            if !is_away(&error) || Instant::now() >= until {
                return Err(error);
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    async fn try_commit(&mut self, request: &CommitRequest) -> Result<Vec<u64>, PublishError> {
        let id = rpc::channel("channel", &request.channel)?;
        let reply = self.client().await?.commit(request.clone()).await;
        match reply {
            Ok(reply) => Ok(reply.into_inner().builds),
            Err(status) => Err(self.failed(&id, status)),
        }
    }

    async fn client(&mut self) -> Result<&mut Client, PublishError> {
        if self.client.is_none() {
            let transport = connect(&self.socket).await?;
            self.client = Some(AdminClient::with_interceptor(transport, TraceCalls));
        }
        self.client
            .as_mut()
            .ok_or(PublishError::NoAnswer("connection"))
    }

    /// Sorts a failed call: a daemon that is away is asked again over a new connection.
    fn failed(&mut self, id: &ChannelId, status: Status) -> PublishError {
        match status.code() {
            Code::NotFound => {
                let reason = status.message().to_owned();
                PublishError::NoChannel {
                    channel: id.to_string(),
                    reason,
                }
            }
            // The connection failed, not the archive: a status that it sent itself has no cause here.
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
                if status.source().is_some() || status.code() != Code::Unavailable =>
            {
                self.client = None;
                PublishError::Down {
                    socket: self.socket.clone(),
                    source: status.into(),
                }
            }
            Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Ok
            | Code::InvalidArgument
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => PublishError::Archive {
                code: status.code(),
                message: status.message().to_owned(),
            },
        }
    }
}

/// True when asking again may help: the daemon is away, or what it needs is.
fn is_away(error: &PublishError) -> bool {
    matches!(
        error,
        PublishError::Down { .. }
            | PublishError::Archive {
                code: Code::Unavailable | Code::Aborted,
                ..
            }
    )
}

/// What the archive says of a channel and of those that share its mount.
pub(crate) fn channel_of(
    id: &ChannelId,
    reply: DescribeReply,
    siblings: Vec<(ChannelId, DescribeReply)>,
) -> Result<Channel, DecodeError> {
    let siblings = siblings.into_iter().map(|(id, reply)| {
        Ok::<_, DecodeError>(Sibling {
            id,
            root: rpc::optional_digest("head_root", &reply.head_root)?,
            suites: reply.suites,
        })
    });
    let siblings = siblings.collect::<Result<Vec<_>, _>>()?;
    let head = rpc::optional_digest("head_root", &reply.head_root)?;
    let wanted = rpc::optional_digest("wanted_root", &reply.wanted_root)?;
    let roots = reply.retracted_roots.iter();
    let roots = roots.map(|root| rpc::digest("retracted_roots", root));
    let steps = reply.retracted_steps.iter().map(|step| {
        let before = rpc::optional_digest("retracted_steps.before", &step.before)?;
        Ok((before, rpc::digest("retracted_steps.root", &step.root)?))
    });
    Ok(Channel {
        id: id.clone(),
        layout: rpc::layout("layout", reply.layout)?,
        head: Build::new(reply.head).zip(head),
        head_collected: reply
            .collected
            .iter()
            .any(|range| (range.first..=range.last).contains(&reply.head)),
        head_lost: false,
        newest: reply.newest,
        wanted: Build::new(reply.wanted).zip(wanted),
        retracted_roots: roots.collect::<Result<_, _>>()?,
        retracted_steps: steps.collect::<Result<_, DecodeError>>()?,
        suites: reply.suites,
        catch_all: reply.catch_all,
        siblings,
    })
}
