//! What a publisher is told of a channel.

use std::sync::Arc;

use mirrorlog_core::archive::History;
use mirrorlog_core::id::{ChannelId, Digest};
use tonic::Status;
use wire::rpc;
use wire::v1::describe_reply::RetractedStep;
use wire::v1::{BuildRange, DescribeReply};

use crate::daemon::{Channel, Daemon};
use crate::fence::run_blocking;
use crate::journal::with_causes;

/// Most retracted builds that a publisher is told of: the newest ones.
const RETRACTED_MAX: usize = 1024;

impl Daemon {
    /// All that a publisher must know of a channel.
    pub(crate) async fn described(
        self: &Arc<Self>,
        channel: &Channel,
    ) -> Result<DescribeReply, Status> {
        let (daemon, name) = (Arc::clone(self), channel.declared.name.clone());
        let collected = run_blocking(move || daemon.collected(&name)).await;
        let collected = collected.map_err(|error| Status::internal(with_causes(&error)))?;
        let collected = collected.into_iter().map(|(first, last)| BuildRange {
            first: first.get(),
            last: last.get(),
        });
        Ok(DescribeReply {
            collected: collected.collect(),
            ..describe(self, channel)
        })
    }
}

/// What is said of a channel that nobody declared.
pub(crate) fn no_channel(daemon: &Daemon, name: &ChannelId) -> Status {
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
