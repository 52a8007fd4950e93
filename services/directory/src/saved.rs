//! The last state on disk, for a start without the log. One file, replaced by rename.

use std::io;
use std::path::{Path, PathBuf};

use mirrorlog_core::directory::health::Standing;
use mirrorlog_core::directory::{Directory, Input, View};
use mirrorlog_core::id::Digest;
use mirrorlog_core::statement::{Retraction, Snapshot, Statement, Verdict};
use mirrorlog_core::time::Timestamp;
use wire::DecodeError;
use wire::directory::{DirectoryState, MirrorHealth};

const NAME: &str = "directory.state";

/// Why there is no saved state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SavedError {
    /// Not read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Damaged, or written by another version.
    #[error("{} is not usable", path.display())]
    Decode {
        path: PathBuf,
        #[source]
        source: DecodeError,
    },
}

/// The state that was saved in `dir`; none when there is none.
pub(crate) fn load(dir: &Path) -> Result<Option<DirectoryState>, SavedError> {
    let path = dir.join(NAME);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SavedError::Read { path, source }),
    };
    let state = DirectoryState::decode(&bytes);
    state
        .map(Some)
        .map_err(|source| SavedError::Decode { path, source })
}

/// Saves a view. Blocks.
pub(crate) fn save(dir: &Path, view: &View, now: Timestamp) -> io::Result<()> {
    let bytes = state_of(view, now).encode();
    let new = dir.join(format!("{NAME}.new"));
    let mut file = std::fs::File::create(&new)?;
    io::Write::write_all(&mut file, &bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(NAME))
}

/// Feeds a saved state to a fold that knows nothing yet.
pub(crate) fn resume(directory: &mut Directory, state: DirectoryState, now: Timestamp) {
    for statement in state.statements {
        let input = match statement {
            Statement::Snapshot(snapshot) => Input::Snapshot(snapshot),
            Statement::Head(head) => Input::Head(head),
            Statement::Retraction(retraction) => Input::Retraction(retraction),
            Statement::Verdict(verdict) => Input::Verdict(verdict),
            Statement::Order(order) => Input::Order(order),
            // Reports are not kept here, and a root document is pinned in a file.
            Statement::Report(_) | Statement::Root(_) => continue,
        };
        directory.step(input, now);
    }
    for (channel, pool, build) in state.wanted {
        let build = Some(build);
        let wanted = Input::Wanted {
            channel,
            pool,
            build,
        };
        directory.step(wanted, now);
    }
    for (channel, build) in state.forks {
        if let Err(refusal) = directory.resume_fork(&channel, build) {
            tracing::warn!(%refusal, "ignored");
        }
    }
    for one in state.mirrors {
        if let Some(mirror) = directory.view().find(&one.mirror) {
            directory.resume(mirror, one.up, one.changed, one.unserved);
        }
    }
}

fn state_of(view: &View, now: Timestamp) -> DirectoryState {
    let mut state = DirectoryState {
        saved: now,
        ..DirectoryState::default()
    };
    for (id, carried) in view.channels() {
        let channel = &carried.channel;
        for (build, known) in &channel.builds {
            state.statements.push(Statement::Snapshot(Snapshot {
                channel: id.clone(),
                build: *build,
                base: None,
                root: known.root,
                previous: None,
                created: known.created,
                entries: known.entries,
                bytes: known.bytes,
                lane: known.lane,
                mount: known.mount.clone(),
                layout: known.layout,
                precedence: known.precedence,
                notices: Vec::new(),
            }));
        }
        for (sequence, first, last) in channel.retractions() {
            state.statements.push(Statement::Retraction(Retraction {
                channel: id.clone(),
                sequence,
                first,
                last,
                reason: String::new(),
                replacement: None,
                created: Timestamp::EPOCH,
            }));
        }
        let head = channel.head.clone().map(Statement::Head);
        state.statements.extend(head);
        for (mirror, profile) in view.mirrors() {
            for (build, word) in carried.words_on(mirror) {
                state.statements.push(Statement::Verdict(Verdict {
                    mirror: profile.mirror.clone(),
                    pool: profile.pool.clone(),
                    channel: id.clone(),
                    build,
                    root: word.root,
                    view: word.part.view().clone(),
                    state: word.state.clone(),
                    issued: word.issued,
                    lease_revision: 0,
                    audited_files: 0,
                    new_files: 0,
                }));
            }
        }
        let wanted = channel.wanted.iter();
        let wanted = wanted.map(|(pool, build)| (id.clone(), pool.clone(), *build));
        state.wanted.extend(wanted);
    }
    let orders = view.drains().orders().cloned();
    state.statements.extend(orders.map(Statement::Order));
    let probed = view
        .mirrors()
        .filter(|(mirror, _)| view.health(*mirror).standing != Standing::New);
    let mirrors = probed.map(|(mirror, profile)| {
        let health = view.health(mirror);
        let unserved = health.all_unserved();
        MirrorHealth {
            mirror: profile.mirror.clone(),
            up: health.is_up(),
            changed: health.changed,
            unserved: unserved
                .map(|(channel, build)| (channel.clone(), build))
                .collect(),
        }
    });
    let forks = view.channels();
    let forks = forks.filter_map(|(id, carried)| Some((id.clone(), carried.channel.fork?)));
    state.forks = forks.collect();
    state.mirrors = mirrors.collect();
    state
}

/// Roots of the builds whose manifests are worth having: wanted ones, and those that a mirror is complete at.
pub(crate) fn roots(view: &View) -> Vec<Digest> {
    let mut roots = Vec::new();
    for (_, carried) in view.channels() {
        let channel = &carried.channel;
        let complete = view
            .mirrors()
            .flat_map(|(mirror, _)| carried.words_on(mirror))
            .filter(|(build, _)| !channel.is_retracted(*build))
            .map(|(_, word)| word.root);
        let newest = channel.standing().next().map(|(_, known)| known.root);
        roots.extend(complete.chain(newest));
    }
    roots.sort_unstable();
    roots.dedup();
    roots
}

#[cfg(test)]
mod tests;
