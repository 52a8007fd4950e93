//! The task of one mount: looks at the table, does what follows, waits.

use std::sync::Arc;
use std::time::Duration;

use mirrorlog_core::id::Mount;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::trees::Trees;
use super::turn::{Next, Turn};
use super::{ExportError, Exports};
use crate::engine::{Mailbox, Message};
use crate::http::Mounted;
use crate::serving::{Serving, ServingWriter};

/// First pause after a failure; it doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The task of one mount.
pub(super) struct One {
    pub(super) exports: Exports,
    pub(super) mount: Mount,
    pub(super) serving: ServingWriter,
    pub(super) engine: Mailbox,
    pub(super) stop: CancellationToken,
}

/// How long to wait.
enum Wait {
    /// Until something changes.
    Change,
    /// So long, or until something changes.
    For(Duration),
    /// So long, for something failed; a change counts when other builds are to be shown.
    Failed(Duration),
}

impl One {
    pub(super) async fn run(self) {
        let Some(mut trees) = self.open().await else {
            return;
        };
        let mut table = self.serving.wanted();
        let mut damaged = self.exports.0.damaged.subscribe();
        let mut retry = RETRY_FIRST;
        loop {
            damaged.mark_unchanged();
            let wanted = Arc::clone(&table.borrow_and_update());
            let turned = self.turn(trees, Arc::clone(&wanted)).await;
            let next;
            (trees, next) = match turned {
                Ok(turned) => turned,
                Err(error) => {
                    // Without this task the mount never moves again: the process ends, and whoever watches it starts
                    // it anew.
                    tracing::error!(mount = %self.mount, %error, "the export ended badly");
                    return self.stop.cancel();
                }
            };
            let wait = match next {
                Ok(Next::Again) => continue,
                Ok(Next::Rest) => Wait::Change,
                Ok(Next::After(pause) | Next::Idle(pause)) => Wait::For(pause),
                Err(ExportError::Stopped) => return,
                Err(_) => Wait::Failed(retry),
            };
            retry = match wait {
                Wait::Failed(_) => (retry * 2).min(RETRY_MAX),
                Wait::Change | Wait::For(_) => RETRY_FIRST,
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = passed(&wait) => {}
                () = self.changed(&mut table, &wanted, &wait) => {}
                // Also told when what was damaged is whole again.
                _ = damaged.changed() => {}
            }
        }
    }

    /// The trees as they were found at the start, or of a new mount. None when the process ends.
    async fn open(&self) -> Option<Trees> {
        if let Some(found) = self.exports.state().found.remove(&self.mount) {
            return Some(found);
        }
        let mut retry = RETRY_FIRST;
        loop {
            let (dir, mount) = (self.exports.0.section.dir.clone(), self.mount.clone());
            match tokio::task::spawn_blocking(move || Trees::open(&dir, &mount)).await {
                Ok(Ok(trees)) => return Some(trees),
                Ok(Err(error)) => self.exports.troubled(&self.mount, &error),
                Err(error) => self.exports.troubled(&self.mount, &error.into()),
            }
            let pause = tokio::time::sleep(retry);
            self.stop.run_until_cancelled(pause).await?;
            retry = (retry * 2).min(RETRY_MAX);
        }
    }

    /// Returns when the table changed so that it matters.
    async fn changed(
        &self,
        table: &mut watch::Receiver<Arc<Serving>>,
        seen: &Serving,
        wait: &Wait,
    ) {
        let live = |table: &Serving| Mounted::at(table, &self.mount).live();
        loop {
            if table.changed().await.is_err() {
                return;
            }
            let now = Arc::clone(&table.borrow_and_update());
            if !matches!(wait, Wait::Failed(_)) || live(&now) != live(seen) {
                // Seen again at the next turn.
                table.mark_changed();
                return;
            }
        }
    }

    /// One turn. The trees come back whatever happens, unless it panics.
    async fn turn(
        &self,
        trees: Trees,
        table: Arc<Serving>,
    ) -> Result<(Trees, Result<Next, ExportError>), tokio::task::JoinError> {
        let (exports, mount) = (self.exports.clone(), self.mount.clone());
        let (serving, stop) = (self.serving.clone(), self.stop.clone());
        let turning = tokio::task::spawn_blocking(move || {
            let mut trees = trees;
            let turn = Turn {
                exports: &exports,
                mount: &mount,
                serving: &serving,
                stop: &stop,
            };
            let (next, told) = turn.take(&mut trees, table);
            (trees, next, told)
        });
        let (trees, next, told) = turning.await?;
        if !told.is_empty() {
            // The engine is gone only when the process ends.
            let shown = Message::Shown { channels: told };
            self.engine.send(shown).await.ok();
        }
        Ok((trees, next))
    }
}

async fn passed(wait: &Wait) {
    match wait {
        Wait::Change => std::future::pending().await,
        Wait::For(pause) | Wait::Failed(pause) => {
            tokio::time::sleep_until(Instant::now() + *pause).await;
        }
    }
}
