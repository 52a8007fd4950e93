//! What mirrors of one pool tell each other: beside the log, kept by nobody, lost without harm.

use bytes::Bytes;
use futures::StreamExt as _;
use mirrorlog_core::id::{MirrorId, PoolId};

use super::{Log, LogError};

/// The notices of a pool, from now on. Survives reconnects.
#[derive(Debug)]
pub struct Notices(async_nats::Subscriber);

impl Notices {
    /// The next notice: whose subject it came on, and what it says.
    ///
    /// # Errors
    /// [`LogError::Down`] when the connection was closed for good.
    pub async fn next(&mut self) -> Result<(MirrorId, Bytes), LogError> {
        loop {
            let Some(message) = self.0.next().await else {
                return Err(LogError::down(
                    "listening to peers",
                    "the connection is closed",
                ));
            };
            let mirror = message.subject.rsplit('.').next();
            match mirror.map(MirrorId::new) {
                Some(Ok(mirror)) => return Ok((mirror, message.payload)),
                Some(Err(_)) | None => {
                    tracing::debug!(subject = %message.subject, "no mirror's subject")
                }
            }
        }
    }
}

impl Log {
    /// Tells the mirrors of a pool something, now or never: nothing waits for an answer.
    ///
    /// # Errors
    /// [`LogError::Down`] when the connection was closed for good.
    pub async fn tell_peers(
        &self,
        pool: &PoolId,
        mirror: &MirrorId,
        payload: Bytes,
    ) -> Result<(), LogError> {
        let subject = format!("mirrorlog.peer.{pool}.{mirror}");
        let told = self.client.publish(subject, payload).await;
        told.map_err(|error| LogError::down("telling peers", error))
    }

    /// What the mirrors of a pool say, this one's own words too.
    ///
    /// # Errors
    /// [`LogError::Down`].
    pub async fn peers(&self, pool: &PoolId) -> Result<Notices, LogError> {
        let subscribed = self
            .client
            .subscribe(format!("mirrorlog.peer.{pool}.*"))
            .await;
        let subscribed = subscribed.map_err(|error| LogError::down("listening to peers", error))?;
        Ok(Notices(subscribed))
    }
}
