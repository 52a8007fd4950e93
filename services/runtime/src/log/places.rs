//! The few names that readers of one service of the centre share: who has which, and which is free (ADR 24).

use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::stream;
use futures::future::join_all;

use super::consumer::Plan;
use super::making::{consumer_error, is_absent, is_leaderless};
use super::{Log, LogError};

/// What a consumer that has one of several names says of itself: whose it is.
pub(super) const READER: &str = "mirrorlog-reader";
/// Longest wait for those who hold a consumer whose name is looked for: its server may be down, and whoever asked waits.
pub(super) const LOOK_UP_TIMEOUT: Duration = Duration::from_millis(300);
/// Who has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Free,
    /// The reader's number, if it says one.
    Of(Option<String>),
    /// Nobody answers for it.
    Unknown,
}

impl Log {
    /// Makes a consumer for somebody else. Gives its name where that was one of several.
    pub(super) async fn make_for(&self, mut plan: Plan) -> Result<Option<String>, LogError> {
        if plan.places.is_empty() {
            self.make_own_consumer(plan).await?;
            return Ok(None);
        }
        let place = self.free_place(&plan).await?;
        plan.config.name = Some(place.clone());
        self.make_own_consumer(plan).await?;
        Ok(Some(place))
    }

    /// The name that this reader had before, or the first that nobody has.
    async fn free_place(&self, plan: &Plan) -> Result<String, LogError> {
        let doing = || format!("looking for a place for a reader of {}", plan.stream);
        let reader = plan.config.metadata.get(READER);
        let looked_up = plan
            .places
            .iter()
            .map(|place| self.look_up(place, &plan.stream));
        let (mut own, mut free, mut unknown) = (None, None, 0);
        for (place, standing) in plan.places.iter().zip(join_all(looked_up).await) {
            match standing {
                Ok(Standing::Free) => free = free.or(Some(place)),
                Ok(Standing::Of(had_by)) if had_by.is_some() && had_by.as_ref() == reader => {
                    own = Some(place);
                }
                Ok(Standing::Of(_)) => {}
                // One whose server is down is somebody's, for all that is known.
                Ok(Standing::Unknown) => unknown += 1,
                Err(error) => return Err(consumer_error(&doing(), error)),
            }
        }
        own.or(free).cloned().ok_or_else(|| {
            let all = plan.places.len();
            let reason = match unknown {
                0 => format!("all {all} are taken, some by readers that ended within the minute"),
                some => format!(
                    "none of {all} is known to be free: no nats-server answers for {some} of them"
                ),
            };
            LogError::down(doing(), reason)
        })
    }

    async fn look_up(&self, place: &str, stream: &str) -> Result<Standing, stream::ConsumerError> {
        let asked = self.jetstream.get_consumer_from_stream(place, stream);
        let there: Consumer<pull::Config> = match tokio::time::timeout(LOOK_UP_TIMEOUT, asked).await
        {
            Err(_) => return Ok(Standing::Unknown),
            Ok(Err(error)) if is_absent(&error) => return Ok(Standing::Free),
            Ok(Err(error)) if is_leaderless(&error) => return Ok(Standing::Unknown),
            Ok(there) => there?,
        };
        let metadata = &there.cached_info().config.metadata;
        Ok(Standing::Of(metadata.get(READER).cloned()))
    }
}
