//! What the operator of a directory sets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use mirrorlog_core::consistency::Audience;
use mirrorlog_core::directory::health::ProbeRules;
use mirrorlog_core::directory::member::{Profile, USUAL_WEIGHT};
use mirrorlog_core::directory::place::{Asn, Continent, Country};
use mirrorlog_core::directory::pool::{PoolName, Region};
use mirrorlog_core::id::{ChannelId, MirrorId, PoolId};
use runtime::boot::{ByteSize, ConfigError, NetworkLimits, Span, TelemetryConfig, text, texts};
use runtime::log::NatsConfig;
use runtime::tls::TlsConfig;
use runtime::trust::TrustConfig;
use serde::{Deserialize, Deserializer};

/// A directory's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its folder and its name.
    pub directory: DirectorySection,
    /// Where builds and manifests come from.
    pub archive: ArchiveSection,
    /// Whose verdicts count.
    #[serde(default)]
    pub consistency: ConsistencySection,
    /// The log.
    pub nats: NatsConfig,
    /// The root document that says whose statements and verdicts count.
    #[serde(default)]
    pub trust: Option<TrustConfig>,
    /// TLS on gRPC.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// The web server.
    pub http: HttpSection,
    /// The DNS server; absent: none.
    #[serde(default)]
    pub dns: Option<DnsSection>,
    /// Databases that tell where addresses are.
    #[serde(default)]
    pub geo: GeoSection,
    /// How mirrors are probed.
    #[serde(default)]
    pub probe: ProbeSection,
    /// What clients may say.
    #[serde(default)]
    pub feedback: FeedbackSection,
    /// Metalinks.
    #[serde(default)]
    pub metalink: MetalinkSection,
    /// The mirrors.
    #[serde(default)]
    pub mirrors: Vec<MirrorSection>,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// `[directory]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectorySection {
    /// Folder for manifest pages and the last state. Nothing in it is lost when it is deleted.
    pub state: PathBuf,
    /// What people read at the top of its pages.
    #[serde(default = "usual_name")]
    pub name: String,
    /// Its own public URL, for feeds and metalinks; absent: what the request says.
    #[serde(default)]
    pub url: Option<String>,
}

/// `[archive]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveSection {
    /// `host:port` of its fetcher and journal.
    pub fetch: String,
    /// `host:port` of the same for clients, who ask there for what no mirror has; absent: they do not.
    #[serde(default)]
    pub universe: Option<String>,
    /// Its public keys; a statement signed by any of them counts. None where `trust.root` says whose do.
    #[serde(default)]
    pub keys: Vec<PathBuf>,
}

/// `[consistency]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencySection {
    /// Its public keys; a verdict signed by any of them counts. None where `trust.root` says whose do.
    #[serde(default)]
    pub keys: Vec<PathBuf>,
}

/// `[http]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSection {
    /// `address:port`
    pub listen: SocketAddr,
    /// Proxies in front, whose `X-Forwarded-For` is believed.
    #[serde(default)]
    pub trusted_proxies: Vec<IpNet>,
    /// What one network (an IPv4 /24, an IPv6 /48) may take. Clients of trusted proxies count by their own address.
    #[serde(default)]
    pub limits: NetworkLimits,
}

/// `[dns]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsSection {
    /// `address:port`, UDP and TCP.
    pub listen: SocketAddr,
    /// The zone, such as `mirrors.example.org`.
    pub zone: String,
    /// Names of the zone's servers, as its parent has them; the first is the SOA's primary.
    #[serde(default)]
    pub servers: Vec<String>,
    /// Addresses of servers whose names are inside the zone.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Mailbox of whoever is responsible, as in `hostmaster@example.org`.
    #[serde(default)]
    pub contact: Option<String>,
    /// How long resolvers may keep an answer; 30 s at least.
    #[serde(default = "usual_ttl")]
    pub ttl: Span,
    /// The port at which pools' clients ask: mirrors that listen elsewhere are in no pool.
    #[serde(default = "http_port")]
    pub port: u16,
    /// The channels that the names stand for; empty: all.
    #[serde(default, deserialize_with = "texts")]
    pub channels: Vec<ChannelId>,
    /// What one network may take: who asks more over UDP is told to come by TCP, in as many bytes as it sent.
    #[serde(default = "dns_limits")]
    pub limits: NetworkLimits,
}

/// `[geo]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeoSection {
    /// MaxMind DB file with countries.
    pub country: Option<PathBuf>,
    /// MaxMind DB file with autonomous systems.
    pub asn: Option<PathBuf>,
}

/// `[probe]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeSection {
    /// Between two probes of a mirror. A dead one is out of all answers within two of these.
    pub every: Span,
}

impl Default for ProbeSection {
    fn default() -> Self {
        Self {
            every: Span(Duration::from_secs(30)),
        }
    }
}

