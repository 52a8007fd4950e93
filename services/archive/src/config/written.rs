//! The configuration as it stands in a file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mirrorlog_core::id::{ChannelId, Mount};
use runtime::boot::{ByteSize, NetworkLimits, Span, TelemetryConfig};
use runtime::log::NatsConfig;
use runtime::tls::TlsConfig;
use runtime::trust::TrustConfig;
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, Declared, Enroll, Publishing, Signing, check_together};

/// How long a program that signs may take, unless `archive.sign_timeout` says otherwise.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that may be set: a publication signs a build and a head, and publishers wait a minute for the answer.
const SIGN_TIMEOUT_MAX: Duration = Duration::from_secs(25);

/// The most new content of one build that comes from another machine, unless `publish.max_size` says otherwise.
const MAX_SIZE: ByteSize = ByteSize(100 << 30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    archive: WrittenArchive,
    #[serde(default)]
    channels: Vec<WrittenChannel>,
    nats: NatsConfig,
    #[serde(default)]
    publish: Option<WrittenPublish>,
    #[serde(default)]
    enroll: Option<WrittenEnroll>,
    #[serde(default)]
    trust: Option<TrustConfig>,
    #[serde(default)]
    tls: Option<TlsConfig>,
    grpc: Listen,
    http: Listen,
    #[serde(default)]
    ingest: Ingest,
    #[serde(default)]
    heads: Heads,
    #[serde(default)]
    reconcile: Reconcile,
    #[serde(default)]
    gc: Gc,
    #[serde(default)]
    consistency: Option<Consistency>,
    #[serde(default)]
    directory: Option<Directory>,
    #[serde(default)]
    telemetry: TelemetryConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenArchive {
    state: PathBuf,
    store: PathBuf,
    key: Option<PathBuf>,
    sign_command: Option<Vec<String>>,
    public_key: Option<PathBuf>,
    sign_timeout: Option<Span>,
    #[serde(default)]
    previous_keys: Vec<PathBuf>,
    #[serde(default)]
    allow_undeclared: bool,
}

impl WrittenArchive {
    fn signing(&mut self, base: &Path) -> Result<Signing, ConfigError> {
        let conflict = |text: &str| Err(ConfigError::Conflict(text.to_owned()));
        let key = self.key.take();
        let (command, public_key) = (self.sign_command.take(), self.public_key.take());
        let timeout = self.sign_timeout.map_or(SIGN_TIMEOUT, |span| span.0);
        if timeout.is_zero() || timeout > SIGN_TIMEOUT_MAX {
            return conflict(
                "archive.sign_timeout must be more than 0 and at most 25s: publishers wait a minute",
            );
        }
        match (key, command, public_key) {
            (Some(_), None, None) if self.sign_timeout.is_some() => conflict(
                "archive.sign_timeout is for archive.sign_command; leave it out with archive.key",
            ),
            (Some(key), None, None) => Ok(Signing::Key(base.join(key))),
            (None, Some(command), Some(public_key)) => {
                let mut words = command.into_iter();
                let Some(program) = words.next().filter(|program| !program.is_empty()) else {
                    return conflict(
                        "archive.sign_command is empty; write it as [\"program\", \"argument\"]",
                    );
                };
                let found = program.contains('/').then(|| base.join(&program));
                Ok(Signing::Command {
                    program: found.unwrap_or_else(|| program.into()),
                    arguments: words.collect(),
                    public_key: base.join(public_key),
                    timeout,
                })
            }
            (None, Some(_), None) => conflict(
                "archive.sign_command needs archive.public_key: what it signs is checked with it",
            ),
            (Some(_), _, _) => conflict(
                "archive.key stands for itself: leave out archive.sign_command and archive.public_key",
            ),
            (None, None, _) => {
                conflict("archive.key is missing, or archive.sign_command with archive.public_key")
            }
        }
    }
}

/// A channel as it stands in a file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenChannel {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mount: Option<String>,
    layout: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    precedence: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    suites: Vec<String>,
    #[serde(default)]
    catch_all: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tree: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    openpgp_keyring: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "OneOrMore::is_empty")]
    signify_key: OneOrMore,
}

