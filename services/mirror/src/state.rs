//! Keys and values of the mirror's control database.
//!
//! | key | value |
//! | --- | --- |
//! | `channel/<channel>` | `wire::state` channel |
//! | `cursor/<lane>` | `wire::state::Cursor` |
//! | `snapshot/<channel>/<build, 20 digits>` | signed snapshot |
//! | `retraction/<channel>/<number, 20 digits>` | signed retraction |
//! | `head/<channel>` | signed head |
//! | `view/<channel>` | the view that its builds are held in; absent: everything |
//! | `order/<id, 20 digits>` | empty: the order was carried out |
//! | `drain/` | the last order to take no clients, or to take them again |
//! | `booted` | when the newest boot was, milliseconds since 1970 as text |

use mirrorlog_core::id::{Build, ChannelId, Lane};

/// A place in the control database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A channel's state.
    Channel(ChannelId),
    /// A lane's cursor.
    Cursor(Lane),
    /// A signed snapshot.
    Snapshot(ChannelId, Build),
    /// A signed retraction.
    Retraction(ChannelId, u64),
    /// A signed head.
    Head(ChannelId),
    /// The view that a channel's builds are held in.
    View(ChannelId),
    /// An order that was carried out.
    Order(u64),
    /// Whether it takes clients.
    Drain,
    /// When the newest boot was.
    Booted,
}

impl Key {
    /// The key's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Channel(channel) => format!("channel/{channel}"),
            Self::Cursor(lane) => format!("cursor/{lane}"),
            Self::Snapshot(channel, build) => format!("snapshot/{channel}/{:020}", build.get()),
            Self::Retraction(channel, number) => format!("retraction/{channel}/{number:020}"),
            Self::Head(channel) => format!("head/{channel}"),
            Self::View(channel) => format!("view/{channel}"),
            Self::Order(id) => format!("order/{id:020}"),
            Self::Drain => "drain/".to_owned(),
            Self::Booted => "booted".to_owned(),
        }
        .into_bytes()
    }

    /// Reads a key; `None` for bytes that are none of ours.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        if text == "booted" {
            return Some(Self::Booted);
        }
        let (kind, rest) = text.split_once('/')?;
        let numbered = || {
            let (channel, number) = rest.split_once('/')?;
            Some((ChannelId::new(channel).ok()?, padded(number)?))
        };
        Some(match kind {
            "channel" => Self::Channel(ChannelId::new(rest).ok()?),
            "cursor" => Self::Cursor(Lane::ALL.into_iter().find(|lane| lane.as_str() == rest)?),
            "snapshot" => {
                let (channel, number) = numbered()?;
                Self::Snapshot(channel, Build::new(number)?)
            }
            "retraction" => {
                let (channel, number) = numbered()?;
                Self::Retraction(channel, number)
            }
            "head" => Self::Head(ChannelId::new(rest).ok()?),
            "view" => Self::View(ChannelId::new(rest).ok()?),
            "order" => Self::Order(padded(rest)?),
            "drain" if rest.is_empty() => Self::Drain,
            _unknown => return None,
        })
    }
}

fn padded(text: &str) -> Option<u64> {
    let digits = text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_key_reads_back() {
        let channel = ChannelId::new("noble").unwrap();
        for key in [
            Key::Channel(channel.clone()),
            Key::Cursor(Lane::Bulk),
            Key::Cursor(Lane::Priority),
            Key::Snapshot(channel.clone(), Build::new(37).unwrap()),
            Key::Retraction(channel.clone(), 2),
            Key::Head(channel.clone()),
            Key::View(channel),
            Key::Order(u64::MAX),
            Key::Drain,
            Key::Booted,
        ] {
            assert_eq!(Key::decode(&key.encode()), Some(key));
        }
    }

    #[test]
    fn foreign_keys_are_none_of_ours() {
        for bytes in [
            &b""[..],
            b"channel",
            b"channel/-",
            b"order/7",
            b"snapshot/noble/0",
            b"\xff/",
        ] {
            assert_eq!(Key::decode(bytes), None);
        }
    }
}
