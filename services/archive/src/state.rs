//! What the archive keeps in its control state: every key and value layout.
//!
//! The journal is the truth; all of this can be made anew from it, at the price of a burned build number
//! or an event that is sent twice.

use mirrorlog_core::archive::{Item, Note, Series};
use mirrorlog_core::id::{Build, ChannelId, Digest, MirrorId};

/// Why a key or value was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control state holds a {what} that is not valid: {bytes:02x?}")]
pub struct CodecError {
    /// Which key or value.
    pub what: &'static str,
    /// What was there.
    pub bytes: Vec<u8>,
}

/// A key of the control state.
///
/// | key | bytes | value |
/// | --- | --- | --- |
/// | epoch | `e` | the newest epoch taken: u64, big-endian |
/// | note | `n`, `b` or `r`, channel | [`Note`]: number and two epochs, u64 each, big-endian |
/// | outbox | `o`, position (u64, big-endian) | [`Outgoing`] |
/// | drain | `d`, mirror | the newest signed order to take clients or not |
/// | invitation | `i`, digest of a token's secret | who may join with it, as JSON |
/// | publish token | `p`, digest of a token's secret | who may publish with it, and what, as JSON |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The epoch under which this archive last published.
    Epoch,
    /// What this archive meant to reserve on a channel.
    Note(Series, ChannelId),
    /// A statement that is journaled, or about to be, and not yet known to be on the log.
    Outbox(u64),
    /// Whether a mirror takes clients.
    Drain(MirrorId),
    /// Who may join with a token.
    Invitation(Digest),
    /// Who may publish with a token.
    PublishToken(Digest),
}

/// All keys of drains start with it.
pub const DRAIN_PREFIX: &[u8] = b"d";
/// All keys of invitations start with it.
pub const INVITATION_PREFIX: &[u8] = b"i";
/// All keys of tokens for publishing start with it.
pub const PUBLISH_TOKEN_PREFIX: &[u8] = b"p";
/// All outbox keys start with it.
pub const OUTBOX_PREFIX: &[u8] = b"o";

