//! Commits that run while the next batch is filled.

use std::io;
use std::thread::JoinHandle;

use super::{Batch, StoreError};

/// Commits batches one after the other on a thread of its own: disks write while others hash.
///
/// One batch is under way and one is being filled: whoever brings the next waits. Nothing is durable
/// before [`wait`](Self::wait) said so.
#[derive(Debug, Default)]
pub struct Committer {
    running: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Committer {
    /// Commits a batch behind the caller's back, after the one before it.
    ///
    /// # Errors
    /// What the batch before failed with; this one is then not committed.
    pub fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.wait()?;
        let store = batch.store().clone();
        let thread = std::thread::Builder::new().name("commit".to_owned());
        let span = tracing::Span::current();
        let running = thread.spawn(move || span.in_scope(|| batch.commit()));
        // Without a thread the batch is gone, and its content is fetched or read again.
        self.running = Some(running.map_err(|e| StoreError::io("commit to", store.dir(), e))?);
        Ok(())
    }

    /// Returns when all that was given is durable.
    ///
    /// # Errors
    /// What the last batch failed with: [`StoreError::Full`], [`StoreError::Io`].
    pub fn wait(&mut self) -> Result<(), StoreError> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let panicked = |_| {
            let error = io::Error::other("the committing thread panicked");
            StoreError::io("commit to", std::path::Path::new("the store"), error)
        };
        running.join().map_err(panicked)?
    }
}

impl Drop for Committer {
    /// Nobody is left behind who writes into a store that others may clear.
    fn drop(&mut self) {
        if let Err(error) = self.wait() {
            tracing::warn!(%error, "a batch was not committed");
        }
    }
}
