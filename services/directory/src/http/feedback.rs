//! `POST /v1/feedback`: what a client saw of mirrors. Opt-in, without paths and without who it is.
//!
//! ```json
//! {"samples": [
//!   {"mirror": "nz1", "build": 37, "bytes": 1048576, "time": 0.8, "outcome": "ok"},
//!   {"mirror": "nz2", "build": 37, "outcome": "timeout", "trace": "…"}
//! ]}
//! ```
//!
//! The list may stand alone, without the object around it. `time` is in seconds. `outcome` is `ok`, or how it failed: `dns connection tls timeout status missing corrupt
//! stale`. Downloads below 64 KiB count as good and say nothing about speed. One sample may stand alone, without
//! the list. Fields that are not named here are neither read nor kept; `null` is as if it were not there.
//!
//! What is not of this form is refused as a whole, with the sample and the field that are wrong. What is of it and
//! cannot be used (an unknown mirror, a time of 0) is passed over, with its reason.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use mirrorlog_core::directory::speed::{Failure, Outcome, SPEED_BYTES_MIN};
use mirrorlog_core::id::MirrorId;
use serde_json::{Value, json};

use super::Face;
use super::ask::Peer;
use super::refusal::Refusal;
use crate::feedback::Declined;
use crate::gauges::FeedbackLabels;

/// Samples in one request.
pub const SAMPLES_MAX: usize = 100;

/// What a client wrote about one download. Whether it makes sense is another question.
#[derive(Debug, Default, PartialEq)]
pub struct Written {
    /// Of which mirror.
    pub mirror: String,
    /// How many came.
    pub bytes: u64,
    /// In seconds.
    pub time: f64,
    /// `ok`, or how it failed; what is not said is `ok`.
    pub outcome: Option<String>,
    /// A traceroute, or the like.
    pub trace: Option<String>,
}

