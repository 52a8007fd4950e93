//! What directories tell each other, and what one remembers between two starts.

use mirrorlog_core::directory::place::{Asn, Network};
use mirrorlog_core::directory::speed::{Failure, Outcome};
use mirrorlog_core::id::{Build, ChannelId, MirrorId, PoolId};
use mirrorlog_core::statement::Statement;
use mirrorlog_core::time::Timestamp;
use prost::Message as _;

use crate::error::{DecodeError, FieldError};
use crate::statement::SCHEMA;
use crate::v1::feedback;
use crate::{field, statement, v1};

/// Largest feedback message, in bytes: an id of 63 and a handful of numbers.
const FEEDBACK_MAX_BYTES: usize = 256;

/// What one client saw of one mirror, as it stands on the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Feedback {
    /// Which mirror.
    pub mirror: MirrorId,
    /// When.
    pub at: Timestamp,
    /// From which network.
    pub network: Network,
    /// From which neighbourhood, under a secret of the day.
    pub source: u64,
    /// What.
    pub outcome: Outcome,
}

impl Feedback {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let network = match self.network {
            Network::As(Asn(asn)) => feedback::Network::Asn(asn),
            Network::V4Block(block) => feedback::Network::V4Block(block.into()),
            Network::V6Block(block) => feedback::Network::V6Block(block),
        };
        let outcome = match self.outcome {
            Outcome::Speed(speed) => feedback::Outcome::Speed(speed),
            Outcome::Fine => feedback::Outcome::Fine(feedback::Fine {}),
            Outcome::Failed(kind) => feedback::Outcome::Failed(kind.as_str().to_owned()),
        };
        v1::Feedback {
            schema: SCHEMA,
            mirror: self.mirror.to_string(),
            at_ms: self.at.as_ms(),
            network: Some(network),
            source: self.source,
            outcome: Some(outcome),
        }
        .encode_to_vec()
    }

    /// From bytes. Whether a speed is believed is the fold's to say.
    ///
    /// # Errors
    /// A [`DecodeError`] for what is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "feedback";
        DecodeError::check_size(what, bytes.len(), FEEDBACK_MAX_BYTES)?;
        let proto = v1::Feedback::decode(bytes)
            .map_err(|source| DecodeError::Malformed { what, source })?;
        check_schema(proto.schema)?;
        let missing = |name| DecodeError::field(name, FieldError::Missing);
        let network =
            match proto.network.ok_or_else(|| missing("feedback.network"))? {
                feedback::Network::Asn(asn) => Network::As(Asn(asn)),
                feedback::Network::V4Block(block) => {
                    let name = "feedback.v4_block";
                    let (found, max) = (block.into(), u16::MAX.into());
                    let block = u16::try_from(block);
                    Network::V4Block(block.map_err(|_| {
                        DecodeError::field(name, FieldError::TooHigh { found, max })
                    })?)
                }
                feedback::Network::V6Block(block) => Network::V6Block(block),
            };
        let outcome = match proto.outcome.ok_or_else(|| missing("feedback.outcome"))? {
            feedback::Outcome::Speed(speed) => Outcome::Speed(speed),
            feedback::Outcome::Fine(_) => Outcome::Fine,
            feedback::Outcome::Failed(kind) => Outcome::Failed(
                Failure::from_name(&kind).ok_or_else(|| missing("feedback.failed"))?,
            ),
        };
        Ok(Self {
            mirror: field::mirror("feedback.mirror", &proto.mirror)?,
            at: field::time("feedback.at_ms", proto.at_ms)?,
            network,
            source: proto.source,
            outcome,
        })
    }
}

/// What a replica remembers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DirectoryState {
    /// When it was saved.
    pub saved: Timestamp,
    /// Snapshots, heads, retractions, verdicts. They were verified when they were heard, and carry no signature.
    pub statements: Vec<Statement>,
    /// Wanted builds.
    pub wanted: Vec<(ChannelId, PoolId, Build)>,
    /// What probes knew of mirrors.
    pub mirrors: Vec<MirrorHealth>,
    /// Builds that were signed with two roots.
    pub forks: Vec<(ChannelId, Build)>,
}

/// What probes knew of one mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorHealth {
    /// Which.
    pub mirror: MirrorId,
    /// Whether it answered.
    pub up: bool,
    /// Since when.
    pub changed: Timestamp,
    /// Builds that did not answer where the verdict says that they are served.
    pub unserved: Vec<(ChannelId, Build)>,
}

impl DirectoryState {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        use v1::directory_state::{self, ChannelBuild, WantedBuild};
        let pair = |(channel, build): &(ChannelId, Build)| ChannelBuild {
            channel: channel.to_string(),
            build: build.get(),
        };
        let wanted = self
            .wanted
            .iter()
            .map(|(channel, pool, build)| WantedBuild {
                channel: channel.to_string(),
                pool: pool.to_string(),
                build: build.get(),
            });
        let mirrors = self
            .mirrors
            .iter()
            .map(|one| directory_state::MirrorHealth {
                mirror: one.mirror.to_string(),
                up: one.up,
                changed_ms: one.changed.as_ms(),
                unserved: one.unserved.iter().map(pair).collect(),
            });
        let statements = self.statements.iter().map(statement::encode);
        v1::DirectoryState {
            schema: SCHEMA,
            saved_ms: self.saved.as_ms(),
            statements: statements.map(Into::into).collect(),
            wanted: wanted.collect(),
            mirrors: mirrors.collect(),
            forks: self.forks.iter().map(pair).collect(),
        }
        .encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// A [`DecodeError`] when they are damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "directory state";
        let proto = v1::DirectoryState::decode(bytes)
            .map_err(|source| DecodeError::Malformed { what, source })?;
        check_schema(proto.schema)?;
        let statements = proto.statements.iter();
        let wanted = proto.wanted.iter().map(|one| {
            Ok((
                field::channel("wanted.channel", &one.channel)?,
                field::pool("wanted.pool", &one.pool)?,
                field::build("wanted.build", one.build)?,
            ))
        });
        let pair = |one: &v1::directory_state::ChannelBuild| {
            let channel = field::channel("build.channel", &one.channel)?;
            Ok((channel, field::build("build.build", one.build)?))
        };
        let pairs = |all: &[v1::directory_state::ChannelBuild]| {
            all.iter()
                .map(pair)
                .collect::<Result<Vec<_>, DecodeError>>()
        };
        let mirrors = proto.mirrors.iter().map(|one| {
            Ok(MirrorHealth {
                mirror: field::mirror("mirrors.mirror", &one.mirror)?,
                up: one.up,
                changed: field::time("mirrors.changed_ms", one.changed_ms)?,
                unserved: pairs(&one.unserved)?,
            })
        });
        Ok(Self {
            saved: field::time("saved_ms", proto.saved_ms)?,
            statements: statements
                .map(|bytes| statement::decode(bytes))
                .collect::<Result<_, _>>()?,
            wanted: wanted.collect::<Result<_, DecodeError>>()?,
            mirrors: mirrors.collect::<Result<_, DecodeError>>()?,
            forks: pairs(&proto.forks)?,
        })
    }
}

fn check_schema(found: u32) -> Result<(), DecodeError> {
    if found == SCHEMA {
        Ok(())
    } else {
        Err(DecodeError::Schema { found })
    }
}
