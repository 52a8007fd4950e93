//! How a command ends when it does not do what was asked: a code of sysexits and one line.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use runtime::key::KeyError;
use runtime::tls::TlsError;
use runtime::trust::TrustError;

/// The command line is wrong; clap's own code.
pub(crate) const USAGE: u8 = 2;
/// A configuration, or a value given, is wrong.
pub(crate) const CONFIG: u8 = 64;
/// Data was refused or found bad.
pub(crate) const DATA: u8 = 65;
/// Channel, build or path does not exist.
pub(crate) const ABSENT: u8 = 66;
/// A needed service is down.
pub(crate) const DOWN: u8 = 69;
/// Output cannot be created.
pub(crate) const CREATE: u8 = 73;
/// Reading or writing failed.
pub(crate) const IO: u8 = 74;
/// Trying again may help.
pub(crate) const AGAIN: u8 = 75;
/// The system or a service does not permit it.
const DENIED: u8 = 77;

/// A command's end.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code.
    pub(crate) code: u8,
    /// What, where, what to do; with its causes.
    pub(crate) error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(code: u8, error: anyhow::Error) -> Self {
        let code = if code != CREATE && error.chain().any(is_denied) {
            DENIED
        } else if code == DOWN && error.chain().any(is_configured_badly) {
            CONFIG
        } else {
            code
        };
        Self { code, error }
    }

    /// True when something is not permitted.
    pub(crate) fn is_denied(&self) -> bool {
        self.error.chain().any(is_denied)
    }

    pub(crate) fn text(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            error: anyhow::Error::msg(text.into()),
        }
    }
}

impl fmt::Display for Failure {
    /// The message and its causes, each once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = String::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            if said.ends_with(&text) {
                continue;
            }
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&text);
        }
        f.write_str(&said)
    }
}

/// Files that a configuration names, and settings that do not go together.
fn is_configured_badly(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<KeyError>() || cause.is::<TlsError>() || cause.is::<TrustError>()
}

fn is_denied(cause: &(dyn std::error::Error + 'static)) -> bool {
    let cause = cause.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Makes a folder and those above it.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot make the folder {}", dir.display()))
        .or_exit(CREATE)
}

/// Gives an error its exit code.
pub(crate) trait OrExit<T> {
    fn or_exit(self, code: u8) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: u8) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(code, error.into()))
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let code = match status.code() {
            tonic::Code::NotFound => ABSENT,
            tonic::Code::InvalidArgument | tonic::Code::DataLoss => DATA,
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => DENIED,
            tonic::Code::Aborted | tonic::Code::DeadlineExceeded => AGAIN,
            tonic::Code::Ok
            | tonic::Code::Cancelled
            | tonic::Code::Unknown
            | tonic::Code::AlreadyExists
            | tonic::Code::ResourceExhausted
            | tonic::Code::FailedPrecondition
            | tonic::Code::OutOfRange
            | tonic::Code::Unimplemented
            | tonic::Code::Internal
            | tonic::Code::Unavailable => DOWN,
        };
        Self::text(code, status.message())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let error = Err::<(), _>(anyhow::anyhow!("no such file"))
            .context("cannot read x: no such file")
            .context("cannot start");
        let failure = Failure::new(IO, error.unwrap_err());
        assert_eq!(
            failure.to_string(),
            "cannot start: cannot read x: no such file"
        );
    }

    #[test]
    fn what_is_not_permitted_says_so() {
        let denied = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(Failure::new(IO, denied().into()).code, DENIED);
        assert_eq!(Failure::new(CREATE, denied().into()).code, CREATE);
    }

    #[test]
    fn a_service_without_its_key_is_configured_badly() {
        let absent = anyhow::Error::new(KeyError::Absent("nz1.pub".into()));
        assert_eq!(
            Failure::new(DOWN, absent.context("cannot start")).code,
            CONFIG
        );
    }
}
