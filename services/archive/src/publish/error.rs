//! How publishing fails.

use std::io;
use std::path::{Path, PathBuf};

use mirrorlog_core::layout::Layout;
use mirrorlog_core::path::EntryPath;
use runtime::store::StoreError;

use super::fault::{Fault, Faults, Rule};

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Somebody else publishes this channel at the moment.
    #[error("channel {channel} is being published by process {pid}: wait for it and publish again")]
    Busy {
        /// The channel.
        channel: String,
        /// The other process, as it says itself.
        pid: String,
    },
    /// The head moved every time, between scan and commit.
    #[error(
        "the head of channel {channel} moved while its tree was scanned, {attempts} times: publish again"
    )]
    HeadMoved {
        /// The channel.
        channel: String,
        /// Scans that were made.
        attempts: u32,
    },
    /// The tree breaks rules; nothing was published.
    #[error("tree {} is refused: {} fault(s), nothing was published", tree.display(), faults.count())]
    Refused {
        /// The tree.
        tree: PathBuf,
        /// Every fault.
        faults: Faults,
    },
    /// The step on the wanted build alone is no valid tree.
    #[error(
        "the priority changes do not stand on build {wanted} without the bulk that follows it \
         ({} fault(s)): publish this as a channel of its own", faults.count()
    )]
    NotSeparable {
        /// The newest build that is wanted in any pool.
        wanted: u64,
        /// Every fault.
        faults: Faults,
    },
    /// The archive has another layout for the channel than was asked for.
    #[error(
        "channel {channel} has layout {declared}, not {asked}: publish the tree to a channel of its own, or leave --layout out and have it checked as {declared}"
    )]
    LayoutDiffers {
        /// The channel.
        channel: String,
        /// What the archive's configuration says.
        declared: Layout,
        /// What was asked for.
        asked: Layout,
    },
    /// There is no tree.
    #[error("tree {} cannot be opened", path.display())]
    Tree {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive does not know the channel.
    #[error("the archive has no channel {channel}: {reason}")]
    NoChannel {
        /// The channel.
        channel: String,
        /// What the archive says.
        reason: String,
    },
    /// The archive daemon cannot be reached.
    #[error("the archive does not answer on {}: start `mirrorlog archive serve`", socket.display())]
    Down {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The archive cannot be reached from here.
    #[error(
        "the archive on {address} does not answer, or no more; what it has of the content it keeps: publish again"
    )]
    Away {
        /// Where it was looked for.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The archive daemon refused.
    #[error("the archive refused: {message}")]
    Archive {
        /// gRPC code.
        code: tonic::Code,
        /// What the archive says.
        message: String,
    },
    /// The archive's answer makes no sense.
    #[error("the archive's answer makes no sense")]
    Answer(#[from] wire::DecodeError),
    /// The archive's answer lacks what it must have.
    #[error("the archive's answer has no {0}")]
    NoAnswer(&'static str),
    /// A file could not be read or written.
    #[error("{} cannot be {action}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// `read`, `written`, …
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// A manifest could not be read or written.
    #[error("the manifest could not be made")]
    Manifest(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The configuration is wrong.
    #[error("configuration: {0}")]
    Config(String),
    /// A task died.
    #[error("a worker ended unexpectedly")]
    Worker(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl PublishError {
    /// The exit code (sysexits) of a command that ends with this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Busy { .. } | Self::HeadMoved { .. } => 75,
            Self::Refused { .. } | Self::NotSeparable { .. } => 65,
            Self::LayoutDiffers { .. } | Self::Config(_) => 64,
            Self::Tree { source, .. } if !is_absent(source) => 74,
            Self::Tree { .. } | Self::NoChannel { .. } => 66,
            Self::Down { .. } | Self::Away { .. } => 69,
            Self::Archive { code, .. } => archive_exit_code(*code),
            Self::Answer(_) | Self::NoAnswer(_) | Self::Manifest(_) => 65,
            Self::Io { .. } | Self::Store(_) | Self::Worker(_) => 74,
        }
    }

    /// True when a manifest's page is not in the store.
    pub(crate) fn lacks_page(&self) -> bool {
        let mut cause: &(dyn std::error::Error + 'static) = self;
        while let Some(source) = cause.source() {
            if let Some(StoreError::Absent(_)) = source.downcast_ref() {
                return true;
            }
            cause = source;
        }
        false
    }

    /// Every fault of a tree that was refused.
    pub fn faults(&self) -> Option<&Faults> {
        match self {
            Self::Refused { faults, .. } | Self::NotSeparable { faults, .. } => Some(faults),
            Self::Busy { .. }
            | Self::HeadMoved { .. }
            | Self::LayoutDiffers { .. }
            | Self::Tree { .. }
            | Self::NoChannel { .. }
            | Self::Down { .. }
            | Self::Away { .. }
            | Self::Archive { .. }
            | Self::Answer(_)
            | Self::NoAnswer(_)
            | Self::Io { .. }
            | Self::Store(_)
            | Self::Manifest(_)
            | Self::Config(_)
            | Self::Worker(_) => None,
        }
    }

    pub(crate) fn tree(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Tree { path, source }
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            action,
            source,
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    absent.contains(&error.kind())
}

fn archive_exit_code(code: tonic::Code) -> u8 {
    match code {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => 77,
        tonic::Code::InvalidArgument | tonic::Code::DataLoss => 65,
        tonic::Code::Aborted | tonic::Code::DeadlineExceeded => 75,
        tonic::Code::NotFound => 66,
        tonic::Code::Internal => 74,
        tonic::Code::Ok
        | tonic::Code::Cancelled
        | tonic::Code::Unknown
        | tonic::Code::AlreadyExists
        | tonic::Code::ResourceExhausted
        | tonic::Code::FailedPrecondition
        | tonic::Code::OutOfRange
        | tonic::Code::Unimplemented
        | tonic::Code::Unavailable => 69,
    }
}

/// Sorts a manifest's failure: a tree's fault, or an error of ours.
pub(crate) fn manifest_failure<R, W>(
    error: mirrorlog_core::manifest::ManifestError<R, W>,
) -> Result<Fault, PublishError>
where
    R: std::error::Error + Send + Sync + 'static,
    W: std::error::Error + Send + Sync + 'static,
{
    use mirrorlog_core::manifest::ManifestError;
    if let ManifestError::PrefixConflict(path) = &error {
        return Ok(conflict(path));
    }
    Err(PublishError::Manifest(Box::new(error)))
}

/// The same for readers of manifests, which find no faults of the tree.
pub(crate) fn manifest_error<R>(error: mirrorlog_core::manifest::ManifestError<R>) -> PublishError
where
    R: std::error::Error + Send + Sync + 'static,
{
    PublishError::Manifest(Box::new(error))
}

fn conflict(path: &EntryPath) -> Fault {
    Fault::new(
        path.as_bytes(),
        Rule::Conflict,
        "a file or a folder",
        "both under one name (list the old one as changed too)",
    )
}
