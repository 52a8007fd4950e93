//! Tokens for publishing from another machine: for some channels, for some verbs, for a while.
//!
//! A token's secret is known by its digest only.

use std::collections::BTreeSet;
use std::sync::Arc;

use mirrorlog_core::id::{ChannelId, Digest};
use mirrorlog_core::time::Timestamp;
use runtime::state::{Control, StateError, Write};
use serde::{Deserialize, Serialize};

use crate::state::{Key, PUBLISH_TOKEN_PREFIX};

/// Longest life of a token: a year and a day.
const LASTS_MAX_MS: i64 = 366 * 24 * 3600 * 1000;
/// Tokens at a time; stops a script from filling the state.
const TOKENS_MAX: usize = 4096;
const SECRET_BYTES: usize = 32;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// Builds on the bulk lane.
    Publish,
    /// Builds on the priority lane.
    Priority,
    /// Retractions, and content that was retracted.
    Retract,
}

impl Verb {
    const ALL: [Self; 3] = [Self::Publish, Self::Priority, Self::Retract];

    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Priority => "priority",
            Self::Retract => "retract",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == name)
    }
}

/// A token, as the control state has it under the digest of its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    /// Whose it is, for people.
    pub(crate) publisher: String,
    pub(crate) channels: BTreeSet<String>,
    pub(crate) verbs: BTreeSet<Verb>,
    pub(crate) issued_ms: i64,
    pub(crate) expires_ms: i64,
}

impl Token {
    fn is_good(&self, now: Timestamp) -> bool {
        now.as_ms() < self.expires_ms
    }

    /// True when it is for the channel.
    pub(crate) fn names(&self, channel: &ChannelId) -> bool {
        self.channels.contains(channel.as_str())
    }

