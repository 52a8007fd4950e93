//! Where the log is, how many servers hold it, and as whom it is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::LogError;
use super::access::Credentials;

/// `[nats]` of every service's configuration.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// `nats://host:port`, also `tls://` and `wss://`; several servers of a cluster with commas between.
    pub url: String,
    /// Servers of a cluster that hold each stream and bucket: 1, 3 or 5. Those that fewer hold are given more;
    /// none is taken from more.
    #[serde(default)]
    pub replicas: Replicas,
    /// Credentials of the service's user (`archive.creds`); absent where the server lets anybody in.
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// Certificates (PEM) by which a `tls://` or `wss://` server is known; absent: the public ones.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Whether the server refused the service's user when it was last asked.
    #[serde(skip)]
    pub refused: Refused,
}

/// Why there is no log.
const UNREACHED: &str = "the log cannot be reached";
const SHUT_OUT: &str = "nats-server refuses the user of nats.credentials: it was shut out, or has other credentials by now";

/// Whether a server lets a user in no more. Cheap to clone; all clones change together.
#[derive(Clone, Debug, Default)]
pub struct Refused(Arc<AtomicBool>);

impl Refused {
    pub(super) fn set(&self, refused: bool) {
        self.0.store(refused, Ordering::Relaxed);
    }

    /// Why there is no connection while there is none, for people.
    pub fn why_away(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            true => SHUT_OUT,
            false => UNREACHED,
        }
    }
}

impl NatsConfig {
    /// A server, or a cluster of which one server holds each stream.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            replicas: Replicas::One,
            credentials: None,
            ca: None,
            refused: Refused::default(),
        }
    }

    /// Reads what a service is known by, so that it does not start to find out later. `service` is its user's name:
    /// `archive`, `consistency`, `directory` or a mirror's id.
    ///
    /// # Errors
    /// [`LogError`], naming the file.
    pub fn check(&self, service: &str) -> Result<(), LogError> {
        if let Some(path) = &self.credentials {
            Credentials::read_for(path, service).map_err(LogError::Credentials)?;
        }
        match &self.ca {
            Some(path) => std::fs::read(path)
                .map(drop)
                .map_err(|source| LogError::Ca {
                    path: path.clone(),
                    source,
                }),
            None => Ok(()),
        }
    }

    /// Makes relative paths count from `base`, the configuration's folder.
    pub fn resolve(&mut self, base: &Path) {
        for path in [&mut self.credentials, &mut self.ca].into_iter().flatten() {
            *path = base.join(&*path);
        }
    }
}

/// How many servers hold a stream: an odd number, so that a majority is left when some are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "u8")]
pub enum Replicas {
    /// Whatever is lost with the server is announced again by the archive.
    #[default]
    One,
    /// One server may be lost.
    Three,
    /// Two servers may be lost.
    Five,
}

/// No number of servers that can hold a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("replicas = {0} is not possible: use 1, 3 or 5")]
pub struct ReplicasError(u8);

impl Replicas {
    pub(super) const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 3,
            Self::Five => 5,
        }
    }
}

impl TryFrom<u8> for Replicas {
    type Error = ReplicasError;

    fn try_from(count: u8) -> Result<Self, ReplicasError> {
        let all = [Self::One, Self::Three, Self::Five];
        let found = all
            .into_iter()
            .find(|one| one.count() == usize::from(count));
        found.ok_or(ReplicasError(count))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stream_has_one_three_or_five_copies() {
        let read =
            |text: &str| toml::from_str::<NatsConfig>(&format!("url = \"nats://n1\"\n{text}"));
        assert_eq!(read("").unwrap().replicas, Replicas::One);
        assert_eq!(read("replicas = 3").unwrap().replicas, Replicas::Three);
        assert_eq!(read("replicas = 5").unwrap().replicas, Replicas::Five);
        let error = read("replicas = 2").unwrap_err().to_string();
        assert!(error.contains("use 1, 3 or 5"), "{error}");
    }
}
