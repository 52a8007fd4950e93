//! Root documents: taken in, put into the log, and what a change of keys means for what was signed before.
//!
//! A statement of the journal counts by its bytes; whoever reads it looks at the signature beside them. When a root
//! document no longer names the key that made a signature, the archive signs the same bytes with its present one: the
//! statement's digest stays, and with it the chain of snapshots. Only then do others hear of the document.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mirrorlog_core::id::MirrorId;
use mirrorlog_core::sign::{KeyNumber, TrustedKeys};
use mirrorlog_core::statement::OrderKind;
use mirrorlog_core::trust::{Role, RootVersion};
use runtime::log::LogError;
use runtime::trust::{Taken, TrustError, key_of};
use tonic::Code;
use wire::{EventBody, SignedRoot, SignedRootError};

use crate::daemon::{Channel, Daemon, Link};
use crate::fence::run_blocking;
use crate::journal::{Entry, JournalError, with_causes};
use crate::signer::SignError;

/// Largest document that goes through the log, in bytes: nats-server's `max_payload` is 1 MiB, with headers.
const ON_LOG_MAX_BYTES: usize = 1000 * 1024;

/// Why a mirror takes no clients that left the roster.
const LEFT: &str = "not in the roster of the root document";
/// Statements that are signed before they are written.
const SIGNED_AT_ONCE: usize = 64;

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
    /// Nobody would believe anything after it.
    #[error(
        "root document {0} has expired already: nobody would believe anything any more; make one that lasts (key rotate --expires)"
    )]
    Expired(RootVersion),
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
            Self::Trust(_) | Self::Unnamed { .. } | Self::TooLarge(_) | Self::Expired(_) => {
                Code::InvalidArgument
            }
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
    /// Takes in a root document: everything that it asks for is done before others hear of it, also when whoever asked
    /// has gone.
    ///
    /// # Errors
    /// [`InstallError`].
    pub(crate) async fn install_root(
        self: &Arc<Self>,
        bytes: Vec<u8>,
    ) -> Result<Installed, InstallError> {
        let daemon = Arc::clone(self);
        let work = async move {
            let _one = daemon.installing.lock().await;
            let before = daemon.roster();
            let of = Arc::clone(&daemon);
            let taken = run_blocking(move || of.take_root(&bytes)).await?;
            let resigned = daemon.announce_roots().await?;
            daemon.follow_roster(&before).await;
            Ok(Installed { taken, resigned })
        };
        match tokio::spawn(work).await {
            Ok(installed) => installed,
            Err(died) => std::panic::resume_unwind(died.into_panic()),
        }
    }

    /// Mirrors whose reports count.
    pub(crate) fn roster(&self) -> BTreeSet<MirrorId> {
        let root = self.trust.in_force();
        root.map(|root| root.mirrors().cloned().collect())
            .unwrap_or_default()
    }

    /// Whoever leaves the roster takes no more clients: its reports are not heard any more, so nobody else would say so.
    /// Whoever comes back takes them again.
    async fn follow_roster(self: &Arc<Self>, before: &BTreeSet<MirrorId>) {
        let now = self.roster();
        let gone = before.difference(&now).map(|mirror| {
            (
                mirror,
                OrderKind::Drain {
                    reason: LEFT.to_owned(),
                },
            )
        });
        let come = now
            .difference(before)
            .map(|mirror| (mirror, OrderKind::Resume));
        for (mirror, kind) in gone.chain(come) {
            let Some(link) = self.link() else {
                tracing::error!(%mirror, "NATS is away: drain or resume the mirror by hand, its place in the roster has changed");
                continue;
            };
            if let Err(error) = self.drain_or_resume(mirror, kind, &link).await {
                let error = with_causes(&error);
                tracing::error!(%mirror, error, "drain or resume the mirror by hand, its place in the roster has changed");
            }
        }
    }

    /// Signs again what needs it, then lets everybody know of the document in force.
    ///
    /// # Errors
    /// [`InstallError`]: then nobody hears of it yet.
    pub(crate) async fn announce_roots(self: &Arc<Self>) -> Result<usize, InstallError> {
        let Some(version) = self.trust.version() else {
            return Ok(0);
        };
        let resigned = self.sign_again().await?;
        self.renew_heads().await;
        self.announced.store(version.get(), Ordering::Release);
        if let Some(link) = self.link() {
            self.put_roots(&link).await;
        }
        Ok(resigned)
    }

    fn take_root(&self, bytes: &[u8]) -> Result<Taken, InstallError> {
        if bytes.len() > ON_LOG_MAX_BYTES {
            return Err(InstallError::TooLarge(bytes.len()));
        }
        let refused = |error: SignedRootError| InstallError::Trust(error.into());
        let document = SignedRoot::decode(bytes).map_err(|error| refused(error.into()))?;
        let root = document.read().map_err(|error| refused(error.into()))?;
        let in_force = self.trust.in_force();
        // Whether it follows at all comes first: what an older document lacks is no reason to bring a key back.
        let follows = in_force
            .as_ref()
            .is_none_or(|now| now.version().next() == Some(root.version()));
        if !follows {
            return Ok(self.trust.take(&document)?);
        }
        if root.parts().expires <= runtime::boot::now() {
            return Err(InstallError::Expired(root.version()));
        }
        let own = self.signer.public();
        if !root.keys(Role::Archive).iter().any(|key| *key == own) {
            let (version, key) = (root.version(), own.number());
            return Err(InstallError::Unnamed { version, key });
        }
        Ok(self.trust.take(&document)?)
    }

    /// Signs again what is signed by keys that the root document does not name any more, a batch at a time: what is done
    /// stays done. Gives how many statements.
    async fn sign_again(self: &Arc<Self>) -> Result<usize, InstallError> {
        let counts = self.log_keys();
        if !counts.iter().any(|key| *key == self.signer.public()) {
            // Nothing that it signs would count.
            return Ok(0);
        }
        let mut resigned = 0;
        for channel in self.channels() {
            let (counts, of) = (counts.clone(), Arc::clone(&channel));
            let earlier = run_blocking(move || of.journal.of_earlier_keys(&counts)).await?;
            let mut earlier = earlier.into_iter().peekable();
            while earlier.peek().is_some() {
                let batch: Vec<Entry> = earlier.by_ref().take(SIGNED_AT_ONCE).collect();
                resigned += batch.len();
                self.sign_batch(&channel, batch).await?;
            }
        }
        if resigned > 0 {
            tracing::info!(resigned, "statements of earlier keys were signed again");
        }
        Ok(resigned)
    }

    async fn sign_batch(
        &self,
        channel: &Arc<Channel>,
        batch: Vec<Entry>,
    ) -> Result<(), InstallError> {
        let mut again = Vec::with_capacity(batch.len());
        for entry in batch {
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
        let _turn = channel.turn.lock().await;
        let of = Arc::clone(channel);
        Ok(run_blocking(move || of.journal.replace_signatures(&again)).await?)
    }

    /// Whose statements count that come from the log: with a root document those of its keys alone, so that what a key
    /// signed that was taken away is not taken in again.
    pub(crate) fn log_keys(&self) -> TrustedKeys {
        match self.trust.in_force() {
            Some(root) => root.keys(Role::Archive),
            None => self.keys.clone(),
        }
    }

    /// Puts every root document into the log that it lacks, up to the one that may be told of. The newest says whether
    /// the others are there.
    pub(crate) async fn put_roots(&self, link: &Link) {
        let announced = self.announced.load(Ordering::Acquire);
        let documents = self.trust.documents().into_iter();
        let told = documents.filter(|(version, _)| version.get() <= announced);
        for (version, bytes) in told.rev() {
            match put(link, version, bytes).await {
                Ok(false) => return,
                Ok(true) => {}
                Err(error) => {
                    tracing::warn!(%version, error = %error, "a root document is not on the log yet, tried again later");
                }
            }
        }
    }
}

/// True when it was not there.
async fn put(link: &Link, version: RootVersion, bytes: Vec<u8>) -> Result<bool, LogError> {
    let key = key_of(version);
    let there = link.roots.get(&key).await?;
    if there.is_some_and(|(_, value)| value == bytes) {
        return Ok(false);
    }
    link.roots
        .put(&key, bytes.into())
        .await
        .map(|_revision| true)
}
