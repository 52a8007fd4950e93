//! What mirrorlog needs of the server, and the comparison with what the server has.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::stream::{
    Compression, Config, DiscardPolicy, RetentionPolicy, StorageType,
};
use mirrorlog_core::limits::{EVENT_MAX_BYTES, REPORT_MAX_BYTES, STATEMENT_MAX_BYTES};
use serde::Serialize;
use serde_json::Value;

use super::LogError;

/// Oldest nats-server that works: 2.9 ignores `filter_subjects` in silence, 2.10.0-22 lose messages on restart.
pub(super) const SERVER_MIN: (u32, u32, u32) = (2, 10, 23);

/// The stream of events.
pub(super) const LOG: &str = "MIRRORLOG";
/// The stream of mirrors' reports.
pub(super) const REPORT: &str = "MIRRORLOG_REPORT";
/// The stream of verdicts.
pub(super) const VERDICT: &str = "MIRRORLOG_VERDICT";
/// The stream of operators' orders.
pub(super) const ORDER: &str = "MIRRORLOG_ORDER";
/// The stream of what clients saw.
pub(super) const FEEDBACK: &str = "MIRRORLOG_FEEDBACK";
/// All that is in the stream of events.
pub(super) const EVENTS: &str = "mirrorlog.log.>";
/// All that is in the stream of reports.
pub(super) const REPORTS: &str = "mirrorlog.report.>";
/// All that is in the stream of verdicts.
pub(super) const VERDICTS: &str = "mirrorlog.verdict.>";
/// All that clients saw.
pub(super) const CLIENTS_WORDS: &str = "mirrorlog.feedback.*.*";
/// The buckets that every network has, without their prefix.
pub(super) const BUCKETS: [&str; 7] = ["head", "build", "wanted", "lease", "drain", ROOT, SALT];
/// The bucket of root documents.
pub(super) const ROOT: &str = "root";
/// Largest root document, in bytes: with headers it is within nats-server's `max_payload`.
const ROOT_MAX_BYTES: usize = 1000 * 1024;
/// The bucket of secrets that make numbers of neighbourhoods, one a day.
pub(super) const SALT: &str = "salt";

/// How long a message id is remembered: an outbox that retries within it makes no second event.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(60 * 60);
/// Room for headers beside a message's payload, in bytes.
const HEADERS_MAX_BYTES: usize = 4 * 1024;
/// What clients saw is forgotten by the log after this time, and by its readers too.
const FEEDBACK_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Words of one network about one mirror; of more, the newest. A flood pushes out only its own network's.
const FEEDBACK_SUBJECT_MAX: i64 = 64;
/// A secret is needed on its day only, and nobody may have it when its numbers have to be forgotten.
const SALT_AGE: Duration = Duration::from_secs(2 * 24 * 60 * 60);
/// A few secrets of 32 bytes.
const SALT_MAX_BYTES: i64 = MIB / 16;
const SALT_MESSAGE_MAX_BYTES: usize = 1024;
/// Largest word of a client, in bytes.
const FEEDBACK_MAX_BYTES: usize = 1024;
const MIB: i64 = 1024 * 1024;

/// All streams but the buckets'.
pub(super) fn streams() -> [Config; 5] {
    [
        Config {
            subjects: vec![
                "mirrorlog.log.bulk.*".into(),
                "mirrorlog.log.priority.*".into(),
            ],
            max_bytes: 1024 * MIB,
            max_message_size: message_max(EVENT_MAX_BYTES),
            duplicate_window: DUPLICATE_WINDOW,
            ..stream(LOG)
        },
        Config {
            subjects: vec!["mirrorlog.report.*.*".into()],
            max_bytes: 1024 * MIB,
            max_message_size: message_max(REPORT_MAX_BYTES),
            max_messages_per_subject: 2,
            ..stream(REPORT)
        },
        Config {
            subjects: vec!["mirrorlog.verdict.*.*".into()],
            max_bytes: 512 * MIB,
            max_message_size: message_max(STATEMENT_MAX_BYTES),
            max_messages_per_subject: 64,
            ..stream(VERDICT)
        },
        Config {
            subjects: vec!["mirrorlog.order.*".into()],
            max_bytes: 16 * MIB,
            max_message_size: message_max(STATEMENT_MAX_BYTES),
            max_messages_per_subject: 64,
            duplicate_window: DUPLICATE_WINDOW,
            ..stream(ORDER)
        },
        Config {
            subjects: vec![CLIENTS_WORDS.into()],
            max_bytes: 64 * MIB,
            max_message_size: message_max(FEEDBACK_MAX_BYTES),
            max_messages_per_subject: FEEDBACK_SUBJECT_MAX,
            max_age: FEEDBACK_AGE,
            ..stream(FEEDBACK)
        },
    ]
}

