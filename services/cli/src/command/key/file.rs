//! Root documents and keys in files.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use mirrorlog_core::sign::{PublicKey, SecretKey};
use runtime::key::KeyError;
use wire::SignedRoot;
use wire::root::SIGNED_ROOT_MAX_BYTES;

use crate::failure::{ABSENT, CREATE, DATA, Failure, IO, OrExit as _};

/// How every file of signify's begins.
const SIGNIFY: &[u8] = b"untrusted comment: ";

/// Reads a root document; `None` for a key.
pub(super) fn find(path: &Path) -> Result<Option<SignedRoot>, Failure> {
    let bytes = bytes(path)?;
    if bytes.starts_with(SIGNIFY) {
        return Ok(None);
    }
    let signed = SignedRoot::decode(&bytes);
    let signed =
        signed.with_context(|| format!("{} is neither a key nor a root document", path.display()));
    signed.or_exit(DATA).map(Some)
}

/// Reads a root document.
pub(super) fn read(path: &Path) -> Result<SignedRoot, Failure> {
    let signed = SignedRoot::decode(&bytes(path)?);
    let signed = signed.with_context(|| format!("{} is no root document", path.display()));
    signed.or_exit(DATA)
}

fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let opened = File::open(path);
    let code = match &opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => ABSENT,
        Ok(_) | Err(_) => IO,
    };
    let cannot = || format!("cannot read {}", path.display());
    let file = opened.with_context(cannot).or_exit(code)?;
    let mut bytes = Vec::new();
    let most = SIGNED_ROOT_MAX_BYTES as u64 + 1;
    let read = file.take(most).read_to_end(&mut bytes);
    read.with_context(cannot).or_exit(IO)?;
    Ok(bytes)
}

/// Writes a new file, durably; one that is there stays as it is.
pub(super) fn write_new(path: &Path, signed: &SignedRoot) -> Result<(), Failure> {
    let written = staged(path, signed)?.persist_noclobber(path);
    let written = written.map_err(|error| error.error);
    let cannot = || {
        format!(
            "cannot make {}: root documents are never overwritten, choose another name or move it away",
            path.display()
        )
    };
    written.with_context(cannot).or_exit(CREATE)?;
    sync_folder(path)
}

/// Replaces a file by one with more signatures: whole or not at all.
pub(super) fn replace(path: &Path, signed: &SignedRoot) -> Result<(), Failure> {
    let written = staged(path, signed)?.persist(path);
    let written = written.map_err(|error| error.error);
    let cannot = || format!("cannot write {}", path.display());
    written.with_context(cannot).or_exit(CREATE)?;
    sync_folder(path)
}

fn staged(path: &Path, signed: &SignedRoot) -> Result<tempfile::NamedTempFile, Failure> {
    let stage = || {
        let mut file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder(path))?;
        file.write_all(&signed.encode())?;
        file.as_file().sync_all()?;
        Ok::<_, io::Error>(file)
    };
    let cannot = || format!("cannot write beside {}", path.display());
    stage().with_context(cannot).or_exit(CREATE)
}

fn folder(path: &Path) -> &Path {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

fn sync_folder(path: &Path) -> Result<(), Failure> {
    let synced = File::open(folder(path)).and_then(|folder| folder.sync_all());
    let cannot = || format!("cannot sync the folder of {}", path.display());
    synced.with_context(cannot).or_exit(IO)
}

pub(super) fn public(path: &Path) -> Result<PublicKey, Failure> {
    runtime::key::read_public(path).map_err(key_failure)
}

pub(super) fn secret(path: &Path) -> Result<SecretKey, Failure> {
    runtime::key::read_secret(path).map_err(key_failure)
}

fn key_failure(error: KeyError) -> Failure {
    let code = match &error {
        KeyError::Absent(_) => ABSENT,
        KeyError::Malformed { .. } | KeyError::Exposed { .. } => DATA,
        KeyError::Exists(_) | KeyError::Random(_) | KeyError::Io { .. } => IO,
    };
    Failure::new(code, error.into())
}
