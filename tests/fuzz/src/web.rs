//! What comes with requests.

use std::collections::BTreeSet;
use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use directory::http::ask::Question;
use directory::http::feedback;
use ipnet::IpNet;
use mirror::http::conditions::{Outcome, Version, judge};
use mirrorlog_core::directory::speed::{Failure, Outcome as SpeedOutcome};
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::limits::ID_MAX_BYTES;
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::url::{Asked, encode, encode_path};

use runtime::boot::client_behind;

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
        let begins = ["http://", "https://"].map(|start| named.url.starts_with(start));
        assert!(begins.contains(&true), "{named:?}");
    }
    client::read_channels(data).ok();
}

/// The query of a question to the directory.
pub(crate) fn directory_query(data: &[u8]) {
    let Ok(uri) = Uri::try_from([b"/v1/mirrors?", data].concat()) else {
        return;
    };
    let Ok(question) = Question::read(&uri) else {
        return;
    };
    assert!(question.limit <= 1000);
    for names in [&question.architectures, &question.components] {
        let short = |name: &String| !name.is_empty() && name.len() <= ID_MAX_BYTES;
        assert!(names.len() <= 64 && names.iter().all(short), "{names:?}");
        assert!(!names.iter().any(|name| name.contains(',')), "{names:?}");
    }
    // Asked in our own words it is the same question.
    let names = |names: &BTreeSet<String>| Vec::from_iter(names.iter().cloned()).join(",");
    let written = |text: &str| Vec::from_iter(text.bytes().map(|b| format!("%{b:02x}"))).concat();
    let text = |value: Option<String>| written(&value.unwrap_or_default());
    let asked = format!(
        "/v1/mirrors?channel={}&build={}&country={}&client_ip={}&limit={}&arch={}&component={}{}",
        text(question.channel.as_ref().map(ToString::to_string)),
        text(question.build.map(|build| build.to_string())),
        text(question.country.map(|country| country.to_string())),
        text(question.client.map(|client| client.to_string())),
        question.limit,
        text(Some(names(&question.architectures))),
        text(Some(names(&question.components))),
        question
            .path
            .as_ref()
            .map_or_else(String::new, |path| { format!("&path={}", written(path)) }),
    );
    assert_eq!(Question::read(&asked.parse().unwrap()), Ok(question));
}

/// What proxies say of whom they speak for, line by line; the first byte says how many of four are trusted.
pub(crate) fn forwarded(data: &[u8]) {
    let Some((trusted, lines)) = data.split_first() else {
        return;
    };
    let proxies: Vec<IpNet> = ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128"]
        .iter()
        .take(usize::from(trusted % 5))
        .map(|net| net.parse().unwrap())
        .collect();
    let mut headers = HeaderMap::new();
    for line in lines.split(|&byte| byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("x-forwarded-for", value);
        }
    }
    let is_trusted = |at: IpAddr| proxies.iter().any(|net| net.contains(&at.to_canonical()));
    for peer in ["10.0.0.1", "198.51.100.1", "2001:db8::1"] {
        let peer: IpAddr = peer.parse().unwrap();
        let client = client_behind(&proxies, peer, &headers);
        // Who is not trusted speaks for himself.
        assert!(is_trusted(peer) || client == peer, "{client} for {peer}");
    }
}