/// The declared stream of that name; a bucket's stream when it is none of [`streams`].
pub(super) fn stream_named(name: &str) -> Config {
    streams()
        .into_iter()
        .find(|config| config.name == name)
        .unwrap_or_else(|| bucket_stream(name.strip_prefix("KV_mirrorlog_").unwrap_or(name)))
}

/// The stream behind bucket `mirrorlog_<name>`, laid out as NATS' own KV clients do (ADR-8 of nats-architecture-and-design).
pub(super) fn bucket_stream(name: &str) -> Config {
    let bucket = Config {
        subjects: vec![format!("$KV.mirrorlog_{name}.>")],
        max_bytes: 64 * MIB,
        max_message_size: message_max(STATEMENT_MAX_BYTES),
        max_messages_per_subject: 4,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        ..stream(&format!("KV_mirrorlog_{name}"))
    };
    if name == ROOT {
        return Config {
            max_message_size: message_max(ROOT_MAX_BYTES),
            max_bytes: 256 * MIB,
            ..bucket
        };
    }
    if name == SALT {
        // No value outlives its age, in no revision before the last either.
        return Config {
            max_messages_per_subject: 1,
            max_message_size: message_max(SALT_MESSAGE_MAX_BYTES),
            max_age: SALT_AGE,
            // In memory: a file keeps what has expired until it is written anew.
            storage: StorageType::Memory,
            max_bytes: SALT_MAX_BYTES,
            ..bucket
        };
    }
    bucket
}

/// What all streams have in common. Every limit that the server would fill in is named, so that its echo can be compared.
fn stream(name: &str) -> Config {
    Config {
        name: name.into(),
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_consumers: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        num_replicas: 1,
        duplicate_window: Duration::from_secs(2 * 60),
        allow_direct: true,
        compression: Some(Compression::None),
        ..Config::default()
    }
}

fn message_max(payload_max_bytes: usize) -> i32 {
    i32::try_from(payload_max_bytes + HEADERS_MAX_BYTES).unwrap_or(i32::MAX)
}

/// Settings of streams that operators may choose: none changes what mirrorlog relies on.
const STREAM_FREE: [&str; 4] = ["description", "metadata", "persist_mode", "placement"];
/// Settings of consumers that are not compared: the start is where the consumer was made, which is no more where it is.
const CONSUMER_FREE: [&str; 6] = [
    "deliver_policy",
    "description",
    "metadata",
    "name",
    "opt_start_seq",
    "opt_start_time",
];

/// Compares a stream with its declaration. More replicas than declared are accepted.
///
/// # Errors
/// [`LogError::Differs`] naming the first setting that differs.
pub(super) fn same_stream(asked: &Config, echoed: &Config) -> Result<(), LogError> {
    let mut asked = asked.clone();
    asked.num_replicas = asked.num_replicas.max(echoed.num_replicas);
    same(
        &format!("stream {}", asked.name),
        &asked,
        echoed,
        &STREAM_FREE,
    )
}

