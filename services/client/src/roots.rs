//! Newer root documents: asked of mirrors before anything else is believed.

use mirrorlog_core::client::climb::{Answer, Level};
use mirrorlog_core::id::Build;
use mirrorlog_core::trust::RootVersion;
use wire::SignedRoot;

use crate::options::Trust;
use crate::session::Session;

/// Sources that are asked in one run. One that holds versions back is noticed by the next, at last by their end.
const SOURCES: usize = 5;
/// Versions that one source may give in a run. Stops a chain without end.
const VERSIONS_MAX: usize = 1024;

/// Brings every version after the one in force that the first sources have. Who gives none changes nothing.
pub(crate) async fn bring(session: &Session) {
    let Trust::Root(trust) = &session.inner.options.trust else {
        return;
    };
    let near = session.near().into_iter();
    let mirrors = near.filter(|index| session.source(*index).level() != Level::Universe);
    for index in mirrors.take(SOURCES) {
        for _ in 0..VERSIONS_MAX {
            let Some(next) = trust.version().and_then(RootVersion::next) else {
                return;
            };
            let source = session.source(index);
            let Ok(bytes) = source
                .root(&session.inner.web, &session.channel, next)
                .await
            else {
                break;
            };
            let taken = SignedRoot::decode(&bytes).map(|document| trust.take(&document));
            match taken {
                Ok(Ok(_)) => {
                    tracing::info!(version = %next, source = source.name(), "a newer root document")
                }
                Ok(Err(error)) => {
                    let error = runtime::chain(&error);
                    tracing::warn!(version = %next, source = source.name(), error, "a root document is refused");
                    session.blame(index, Build::FIRST, Answer::Corrupt);
                    break;
                }
                Err(error) => {
                    tracing::warn!(version = %next, source = source.name(), %error, "no root document");
                    session.blame(index, Build::FIRST, Answer::Corrupt);
                    break;
                }
            }
        }
    }
}
