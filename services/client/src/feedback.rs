//! What was seen of mirrors, told to the directory: only when the user wants it, without paths and without who it is.
//!
//! What cannot be told now waits in a file until a later run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirrorlog_core::client::climb::Answer;
use mirrorlog_core::id::Build;
use serde::{Deserialize, Serialize};

use crate::source::Web;
use crate::state::State;

/// Samples that wait; the oldest go first.
const QUEUE_MAX: usize = 1000;
/// Samples in one request, as many as a directory takes.
const AT_ONCE: usize = 100;
/// Longest that a command waits for it.
const PATIENCE: Duration = Duration::from_secs(3);
const QUEUE: &str = "feedback.json";

/// One download, as the directory reads it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Sample {
    /// The mirror's id.
    pub mirror: String,
    /// Of which build.
    pub build: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// In how many seconds.
    pub time: f64,
    /// `ok`, or how it failed.
    pub outcome: String,
}

/// The samples of a run, and those that wait. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Feedback(Arc<Inner>);

struct Inner {
    wanted: bool,
    directory: String,
    web: Web,
    state: State,
    fresh: Mutex<Vec<Sample>>,
}

impl Feedback {
    pub(crate) fn new(wanted: bool, directory: &str, web: Web, state: State) -> Self {
        let (directory, fresh) = (directory.to_owned(), Mutex::default());
        Self(Arc::new(Inner {
            wanted,
            directory,
            web,
            state,
            fresh,
        }))
    }

    pub(crate) fn fine(&self, mirror: &str, build: Build, bytes: u64, seconds: f64) {
        self.saw(mirror, build, "ok", bytes, seconds);
    }

    pub(crate) fn failed(&self, mirror: &str, build: Build, answer: Answer) {
        let outcome = match answer {
            Answer::Missing | Answer::Newer(_) => "missing",
            Answer::Older => "stale",
            Answer::Corrupt => "corrupt",
            Answer::Stalled => "timeout",
            Answer::Unreachable => "connection",
            Answer::Refused => "status",
            // The archive's doing, not the mirror's.
            Answer::Retracted => return,
            // It may be the own link: how fast it was says a sample of what came.
            Answer::Slow(_) => return,
        };
        self.saw(mirror, build, outcome, 0, 0.0);
    }

    fn saw(&self, mirror: &str, build: Build, outcome: &str, bytes: u64, time: f64) {
        if self.0.wanted {
            let (mirror, build, outcome) = (mirror.to_owned(), build.get(), outcome.to_owned());
            let sample = Sample {
                mirror,
                build,
                bytes,
                time,
                outcome,
            };
            self.fresh().push(sample);
        }
    }

    /// All that waits to be told.
    pub(crate) fn queued(&self) -> Vec<Sample> {
        let kept = self.0.state.read(QUEUE);
        let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut queued: Vec<Sample> = kept.unwrap_or_default();
        queued.extend(worth_telling(&self.fresh()));
        queued
    }

    /// Tells the directory what waits; what it does not take now waits on.
    pub(crate) async fn tell(&self) {
        if !self.0.wanted {
            return;
        }
        let mut queued = self.queued();
        self.fresh().clear();
        if queued.is_empty() {
            return;
        }
        let excess = queued.len().saturating_sub(QUEUE_MAX);
        queued.drain(..excess);
        while !queued.is_empty() {
            let some = &queued[..queued.len().min(AT_ONCE)];
            if !self.send(some).await {
                break;
            }
            queued.drain(..some.len());
        }
        if let Ok(bytes) = serde_json::to_vec(&queued) {
            self.0.state.write(QUEUE, &bytes);
        }
    }

    /// False when they are to be kept: what the directory will never take is dropped.
    async fn send(&self, samples: &[Sample]) -> bool {
        let url = format!("{}/v1/feedback", self.0.directory);
        let body = serde_json::json!({ "samples": samples }).to_string();
        let request = self.0.web.client().post(url).body(body).timeout(PATIENCE);
        let request = request.header(reqwest::header::CONTENT_TYPE, "application/json");
        match request.send().await {
            Ok(answer) => {
                let status = answer.status();
                status.is_success() || (status.is_client_error() && status.as_u16() != 429)
            }
            Err(error) => {
                tracing::debug!(%error, "feedback waits for a later run");
                false
            }
        }
    }

    fn fresh(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each failure of a mirror once; and none to be reached where nobody was: then it is this machine that has no network.
fn worth_telling(fresh: &[Sample]) -> Vec<Sample> {
    let is_silence = |sample: &Sample| ["connection", "timeout"].contains(&sample.outcome.as_str());
    let somebody_answered = fresh.iter().any(|sample| !is_silence(sample));
    let mut worth: Vec<Sample> = Vec::new();
    for sample in fresh
        .iter()
        .filter(|sample| somebody_answered || !is_silence(sample))
    {
        let same =
            |other: &Sample| other.mirror == sample.mirror && other.outcome == sample.outcome;
        if sample.outcome == "ok" || !worth.iter().any(same) {
            worth.push(sample.clone());
        }
    }
    worth
}
