//! Keys and values of the key-value buckets.
//!
//! | bucket | key | value |
//! | --- | --- | --- |
//! | `mirrorlog_build` | channel | [`Numbering`]: `<epoch> <build>` in decimal |
//! | `mirrorlog_wanted` | `<channel>.<pool>` ([`wanted_key`]) | the build in decimal ([`encode_wanted`]) |
//! | `mirrorlog_head` | channel | a signed head ([`Signed::encode`](crate::Signed::encode)) |

use mirrorlog_core::id::{Build, ChannelId, PoolId};

use crate::error::{DecodeError, FieldError};
use crate::field;

/// A channel's number reservation: who may number, and the last number given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbering {
    /// Counts up with each archive process that takes over; a lower one is fenced off.
    pub epoch: u64,
    /// The newest build number that is reserved; `None` before the first (0 on the wire).
    pub newest: Option<Build>,
}

impl Numbering {
    /// As text.
    pub fn encode(&self) -> String {
        format!("{} {}", self.epoch, field::optional_build(self.newest))
    }

    /// From text, exactly as [`Numbering::encode`] writes it.
    ///
    /// # Errors
    /// [`DecodeError::Field`] otherwise.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let name = "numbering";
        let text = utf8(name, value)?;
        let refused = || DecodeError::field(name, FieldError::Decimal(text.to_owned()));
        let (epoch, newest) = text.split_once(' ').ok_or_else(refused)?;
        Ok(Self {
            epoch: decimal(name, epoch)?,
            newest: Build::new(decimal(name, newest)?),
        })
    }
}

/// Writes a wanted build.
pub fn encode_wanted(build: Build) -> String {
    build.to_string()
}

/// Reads a wanted build.
///
/// # Errors
/// [`DecodeError::Field`] for anything but a plain decimal number from 1 on.
pub fn decode_wanted(value: &[u8]) -> Result<Build, DecodeError> {
    field::build("wanted", decimal("wanted", utf8("wanted", value)?)?)
}

/// The key of a channel's wanted build in a pool.
pub fn wanted_key(channel: &ChannelId, pool: &PoolId) -> String {
    format!("{channel}.{pool}")
}

/// Reads what [`wanted_key`] writes.
///
/// # Errors
/// [`DecodeError::Field`] otherwise.
pub fn parse_wanted_key(key: &str) -> Result<(ChannelId, PoolId), DecodeError> {
    let missing = || DecodeError::field("wanted key", FieldError::Missing);
    let (channel, pool) = key.split_once('.').ok_or_else(missing)?;
    Ok((
        field::channel("wanted key", channel)?,
        field::pool("wanted key", pool)?,
    ))
}

/// No value here has more: two numbers of 20 digits and a space.
const TEXT_MAX_BYTES: usize = 41;

fn utf8<'a>(name: &'static str, value: &'a [u8]) -> Result<&'a str, DecodeError> {
    field::check_length(name, value.len(), TEXT_MAX_BYTES)?;
    std::str::from_utf8(value).map_err(|_| DecodeError::field(name, FieldError::Utf8))
}

/// One number, one spelling: no sign, no leading zero.
fn decimal(name: &'static str, text: &str) -> Result<u64, DecodeError> {
    let number = text
        .parse::<u64>()
        .ok()
        .filter(|number| number.to_string() == text);
    number.ok_or_else(|| DecodeError::field(name, FieldError::Decimal(text.to_owned())))
}
