//! The archive's configuration: read whole and checked before anything binds.

mod written;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mirrorlog_core::id::{ChannelId, IdError, Mount};
use mirrorlog_core::layout::{Layout, LayoutError};
use mirrorlog_core::sign::PublicKey;
use runtime::boot::{ByteSize, NetworkLimits, TelemetryConfig};
use runtime::key::KeyError;
use runtime::log::NatsConfig;
use runtime::tls::TlsConfig;
use runtime::trust::TrustConfig;

use crate::publish::PublishConfig;
use crate::signer::{SignCommand, Signer};
use written::Written;
pub(crate) use written::WrittenChannel;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, or is no TOML of this shape.
    #[error(transparent)]
    File(#[from] runtime::boot::ConfigError),
    /// The declaration of a channel that was made on the fly cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The declaration of a channel that was made on the fly is not valid.
    #[error("{} is not valid", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: toml::de::Error,
    },
    /// A channel's name or mount.
    #[error("channel {channel:?}")]
    Id {
        /// The channel, as written.
        channel: String,
        /// What is wrong.
        #[source]
        source: IdError,
    },
    /// A channel's layout.
    #[error("channel {channel:?}")]
    Layout {
        /// The channel, as written.
        channel: String,
        /// What is wrong.
        #[source]
        source: LayoutError,
    },
    /// Two settings that do not go together.
    #[error("{0}")]
    Conflict(String),
}

/// A channel as the operator, or a first publication, declared it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: ChannelId,
    /// Where it is served.
    pub mount: Mount,
    /// Shape of its tree.
    pub layout: Layout,
    /// Order among the channels of its mount: the lowest wins.
    pub precedence: u32,
    /// Takes only these suites of the tree, and the pool files that they name; empty: the whole tree.
    pub suites: Vec<String>,
    /// Takes what no other channel of its mount takes.
    pub catch_all: bool,
    /// The tree that it is published from, where the command line names none.
    pub tree: Option<PathBuf>,
    /// Keys with which its InRelease must be signed.
    pub openpgp_keyring: Option<PathBuf>,
    /// Public keys of signify(1), one of which must have signed each of its SHA256.sig.
    pub signify_keys: Vec<PathBuf>,
}

/// What signs for an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signing {
    /// The secret key in this file.
    Key(PathBuf),
    /// A program that reads a statement and answers signify's signature.
    Command {
        /// The program; without a slash it is looked up in PATH.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
        /// The key under which its signatures must hold.
        public_key: PathBuf,
        /// How long it may take.
        timeout: Duration,
    },
}

impl Signing {
    /// Reads the public key of what signs; the secret key is read only where it is configured.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn public_key(&self) -> Result<PublicKey, KeyError> {
        match self {
            Self::Key(file) => Ok(runtime::key::read_secret(file)?.public()),
            Self::Command { public_key, .. } => runtime::key::read_public(public_key),
        }
    }

    /// Reads what is needed to sign.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn signer(&self) -> Result<Signer, KeyError> {
        match self {
            Self::Key(file) => Ok(Signer::Key(runtime::key::read_secret(file)?)),
            Self::Command {
                program,
                arguments,
                public_key,
                timeout,
            } => {
                let public = runtime::key::read_public(public_key)?;
                let command =
                    SignCommand::new(program.clone(), arguments.clone(), public, *timeout);
                Ok(Signer::Command(command))
            }
        }
    }
}

/// What an archive runs on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of journal, control state, locks and the admin socket.
    pub state: PathBuf,
    /// Folder of pages and blobs.
    pub store: PathBuf,
    /// What signs.
    pub signing: Signing,
    /// Public keys that signed parts of the journal before.
    pub previous_keys: Vec<PathBuf>,
    /// Makes a channel at its first publication.
    pub allow_undeclared: bool,
    /// The channels of the file; those made on the fly are kept in the state.
    pub channels: Vec<Declared>,
    /// Where the log is.
    pub nats: NatsConfig,
    /// How others publish with a token; none: they do not.
    pub publish: Option<Publishing>,
    /// How mirrors join by a token; none: they do not.
    pub enroll: Option<Enroll>,
    /// The root document that others believe; none: they believe keys.
    pub trust: Option<TrustConfig>,
    /// TLS on gRPC; none: for networks where nobody listens in.
    pub tls: Option<TlsConfig>,
    /// Fetcher, Journal, health and reflection.
    pub grpc_listen: SocketAddr,
    /// What one network may take of them.
    pub grpc_limits: NetworkLimits,
    /// Liveness, readiness, metrics.
    pub http_listen: SocketAddr,
    /// What one network may take of them.
    pub http_limits: NetworkLimits,
    /// Globs of paths that may be hardlinked into the store: never rewritten in place.
    pub immutable: Vec<String>,
    /// How often heads are signed anew.
    pub heads_renew: Duration,
    /// How long a head counts.
    pub heads_expire: Duration,
    /// How often the log is compared with the journal.
    pub reconcile_every: Duration,
    /// How many statements of a lane are put on a log that lost them: the newest ones.
    pub reconcile_keep: usize,
    /// How long mirrors are waited for when the log has lost the count of builds.
    pub reconcile_hear: Duration,
    /// Content of so many builds of a channel is kept by a collection, the newest ones.
    pub gc_keep_builds: usize,
    /// Content of a build is kept for so long by a collection.
    pub gc_keep: Duration,
    /// `host:port` of the consistency service, for the commands that ask it.
    pub consistency_grpc: Option<String>,
    /// URL of a directory, for the commands that ask it.
    pub directory_http: Option<String>,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// `[publish]`: how others publish, from their own machines.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// Where they are listened to.
    pub listen: SocketAddr,
    /// `host:port` of that, for them.
    pub address: String,
    /// The most new content of one build.
    pub max_size: ByteSize,
}

