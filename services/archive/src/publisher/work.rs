//! One submission, from its rights to its builds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::archive::Step;
use mirrorlog_core::id::{Build, Lane};
use runtime::store::Pin as StorePin;
use tempfile::TempDir;
use tonic::Status;
use wire::v1::Submission;
use wire::v1::submit_reply::Kind as Reply;
use wire::{rpc, v1};

use super::content::Intake;
use super::failed::Failed;
use super::held::{Held, allow};
use super::receive::{Form, receive};
use super::talk::Talk;
use super::tokens::{Token, Verb};
use crate::answer::status;
use crate::commit::{Asked, Publication, Withdraw};
use crate::daemon::{Channel, Daemon};
use crate::fence::run_blocking;
use crate::publish::{
    Counters, Job, Outcome, Prepared, PublishConfig, PublishError, PublishLock, PublishRequest,
    Purpose, Sent, Workspace, channel_of, check_layout, outcome, prepare_sent,
};

/// How long another publisher of the channel is waited for.
const LOCK_FOR: Duration = Duration::from_secs(30);
const LOCK_EVERY: Duration = Duration::from_millis(100);

/// Where dry runs put pages.
pub(super) fn scratch(daemon: &Daemon) -> PathBuf {
    // Beside what it is of, not beside the journal: it may fill the disk.
    daemon.config.store.join("submitted")
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

/// What is asked for, after its rights were looked at.
pub(super) struct Submitted {
    pub(super) request: PublishRequest,
    listed: bool,
    expected_newest: u64,
    withdraw: Option<Withdraw>,
}

impl Submitted {
    pub(super) fn read(begin: Submission, token: &Token) -> Result<Self, Status> {
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
            Lane::Bulk => Verb::Publish,
            Lane::Priority => Verb::Priority,
        };
        allow(token, &channel, verb)?;
        if begin.allow_retracted || withdraw.is_some() {
            allow(token, &channel, Verb::Retract)?;
        }
        if withdraw.is_some() && lane != Lane::Priority {
            return Err(Status::invalid_argument(
                "what replaces retracted builds goes on the priority lane",
            ));
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
pub(super) struct Work {
    pub(super) daemon: Arc<Daemon>,
    pub(super) channel: Arc<Channel>,
    pub(super) asked: Arc<Submitted>,
    pub(super) token: Held,
    pub(super) max_size: runtime::boot::ByteSize,
}

/// What a submission brought; as long as it is held, its content stays.
struct Taken {
    workspace: Workspace,
    sent: Sent,
    _scratch: Option<TempDir>,
    _pin: Option<StorePin>,
}

impl Work {
    pub(super) async fn run(self, talk: Talk) -> Result<Reply, Failed> {
        let config = self.daemon.config.publish_config(&self.channel.declared);
        let taken = self.take(&config, talk).await?;
        // Others may publish while content comes; from here on they wait.
        let _lock = self.lock(&config).await?;
        let described = self.describe().await?;
        check_layout(&self.asked.request, &described)?;
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
            let prepared = prepare_sent(&job, &taken.workspace, &taken.sent);
            (taken, prepared)
        })
        .await;
        let prepared = prepared?;
        // It was compared with what they had.
        if self.describe().await?.siblings != described.siblings {
            let text = "another channel of the mount was published in between";
            return Err(Status::failed_precondition(text).into());
        }
        // Whoever was shut out meanwhile publishes nothing more.
        self.token.again(&self.daemon).await?;
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
        let publisher = self.token.publisher.clone();
        run_blocking(move || {
            let dry_run = asked.request.dry_run;
            // A rehearsal keeps nothing.
            let pin = (!dry_run).then(|| daemon.pages.store().pin()).transpose()?;
            let scratch = dry_run.then(|| scratch_of(&daemon)).transpose()?;
            let workspace = match &scratch {
                Some(dir) => Workspace::open(&config.store_dir, dir.path(), Purpose::DryRun)?,
                None => Workspace::open(&config.store_dir, Path::new(""), Purpose::Publish)?,
            };
            let intake = Intake::new(&daemon, &publisher, max_size, !dry_run);
            let form = receive(&mut talk, &workspace, intake, asked.listed)?;
            let sent = match form {
                Form::Whole(summary) => Sent::Whole(summary),
                Form::Listed { paths, present } => Sent::Listed { paths, present },
            };
            Ok(Taken {
                workspace,
                sent,
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
