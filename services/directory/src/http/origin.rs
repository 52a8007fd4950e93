//! The directory's own URL, where links must be absolute.

use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::http::uri::Authority;

use crate::site::Site;

/// What stands in when nobody says: an export without a URL in its configuration.
const NOWHERE: &str = "localhost";

/// Scheme and host, and a path where the directory is not at the top.
pub(crate) struct Origin {
    url: String,
    /// The host alone, for names that last.
    host: String,
}

impl Origin {
    /// As the operator says, or else as the client wrote it.
    pub(crate) fn of(site: &Site, headers: Option<&HeaderMap>) -> Self {
        let url = site.url.clone().unwrap_or_else(|| {
            let asked = headers.and_then(|headers| headers.get(HOST)?.to_str().ok());
            let host =
                asked.filter(|host| host.parse::<Authority>().is_ok() && !host.contains('@'));
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
    use super::*;

    fn of(host: &str) -> (String, String) {
        let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
        let origin = Origin::of(&Sample::empty().site(), Some(&headers));
        (origin.url, origin.host)
    }

    #[test]
    fn the_request_says_where_it_came_to() {
        let both = |url: &str, host: &str| (url.to_owned(), host.to_owned());
        assert_eq!(of("m.example:81"), both("http://m.example:81", "m.example"));
        assert_eq!(of("[::1]:8080"), both("http://[::1]:8080", "1"));
        for bad in ["a b", "x/\"><script>", "me@m.example", ""] {
            assert_eq!(of(bad), both("http://localhost", "localhost"), "{bad}");
        }
    }
}