/// `[enroll]`: how mirrors join.
#[derive(Clone, Debug)]
pub struct Enroll {
    /// Where they are listened to.
    pub listen: SocketAddr,
    /// `host:port` of that, for them.
    pub address: String,
    /// `host:port` of the archive's fetcher, for them.
    pub fetch: String,
    /// nats-server's URL, for them.
    pub nats_url: String,
    /// The folder `enroll` that `mirrorlog nats-config` wrote.
    pub access: PathBuf,
}

impl Config {
    /// Reads and checks a configuration; relative paths count from the file's folder.
    ///
    /// # Errors
    /// [`ConfigError`] naming the first thing that is wrong.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let written: Written = runtime::boot::load_config(file)?;
        written.check(&runtime::boot::folder_of(file))
    }

    /// The same of a text that was read from `file`, whatever the environment says.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let written: Written = runtime::boot::parse_config(file, text, std::iter::empty())?;
        written.check(&runtime::boot::folder_of(file))
    }

    /// The socket on which local commands reach the daemon.
    pub fn admin_socket(&self) -> PathBuf {
        self.state.join("admin.sock")
    }

    /// What a publisher of the channel takes from here.
    pub(crate) fn publish_config(&self, declared: &Declared) -> PublishConfig {
        PublishConfig {
            openpgp_keyring: declared.openpgp_keyring.clone(),
            signify_keys: declared.signify_keys.clone(),
            ..self.publish_undeclared()
        }
    }

    fn publish_undeclared(&self) -> PublishConfig {
        PublishConfig {
            socket: self.admin_socket(),
            store_dir: self.store.clone(),
            state_dir: self.state.clone(),
            immutable: self.immutable.clone(),
            openpgp_keyring: None,
            signify_keys: Vec::new(),
        }
    }

    /// What a publisher on this machine takes from here.
    ///
    /// # Errors
    /// [`ConfigError`] when the state's declaration of the channel cannot be read.
    pub fn publishing(&self, channel: &ChannelId) -> Result<PublishConfig, ConfigError> {
        let declared = self.channel(channel)?;
        Ok(declared.map_or_else(
            || self.publish_undeclared(),
            |declared| self.publish_config(&declared),
        ))
    }

    /// Folder of the channels that were made on the fly.
    pub(crate) fn channels_dir(&self) -> PathBuf {
        self.state.join("channels")
    }

    /// A channel of the file or of the state.
    ///
    /// # Errors
    /// [`ConfigError`] when the state's declaration cannot be read.
    pub fn channel(&self, name: &ChannelId) -> Result<Option<Declared>, ConfigError> {
        if let Some(declared) = self.channels.iter().find(|declared| &declared.name == name) {
            return Ok(Some(declared.clone()));
        }
        let file = self.channels_dir().join(format!("{name}.toml"));
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ConfigError::Read { path: file, source }),
        };
        let written: Result<WrittenChannel, _> = toml::from_str(&text);
        let written = written.map_err(|source| ConfigError::Parse { path: file, source })?;
        written.check(&self.state, 0).map(Some)
    }
}

