//! Why an operation on the log failed.

use std::path::PathBuf;

use async_nats::jetstream;

use crate::Reaction;

use super::access::CredentialsError;

/// A cause of any type.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation on the log failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The server is away, slow, or has no JetStream at the moment. Whether the operation took effect is unknown.
    #[error("NATS does not answer ({doing})")]
    Down {
        /// What was tried.
        doing: String,
        /// What the client library says.
        #[source]
        source: Cause,
    },
    /// nats-server is in no cluster, or finds fewer servers there that could hold a stream than are to hold it.
    #[error(
        "too few nats-servers can hold it ({doing}): as many as nats.replicas says have to run as one cluster, with room for it"
    )]
    FewServers {
        /// What was tried.
        doing: String,
        /// What the server says.
        #[source]
        source: jetstream::Error,
    },
    /// Somebody else wrote first: the subject's last sequence is another one.
    #[error("{subject} has moved on: its last sequence was expected to be {expected}{}", found.map_or(String::new(), |n| format!(" and is {n}")))]
    Refused {
        /// The subject that was written to.
        subject: String,
        /// The last sequence that the writer knew, 0 for none.
        expected: u64,
        /// What the server has, where it says so.
        found: Option<u64>,
    },
    /// The server has a stream, bucket or consumer that is not as declared, or changed what was asked.
    #[error("{what} is not as declared: {field} should be {asked}, the server has {echoed}")]
    Differs {
        /// Which stream or consumer.
        what: String,
        /// The setting, as NATS calls it.
        field: String,
        /// What was asked for, as JSON.
        asked: String,
        /// What the server has, as JSON.
        echoed: String,
    },
    /// nats-server before 2.10.23: 2.9 ignores `filter_subjects` in silence and breaks KV.
    #[error("nats-server {version} is too old: 2.10.23 or newer is needed")]
    TooOld {
        /// What the server says of itself.
        version: String,
    },
    /// JetStream refused the request.
    #[error("JetStream refused it ({doing})")]
    Server {
        /// What was tried.
        doing: String,
        /// What the server says.
        #[source]
        source: jetstream::Error,
    },
    /// The archive, which makes others' consumers, does not answer or cannot make one at the moment.
    #[error("the archive has not made {consumer} of {stream} yet: {reason}")]
    NotYetMade {
        /// The consumer, or "a reader".
        consumer: String,
        /// What it is to read.
        stream: String,
        /// Why: what the archive says, or that it says nothing.
        reason: String,
    },
    /// The archive refused to make a consumer.
    #[error("the archive does not make {consumer} of {stream}: {reason}")]
    NotMade {
        /// The consumer, or "a reader".
        consumer: String,
        /// What it was to read.
        stream: String,
        /// What the archive says.
        reason: String,
    },
    /// The configured address is none.
    #[error("{url:?} is not an address of a NATS server: use nats://host:port")]
    Address {
        /// What was given.
        url: String,
        /// Why it does not parse.
        #[source]
        source: std::io::Error,
    },
    /// The certificates by which a server is known.
    #[error("cannot read {} (nats.ca)", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The credentials of the service's user.
    #[error("nats.credentials cannot be used")]
    Credentials(#[source] CredentialsError),
    /// The server's `max_payload` is smaller than the message.
    #[error(
        "a message of {bytes} bytes for {subject} is larger than the server's max_payload: 1 MiB is needed"
    )]
    TooLarge {
        /// The subject that was written to.
        subject: String,
        /// The payload's size in bytes.
        bytes: usize,
    },
    /// A key that NATS cannot hold.
    #[error("{key:?} cannot be a key: use a-z, 0-9, '-', '_' and single dots")]
    Key {
        /// What was given.
        key: String,
    },
}

impl LogError {
    /// What the caller should do. After [`LogError::Refused`] the same write never succeeds: read again first.
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Down { .. } | Self::FewServers { .. } | Self::NotYetMade { .. } => {
                Reaction::Retry
            }
            Self::Refused { .. }
            | Self::Differs { .. }
            | Self::TooOld { .. }
            | Self::Server { .. }
            | Self::NotMade { .. }
            | Self::Address { .. }
            | Self::Ca { .. }
            | Self::Credentials(_)
            | Self::TooLarge { .. }
            | Self::Key { .. } => Reaction::Halt,
        }
    }

    pub(super) fn down(doing: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Down {
            doing: doing.into(),
            source: source.into(),
        }
    }

    /// Sorts what JetStream says: 5xx is a state that passes (no leader, restarting), as is a cluster whose servers
    /// are not all there; the rest is not.
    pub(super) fn server(doing: impl Into<String>, source: jetstream::Error) -> Self {
        use jetstream::ErrorCode as Code;
        let few = [Code::CLUSTER_NO_PEERS, Code::STREAM_REPLICAS_NOT_SUPPORTED];
        let doing = doing.into();
        if few.contains(&source.error_code()) {
            Self::FewServers { doing, source }
        } else if source.code() >= 500 {
            Self::down(doing, source)
        } else {
            Self::Server { doing, source }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_jetstream_says_is_sorted_by_what_is_to_be_done() {
        let sorted = |code: u16, err_code: u64| {
            let json = serde_json::json!({"code": code, "err_code": err_code, "description": "so"});
            LogError::server("trying", serde_json::from_value(json).unwrap())
        };
        // No suitable peers; no replicas outside of a cluster.
        for (code, err_code) in [(400, 10_005), (500, 10_074)] {
            let error = sorted(code, err_code);
            assert!(matches!(error, LogError::FewServers { .. }), "{error}");
            assert_eq!(error.reaction(), Reaction::Retry);
        }
        // No leader; too little room now.
        for (code, err_code) in [(503, 10_008), (500, 10_023)] {
            let error = sorted(code, err_code);
            assert!(matches!(error, LogError::Down { .. }), "{error}");
        }
        let error = sorted(400, 10_012);
        assert!(matches!(error, LogError::Server { .. }), "{error}");
        assert_eq!(error.reaction(), Reaction::Halt);
    }
}
