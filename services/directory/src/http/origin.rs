//! The directory's own URL, where links must be absolute.

use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::http::uri::Authority;

use crate::site::Site;

/// Longest host that a request may name, in bytes: a DNS name, a colon and a port. It stands in a document many times.
const HOST_MAX_BYTES: usize = 253 + 6;
/// What stands in when nobody says: an export without a URL in its configuration.
const NOWHERE: &str = "localhost";

/// What stands for a URL and a host in documents that wait for one: private-use characters, which no notation escapes.
const URL_GAP: &str = "\u{f8e0}url\u{f8e1}";
const HOST_GAP: &str = "\u{f8e0}host\u{f8e1}";

/// Scheme and host, and a path where the directory is not at the top.
pub(crate) struct Origin {
    url: String,
    /// The host alone, for names that last.
    host: String,
}

/// How a document writes text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notation {
    /// With `&`, quotes and angle brackets escaped.
    Xml,
    /// In strings, where nothing that a URL may hold is escaped.
    Json,
}

impl Origin {
    /// The same for everybody, with gaps that [`Origin::fill`] fills.
    pub(super) fn gap() -> Self {
        Self {
            url: URL_GAP.to_owned(),
            host: HOST_GAP.to_owned(),
        }
    }

    /// A document that was made with [`Origin::gap`], as if it had been made with this one.
    pub(super) fn fill(&self, document: &str, notation: Notation) -> String {
        let url = match notation {
            // As templates do it.
            Notation::Xml => askama::filters::escape(&self.url, askama::filters::Html)
                .map_or_else(|never| match never {}, |escaped| escaped.to_string()),
            Notation::Json => self.url.clone(),
        };
        document
            .replace(URL_GAP, &url)
            .replace(HOST_GAP, &self.host)
    }

    /// As the operator says, or else as the client wrote it.
    pub(crate) fn of(site: &Site, headers: Option<&HeaderMap>) -> Self {
        let url = site.url.clone().unwrap_or_else(|| {
            let asked = headers.and_then(|headers| headers.get(HOST)?.to_str().ok());
            let host = asked.filter(|host| {
                host.len() <= HOST_MAX_BYTES
                    && host.parse::<Authority>().is_ok()
                    && !host.contains('@')
            });
            format!("http://{}", host.unwrap_or(NOWHERE))
        });
        let parsed = reqwest::Url::parse(&url).ok();
        let host = parsed.and_then(|url| url.host_str().map(str::to_owned));
        // A tag has a name or an address without brackets and colons (RFC 4151).
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        let host: String = host
            .unwrap_or_default()
            .chars()
            .filter(|c| plain(*c))
            .collect();
        let host = if host.is_empty() {
            NOWHERE.to_owned()
        } else {
            host
        };
        Self { url, host }
    }

    /// Without a slash at the end.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A name for one thing, the same for ever. The year only says when the host was surely its owner's.
    pub(crate) fn tag(&self, kind: &str, name: &str) -> String {
        format!("tag:{},2026:{kind}/{name}", self.host)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::Sample;
    use super::super::{feeds, status};
    use super::*;

    fn of(host: &str) -> (String, String) {
        let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
        let origin = Origin::of(&Sample::empty().site(), Some(&headers));
        (origin.url, origin.host)
    }

    #[test]
    fn a_filled_document_is_what_would_have_been_made() {
        let sample = Sample::story();
        let (site, view, now) = (sample.site(), sample.view(), sample.now);
        for host in ["m.example:81", "a&b'c.example", "[::1]:8080", "no host"] {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            let origin = Origin::of(&site, Some(&headers));
            let same = |notation, make: &dyn Fn(&Origin) -> String| {
                let filled = origin.fill(&make(&Origin::gap()), notation);
                assert_eq!(filled, make(&origin), "{host}");
                assert!(!filled.contains(['\u{f8e0}', '\u{f8e1}']));
            };
            same(Notation::Xml, &|at| feeds::mirrors(&site, view, now, at));
            same(Notation::Xml, &|at| feeds::builds(&site, view, now, at));
            same(Notation::Json, &|at| {
                status::document(&site, view, now, at).to_string()
            });
        }
    }

    #[test]
    fn the_request_says_where_it_came_to() {
        let both = |url: &str, host: &str| (url.to_owned(), host.to_owned());
        assert_eq!(of("m.example:81"), both("http://m.example:81", "m.example"));
        assert_eq!(of("[::1]:8080"), both("http://[::1]:8080", "1"));
        let long = "x".repeat(HOST_MAX_BYTES + 1);
        for bad in ["a b", "x/\"><script>", "me@m.example", "", &long] {
            assert_eq!(of(bad), both("http://localhost", "localhost"), "{bad}");
        }
    }
}