    /// True when it is for this on the channel.
    pub(crate) fn allows(&self, channel: &ChannelId, verb: Verb) -> bool {
        self.names(channel) && self.verbs.contains(&verb)
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokensError {
    #[error(
        "the archive runs without [publish], so nobody can publish from another machine: put it into its configuration and restart it"
    )]
    Off,
    #[error("a publisher is named as channels are: a-z, 0-9 and -, at most 63 of them")]
    Publisher,
    #[error("a token is for one channel at least")]
    NoChannel,
    #[error("{0:?} is nothing that a token can be for: publish, priority, retract")]
    Verb(String),
    #[error("a token is for one of publish, priority, retract at least")]
    NoVerb,
    #[error("a token is good for more than nothing, and for 366 days at most")]
    Lasts,
    #[error("there are {TOKENS_MAX} tokens: revoke some (mirrorlog token list)")]
    TooMany,
    #[error("no random bytes for a token")]
    Random(#[source] std::io::Error),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("a token in the control state cannot be read")]
    Codec(#[from] serde_json::Error),
}

/// All tokens.
pub(crate) struct Tokens {
    state: Arc<dyn Control>,
}

/// What is asked for.
pub(crate) struct Wanted {
    pub(crate) publisher: String,
    pub(crate) channels: Vec<ChannelId>,
    pub(crate) verbs: Vec<String>,
    pub(crate) lasts_ms: i64,
}

impl Tokens {
    pub(crate) fn new(state: Arc<dyn Control>) -> Self {
        Self { state }
    }

    /// Makes a token, durably. Gives the secret. Blocks.
    pub(crate) fn issue(
        &self,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<[u8; SECRET_BYTES], TokensError> {
        if ChannelId::new(&wanted.publisher).is_err() {
            return Err(TokensError::Publisher);
        }
        if wanted.channels.is_empty() {
            return Err(TokensError::NoChannel);
        }
        let mut verbs = BTreeSet::new();
        for name in wanted.verbs {
            verbs.insert(Verb::named(&name).ok_or(TokensError::Verb(name))?);
        }
        if verbs.is_empty() {
            return Err(TokensError::NoVerb);
        }
        if !(1..=LASTS_MAX_MS).contains(&wanted.lasts_ms) {
            return Err(TokensError::Lasts);
        }
        self.sweep(now)?;
        if self.state.scan(PUBLISH_TOKEN_PREFIX)?.len() >= TOKENS_MAX {
            return Err(TokensError::TooMany);
        }
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|error| TokensError::Random(error.into()))?;
        let token = Token {
            publisher: wanted.publisher,
            channels: wanted.channels.iter().map(ToString::to_string).collect(),
            verbs,
            issued_ms: now.as_ms(),
            expires_ms: now.plus_ms(wanted.lasts_ms).as_ms(),
        };
        let key = Key::PublishToken(Digest::of(&secret)).encode();
        let value = serde_json::to_vec(&token)?;
        self.state.commit(&[Write::Put(key, value)])?;
        Ok(secret)
    }

    /// The token of a secret, as long as it is good. Blocks.
    pub(crate) fn of(&self, secret: &[u8], now: Timestamp) -> Result<Option<Token>, TokensError> {
        let key = Key::PublishToken(Digest::of(secret)).encode();
        let Some(value) = self.state.get(&key)? else {
            return Ok(None);
        };
        let token: Token = serde_json::from_slice(&value)?;
        Ok(Some(token).filter(|token| token.is_good(now)))
    }

    /// All that were made and not revoked, by publisher and time. Blocks.
    pub(crate) fn list(&self) -> Result<Vec<Token>, TokensError> {
        let mut all = Vec::new();
        for (_, value) in self.state.scan(PUBLISH_TOKEN_PREFIX)? {
            all.extend(readable(&value));
        }
        all.sort_by(|a, b| (&a.publisher, a.issued_ms).cmp(&(&b.publisher, b.issued_ms)));
        Ok(all)
    }

    /// Revokes a publisher's tokens. Says how many. Blocks.
    pub(crate) fn revoke(&self, publisher: &str) -> Result<usize, TokensError> {
        self.remove(|token| token.publisher == publisher)
    }

    /// Lets go of those whose time is over.
    fn sweep(&self, now: Timestamp) -> Result<usize, TokensError> {
        self.remove(|token| !token.is_good(now))
    }

    fn remove(&self, which: impl Fn(&Token) -> bool) -> Result<usize, TokensError> {
        let mut gone = Vec::new();
        for (key, value) in self.state.scan(PUBLISH_TOKEN_PREFIX)? {
            if readable(&value).is_some_and(|token| which(&token)) {
                gone.push(Write::Delete(key));
            }
        }
        self.state.commit(&gone)?;
        Ok(gone.len())
    }
}

/// One that another version wrote counts for nothing here, and holds up nobody else's.
fn readable(value: &[u8]) -> Option<Token> {
    let token = serde_json::from_slice(value);
    if let Err(error) = &token {
        tracing::warn!(%error, "a token for publishing in the control state cannot be read: it does not count");
    }
    token.ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_790_000_000_000);
    const HOUR_MS: i64 = 3600 * 1000;

    fn tokens(dir: &std::path::Path) -> Tokens {
        let (state, _) = runtime::state::SledState::open(&dir.join("control")).unwrap();
        Tokens::new(Arc::new(state))
    }

    fn wanted(publisher: &str, verbs: &[&str]) -> Wanted {
        Wanted {
            publisher: publisher.into(),
            channels: vec![ChannelId::new("noble").unwrap()],
            verbs: verbs.iter().map(ToString::to_string).collect(),
            lasts_ms: HOUR_MS,
        }
    }

    #[test]
    fn a_token_is_for_its_channels_and_verbs_and_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path());
        let secret = tokens
            .issue(wanted("build-host", &["publish"]), NOW)
            .unwrap();
        let token = tokens.of(&secret, NOW).unwrap().unwrap();
        let (noble, other) = (
            ChannelId::new("noble").unwrap(),
            ChannelId::new("jammy").unwrap(),
        );
        assert!(token.allows(&noble, Verb::Publish));
        assert!(!token.allows(&noble, Verb::Priority) && !token.allows(&noble, Verb::Retract));
        assert!(!token.allows(&other, Verb::Publish));
        assert_eq!(tokens.of(&secret, NOW.plus_ms(HOUR_MS)).unwrap(), None);
        assert_eq!(tokens.of(&[0; 32], NOW).unwrap(), None);
        assert_eq!(tokens.of(b"", NOW).unwrap(), None);
    }

    #[test]
    fn those_of_one_publisher_are_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path());
        let of = |name| tokens.issue(wanted(name, &["priority"]), NOW).unwrap();
        let (first, second, other) = (of("security"), of("security"), of("nightly"));
        assert_eq!(tokens.list().unwrap().len(), 3);
        assert_eq!(tokens.revoke("security").unwrap(), 2);
        assert_eq!(tokens.revoke("security").unwrap(), 0);
        assert!(tokens.of(&first, NOW).unwrap().is_none());
        assert!(tokens.of(&second, NOW).unwrap().is_none());
        assert!(tokens.of(&other, NOW).unwrap().is_some());
    }

    #[test]
    fn those_whose_time_is_over_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path());
        tokens.issue(wanted("old", &["publish"]), NOW).unwrap();
        let later = NOW.plus_ms(2 * HOUR_MS);
        tokens.issue(wanted("new", &["publish"]), later).unwrap();
        let names: Vec<String> = tokens
            .list()
            .unwrap()
            .into_iter()
            .map(|token| token.publisher)
            .collect();
        assert_eq!(names, ["new"]);
    }

    #[test]
    fn what_no_token_is_for_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = tokens(dir.path());
        let refused = |wanted| tokens.issue(wanted, NOW).unwrap_err();
        let good = || wanted("a", &["publish"]);
        assert!(matches!(
            refused(wanted("No Name", &["publish"])),
            TokensError::Publisher
        ));
        assert!(matches!(refused(wanted("a", &[])), TokensError::NoVerb));
        assert!(matches!(
            refused(wanted("a", &["delete"])),
            TokensError::Verb(_)
        ));
        let none = Wanted {
            channels: Vec::new(),
            ..good()
        };
        assert!(matches!(refused(none), TokensError::NoChannel));
        for lasts_ms in [0, -1, LASTS_MAX_MS + 1] {
            let bad = Wanted { lasts_ms, ..good() };
            assert!(matches!(refused(bad), TokensError::Lasts));
        }
    }
}
