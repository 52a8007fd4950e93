//! What the operator of a consistency service sets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mirrorlog_core::id::{ChannelId, MirrorId, PoolId};
use runtime::boot::{ByteSize, ConfigError, NetworkLimits, Span, TelemetryConfig, text, texts};
use runtime::log::NatsConfig;
use runtime::tls::TlsConfig;
use runtime::trust::TrustConfig;
use serde::Deserialize;

/// A consistency service's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its folder and its key.
    pub consistency: ConsistencySection,
    /// Where builds and manifests come from.
    pub archive: ArchiveSection,
    /// The log.
    pub nats: NatsConfig,
    /// The root document that says whose statements and reports count.
    #[serde(default)]
    pub trust: Option<TrustConfig>,
    /// TLS on gRPC.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// `Consistency.Status` and `Consistency.Watch`.
    pub grpc: Listen,
    /// Health and metrics.
    pub http: Listen,
    /// How mirrors are audited.
    #[serde(default)]
    pub audit: AuditSection,
    /// The mirrors.
    #[serde(default)]
    pub mirrors: Vec<MirrorSection>,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// `[consistency]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencySection {
    /// Folder for manifest pages and small state. Nothing in it is lost when it is deleted.
    pub state: PathBuf,
    /// Secret key that signs verdicts.
    pub key: PathBuf,
}

/// `[archive]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveSection {
    /// `host:port` of its fetcher and journal.
    pub fetch: String,
    /// Its public keys; a statement signed by any of them counts. None where `trust.root` says whose do.
    #[serde(default)]
    pub keys: Vec<PathBuf>,
}

/// An address to listen on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// `address:port`
    pub listen: SocketAddr,
    /// What one network (an IPv4 /24, an IPv6 /48) may take.
    #[serde(default)]
    pub limits: NetworkLimits,
}

/// `[audit]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSection {
    /// Mean time between two rounds of a mirror.
    pub every: Span,
    /// Time to the first retry of what failed; a mirror that fails three times is unreachable.
    pub retry: Span,
    /// A mirror that has not reported for this long is not healthy.
    pub report_stale: Span,
    /// So long after a mirror of a pool was complete at a build, those that are not are no longer waited for.
    pub laggard_after: Span,
    /// Files checked at random besides the new ones.
    pub sample: usize,
    /// Most new files checked of one build; of more, so many at random.
    pub new_files_max: usize,
    /// Most bytes a day taken from one mirror.
    pub budget_per_day: ByteSize,
    /// Requests at a time to one mirror.
    pub concurrency: usize,
    /// Longest wait for a connection, and for the next bytes of an answer.
    pub timeout: Span,
}

impl Default for AuditSection {
    fn default() -> Self {
        let seconds = |seconds| Span(Duration::from_secs(seconds));
        Self {
            every: seconds(600),
            retry: seconds(20),
            report_stale: seconds(300),
            laggard_after: seconds(3600),
            sample: 16,
            new_files_max: 2000,
            budget_per_day: ByteSize(10 * 1024 * 1024 * 1024),
            concurrency: 24,
            timeout: seconds(10),
        }
    }
}

/// `[[mirrors]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorSection {
    /// Its id.
    #[serde(deserialize_with = "text")]
    pub id: MirrorId,
    /// Its pool; starts with the country's code.
    #[serde(deserialize_with = "text")]
    pub pool: PoolId,
    /// Its public URL, without a slash at the end; absent for a private mirror, which is never offered.
    #[serde(default)]
    pub url: Option<String>,
    /// Public key that its reports are signed with; none where `trust.root` has the roster.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Channels that it carries; empty: all.
    #[serde(default, deserialize_with = "texts")]
    pub channels: Vec<ChannelId>,
}

/// Why a configuration that parses cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Not read, or not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Two mirrors have one id.
    #[error("mirror {0} is there twice")]
    Twice(MirrorId),
    /// No base of URLs.
    #[error(
        "url {url:?} of mirror {mirror} is not valid: use http://host or https://host, with a path if need be"
    )]
    Url {
        /// Whose.
        mirror: MirrorId,
        /// What was given.
        url: String,
    },
    /// A number of which nothing can be done.
    #[error("audit.{0} must be at least 1")]
    Zero(&'static str),
}

impl Config {
    /// Reads a file and checks it whole; relative paths are relative to its folder.
    ///
    /// # Errors
    /// [`CheckError`] with the place and what to do.
    pub fn load(file: &Path) -> Result<Self, CheckError> {
        Self::checked(file, runtime::boot::load_config(file)?)
    }

