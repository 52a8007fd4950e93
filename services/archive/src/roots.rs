//! Root documents: taken in, put into the log, and what a change of keys means for what was signed before.
//!
//! A statement of the journal counts by its bytes; whoever reads it looks at the signature beside them. When a root
//! document no longer names the key that made a signature, the archive signs the same bytes with its present one: the
//! statement's digest stays, and with it the chain of snapshots. Only then do others hear of the document.

use std::sync::Arc;

use mirrorlog_core::sign::KeyNumber;
use mirrorlog_core::trust::{Role, RootVersion};
use runtime::log::LogError;
use runtime::trust::{Taken, TrustError, key_of};
use tonic::Code;
use wire::{EventBody, SignedRoot, SignedRootError};

use crate::daemon::{Daemon, Link};
use crate::fence::run_blocking;
use crate::journal::{Entry, JournalError};
use crate::signer::SignError;

/// Largest document that goes through the log, in bytes: nats-server's `max_payload` is 1 MiB, with headers.
const ON_LOG_MAX_BYTES: usize = 1000 * 1024;

/// Why a root document was not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// It is not accepted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It would take the archive its voice.
    #[error(
        "root document {version} does not name key {key}, with which this archive signs: give the archive its new key \
         first (archive.key, the old one among previous_keys), then install the document"
    )]
    Unnamed {
        /// The document's number.
        version: RootVersion,
        /// The archive's key.
        key: KeyNumber,
    },
    /// More than the log carries.
    #[error("the document has {0} bytes, at most {ON_LOG_MAX_BYTES} go through the log")]
    TooLarge(usize),
    /// The journal.
    #[error(
        "the document is in force, and not everything could be signed again; it is tried at the next start"
    )]
    Journal(#[from] JournalError),
    /// What signs.
    #[error(
        "the document is in force, and not everything could be signed again; it is tried at the next start"
    )]
    Sign(#[from] SignError),
}

impl InstallError {
    /// What whoever asked is told.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Trust(TrustError::NoRoot) => Code::FailedPrecondition,
            Self::Trust(_) | Self::Unnamed { .. } | Self::TooLarge(_) => Code::InvalidArgument,
            Self::Journal(_) | Self::Sign(_) => Code::Internal,
        }
    }
}

/// What an installation did.
pub(crate) struct Installed {
    pub(crate) taken: Taken,
    /// Statements that were signed again.
    pub(crate) resigned: usize,
}

impl Daemon {
    /// Takes in a root document: everything that it asks for is done before others hear of it.
    ///
    /// # Errors
    /// [`InstallError`].
    pub(crate) async fn install_root(
        self: &Arc<Self>,
        bytes: Vec<u8>,
    ) -> Result<Installed, InstallError> {
        let daemon = Arc::clone(self);
        let taken = run_blocking(move || daemon.take_root(&bytes)).await?;
        let resigned = self.sign_again().await?;
        self.renew_heads().await;
        if let Some(link) = self.link() {
            self.put_roots(&link).await;
        }
        Ok(Installed { taken, resigned })
    }

    fn take_root(&self, bytes: &[u8]) -> Result<Taken, InstallError> {
        if bytes.len() > ON_LOG_MAX_BYTES {
            return Err(InstallError::TooLarge(bytes.len()));
        }
        let refused = |error: SignedRootError| InstallError::Trust(error.into());
        let document = SignedRoot::decode(bytes).map_err(|error| refused(error.into()))?;
        let root = document.read().map_err(|error| refused(error.into()))?;
        let own = self.signer.public();
        if !root.keys(Role::Archive).iter().any(|key| *key == own) {
            let (version, key) = (root.version(), own.number());
            return Err(InstallError::Unnamed { version, key });
        }
        Ok(self.trust.take(&document)?)
    }

    /// Signs again what is signed by keys that the root document does not name any more. Gives how many statements.
    ///
    /// # Errors
    /// [`InstallError`]: the rest stays as it is, and is signed at the next start.
    pub(crate) async fn sign_again(self: &Arc<Self>) -> Result<usize, InstallError> {
        if self.trust.version().is_none() {
            return Ok(0);
        }
        let mut resigned = 0;
        for channel in self.channels() {
            let _turn = channel.turn.lock().await;
            let (counts, of) = (self.trust.archive().now(), Arc::clone(&channel));
            let earlier = run_blocking(move || of.journal.of_earlier_keys(&counts)).await?;
            let mut again = Vec::with_capacity(earlier.len());
            for entry in earlier {
                let bytes = entry.body.signed().statement.clone();
                let signed = self.signer.sign_bytes(bytes).await?;
                again.push(Entry {
                    body: match entry.body {
                        EventBody::Snapshot(_) => EventBody::Snapshot(signed),
                        EventBody::Retraction(_) => EventBody::Retraction(signed),
                    },
                    ..entry
                });
            }
            resigned += again.len();
            let of = Arc::clone(&channel);
            run_blocking(move || of.journal.replace_signatures(&again)).await?;
        }
        if resigned > 0 {
            tracing::info!(resigned, "statements of earlier keys were signed again");
        }
        Ok(resigned)
    }

    /// Puts every root document into the log that it lacks.
    pub(crate) async fn put_roots(&self, link: &Link) {
        for (version, bytes) in self.trust.documents() {
            if let Err(error) = put(link, version, bytes).await {
                tracing::debug!(%version, error = %error, "root document not put, tried again later");
            }
        }
    }
}

async fn put(link: &Link, version: RootVersion, bytes: Vec<u8>) -> Result<(), LogError> {
    let key = key_of(version);
    let there = link.roots.get(&key).await?;
    if there.is_some_and(|(_, value)| value == bytes) {
        return Ok(());
    }
    link.roots.put(&key, bytes.into()).await.map(drop)
}