/// `[feedback]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedbackSection {
    /// False: `POST /v1/feedback` is refused.
    pub accept: bool,
    /// Samples a minute from one neighbourhood (an IPv4 /24, an IPv6 /48).
    pub per_source: u32,
    /// Samples a minute from one network (an autonomous system).
    pub per_network: u32,
}

impl Default for FeedbackSection {
    fn default() -> Self {
        Self {
            accept: true,
            per_source: 30,
            per_network: 600,
        }
    }
}

/// `[metalink]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetalinkSection {
    /// Most bytes that are read from mirrors in an hour, for digests of files' pieces; 0: none. Files that are
    /// larger have no pieces.
    pub pieces_per_hour: ByteSize,
}

impl Default for MetalinkSection {
    fn default() -> Self {
        Self {
            pieces_per_hour: ByteSize(4 << 30),
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
    /// Its public URL, without a slash at the end.
    pub url: String,
    /// Its country, when that is not its pool's.
    #[serde(default, deserialize_with = "country")]
    pub country: Option<Country>,
    /// Its autonomous system; looked up when absent.
    #[serde(default)]
    pub asn: Option<u32>,
    /// Clients in these networks come first.
    #[serde(default)]
    pub netblocks: Vec<IpNet>,
    /// True: only clients in `netblocks` are sent to it.
    #[serde(default)]
    pub private: bool,
    /// Share of the clients among mirrors of equal speed, relative to others.
    #[serde(default = "usual_weight")]
    pub weight: u32,
    /// Its addresses for DNS pools; looked up by its URL's host when empty.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Who pays for it, for people.
    #[serde(default)]
    pub sponsor: Option<String>,
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
        "url {url:?} of {whose} is not valid: use http://host or https://host, with a path if need be"
    )]
    Url {
        /// Whose.
        whose: String,
        /// What was given.
        url: String,
    },
    /// A pool whose name stands for something else among DNS pools.
    #[error(
        "pool {0} has the name of a continent, of the world or of a part: begin it with the country's code"
    )]
    Pool(PoolId),
    /// A private mirror for nobody.
    #[error("mirror {0} is private and has no netblocks: name the networks that may use it")]
    Nobody(MirrorId),
    /// A number of which nothing can be done.
    #[error("{0} must be at least {1}")]
    TooSmall(&'static str, &'static str),
    /// A zone, its servers or its contact.
    #[error("dns cannot be served")]
    Dns(#[source] anyhow::Error),
    /// A database that is not there.
    #[error("geo: there is no file {}", .0.display())]
    Geo(PathBuf),
    /// No key.
    #[error("{0} is empty: name the public key's file")]
    NoKeys(&'static str),
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
        let keys = self.archive.keys.iter_mut();
        let keys = keys.chain(&mut self.consistency.keys);
        let databases = [&mut self.geo.country, &mut self.geo.asn];
        let paths = keys.chain(databases.into_iter().flatten());
        for path in paths.chain([&mut self.directory.state]) {
            *path = base.join(&*path);
        }
        let urls = self.mirrors.iter_mut().map(|mirror| &mut mirror.url);
        for url in urls.chain(&mut self.directory.url) {
            url.truncate(url.trim_end_matches('/').len());
        }
    }

    fn check(&self) -> Result<(), CheckError> {
        let mut ids = BTreeSet::new();
        for mirror in &self.mirrors {
            if !ids.insert(&mirror.id) {
                return Err(CheckError::Twice(mirror.id.clone()));
            }
            check_url(&mirror.url, || format!("mirror {}", mirror.id))?;
            if mirror.private && mirror.netblocks.is_empty() {
                return Err(CheckError::Nobody(mirror.id.clone()));
            }
            let name = PoolName::parse(&[mirror.pool.as_str()]);
            let region = name.map(|name| (name.part, name.region));
            if !matches!(region, Some((None, Region::Country(_) | Region::Pool(_)))) {
                return Err(CheckError::Pool(mirror.pool.clone()));
            }
            if mirror.weight == 0 {
                return Err(CheckError::TooSmall("weight of a mirror", "1"));
            }
        }
        if let Some(url) = &self.directory.url {
            check_url(url, || "the directory".to_owned())?;
        }
        if self.probe.every.0 < Duration::from_millis(300) {
            return Err(CheckError::TooSmall("probe.every", "300ms"));
        }
        if let Some(dns) = &self.dns
            && dns.ttl.0 < TTL_MIN
        {
            return Err(CheckError::TooSmall("dns.ttl", "30s"));
        }
        if let Some(dns) = &self.dns {
            crate::dns::check(dns).map_err(CheckError::Dns)?;
        }
        let databases = [&self.geo.country, &self.geo.asn];
        if let Some(absent) = databases.into_iter().flatten().find(|file| !file.is_file()) {
            return Err(CheckError::Geo(absent.clone()));
        }
        if self.trust.is_none() && self.archive.keys.is_empty() {
            return Err(CheckError::NoKeys("archive.keys"));
        }
        if self.trust.is_none() && self.consistency.keys.is_empty() {
            return Err(CheckError::NoKeys("consistency.keys"));
        }
        Ok(())
    }

    /// How mirrors are probed.
    pub fn probe_rules(&self) -> ProbeRules {
        ProbeRules {
            every_ms: i64::try_from(self.probe.every.0.as_millis()).unwrap_or(i64::MAX / 8),
        }
    }
}

