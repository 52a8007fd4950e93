//! An archive daemon that keeps its builds in memory and fails when told to.

use std::path::Path;
use std::sync::{Arc, Mutex};

use mirrorlog_core::id::Digest;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use wire::v1::admin_server::{Admin, AdminServer};
use wire::v1::describe_reply::RetractedStep;
use wire::v1::*;

#[derive(Default)]
pub(super) struct Fake {
    pub(super) builds: Vec<FakeBuild>,
    pub(super) wanted: u64,
    pub(super) unknown: bool,
    /// Says that the head moved, so often.
    pub(super) refuse_commits: u32,
    /// Commits, then fails, so often.
    pub(super) lose_answers: u32,
    /// Fails at once, so often.
    pub(super) die_before: u32,
    /// Root of another channel of the mount.
    pub(super) sibling: Option<Digest>,
}

#[derive(Clone)]
pub(super) struct FakeBuild {
    pub(super) root: Vec<u8>,
    pub(super) base: u64,
    pub(super) retracted: bool,
}

pub(super) struct FakeAdmin {
    state: Arc<Mutex<Fake>>,
    server: tokio::task::JoinHandle<()>,
}

impl FakeAdmin {
    pub(super) fn start(socket: &Path) -> Self {
        let state = Arc::new(Mutex::new(Fake::default()));
        let incoming = UnixListenerStream::new(tokio::net::UnixListener::bind(socket).unwrap());
        let service = AdminServer::new(Service(Arc::clone(&state)));
        let serve = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async move { serve.await.unwrap() });
        Self { state, server }
    }

    pub(super) fn state<T>(&self, look: impl FnOnce(&mut Fake) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }
}

impl Drop for FakeAdmin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Service(Arc<Mutex<Fake>>);

#[tonic::async_trait]
impl Admin for Service {
    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeReply>, Status> {
        let state = self.0.lock().unwrap();
        if state.unknown {
            return Err(Status::not_found("it is not configured"));
        }
        if request.get_ref().channel == "sibling" {
            let head_root = state
                .sibling
                .map(|root| root.as_bytes().to_vec())
                .unwrap_or_default()
                .into();
            return Ok(Response::new(DescribeReply {
                layout: Layout::Plain.into(),
                head: 1,
                head_root,
                ..Default::default()
            }));
        }
        let root = |build: u64| {
            state
                .builds
                .get(build.wrapping_sub(1) as usize)
                .map(|b| b.root.clone())
        };
        let head = state
            .builds
            .iter()
            .rposition(|b| !b.retracted)
            .map_or(0, |at| at as u64 + 1);
        let retracted =
            || (1..=state.builds.len() as u64).filter(|n| state.builds[*n as usize - 1].retracted);
        Ok(Response::new(DescribeReply {
            mount: "/c".into(),
            layout: Layout::Plain.into(),
            head,
            head_root: root(head).unwrap_or_default().into(),
            newest: state.builds.len() as u64,
            wanted: state.wanted,
            wanted_root: root(state.wanted).unwrap_or_default().into(),
            retracted_roots: retracted().map(|n| root(n).unwrap().into()).collect(),
            retracted_steps: retracted()
                .map(|n| RetractedStep {
                    before: root(n - 1).unwrap_or_default().into(),
                    root: root(n).unwrap().into(),
                })
                .collect(),
            sibling_channels: state
                .sibling
                .map(|_| "sibling".to_owned())
                .into_iter()
                .collect(),
            ..Default::default()
        }))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitReply>, Status> {
        let mut state = self.0.lock().unwrap();
        let request = request.into_inner();
        if state.die_before > 0 {
            state.die_before -= 1;
            return Err(Status::unavailable("gone"));
        }
        if state.refuse_commits > 0 || request.expected_newest != state.builds.len() as u64 {
            state.refuse_commits = state.refuse_commits.saturating_sub(1);
            return Err(Status::failed_precondition("another build came in between"));
        }
        for step in &request.steps {
            state.builds.push(FakeBuild {
                root: step.root.to_vec(),
                base: step.base,
                retracted: false,
            });
        }
        if state.lose_answers > 0 {
            state.lose_answers -= 1;
            return Err(Status::unavailable("gone"));
        }
        let builds = request.expected_newest + 1..=state.builds.len() as u64;
        Ok(Response::new(CommitReply {
            builds: builds.collect(),
        }))
    }

    async fn retract(
        &self,
        _request: Request<RetractRequest>,
    ) -> Result<Response<RetractReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn invite(&self, _: Request<InviteRequest>) -> Result<Response<InviteReply>, Status> {
        Err(Status::unimplemented("publishing needs no mirrors"))
    }

    async fn withdraw(
        &self,
        _: Request<WithdrawRequest>,
    ) -> Result<Response<WithdrawReply>, Status> {
        Err(Status::unimplemented("publishing needs no mirrors"))
    }

    async fn issue_token(
        &self,
        _: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenReply>, Status> {
        Err(Status::unimplemented("publishing here needs no tokens"))
    }

    async fn tokens(&self, _: Request<TokensRequest>) -> Result<Response<TokensReply>, Status> {
        Err(Status::unimplemented("publishing here needs no tokens"))
    }

    async fn revoke_tokens(
        &self,
        _: Request<RevokeTokensRequest>,
    ) -> Result<Response<RevokeTokensReply>, Status> {
        Err(Status::unimplemented("publishing here needs no tokens"))
    }

    async fn install_root(
        &self,
        _: Request<InstallRootRequest>,
    ) -> Result<Response<InstallRootReply>, Status> {
        Err(Status::unimplemented("publishing needs no root document"))
    }

    async fn repair_log(
        &self,
        _: Request<wire::v1::RepairLogRequest>,
    ) -> Result<Response<wire::v1::RepairLogReply>, Status> {
        Err(Status::unimplemented("publishing needs no log"))
    }

    async fn collect(
        &self,
        _: Request<wire::v1::CollectRequest>,
    ) -> Result<Response<wire::v1::CollectReply>, Status> {
        Err(Status::unimplemented("publishing lets nothing go"))
    }

    async fn order(&self, _request: Request<OrderRequest>) -> Result<Response<OrderReply>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
