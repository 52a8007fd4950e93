//! A network's own authority: certificates for its services, by name.

use std::path::{Path, PathBuf};

use mirrorlog_core::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// How long the authority lasts.
const AUTHORITY_YEARS: i64 = 10;
/// How long a certificate lasts.
const CERTIFICATE_DAYS: i64 = 825;
const DAY_MS: i64 = 24 * 3600 * 1000;
/// Names of one certificate. Stops requests for all the world's.
const NAMES_MAX: usize = 32;

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Keys or names that cannot be used.
    #[error("the certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// More names than one service has.
    #[error("{0} names for one certificate: at most {NAMES_MAX} are allowed")]
    Names(usize),
    /// The authority's files.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// An authority with its key.
pub struct Authority {
    pem: String,
    key: KeyPair,
}

/// For whom a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// `archive`, or a mirror's id.
    pub name: String,
    /// Host names and addresses under which it is called.
    pub hosts: Vec<String>,
}

/// A request for a certificate with the key that it is for.
pub struct Request {
    /// The request, to be sent (PEM).
    pub pem: String,
    /// The key, to be kept (PEM).
    pub key: String,
}

impl Authority {
    /// Makes a new one.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn generate(name: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = distinguished(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = span(now, AUTHORITY_YEARS * 365);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, key })
    }

    /// Reads one: its certificate and its key.
    ///
    /// # Errors
    /// [`AuthorityError::Read`], [`AuthorityError::Make`] for files that are none.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| AuthorityError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let authority = Self {
            pem: read(cert)?,
            key: KeyPair::from_pem(&read(key)?)?,
        };
        authority.issuer()?;
        Ok(authority)
    }

    /// Its certificate (PEM), for all who are to believe it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its key (PEM), to be kept where few come.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Makes a key and a certificate: both PEM.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue(
        &self,
        subject: &Subject,
        now: Timestamp,
    ) -> Result<(String, String), AuthorityError> {
        let key = KeyPair::generate()?;
        let params = leaf(subject, now)?;
        let cert = params.signed_by(&key, &self.issuer()?)?;
        Ok((cert.pem(), key.serialize_pem()))
    }

    /// Makes a certificate (PEM) for a request. Of the request only its key counts: the names are `subject`'s.
    ///
    /// # Errors
    /// [`AuthorityError::Make`] for what is no request, or is not signed by its key.
    pub fn answer(
        &self,
        request: &str,
        subject: &Subject,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let mut asked = CertificateSigningRequestParams::from_pem(request)?;
        asked.params = leaf(subject, now)?;
        Ok(asked.signed_by(&self.issuer()?)?.pem())
    }

    fn issuer(&self) -> Result<Issuer<'_, &KeyPair>, AuthorityError> {
        Ok(Issuer::from_ca_cert_pem(&self.pem, &self.key)?)
    }
}

impl Request {
    /// Makes a key and a request for a certificate of it.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn generate(name: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = distinguished(name);
        Ok(Self {
            pem: params.serialize_request(&key)?.pem()?,
            key: key.serialize_pem(),
        })
    }
}

/// Every service calls and is called.
fn leaf(subject: &Subject, now: Timestamp) -> Result<CertificateParams, AuthorityError> {
    if subject.hosts.len() > NAMES_MAX {
        return Err(AuthorityError::Names(subject.hosts.len()));
    }
    let mut params = CertificateParams::new(subject.hosts.clone())?;
    params.distinguished_name = distinguished(&subject.name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = span(now, CERTIFICATE_DAYS);
    Ok(params)
}

fn distinguished(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

type Date = time::OffsetDateTime;

/// From a day ago, so that clocks may differ.
fn span(now: Timestamp, days: i64) -> (Date, Date) {
    let at = |ms: i64| Date::from_unix_timestamp(ms / 1000).unwrap_or(Date::UNIX_EPOCH);
    (at(now.as_ms() - DAY_MS), at(now.as_ms() + days * DAY_MS))
}
