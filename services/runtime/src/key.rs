//! Key files in signify's format: `NAME.sec` (0600) and `NAME.pub`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use mirrorlog_core::sign::{KeyNumber, PublicKey, SecretKey};
use wire::signify::{self, SignifyError};

use crate::Reaction;

/// Largest key file that is read, in bytes: comment and key have at most about 1200.
const FILE_MAX_BYTES: u64 = 4096;
const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

/// Why a key could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is a key of this name.
    #[error("{} exists already: keys are never overwritten, choose another name or move it away", .0.display())]
    Exists(PathBuf),
    /// No such file.
    #[error("key file {} does not exist", .0.display())]
    Absent(PathBuf),
    /// Others may read the secret key.
    #[error("secret key {} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no key file.
    #[error("{} is not a {what} in signify's format", path.display())]
    Malformed {
        /// Which kind was wanted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SignifyError,
    },
    /// The system gave no random bytes.
    #[error("no random bytes for a new key")]
    Random(#[source] io::Error),
    /// The file could not be handled.
    #[error("cannot {action} key file {}", path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl KeyError {
    /// Always [`Reaction::Halt`]: without its key a service does nothing.
    pub fn reaction(&self) -> Reaction {
        Reaction::Halt
    }
}

/// Makes `<base>.sec` (0600) and `<base>.pub`, both durable; refuses to overwrite either.
///
/// # Errors
/// [`KeyError::Exists`]; [`KeyError::Random`]; [`KeyError::Io`].
pub fn generate(base: &Path, comment: &str) -> Result<SecretKey, KeyError> {
    let (secret_path, public_path) = (with_suffix(base, "sec"), with_suffix(base, "pub"));
    if public_path.symlink_metadata().is_ok() {
        return Err(KeyError::Exists(public_path));
    }
    let (mut number, mut seed) = ([0; 8], [0; 32]);
    for bytes in [&mut number[..], &mut seed[..]] {
        getrandom::fill(bytes).map_err(|e| KeyError::Random(e.into()))?;
    }
    let key = SecretKey::from_seed(KeyNumber(number), &seed);
    let secret = signify::print_secret(&key, &format!("{comment} secret key"));
    write_new(&secret_path, SECRET_MODE, secret.as_bytes())?;
    let public = signify::print_public(&key.public(), &format!("{comment} public key"));
    if let Err(error) = write_new(&public_path, PUBLIC_MODE, public.as_bytes()) {
        // Half a pair would block the next attempt; nobody has used this key yet.
        if let Err(source) = std::fs::remove_file(&secret_path) {
            tracing::warn!(path = %secret_path.display(), error = %source, "secret key without a public half stays");
        }
        return Err(error);
    }
    Ok(key)
}

/// Reads a secret key; refuses one that others may read.
///
/// # Errors
/// [`KeyError::Absent`], [`KeyError::Exposed`], [`KeyError::Malformed`], [`KeyError::Io`].
pub fn read_secret(file: &Path) -> Result<SecretKey, KeyError> {
    let (bytes, mode) = read(file)?;
    let key = signify::parse_secret(&bytes);
    if key.is_ok() && mode & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: file.to_owned(),
            mode,
        });
    }
    key.map_err(|source| KeyError::Malformed {
        what: "secret key",
        path: file.to_owned(),
        source,
    })
}

/// Reads a public key.
///
/// # Errors
/// [`KeyError::Absent`], [`KeyError::Malformed`], [`KeyError::Io`].
pub fn read_public(file: &Path) -> Result<PublicKey, KeyError> {
    let (bytes, _) = read(file)?;
    let key = signify::parse_public(&bytes);
    key.map_err(|source| KeyError::Malformed {
        what: "public key",
        path: file.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<(Vec<u8>, u32), KeyError> {
    let fail = |source: io::Error| KeyError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(KeyError::Absent(path.to_owned()));
        }
        Err(e) => return Err(fail(e)),
    };
    let mode = file.metadata().map_err(fail)?.permissions().mode() & 0o777;
    let mut bytes = Vec::new();
    file.take(FILE_MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    Ok((bytes, mode))
}

fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), KeyError> {
    let fail = |source: io::Error| KeyError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let mut file = match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
    {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeyError::Exists(path.to_owned()));
        }
        Err(e) => return Err(fail(e)),
    };
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(fail)?;
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(fail)
}

/// `<base>.<suffix>`; a dot in the base's name stays.
fn with_suffix(base: &Path, suffix: &str) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_made_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("archive.v1");
        let made = generate(&base, "archive").unwrap();
        let secret = read_secret(&dir.path().join("archive.v1.sec")).unwrap();
        let public = read_public(&dir.path().join("archive.v1.pub")).unwrap();
        assert_eq!(secret.seed(), made.seed());
        assert_eq!(public, made.public());
        public
            .verify(b"build 36", &secret.sign(b"build 36"))
            .unwrap();
        let mode = std::fs::metadata(dir.path().join("archive.v1.sec"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("key");
        let first = generate(&base, "archive").unwrap();
        assert!(matches!(
            generate(&base, "archive"),
            Err(KeyError::Exists(_))
        ));
        std::fs::remove_file(dir.path().join("key.pub")).unwrap();
        assert!(matches!(
            generate(&base, "archive"),
            Err(KeyError::Exists(_))
        ));
        assert_eq!(
            read_secret(&dir.path().join("key.sec")).unwrap().seed(),
            first.seed()
        );
    }

    #[test]
    fn faults_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("key");
        generate(&base, "archive").unwrap();
        let (secret, public) = (dir.path().join("key.sec"), dir.path().join("key.pub"));
        assert!(matches!(
            read_public(&dir.path().join("no.pub")),
            Err(KeyError::Absent(_))
        ));
        assert!(matches!(
            read_public(&secret),
            Err(KeyError::Malformed { .. })
        ));
        assert!(matches!(read_public(dir.path()), Err(KeyError::Io { .. })));
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_secret(&secret).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::fs::write(&public, "").unwrap();
        assert!(matches!(
            read_public(&public),
            Err(KeyError::Malformed { .. })
        ));
    }
}
