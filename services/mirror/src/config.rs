//! What a mirror's operator sets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mirrorlog_core::id::{ChannelId, MirrorId, PoolId};
use mirrorlog_core::limits::NAME_MAX_BYTES;
use mirrorlog_core::view::{Part, View, ViewError};
use runtime::boot::{ByteRate, ByteSize, NetworkLimits, Span, TelemetryConfig, text, texts};
use runtime::log::NatsConfig;
use runtime::tls::TlsConfig;
use runtime::trust::TrustConfig;
use serde::Deserialize;

/// A mirror's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who it is and what it keeps.
    pub mirror: MirrorSection,
    /// Where content comes from.
    pub archive: ArchiveSection,
    /// Whose word is waited for where `mirror.flip` is `confirmed`.
    #[serde(default)]
    pub consistency: ConsistencySection,
    /// The log.
    pub nats: NatsConfig,
    /// The root document that says whose statements count.
    #[serde(default)]
    pub trust: Option<TrustConfig>,
    /// TLS on gRPC: with the archive, and with peers.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// The public web server.
    pub http: Listen,
    /// The fetcher for neighbours.
    pub grpc: Listen,
    /// How content is fetched.
    #[serde(default)]
    pub fetch: FetchSection,
    /// Parts of channels to carry, in place of all; the first that names a channel counts for it.
    #[serde(default, deserialize_with = "views")]
    pub views: Vec<ViewSection>,
    /// Mirrors of the same pool.
    #[serde(default)]
    pub peers: PeersSection,
    /// Trees of files for nginx and rsync; none when left out.
    #[serde(default)]
    pub export: Option<ExportSection>,
    /// How stored content is checked.
    #[serde(default)]
    pub scrub: ScrubSection,
    /// How often the mirror reports when nothing happens.
    #[serde(default)]
    pub report: ReportSection,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// `[mirror]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorSection {
    /// Its id, as the archive's operators know it.
    #[serde(deserialize_with = "text")]
    pub id: MirrorId,
    /// Its pool; starts with the country's code.
    #[serde(deserialize_with = "text")]
    pub pool: PoolId,
    /// Folder for small state.
    pub state: PathBuf,
    /// Folder for pages and blobs.
    pub store: PathBuf,
    /// Secret key that signs reports.
    pub key: PathBuf,
    /// Channels to carry; empty: all.
    #[serde(default, deserialize_with = "texts")]
    pub channels: Vec<ChannelId>,
    /// Builds to keep, the live one included.
    #[serde(default = "three")]
    pub retain_builds: usize,
    /// How long a build stays after it stopped being live.
    #[serde(default = "one_day")]
    pub grace: Span,
    /// When a build that is whole here goes live.
    #[serde(default)]
    pub flip: FlipSetting,
    /// How long older builds stay that an operator asked for.
    #[serde(default = "one_week")]
    pub backfill_keep: Span,
    /// Most bytes that pages and blobs may take; absent: as much as there is.
    #[serde(default)]
    pub budget: Option<ByteSize>,
    /// Free space that is never used.
    #[serde(default = "free_floor")]
    pub free_floor: ByteSize,
    /// Host name in the trace file, and that file's name; the id when absent.
    #[serde(default, deserialize_with = "host_name")]
    pub fqdn: Option<String>,
    /// Who maintains it, for the trace file.
    #[serde(default)]
    pub maintainer: Option<String>,
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

/// `mirror.flip`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlipSetting {
    /// At once: every entry was verified here.
    #[default]
    Local,
    /// When the consistency service has verified it from outside.
    Confirmed,
}

/// `[consistency]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsistencySection {
    /// Its public keys; a verdict signed by any of them counts.
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

/// `[fetch]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchSection {
    /// Most bytes a second, in bits (`20mbit`); absent: unlimited.
    pub rate: Option<ByteRate>,
    /// Times of day with other rates; the first that fits wins.
    pub windows: Vec<RateWindow>,
}

/// `[[fetch.windows]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateWindow {
    /// Its begin, by the clock of the machine's place (`22:30`).
    #[serde(deserialize_with = "time_of_day")]
    pub from: jiff::civil::Time,
    /// Its end, which is not in it. Before `from`: on the next day.
    #[serde(deserialize_with = "time_of_day")]
    pub to: jiff::civil::Time,
    /// Most bytes a second then; absent: unlimited.
    #[serde(default)]
    pub rate: Option<ByteRate>,
}

fn time_of_day<'de, D: serde::Deserializer<'de>>(from: D) -> Result<jiff::civil::Time, D::Error> {
    let text = String::deserialize(from)?;
    let time = text.parse();
    time.map_err(|_| serde::de::Error::custom(format!("{text:?} is no time of day: write 22:30")))
}

/// `[[views]]`: what a partial mirror carries (see `mirrorlog_core::view`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ViewSection {
    /// Channels that it is for; empty: all.
    #[serde(deserialize_with = "texts")]
    pub channels: Vec<ChannelId>,
    /// Architectures; empty: all. Sources count as `source`.
    pub architectures: BTreeSet<String>,
    /// Components of a Debian tree; empty: all.
    pub components: BTreeSet<String>,
    /// Globs of what is carried; empty: everything.
    pub include: BTreeSet<String>,
    /// Globs of what is not.
    pub exclude: BTreeSet<String>,
}

