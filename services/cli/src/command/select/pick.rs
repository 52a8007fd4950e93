//! Mirrors are measured, at most two at a time so that they do not disturb each other.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::{Candidates, Carried, Client, Measured, Outcome};
use futures::StreamExt as _;
use mirrorlog_core::client::choice::{self, Tried};
use mirrorlog_core::id::Build;

use crate::failure::{DOWN, Failure};
use crate::output::plain;

/// Measured at a time.
const AT_ONCE: usize = 2;
/// Measured where a person chooses.
const MEASURED_MAX: usize = 8;

/// How far a mirror's measuring has come.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Standing {
    /// It is not measured.
    Idle,
    /// Its turn comes.
    Queued,
    /// It is being measured.
    Measuring,
    /// It was measured.
    Done(Measured),
}

impl Standing {
    pub(super) fn measured(&self) -> Option<Measured> {
        match self {
            Self::Done(measured) => Some(measured.clone()),
            Self::Idle | Self::Queued | Self::Measuring => None,
        }
    }
}

/// How far all of them are, by their places. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Mutex<Vec<Standing>>>);

impl Progress {
    pub(super) fn new(found: &Candidates) -> Self {
        Self(Arc::new(Mutex::new(vec![
            Standing::Idle;
            found.offered.len()
        ])))
    }

    pub(super) fn at(&self, place: usize) -> Standing {
        self.all().get(place).cloned().unwrap_or(Standing::Idle)
    }

    pub(super) fn set(&self, place: usize, standing: Standing) {
        if let Some(one) = self.all().get_mut(place) {
            *one = standing;
        }
    }

    /// Why some have no speed.
    pub(super) fn troubles(&self) -> Vec<(usize, String)> {
        let all = self.all();
        let troubles = all.iter().enumerate().filter_map(|(place, one)| {
            let reason = match one.measured()?.outcome {
                Outcome::Failed(reason) => reason,
                Outcome::Cache(why) => format!("{why}: its speed cannot be told"),
                Outcome::Measured(_) | Outcome::Known(_) => return None,
            };
            Some((place, reason))
        });
        troubles.collect()
    }

    /// The best of those that were measured.
    pub(super) fn best(&self) -> Option<usize> {
        let all = self.all();
        let tried = all.iter().enumerate().filter_map(|(place, one)| {
            let tried = match one.measured()?.outcome {
                Outcome::Measured(speed) | Outcome::Known(speed) => Tried::Speed(speed),
                Outcome::Cache(_) => Tried::Answers,
                Outcome::Failed(_) => Tried::Failed,
            };
            Some((place, tried))
        });
        choice::best(&tried.collect::<Vec<_>>())
    }

    fn all(&self) -> MutexGuard<'_, Vec<Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries two that are thought the best and a random one, and takes the fastest; when all fail, the next three.
pub(super) async fn auto(
    client: &Client,
    channel: &Carried,
    found: &Candidates,
    progress: &Progress,
) -> Result<usize, Failure> {
    let mut passed = Vec::new();
    loop {
        let random = getrandom::u64().unwrap_or_default();
        let places = choice::to_try(found.offered.len(), &passed, random);
        if places.is_empty() {
            let tried = progress.troubles().into_iter();
            let tried = tried
                .map(|(place, reason)| format!("{} {}", found.offered[place].id, plain(&reason)));
            let text = format!(
                "no mirror for {} answers: {}",
                channel.id,
                tried.collect::<Vec<_>>().join("; ")
            );
            return Err(Failure::text(DOWN, text));
        }
        measure(
            client.clone(),
            channel.clone(),
            found.clone(),
            progress.clone(),
            places.clone(),
        )
        .await;
        if let Some(place) = progress.best() {
            return Ok(place);
        }
        passed.extend(places);
    }
}

/// Measures the nearest ones, for a person who looks on.
pub(super) fn measure_some(
    client: &Client,
    channel: &Carried,
    found: &Candidates,
    progress: &Progress,
) -> impl Future<Output = ()> + Send + use<> {
    let places: Vec<usize> = (0..found.offered.len().min(MEASURED_MAX)).collect();
    for place in &places {
        progress.set(*place, Standing::Queued);
    }
    measure(
        client.clone(),
        channel.clone(),
        found.clone(),
        progress.clone(),
        places,
    )
}

async fn measure(
    client: Client,
    channel: Carried,
    found: Candidates,
    progress: Progress,
    places: Vec<usize>,
) {
    let build = found.build.unwrap_or(Build::FIRST);
    let (client, channel, found, progress) = (&client, &channel, &found, &progress);
    let each = futures::stream::iter(places).map(|place| async move {
        progress.set(place, Standing::Measuring);
        let measured = client
            .measure(&found.offered[place], &channel.id, build)
            .await;
        progress.set(place, Standing::Done(measured));
    });
    each.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}