impl MirrorSection {
    /// The mirror as core knows it; its autonomous system only as far as it is declared.
    pub fn profile(&self) -> Profile {
        let usual = Profile::new(self.id.clone(), self.pool.clone());
        let country = self.country.or(usual.country);
        Profile {
            country,
            continent: country.and_then(Continent::of),
            asn: self.asn.map(Asn),
            netblocks: self.netblocks.clone(),
            audience: if self.private {
                Audience::Private
            } else {
                Audience::Public
            },
            weight: self.weight,
            channels: self.channels.clone(),
            ..usual
        }
    }
}

fn check_url(url: &str, whose: impl Fn() -> String) -> Result<(), CheckError> {
    let parsed = reqwest::Url::parse(url);
    let usable = parsed.is_ok_and(|url| {
        ["http", "https"].contains(&url.scheme())
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let usable = usable && url.contains("://");
    // It stands in lists of one URL a line, and in headers between angle brackets.
    let plain = |c: char| c.is_ascii_graphic() && !"<>\"'".contains(c);
    if usable && url.chars().all(plain) {
        return Ok(());
    }
    Err(CheckError::Url {
        whose: whose(),
        url: url.to_owned(),
    })
}

/// Shorter answers would make resolvers ask more than they are worth.
const TTL_MIN: Duration = Duration::from_secs(30);

fn country<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Country>, D::Error> {
    text(deserializer).map(Some)
}

fn usual_name() -> String {
    "mirrorlog".to_owned()
}

fn usual_ttl() -> Span {
    Span(Duration::from_secs(150))
}

/// A quarter of the places for TCP, and what no resolver asks that keeps answers for their time.
fn dns_limits() -> NetworkLimits {
    NetworkLimits {
        connections: 64,
        requests_per_s: 200,
        burst: 1000,
        ..NetworkLimits::default()
    }
}

fn http_port() -> u16 {
    80
}

fn usual_weight() -> u32 {
    USUAL_WEIGHT
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../../deploy/directory.toml");

    fn load(text: &str) -> Result<Config, CheckError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("directory.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file)
    }

    #[test]
    fn the_sample_is_read_whole() {
        let config = load(SAMPLE).unwrap();
        let profile = config.mirrors[0].profile();
        assert_eq!(profile.country.unwrap().as_str(), "NZ");
        assert_eq!(profile.continent, Some(Continent::Oceania));
        assert_eq!(
            (config.http.trusted_proxies.len(), profile.weight),
            (0, 100)
        );
        assert_eq!(config.probe_rules().every_ms, 30_000);
        assert!(config.dns.is_some());
        assert_eq!(config.metalink.pieces_per_hour, ByteSize(4 << 30));
        let never = SAMPLE.replace("pieces_per_hour = \"4GiB\"", "pieces_per_hour = 0");
        let never = load(&never).unwrap();
        assert_eq!(never.metalink.pieces_per_hour, ByteSize(0));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let with = |from: &str, to: &str| {
            assert!(SAMPLE.contains(from), "{from}");
            load(&SAMPLE.replace(from, to)).unwrap_err()
        };
        assert!(matches!(
            with("http://mirror.example.org", "ftp://nz1"),
            CheckError::Url { .. }
        ));
        assert!(matches!(
            with("http://mirror.example.org", "http://nz1/\\ttype:deb"),
            CheckError::Url { .. }
        ));
        assert!(matches!(
            with("every = \"30s\"", "every = \"1ms\""),
            CheckError::TooSmall("probe.every", _)
        ));
        for taken in ["world", "oceania", "3"] {
            let to = format!("pool = \"{taken}\"");
            assert!(matches!(with("pool = \"nz\"", &to), CheckError::Pool(_)));
        }
        assert!(matches!(
            with("pool = \"nz\"", "pool = \"nz\"\nprivate = true"),
            CheckError::Nobody(_)
        ));
        assert!(matches!(
            with("keys = [\"consistency.pub\"]", "keys = []"),
            CheckError::NoKeys("consistency.keys")
        ));
        assert!(matches!(
            with("every = \"30s\"", "evry = \"30s\""),
            CheckError::Config(_)
        ));
        assert!(matches!(
            with(
                "[[mirrors]]",
                "[[mirrors]]\nid = \"nz1\"\npool = \"nz\"\nurl = \"http://x\"\n\n[[mirrors]]"
            ),
            CheckError::Twice(_)
        ));
    }
}