/// A file, or a list of them: OpenBSD signs its sets and its packages with two keys.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl OneOrMore {
    fn is_empty(&self) -> bool {
        self.paths().is_empty()
    }

    fn paths(&self) -> &[PathBuf] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::More(paths) => paths,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listen {
    listen: SocketAddr,
    #[serde(default)]
    limits: NetworkLimits,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Ingest {
    immutable: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Heads {
    renew: Span,
    expire: Span,
}

impl Default for Heads {
    fn default() -> Self {
        let hours = |hours: u64| Span(Duration::from_secs(hours * 3600));
        Self {
            renew: hours(1),
            expire: hours(7 * 24),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Gc {
    keep_builds: usize,
    keep: Span,
}

impl Default for Gc {
    fn default() -> Self {
        Self {
            keep_builds: 100,
            keep: Span(Duration::from_secs(30 * 24 * 3600)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Reconcile {
    every: Span,
    keep: usize,
    hear: Span,
}

impl Default for Reconcile {
    fn default() -> Self {
        Self {
            every: Span(Duration::from_secs(30)),
            keep: 64,
            hear: Span(Duration::from_secs(45)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Consistency {
    grpc: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Directory {
    http: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPublish {
    listen: SocketAddr,
    address: String,
    #[serde(default = "max_size")]
    max_size: ByteSize,
}

fn max_size() -> ByteSize {
    MAX_SIZE
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEnroll {
    listen: SocketAddr,
    address: String,
    fetch: String,
    nats_url: String,
    access: PathBuf,
}

impl WrittenEnroll {
    fn resolve(self, base: &Path) -> Enroll {
        Enroll {
            listen: self.listen,
            address: self.address,
            fetch: self.fetch,
            nats_url: self.nats_url,
            access: base.join(self.access),
        }
    }
}

impl Written {
    pub(super) fn check(mut self, base: &Path) -> Result<Config, ConfigError> {
        self.nats.resolve(base);
        if let Some(tls) = &mut self.tls {
            tls.resolve(base);
        }
        if let Some(trust) = &mut self.trust {
            trust.resolve(base);
        }
        let mut channels = Vec::with_capacity(self.channels.len());
        for (position, channel) in self.channels.into_iter().enumerate() {
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            channels.push(channel.check(base, position)?);
        }
        check_together(&channels)?;
        let guests = self.tls.as_ref().is_some_and(|tls| tls.guests.is_some());
        if self.enroll.is_some() && !guests {
            let text = "[enroll] needs [tls] with guests: a token's secret goes over the wire, and mirrors that \
                        joined call with certificates of that authority (guests.pem of nats-config)";
            return Err(ConfigError::Conflict(text.to_owned()));
        }
        if self.publish.is_some() && self.tls.is_none() {
            let text = "[publish] needs [tls]: a token's secret goes over the wire";
            return Err(ConfigError::Conflict(text.to_owned()));
        }
        if self.heads.renew.0.is_zero() || self.heads.expire.0 < self.heads.renew.0 * 2 {
            let text =
                "heads.expire must be at least twice heads.renew, and heads.renew more than 0";
            return Err(ConfigError::Conflict(text.to_owned()));
        }
        if self.reconcile.every.0.is_zero() || self.reconcile.keep == 0 {
            let text = "reconcile.every and reconcile.keep must be more than 0";
            return Err(ConfigError::Conflict(text.to_owned()));
        }
        let signing = self.archive.signing(base)?;
        Ok(Config {
            state: base.join(self.archive.state),
            store: base.join(self.archive.store),
            signing,
            previous_keys: self
                .archive
                .previous_keys
                .iter()
                .map(|key| base.join(key))
                .collect(),
            allow_undeclared: self.archive.allow_undeclared,
            channels,
            nats: self.nats,
            publish: self.publish.map(|publish| Publishing {
                listen: publish.listen,
                address: publish.address,
                max_size: publish.max_size,
            }),
            enroll: self.enroll.map(|enroll| enroll.resolve(base)),
            trust: self.trust,
            tls: self.tls,
            grpc_listen: self.grpc.listen,
            grpc_limits: self.grpc.limits,
            http_listen: self.http.listen,
            http_limits: self.http.limits,
            immutable: self.ingest.immutable,
            heads_renew: self.heads.renew.0,
            heads_expire: self.heads.expire.0,
            reconcile_every: self.reconcile.every.0,
            reconcile_keep: self.reconcile.keep,
            reconcile_hear: self.reconcile.hear.0,
            gc_keep_builds: self.gc.keep_builds.max(1),
            gc_keep: self.gc.keep.0,
            consistency_grpc: self.consistency.map(|consistency| consistency.grpc),
            directory_http: self.directory.map(|directory| directory.http),
            telemetry: self.telemetry,
        })
    }
}

impl WrittenChannel {
    pub(super) fn check(self, base: &Path, position: u32) -> Result<Declared, ConfigError> {
        let id = |source| ConfigError::Id {
            channel: self.name.clone(),
            source,
        };
        let name = ChannelId::new(&self.name).map_err(id)?;
        let mount = self.mount.unwrap_or_else(|| format!("/{name}"));
        let mount = Mount::new(&mount).map_err(id)?;
        let layout = self.layout.parse();
        let layout = layout.map_err(|source| ConfigError::Layout {
            channel: self.name,
            source,
        })?;
        Ok(Declared {
            name,
            mount,
            layout,
            precedence: self.precedence.unwrap_or(position),
            suites: self.suites,
            catch_all: self.catch_all,
            tree: self.tree.map(|tree| base.join(tree)),
            openpgp_keyring: self.openpgp_keyring.map(|keyring| base.join(keyring)),
            signify_keys: {
                let keys = self.signify_key.paths().iter();
                keys.map(|key| base.join(key)).collect()
            },
        })
    }
}

impl From<&Declared> for WrittenChannel {
    fn from(declared: &Declared) -> Self {
        Self {
            name: declared.name.to_string(),
            mount: Some(declared.mount.to_string()),
            layout: declared.layout.to_string(),
            precedence: Some(declared.precedence),
            suites: declared.suites.clone(),
            catch_all: declared.catch_all,
            tree: declared.tree.clone(),
            openpgp_keyring: declared.openpgp_keyring.clone(),
            signify_key: OneOrMore::More(declared.signify_keys.clone()),
        }
    }
}