/// Checks what channels may not have in common.
pub(crate) fn check_together(channels: &[Declared]) -> Result<(), ConfigError> {
    let conflict = |text: String| Err(ConfigError::Conflict(text));
    let mut places: BTreeMap<(&Mount, u32), &ChannelId> = BTreeMap::new();
    let mut rests: BTreeMap<&Mount, &ChannelId> = BTreeMap::new();
    for (index, channel) in channels.iter().enumerate() {
        let Declared {
            name,
            mount,
            precedence,
            suites,
            catch_all,
            ..
        } = channel;
        if channels[..index].iter().any(|other| &other.name == name) {
            return conflict(format!("channel {name} is declared twice"));
        }
        if let Some(other) = places.insert((mount, *precedence), name) {
            return conflict(format!(
                "channels {other} and {name} have the same mount {mount} and the same precedence {precedence}"
            ));
        }
        if *catch_all && !suites.is_empty() {
            return conflict(format!(
                "channel {name} has suites and is catch_all: it can be one of them"
            ));
        }
        if let Some(other) = catch_all.then(|| rests.insert(mount, name)).flatten() {
            return conflict(format!(
                "channels {other} and {name} are both catch_all on mount {mount}"
            ));
        }
        let inside = |a: &Mount, b: &Mount| {
            a.as_str()
                .strip_prefix(b.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        };
        let nested = channels[..index]
            .iter()
            .find(|other| inside(mount, &other.mount) || inside(&other.mount, mount));
        if let Some(other) = nested {
            return conflict(format!(
                "mount {mount} of {name} and mount {} of {} lie inside each other",
                other.mount, other.name
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(channels: &str) -> Result<Config, String> {
        let text = format!(
            "[archive]\nstate = 'state'\nstore = '/store'\nkey = 'archive.sec'\n\
             [nats]\nurl = 'nats://127.0.0.1:4222'\n[grpc]\nlisten = '127.0.0.1:1'\n\
             [http]\nlisten = '127.0.0.1:2'\n{channels}"
        );
        let written: Written = toml::from_str(&text).map_err(|error| error.to_string())?;
        written
            .check(Path::new("/etc/mirrorlog"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn paths_count_from_the_file() {
        let config = check("[[channels]]\nname = 'noble'\nlayout = 'debian'\n").unwrap();
        assert_eq!(config.state, Path::new("/etc/mirrorlog/state"));
        assert_eq!(config.store, Path::new("/store"));
        assert_eq!(config.channels[0].mount.as_str(), "/noble");
        assert_eq!(config.heads_expire, Duration::from_secs(7 * 86400));
    }

    #[test]
    fn the_sample_is_valid() {
        let sample: Written = toml::from_str(include_str!("../../../deploy/archive.toml")).unwrap();
        sample.check(Path::new("/etc/mirrorlog")).unwrap();
    }

    #[test]
    fn a_key_or_a_program_signs() {
        let with = |lines: &str| {
            let text = format!(
                "[archive]\nstate = 'state'\nstore = '/store'\n{lines}\n\
                 [nats]\nurl = 'nats://127.0.0.1:1'\n[grpc]\nlisten = '127.0.0.1:0'\n[http]\nlisten = '127.0.0.1:0'\n"
            );
            let written: Written = toml::from_str(&text).unwrap();
            written
                .check(Path::new("/etc/mirrorlog"))
                .map(|config| config.signing)
        };
        let key = PathBuf::from("/etc/mirrorlog/archive.sec");
        assert_eq!(with("key = 'archive.sec'").unwrap(), Signing::Key(key));
        let program = "sign_command = ['sign-with', '--slot', '1']\npublic_key = 'archive.pub'";
        let expected = |timeout| Signing::Command {
            program: "sign-with".into(),
            arguments: vec!["--slot".into(), "1".into()],
            public_key: "/etc/mirrorlog/archive.pub".into(),
            timeout: Duration::from_secs(timeout),
        };
        assert_eq!(with(program).unwrap(), expected(10));
        let patient = format!("{program}\nsign_timeout = '25s'");
        assert_eq!(with(&patient).unwrap(), expected(25));
        for wrong in [
            "",
            "public_key = 'archive.pub'",
            "sign_command = ['x']",
            "sign_command = ['x']\npublic_key = 'archive.pub'\nsign_timeout = '26s'",
            "sign_command = []\npublic_key = 'archive.pub'",
            "key = 'archive.sec'\nsign_timeout = '1m'",
            &format!("key = 'archive.sec'\n{program}"),
        ] {
            let refused = with(wrong);
            assert!(
                matches!(refused, Err(ConfigError::Conflict(_))),
                "{wrong}: {refused:?}"
            );
        }
    }

    #[test]
    fn signify_keys_are_one_or_more() {
        let with = |key: &str| {
            let text = format!("[[channels]]\nname = 'o'\nlayout = 'openbsd'\n{key}\n");
            check(&text).map(|config| config.channels[0].signify_keys.clone())
        };
        assert_eq!(with(""), Ok(Vec::new()));
        let one = PathBuf::from("/etc/mirrorlog/base.pub");
        assert_eq!(with("signify_key = 'base.pub'"), Ok(vec![one.clone()]));
        let two = "signify_key = ['base.pub', '/etc/signify/pkg.pub']";
        assert_eq!(with(two), Ok(vec![one, "/etc/signify/pkg.pub".into()]));
        assert!(with("signify_key = 1").is_err());
    }

    #[test]
    fn channels_that_cannot_live_together_are_refused() {
        let two = |a: &str, b: &str| {
            let one =
                |name, rest| format!("[[channels]]\nname = '{name}'\nlayout = 'plain'\n{rest}\n");
            check(&format!("{}{}", one("a", a), one("b", b))).unwrap_err()
        };
        let precedence = "mount = '/m'\nprecedence = 1";
        assert!(two(precedence, precedence).contains("the same precedence"));
        let rest = "mount = '/m'\ncatch_all = true";
        assert!(two(rest, rest).contains("both catch_all"));
        assert!(two("mount = '/m'", "mount = '/m/n'").contains("inside each other"));
        let twice = "[[channels]]\nname = 'a'\nlayout = 'plain'\n".repeat(2);
        assert!(check(&twice).unwrap_err().contains("declared twice"));
        assert!(
            check("[ingest]\nimutable = []")
                .unwrap_err()
                .contains("imutable")
        );
    }
}
