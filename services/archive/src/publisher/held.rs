//! A token in a caller's hand.

use std::sync::Arc;

use mirrorlog_core::id::ChannelId;
use tonic::Status;

use super::tokens::{Token, Verb};
use crate::daemon::Daemon;
use crate::fence::run_blocking;
use crate::journal::with_causes;

pub(super) fn no_token() -> Status {
    Status::unauthenticated(
        "the token is not known, was revoked or has expired: ask the archive's operators for a new one \
         (mirrorlog token issue)",
    )
}

/// A token that counted when it was shown.
pub(super) struct Held {
    token: Token,
    secret: Vec<u8>,
}

impl std::ops::Deref for Held {
    type Target = Token;
    fn deref(&self) -> &Token {
        &self.token
    }
}

impl Held {
    pub(super) async fn of(daemon: &Daemon, secret: Vec<u8>) -> Result<Self, Status> {
        let tokens = Arc::clone(&daemon.tokens);
        let (secret, found) = run_blocking(move || {
            let found = tokens.of(&secret, runtime::boot::now());
            (secret, found)
        })
        .await;
        let found = found.map_err(|error| Status::internal(with_causes(&error)))?;
        let token = found.ok_or_else(no_token)?;
        Ok(Self { token, secret })
    }

    /// Looks whether it counts still.
    pub(super) async fn again(&self, daemon: &Daemon) -> Result<(), Status> {
        Self::of(daemon, self.secret.clone()).await.map(drop)
    }
}

/// Refuses what a token is not for.
pub(super) fn allow(token: &Token, channel: &ChannelId, verb: Verb) -> Result<(), Status> {
    if token.allows(channel, verb) {
        return Ok(());
    }
    let publisher = &token.publisher;
    tracing::warn!(%channel, publisher, verb = verb.as_str(), "refused: its token is not for that");
    Err(Status::permission_denied(format!(
        "the token of {publisher} is not for {} on channel {channel}",
        verb.as_str()
    )))
}
