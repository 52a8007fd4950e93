//! Messages of the log that cannot be used: kept on disk, counted, never just passed over.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use mirrorlog_core::id::ChannelId;
use mirrorlog_core::sign::TrustedKeys;
use runtime::doubt::{Doubt, Doubtful, Doubts, Room};

/// Ending of the names of parked events about which the archive is asked.
const DOUBTED: &str = ".asked";
/// Most parked messages; more are counted and logged, and not kept. Stops whoever writes to the log from filling the disk.
const PARKED_MAX: u64 = 256;

/// Events that could not be decoded or verified: kept on disk, counted, never silently dropped.
#[derive(Clone)]
pub(crate) struct Parked {
    dir: PathBuf,
    count: Arc<AtomicU64>,
    doubts: Doubts,
}

impl Parked {
    /// Counts what earlier runs parked. About events of which the archive was asked it is asked again.
    pub(crate) fn open(dir: PathBuf) -> std::io::Result<(Self, Doubtful)> {
        std::fs::create_dir_all(&dir)?;
        let (doubts, doubtful) = Doubts::new();
        let mut found = 0;
        for file in std::fs::read_dir(&dir)? {
            let file = file?;
            found += 1;
            let name = file.file_name().to_string_lossy().into_owned();
            if name.ends_with(DOUBTED) {
                // What cannot be read stays parked.
                let payload = std::fs::read(file.path()).unwrap_or_default();
                Doubt::again(name, &payload)
                    .into_iter()
                    .for_each(|doubt| doubts.ask(doubt));
            }
        }
        let parked = Self {
            dir,
            count: Arc::new(AtomicU64::new(found)),
            doubts,
        };
        Ok((parked, doubtful))
    }

    /// How many are parked.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// An event, about which the archive is asked if only its key is not known.
    pub(crate) async fn keep_event(
        &self,
        name: String,
        reason: &str,
        channel: &ChannelId,
        payload: Bytes,
        keys: &TrustedKeys,
    ) {
        let doubted = format!("{name}{DOUBTED}");
        match Doubt::of(doubted.clone(), channel, &payload, keys) {
            Some(doubt) => {
                tracing::warn!(
                    name,
                    reason,
                    "parked an event that cannot be verified; asking the archive's journal"
                );
                // One that is here is asked about already.
                if self.write(&doubted, payload).await {
                    self.doubts.ask(doubt);
                }
            }
            None => self.keep(&name, reason, payload).await,
        }
    }

    /// Any message that cannot be used.
    pub(crate) async fn keep(&self, name: &str, reason: &str, payload: Bytes) {
        // Whoever writes to the log chooses a subject; a file's name it is not.
        let name = name.replace('/', "_");
        tracing::error!(
            folder = %self.dir.display(), name, reason,
            "parked a message that cannot be verified; fetching through the journal instead"
        );
        self.write(&name, payload).await;
    }

    /// False for one that is here and counted already.
    async fn write(&self, name: &str, payload: Bytes) -> bool {
        let path = self.dir.join(name);
        if path.exists() {
            return false;
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= PARKED_MAX {
            return true;
        }
        let written = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::create(&path)?;
            std::io::Write::write_all(&mut &file, &payload)?;
            file.sync_all()
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, name, "cannot keep a parked message"),
            Err(error) => tracing::error!(%error, name, "parking was interrupted"),
        }
        true
    }
}

impl Room for Parked {
    /// It is believed after all.
    async fn take_back(&self, name: &str) {
        tracing::info!(name, "parked message is believed now");
        // Two of one name, of a log that was made anew, count as one.
        let fewer = |count: u64| Some(count.saturating_sub(1));
        let all = &self.count;
        all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer)
            .ok();
        // Of more than are kept it has no file.
        tokio::fs::remove_file(self.dir.join(name)).await.ok();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mirrorlog_core::id::{Build, Digest};
    use mirrorlog_core::sign::{KeyNumber, SecretKey};
    use mirrorlog_core::statement::{DeltaSource, Retraction, Statement};
    use mirrorlog_core::time::Timestamp;
    use wire::event::EventBody;
    use wire::{Event, Signed};

    use super::*;

    fn event() -> (ChannelId, Bytes) {
        let channel = ChannelId::new("c").unwrap();
        let retraction = Retraction {
            channel: channel.clone(),
            sequence: 1,
            first: Build::FIRST,
            last: Build::FIRST,
            reason: Digest::of(b"why").to_hex(),
            replacement: None,
            created: Timestamp::from_ms(1),
        };
        let key = SecretKey::from_seed(KeyNumber([1; 8]), &[1; 32]);
        let signed = Signed::sign(&key, &Statement::Retraction(retraction));
        let (body, head) = (EventBody::Retraction(signed), None);
        let delta = DeltaSource::Pages;
        (channel, Event { body, head, delta }.encode().into())
    }

    #[tokio::test]
    async fn what_is_vouched_for_counts_no_more_and_what_comes_twice_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let (channel, payload) = event();
        let keys = TrustedKeys::default();
        let open = || Parked::open(dir.path().to_owned()).unwrap().0;
        let parked = open();
        parked.keep("head-c-1", "why", payload.clone()).await;
        for _ in 0..2 {
            let name = "bulk-1-1".to_owned();
            let kept = parked.keep_event(name, "why", &channel, payload.clone(), &keys);
            kept.await;
        }
        assert_eq!(parked.count(), 2);
        // After a restart too.
        let parked = open();
        assert_eq!(parked.count(), 2);
        parked.take_back(&format!("bulk-1-1{DOUBTED}")).await;
        assert_eq!(parked.count(), 1);
        assert_eq!(open().count(), 1);
        assert!(dir.path().join("head-c-1").exists());
    }
}
