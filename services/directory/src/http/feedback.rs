//! `POST /v1/feedback`: what a client saw of mirrors. Opt-in, without paths and without who it is.
//!
//! ```json
//! {"samples": [
//!   {"mirror": "nz1", "build": 37, "bytes": 1048576, "time": 0.8, "outcome": "ok"},
//!   {"mirror": "nz2", "build": 37, "outcome": "timeout", "trace": "…"}
//! ]}
//! ```
//!
//! `time` is in seconds. `outcome` is `ok`, or how it failed: `dns connection tls timeout status missing corrupt
//! stale`. Downloads below 64 KiB count as good and say nothing about speed. One sample may stand alone, without
//! the list. Fields that are not named here are neither read nor kept.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use mirrorlog_core::directory::speed::{Failure, Outcome, SPEED_BYTES_MIN};
use mirrorlog_core::id::MirrorId;
use serde::Deserialize;
use serde_json::json;

use super::Face;
use super::ask::Peer;
use super::refusal::Refusal;
use crate::feedback::Declined;
use crate::gauges::FeedbackLabels;

/// Samples in one request.
const SAMPLES_MAX: usize = 100;
/// Longest trace, in bytes.
const TRACE_MAX_BYTES: usize = 16 * 1024;

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Many { samples: Vec<WrittenSample> },
    One(WrittenSample),
}

#[derive(Deserialize)]
struct WrittenSample {
    mirror: String,
    #[serde(default)]
    bytes: u64,
    #[serde(default, alias = "seconds")]
    time: f64,
    #[serde(default)]
    outcome: Option<String>,
    #[serde(default)]
    trace: Option<String>,
}

pub(super) async fn answer(
    State(face): State<Arc<Face>>,
    Peer(peer): Peer,
    body: Bytes,
) -> Result<Response, Refusal> {
    if !face.intake.accepts() {
        return Err(Refusal::forbidden("this directory takes no feedback"));
    }
    let written: Written = serde_json::from_slice(&body).map_err(|error| {
        Refusal::bad_request(format!(
            "a JSON object with mirror, bytes, time and outcome, or with a list of such as samples, is needed: {error}"
        ))
    })?;
    let samples = match written {
        Written::Many { samples } => samples,
        Written::One(sample) => vec![sample],
    };
    if samples.len() > SAMPLES_MAX {
        let text = format!(
            "{} samples, at most {SAMPLES_MAX} are taken at a time",
            samples.len()
        );
        return Err(Refusal::bad_request(text));
    }
    let place = face.site.place(peer, None);
    let count = |outcome| {
        let labels = FeedbackLabels { outcome };
        face.gauges.feedback.get_or_create(&labels).inc();
    };
    let (mut taken, mut ignored, mut limited) = (0, Vec::new(), false);
    for (index, sample) in samples.into_iter().enumerate() {
        let reason = match read(&face, &sample) {
            Err(reason) => {
                count("unusable");
                reason
            }
            Ok((mirror, outcome)) => match face.intake.take(&place, mirror.clone(), outcome) {
                Ok(()) => {
                    count("taken");
                    taken += 1;
                    if let (Some(trace), Outcome::Failed(kind)) = (&sample.trace, outcome) {
                        face.traces.keep(&mirror, kind, trace, TRACE_MAX_BYTES);
                    }
                    continue;
                }
                Err(Declined::Limited | Declined::Full) => {
                    count("limited");
                    limited = true;
                    "too many samples from there, try again later"
                }
                Err(Declined::Nowhere) => {
                    count("unusable");
                    "the client's address is not known"
                }
            },
        };
        ignored.push(json!({ "index": index, "reason": reason }));
    }
    if taken == 0 && limited {
        return Err(Refusal::too_many(
            "too many samples from there, try again later",
        ));
    }
    let answer = json!({ "accepted": taken, "ignored": ignored });
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

fn read(face: &Face, sample: &WrittenSample) -> Result<(MirrorId, Outcome), &'static str> {
    let mirror = sample.mirror.parse::<MirrorId>().ok();
    let mirror = mirror.filter(|mirror| face.site.view().find(mirror).is_some());
    let mirror = mirror.ok_or("no mirror has this id")?;
    let outcome = match sample.outcome.as_deref() {
        None | Some("ok") => {
            if sample.bytes < SPEED_BYTES_MIN {
                Outcome::Fine
            } else if sample.time.is_finite() && sample.time > 0.0 {
                Outcome::Speed(sample.bytes as f64 / sample.time)
            } else {
                return Err("time is no number of seconds above 0");
            }
        }
        Some(kind) => Outcome::Failed(Failure::from_name(kind).ok_or(
            "outcome is none of ok, dns, connection, tls, timeout, status, missing, corrupt, stale",
        )?),
    };
    Ok((mirror, outcome))
}
