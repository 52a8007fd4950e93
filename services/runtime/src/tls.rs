//! TLS on gRPC: who a service is, whom it believes, and a network's own authority that says so.

mod authority;
mod dates;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

pub use authority::{Authority, AuthorityError, Request, Subject};
pub use dates::{Concern, What};

/// Time for a TLS handshake. Stops those who begin one and say no more.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest certificate or key file that is read, in bytes.
const FILE_MAX_BYTES: u64 = 256 * 1024;

/// `[tls]` of every service: its certificate for those who call it and for those whom it calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates (PEM) of the authority that both sides believe.
    pub ca: PathBuf,
    /// The service's certificate (PEM), with those between it and the authority.
    pub cert: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// Certificates (PEM) of the authority of mirrors that joined by a token: believed of those who call, and of peers.
    #[serde(default)]
    pub guests: Option<PathBuf>,
    /// Who may call.
    #[serde(default)]
    pub clients: Clients,
}

/// Who may call a gRPC server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clients {
    /// Whoever has a certificate of the same authority (mutual TLS).
    #[default]
    Known,
    /// Anybody: what is served is public, and signed.
    Any,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {} (tls.{setting})", path.display())]
    Read {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others may read the key.
    #[error("key {} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No PEM of the kind that is needed.
    #[error("{} (tls.{setting}) holds no {what} in PEM", path.display())]
    Malformed {
        /// Which setting names it.
        setting: &'static str,
        /// What is needed.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
}

impl TlsConfig {
    /// Makes relative paths count from `base`, the configuration's folder.
    pub fn resolve(&mut self, base: &Path) {
        for path in [&mut self.ca, &mut self.cert, &mut self.key] {
            *path = base.join(&*path);
        }
        if let Some(guests) = &mut self.guests {
            *guests = base.join(&*guests);
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], naming file and setting.
    pub fn load(&self) -> Result<Tls, TlsError> {
        let certificate = "CERTIFICATE";
        let ca = read("ca", &self.ca, "certificate", certificate)?;
        let cert = read("cert", &self.cert, "certificate", certificate)?;
        let key = read("key", &self.key, "private key", "PRIVATE KEY")?;
        let mut all = ca.clone();
        if let Some(guests) = &self.guests {
            all.push(b'\n');
            all.extend(read("guests", guests, "certificate", certificate)?);
        }
        Ok(Tls {
            ca: Certificate::from_pem(ca),
            all: Certificate::from_pem(all),
            identity: Identity::from_pem(cert, key),
            clients: self.clients,
        })
    }
}

fn read(
    setting: &'static str,
    path: &Path,
    what: &'static str,
    label: &str,
) -> Result<Vec<u8>, TlsError> {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    let fail = |source| TlsError::Read {
        setting,
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(fail)?;
    let mode = file.metadata().map_err(fail)?.permissions().mode() & 0o777;
    if setting == "key" && mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(TlsError::Exposed { path, mode });
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    let text = String::from_utf8_lossy(&bytes);
    if !(text.contains("-----BEGIN ") && text.contains(&format!("{label}-----"))) {
        let path = path.to_owned();
        return Err(TlsError::Malformed {
            setting,
            what,
            path,
        });
    }
    Ok(bytes)
}

/// Reads what a configuration names; none for one without TLS.
///
/// # Errors
/// As [`TlsConfig::load`].
pub fn load(config: Option<&TlsConfig>) -> Result<Option<Tls>, TlsError> {
    config.map(TlsConfig::load).transpose()
}

/// A service's certificate, key and authority, read.
#[derive(Clone)]
pub struct Tls {
    /// Who speaks for the network's own services.
    ca: Certificate,
    /// Who may call: those and the guests.
    all: Certificate,
    identity: Identity,
    clients: Clients,
}

impl Tls {
    /// For a server.
    pub fn server(&self) -> ServerTlsConfig {
        let config = ServerTlsConfig::new()
            .identity(self.identity.clone())
            .timeout(HANDSHAKE);
        match self.clients {
            Clients::Known => config.client_ca_root(self.all.clone()),
            Clients::Any => config,
        }
    }

    /// The same for calls to peers, who may be guests.
    #[must_use]
    pub fn for_peers(&self) -> Self {
        Self {
            ca: self.all.clone(),
            ..self.clone()
        }
    }

    /// For a client: it believes its authority alone, and shows its own certificate.
    pub fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(self.ca.clone())
            .identity(self.identity.clone())
    }
}

impl std::fmt::Debug for Tls {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({:?})", self.clients)
    }
}

/// Where a gRPC service is: `host:port`, or a URL. With TLS an address without a scheme is `https://`; a server that is
/// known by the public authorities needs no TLS of ours, only the scheme.
///
/// # Errors
/// For what is no address.
pub fn endpoint(address: &str, tls: Option<&Tls>) -> Result<Endpoint, tonic::transport::Error> {
    let url = match (address.contains("://"), tls) {
        (true, _) => address.to_owned(),
        (false, Some(_)) => format!("https://{address}"),
        (false, None) => format!("http://{address}"),
    };
    let is_secure = url.starts_with("https://");
    let endpoint = Endpoint::from_shared(url)?;
    match tls {
        Some(tls) if is_secure => endpoint.tls_config(tls.client()),
        None if is_secure => endpoint.tls_config(ClientTlsConfig::new().with_enabled_roots()),
        Some(_) | None => Ok(endpoint),
    }
}