impl ViewSection {
    /// The view.
    ///
    /// # Errors
    /// [`ViewError`].
    pub(crate) fn view(&self) -> Result<View, ViewError> {
        View::new(Part {
            architectures: self.architectures.clone(),
            components: self.components.clone(),
            include: self.include.clone(),
            exclude: self.exclude.clone(),
        })
    }
}

fn views<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<ViewSection>, D::Error> {
    let sections = Vec::<ViewSection>::deserialize(from)?;
    for section in &sections {
        section.view().map_err(serde::de::Error::custom)?;
    }
    Ok(sections)
}

/// `[peers]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeersSection {
    /// Whether mirrors of the same pool are asked for content, and told of this one.
    pub enabled: bool,
    /// `host:port` where they reach this mirror's fetcher; absent: they cannot, and this mirror only asks.
    #[serde(deserialize_with = "host_and_port")]
    pub address: Option<String>,
    /// Most bytes a second from peers, in bits; absent: they count for `fetch.rate`.
    pub rate: Option<ByteRate>,
}

impl Default for PeersSection {
    fn default() -> Self {
        Self {
            enabled: true,
            address: None,
            rate: None,
        }
    }
}

fn host_name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && !label.starts_with('-') && label.bytes().all(plain)
    };
    if text.len() <= NAME_MAX_BYTES && text.split('.').all(label) {
        return Ok(Some(text));
    }
    let told = format!("{text:?} is no host name: write one such as mirror.example.org");
    Err(serde::de::Error::custom(told))
}

fn host_and_port<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    match wire::peer::check_address(&text) {
        Ok(()) => Ok(Some(text)),
        Err(_) => {
            let told =
                format!("{text:?} is not of the form host:port: write mirror.example.org:7080");
            Err(serde::de::Error::custom(told))
        }
    }
}

/// `[export]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSection {
    /// Folder of the trees, on the store's file system; mounts are symlinks in it.
    pub dir: PathBuf,
    /// How long a tree stays as it is once readers are led to another: the longest that a download or a downstream's
    /// rsync takes.
    #[serde(default = "ten_minutes")]
    pub settle: Span,
    /// Trees of each mount, 2 at least: with one more, the next build need not wait for `settle`.
    #[serde(default = "three")]
    pub trees: usize,
}

/// `[scrub]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubSection {
    /// Pause between two rounds.
    pub every: Span,
    /// Most bytes a second that a round reads; a file counts for 16 KiB at least.
    pub rate: ByteRate,
}

impl Default for ScrubSection {
    fn default() -> Self {
        Self {
            every: Span(std::time::Duration::from_secs(24 * 3600)),
            rate: ByteRate(20 * 1024 * 1024),
        }
    }
}

/// `[report]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportSection {
    /// Pause between two reports when nothing happens.
    pub every: Span,
}

impl Default for ReportSection {
    fn default() -> Self {
        Self {
            every: Span(std::time::Duration::from_secs(30)),
        }
    }
}

impl Config {
    /// Reads a file; relative paths are relative to its folder.
    ///
    /// # Errors
    /// [`runtime::boot::ConfigError`] with the file, the place and what to do.
    pub fn load(file: &Path) -> Result<Self, runtime::boot::ConfigError> {
        Ok(runtime::boot::load_config::<Self>(file)?.beside(file))
    }

    /// The same of a text that was read from `file`, whatever the environment says.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(file: &Path, text: &str) -> Result<Self, runtime::boot::ConfigError> {
        let read: Self = runtime::boot::parse_config(file, text, std::iter::empty())?;
        Ok(read.beside(file))
    }

    fn beside(mut self, file: &Path) -> Self {
        let config = &mut self;
        let base = file.parent().unwrap_or(Path::new("."));
        config.nats.resolve(base);
        if let Some(tls) = &mut config.tls {
            tls.resolve(base);
        }
        if let Some(trust) = &mut config.trust {
            trust.resolve(base);
        }
        let mirror = &mut config.mirror;
        for path in [&mut mirror.state, &mut mirror.store, &mut mirror.key] {
            *path = base.join(&*path);
        }
        if let Some(export) = &mut config.export {
            export.dir = base.join(&export.dir);
        }
        let keys = config.archive.keys.iter_mut();
        for path in keys.chain(&mut config.consistency.keys) {
            *path = base.join(&*path);
        }
        self
    }
}

fn three() -> usize {
    3
}

fn one_day() -> Span {
    Span(std::time::Duration::from_secs(24 * 3600))
}

fn one_week() -> Span {
    Span(std::time::Duration::from_secs(7 * 24 * 3600))
}

fn ten_minutes() -> Span {
    Span(std::time::Duration::from_secs(600))
}

fn free_floor() -> ByteSize {
    ByteSize(512 * 1024 * 1024)
}
