//! Messages that cannot be read: kept on disk, counted, never just passed over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use mirrorlog_core::limits::EVENT_MAX_BYTES;
use wire::causes;

use crate::boot::Health;

/// Most parked messages; more are counted and logged, and not kept.
const PARKED_MAX: usize = 256;

/// The folder of parked messages. Cheap to clone.
#[derive(Clone)]
pub struct Park {
    dir: PathBuf,
    health: Health,
    count: Arc<AtomicU64>,
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
        self.count.load(Ordering::Relaxed)
    }

    /// Whoever is believed has changed: what was parked is no reason to worry any more. It stays on the disk.
    pub fn excuse(&self) {
        self.health.recover("parked");
    }

    /// It can be used after all.
    pub async fn take_back(&self, what: &'static str, sequence: u64) {
        tracing::info!(what, sequence, "parked message is believed now");
        self.count.fetch_sub(1, Ordering::Relaxed);
        // Of more than are kept it has no file.
        tokio::fs::remove_file(self.file(what, sequence)).await.ok();
    }

    fn file(&self, what: &str, sequence: u64) -> PathBuf {
        self.dir.join(format!("{what}-{sequence}"))
    }

    /// Keeps `payload` as `<what>-<sequence>`.
    pub async fn park(
        &self,
        what: &'static str,
        sequence: u64,
        why: &(dyn std::error::Error + Send + Sync),
        payload: Bytes,
    ) {
        let causes = causes(why);
        tracing::error!(
            what,
            sequence,
            why = causes,
            "message cannot be used, parked"
        );
        self.count.fetch_add(1, Ordering::Relaxed);
        self.health.degrade(
            "parked",
            format!("{what} {sequence} cannot be used: {causes}"),
        );
        let (dir, file) = (self.dir.clone(), self.file(what, sequence));
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
