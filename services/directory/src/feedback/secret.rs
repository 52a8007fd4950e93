//! Secrets of the day: with them a neighbourhood becomes a number, and without them the number tells nothing.

use bytes::Bytes;
use mirrorlog_core::time::Timestamp;
use runtime::boot::now;
use runtime::log::{Bucket, Log, LogError};

use super::SendError;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Why there is no secret of the day. Without one no sample is sent: its number would tell its neighbourhood.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    #[error("the system gives no randomness: {0}")]
    Randomness(getrandom::Error),
    #[error("the secret {key} cannot be read back")]
    Absent { key: String },
    #[error("the secret {key} is none: {bytes} bytes, or all zero")]
    Unfit { key: String, bytes: usize },
}

/// Makes numbers of neighbourhoods.
#[derive(Clone)]
pub(super) struct Secret([u8; Self::BYTES]);

impl Secret {
    const BYTES: usize = 32;

    fn draw() -> Result<Self, SecretError> {
        let mut bytes = [0; Self::BYTES];
        getrandom::fill(&mut bytes).map_err(SecretError::Randomness)?;
        Ok(Self(bytes))
    }

    /// What a replica wrote under `key`.
    fn read(key: &str, found: Option<&[u8]>) -> Result<Self, SecretError> {
        let key = || key.to_owned();
        let found = found.ok_or_else(|| SecretError::Absent { key: key() })?;
        let bytes = <[u8; Self::BYTES]>::try_from(found).ok();
        let drawn = bytes.filter(|bytes| *bytes != [0; Self::BYTES]);
        let bytes = found.len();
        drawn
            .map(Self)
            .ok_or_else(|| SecretError::Unfit { key: key(), bytes })
    }

    pub(super) fn number(&self, neighbourhood: &str) -> u64 {
        let mut hasher = sha2::Sha256::default();
        sha2::Digest::update(&mut hasher, self.0);
        sha2::Digest::update(&mut hasher, neighbourhood.as_bytes());
        let number: [u8; 32] = sha2::Digest::finalize(hasher).into();
        let [a, b, c, d, e, f, g, h, ..] = number;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The secret of the day, which replicas share.
#[derive(Default)]
pub(super) struct Secrets {
    bucket: Option<Bucket>,
    today: Option<(i64, Secret)>,
    /// Whether it was said that there is none.
    pub(super) told: bool,
}

impl Secrets {
    /// Today's secret: drawn by whichever replica is first, read by the others. The bucket forgets old ones.
    pub(super) async fn of_today(&mut self, log: &Log) -> Result<Secret, SendError> {
        let time = now();
        self.forget(time);
        if let Some((_, secret)) = &self.today {
            return Ok(secret.clone());
        }
        let day = day_of(time);
        let bucket = match &self.bucket {
            Some(bucket) => bucket.clone(),
            None => self.bucket.insert(log.bucket("salt").await?).clone(),
        };
        let (key, fresh) = (format!("day-{day}"), Secret::draw()?);
        let secret = match bucket.set(&key, Bytes::copy_from_slice(&fresh.0), 0).await {
            Ok(_revision) => fresh,
            // Another replica was first.
            Err(LogError::Refused { .. }) => {
                let found = bucket.get(&key).await?;
                Secret::read(&key, found.as_ref().map(|(_, secret)| &secret[..]))?
            }
            Err(error) => return Err(error.into()),
        };
        self.today = Some((day, secret.clone()));
        self.told = false;
        Ok(secret)
    }

    /// Forgets a secret that is not today's.
    pub(super) fn forget(&mut self, now: Timestamp) {
        self.today = self.today.take().filter(|(day, _)| *day == day_of(now));
    }
}

pub(super) fn day_of(time: Timestamp) -> i64 {
    time.as_ms().div_euclid(DAY_MS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_empty_or_zero() {
        let drawn = Secret::draw().unwrap();
        assert_ne!(drawn.0, [0; 32]);
        assert_eq!(Secret::read("day-1", Some(&drawn.0)).unwrap().0, drawn.0);
        let refused = |found: Option<&[u8]>| Secret::read("day-1", found).err().unwrap();
        assert!(matches!(refused(None), SecretError::Absent { .. }));
        for unfit in [&[][..], &[0; 32], &[1; 31], &[1; 33]] {
            let error = refused(Some(unfit));
            assert!(matches!(error, SecretError::Unfit { .. }), "{error}");
        }
    }

    #[test]
    fn a_secret_is_forgotten_when_its_day_is_over() {
        let mut secrets = Secrets {
            today: Some((1, Secret([1; 32]))),
            ..Secrets::default()
        };
        secrets.forget(Timestamp::from_ms(2 * DAY_MS - 1));
        assert!(secrets.today.is_some());
        secrets.forget(Timestamp::from_ms(2 * DAY_MS));
        assert!(secrets.today.is_none());
    }

    #[test]
    fn numbers_are_of_their_day() {
        let days = [Secret([1; 32]), Secret([2; 32])];
        let [one, other] = days.map(|secret| secret.number("192.0.2.0/24"));
        assert_ne!(one, other);
        assert_eq!(one, Secret([1; 32]).number("192.0.2.0/24"));
    }
}
