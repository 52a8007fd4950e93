//! With which status a call ends that failed.

use mirrorlog_core::archive::Refusal;
use runtime::Reaction;
use runtime::log::LogError;
use tonic::{Code, Status};

use crate::commit::CommitError;
use crate::daemon::DaemonError;
use crate::fence::FenceError;
use crate::journal::{JournalError, with_causes};
use crate::reconcile::ReconcileError;
use crate::signer::SignError;

/// Codes that publishers do not try again by themselves: a device that locks itself after some wrong tries, or a person,
/// is asked once for each command that somebody gives.
pub(crate) fn sign_code(error: &SignError) -> Code {
    match error.reaction() {
        Reaction::Retry => Code::ResourceExhausted,
        Reaction::Park | Reaction::Halt => Code::Internal,
    }
}

/// What a publisher is told: `FAILED_PRECONDITION` only when another build came in between.
pub(crate) fn status(error: CommitError) -> Status {
    let code = match &error {
        CommitError::Refused(Refusal::NewestMoved { .. }) => Code::FailedPrecondition,
        CommitError::Unnamed { .. } => Code::PermissionDenied,
        CommitError::Refused(
            Refusal::Retracted { .. }
            | Refusal::Shape
            | Refusal::Base { .. }
            | Refusal::Range { .. }
            | Refusal::AlreadyRetracted { .. }
            | Refusal::NothingLeft
            | Refusal::Text { .. }
            | Refusal::TooManyRetractions,
        )
        | CommitError::Manifest { .. }
        | CommitError::Journal(JournalError::Open(_)) => Code::InvalidArgument,
        CommitError::NotConnected { .. } | CommitError::Ending(_) => Code::Unavailable,
        CommitError::Sign { source, .. } => sign_code(source),
        CommitError::Halted { .. } => Code::DataLoss,
        CommitError::Fence { source, .. } => match source {
            FenceError::TakenOver(_) => Code::PermissionDenied,
            FenceError::Behind(_) | FenceError::Codec(_) => Code::DataLoss,
            FenceError::Busy(_) => Code::Aborted,
            FenceError::Log(error) => log_code(error),
            FenceError::State(_) => Code::Internal,
        },
        CommitError::Compare { source, .. } => match source {
            ReconcileError::Log(error) => log_code(error),
            ReconcileError::Silent => Code::Unavailable,
            ReconcileError::Journal(_) => Code::Internal,
        },
        CommitError::Journal(_) => Code::Internal,
    };
    let text = with_causes(&error);
    tracing::warn!(code = ?code, error = text, "refused");
    Status::new(code, text)
}

pub(crate) fn log_code(error: &LogError) -> Code {
    match error.reaction() {
        Reaction::Retry => Code::Unavailable,
        Reaction::Park | Reaction::Halt => Code::Internal,
    }
}

pub(crate) fn not_declared(error: &DaemonError) -> Status {
    let code = match error {
        DaemonError::Config(_) => Code::InvalidArgument,
        DaemonError::Journal(_)
        | DaemonError::Outbox(_)
        | DaemonError::Write { .. }
        | DaemonError::Declaration { .. } => Code::Internal,
    };
    Status::new(code, with_causes(error))
}
