//! Messages that cannot be read: kept on disk, counted, never just passed over.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mirrorlog_core::limits::EVENT_MAX_BYTES;
use wire::causes;

use crate::boot::Health;
use crate::doubt::Room;

/// Most parked messages; more are counted and logged, and not kept.
const PARKED_MAX: usize = 256;

/// A message's name in the folder.
pub(super) fn name(what: &str, sequence: u64) -> String {
    format!("{what}-{sequence}")
}

/// The folder of parked messages. Cheap to clone.
#[derive(Clone)]
pub struct Park {
    dir: PathBuf,
    health: Health,
    /// Health goes with it.
    count: Arc<Mutex<u64>>,
}

impl Park {
    /// Makes the folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path, health: Health) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            health,
            count: Arc::default(),
        })
    }

    /// Messages parked since the start, and not believed since.
    pub fn count(&self) -> u64 {
        *self.lock()
    }

    /// Whoever is believed has changed: what was parked is no reason to worry any more. It stays on the disk.
    pub fn excuse(&self) {
        self.health.recover("parked");
    }

    /// Keeps `payload` as `<what>-<sequence>`.
    pub async fn park(
        &self,
        what: &'static str,
        sequence: u64,
        why: &(dyn std::error::Error + Send + Sync),
        payload: Bytes,
    ) {
        let why = causes(why);
        tracing::error!(what, sequence, why, "message cannot be used, parked");
        self.keep(what, sequence, why, payload).await;
    }

    /// As [`Park::park`], for an event about which the archive is asked.
    pub async fn doubt(
        &self,
        sequence: u64,
        why: &(dyn std::error::Error + Send + Sync),
        payload: Bytes,
    ) {
        let why = causes(why);
        tracing::warn!(
            sequence,
            why,
            "event cannot be used, parked; asking the archive's journal"
        );
        self.keep("event", sequence, why, payload).await;
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep(&self, what: &'static str, sequence: u64, causes: String, payload: Bytes) {
        {
            let mut count = self.lock();
            *count += 1;
            let text = format!("{what} {sequence} cannot be used: {causes}");
            self.health.degrade("parked", text);
        }
        let (dir, file) = (self.dir.clone(), self.dir.join(name(what, sequence)));
        let written = tokio::task::spawn_blocking(move || {
            if std::fs::read_dir(dir)?.count() >= PARKED_MAX {
                return Ok(());
            }
            // Reports may be larger; the beginning says enough of one that cannot be used.
            std::fs::write(file, &payload[..payload.len().min(EVENT_MAX_BYTES)])
        });
        if let Ok(Err(error)) = written.await {
            tracing::error!(what, sequence, %error, "parked message could not be kept");
        }
    }
}

impl Room for Park {
    /// It can be used after all.
    async fn take_back(&self, name: &str) {
        tracing::info!(name, "parked message is believed now");
        {
            let mut count = self.lock();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.health.recover("parked");
            }
        }
        // Of more than are kept it has no file.
        tokio::fs::remove_file(self.dir.join(name)).await.ok();
    }
}
