//! How a submission ends that published nothing.

use mirrorlog_core::path::EntryPath;
use runtime::store::StoreError;
use tonic::Status;
use wire::v1;
use wire::v1::submit_reply::Kind as Reply;

use crate::config::ConfigError;
use crate::journal::with_causes;
use crate::publish::{Faults, PublishError};

/// Text of faults in one answer.
const FAULTS_MAX_BYTES: usize = 256 * 1024;

/// Why nothing was published.
#[derive(Debug)]
pub(super) enum Failed {
    /// What the publisher is told as it is.
    Status(Status),
    /// As on this machine.
    Publish(PublishError),
    /// A file's content is not what its entry says.
    Content { path: String, source: StoreError },
}

impl Failed {
    pub(super) fn content(path: &EntryPath, source: StoreError) -> Self {
        let path = path.to_string();
        Self::Content { path, source }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<PublishError> for Failed {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Publish(error.into())
    }
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self::Publish(PublishError::Config(with_causes(&error)))
    }
}

impl Failed {
    /// The last answer, or the status with which the call ends.
    pub(super) fn answer(self) -> Result<Reply, Status> {
        let error = match self {
            Self::Status(status) => return Err(status),
            Self::Content { path, source } => {
                let lies = matches!(
                    source,
                    StoreError::Mismatch { .. } | StoreError::Size { .. }
                );
                let text = format!("{path}: {}", with_causes(&source));
                return Err(if lies {
                    Status::aborted(format!(
                        "{text}: it changed while it was sent, publish again"
                    ))
                } else {
                    failed(&PublishError::Store(source))
                });
            }
            Self::Publish(error) => error,
        };
        if let PublishError::Refused { faults, .. } = &error {
            return Ok(refused(faults, 0));
        }
        if let PublishError::NotSeparable { wanted, faults } = &error {
            return Ok(refused(faults, *wanted));
        }
        Err(failed(&error))
    }
}

fn refused(faults: &Faults, wanted: u64) -> Reply {
    let mut bytes = 0;
    let told = faults.iter().map_while(|fault| {
        let fault = v1::Fault {
            path: fault.path.clone(),
            rule: fault.what.as_str().to_owned(),
            expected: fault.expected.clone(),
            found: fault.found.clone(),
        };
        bytes += prost::Message::encoded_len(&fault);
        (bytes <= FAULTS_MAX_BYTES).then_some(fault)
    });
    Reply::Refused(v1::Refused {
        faults: told.collect(),
        count: faults.count(),
        wanted,
    })
}

pub(super) fn failed(error: &PublishError) -> Status {
    let text = with_causes(error);
    match error {
        PublishError::Busy { .. } => Status::aborted(text),
        PublishError::Store(StoreError::Busy(digest)) => Status::aborted(format!(
            "content {digest} is being sent by another publication of yours: publish again when that is done"
        )),
        PublishError::HeadMoved { .. } => Status::failed_precondition(text),
        PublishError::LayoutDiffers { .. }
        | PublishError::Answer(_)
        | PublishError::Manifest(_) => Status::invalid_argument(text),
        PublishError::NoChannel { .. } => Status::not_found(text),
        PublishError::Archive { code, message } => Status::new(*code, message),
        PublishError::Refused { .. }
        | PublishError::NotSeparable { .. }
        | PublishError::Tree { .. }
        | PublishError::Down { .. }
        | PublishError::Away { .. }
        | PublishError::NoAnswer(_)
        | PublishError::Io { .. }
        | PublishError::Store(_)
        | PublishError::Config(_)
        | PublishError::Worker(_) => {
            // Where things are here is nobody's business elsewhere.
            tracing::error!(error = text, "a submission failed here");
            Status::internal("the archive failed, its log says why: tell its operators")
        }
    }
}