/// Compares a consumer with what was asked.
///
/// # Errors
/// [`LogError::Differs`] naming the first setting that differs.
pub(super) fn same_consumer(
    name: &str,
    asked: &async_nats::jetstream::consumer::Config,
    echoed: &async_nats::jetstream::consumer::Config,
) -> Result<(), LogError> {
    same(&format!("consumer {name}"), asked, echoed, &CONSUMER_FREE)
}

fn same<T: Serialize>(what: &str, asked: &T, echoed: &T, free: &[&str]) -> Result<(), LogError> {
    let fields = |config: &T| match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(LogError::down(
            format!("comparing {what}"),
            format!("not an object: {other}"),
        )),
        Err(error) => Err(LogError::down(format!("comparing {what}"), error)),
    };
    let (asked, echoed) = (fields(asked)?, fields(echoed)?);
    let names: BTreeSet<&String> = asked.keys().chain(echoed.keys()).collect();
    for field in names {
        let value =
            |side: &serde_json::Map<String, Value>| side.get(field).cloned().unwrap_or(Value::Null);
        let (asked, echoed) = (value(&asked), value(&echoed));
        if asked != echoed && !free.contains(&field.as_str()) {
            return Err(LogError::Differs {
                what: what.into(),
                field: field.clone(),
                asked: asked.to_string(),
                echoed: echoed.to_string(),
            });
        }
    }
    Ok(())
}

/// Checks the version that a server gives.
///
/// # Errors
/// [`LogError::TooOld`] for one before 2.10.23 and for what is no version.
pub(super) fn check_version(version: &str) -> Result<(), LogError> {
    match parse_version(version) {
        Some(found) if found >= SERVER_MIN => Ok(()),
        Some(_) | None => Err(LogError::TooOld {
            version: version.into(),
        }),
    }
}

/// Reads `2.10.27` or `2.12.0-RC.1`.
pub(super) fn parse_version(version: &str) -> Option<(u32, u32, u32)> {
    let core = version
        .trim()
        .trim_start_matches('v')
        .split(['-', '+'])
        .next()?;
    let mut numbers = core.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for good in ["2.10.23", "v2.10.27", "2.11.0", "2.12.0-RC.1", "3.0.0"] {
            check_version(good).unwrap();
        }
        for bad in ["2.9.10", "2.10.3", "2.10.22", "1.99.99", "", "new", "2.10"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_alone_are_forgotten_among_buckets() {
        for name in BUCKETS {
            let config = bucket_stream(name);
            let kept = (config.max_messages_per_subject, config.max_age);
            let forgets = (1, Duration::from_secs(172_800));
            let keeps = (4, Duration::ZERO);
            assert_eq!(kept, if name == SALT { forgets } else { keeps }, "{name}");
            // However it is found again.
            same_stream(&config, &stream_named(&config.name)).unwrap();
        }
    }

    #[test]
    fn feedback_is_bounded_by_mirror_and_network() {
        let config = stream_named(FEEDBACK);
        assert_eq!(config.subjects, ["mirrorlog.feedback.*.*"]);
        assert_eq!(config.max_messages_per_subject, 64);
    }

    #[test]
    fn any_setting_that_differs_is_named() {
        let asked = stream_named(LOG);
        same_stream(&asked, &asked).unwrap();
        let more_replicas = Config {
            num_replicas: 3,
            ..asked.clone()
        };
        same_stream(&asked, &more_replicas).unwrap();
        for (field, echoed) in [
            (
                "max_bytes",
                Config {
                    max_bytes: 1,
                    ..asked.clone()
                },
            ),
            (
                "deny_purge",
                Config {
                    deny_purge: true,
                    ..asked.clone()
                },
            ),
            (
                "allow_direct",
                Config {
                    allow_direct: false,
                    ..asked.clone()
                },
            ),
            (
                "subjects",
                Config {
                    subjects: vec!["mirrorlog.log.>".into()],
                    ..asked.clone()
                },
            ),
        ] {
            let error = same_stream(&asked, &echoed).unwrap_err();
            assert!(
                matches!(&error, LogError::Differs { field: named, .. } if named == field),
                "{error}"
            );
        }
    }
}
