//! What comes with requests.

use axum::http::{HeaderMap, HeaderValue, Method};
use directory::http::feedback;
use mirror::http::conditions::{Outcome, Version, judge};
use mirrorlog_core::directory::speed::{Failure, Outcome as SpeedOutcome};
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::url::{Asked, encode, encode_path};

use crate::cut;

pub(crate) fn url_path(data: &[u8]) {
    // Written and read, any path without NUL and newline comes back.
    if let Ok(path) = EntryPath::new(data) {
        let written = format!("/{}", encode_path(data));
        let asked = Asked::parse(&written).unwrap();
        assert_eq!((&asked.path[..], asked.slash), (path.as_bytes(), false));
        let name = format!("/{}", encode(path.name()));
        assert_eq!(Asked::parse(&name).unwrap().path, path.name());
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(asked) = Asked::parse(text) else {
        return;
    };
    let parts = || asked.path.split(|&byte| byte == b'/');
    assert!(asked.path.is_empty() || parts().all(|part| ![&b""[..], b".", b".."].contains(&part)));
    assert!(!asked.path.iter().any(|byte| [0, b'\n'].contains(byte)));
    assert_eq!(asked.own().is_some(), parts().next() == Some(b"@"));
    let slash = if asked.slash && !asked.path.is_empty() {
        "/"
    } else {
        ""
    };
    let written = format!("/{}{slash}", encode_path(&asked.path));
    assert_eq!(Asked::parse(&written).unwrap(), asked);
}

/// A method, then headers of conditions and ranges, on lines.
pub(crate) fn conditions(data: &[u8]) {
    const NAMES: [&str; 6] = [
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
    ];
    const TAG: &str = "\"e3b0\"";
    let (method, lines) = cut(data, b'\n');
    let method = Method::from_bytes(method).unwrap_or(Method::GET);
    let mut headers = HeaderMap::new();
    for line in lines.split(|&byte| byte == b'\n') {
        let (name, value) = cut(line, b':');
        let name = NAMES.iter().find(|one| one.as_bytes() == name);
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(*name, value);
        }
    }
    for size_bytes in [0, 1, 1000, u64::MAX] {
        let version = Version {
            tag: TAG,
            modified: Some(1_795_305_030),
            size_bytes,
        };
        if let Outcome::Part(range) = judge(&method, &headers, version) {
            assert!(
                range.start() <= range.end() && *range.end() < size_bytes,
                "{range:?}"
            );
            assert_eq!(method, Method::GET);
        }
    }
}

/// What a client says of mirrors.
pub(crate) fn feedback_body(data: &[u8]) {
    let Ok(samples) = feedback::read(data) else {
        return;
    };
    assert!(samples.len() <= feedback::SAMPLES_MAX);
    for sample in &samples {
        match feedback::outcome_of(sample) {
            Ok(SpeedOutcome::Speed(speed)) => assert!(speed.is_finite() && speed >= 0.0),
            Ok(SpeedOutcome::Failed(kind)) => {
                traced(kind, sample.trace.as_deref().unwrap_or_default())
            }
            Ok(SpeedOutcome::Fine) | Err(_) => {}
        }
    }
}

/// What is kept of a client's trace is one line of bounded length.
fn traced(kind: Failure, trace: &str) {
    let mirror = MirrorId::new("nz1").unwrap();
    let line = directory::traces::line(Timestamp::EPOCH, &mirror, kind, trace);
    assert!(line.ends_with('\n') && line.lines().count() == 1 && line.len() < 32 * 1024);
}

/// What a directory says of mirrors and channels; a client goes where it says, and shows it to people.
pub(crate) fn directory_answers(data: &[u8]) {
    for named in client::read_mirrors(data).into_iter().flatten() {
        let unseen = |text: &str| text.chars().any(|c| c.is_control() || c.is_whitespace());
        assert!(!unseen(&named.id), "{named:?} forges lines");
        assert!(
            !unseen(&named.url) && !named.url.ends_with('/'),
            "{named:?} forges lines"
        );
        assert!(named.url.starts_with("http"), "{named:?}");
    }
    client::read_channels(data).ok();
}
