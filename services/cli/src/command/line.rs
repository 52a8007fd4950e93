//! Tokens as people copy them: one line without spaces, a prefix that says of what form, then JSON in hex.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{DATA, Failure, OrExit as _};

/// One line.
pub(super) fn print(prefix: &str, token: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_vec(token).or_exit(DATA)?;
    Ok(format!("{prefix}{}", hex::encode(json)))
}

/// None for what is no such line.
pub(super) fn parse<T: DeserializeOwned>(prefix: &str, text: &str) -> Option<T> {
    let json = hex::decode(text.trim().strip_prefix(prefix)?).ok()?;
    serde_json::from_slice(&json).ok()
}