    /// The same of a text that was read from `file`, whatever the environment says.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(file: &Path, text: &str) -> Result<Self, CheckError> {
        let read = runtime::boot::parse_config(file, text, std::iter::empty())?;
        Self::checked(file, read)
    }

    fn checked(file: &Path, mut config: Self) -> Result<Self, CheckError> {
        config.resolve(&runtime::boot::folder_of(file));
        config.check()?;
        Ok(config)
    }

    fn resolve(&mut self, base: &Path) {
        self.nats.resolve(base);
        if let Some(tls) = &mut self.tls {
            tls.resolve(base);
        }
        if let Some(trust) = &mut self.trust {
            trust.resolve(base);
        }
        let section = &mut self.consistency;
        let own = [&mut section.state, &mut section.key].into_iter();
        let keys = self.archive.keys.iter_mut().chain(
            self.mirrors
                .iter_mut()
                .filter_map(|mirror| mirror.key.as_mut()),
        );
        for path in own.chain(keys) {
            *path = base.join(&*path);
        }
        for url in self
            .mirrors
            .iter_mut()
            .filter_map(|mirror| mirror.url.as_mut())
        {
            url.truncate(url.trim_end_matches('/').len());
        }
    }

    fn check(&self) -> Result<(), CheckError> {
        let mut ids = std::collections::BTreeSet::new();
        for mirror in &self.mirrors {
            if !ids.insert(&mirror.id) {
                return Err(CheckError::Twice(mirror.id.clone()));
            }
            let usable = |url: &&String| {
                let parsed = reqwest::Url::parse(url);
                parsed.is_ok_and(|url| {
                    ["http", "https"].contains(&url.scheme()) && url.query().is_none()
                })
            };
            if let Some(url) = mirror.url.as_ref().filter(|url| !usable(url)) {
                return Err(CheckError::Url {
                    mirror: mirror.id.clone(),
                    url: url.clone(),
                });
            }
        }
        let numbers = [
            ("concurrency", self.audit.concurrency),
            ("new_files_max", self.audit.new_files_max),
        ];
        match numbers.into_iter().find(|(_, number)| *number == 0) {
            Some((name, _)) => Err(CheckError::Zero(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
[consistency]
state = "state"
key = "consistency.sec"

[archive]
fetch = "127.0.0.1:7001"
keys = ["archive.pub"]

[nats]
url = "nats://127.0.0.1:4222"

[grpc]
listen = "127.0.0.1:7003"

[http]
listen = "127.0.0.1:7004"

[audit]
every = "10s"
sample = 8
budget_per_day = "1GiB"

[[mirrors]]
id = "nz1"
pool = "nz"
url = "http://127.0.0.1:8001/"
key = "nz1.pub"

[[mirrors]]
id = "nz2"
pool = "nz"
key = "nz2.pub"
channels = ["noble"]
"#;

    fn load(text: &str) -> Result<Config, CheckError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("consistency.toml");
        std::fs::write(&file, text).unwrap();
        let mut config = Config::load(&file)?;
        config.consistency.state = config
            .consistency
            .state
            .strip_prefix(dir.path())
            .unwrap()
            .to_owned();
        Ok(config)
    }

    #[test]
    fn a_sample_is_read_whole() {
        let config = load(SAMPLE).unwrap();
        assert_eq!(
            config.mirrors[0].url.as_deref(),
            Some("http://127.0.0.1:8001")
        );
        assert_eq!(config.mirrors[1].url, None);
        assert_eq!((config.audit.sample, config.audit.concurrency), (8, 24));
        assert_eq!(config.consistency.state, Path::new("state"));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let twice = SAMPLE.replace("\"nz2\"", "\"nz1\"");
        assert!(matches!(load(&twice), Err(CheckError::Twice(_))));
        let ftp = SAMPLE.replace("http://127.0.0.1:8001/", "ftp://nz1");
        assert!(matches!(load(&ftp), Err(CheckError::Url { .. })));
        let unknown = SAMPLE.replace("sample", "samples");
        assert!(matches!(load(&unknown), Err(CheckError::Config(_))));
        let zero = SAMPLE.replace("sample = 8", "concurrency = 0");
        assert!(matches!(load(&zero), Err(CheckError::Zero("concurrency"))));
    }
}
