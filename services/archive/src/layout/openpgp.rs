//! Signatures of Release files, checked by `gpgv` with the keys that the operator configured.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Check;
use crate::publish::{Fault, Faults, PublishError, Rule};

/// Checks InRelease, and Release with Release.gpg when `with_plain`.
pub(super) fn check(
    check: &Check<'_>,
    keyring: &Path,
    folder: &[u8],
    with_plain: bool,
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let at = |name: &str| [folder, b"/", name.as_bytes()].concat();
    let dir =
        tempfile::tempdir().map_err(|e| PublishError::io(&std::env::temp_dir(), "used", e))?;
    let copy = |name: &str, faults: &mut Faults| -> Result<bool, PublishError> {
        let Some(bytes) = check.read(&check.view, &at(name), faults)? else {
            return Ok(false);
        };
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).map_err(|e| PublishError::io(&path, "written", e))?;
        Ok(true)
    };
    let signed = copy("InRelease", faults)?;
    let detached = copy("Release.gpg", faults)?;
    if !signed && !detached {
        faults.push(Fault::new(
            &at("Release"),
            Rule::Signature,
            "InRelease or Release.gpg",
            "neither",
        ));
        return Ok(());
    }
    if signed && let Some(found) = gpgv(keyring, dir.path(), &["InRelease"])? {
        faults.push(Fault::new(
            &at("InRelease"),
            Rule::Signature,
            "a signature by a configured key",
            found,
        ));
    }
    if detached
        && with_plain
        && copy("Release", faults)?
        && let Some(found) = gpgv(keyring, dir.path(), &["Release.gpg", "Release"])?
    {
        faults.push(Fault::new(
            &at("Release.gpg"),
            Rule::Signature,
            "a signature by a configured key",
            found,
        ));
    }
    Ok(())
}

/// Runs gpgv; returns what it says when the signature is not good.
fn gpgv(keyring: &Path, dir: &Path, files: &[&str]) -> Result<Option<String>, PublishError> {
    let missing = |path: &Path, e: &dyn std::fmt::Display| {
        PublishError::Config(format!("openpgp_keyring {}: {e}", path.display()))
    };
    let keyring = keyring.canonicalize().map_err(|e| missing(keyring, &e))?;
    let output = Command::new("gpgv")
        .arg("--keyring")
        .arg(&keyring)
        .args(files)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            PublishError::Config(format!(
                "gpgv cannot be run ({e}): install gpgv, or leave openpgp_keyring out"
            ))
        })?;
    if output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("gpgv failed");
    Ok(Some(last.trim_start_matches("gpgv: ").to_owned()))
}