pub(super) async fn answer(
    State(face): State<Arc<Face>>,
    Peer(peer): Peer,
    body: Bytes,
) -> Result<Response, Refusal> {
    if !face.intake.accepts() {
        return Err(Refusal::forbidden("this directory takes no feedback"));
    }
    let samples = read(&body).map_err(Refusal::bad_request)?;
    let place = face.site.place(peer, None);
    let count = |outcome| {
        let labels = FeedbackLabels { outcome };
        face.gauges.feedback.get_or_create(&labels).inc();
    };
    let (mut taken, mut ignored, mut limited) = (0, Vec::new(), false);
    for (index, sample) in samples.into_iter().enumerate() {
        let reason = match usable(&face, &sample) {
            Err(reason) => {
                count("unusable");
                reason
            }
            Ok((mirror, outcome)) => match face.intake.take(&place, mirror.clone(), outcome) {
                Ok(()) => {
                    count("taken");
                    taken += 1;
                    if let (Some(trace), Outcome::Failed(kind)) = (&sample.trace, outcome) {
                        face.traces.keep(&mirror, kind, trace);
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

fn usable(face: &Face, sample: &Written) -> Result<(MirrorId, Outcome), &'static str> {
    let mirror = sample.mirror.parse::<MirrorId>().ok();
    let mirror = mirror.filter(|mirror| face.site.view().find(mirror).is_some());
    let mirror = mirror.ok_or("no mirror has this id")?;
    Ok((mirror, outcome_of(sample)?))
}

/// What a sample says of its mirror.
///
/// # Errors
/// Why it says nothing.
pub fn outcome_of(sample: &Written) -> Result<Outcome, &'static str> {
    if sample.time < 0.0 {
        return Err("time is below 0");
    }
    match sample.outcome.as_deref() {
        None | Some("ok") if sample.bytes < SPEED_BYTES_MIN => Ok(Outcome::Fine),
        None | Some("ok") => {
            // Nor is infinity a speed, which the smallest times would give.
            let speed = sample.bytes as f64 / sample.time;
            if speed.is_finite() {
                Ok(Outcome::Speed(speed))
            } else {
                Err("time is no number of seconds above 0")
            }
        }
        Some(kind) => Failure::from_name(kind).map(Outcome::Failed).ok_or(
            "outcome is none of ok, dns, connection, tls, timeout, status, missing, corrupt, stale",
        ),
    }
}

/// Reads a request's body.
///
/// # Errors
/// What is wrong with it.
pub fn read(body: &[u8]) -> Result<Vec<Written>, String> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| format!("the body cannot be read as JSON: {error}"))?;
    // A list may stand alone too.
    let listed = body.is_array().then_some(&body);
    let Some(samples) = listed.or_else(|| field(&body, "samples")) else {
        if field(&body, "mirror").is_none() {
            return Err(
                "an object with mirror, bytes, time and outcome, or with a list of such as samples, is needed"
                    .to_owned(),
            );
        }
        return Ok(vec![sample(&body)?]);
    };
    let samples = samples.as_array().ok_or("samples is no list")?;
    if samples.len() > SAMPLES_MAX {
        return Err(format!(
            "{} samples, at most {SAMPLES_MAX} are taken at a time",
            samples.len()
        ));
    }
    let samples = samples.iter().enumerate();
    samples
        .map(|(index, value)| {
            sample(value).map_err(|error| format!("sample {index} (from 0 on): {error}"))
        })
        .collect()
}

fn sample(value: &Value) -> Result<Written, &'static str> {
    if !value.is_object() {
        return Err("it is no object");
    }
    let text = |name, wrong| {
        let text = field(value, name).map(|text| text.as_str().ok_or(wrong));
        text.transpose().map(|text| text.map(str::to_owned))
    };
    let bytes = field(value, "bytes")
        .map(|bytes| bytes.as_u64().ok_or("bytes is no whole number from 0 on"));
    let time = field(value, "time").or_else(|| field(value, "seconds"));
    let time = time.map(|time| time.as_f64().ok_or("time is no number"));
    Ok(Written {
        mirror: text("mirror", "mirror is no text")?.ok_or("mirror is missing")?,
        bytes: bytes.transpose()?.unwrap_or_default(),
        time: time.transpose()?.unwrap_or_default(),
        outcome: text("outcome", "outcome is no text")?,
        trace: text("trace", "trace is no text")?,
    })
}

fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).filter(|field| !field.is_null())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn written(mirror: &str) -> Written {
        Written {
            mirror: mirror.to_owned(),
            ..Written::default()
        }
    }

    #[test]
    fn one_or_many_are_read() {
        let alone = br#"{"mirror": "nz1", "build": 37, "bytes": 1048576, "time": 0.8, "outcome": "ok", "me": [{}]}"#;
        let nz1 = Written {
            bytes: 1_048_576,
            time: 0.8,
            outcome: Some("ok".to_owned()),
            ..written("nz1")
        };
        assert_eq!(read(alone).unwrap(), [nz1]);
        let many = br#"{"samples": [
            {"mirror": "nz1", "outcome": "timeout", "trace": "1 *"},
            {"mirror": "nz2", "bytes": null, "seconds": 4, "outcome": null}
        ]}"#;
        let nz1 = Written {
            outcome: Some("timeout".to_owned()),
            trace: Some("1 *".to_owned()),
            ..written("nz1")
        };
        let nz2 = Written {
            time: 4.0,
            ..written("nz2")
        };
        assert_eq!(read(many).unwrap(), [nz1, nz2]);
        assert_eq!(read(br#"{"samples": []}"#).unwrap(), []);
        let list = br#"[{"mirror": "nz1"}, {"mirror": "nz2"}]"#;
        assert_eq!(read(list).unwrap(), ["nz1", "nz2"].map(written));
    }

    #[test]
    fn what_is_not_of_the_form_is_refused_with_what_is_wrong() {
        let bodies = [
            "",
            "no json",
            "\"nz1\"",
            "{}",
            r#"{"samples": {"mirror": "nz1"}}"#,
            r#"{"samples": [{"mirror": "nz1"}, "nz2"]}"#,
            r#"{"samples": [{"mirror": "nz1"}, {"mirror": 7}]}"#,
            r#"{"mirror": "nz1", "time": 1e400}"#,
            r#"{"mirror": "nz1", "time": NaN}"#,
            r#"{"mirror": "nz1", "time": "1"}"#,
            r#"{"mirror": "nz1", "bytes": 1.5}"#,
            r#"{"mirror": "nz1", "bytes": -1}"#,
            r#"{"mirror": "nz1", "bytes": 18446744073709551616}"#,
            r#"{"mirror": "nz1", "outcome": ["ok"]}"#,
        ];
        let told = bodies.map(|body| format!("{body} -> {}\n", read(body.as_bytes()).unwrap_err()));
        expect![[r#"
             -> the body cannot be read as JSON: EOF while parsing a value at line 1 column 0
            no json -> the body cannot be read as JSON: expected ident at line 1 column 2
            "nz1" -> an object with mirror, bytes, time and outcome, or with a list of such as samples, is needed
            {} -> an object with mirror, bytes, time and outcome, or with a list of such as samples, is needed
            {"samples": {"mirror": "nz1"}} -> samples is no list
            {"samples": [{"mirror": "nz1"}, "nz2"]} -> sample 1 (from 0 on): it is no object
            {"samples": [{"mirror": "nz1"}, {"mirror": 7}]} -> sample 1 (from 0 on): mirror is no text
            {"mirror": "nz1", "time": 1e400} -> the body cannot be read as JSON: number out of range at line 1 column 31
            {"mirror": "nz1", "time": NaN} -> the body cannot be read as JSON: expected value at line 1 column 27
            {"mirror": "nz1", "time": "1"} -> time is no number
            {"mirror": "nz1", "bytes": 1.5} -> bytes is no whole number from 0 on
            {"mirror": "nz1", "bytes": -1} -> bytes is no whole number from 0 on
            {"mirror": "nz1", "bytes": 18446744073709551616} -> bytes is no whole number from 0 on
            {"mirror": "nz1", "outcome": ["ok"]} -> outcome is no text
        "#]].assert_eq(&told.concat());
        let many = json!({ "samples": vec![json!({ "mirror": "nz1" }); 101] });
        let error = read(many.to_string().as_bytes()).unwrap_err();
        assert_eq!(error, "101 samples, at most 100 are taken at a time");
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let body = "[".repeat(60_000);
        assert!(read(body.as_bytes()).unwrap_err().contains("recursion"));
    }

    #[test]
    fn numbers_that_say_nothing_are_passed_over() {
        let of = |bytes, time, outcome: &str| {
            outcome_of(&Written {
                bytes,
                time,
                outcome: Some(outcome.to_owned()),
                ..written("nz1")
            })
        };
        assert_eq!(of(1_048_576, 0.5, "ok"), Ok(Outcome::Speed(2_097_152.0)));
        assert_eq!(of(1000, 0.0, "ok"), Ok(Outcome::Fine));
        assert_eq!(of(0, 0.0, "tls"), Ok(Outcome::Failed(Failure::Tls)));
        assert_eq!(outcome_of(&written("nz1")), Ok(Outcome::Fine));
        for time in [0.0, -0.0, 5e-324] {
            let error = of(u64::MAX, time, "ok").unwrap_err();
            assert_eq!(error, "time is no number of seconds above 0");
        }
        for (bytes, outcome) in [(1_048_576, "ok"), (1000, "ok"), (0, "tls")] {
            assert_eq!(of(bytes, -1.0, outcome), Err("time is below 0"));
        }
        assert!(
            of(0, 0.0, "slow")
                .unwrap_err()
                .starts_with("outcome is none of")
        );
    }
}
