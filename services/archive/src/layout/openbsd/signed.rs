//! SHA256.sig: the lines of SHA256 behind a signature.

use mirrorlog_core::sign::TrustedKeys;
use wire::signify;

use super::super::Rules;
use super::super::check::SMALL_FILE_MAX_BYTES;
use crate::publish::{Fault, Faults, PublishError, Rule};

/// The keys of which one must have signed; `None` when none is configured.
///
/// # Errors
/// When one cannot be read: the configuration is wrong then, not the tree.
pub(super) fn keys(rules: &Rules) -> Result<Option<TrustedKeys>, PublishError> {
    let read = |path| {
        runtime::key::read_public(path)
            .map_err(|e| PublishError::Config(format!("signify_key: {}", runtime::chain(&e))))
    };
    let keys = rules.signify_keys.iter().map(|path| read(path));
    let keys = TrustedKeys::new(keys.collect::<Result<Vec<_>, _>>()?);
    Ok((!keys.is_empty()).then_some(keys))
}

/// What stands behind the signature, whoever made it.
pub(super) fn message<'f>(
    keys: Option<&TrustedKeys>,
    path: &[u8],
    file: &'f [u8],
    faults: &mut Faults,
) -> Option<&'f [u8]> {
    let max_bytes = usize::try_from(SMALL_FILE_MAX_BYTES).unwrap_or(usize::MAX);
    let (signature, message) = match signify::parse_embedded_within(file, max_bytes) {
        Ok(parsed) => parsed,
        Err(error) => {
            let expected = "a signature as signify -S -e writes it";
            let found = error.to_string();
            faults.push(Fault::new(path, Rule::Signature, expected, found));
            return None;
        }
    };
    if let Some(keys) = keys
        && let Err(error) = keys.verify(message, &signature)
    {
        let expected = "a signature by a configured key";
        let found = error.to_string();
        faults.push(Fault::new(path, Rule::Signature, expected, found));
    }
    Some(message)
}

/// The first line in which the two differ.
pub(super) fn disagreement(plain: &[u8], message: &[u8]) -> Option<String> {
    if plain == message {
        return None;
    }
    let newline = |b: &u8| *b == b'\n';
    let (plain, message) = (plain.split(newline), message.split(newline));
    let same = plain
        .zip(message.clone())
        .take_while(|(a, b)| a == b)
        .count();
    let found = match message.clone().nth(same) {
        None | Some(b"") => "its end".to_owned(),
        Some(line) => String::from_utf8_lossy(line).into_owned(),
    };
    Some(format!("{found} in line {}", same + 1))
}