impl Key {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Epoch => b"e".to_vec(),
            Self::Note(series, channel) => {
                let series = match series {
                    Series::Builds => b'b',
                    Series::Retractions => b'r',
                };
                [b"n", &[series][..], channel.as_str().as_bytes()].concat()
            }
            Self::Outbox(position) => [OUTBOX_PREFIX, &position.to_be_bytes()].concat(),
            Self::Drain(mirror) => [DRAIN_PREFIX, mirror.as_str().as_bytes()].concat(),
            Self::Invitation(secret) => [INVITATION_PREFIX, &secret.as_bytes()[..]].concat(),
            Self::PublishToken(secret) => [PUBLISH_TOKEN_PREFIX, &secret.as_bytes()[..]].concat(),
        }
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`CodecError`] for anything that [`Key::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let refused = || CodecError {
            what: "key",
            bytes: bytes.to_vec(),
        };
        let channel = |text: &[u8]| {
            let text = std::str::from_utf8(text).map_err(|_| refused())?;
            ChannelId::new(text).map_err(|_| refused())
        };
        match bytes {
            b"e" => Ok(Self::Epoch),
            [b'n', b'b', name @ ..] => Ok(Self::Note(Series::Builds, channel(name)?)),
            [b'n', b'r', name @ ..] => Ok(Self::Note(Series::Retractions, channel(name)?)),
            [b'o', position @ ..] => {
                let position = position.try_into().map_err(|_| refused())?;
                Ok(Self::Outbox(u64::from_be_bytes(position)))
            }
            [b'd', name @ ..] => {
                let text = std::str::from_utf8(name).map_err(|_| refused())?;
                let mirror = MirrorId::new(text).map_err(|_| refused())?;
                Ok(Self::Drain(mirror))
            }
            [b'i', secret @ ..] => {
                let secret: [u8; 32] = secret.try_into().map_err(|_| refused())?;
                Ok(Self::Invitation(Digest::from_bytes(secret)))
            }
            [b'p', secret @ ..] => {
                let secret: [u8; 32] = secret.try_into().map_err(|_| refused())?;
                Ok(Self::PublishToken(Digest::from_bytes(secret)))
            }
            [..] => Err(refused()),
        }
    }
}

/// A number as a value.
pub fn encode_number(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// Reads what [`encode_number`] writes.
///
/// # Errors
/// [`CodecError`] unless there are eight bytes.
pub fn decode_number(bytes: &[u8]) -> Result<u64, CodecError> {
    let number = bytes.try_into();
    let number = number.map_err(|_| CodecError {
        what: "number",
        bytes: bytes.to_vec(),
    })?;
    Ok(u64::from_be_bytes(number))
}

/// A note as a value.
pub fn encode_note(note: &Note) -> Vec<u8> {
    let [before, after] = note.epochs;
    [note.number, before, after].map(u64::to_be_bytes).concat()
}

/// Reads what [`encode_note`] writes.
///
/// # Errors
/// [`CodecError`] unless there are 24 bytes.
pub fn decode_note(bytes: &[u8]) -> Result<Note, CodecError> {
    if bytes.len() != 24 {
        return Err(CodecError {
            what: "note",
            bytes: bytes.to_vec(),
        });
    }
    let number = decode_number(&bytes[..8])?;
    let epochs = [decode_number(&bytes[8..16])?, decode_number(&bytes[16..])?];
    Ok(Note { number, epochs })
}

/// Ranges of builds, as they stand in `<state>/collected/<channel>`: first and last, u64 each, big-endian.
pub fn encode_ranges(ranges: &[(Build, Build)]) -> Vec<u8> {
    let ends = ranges.iter().flat_map(|(first, last)| [first, last]);
    ends.flat_map(|build| build.get().to_be_bytes()).collect()
}

/// Reads what [`encode_ranges`] writes.
///
/// # Errors
/// [`CodecError`] for anything else.
pub fn decode_ranges(bytes: &[u8]) -> Result<Vec<(Build, Build)>, CodecError> {
    let refused = || CodecError {
        what: "list of builds",
        bytes: bytes.to_vec(),
    };
    let (pairs, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(refused());
    }
    let build = |bytes: &[u8]| Build::new(decode_number(bytes)?).ok_or_else(refused);
    let range = |pair: &[u8; 16]| {
        let (first, last) = (build(&pair[..8])?, build(&pair[8..])?);
        (first <= last).then_some((first, last)).ok_or_else(refused)
    };
    pairs.iter().map(range).collect()
}

/// What is to be put on the log: `b` or `r`, number (u64, big-endian), channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The channel.
    pub channel: ChannelId,
    /// Which of its statements.
    pub item: Item,
}

impl Outgoing {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, number) = match self.item {
            Item::Snapshot(build) => (b'b', build.get()),
            Item::Retraction(sequence) => (b'r', sequence),
        };
        [
            &[kind][..],
            &number.to_be_bytes(),
            self.channel.as_str().as_bytes(),
        ]
        .concat()
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`CodecError`] for anything that [`Outgoing::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let refused = || CodecError {
            what: "outbox entry",
            bytes: bytes.to_vec(),
        };
        let (head, name) = bytes.split_at_checked(9).ok_or_else(refused)?;
        let number = decode_number(&head[1..])?;
        let item = match head[0] {
            b'b' => Item::Snapshot(Build::new(number).ok_or_else(refused)?),
            b'r' => Item::Retraction(number),
            0..=u8::MAX => return Err(refused()),
        };
        let name = std::str::from_utf8(name).map_err(|_| refused())?;
        Ok(Self {
            channel: ChannelId::new(name).map_err(|_| refused())?,
            item,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn channel() -> impl Strategy<Value = ChannelId> {
        "[a-z0-9][a-z0-9-]{0,62}".prop_map(|text| ChannelId::new(&text).unwrap())
    }

    fn item() -> impl Strategy<Value = Item> {
        prop_oneof![
            (1..=u64::MAX).prop_map(|number| Item::Snapshot(Build::new(number).unwrap())),
            any::<u64>().prop_map(Item::Retraction),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(channel in channel(), position: u64, epochs: [u64; 2], item in item()) {
            let keys = [
                Key::Epoch,
                Key::Note(Series::Builds, channel.clone()),
                Key::Note(Series::Retractions, channel.clone()),
                Key::Outbox(position),
                Key::Drain(MirrorId::new(channel.as_str()).unwrap()),
            ];
            for key in keys {
                prop_assert_eq!(Key::decode(&key.encode()).unwrap(), key);
            }
            let note = Note { number: position, epochs };
            prop_assert_eq!(decode_note(&encode_note(&note)).unwrap(), note);
            let outgoing = Outgoing { channel, item };
            prop_assert_eq!(Outgoing::decode(&outgoing.encode()).unwrap(), outgoing);
            prop_assert_eq!(decode_number(&encode_number(position)).unwrap(), position);
            let ranges: Vec<_> = Build::new(position).map(|build| (build, build)).into_iter().collect();
            prop_assert_eq!(decode_ranges(&encode_ranges(&ranges)).unwrap(), ranges);
        }

        #[test]
        fn other_bytes_are_refused_or_written_the_same(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(key) = Key::decode(&bytes) {
                prop_assert_eq!(key.encode(), bytes.clone());
            }
            if let Ok(outgoing) = Outgoing::decode(&bytes) {
                prop_assert_eq!(outgoing.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_layout_does_not_change() {
        let channel = ChannelId::new("noble").unwrap();
        assert_eq!(
            Key::Note(Series::Builds, channel.clone()).encode(),
            b"nbnoble"
        );
        assert_eq!(Key::Outbox(258).encode(), b"o\0\0\0\0\0\0\x01\x02");
        let outgoing = Outgoing {
            channel,
            item: Item::Retraction(3),
        };
        assert_eq!(outgoing.encode(), b"r\0\0\0\0\0\0\0\x03noble");
        assert_eq!(
            encode_note(&Note {
                number: 1,
                epochs: [2, 3]
            })[7..16],
            *b"\x01\0\0\0\0\0\0\0\x02"
        );
        assert!(decode_number(b"short").is_err() && decode_note(b"short").is_err());
        assert!(decode_ranges(b"short").is_err() && decode_ranges(&[0; 16]).is_err());
    }

    #[test]
    fn the_outbox_is_in_order_of_position() {
        let keys: Vec<_> = [0, 1, 255, 256, u64::MAX]
            .map(|n| Key::Outbox(n).encode())
            .into();
        assert!(keys.is_sorted());
    }
}
