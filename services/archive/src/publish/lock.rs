//! One publisher a channel at a time.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use mirrorlog_core::id::ChannelId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::PublishError;

/// Held while a channel is published; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct PublishLock {
    _file: File,
}

impl PublishLock {
    /// Takes `<state>/publish/<channel>.lock`, without waiting.
    ///
    /// # Errors
    /// [`PublishError::Busy`] with the process that holds it.
    pub(crate) fn take(state_dir: &Path, channel: &ChannelId) -> Result<Self, PublishError> {
        let dir = state_dir.join("publish");
        std::fs::create_dir_all(&dir).map_err(|e| PublishError::io(&dir, "made", e))?;
        let path = dir.join(format!("{channel}.lock"));
        let failed = |e| PublishError::io(&path, "locked", e);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                std::io::Read::take(&file, 32)
                    .read_to_string(&mut pid)
                    .map_err(failed)?;
                let pid = pid.trim().to_owned();
                return Err(PublishError::Busy {
                    channel: channel.to_string(),
                    pid,
                });
            }
            Err(other) => return Err(failed(other.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn second_publisher_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let channel = ChannelId::new("noble").unwrap();
        let first = PublishLock::take(dir.path(), &channel).unwrap();
        let error = PublishLock::take(dir.path(), &channel).unwrap_err();
        assert!(
            error.to_string().contains(&std::process::id().to_string()),
            "{error}"
        );
        assert_eq!(error.exit_code(), 75);
        drop(first);
        assert!(PublishLock::take(dir.path(), &channel).is_ok());
    }
}
