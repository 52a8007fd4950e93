//! Taking builds back.

use std::sync::Arc;

use mirrorlog_core::archive::{Item, Step};
use mirrorlog_core::id::{Build, Lane};
use tonic::Status;
use tracing::Instrument as _;
use wire::EventBody;
use wire::v1::RetractReply;

use crate::answer::status;
use crate::commit::{Asked, Publication, Withdraw};
use crate::daemon::{Channel, Daemon};
use crate::fence::run_blocking;
use crate::journal::with_causes;

impl Daemon {
    /// Retracts, with a replacement or without.
    pub(crate) async fn retract(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        withdraw: Withdraw,
        replacement: Option<Publication>,
    ) -> Result<RetractReply, Status> {
        let (first, last) = (withdraw.first, withdraw.last);
        if replacement.is_none() {
            self.check_head_without(channel, first, last).await?;
        }
        let span = tracing::info_span!("retract", channel = %channel.declared.name, %first, %last);
        let said = self.say(channel, replacement, Some(withdraw));
        let said = said.instrument(span).await.map_err(status)?;
        Ok(RetractReply {
            sequence: said.retraction.unwrap_or(0),
            replacement: said.builds.first().map_or(0, |build| build.get()),
        })
    }

    /// What is left when builds are taken back must have its content.
    async fn check_head_without(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        first: Build,
        last: Build,
    ) -> Result<(), Status> {
        let history = channel.journal.history();
        let Some(head) = history.head_without(first, last).map(|head| head.build) else {
            return Ok(());
        };
        let (daemon, name) = (Arc::clone(self), channel.declared.name.clone());
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

    /// A publication of an older build's content, to replace those that are taken back.
    pub(crate) async fn older(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        build: Build,
        withdraw: &Withdraw,
    ) -> Result<Publication, Status> {
        let name = &channel.declared.name;
        if (withdraw.first..=withdraw.last).contains(&build) {
            return Err(Status::invalid_argument("a build cannot replace itself"));
        }
        let history = channel.journal.history();
        let none = || Status::not_found(format!("channel {name} has no build {build}"));
        let newest = history.newest().map(|newest| newest.build);
        history.get(build).ok_or_else(none)?;
        let (daemon, of) = (Arc::clone(self), Arc::clone(channel));
        let internal = |error: &dyn std::error::Error| Status::internal(with_causes(error));
        let gone = run_blocking(move || daemon.collected(&of.declared.name)).await;
        let gone = gone.map_err(|error| internal(&error))?;
        if gone
            .iter()
            .any(|(first, last)| *first <= build && build <= *last)
        {
            return Err(Status::not_found(format!(
                "the archive no longer keeps the content of build {build}: give --replace-with TREE, or a newer build"
            )));
        }
        let of = Arc::clone(channel);
        let body = run_blocking(move || of.journal.read(Item::Snapshot(build))).await;
        let body = body.map_err(|error| internal(&error))?;
        let (EventBody::Snapshot(signed) | EventBody::Retraction(signed)) = body;
        let snapshot = signed.open_snapshot(&self.keys);
        let snapshot = snapshot.map_err(|error| internal(&error))?;
        Ok(Publication {
            expected_newest: newest,
            steps: vec![Asked {
                step: Step {
                    root: snapshot.root,
                    base: newest,
                    lane: Lane::Priority,
                },
                entries: snapshot.entries,
                bytes: snapshot.bytes,
            }],
            notices: snapshot.notices,
            allow_retracted: false,
        })
    }
}
