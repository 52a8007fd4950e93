//! Who asks, and for what: the client's address behind proxies, and the parameters that all outputs share.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use mirrorlog_core::directory::View;
use mirrorlog_core::directory::offer::Needs;
use mirrorlog_core::directory::place::{Country, Place};
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::limits::ID_MAX_BYTES;
use mirrorlog_core::path::EntryPath;
use runtime::boot::client_behind;
use serde::Deserialize;

use super::Face;
use super::refusal::Refusal;
use crate::site::Site;

/// Mirrors in an answer that does not say how many.
const LIMIT_USUAL: usize = 20;
/// Mirrors in one answer.
const LIMIT_MAX: usize = 1000;
/// Architectures or components in one question.
const NAMES_MAX: usize = 64;

/// Where a request came from, as far as the proxies in front are believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) Option<IpAddr>);

impl FromRequestParts<std::sync::Arc<Face>> for Peer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        face: &std::sync::Arc<Face>,
    ) -> Result<Self, Self::Rejection> {
        let info = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let proxies = &face.site.trusted_proxies;
        let client = |ConnectInfo(peer): &ConnectInfo<SocketAddr>| {
            client_behind(proxies, peer.ip(), &parts.headers)
        };
        Ok(Self(info.map(client)))
    }
}

/// The parameters that all outputs share.
#[derive(Debug, Default, Deserialize)]
struct Written {
    channel: Option<String>,
    build: Option<String>,
    country: Option<String>,
    client_ip: Option<String>,
    limit: Option<String>,
    path: Option<String>,
    arch: Option<String>,
    component: Option<String>,
}

/// The parameters, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// `channel`.
    pub channel: Option<ChannelId>,
    /// `build`.
    pub build: Option<Build>,
    /// `country`.
    pub country: Option<Country>,
    /// `client_ip`: whom it is asked for, where that is not who asks.
    pub client: Option<IpAddr>,
    /// `limit`: mirrors in the answer, 1000 at most.
    pub limit: usize,
    /// `path`, as it came.
    pub path: Option<String>,
    /// `arch`, at most 64.
    pub architectures: BTreeSet<String>,
    /// `component`, at most 64.
    pub components: BTreeSet<String>,
}

/// What is asked, and for where.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) channel: Option<ChannelId>,
    pub(super) build: Option<Build>,
    pub(super) place: Place,
    pub(super) limit: usize,
    pub(super) path: Option<String>,
    pub(super) part: Part,
}

/// The architectures and components that are needed; empty: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) architectures: BTreeSet<String>,
    pub(super) components: BTreeSet<String>,
}

impl Part {
    /// About what it takes in memory.
    pub(super) fn bytes(&self) -> u64 {
        let names = self.architectures.iter().chain(&self.components);
        names.map(|name| 64 + name.len() as u64).sum()
    }

    pub(super) fn needs(&self) -> Needs<'_> {
        match self.architectures.is_empty() && self.components.is_empty() {
            true => Needs::Everything,
            false => Needs::Part {
                architectures: &self.architectures,
                components: &self.components,
            },
        }
    }
}

impl FromRequestParts<std::sync::Arc<Face>> for Asked {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut Parts,
        face: &std::sync::Arc<Face>,
    ) -> Result<Self, Refusal> {
        let Ok(Peer(peer)) = Peer::from_request_parts(parts, face).await;
        let question = Question::read(&parts.uri).map_err(Refusal::bad_request)?;
        Ok(Self::of(&face.site, question, peer))
    }
}

/// Names with commas between.
fn names(field: &str, text: Option<String>) -> Result<BTreeSet<String>, String> {
    let text = text.unwrap_or_default();
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    let too_long = names.iter().any(|name| name.len() > ID_MAX_BYTES);
    match names.len() > NAMES_MAX || too_long {
        true => Err(format!(
            "{field}: at most {NAMES_MAX} names of {ID_MAX_BYTES} characters can be asked for"
        )),
        false => Ok(names),
    }
}

impl Question {
    /// Reads the query of an URL.
    ///
    /// # Errors
    /// Which parameter is none, for people.
    pub fn read(uri: &Uri) -> Result<Self, String> {
        let written = Query::<Written>::try_from_uri(uri);
        let Query(written) = written.map_err(|error| error.to_string())?;
        // An empty value is no value: forms send such.
        let given = |value: Option<String>| value.filter(|text| !text.is_empty());
        let channel = given(written.channel).map(|text| text.parse::<ChannelId>());
        let build = given(written.build).map(|text| text.parse::<Build>());
        let country = given(written.country).map(|text| text.parse::<Country>());
        let country = country.transpose().map_err(|error| error.to_string())?;
        let client = given(written.client_ip).map(|text| {
            let address = text.parse::<IpAddr>();
            address.map_err(|_not_one| format!("client_ip: {text:?} is no IP address"))
        });
        let client = client.transpose()?;
        let limit = match given(written.limit) {
            Some(text) => text
                .parse::<usize>()
                .map_err(|_not_one| format!("limit: {text:?} is no whole number"))?,
            None => LIMIT_USUAL,
        };
        Ok(Self {
            channel: channel.transpose().map_err(|error| error.to_string())?,
            build: build.transpose().map_err(|error| error.to_string())?,
            country,
            client,
            limit: limit.min(LIMIT_MAX),
            path: written.path,
            architectures: names("arch", written.arch)?,
            components: names("component", written.component)?,
        })
    }
}

impl Asked {
    fn of(site: &Site, question: Question, peer: Option<IpAddr>) -> Self {
        let address = question.client.or(peer).map(|at| at.to_canonical());
        Self {
            channel: question.channel,
            build: question.build,
            place: site.place(address, question.country),
            limit: question.limit,
            path: question.path,
            part: Part {
                architectures: question.architectures,
                components: question.components,
            },
        }
    }

