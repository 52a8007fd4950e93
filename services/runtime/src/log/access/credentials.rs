//! A user's credentials file, as `nsc` writes them: its token and the seed that proves it.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mirrorlog_core::time::Timestamp;
use nkeys::KeyPair;

use super::rights::Right;
use super::token::{ROLE_TAG, TokenError, claims};

/// Largest file that is read, in bytes.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// Why credentials are of no use.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read NATS credentials {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("NATS credentials {} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is another's.
    #[error("NATS credentials {} are those of {user}, and this is {service}: it needs a file of its own", path.display())]
    Another {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        user: String,
        /// Who was to use it.
        service: String,
    },
    /// There is no token in it.
    #[error("{} holds no NATS user: `mirrorlog nats-config` and `mirrorlog mirror enroll` write such files", .0.display())]
    Malformed(PathBuf),
}

/// A user's token and seed.
#[derive(Clone)]
pub struct Credentials {
    text: String,
    name: String,
    right: Option<Right>,
    token: Token,
}

/// What a user's token says of itself.
#[derive(Clone)]
pub(super) struct Token {
    /// As it stands in the file.
    pub(super) text: String,
    /// Public key of the account.
    pub(super) account: String,
    /// The user's public key.
    pub(super) user: String,
    pub(super) issued: Timestamp,
}

impl Credentials {
    /// Reads a file; refuses one that others may read.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let fail = |source| CredentialsError::Read {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(fail)?;
        let mode = file.metadata().map_err(fail)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(CredentialsError::Exposed { path, mode });
        }
        let mut text = String::new();
        file.take(FILE_MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(fail)?;
        Self::parse(text).ok_or_else(|| CredentialsError::Malformed(path.to_owned()))
    }

    /// Reads a file, and refuses one that [`Realm`](super::Realm) made for another user. Of users that it did not make
    /// nothing is known.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn read_for(path: &Path, service: &str) -> Result<Self, CredentialsError> {
        let read = Self::read(path)?;
        match read.right.is_some() && read.name != service {
            true => Err(CredentialsError::Another {
                path: path.to_owned(),
                user: read.name,
                service: service.to_owned(),
            }),
            false => Ok(read),
        }
    }

    fn parse(text: String) -> Option<Self> {
        let token = text.lines().find(|line| line.starts_with("eyJ"))?.trim();
        let claims = claims(token)?;
        let name = claims["name"].as_str()?.to_owned();
        let tags = claims["nats"]["tags"].as_array();
        let tags = tags.into_iter().flatten().filter_map(|tag| tag.as_str());
        let right = tags
            .filter_map(|tag| tag.strip_prefix(ROLE_TAG)?.strip_prefix(':'))
            .find_map(Right::named);
        let token = Token {
            text: token.to_owned(),
            account: claims["nats"]["issuer_account"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            user: claims["sub"].as_str()?.to_owned(),
            issued: Timestamp::from_ms(claims["iat"].as_i64()?.saturating_mul(1000)),
        };
        Some(Self {
            text,
            name,
            right,
            token,
        })
    }

    /// The file's text for a user.
    ///
    /// # Errors
    /// [`TokenError::Key`] for a key without its secret half.
    pub fn print(token: &str, user: &KeyPair) -> Result<String, TokenError> {
        let seed = user.seed()?;
        Ok(format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             The seed below proves who this is: keep it secret.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ))
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user's role, where the token says it.
    pub fn right(&self) -> Option<Right> {
        self.right
    }

    pub(super) fn token(&self) -> &Token {
        &self.token
    }

    /// The file as it is, for the client library.
    pub(in crate::log) fn text(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Debug for Credentials {
    /// Without the seed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.name)
    }
}
