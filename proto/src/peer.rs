//! What mirrors of one pool tell each other.

use mirrorlog_core::id::{ChannelId, Digest, MirrorId};
use mirrorlog_core::limits::{PEER_ADDRESS_MAX_BYTES, PEER_BUILDS_MAX, PEER_NOTICE_MAX_BYTES};
use prost::Message as _;

use crate::error::{DecodeError, FieldError};
use crate::field;
use crate::v1;

/// A mirror's word to its peers. Unsigned: it says whom to ask, and what comes is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNotice {
    /// Who says it.
    pub mirror: MirrorId,
    /// `host:port` of its fetcher; `None` when it cannot be reached from outside.
    pub fetch_address: Option<String>,
    /// It has just started, and wants to know who is there.
    pub asks: bool,
    /// Bytes that it has received since it started: grows while it makes progress.
    pub received_bytes: u64,
    /// The builds that it has or is bringing, at most [`PEER_BUILDS_MAX`].
    pub builds: Vec<PeerBuild>,
}

/// One build that a mirror has or is bringing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerBuild {
    /// Its channel.
    pub channel: ChannelId,
    /// Top page of its manifest; where a part is carried, a digest of that page and the view.
    pub root: Digest,
    /// It has all of it.
    pub whole: bool,
}

impl PeerNotice {
    /// As bytes. Builds beyond [`PEER_BUILDS_MAX`] are left out.
    pub fn encode(&self) -> Vec<u8> {
        let builds = self.builds.iter().take(PEER_BUILDS_MAX);
        v1::PeerNotice {
            mirror: self.mirror.to_string(),
            fetch_address: self.fetch_address.clone().unwrap_or_default(),
            asks: self.asks,
            received_bytes: self.received_bytes,
            builds: builds
                .map(|build| v1::PeerBuild {
                    channel: build.channel.to_string(),
                    root: field::digest_to_proto(&build.root),
                    whole: build.whole,
                })
                .collect(),
        }
        .encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// A [`DecodeError`] for more than [`PEER_NOTICE_MAX_BYTES`], too many builds, or a field that is not valid.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "peer notice";
        DecodeError::check_size(what, bytes.len(), PEER_NOTICE_MAX_BYTES)?;
        let decoded = v1::PeerNotice::decode(bytes);
        let proto = decoded.map_err(|source| DecodeError::Malformed { what, source })?;
        field::check_count("peer.builds", proto.builds.len(), PEER_BUILDS_MAX)?;
        let address = match proto.fetch_address {
            none if none.is_empty() => None,
            text => {
                check_address(&text)?;
                Some(text)
            }
        };
        let build = |build: v1::PeerBuild| {
            Ok(PeerBuild {
                channel: field::channel("peer.builds.channel", &build.channel)?,
                root: field::digest("peer.builds.root", &build.root)?,
                whole: build.whole,
            })
        };
        Ok(Self {
            mirror: field::mirror("peer.mirror", &proto.mirror)?,
            fetch_address: address,
            asks: proto.asks,
            received_bytes: proto.received_bytes,
            builds: proto
                .builds
                .into_iter()
                .map(build)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Checks for `host:port` in plain ASCII, and nothing that a URL could carry beside it.
///
/// # Errors
/// [`DecodeError::Field`] for anything else.
pub fn check_address(text: &str) -> Result<(), DecodeError> {
    const FIELD: &str = "peer.fetch_address";
    field::check_length(FIELD, text.len(), PEER_ADDRESS_MAX_BYTES)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let port: u16 = port.parse().unwrap_or(0);
    if port > 0 && !host.is_empty() && host.chars().all(plain) {
        Ok(())
    } else {
        Err(DecodeError::field(FIELD, FieldError::Address))
    }
}