    /// What of it is needed: a path, or whatever is of some architectures and components.
    pub(super) fn needs<'a>(&'a self, path: Option<&'a EntryPath>) -> Needs<'a> {
        path.map_or_else(|| self.part.needs(), Needs::Path)
    }

    /// The channel that is asked for; the only one, when there is only one.
    pub(super) fn channel<'a>(&'a self, view: &'a View) -> Result<&'a ChannelId, Refusal> {
        if let Some(channel) = &self.channel {
            return Ok(channel);
        }
        let mut channels = view.channels().map(|(id, _)| id);
        match (channels.next(), channels.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(Refusal::unavailable("no channel is known here yet")),
            (Some(_), Some(_)) => {
                let names: Vec<&str> = view.channels().map(|(id, _)| id.as_str()).collect();
                let text = format!("say which channel: ?channel={}", names.join(", "));
                Err(Refusal::bad_request(text))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue};
    use ipnet::IpNet;

    use super::*;

    const PROXIES: &[&str] = &["10.0.0.0/24", "2001:db8:1::/48"];
    const PROXY: &str = "10.0.0.1";

    /// Who asks, when `peer` connects with these lines of X-Forwarded-For.
    fn asks(proxies: &[&str], peer: &str, lines: &[&[u8]]) -> String {
        let proxies: Vec<IpNet> = proxies.iter().map(|net| net.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(line).unwrap());
        }
        client_behind(&proxies, peer.parse().unwrap(), &headers).to_string()
    }

    /// The same through one trusted proxy.
    fn through_proxy(lines: &[&str]) -> String {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        asks(PROXIES, PROXY, &lines)
    }

    #[test]
    fn without_a_trusted_proxy_it_is_the_peer() {
        let lie: &[&[u8]] = &[b"198.51.100.1"];
        assert_eq!(asks(&[], "192.0.2.7", lie), "192.0.2.7");
        assert_eq!(asks(PROXIES, "192.0.2.7", lie), "192.0.2.7");
        assert_eq!(asks(PROXIES, "10.0.1.1", lie), "10.0.1.1");
        assert_eq!(asks(PROXIES, "2001:db8:2::1", lie), "2001:db8:2::1");
        assert_eq!(asks(PROXIES, PROXY, &[]), PROXY, "and it says nothing");
    }

    #[test]
    fn a_chain_of_trusted_proxies_is_gone_back() {
        assert_eq!(through_proxy(&["192.0.2.7"]), "192.0.2.7");
        assert_eq!(
            through_proxy(&["192.0.2.7, 10.0.0.3,10.0.0.2"]),
            "192.0.2.7"
        );
        let lines = ["192.0.2.7", "10.0.0.3 , 2001:db8:1::2", "10.0.0.2"];
        assert_eq!(through_proxy(&lines), "192.0.2.7");
        assert_eq!(through_proxy(&["2001:db8:2::7, 10.0.0.2"]), "2001:db8:2::7");
        assert_eq!(asks(PROXIES, "2001:db8:1::1", &[b"192.0.2.7"]), "192.0.2.7");
        let inside = through_proxy(&["10.0.0.9, 10.0.0.2"]);
        assert_eq!(inside, "10.0.0.9", "a proxy that asks itself");
    }

    #[test]
    fn what_a_client_wrote_itself_is_not_believed() {
        for lines in [
            &["198.51.100.1, 192.0.2.7"][..],
            &["198.51.100.1, 192.0.2.7, 10.0.0.2"],
            &["10.0.0.9, 10.0.0.8, 192.0.2.7, 10.0.0.2"],
            &["198.51.100.1", "192.0.2.7"],
            &["198.51.100.1", "10.0.0.9, 192.0.2.7", "10.0.0.2"],
            &["nonsense, 192.0.2.7"],
        ] {
            assert_eq!(through_proxy(lines), "192.0.2.7", "{lines:?}");
        }
    }

    #[test]
    fn garbage_ends_the_way() {
        for garbage in [
            "",
            ",",
            "unknown",
            "_hidden",
            "192.0.2.7:4711",
            "[2001:db8:2::7]",
            "192.0.2",
            "192.0.2.7 198.51.100.1",
            "192.0.2.7;",
        ] {
            assert_eq!(through_proxy(&[garbage]), PROXY, "{garbage:?}");
            let line = format!("198.51.100.1, {garbage}, 10.0.0.2");
            assert_eq!(through_proxy(&[&line]), "10.0.0.2", "{garbage:?}");
            let lines = ["198.51.100.1", garbage];
            assert_eq!(through_proxy(&lines), PROXY, "{garbage:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_hide_nothing() {
        let through = |lines: &[&[u8]]| asks(PROXIES, PROXY, lines);
        assert_eq!(through(&[b"\xff"]), PROXY);
        assert_eq!(through(&[b"198.51.100.1", b"\xff"]), PROXY);
        // A proxy wrote its peer behind what the client sent, which was two lines.
        let lines: &[&[u8]] = &[b"198.51.100.1", b"\xff, 192.0.2.7"];
        assert_eq!(through(lines), "192.0.2.7");
    }

    #[test]
    fn ipv4_mapped_addresses_are_ipv4() {
        let mapped = "::ffff:10.0.0.1";
        assert_eq!(asks(&[], mapped, &[]), PROXY);
        assert_eq!(asks(PROXIES, mapped, &[b"192.0.2.7"]), "192.0.2.7");
        let chain = ["198.51.100.1, ::ffff:192.0.2.7, ::ffff:10.0.0.2"];
        assert_eq!(through_proxy(&chain), "192.0.2.7");
    }
}
