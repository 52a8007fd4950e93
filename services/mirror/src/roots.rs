//! Root documents: followed, served, and what another one means for what is held.

use runtime::boot::Health;
use runtime::log::Log;
use runtime::trust::Trust;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::{Mailbox, Message};

/// The cause of a health that is degraded because the root document has run out.
const CAUSE: &str = "trust";

/// Follows root documents, and tells the engine of each that comes into force.
pub(crate) async fn follow(
    trust: Trust,
    mut log: watch::Receiver<Option<Log>>,
    engine: Mailbox,
    health: Health,
    stop: CancellationToken,
) {
    if trust.version().is_none() {
        return;
    }
    let mut changes = trust.changes();
    changes.mark_changed();
    let following = async {
        let Ok(connected) = log.wait_for(Option::is_some).await.map(|log| log.clone()) else {
            return;
        };
        if let Some(log) = connected {
            trust.clone().follow(log).await;
        }
    };
    let telling = async {
        while changes.changed().await.is_ok() {
            match trust.expired() {
                Some(version) => health.degrade(
                    CAUSE,
                    format!("root document {version} has expired: nothing new is believed"),
                ),
                None => health.recover(CAUSE),
            }
            if engine.send(Message::Trusted).await.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(async {
        tokio::join!(following, telling);
    })
    .await;
}
